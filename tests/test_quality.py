"""Quality report: each fault is found, the page holds what it should, and nothing stops the others."""

import html.parser
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nsclc_radiomics.cohort.folder import Cohort, load_cohort, save_cohort
from nsclc_radiomics.cohort.schema import PATIENT_COLUMNS
from nsclc_radiomics.cohort.splits import possible_folds
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import CohortError, DataError
from nsclc_radiomics.core.files import content_hash
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import write_volume
from nsclc_radiomics.features.robustness import training_tumours
from nsclc_radiomics.loading.quality import LEVELS, Limits, check_cohort, quality_measures, thumbnail
from nsclc_radiomics.loading.views import mask_sizes, plot_contact_sheet
from nsclc_radiomics.paper.scope import cohort_scope, examples, known_outcomes, scope_table

Z, Y, X = np.ogrid[-8:9, -12:13, -12:13]
INSIDE = Z**2 + Y**2 + X**2 <= 7**2
LUNG = np.where(INSIDE, 40, -850)
LPS = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def volume(array: np.ndarray, unit: str = "HU", **grid) -> Volume:
    return Volume(array, unit=unit, **grid)


def cohort_of(folder: Path, cases: dict[str, tuple[Volume, Volume]], modality: str = "ct", **columns) -> Path:
    for patient, (image, mask) in cases.items():
        write_volume(image, folder / f"images/{patient}/{modality}.nii.gz")
        write_volume(mask, folder / f"images/{patient}/{modality}_mask.nii.gz")
    table = pd.DataFrame(
        {
            "patient_id": list(cases),
            "centre": "A",
            "split": "train",
            "has_ct": modality == "ct",
            "has_pet": modality == "pet",
        }
    )
    save_cohort(
        folder,
        {"name": "<made> & up", "evidence": "simulated", "endpoint": columns.pop("endpoint", "none")},
        table.assign(**columns),
    )
    return folder


def noisy(seed: str) -> np.ndarray:
    return (LUNG + make_rng(1, "quality", seed).normal(0, 20, LUNG.shape)).astype(np.int16)


GOOD = volume(noisy("good")), volume(INSIDE)
FAULTS = {
    "grid": ((GOOD[0], volume(INSIDE, origin=(0, 0, 4))), "error", "geometry", "origin"),
    "empty": ((GOOD[0], volume(INSIDE & False)), "error", "file", "empty"),
    "label": ((GOOD[0], volume(INSIDE * np.uint8(255))), "error", "file", "255"),
    "constant": ((volume(LUNG * 0), GOOD[1]), "error", "intensity", "every voxel is 0"),
    "not_finite": ((volume(np.where(INSIDE, np.nan, LUNG)), GOOD[1]), "error", "file", "not finite"),
    "intercept": ((volume(noisy("b") + 1100), GOOD[1]), "warning", "intensity", "rescale intercept"),
    "elsewhere": (
        (GOOD[0], volume(np.roll(INSIDE, 9, axis=2) & ~INSIDE)),
        "warning",
        "intensity",
        "does it lie on the tumour",
    ),
    "padding": ((volume(np.where(Y < -10, -3024, noisy("c"))), GOOD[1]), "note", "intensity", "padding"),
    "metal": ((volume(np.where((Z == 0) & (Y == 11), 9000, noisy("d"))), GOOD[1]), "note", "intensity", "metal"),
    "thick": (
        (volume(noisy("e"), spacing=(1, 1, 6)), volume(INSIDE, spacing=(1, 1, 6))),
        "warning",
        "thickness",
        "6 mm",
    ),
    "small": ((volume(noisy("f")), volume(Z**2 + Y**2 + X**2 <= 4)), "warning", "mask", "ml"),
    "edge": ((volume(noisy("g")[:, 6:]), volume(INSIDE[:, 6:])), "warning", "mask", "edge"),
    "pieces": ((volume(noisy("h")), volume(INSIDE | (X == 12) & (Y == 0) & (Z == 0))), "note", "mask", "2 separate"),
    "flipped": (
        (
            volume(noisy("i"), direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1)),
            volume(INSIDE, direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1)),
        ),
        "note",
        "geometry",
        "RPS",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_the_good_one_is_not(tmp_path, fault):
    pair, level, check, words = FAULTS[fault]
    folder = cohort_of(tmp_path / "c", {"bad": pair, "good": (volume(noisy("other")), volume(INSIDE & (X < 7)))})
    findings = check_cohort(folder)
    found = findings[(findings.patient_id == "bad") & (findings.level == level) & (findings.check == check)]
    assert found.finding.str.contains(words).any(), findings.to_string()
    assert findings[(findings.patient_id == "good") & (findings.item == "ct")].empty


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.where(INSIDE, 6e4, 1e3), "Bq/ml"),
        (np.where(INSIDE, 0.4, 0.2), "does it lie on"),
        (np.where(INSIDE, 6.0, -1.0), "negative"),
    ],
)
def test_pet_that_is_no_suv(tmp_path, values, words):
    folder = cohort_of(tmp_path / "c", {"p": (volume(values.astype(np.float32), "SUVbw"), volume(INSIDE))}, "pet")
    assert check_cohort(folder).finding.str.contains(words).any()
    good = {"p": (volume(np.where(INSIDE, 6.0, 0.5), "SUVbw"), volume(INSIDE))}
    assert check_cohort(cohort_of(tmp_path / "d", good, "pet")).item.eq("clinical").all()


