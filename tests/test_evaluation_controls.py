"Controls that must fail when something leaks, and what the simulated truth lets one count."

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import GaussianNB
from test_evaluation import patients

from nsclc_radiomics.cohort.folder import load_cohort
from nsclc_radiomics.cohort.splits import patient_folds
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import CohortError, DataError, GeometryError, LeakageError, MaskError, OptionError
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.evaluation.controls import (
    cross_validated_auc,
    evaluate,
    guard_procedure,
    honest_auc,
    leaky_auc,
    null_intervals,
    require_controls,
    run_controls,
    shuffle_cohort,
    shuffle_inside,
    shuffled_labels,
)
from nsclc_radiomics.evaluation.recovery import (
    auc_by_patients,
    patients_needed,
    recovered_share,
    seed_spread,
    separation,
    simulate_reports,
)
from nsclc_radiomics.features.extraction import extract_cohort
from nsclc_radiomics.models.clinical import VOLUME_FEATURE


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 0.9))
def test_shuffling_inside_keeps_the_histogram_and_everything_outside(seed, share):
    rng = np.random.default_rng(seed)
    image = Volume(rng.integers(-1000, 400, (5, 7, 6)).astype(np.int16), unit="HU")
    mask = Volume(rng.random(image.shape) < share)
    if not mask.array.any():
        return
    out = shuffle_inside(image, mask, 1, "P1")
    assert np.array_equal(np.sort(out.array[mask.array]), np.sort(image.array[mask.array]))
    assert (
        np.array_equal(out.array[~mask.array], image.array[~mask.array])
        and out.unit == "HU"
        and out.array.dtype == np.int16
    )
    assert np.array_equal(out.array, shuffle_inside(image, mask, 1, "P1").array)


def test_shuffling_names_the_patient_it_cannot_do_and_leaves_the_image_alone():
    image = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    mask, before = Volume(np.ones((3, 4, 5), bool)), image.array.copy()
    one, other = (shuffle_inside(image, mask, 1, p).array for p in ("P1", "P2"))
    assert not np.array_equal(one, other) and np.array_equal(image.array, before)
    with pytest.raises(MaskError, match="P1: the mask is empty"):
        shuffle_inside(image, Volume(np.zeros((3, 4, 5), bool)), 1, "P1")
    with pytest.raises(GeometryError, match="P1: .*shape"):
        shuffle_inside(image, Volume(np.ones((3, 4, 6), bool)), 1, "P1")
    with pytest.raises(GeometryError, match="P1: .*origin"):
        shuffle_inside(image, Volume(np.ones((3, 4, 5), bool), origin=(3, 0, 0)), 1, "P1")


def test_a_shuffled_cohort_keeps_size_shape_and_histogram_and_loses_its_texture(cohort, tmp_path):
    before = load_cohort(cohort)
    after = shuffle_cohort(before, tmp_path / "shuffled", ["P3", "P1"], seed=4)
    assert (
        after.ids == ["P1", "P3"]
        and after.patients.response.tolist() == ["PR", "SD"]
        and not after.patients.has_pet.any()
    )
    again = shuffle_cohort(before, tmp_path / "again", ["P1"], seed=4)
    assert np.array_equal(again.image("P1").array, after.image("P1").array)
    tables = [
        extract_cohort(c, tmp_path / f"{k}.parquet", "original", 1, cache=tmp_path / "cache", progress=False)
        for k, c in enumerate((before, after))
    ]
    old, new = tables[0].loc[after.ids], tables[1]
    kept = [c for c in old if "_shape_" in c or c.endswith(("firstorder_Mean", "firstorder_Entropy"))]
    assert np.allclose(old[kept], new[kept]) and not np.allclose(
        old.original_glcm_Correlation, new.original_glcm_Correlation, rtol=1e-3
    )


