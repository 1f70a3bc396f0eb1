"Models against each other and against clinical markers; subgroups."

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import chi2, norm
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests
from test_evaluation import delong, patients

from nsclc_radiomics.cohort.splits import patient_folds
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import DataError, OptionError
from nsclc_radiomics.evaluation.comparison import (
    added_value,
    bands,
    compare_models,
    likelihood_ratio,
    marker_table,
    paired_by_fold,
    paired_delong,
    read_msk_mind,
    subgroup_table,
)
from nsclc_radiomics.evaluation.metrics import auc_interval

tied = st.integers(8, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 1), min_size=n, max_size=n), *[st.lists(st.integers(0, 6), min_size=n, max_size=n)] * 2
    )
)


@settings(max_examples=60, deadline=None)
@given(tied)
def test_the_paired_test_is_delong_s_by_its_definition(case):
    y, a, b = (np.array(part, float) for part in case)
    assume(min(y.sum(), (1 - y).sum()) >= 2 and np.ptp(a) > 0 and np.ptp(b) > 0)
    aucs, covariance = delong(y, a, b)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    found = paired_delong(y, a, b)
    assert np.allclose([found["auc_a"], found["auc_b"]], aucs, atol=1e-12)
    assert np.isclose(found["high"] - found["low"], 2 * norm.ppf(0.975) * np.sqrt(max(variance, 0)), atol=1e-7)
    if variance > 1e-12:
        z = (aucs[0] - aucs[1]) / np.sqrt(variance)
        assert np.isclose(found["z"], z, atol=1e-6) and np.isclose(found["p"], 2 * norm.sf(abs(z)), atol=1e-9)


def test_scores_that_rank_alike_do_not_differ_and_opposite_ones_do():
    X, y = patients(40)
    for same in (X.f0, np.exp(X.f0), 3 * X.f0 - 1):
        assert paired_delong(y, X.f0, same)["p"] == pytest.approx(1) and paired_delong(y, X.f0, same)["difference"] == 0
    truth = y + np.linspace(0, 0.5, 40)
    opposite = paired_delong(y, truth, -truth)
    assert opposite["difference"] == 1 and opposite["p"] == 0 and opposite["low"] == opposite["high"] == 1
    assert paired_delong(y, truth, truth + 1)["p"] == 1
    with pytest.raises(DataError, match="two patients of each class"):
        paired_delong([0, 0, 1], [0.1, 0.2, 0.3], [0.3, 0.1, 0.2])


def predictions(n: int = 90) -> pd.DataFrame:
    X, y = patients(n)
    models = {"a": X.f0, "b": X.f0 + X.f1, "c": X.f2}
    parts = [pd.DataFrame({"model": m, "y": y, "probability": p}).reset_index() for m, p in models.items()]
    return pd.concat([pd.concat(parts).assign(set=s) for s in ("holdout", "external")], ignore_index=True)


@pytest.mark.parametrize("method", ["holm", "bonferroni"])
def test_p_values_are_corrected_within_each_set(method):
    tests = compare_models(predictions(), method)
    assert tests.equals(compare_models(predictions().set_index("patient_id"), method))
    assert tests.groupby("set").size().to_dict() == {"external": 3, "holdout": 3} and (tests.tests == 3).all()
    for _, part in tests.groupby("set"):
        ordered = np.sort(part.p)
        factors = [3, 2, 1] if method == "holm" else [3, 3, 3]
        expected = np.minimum(np.maximum.accumulate(ordered * factors) if method == "holm" else ordered * 3, 1)
        assert np.allclose(np.sort(part.p_corrected), expected)
        assert np.allclose(part.p_corrected, multipletests(part.p, method=method)[1])


