"""Importing: what notebook cells do badly - identity, pairing in odd trees, downloads, interruption, damaged files."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from importing_tools import CT, INSIDE, MASK, PET, SUV, damage, patient_tree, square, write_rtstruct

from nsclc_radiomics.cohort.folder import load_cohort
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import CohortError, DataError, MissingDependencyError, NsclcError, OptionError
from nsclc_radiomics.core.files import content_hash
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import read_volume, write_volume
from nsclc_radiomics.loading import idc
from nsclc_radiomics.loading.hospital import import_dicom
from nsclc_radiomics.loading.idc import collection_id, fetch_collection, list_collection
from nsclc_radiomics.loading.import_record import key_path, report_path
from nsclc_radiomics.loading.mask import read_mask
from nsclc_radiomics.loading.owkin import import_owkin
from nsclc_radiomics.loading.quality import check_cohort
from nsclc_radiomics.loading.seg import write_seg
from nsclc_radiomics.loading.tables import import_nifti
from nsclc_radiomics.loading.write_dicom import write_series


def voxels(cohort: Path, patient: str, modality: str = "ct") -> np.ndarray:
    return read_mask(load_cohort(cohort).mask_path(patient, modality)).array


def reasons(table: pd.DataFrame) -> str:
    return "\n".join(table.loc[~table.taken, "reason"])


# ---- identity ----


def test_no_identity_in_any_byte_of_the_cohort(tmp_path):
    secret = {
        "PatientName": "Xylander^Quirin",
        "PatientID": "MRN77401",
        "PatientBirthDate": "19520317",
        "StudyDate": "20191123",
        "SeriesDate": "20191124",
        "AcquisitionDate": "20191125",
        "InstitutionName": "Kreuzspital",
        "ReferringPhysicianName": "Zwingli^Ulrich",
        "AccessionNumber": "ACC55012",
        "StudyInstanceUID": "1.2.826.55.1",
        "SeriesInstanceUID": "1.2.826.55.2",
        "StudyDescription": "Thoraxfrage",
        "FrameOfReferenceUID": "1.2.826.55.3",
        "PatientAge": "091Y",
    }
    tree = tmp_path / "Xylander"
    write_series(CT, tree / "ct", attributes=secret)
    write_rtstruct(tree / "rs.dcm", tree / "ct", {"GTV-1": [square(4.5, 4)]})
    clinical = tmp_path / "clinical.csv"
    clinical.write_text(
        "patient_id,histology,treatment_start,death_date,surname\nMRN77401,adenocarcinoma,2019-12-02,2020-03-09,Xylander\n",
        encoding="utf-8",
    )
    out = tmp_path / "cohort"
    import_dicom(tree, out, clinical=clinical, endpoint="two_year_survival")
    words = list(secret.values()) + [
        "Xylander",
        "Quirin",
        "Zwingli",
        "2019-12-02",
        "2020-03-09",
        "2019-11",
        "091Y",
        str(tmp_path),
    ]
    files = [f for f in out.rglob("*") if f.is_file()]
    assert len(files) == 4
    for file in files:
        data = file.read_bytes()
        content = (gzip.decompress(data) if file.suffix == ".gz" else data) + data + str(file.relative_to(out)).encode()
        assert not [w for w in words if w.encode().lower() in content.lower()], file
    row = load_cohort(out).row("P0001")
    assert (row.death_date - row.treatment_start).days == 98 and np.isnan(row.age)
    key = key_path(out)
    assert "MRN77401" in key.read_text() and key.stat().st_mode & 0o077 == 0


def test_keep_ids_keeps_ids_and_dates(tmp_path):
    patient_tree(tmp_path / "tree", "LUNG1-001", StudyDate="20191123")
    import_dicom(tmp_path / "tree", tmp_path / "c", keep_ids=True)
    cohort = load_cohort(tmp_path / "c")
    assert cohort.ids == ["LUNG1-001"] and str(cohort.patients.scan_date[0]) == "20191123"
    assert not key_path(tmp_path / "c").exists()


def test_an_id_that_cannot_name_a_folder_leaves_the_others(tmp_path):
    patient_tree(tmp_path / "tree/a", "../../etc")
    patient_tree(tmp_path / "tree/b", "ok")
    table = import_dicom(tmp_path / "tree", tmp_path / "c", keep_ids=True)
    assert load_cohort(tmp_path / "c").ids == ["ok"] and "'../../etc' cannot name a folder" in reasons(table)


def test_key_is_never_overwritten_nor_inside_the_cohort(tmp_path):
    patient_tree(tmp_path / "tree", "a")
    import_dicom(tmp_path / "tree", tmp_path / "c")
    shutil.rmtree(tmp_path / "c")
    with pytest.raises(OptionError, match="may be the only key"):
        import_dicom(tmp_path / "tree", tmp_path / "c")
    with pytest.raises(OptionError, match="outside the cohort"):
        import_dicom(tmp_path / "tree", tmp_path / "c", key=tmp_path / "c" / "sub" / "key.csv")
    assert not (tmp_path / "c").exists()


def test_pseudonyms_follow_the_ids_not_the_order_of_files(tmp_path):
    for name, patients in (("one", ("b", "a")), ("two", ("a", "b"))):
        for k, p in enumerate(patients):
            patient_tree(tmp_path / name / f"{k}", p)
        import_dicom(tmp_path / name, tmp_path / f"{name}_c")
    keys = [key_path(tmp_path / f"{n}_c").read_text() for n in ("one", "two")]
    assert keys[0] == keys[1] == "patient_id,original_id\nP0001,a\nP0002,b\n"


def test_without_patient_id_studies_are_never_merged(tmp_path):
    for k in "ab":
        patient_tree(tmp_path / "tree" / k, "")
    import_dicom(tmp_path / "tree", tmp_path / "c")
    assert load_cohort(tmp_path / "c").ids == ["P0001", "P0002"]


# ---- pairing ----


def test_messy_tree_pairs_ct_pet_and_outline(tmp_path):
    tree = patient_tree(tmp_path / "tree/x", "a", pet=True)
    loose = list(tree.rglob("*.dcm"))
    for k, file in enumerate(make_rng(1, "shuffle").permutation(loose)):
        file.rename(tmp_path / "tree" / f"IM{k:05d}")  # all in one folder, no endings, in no order
    (tmp_path / "tree/notes.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "tree/DICOMDIR").write_bytes(b"")
    table = import_dicom(tmp_path / "tree", tmp_path / "c")
    cohort = load_cohort(tmp_path / "c")
    assert np.array_equal(cohort.image("P0001").array, CT.array)
    assert np.abs(cohort.image("P0001", "pet").array - PET.array).max() < 1e-3
    assert voxels(tmp_path / "c", "P0001").sum() == 9 * 9 * 3
    assert np.array_equal(voxels(tmp_path / "c", "P0001"), voxels(tmp_path / "c", "P0001", "pet"))
    assert set(table[~table.taken].item) == {"file"} and len(table[~table.taken]) == 2


def test_outline_goes_to_the_series_it_names(tmp_path):
    common = {"PatientID": "a", "FrameOfReferenceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    write_series(CT, tmp_path / "t/ct1", attributes=common)
    write_series(CT.with_array(CT.array + 7), tmp_path / "t/ct2", attributes=common)
    write_rtstruct(tmp_path / "t/rs.dcm", tmp_path / "t/ct2", {"GTV": [square(4.5, 4)]})
    table = import_dicom(tmp_path / "t", tmp_path / "c")
    assert load_cohort(tmp_path / "c").image("P0001").array.max() == 47
    assert "no outline belongs to it" in reasons(table)


@pytest.mark.parametrize("count", [1, 2])
def test_outline_by_frame_of_reference_only_where_one_series_has_it(tmp_path, count):
    common = {"PatientID": "a", "FrameOfReferenceUID": "1.2.3", "StudyInstanceUID": "1.2.4"}
    for k in range(count):
        write_series(CT, tmp_path / f"t/ct{k}", attributes=common)
    write_rtstruct(tmp_path / "t/rs.dcm", tmp_path / "t/ct0", {"GTV": [square(4.5, 4)]}, refer=False)
    if count == 1:
        table = import_dicom(tmp_path / "t", tmp_path / "c")
        assert "same frame of reference" in table[table.item == "ct"].reason.iloc[0]
    else:
        with pytest.raises(CohortError, match="2 CT series share its frame of reference"):
            import_dicom(tmp_path / "t", tmp_path / "c")
        assert not (tmp_path / "c").exists() and report_path(tmp_path / "c").exists()


def test_outline_of_another_patient_is_never_taken(tmp_path):
    write_series(CT, tmp_path / "t/ct", attributes={"PatientID": "a"})
    write_rtstruct(tmp_path / "t/rs.dcm", tmp_path / "t/ct", {"GTV": [square(4.5, 4)]}, PatientID="b")
    with pytest.raises(CohortError, match="the image it was drawn on is not there"):
        import_dicom(tmp_path / "t", tmp_path / "c")


def test_earliest_ct_is_taken_even_when_it_cannot_be_read(tmp_path):
    patient_tree(tmp_path / "t/later", "a", StudyDate="20240301", SeriesDate="20240301", AcquisitionDate="20240301")
    first = patient_tree(
        tmp_path / "t/first", "a", StudyDate="20240201", SeriesDate="20240201", AcquisitionDate="20240201"
    )
    patient_tree(tmp_path / "t/b", "b")
    table = import_dicom(tmp_path / "t", tmp_path / "c")
    assert Path(table[table.taken & (table.item == "ct")].source.iloc[0]).parts[-3] == "first"
    sorted((first / "ct").glob("*.dcm"))[4].unlink()
    table = import_dicom(tmp_path / "t", tmp_path / "c2")
    assert load_cohort(tmp_path / "c2").ids == ["P0002"]  # a later scan does not stand in for the first
    assert "slice is missing" in reasons(table) and "a later CT of this patient" in reasons(table)


UNDATED = dict.fromkeys(
    ("StudyDate", "SeriesDate", "AcquisitionDate", "StudyTime", "SeriesTime", "AcquisitionTime"), None
)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (UNDATED, UNDATED, "2 of them have no date"),
        (UNDATED, {}, "1 of them have no date"),
        ({}, {}, "none of them earlier"),
        ({"AcquisitionTime": "110000.000"}, {"AcquisitionTime": "110000"}, "none of them earlier"),
        ({"AcquisitionTime": None, "SeriesTime": None, "StudyTime": None}, {}, "none of them earlier"),
    ],
)
def test_cts_of_unknown_order_leave_the_patient_out(tmp_path, first, second, reason):
    for k, given in (("x", first), ("y", second)):
        patient_tree(tmp_path / "t" / k, "a", **given)
    with pytest.raises(CohortError, match=reason):
        import_dicom(tmp_path / "t", tmp_path / "c")


def test_earlier_on_the_same_day(tmp_path):
    for k, clock in (("x", "110500"), ("y", "093000.5")):
        patient_tree(tmp_path / "t" / k, "a", AcquisitionTime=clock)
    table = import_dicom(tmp_path / "t", tmp_path / "c")
    assert Path(table[table.taken & (table.item == "ct")].source.iloc[0]).parts[-3] == "y"


def test_names_that_match_twice_are_told_and_chosen_or_merged(tmp_path):
    tree = tmp_path / "t"
    write_series(CT, tree / "ct", attributes={"PatientID": "a"})
    rois = {"GTV left": [square(3.5, 4, (6, 12))], "GTV right": [square(2.5, 4, (18, 12))], "GTV none": []}
    write_rtstruct(tree / "rs.dcm", tree / "ct", rois)
    with pytest.raises(CohortError, match="2 names match .GTV left, GTV right"):
        import_dicom(tree, tmp_path / "c")
    import_dicom(tree, tmp_path / "c1", roi="gtv R*")
    assert voxels(tmp_path / "c1", "P0001").sum() == 25
    import_dicom(tree, tmp_path / "c2", merge=True)
    assert voxels(tmp_path / "c2", "P0001").sum() == 49 + 25
    with pytest.raises(CohortError, match="no name matches; it offers GTV left, GTV right"):
        import_dicom(tree, tmp_path / "c3", roi="CTV*")


def test_several_outlines_of_one_image(tmp_path):
    tree = patient_tree(tmp_path / "t", "a")
    write_seg(MASK, tree / "ct", tree / "seg.dcm", "GTV-1")
    table = import_dicom(tree, tmp_path / "c")  # a structure set before a segmentation
    assert voxels(tmp_path / "c", "P0001").sum() == 243 and "structure set of the same image" in reasons(table)
    write_rtstruct(tree / "rs2.dcm", tree / "ct", {"gtv-1": [square(4.5, k) for k in (3, 4, 5)]})
    table = import_dicom(tree, tmp_path / "c2")
    assert "the same outline again" in reasons(table) and voxels(tmp_path / "c2", "P0001").sum() == 243
    write_rtstruct(tree / "rs3.dcm", tree / "ct", {"GTV": [square(2.5, 4)]})
    with pytest.raises(CohortError, match="3 different outlines"):
        import_dicom(tree, tmp_path / "c3")
    shutil.rmtree(tree / "ct")
    with pytest.raises(CohortError, match="image it was drawn on is not there"):
        import_dicom(tree, tmp_path / "c4")


def test_pet_with_its_own_outline_and_uncorrected_pet(tmp_path):
    tree = patient_tree(tmp_path / "t", "a", pet=True)
    common = _header(tree / "ct")
    write_series(PET, tree / "nac", "PT", {**common, **SUV, "CorrectedImage": ["DECY"]})
    import_dicom(tree, tmp_path / "c")  # of two PETs, the one corrected for attenuation
    assert load_cohort(tmp_path / "c").has("P0001", "pet")
    write_series(PET, tree / "third", "PT", {**common, **SUV})
    table = import_dicom(tree, tmp_path / "c2")
    assert not load_cohort(tmp_path / "c2").has("P0001", "pet") and "3 PT series share" in reasons(table)
    write_rtstruct(tree / "rs_pet.dcm", tree / "third", {"GTV_PET": [square(2.5, 4)]})
    import_dicom(tree, tmp_path / "c3")
    assert voxels(tmp_path / "c3", "P0001", "pet").sum() == 25 and voxels(tmp_path / "c3", "P0001").sum() == 243


def _header(folder: Path) -> dict:
    header = pydicom.dcmread(min(folder.glob("*.dcm")), stop_before_pixels=True)
    return {k: str(header.get(k)) for k in ("PatientID", "FrameOfReferenceUID", "StudyInstanceUID")}


def test_ct_takes_the_outline_drawn_on_its_pet(tmp_path):
    tree = patient_tree(tmp_path / "t", "a", pet=True)
    (tree / "rs.dcm").unlink()
    write_rtstruct(tree / "rs.dcm", tree / "pet", {"GTV": [square(4.5, k) for k in (3, 4, 5)]})
    table = import_dicom(tree, tmp_path / "c")
    assert voxels(tmp_path / "c", "P0001").sum() == 243
    assert "moved from the PT" in table[table.item == "ct"].reason.iloc[0]


def test_clinical_table_joins_by_the_hospitals_ids(tmp_path):
    for p in "ab":
        patient_tree(tmp_path / "t" / p, p, PatientAge="060Y", PatientSex="M")
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("patient_id,age,response,split,ward\na,61.5,PR,holdout,7\nz,40,PD,train,7\n")
    lesions = tmp_path / "lesions.csv"
    lesions.write_text(
        "patient_id,visit_date,lesion_id,role,diameter_mm\na,2021-04-01,1,target,31\na,2021-06-01,1,target,20\n"
    )
    table = import_dicom(
        tmp_path / "t", tmp_path / "c", clinical=clinical, lesions=lesions, endpoint="response", centre="Bern"
    )
    cohort = load_cohort(tmp_path / "c")
    assert cohort.row("P0001").age == 61.5 and cohort.row("P0002").age == 60 and cohort.row("P0001").sex == "M"
    assert (
        cohort.row("P0001").split == "holdout"
        and cohort.row("P0002").split == "train"
        and set(cohort.patients.centre) == {"Bern"}
    )
    assert cohort.lesions.visit_date.diff().dt.days.iloc[1] == 61 and cohort.lesions.visit_date.dt.year.max() == 2000
    assert "patient 'z' of clinical.csv has no DICOM series" in reasons(table) and "ward" in reasons(table)


def test_result_does_not_depend_on_workers(tmp_path):
    for p in "abc":
        patient_tree(tmp_path / "t" / p, p)
    tables = [import_dicom(tmp_path / "t", tmp_path / f"c{jobs}", jobs=jobs) for jobs in (1, 2)]
    assert tables[0].equals(tables[1]) and content_hash(tmp_path / "c1") == content_hash(tmp_path / "c2")


# ---- the Owkin challenge ----


@pytest.fixture
def challenge(tmp_path) -> Path:
    src = tmp_path / "x_train"
    (src / "images").mkdir(parents=True)
    (src / "features").mkdir()
    for n in (2, 7):
        np.savez_compressed(src / f"images/patient_{n:03d}.npz", scan=(CT.array + n).astype(np.int16), mask=INSIDE)
    (src / "features/clinical_data.csv").write_text(
        "PatientID,Histology,Mstage,Nstage,SourceDataset,Tstage,age\n2,Adenocarcinoma,0,0,l1,3,\n007,Squamous cell"
        " carcinoma,0,2,l2,1,70\n"
    )
    (src / "output.csv").write_text("PatientID,SurvivalTime,Event\n7,100,1\n2,900,0\n")
    return src


def test_owkin_joins_by_number_and_takes_the_folder_above(challenge, tmp_path):
    import_owkin(challenge.parent, tmp_path / "c", split="external")
    cohort = load_cohort(tmp_path / "c")
    assert cohort.ids == ["patient_002", "patient_007"] and cohort.patients.time.tolist() == [900, 100]
    assert cohort.patients.event.tolist() == [False, True] and set(cohort.patients.split) == {"external"}
    assert cohort.meta["evidence"] == "real" and np.array_equal(cohort.image("patient_007").array, CT.array + 7)


def test_owkin_without_outcomes_and_with_strays(challenge, tmp_path):
    (challenge / "output.csv").unlink()
    shutil.copy(challenge / "images/patient_002.npz", challenge / "images/patient_009.npz")
    (challenge / "images/patient_007.npz").unlink()
    table = import_owkin(challenge, tmp_path / "c")
    assert load_cohort(tmp_path / "c").meta["endpoint"] == "none"
    assert table.set_index("patient_id").taken.to_dict() == {
        "patient_009": False,
        "patient_002": True,
        "patient_007": False,
    }


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"scan": CT.array}, "mask"),
        ({"scan": CT.array[1:], "mask": INSIDE}, "one 3-D shape"),
        ({"scan": CT.array[0], "mask": INSIDE[0]}, "one 3-D shape"),
        ({"scan": CT.array, "mask": INSIDE * 255}, "other values than 0 and 1"),
        ({"scan": np.where(INSIDE, np.nan, CT.array), "mask": INSIDE}, "not finite"),
        ({"scan": np.array([{}], object), "mask": INSIDE}, "cannot be read"),
    ],
)
def test_owkin_refuses_what_is_no_image_and_mask(challenge, tmp_path, arrays, message):
    np.savez(challenge / "images/patient_002.npz", **arrays)
    table = import_owkin(challenge, tmp_path / "c")
    assert message in reasons(table) and load_cohort(tmp_path / "c").ids == ["patient_007"]


@pytest.fixture(scope="module")
def owkin(reference, tmp_path_factory):
    "The reference's real patients, imported once: the table of what was taken, and the cohort."
    folder = tmp_path_factory.mktemp("owkin") / "c"
    return import_owkin(reference / "owkin", folder), load_cohort(folder)


def test_owkin_reference(owkin, reference):
    table, cohort = owkin
    assert sorted(table[~table.taken].patient_id) == ["patient_003", "patient_256"] and table.taken.sum() == 200
    assert cohort.meta["endpoint"] == "two_year_survival" and cohort.patients.centre.value_counts().to_dict() == {
        "NSCLC-Radiomics": 133,
        "NSCLC-Radiogenomics": 67,
    }
    outcome = pd.read_csv(reference / "owkin/x_train/output.csv", index_col=0)
    for patient in cohort.ids[::20]:
        stored = np.load(reference / f"owkin/x_train/images/{patient}.npz")
        assert np.array_equal(cohort.image(patient).array, stored["scan"]) and np.array_equal(
            voxels(cohort.path, patient), stored["mask"]
        )
        assert cohort.row(patient).time == outcome.SurvivalTime[int(patient[-3:])]


def test_owkin_reference_is_checked(owkin, reference):
    found = check_cohort(owkin[1].path)
    edge = found[found.finding.str.contains("touches the edge")]
    expected = []
    for patient in owkin[1].ids:
        mask = np.load(reference / f"owkin/x_train/images/{patient}.npz")["mask"]
        expected += [patient] if mask[1:-1, 1:-1, 1:-1].sum() != mask.sum() else []
    assert edge.patient_id.tolist() == expected and not found.level.eq("error").any()


# ---- tables of files ----


def _files(tmp_path: Path, image: Volume = CT, mask: Volume = MASK) -> Path:
    write_volume(image, tmp_path / "files/ct.nrrd")
    write_volume(mask, tmp_path / "files/m.nii.gz")
    (tmp_path / "files/t.csv").write_text("patient_id,ct,ct_mask,pet,pet_mask\nx y/1,ct.nrrd,m.nii.gz,,\n")
    return tmp_path / "files/t.csv"


def test_values_are_kept_exactly(tmp_path):
    fractional = CT.with_array(CT.array.astype(np.float32) + 0.25)
    for name, image, kind in (
        ("whole", CT, np.int16),
        ("parts", fractional, np.float32),
        ("wide", CT.with_array(CT.array * 100), np.float32),
    ):
        import_nifti(_files(tmp_path / name, image), tmp_path / name / "c")
        stored = load_cohort(tmp_path / name / "c").image("P0001")
        assert stored.array.dtype == kind and np.array_equal(stored.array, image.array)


def test_mask_values_are_explained_not_guessed(tmp_path):
    table = _files(tmp_path, mask=MASK.with_array(INSIDE.astype(np.uint8) * 255))
    with pytest.raises(CohortError, match="255"):
        import_nifti(table, tmp_path / "c")
    import_nifti(table, tmp_path / "c", label=255)
    assert np.array_equal(voxels(tmp_path / "c", "P0001"), INSIDE)


def test_nifti_refuses_images_that_are_not_finite(tmp_path):
    with pytest.raises(CohortError, match="not finite"):
        import_nifti(_files(tmp_path, CT.with_array(np.where(INSIDE, np.nan, CT.array))), tmp_path / "c")


def test_nifti_keeps_ct_where_pet_fails(tmp_path):
    table = _files(tmp_path)
    table.write_text("patient_id,ct,ct_mask,pet,pet_mask,response\na,ct.nrrd,m.nii.gz,gone.nii.gz,m.nii.gz,PR\n")
    done = import_nifti(table, tmp_path / "c", endpoint="response")
    cohort = load_cohort(tmp_path / "c")
    assert cohort.has("P0001") and not cohort.has("P0001", "pet") and "gone.nii.gz: no such file" in reasons(done)


@pytest.mark.parametrize(
    "content", ["", "patient_id\n", "patient_id,ct\na,b\n", "\x00\xff", "a,b\n1\n", 'patient_id,ct,ct_mask\n"a,b,c\n']
)
def test_tables_that_are_none_are_refused(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CohortError, match="t.csv"):
        import_nifti(path, tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv"]


def test_endpoint_that_the_table_cannot_give_is_refused(tmp_path):
    with pytest.raises(CohortError, match="endpoint 'response' needs"):
        import_nifti(_files(tmp_path), tmp_path / "c", endpoint="response")
    assert not (tmp_path / "c").exists() and not key_path(tmp_path / "c").exists()


# ---- public collections ----


def test_index_is_read_offline():
    table = list_collection("NSCLC-Radiomics").set_index(["annotations", "Modality"])
    assert table.loc[("", "CT"), "patients"] == 422 and table.loc[("", "RTSTRUCT"), "licence"] == "CC BY-NC 3.0"
    for name in ("NSCLC-Radiogenomics", "Anti-PD-1_Lung", "RIDER Lung CT"):
        assert collection_id(name) == name.lower().replace("-", "_").replace(" ", "_")


def test_offline_is_said_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(idc, "_STORE", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="needs a network"):
        fetch_collection("NSCLC-Radiomics", tmp_path / "c", patients=1, yes=True)
    assert not (tmp_path / "c").exists()


def test_nothing_is_downloaded_unasked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(idc, "_fetcher", lambda: pytest.fail("downloaded"))
    with pytest.raises(OptionError, match="nothing was downloaded"):
        fetch_collection("NSCLC-Radiomics", tmp_path / "c", patients=2)
    assert "CC BY-NC 3.0" in capsys.readouterr().out
    for options in ({"patients": 0}, {"annotations": ["by nobody"]}):
        with pytest.raises(OptionError):
            fetch_collection("NSCLC-Radiomics", tmp_path / "c", **options)
    with pytest.raises(OptionError, match="nsclc_radiomics"):
        fetch_collection("NSCLC-Radiomic", tmp_path / "c")


def test_without_the_index_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "idc_index_data", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        list_collection("NSCLC-Radiomics")


def test_download_resumes_and_imports(tmp_path, monkeypatch):
    source = patient_tree(tmp_path / "store", "LUNG1-001")
    rows = [
        {
            "PatientID": "LUNG1-001",
            "StudyInstanceUID": "1",
            "SeriesInstanceUID": uid,
            "Modality": m,
            "instanceCount": n,
            "series_size_MB": 0.1,
            "license_short_name": "CC BY 3.0",
            "source_DOI": "10.1/x",
            "analysis_result_id": None,
            "outline": m == "RTSTRUCT",
        }
        for uid, m, n in (("ct", "CT", 9), ("rs", "RTSTRUCT", 1))
    ]
    asked, broken = [], [True]

    def fetch(uid: str, folder: Path) -> None:
        asked.append(uid)
        files = sorted((source / "ct").iterdir()) if uid == "ct" else [source / "rs.dcm"]
        for file in files[: 0 if uid == "rs" and broken.pop() else None]:
            shutil.copy(file, folder / file.name)

    monkeypatch.setattr(idc, "collection_series", lambda *_: pd.DataFrame(rows))
    monkeypatch.setattr(idc, "_collection_meta", lambda *_: ("Lung", {"licence": "CC BY 3.0"}))
    monkeypatch.setattr(idc, "_check_online", lambda: None)
    monkeypatch.setattr(idc, "_fetcher", lambda: fetch)
    with pytest.raises(DataError, match="0 of 1 files"):
        fetch_collection("Lung", tmp_path / "c", yes=True)
    assert not (tmp_path / "c").exists() and asked == ["ct", "rs"]
    broken.append(False)
    fetch_collection("Lung", tmp_path / "c", yes=True)
    assert asked == ["ct", "rs", "rs"]  # what was complete is not fetched again
    cohort = load_cohort(tmp_path / "c")
    assert cohort.ids == ["LUNG1-001"] and cohort.meta["licence"] == "CC BY 3.0" and cohort.meta["evidence"] == "real"


# ---- interruption and damage ----


def test_killed_import_leaves_no_cohort(tmp_path):
    for k in range(8):
        patient_tree(tmp_path / "t" / str(k), f"p{k}")
    code = (
        "import sys; from nsclc_radiomics.loading.hospital import import_dicom; import_dicom(sys.argv[1], sys.argv[2])"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "t"), str(tmp_path / "c")], env=os.environ)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".c.*/images/*/ct.nii.gz")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "c").exists() and not key_path(tmp_path / "c").exists()
    import_dicom(tmp_path / "t", tmp_path / "c")
    assert len(load_cohort(tmp_path / "c").ids) == 8


def _either_whole_or_not_there(call: Callable[[], object], out: Path) -> bool:
    "Run an import on damaged data: a cohort that loads with readable images, or one of our errors and nothing at all."
    before = time.process_time()
    try:
        call()
    except NsclcError as error:
        assert str(error) and not out.exists()
        return False
    finally:
        assert time.process_time() - before < 30
        assert not list(out.parent.glob(".*")), "left something behind"
    cohort = load_cohort(out)
    for patient in cohort.ids:
        for modality in ("ct", "pet"):
            if cohort.has(patient, modality):
                image = cohort.image(patient, modality)
                assert (
                    np.isfinite(image.array).all() and read_mask(cohort.mask_path(patient, modality), image).array.any()
                )
    return True


FUZZ = int(os.environ.get("NSCLC_FUZZ", "1"))  # multiplies the number of cases


def test_damaged_dicom_trees(tmp_path):
    tree = tmp_path / "tree"
    patient_tree(tree / "a", "a", pet=True)
    patient_tree(tree / "b", "b")
    good = {f: f.read_bytes() for f in sorted(tree.rglob("*.dcm"))}
    taken = 0
    for case in range(80 * FUZZ):
        rng = make_rng(case, "dicom trees")
        victims = [list(good)[i] for i in rng.permutation(len(good))[: int(rng.integers(1, 4))]]
        for victim in victims:
            victim.write_bytes(
                damage(good[victim], rng) if rng.random() < 0.85 else good[list(good)[int(rng.integers(len(good)))]]
            )
        out = tmp_path / f"c{case}"
        taken += _either_whole_or_not_there(lambda out=out: import_dicom(tree, out), out)
        for victim in victims:
            victim.write_bytes(good[victim])
    assert taken > 50 * FUZZ  # the patient that is not hit is taken nearly always


def test_damaged_challenge_files(challenge, tmp_path):
    good = {f: f.read_bytes() for f in sorted(challenge.rglob("*")) if f.is_file()}
    for case in range(80 * FUZZ):
        rng = make_rng(case, "challenge")
        victim = list(good)[int(rng.integers(len(good)))]
        victim.write_bytes(damage(good[victim], rng))
        _either_whole_or_not_there(
            lambda out=tmp_path / f"c{case}": import_owkin(challenge, out), tmp_path / f"c{case}"
        )
        victim.write_bytes(good[victim])


def test_damaged_tables_of_files(tmp_path):
    table = _files(tmp_path)
    write_volume(CT, table.parent / "ct2.nii.gz")
    write_volume(MASK, table.parent / "m2.nrrd")
    table.write_text(
        "patient_id,ct,ct_mask,age,treatment_start\na,ct.nrrd,m.nii.gz,60,2021-01-01\nb,ct2.nii.gz,m2.nrrd,61,2021-02-01\n"
    )
    good = {f: f.read_bytes() for f in sorted(table.parent.iterdir())}
    for case in range(120 * FUZZ):
        rng = make_rng(case, "tables")
        victim = list(good)[int(rng.integers(len(good)))]
        victim.write_bytes(damage(good[victim], rng))
        out = tmp_path / "out" / f"c{case}"
        out.parent.mkdir(exist_ok=True)
        if (
            _either_whole_or_not_there(lambda out=out: import_nifti(table, out, keep_ids=True), out)
            and "b" in load_cohort(out).ids
        ):
            assert np.array_equal(load_cohort(out).image("b").array, CT.array)  # a check sum guards all of it
        victim.write_bytes(good[victim])


def test_read_volume_is_what_was_stored(tmp_path):
    import_nifti(_files(tmp_path), tmp_path / "c")
    assert read_volume(tmp_path / "c/images/P0001/ct_mask.nii.gz").array.dtype == np.uint8
