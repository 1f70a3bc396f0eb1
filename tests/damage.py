"""Damaged files for fuzzing: one small good file of every kind that is read, and ways to spoil its bytes."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from dicom_files import activity, jpeg_lossless, write_enhanced, write_pet, write_rtstruct
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import write_volume
from nsclc_radiomics.loading.ct import read_ct
from nsclc_radiomics.loading.dicom import scan_dicom
from nsclc_radiomics.loading.image import read_image
from nsclc_radiomics.loading.mask import read_mask
from nsclc_radiomics.loading.pet import read_pet
from nsclc_radiomics.loading.rtstruct import list_rois, read_rtstruct
from nsclc_radiomics.loading.seg import read_seg, write_seg
from nsclc_radiomics.loading.write_dicom import write_series


def good_files(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    "For each kind of file: a good one, and how it is read once its spoilt copy stands in its place."
    image = Volume(make_rng(1, "fuzz").integers(-1000, 1000, (3, 34, 36)).astype(np.int16), (1, 1, 3), unit="HU")
    mask = Volume(np.pad(np.ones((1, 10, 10), bool), [(1, 1), (12, 12), (13, 13)]), (1, 1, 3), unit="mask")
    kinds = {}
    for syntax in ("explicit", ImplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless, "JPEG Lossless"):
        name = f"CT {getattr(syntax, 'name', syntax)}"
        files = write_series(image, folder / name.replace(" ", "_").replace("/", "_"))
        for file in files:
            header = pydicom.dcmread(file)
            header.PixelRepresentation = 0
            if syntax == "JPEG Lossless":
                jpeg_lossless(header)
            elif syntax == ImplicitVRLittleEndian:
                header.file_meta.TransferSyntaxUID = syntax
            elif syntax != "explicit":
                header.compress(syntax, generate_instance_uid=False)
            header.save_as(file, enforce_file_format=True) if syntax != ImplicitVRLittleEndian else pydicom.dcmwrite(
                file, header, implicit_vr=True, little_endian=True
            )
        kinds[name] = (files[1], lambda path: (scan_dicom(path.parent), read_ct(path.parent)))
    enhanced = (
        write_enhanced(folder / "enhanced", image, "CT", {}, [{"slope": 1.0, "intercept": -1024.0}] * 3)
        / "enhanced.dcm"
    )
    kinds["CT enhanced"] = (enhanced, lambda path: read_ct(path.parent))
    pet = write_pet(folder / "pet", activity())
    kinds["PET"] = (pet / "PT0001.dcm", lambda path: read_pet(path.parent))
    square = np.array([[5, 5], [20, 5], [20, 20], [5, 20]])
    contours = [np.column_stack([square, np.full(4, z)]) for z in (0, 3, 6)]
    structures = write_rtstruct(folder / "rs.dcm", {"GTV": contours, "lung": contours[:1]})
    kinds["RTSTRUCT"] = (structures, lambda path: (list_rois(path), read_rtstruct(path, image, "GTV")))
    segmented = write_seg(mask, folder / "CT_explicit", folder / "seg.dcm")
    kinds["SEG"] = (segmented, lambda path: (list_rois(path), read_seg(path, image)))
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        kinds[f"image {suffix}"] = (write_volume(image, folder / f"image{suffix}"), lambda path: read_image(path))
        kinds[f"mask {suffix}"] = (
            write_volume(mask, folder / f"mask{suffix}"),
            lambda path: read_mask(path, image, resample=True),
        )
    return kinds


def spoil(data: bytes, how: str, seed: int) -> bytes:
    "Truncated, bit-flipped, shuffled, overwritten or random bytes in place of good ones."
    rng = random.Random(seed)
    data = bytearray(data)
    # Headers decide what a parser does next, so most of the damage is done to the first kilobytes.
    end = len(data) if rng.random() < 0.3 else min(len(data), 2048)
    if how == "truncated":
        return bytes(data[: rng.randrange(len(data))])
    if how == "flipped":
        for _ in range(rng.choice((1, 2, 8, 64))):
            data[rng.randrange(end)] ^= 1 << rng.randrange(8)
    elif how == "shuffled":
        size = rng.choice((4, 16, 64))
        blocks = [bytes(data[k : k + size]) for k in range(0, end, size)]
        first, second = rng.randrange(len(blocks)), rng.randrange(len(blocks))
        blocks[first], blocks[second] = blocks[second], blocks[first]
        return b"".join(blocks) + bytes(data[end:])
    elif how == "overwritten":
        start = rng.randrange(end)
        length = rng.choice((1, 2, 4, 8, 32))
        data[start : start + length] = bytes(rng.choice((0, 255, rng.randrange(256))) for _ in range(length))
    elif how == "random":
        keep = rng.choice((0, 132, 348, 400))  # a magic number now and then
        return bytes(data[:keep]) + rng.randbytes(rng.randrange(1, 4096))
    return bytes(data)


HOWS = ("truncated", "flipped", "shuffled", "overwritten", "random")


def spoilt_copy(good: Path, how: str, seed: int, folder: Path) -> Path:
    "A copy of the good file's folder (of the file alone, where it is no slice) with that one file spoilt."
    if good.suffix == ".dcm" and good.parent.name not in (folder.parent.name, "good"):
        shutil.copytree(good.parent, folder)
    else:
        folder.mkdir()
    path = folder / good.name
    path.write_bytes(spoil(good.read_bytes(), how, seed))
    return path