def test_all_against_one_corrects_for_those_tests_only():
    table = predictions()
    every, one = compare_models(table), compare_models(table, "bonferroni", against="b")
    assert (
        one.groupby("set").model_a.apply(list).to_dict() == {"external": ["a", "c"], "holdout": ["a", "c"]}
        and one.model_b.eq("b").all()
    )
    both = every[(every.model_a == "a") & (every.model_b == "b")]
    assert np.allclose(one[one.model_a == "a"].p, both.p) and np.allclose(one.p_corrected, np.minimum(2 * one.p, 1))
    with pytest.raises(DataError, match="no model 'd' to compare with; there are a, b, c"):
        compare_models(table, against="d")


def test_models_on_other_patients_are_not_compared():
    table = predictions()
    with pytest.raises(DataError, match="holdout: 'b' has no prediction for patient 'P0004'"):
        compare_models(table[~((table.model == "b") & (table.patient_id == "P0004") & (table["set"] == "holdout"))])
    with pytest.raises(DataError, match="has two predictions"):
        compare_models(pd.concat([table, table.iloc[:1]]))
    with pytest.raises(DataError, match="only one model"):
        compare_models(table[table.model == "a"])


def test_within_folds_ties_between_folds_do_not_count():
    X, y = patients(200)
    marker = X.f0.clip(lower=0.5)  # half of the patients share one value
    folds = patient_folds(y, seed=3)
    shifted = marker - 1e-3 * folds  # as if each fold had a model of its own
    found = paired_by_fold(y, shifted, marker, folds)
    assert found["difference"] == 0 and found["p"] == 1
    each = [roc_auc_score(y[folds == k], marker[folds == k]) for k in range(5)]
    pairs = [y[folds == k].sum() * (1 - y[folds == k]).sum() for k in range(5)]
    assert found["auc_a"] == pytest.approx(np.average(each, weights=pairs))
    with pytest.raises(DataError, match="fold .*use fewer folds"):
        paired_by_fold(y, X.f0, X.f1, pd.Series(np.arange(200) // 4, index=y.index))


@pytest.mark.filterwarnings("ignore:Perfect separation")  # statsmodels, of what hypothesis may draw
def test_the_likelihood_ratio_by_maximising_both_likelihoods():
    X, y = patients(150)
    deviances = []
    for columns in (["f1", "f2"], ["f1", "f2", "f0", "f3"]):
        x = np.column_stack([np.ones(150), X[columns]])
        best = minimize(
            lambda b, x=x: 2 * np.sum(np.logaddexp(0, x @ b) - y * (x @ b)),
            np.zeros(x.shape[1]),
            options={"gtol": 1e-9},
        )
        deviances.append(best.fun)
    statistic, p = likelihood_ratio(y, X[["f1", "f2"]], X[["f1", "f2", "f0", "f3"]])
    assert statistic == pytest.approx(deviances[0] - deviances[1], abs=1e-6) and p == pytest.approx(
        chi2.sf(statistic, 2)
    )
    with pytest.raises(DataError, match="hold the smaller's columns and more"):
        likelihood_ratio(y, X[["f1"]], X[["f2", "f3"]])
    with pytest.raises(DataError, match="not independent, or one is constant"):
        likelihood_ratio(y, X[["f1"]], X[["f1"]].assign(again=2 * X.f1))
    with pytest.raises(DataError, match="separates the classes"):
        likelihood_ratio(y, X[["f1"]], X[["f1"]].assign(label=y))


def test_a_score_that_repeats_the_markers_adds_nothing_and_gaps_are_counted():
    X, y = patients(240)
    folds = patient_folds(y, seed=1)
    markers = X[["f0"]].mask(np.arange(240)[:, None] % 12 == 0)
    repeats = X.f0 + 0.05 * make_rng(1, "noise").normal(size=240)
    nothing, _ = added_value(y, markers, repeats, folds, resamples=50)
    assert (nothing.n == 220).all() and nothing.p.iloc[3] > 0.01 and abs(nothing.value[2]) < 0.02
    something, benefit = added_value(y, X[["f1"]], X.f0, folds, resamples=200)
    assert something.p.iloc[3] < 1e-6 and something.low[2] > 0
    assert benefit.threshold.tolist() == [0.2, 0.3, 0.4, 0.5] and (benefit.low <= benefit.high).all()
    with pytest.raises(DataError, match="no marker to add to"):
        added_value(y, X[[]], X.f0, folds)


def test_markers_are_judged_on_the_patients_who_have_them():
    X, y = patients(120)
    markers = pd.DataFrame({"full": X.f0, "half": X.f0.where(np.arange(120) % 2 == 0)})
    table = marker_table(y, markers, resamples=300).set_index("marker")
    assert table.n.tolist() == [120, 60]
    known = markers.half.notna()
    assert tuple(table.loc["half", ["auc", "low", "high"]]) == pytest.approx(auc_interval(y[known], X.f0[known]))
    with pytest.raises(DataError, match="'none' is unknown for every patient"):
        marker_table(y, markers.assign(none=np.nan))
    with pytest.raises(DataError, match="marker 'flat', 120 patients: all 120 scores are 1"):
        marker_table(y, markers.assign(flat=1.0))
    with pytest.raises(DataError, match="another order"):
        marker_table(y, markers.iloc[::-1])


def test_published_markers_of_real_patients(reference):
    msk = read_msk_mind()
    assert len(msk) == 246 and msk.y.sum() == 61
    table = marker_table(msk.y, msk[["pdl1", "tmb"]]).set_index("marker")
    assert table.auc.round(3).to_dict() == {"pdl1": 0.738, "tmb": 0.611}
    published = pd.DataFrame({"pdl1": [0.665, 0.807], "tmb": [0.531, 0.689]}).T
    assert np.abs(table[["boot_low", "boot_high"]].to_numpy() - published.to_numpy()).max() < 0.008
    assert np.abs(table[["low", "high"]].to_numpy() - published.to_numpy()).max() < 0.008


def test_subgroups_hold_every_patient_and_say_why_an_auc_is_missing():
    X, y = patients(200)
    centre = pd.Series(np.resize(["A", "B", None], 200), index=y.index, dtype=object)
    rare = pd.Series(np.where(np.arange(200) < 6, "IV", "III"), index=y.index)
    table = subgroup_table(y, X.f0, {"centre": centre, "stage": rare})
    for grouping in ("centre", "stage"):
        part = table[table.grouping == grouping]
        assert part.n.sum() == 200 and part.positives.sum() == y.sum()
    assert table[table.grouping == "centre"].level.tolist() == ["A", "B", "unknown"]
    [iv] = table[(table.level == "IV")].itertuples()
    assert np.isnan(iv.auc) and "fewer than 5" in iv.note
    here = (centre == "A").to_numpy()
    assert table.loc[table.level == "A", "auc"].item() == pytest.approx(roc_auc_score(y[here], X.f0[here]))
    with pytest.raises(DataError, match="no entry for patient 'P0000'"):
        subgroup_table(y, X.f0, {"centre": centre.iloc[1:]})
    with pytest.raises(OptionError, match="two or more"):
        subgroup_table(y, X.f0, {}, fewest=1)


def test_a_difference_between_subgroups_is_found_and_chance_is_not():
    X, y = patients(400)
    centre = pd.Series(np.resize(["A", "B"], 400), index=y.index)
    broken = X.f0.where(centre == "A", X.f1)
    assert subgroup_table(y, broken, {"centre": centre}).p_difference.iloc[1] < 0.01
    lots = [pd.Series(make_rng(k, "g").choice(["A", "B"], 400), index=y.index) for k in range(40)]
    p = [subgroup_table(y, X.f0, {"by lot": lot}).p_difference[1] for lot in lots]
    assert 0.3 < np.mean(p) < 0.7


def test_bands_hold_their_lower_cut():
    values = pd.Series([0, 0.9, 1, 49, 50, 100, np.nan])
    assert bands(values, [1, 50]).astype(object).tolist()[:6] == [
        "< 1",
        "< 1",
        "1 to < 50",
        "1 to < 50",
        ">= 50",
        ">= 50",
    ]
    assert bands(values, [1, 50]).isna().tolist() == [False] * 6 + [True]
