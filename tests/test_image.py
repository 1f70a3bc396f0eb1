"""CT from DICOM, the survey of a folder, NIfTI and NRRD, and preprocessing."""

import shutil
import warnings

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import edit, jpeg_lossless, write_enhanced, write_pet
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import GeometryError, ImageError, OptionError
from nsclc_radiomics.core.volume import Volume, grid_difference
from nsclc_radiomics.core.volume_files import read_volume, write_volume
from nsclc_radiomics.loading.ct import read_ct
from nsclc_radiomics.loading.dicom import scan_dicom
from nsclc_radiomics.loading.image import read_image
from nsclc_radiomics.loading.pet import read_pet
from nsclc_radiomics.loading.preprocess import augment, denoise, resample, scale, standardise, window
from nsclc_radiomics.loading.write_dicom import write_series


@pytest.fixture
def ct() -> Volume:
    array = make_rng(3, "ct").integers(-1000, 2000, (6, 20, 24)).astype(np.int16)
    return Volume(array, spacing=(0.7, 0.8, 2.5), origin=(-10.5, 3.25, 100), unit="HU")


@pytest.fixture
def folder(ct, tmp_path):
    write_series(ct, tmp_path / "ct")
    return tmp_path / "ct"


def same(volume: Volume, other: Volume) -> None:
    assert volume.unit == "HU" and grid_difference(volume, other, 1e-3) is None
    np.testing.assert_array_equal(volume.array, other.array)


def each(folder, change) -> None:
    for k, file in enumerate(sorted(folder.iterdir())):
        edit(file, lambda h, k=k: change(k, h))


# --- reading ----------------------------------------------------------------------------------------------------------
# -------------------


def test_source_may_be_folder_files_or_series(ct, folder):
    series, skipped = scan_dicom(folder)
    assert len(series) == 1 and skipped.empty and len(series[0].files) == 6
    for source in (folder, str(folder), list(folder.iterdir()), map(str, folder.iterdir()), series[0]):
        same(read_ct(source), ct)
    same(read_image(folder, "HU"), ct)


def test_equals_simpleitk(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    other = Volume.from_sitk(reader.Execute(), "HU")
    same(read_ct(folder), other)


@pytest.mark.parametrize("seed", range(4))
def test_orientation_is_kept(tmp_path, ct, seed):
    "Any rotation, written in any order of files, comes back the same; SimpleITK puts it in the same place."
    matrix = np.linalg.qr(make_rng(seed, "rotation").normal(size=(3, 3)))[0]
    matrix[:, 2] *= np.linalg.det(matrix)
    turned = Volume(ct.array, ct.spacing, ct.origin, tuple(matrix.ravel()), "HU")
    files = write_series(turned, tmp_path / "in")
    for k, file in enumerate(make_rng(seed, "order").permutation(np.array(files))):
        edit(file, lambda h, k=k: setattr(h, "InstanceNumber", k))
        file.rename(file.with_name(f"{k}.dcm"))
    found = read_ct(tmp_path / "in")
    same(found, turned)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "in")))
    same(found, Volume.from_sitk(reader.Execute(), "HU"))


def test_slope_and_intercept_are_the_slices_own(ct, folder):
    stored = {}

    def change(k, h):
        stored[k] = h.pixel_array.astype(float)
        h.RescaleSlope, h.RescaleIntercept = str(k + 1), str(-100 * k)

    each(folder, change)
    np.testing.assert_array_equal(read_ct(folder).array, [stored[k] * (k + 1) - 100 * k for k in range(6)])
    each(folder, lambda k, h: setattr(h, "RescaleSlope", "0.5"))
    found = read_ct(folder)
    assert found.array.dtype == np.float32
    np.testing.assert_array_equal(found.array, [stored[k] * 0.5 - 100 * k for k in range(6)])


def test_values_that_do_not_fit_16_bits(folder):
    each(folder, lambda k, h: setattr(h, "RescaleIntercept", "-40000" if k else "30000"))
    found = read_ct(folder).array
    assert found.dtype == np.int32 and found.min() < -32768 and found[0].max() > 32000


