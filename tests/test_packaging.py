"""What an installation has to give: modules that import, shipped data, clear words where PyRadiomics is absent."""

import configparser
import importlib
import pkgutil
import re
import subprocess
import sys

import pytest
from conftest import ROOT

import nsclc_radiomics

MODULES = sorted(m.name for m in pkgutil.iter_modules(nsclc_radiomics.__path__) if not m.name.startswith("_"))
SETTINGS = configparser.ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini")
BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
"""


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module):
    importlib.import_module(f"nsclc_radiomics.{module}")


def test_every_module_imports_with_what_pip_installs_by_default():
    optional = {"radiomics", "torch", "monai", "dask", "distributed", "idc_index", "papermill", "nbdev", "sphinx", "shap"}
    lines = BLOCKED.format(blocked=optional) + "".join(f"import nsclc_radiomics.{m}\n" for m in MODULES)
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_pyradiomics_the_error_gives_the_commands(sample, tmp_path):
    call = f"sys.argv[1:] = ['extract', {str(sample)!r}, '-o', {str(tmp_path / 'f.parquet')!r}]\n"
    lines = BLOCKED.format(blocked={"radiomics"}) + call + "from nsclc_radiomics.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip install --no-build-isolation pyradiomics==3.0.1" in done.stderr
    assert not (tmp_path / "f.parquet").exists()


def test_the_lock_pins_everything_that_settings_ask_for():
    pinned = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.M))
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned}
    settings = SETTINGS["DEFAULT"]
    asked = " ".join(settings[k] for k in settings if k.endswith("requirements")).split()
    missing = [a for a in asked if re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9_.-]+", a).group()).lower() not in names]
    assert not missing


def test_the_versions_agree():
    assert nsclc_radiomics.__version__ == SETTINGS["DEFAULT"]["version"]
    assert f"version: {nsclc_radiomics.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {nsclc_radiomics.__version__}" in (ROOT / "CHANGELOG.md").read_text()
