"""Feature values: PyRadiomics' authors' own, 64 real patients', the IBSI consensus,
and PyRadiomics itself on awkward regions."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsclc_radiomics.cohort.folder import load_cohort
from nsclc_radiomics.cohort.sample import sample_baseline
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import FeatureError
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import read_volume
from nsclc_radiomics.features.extraction import extract
from nsclc_radiomics.features.formulas import CLASS_NAMES, formulas
from nsclc_radiomics.features.ibsi import SCHEMES, ibsi_table, ibsi_values, read_consensus
from nsclc_radiomics.features.measure import measure
from nsclc_radiomics.features.pyradiomics import radiomics_module
from nsclc_radiomics.features.shape import diameters, surface_and_volume
from nsclc_radiomics.loading.mask import read_mask

CLASSES = {name: sorted(f for f, old in formulas(name).getFeatureNames().items() if not old) for name in CLASS_NAMES}


def theirs(image: Volume, mask: Volume, params: dict) -> dict[str, float]:
    "PyRadiomics' own extractor."
    extractor = radiomics_module("featureextractor").RadiomicsFeatureExtractor(
        {**params, "setting": {**params["setting"], "additionalInfo": False}}
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return {name: float(np.squeeze(v)) for name, v in extractor.execute(image.to_sitk(), mask.to_sitk()).items()}


def assert_same(ours: pd.Series, reference: dict[str, float], rtol: float = 1e-9, atol: float = 1e-12) -> None:
    assert set(reference) <= set(ours.index)
    for name, value in ours.items():
        expected = reference.get(name, np.nan)
        assert np.isclose(value, expected, rtol=rtol, atol=atol, equal_nan=True), (name, value, expected)


@pytest.mark.parametrize("patient", ["lung1", "lung2"])
def test_the_authors_published_values(sample, patient):
    cohort = load_cohort(sample)
    image = cohort.image(patient)
    values = extract(
        image,
        read_mask(cohort.mask_path(patient), image),
        {"setting": {"binWidth": 25, "voxelArrayShift": 2000, "minimumROIDimensions": 1}},
    )
    published = sample_baseline()[patient]
    assert len(values) == len(published) == 107
    assert ((values - published).abs() / published.abs()).max() < 1e-9


def published_features(reference) -> pd.DataFrame:
    table = pd.read_csv(reference / "owkin/x_train/features/radiomics.csv", header=[0, 1], skiprows=[2], index_col=0)
    return table.droplevel(0, axis=1).astype(float)


@pytest.mark.parametrize("part", range(4))
def test_published_features_of_real_patients(reference, part):
    published = published_features(reference).drop(columns="original_firstorder_StandardDeviation")
    wanted: dict[str, list[str]] = {}
    for column in published.columns:
        wanted.setdefault(column.split("_")[1], []).append(column.split("_")[2])
    cases = (reference / "owkin/exact_feature_cases.txt").read_text().split()[part::4]
    for name in cases:
        with np.load(reference / f"owkin/x_train/images/patient_{name}.npz") as data:
            image, mask = Volume(data["scan"], unit="HU"), Volume(data["mask"].astype(bool), unit="mask")
        values = extract(image, mask, {"setting": {"binWidth": 25}, "featureClass": wanted})
        off = (values[published.columns] - published.loc[int(name)]).abs() / published.loc[int(name)].abs()
        assert len(off) == 52 and off.max() < 1e-9, (name, off.idxmax(), off.max())


@pytest.fixture(scope="module")
def phantoms(reference):
    def read(case: str) -> tuple[Volume, Volume]:
        files = reference / "ibsi" / ("digital_phantom" if case == "digital_phantom" else "ct_phantom") / "nifti"
        image = read_volume(next((files / "image").glob("*.nii.gz")), "HU")
        return image, read_mask(next((files / "mask").glob("*.nii.gz")), image)

    return read


@pytest.mark.parametrize("case", SCHEMES)
def test_ibsi_consensus(reference, phantoms, case):
    table = ibsi_table(*phantoms(case), case, read_consensus(reference / "ibsi/ibsi1_reference_values.csv"))
    missed = table[table.verdict == "miss"]
    assert len(table) == 144 and not (missed.reason == "unexplained").any()
    allowed = {"digital_phantom": {"morph_pca_min_axis", "morph_pca_least_axis"}, "ct_config_c": set(missed.tag)}
    assert set(missed.tag) <= allowed.get(case, set())


def test_ibsi_bins_that_start_at_the_limit_leave_no_miss_in_scheme_c(reference, phantoms):
    consensus = (
        read_consensus(reference / "ibsi/ibsi1_reference_values.csv").query("case == 'ct_config_c'").set_index("tag")
    )
    values = ibsi_values(*phantoms("ct_config_c"), "ct_config_c", bin_start=True)
    for tag, value in values.items():
        known = consensus.loc[tag]
        assert abs(float(f"{value:.3g}") - known.reference_value) <= known.tolerance + 1e-9 * max(
            1, abs(known.reference_value)
        ), tag


def blob(seed: int, shape=(14, 18, 20), spacing=(0.8, 0.8, 2.5)) -> tuple[Volume, Volume]:
    rng = make_rng(seed, "features test")
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    inside = sum(g**2 for g in grid) < 0.55 + 0.2 * rng.normal(size=shape)
    image = Volume(
        (np.where(inside, 30, -700) + rng.normal(0, 80, shape)).astype(np.int16), spacing, (5, -7, 11), unit="HU"
    )
    return image, image.with_array(inside, "mask")


ALL = {name: [] for name in CLASS_NAMES}
FILTERS = {"Original": {}, "LoG": {"sigma": [1.0, 2.5]}, "Wavelet": {}}
VARIANTS = {
    "filters": {"setting": {}, "imageType": FILTERS},
    "resampled": {"setting": {"resampledPixelSpacing": [1.1, 1.1, 1.1], "padDistance": 8}, "imageType": FILTERS},
    "resampled in plane": {"setting": {"resampledPixelSpacing": [1, 1, 0]}, "imageType": {"Original": {}}},
    "same spacing": {"setting": {"resampledPixelSpacing": [0.8, 0.8, 2.5], "padDistance": 3}, "imageType": FILTERS},
    "pre-cropped": {"setting": {"preCrop": True, "padDistance": 2}, "imageType": FILTERS},
    "bin count": {"setting": {"binCount": 16}, "imageType": {"Original": {}, "Wavelet": {"level": 2}}},
    "two distances": {"setting": {"distances": [1, 2]}, "imageType": {"Original": {}}},
    "within slices": {
        "setting": {"force2D": True, "force2Ddimension": 0},
        "imageType": {"Original": {}, "Wavelet": {}},
    },
    "within sagittal slices": {
        "setting": {"force2D": True, "force2Ddimension": 2},
        "imageType": {"Original": {}, "Wavelet": {}},
    },
    "weighted": {"setting": {"weightingNorm": "euclidean"}, "imageType": {"Original": {}}},
    "merged": {"setting": {"weightingNorm": "no_weighting"}, "imageType": {"Original": {}}},
    "not symmetrical": {"setting": {"symmetricalGLCM": False}, "imageType": {"Original": {}}},
    "dependence": {"setting": {"gldm_a": 2, "voxelArrayShift": 1000}, "imageType": {"Original": {}}},
    "normalised": {
        "setting": {"normalize": True, "normalizeScale": 100, "removeOutliers": 3, "binWidth": 5},
        "imageType": {"Original": {}},
    },
    "resegmented": {"setting": {"resegmentRange": [-2, 2], "resegmentMode": "sigma"}, "imageType": {"Original": {}}},
    "other filters": {
        "setting": {"binWidth": 10},
        "imageType": {k: {} for k in ("Square", "SquareRoot", "Logarithm", "Exponential", "Gradient")},
    },
    "one level": {"setting": {"binWidth": 5000}, "imageType": {"Original": {}}},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_pyradiomics(variant):
    image, mask = blob(3)
    params = {
        "setting": {"binWidth": 25, **VARIANTS[variant]["setting"]},
        "imageType": VARIANTS[variant]["imageType"],
        "featureClass": ALL,
    }
    reference = theirs(image, mask, params)
    assert_same(extract(image, mask, params), reference)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.tuples(*[st.integers(2, 9)] * 3), st.floats(0.2, 1.0), st.sampled_from([1, 7, 60]))
def test_equals_pyradiomics_on_any_region(seed, shape, filled, width):
    rng = make_rng(seed, "any region")
    inside = rng.random(shape) < filled
    inside.flat[[0, -1]] = True
    inside = np.pad(inside, 1)  # PyRadiomics refuses a mask without background
    image = Volume(rng.integers(-200, 200, inside.shape).astype(np.int16), (0.7, 1.3, 2.0), unit="HU")
    mask = image.with_array(inside, "mask")
    params = {"setting": {"binWidth": width, "minimumROIDimensions": 1}}
    # a flat region's smallest axis is the square root of a rounding error on both sides
    assert_same(extract(image, mask, params), theirs(image, mask, params), rtol=1e-8, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(1, 12)] * 3), st.floats(0.05, 1.0))
def test_surface_and_diameters_of_any_region(seed, shape, filled):
    rng = make_rng(seed, "surface")
    inside = rng.random(shape) < filled
    inside.flat[0] = True
    spacing = tuple(rng.uniform(0.4, 3, 3).tolist())
    area, volume, diameter = radiomics_module("").cShape.calculate_coefficients(np.pad(inside, 1), np.array(spacing))
    assert np.allclose(surface_and_volume(inside, spacing), (area, volume), rtol=1e-11)
    assert np.allclose(diameters(inside, spacing), diameter, rtol=1e-11)


def test_values_do_not_move_with_the_tumour_in_a_large_image():
    "The filters see no further than their margin: a tumour in a whole scan gives what it gives in a part of it."
    small, mask = blob(5, (30, 40, 40), (1, 1, 1))
    wide = np.pad(small.array, ((40, 40), (70, 70), (70, 70)), mode="edge")
    inside = np.pad(mask.array, ((40, 40), (70, 70), (70, 70)))
    params = {
        "setting": {"binWidth": 25},
        "imageType": {"LoG": {"sigma": [1.0]}, "Wavelet": {}},
        "featureClass": {"firstorder": [], "glcm": []},
    }
    image = Volume(wide, unit="HU")
    assert_same(extract(image, Volume(inside), params), theirs(image, Volume(inside), params))


def test_values_that_are_not_numbers_are_refused():
    image, mask = blob(1)
    broken = image.array.astype(np.float32)
    broken[mask.array.nonzero()[0][0], mask.array.nonzero()[1][0], mask.array.nonzero()[2][0]] = np.nan
    with pytest.raises(FeatureError, match="not finite"):
        measure(image.with_array(broken), mask, {"binWidth": 25}, {"Original": {}}, CLASSES)