def test_12_bits_with_overlay_in_the_spare_ones(ct, folder):
    def change(k, h):
        stored = (np.clip(ct.array[k], -1000, 2000) + 1024).astype(np.uint16) | np.uint16(0xA000)
        h.PixelRepresentation, h.BitsStored, h.HighBit, h.PixelData = 0, 12, 11, stored.tobytes()

    each(folder, change)
    same(read_ct(folder), ct)

    def signed(k, h):
        stored = np.clip(ct.array[k], -1000, 2000).astype(np.int16) & np.int16(0x0FFF)
        h.PixelRepresentation, h.RescaleIntercept, h.PixelData = 1, "0", stored.tobytes()

    each(folder, signed)
    same(read_ct(folder), ct)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian], ids=lambda s: s.name
)
def test_transfer_syntaxes(ct, folder, syntax):
    for k, file in enumerate(sorted(folder.iterdir())):
        header = pydicom.dcmread(file)
        header.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            header["PixelData"].VR = "OW"
            header.PixelData = (np.asarray(ct.array[k]) + 1024).astype(">i2").tobytes()
        pydicom.dcmwrite(
            file,
            header,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
            enforce_file_format=True,
        )
    same(read_ct(folder), ct)


@pytest.mark.parametrize(
    "syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, "JPEG Lossless"], ids=lambda s: getattr(s, "name", s)
)
def test_compressed_transfer_syntaxes(tmp_path, syntax):
    ct = Volume(
        make_rng(5, "ct").integers(-1000, 2000, (3, 40, 48)).astype(np.int16), spacing=(0.7, 0.8, 2.5), unit="HU"
    )
    folder = write_series(ct, tmp_path / "ct")[0].parent
    for file in sorted(folder.iterdir()):
        header = pydicom.dcmread(file)
        header.PixelRepresentation = 0
        if syntax == "JPEG Lossless":
            jpeg_lossless(header)
        else:
            header.compress(syntax, generate_instance_uid=False)
        header.save_as(file)
        assert pydicom.dcmread(file).file_meta.TransferSyntaxUID.is_compressed
    same(read_ct(folder), ct)


