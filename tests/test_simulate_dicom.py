"DICOM written by the simulator, read back by the project's own readers: 0.5 HU, 0.01 SUVbw, mask exact."

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import grid_points_in_poly

from nsclc_radiomics.cohort.folder import load_cohort
from nsclc_radiomics.core.volume import grid_difference
from nsclc_radiomics.core.volume_files import read_volume
from nsclc_radiomics.loading.ct import read_ct
from nsclc_radiomics.loading.pet import read_pet
from nsclc_radiomics.loading.rtstruct import read_rtstruct
from nsclc_radiomics.loading.write_dicom import outlines
from nsclc_radiomics.simulation.cohort import simulate_cohort


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("dicom") / "cohort"
    return load_cohort(simulate_cohort(out, patients=6, external=2, seed=8, jobs=1, dicom=3, progress=False))


def test_patients_with_pet_come_first(cohort):
    written = sorted(p.name for p in (cohort.path / "dicom").iterdir())
    assert len(written) == 3 and sum(cohort.has(p, "pet") for p in written) == 3


def test_round_trip(cohort):
    for folder in sorted((cohort.path / "dicom").iterdir()):
        ct = read_ct(folder / "CT")
        wanted = read_volume(cohort.image_path(folder.name))
        assert grid_difference(ct, wanted) is None and np.abs(ct.array - wanted.array).max() <= 0.5
        contour = read_rtstruct(folder / "RTSTRUCT" / "on_ct.dcm", ct, "GTV-1")
        assert np.array_equal(contour.array.astype(bool), read_volume(cohort.mask_path(folder.name)).array.astype(bool))
        pet = read_pet(folder / "PT")
        wanted = read_volume(cohort.image_path(folder.name, "pet"))
        assert grid_difference(pet, wanted) is None and np.abs(pet.array - wanted.array).max() <= 0.01
        contour = read_rtstruct(folder / "RTSTRUCT" / "on_pet.dcm", pet, "GTV-1")
        assert np.array_equal(
            contour.array.astype(bool), read_volume(cohort.mask_path(folder.name, "pet")).array.astype(bool)
        )


def test_identifiers_are_whole_and_valid(cohort):
    files = sorted((cohort.path / "dicom").rglob("*.dcm"))
    heads = [pydicom.dcmread(f, stop_before_pixels=True) for f in files]
    uids = [str(h.SOPInstanceUID) for h in heads]
    assert len(set(uids)) == len(uids) and all(pydicom.uid.UID(u).is_valid for u in uids)
    for head in heads:
        assert head.PatientName.family_name == "SIMULATED" and "simulated" in head.SeriesDescription
        assert head.file_meta.MediaStorageSOPInstanceUID == head.SOPInstanceUID
    known = set(uids)
    for head in (h for h in heads if h.Modality == "RTSTRUCT"):
        for contour in head.ROIContourSequence[0].ContourSequence:
            assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID in known


@given(hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
@settings(max_examples=150, deadline=None)
def test_outlines_give_the_mask_back(mask):
    filled = np.zeros_like(mask)
    for line in outlines(mask):
        filled ^= grid_points_in_poly(mask.shape, line).astype(bool)
    assert np.array_equal(filled, mask)


def test_files_are_where_they_should_be(cohort):
    folder: Path = next((cohort.path / "dicom").iterdir())
    assert {p.name for p in folder.iterdir()} == {"CT", "PT", "RTSTRUCT"}
    assert len(list((folder / "CT").iterdir())) == read_volume(cohort.image_path(folder.name)).shape[0]
