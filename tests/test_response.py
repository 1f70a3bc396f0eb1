"""RECIST 1.1 and iRECIST: the publications' tables in full, published examples, faults,
and an independent slow version."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsclc_radiomics.core.errors import OptionError, ResponseError
from nsclc_radiomics.core.files import read_json
from nsclc_radiomics.outcomes.irecist import irecist
from nsclc_radiomics.outcomes.irecist_visits import irecist_overall
from nsclc_radiomics.outcomes.lesions import select_targets
from nsclc_radiomics.outcomes.pictures import plot_spider, plot_swimmer, plot_waterfall
from nsclc_radiomics.outcomes.rates import durable_benefit, proportion, response_rates
from nsclc_radiomics.outcomes.recist import NON, Rules, best_overall_response, overall_response
from nsclc_radiomics.outcomes.responses import responses
from nsclc_radiomics.outcomes.tables import lesions_from_sdtm, read_lesions, reported_responses, respond_file

START = pd.Timestamp("2024-01-01")


def table(rows: list[tuple], patient: str = "P") -> pd.DataFrame:
    "Rows of (week, lesion, role, mm, status[, organ[, is_node]])."
    out = []
    for week, lesion, role, mm, status, *rest in rows:
        organ, node = (*rest, "", False)[:2] if len(rest) < 2 else rest
        out.append((patient, START + pd.Timedelta(weeks=week), lesion, role, organ, node, mm, status))
    return pd.DataFrame(
        out, columns=["patient_id", "visit_date", "lesion_id", "role", "organ", "is_node", "diameter_mm", "status"]
    )


def course(sums: list[float | None], patient: str = "P") -> pd.DataFrame:
    return table(
        [(8 * i, "T1", "target", mm, "not_evaluable" if mm is None else "") for i, mm in enumerate(sums)], patient
    )


def codes(lesions: pd.DataFrame, **options) -> list[str]:
    return responses(lesions, **options)[0]["response"].tolist()


# Eisenhauer 2009, Tables 1 and 2, every row written out.
@pytest.mark.parametrize(("target", "non_target", "new", "expected"), [
    ("CR", "CR", "No", "CR"), ("CR", "Non-CR/Non-PD", "No", "PR"), ("CR", "Not evaluated", "No", "PR"),
    ("CR", None, "No", "CR"),
    ("PR", "CR", "No", "PR"), ("PR", "Non-CR/Non-PD", "No", "PR"), ("PR", "Not all evaluated", "No", "PR"),
    ("PR", None, "No", "PR"),
    ("SD", "CR", "No", "SD"), ("SD", "Non-CR/Non-PD", "No", "SD"), ("SD", "Not all evaluated", "No", "SD"),
    ("SD", None, "No", "SD"),
    ("NE", "CR", "No", "NE"), ("NE", "Non-CR/Non-PD", "No", "NE"), ("NE", "NE", "No", "NE"), ("NE", None, "No", "NE"),
    (None, "CR", "No", "CR"), (None, "Non-CR/Non-PD", "No", NON), (None, "Not all evaluated", "No", "NE"),
    (None, "Unequivocal PD", "No", "PD"), (None, "Unequivocal PD", "Yes", "PD"),
])  # fmt: skip
def test_overall_response_tables_1_and_2(target, non_target, new, expected):
    assert overall_response(target, non_target, new) == expected


def test_any_progression_is_progression():
    everything = [("CR", "PR", "SD", "PD", "NE", None), ("CR", NON, "PD", "NE", None)]
    for target, non_target in itertools.product(*everything):
        assert overall_response(target, non_target, True) == "PD"
        if "PD" in (target, non_target):
            assert overall_response(target, non_target, False) == "PD"


def test_published_tables_of_the_reference(reference):
    found = read_json(reference / "recist" / "recist11_tables.json")
    names = {"NE (not all evaluated)": ["NE"], "Non-PD": [NON, "CR"], "Non-PD or not all evaluated": [NON, "CR", "NE"]}
    anything = {"target": ["CR", "PR", "SD", "PD", "NE"], "nontarget": ["CR", NON, "PD", "NE"]}
    for row in [*found["table1_target_disease"], *found["table2_nontarget_only"]]:
        targets = [None] if "target" not in row else names.get(row["target"], [row["target"]])
        others = names.get(row["nontarget"], [row["nontarget"]])
        targets, others = (anything[k] if v == ["Any"] else v for k, v in (("target", targets), ("nontarget", others)))
        for target, other, new in itertools.product(targets, others, row["new_lesion"].split(" or ")):
            assert overall_response(target, other, new) == (
                "NON-CR/NON-PD" if row["overall"] == "Non-CR/Non-PD" else row["overall"]
            ), row


def test_codes_that_are_not_known_are_refused():
    for wrong in (("better",), ("CR", "SD"), ("CR", "CR", "perhaps"), (None, None)):
        with pytest.raises(ResponseError):
            overall_response(*wrong)


# Eisenhauer 2009, Table 3: (first, second, best where SD has lasted, best where it has not).
@pytest.mark.parametrize(("first", "second", "lasted", "short"), [
    ("CR", "CR", "CR", "CR"), ("CR", "PR", "SD", "PD"), ("CR", "SD", "SD", "PD"), ("CR", "PD", "SD", "PD"),
    ("CR", "NE", "SD", "NE"),
    ("PR", "CR", "PR", "PR"), ("PR", "PR", "PR", "PR"), ("PR", "SD", "SD", "NE"), ("PR", "PD", "SD", "PD"),
    ("PR", "NE", "SD", "NE"),
    ("NE", "NE", "NE", "NE"), ("NE", "CR", "SD", "NE"), ("NE", "SD", "SD", "NE"), ("NE", "PD", "PD", "PD"),
])  # fmt: skip
def test_confirmed_best_response_table_3(first, second, lasted, short):
    visits = [("2024-02-26", first), ("2024-04-08", second)]
    assert best_overall_response(visits, START, confirmed=True).response == lasted
    assert best_overall_response(visits, START, confirmed=True, rules=Rules(min_sd_days=120)).response == short


def test_without_confirmation_the_best_visit_counts():
    assert best_overall_response([("2024-02-26", "PR"), ("2024-04-22", "SD")], START).response == "PR"
    early = [("2024-01-20", "SD"), ("2024-03-20", "PD")]
    assert best_overall_response(early, START).response == "PD"
    assert best_overall_response(early[:1], START).response == "NE"
    assert best_overall_response([("2024-01-20", "PR")], START).response == "PR"


def test_nothing_after_progression_counts():
    assert best_overall_response([(56, "SD"), (112, "PD"), (168, "CR")]).response == "SD"
    assert best_overall_response([(56, "SD"), (112, "PR")], progression=80).response == "SD"


@pytest.mark.parametrize(("visits", "changes", "expected"), [
    ([(30, "PR"), (60, "NE"), (90, "PR")], {}, ("PR", 30)),
    ([(30, "PR"), (60, "NE"), (70, "NE"), (90, "PR")], {}, ("SD", 90)),
    ([(30, "PR"), (60, "NE"), (70, "NE"), (90, "PR")], {"max_ne": 2}, ("PR", 30)),
    ([(30, "PR"), (60, "SD"), (90, "PR")], {}, ("SD", 60)),
    ([(30, "PR"), (60, "SD"), (90, "PR")], {"accept_sd": True}, ("PR", 30)),
    ([(30, "PR"), (50, "CR"), (60, "PR")], {}, ("SD", 50)),  # a PR after a CR does not confirm
    ([(30, "PR"), (57, "PR")], {}, ("SD", 57)),
    ([(30, "PR"), (58, "PR")], {}, ("PR", 30)),
    ([(30, "CR"), (40, "PR"), (90, "CR")], {}, ("PR", 40)),
    ([(50, NON), (100, NON)], {}, (NON, 50)),
    ([(50, NON), (100, "CR"), (150, "CR")], {}, ("CR", 100)),
    ([(50, "ND")], {}, ("ND", 50)),
    ([], {}, ("MISSING", None)),
    ([], {"missing_as_ne": True}, ("NE", None)),
])  # fmt: skip
def test_confirmation_in_longer_courses(visits, changes, expected):
    found = best_overall_response(visits, confirmed=True, rules=Rules(**changes))
    assert (found.response, found.date) == expected


def test_best_response_of_other_systems_cases(reference):
    checked = 0
    for case in read_json(reference / "recist" / "admiralonco_bor.json")["cases"]:
        progressed = {
            r["USUBJID"]: r["ADT"] for r in (case["source_datasets"] or {}).get("adrs_pd", []) if r["PARAMCD"] == "PD"
        }
        expected = {r["USUBJID"]: (r["ADT"], r["AVALC"]) for r in case["expected"]}
        for patient in case["adsl"]:
            mine = patient["USUBJID"]
            visits = sorted(
                (r["ADT"], r["AVALC"]) for r in case["input"] if r["USUBJID"] == mine and r["PARAMCD"] == "OVR"
            )
            rules = Rules(min_sd_days=case["params"]["ref_start_window"])
            found = best_overall_response(visits, patient["TRTSDT"], rules=rules, progression=progressed.get(mine))
            assert (found.date, found.response) == expected[mine], (mine, visits)
            checked += 1
    assert checked >= 40


def test_sequences_that_cannot_be_used_are_refused():
    with pytest.raises(ResponseError, match="2024-02-01 does not come after"):
        best_overall_response([("2024-03-01", "PR"), ("2024-02-01", "PR")], START)
    with pytest.raises(ResponseError, match="does not come after"):
        irecist([(50, "iSD"), (50, "iSD")])
    with pytest.raises(ResponseError, match="iBETTER.*not one of"):
        irecist([(50, "iBETTER")])
    with pytest.raises(OptionError, match="start"):
        best_overall_response([("2024-03-01", "PR")])


# Seymour 2017, Table 3: every combination that its eight examples allow.
EXAMPLES = {
    "iCR": [["iCR"], ["iCR", "iPR", "iUPD", "NE"], ["iCR", "iPR", "iUPD", "NE"], ["iUPD"], ["iCPD"]],
    "iCR 2": [
        ["iUPD"],
        ["iPR", "iSD", "NE"],
        ["iCR"],
        ["iCR", "iUPD", "NE"],
        ["iCR", "iPR", "iSD", "iUPD", "iCPD", "NE"],
    ],
    "iPR": [
        ["iUPD"],
        ["iPR"],
        ["iPR", "iSD", "iUPD", "NE"],
        ["iPR", "iSD", "iUPD", "NE", "iCPD"],
        ["iPR", "iSD", "iUPD", "NE", "iCPD"],
    ],
    "iPR 4": [["iUPD"], ["iSD", "NE"], ["iPR"], ["iPR", "iSD", "iUPD", "NE"], ["iPR", "iSD", "iUPD", "iCPD", "NE"]],
    "iSD": [["iUPD"], ["iSD"], ["iSD", "iUPD", "NE"], ["iSD", "iUPD", "iCPD", "NE"], ["iSD", "iUPD", "iCPD", "NE"]],
    "iCPD": [["iUPD"], ["iCPD"], ["iCR", "iSD", "NE"], ["iUPD", "iPR"], ["iCPD", "iSD"]],
    "iCPD 7": [["iUPD"], ["iUPD"], ["iCPD"], ["iCR", "iSD"], ["NE", "iPR"]],
    "iUPD": [["iUPD"], ["NE"], ["NE"], ["NE"], ["NE"]],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_irecist_best_response_table_3(name):
    for visits in itertools.product(*EXAMPLES[name]):
        found = irecist([(56 * (i + 1), code) for i, code in enumerate(visits)])
        assert found.response == name.split()[0], visits


@pytest.mark.parametrize(("visits", "day", "confirmed"), [
    ("iUPD iUPD iCPD", 56, True), ("iSD iSD iUPD iPR iPR iUPD iCPD", 336, True), ("iUPD NE iCPD", 56, True),
    ("iUPD iSD", None, False),
    ("iSD iUPD NE", 112, False), ("PR PD iCPD", 112, True), ("iSD", None, False), ("iUPD iSD iUPD iUPD", 168, False),
])  # fmt: skip
def test_irecist_dates_progression_by_the_first_iupd_of_the_run(visits, day, confirmed):
    found = irecist([(56 * (i + 1), code) for i, code in enumerate(visits.split())])
    assert (found.progression, found.confirmed) == (day, confirmed)


def test_irecist_confirmed_best_response():
    once, twice = [(56, "iPR"), (112, "iSD")], [(56, "iUPD"), (112, "iPR"), (168, "iCR")]
    assert irecist(once, confirmed=True).response == "iSD" and irecist(twice, confirmed=True).response == "iPR"


# Seymour 2017, Table 2: (target, non-target, new lesion), response without an earlier iUPD, and with one (as bad,
# worse).
@pytest.mark.parametrize(("state", "first", "pending", "worse"), [
    (("CR", "CR", False), "iCR", "iCR", "iCPD"), (("CR", NON, False), "iPR", "iPR", "iCPD"),
    (("PR", NON, False), "iPR", "iPR", "iCPD"),
    (("SD", NON, False), "iSD", "iSD", "iCPD"), (("SD", "PD", False), "iUPD", "iUPD", "iCPD"),
    (("PR", "PD", False), "iUPD", "iUPD", "iCPD"),
    (("CR", "PD", False), "iUPD", "iUPD", "iCPD"), (("PD", NON, False), "iUPD", "iUPD", "iCPD"),
    (("PD", "CR", False), "iUPD", "iUPD", "iCPD"),
    (("PD", "PD", False), "iUPD", "iUPD", "iCPD"), (("PD", "PD", True), "iUPD", "iUPD", "iCPD"),
    (("SD", NON, True), "iUPD", "iUPD", "iCPD"),
    (("NE", NON, False), "NE", "NE", "iCPD"), ((None, NON, False), "NON-iCR/NON-iUPD", "NON-iCR/NON-iUPD", "iCPD"),
])  # fmt: skip
def test_irecist_at_a_visit_table_2(state, first, pending, worse):
    assert irecist_overall(*state) == irecist_overall(*state, worse=True) == first
    assert irecist_overall(*state, pending=True) == pending
    assert irecist_overall(*state, pending=True, worse=True) == worse


# From millimetres to iRECIST. Each row: target sums, then {visit: [(lesion, mm, status)]} of new and non-target
# lesions.
def icodes(sums, extra=(), weeks=8, **options):
    rows = [(weeks * i, "T1", "target", mm, "not_evaluable" if mm is None else "") for i, mm in enumerate(sums)]
    rows += [(weeks * i, lesion, role, mm, status) for i, lesion, role, mm, status in extra]
    return codes(table(rows), criteria="irecist", **options)


def test_irecist_target_progression_is_confirmed_by_five_more_millimetres():
    assert icodes([50, 62, 67]) == ["iUPD", "iCPD"]
    assert icodes([50, 62, 66.9]) == ["iUPD", "iUPD"]
    assert icodes([50, 62, 64, 67]) == ["iUPD", "iUPD", "iCPD"]  # increases add up
    assert icodes([50, 62, 67], weeks=3) == ["iUPD", "iUPD"]  # too early
    assert icodes([50, 62, 67], rules=Rules(iupd_max_days=42)) == ["iUPD", "iUPD"]


def test_irecist_is_reset_by_response_and_the_nadir_is_not():
    assert icodes([50, 62, 50, 62, 68]) == ["iUPD", "iSD", "iUPD", "iCPD"]
    assert icodes([50, 62, 34, 40.8, 46]) == ["iUPD", "iPR", "iUPD", "iCPD"]
    assert icodes([50, 30, 36, 35]) == ["iPR", "iUPD", "iPR"]
    assert icodes([50, 62, None, 67]) == ["iUPD", "NE", "iCPD"]


def test_irecist_new_lesions():
    seen = [(1, "N1", "new", 12, "")]
    assert icodes([50, 48, 47], [*seen, (2, "N1", "new", 12, "")]) == ["iUPD", "iUPD"]
    assert icodes([50, 48, 47], [*seen, (2, "N1", "new", 17, "")]) == ["iUPD", "iCPD"]
    assert icodes([50, 48, 47], [*seen, (2, "N1", "new", 16.9, "")]) == ["iUPD", "iUPD"]
    assert icodes([50, 48, 47], [*seen, (2, "N1", "new", 12, ""), (2, "N2", "new", 10, "")]) == ["iUPD", "iCPD"]
    assert icodes([50, 48, 47], [(1, "N1", "new", None, "present"), (2, "N1", "new", None, "increased")]) == [
        "iUPD",
        "iCPD",
    ]
    assert icodes([50, 48, 47], [*seen, (2, "N1", "new", None, "absent")]) == ["iUPD", "iSD"]
    assert icodes([50, 62, 61], [(2, "N1", "new", 12, "")]) == ["iUPD", "iCPD"]  # another kind of disease
    assert icodes([50, 48, 60], seen + [(2, "N1", "new", 12, "")]) == ["iUPD", "iCPD"]


def test_irecist_new_lesion_and_shrinking_targets():
    there = [(i, "N1", "new", 12, "") for i in (1, 2, 3)]
    assert icodes([50, 48, 34, 33], there) == ["iUPD", "iPR", "iPR"]  # scenario B: a response after the new lesion
    assert icodes([50, 34, 33, 33], [(2, "N1", "new", 12, ""), (3, "N1", "new", 12, "")]) == [
        "iPR",
        "iUPD",
        "iUPD",
    ]  # scenario F: before it
    assert icodes([50, 48, 0, 0], there) == ["iUPD", "iPR", "iPR"]  # never complete while it is there
    again = [*there, (4, "N1", "new", 18, "")]
    assert icodes([50, 48, 34, 33, 33], again) == ["iUPD", "iPR", "iPR", "iUPD"]


def test_irecist_non_targets():
    def nt(*states):
        return [(i, "B", "non_target", None, s) for i, s in enumerate(states)]

    assert icodes([50, 48, 47], nt("present", "unequivocal_progression", "unequivocal_progression")) == ["iUPD", "iUPD"]
    assert icodes([50, 48, 47], nt("present", "unequivocal_progression", "increased")) == ["iUPD", "iCPD"]
    assert icodes([50, 48, 47], nt("present", "unequivocal_progression", "present")) == ["iUPD", "iSD"]
    assert icodes([50, 62, 61], nt("present", "present", "unequivocal_progression")) == ["iUPD", "iCPD"]


# Examples from the EORTC's clarifications of RECIST 1.1.
def test_eortc_examples(reference):
    for case in read_json(reference / "recist" / "eortc_faq_cases.json")["cases"]:
        assert codes(course(case["sums"])) == case["tp_recist"], case["source"]
        if "tp_irecist" in case:
            assert codes(course(case["sums"]), criteria="irecist") == case["tp_irecist"]


def test_a_pr_that_varies_by_both_conventions():
    sums = [100, 70, 80, 69, 82]
    assert codes(course(sums)) == ["PR", "PR", "PR", "PR"]
    assert codes(course(sums), rules=Rules(pr_against="baseline")) == ["PR", "SD", "PR", "SD"]
    assert codes(course([100, 70, 80, 80]), confirm=True) == ["PR", "SD", "SD"]  # held only once it is confirmed
    assert codes(course([100, 70, 70, 80]), confirm=True) == ["PR", "PR", "PR"]


@pytest.mark.parametrize(("sums", "expected"), [
    ([100, 70], ["PR"]), ([100, 70.1], ["SD"]), ([100, 120], ["PD"]), ([100, 119.9], ["SD"]), ([20, 24.9], ["SD"]),
    ([20, 25], ["PD"]),
    ([50, 40, 48], ["SD", "PD"]), ([50, 40, 47.9], ["SD", "SD"]), ([30, 20, 24.9], ["PR", "PR"]),
    ([30, 20, 25], ["PR", "PD"]),
    ([35, 46], ["PD"]), ([50, 0], ["CR"]), ([50, 0, 4], ["CR", "PD"]), ([50, None, 30], ["NE", "PR"]),
    ([50, 30, None, 36], ["PR", "NE", "PD"]),
    ([50, 60, 20, 0], ["PD", "PD", "PD"]), ([0.3 + 40, 1.2 * 40.3], ["PD"]), ([33.3, 39.9], ["SD"]),
    ([33.3, 40.0], ["PD"]),
])  # fmt: skip
def test_thresholds_on_the_sum(sums, expected):
    assert codes(course(sums)) == expected


def test_nodes_are_complete_below_ten_millimetres():
    node = table(
        [
            (0, "A", "target", 20, "", "neck", True),
            (8, "A", "target", 9.9, "", "neck", True),
            (16, "A", "target", 10, "", "neck", True),
        ]
    )
    assert codes(node) == ["CR", "PD"]
    assert codes(node, rules=Rules(after_cr="as_measured")) == ["CR", "PR"]
    grown = table(
        [
            (w, x, "target", mm, "", "n", True)
            for w, x, mm in [(0, "A", 15), (0, "B", 15), (8, "A", 2), (8, "B", 2), (16, "A", 9), (16, "B", 9)]
        ]
    )
    assert codes(grown) == ["CR", "CR"]  # +350 % and +14 mm, but both are normal nodes


def test_missing_targets():
    base = [(0, "A", "target", 20, ""), (0, "B", "target", 20, "")]
    assert codes(table([*base, (8, "A", "target", 5, "")])) == ["NE"]
    assert codes(table([*base, (8, "A", "target", 48, "")])) == ["PD"]  # the rest alone is 20 % and 5 mm above
    assert codes(table([*base, (8, "A", "target", 47.9, ""), (8, "B", "target", None, "not_evaluable")])) == ["NE"]
    assert codes(table([*base, (8, "A", "target", None, "absent"), (8, "B", "target", None, "absent")])) == ["CR"]
    assert codes(table([*base, (8, "A", "target", None, "too_small"), (8, "B", "target", None, "absent")])) == ["PR"]
    assert codes(table([*base, (8, "A", "target", 0, ""), (8, "B", "target", None, "merged")])) == [
        "PR"
    ]  # merged is not gone


def test_too_small_counts_five_millimetres():
    visits, _ = responses(
        table([(0, "A", "target", 20, ""), (8, "A", "target", None, "too_small"), (16, "A", "target", 3, "too_small")])
    )
    assert visits["sum_mm"].tolist() == [5, 3]  # a size that was measured is kept


def test_non_targets_and_patients_without_targets():
    def only(*states):
        return codes(table([(8 * i, "B", "non_target", None, s) for i, s in enumerate(states)]))

    assert only("present", "present", "absent") == [NON, "CR"]
    assert only("present", "not_evaluable", "unequivocal_progression") == ["NE", "PD"]
    assert only("present", "absent", "present") == ["CR", "PD"]  # seen again after a complete response
    both = [(0, "T", "target", 30, ""), (0, "B", "non_target", None, "present"), (8, "T", "target", 0, "")]
    assert codes(table([*both, (8, "B", "non_target", None, "present")])) == ["PR"]
    assert codes(table(both)) == ["PR"]  # non-target not evaluated
    assert codes(table([*both, (8, "B", "non_target", None, "absent")])) == ["CR"]
    node = [(0, "T", "target", 30, ""), (0, "B", "non_target", 12, "", "neck", True), (8, "T", "target", 0, "")]
    assert codes(table([*node, (8, "B", "non_target", 9, "", "neck", True)])) == ["CR"]


def test_a_doubtful_new_lesion_counts_from_when_it_was_first_seen():
    base = [(w, "T", "target", 30, "") for w in (0, 8, 16, 24)]
    assert codes(table([*base, (8, "N", "new", None, "equivocal"), (16, "N", "new", 11, "present")])) == [
        "PD",
        "PD",
        "PD",
    ]
    assert codes(table([*base, (8, "N", "new", None, "equivocal"), (16, "N", "new", None, "absent")])) == [
        "SD",
        "SD",
        "SD",
    ]


def test_baseline_is_what_was_last_seen_before_treatment():
    people = pd.DataFrame({"patient_id": ["P"], "treatment_start": [START + pd.Timedelta(weeks=2)]})
    lesions = table(
        [
            (0, "A", "target", 40, ""),
            (0, "B", "target", 20, ""),
            (1, "A", "target", 50, ""),
            (10, "A", "target", 30, ""),
            (10, "B", "target", 18, ""),
        ]
    )
    visits, patients = responses(lesions, people)
    assert visits[["baseline_sum_mm", "day", "response"]].values.tolist() == [[70, 56, "PR"]]
    assert patients.loc[0, "baseline_date"] == START + pd.Timedelta(weeks=1)


def test_patients_without_baseline_or_lesions():
    people = pd.DataFrame({"patient_id": ["P", "Q"], "treatment_start": START - pd.Timedelta(weeks=1)})
    with pytest.raises(ResponseError, match="patient P, visit 2024-01-01: no baseline"):
        responses(course([50, 20]), people)
    visits, patients = responses(course([50, 20]), people, rules=Rules(no_baseline="not_evaluable"))
    assert visits["response"].tolist() == ["NE", "NE"] and patients["best_response"].tolist() == ["NE", "NE"]
    assert not patients["responder"].any() and patients["baseline_date"].isna().all()


GOOD = [
    (0, "A", "target", 40, "", "lung"),
    (0, "B", "non_target", None, "present", "bone"),
    (8, "A", "target", 42, "", "lung"),
    (8, "B", "non_target", None, "present", "bone"),
]


@pytest.mark.parametrize(("extra", "says"), [
    ([(8, "A", "target", 30, "", "lung")], "visit 2024-02-26, lesion A: occurs more than once"),
    ([(8, "C", "target", -3, "", "liver")], "lesion C: diameter_mm is -3"),
    ([(0, "C", "target", None, "", "liver")], "lesion C: a target needs diameter_mm"),
    ([(16, "A", "target", 30, "", "liver")], "visit 2024-04-22, lesion A: is in organ liver"),
    ([(8, "C", "target", 30, "", "liver")], "lesion C: a target lesion without baseline"),
    ([(8, "C", "non_target", None, "present")], "lesion C: a non_target lesion without baseline"),
    ([(16, "A", "new", 30, "", "lung")], "lesion A: has role new here"),
    ([(0, "N", "new", 30, "")], "lesion N: a new lesion at the baseline visit"),
    ([(16, "A", "target", None, "vanished", "lung")], "status 'vanished' is not one of"),
    ([(16, "A", "target", 12, "absent", "lung")], "status absent, but 12 mm are given"),
    ([(0, "C", "target", 9, "", "liver")], "9 mm at baseline is not measurable, 10 mm are needed"),
    ([(0, "C", "target", 14, "", "neck", True)], "14 mm at baseline is not measurable, 15 mm are needed"),
    ([(0, "C", "target", 20, "", "lung"), (0, "D", "target", 20, "", "lung")], "lesion D: more than 2 targets in lung"),
    ([(0, x, "target", 20, "", x, True) for x in "CDE"], "lesion E: more than 2 targets in lymph nodes"),
    ([(0, x, "target", 20, "", x) for x in "CDEFG"], "lesion G: more than 5 targets"),
    ([(0, "C", "target", float("inf"), "", "liver")], "lesion C: diameter_mm is not a number"),
    ([(0, "C", "tumour", 20, "", "liver")], "role 'tumour' is not one of"),
    ([(16, "B", "non_target", None, "", "bone")], "lesion B: a non-target needs a status"),
])  # fmt: skip
def test_bad_rows_name_patient_visit_and_lesion(extra, says):
    with pytest.raises(ResponseError) as error:
        responses(table([*GOOD, *extra]))
    assert says in str(error.value) and "patient P" in str(error.value)


def test_selection_may_be_taken_as_given():
    lesions = table([*GOOD, (0, "C", "target", 9, "", "liver"), (8, "C", "target", 9, "", "liver")])
    assert codes(lesions, rules=Rules(selection="as_given")) == ["SD"]
    assert codes(table([(0, "C", "target", 18, ""), (8, "C", "target", 9, "")])) == ["PR"]
    with pytest.raises(ResponseError, match="20 mm are needed"):
        codes(table([(0, "C", "target", 18, ""), (8, "C", "target", 9, "")]), rules=Rules(slice_mm=10))


def test_all_problems_are_listed_at_once():
    with pytest.raises(ResponseError) as error:
        responses(table([*GOOD, (8, "X", "target", -1, ""), (8, "Y", "odd", 1, "")]))
    assert "lesion X" in str(error.value) and "lesion Y" in str(error.value)


def test_bad_dates_of_patients():
    people = pd.DataFrame(
        {"patient_id": ["P"], "treatment_start": [START], "death_date": [START + pd.Timedelta(weeks=4)]}
    )
    with pytest.raises(ResponseError, match="patient P, visit 2024-02-26: comes after death_date 2024-01-29"):
        responses(course([50, 20]), people)
    with pytest.raises(ResponseError, match="lies before treatment_start"):
        responses(
            course([50]),
            people.assign(death_date=START - pd.Timedelta(days=1)).assign(treatment_start=START + pd.Timedelta(days=2)),
        )
    with pytest.raises(ResponseError, match="no readable date"):
        responses(course([50, 20]).assign(visit_date=["2024-01-01", "2024-02-31"]))
    with pytest.raises(ResponseError, match="occurs more than once"):
        responses(course([50, 20]), pd.concat([people, people]))


def test_options_are_checked():
    for wrong in (
        lambda: Rules(pr_against="x"),
        lambda: Rules(min_sd_days=-1),
        lambda: responses(course([50, 20]), criteria="who"),
    ):
        with pytest.raises(OptionError):
            wrong()


# Properties.
sizes = st.integers(0, 600).map(lambda tenth: tenth / 10)
measurement = st.one_of(sizes, st.sampled_from(["absent", "too_small", "not_evaluable"]))
courses = st.integers(1, 3).flatmap(lambda n: st.tuples(
    st.lists(st.integers(150, 600).map(lambda tenth: tenth / 10), min_size=n, max_size=n),  # baseline of n targets
    # two nodes at most
    st.lists(st.booleans(), min_size=n, max_size=n).map(lambda nodes: [node and k < 2 for k, node in enumerate(nodes)]),
    st.lists(st.tuples(st.lists(measurement, min_size=n, max_size=n),
        st.sampled_from(["present", "absent", "unequivocal_progression", "not_evaluable"]),
                       st.booleans()), min_size=1, max_size=5),  # visits: targets, non-target, new lesion
))  # fmt: skip


def build(case, non_target: bool = True) -> pd.DataFrame:
    base, nodes, visits = case
    rows = [(0, f"T{k}", "target", mm, "", f"o{k}", nodes[k]) for k, mm in enumerate(base)]
    rows += [(0, "B", "non_target", None, "present", "bone")] * non_target
    for i, (targets, state, new) in enumerate(visits, 1):
        for k, m in enumerate(targets):
            rows.append(
                (
                    8 * i,
                    f"T{k}",
                    "target",
                    None if isinstance(m, str) else m,
                    m if isinstance(m, str) else "",
                    f"o{k}",
                    nodes[k],
                )
            )
        rows += [(8 * i, "B", "non_target", None, state, "bone")] * non_target
        rows += [(8 * i, f"N{i}", "new", 12, "", "liver")] * new
    return table(rows)


def slow(case) -> list[str]:
    "RECIST 1.1 once more, for one patient with one non-target, in exact arithmetic and as plainly as can be."
    base, nodes, visits = case
    exact = [Fraction(round(10 * b), 10) for b in base]
    baseline = nadir = sum(exact)
    out, pr, cr, progressed = [], False, False, False
    for targets, state, new in visits:
        mm = [
            (
                {"absent": Fraction(0), "too_small": Fraction(5), "not_evaluable": None}[m]
                if isinstance(m, str)
                else Fraction(round(10 * m), 10)
            )
            for m in targets
        ]
        known = [m for m in mm if m is not None]
        left = [m for m, node in zip(mm, nodes) if m is not None and (m >= 10 if node else m > 0)]
        total = sum(known)
        if len(known) == len(mm) and not left:
            target = "CR"
        elif known and total >= nadir * Fraction(6, 5) and total >= nadir + 5:
            target = "PD"
        elif len(known) < len(mm):
            target = "NE"
        else:
            target = "PR" if total <= baseline * Fraction(7, 10) or pr else "SD"
        if len(known) == len(mm):
            nadir = min(nadir, total)
        pr = target in ("CR", "PR") or (pr and target != "PD")
        other = {"present": NON, "absent": "CR", "unequivocal_progression": "PD", "not_evaluable": "NE"}[state]
        if new or target == "PD" or other == "PD" or (cr and (left or other == NON)):
            code = "PD"
        else:
            code = "PR" if target == "CR" and other != "CR" else target
        cr = cr or code == "CR"
        progressed = progressed or code == "PD"
        out.append("PD" if progressed else code)
    return out


def together(cases) -> list[list[str]]:
    "Responses of several cases in one table."
    visits, _ = responses(pd.concat([build(case).assign(patient_id=f"P{i:03d}") for i, case in enumerate(cases)]))
    return [visits[visits["patient_id"] == f"P{i:03d}"]["response"].tolist() for i in range(len(cases))]


@settings(max_examples=25, deadline=None)
@given(st.lists(courses, min_size=1, max_size=12))
def test_agrees_with_an_independent_slow_version(cases):
    assert together(cases) == [slow(case) for case in cases]


@settings(max_examples=10, deadline=None)
@given(st.lists(courses, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_order_of_rows_and_other_patients_do_not_matter(cases, random):
    alone = [codes(build(c), criteria="irecist") for c in cases]
    rows = pd.concat([build(c).assign(patient_id=f"P{i}") for i, c in enumerate(cases)])
    order = list(range(len(rows)))
    random.shuffle(order)
    visits, _ = responses(rows.iloc[order], criteria="irecist")
    assert [visits[visits["patient_id"] == f"P{i}"]["response"].tolist() for i in range(len(cases))] == alone


RANK = {code: i for i, code in enumerate(["CR", "PR", NON, "SD", "NE", "PD"])}


@settings(max_examples=20, deadline=None)
@given(courses, st.integers(0, 4))
def test_a_new_lesion_never_improves_a_response(case, at):
    base, nodes, visits = case
    at = min(at, len(visits) - 1)
    more = [(t, s, new or i == at) for i, (t, s, new) in enumerate(visits)]
    before, after = together([case, (base, nodes, more)])
    assert all(RANK[b] >= RANK[a] for a, b in zip(before, after))
    assert set(after[at:]) == {"PD"}


@settings(max_examples=20, deadline=None)
@given(courses)
def test_progression_is_never_undone_and_dates_the_patient(case):
    found, patients = responses(build(case))
    codes_ = found["response"].tolist()
    if "PD" in codes_:
        assert set(codes_[codes_.index("PD") :]) == {"PD"}
        assert patients.loc[0, "progression_date"] == found["visit_date"][codes_.index("PD")]
    else:
        assert pd.isna(patients.loc[0, "progression_date"])


@settings(max_examples=20, deadline=None)
@given(courses)
def test_irecist_before_any_progression_is_recist(case):
    plain, immune = codes(build(case)), codes(build(case), criteria="irecist")
    first = plain.index("PD") if "PD" in plain else len(plain)
    assert [c.removeprefix("i") for c in immune[:first]] == plain[:first]
    if first < len(plain):
        assert immune[first] == "iUPD"
    if "iCPD" in immune:
        assert set(immune[immune.index("iCPD") :]) == {"iCPD"} and "iUPD" in immune[: immune.index("iCPD")]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.sampled_from(["CR", "PR", "SD", NON, "PD", "NE"])), max_size=6),
    st.booleans(),
)
def test_a_table_and_a_sequence_give_the_same_best_response(steps, confirm):
    days = np.cumsum([d for d, _ in steps]).tolist()
    visits = list(zip(days, [c for _, c in steps]))
    confirmed, free = (best_overall_response(visits, confirmed=c).response for c in (True, False))
    order = ["CR", "PR", "SD", NON, "PD", "NE", "MISSING"]
    assert order.index(free) <= order.index(confirmed)


# Tables of trials, and files.
def sdtm(unit: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    tu = pd.DataFrame({"USUBJID": "01-701", "TULNKID": ["T1", "T2", "NT1", "NEW1"],
        "TUORRES": ["TARGET", "TARGET", "NON-TARGET", "NEW"],
                       "TULOC": ["LUNG", "LYMPH NODE", "BONE", "LIVER"]})  # fmt: skip
    size = {"mm": 1, "cm": 10}[unit]
    rows = [("T1", 1, "2024-01-01", "LDIAM", 40 / size), ("T2", 1, "2024-01-03", "SAXIS", 20 / size),
        ("T2", 1, "2024-01-03", "LDIAM", 31 / size),
            ("NT1", 1, "2024-01-03", "TUMSTATE", "PRESENT"), ("T1", 2, "2024-02-28", "LDIAM", 20 / size),
            ("T2", 2, "2024-02-28", "SAXIS", 12 / size),
            ("NT1", 2, "2024-02-28", "TUMSTATE", "PRESENT"), ("T1", 3, "2024-04-24", "LDIAM", 20 / size),
            ("T2", 3, "2024-04-24", "SAXIS", 12 / size),
            ("NT1", 3, "2024-04-24", "TUMSTATE", "PRESENT"),
            ("NEW1", 3, "2024-04-24", "TUMSTATE", "PRESENT")]  # fmt: skip
    tr = pd.DataFrame(rows, columns=["TRLNKID", "VISITNUM", "TRDTC", "TRTESTCD", "TRORRES"]).astype({"TRORRES": str})
    return tu, tr.assign(USUBJID="01-701", TRORRESU=unit)


def test_units_do_not_matter():
    by_mm, by_cm = (responses(lesions_from_sdtm(*sdtm(unit)))[0] for unit in ("mm", "cm"))
    pd.testing.assert_frame_equal(by_mm, by_cm)
    assert by_mm["response"].tolist() == ["PR", "PD"] and by_mm["baseline_sum_mm"].tolist() == [60, 60]


@pytest.mark.parametrize(("change", "says"), [
    ({"TRORRESU": "inch"}, "unit 'inch' is not mm or cm"), ({"TRDTC": "2024-01"}, "date '2024-01' is not a full date"),
    ({"TRLNKID": "T9"}, "lesion T9: is not in TU"), ({"TRORRES": "big"}, "'BIG' is neither a number nor a known state"),
])  # fmt: skip
def test_bad_sdtm_rows_are_named(change, says):
    tu, tr = sdtm("mm")
    for column, value in change.items():
        tr.loc[4, column] = value
    with pytest.raises(ResponseError) as error:
        lesions_from_sdtm(tu, tr)
    assert says in str(error.value) and "patient 01-701, visit 2" in str(error.value)
    with pytest.raises(ResponseError, match="TRLNKID is missing"):
        lesions_from_sdtm(tu, tr.drop(columns="TRLNKID"))


def test_sdtm_not_done_is_not_evaluable():
    tu, tr = sdtm("mm")
    tr["TRSTAT"] = ""
    tr.loc[4, ["TRORRES", "TRSTAT"]] = ["", "NOT DONE"]
    assert codes(lesions_from_sdtm(tu, tr))[0] == "NE"


def test_sdtm_readers_are_never_mixed():
    tu, tr = sdtm("mm")
    larger = tr.assign(
        TREVAL="INDEPENDENT ASSESSOR",
        TREVALID="RADIOLOGIST 1",
        TRORRES=tr["TRORRES"].mask(tr["TRTESTCD"].eq("LDIAM") & tr["VISITNUM"].eq(2), "39.0"),
    )
    tr = pd.concat([tr.assign(TREVAL="INVESTIGATOR", TREVALID=None), larger], ignore_index=True)
    tu = pd.concat(
        [
            tu.assign(TUEVAL="INVESTIGATOR", TUEVALID=None),
            tu.assign(TUEVAL="INDEPENDENT ASSESSOR", TUEVALID="RADIOLOGIST 1"),
        ]
    )
    with pytest.raises(ResponseError, match="readings of 'INVESTIGATOR', 'RADIOLOGIST 1'; choose one"):
        lesions_from_sdtm(tu, tr)
    with pytest.raises(ResponseError, match="no rows by evaluator 'Smith'"):
        lesions_from_sdtm(tu, tr, "Smith")
    assert (
        codes(lesions_from_sdtm(tu, tr, "investigator"))[0] == "PR"
        and codes(lesions_from_sdtm(tu, tr, "Radiologist 1"))[0] == "SD"
    )


def test_sdtm_dates_without_a_day():
    tu, tr = sdtm("mm")
    tr.loc[tr["VISITNUM"] == 2, "TRDTC"] = "2024-02"
    days = {
        how: lesions_from_sdtm(tu, tr, partial_dates=how)["visit_date"].dt.strftime("%m-%d").unique()[1]
        for how in ("first", "last")
    }
    assert days == {"first": "02-01", "last": "02-29"}
    with pytest.raises(ResponseError, match="'2024-02' is not a full date"):
        lesions_from_sdtm(tu, tr)
    with pytest.raises(OptionError, match="partial_dates"):
        lesions_from_sdtm(tu, tr, partial_dates="middle")


def test_reported_responses_of_one_reader():
    rs = pd.DataFrame({"USUBJID": "1", "RSTESTCD": ["OVRLRESP", "TRGRESP", "OVRLRESP"], "RSORRES": ["PR", "PR", "SD"],
                       "RSDTC": ["2024-02-26", "2024-02-26", "2024-02-26T10:00"],
                       "RSEVAL": ["INVESTIGATOR", "INVESTIGATOR", "READER"]})  # fmt: skip
    assert reported_responses(rs, "investigator")["response"].tolist() == ["PR"]


def test_files_in_files_out(tmp_path):
    course([35, 46]).to_csv(tmp_path / "lesions.csv", index=False)
    visits, _ = respond_file(tmp_path / "lesions.csv", tmp_path / "out" / "response.csv")
    written = pd.read_csv(tmp_path / "out" / "response.csv")
    assert written["reason"].item() == visits["reason"].item() == "sum 46 mm, nadir 35 mm: +31 %, +11 mm"
    assert pd.read_csv(tmp_path / "out" / "response_patients.csv")["reason"].item() == "PD on day 56"
    first = (tmp_path / "out" / "response.csv").read_bytes()
    respond_file(tmp_path, tmp_path / "out" / "response.csv")
    assert (tmp_path / "out" / "response.csv").read_bytes() == first
    tu, tr = sdtm("mm")
    (tmp_path / "sdtm").mkdir()
    tu.to_csv(tmp_path / "sdtm" / "tu.csv", index=False)
    tr.to_csv(tmp_path / "sdtm" / "tr.csv", index=False)
    assert len(read_lesions(tmp_path / "sdtm")) == 11 - 1


def test_patients_beside_the_lesions_are_read(tmp_path):
    course([50, 20]).to_csv(tmp_path / "lesions.csv", index=False)
    head = "patient_id,centre,split,has_ct,has_pet,treatment_start,death_date\n"
    (tmp_path / "patients.csv").write_text(head + "P,A,train,0,0,2024-01-08,2024-12-01\n")
    _, patients = respond_file(tmp_path / "lesions.csv", tmp_path / "response.csv")
    assert patients.loc[0, "start"] == pd.Timestamp("2024-01-08") and patients.loc[0, "death_date"] == pd.Timestamp(
        "2024-12-01"
    )
    (tmp_path / "patients.csv").write_text(head + "P,A,train,0,0,8 January,\n")
    with pytest.raises(ResponseError, match="row 2, column treatment_start: '8 January'"):
        respond_file(tmp_path / "lesions.csv", tmp_path / "response.csv")


def test_nothing_is_written_where_the_input_cannot_be_used(tmp_path):
    course([50, -20]).to_csv(tmp_path / "lesions.csv", index=False)
    for make in (
        lambda: respond_file(tmp_path / "lesions.csv", tmp_path / "response.csv"),
        lambda: respond_file(tmp_path / "none.csv", tmp_path / "r.csv"),
    ):
        with pytest.raises(ResponseError):
            make()
    with pytest.raises(OptionError, match="csv"):
        respond_file(tmp_path / "lesions.csv", tmp_path / "response.xlsx")
    assert [p.name for p in tmp_path.iterdir()] == ["lesions.csv"]


# Rates and figures.
def test_rates_and_durable_benefit():
    exact = proportion(18, 60)
    assert (round(exact["low"], 4), round(exact["high"], 4)) == (0.1885, 0.4321)  # Clopper-Pearson, as R's binom.test
    assert durable_benefit([182, 183, 183, 100], [1, 1, 0, 0]).tolist() == [False, True, True, pd.NA]
    patients = responses(pd.concat([course([50, 30], "A"), course([50, 50], "B"), course([50, 70], "C")]))[1]
    assert response_rates(patients)["successes"].tolist() == [1, 2]


def test_targets_are_the_largest_two_an_organ_and_five_in_all():
    rows = [(f"{organ}{k}", organ, False, 40 - k) for organ in ("lung", "liver", "adrenal") for k in range(3)]
    lesions = pd.DataFrame(rows, columns=["lesion_id", "organ", "is_node", "diameter_mm"])
    chosen = select_targets(lesions)
    assert sorted(chosen.index[chosen == "target"]) == ["adrenal0", "adrenal1", "liver0", "liver1", "lung0"]


def test_figures_show_every_patient():
    rows = pd.concat([course([50, 30, 20], "A"), course([50, 50, 130], "B"), course([50, 40, 0], "C")])
    visits, patients = responses(rows)
    bars = plot_waterfall(patients).axes[0].patches
    assert [round(b.get_height()) for b in bars] == [0, -60, -100]
    assert len(plot_spider(visits, patients).axes[0].lines) >= 3
    assert len(plot_swimmer(visits, patients).axes[0].patches) == 3
