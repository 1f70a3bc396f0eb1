"""Repeatability: the same numbers whatever the number of processes, ICC as defined,
and tumours from training patients only."""

import numpy as np
import pandas as pd
import pytest

from nsclc_radiomics.cohort.folder import load_cohort, save_cohort
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import DataError, OptionError
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import write_volume
from nsclc_radiomics.features.robustness import (
    PERTURBATIONS,
    Perturbation,
    feature_icc,
    intraclass_correlation,
    perturb,
    perturbed_features,
    real_tumours,
    robust_features,
    training_tumours,
)

SETTINGS = {
    "setting": {"binWidth": 25},
    "imageType": {"Original": {}},
    "featureClass": {"firstorder": ["Mean", "Maximum"], "shape": ["VoxelVolume"]},
}


def ball(seed, size=20):
    rng = make_rng(seed, "test robustness")
    z, y, x = np.ogrid[:size, :size, :size]
    inside = (z - 10) ** 2 + (1.4 * (y - 10)) ** 2 + (x - 10) ** 2 <= rng.uniform(4, 7) ** 2
    values = np.where(inside, rng.uniform(0, 80), -800) + rng.normal(0, 30, inside.shape)
    return Volume(values.astype(np.float32), unit="HU"), Volume(inside, unit="mask")


def measurements(values):
    index = pd.MultiIndex.from_product(
        [[f"P{n}" for n in range(len(values))], [f"c{n}" for n in range(values.shape[1])]],
        names=["patient_id", "perturbation"],
    )
    return pd.DataFrame({"original_glcm_Contrast": values.ravel()}, index=index)


def test_number_of_processes_does_not_matter():
    cases = {f"P{n}": ball(n) for n in range(5)}
    one, two = (perturbed_features(cases, SETTINGS, jobs=jobs) for jobs in (1, 2))
    assert one.equals(two)
    pd.testing.assert_frame_equal(feature_icc(one, jobs=1), feature_icc(two, jobs=2))
    assert not perturbed_features(cases, SETTINGS, {"noisy": PERTURBATIONS["noisy"]}, seed=2).equals(
        one.loc[(slice(None), ["none", "noisy"]), :]
    )


def test_a_patient_does_not_depend_on_the_others():
    cases = {f"P{n}": ball(n) for n in range(3)}
    alone = perturbed_features({"P2": cases["P2"]}, SETTINGS)
    assert perturbed_features(cases, SETTINGS).loc[["P2"]].equals(alone)


def test_icc_is_the_share_of_variance_between_patients():
    values = make_rng(1, "icc").normal(size=(40, 1)) * 3 + make_rng(2, "icc").normal(size=(40, 6))
    between = 6 * values.mean(axis=1).var(ddof=1)
    within = values.var(axis=1, ddof=1).mean()
    found = feature_icc(measurements(values)).iloc[0]
    assert found["icc"] == pytest.approx((between - within) / (between + 5 * within), rel=1e-9)
    assert found["low"] < found["icc"] < found["high"] and found["feature_class"] == "glcm" and found["patients"] == 40


SHROUT_AND_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])


@pytest.mark.parametrize(
    ("kind", "published"),
    {"ICC(1,1)": (0.17, -0.133, 0.723), "ICC(2,1)": (0.29, 0.019, 0.761), "ICC(3,1)": (0.71, 0.342, 0.946)}.items(),
)
def test_icc_of_shrout_and_fleiss_1979(kind, published):
    "Six targets, four judges: the coefficients of the paper, the intervals that psych::ICC in R gives for them."
    icc, low, high = intraclass_correlation(SHROUT_AND_FLEISS, kind)
    assert round(icc, 2) == published[0]
    assert (low, high) == pytest.approx(published[1:], abs=6e-4)
    assert intraclass_correlation(SHROUT_AND_FLEISS * 1e-9 + 1e3, kind) == pytest.approx((icc, low, high), rel=1e-3)


def test_the_interval_of_an_icc_is_exact():
    "Its ends are the coefficients that an F test of the given level just does not reject, found by bisection."
    from scipy.optimize import brentq
    from scipy.stats import f

    n, k = SHROUT_AND_FLEISS.shape
    between = k * SHROUT_AND_FLEISS.mean(1).var(ddof=1)
    ratio = between / SHROUT_AND_FLEISS.var(1, ddof=1).mean()

    def beyond(r, p):
        return f.cdf(ratio / (1 + k * r / (1 - r)), n - 1, n * (k - 1)) - p

    rejects = [brentq(beyond, -0.3, 0.99, args=(p,)) for p in (0.975, 0.025)]
    assert intraclass_correlation(SHROUT_AND_FLEISS)[1:] == pytest.approx(rejects, abs=1e-9)
    wider = intraclass_correlation(SHROUT_AND_FLEISS, level=0.99)
    assert wider[1] < rejects[0] and wider[2] > rejects[1]