def test_a_cohort_is_not_shuffled_for_strangers_or_over_another(cohort, tmp_path):
    before = load_cohort(cohort)
    with pytest.raises(CohortError, match="no patient 'P9' to shuffle"):
        shuffle_cohort(before, tmp_path / "a", ["P1", "P9"])
    with pytest.raises(CohortError, match="nobody to shuffle"):
        shuffle_cohort(before, tmp_path / "a", [])
    with pytest.raises(OptionError, match="not an empty folder"):
        shuffle_cohort(before, cohort)
    assert not (tmp_path / "a").exists()


def test_an_evaluation_comes_with_its_controls_and_stops_where_one_fails():
    X, y = patients(120)
    split = pd.Series(np.where(np.arange(120) < 80, "train", "external"), index=y.index)
    options = {"volume": None, "repeats": 3, "resamples": 50, "evidence": "simulated"}
    found = evaluate(GaussianNB(), X, y, split, name="Bayes", **options)
    assert found.predictions.model.eq("Bayes").all() and set(found.performance.set) == {"cross-validated", "external"}
    assert found.controls.set_index("control").auc["model"] == pytest.approx(
        found.performance.query("metric == 'auc'").value.iloc[0]
    )
    leak = {"null world": (y, X.f0)}
    with pytest.raises(LeakageError, match="null world has AUC"):
        evaluate(GaussianNB(), X, y, split, extra=leak, **options)


def test_shuffled_labels_keep_their_number_and_come_in_the_same_orders_each_time():
    _, y = patients(40)
    seen = []
    shuffled_labels(lambda labels: seen.append(labels) or 0.5, y, 6, seed=2)
    again = []
    shuffled_labels(lambda labels: again.append(labels) or 0.5, y, 4, seed=2)
    assert all(order.sum() == y.sum() and order.index.equals(y.index) for order in seen)
    assert all(a.equals(b) for a, b in zip(seen, again)) and not any(
        a.equals(b) for a, b in itertools.combinations(seen, 2)
    )
    with pytest.raises(OptionError, match="two or more"):
        shuffled_labels(lambda labels: 0.5, y, 1)


def test_selection_before_the_split_finds_signal_in_noise_and_inside_it_does_not():
    rng = make_rng(9, "noise")
    y = pd.Series(rng.permutation(np.arange(100) % 2), index=[f"P{i:03}" for i in range(100)])
    X = pd.DataFrame(rng.normal(size=(100, 600)), index=y.index).add_prefix("f")
    leaky, honest = ([f(LogisticRegression(), X, y, seed=s) for s in range(3)] for f in (leaky_auc, honest_auc))
    assert min(leaky) > 0.75 and max(honest) < 0.65
    table = run_controls(
        LogisticRegression(), X, y, volume=None, procedure=lambda labels: leaky_auc(GaussianNB(), X, labels), repeats=3
    )
    assert table.set_index("control").holds["shuffled labels"] is False
    with pytest.raises(LeakageError, match="shuffled labels has AUC"):
        require_controls(table)


def test_controls_of_an_honest_model_hold():
    X, y = patients(100)
    X = X.assign(**{VOLUME_FEATURE: np.exp(make_rng(1, "v").normal(9, 1, 100))})
    lot = pd.Series(make_rng(2, "lot").normal(size=100), index=y.index)
    table = run_controls(GaussianNB(), X, y, extra={"voxels shuffled": (y, lot), "null world": (y, lot)}, repeats=4)
    require_controls(table)
    assert table.control.tolist() == [
        "model",
        "volume alone",
        "voxels shuffled",
        "null world",
        "shuffled labels",
        "leaky: selection before splitting",
        "leaky, shuffled labels",
    ]
    by_name = table.set_index("control")
    assert by_name.auc["model"] == pytest.approx(cross_validated_auc(GaussianNB(), X, y, seed=1))
    assert by_name.holds[["null world", "shuffled labels"]].tolist() == [True, True] and by_name.holds.isna().sum() == 5
    renamed = run_controls(GaussianNB(), X.rename(columns={VOLUME_FEATURE: "ml"}), y, volume="ml", repeats=2).set_index(
        "control"
    )
    assert renamed.auc["volume alone"] == by_name.auc["volume alone"]
    with pytest.raises(DataError, match="no feature 'litres'"):
        run_controls(GaussianNB(), X, y, volume="litres")


