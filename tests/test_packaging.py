"""What an installation has to give: modules that import, shipped data, clear words where PyRadiomics is absent."""

import configparser
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata

import pytest
import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import nsclc_radiomics
from nsclc_radiomics.paper.readme import relative_links

MODULES = sorted(
    m.name.removeprefix("nsclc_radiomics.")
    for m in pkgutil.walk_packages(nsclc_radiomics.__path__, "nsclc_radiomics.")
    if "._" not in m.name
)
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
    optional = {
        "radiomics",
        "torch",
        "monai",
        "dask",
        "distributed",
        "idc_index",
        "papermill",
        "nbdev",
        "sphinx",
        "shap",
    }
    lines = BLOCKED.format(blocked=optional) + "".join(f"import nsclc_radiomics.{m}\n" for m in MODULES)
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_pyradiomics_the_error_gives_the_commands(sample, tmp_path):
    call = f"sys.argv[1:] = ['extract', {str(sample)!r}, '-o', {str(tmp_path / 'f.parquet')!r}]\n"
    lines = BLOCKED.format(blocked={"radiomics"}) + call + "from nsclc_radiomics.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "pip install --no-build-isolation pyradiomics==3.0.1" in done.stderr
    assert not (tmp_path / "f.parquet").exists()


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


INSTALLED = {canonical(d.metadata["Name"]) for d in metadata.distributions()}


def locked():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def asked(*kinds):
    settings = SETTINGS["DEFAULT"]
    keys = [k for k in settings if k.endswith("requirements") and (not kinds or k in kinds)]
    return [Requirement(r) for k in keys for r in settings[k].split()]


def closure(requirements):
    "All that the requirements bring in on this Python, as canonical names, by the metadata of what is installed."
    found, left = set(), [(canonical(r.name), frozenset(r.extras)) for r in requirements]
    while left:
        name, extras = entry = left.pop()
        if entry in found:
            continue
        found.add(entry)
        for needed in map(Requirement, (name in INSTALLED and metadata.requires(name)) or []):
            if any(needed.marker is None or needed.marker.evaluate({"extra": e}) for e in ("", *extras)):
                left.append((canonical(needed.name), frozenset(needed.extras)))
    return {name for name, _ in found}


def test_the_lock_pins_everything_that_settings_ask_for():
    pinned = {canonical(r.name): next(iter(r.specifier)).version for r in locked()}
    assert all(str(r.specifier).startswith("==") and len(r.specifier) == 1 for r in locked())
    unmet = [str(r) for r in asked() if not r.specifier.contains(pinned.get(canonical(r.name), "0"))]
    unmet += [str(r) for r in asked() if canonical(r.name) not in pinned]
    assert not unmet


def test_the_lock_pins_what_those_need_in_turn():
    core = asked("requirements", "explain_requirements", "cluster_requirements", "idc_requirements")
    missing = closure(core) - {canonical(r.name) for r in locked()}
    assert not missing


def test_the_lock_pins_nothing_that_nothing_needs():
    if missing := {canonical(r.name) for r in asked()} - INSTALLED:
        pytest.skip(f"not installed, so that what they need is not known: {', '.join(sorted(missing))}; make setup")
    makes = [Requirement(name) for name in ("pip", "setuptools", "wheel", "pyradiomics")]
    here = {canonical(r.name) for r in locked() if r.marker is None or r.marker.evaluate()}
    assert here - closure(asked() + makes) == set()


def is_gpl(name):
    "Whether a package says, in any of three places, that it is under the GPL or AGPL without another choice (OR)."
    about = metadata.metadata(name)
    says = [about.get("License-Expression") or "", (about.get("License") or "").strip().split("\n")[0]]
    says += [c for c in about.get_all("Classifier") or [] if c.startswith("License")]
    gpl = re.compile(r"(?<![A-Za-z])A?GPL|GNU (Affero )?General Public", re.I)
    return any(all(gpl.search(choice) for choice in re.split(r"\bOR\b", said)) for said in says)


# docutils is in the public domain but for some files; the one under the GPL is for Emacs and is not in its wheel
NOT_GPL = {"docutils"}


def test_nothing_required_is_under_the_gpl():
    kinds = ("requirements", "deep_requirements", "explain_requirements", "cluster_requirements", "idc_requirements")
    required = closure(asked(*kinds))
    names = (required | {canonical(r.name) for r in locked()}) & INSTALLED
    assert len(required & INSTALLED) > 60
    assert {name for name in names if is_gpl(name)} == NOT_GPL & names


