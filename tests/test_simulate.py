"The simulated cohort: same bytes, worlds, truth kept apart, DICOM, options, and that response is what was intended."

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import nsclc_radiomics
from nsclc_radiomics.cohort.folder import load_cohort
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import NsclcError, OptionError
from nsclc_radiomics.core.files import content_hash
from nsclc_radiomics.core.volume import grid_difference
from nsclc_radiomics.core.volume_files import read_volume
from nsclc_radiomics.outcomes.responses import responses
from nsclc_radiomics.simulation.cohort import _tables, change_world, read_truth, simulate_cohort
from nsclc_radiomics.simulation.phantom import CENTRES, EXTERNAL, SITES, Tumour, draw_scene, scan_ct, scan_pet
from nsclc_radiomics.simulation.trial import WORLDS, bayes_auc, draw_patients, respond_in, rho_for

SMALL = {"patients": 12, "external": 4, "seed": 5, "progress": False}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("simulated") / "cohort"
    return load_cohort(simulate_cohort(out, jobs=1, dicom=2, **SMALL))


@pytest.fixture(scope="module")
def tables() -> dict[str, tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]]:
    patients = draw_patients(700, 0, 11)
    return {world: _tables(patients, world, "paper", 11) for world in WORLDS}


def test_same_bytes_whatever_the_workers(cohort, tmp_path):
    twice = simulate_cohort(tmp_path / "twice", jobs=2, dicom=2, **SMALL)
    assert content_hash(twice) == content_hash(cohort.path)
    other = simulate_cohort(tmp_path / "other", jobs=1, **SMALL | {"seed": 6, "patients": 2, "external": 0})
    same = "images/sim0001/ct.nii.gz"
    assert content_hash(other / same) != content_hash(cohort.path / same)


def test_a_patient_does_not_depend_on_how_many_others_there_are(cohort, tmp_path):
    few = simulate_cohort(tmp_path / "few", jobs=1, **SMALL | {"patients": 1, "external": 1})
    mask = read_volume(few / "images/ext0001/ct_mask.nii.gz")
    assert np.array_equal(mask.array, read_volume(cohort.mask_path("ext0001")).array)


def test_changing_the_world_equals_simulating_it(cohort, tmp_path):
    linked = change_world(cohort.path, tmp_path / "linked", "null")
    drawn = simulate_cohort(tmp_path / "drawn", world="null", jobs=1, **SMALL)
    assert content_hash(linked) == content_hash(drawn)
    assert content_hash(linked / "images") == content_hash(cohort.path / "images")


def test_only_outcomes_and_markers_of_outcome_differ_between_worlds(tables):
    shared = [
        "patient_id",
        "centre",
        "split",
        "age",
        "sex",
        "smoking",
        "histology",
        "stage",
        "line_of_therapy",
        "has_pet",
        "treatment_start",
    ]
    claimed, null = (tables[w][0][shared] for w in ("claimed", "null"))
    pd.testing.assert_frame_equal(claimed, null)
    first = [t[1].groupby("patient_id").visit_date.min() for t in tables.values()]
    assert first[0].equals(first[1]) and first[0].equals(first[2])


def test_masks_lie_on_their_images_in_one_piece(cohort):
    for patient in cohort.ids:
        for modality in ("ct", "pet"):
            if cohort.has(patient, modality):
                image, mask = (
                    read_volume(cohort.image_path(patient, modality)),
                    read_volume(cohort.mask_path(patient, modality)),
                )
                assert grid_difference(image, mask) is None and set(np.unique(mask.array)) == {0, 1}
    assert cohort.patients.has_pet.sum() == round(0.3 * 12) + round(4 / 3)


@pytest.mark.parametrize(("world", "auc"), WORLDS.items())
def test_bayes_auc_is_what_a_large_draw_shows(world, auc):
    rng, n, rho = make_rng(0, "bayes", world), 300_000, rho_for(auc, 0.5)
    index, other = rng.normal(size=(2, n))
    response = rho * index + np.sqrt(1 - rho**2) * other > 0
    assert abs(roc_auc_score(response, index) - auc) < 0.004


@given(st.floats(0.0, 0.99), st.floats(0.1, 0.9))
@settings(max_examples=25, deadline=None)
def test_rho_and_auc_are_inverse(rho, share):
    auc = bayes_auc(rho, share)
    assert 0.5 - 1e-9 <= auc <= 1
    assert abs(bayes_auc(rho_for(max(auc, 0.5), share), share) - auc) < 1e-6


def test_worlds_discriminate_as_stated(tables):
    for world, (visible, _, truth) in tables.items():
        y = truth.responder_intended
        assert y.mean() == 0.6
        assert abs(roc_auc_score(y, truth.image_index) - WORLDS[world]) < 0.055
        assert abs(roc_auc_score(y, visible.pdl1_tps) - 0.74) < 0.055
        assert abs(roc_auc_score(y, visible.tmb) - 0.61) < 0.06
        assert abs(roc_auc_score(y, -truth.diameter_mm) - 0.5) < 0.1


def test_response_as_recorded_is_response_as_intended(tables):
    for world, (visible, lesions, truth) in tables.items():
        _, found = responses(lesions.assign(status=lesions.status.replace("", None)), visible)
        derived = found.set_index("patient_id").responder.reindex(truth.patient_id).to_numpy(bool)
        assert (derived == truth.responder_intended).mean() > 0.985
        assert abs(roc_auc_score(derived, truth.image_index) - WORLDS[world]) < 0.055


