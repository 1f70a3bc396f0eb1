"""Selection: scikit-learn's own checks, planted leaks, stability against values worked by hand,
and results that do not depend on workers."""

from unittest import SkipTest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import DataError, LeakageError, OptionError
from nsclc_radiomics.evaluation.protocol import Watched, fit_predict
from nsclc_radiomics.models.selection import (
    CorrelationFilter,
    LassoSelector,
    LeakGuard,
    RobustnessFilter,
    VarianceFilter,
    resampled_selection,
    selection_frequency,
    selection_stability,
)


def noise_table(patients=60, features=40, seed=0):
    rng = make_rng(seed, "noise")
    index = pd.Index([f"P{i:03}" for i in range(patients)], name="patient_id")
    X = pd.DataFrame(rng.normal(size=(patients, features)), index=index, columns=[f"f{j}" for j in range(features)])
    return X, pd.Series(rng.permutation(np.arange(patients) % 2), index=index)


@pytest.mark.parametrize(
    "estimator",
    [CorrelationFilter(), VarianceFilter(), LassoSelector(), LeakGuard(limit=1.0, least=10**6)],
    ids=lambda e: type(e).__name__,
)
def test_scikit_learn_estimator_checks(estimator):
    ran = 0
    for one, check in estimator_checks_generator(estimator):
        name = check.func.__name__
        try:
            check(one)
        except SkipTest:  # scikit-learn's word for a check that needs a package or an interface that is not there
            continue
        except (DataError, AssertionError) as error:
            # some checks fit on three classes or on constants; these are refused on purpose, by the project's own error
            reason = error.__cause__ or error
            assert isinstance(reason, DataError) and ("classes" in str(reason) or "constant" in str(reason)), (
                f"{name}: {error}"
            )
        ran += 1
    assert ran > 30


def test_planted_leak_is_named():
    X, y = noise_table()
    LeakGuard().fit(X, y)
    for leak in (y * 2.0, -y + 0.0, 5 + 3 * y + make_rng(1, "leak").normal(0, 0.3, len(y))):
        with pytest.raises(LeakageError, match="weeks_on_therapy"):
            LeakGuard().fit(X.assign(weeks_on_therapy=leak), y)


def test_guard_passes_an_honest_strong_marker():
    X, y = noise_table(200)
    LeakGuard().fit(X.assign(marker=y + make_rng(2, "marker").normal(0, 0.7, len(y))), y)


def test_guard_inside_a_pipeline_looks_at_training_patients_only():
    X, y = noise_table(80)
    half = np.arange(len(y)) < 40
    leak = pd.Series(np.where(half, make_rng(3, "x").normal(size=len(y)), y), index=y.index)
    guarded = make_pipeline(LeakGuard(), LogisticRegression())
    guarded.fit(X[half].assign(leak=leak[half]), y[half])
    with pytest.raises(LeakageError, match="leak"):
        guarded.fit(X[~half].assign(leak=leak[~half]), y[~half])


def test_selection_outside_the_fold_invents_a_signal_and_is_noticed():
    X, y = noise_table(60, 1500, seed=4)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    steps = StandardScaler(), SelectKBest(k=10)
    inside = cross_val_predict(make_pipeline(*steps, LogisticRegression()), X, y, cv=folds, method="predict_proba")[
        :, 1
    ]
    chosen = make_pipeline(*steps).fit(X, y)
    outside = cross_val_predict(LogisticRegression(), chosen.transform(X), y, cv=folds, method="predict_proba")[:, 1]
    assert roc_auc_score(y, outside) > 0.8 > 0.7 > roc_auc_score(y, inside)
    watched = Watched(make_pipeline(*steps)).fit(X, y)
    table = watched.transform(X)
    with pytest.raises(LeakageError, match="patient"):
        fit_predict(LogisticRegression(), table[:40], y[:40], table[40:])


def test_names_survive_every_step():
    X, y = noise_table()
    X["copy"] = X["f0"] * 2
    X["f1"] += 3 * y
    pipeline = make_pipeline(
        LeakGuard(), VarianceFilter(), CorrelationFilter(), StandardScaler(), LassoSelector()
    ).set_output(transform="pandas")
    out = pipeline.fit_transform(X, y)
    assert set(out.columns) <= set(X.columns) - {"copy"} and "f1" in out and out.index.equals(X.index)