@pytest.mark.parametrize(
    ("line", "gpl"),
    [
        ("License: GPL-3.0", True),
        ("License: GPL V3.0", True),
        ("License-Expression: AGPL-3.0-or-later", True),
        ("License-Expression: GPL-2.0-only OR MIT", False),
        ("License: LGPL-2.1", False),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("Classifier: License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("Classifier: License :: OSI Approved :: BSD License", False),
    ],
)
def test_the_gpl_is_recognised(line, gpl, tmp_path, monkeypatch):
    (tmp_path / "someone-1.0.dist-info").mkdir()
    said = f"Metadata-Version: 2.4\nName: someone\nVersion: 1.0\n{line}\n"
    (tmp_path / "someone-1.0.dist-info" / "METADATA").write_text(said)
    monkeypatch.syspath_prepend(tmp_path)
    assert is_gpl("someone") is gpl


def test_the_installed_packages_agree_with_each_other():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def tracked():
    return run("git", "ls-files", "-z", cwd=ROOT).split("\0")[:-1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "The source distribution of what git tracks, the wheel that is built from it, and what building said."
    folder = tmp_path_factory.mktemp("built")
    for name in tracked():
        if (ROOT / name).is_file():
            (folder / "project" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "project" / name)
    said = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "project")
    (sdist,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return sdist, wheel, said


def test_building_warns_of_nothing(built):
    warnings = [line for line in built[2].splitlines() if re.search("warning|deprecat", line, re.I)]
    assert [line for line in warnings if "byte-compiling is disabled" not in line] == []


def test_the_source_distribution_holds_all_that_git_does(built):
    with tarfile.open(built[0]) as tar:
        held = {m.name.split("/", 1)[1] for m in tar.getmembers() if m.isfile()}
    outside = {name for name in tracked() if name.startswith((".ci/", ".github/", ".git"))}
    assert held >= {name for name in tracked() if (ROOT / name).is_file()} - outside
    assert {name for name in held if ".egg-info/" not in name} - set(tracked()) == {"PKG-INFO", "setup.cfg"}


def test_the_wheel_holds_the_library_and_its_data(built):
    held = {name for name in zipfile.ZipFile(built[1]).namelist() if ".dist-info/" not in name}
    assert held == {name for name in tracked() if name.startswith("nsclc_radiomics/") and (ROOT / name).is_file()}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in zipfile.ZipFile(built[1]).namelist())


def test_a_package_index_would_take_both(built):
    assert run(sys.executable, "-m", "twine", "check", "--strict", *built[:2]).count("PASSED") == 2


@pytest.mark.parametrize("kind", [0, 1], ids=["sdist", "wheel"])
def test_what_is_installed_from_either_works(built, kind, tmp_path):
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "install", *options, "--target", tmp_path / "lib", built[kind])
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    lines = "import nsclc_radiomics as n; from nsclc_radiomics.features.settings import load_settings; "
    lines += "print(n.__file__, len(load_settings('ct').columns))"
    said = run(sys.executable, "-c", lines, cwd=tmp_path, env=environment)
    assert str(tmp_path / "lib") in said
    assert "extract" in run(tmp_path / "lib" / "bin" / "nsclc-radiomics", "--help", cwd=tmp_path, env=environment)


@pytest.fixture(scope="module")
def about(built):
    wheel = zipfile.ZipFile(built[1])
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return metadata.PathDistribution(zipfile.Path(wheel, name.removesuffix("METADATA"))).metadata


def test_the_page_on_a_package_index_has_whole_addresses(about):
    page = about.get_payload() or about["Description"]
    repository = SETTINGS["DEFAULT"]["git_url"]
    assert relative_links(page) == []
    links = re.findall(re.escape(repository) + r"/(raw|blob|tree)/main/([^)#\s]+)", page)
    assert len(links) == len(relative_links((ROOT / "README.md").read_text(encoding="utf-8"))) > 10
    for kind, path in links:
        assert (ROOT / path).is_dir() == (kind == "tree") and (ROOT / path).exists()
        assert path.endswith(".png") == (kind == "raw")


def test_the_metadata_name_the_same_pythons_everywhere(about):
    pythons = SETTINGS["DEFAULT"]["pythons"].split()
    admitted = [f"3.{minor}" for minor in range(8, 20) if f"3.{minor}.1" in SpecifierSet(about["Requires-Python"])]
    assert admitted == pythons and pythons[0] == SETTINGS["DEFAULT"]["min_python"]
    assert [c.split(" :: ")[-1] for c in about.get_all("Classifier") if re.search(r":: 3\.", c)] == pythons
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == pythons
    wanted = {f"{r.name}{r.specifier}".lower() for r in asked("requirements")}
    required = [Requirement(r) for r in about.get_all("Requires-Dist")]
    assert {f"{r.name}{r.specifier}".lower() for r in required if r.marker is None} == wanted