def test_a_null_world_that_beats_chance_is_a_failure():
    X, y = patients(100)
    table = run_controls(GaussianNB(), X, y, volume=None, extra={"null world": (y, X.f0)}, repeats=2)
    with pytest.raises(LeakageError, match="null world has AUC"):
        require_controls(table)


def honest(X, y, train, test):
    return GaussianNB().fit(X.iloc[train], y.iloc[train]).predict_proba(X.iloc[test])[:, 1]


def reduced(X, y, train, test):
    Z = PCA(2, random_state=0).fit_transform(X)
    return GaussianNB().fit(Z[train], y.iloc[train]).predict_proba(Z[test])[:, 1]


def selected(X, y, train, test):
    return honest(X[X.columns[SelectKBest(k=1).fit(X, y).get_support()]], y, train, test)


def encoded(X, y, train, test):
    return honest(X.assign(group=y.groupby(X.f1.round()).transform("mean")), y, train, test)


def looked_up(X, y, train, test):
    return y.iloc[test]


def ranked(X, y, train, test):
    return pd.Series(honest(X, y, train, test)).rank()


def test_the_guard_finds_leaks_in_any_procedure_and_lets_honest_ones_pass():
    X, y = patients(60)
    folds = patient_folds(y, 3, seed=1)
    guard_procedure(honest, X, y, folds)
    for leak in (selected, encoded, looked_up):
        with pytest.raises(LeakageError, match="with their labels"):
            guard_procedure(leak, X, y, folds)
    for leak in (reduced, ranked):
        with pytest.raises(LeakageError, match="with one another"):
            guard_procedure(leak, X, y, folds)
    with pytest.raises(DataError, match="random_state"):
        guard_procedure(lambda X, y, train, test: np.random.default_rng().random(len(test)), X, y, folds)
    as_arrays = X.to_numpy().reshape(60, 1, 2, 3)
    guard_procedure(lambda X, y, train, test: X[test].sum((1, 2, 3)), as_arrays, y, folds)


def noise_of_models(seed: int, models: int = 8, patients: int = 120) -> pd.DataFrame:
    "Predictions that know nothing, of models that resemble each other."
    rng = make_rng(seed, "null intervals")
    y, shared = rng.permutation(np.arange(patients) % 2), rng.normal(size=patients)
    parts = [
        {"model": f"m{k}", "set": "holdout", "y": y, "probability": 0.5 * shared + rng.normal(size=patients)}
        for k in range(models)
    ]
    return pd.concat([pd.DataFrame(part) for part in parts])


def test_intervals_for_all_models_hold_one_half_at_once_as_often_as_they_say():
    tables = [null_intervals(noise_of_models(seed)) for seed in range(60)]
    each = np.mean([table.holds.mean() for table in tables])
    all_alone, all_together = (np.mean([table[column].all() for table in tables]) for column in ("holds", "holds_all"))
    assert each == pytest.approx(0.95, abs=0.02)  # alone, each is right
    assert all_alone < 0.8 and all_together >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 60)


def test_intervals_for_all_are_of_bonferronis_level():
    table, alone = null_intervals(noise_of_models(1, models=5)), null_intervals(noise_of_models(1, models=1))
    width = norm.ppf(1 - 0.05 / 5 / 2) / norm.ppf(0.975)
    assert np.allclose(table.high_all - table.auc, width * (table.high - table.auc), rtol=1e-9)
    assert (alone.low == alone.low_all).all() and (table.patients == 120).all()
    with pytest.raises(OptionError, match="level"):
        null_intervals(noise_of_models(1, models=2), level=95)