def test_measurements_that_agree_fully_have_an_icc_of_one():
    values = np.repeat(np.arange(6.0)[:, None], 3, axis=1)
    for kind in ("ICC(1,1)", "ICC(2,1)", "ICC(3,1)"):
        assert intraclass_correlation(values, kind) == pytest.approx((1, 1, 1))


def test_an_icc_is_refused_by_name():
    with pytest.raises(OptionError, match="ICC\\(4,1\\)"):
        intraclass_correlation(SHROUT_AND_FLEISS, "ICC(4,1)")
    for values in (SHROUT_AND_FLEISS[:1], SHROUT_AND_FLEISS[:, 0], SHROUT_AND_FLEISS * np.nan):
        with pytest.raises(DataError, match="finite values of two or more"):
            intraclass_correlation(values)


def test_constant_features_have_no_icc_and_are_never_robust():
    icc = feature_icc(measurements(np.ones((6, 3))))
    assert icc["icc"].isna().all() and robust_features(icc) == [] and robust_features(icc, least=0, bound="icc") == []


def test_an_icc_needs_five_patients():
    with pytest.raises(DataError, match="original_glcm_Contrast: only 4 patients"):
        feature_icc(measurements(make_rng(1, "few").normal(size=(4, 3))))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbed_tumours_are_nearly_the_same_tumours(name):
    image, mask = ball(3)
    changed, drawn = perturb(image, mask, PERTURBATIONS[name], make_rng(1, name))
    assert changed.shape == image.shape and drawn.array.dtype == bool
    overlap = 2 * (drawn.array & mask.array).sum() / (drawn.array.sum() + mask.array.sum())
    assert 0.7 < overlap <= 1
    assert (overlap == 1) == (PERTURBATIONS[name] in (Perturbation(noise=10),))


def test_tumours_come_from_training_patients_only(tmp_path):
    ids, splits = ["a", "b", "c", "d"], ["holdout", "train", "external", "train"]
    for n, pid in enumerate(ids[:3]):
        for volume, name in zip(ball(n), ("ct", "ct_mask"), strict=True):
            write_volume(volume, tmp_path / "images" / pid / f"{name}.nii.gz")
    table = pd.DataFrame(
        {"patient_id": ids, "centre": "A", "split": splits, "has_ct": [True, True, True, False], "has_pet": False}
    )
    meta = {
        "name": "t",
        "evidence": "simulated",
        "endpoint": "none",
        "licence": "none",
        "citation": "none",
        "centres": ["A"],
        "made_by": "test",
    }
    save_cohort(tmp_path, meta, table)
    assert list(training_tumours(load_cohort(tmp_path))) == ["b"]
    save_cohort(tmp_path, meta, table.assign(split="holdout"))
    with pytest.raises(DataError, match="no training patient has a CT"):
        training_tumours(load_cohort(tmp_path))


def test_without_the_reference_data_there_are_no_real_tumours(tmp_path, monkeypatch):
    monkeypatch.setenv("NSCLC_REFERENCE", str(tmp_path / "absent"))
    assert real_tumours() == {}


def test_real_tumours_turn_about_the_axis_from_head_to_foot(tmp_path, monkeypatch):
    images = tmp_path / "owkin" / "x_train" / "images"
    images.mkdir(parents=True)
    (tmp_path / "owkin" / "exact_feature_cases.txt").write_text("007\n")
    scan = np.broadcast_to(10 * np.arange(24), (24, 24, 24)).astype(np.int16)  # the last axis points to the head
    drawn = np.zeros(scan.shape, bool)
    drawn[8:16, 8:16, 8:16] = True
    np.savez(images / "patient_007.npz", scan=scan, mask=drawn)
    monkeypatch.setenv("NSCLC_REFERENCE", str(tmp_path))
    image, mask = real_tumours()["007"]
    assert np.allclose(image.index_to_point((0, 0, 1)), (0, 0, 1))
    turned, moved = perturb(image, mask, Perturbation(rotation=20), make_rng(1))
    assert np.allclose(turned.array[drawn], image.array[drawn], atol=1e-3)
    assert not np.array_equal(moved.array, drawn)
