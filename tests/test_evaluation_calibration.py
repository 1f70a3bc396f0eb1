"Calibration against R's algorithms written out step by step, decision curves against their definition."

from importlib import resources

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit
from statsmodels.nonparametric.smoothers_lowess import lowess

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import DataError, OptionError
from nsclc_radiomics.evaluation.calibration import (
    calibration_curve,
    calibration_groups,
    calibration_table,
    check_probabilities,
    decision_curve,
    net_benefit_difference,
    smooth_share,
)


def predictions(n: int = 300, seed: int = 1, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = make_rng(seed, "predictions")
    odds = rng.normal(-0.5, 1.1, n)
    return (rng.random(n) < expit(odds)).astype(int), expit(odds / slope)


def fit_at(x: np.ndarray, y: np.ndarray, here: float, left: int, right: int) -> float:
    "Cleveland's `lowest`, one point and one neighbour at a time."
    radius = max(here - x[left], x[right] - here)
    weight = np.zeros(len(x))
    for j in range(left, len(x)):
        distance = abs(x[j] - here)
        if distance <= 0.999 * radius:
            weight[j] = 1 if distance <= 0.001 * radius else (1 - (distance / radius) ** 3) ** 3
        elif x[j] > here:
            break
    weight /= weight.sum()
    if radius > 0:
        centre = (weight * x).sum()
        spread = (weight * (x - centre) ** 2).sum()
        if np.sqrt(spread) > 0.001 * (x[-1] - x[0]):
            weight *= (here - centre) / spread * (x - centre) + 1
    return (weight * y).sum()


def lowess_in_r(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    "`lowess(p, y, f = 2/3, iter = 0)$y` as the C code of R goes through sorted points, given back in the order of p."
    order = np.argsort(p, kind="stable")
    x, y, n = p[order], y[order].astype(float), len(p)
    left, right, last, i, out = 0, max(2, min(n, int(2 / 3 * n + 1e-7))) - 1, -1, 0, np.zeros(n)
    while last < n - 1:
        while right < n - 1 and x[i] - x[left] > x[right + 1] - x[i]:
            left, right = left + 1, right + 1
        out[i] = fit_at(x, y, x[i], left, right)
        for j in range(last + 1, i):
            share = (x[j] - x[last]) / (x[i] - x[last])
            out[j] = share * out[i] + (1 - share) * out[last]
        last, cut, i = i, x[i] + 0.01 * (x[-1] - x[0]), i + 1
        while i < n and x[i] <= cut:
            if x[i] == x[last]:
                out[i], last = out[last], i
            i += 1
        i = max(last + 1, i - 1)
    back = np.empty(n)
    back[order] = out
    return back


KINDS = {
    "all different": lambda rng, n: rng.beta(2, 3, n),
    "tenths": lambda rng, n: rng.beta(2, 3, n).round(1),
    "hundredths": lambda rng, n: rng.beta(2, 3, n).round(2),
    "two groups": lambda rng, n: rng.choice([0.2, 0.8], n, p=[0.8, 0.2]),
    "mostly one value": lambda rng, n: np.where(rng.random(n) < 0.75, 0.1, rng.random(n)),
    "with 0 and 1": lambda rng, n: rng.choice([0.0, 0.3, 0.5, 1.0], n),
}


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(3, 150), st.integers(0, 2**31))
def test_the_smooth_curve_is_r_s_lowess_ties_included(kind, n, seed):
    rng = np.random.default_rng(seed)
    p = KINDS[kind](rng, n)
    assume(np.ptp(p) > 0)
    y = (rng.random(n) < p).astype(int)
    assert np.allclose(smooth_share(y, p), lowess_in_r(p, y), rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [50, 211, 500])
def test_the_smooth_curve_is_statsmodels_where_few_patients_share_a_prediction(n):
    y, p = predictions(n)
    assert np.allclose(
        smooth_share(y, p),
        lowess(y, p, frac=2 / 3, it=0, delta=0.01 * np.ptp(p), return_sorted=False),
        rtol=0,
        atol=1e-7,
    )


@pytest.mark.parametrize("slope", [1.0, 0.5, 2.0])
def test_val_prob_by_its_formulae(slope):
    y, p = predictions(slope=slope)
    n, odds = len(y), logit(p)

    def loss(beta: np.ndarray, x: np.ndarray) -> float:
        return 2 * np.sum(np.logaddexp(0, x @ beta) - y * (x @ beta))

    x = np.column_stack([np.ones(n), odds])
    best = minimize(loss, [0, 1], args=(x,), method="BFGS", options={"gtol": 1e-9})
    null, given_p = loss(np.array([logit(y.mean())]), x[:, :1]), loss(np.array([0, 1]), x)
    off = np.abs(p - lowess_in_r(p, y))
    expected = {
        "intercept": best.x[0],
        "slope": best.x[1],
        "ici": off.mean(),
        "e50": np.median(off),
        "e90": np.quantile(off, 0.9),
        "emax": off.max(),
        "brier": np.mean((p - y) ** 2),
        "d": (null - given_p - 1) / n,
        "d_chi2": null - given_p,
        "u": (given_p - best.fun - 2) / n,
        "u_chi2": given_p - best.fun,
        "q": (null - given_p - 1) / n - (given_p - best.fun - 2) / n,
        "r2": (1 - np.exp(-(null - given_p) / n)) / (1 - np.exp(-null / n)),
        "s_z": np.sum((y - p) * (1 - 2 * p)) / np.sqrt(np.sum((1 - 2 * p) ** 2 * p * (1 - p))),
    }
    table = calibration_table(y, p, 20)
    for name, value in expected.items():
        assert abs(table.value[name] - value) < 1e-6, (name, table.value[name], value)
    large = minimize(lambda a: loss(np.array([a[0], 1]), x), [0.0], method="BFGS", options={"gtol": 1e-9}).x[0]
    assert abs(table.value["in_the_large"] - large) < 1e-6
    curvature = x.T @ (x * (expit(x @ best.x) * (1 - expit(x @ best.x)))[:, None])
    half = 1.959963984540054 * np.sqrt(np.diag(np.linalg.inv(curvature)))
    assert np.allclose(
        table.loc[["intercept", "slope"], "high"] - table.loc[["intercept", "slope"], "value"], half, atol=1e-5
    )


def test_predictions_of_0_and_1_are_counted_and_left_out_of_the_slope():
    y, p = predictions()
    more_y, more_p = np.r_[y, 0, 0, 1], np.r_[p, 0.0, 1.0, 1.0]
    with_limits, without = calibration_table(more_y, more_p, 5), calibration_table(y, p, 5)
    assert with_limits.value["at_limit"] == 3 and without.value["at_limit"] == 0
    for name in ("slope", "intercept", "d", "u_chi2"):
        assert with_limits.value[name] == pytest.approx(without.value[name], abs=1e-9)
    assert with_limits.value["brier"] == pytest.approx(np.mean((more_p - more_y) ** 2))


def test_the_curve_s_band_holds_the_curve_and_narrows_with_patients():
    widths = []
    for n in (100, 900):
        curve = calibration_curve(*predictions(n), points=21, resamples=120)
        assert (curve.low <= curve.observed + 0.02).all() and (curve.observed - 0.02 <= curve.high).all()
        widths.append((curve.high - curve.low).iloc[5:15].mean())
    assert widths[1] < widths[0] / 2
    y, p = predictions(100)
    pd.testing.assert_frame_equal(calibration_curve(y, p, 11, 50, seed=3), calibration_curve(y, p, 11, 50, seed=3))


def test_groups_hold_every_patient():
    y, p = predictions(203)
    groups = calibration_groups(y, p, 10)
    assert groups.n.sum() == 203 and len(groups) == 10 and np.isclose((groups.observed * groups.n).sum(), y.sum())
    assert (
        groups.predicted.is_monotonic_increasing
        and (groups.low <= groups.observed).all()
        and (groups.observed <= groups.high).all()
    )


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda y, p: (y, p * 0 + 0.3), "all 300 probabilities are 0.3"),
        (lambda y, p: (y, p * 100), "outside 0 to 1"),
        (lambda y, p: (y, np.where(p > 0.5, np.nan, p)), "NaN"),
        (lambda y, p: (y * 0, p), "both classes"),
        (lambda y, p: (y + 1, p), "0 or 1"),
        (lambda y, p: (y[1:], p), "299 labels and 300"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(change, says):
    y, p = change(*predictions())
    for call in (
        check_probabilities,
        calibration_table,
        calibration_curve,
        calibration_groups,
        lambda a, b: decision_curve(a, {"m": b}),
    ):
        with pytest.raises(DataError, match=says):
            call(y, p)


def test_separated_classes_have_no_slope():
    y = np.r_[np.zeros(20, int), np.ones(20, int)]
    with pytest.raises(DataError, match="separate the classes"):
        calibration_table(y, np.linspace(0.1, 0.9, 40))
    with pytest.raises(DataError, match="strictly between 0 and 1"):
        calibration_table(y, np.r_[np.zeros(19), 1.0, np.ones(19), 0.0])


@settings(max_examples=25, deadline=None)
@given(st.integers(10, 80), st.integers(0, 2**31), st.one_of(st.none(), st.floats(0.05, 0.9)))
def test_net_benefit_is_its_definition(n, seed, prevalence):
    rng = np.random.default_rng(seed)
    y, p = rng.permutation(np.arange(n) % 2), rng.random(n).round(2)
    assume(np.ptp(p) > 0)
    cuts = [0.05, 0.2, 0.5, 0.77]
    curve = decision_curve(y, {"outcome": p, "other model": 1 - p}, cuts, prevalence).set_index(["model", "threshold"])
    share = y.mean() if prevalence is None else prevalence
    for name, score in (("outcome", p), ("other model", 1 - p), ("all", np.ones(n)), ("none", np.zeros(n))):
        for cut in cuts:
            tp, fp = (score >= cut)[y == 1].mean() * share, (score >= cut)[y == 0].mean() * (1 - share)
            row = curve.loc[(name, cut)]
            assert np.isclose(row.net_benefit, tp - cut / (1 - cut) * fp, atol=1e-12)
            treated_all = share - cut / (1 - cut) * (1 - share)
            assert np.isclose(
                row.net_intervention_avoided, (row.net_benefit - treated_all) / (cut / (1 - cut)), atol=1e-9
            )


def test_net_benefit_of_the_authors_example_patients():
    data = pd.read_csv(resources.files("dcurves") / "data" / "df_binary.csv")
    cancer, called, w = data.cancer.astype(bool), data.cancerpredmarker >= 0.15, 0.15 / 0.85
    curve = decision_curve(cancer.astype(int), {"marker": data.cancerpredmarker}, [0.1, 0.15]).set_index(
        ["model", "threshold"]
    )
    assert np.isclose(curve.net_benefit["marker", 0.15], (called & cancer).mean() - w * (called & ~cancer).mean())
    assert np.isclose(curve.net_benefit["all", 0.15], cancer.mean() - w * (1 - cancer.mean()))


def test_decision_curves_refuse_what_they_cannot_draw():
    y, p = predictions()
    with pytest.raises(OptionError, match="'all' or 'none'"):
        decision_curve(y, {"all": p})
    with pytest.raises(OptionError, match="at least one model"):
        decision_curve(y, {})
    for cuts in ([1.0], [-0.1, 0.5], []):
        with pytest.raises(OptionError, match="thresholds"):
            decision_curve(y, {"m": p}, cuts)


def test_the_difference_in_net_benefit_is_that_of_the_curves():
    y, p = predictions()
    _, q = predictions(slope=0.4)
    table = net_benefit_difference(y, p, q, [0.2, 0.5], resamples=500)
    curve = decision_curve(y, {"p": p, "q": q}, [0.2, 0.5]).set_index(["model", "threshold"]).net_benefit
    for row in table.itertuples():
        assert row.difference == pytest.approx(curve["p", row.threshold] - curve["q", row.threshold])
        assert row.low <= row.difference <= row.high
    same = net_benefit_difference(y, p, p, [0.2], resamples=50)
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)
