"""Masks: labels, grids, contours, DICOM SEG, and agreement."""

import itertools

import highdicom
import matplotlib.path
import numpy as np
import pydicom
import pytest
from dicom_files import write_rtstruct
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import find_contours

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import GeometryError, MaskError, OptionError
from nsclc_radiomics.core.volume import Volume, grid_difference
from nsclc_radiomics.core.volume_files import write_volume
from nsclc_radiomics.loading.ct import read_ct
from nsclc_radiomics.loading.mask import choose_label, fit_mask, read_mask
from nsclc_radiomics.loading.pet import read_pet
from nsclc_radiomics.loading.rtstruct import list_rois, rasterise, read_rtstruct
from nsclc_radiomics.loading.seg import read_seg, write_seg
from nsclc_radiomics.loading.write_dicom import write_series
from nsclc_radiomics.segmentation.scores import dice, jaccard, surface_distance


@pytest.fixture
def image() -> Volume:
    array = make_rng(2, "image").integers(-1000, 1000, (7, 30, 34)).astype(np.int16)
    return Volume(array, (0.9, 1.1, 3.0), (-15, 20, -9), unit="HU")


@pytest.fixture
def blob(image) -> Volume:
    z, y, x = np.indices(image.shape)
    noise = make_rng(2, "blob").normal(0, 1, image.shape)
    inside = ((z - 3) / 2.5) ** 2 + ((y - 14) / 9) ** 2 + ((x - 17) / 8) ** 2 + 0.1 * noise <= 1
    inside[3, 12:16, 15:19] = False
    return Volume(inside, image.spacing, image.origin, image.direction, "mask")


# --- labels -----------------------------------------------------------------------------------------------------------
# -------------------


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("value, label", [(1, None), (1, 1), (255, 255), (1 / 255, 0.0039), (2, 2), (0.5, 0.5)])
def test_labels_that_are_meant(tmp_path, blob, suffix, value, label):
    stored = (blob.array * value).astype(np.float32 if value < 1 else np.uint8)
    mask = read_mask(write_volume(blob.with_array(stored), tmp_path / f"m{suffix}"), label=label)
    assert mask.array.dtype == bool and mask.unit == "mask"
    np.testing.assert_array_equal(mask.array, blob.array)


@pytest.mark.parametrize(
    "change, label, says",
    [
        (lambda a: a * 255, None, ["255 (", "image editors", "label=255"]),
        (lambda a: a / np.float32(255), None, ["0.00392157 (", "divided by 255", "label=0.0039"]),
        (lambda a: a * 2, None, ["2 (", "label=2"]),
        (lambda a: a + a * (np.indices(a.shape)[2] == 17), None, ["several labels", "1 (", "label=…"]),
        (lambda a: a * 0, None, ["empty", "7140"]),
        (lambda a: a * 3, 1, ["label 1 is not there", "3 ("]),
        (lambda a: a, 0, ["label 0 is not there"]),
        (lambda a: np.cumsum(a, axis=2) * 0.01, None, ["probability map"]),
    ],
)
def test_labels_that_are_not_guessed(tmp_path, blob, change, label, says):
    path = write_volume(
        blob.with_array(change(blob.array.astype(np.float32)).astype(np.float32)), tmp_path / "mask.nrrd"
    )
    with pytest.raises(MaskError) as error:
        read_mask(path, label=label)
    assert all(text in str(error.value) for text in [*says, "mask.nrrd"]), error.value


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(MaskError, match="no such file"):
        read_mask(tmp_path / "none.nii.gz")
    (tmp_path / "m.nii.gz").write_text("mask")
    with pytest.raises(MaskError, match="cannot be read"):
        read_mask(tmp_path / "m.nii.gz")
    with pytest.raises(MaskError, match="complex|voxels are not"):
        choose_label(np.ones(3, complex))


# --- grids ------------------------------------------------------------------------------------------------------------
# -------------------


