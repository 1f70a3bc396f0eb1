"Volume's geometry: points and voxels, boxes, parts, other grids, on axes of any direction."

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import nsclc_radiomics
from nsclc_radiomics.core.errors import GeometryError, ImageError, MaskError, OptionError
from nsclc_radiomics.core.volume import Grid, Volume, bounding_box, grid_difference, widen

SHAPES = st.tuples(*[st.integers(2, 9)] * 3)
INDICES = st.tuples(*[st.floats(-3, 12)] * 3)


@st.composite
def directions(draw) -> tuple[float, ...]:
    "Any three orthogonal axes: turned, permuted, mirrored."
    angles = [np.deg2rad(draw(st.integers(-1800, 1800)) / 10) for _ in range(3)]  # ITK fails at angles near 1e-309
    turned = np.array(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()).reshape(3, 3)
    signs = draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    return tuple((turned[:, draw(st.permutations(range(3)))] * signs).ravel().tolist())


@st.composite
def grids(draw) -> Grid:
    spacing = draw(st.tuples(*[st.floats(0.3, 5)] * 3))
    origin = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return Grid(draw(SHAPES), spacing, origin, draw(directions()))


@st.composite
def volumes(draw, dtype=np.int16) -> Volume:
    grid = draw(grids())
    array = draw(hnp.arrays(dtype, grid.shape))
    return Volume(array, grid.spacing, grid.origin, grid.direction, "HU")


@st.composite
def masks(draw) -> Volume:
    mask = draw(volumes(bool))
    array = mask.array.copy()
    array[tuple(draw(st.integers(0, n - 1)) for n in mask.shape)] = True  # at least one voxel
    return mask.with_array(array, "mask")


@st.composite
def boxes(draw, shape: tuple[int, ...]) -> tuple[slice, ...]:
    ends = [sorted((draw(st.integers(0, n - 1)), draw(st.integers(1, n)))) for n in shape]
    return tuple(slice(a, b if b > a else a + 1) for a, b in ends)