def test_duplicates_under_other_names(tmp_path):
    moved = tuple(volume(v.array, origin=(100, 0, 0)) for v in GOOD)
    other = volume(noisy("z"))
    findings = check_cohort(cohort_of(tmp_path / "c", {"a": GOOD, "b": moved, "c": (other, GOOD[1])}))
    twice = findings[findings.check == "duplicate"]
    assert [tuple(row) for row in twice[["patient_id", "level", "finding"]].itertuples(index=False)] == [
        ("a", "error", "the image has the same voxels as that of b"),
        ("b", "error", "the image has the same voxels as that of a"),
        ("a", "warning", "the mask has the same voxels as that of c"),
        ("b", "warning", "the mask has the same voxels as that of c"),
        ("c", "warning", "the mask has the same voxels as that of a, b"),
    ]


def test_missing_values_and_outcomes(tmp_path):
    cases = {p: (volume(noisy(p)), volume(INSIDE & (X < k))) for k, p in enumerate("abc", 5)}
    folder = cohort_of(tmp_path / "c", cases, endpoint="response", response=["PR", None, "SD"], age=[60, 61, None])
    found = check_cohort(folder)
    assert found[found.level == "warning"].patient_id.tolist() == ["b"]
    assert found[(found.patient_id == "c") & (found.item == "clinical")].finding.tolist() == ["not known: age"]
    general = found[found.patient_id == ""].finding.str.cat()
    assert "tmb" in general.split(", ") and "age" not in general.removeprefix("not known for any patient: ").split(", ")


def test_what_holds_for_all_is_said_once(tmp_path):
    grid = {"direction": (0, 1, 0, 0, 0, 1, 1, 0, 0)}
    cases = {p: (volume(noisy(p), **grid), volume(INSIDE & (X < k), **grid)) for k, p in enumerate("abc", 5)}
    found = check_cohort(cohort_of(tmp_path / "c", cases))
    geometry = found[found.check == "geometry"]
    assert (
        len(geometry) == 1
        and geometry.patient_id.iloc[0] == ""
        and geometry.finding.iloc[0].startswith("all patients: ")
    )


def test_worst_first_and_independent_of_workers(tmp_path):
    cases = {name: fault[0] for name, fault in FAULTS.items()}
    folder = cohort_of(tmp_path / "c", cases)
    one, two = (check_cohort(folder, tmp_path / f"q{jobs}", jobs=jobs) for jobs in (1, 2))
    assert one.equals(two) and content_hash(tmp_path / "q1") == content_hash(tmp_path / "q2")
    assert one.level.map(LEVELS.index).is_monotonic_increasing
    images = pd.read_csv(tmp_path / "q1/images.csv", index_col=0)
    assert list(images.index) == list(cases) and images.loc["thick", "slice_mm"] == 6


def test_truncated_and_missing_files_do_not_stop_the_others(tmp_path):
    folder = cohort_of(tmp_path / "c", {"a": GOOD, "b": (volume(noisy("z")), volume(INSIDE & (X < 5)))})
    image = folder / "images/a/ct.nii.gz"
    image.write_bytes(image.read_bytes()[:500])
    findings = check_cohort(folder)
    assert findings.iloc[0].patient_id == "a" and findings.iloc[0].level == "error"
    image.unlink()
    with pytest.raises(CohortError, match="images/a/ct.nii.gz is not there"):
        check_cohort(folder)


