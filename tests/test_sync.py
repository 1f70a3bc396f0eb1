"""The committed library is what the notebooks export, and README is what the index says."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from nsclc_radiomics.docs import readme_text

LIBRARY = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))


def exported_by(notebook) -> str:
    return re.search(r"#\| default_exp (\w+)", notebook.read_text(encoding="utf-8")).group(1)


NUMBER = {exported_by(notebook): int(notebook.name.split("_")[0]) for notebook in LIBRARY}


def test_exporting_into_an_empty_folder_gives_the_committed_files(tmp_path):
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns("paper", ".ipynb_checkpoints"))
    environment = {name: value for name, value in os.environ.items() if name != "IN_TEST"}  # in a test nbdev exports nothing
    subprocess.run([sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export()"], cwd=tmp_path, env=environment, check=True)
    made = {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "nsclc_radiomics").glob("*.py")}
    committed = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "nsclc_radiomics").glob("*.py")}
    assert made.keys() == committed.keys(), "a module without a notebook, or a notebook that was not exported: make sync"
    assert [name for name in made if made[name] != committed[name]] == [], "edited by hand, or not exported: make sync"


@pytest.mark.parametrize("notebook", LIBRARY, ids=lambda p: p.stem)
def test_a_notebook_imports_only_from_lower_numbers(notebook):
    own = int(notebook.name.split("_")[0])
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            for module in re.findall(r"^\s*from nsclc_radiomics\.(\w+) import", "".join(cell["source"]), re.M):
                assert NUMBER[module] < own or (own == 98), f"{notebook.name} imports {module}, which comes later in the data flow"


@pytest.mark.parametrize("notebook", LIBRARY, ids=lambda p: p.stem)
def test_library_notebooks_are_clean(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert notebook.stat().st_size < 200_000
    assert content["nbformat"] == 4 and content["nbformat_minor"] >= 5
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.parametrize("module", sorted(NUMBER))
def test_public_functions_have_docstrings_and_types(module):
    tree = ast.parse((ROOT / "nsclc_radiomics" / f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{module}.{node.name} has no docstring"
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            assert node.returns is not None, f"{module}.{node.name} does not say what it returns"


def test_readme_is_made_from_the_index():
    assert readme_text() == (ROOT / "README.md").read_text(encoding="utf-8"), "make readme"


def test_nothing_names_a_machine():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    marks = ["/" + folder + "/" for folder in ("root", "tmp", "work", "home")]
    for name in files:
        if name.endswith((".ipynb", ".py", ".md", ".lock", ".ini", ".yml", ".cff")):
            text = (ROOT / name).read_text(encoding="utf-8")
            assert not any(re.search(rf"(?<![\w.$}}]){mark}\w", text) for mark in marks), f"{name} holds a path of one machine"
