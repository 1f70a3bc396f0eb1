"""Messages: in the terms of the interface that is running,
and in the project's own errors for tables and paths that cannot be used."""

import ast
import importlib
import inspect
import pkgutil
import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from sklearn.linear_model import LogisticRegression

import nsclc_radiomics
from nsclc_radiomics.cohort.folder import save_cohort
from nsclc_radiomics.core.checks import advice, command_line, option
from nsclc_radiomics.core.errors import DataError, ImageError, NsclcError, OptionError
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import read_volume, write_volume
from nsclc_radiomics.outcomes.endpoints import pfs

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
    return [
        (n.lineno, n.value)
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in skip
    ]


def test_no_message_spells_a_keyword_out():
    "Whatever any module says: an option is named by `option` or `advice`, which know the interface."
    found = []
    for path in sorted((ROOT / "nsclc_radiomics").rglob("*.py")):
        for line, text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
            spelled = KEYWORD.search(text) or re.search(r"`(read|fit|scan|segment|extract|train|load)_\w+`", text)
            if path.name not in ("checks.py", "_modidx.py") and spelled and "<" not in text:
                found.append(f"{path.name}:{line}: {text!r}")
    assert not found, "\n".join(found)
    assert _texts(ast.parse('raise E("pass label=… for one")'))[0][1] == "pass label=… for one"
    assert (
        KEYWORD.search("pass label=… for one")
        and KEYWORD.search("choose evaluator=")
        and not KEYWORD.search("pyradiomics==3.0.1")
    )


def test_every_command_names_options_that_it_has():
    "The parameters that library messages advise, each as the commands write it."
    from nsclc_radiomics.cli.main import _written, build_parser

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
        (("simulate", out, "--patients", "0"), "--patients: must be"),
        (("simulate", out, "--world", "flat"), "--world must be one of"),
        (("simulate", out, "--balance", "odd"), "--balance must be one of"),
        (("simulate", out, "--seed", "-1"), "--seed: must be"),
        (("simulate", out, "--patients", "2", "--external", "0", "--dicom", "3"), "--dicom asks for 3"),
        (("extract", cohort, "-o", tmp_path / "f.parquet", "--jobs", "0"), "--jobs: must be"),
        (("segment", cohort, "--model", "seeded", "-o", out, "--point", "0", "0", "0"), "use --where mask"),
        (("train-segmenter", cohort, "-o", out, "--patches", "0"), "--patches: must be"),
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
    says(
        "import",
        "nifti",
        nifti(tmp_path, mask),
        tmp_path / "c",
        "--label",
        "7",
        texts=("pass one of these as --label",),
    )
    says("import", "nifti", nifti(tmp_path, mask > 0, (2, 2, 2)), tmp_path / "d", texts=("pass --resample to move it",))
    (tmp_path / "key.csv").write_text("kept")
    line = ("import", "nifti", nifti(tmp_path, mask > 0), tmp_path / "e", "--key", tmp_path / "key.csv")
    says(*line, texts=("or name another with --key",))
    assert "pass label=2" in _explained(np.uint8(2)) and "pass label=255" in _explained(np.uint8(255))


def _explained(value: np.generic) -> str:
    from nsclc_radiomics.core.errors import MaskError
    from nsclc_radiomics.loading.mask import choose_label

    with pytest.raises(MaskError) as refused:
        choose_label(np.array([0, value]), None, "m.nii.gz")
    return str(refused.value)


def test_what_a_command_does_not_offer_is_not_advised(command, cohort, tmp_path):
    "`extract` can neither resample a mask nor choose a label, and says what to do with the file."
    ct = read_volume(cohort / "images/P2/ct.nii.gz")
    write_volume(Volume(np.full((4, 4, 4), 1, np.uint8), (2, 2, 2)), cohort / "images/P2/ct_mask.nii.gz")
    inside = np.zeros(ct.shape, np.uint8)
    inside[5:9, 5:9, 5:9] = 7
    write_volume(ct.with_array(inside, "mask"), cohort / "images/P3/ct_mask.nii.gz")
    done = command("extract", cohort, "-o", tmp_path / "f.parquet", "--jobs", "2")  # its workers are its own
    said = in_shell_terms(done.stderr)
    assert done.returncode == 2 and "P2" in said and "P3" in said
    assert "resample it onto the image first" in said and "write it again with 1 in the tumour" in said
    assert "--resample" not in said and "--label" not in said


