"""Spoilt files: every reader gives an image or one of the project's errors, in seconds, without eating memory,
and never half an image."""

import resource
import time

import numpy as np
import pytest
from damage import HOWS, good_files, spoilt_copy

from nsclc_radiomics.core.errors import NsclcError
from nsclc_radiomics.core.volume import Volume

SEEDS = 7  # for each kind of file and of damage
KINDS = (
    "CT explicit",
    "CT Implicit",
    "CT RLE",
    "CT JPEG-LS",
    "CT JPEG 2000",
    "CT JPEG Lossless",
    "CT enhanced",
    "PET",
    "RTSTRUCT",
    "SEG",
)
KINDS += tuple(f"{what} {suffix}" for what in ("image", "mask") for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return good_files(tmp_path_factory.mktemp("good"))


def volume_of(result) -> Volume:
    return result[-1] if isinstance(result, tuple) else result


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", KINDS)
def test_spoilt_files_are_read_or_refused(good, tmp_path, kind, how, capfd):
    ((path, read),) = (
        found for name, found in good.items() if name.startswith(kind) and (name == kind or "." not in kind)
    )
    whole, memory = volume_of(read(path)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(SEEDS):
        started = time.process_time()
        try:
            found = volume_of(read(spoilt_copy(path, how, seed, tmp_path / str(seed))))
        except NsclcError as error:
            assert str(error).strip(), (kind, how, seed)
        else:
            assert isinstance(found, Volume), (kind, how, seed)
            if how == "truncated":  # nothing may be made up for what is missing
                np.testing.assert_array_equal(found.array, whole.array, err_msg=f"{kind} {how} {seed}")
        assert time.process_time() - started < 10, (kind, how, seed)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    assert grown < 500, f"{kind} {how}: {grown:.0f} MB more memory"


def test_there_are_enough_cases(good):
    assert len(good) == len(KINDS) and len(KINDS) * len(HOWS) * SEEDS >= 500
