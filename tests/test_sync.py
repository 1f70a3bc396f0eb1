"""The committed library is what the notebooks export, and README is what the index says."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from nsclc_radiomics.paper.readme import readme_text

sys.path.insert(0, str(ROOT / "tools"))
from export import export  # noqa: E402

LIBRARY = sorted((ROOT / "nbs").glob("[0-9]*_*/[0-9]*.ipynb"))


ROOMS = {
    "core": 0,
    "cohort": 1,
    "loading": 2,
    "outcomes": 2,
    "segmentation": 3,
    "features": 3,
    "models": 3,
    "simulation": 3,
    "evaluation": 4,
    "signature": 5,
    "paper": 5,
    "cli": 6,
}  # the floor of each


def page(notebook: Path) -> str:
    return f"{notebook.parent.name}/{notebook.stem}"


def exported_by(notebook: Path) -> str:
    return re.search(r"#\| default_exp ([\w.]+)", notebook.read_text(encoding="utf-8")).group(1)


NOTEBOOK_OF = {exported_by(notebook): notebook for notebook in LIBRARY}


def modules(root: Path) -> dict[str, str]:
    package = root / "nsclc_radiomics"
    files = [path for path in package.rglob("*.py") if path != package / "__init__.py"]
    return {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in files}


def test_exporting_into_an_empty_folder_gives_the_committed_files(tmp_path):
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs", ignore=shutil.ignore_patterns("paper", ".ipynb_checkpoints"))
    export(tmp_path)
    made, committed = modules(tmp_path), modules(ROOT)
    assert made.keys() == committed.keys(), (
        "a module without a notebook, or a notebook that was not exported: make sync"
    )
    assert [name for name in made if made[name] != committed[name]] == [], "edited by hand, or not exported: make sync"


def test_rooms_are_the_folders_of_notebooks_and_of_modules():
    assert {path.parent.name.split("_", 1)[1] for path in LIBRARY} == ROOMS.keys()
    assert {module.split(".")[0] for module in NOTEBOOK_OF} == ROOMS.keys()
    for module, notebook in NOTEBOOK_OF.items():
        room, name = module.split(".")
        assert notebook.parent.name.split("_", 1)[1] == room and notebook.stem.split("_", 1)[1] == name


@pytest.mark.parametrize("notebook", LIBRARY, ids=page)
def test_imports_lead_to_rooms_below_and_to_lower_numbers(notebook):
    room = notebook.parent.name.split("_", 1)[1]
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        for module in re.findall(r"^\s*from nsclc_radiomics\.([\w.]+) import", source, re.M):
            other, target = module.split(".")[0], NOTEBOOK_OF[module]
            said = f"{page(notebook)} imports {module}"
            if other == room:
                assert target.name < notebook.name, f"{said}, which comes later in the room"
            elif source.startswith("#| export"):
                assert ROOMS[other] < ROOMS[room], f"{said}, which lies in a room that is not below"
            else:  # an example may use what comes earlier in the data flow
                assert target.parent.name < notebook.parent.name, f"{said}, which comes later in the data flow"


@pytest.mark.parametrize("notebook", LIBRARY, ids=page)
def test_library_notebooks_are_clean(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert notebook.stat().st_size < 200_000
    assert content["nbformat"] == 4 and content["nbformat_minor"] >= 5
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.parametrize("module", sorted(NOTEBOOK_OF))
def test_public_functions_have_docstrings_and_types(module):
    tree = ast.parse((ROOT / "nsclc_radiomics" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
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
            assert not any(re.search(rf"(?<![\w.$}}]){mark}\w", text) for mark in marks), (
                f"{name} holds a path of one machine"
            )
