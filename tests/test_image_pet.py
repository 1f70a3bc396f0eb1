"""PET to SUVbw: every way of writing the same uptake values,
and every header value without which they are not known."""

import warnings

import numpy as np
import pydicom
import pytest
from dicom_files import HALF_LIFE, SUV, UPTAKE, WEIGHT, activity, edit, injection, write_enhanced, write_pet

from nsclc_radiomics.core.errors import ImageError
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.loading.ct import read_ct
from nsclc_radiomics.loading.pet import average_count_time, read_pet

MIDDLE = 300 / 2 - np.log(2) / HALF_LIFE * 300**2 / 24  # of a frame of 300 s: series of the average count time


def values(folder) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = read_pet(folder)
    assert volume.unit == "SUVbw" and volume.array.dtype == np.float32
    return volume.array.reshape(len(volume.array), -1)


def holds(folder, tolerance=1e-3) -> None:
    found = values(folder)
    for suv in SUV:
        assert np.abs(found - suv).min(axis=1).max() < tolerance, np.unique(found.round(3))


def test_average_count_time():
    assert average_count_time(300, HALF_LIFE) == pytest.approx(MIDDLE, abs=1e-3)
    assert average_count_time(1e-3, HALF_LIFE) == pytest.approx(5e-4, rel=1e-3)
    with pytest.raises(ImageError, match="0018,1242"):
        average_count_time(0, HALF_LIFE)


def at(seconds: float, start: str = "10") -> str:
    "Time of day so many seconds after 10:00."
    total = int(start) * 3600 + seconds
    return f"{int(total // 3600) % 24:02d}{int(total % 3600 // 60):02d}{total % 60:09.6f}"


BEDS = np.array([3600.0, 3900.0, 4200.0])  # three slices, from three beds
CASES = {
    "START, series time is the acquisition's": {},
    "START, later beds corrected to the first": {"AcquisitionTime": [at(t) for t in BEDS]},
    "START, series a little before": {"SeriesTime": at(3540), "unit": activity(3540)},
    "ADMIN": {"DecayCorrection": "ADMIN", "unit": activity(0)},
    "ADMIN needs no time but the injection's": {
        "DecayCorrection": "ADMIN",
        "unit": activity(0),
        "AcquisitionTime": None,
        "SeriesTime": None,
    },
    "NONE, slice by slice": {
        "DecayCorrection": "NONE",
        "CorrectedImage": ["ATTN"],
        "AcquisitionTime": [at(t) for t in BEDS],
        "unit": activity(BEDS + MIDDLE),
    },
    "START, written later: frame reference time": {
        "SeriesTime": "180000",
        "AcquisitionTime": [at(t) for t in BEDS],
        "FrameReferenceTime": [f"{(t - UPTAKE + MIDDLE) * 1000:.3f}" for t in BEDS],
    },
    "START, written later: GE counts from the frame's start": {
        "Manufacturer": "GE MEDICAL SYSTEMS",
        "SeriesTime": "180000",
        "AcquisitionTime": [at(t) for t in BEDS],
        "ActualFrameDuration": None,
        "FrameReferenceTime": [f"{(t - UPTAKE) * 1000:.3f}" for t in BEDS],
    },
    "START, written the day after": {
        "SeriesDate": "20240103",
        "SeriesTime": "090000",
        "AcquisitionDate": "20240102",
        "AcquisitionTime": "110000",
        "FrameReferenceTime": f"{MIDDLE * 1000:.3f}",
    },
    "dose in MBq": {"drug": injection(RadionuclideTotalDose="368.08")},
    "weight in grams": {"PatientWeight": "70000"},
    "start with date only": {
        "drug": injection(RadiopharmaceuticalStartTime=None, RadiopharmaceuticalStartDateTime="20240102100000.00")
    },
    "start in another time zone": {
        "drug": injection(RadiopharmaceuticalStartTime=None, RadiopharmaceuticalStartDateTime="20240102090000+0000"),
        "TimezoneOffsetFromUTC": "+0100",
    },
    "start with a date moved by an anonymiser": {"drug": injection(RadiopharmaceuticalStartDateTime="19600101100000")},
    "acquisition with a date moved by an anonymiser": {"AcquisitionDate": "19600101"},
    "past midnight, time only": {
        "SeriesTime": "003000",
        "AcquisitionTime": "003000",
        "drug": injection(RadiopharmaceuticalStartTime="233000"),
    },
    "past midnight, with dates": {
        "SeriesTime": "003000",
        "AcquisitionTime": "003000",
        "drug": injection(RadiopharmaceuticalStartTime="233000", RadiopharmaceuticalStartDateTime="20240101233000"),
    },
    "Ga-68": {"drug": injection(RadionuclideHalfLife="4062.6"), "unit": activity(half_life=4062.6)},
    "Zr-89 after four days, with date": {
        "drug": injection(RadionuclideHalfLife="282240", RadiopharmaceuticalStartDateTime="20231229110000"),
        "unit": activity(4 * 86400, half_life=282240),
    },
    "GML without a type": {
        "Units": "GML",
        "unit": 1.0,
        "PatientWeight": None,
        "RadiopharmaceuticalInformationSequence": None,
    },
    "GML BW": {"Units": "GML", "SUVType": "BW", "unit": 1.0},
}
HEIGHT = 175.0
RATIO, BMI = (WEIGHT / HEIGHT) ** 2, WEIGHT / 1.75**2
NORMALISERS = {  # kg
    ("LBMJAMES128", "M"): 1.10 * WEIGHT - 128 * RATIO,
    ("LBMJAMES128", "F"): 1.07 * WEIGHT - 148 * RATIO,
    ("LBM", "M"): 1.10 * WEIGHT - 120 * RATIO,
    ("LBMJANMA", "M"): 9270 * WEIGHT / (6680 + 216 * BMI),
    ("LBMJANMA", "F"): 9270 * WEIGHT / (8780 + 244 * BMI),
    ("IBW", "M"): 48 + 1.06 * (HEIGHT - 152),
    ("IBW", "F"): 45.5 + 0.91 * (HEIGHT - 152),
}
for (kind, sex), kg in NORMALISERS.items():
    CASES[f"GML {kind} {sex}"] = {"Units": "GML", "SUVType": kind, "PatientSex": sex, "unit": kg / WEIGHT}
