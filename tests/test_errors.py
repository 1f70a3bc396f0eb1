"""Messages: in the terms of the interface that is running, and in the project's own errors for tables and paths that cannot be used."""

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from nsclc_radiomics.core import Volume, advice, command_line, option, read_volume, write_volume

KEYWORD = re.compile(r"(?:^|[ ;(\[])[a-z_]+=(?![=\"])")  # `resample=True`, `roi=…`, `evaluator=`


def in_shell_terms(text: str) -> str:
    assert not KEYWORD.search(text), text
    for word in ("read_", "fit_mask", "scan_dicom", "segment_cohort", "True", "None"):
        assert word not in text, text
    return text


@pytest.fixture
def says(refused):
    "The command is refused with these texts, and without Python's syntax."
    return lambda *arguments, texts: in_shell_terms(refused(*arguments, says=texts))


def _texts(tree: ast.AST) -> list[tuple[int, str]]:
    "Text in a module that is no docstring and is not given to `advice`."
    skip = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skip.add(id(node.value))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("advice", "option"):
            skip |= {id(part) for part in ast.walk(node)}
    return [(n.lineno, n.value) for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in skip]


def test_no_message_spells_a_keyword_out():
    "Whatever any module says: an option is named by `option` or `advice`, which know the interface."
    found = []
    for path in sorted((ROOT / "nsclc_radiomics").glob("*.py")):
        for line, text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
            spelled = KEYWORD.search(text) or re.search(r"`(read|fit|scan|segment|extract|train|load)_\w+`", text)
            if path.name not in ("core.py", "_modidx.py") and spelled and "<" not in text:
                found.append(f"{path.name}:{line}: {text!r}")
    assert not found, "\n".join(found)
    assert _texts(ast.parse('raise E("pass label=… for one")'))[0][1] == "pass label=… for one"
    assert KEYWORD.search("pass label=… for one") and KEYWORD.search("choose evaluator=") and not KEYWORD.search("pyradiomics==3.0.1")


def test_every_command_names_options_that_it_has():
    "The parameters that library messages advise, each as the commands write it."
    from nsclc_radiomics.cli import _written, build_parser

    args = build_parser().parse_args(["import", "nifti", "t.csv", "out"])
    with command_line(_written(args.command)):
        assert advice("; pass {resample} or {label}", resample=True, label=255) == "; pass --resample or --label 255"
        assert advice("; {evaluator}", "none", evaluator=...) == "none" and option("world") == "world"
    args = build_parser().parse_args(["response", "l.csv", "-o", "r.csv"])
    with command_line(_written(args.command)):
        assert advice("{evaluator}", evaluator=...) == "--evaluator" and option("partial_dates") == "--partial-dates"
    assert option("partial_dates") == "partial_dates"


def test_values_that_an_option_cannot_have(says, cohort, tmp_path):
    out = tmp_path / "out"
    for arguments, text in (
        (("simulate", out, "--patients", "0"), "--patients must be"),
        (("simulate", out, "--world", "flat"), "--world must be one of"),
        (("simulate", out, "--balance", "odd"), "--balance must be one of"),
        (("simulate", out, "--seed", "-1"), "--seed must be"),
        (("simulate", out, "--patients", "2", "--external", "0", "--dicom", "3"), "--dicom asks for 3"),
        (("extract", cohort, "-o", tmp_path / "f.parquet", "--jobs", "0"), "--jobs must be"),
        (("segment", cohort, "--model", "seeded", "-o", out, "--point", "0", "0", "0"), "use --where mask"),
        (("train-segmenter", cohort, "-o", out, "--patches", "0"), "--patches must be"),
    ):
        says(*arguments, texts=(text,))


def nifti(tmp_path, mask: np.ndarray, spacing=(1, 1, 1)) -> Path:
    "A table of one CT and this mask."
    write_volume(Volume(np.zeros((8, 8, 8), np.int16), unit="HU"), tmp_path / "ct.nii.gz")
    write_volume(Volume(mask, spacing), tmp_path / "mask.nii.gz")
    table = tmp_path / "table.csv"
    table.write_text("patient_id,ct,ct_mask\nP1,ct.nii.gz,mask.nii.gz\n")
    return table


def test_masks_with_another_label_or_grid(says, tmp_path):
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[2:5, 2:5, 2:5] = 255
    says("import", "nifti", nifti(tmp_path, mask), tmp_path / "a", texts=("--label 255",))
    mask[3, 3, 3] = 2
    says("import", "nifti", nifti(tmp_path, mask), tmp_path / "b", texts=("several labels", "pass --label for the one"))
    says("import", "nifti", nifti(tmp_path, mask), tmp_path / "c", "--label", "7", texts=("pass one of these as --label",))
    says("import", "nifti", nifti(tmp_path, mask > 0, (2, 2, 2)), tmp_path / "d", texts=("pass --resample to move it",))
    (tmp_path / "key.csv").write_text("kept")
    line = ("import", "nifti", nifti(tmp_path, mask > 0), tmp_path / "e", "--key", tmp_path / "key.csv")
    says(*line, texts=("or name another with --key",))
    assert "pass label=2" in _explained(np.uint8(2)) and "pass label=255" in _explained(np.uint8(255))


def _explained(value: np.generic) -> str:
    from nsclc_radiomics.core import MaskError
    from nsclc_radiomics.mask import choose_label

    with pytest.raises(MaskError) as refused:
        choose_label(np.array([0, value]), None, "m.nii.gz")
    return str(refused.value)


def test_what_a_command_does_not_offer_is_not_advised(says, cohort, tmp_path):
    "`extract` can neither resample a mask nor choose a label, and says what to do with the file."
    ct = read_volume(cohort / "images/P2/ct.nii.gz")
    write_volume(Volume(np.full((4, 4, 4), 1, np.uint8), (2, 2, 2)), cohort / "images/P2/ct_mask.nii.gz")
    inside = np.zeros(ct.shape, np.uint8)
    inside[5:9, 5:9, 5:9] = 7
    write_volume(ct.with_array(inside, "mask"), cohort / "images/P3/ct_mask.nii.gz")
    said = says("extract", cohort, "-o", tmp_path / "f.parquet", "--jobs", "2", texts=("P2", "P3"))
    assert "resample it onto the image first" in said and "write it again with 1 in the tumour" in said
    assert "--resample" not in said and "--label" not in said


def test_lesions_that_python_could_pass_by_a_rule(says, tmp_path):
    lesions = pd.DataFrame({"patient_id": "P1", "visit_date": "2024-01-01", "lesion_id": "L1", "role": "target", "organ": "lung"}, index=[0])
    lesions["diameter_mm"], lesions["is_node"] = 6, False
    lesions.to_csv(tmp_path / "lesions.csv", index=False)
    said = says("response", tmp_path / "lesions.csv", "-o", tmp_path / "r.csv", texts=("P1", "make it a non-target"))
    assert "choose" not in said
    says("response", tmp_path / "lesions.csv", "-o", tmp_path / "r.csv", "--criteria", "recist2", texts=("--criteria must be one of",))