NOTEBOOKS = sorted([*(ROOT / "nbs").glob("*.ipynb"), *(ROOT / "nbs" / "paper").glob("*.ipynb")])


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md", *NOTEBOOKS], ids=lambda p: p.name)
def test_relative_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    assert [target for target in relative_links(text) if not (page.parent / target).exists()] == []


def test_the_citation_files_agree():
    cff, bib = yaml.safe_load((ROOT / "CITATION.cff").read_text()), (ROOT / "CITATION.bib").read_text()
    assert {"cff-version", "message", "title", "authors"} <= cff.keys()
    assert cff["repository-code"] == SETTINGS["DEFAULT"]["git_url"]
    fields = dict(re.findall(r"^ +(\w+) += \{+(.*?)\}+,?$", bib, re.M))
    assert fields["title"].replace("\\_", "_") == cff["title"] and fields["author"] == cff["authors"][0]["name"]
    assert fields["version"] == str(cff["version"]) and fields["year"] == cff["date-released"][:4]
    assert fields["url"] == cff["repository-code"]
    assert re.match(r"@software\{nsclc_radiomics,", bib)


def make(*words, folder=ROOT):
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "PYTHON")  # of the make that runs the tests
    environment = {k: v for k, v in os.environ.items() if k not in outer}
    return subprocess.run(["make", "-C", str(folder), *words], capture_output=True, text=True, env=environment)


def test_make_help_names_every_target_for_users():
    said = make("help").stdout
    for word in ("make paper", "make test", "make lab", "make clean", "make clean-runs", "PYTHON=", "TORCH_INDEX="):
        assert word in said


def test_make_clean_keeps_runs(tmp_path):
    folder = tmp_path / "a folder"
    for name in ("runs/full", ".venv/bin", "_docs"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    assert make("clean", folder=folder).returncode == 0
    assert (folder / "runs" / "full").is_dir() and not (folder / ".venv").exists() and not (folder / "_docs").exists()
    assert make("clean-runs", folder=folder).returncode == 0 and not (folder / "runs").exists()


def test_make_lab_starts_as_root_only_where_one_is_root():
    assert ("--allow-root" in make("--dry-run", "lab").stdout) == (os.getuid() == 0)


@pytest.mark.parametrize(("version", "why"), [((3, 14), "not tried yet"), ((3, 10), "older than")])
def test_make_refuses_other_pythons_in_one_sentence(version, why, tmp_path):
    other = tmp_path / "another python"
    lines = f"import sys; sys.version_info = {(*version, 0)}; exec(sys.argv[1])"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{lines}" "$2"\n')
    other.chmod(0o755)
    done = make("install", f"PYTHON={other}", f"VENV={tmp_path / 'none'}")
    first = done.stderr.strip().splitlines()[0]
    assert done.returncode == 2 and f"{version[0]}.{version[1]}" in first and why in first and "make PYTHON=" in first
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("needs", "said"),
    [(["numpy"], False), (["cuda-toolkit==13.0"], True), (["nvidia-cudnn==9; platform_system == 'Nowhere'"], False)],
)
def test_make_says_before_a_large_download_how_to_avoid_it(needs, said):
    lines = re.search(r"define CHECK_TORCH\n(.*?)\nendef", (ROOT / "Makefile").read_text(), re.S).group(1)
    report = json.dumps({"install": [{"metadata": {"requires_dist": needs}}]})
    done = subprocess.run([sys.executable, "-c", lines], input=report, capture_output=True, text=True, check=True)
    assert ("TORCH_INDEX" in done.stdout and "GB" in done.stdout) == said


def test_the_versions_agree():
    assert nsclc_radiomics.__version__ == SETTINGS["DEFAULT"]["version"]
    assert f"version: {nsclc_radiomics.__version__}" in (ROOT / "CITATION.cff").read_text()
    assert f"## {nsclc_radiomics.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_import_that_is_written_anywhere_leads_somewhere():
    "In code, notebooks, pages, the Makefile and lines that other processes run."
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    written = re.compile(r"from (nsclc_radiomics(?:\.\w+)*) import \(?((?:\w+(?: as \w+)?,? ?)+)")
    wrong, seen = [], 0
    for name in names:
        if not name.endswith((".py", ".ipynb", ".md", ".yml", ".sh", "Makefile")) or name.endswith("_modidx.py"):
            continue
        text = (ROOT / name).read_text(encoding="utf-8")
        for module, imported in sorted(set(written.findall(text))):
            for what in re.split(r", ?", imported.strip(" ,")):
                what, seen = what.split(" as ")[0].strip(), seen + 1
                try:
                    found = hasattr(importlib.import_module(module), what)
                    found = found or importlib.util.find_spec(f"{module}.{what}") is not None
                except ModuleNotFoundError:
                    found = False
                if not found:
                    wrong.append(f"{name}: from {module} import {what}")
    assert seen > 1000 and not wrong, "\n".join(wrong)
