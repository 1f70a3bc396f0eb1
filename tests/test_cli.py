"""The command line as a user meets it: what it makes, and one clear error for each kind of bad input."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from nsclc_radiomics import __version__
from nsclc_radiomics.cohort import load_cohort, sample_baseline
from nsclc_radiomics.core import Volume, read_volume, write_volume


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
    line = [sys.executable, "-m", "nsclc_radiomics.cli"]
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
    np.testing.assert_allclose(measured.loc[published.index, published.columns].to_numpy(float), published.to_numpy(), rtol=1e-9)


@pytest.mark.parametrize("name", ["cohort.yaml", "patients.csv"])
def test_a_missing_table(refused, cohort, tmp_path, name):
    (cohort / name).unlink()
    refused("extract", cohort, "-o", tmp_path / "f.parquet", says=(f"{name}: no such file", str(cohort)))
    assert not (tmp_path / "f.parquet").exists()


def test_a_missing_cohort_and_a_missing_image(refused, cohort, tmp_path):
    refused("extract", tmp_path / "nowhere", "-o", tmp_path / "f.parquet", says=("nowhere", "no such cohort folder"))
    (cohort / "images/P2/ct.nii.gz").unlink()
    refused("extract", cohort, "-o", tmp_path / "f.parquet", says=("patients.csv, row 3", "images/P2/ct.nii.gz is not there"))


def test_a_wrong_column_type_duplicate_and_endpoint_in_one_message(refused, cohort, tmp_path):
    edit(cohort / "patients.csv", "P3,A,train,True", "P1,A,test,perhaps")
    edit(cohort / "cohort.yaml", "endpoint: response", "endpoint: happiness")
    said = refused("extract", cohort, "-o", tmp_path / "f.parquet", says=("row 4, column split: 'test'", "row 4, column has_ct: 'perhaps'", "happiness"))
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
    refused("paper", "--run", tmp_path / "full", "--profile", "smoke", "--fresh", says=("does not look like a run folder",))
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
