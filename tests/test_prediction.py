"""What is said of one patient: of what the number is the probability, the group or why there is none, sides, sizes,
and whose page it is."""

import base64
import datetime
import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image

from nsclc_radiomics.cli.main import main
from nsclc_radiomics.cohort.folder import load_cohort
from nsclc_radiomics.cohort.schema import ENDPOINTS, PATIENT_COLUMNS
from nsclc_radiomics.core.compute import Compute
from nsclc_radiomics.core.errors import CohortError, DataError, GeometryError, MaskError, ModelError, OptionError
from nsclc_radiomics.core.files import read_json, write_json
from nsclc_radiomics.core.run import Run
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.loading.mask import read_mask
from nsclc_radiomics.loading.views import axial_size, tumour_panels
from nsclc_radiomics.loading.write_dicom import write_ct, write_rtstruct, write_series
from nsclc_radiomics.signature.case import case_cohort
from nsclc_radiomics.signature.page import feature_effects, predict, write_report
from nsclc_radiomics.signature.predict import predict_cohort
from nsclc_radiomics.signature.train import load_signature, train, used_columns
from nsclc_radiomics.signature.words import OUTCOME_WORDS, answer_words, percent, predicted_words
from nsclc_radiomics.simulation.cohort import simulate_cohort

SURE = {"nested": [0.8, 0.7, 0.9]}


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    return simulate_cohort(
        tmp_path_factory.mktemp("prediction") / "cohort", patients=26, external=3, seed=4, jobs=1, progress=False
    )


def trained_as(patients, model):
    run = patients.with_name(model)
    train(
        load_cohort(patients),
        Run(run),
        settings="paper",
        model=model,
        refits=3,
        n_splits=2,
        compute=Compute(jobs=1, progress=False),
    )
    return run


@pytest.fixture(scope="module")
def volume(patients):
    return trained_as(patients, "volume")


@pytest.fixture(scope="module")
def clinical(patients):
    return trained_as(patients, "clinical")


@pytest.fixture(scope="module")
def combined(patients):
    return trained_as(patients, "combined")


def with_facts(signature, **facts):
    return replace(signature, facts=signature.facts | facts)


def one_of(patients):
    cohort = load_cohort(patients)
    who = cohort.ids[0]
    return cohort, who, {"case": cohort.image_path(who), "mask": cohort.mask_path(who)}


def dicom_of(cohort, who, folder, patient_id, roi=None):
    "The patient's CT as DICOM, with its contour where an ROI is named; the id may be any text."
    files = write_ct(cohort.image(who), folder / "CT", "X", datetime.date(2020, 3, 1))
    if roi:
        mask = read_mask(cohort.mask_path(who), cohort.image(who))
        files = [*files, write_rtstruct(mask, files, folder / "contour.dcm")]
    for file in files:
        header = pydicom.dcmread(file)
        header.PatientID = patient_id
        if roi and header.Modality == "RTSTRUCT":
            header.StructureSetROISequence[0].ROIName = roi
        header.save_as(file)
    return folder


def text_of(page):
    return " ".join(re.sub(r"<[^>]+>", " ", page[page.index("</style>") :]).split())


# --- words


def test_every_endpoint_has_words_that_never_speak_of_risk():
    assert set(OUTCOME_WORDS) == set(ENDPOINTS) - {"none"}
    said = [text for words in OUTCOME_WORDS.values() for text in (words.outcome, words.likely, words.unlikely)]
    assert len(set(said)) == len(said) and not any("risk" in text for text in said)


@pytest.mark.parametrize("endpoint, likely, unlikely", [
    ("response", "likely responder", "unlikely responder"),
    ("durable_benefit", "likely durable benefit", "unlikely durable benefit"),
    ("two_year_survival", "likely alive at two years", "likely not alive at two years"),
])  # fmt: skip
def test_the_group_is_named_by_the_endpoint(endpoint, likely, unlikely, volume, patients, tmp_path):
    cohort, who, case = one_of(patients)
    signature = with_facts(load_signature(volume), endpoint=endpoint, auc=SURE | {"candidates": {}})
    for cut, group in ((0.001, likely), (0.999, unlikely)):
        found = predict(with_facts(signature, cut=cut), out=tmp_path / "p.csv", **case)
        assert found.group.tolist() == [group] == pd.read_csv(
            tmp_path / "p.csv"
        ).group.tolist() and found.no_group.tolist() == [""]
        text = text_of((tmp_path / "p.html").read_text(encoding="utf-8"))
        row = found.iloc[0]
        number = f"{percent(row.probability)} ({percent(row.low)} to {percent(row.high)})"
        assert (
            f"Probability of {OUTCOME_WORDS[endpoint].outcome}: {number} {group[0].upper()}{group[1:]}"
            in text.replace("&lt;", "<").replace("&gt;", ">")
        )
        assert "risk" not in text


