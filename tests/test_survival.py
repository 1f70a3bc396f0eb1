"""PFS and OS rule by rule; Kaplan-Meier, log-rank, Cox and cox.zph against values that R prints;
cuts that must not look ahead."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.statistics import logrank_test
from sklearn.metrics import roc_auc_score

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import DataError, LeakageError, OptionError, ResponseError
from nsclc_radiomics.outcomes.cox import auc_at, c_index, cox, cox_zph, plot_forest, restricted_mean
from nsclc_radiomics.outcomes.endpoints import Censoring, overall_survival, pfs, pfs_of_patient, response_times
from nsclc_radiomics.outcomes.responses import responses
from nsclc_radiomics.outcomes.risk_groups import optimised_cut, predicted_group
from nsclc_radiomics.outcomes.survival import (
    kaplan_meier,
    kaplan_meier_by_group,
    logrank,
    plot_kaplan_meier,
    survival_quantile,
)

START = pd.Timestamp("2024-01-01")


def at(day: int | None) -> pd.Timestamp | None:
    return None if day is None else START + pd.Timedelta(days=day)


def outcome(visits, rules=Censoring(), **dates):
    "Time, event and reason of a patient whose dates are given in days."
    baseline = dates.pop("baseline", True)
    found = pfs_of_patient(
        START, [(at(d), c) for d, c in visits], **{k: at(d) for k, d in dates.items()}, baseline=baseline, rules=rules
    )
    assert found.date == at(found.time - rules.first_day)
    return found.time, found.event, found.reason


SEEN = [(56, "SD"), (112, "PR"), (168, "PD")]


@pytest.mark.parametrize(("visits", "dates", "rules", "expected"), [
    (SEEN, {}, {}, (168, True, "progression")),
    (SEEN, {"death": 200}, {}, (168, True, "progression")),
    (SEEN[:2], {"death": 150}, {}, (150, True, "death without progression")),
    (SEEN[:2], {}, {}, (112, False, "no progression at the last assessment")),
    (SEEN[:2], {"last_contact": 300}, {}, (112, False, "no progression at the last assessment")),
    (SEEN[:2], {"last_contact": 300}, {"censor_at": "last_contact"}, (300, False, "no progression at last contact")),
    (SEEN[:2], {"last_contact": 100}, {"censor_at": "last_contact"}, (112, False, "no progression at last contact")),
    ([(56, "SD"), (112, "NE")], {}, {}, (56, False, "last assessment")),
    ([(56, "SD"), (112, "NE")], {}, {"ne_counts": True}, (112, False, "last assessment")),
    ([(56, "SD"), (112, "ND")], {}, {"ne_counts": True}, (56, False, "last assessment")),
    ([], {}, {}, (0, False, "no evaluable assessment")),
    ([(30, "NE")], {"last_contact": 90}, {}, (0, False, "no evaluable assessment")),
    ([], {"death": 40}, {}, (40, True, "death")),
    ([], {"last_contact": 90}, {"censor_at": "last_contact"}, (90, False, "last contact")),
    (SEEN, {"baseline": False}, {}, (0, False, "no baseline")),
    (SEEN, {"baseline": False}, {"no_baseline": "ignore"}, (168, True, "progression")),
    ([(56, "SD"), (300, "PD")], {}, {"max_gap_days": 126}, (56, False, "progression after a gap of 244 days")),
    ([(56, "SD"), (300, "PD")], {}, {"max_gap_days": 244}, (300, True, "progression")),
    ([(56, "SD")], {"death": 300}, {"max_gap_days": 126}, (56, False, "death after a gap of 244 days")),
    ([(56, "SD"), (200, "NE"), (300, "PD")], {}, {"max_gap_days": 126}, (56, False, "gap")),
    ([], {"death": 300}, {"max_gap_days": 126}, (0, False, "gap of 300 days")),
    (SEEN, {"new_therapy": 120}, {"new_therapy": "censor"}, (112, False, "new anti-cancer therapy")),
    (SEEN, {"new_therapy": 120}, {}, (168, True, "progression")),
    (SEEN, {"new_therapy": 168}, {"new_therapy": "censor"}, (168, True, "progression")),
    (SEEN[:2], {"new_therapy": 60}, {"new_therapy": "censor"}, (56, False, "new anti-cancer therapy")),
    (SEEN[:2], {"death": 200, "new_therapy": 130}, {"new_therapy": "censor"}, (112, False, "new anti-cancer therapy")),
    (SEEN[:2], {"death": 200}, {"death": "censor"}, (112, False, "death without progression")),
    (SEEN[:2], {"death": 200, "last_contact": 300}, {"death": "censor", "censor_at": "last_contact"},
        (200, False, "last contact")),
    (SEEN, {}, {"data_cut": at(150)}, (112, False, "last assessment")),
    (SEEN, {}, {"data_cut": at(168)}, (168, True, "progression")),
    (SEEN[:2], {"death": 200}, {"data_cut": at(150)}, (112, False, "last assessment")),
    (SEEN[:2], {"last_contact": 300}, {"data_cut": at(150), "censor_at": "last_contact"}, (150, False, "last contact")),
    (SEEN[:2], {"new_therapy": 200}, {"data_cut": at(150), "new_therapy": "censor"}, (112, False, "last assessment")),
    (SEEN, {}, {"first_day": 1}, (169, True, "progression")),
    ([(56, "iUPD"), (112, "iPR"), (168, "iUPD"), (224, "iCPD")], {}, {}, (168, True, "progression")),
    ([(56, "iUPD"), (112, "iSD")], {}, {}, (112, False, "last assessment")),
    ([(56, "iSD"), (112, "iUPD"), (168, "NE")], {}, {}, (112, True, "progression")),
])  # fmt: skip
def test_pfs_rule_by_rule(visits, dates, rules, expected):
    time, event, reason = outcome(visits, Censoring(**rules), **dates)
    assert (time, event) == expected[:2] and expected[2] in reason
    assert event != reason.startswith("censored")


def test_pfs_refuses_what_makes_no_sense():
    with pytest.raises(ResponseError, match="lies before the start"):
        outcome([(-3, "SD")])
    with pytest.raises(ResponseError, match="death on .* lies before the start"):
        outcome([], death=-3)
    with pytest.raises(ResponseError, match="comes after death"):
        outcome(SEEN, death=100)
    with pytest.raises(ResponseError, match="order of time"):
        outcome(SEEN[::-1])
    with pytest.raises(ResponseError, match="'POD' at 2024-01-31"):
        outcome([(30, "POD")])
    for wrong in ({"censor_at": "never"}, {"max_gap_days": 0}, {"first_day": 2}):
        with pytest.raises(OptionError):
            Censoring(**wrong)


steps = st.lists(
    st.tuples(st.integers(1, 90), st.sampled_from(["CR", "PR", "SD", "NON-CR/NON-PD", "PD", "NE"])), max_size=6
)
options = st.builds(
    Censoring, censor_at=st.sampled_from(["last_assessment", "last_contact"]),
    max_gap_days=st.sampled_from([None, 60, 120]),
    new_therapy=st.sampled_from(["ignore", "censor"]), death=st.sampled_from(["event", "censor"]),
    data_cut=st.one_of(st.none(), st.integers(0, 500).map(at)), ne_counts=st.booleans(),
    first_day=st.sampled_from([0, 1]),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    steps,
    st.one_of(st.none(), st.integers(0, 300)),
    st.one_of(st.none(), st.integers(0, 300)),
    st.one_of(st.none(), st.integers(1, 500)),
    options,
)
def test_pfs_never_exceeds_os_and_a_table_says_the_same(moves, dies, spoke, therapy, rules):
    days = np.cumsum([d for d, _ in moves]).astype(int).tolist()
    visits = list(zip(days, [c for _, c in moves]))
    end = days[-1] if days else 0
    dates = {
        "death": None if dies is None else end + dies,
        "last_contact": None if spoke is None else end + spoke,
        "new_therapy": therapy,
    }
    time, event, reason = outcome(visits, rules, **dates)
    progressed = next((d for d, c in visits if c == "PD"), None)
    patients = pd.DataFrame({"patient_id": ["P"], "start": [START], "baseline_date": [START],
        "progression_date": [at(progressed)],
                             "last_assessment": [at(max((d for d, c in visits if c != "NE"), default=None))],
                             "death_date": [at(dates["death"])], "last_contact_date": [at(dates["last_contact"])],
                             "new_therapy_date": [at(therapy)]})  # fmt: skip
    rows = pd.DataFrame({"patient_id": "P", "visit_date": [at(d) for d in days], "response": [c for _, c in moves]})
    rows = rows.astype({"visit_date": "datetime64[ns]"})
    row = pfs(rows, patients, rules).iloc[0]
    assert (row["time"], row["event"], row["reason"]) == (time, event, reason)
    survival = overall_survival(patients, rules).iloc[0]
    if not rules.ne_counts:  # an NE visit is not among what overall_survival knows
        assert time <= survival["time"]


def test_from_lesions_to_endpoints():
    weeks = np.arange(0, 40, 8)
    sums = {"A": [50, 40, 30, 28, 44], "B": [50, 52, 51, 50, 49]}
    lesions = pd.concat([pd.DataFrame({"patient_id": p, "visit_date": START + pd.to_timedelta(7 * weeks, unit="D"),
        "lesion_id": "T", "role": "target",
                                       "diameter_mm": mm}) for p, mm in sums.items()])  # fmt: skip
    visits, patients = responses(
        lesions, pd.DataFrame({"patient_id": ["A", "B", "C"], "treatment_start": START, "last_contact_date": at(400)})
    )
    table = pfs(visits, patients).set_index("patient_id")
    assert table["time"].to_dict() == {"A": 224, "B": 224, "C": 0} and table["event"].to_dict() == {
        "A": True,
        "B": False,
        "C": False,
    }
    assert table.loc["C", "reason"] == "censored: no baseline assessment"
    assert overall_survival(patients)["time"].tolist() == [400, 400, 400]
    both = response_times(patients, pfs(visits, patients))
    assert both[["patient_id", "time_to_response", "duration", "event"]].values.tolist() == [["A", 112, 112, True]]
    with pytest.raises(ResponseError, match="patient C .*neither treatment_start"):
        pfs(visits, patients.assign(start=patients["start"].where(patients["patient_id"] != "C")))


# The acute myelogenous leukaemia data of Miller (1981), in every textbook and in R's survival package.
AML = pd.DataFrame({
    "time": [9, 13, 13, 18, 23, 28, 31, 34, 45, 48, 161, 5, 5, 8, 8, 12, 16, 23, 27, 30, 33, 43, 45],
    "status": [1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1],
    "x": ["Maintained"] * 11 + ["Nonmaintained"] * 12,
})  # fmt: skip


def test_kaplan_meier_as_r_prints_it():
    mine = AML[AML["x"] == "Maintained"]
    curve = kaplan_meier(mine["time"], mine["status"], conf_type="log")
    printed = {  # summary(survfit(Surv(time, status) ~ x, aml)): survival, lower and upper 95 % limit
        9: (0.909, 0.7541, 1.000), 13: (0.818, 0.6192, 1.000), 18: (0.716, 0.4884, 1.000), 23: (0.614, 0.3769, 0.999),
        31: (0.491, 0.2549, 0.946), 34: (0.368, 0.1549, 0.875), 48: (0.184, 0.0359, 0.944),
    }  # fmt: skip
    for t, (s, low, high) in printed.items():
        row = curve.loc[t]
        assert (round(row["survival"], 3), round(row["low"], 4), round(row["high"], 3)) == (s, low, high)
    assert curve.loc[[9, 13, 18, 23, 31, 34, 48], "at_risk"].tolist() == [11, 10, 8, 7, 5, 4, 2]
    groups = kaplan_meier_by_group(AML["time"], AML["status"], AML["x"], conf_type="log")
    assert groups[["n", "events", "median", "low", "high"]].values.tolist() == [
        [11, 7, 31, 18, np.inf],
        [12, 11, 23, 8, np.inf],
    ]


def test_median_where_the_curve_runs_along_a_half():
    assert survival_quantile(kaplan_meier([1, 2, 3, 4], [1, 1, 1, 1]))[0] == 2.5  # as R: the middle of the step
    assert survival_quantile(kaplan_meier([1, 2, 3, 4], [1, 1, 0, 0]))[0] == 2
    assert survival_quantile(kaplan_meier([1, 2, 3], [0, 0, 0]))[0] == np.inf


def test_logrank_as_r_prints_it():
    test = logrank(AML["time"], AML["status"], AML["x"])
    assert (round(test.chi2, 4), test.df, round(test.p, 5)) == (3.3964, 1, 0.06534)


def test_cox_as_r_prints_it():
    fit = cox(AML.assign(non=(AML["x"] == "Nonmaintained").astype(int)), "time", "status", ["non"]).loc["non"]
    assert fit[["coef", "se", "z", "p"]].round(4).tolist() == [0.9155, 0.5119, 1.7884, 0.0737]
    assert fit[["hr", "low", "high"]].round(2).tolist() == [2.50, 0.92, 6.81]


@pytest.fixture(scope="module")
def lung(reference) -> pd.DataFrame:
    frame = pd.read_csv(reference / "survival" / "lung.csv")
    return frame.assign(dead=frame["status"] == 2)


def test_lung_of_r(lung):
    known = lung.dropna(subset="ph.ecog")
    groups = kaplan_meier_by_group(known["time"], known["dead"], known["ph.ecog"], conf_type="log")
    assert groups["median"].tolist() == [394, 306, 199, 118]
    assert groups[["low", "high"]].values[:3].tolist() == [[348, 574], [268, 429], [156, 288]]
    assert survival_quantile(kaplan_meier(lung["time"], lung["dead"], "log")) == (310, 285, 363)
    by_sex = logrank(lung["time"], lung["dead"], lung["sex"])
    assert (round(by_sex.chi2, 1), round(by_sex.p, 3)) == (10.3, 0.001)
    two = cox(lung, "time", "dead", ["ph.ecog", "age"])
    assert two.attrs["n"] == 227 and np.allclose(two["coef"], [0.443485, 0.011281], atol=5e-7)
    three = cox(lung, "time", "dead", ["age", "sex", "ph.ecog"])
    assert three["coef"].round(6).tolist() == [0.011067, -0.552612, 0.463728]
    assert round(three.attrs["c_index"], 3) == 0.637 and round(three.attrs["log_likelihood"], 1) == -729.2


def test_proportional_hazards_as_cox_zph(lung):
    table = cox_zph(lung, "time", "dead", ["age", "sex", "ph.ecog"])  # R: survival 3.x
    assert table["chi2"].round(3).to_dict() == {"age": 0.188, "sex": 2.305, "ph.ecog": 2.054, "GLOBAL": 4.464}
    assert table["p"].round(3).to_dict() == {"age": 0.665, "sex": 0.129, "ph.ecog": 0.152, "GLOBAL": 0.216}
    assert table["df"].tolist() == [1, 1, 1, 3]


def test_proportional_hazards_test_finds_a_reversal():
    rng = make_rng(1, "crossing")
    arm = np.repeat([0, 1], 200)
    early = rng.exponential(np.where(arm == 1, 40, 120))
    late = 60 + rng.exponential(np.where(arm == 1, 500, 60))
    frame = pd.DataFrame({"time": np.where(early < 60, early, late), "event": True, "arm": arm})
    assert cox_zph(frame, "time", "event", ["arm"])["p"].iloc[0] < 1e-4
    even = pd.DataFrame({"time": rng.exponential(np.where(arm == 1, 200, 100)), "event": True, "arm": arm})
    assert cox_zph(even, "time", "event", ["arm"], transform="rank")["p"].iloc[0] > 0.01


def test_pdl1_and_pfs_in_real_patients(reference):
    clinical = pd.read_csv(reference / "msk_mind" / "data_clinical_patient.txt", sep="\t", comment="#")
    sample = pd.read_csv(reference / "msk_mind" / "data_clinical_sample.txt", sep="\t", comment="#")
    msk = clinical.merge(sample[["PATIENT_ID", "CLINICAL_PDL1_SCORE"]], on="PATIENT_ID").dropna(
        subset=["PFS_MONTHS", "CLINICAL_PDL1_SCORE"]
    )
    msk = msk.assign(event=msk["PFS_STATUS"].str.startswith("1"), high=(msk["CLINICAL_PDL1_SCORE"] >= 50).astype(int))
    assert cox(msk, "PFS_MONTHS", "event", ["high"]).loc["high", ["hr", "low", "high"]].round(2).tolist() == [
        0.58,
        0.43,
        0.79,
    ]


def test_concordance_by_counting_pairs():
    rng = make_rng(2, "concordance")
    time, event, risk = rng.integers(1, 12, 40), rng.random(40) < 0.7, rng.integers(0, 5, 40)
    good = pairs = 0.0
    for i, j in itertools.permutations(range(40), 2):
        if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
            pairs += 1
            good += (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
    assert c_index(time, event, risk) == good / pairs
    with pytest.raises(DataError, match="comparable"):
        c_index([1, 2], [0, 0], [1, 2])


def test_time_dependent_auc():
    rng = make_rng(3, "auc")
    risk = rng.normal(size=300)
    time = rng.exponential(np.exp(-risk))
    everyone = np.ones(300, bool)
    assert np.isclose(auc_at(time, everyone, risk, [0.5])["auc"].item(), roc_auc_score(time <= 0.5, risk))
    leave = rng.exponential(1.5, 300)
    seen = auc_at(np.minimum(time, leave), time <= leave, risk, [0.5, 99])
    assert abs(seen["auc"].iloc[0] - roc_auc_score(time <= 0.5, risk)) < 0.05 and np.isnan(seen["auc"].iloc[1])


def test_restricted_mean():
    rng = make_rng(4, "rmst")
    time = rng.exponential(100, 400)
    found = restricted_mean(time, np.ones(400), 150)
    assert np.isclose(found["value"], np.minimum(time, 150).mean()) and np.isclose(
        found["se"], np.minimum(time, 150).std() / 20, rtol=0.01
    )
    with pytest.raises(DataError, match="horizon"):
        restricted_mean([1, 2], [1, 1], 9)


@pytest.mark.parametrize(("columns", "says"), [
    ({"a": ["x", "y"] * 10}, "column a is not numeric"), ({"a": [1] * 20}, "same value in all 20"),
    ({"time": [-1.0] * 20}, "not negative"),
    ({"event": [0] * 20}, "no events"), ({"event": [2] * 20}, "event must be"),
])  # fmt: skip
def test_cox_says_what_is_wrong(columns, says):
    frame = pd.DataFrame({"time": np.arange(20.0), "event": 1, "a": np.arange(20) % 3})
    with pytest.raises(DataError, match=says):
        cox(frame.assign(**columns), "time", "event", ["a"])
    with pytest.raises(DataError, match="no column b"):
        cox(frame, "time", "event", ["b"])


def test_columns_that_determine_one_another_are_refused():
    frame = pd.DataFrame({"time": np.arange(20.0) + 1, "event": 1, "a": np.arange(20) % 3})
    with pytest.raises(DataError, match="does not converge"):
        cox(frame.assign(b=2.0 * frame["a"]), "time", "event", ["a", "b"])


def test_the_cut_comes_from_training_predictions_only():
    training, scores = pd.Series([0.1, 0.2, 0.3, 0.4], list("abcd")), pd.Series([0.9, 0.25, 0.26, 0.0], list("wxyz"))
    assert predicted_group(scores, training).tolist() == ["high", "low", "high", "low"]
    assert predicted_group(scores[:2], training).equals(
        predicted_group(scores, training)[:2]
    )  # other patients do not move the cut
    three = predicted_group(scores, training, (1 / 3, 2 / 3), ("low", "middle", "high"))
    assert three.tolist() == ["high", "middle", "middle", "low"]
    with pytest.raises(LeakageError, match="1 patients, e.g. 'a'"):
        predicted_group(training[:1], training)
    with pytest.raises(OptionError):
        predicted_group(scores, training, (0.5,), ("one",))
    with pytest.raises(DataError, match="finite"):
        predicted_group(scores.replace(0.9, np.nan), training)


def test_an_optimised_cut_is_corrected():
    rng = make_rng(5, "cut")
    score, time, event = rng.normal(size=60), rng.exponential(100, 60).round(), rng.random(60) < 0.7
    found = optimised_cut(time, event, score, permutations=99, seed=1)
    here = logrank_test(
        time[score > found.cut], time[score <= found.cut], event[score > found.cut], event[score <= found.cut]
    )
    assert np.isclose(found.chi2, here.test_statistic) and np.isclose(found.naive_p, here.p_value)
    for cut in np.sort(score)[5:-6]:
        assert logrank(time, event, score > cut).chi2 <= found.chi2 + 1e-9
    assert found.corrected_p > found.naive_p and found == optimised_cut(time, event, score, permutations=99, seed=1)
    strong = optimised_cut(np.where(score > 0, 400, 20) + rng.random(60), event, score, permutations=99)
    assert strong.corrected_p == 0.01 and abs(strong.cut) < 0.5
    with pytest.raises(DataError, match="no cut"):
        optimised_cut(time, event, np.ones(60))


def test_figures_carry_their_numbers():
    figure = plot_kaplan_meier(AML["time"], AML["status"], AML["x"], unit="days", step=40)
    curves, below = figure.axes
    assert [t.get_text() for t in below.texts] == ["11", "3", "1", "1", "1", "12", "2", "0", "0", "0"]
    assert curves.get_legend().get_title().get_text() == "log-rank p = 0.065"
    table = cox(AML.assign(non=(AML["x"] == "Nonmaintained").astype(int)), "time", "status", ["non"])
    assert "2.50 (0.92 to 6.81)" in plot_forest(table).axes[1].texts[0].get_text()
    with pytest.raises(DataError):
        plot_forest(table.drop(columns="low"))


def test_groups_and_tables_that_cannot_be_used():
    with pytest.raises(DataError, match="two groups"):
        logrank([1, 2], [1, 1], ["a", "a"])
    with pytest.raises(DataError, match="no group"):
        logrank([1, 2], [1, 1], ["a", None])
    with pytest.raises(DataError, match="same length"):
        kaplan_meier([1, 2, 3], [1, 0])
    with pytest.raises(OptionError, match="conf_type"):
        kaplan_meier([1, 2], [1, 0], conf_type="wald")
