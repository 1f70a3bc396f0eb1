"""`nsclc-radiomics segment` as a user meets it: a cohort, one CT, a warning for patients that were learnt from,
outcomes that are no error."""

import numpy as np

from nsclc_radiomics.cohort.folder import load_cohort
from nsclc_radiomics.core.volume_files import read_volume, write_volume
from nsclc_radiomics.loading.mask import read_mask
from nsclc_radiomics.segmentation.scores import dice
from nsclc_radiomics.segmentation.seeded import centre_point


def test_a_cohort_is_outlined_by_one_click_and_a_bad_patient_is_named(command, cohort):
    write_volume(
        read_volume(cohort / "images/P2/ct.nii.gz").with_array(np.full((17, 21, 21), -900, np.int16)),
        cohort / "images/P2/ct.nii.gz",
    )
    (cohort / "images/P3/ct.nii.gz").write_bytes(b"no image")
    done = command("segment", cohort, "--model", "seeded", "--where", "mask", "-o", cohort.parent / "found")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "found 1" in done.stdout and "nothing found 1" in done.stdout and "failed 1" in done.stdout
    assert "P3: " in done.stderr and "ct.nii.gz" in done.stderr
    assert sorted(p.name for p in (cohort.parent / "found").iterdir()) == ["P1.nii.gz", "P2.nii.gz", "segmentation.csv"]


def test_one_ct_from_a_point(command, cohort, tmp_path):
    image, truth = read_volume(cohort / "images/P3/ct.nii.gz", "HU"), read_mask(cohort / "images/P3/ct_mask.nii.gz")
    line = (
        "segment",
        cohort / "images/P3/ct.nii.gz",
        "--model",
        "seeded",
        "--point",
        *centre_point(truth),
        "-o",
        tmp_path / "tumour.nii.gz",
    )
    done = command(*line)
    assert done.returncode == 0, done.stderr
    assert "cm³" in done.stdout and dice(read_mask(tmp_path / "tumour.nii.gz", image), truth) > 0.8


def test_a_ct_without_a_tumour_is_an_outcome(command, cohort, tmp_path):
    image = read_volume(cohort / "images/P1/ct.nii.gz", "HU")
    write_volume(image.with_array(np.full(image.shape, -900, np.int16)), tmp_path / "lung.nii.gz")
    done = command("segment", tmp_path / "lung.nii.gz", "--model", "seeded", "-o", tmp_path / "tumour.nii.gz")
    assert done.returncode == 0 and "nothing written" in done.stdout and "no tumour" in done.stdout
    assert not (tmp_path / "tumour.nii.gz").exists()


def test_what_cannot_be_done_is_said(refused, cohort, tmp_path):
    ct = cohort / "images/P1/ct.nii.gz"
    refused("segment", ct, "--model", "seeded", says=("-o", ".nii.gz"))
    refused("segment", ct, "--model", "seeded", "-o", tmp_path / "x.dcm", says=("DICOM", "folder"))
    refused("segment", cohort, "--model", "seeded", "--point", 1, 2, 3, says=("one CT",))
    refused("segment", cohort, "--model", tmp_path / "nowhere", says=("nowhere", "no model"))


def test_scores_of_patients_that_were_learnt_from_come_with_a_warning(command, cohort, tmp_path):
    from nsclc_radiomics.segmentation.model import UnetSegmenter, save_model
    from nsclc_radiomics.segmentation.network import UnetSettings, build_unet
    from nsclc_radiomics.segmentation.training import fingerprint

    settings = UnetSettings(spacing=4, patch=16, channels=(4, 8, 8))
    seen = {"P1": fingerprint(load_cohort(cohort).image("P1"))}
    model = save_model(UnetSegmenter((build_unet(settings).eval(),), settings, seen), tmp_path / "model")
    done = command("segment", cohort, "--model", model, "-o", tmp_path / "found", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "warning: the model was trained on 1 of these 3 patients (P1)" in done.stderr