class Page(html.parser.HTMLParser):
    VOID = ("meta", "input", "image", "path", "br")

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_self_contained_and_escaped(tmp_path):
    cases = {name: fault[0] for name, fault in FAULTS.items()}
    check_cohort(cohort_of(tmp_path / "c", cases))
    text = (tmp_path / "c_quality/quality.html").read_text()
    page = Page()
    page.feed(text)
    assert not page.open
    figures = [a["data-id"] for tag, a in page.seen if tag == "figure"]
    assert figures == list(cases)
    drawn = [a for tag, a in page.seen if tag == "image"]
    assert len(drawn) == 2 * (len(cases) - 4) and all(a["href"].startswith("data:image/jpeg;base64,") for a in drawn)
    assert not re.search(r"https?://|src=|@import|url\(", text)
    assert "&lt;made&gt; &amp; up" in text and "<made>" not in text


def test_thumbnail_shows_the_patient_upright():
    array = np.full((20, 30, 40), -850, np.int16)
    array[:, :6] = 300  # bright in front
    mask = np.zeros(array.shape, bool)
    mask[8:12, 12:18, 16:24] = True
    straight = thumbnail(volume(array), volume(mask))
    # The same patient with array axes (y, x, z) and the direction that says so.
    turned = {"direction": (0, 1, 0, 0, 0, 1, 1, 0, 0)}
    other = thumbnail(
        volume(array.transpose(1, 2, 0).copy(), **turned), volume(mask.transpose(1, 2, 0).copy(), **turned)
    )
    assert straight == other


def test_measurements_of_an_oblique_grid():
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    grid = {"direction": (c, -s, 0, s, c, 0, 0, 0, 1), "spacing": (1, 2, 3)}
    measured = quality_measures(volume(LUNG, **grid), volume(INSIDE, **grid))
    assert (
        abs(measured["tilt_degrees"] - 20) < 1e-6
        and measured["volume_ml"] == INSIDE.sum() * 6 / 1000
        and measured["slice_mm"] == 3
    )


def test_limits_can_be_set(tmp_path):
    folder = cohort_of(tmp_path / "c", {"a": GOOD})
    assert not check_cohort(folder, limits=Limits()).check.eq("thickness").any()
    assert check_cohort(folder, limits=Limits(slice_mm=0.5)).check.eq("thickness").any()


def tables_of(endpoint: str = "response", lesions: bool = False, **columns) -> Cohort:
    """A cohort of tables alone, which has everything but lesions: ten training patients, four of a holdout, four of
    another centre.
    """
    known = {"age": 60.0, "pdl1_tps": 10.0, "time": 100.0, "event": True, "response": ["PR", "PD"] * 9}
    table = pd.DataFrame(
        {
            "patient_id": [f"p{k}" for k in range(18)],
            "centre": "A",
            "split": ["train"] * 10 + ["holdout"] * 4 + ["external"] * 4,
        }
    )
    table = table.assign(**{"has_ct": True, "has_pet": True, **known, **columns}).reindex(columns=list(PATIENT_COLUMNS))
    visits = pd.DataFrame({"patient_id": []}) if lesions else None
    return Cohort(Path("none"), {"name": "tables", "evidence": "real", "endpoint": endpoint}, table, visits)


FEW = ["PR"] * 3 + ["PD"] * 7 + ["PR", "PD"] * 4
AFTER_TRAINING = {
    "cost",
    "reduction",
    "training",
    "performance",
    "holdout",
    "external",
    "clinical",
    "markers",
    "groups",
    "maps",
}
LACKING = {
    "nothing": ({}, set(), ""),
    "ct": (
        {"has_ct": False},
        {"ct", "masks", "automatic", "features", "repeatability", "input"} | AFTER_TRAINING,
        "no patient has a CT",
    ),
    "pet": ({"has_pet": False}, {"pet"}, "no patient has a PET"),
    "endpoint": (
        {"endpoint": "none"},
        {"outcomes", "input", "response", "survival"} | AFTER_TRAINING,
        "no outcome is known",
    ),
    "a class": ({"response": "PR"}, AFTER_TRAINING, "one class only: all 10 training patients"),
    "responders": (
        {"response": FEW},
        AFTER_TRAINING,
        "fewer than 4 training patients with CT of a class: 3 of class 1, 7 of class 0",
    ),
    "new patients": (
        {"split": "train"},
        {"automatic", "cost", "holdout", "external", "maps"},
        "no holdout and no external patient",
    ),
    "training": (
        {"split": "holdout"},
        {"repeatability"} | AFTER_TRAINING,
        "no training patients with CT with a known outcome",
    ),
    "another centre": ({"split": ["train"] * 10 + ["holdout"] * 8}, {"external"}, "no external patients"),
    "follow-up": ({"time": None, "event": None}, {"survival", "groups"}, "no follow-up times"),
    "events": ({"event": False}, {"groups"}, "no progression or death"),
    "clinical variables": ({"age": None, "pdl1_tps": None}, {"clinical", "markers"}, "no clinical variables"),
}