def test_lesions_that_python_could_pass_by_a_rule(says, tmp_path):
    lesions = pd.DataFrame(
        {"patient_id": "P1", "visit_date": "2024-01-01", "lesion_id": "L1", "role": "target", "organ": "lung"},
        index=[0],
    )
    lesions["diameter_mm"], lesions["is_node"] = 6, False
    lesions.to_csv(tmp_path / "lesions.csv", index=False)
    said = says("response", tmp_path / "lesions.csv", "-o", tmp_path / "r.csv", texts=("P1", "make it a non-target"))
    assert "choose" not in said
    says(
        "response",
        tmp_path / "lesions.csv",
        "-o",
        tmp_path / "r.csv",
        "--criteria",
        "recist2",
        texts=("--criteria must be one of",),
    )


def _places(tmp_path):
    "A folder named like each kind of file, and a file where a folder is expected."
    for name in (
        "a.nii.gz",
        "a.yaml",
        "a.csv",
        "a.parquet",
        "bad/patients.csv",
        "bad/cohort.yaml",
        "bad/lesions.csv",
        "run/signature/signature.json",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "file").write_text("text")
    return tmp_path


def test_a_folder_for_a_file_and_a_file_for_a_folder(says, cohort, tmp_path):
    at = _places(tmp_path)
    for line in (
        ("extract", at / "file", "-o", at / "f.parquet"),
        ("extract", at / "bad", "-o", at / "f.parquet"),
        ("extract", cohort, "-o", at / "a.parquet"),
        ("extract", cohort, "-o", at / "file/f.parquet"),
        ("extract", cohort, "-o", at / "f.parquet", "--params", at / "a.yaml"),
        ("response", at / "a.csv", "-o", at / "r.csv"),
        ("response", at / "bad", "-o", at / "r.csv"),
        ("import", "nifti", at / "a.csv", at / "new"),
        ("import", "dicom", at / "file", at / "new2"),
        ("import", "owkin", at / "file", at / "new3"),
        ("simulate", at / "file/new", "--patients", "1", "--external", "0", "--jobs", "1"),
        ("segment", at / "a.nii.gz", "--model", "seeded", "-o", at / "m.nii.gz"),
        ("segment", cohort, "--model", at / "file", "-o", at / "masks"),
        ("segment", cohort, "--model", f"bundle:{at / 'file'}", "-o", at / "masks"),
        ("predict", at / "run", cohort, "-o", at / "p.csv"),
        ("predict", at / "file", cohort, "-o", at / "p.csv"),
        ("verify", at / "run", at / "file"),
    ):
        says(*line, texts=("nsclc-radiomics: error: ",))
    with pytest.raises(ImageError, match="is a folder"):
        read_volume(at / "a.nii.gz")


def test_a_cohort_without_any_image(says, tmp_path):
    patients = pd.DataFrame(
        {
            "patient_id": ["P1", "P2"],
            "centre": "A",
            "split": "train",
            "has_ct": False,
            "has_pet": False,
            "response": ["PR", "PD"],
        }
    )
    save_cohort(tmp_path / "c", {"name": "clinical", "evidence": "simulated", "endpoint": "response"}, patients)
    says("segment", tmp_path / "c", "--model", "seeded", "-o", tmp_path / "m", texts=("nothing to segment",))
    says("train-segmenter", tmp_path / "c", "-o", tmp_path / "t", texts=("CT and a mask",))


TABLES = {
    "nothing": pd.DataFrame(),
    "an id only": pd.DataFrame({"patient_id": ["P1"]}),
    "text": pd.DataFrame({"a": ["x", "y"]}, index=["P1", "P2"]),
}
SERIES = {
    "nothing": pd.Series(dtype=float),
    "an id only": pd.Series([1.0], index=["P1"]),
    "text": pd.Series(["a", "b"], index=["P1", "P2"]),
}
GIVEN = {"time": "time", "event": "event", "covariates": ["x"], "thresholds": {"m": 0.5}, "evidence": "simulated",
    "world": "claimed",
         "balance": "paper", "seed": 1, "bayes": 0.9, "sizes": [4], "scorer": "roc_auc", "threshold": 0.5,
         "cuts": [0.5], "numbers": {},
         "exclusions": [], "channels": [0], "groupings": {}}  # fmt: skip


def _argument(parameter: inspect.Parameter, table: pd.DataFrame, series: pd.Series):
    kind = str(parameter.annotation)
    if kind.startswith("Mapping") and "tuple" in kind:
        return {"m": (LogisticRegression(), table)}
    if kind.startswith("Mapping[str, pd.") or "| Mapping[str, pd.Series]" in kind:
        return {"m": series if "Series" in kind else table}
    if kind.startswith("Mapping[str, BaseEstimator]"):
        return {"m": LogisticRegression()}
    if "DataFrame" in kind and "Callable" not in kind:
        return table
    if "pd.Series" in kind and "Callable" not in kind:
        return series
    if parameter.default is not inspect.Parameter.empty:
        return parameter.default
    if "Callable" in kind or kind == "Procedure":
        return lambda *_: LogisticRegression() if "BaseEstimator" in kind else 0.5
    return LogisticRegression() if kind == "BaseEstimator" else GIVEN[parameter.name]