for kind in ("LBMJANMA", "IBW"):
    CASES[f"GML {kind} O"] = {
        "Units": "GML",
        "SUVType": kind,
        "unit": (NORMALISERS[kind, "M"] + NORMALISERS[kind, "F"]) / 2 / WEIGHT,
    }
CASES["CM2ML"] = {"Units": "CM2ML", "SUVType": "BSA", "unit": 0.007184 * WEIGHT**0.425 * HEIGHT**0.725 * 10 / WEIGHT}


@pytest.mark.parametrize("name", CASES)
def test_the_same_uptake_written_in_many_ways(tmp_path, name):
    case = dict(CASES[name])
    holds(write_pet(tmp_path / "pet", case.pop("unit", activity()), case.pop("drug", None), **case))


@pytest.mark.parametrize("creator", [True, False], ids=["with private creator", "creator stripped"])
@pytest.mark.parametrize(
    "maker, group, creator_name, element, vr, value, case",
    [
        (
            "Philips Medical Systems",
            0x7053,
            "Philips PET Private Group",
            0x00,
            "DS",
            "0.0005",
            {"Units": "CNTS", "unit": 1 / 0.0005},
        ),
        (
            "Philips Medical Systems",
            0x7053,
            "Philips PET Private Group",
            0x09,
            "DS",
            "0.5",
            {"Units": "CNTS", "unit": activity() / 0.5},
        ),
        (
            "GE MEDICAL SYSTEMS",
            0x0009,
            "GEMS_PETD_01",
            0x0D,
            "DT",
            "20240102110000.00",
            {"SeriesTime": "180000", "AcquisitionTime": "113000"},
        ),
        (
            "SIEMENS",
            0x0071,
            "SIEMENS MED PT",
            0x22,
            "DT",
            "20240102110000",
            {"SeriesTime": "180000", "AcquisitionTime": "113000"},
        ),
    ],
    ids=["Philips SUV factor", "Philips activity factor", "GE scan time", "Siemens decay time"],
)
def test_private_values(tmp_path, creator, maker, group, creator_name, element, vr, value, case):
    case = dict(case)
    folder = write_pet(tmp_path / "pet", case.pop("unit", activity()), Manufacturer=maker, **case)

    def add(header):
        if creator:
            header.private_block(group, creator_name, create=True).add_new(element, vr, value)
        else:
            header.add_new((group, 0x1000 + element), vr, value)

    for file in folder.iterdir():
        edit(file, add)
    holds(folder)


