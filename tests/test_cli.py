"""The command line as a user meets it: what it makes, and one clear error for each kind of bad input."""

import inspect
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, all_commands

from nsclc_radiomics import __version__
from nsclc_radiomics.cli.main import main
from nsclc_radiomics.cohort.folder import load_cohort
from nsclc_radiomics.cohort.sample import sample_baseline
from nsclc_radiomics.core.compute import worker_count
from nsclc_radiomics.core.files import write_json
from nsclc_radiomics.core.run import Run
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import read_volume, write_volume
from nsclc_radiomics.loading import idc, owkin
from nsclc_radiomics.loading.hospital import match_roi
from nsclc_radiomics.paper import chapters, publish, site
from nsclc_radiomics.segmentation import segmenter
from nsclc_radiomics.simulation.cohort import simulate_cohort


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_help_names_every_command(command):
    done = command("--help")
    assert done.returncode == 0
    for name in ("sample", "simulate", "import", "check", "extract", "response", "paper", "verify"):
        assert name in done.stdout


def test_the_module_is_the_command_too():
    line = [sys.executable, "-m", "nsclc_radiomics.cli.main"]
    done = subprocess.run([*line, "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout.strip() == __version__
    done = subprocess.run([*line, "check", "nowhere"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "nowhere" in done.stderr and "Traceback" not in done.stderr


def test_sample_and_extract_give_the_published_values(command, tmp_path):
    "The authors' values of all 107 original features of two real CTs, to a relative 1e-9."
    made = command("sample", tmp_path / "sample")
    assert made.returncode == 0, made.stderr
    done = command("extract", tmp_path / "sample", "-o", tmp_path / "features.parquet")
    assert done.returncode == 0, done.stderr
    measured, published = pd.read_parquet(tmp_path / "features.parquet").T, sample_baseline()
    assert published.shape == (107, 2)
    np.testing.assert_allclose(
        measured.loc[published.index, published.columns].to_numpy(float), published.to_numpy(), rtol=1e-9
    )


@pytest.mark.parametrize("name", ["cohort.yaml", "patients.csv"])
def test_a_missing_table(refused, cohort, tmp_path, name):
    (cohort / name).unlink()
    refused("extract", cohort, "-o", tmp_path / "f.parquet", says=(f"{name}: no such file", str(cohort)))
    assert not (tmp_path / "f.parquet").exists()


def test_a_missing_cohort_and_a_missing_image(refused, cohort, tmp_path):
    refused("extract", tmp_path / "nowhere", "-o", tmp_path / "f.parquet", says=("nowhere", "no such cohort folder"))
    (cohort / "images/P2/ct.nii.gz").unlink()
    refused(
        "extract",
        cohort,
        "-o",
        tmp_path / "f.parquet",
        says=("patients.csv, row 3", "images/P2/ct.nii.gz is not there"),
    )


def test_a_wrong_column_type_duplicate_and_endpoint_in_one_message(refused, cohort, tmp_path):
    edit(cohort / "patients.csv", "P3,A,train,True", "P1,A,test,perhaps")
    edit(cohort / "cohort.yaml", "endpoint: response", "endpoint: happiness")
    said = refused(
        "extract",
        cohort,
        "-o",
        tmp_path / "f.parquet",
        says=("row 4, column split: 'test'", "row 4, column has_ct: 'perhaps'", "happiness"),
    )
    assert "expected one of response, durable_benefit, two_year_survival, none" in said
    edit(cohort / "patients.csv", "P1,A,test,perhaps", "P1,A,train,True")
    edit(cohort / "cohort.yaml", "endpoint: happiness", "endpoint: response")
    refused("extract", cohort, "-o", tmp_path / "f.parquet", says=("rows 2, 4: patient_id P1 occurs 2 times",))
    edit(cohort / "patients.csv", "patient_id,centre", "patient,centre")
    refused("extract", cohort, "-o", tmp_path / "f.parquet", says=("column 'patient_id' is missing", "'patient'"))


def empty(mask: Volume) -> Volume:
    return mask.with_array(np.zeros(mask.shape, np.uint8))


def shifted(mask: Volume) -> Volume:
    return Volume(mask.array, mask.spacing, (0, 0, 40), mask.direction)


def smaller(mask: Volume) -> Volume:
    return Volume(mask.array[1:], mask.spacing, mask.origin, mask.direction)


def labelled(mask: Volume) -> Volume:
    return mask.with_array(mask.array * 7)


@pytest.mark.parametrize("spoil, says", [(empty, "empty"), (shifted, "origin"), (smaller, "shape"), (labelled, "7")])
def test_a_bad_mask_costs_its_patient_only(refused, cohort, tmp_path, spoil, says):
    path = cohort / "images/P2/ct_mask.nii.gz"
    write_volume(spoil(read_volume(path)), path)
    refused("extract", cohort, "-o", tmp_path / "f.parquet", "--jobs", 1, says=("P2", says))
    features = pd.read_parquet(tmp_path / "f.parquet")
    assert features.loc["P2"].isna().all() and features.loc[["P1", "P3"]].notna().all(axis=None)


def test_an_image_that_is_not_one(refused, cohort, tmp_path):
    (cohort / "images/P1/ct.nii.gz").write_bytes(b"not an image")
    refused("extract", cohort, "-o", tmp_path / "f.parquet", "--jobs", 1, says=("P1", "ct.nii.gz"))


def test_settings_that_are_not_there(refused, cohort, tmp_path):
    refused("extract", cohort, "-o", tmp_path / "f.parquet", "--params", "no_such.yaml", says=("no_such",))
    assert not (tmp_path / "f.parquet").exists()


def test_nothing_is_written_over(refused, cohort, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    refused("sample", tmp_path / "full", says=("exists already",))
    refused("simulate", tmp_path / "full", "--patients", 8, says=("exists already",))
    refused(
        "paper", "--run", tmp_path / "full", "--profile", "smoke", "--fresh", says=("does not look like a run folder",)
    )
    assert (tmp_path / "full" / "thesis.tex").read_text() == "years of work"


def test_options_that_cannot_be(refused, tmp_path):
    refused("simulate", tmp_path / "c", "--world", "better", says=("better", "claimed, published, null"))
    refused("simulate", tmp_path / "c", "--patients", -3, says=("-3",))
    refused("paper", "--profile", "huge", says=("huge", "full, smoke"))
    refused("paper", "--run", tmp_path / "r", "--only", "41_magic", says=("41_magic",))
    assert not (tmp_path / "c").exists()


def test_a_saved_cohort_is_read_as_it_was_written(cohort, tmp_path):
    before = load_cohort(cohort)
    shutil.copytree(cohort, tmp_path / "copy")
    after = load_cohort(tmp_path / "copy")
    pd.testing.assert_frame_equal(before.patients, after.patients)
    assert before.meta == after.meta and before.ids == ["P1", "P2", "P3"]


def test_help_answers_at_once(command):
    "Without the libraries that the commands need; the best of three, since the machine does other things too."
    line = (
        "import sys; from nsclc_radiomics.cli.main import main\ntry: main(['--help'])\nexcept SystemExit:"
        " pass\nprint(sorted(sys.modules), file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, cwd=ROOT)
        seconds.append(time.perf_counter() - began)
    loaded = done.stderr
    assert done.returncode == 0 and min(seconds) < 2  # 0.15 s on a machine with nothing else to do
    assert not [
        name for name in ("SimpleITK", "pandas", "scipy", "sklearn", "torch", "tqdm", "joblib") if f"'{name}'" in loaded
    ]


def nifti_table(tmp_path, cohort):
    rows = [f"{p},{cohort}/images/{p}/ct.nii.gz,{cohort}/images/{p}/ct_mask.nii.gz" for p in ("P1", "P2")]
    (tmp_path / "table.csv").write_text("\n".join(["patient_id,ct,ct_mask", *rows]) + "\n", encoding="utf-8")
    return [tmp_path / "table.csv", tmp_path / "out"]


def simulated_lesions(tmp_path, cohort):
    return [simulate_cohort(tmp_path / "c", 2, 0, jobs=1, progress=False), "-o", tmp_path / "out" / "response.csv"]


def two_runs(tmp_path, cohort):
    for name in ("a", "b"):
        write_json(tmp_path / name / "provenance.json", {"machine": {"processor": "one"}})
        Run(tmp_path / name).record({"n": {"value": 1.0, "evidence": "simulated"}})
    return [tmp_path / "a", tmp_path / "b"]


# Each command with what it has to be given and nothing more. README means: a line there is it, and test_readme runs it.
BY_DEFAULT = {
    "sample": lambda tmp_path, cohort: [tmp_path / "out"],
    "check": lambda tmp_path, cohort: [cohort],
    "extract": lambda tmp_path, cohort: [cohort, "-o", tmp_path / "out" / "f.parquet"],
    "segment": lambda tmp_path, cohort: [cohort, "--model", "seeded"],
    "import nifti": nifti_table,
    "response": simulated_lesions,
    "verify": two_runs,
    "simulate": "README",
    "import dicom": "README",
    "train": "README",
    "predict": "README",
}
# What takes minutes or a network: the library's function hears of the defaults, and its signature and the check of jobs
# accept them.
HEARD = {
    "import owkin": (owkin, "import_owkin", ["src", "out"]),
    "fetch": (idc, "list_collection", ["NSCLC-Radiomics"]),
    "train-segmenter": (segmenter, "train_segmenter", ["COHORT", "-o", "out"]),
    "paper": (chapters, "run_paper", []),
    "publish": (publish, "publish", []),
    "docs": (site, "build_site", []),
}


class Heard(Exception):
    pass


def test_every_command_has_a_test_of_its_defaults():
    assert sorted([*BY_DEFAULT, *HEARD]) == sorted(all_commands())


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_a_command_works_by_its_defaults(name, cohort, tmp_path, capsys, monkeypatch):
    if BY_DEFAULT[name] == "README":
        assert f"\nnsclc-radiomics {name} " in (ROOT / "README.md").read_text(encoding="utf-8")
        return
    monkeypatch.chdir(tmp_path)
    assert main([*name.split(), *map(str, BY_DEFAULT[name](tmp_path, cohort))]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", HEARD)
def test_the_library_takes_the_defaults_of_a_command(name, cohort, tmp_path, monkeypatch):
    module, function, arguments = HEARD[name]
    signature = inspect.signature(getattr(module, function))

    def hear(*given, **named):
        bound = signature.bind(*given, **named).arguments
        if "jobs" in signature.parameters:
            assert bound.get("jobs") is None
        worker_count(bound.get("jobs"))
        raise Heard

    monkeypatch.setattr(module, function, hear)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Heard):
        main([*name.split(), *(str(cohort) if a == "COHORT" else a for a in arguments)])


@pytest.mark.parametrize(
    "name", [name for name, parser in all_commands().items() if "--jobs" in parser._option_string_actions]
)
def test_no_command_takes_less_than_one_process(name, refused):
    needed = [a for a in all_commands()[name]._actions if a.required]
    line = [word for a in needed for word in (*a.option_strings[:1], "x")]
    for wrong in ("0", "-1", "two"):
        said = refused(*name.split(), *line, "--jobs", wrong, says=("--jobs", f"1 or more, got {wrong}"))
        assert said.count("\n") == 1


def test_folds_and_other_numbers_that_cannot_be(refused):
    for line in (
        ["train", "c", "-o", "r", "--folds", "1"],
        ["train-segmenter", "c", "-o", "r", "--folds", "1"],
        ["paper", "--seed", "-1"],
        ["paper", "--at-once", "0"],
    ):
        assert refused(*line, says=(line[-2], f"got {line[-1]}")).count("\n") == 1


def test_docs_outside_a_clone_is_a_sentence(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "clone of the repository" in refused("docs", says=("nbs/paper",))


def test_a_contour_whose_name_has_a_comma_is_given_by_an_option_of_its_own():
    from nsclc_radiomics.cli.main import build_parser

    args = build_parser().parse_args(["import", "dicom", "src", "out", "--roi", "GTV, primary", "--roi", "GTV*,Tumour"])
    assert match_roi(["Tumour", "GTV, primary", "GTV"], args.roi) == ["GTV, primary"]
    assert match_roi(["Tumour", "gtv 1"], args.roi) == ["gtv 1"] and match_roi(["Tumour"], args.roi) == ["Tumour"]


def test_the_same_is_said_once(cohort, capsys, monkeypatch):
    import warnings

    def fetched(*given, **named):
        for _ in range(3):
            warnings.warn("two patients look alike")  # noqa: B028
        return pd.DataFrame(
            {"patient_id": ["A", "A"], "source": "", "taken": False, "reason": "no outline refers to this image"}
        )

    monkeypatch.setattr(owkin, "import_owkin", fetched)
    assert main(["import", "owkin", "src", str(cohort)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "nsclc-radiomics: warning: two patients look alike",
        "left out: A: no outline refers to this image",
    ]