def _takers_of_tables():
    "Public functions that take a table or column and nothing that has to be made first."
    for module in pkgutil.walk_packages(nsclc_radiomics.__path__, "nsclc_radiomics."):
        room, _, name = module.name.removeprefix("nsclc_radiomics.").partition(".")
        if module.ispkg or room in ("_modidx", "cli", "core", "signature") or f"{room}.{name}" in NOT_SWEPT:
            continue
        loaded = importlib.import_module(module.name)
        for name, function in list(vars(loaded).items()):
            if name.startswith("_") or not inspect.isfunction(function) or function.__module__ != module.name:
                continue
            if name in GIVEN_CHECKED_ROWS:
                continue
            parameters = inspect.signature(function).parameters.values()
            if any("pd.DataFrame" in str(p.annotation) or "pd.Series" in str(p.annotation) for p in parameters):
                yield f"{room}.{name}", function, list(parameters)


# Their callers have read and checked the table.
GIVEN_CHECKED_ROWS = (
    "patient_problems",
    "lesion_problems",
    "irecist_columns",
    "check_lesion_rows",
    "lesion_contributions",
    "one_baseline",
    "visit_index",
    "target_sums",
    "non_target_response",
    "new_lesion_rows",
)
# They take what a model, a run or a whole cohort has to make first.
NOT_SWEPT = (
    "evaluation.network_maps",
    "evaluation.shap_values",
    "evaluation.traits",
    "loading.quality",
) + tuple(f"paper.{name}" for name in ("chapters", "execution", "opening", "profiles", "publish", "schedule", "scope"))


def test_tables_that_lack_what_is_needed():
    """Each function refuses an empty table, one with other columns, and text for numbers, by an error of the project,
    or can use it.
    """
    raw, called = [], 0
    for name, function, parameters in _takers_of_tables():
        for what in TABLES:
            try:
                arguments = {p.name: _argument(p, TABLES[what], SERIES[what]) for p in parameters}
            except KeyError:
                continue
            called += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    function(**arguments)
            except NsclcError:
                pass
            except Exception as error:  # what is looked for
                raw.append(f"{name} given {what}: {type(error).__name__}: {error}")
            plt.close("all")
    assert called > 200 and not raw, "\n".join(raw)


def test_pfs_without_a_start_says_which_column():
    visits = pd.DataFrame({"patient_id": ["P1"], "visit_date": ["2024-01-01"], "response": ["SD"]})
    with pytest.raises(DataError, match=r"patients: column start \(the date that time is counted from.*patient_id"):
        pfs(visits, pd.DataFrame({"patient_id": ["P1"]}))
    with pytest.raises(DataError, match="start of patient P1 is 'soon', which is no date"):
        pfs(visits, pd.DataFrame({"patient_id": ["P1"], "start": ["soon"]}))
    with pytest.raises(DataError, match="visits: a pandas DataFrame is needed, got list"):
        pfs([], pd.DataFrame())
    found = pfs(visits, pd.DataFrame({"patient_id": ["P1"], "start": ["2023-12-02"]}))
    assert found.time.tolist() == [30] and not found.event.any()


def test_options_are_refused_before_any_work(says, cohort, tmp_path, monkeypatch):
    "Not after a tree of DICOM files was read, nor by joblib."
    monkeypatch.setattr("nsclc_radiomics.loading.hospital.scan_dicom", None)
    says(
        "import",
        "dicom",
        tmp_path,
        tmp_path / "out",
        "--endpoint",
        "cure",
        texts=("--endpoint must be one of response",),
    )
    says("import", "dicom", tmp_path, tmp_path / "out", "--split", "test", texts=("--split must be one of train",))
    says("import", "dicom", tmp_path, cohort, texts=("not an empty folder",))
    says("import", "nifti", tmp_path / "none.csv", tmp_path / "out", texts=("none.csv: no such file",))
    from nsclc_radiomics.cohort.folder import load_cohort
    from nsclc_radiomics.core.compute import Compute
    from nsclc_radiomics.loading.hospital import import_dicom
    from nsclc_radiomics.segmentation.segmenter import segment_cohort, train_segmenter

    for refuse in (
        lambda: import_dicom(tmp_path, tmp_path / "out", jobs=0),
        lambda: segment_cohort(load_cohort(cohort), "seeded", tmp_path / "out", compute=Compute(jobs=0)),
        lambda: train_segmenter(load_cohort(cohort), tmp_path / "out", compute=Compute(jobs=0)),
    ):
        with pytest.raises(OptionError, match="^jobs must be a whole number of 1 or more, got 0"):
            refuse()