@pytest.mark.parametrize("lacking", LACKING)
def test_what_a_cohort_can_show_and_what_is_missing(lacking):
    columns, absent, words = LACKING[lacking]
    cohort = tables_of(**columns)
    table = cohort_scope(cohort).table
    always = {"lesions", "worlds", "traits"}  # these tables have no lesions and are not simulated
    assert set(table.index[table.shown == "no"]) - always == absent
    assert not words or table.missing.str.contains(words, regex=False).any()
    assert (table.missing.eq("") == table.shown.eq("yes")).all() and set(known_outcomes(cohort).columns) >= {
        "split",
        "label",
        "time",
        "event",
    }


def test_scope_counts_the_ct_that_can_be_used():
    cohort = tables_of()
    scope = cohort_scope(cohort, unusable=["p0", "p2"])  # two of five responders
    assert "training" not in scope and "3 of class 1, 5 of class 0" in scope.table.missing["training"]
    with pytest.raises(DataError, match="3 of class 1"):
        scope.require("training")
    cohort_scope(cohort).require("training", [1])
    with pytest.raises(DataError, match="could not be made"):
        cohort_scope(cohort).require("training", None)


def test_examples_pass_over_patients_without_the_image():
    cohort = tables_of(has_ct=[False] + [True] * 17, has_pet=False)
    assert examples(cohort, known_outcomes(cohort), count=2).index.tolist() == ["p2", "p4", "p1", "p3"]
    unlabelled = tables_of(endpoint="none")
    assert examples(unlabelled, known_outcomes(unlabelled), count=2).index.tolist() == ["p0", "p1", "p2", "p3"]
    with pytest.raises(DataError, match="has a PET"):
        examples(cohort, known_outcomes(cohort), "pet")


def test_folds_follow_from_the_smaller_class():
    counts = {n: possible_folds(pd.Series([1] * n + [0] * 9)) for n in (4, 5, 20)}
    assert counts == {4: 4, 5: 5, 20: 5} and possible_folds(pd.Series([1, 1, 0, 0]), fewest=2) == 2
    for labels in ([1, 1, 1, 0, 0, 0, 0], [1] * 8, []):
        with pytest.raises(DataError, match="needs 4 patients of each class"):
            possible_folds(pd.Series(labels, dtype=float))


def test_the_report_says_what_the_chapters_can_show(tmp_path):
    cases = {p: (volume(noisy(p)), volume(INSIDE & (X < k))) for k, p in enumerate("abc", 5)} | {
        "bad": FAULTS["empty"][0]
    }
    folder = cohort_of(tmp_path / "c", cases, endpoint="response", response=["PR", "PD", "SD", "PD"])
    check_cohort(folder, chapters=scope_table)
    table = pd.read_csv(tmp_path / "c_quality/chapters.csv", keep_default_na=False)
    assert list(table.columns) == ["chapter", "part", "shown", "missing"]
    assert table.missing.str.contains(
        "fewer than 4 training patients with CT of a class: 1 of class 1, 2 of class 0"
    ).any()  # not the empty mask's
    assert "fewer than 4 training patients" in (tmp_path / "c_quality/quality.html").read_text()


def test_a_mask_that_cannot_be_used_costs_one_patient_and_no_chapter(tmp_path, capsys):
    cohort = load_cohort(cohort_of(tmp_path / "c", {"bad": FAULTS["empty"][0], "good": GOOD}))
    assert mask_sizes(cohort).index.tolist() == ["good"] and list(training_tumours(cohort)) == ["good"]
    fig = plot_contact_sheet(cohort, {"bad": "bad", "good": "good"}, columns=2)
    assert [bool(ax.images) for ax in fig.axes] == [False, True]
    assert capsys.readouterr().out.count("bad/ct_mask.nii.gz") == 3