def test_correlation_filter_keeps_the_first_and_knows_ranks():
    x = np.linspace(0.1, 3, 50)
    X = pd.DataFrame({"a": x, "cube": x**3, "down": -np.exp(x), "other": make_rng(0, "o").normal(size=50)})
    kept = CorrelationFilter(0.9).set_output(transform="pandas").fit_transform(X)
    assert kept.columns.tolist() == ["a", "other"]


def test_lasso_finds_what_was_planted_and_reports_nothing_where_there_is_nothing():
    X, y = noise_table(300, 30, seed=5)
    X["f3"] += y
    X["f7"] -= y
    selector = LassoSelector().fit(StandardScaler().set_output(transform="pandas").fit_transform(X), y)
    assert {"f3", "f7"} <= set(selector.get_feature_names_out()) and not selector.nothing_selected_
    assert selector.path_.shape == (30, len(selector.alphas_)) and selector.alpha_ in selector.alphas_
    Z, lot = noise_table(300, 30, seed=6)
    assert LassoSelector().fit(Z, lot).nothing_selected_


def test_robustness_filter_needs_names_and_knowledge():
    X, _ = noise_table(20, 4)
    icc = {"f0": 0.9, "f1": 0.75, "f2": 0.7499, "f3": np.nan}
    assert RobustnessFilter(icc).fit(X).get_feature_names_out().tolist() == ["f0", "f1"]
    with pytest.raises(DataError, match="'f3'"):
        RobustnessFilter({k: icc[k] for k in ("f0", "f1", "f2")}).fit(X)
    with pytest.raises(DataError, match="DataFrame"):
        RobustnessFilter(icc).fit(X.to_numpy())
    with pytest.raises(DataError, match="0.90"):
        RobustnessFilter(icc, 0.95).fit(X)


@pytest.mark.parametrize(
    "bad",
    [LeakGuard(limit=0.4), VarianceFilter(most=0), CorrelationFilter(threshold=2)],
    ids=lambda e: type(e).__name__,
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(OptionError):
        bad.fit(*noise_table(30, 3))


def naive_stability(Z):
    "Equation 4 of Nogueira et al. 2018, term by term."
    M, d = Z.shape
    k = sum(sum(row) for row in Z) / M
    variance = 0.0
    for f in range(d):
        p = sum(Z[i][f] for i in range(M)) / M
        variance += M / (M - 1) * p * (1 - p)
    return 1 - (variance / d) / (k / d * (1 - k / d))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 8), st.integers(2, 12), st.integers(0, 10**6))
def test_stability_agrees_with_the_formula_term_by_term(folds, features, seed):
    Z = (np.random.default_rng(seed).random((folds, features)) < 0.4).astype(int)
    if Z.all() or not Z.any():
        with pytest.raises(DataError):
            selection_stability(Z)
        return
    value, low, high = selection_stability(Z)
    assert value == pytest.approx(naive_stability(Z)) and low <= value <= high + 1e-12


def test_stability_interval_covers():
    rng = make_rng(0, "cover")
    p = np.where(np.arange(50) < 10, 0.8, 0.05)
    truth = selection_stability(rng.random((20000, 50)) < p)[0]
    inside = [
        low <= truth <= high for low, high in (selection_stability(rng.random((40, 50)) < p)[1:] for _ in range(300))
    ]
    assert 0.90 < np.mean(inside) < 0.99


def test_resamples_do_not_depend_on_workers():
    X, y = noise_table(60, 8)
    X["f2"] += 2 * y
    selector = make_pipeline(StandardScaler(), LassoSelector(n_alphas=15))
    one, two = (resampled_selection(selector, X, y, resamples=4, seed=3, jobs=jobs) for jobs in (1, 2))
    assert one.equals(two) and one["f2"].all()
    assert selection_frequency([one.columns[row] for row in one.to_numpy()]).index[0] == "f2"
