"""Scores of an outline, and outlines from one click,
against cases that can be worked out by hand and against experts' masks."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsclc_radiomics.cohort.sample import has_sample, sample_dir
from nsclc_radiomics.core.errors import GeometryError, ImageError, MaskError, OptionError
from nsclc_radiomics.core.files import reference_dir
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import read_volume
from nsclc_radiomics.loading.mask import read_mask
from nsclc_radiomics.loading.owkin import read_owkin_case
from nsclc_radiomics.segmentation.scores import SCORES, dice, segmentation_scores, summarise_scores, surface_dice
from nsclc_radiomics.segmentation.seeded import centre_point, segment_seeded

needs_reference = pytest.mark.skipif(reference_dir() is None, reason="reference data not present (NSCLC_REFERENCE)")


def chest(tumours, shape=(60, 80, 80), spacing=(1.0, 1.0, 1.5), direction=None, origin=(-30.0, 12.0, 200.0)):
    "Lung with balls of soft tissue, (centre zyx in mm, radius), and the mask of each."
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    hu = np.random.default_rng(0).normal(-860, 25, shape)
    masks = []
    for (cz, cy, cx), radius in tumours:
        inside = (z * spacing[2] - cz) ** 2 + (y * spacing[1] - cy) ** 2 + (x * spacing[0] - cx) ** 2 <= radius**2
        hu[inside] = np.random.default_rng(1).normal(35, 15, int(inside.sum()))
        masks.append(inside)
    geometry = {"spacing": spacing, "origin": origin, **({"direction": direction} if direction else {})}
    return Volume(hu.astype(np.int16), **geometry, unit="HU"), [Volume(m, **geometry, unit="mask") for m in masks]


def cube(low, high, n=20, spacing=(1.0, 1.0, 1.0)):
    array = np.zeros((n, n, n), bool)
    array[low:high, low:high, low:high] = True
    return Volume(array, spacing, unit="mask")


def test_scores_of_cubes_by_hand():
    scores = segmentation_scores(cube(5, 13), cube(5, 15))
    assert scores["dice"] == pytest.approx(2 * 512 / 1512)
    assert scores["volume_error_percent"] == pytest.approx(-48.8)
    assert scores["found_cm3"] == pytest.approx(0.512) and scores["truth_cm3"] == pytest.approx(1.0)
    assert segmentation_scores(cube(5, 13, spacing=(2, 2, 2)), cube(5, 15, spacing=(2, 2, 2)))[
        "hausdorff95_mm"
    ] == pytest.approx(2 * scores["hausdorff95_mm"])


def test_surface_dice_counts_voxels_of_both_surfaces():
    a, b = cube(5, 15), cube(5, 15)
    b.array[5:15, 5:15, 15] = True  # one face moved out by one voxel
    assert surface_dice(a, b, 1.0) == 1
    strict = surface_dice(a, b, 0.5)
    assert 0 < strict < 1 and strict == surface_dice(b, a, 0.5)
    far = cube(0, 4)
    assert surface_dice(far, cube(15, 19), 2.0) == 0


def test_surface_dice_equals_monai():
    import torch
    from monai import metrics

    rng = np.random.default_rng(0)
    for _ in range(3):
        low, high = sorted(rng.integers(3, 17, 2))
        a, b = cube(4, 14), cube(low, high + 2)
        both = [torch.from_numpy(np.stack([~m.array, m.array])[None].astype(np.float32)) for m in (a, b)]
        theirs = float(metrics.compute_surface_dice(*both, class_thresholds=[2.0], include_background=False))
        assert surface_dice(a, b, 2.0) == pytest.approx(theirs, abs=1e-6)


def test_empty_masks_are_scored_or_refused():
    nothing = cube(0, 0)
    scores = segmentation_scores(nothing, cube(5, 15))
    assert (
        scores["dice"] == 0
        and scores["surface_dice"] == 0
        and np.isnan(scores["hausdorff95_mm"])
        and scores["volume_error_percent"] == -100
    )
    with pytest.raises(MaskError, match="empty"):
        segmentation_scores(cube(5, 15), nothing)
    with pytest.raises(GeometryError):
        segmentation_scores(cube(5, 15), cube(5, 15, spacing=(1, 1, 2)))


def test_summary_counts_failures_as_worst():
    scores = pd.DataFrame(
        [segmentation_scores(cube(5, 15), cube(5, 15))] * 2 + [segmentation_scores(cube(0, 0), cube(5, 15))] * 3
    )
    table = summarise_scores(scores)
    assert list(table.index) == list(SCORES) and (table["patients"] == 5).all()
    assert table.loc["hausdorff95_mm", "median"] == np.inf and table.loc["dice", "worst"] == 0
    assert (table.loc["dice", "low"] <= table.loc["dice", "median"]) and (
        table.loc["dice", "median"] <= table.loc["dice", "high"]
    )
    with pytest.raises(OptionError, match="no patient"):
        summarise_scores(scores.iloc[:0])


@settings(max_examples=25, deadline=None)
@given(
    index=st.tuples(st.integers(0, 9), st.integers(0, 11), st.integers(0, 13)),
    spacing=st.tuples(*[st.floats(0.3, 5)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    flip=st.sampled_from([(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1), (0, 1, 0, 0, 0, 1, 1, 0, 0)]),
)
def test_points_and_voxels_are_inverse(index, spacing, origin, flip):
    image = Volume(np.zeros((10, 12, 14)), spacing, origin, flip)
    assert image.nearest_voxel(image.index_to_point(index)) == index
    assert np.allclose(
        image.index_to_point(index), image.to_sitk().TransformIndexToPhysicalPoint([int(i) for i in index[::-1]])
    )


@pytest.mark.parametrize("point", [(1, 2), (np.nan, 0, 0), (1e5, 0, 0)])
def test_points_that_are_none_are_refused(point):
    image, _ = chest([((45, 40, 40), 10)])
    with pytest.raises(OptionError):
        segment_seeded(image, point)


@pytest.mark.parametrize("radius", [4, 8, 15, 25])
def test_a_ball_in_lung_is_found(radius):
    image, (mask,) = chest([((45, 40, 40), radius)])
    assert dice(segment_seeded(image, centre_point(mask)), mask) > (0.75 if radius == 4 else 0.88)


@pytest.mark.parametrize("direction", [(-1, 0, 0, 0, -1, 0, 0, 0, 1), (0, 1, 0, 0, 0, 1, 1, 0, 0)])
def test_the_patients_axes_do_not_matter(direction):
    plain, (mask,) = chest([((45, 30, 50), 12)])
    turned, (turned_mask,) = chest([((45, 30, 50), 12)], direction=direction)
    one, other = segment_seeded(plain, centre_point(mask)), segment_seeded(turned, centre_point(turned_mask))
    assert other.direction == turned.direction
    assert 2 * (one.array & other.array).sum() / (one.array.sum() + other.array.sum()) > 0.98


def test_the_click_chooses_between_two_tumours():
    image, masks = chest([((45, 20, 20), 9), ((45, 60, 60), 9)])
    for k, mask in enumerate(masks):
        found = segment_seeded(image, centre_point(mask))
        assert dice(found, mask) > 0.85 and not (found.array & masks[1 - k].array).any()


def test_a_vessel_is_kept_out():
    image, (mask,) = chest([((45, 40, 40), 12)])
    image.array[28:32, 38:43, :] = np.where(
        mask.array[28:32, 38:43, :], image.array[28:32, 38:43, :], 40
    )  # 5 x 6 mm, straight through
    found = segment_seeded(image, centre_point(mask))
    far = np.abs(np.arange(80) - 40) > 20
    assert dice(found, mask) > 0.85 and not found.array[:, :, far].any()


def test_a_tumour_on_the_chest_wall_ends_at_its_edge():
    image, (mask,) = chest([((45, 40, 40), 15)])
    image.array[:, 52:, :] = 40  # soft tissue without any border to the tumour
    found = segment_seeded(image, centre_point(mask))
    assert dice(found, mask) > 0.7


def test_a_tumour_at_the_edge_is_said():
    image, (mask,) = chest([((45, 40, 2), 12)])
    with pytest.warns(UserWarning, match="first column"):
        found = segment_seeded(image, centre_point(mask))
    assert dice(found, mask) > 0.8


@pytest.mark.parametrize(("density", "named"), [(-860, "lung"), (-1000, "air"), (900, "bone")])
def test_a_click_outside_of_tissue_is_said(density, named):
    image, (mask,) = chest([((45, 40, 40), 12)])
    image.array[mask.array] = density
    with pytest.raises(MaskError, match=named):
        segment_seeded(image, centre_point(mask))


def test_no_edge_within_reach_is_said():
    soft = Volume(np.full((70, 70, 70), 40, np.int16), (2, 2, 2), unit="HU")
    with pytest.warns(UserWarning, match="guess"):
        segment_seeded(soft, soft.index_to_point((35, 35, 35)))


def test_a_pet_is_refused():
    with pytest.raises(ImageError, match="PET"):
        segment_seeded(Volume(np.ones((9, 9, 9)), unit="SUVbw"), (4, 4, 4))


@pytest.mark.skipif(not has_sample(), reason="the sample CTs are not in the cache")
@pytest.mark.parametrize("name", ["lung1", "lung2"])
def test_one_click_on_the_sample_cts(name):
    ct = read_volume(sample_dir() / f"{name}_image.nrrd", "HU")
    truth = read_mask(sample_dir() / f"{name}_label.nrrd", ct)
    assert dice(segment_seeded(ct, centre_point(truth)), truth) >= 0.75


@needs_reference
def test_one_click_on_real_patients():
    "Every seventh of the Owkin patients; the whole set has the paper notebook."
    values = []
    for path in sorted((reference_dir() / "owkin/x_train/images").glob("*.npz"))[::7]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image, truth = read_owkin_case(path)
            except MaskError:
                continue
            try:
                values.append(dice(segment_seeded(image, centre_point(truth)), truth))
            except MaskError:
                values.append(0.0)
    assert np.median(values) >= 0.65
