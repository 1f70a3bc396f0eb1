"""Volumes on disk: what SimpleITK alone would read wrongly without a word."""

import nibabel
import numpy as np
import pytest

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import ImageError
from nsclc_radiomics.core.volume import Volume, grid_difference
from nsclc_radiomics.core.volume_files import read_volume, write_volume

VOLUME = Volume(
    make_rng(1, "files").normal(0, 20, (9, 12, 14)).astype(np.int16),
    (0.7, 0.8, 3),
    (1, 2, 3),
    (0, 1, 0, 0, 0, 1, 1, 0, 0),
    "HU",
)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_cut_short_anywhere_is_refused(tmp_path, suffix):
    path = write_volume(VOLUME, tmp_path / f"v{suffix}")
    assert np.array_equal(read_volume(path).array, VOLUME.array) and grid_difference(read_volume(path), VOLUME) is None
    whole = path.read_bytes()
    for keep in (0, 3, 100, 352, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:keep])
        with pytest.raises(ImageError, match=path.name):
            read_volume(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_one_flipped_bit_of_compressed_values_is_refused(tmp_path, suffix):
    path = write_volume(VOLUME, tmp_path / f"v{suffix}")
    whole, rng = path.read_bytes(), make_rng(1, suffix)
    for _ in range(60):
        data = bytearray(whole)
        data[int(rng.integers(len(data) // 2, len(data)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with pytest.raises(ImageError):
            read_volume(path)


def test_a_file_of_the_same_stem_does_not_lend_its_values(tmp_path):
    packed = write_volume(VOLUME, tmp_path / "v.nii.gz")
    plain = write_volume(VOLUME.with_array(VOLUME.array * 0), tmp_path / "v.nii")
    assert np.array_equal(read_volume(packed).array, VOLUME.array) and not read_volume(plain).array.any()


def test_what_is_not_finite_is_refused(tmp_path):
    values = VOLUME.array.astype(np.float32)
    values[0, 0, :2] = np.nan, np.inf
    for suffix in (".nii.gz", ".nrrd"):
        path = write_volume(VOLUME.with_array(values), tmp_path / f"v{suffix}")
        with pytest.raises(ImageError, match="2 of 1512 voxels are not finite"):
            read_volume(path)


def test_scaled_and_big_endian(tmp_path):
    stored = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.Nifti1Image(stored, np.diag([-1, -1, 2, 1]), header).to_filename(tmp_path / "big.nii")
    scaled = nibabel.Nifti1Image(stored.astype(np.int16), np.diag([-1, -1, 2, 1]))
    scaled.header.set_slope_inter(2, -1000)
    scaled.to_filename(tmp_path / "scaled.nii.gz")
    assert (
        np.array_equal(read_volume(tmp_path / "big.nii").array, stored.T)
        and read_volume(tmp_path / "big.nii").array.dtype.isnative
    )
    assert np.array_equal(read_volume(tmp_path / "scaled.nii.gz").array, stored.T * 2.0 - 1000)
    assert read_volume(tmp_path / "big.nii").spacing == (1, 1, 2)


def test_four_dimensions_are_refused(tmp_path):
    nibabel.Nifti1Image(np.zeros((2, 3, 4, 2), np.int16), np.eye(4)).to_filename(tmp_path / "time.nii.gz")
    with pytest.raises(ImageError, match="3-D"):
        read_volume(tmp_path / "time.nii.gz")
