"The evaluation: values against independent formulae, faults, leaks, and published results on real patients."

import time
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from scipy.stats import norm
from sklearn import metrics
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import VotingClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from nsclc_radiomics.cohort.splits import patient_folds
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import DataError, LeakageError, OptionError
from nsclc_radiomics.evaluation.metrics import (
    METRICS,
    auc_interval,
    bootstrap_metrics,
    chance_p,
    performance,
    performance_table,
    resampled_metrics,
    score_interval,
)
from nsclc_radiomics.evaluation.protocol import (
    Watched,
    check_scores,
    fit_predict,
    fold_thresholds,
    guard_steps,
    out_of_fold,
    predict_sets,
    youden_threshold,
)


def patients(n: int, seed: int = 1, features: int = 6) -> tuple[pd.DataFrame, pd.Series]:
    rng = make_rng(seed, "patients")
    ids = pd.Index([f"P{i:04}" for i in range(n)], name="patient_id")
    y = pd.Series(rng.permutation(np.arange(n) % 3 == 0).astype(int), index=ids)
    X = pd.DataFrame(rng.normal(size=(n, features)), index=ids).add_prefix("f")
    return X.assign(f0=X.f0 + y), y


def delong(y: np.ndarray, *scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "AUCs and their covariance from the placements of every pair, as DeLong et al. 1988 write them, without ranks."
    tens, ones = [], []
    for s in scores:
        order = np.sign(s[y == 1][:, None] - s[y == 0][None, :]) / 2 + 0.5
        tens.append(order.mean(1))
        ones.append(order.mean(0))
    covariance = np.cov(tens) / (y == 1).sum() + np.cov(ones) / (y == 0).sum()
    return np.mean(tens, axis=1), np.atleast_2d(covariance)


scored = st.integers(6, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 1), min_size=n, max_size=n),
        st.lists(st.integers(0, 12), min_size=n, max_size=n),
        st.integers(0, 2**31),
    )
)


@settings(max_examples=60, deadline=None)
@given(scored)
def test_auc_interval_is_delong_s_by_its_definition(case):
    y, score = np.array(case[0]), np.array(case[1], float)
    assume(min(y.sum(), (1 - y).sum()) >= 2 and np.ptp(score) > 0)
    auc, low, high = auc_interval(y, score) if 0 < metrics.roc_auc_score(y, score) < 1 else (None, None, None)
    assume(auc is not None)
    [expected], [[variance]] = delong(y, score)
    half = norm.ppf(0.975) * np.sqrt(variance)
    assert np.allclose(
        [auc, low, high], [expected, max(0, expected - half), min(1, expected + half)], rtol=0, atol=1e-12
    )
    wider = norm.ppf(0.995) * np.sqrt(variance)
    assert np.allclose(
        auc_interval(y, score, level=0.99)[1:], [max(0, expected - wider), min(1, expected + wider)], rtol=0, atol=1e-12
    )


@settings(max_examples=30, deadline=None)
@given(scored)
def test_resampled_metrics_equal_scikit_learn_with_those_weights(case):
    y, score, rng = np.array(case[0]), np.array(case[1]) / 12, np.random.default_rng(case[2])
    weight = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=4)
    assume(all(w[y == 1].sum() and w[y == 0].sum() for w in weight))
    call = score >= 0.5
    assume(all(w[call].sum() and w[~call].sum() for w in weight))
    ours = resampled_metrics(y, score, call, weight)
    for w, row in zip(weight, ours):
        given_weight = {"sample_weight": w}
        expected = [
            metrics.roc_auc_score(y, score, **given_weight),
            metrics.accuracy_score(y, call, **given_weight),
            metrics.balanced_accuracy_score(y, call, **given_weight),
            metrics.recall_score(y, call, **given_weight),
            metrics.recall_score(y, call, pos_label=0, **given_weight),
            metrics.precision_score(y, call, **given_weight),
            metrics.precision_score(y, call, pos_label=0, **given_weight),
            metrics.brier_score_loss(y, score, **given_weight),
        ]
        assert np.allclose(row, expected, rtol=0, atol=1e-12)