def test_another_grid_is_refused_with_numbers(tmp_path, image, blob):
    shifted = Volume(blob.array, blob.spacing, (-15, 20, -6), unit="mask")
    with pytest.raises(GeometryError, match=r"-6.*-9.*3.00 mm.*resample=True"):
        read_mask(write_volume(shifted, tmp_path / "m.nii.gz"), image)
    with pytest.raises(GeometryError, match="lie outside the image"):
        fit_mask(Volume(blob.array, blob.spacing, (100, 20, -9)), image, resample=True)


@settings(max_examples=30, deadline=None)
@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3), st.integers(0, 5))
def test_masks_on_the_same_voxels_move_without_loss(order, flips, seed):
    "Flipped, in another order of axes, and cut to its box: the voxels in the patient are the same, in any orientation."
    matrix = np.linalg.qr(make_rng(seed, "axes").normal(size=(3, 3)))[0]
    image = Volume(np.zeros((6, 8, 10), np.int16), (0.8, 1.1, 2.5), (4, -7, 30), tuple(matrix.ravel()))
    array = make_rng(seed, "mask").random(image.shape) < 0.4
    start = (1, 2, 3)
    part = array[1:5, 2:7, 3:]
    whole = np.zeros_like(array)
    whole[1:5, 2:7, 3:] = part
    spacing, axes, origin = (
        np.array(image.spacing),
        matrix.copy(),
        np.array(image.origin) + matrix @ (np.array(start[::-1]) * image.spacing),
    )
    for axis, flip in enumerate(flips):  # x, y, z
        if flip:
            origin = origin + axes[:, axis] * spacing[axis] * (part.shape[2 - axis] - 1)
            axes[:, axis] *= -1
            part = np.flip(part, 2 - axis)
    part = part.transpose([2 - o for o in order][::-1])
    mask = Volume(part, tuple(spacing[list(order)]), tuple(origin), tuple(axes[:, order].ravel()))
    np.testing.assert_array_equal(fit_mask(mask, image, resample=True).array, whole)


def test_resampling_keeps_place_and_volume():
    z, y, x = np.ogrid[-12:13, -20:21, -20:21]
    mask = Volume((1.5 * z) ** 2 + y**2 + x**2 <= 144, (1, 1, 1.5), (-20, -20, -18))
    fine = fit_mask(mask, Volume(np.zeros((60, 70, 80)), (0.5, 0.6, 0.7), (-20, -20.5, -20)), resample=True)
    assert fine.array.sum() * fine.voxel_volume == pytest.approx(mask.array.sum() * mask.voxel_volume, rel=0.02)
    middle = np.argwhere(fine.array).mean(axis=0)[::-1] * fine.spacing + fine.origin
    np.testing.assert_allclose(middle, 0, atol=0.05)


def test_a_mask_smaller_than_a_voxel_is_said_to_vanish():
    array = np.zeros((20, 20, 20), bool)
    array[9, 9, 9] = True
    with pytest.raises(MaskError, match="empty after resampling"):
        fit_mask(Volume(array), Volume(np.zeros((4, 4, 4)), (5, 5, 5), (2, 2, 2)), resample=True)


# --- contours ---------------------------------------------------------------------------------------------------------
# -------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 15)), min_size=3, max_size=12), st.integers(0, 2**31))
def test_rasterise_is_even_odd(corners, seed):
    """Against matplotlib's winding by subtracting triangles: a fan of triangles, combined by exclusive or, is the
    even-odd rule.
    """
    corners = np.array(corners) + make_rng(seed).uniform(0.001, 0.3, (len(corners), 2))  # off the centres
    y, x = np.indices((12, 13))
    expected = np.zeros((12, 13), bool)
    for one, other in itertools.pairwise(corners):
        triangle = matplotlib.path.Path([corners[0], one, other, corners[0]], closed=True)
        expected ^= triangle.contains_points(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
    assert (
        rasterise(corners, (12, 13)) != expected
    ).sum() <= 1  # matplotlib may differ on a centre that is almost on a line


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 9))
def test_polygons_that_share_edges_share_no_voxel(seed, parts):
    "Corners on whole numbers, so that edges run through centres."
    cuts = np.unique(make_rng(seed).integers(0, 12, parts))
    edges = [0, *cuts[(cuts > 0) & (cuts < 12)], 12]
    total = sum(
        rasterise(np.array([[a, 2], [b, 2], [b, 9], [a, 9]]), (12, 14)).astype(int)
        for a, b in itertools.pairwise(edges)
    )
    np.testing.assert_array_equal(total, rasterise(np.array([[0, 2], [12, 2], [12, 9], [0, 9]]), (12, 14)))
    assert total.sum() == 12 * 7
    assert total[2:9, 0:12].all()  # a centre on a line is inside on the left and upper side


