"""What runs again for which change: keys of code, on a copy of the package in which one thing is changed."""

import ast
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from nsclc_radiomics.core.code import code_key, code_parts, imported_modules
from nsclc_radiomics.core.errors import RunError
from nsclc_radiomics.paper.chapters import cell_sources, chapter_keys, paper_notebooks
from nsclc_radiomics.paper.schedule import needed_by

NAMES = [path.stem for path in paper_notebooks()]
CELLS = {path.stem: [text for kind, text in cell_sources(path) if kind == "code"] for path in paper_notebooks()}
KEPT = {
    "cohort": "simulation.cohort",
    "features": "features.measure",
    "crops": "models.crops",
    "networks": "models.cnn",
    "masks": "segmentation.segmenter",
}


@pytest.fixture
def copy(tmp_path) -> Path:
    return shutil.copytree(
        ROOT / "nsclc_radiomics", tmp_path / "nsclc_radiomics", ignore=shutil.ignore_patterns("__pycache__")
    )


def keys(package: Path) -> dict[str, str]:
    "The key of the code of every chapter and of every kept result."
    of_chapters = {name: code_key(*imported_modules(cells, package), package=package) for name, cells in CELLS.items()}
    return of_chapters | {name: code_key(module, package=package) for name, module in KEPT.items()}


def changed(package: Path) -> set[str]:
    before, after = keys(ROOT / "nsclc_radiomics"), keys(package)
    return {name for name in before if before[name] != after[name]}


def edit(package: Path, module: str, *change: tuple[str, str]) -> None:
    path = package.joinpath(*module.split(".")).with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    for pattern, new in change:
        text, count = re.subn(pattern, new, text, count=1, flags=re.M)
        assert count == 1, f"{module}: nothing like {pattern}"
    path.write_text(text, encoding="utf-8")


def test_docstrings_comments_formatting_and_the_list_of_names_change_no_key(copy):
    for path in copy.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        kinds = (ast.Module, ast.FunctionDef, ast.ClassDef)
        for node in [n for n in ast.walk(tree) if isinstance(n, kinds) and ast.get_docstring(n)]:
            node.body[0].value.value = "Another sentence."
        path.write_text(f"{ast.unparse(tree)}\n# a comment\n__all__ = ['nothing']\n", encoding="utf-8")
    edit(copy, "core.errors", (r"^class ", "\n\nclass "))
    assert changed(copy) == set()


def test_survival_analysis_concerns_its_chapters_and_no_network(copy):
    edit(copy, "outcomes.survival", (r"^def logrank\(", "SHIFT = 1.0\n\n\ndef logrank("))
    users = {name for name in NAMES if "outcomes.survival" in code_parts(*imported_modules(CELLS[name]))[0]}
    assert changed(copy) == users == {"50_outcomes", "70_real_cohorts"}


@pytest.mark.parametrize(
    ("module", "concerned"),
    [
        ("evaluation.network_maps", {"60_discussion"}),
        ("models.cnn", {"35_network", "60_discussion", "70_real_cohorts", "networks"}),
        ("segmentation.training", {"25_segmentation", "70_real_cohorts", "masks"}),
        ("features.ibsi", set()),
        ("signature.page", set()),
        ("paper.site", set()),
        ("core.cache", set()),
    ],
)
def test_a_change_concerns_what_imports_it(copy, module, concerned):
    edit(copy, module, (r"^from __future__ import annotations$", "from __future__ import annotations\n\nCHANGED = 1"))
    assert changed(copy) == concerned


def test_features_stay_for_a_change_in_how_a_cohort_is_extracted_and_go_for_one_in_their_formulas(copy):
    edit(copy, "features.extraction", (r"^def extract\(", "CHANGED = 1\n\n\ndef extract("))
    assert "features" not in changed(copy)
    other = copy.with_name("more") / copy.name
    shutil.copytree(copy, other)
    edit(
        other,
        "features.matrices",
        (r"^from __future__ import annotations$", "from __future__ import annotations\n\nCHANGED = 1"),
    )
    assert "features" in changed(other)