def test_philips_counts_without_decay_correction_need_the_activity_factor(tmp_path):
    "The SUV factor holds for one moment only."
    folder = write_pet(
        tmp_path / "pet",
        activity(BEDS + MIDDLE) / 0.5,
        Manufacturer="Philips",
        Units="CNTS",
        DecayCorrection="NONE",
        AcquisitionTime=[at(t) for t in BEDS],
    )
    for file in folder.iterdir():
        edit(file, lambda h: (h.add_new((0x7053, 0x1009), "DS", "0.5"), h.add_new((0x7053, 0x1000), "DS", "77")))
    holds(folder)


LATE = {"SeriesTime": "180000"}
REFUSED = {
    "no weight": ({"PatientWeight": None}, "0010,1030"),
    "weight 0": ({"PatientWeight": "0"}, "0010,1030"),
    "weight negative": ({"PatientWeight": "-70"}, "0010,1030"),
    "no units": ({"Units": None}, "0054,1001"),
    "units of proportional counts": ({"Units": "PROPCNTS"}, "PROPCNTS"),
    "counts without Philips factors": ({"Units": "CNTS", "Manufacturer": "Philips"}, "7053,1000"),
    "body surface in g/ml": ({"Units": "GML", "SUVType": "BSA"}, "0054,1006"),
    "unknown SUV type": ({"Units": "GML", "SUVType": "XYZ"}, "XYZ"),
    "ideal weight, no sex": ({"Units": "GML", "SUVType": "IBW", "PatientSex": None}, "0010,0040"),
    "ideal weight, sex X": ({"Units": "GML", "SUVType": "IBW", "PatientSex": "X"}, "0010,0040"),
    "ideal weight, no height": ({"Units": "GML", "SUVType": "IBW", "PatientSize": None}, "0010,1020"),
    "ideal weight, height 0": ({"Units": "GML", "SUVType": "IBW", "PatientSize": "0"}, "0010,1020"),
    "height in cm": ({"Units": "GML", "SUVType": "IBW", "PatientSize": "175"}, "0010,1020"),
    "no radiopharmaceutical": ({"RadiopharmaceuticalInformationSequence": None}, "0054,0016"),
    "no dose": ({"drug": injection(RadionuclideTotalDose=None)}, "0018,1074"),
    "dose negative": ({"drug": injection(RadionuclideTotalDose="-368080000")}, "0018,1074"),
    "dose 0": ({"drug": injection(RadionuclideTotalDose="0")}, "0018,1074"),
    "dose in kBq": ({"drug": injection(RadionuclideTotalDose="368080")}, "0018,1074"),
    "no half-life": ({"drug": injection(RadionuclideHalfLife=None)}, "0018,1075"),
    "no start": ({"drug": injection(RadiopharmaceuticalStartTime=None)}, "0018,1072"),
    "start is no time": ({"drug": injection(RadiopharmaceuticalStartTime="ten")}, "0018,1072"),
    "injected after the scan": ({"drug": injection(RadiopharmaceuticalStartTime="113000")}, "half-lives"),
    "Zr-89, time only": ({"drug": injection(RadionuclideHalfLife="282240")}, "0018,1078"),
    "Zr-89, date moved by an anonymiser": (
        {"drug": injection(RadionuclideHalfLife="282240", RadiopharmaceuticalStartDateTime="19600101100000")},
        "0018,1078",
    ),
    "no decay correction": ({"DecayCorrection": None}, "0054,1102"),
    "unknown decay correction": ({"DecayCorrection": "LATER"}, "0054,1102"),
    "START, but not corrected": ({"CorrectedImage": ["ATTN"]}, "DECY"),
    "no attenuation correction": ({"CorrectedImage": ["DECY"]}, "attenuation"),
    "no acquisition time": ({"AcquisitionTime": None}, "0008,0032"),
    "no series time": ({"SeriesTime": None}, "0008,0031"),
    "written later, no frame duration": (dict(**LATE, ActualFrameDuration=None), "0018,1242"),
    "written later, no frame reference time": (dict(**LATE, FrameReferenceTime=None), "0054,1300"),
    "NONE, no frame duration": ({"DecayCorrection": "NONE", "ActualFrameDuration": None}, "0018,1242"),
    "no slope": ({"RescaleSlope": None}, "0028,1053"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_suv_needs_is_never_guessed(tmp_path, name):
    case, says = REFUSED[name]
    case = dict(case)
    folder = write_pet(tmp_path / "pet", activity(), case.pop("drug", None), **case)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=says):
            read_pet(folder)


@pytest.mark.parametrize(
    "name, says",
    [("dose in MBq", "MBq"), ("weight in grams", "grams"), ("start with a date moved by an anonymiser", "19600101")],
)
def test_what_is_read_differently_is_said(tmp_path, name, says):
    case = dict(CASES[name])
    folder = write_pet(tmp_path / "pet", activity(), case.pop("drug", None), **case)
    with pytest.warns(UserWarning, match=says):
        read_pet(folder)


def test_facts_that_differ_between_slices_are_refused(tmp_path):
    with pytest.raises(ImageError, match="differ"):
        read_pet(write_pet(tmp_path / "weight", activity(), PatientWeight=["70", "70", "80"]))
    with pytest.raises(ImageError, match="differ"):
        read_pet(write_pet(tmp_path / "units", activity(), Units=["BQML", "BQML", "GML"]))


def test_two_tracers_are_refused(tmp_path):
    with pytest.raises(ImageError, match="2 radiopharmaceuticals"):
        read_pet(
            write_pet(
                tmp_path / "pet",
                activity(),
                RadiopharmaceuticalInformationSequence=pydicom.Sequence([injection(), injection()]),
            )
        )


def test_a_pet_is_no_ct(tmp_path):
    with pytest.raises(ImageError, match="no CT series"):
        read_ct(write_pet(tmp_path / "pet", activity()))


def enhanced(folder, unit, frames=None, **top):
    plane = np.repeat(np.array(SUV), 4)[None, :] * np.ones((6, 1))
    units = np.broadcast_to(unit, 3)
    drug = injection(RadiopharmaceuticalStartTime=None, RadiopharmaceuticalStartDateTime="20240102100000")
    header = {
        "PatientWeight": str(WEIGHT),
        "DecayCorrected": "YES",
        "DecayCorrectionDateTime": "20240102110000",
        "AttenuationCorrected": "YES",
        "RadiopharmaceuticalInformationSequence": [drug],
    }
    each = [
        {"slope": 4 * u / 30000 * (1 + k), "unit": "Bq/ml", **(frames[k] if frames else {})}
        for k, u in enumerate(units)
    ]
    volume = Volume(np.array([plane * u for u in units]), spacing=(4, 4, 4))
    return write_enhanced(folder, volume, "PT", {**header, **top}, each)


def test_enhanced_pet(tmp_path):
    holds(enhanced(tmp_path / "a", activity()))
    holds(enhanced(tmp_path / "b", activity(), SeriesTime="180000"))
    holds(enhanced(tmp_path / "c", 1.0, [{"unit": "g/ml{SUVbw}"}] * 3))
    holds(enhanced(tmp_path / "d", 1.0, [{"unit": "{SUVbw}g/ml"}] * 3))
    times = [{"FrameReferenceDateTime": f"20240102{at(t)}"} for t in BEDS]
    holds(enhanced(tmp_path / "e", activity(BEDS), times, DecayCorrected="NO"))
    with pytest.raises(ImageError, match="0018,9074"):
        read_pet(enhanced(tmp_path / "f", activity(), DecayCorrected="NO"))
    with pytest.raises(ImageError, match="attenuation"):
        read_pet(enhanced(tmp_path / "g", activity(), AttenuationCorrected="NO"))


def test_reference_objects(reference):
    folders = sorted((reference / "pet" / "suv_dro").glob("DRO_*"))
    assert len(folders) >= 6
    for folder in folders:
        found = values(folder)
        for suv in SUV:
            assert np.abs(found - suv).min() < 1e-3, (folder.name, suv)


def test_reference_sarcoma(reference):
    "A scanner's own SUVbw (GML)."
    volume = read_pet(reference / "pet" / "sts_002" / "dicom" / "PET" / "image")
    slices = sorted((reference / "pet" / "sts_002" / "dicom" / "PET" / "image").iterdir())
    headers = sorted((pydicom.dcmread(f) for f in slices), key=lambda h: float(h.ImagePositionPatient[2]))
    expected = [h.pixel_array * float(h.RescaleSlope) for h in headers]
    np.testing.assert_allclose(volume.array, expected, rtol=1e-6)