@pytest.mark.parametrize("value, bayes, share", [(0.92, 0.92, 1), (0.5, 0.92, 0), (0.71, 0.92, 0.5), (0.4, 0.9, -0.25)])
def test_the_share_of_the_truth(value, bayes, share):
    table = pd.DataFrame(
        {"metric": ["auc", "brier"], "value": [value, 0.2], "low": [value - 0.042, 0.1], "high": [value + 0.042, 0.3]}
    )
    [row] = recovered_share(table, bayes).itertuples()
    assert row.share == pytest.approx(share) and row.share_high - row.share_low == pytest.approx(0.084 / (bayes - 0.5))
    assert recovered_share(table, 0.5)[["share", "share_low", "share_high"]].isna().all(axis=None)
    with pytest.raises(OptionError, match="0.5 to 1"):
        recovered_share(table, 0.4)


def test_the_learning_curve_grows_orders_and_tests_as_it_says():
    X, y = patients(300)
    curve = auc_by_patients(GaussianNB(), X[:200], y[:200], X[200:], y[200:], [20, 60, 200], repeats=3)
    assert curve.patients.tolist() == sorted([20, 60, 200] * 3) and curve.repeat.tolist() == [0, 1, 2] * 3
    whole = roc_auc_score(y[200:], GaussianNB().fit(X[:200], y[:200]).predict_proba(X[200:])[:, 1])
    assert np.allclose(curve[curve.patients == 200].test, whole)
    brier = auc_by_patients(
        GaussianNB(), X[:200], y[:200], X[200:], y[200:], [200], repeats=1, scoring="neg_brier_score"
    )
    assert brier.test.item() < 0
    with pytest.raises(LeakageError):
        auc_by_patients(GaussianNB(), X[:200], y[:200], X[199:], y[199:], [20])
    for sizes in ([], [2], [201]):
        with pytest.raises(OptionError, match="sizes must lie from 4 to the 200"):
            auc_by_patients(GaussianNB(), X[:200], y[:200], X[200:], y[200:], sizes)


@pytest.mark.parametrize(
    "means, needed",
    [
        ([0.6, 0.7, 0.9], 200 + 200 * 0.5),
        ([0.85, 0.9, 0.9], 100),
        ([0.6, 0.65, 0.7], np.nan),
        ([0.85, 0.7, 0.9], 200 + 200 * 0.5),
    ],
)
def test_patients_needed_are_those_from_which_the_curve_stays_up(means, needed):
    curve = pd.DataFrame(
        {"patients": np.repeat([100, 200, 400], 2), "test": np.repeat(means, 2) + np.tile([-0.01, 0.01], 3)}
    )
    assert patients_needed(curve, bayes=0.9, share=0.75) == pytest.approx(needed, nan_ok=True)
    assert np.isnan(patients_needed(curve, bayes=0.5))


def test_the_spread_over_seeds_is_that_of_folds_and_model():
    X, y = patients(80)
    spread = seed_spread(lambda seed: GaussianNB(), X, y, [4, 5])
    assert (
        spread.auc[0] == cross_validated_auc(GaussianNB(), X, y, seed=4)
        and spread.seed.tolist() == [4, 5]
        and spread.auc.nunique() == 2
    )


def test_simulated_reports_have_the_true_auc_and_its_known_spread():
    table = simulate_reports(
        truth=0.8, claim=0.85, patients=200, responders=0.3, studies=4000, leaky_studies=3
    ).set_index("way")
    plain = table.loc["all patients held out"]
    assert plain["mean"] == pytest.approx(0.8, abs=0.002) and plain.tested == 200
    assert (
        plain.probability == pytest.approx(plain.theory, abs=0.012) and plain.p_low < plain.probability < plain.p_high
    )
    assert table.loc["one in five held out", "high"] - table.loc["one in five held out", "low"] > 1.7 * (
        plain.high - plain.low
    )
    assert norm.cdf(separation(0.8) / np.sqrt(2)) == pytest.approx(0.8)
    assert simulate_reports(studies=500, leaky_studies=2, seed=5).equals(
        simulate_reports(studies=500, leaky_studies=2, seed=5)
    )
    with pytest.raises(OptionError, match="40 patients or more"):
        simulate_reports(patients=20)