def test_files_without_preamble_or_meta(ct, folder):
    for file in folder.iterdir():
        header = pydicom.dcmread(file)
        header.file_meta, header.preamble = pydicom.dataset.FileMetaDataset(), None
        pydicom.dcmwrite(file, header, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert file.read_bytes()[:2] == b"\x08\x00"
    same(read_ct(folder), ct)


def test_enhanced_ct(ct, tmp_path):
    frames = [{"slope": 1.0, "intercept": -1024.0} for _ in ct.array]
    same(read_ct(write_enhanced(tmp_path, ct, "CT", {}, frames)), ct)


def test_multiframe_without_positions_is_refused(ct, folder):
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()
    each(folder, lambda k, h: (setattr(h, "NumberOfFrames", 6), setattr(h, "PixelData", h.PixelData * 6)))
    with pytest.raises(ImageError, match="6 frames"):
        read_ct(folder)


# --- refusals ---------------------------------------------------------------------------------------------------------
# -------------------


def move(axis, millimetres):
    def change(k, h):
        place = list(h.ImagePositionPatient)
        place[axis] += millimetres(k)
        h.ImagePositionPatient = place

    return change


def only(k, **values):
    def change(j, h):
        for keyword, value in values.items():
            if j == k:
                setattr(h, keyword, value)

    return change


REFUSED = {
    "uneven spacing": (move(2, lambda k: 0.9 * (k > 3)), ["uneven", "107.50", "110.90"]),
    "two gaps": (
        move(2, lambda k: 2.5 * (k > 1) + 5.0 * (k > 3)),
        ["3 slices are missing", "between 102.50 and 107.50 mm, 110.00 and 117.50 mm"],
    ),
    "duplicate positions": (move(2, lambda k: -2.5 * (k == 3)), ["more than once", "105.00 mm"]),
    "gantry tilt": (move(1, lambda k: 0.6 * k), ["gantry tilt", "13.5°"]),
    "gantry tilt by its tag": (lambda k, h: setattr(h, "GantryDetectorTilt", "-12"), ["0018,1120"]),
    "localizers": (lambda k, h: setattr(h, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), ["localizers"]),
    "a localizer among slices": (
        only(2, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        ["1 of 6 images are localizers"],
    ),
    "another orientation": (only(2, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), ["0020,0037", "5 slices"]),
    "another pixel spacing": (only(2, PixelSpacing=["0.9", "0.9"]), ["0028,0030", "0.9"]),
    "another size": (only(2, Columns=20, PixelData=bytes(800)), ["0028,0011", "24 in 5 slices"]),
    "another frame of reference": (only(2, FrameOfReferenceUID="1.2.3"), ["2 frames of reference"]),
    "no position": (lambda k, h: h.pop("ImagePositionPatient"), ["0020,0032"]),
    "position of two numbers": (only(2, ImagePositionPatient=["0", "0"]), ["0020,0032", "3 numbers"]),
    "no orientation": (lambda k, h: h.pop("ImageOrientationPatient"), ["0020,0037"]),
    "skewed orientation": (
        lambda k, h: setattr(h, "ImageOrientationPatient", [1, 0, 0, 0.5, 0.9, 0]),
        ["perpendicular"],
    ),
    "no pixel spacing": (lambda k, h: h.pop("PixelSpacing"), ["0028,0030"]),
    "no slope": (lambda k, h: h.pop("RescaleSlope"), ["0028,1053"]),
    "no intercept": (lambda k, h: h.pop("RescaleIntercept"), ["0028,1052"]),
    "no pixel data": (only(2), None),
    "values that are no HU": (lambda k, h: setattr(h, "RescaleType", "Z_EFF"), ["0028,1054", "Z_EFF"]),
    "colours": (lambda k, h: setattr(h, "SamplesPerPixel", 3), ["colour"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(folder, name):
    change, says = REFUSED[name]
    if name == "no pixel data":
        change, says = (lambda k, h: h.pop("PixelData") if k == 2 else None), ["no pixel data", "CT0002.dcm"]
    each(folder, change)
    with pytest.raises(ImageError) as error:
        read_ct(folder)
    assert all(text in str(error.value) for text in says), error.value


def test_missing_slice_is_named(folder):
    (folder / "CT0003.dcm").unlink()
    with pytest.raises(ImageError, match="1 slice is missing .* between 105.00 and 110.00 mm"):
        read_ct(folder)


def test_rounded_positions_are_no_gap(ct, folder):
    "Headers give positions to a tenth of a millimetre."
    each(folder, move(2, lambda k: (0.04, -0.03, 0.02)[k % 3]))
    assert read_ct(folder).shape == ct.shape


def test_copies_are_refused_in_a_folder_and_left_out_of_a_survey(ct, folder):
    shutil.copy(folder / "CT0002.dcm", folder / "again.dcm")
    with pytest.raises(
        ImageError, match=r"more than once: 105.00 mm \(CT0002.dcm, again.dcm\)|105.00 mm \(again.dcm, CT0002.dcm\)"
    ):
        read_ct(folder)
    series, skipped = scan_dicom(folder)
    assert len(skipped) == 1 and "a copy of" in skipped.reason[0]
    same(read_ct(series[0]), ct)


def test_two_series_are_listed(ct, folder, tmp_path):
    write_series(ct, folder / "thin", attributes={"SeriesDescription": "thin"})
    with pytest.raises(ImageError, match="2 CT series.*'thin'.*scan_dicom"):
        read_ct(folder)
    with pytest.raises(ImageError, match="no PT series"):
        read_pet(folder)


def test_a_scout_beside_a_series_is_no_choice(ct, folder):
    scout = Volume(ct.array[:1], ct.spacing, ct.origin)
    write_series(scout, folder / "scout", attributes={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})
    same(read_ct(folder), ct)


def test_missing_folder_and_foreign_files(tmp_path, folder):
    with pytest.raises(ImageError, match="no such file or folder"):
        read_ct(tmp_path / "nowhere")
    (folder / "notes.txt").write_text("left kidney")
    (folder / "._CT0000.dcm").write_bytes(b"Mac OS X")
    assert read_ct(folder).shape[0] == 6
    with pytest.raises(ImageError, match="not a DICOM file"):
        read_ct(list(folder.iterdir()))
    # A last slice that cannot be read leaves no gap; without it the volume would only be shorter.
    (folder / "CT0005.dcm").write_bytes((folder / "CT0005.dcm").read_bytes()[:200])
    with pytest.raises(ImageError, match="CT0005.dcm.*slices may be missing"):
        read_ct(folder)


# --- the survey -------------------------------------------------------------------------------------------------------
# -------------------


def test_survey_of_a_messy_tree(ct, tmp_path):
    tree = tmp_path / "pacs"
    write_series(
        ct,
        tree / "x" / "1",
        attributes={"PatientID": "B", "SeriesDescription": "lung", "SeriesNumber": 4, "ConvolutionKernel": "B60f"},
    )
    write_pet(tree / "x" / "2", 1.0, PatientID="B", StudyDate="20230101")
    write_series(ct, tree / "y", attributes={"PatientID": "A"})
    (tree / "y" / "DICOMDIR").write_bytes(dicomdir())
    (tree / "readme.txt").write_text("hello")
    (tree / "empty").touch()
    series, skipped = scan_dicom(tree)
    assert [(s.patient_id, s.modality, len(s.files)) for s in series] == [
        ("A", "CT", 6),
        ("B", "PT", 3),
        ("B", "CT", 6),
    ]
    assert (
        series[2].description == "lung"
        and series[2].number == 4
        and series[2].kernel == "B60f"
        and series[2].thickness == 2.5
    )
    reasons = dict(zip((f.name for f in skipped.file), skipped.reason, strict=True))
    assert (
        "DICOMDIR" in reasons["DICOMDIR"]
        and "not a DICOM file" in reasons["readme.txt"]
        and "empty" in reasons["empty"]
    )


def dicomdir() -> bytes:
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (
        "1.2.840.10008.1.3.10",
        generate_uid(),
    )
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data.FileSetID = "X"
    buffer = pydicom.filebase.DicomBytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def test_survey_keeps_patients_with_the_same_series_apart(ct, tmp_path):
    "Careless anonymisers give the same UIDs to everyone."
    for patient in ("A", "B"):
        write_series(
            ct,
            tmp_path / patient,
            attributes={"PatientID": patient, "SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2"},
        )
    assert [(s.patient_id, len(s.files)) for s in scan_dicom(tmp_path)[0]] == [("A", 6), ("B", 6)]


# --- NIfTI and NRRD
# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_formats_agree(ct, tmp_path, suffix):
    same(read_image(write_volume(ct, tmp_path / f"a{suffix}"), "HU"), ct)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_not_a_number_is_refused(ct, tmp_path, suffix):
    array = ct.array.astype(np.float32)
    array[2, 3, 4] = np.nan
    with pytest.raises(ImageError, match="1 of 2880 voxels are not finite"):
        read_image(write_volume(ct.with_array(array), tmp_path / f"a{suffix}"))


def test_nifti_rescaling_is_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").array.T, nibabel.load(tmp_path / "a.nii").get_fdata())
    assert read_image(tmp_path / "a.nii").array.min() == -10


def test_unit_is_checked(folder):
    with pytest.raises(ImageError, match="holds HU, asked for SUVbw"):
        read_image(folder, "SUVbw")


# --- preprocessing ----------------------------------------------------------------------------------------------------
# -------------------


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(0.6, 4)] * 3), st.sampled_from(["linear", "nearest", "bspline"]), st.integers(0, 3))
def test_resampling_keeps_what_is_linear_in_space(spacing, interpolation, seed):
    "A ramp stays the same ramp in the patient's millimetres, in any orientation, and a constant stays one."
    matrix = np.linalg.qr(make_rng(seed, "axes").normal(size=(3, 3)))[0]
    volume = Volume(np.zeros((9, 12, 10)), (1.5, 1.0, 2.0), (5, -3, 2), tuple(matrix.ravel()))
    slope = np.array([1.0, -2.0, 0.5])

    def ramp(v):
        index = np.indices(v.shape)[::-1].reshape(3, -1)
        return (slope @ (np.array(v.origin)[:, None] + matrix @ (index * np.array(v.spacing)[:, None]))).reshape(
            v.shape
        )

    found = resample(volume.with_array(ramp(volume)), spacing, interpolation)
    assert np.allclose(
        resample(volume.with_array(np.full(volume.shape, 7.0)), spacing, interpolation).array, 7, atol=1e-4
    )
    if interpolation == "linear":
        inner = tuple(
            slice(k, n - k)
            for n, k in zip(found.shape, (int(np.ceil(2.5 / s)) + 1 for s in spacing[::-1]), strict=True)
        )
        np.testing.assert_allclose(found.array[inner], ramp(found)[inner], atol=2e-3)
    assert np.all(np.array(found.shape[::-1]) * spacing >= np.array(volume.shape[::-1]) * volume.spacing - 1e-3)


def test_resampling_a_mask_gives_a_mask():
    z, y, x = np.ogrid[-10:11, -10:11, -10:11]
    ball = Volume(z**2 + y**2 + x**2 <= 64)
    fine = resample(ball, 0.5)
    assert fine.array.dtype == bool
    assert fine.array.sum() * fine.voxel_volume == pytest.approx(ball.array.sum(), rel=0.03)


def test_resampling_to_the_same_spacing_changes_nothing(ct):
    found = resample(ct, ct.spacing)
    assert grid_difference(found, ct) is None
    np.testing.assert_allclose(found.array, ct.array, atol=1e-3)


def test_window_scale_standardise(ct):
    assert window(ct, -100, 100).array.min() == -100 and window(ct, -100, 100).unit == "HU"
    np.testing.assert_allclose(scale(ct, -100, 100).array, (np.clip(ct.array, -100, 100) + 100) / 200, atol=1e-6)
    mask = ct.with_array(ct.array > 500)
    found = standardise(ct, mask).array[mask.array]
    assert found.mean() == pytest.approx(0, abs=1e-4) and found.std() == pytest.approx(1, abs=1e-4)
    with pytest.raises(GeometryError):
        standardise(ct, Volume(mask.array[1:]))
    for call in (
        lambda: window(ct, 5, 5),
        lambda: scale(ct, 5, 0),
        lambda: resample(ct, -1),
        lambda: resample(ct, 1e-6),
    ):
        with pytest.raises(OptionError):
            call()


@pytest.mark.parametrize("method", ["median", "gaussian", "curvature"])
def test_denoising_keeps_the_mean_and_an_edge(method):
    truth = np.where(np.arange(40) < 20, -800.0, 40.0) * np.ones((12, 30, 1))
    volume = Volume(truth + make_rng(1, method).normal(0, 30, truth.shape), (0.8, 0.8, 1.5))
    calm = denoise(volume, method)
    assert grid_difference(calm, volume) is None
    flat = calm.array[3:-3, 5:-5, 5:14]
    assert flat.std() < 0.6 * 30 and flat.mean() == pytest.approx(-800, abs=5)
    assert calm.array[:, :, 30].mean() - calm.array[:, :, 9].mean() == pytest.approx(840, abs=15)


def test_augmentation_moves_image_and_mask_together():
    z, y, x = np.ogrid[-14:15, -20:21, -20:21]
    inside = ((z / 4) ** 2 + (y / 12) ** 2 + (x / 6) ** 2) <= 1
    image, mask = Volume(np.where(inside, 100.0, 0.0)), Volume(inside)
    for seed in range(5):
        moved, moved_mask = augment(image, mask, rng=make_rng(seed), rotation=40, scaling=0.2, contrast=0, noise=0)
        np.testing.assert_array_equal(moved_mask.array, moved.array >= 50)
        assert moved_mask.array.sum() / inside.sum() == pytest.approx(1, abs=0.9)
        assert grid_difference(moved, image) is None and moved_mask.array.dtype == bool
    first, second = (augment(image, mask, rng=make_rng(7))[0].array for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, augment(image, mask, rng=make_rng(8))[0].array)


def test_augmentation_amounts():
    flat = Volume(np.repeat([[[0.0, 100.0]]], 4, axis=0).repeat(10, axis=1).repeat(5, axis=2))
    still = {"rotation": 0, "scaling": 0, "contrast": 0, "noise": 0}
    noisy = [augment(flat, rng=make_rng(s), **{**still, "noise": 20})[0].array - flat.array for s in range(40)]
    spread = np.array([n.std() for n in noisy])
    assert 10 < spread.max() <= 25 and spread.min() < 5
    gains = [np.ptp(augment(flat, rng=make_rng(s), **{**still, "contrast": 0.3})[0].array) / 100 for s in range(40)]
    assert 0.7 <= min(gains) < 0.8 and 1.2 < max(gains) <= 1.3


def test_warnings_of_damaged_headers_stay_silent(folder):
    each(folder, lambda k, h: h.add_new((0x0010, 0x1010), "AS", "61"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_ct(folder)


def test_ibsi_phantom_as_dicom_and_nifti(reference):
    phantom = reference / "ibsi" / "ct_phantom"
    same(read_ct(phantom / "dicom" / "image"), read_volume(phantom / "nifti" / "image" / "phantom.nii.gz", "HU"))