@pytest.mark.parametrize("low, high", [(0.38, 0.82), (0.41, 0.82), (0.1, 0.41), (np.nan, np.nan)])
def test_an_interval_that_holds_the_threshold_gives_no_group(low, high):
    facts = {"endpoint": "response", "cut": 0.41, "auc": SURE}
    group, why = predicted_words(facts, 0.41, low, high)
    assert group == "none" and ("threshold (41 %)" in why or "not known" in why)
    assert predicted_words(facts, 0.41, 0.42, 0.43) == ("likely responder", "")


@pytest.mark.parametrize("auc", [(0.55, 0.45, 0.65), (0.6, 0.5, 0.7), (0.3, 0.2, 0.4), (np.nan, np.nan, np.nan)])
def test_a_model_that_may_be_chance_gives_no_group(auc):
    group, why = predicted_words({"endpoint": "response", "cut": 0.41, "auc": {"nested": auc}}, 0.9, 0.8, 0.95)
    assert group == "none" and "no better than chance" in why


@pytest.mark.parametrize("change, said", [
    ({"cut": "probability", "auc": SURE | {"candidates": {}}}, "No group: the interval includes the threshold ("),
    ({"cut": 0.001, "auc": {"nested": [0.55, 0.45, 0.65], "candidates": {}}},
        "No group: the model may be no better than chance (nested AUC 0.55"),
])  # fmt: skip
def test_no_group_is_said_as_large_as_the_number(change, said, volume, patients, tmp_path, capsys):
    cohort, who, case = one_of(patients)
    signature = load_signature(volume)
    if change["cut"] == "probability":
        change = change | {"cut": float(predict(signature, out=tmp_path / "p.csv", **case).probability.iloc[0])}
    facts = read_json(volume / "signature/signature.json") | change
    run = tmp_path / "run"
    shutil.copytree(volume, run)
    write_json(run / "signature/signature.json", facts)
    assert (
        main(["predict", str(run), str(case["case"]), "--mask", str(case["mask"]), "-o", str(tmp_path / "p.csv")]) == 0
    )
    out = capsys.readouterr().out
    assert said in out and "Probability of response to treatment (CR or PR): " in out and f"{who}: " in out
    row = pd.read_csv(tmp_path / "p.csv").iloc[0]
    assert row.group == "none" and said.removeprefix("No group: ") in row.no_group
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    number, group = re.findall(r'<p class="(answer[^"]*)">(.*?)</p>', page)
    assert number[1].startswith("Probability of response") and group[1].startswith(said)
    assert number[0].split()[0] == group[0].split()[0] == "answer" and not re.search(r"\.group\s*{", page)


def test_shares_near_the_ends_are_not_rounded_to_certainty():
    assert [percent(p) for p in (0, 0.001, 0.414, 0.999, 1)] == ["0 %", "<1 %", "41 %", ">99 %", "100 %"]


def test_an_endpoint_without_words_is_refused(volume, tmp_path):
    run = shutil.copytree(volume, tmp_path / "run")
    write_json(run / "signature/signature.json", read_json(run / "signature/signature.json") | {"endpoint": "toxicity"})
    with pytest.raises(ModelError, match="toxicity"):
        load_signature(run)


# --- what the model uses


def test_only_what_the_model_uses_is_listed(volume, clinical, patients, tmp_path):
    cohort, who, case = one_of(patients)
    for run in (volume, clinical):
        signature = load_signature(run)
        used = used_columns(signature)
        single, groups = feature_effects(signature, signature.training.iloc[0][signature.columns])
        assert set(single.index) == set(used)
        assert groups.index.tolist() == (["size and shape"] if run == volume else ["clinical variables"])
    found = predict(load_signature(volume), out=tmp_path / "p.csv", **case)
    assert "not known" not in found.warning.iloc[0] and found.imputed.iloc[0] == ""
    assert "not known of this patient" not in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_a_clinical_model_without_clinical_variables_refuses(clinical, patients, tmp_path, capsys):
    cohort, who, case = one_of(patients)
    signature = load_signature(clinical)
    folder = dicom_of(cohort, who, tmp_path / "scan", "DOE-1", roi="GTV-1")
    with pytest.raises(DataError, match="DOE-1.*'clinical'"):
        predict(signature, folder, tmp_path / "p.csv")
    assert main(["predict", str(clinical), str(folder), "-o", str(tmp_path / "p.csv")]) == 2
    said = capsys.readouterr().err
    assert "--clinical" in said and all(c in said for c in used_columns(signature)) and "DOE-1" in said
    assert not (tmp_path / "p.csv").exists() and not (tmp_path / "p.html").exists()