@pytest.mark.parametrize("seed", range(3))
def test_contours_of_a_mask_give_the_mask_back(tmp_path, blob, seed):
    "Oblique, with holes and several parts on a slice, read from the patient's millimetres."
    matrix = np.linalg.qr(make_rng(seed, "axes").normal(size=(3, 3)))[0]
    matrix[:, 2] *= np.linalg.det(matrix)
    image = Volume(np.zeros(blob.shape, np.int16), blob.spacing, blob.origin, tuple(matrix.ravel()))
    contours = []
    for k, plane in enumerate(blob.array):
        for line in find_contours(plane.astype(float), 0.5, fully_connected="high"):
            index = np.column_stack([line[:, 1], line[:, 0], np.full(len(line), k)])
            contours.append(np.array(image.origin) + (index * image.spacing) @ matrix.T)
    found = read_rtstruct(write_rtstruct(tmp_path / "rs.dcm", {"GTV": contours}), image)
    np.testing.assert_array_equal(found.array, blob.array)
    assert grid_difference(found, image) is None


def square(x, y, z, half):
    return np.array(
        [[x - half, y - half, z], [x + half, y - half, z], [x + half, y + half, z], [x - half, y + half, z]]
    )


@pytest.fixture
def structures(tmp_path):
    # Slices of `image` lie at -9, -6 … 9 mm.
    rois = {
        "GTV-1": [square(0, 35, z, 5) for z in (-3, 0, 3)],
        "GTV-2": [square(0, 45, 0, 2)],
        "Lung_Left": [square(-8, 30, 0, 4)],
        "PTV": [],
    }
    return write_rtstruct(tmp_path / "rs.dcm", rois)


def test_structures_by_name_and_pattern(structures, image):
    assert list_rois(structures).to_dict("list") == {
        "number": [1, 2, 3, 4],
        "name": ["GTV-1", "GTV-2", "Lung_Left", "PTV"],
        "planes": [3, 1, 1, 0],
    }
    one, two = read_rtstruct(structures, image, "gtv-1"), read_rtstruct(structures, image, "GTV-2")
    np.testing.assert_array_equal(read_rtstruct(structures, image, "gtv", merge=True).array, one.array | two.array)
    np.testing.assert_array_equal(read_rtstruct(structures, image, r".*-2").array, two.array)


@pytest.mark.parametrize(
    "roi, says",
    [
        (None, ["4 structures fit", "GTV-1", "merge=True"]),
        ("gtv", ["2 structures fit", "'GTV-1', 'GTV-2'"]),
        ("heart", ["'heart'", "Lung_Left"]),
        ("PTV", ["nothing drawn"]),
    ],
)
def test_structures_are_not_guessed(structures, image, roi, says):
    with pytest.raises(MaskError) as error:
        read_rtstruct(structures, image, roi)
    assert all(text in str(error.value) for text in says), error.value


def test_a_pattern_that_is_none(structures, image):
    with pytest.raises(OptionError, match="neither a name nor a regular expression"):
        read_rtstruct(structures, image, "gtv(")