@settings(max_examples=40, deadline=None)
@given(grid=grids(), index=INDICES)
def test_a_voxel_is_found_again_at_its_point(grid, index):
    point = grid.index_to_point(index)
    assert np.allclose(grid.point_to_index(point), index, atol=1e-6)
    blank = Volume(np.zeros(grid.shape), grid.spacing, grid.origin, grid.direction).to_sitk()
    assert np.allclose(point, blank.TransformContinuousIndexToPhysicalPoint(index[::-1]), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(grid=grids(), indices=st.lists(INDICES, min_size=1, max_size=5))
def test_many_points_are_each_of_them(grid, indices):
    together = grid.index_to_point(np.array(indices))
    assert np.allclose(together, [grid.index_to_point(i) for i in indices], rtol=1e-12, atol=1e-9)
    assert np.allclose(grid.point_to_index(together), [grid.point_to_index(p) for p in together], atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(grid=grids(), data=st.data())
def test_the_nearest_voxel(grid, data):
    index = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    off = data.draw(st.tuples(*[st.floats(-0.49, 0.49)] * 3))
    assert grid.nearest_voxel(grid.index_to_point(np.add(index, off))) == index
    with pytest.raises(OptionError, match="lies outside the image: it would be voxel"):
        grid.nearest_voxel(grid.index_to_point((grid.shape[0], 0, 0)))


@pytest.mark.parametrize("point", [(1, 2), (np.nan, 0, 0), ()])
def test_what_is_no_point(point):
    with pytest.raises(OptionError, match="a point is three numbers of mm"):
        Grid((2, 2, 2)).nearest_voxel(point)


@settings(max_examples=25, deadline=None)
@given(volume=volumes(), data=st.data())
def test_a_part_stays_in_its_place(volume, data):
    box = data.draw(boxes(volume.shape))
    part = volume.crop(box)
    assert part.grid == volume.grid.crop(box) and part.unit == volume.unit
    index = np.argwhere(np.ones(part.shape))
    whole = index + [s.start for s in box]
    assert np.allclose(part.index_to_point(index), volume.index_to_point(whole), atol=1e-9)
    assert np.array_equal(part.array.ravel(), volume.array[tuple(whole.T)])


def test_slices_of_a_box_are_those_of_numpy():
    volume = Volume(np.arange(60).reshape(3, 4, 5), (1, 2, 3))
    part = volume.crop((slice(None), slice(-2, None), slice(1, 99)))
    assert part.shape == (3, 2, 4) and part.origin == (1, 4, 0)
    for wrong in ((slice(2, 2),) * 3, (slice(0, 3, 2), slice(None), slice(None))):
        with pytest.raises(GeometryError, match="holds no block of voxels"):
            volume.crop(wrong)


@settings(max_examples=25, deadline=None)
@given(mask=masks(), margin=st.integers(0, 120).map(lambda n: n / 10))
def test_the_box_round_a_mask(mask, margin):
    tight, wide = mask.bounding_box(), mask.bounding_box(margin)
    inside = np.argwhere(mask.array)
    assert [s.start for s in tight] == inside.min(0).tolist() and [s.stop for s in tight] == (
        inside.max(0) + 1
    ).tolist()
    for one, other, n, mm in zip(tight, wide, mask.shape, mask.spacing[::-1]):
        assert other.start == 0 or -1e-9 <= (one.start - other.start) * mm - margin < mm
        assert other.stop == n or -1e-9 <= (other.stop - one.stop) * mm - margin < mm
        assert 0 <= other.start <= one.start < one.stop <= other.stop <= n


def test_a_margin_is_in_mm_along_each_axis():
    spot = np.zeros((30, 30, 30), bool)
    spot[15, 15, 15] = True
    assert Volume(spot, (1, 2, 4)).bounding_box(margin=7) == (slice(13, 18), slice(11, 20), slice(8, 23))


def test_boxes_of_arrays():
    spot = np.zeros((4, 6), bool)
    spot[1, 2:4] = True
    assert bounding_box(spot) == (slice(1, 2), slice(2, 4))
    assert widen(bounding_box(spot), (1, 3), spot.shape) == (slice(0, 3), slice(0, 6))
    with pytest.raises(MaskError, match="empty"):
        bounding_box(spot & False)


@settings(max_examples=25, deadline=None)
@given(volume=volumes(), interpolation=st.sampled_from(("nearest", "linear")))
def test_onto_its_own_grid_nothing_changes(volume, interpolation):
    again = volume.resample_like(volume, interpolation, outside=0.0)
    assert again.grid == volume.grid and again.array.dtype == np.float32
    assert np.allclose(again.array, volume.array, rtol=1e-5, atol=0.5)


@settings(max_examples=25, deadline=None)
@given(mask=masks())
def test_a_mask_on_its_own_grid_is_itself(mask):
    again = mask.resample_like(mask)
    assert again.array.dtype == bool and np.array_equal(again.array, mask.array) and again.unit == "mask"


@settings(max_examples=30, deadline=None)
@given(volume=volumes(), data=st.data())
def test_onto_a_part_is_the_part(volume, data):
    box = data.draw(boxes(volume.shape))
    moved = volume.resample_like(volume.grid.crop(box))
    assert np.allclose(moved.array, volume.array[box], rtol=1e-4, atol=0.5)


def test_values_keep_their_place_on_another_grid():
    there = Grid((10, 12, 14), (2.0, 1.0, 3.0), (-10, 5, 20), (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1))
    slope = np.array([1.0, -2.0, 0.5])  # a ramp along the patient's axes, which linear interpolation keeps
    ramp = there.index_to_point(np.argwhere(np.ones(there.shape))).reshape(*there.shape, 3) @ slope
    image = Volume(ramp, there.spacing, there.origin, there.direction)
    fine = Grid.around(there.centre, (9, 9, 9), 0.7)
    wanted = fine.index_to_point(np.argwhere(np.ones(fine.shape))).reshape(*fine.shape, 3) @ slope
    assert np.allclose(image.resample_like(fine).array, wanted, atol=1e-3)


def test_beyond_the_image():
    volume = Volume(np.full((4, 4, 4), 7, np.int16))
    wide = Grid.around(volume.centre, (10, 10, 10), 1.0)
    assert (volume.resample_like(wide).array == 7).all()
    assert volume.resample_like(wide, outside=-5).array[0, 0, 0] == -5
    with pytest.raises(OptionError, match="interpolation must be one of nearest, linear, bspline, got 'cubic'"):
        volume.resample_like(wide, "cubic")


@settings(max_examples=25, deadline=None)
@given(grid=grids(), shape=SHAPES, spacing=st.tuples(*[st.floats(0.3, 5)] * 3))
def test_centres(grid, shape, spacing):
    assert np.allclose(grid.centred(spacing, shape).centre, grid.centre, atol=1e-6)
    assert np.allclose(Grid.around(grid.centre, shape, spacing[0], grid.direction).centre, grid.centre, atol=1e-6)
    assert np.allclose(grid.corners.mean(0), grid.centre, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(volume=volumes(), axes=st.permutations(range(3)), signs=st.tuples(*[st.sampled_from((-1, 1))] * 3))
def test_turned_to_lps_no_voxel_moves(volume, axes, signs):
    stored = Volume(volume.array, volume.spacing, volume.origin, tuple((np.eye(3)[:, axes] * signs).ravel()))
    turned = stored.to_lps()
    assert np.array_equal(turned.direction_matrix, np.eye(3))
    index = np.argwhere(np.ones(stored.shape))
    there = np.rint(turned.point_to_index(stored.index_to_point(index))).astype(int)
    assert np.array_equal(turned.array[tuple(there.T)], stored.array.ravel())


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"shape": (2, 2)}, "three axes"),
        ({"shape": (2, 0, 2)}, "at least one voxel"),
        ({"shape": (2, 2, 2), "spacing": (1, 0, 1)}, "three positive numbers"),
        ({"shape": (2, 2, 2), "direction": (1, 0, 0, 1, 0, 0, 0, 0, 1)}, "orthogonal"),
        ({"shape": (2, 2, 2), "direction": (1, 0, 0)}, "nine cosines"),
    ],
)
def test_what_is_no_grid(what, says):
    with pytest.raises(ImageError, match=says):
        Grid(**what)


def test_grids_and_volumes_are_compared_alike():
    volume = Volume(np.zeros((3, 4, 5)), (1, 2, 3), (4, 5, 6))
    assert grid_difference(volume, volume.grid) is None
    assert "origin" in grid_difference(volume.grid, Grid((3, 4, 5), (1, 2, 3), (4, 5, 7)))


def test_no_other_module_converts_between_points_and_voxels():
    package = Path(nsclc_radiomics.__file__).parent
    found = [
        f"{path.relative_to(package)}: {line.strip()}"
        for path in sorted(package.rglob("*.py"))
        if path.name != "volume.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"direction\)*\.reshape\(3, 3\)|\.any\(axis=tuple\(|find_objects", line)
    ]
    assert not found
