"""DICOM files that the tests need and that `write_series` does not write: PET of many kinds, multi-frame objects,
structure sets."""

import copy
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)

from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.loading.write_dicom import write_series

DOSE, HALF_LIFE, WEIGHT, UPTAKE = 368.08e6, 6586.2, 70.0, 3600.0  # Bq, s, kg, s
SUV = (0.2, 1.0, 4.0)


def activity(uptake: float = UPTAKE, half_life: float = HALF_LIFE, dose: float = DOSE, weight: float = WEIGHT) -> float:
    "Bq/ml that mean SUV 1 at a moment `uptake` seconds after the injection."
    return dose * 2 ** (-uptake / half_life) / (weight * 1000)


def injection(**changes) -> Dataset:
    "One item of the radiopharmaceutical sequence; None removes a value."
    item = Dataset()
    values = {
        "RadiopharmaceuticalStartTime": "100000",
        "RadionuclideTotalDose": str(DOSE),
        "RadionuclideHalfLife": str(HALF_LIFE),
    }
    for keyword, value in {**values, **changes}.items():
        if value is not None:
            setattr(item, keyword, value)
    return item


def write_pet(
    folder: Path, unit: float | np.ndarray, drug: Dataset | None = None, slices: int = 3, **attributes
) -> Path:
    "A PET whose every slice holds SUV 0.2, 1 and 4, where stored values of `unit` (one, or one a slice) mean SUV 1."
    per_slice = {
        k: attributes.pop(k)
        for k in list(attributes)
        if isinstance(attributes[k], (list, np.ndarray)) and k != "CorrectedImage"
    }
    plane = np.repeat(np.array(SUV), 4)[None, :] * np.ones((6, 1))
    array = np.stack([plane * u for u in np.broadcast_to(unit, slices)])
    header = {
        "Manufacturer": "Synthetic",
        "PatientWeight": str(WEIGHT),
        "PatientSize": "1.75",
        "PatientSex": "O",
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["DECY", "ATTN"],
        "FrameReferenceTime": "150000",
        "ActualFrameDuration": "300000",
        "RadiopharmaceuticalInformationSequence": [drug if drug is not None else injection()],
    }
    files = write_series(Volume(array, spacing=(4, 4, 4)), folder, "PT", {**header, **attributes})
    for keyword, values in per_slice.items():
        for file, value in zip(files, values, strict=True):
            edit(file, lambda h, keyword=keyword, value=value: setattr(h, keyword, value))
    return folder


def edit(file: Path, change) -> None:
    "Change one file's header in place."
    header = pydicom.dcmread(file)
    change(header)
    header.save_as(file)


def write_enhanced(folder: Path, volume: Volume, modality: str, top: dict, frames: list[dict]) -> Path:
    "A multi-frame object; `frames` gives, for each frame, slope, intercept, and what else its groups hold."
    classic = pydicom.dcmread(write_series(volume, folder / "classic", modality)[0])
    ds = copy.deepcopy(classic)
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
        "Units",
        "SliceThickness",
    ):
        if keyword in ds:
            delattr(ds, keyword)
    ds.SOPClassUID = EnhancedCTImageStorage if modality == "CT" else EnhancedPETImageStorage
    ds.NumberOfFrames = len(volume.array)
    for keyword, value in top.items():
        setattr(ds, keyword, value)
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [volume.spacing[1], volume.spacing[0]], volume.spacing[2]
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], []
    pixels = []
    for k, facts in enumerate(frames):
        facts = dict(facts)
        slope, intercept = facts.pop("slope", 1.0), facts.pop("intercept", 0.0)
        position, value, content, group = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = list(np.add(volume.origin, [0, 0, volume.spacing[2] * k]))
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = (
            f"{slope:.10g}",
            f"{intercept:g}",
            facts.pop("rescale_type", "HU"),
        )
        unit = facts.pop("unit", None)
        if unit:
            code, world = Dataset(), Dataset()
            code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = unit, "UCUM", unit
            world.RealWorldValueSlope, world.RealWorldValueIntercept, world.MeasurementUnitsCodeSequence = (
                slope,
                intercept,
                [code],
            )
            group.RealWorldValueMappingSequence = [world]
        for keyword, found in facts.items():
            setattr(content, keyword, found)
        group.PlanePositionSequence, group.PixelValueTransformationSequence, group.FrameContentSequence = (
            [position],
            [value],
            [content],
        )
        ds.PerFrameFunctionalGroupsSequence.append(group)
        pixels.append(np.round((volume.array[k] - intercept) / slope).astype("<i2"))
    ds.PixelData = np.array(pixels).tobytes()
    target = folder / "enhanced"
    target.mkdir()
    ds.save_as(target / "enhanced.dcm", enforce_file_format=True)
    return target


def jpeg_lossless(header: Dataset) -> None:
    "Compress a slice of unsigned numbers as JPEG Lossless, which pydicom itself cannot write."
    image = sitk.GetImageFromArray(header.pixel_array.astype(np.uint16)[None])
    path = Path(header.filename).with_suffix(".jpg.dcm")
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(path))
    writer.Execute(image)
    made = pydicom.dcmread(path)
    path.unlink()
    header.PixelData = made.PixelData
    header["PixelData"].is_undefined_length = True
    header.file_meta.TransferSyntaxUID = made.file_meta.TransferSyntaxUID


def write_rtstruct(path: Path, structures: dict[str, list[np.ndarray]], kind: str = "CLOSED_PLANAR") -> Path:
    "A structure set: for each name, contours of shape (n, 3) in mm."
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = RTStructureSetStorage, generate_uid(), "RTSTRUCT"
    data.SeriesInstanceUID, data.StudyInstanceUID, data.PatientID = generate_uid(), generate_uid(), "P"
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures.items(), 1):
        roi, item = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, item.ReferencedROINumber, item.ContourSequence = number, name, number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = [f"{v:.6f}" for v in np.ravel(points)]
            item.ContourSequence.append(contour)
        data.StructureSetROISequence.append(roi)
        data.ROIContourSequence.append(item)
    data.save_as(path, enforce_file_format=True)
    return path