@pytest.mark.parametrize(
    "contours, says",
    [
        ([square(0, 35, 1.5, 3)], "1.50 mm off the nearest slice"),
        ([square(0, 35, 0, 3) + [[0, 0, 0], [0, 0, 0.5], [0, 0, 0], [0, 0, 0]]], "0.50 mm off"),
        ([square(0, 35, 15, 3)], "outside the image"),
        ([square(40, 35, 0, 3)], "outside the image"),
        ([square(0, 35, z, 3) for z in (-6, 0, 6)], "one slice in 2"),
    ],
    ids=["between slices", "not planar", "above", "beside", "every other slice"],
)
def test_contours_off_the_image_are_refused(tmp_path, image, contours, says):
    with pytest.raises(GeometryError, match=says):
        read_rtstruct(write_rtstruct(tmp_path / "rs.dcm", {"GTV": contours}), image)


def test_points_enclose_nothing(tmp_path, image):
    with pytest.raises(MaskError, match="enclose no voxel centre"):
        read_rtstruct(write_rtstruct(tmp_path / "a.dcm", {"GTV": [square(0, 35, 0, 5)]}, kind="POINT"), image)
    with pytest.raises(MaskError, match="enclose no voxel centre"):
        read_rtstruct(write_rtstruct(tmp_path / "b.dcm", {"GTV": [square(0.1, 35.2, 0, 0.1)]}), image)


def test_an_image_is_no_structure_set(tmp_path, image):
    file = write_series(image, tmp_path / "ct")[0]
    with pytest.raises(MaskError, match="neither an RTSTRUCT nor a DICOM SEG, but CT Image Storage"):
        list_rois(file)


def test_reference_structures(reference):
    phantom, sarcoma = reference / "ibsi" / "ct_phantom", reference / "pet" / "sts_002" / "dicom"
    ct = read_ct(phantom / "dicom" / "image")
    mask = read_rtstruct(next((phantom / "dicom" / "mask").iterdir()), ct)
    assert mask.array.sum() == 125256
    np.testing.assert_array_equal(mask.array, read_mask(phantom / "nifti" / "mask" / "mask.nii.gz", ct).array)
    assert read_rtstruct(sarcoma / "CT" / "mask" / "RS.dcm", read_ct(sarcoma / "CT" / "image")).array.sum() == 17090
    pet = read_pet(sarcoma / "PET" / "image")
    assert read_rtstruct(sarcoma / "PET" / "mask" / "RS.dcm", pet).array.sum() == 555


# --- DICOM SEG --------------------------------------------------------------------------------------------------------
# -------------------


