"""Quality scores: every item's evidence can be found and can be missing,
and simulated patients earn nothing that only patients can."""

import csv

import pandas as pd
import pytest

from nsclc_radiomics.core.errors import OptionError
from nsclc_radiomics.core.files import reference_dir
from nsclc_radiomics.core.run import Run
from nsclc_radiomics.paper.checklists import (
    INSTRUMENTS,
    NOT_ON_PATIENTS,
    find_evidence,
    score_items,
    score_run,
    software_can,
    total_score,
)

RICH = {
    "eligibility",
    "reference_standard",
    "imaging_source",
    "acquisition",
    "imaging_interval_days",
    "test_segmentation",
    "confounders",
    "public",
}
RICH |= {"ethics", "design", "overlap", "segmented_by", "citation"}


def number(value: float, evidence: str) -> dict:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "evidence": evidence}


@pytest.fixture
def complete(tmp_path) -> Run:
    "A run folder that holds a file or a number for every atom of evidence."
    run = Run(tmp_path / "run")
    for instrument in INSTRUMENTS:
        for wanted in score_items(instrument)["evidence"]:
            for atom in wanted.replace(" or ", " and ").split(" and "):
                kind, _, rest = atom.partition(":")
                if kind == "numbers":
                    run.record({rest.split("~")[0].replace("*", "x"): number(0.7, "simulated")})
                elif kind != "cohort":
                    file = run.path / atom.replace("*", "x")
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.touch()
    run.record({"segmentation.x": number(0.8, "simulated"), "holdout.3d_cnn.auc": number(0.8, "simulated")})
    (run.path / "models/3d_cnn").mkdir(parents=True, exist_ok=True)
    return run


def meta(evidence: str) -> dict:
    return {"evidence": evidence, "centres": ["A", "B"], **dict.fromkeys(RICH, "said")}


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_all_evidence_on_real_patients_is_full_marks(complete, instrument):
    scored = score_run(complete, meta("real"), instrument)
    assert scored[scored["this run did"] != "yes"]["name"].tolist() == [] and total_score(scored) == pytest.approx(100)


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_the_same_on_simulated_patients_earns_no_point_that_only_patients_can(complete, instrument):
    scored = score_run(complete, meta("simulated"), instrument)
    patients = score_items(instrument)["patients"] == "yes"
    assert set(scored.loc[patients, "this run did"]) == {NOT_ON_PATIENTS}
    assert (scored.loc[~patients, "this run did"] == "yes").all() and total_score(scored) < 80


def test_external_testing_counts_when_it_was_on_real_patients(complete):
    before = score_run(complete, meta("simulated")).set_index("item")["this run did"][27]
    complete.record({"real.hospitals.external.volume.auc": number(0.7, "real")})
    assert (before, score_run(complete, meta("simulated")).set_index("item")["this run did"][27]) == (
        NOT_ON_PATIENTS,
        "yes",
    )


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_an_empty_run_earns_nothing(tmp_path, instrument):
    scored = score_run(Run(tmp_path / "empty"), {"evidence": "real"}, instrument)
    assert "yes" not in set(scored["this run did"]) and scored["evidence"].str.startswith("missing").all()


def test_what_the_paper_reports_is_no_evidence_of_this_run(tmp_path):
    run = Run(tmp_path / "run")
    run.record({"external.3d_cnn.auc": {"value": 0.92, "evidence": "reported"}})
    assert find_evidence("numbers:external.*.auc", run, run.numbers(), {}) == ""


def test_items_and_weights_are_those_published():
    place = reference_dir()
    if place is None or not (place.parent / "quality/metrics_items.csv").is_file():
        pytest.skip("metrics_items.csv is absent: it lies beside the reference data")
    with (place.parent / "quality/metrics_items.csv").open(encoding="utf-8") as lines:
        published = list(csv.DictReader(lines))
    mine = score_items("metrics")
    assert [(str(r["item"]), r["name"], float(r["weight"]), r["condition"]) for r in published] == [
        (str(r.item), r.name, r.weight, r.condition) for r in mine.itertuples(index=False)
    ]


def test_an_unknown_instrument_is_refused():
    with pytest.raises(OptionError, match="unknown instrument 'rqs'; expected one of metrics, clear"):
        score_items("rqs")


def test_items_that_do_not_apply_do_not_count():
    scored = pd.DataFrame(
        {
            "weight": [1.0, 3.0],
            "applies": [True, False],
            "this run did": ["yes", "does not apply"],
            "software can": ["yes", "no"],
        }
    )
    assert total_score(scored) == 100


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_what_an_item_names_as_software_is_in_the_package(instrument):
    named = [name for name in score_items(instrument)["software"] if name]
    assert len(named) > 15 and [name for name in named if not software_can(name)] == []
