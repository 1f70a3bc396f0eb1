"""DICOM trees and damaged files for the tests of importing."""

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.loading.write_dicom import write_series

Z, Y, X = np.ogrid[-4:5, -12:13, -12:13]
INSIDE = (3.0 * Z) ** 2 + Y**2 + X**2 <= 8**2
CT = Volume(np.where(INSIDE, 40.0, -850.0), spacing=(1, 1, 3), unit="HU")
PET = Volume(np.where(INSIDE, 6.0, 0.5), spacing=(1, 1, 3), unit="SUVbw")
MASK = CT.with_array(INSIDE, "mask")
SUV = {"Units": "GML", "SUVType": "BW", "CorrectedImage": ["ATTN", "DECY"], "DecayCorrection": "START"}


def square(half: float, k: int, centre: tuple[float, float] = (12, 12)) -> list[float]:
    "A contour on slice k, in mm, around the middle of CT."
    x, y = centre
    return [c for dx, dy in ((-1, -1), (1, -1), (1, 1), (-1, 1)) for c in (x + dx * half, y + dy * half, 3.0 * k)]


def write_rtstruct(
    path: Path, drawn_on: Path, rois: dict[str, list[list[float]]], refer: bool = True, **attributes
) -> Path:
    "A structure set on the series in a folder; without `refer` it names the frame of reference only."
    source = pydicom.dcmread(next(iter(sorted(drawn_on.glob("*.dcm")))), stop_before_pixels=True)
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.Modality = RTStructureSetStorage, "RTSTRUCT"
    data.SOPInstanceUID, data.SeriesInstanceUID = (
        generate_uid(entropy_srcs=[str(path)]),
        generate_uid(entropy_srcs=[str(path), "series"]),
    )
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate"):
        setattr(data, keyword, source.get(keyword))
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = source.SeriesInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = source.FrameOfReferenceUID
    if refer:
        frame.RTReferencedStudySequence = [study]
    data.ReferencedFrameOfReferenceSequence = [frame]
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), 1):
        roi, item = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = source.FrameOfReferenceUID
        item.ReferencedROINumber, item.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints, contour.ContourData = (
                "CLOSED_PLANAR",
                len(points) // 3,
                points,
            )
            item.ContourSequence.append(contour)
        data.StructureSetROISequence.append(roi)
        data.ROIContourSequence.append(item)
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def patient_tree(folder: Path, patient: str, pet: bool = False, **attributes) -> Path:
    "A CT with a structure set, and a PET in the same frame of reference, below one folder."
    common = {
        "PatientID": patient,
        "PatientName": patient,
        "FrameOfReferenceUID": generate_uid(entropy_srcs=[str(folder), "frame"]),
    }
    common |= {"StudyInstanceUID": generate_uid(entropy_srcs=[str(folder), "study"]), **attributes}
    write_series(
        CT, folder / "ct", attributes={**common, "SeriesInstanceUID": generate_uid(entropy_srcs=[str(folder), "ct"])}
    )
    if pet:
        write_series(
            PET,
            folder / "pet",
            "PT",
            {**common, **SUV, "SeriesInstanceUID": generate_uid(entropy_srcs=[str(folder), "pet"])},
        )
    write_rtstruct(
        folder / "rs.dcm", folder / "ct", {"Lung": [square(10, 4)], "GTV-1": [square(4.5, k) for k in (3, 4, 5)]}
    )
    return folder


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """One of: cut short, bits flipped, pieces in another order, bytes of nothing, a stretch overwritten, bytes lost, or
    nothing left.
    """
    kind = int(rng.integers(7))
    if kind == 0:
        return data[: int(rng.integers(len(data)))]
    if kind == 1:
        array = np.frombuffer(data, np.uint8).copy()
        reach = len(array) if rng.random() < 0.5 else min(len(array), 1500)  # headers matter more than pixels
        for at in rng.integers(0, reach, int(rng.integers(1, 30))):
            array[at] ^= 1 << int(rng.integers(8))
        return array.tobytes()
    if kind == 2:
        size = int(rng.integers(1, 400))
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        return b"".join(pieces[i] for i in rng.permutation(len(pieces)))
    if kind == 3:
        return rng.bytes(int(rng.integers(1, 3000)))
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 200))
    if kind == 4:
        return data[:start] + rng.bytes(length) + data[start + length :]
    if kind == 5:
        return data[:start] + data[start + length :]
    return b""