def test_lesions_are_those_of_a_trial(tables):
    visible, lesions, _ = tables["claimed"]
    first = lesions[lesions.visit_date == lesions.groupby("patient_id").visit_date.transform("min")]
    targets = first[first.role == "target"]
    assert targets.groupby("patient_id").size().between(1, 5).all() and set(targets.patient_id) == set(
        visible.patient_id
    )
    assert targets.groupby(["patient_id", "organ"]).size().max() <= 2
    assert (targets.diameter_mm >= np.where(targets.is_node, 15, 10)).all()
    dates = visible.set_index("patient_id")
    assert (lesions.visit_date <= lesions.patient_id.map(dates.last_contact_date)).all()
    assert dates.death_date.notna().mean() > 0.3 and dates.death_date.isna().mean() > 0.1
    gaps = (
        lesions.drop_duplicates(["patient_id", "visit_date"]).groupby("patient_id").visit_date.diff().dt.days.dropna()
    )
    assert gaps.median() in range(40, 66) and (gaps > 75).any()
    assert {"new", "non_target", "target"} == set(lesions.role)


def test_balance(tables):
    patients = draw_patients(100, 40, 3)
    answer = respond_in(patients, "claimed", "even", 3)
    assert answer[:100].sum() == 50 and answer[100:].sum() == 20


def test_truth_is_read_by_nothing_else(cohort):
    folder = Path(nsclc_radiomics.__file__).parent
    readers = {
        f.relative_to(folder).as_posix()
        for f in folder.rglob("*.py")
        if re.search(r"truth\.csv|_TRUTH|read_truth", f.read_text(encoding="utf-8"))
    }
    assert "simulation/cohort.py" in readers and readers <= {
        "_modidx.py",
        "simulation/cohort.py",
        "evaluation/recovery.py",
    }  # recovery: what a method found of the truth
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    again = load_cohort(cohort.path)
    again.image(again.ids[0])
    assert any(o.endswith("patients.csv") for o in opened) and not any(o.endswith("truth.csv") for o in opened)
    assert not set(read_truth(cohort.path).columns) & set(again.patients.columns)


def test_no_truth_without_a_simulation(tmp_path):
    with pytest.raises(OptionError, match="only simulated cohorts"):
        read_truth(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patients": -1}, "patients must be a whole number of 1 or more, got -1"),
        ({"patients": 0}, "patients"),
        ({"patients": 2.5}, "patients"),
        ({"patients": True}, "patients"),
        ({"external": -3}, "external"),
        ({"seed": -1}, "seed"),
        ({"world": "paradise"}, "claimed, published, null"),
        ({"balance": "odd"}, "paper, even"),
        ({"jobs": 0}, "jobs"),
        ({"dicom": -1}, "dicom"),
        ({"dicom": 9, "patients": 4, "external": 2}, "only 6"),
        ({"patients": 100_000}, "9999"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(tmp_path, options, said):
    with pytest.raises(OptionError, match=re.escape(said)):
        simulate_cohort(tmp_path / "out", **{"progress": False} | options)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OptionError, match="not an empty folder"):
        simulate_cohort(tmp_path, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_when_drawing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "nsclc_radiomics.simulation.cohort.write_volume", lambda *a: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        simulate_cohort(tmp_path / "out", jobs=1, **SMALL)
    assert not list(tmp_path.iterdir())


@given(
    st.floats(10, 70),
    st.lists(st.floats(-3, 3), min_size=5, max_size=5),
    st.sampled_from(SITES),
    st.sampled_from([*CENTRES.values(), EXTERNAL]),
    st.booleans(),
    st.integers(0, 1000),
)
@example(10.0, [0.0] * 5, "parenchyma", CENTRES["D"], False, 0)  # a centimetre in slices of half a centimetre
@settings(max_examples=8, deadline=None)
def test_any_tumour_can_be_drawn(diameter, traits, site, scanner, part_solid, seed):
    tumour = Tumour(diameter, *traits, part_solid=part_solid, site=site)
    scene = draw_scene(tumour, scanner, make_rng(seed, "scene"))
    ct, mask = scan_ct(scene, scanner, make_rng(seed, "ct"))
    assert ct.spacing == (scanner.pixel_mm, scanner.pixel_mm, scanner.slice_mm)
    thick = diameter < 6 * scanner.slice_mm  # a slice that is half tumour and half lung lies between their densities
    assert mask.array.sum() >= 8 and (-400 if thick else -60) < ct.array[mask.array].mean() < 110
    edges = np.concatenate([mask.array[:, i].ravel() for i in (0, -1)] + [mask.array[:, :, i].ravel() for i in (0, -1)])
    assert (
        not edges.any() or diameter > 60
    )  # the field holds the whole tumour, but for lobes that reach far out of the largest
    pet, where = scan_pet(scene, scanner, make_rng(seed, "pet"))
    assert where.array.any() and np.isfinite(pet.array).all() and pet.array.min() >= 0


def test_errors_are_the_projects():
    with pytest.raises(NsclcError):
        respond_in(draw_patients(5, 0, 1), "hoped", "paper", 1)