def test_the_same_resamples_whatever_the_models_and_their_number():
    X, y = patients(80)
    one = bootstrap_metrics(y, X[["f0"]], {"f0": 0.0}, 700, seed=3)
    two = bootstrap_metrics(y, X[["f1", "f0"]], {"f0": 0.0, "f1": 0.0}, 700, seed=3)
    assert np.array_equal(one["f0"], two["f0"], equal_nan=True)
    more = bootstrap_metrics(y, X[["f0"]], {"f0": 0.0}, 1200, seed=3)
    assert np.array_equal(one[:500], more[:500], equal_nan=True)
    assert not np.array_equal(one, bootstrap_metrics(y, X[["f0"]], {"f0": 0.0}, 700, seed=4), equal_nan=True)


def test_bootstrap_interval_covers_as_the_normal_theory_says():
    X, y = patients(300)
    drawn = bootstrap_metrics(y, X[["f0"]], {"f0": 0.5}, 4000)["f0"]
    _, low, high = auc_interval(y, X.f0)
    assert abs(drawn["auc"].std() - (high - low) / 2 / norm.ppf(0.975)) < 0.002
    share = ((X.f0 >= 0.5) == y).mean()
    assert abs(drawn["accuracy"].std() - np.sqrt(share * (1 - share) / 300)) < 0.002


def test_ten_thousand_resamples_of_five_models_on_500_patients_take_less_than_ten_seconds():
    X, y = patients(500)
    start = time.process_time()
    drawn = bootstrap_metrics(y, X.iloc[:, :5], dict.fromkeys(X.columns, 0.0), 10_000)
    assert time.process_time() - start < 10
    assert drawn.shape == (10_000, 5 * len(METRICS))


def test_wilson_interval_by_its_formula():
    y, p = (
        np.r_[np.ones(10, int), np.zeros(14, int)],
        np.r_[np.full(7, 0.9), np.full(3, 0.2), np.full(4, 0.8), np.full(10, 0.1)],
    )
    table = performance(y, p, 0.5, resamples=50)
    for name, hits, n in (
        ("sensitivity", 7, 10),
        ("specificity", 10, 14),
        ("ppv", 7, 11),
        ("npv", 10, 13),
        ("accuracy", 17, 24),
    ):
        z, share = norm.ppf(0.975), hits / n
        middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
        expected = [share, (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n), n]
        assert np.allclose(table.loc[name, ["value", "low", "high", "n"]].astype(float), expected), name
    assert table.interval.tolist() == [
        "DeLong",
        "Wilson",
        "bootstrap",
        "Wilson",
        "Wilson",
        "Wilson",
        "Wilson",
        "bootstrap",
    ]


def test_metrics_that_are_not_defined_are_nan_and_not_an_error():
    X, y = patients(40)
    nobody = performance(y, 1 / (1 + np.exp(-X.f0)), 2.0, resamples=50)
    assert nobody.loc["ppv"].isna()[["value", "low", "high"]].all() and nobody.loc["ppv", "n"] == 0
    assert nobody.loc["sensitivity", "value"] == 0
    marker = performance(y, 100 * X.f0, 0.0, resamples=50)
    assert np.isnan(marker.loc["brier", "value"]) and marker.loc["auc", "value"] == auc_interval(y, X.f0)[0]


def test_a_threshold_for_each_patient_is_that_patient_s():
    y, p = np.array([0, 0, 1, 1, 1]), np.array([0.2, 0.6, 0.4, 0.7, 0.3])
    table = performance(y, p, np.array([0.5, 0.7, 0.3, 0.6, 0.5]), resamples=20)
    assert table.loc["specificity", "value"] == 1 and table.loc["sensitivity", "value"] == 2 / 3


