"""What the tools hold: one layout, no unused name or line that is too long, and types that fit together."""

import subprocess
import sys

import pytest
from conftest import ROOT

PLACES = ("nbs", "tests", "tools", "bench", "setup.py")


def run(*words: str) -> str:
    "What a tool says of the project's files; nothing where all is well."
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_notebooks_and_tests_are_formatted():
    assert not (said := run("ruff", "format", "--check", "--quiet", *PLACES)), (
        said + "\nruff format nbs tests tools bench"
    )


def test_notebooks_and_tests_pass_the_linter():
    assert not (said := run("ruff", "check", "--quiet", "--output-format", "concise", *PLACES)), said


def test_types_fit():
    assert not (said := run("mypy", "--no-error-summary")), said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("ruff", "check", "--quiet", "--no-cache"), "import os\n", "F401"),
        (("ruff", "check", "--quiet", "--no-cache"), f"x = {'1 + ' * 40}1\n", "E501"),
        (("ruff", "format", "--check", "--no-cache"), "x = {  }\n", "reformat"),
        (("mypy",), "from nsclc_radiomics.loading.dicom import read_header\nread_header('a', ['Rows'])\n", "arg-type"),
    ],
)
def test_the_tools_find_what_is_wrong(words, code, said, tmp_path):
    (tmp_path / "wrong.py").write_text(code)
    config = ("--config-file" if words[0] == "mypy" else "--config", str(ROOT / "pyproject.toml"))
    assert said in run(*words, *config, str(tmp_path / "wrong.py"))