def test_an_import_inside_a_function_counts(copy):
    late = "def change_world(\n"
    edit(
        copy,
        "simulation.cohort",
        (r"^def change_world\(\n", f"def _late():\n    from ..outcomes.survival import logrank\n\n\n{late}"),
    )
    assert "outcomes.survival" in code_parts("simulation.cohort", package=copy)[0]
    assert "outcomes.survival" not in code_parts("simulation.cohort")[0]


def test_an_import_for_the_type_checker_alone_does_not_count(copy):
    edit(
        copy,
        "core.checks",
        (
            r"^from __future__ import annotations$",
            "from __future__ import annotations\n\nif TYPE_CHECKING:\n    from ..outcomes.survival import logrank",
        ),
    )
    assert "outcomes.survival" not in code_parts("core.checks", package=copy)[0]


@pytest.mark.parametrize(
    ("file", "concerned"),
    [
        ("definitions/claims.yaml", {"90_claims"}),
        ("definitions/metrics.csv", {"90_claims"}),
        ("templates/prediction.html.j2", {"70_real_cohorts"}),
    ],
)
def test_a_data_file_counts_for_who_names_it(copy, file, concerned):
    path = copy / file
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert changed(copy) == concerned


def test_settings_count_for_what_is_measured_by_them(copy):
    path = copy / "settings/ct.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert {"25_segmentation", "30_radiomics"} <= changed(copy) and not changed(copy) & {"35_network", "50_outcomes"}
    assert (copy / "templates/prediction.html.j2") in code_parts("signature.page", package=copy)[1]


@pytest.mark.parametrize(
    "door",
    [
        '{"logrank": "outcomes.survival", "extract": "features.extraction"}',
        '{"logrank": "nsclc_radiomics.outcomes.survival", "extract": "nsclc_radiomics.features.extraction"}',
        '{"logrank": ("outcomes.survival", "logrank"), "extract": (".features.extraction", "extract")}',
    ],
)
def test_names_of_the_front_door_count_as_their_modules(copy, door):
    (copy / "__init__.py").write_text(f"_NAMES = {door}\n", encoding="utf-8")
    cells = ["import nsclc_radiomics as nr", "nr.logrank(1, 2, 3)"]
    assert imported_modules(cells[:1], copy) == []
    assert imported_modules(["\n".join(cells)], copy) == ["outcomes.survival"]
    assert imported_modules(["from nsclc_radiomics import extract as e"], copy) == ["features.extraction"]
    assert imported_modules(["import nsclc_radiomics as nr\nhelp(nr)"], copy) == [
        "features.extraction",
        "outcomes.survival",
    ]


def test_magics_and_cells_that_are_not_python_are_passed_over():
    cells = ["%matplotlib inline\n!ls\nfrom nsclc_radiomics.core import files", "%%bash\necho 'x", "def ("]
    assert imported_modules(cells) == ["core.files"]


def test_a_module_that_is_not_there_is_an_error():
    with pytest.raises(RunError, match="no module core.nothing"):
        code_key("core.nothing")


def test_a_changed_cell_concerns_the_chapter_and_its_readers(tmp_path):
    notebooks = Path(shutil.copytree(ROOT / "nbs/paper", tmp_path / "paper"))
    needs = {name: needed_by(name, NAMES) for name in NAMES}

    def found() -> dict[str, str]:
        return chapter_keys({path.stem: path for path in sorted(notebooks.glob("[0-9]*.ipynb"))}, needs, "seed 1")

    before = found()
    path = notebooks / "40_performance.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("use_style()", "use_style( )", 1), encoding="utf-8")
    after = found()
    readers = {name for name in NAMES if "40_performance" in needs[name]}
    assert {name for name in NAMES if before[name] != after[name]} == {"40_performance"} | readers
    assert readers == {"50_outcomes", "60_discussion", "90_claims"}