def test_in_a_cohort_only_the_patient_without_clinical_variables_is_refused(clinical, patients, tmp_path):
    cohort, signature = load_cohort(patients), load_signature(clinical)
    few = cohort.patients.head(3).copy()
    columns = [c for c in PATIENT_COLUMNS if c in few and c in signature.facts["clinical"]]
    few.loc[1, columns] = None
    found, _ = predict_cohort(signature, replace(cohort, patients=few))
    assert "clinical=" in found.error.iloc[1] and np.isnan(found.probability.iloc[1]) and found.group.iloc[1] == ""
    assert found.probability.iloc[[0, 2]].notna().all() and (found.error.iloc[[0, 2]] == "").all()


def test_what_is_imputed_is_said(clinical, patients, tmp_path, capsys):
    cohort, who, case = one_of(patients)
    signature = load_signature(clinical)
    (tmp_path / "c.csv").write_text("age\n61\n")
    arguments = [str(case["case"]), "--mask", str(case["mask"]), "--clinical", str(tmp_path / "c.csv")]
    assert main(["predict", str(clinical), *arguments, "-o", str(tmp_path / "p.csv")]) == 0
    row = pd.read_csv(tmp_path / "p.csv").iloc[0]
    assert "age" in used_columns(signature) and not re.search(r"\bage:", row.imputed)
    median = signature.training["pdl1_tps"].median()
    assert f"pdl1_tps: not known, imputed by the training patients' median ({median:g})" in row.imputed
    assert "imputed" in capsys.readouterr().out
    text = text_of((tmp_path / "p.html").read_text(encoding="utf-8")).replace("&#39;", "'")
    assert "Variables of the model that are not known of this patient" in text
    assert f"Not known, imputed by the training patients' median: pdl1_tps ({median:g})" in text


def test_another_models_number_is_not_given_where_it_knows_nothing(combined, clinical, patients, tmp_path):
    cohort, who, case = one_of(patients)
    both = replace(
        load_signature(combined),
        models=load_signature(combined).models | {"clinical": load_signature(clinical).models["clinical"]},
    )
    both.facts["scales"]["clinical"] = (0.0, 1.0)
    found = predict(both, out=tmp_path / "p.csv", **case)
    assert (
        np.isnan(found.probability_clinical.iloc[0])
        and found.probability_combined.notna().all()
        and found.imputed.iloc[0]
    )
    assert "none of its variables is known" in (tmp_path / "p.html").read_text(encoding="utf-8")


# --- whose page, and nothing but text in it


def test_ids_and_roi_names_are_escaped_and_the_id_is_the_patients_own(volume, patients, tmp_path):
    cohort, who, _ = one_of(patients)
    folder = dicom_of(cohort, who, tmp_path / "scan", "<script>alert(1)</script>", roi="GTV <b onload=x>")
    found = predict(load_signature(volume), folder, tmp_path / "p.csv", roi="GTV*")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert found.index.tolist() == ["<script>alert(1)</script>"] == pd.read_csv(tmp_path / "p.csv").patient_id.tolist()
    assert "Patient &lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script" not in page
    assert "GTV &lt;b onload=x&gt;" in page and "<b onload" not in page and "P0001" not in page


def test_errors_and_words_of_the_signature_are_escaped(volume, patients, tmp_path):
    cohort, who, _ = one_of(patients)
    signature = with_facts(load_signature(volume), cohort="<img src=x>")
    one = replace(cohort, patients=cohort.patients.head(1))
    predictions, table = predict_cohort(signature, one)
    predictions.loc[who, "warning"] = "<i>w</i>"
    page = write_report(signature, one, predictions, table, tmp_path / "p.html").read_text(encoding="utf-8")
    assert "&lt;img src=x&gt;" in page and "&lt;i&gt;w" in page and "<img src" not in page
    predictions.loc[who, "error"] = "<u>e</u>"
    assert "&lt;u&gt;e" in write_report(signature, one, predictions, table, tmp_path / "p.html").read_text(
        encoding="utf-8"
    )


def test_a_clinical_row_of_another_patient_is_refused(volume, patients, tmp_path):
    cohort, who, case = one_of(patients)
    folder = dicom_of(cohort, who, tmp_path / "scan", "DOE-1")
    (tmp_path / "c.csv").write_text("patient_id,age\nROE-2,61\n")
    with pytest.raises(CohortError, match="ROE-2.*DOE-1"):
        predict(
            load_signature(volume), folder / "CT", tmp_path / "p.csv", mask=case["mask"], clinical=tmp_path / "c.csv"
        )