@pytest.mark.parametrize(
    "y, score, says",
    [
        ([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], "all 4 labels are 0"),
        ([1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4], "all 4 labels are 1"),
        ([0, 1, 2, 1], [0.1, 0.2, 0.3, 0.4], "e.g. 2 of row 2"),
        (["no", "yes", "no", "yes"], [0.1, 0.2, 0.3, 0.4], "'no' of row 0"),
        ([0, 1, np.nan, 1], [0.1, 0.2, 0.3, 0.4], "nan of row 2"),
        ([0, 1, None, 1], [0.1, 0.2, 0.3, 0.4], "row 2"),
        ([], [], "no labels"),
        ([[0, 1], [1, 0]], [0.1, 0.2], "shape (2, 2)"),
        ([0, 1, 0, 1], [0.1, 0.2, 0.3], "4 labels and 3"),
        ([0, 1, 0, 1], [0.1, np.inf, 0.3, np.nan], "2 scores are NaN or infinite"),
        ([0, 1, 0, 1], [0.4, 0.4, 0.4, 0.4], "all 4 scores are 0.4"),
        ([0, 1, 0, 1], ["a", "b", "c", "d"], "not all numbers"),
        ([0, 1, 0, 1], [[0.1, 0.9]] * 4, "predict_proba(X)[:, 1]"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_its_reason(y, score, says):
    for call in (check_scores, auc_interval, youden_threshold, chance_p, lambda a, b: performance(a, b, 0.5, 10)):
        with pytest.raises(DataError) as error:
            call(y, score)
        assert says in str(error.value).replace("probabilities", "scores")


def test_labels_as_booleans_floats_and_nullable_integers_are_the_same_labels():
    X, y = patients(30)
    expected = auc_interval(y, X.f0)
    for same in (y.astype(bool), y.astype(float), y.astype("Int64"), y.tolist()):
        assert auc_interval(same, X.f0) == expected


def test_series_of_other_patients_or_in_another_order_are_refused():
    X, y = patients(30)
    with pytest.raises(DataError, match="another order"):
        auc_interval(y, X.f0.iloc[::-1])
    with pytest.raises(DataError, match="another order"):
        auc_interval(y, X.f0.reset_index(drop=True))
    with pytest.raises(DataError, match="e.g. 7 of patient 'P0002'"):
        auc_interval(y.where(y.index != "P0002", 7), X.f0)


def test_one_patient_of_a_class_has_no_delong_interval_and_a_perfect_auc_warns():
    with pytest.raises(DataError, match="at least two patients of each class"):
        auc_interval([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4])
    with pytest.warns(UserWarning, match="no width"):
        assert auc_interval([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]) == (1, 1, 1)
    with pytest.warns(UserWarning, match="no width"):
        assert auc_interval([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4]) == (0, 0, 0)


@settings(max_examples=40, deadline=None)
@given(scored)
def test_youden_s_threshold_is_the_best_of_all_cuts(case):
    y, score = np.array(case[0]), np.array(case[1], float)
    assume(0 < y.sum() < len(y) and np.ptp(score) > 0)

    def youden(cut: float) -> float:
        return (score >= cut)[y == 1].mean() - (score >= cut)[y == 0].mean()

    assert np.isclose(youden(youden_threshold(y, score)), max(youden(cut) for cut in [*score, np.inf]))


def test_no_patient_s_label_moves_its_own_threshold():
    X, y = patients(90)
    folds, p = patient_folds(y, seed=1), X.f0.rename("probability")
    before = fold_thresholds(y, p, folds)
    flipped = y.copy()
    inside = folds.index[folds == 2]
    flipped[inside] = 1 - flipped[inside]
    assert fold_thresholds(flipped, p, folds)[inside].equals(before[inside])
    assert not fold_thresholds(flipped, p, folds).equals(before)


def test_out_of_fold_predictions_never_see_the_patient_and_do_not_depend_on_jobs():
    X, y = patients(90)
    folds = patient_folds(y, seed=1)
    one, models = out_of_fold(LogisticRegression(), X, y, folds, jobs=1)
    with parallel_config("threading", n_jobs=2):
        two, _ = out_of_fold(LogisticRegression(), X, y, folds)
    assert one.equals(two) and len(models) == 5
    by_hand = LogisticRegression().fit(X[folds != 3], y[folds != 3]).predict_proba(X[folds == 3])[:, 1]
    assert np.array_equal(one[folds == 3], by_hand)


class FlatBayes(GaussianNB):
    "Takes volumes, as a network does."

    def fit(self, X, y):
        return super().fit(X.reshape(len(X), -1), y)

    def predict_proba(self, X):
        return super().predict_proba(X.reshape(len(X), -1))


@pytest.mark.parametrize(
    "model", [GaussianNB(), LinearSVC(), make_pipeline(StandardScaler(), PCA(2), LogisticRegression())]
)
def test_any_classifier_on_frames_and_arrays(model):
    X, y = patients(90)
    folds = patient_folds(y, seed=1)
    frame, _ = out_of_fold(model, X, y, folds)
    array, _ = out_of_fold(model, X.to_numpy(), y.to_numpy(), folds.to_numpy())
    assert np.allclose(frame, array)


def test_a_classifier_of_volumes():
    X, y = patients(90)
    folds, split = patient_folds(y[:60], seed=1), pd.Series(np.repeat(["train", "holdout"], [60, 30]), index=y.index)
    flat, _ = predict_sets(GaussianNB(), X, y, split, folds)
    volumes, models = predict_sets(FlatBayes(), X.to_numpy().reshape(90, 1, 2, 3), y, split, folds)
    assert np.allclose(volumes.probability, flat.probability) and volumes.index.equals(flat.index) and len(models) == 6


def test_tables_that_do_not_fit_together_are_refused():
    X, y = patients(60)
    folds, model = patient_folds(y, seed=1), LogisticRegression()
    with pytest.raises(DataError, match="same order"):
        out_of_fold(model, X.iloc[::-1], y, folds)
    with pytest.raises(DataError, match="60 patients in X, and 59"):
        out_of_fold(model, X, y.iloc[1:], folds)
    with pytest.raises(DataError, match="'P0000' has two rows"):
        out_of_fold(model, X.set_axis(["P0000"] * 60), y, folds)
    with pytest.raises(DataError, match="at least two folds"):
        out_of_fold(model, X, y, folds * 0)
    with pytest.raises(DataError, match="stratified"):
        out_of_fold(model, X, y, y)
    split = pd.Series("train", index=y.index)
    with pytest.raises(DataError, match="split has 'test'"):
        predict_sets(model, X, y, split.replace("train", "test"), folds)
    with pytest.raises(DataError, match="folds must name each training patient"):
        predict_sets(model, X, y, split, folds.iloc[1:])


def test_a_patient_on_both_sides_is_noticed_in_frames_and_in_arrays():
    X, y = patients(60)
    for as_table in (lambda t: t, lambda t: t.to_numpy(), lambda t: t.to_numpy().reshape(len(t), 1, 2, 3)):
        with pytest.raises(LeakageError):
            fit_predict(GaussianNB(), as_table(X.iloc[:40]), y.iloc[:40], as_table(X.iloc[39:]))
    fit_predict(GaussianNB(), X.iloc[:40].to_numpy(), y.iloc[:40], X.iloc[40:].to_numpy())


def test_every_place_in_which_a_fitted_step_can_hide_is_looked_into():
    X, y = patients(60)
    scaler = FrozenEstimator(StandardScaler().fit(X))
    hidden = [
        make_pipeline(scaler, GaussianNB()),
        make_pipeline(make_pipeline(scaler), GaussianNB()),
        make_pipeline(ColumnTransformer([("scale", scaler, ["f0"])]), GaussianNB()),
        VotingClassifier([("a", GaussianNB()), ("b", make_pipeline(scaler, GaussianNB()))]),
        FrozenEstimator(GaussianNB().fit(X, y)),
    ]
    for model in hidden:
        with pytest.raises(LeakageError, match="does not say on whom"):
            fit_predict(model, X.iloc[:40], y.iloc[:40], X.iloc[40:])
        with pytest.raises(LeakageError, match="does not say on whom"):
            out_of_fold(model, X, y, patient_folds(y, seed=1))


def test_watched_steps_pass_their_memory_on_and_are_plain_steps_otherwise():
    X, y = patients(60)
    first, last = X.iloc[:30], X.iloc[30:]
    chain = Watched(PCA(2)).fit(Watched(StandardScaler()).fit_transform(first))
    assert chain.fitted_on_ == sorted(first.index)
    with pytest.raises(LeakageError, match="made this table"):
        guard_steps(GaussianNB(), Watched(SelectKBest(k=2)).fit_transform(X, y).loc[first.index], last.index)
    frozen = make_pipeline(FrozenEstimator(Watched(StandardScaler()).fit(X.iloc[:31])), GaussianNB())
    with pytest.raises(LeakageError, match="1 patient.*'frozenestimator.*'P0030'"):
        guard_steps(frozen, first, last.index)
    guard_steps(frozen, first, last.index[1:])
    elsewhere = Watched(StandardScaler()).fit(first).transform(last)
    guard_steps(GaussianNB(), elsewhere, last.index)
    plain, watched = (make_pipeline(step, GaussianNB()) for step in (StandardScaler(), Watched(StandardScaler())))
    folds = patient_folds(y, seed=1)
    assert np.allclose(out_of_fold(plain, X, y, folds)[0], out_of_fold(watched, X, y, folds)[0])
    with pytest.raises(DataError, match="indexed by patient_id"):
        Watched(StandardScaler()).fit(X.to_numpy())


def test_predict_sets_learns_from_training_patients_only():
    X, y = patients(120)
    split = pd.Series(np.repeat(["train", "holdout", "external"], [70, 30, 20]), index=y.index)
    folds = patient_folds(y[split == "train"], seed=1)
    table, models = predict_sets(LogisticRegression(), X, y, split, folds)
    assert (
        table["set"].value_counts().to_dict() == {"cross-validated": 70, "holdout": 30, "external": 20}
        and len(models) == 6
    )
    flipped = y.where(split == "train", 1 - y)
    again, _ = predict_sets(LogisticRegression(), X, flipped, split, folds)
    assert table[["probability", "threshold"]].equals(again[["probability", "threshold"]])
    alone, _ = predict_sets(LogisticRegression(), X.iloc[:70], y.iloc[:70], split.iloc[:70], folds)
    assert alone.equals(table.iloc[:70])


def test_permutation_p_is_uniform_for_lots_and_small_for_signal():
    X, y = patients(60)
    assert chance_p(y, X.f0 + y, 999) <= 0.002
    assert chance_p(y, -X.f0 - y, 999) > 0.99
    p = [chance_p(y, make_rng(k, "lot").normal(size=60), 199) for k in range(60)]
    assert 0.3 < np.mean(p) < 0.7
    assert chance_p(y, X.f0, 199, seed=2) == chance_p(y, X.f0, 199, seed=2)


def test_any_scorer_and_an_unknown_one():
    X, y = patients(80)
    p = 1 / (1 + np.exp(-X.f0))
    value, low, high = score_interval("roc_auc", y, p, resamples=400)
    assert value == metrics.roc_auc_score(y, p) and low < value < high
    own = metrics.make_scorer(metrics.fbeta_score, beta=2)
    assert score_interval(own, y, p, 0.5, resamples=20)[0] == metrics.fbeta_score(y, p >= 0.5, beta=2)
    assert score_interval("neg_log_loss", y, p, resamples=20)[0] == pytest.approx(-metrics.log_loss(y, p))
    with pytest.raises(OptionError, match="get_scorer_names"):
        score_interval("elegance", y, p)


def test_a_real_auc_over_0_90_warns_of_leakage_and_a_simulated_one_does_not():
    X, y = patients(80)
    table = pd.DataFrame(
        {"model": "m", "set": "holdout", "y": y, "probability": 1 / (1 + np.exp(-(X.f0 + 3 * y))), "threshold": 0.5}
    )
    with pytest.warns(UserWarning, match="m, holdout: AUC 0.9.* Look for leakage first"):
        performance_table(table, "real", 20, 19)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        performance_table(table, "simulated", 20, 19)
        performance_table(table.assign(probability=1 / (1 + np.exp(-X.f0))), "real", 20, 19)
    with pytest.raises(OptionError, match="'simulated' or 'real'"):
        performance_table(table, "imagined", 20, 19)
    with pytest.raises(DataError, match="m, holdout: .*NaN"):
        performance_table(table.assign(probability=table.probability.where(table.index != "P0003")), "real", 20, 19)
    with pytest.raises(DataError, match="column probability missing"):
        performance_table(table.drop(columns="probability"), "real", 20, 19)


@pytest.mark.parametrize(
    "file, n, auc", [("nsclc-radiomics_hosny_baseline.csv", 211, 0.702), ("Radboud.csv", 104, 0.698)]
)
def test_published_networks_on_real_patients(reference, file, n, auc):
    table = pd.read_csv(reference / "lung1" / file)
    found = performance(table.surv2yr, table.logit_1, 0.5, resamples=200)
    assert len(table) == n and round(found.loc["auc", "value"], 3) == auc
    [expected], [[variance]] = delong(table.surv2yr.to_numpy(), table.logit_1.to_numpy())
    half = norm.ppf(0.975) * np.sqrt(variance)
    assert np.allclose(
        found.loc["auc", ["low", "high"]].astype(float), [expected - half, expected + half], rtol=0, atol=1e-12
    )