@pytest.mark.parametrize("seed", range(3))
def test_seg_there_and_back(tmp_path, image, blob, seed):
    "Oblique series, empty slices left out; what other programs see is the same."
    matrix = np.linalg.qr(make_rng(seed, "axes").normal(size=(3, 3)))[0]
    matrix[:, 2] *= np.linalg.det(matrix)
    turned = Volume(image.array, image.spacing, image.origin, tuple(matrix.ravel()), "HU")
    write_series(turned, tmp_path / "ct")
    ct = read_ct(tmp_path / "ct")
    mask = ct.with_array(blob.array, "mask")
    path = write_seg(mask, tmp_path / "ct", tmp_path / "seg.dcm", label="GTV-1", algorithm="net", version="2")
    found = read_seg(path, ct, "GTV-1")
    np.testing.assert_array_equal(found.array, blob.array)
    assert grid_difference(found, ct) is None
    assert read_seg(path).array.sum() == blob.array.sum()
    stored = highdicom.seg.segread(path)
    assert stored.segmentation_type.value == "BINARY" and stored.get_segment_description(1).segment_label == "GTV-1"
    files = sorted((tmp_path / "ct").iterdir())
    uids = [pydicom.dcmread(f).SOPInstanceUID for f in files]
    frames = stored.get_pixels_by_source_instance(
        uids, segment_numbers=[1], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(frames[..., 0].astype(bool), blob.array)


def test_seg_of_several_segments_and_fractions(tmp_path, image, blob):
    files = write_series(image, tmp_path / "ct")
    codes = pydicom.sr.codedict.codes.SCT

    def segment(number, label):
        return highdicom.seg.SegmentDescription(
            number, label, codes.MorphologicallyAbnormalStructure, codes.Neoplasm, "MANUAL"
        )

    def write(name, array, kind):
        seg = highdicom.seg.Segmentation(
            [pydicom.dcmread(f) for f in files],
            array,
            kind,
            [segment(k + 1, f"part{k + 1}") for k in range(array.shape[-1])],
            pydicom.uid.generate_uid(),
            1,
            pydicom.uid.generate_uid(),
            1,
            "x",
            "x",
            "1",
            "1",
        )
        seg.save_as(tmp_path / name)
        return tmp_path / name

    two = np.stack([blob.array, ~blob.array], axis=-1)
    for path in (
        write("binary.dcm", two.astype(np.uint8), "BINARY"),
        write("labelmap.dcm", two.astype(np.uint8), "LABELMAP"),
    ):
        np.testing.assert_array_equal(read_seg(path, image, "part1").array, blob.array)
        np.testing.assert_array_equal(read_seg(path, image, "part2").array, ~blob.array)
        assert read_seg(path, image, "part", merge=True).array.all()
        with pytest.raises(MaskError, match="2 structures fit"):
            read_seg(path, image)
    fractions = np.where(blob.array, 0.6, 0.4)[..., None]
    np.testing.assert_array_equal(read_seg(write("fractional.dcm", fractions, "FRACTIONAL"), image).array, blob.array)


def test_seg_off_the_image(tmp_path, image, blob):
    write_series(image, tmp_path / "ct")
    path = write_seg(blob, tmp_path / "ct", tmp_path / "seg.dcm")
    moved = Volume(image.array, image.spacing, (-15.4, 20, -9))
    with pytest.raises(GeometryError, match="not on the image's grid"):
        read_seg(path, moved)
    assert read_seg(path, moved, resample=True).array.sum() == pytest.approx(blob.array.sum(), rel=0.1)
    with pytest.raises(GeometryError, match="not on the grid of the series"):
        write_seg(Volume(blob.array), tmp_path / "ct", tmp_path / "no.dcm")
    assert not (tmp_path / "no.dcm").exists()


# --- agreement --------------------------------------------------------------------------------------------------------
# -------------------


def test_scores_by_hand():
    one, other = np.zeros((3, 4, 5), bool), np.zeros((3, 4, 5), bool)
    one[1, 1, 0:3], other[1, 1, 1:5] = True, True
    a, b = Volume(one, (2, 1, 1)), Volume(other, (2, 1, 1))
    assert dice(a, b) == pytest.approx(2 * 2 / 7) and jaccard(a, b) == pytest.approx(2 / 5)
    # Distances from a to b: 2, 0, 0 mm; from b to a: 0, 0, 2, 4 mm.
    found = surface_distance(a, b)
    assert found["mean"] == pytest.approx(8 / 7) and found["hausdorff"] == 4
    assert found["hausdorff95"] == pytest.approx(np.percentile([0, 0, 2, 4], 95))
    empty = Volume(np.zeros((3, 4, 5), bool), (2, 1, 1))
    assert dice(a, empty) == 0 and dice(empty, empty) == 1
    with pytest.raises(MaskError, match="empty"):
        surface_distance(a, empty)
    with pytest.raises(GeometryError):
        dice(a, Volume(other))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_scores_are_symmetric(seed):
    rng = make_rng(seed)
    a, b = (Volume(rng.random((4, 6, 5)) < p, (1, 2, 3)) for p in (0.3, 0.5))
    assert dice(a, b) == dice(b, a) and 0 <= jaccard(a, b) <= dice(a, b) <= 1
    assert surface_distance(a, b) == pytest.approx(surface_distance(b, a))
    assert surface_distance(a, a) == {"mean": 0, "hausdorff95": 0, "hausdorff": 0}