def test_a_patient_left_out_of_a_folder_is_a_row_with_the_reason(volume, patients, tmp_path, capsys):
    cohort, who, _ = one_of(patients)
    dicom_of(cohort, who, tmp_path / "scans/a", "DOE-1", roi="GTV-1")
    dicom_of(cohort, cohort.ids[1], tmp_path / "scans/b", "ROE-2")
    assert main(["predict", str(volume), str(tmp_path / "scans"), "-o", str(tmp_path / "p.csv")]) == 2
    found = pd.read_csv(tmp_path / "p.csv", keep_default_na=False).set_index("patient_id")
    assert (
        found.index.tolist() == ["DOE-1", "ROE-2"]
        and found.error["ROE-2"]
        and not found.error["DOE-1"]
        and found.group["ROE-2"] == ""
    )
    assert "ROE-2" in capsys.readouterr().err and "Patient ROE-2" in (tmp_path / "p.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["image", "dicom"])
def test_a_ct_without_mask_names_both_ways_out(kind, volume, patients, tmp_path, capsys):
    cohort, who, case = one_of(patients)
    path = case["case"]
    if kind == "dicom":
        path = tmp_path / "scan"
        write_series(cohort.image(who), path, "CT")
    assert main(["predict", str(volume), str(path), "-o", str(tmp_path / "p.csv")]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("--mask", "--point")) and len(said.strip().splitlines()) == 1


def test_options_that_a_cohort_would_not_use_are_refused(volume, patients):
    cohort, who, case = one_of(patients)
    with pytest.raises(OptionError, match="mask"), case_cohort(patients, mask=case["mask"]):
        pass


# --- the tumour on the page


def ball(radius=15.0, spacing=(0.7, 0.7, 2.0)):
    z, y, x = np.ogrid[-14:15, -40:41, -40:41]
    dx, dy, dz = spacing
    return Volume(
        (dx * x) ** 2 + (dy * y) ** 2 + (dz * z) ** 2 <= radius**2,
        spacing,
        (-40 * dx, -40 * dy, 100 - 14 * dz),
        unit="mask",
    )


def stored_as(volume, axes):
    "The same patient with the image's axes in another order and sense, as SimpleITK names them."
    return Volume.from_sitk(sitk.DICOMOrient(volume.to_sitk(), axes), volume.unit)


@pytest.mark.parametrize("axes", ["LPS", "RAI", "RPS", "LAS", "PSL", "SRA"])
def test_sides_sizes_and_places_do_not_depend_on_how_the_axes_run(axes):
    mask = ball()
    values = np.where(mask.array, 0, -900).astype(np.int16)
    values[:, 39:42, 62:68] = 400  # towards the patient's left
    values[:, 12:18, 38:42] = 400  # and in front
    values[25:27, 34:47, 39:42] = 400  # and above
    image = mask.with_array(values, "HU")
    size, panels = axial_size(stored_as(mask, axes)), tumour_panels(stored_as(image, axes), stored_as(mask, axes))
    assert (
        abs(size.longest - 30) < 0.7
        and abs(size.short - 30) < 0.7
        and (size.slice, size.slices) == (14, 29)
        and abs(size.z - 100) < 1e-6
    )
    near, coronal = (np.asarray(Image.open(io.BytesIO(base64.b64decode(panels[k].jpeg)))).astype(float) for k in (1, 3))
    n = len(near)
    assert panels[1].letters == ("R", "L", "A", "P") and panels[3].letters == ("R", "L", "H", "F")
    middle = near[int(0.45 * n) : int(0.55 * n)]
    assert middle[:, int(0.7 * n) :].max() > 230 > 100 > middle[:, : int(0.3 * n)].max()  # bright at L, dark at R
    column = near[:, int(0.45 * n) : int(0.55 * n)]
    assert column[: int(0.3 * n)].max() > 230 > 100 > column[int(0.7 * n) :].max()  # bright at A, dark at P
    column = coronal[:, int(0.45 * n) : int(0.55 * n)]
    assert column[: int(0.3 * n)].max() > 230 > 100 > column[int(0.7 * n) :].max()  # bright at H, dark at F


@pytest.mark.parametrize("radius, spacing", [(8, (0.6, 0.6, 1.0)), (15, (0.7, 0.9, 2.0)), (25, (1.5, 1.5, 3.0))])
def test_diameters_of_a_ball_are_those_of_the_ball(radius, spacing):
    size = axial_size(ball(radius, spacing))
    assert abs(size.longest - 2 * radius) <= max(spacing[:2]) and abs(size.short - 2 * radius) <= 2 * max(spacing[:2])


def test_diameters_of_a_turned_box_and_of_two_pieces():
    y, x = np.mgrid[-60:61, -60:61] * 0.5
    c, s = np.cos(0.5), np.sin(0.5)
    box = (abs(c * x + s * y) <= 20) & (abs(c * y - s * x) <= 6)
    size = axial_size(Volume(np.repeat(box[None], 3, 0), (0.5, 0.5, 3.0)))
    assert abs(size.longest - np.hypot(40, 12)) < 0.5
    assert (
        abs(size.short - 12 / np.cos(np.arctan(12 / 40))) < 1.5
    )  # across the middle, at a right angle to the diagonal
    two = np.zeros((1, 40, 80), bool)
    two[0, 10:20, 5:15] = two[0, 10:20, 60:74] = True
    assert (
        abs(axial_size(Volume(two)).longest - np.hypot(13, 9)) < 1.5
    )  # the larger piece, not the distance between the two
    one = np.zeros((3, 3, 3), bool)
    one[1, 1, 1] = True
    assert axial_size(Volume(one, (0.8, 0.8, 2.0))).longest == pytest.approx(0.8)
    with pytest.raises(MaskError, match="empty"):
        axial_size(Volume(np.zeros((3, 3, 3), bool)))


def test_drawn_lengths_are_mm():
    mask = ball()
    image = mask.with_array(np.where(mask.array, 0, -900).astype(np.int16), "HU")
    panels = tumour_panels(image, mask)
    x1, y1, x2, y2 = dict(panels[1].lines)["longest"]
    assert np.hypot(x2 - x1, y2 - y1) == pytest.approx(axial_size(mask).longest, abs=1e-6)
    numbers = np.array(re.findall(r"[\d.]+ [\d.]+", panels[1].contour))
    points = np.array([list(map(float, n.split())) for n in numbers])
    assert abs(np.ptp(points[:, 0]) - 30) < 1 and np.allclose(points.mean(0), panels[1].width / 2, atol=1)
    assert panels[1].bar == 20 and 0 < panels[1].bar < panels[1].width / 2
    assert panels[1].window == "Lung window: level -300 HU, width 1400 HU (-1000 to 400 HU)"
    with pytest.raises(GeometryError):
        tumour_panels(image, replace(mask, origin=(5, 5, 5)))


def test_a_tumour_at_the_edge_of_the_image_is_drawn():
    values = np.zeros((4, 30, 30), bool)
    values[:, :10, 20:] = True
    mask = Volume(values, (1, 1, 5), unit="mask")
    near = tumour_panels(mask.with_array(np.full(values.shape, 40, np.int16), "HU"), mask)[1]
    assert near.width == near.height and "M" in near.contour


def test_the_page_has_size_place_sides_and_window(volume, patients, tmp_path):
    cohort, who, case = one_of(patients)
    predict(load_signature(volume), out=tmp_path / "p.csv", **case)
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    text, mask = text_of(page), read_mask(case["mask"])
    size, millilitres = axial_size(mask), mask.array.sum() * mask.voxel_volume / 1000
    assert f"Patient {who}" in text and f"<title>Prediction for patient {who}" in page
    assert f"Volume {millilitres:.1f} mL" in text and f"Longest axial diameter {size.longest:.0f} mm" in text
    assert f"{size.short:.0f} mm" in text and f"z = {size.z:.1f} mm; slice {size.slice + 1} of {size.slices}" in text
    assert (
        "Lung window: level -300 HU, width 1400 HU" in text and "Soft tissue window: level 40 HU, width 400 HU" in text
    )
    assert page.count(">R</text>") == page.count(">L</text>") == 4 and page.count('<g class="bar">') == 4
    for svg in re.findall(r"<figure>.*?</figure>", page, re.S):
        places = {letter: float(x) for x, letter in re.findall(r'<text x="([\d.]+)"[^>]*>([RL])</text>', svg)}
        assert places["R"] < places["L"]


def test_predicting_without_a_network_does_not_load_explanation():
    line = (
        "import sys, nsclc_radiomics.signature.page; sys.exit('nsclc_radiomics.evaluation.network_maps' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", line]).returncode == 0


def test_an_answer_in_words():
    row = pd.Series({"probability": 0.7, "low": 0.55, "high": 0.82, "group": "likely responder", "no_group": ""})
    answer = answer_words({"endpoint": "response"}, row)
    assert answer == ("Probability of response to treatment (CR or PR): 70 % (55 % to 82 %)", "Likely responder")
