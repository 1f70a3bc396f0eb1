"""Train and predict as a user does: the command line, one patient in each form, damaged and foreign files,
and who may influence what."""

import copy as copying
import datetime
import shutil
import time

import numpy as np
import pandas as pd
import pydicom
import pytest

from nsclc_radiomics.cli.main import main
from nsclc_radiomics.cohort.folder import load_cohort
from nsclc_radiomics.core.compute import Compute, make_rng
from nsclc_radiomics.core.files import read_json, write_json
from nsclc_radiomics.core.run import Run
from nsclc_radiomics.loading.mask import read_mask
from nsclc_radiomics.loading.seg import write_seg
from nsclc_radiomics.loading.write_dicom import write_ct, write_rtstruct, write_series
from nsclc_radiomics.segmentation.seeded import centre_point
from nsclc_radiomics.signature.choice import candidate_models, nested_probabilities, refit_probabilities
from nsclc_radiomics.signature.predict import predict_cohort
from nsclc_radiomics.signature.store import read_model
from nsclc_radiomics.signature.train import load_signature, train
from nsclc_radiomics.simulation.cohort import simulate_cohort

OPTIONS = ["--params", "paper", "--refits", "3", "--folds", "3", "--jobs", "1"]


@pytest.fixture(scope="session")
def patients(tmp_path_factory):
    return simulate_cohort(
        tmp_path_factory.mktemp("signature") / "cohort", patients=30, external=5, seed=4, jobs=1, progress=False
    )


@pytest.fixture(scope="session")
def trained(patients):
    run = patients.with_name("run")
    assert main(["train", str(patients), "-o", str(run), *OPTIONS]) == 0
    return run


@pytest.fixture(scope="session")
def one_kind(patients):
    """Trained on the same patients without a choice among candidates: sooner done, where that choice is not the
    question.
    """
    run = patients.with_name("one_kind")
    train(
        load_cohort(patients),
        Run(run),
        settings="paper",
        model="combined",
        refits=3,
        n_splits=3,
        compute=Compute(jobs=1, progress=False),
    )
    return run


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_a_cohort_is_predicted(trained, patients, tmp_path, capsys):
    out = tmp_path / "predictions.csv"
    assert main(["predict", str(trained), str(patients), "-o", str(out)]) == 0
    found = pd.read_csv(out)
    assert found.patient_id.tolist() == load_cohort(patients).ids
    assert (
        found[["low", "probability", "high"]].apply(lambda r: 0 <= r.low <= r.probability <= r.high <= 1, axis=1).all()
    )
    named = found[found.group != "none"]
    assert set(named.group) <= {"likely responder", "unlikely responder"}
    assert ((named.probability >= named.cut) == (named.group == "likely responder")).all()
    assert found.no_group[found.group == "none"].notna().all() and found.no_group[found.group != "none"].isna().all()
    assert not out.with_suffix(".html").exists()  # a page for a case, not for a cohort
    assert "research use only" in capsys.readouterr().out


def test_only_training_patients_of_the_split_are_known(trained, patients):
    signature, cohort = load_signature(trained), load_cohort(patients)
    train = set(cohort.patients.patient_id[cohort.patients.split == "train"])
    assert set(signature.training.index) <= train
    found, _ = predict_cohort(signature, cohort)
    assert found.index[found.trained_on].tolist() == signature.training.index.tolist()


def test_other_splits_change_nothing(patients, one_kind, tmp_path):
    other = shutil.copytree(patients, tmp_path / "other")
    table = pd.read_csv(other / "patients.csv", dtype=str, keep_default_na=False)
    table.loc[table.split != "train", "age"] = "20"
    table.to_csv(other / "patients.csv", index=False)
    train(
        load_cohort(other),
        Run(tmp_path / "run"),
        settings="paper",
        model="combined",
        refits=3,
        n_splits=3,
        compute=Compute(jobs=1, progress=False),
    )
    assert read_json(tmp_path / "run/signature/signature.json") == read_json(one_kind / "signature/signature.json")


def test_processes_change_nothing(patients, one_kind, tmp_path):
    train(
        load_cohort(patients),
        Run(tmp_path / "run"),
        settings="paper",
        model="combined",
        refits=3,
        n_splits=3,
        compute=Compute(jobs=2, progress=False),
    )
    one, other = load_signature(one_kind), load_signature(tmp_path / "run")
    assert one.facts == other.facts
    X, winner = one.training[one.columns], one.facts["model"]
    assert np.array_equal(
        refit_probabilities(one.models[winner], one.refits, X),
        refit_probabilities(other.models[winner], other.refits, X),
    )


@pytest.mark.parametrize("kind", ["mask", "point", "dicom with mask", "dicom with point"])
def test_one_patient_in_each_form(kind, trained, patients, tmp_path):
    cohort = load_cohort(patients)
    who = cohort.ids[0]
    image, mask = cohort.image(who), read_mask(cohort.mask_path(who))
    case = cohort.image_path(who)
    if kind.startswith("dicom"):
        case = tmp_path / "scan"
        write_series(image, case, "CT")
    where = (
        ["--mask", str(cohort.mask_path(who))] if kind.endswith("mask") else ["--point", *map(str, centre_point(mask))]
    )
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("age,sex,smoking\n61,F,never\n")
    started = time.monotonic()
    assert (
        main(["predict", str(trained), str(case), "-o", str(tmp_path / "p.csv"), *where, "--clinical", str(clinical)])
        == 0
    )
    assert time.monotonic() - started < 30
    found = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert len(found) == 1 and 0 < float(found.probability[0]) < 1
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert (
        "Research use only" in page
        and "simulated" in page
        and page.count("<script") == 0
        and page.count("Patient ") == 1
    )


def as_dicom(cohort, who, folder, outline):
    "The patient's CT as a DICOM series of patient OWN-ID-0815, with the mask as a structure set or as a segmentation."
    files = write_ct(cohort.image(who), folder / "CT", "OWN-ID-0815", datetime.date(2020, 3, 1))
    mask = read_mask(cohort.mask_path(who), cohort.image(who))
    if outline == "rtstruct":
        return write_rtstruct(mask, files, folder / "outline.dcm")
    return write_seg(mask, folder / "CT", folder / "outline.dcm", label="GTV-1")


@pytest.mark.parametrize("outline", ["rtstruct", "seg"])
def test_dicom_gives_what_its_nifti_gives(outline, trained, patients, tmp_path):
    cohort = load_cohort(patients)
    who = cohort.ids[1]
    row = cohort.patients[cohort.patients.patient_id == who]
    row = row[["patient_id", *load_signature(trained).facts["clinical"]]].assign(patient_id="OWN-ID-0815")
    row.to_csv(tmp_path / "x1.csv", index=False)
    row.drop(columns="patient_id").to_csv(tmp_path / "one.csv", index=False)
    as_dicom(cohort, who, tmp_path / "scan", outline)
    case = ["--mask", str(cohort.mask_path(who)), "--clinical", str(tmp_path / "one.csv")]
    assert main(["predict", str(trained), str(cohort.image_path(who)), "-o", str(tmp_path / "nifti.csv"), *case]) == 0
    assert (
        main(
            [
                "predict",
                str(trained),
                str(tmp_path / "scan"),
                "-o",
                str(tmp_path / "dicom.csv"),
                "--clinical",
                str(tmp_path / "x1.csv"),
            ]
        )
        == 0
    )
    nifti, dicom = (pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False) for name in ("nifti", "dicom"))
    numbers = ["probability", "low", "high", "distance", *[c for c in nifti if c.startswith("probability_")]]
    assert (
        np.allclose(dicom[numbers], nifti[numbers], rtol=1e-5)
        and dicom.group.equals(nifti.group)
        and dicom.warning.equals(nifti.warning)
    )
    page = (tmp_path / "dicom.html").read_text(encoding="utf-8")
    assert (
        "Patient OWN-ID-0815" in page
        and dicom.patient_id.tolist() == ["OWN-ID-0815"]
        and nifti.patient_id.tolist() == [who]
    )
    cohort_row = predict_cohort(load_signature(trained), cohort)[0].loc[who]
    assert np.isclose(cohort_row.probability, nifti.probability[0], rtol=1e-5)


def test_several_outlines_and_none_chosen(trained, patients, tmp_path, capsys):
    cohort = load_cohort(patients)
    file = as_dicom(cohort, cohort.ids[1], tmp_path / "scan", "rtstruct")
    header = pydicom.dcmread(file)
    for sequence, keyword in (
        (header.StructureSetROISequence, "ROINumber"),
        (header.ROIContourSequence, "ReferencedROINumber"),
    ):
        sequence.append(copying.deepcopy(sequence[0]))
        setattr(sequence[1], keyword, 2)
    for roi, name in zip(header.StructureSetROISequence, ("tumour left", "tumour right")):
        roi.ROIName = name
    header.save_as(file)
    line = ["predict", str(trained), str(tmp_path / "scan"), "-o", str(tmp_path / "p.csv")]
    assert main(line) == 2
    said = capsys.readouterr().err
    assert "tumour left" in said and "tumour right" in said and "roi" in said and len(said.strip().splitlines()) <= 2
    assert not (tmp_path / "p.csv").exists()
    assert main([*line, "--roi", "tumour right"]) == 0 and len(pd.read_csv(tmp_path / "p.csv")) == 1


def test_what_is_not_known_counts_as_average():
    rng = make_rng(6, "unknown")
    words = rng.choice(["adeno", "squamous", "large"], 200, p=[0.5, 0.3, 0.2])
    y = pd.Series((rng.random(200) < np.where(words == "adeno", 0.8, 0.2)).astype(int))
    X = pd.DataFrame(
        {"original_shape_MeshVolume": rng.normal(size=200), "histology": words, "age": 60 + 5 * rng.normal(size=200)}
    )
    X.loc[rng.permutation(200)[:10], "histology"] = "unknown"
    y[X.histology == "unknown"] = 0  # few, and all of them died: too few to learn from
    model = candidate_models(X, ["histology", "age"])["clinical"].fit(X, y)
    asked = pd.DataFrame(
        {
            "original_shape_MeshVolume": 0.0,
            "histology": ["adeno", "large", "squamous", "unknown", "never heard of"],
            "age": 60.0,
        }
    )
    score = model.decision_function(asked)
    shares = X.histology[X.histology != "unknown"].value_counts(normalize=True).sort_index()
    assert np.allclose(score[3:], np.average(score[:3], weights=shares)) and score[0] > score[3] > score[2]
    often = X.assign(histology=X.histology.replace("squamous", "unknown"))
    model = candidate_models(often, ["histology", "age"])["clinical"].fit(often, y)
    score = model.decision_function(asked)
    assert score[3] < score[4] - 0.3  # a third of the training patients lack it: that is a fact of its own


def test_a_phantom_is_called_strange(trained, tmp_path):
    from nsclc_radiomics.core.volume import Volume
    from nsclc_radiomics.core.volume_files import write_volume

    z, y, x = np.ogrid[-40:41, -40:41, -40:41]
    inside = z**2 + y**2 + x**2 < 34**2
    image = np.where(inside, 900, 100) + make_rng(0, "phantom").integers(0, 400, inside.shape)
    write_volume(Volume(image.astype(np.int16), unit="HU"), tmp_path / "phantom.nii.gz")
    write_volume(Volume(inside), tmp_path / "mask.nii.gz")
    assert (
        main(
            [
                "predict",
                str(trained),
                str(tmp_path / "phantom.nii.gz"),
                "--mask",
                str(tmp_path / "mask.nii.gz"),
                "-o",
                str(tmp_path / "p.csv"),
            ]
        )
        == 0
    )
    warning = pd.read_csv(tmp_path / "p.csv").warning[0]
    assert "times as far" in warning and "HU" in warning
    assert "Unlike the training patients" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_a_bad_patient_does_not_stop_the_others(trained, patients, tmp_path, capsys):
    other = shutil.copytree(patients, tmp_path / "other")
    cohort = load_cohort(other)
    bad = cohort.ids[1]
    cohort.image_path(bad).write_bytes(b"no image")
    assert main(["predict", str(trained), str(other), "-o", str(tmp_path / "p.csv")]) == 2
    found = pd.read_csv(tmp_path / "p.csv", keep_default_na=False).set_index("patient_id")
    assert found.error[bad] and (found.error.drop(bad) == "").all() and found.probability.drop(bad).ne("").all()
    assert bad in capsys.readouterr().err


@pytest.mark.parametrize("spoil, said", [
    (lambda s: (s / "signature.json").unlink(), "no signature there"),
    (lambda s: (s / "signature.json").write_text("{"), "JSON"),
    (lambda s: write_json(s / "signature.json", read_json(s / "signature.json") | {"format": "other"}), "format"),
    (lambda s: (s / "models/volume.skops").write_bytes(b"PK\x03\x04 cut"), "volume.skops"),
    (lambda s: (s / "training.parquet").write_bytes(b"PAR1"), "cannot be read"),
])  # fmt: skip
def test_damaged_signatures_are_refused(spoil, said, copy, patients, tmp_path, capsys):
    spoil(copy / "signature")
    assert main(["predict", str(copy), str(patients), "-o", str(tmp_path / "p.csv")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "p.csv").exists()


def test_code_in_a_model_is_not_run(copy, tmp_path):
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    mark = tmp_path / "was_run"
    file = copy / "signature/models/volume.skops"
    skops.io.dump(FunctionTransformer(np.savetxt, kw_args={"fname": str(mark)}), file)
    with pytest.raises(Exception, match="wants to build"):
        read_model(file)
    assert not mark.exists()


def test_labels_by_lot_give_nothing():
    rng = make_rng(5, "lot")
    X = pd.DataFrame(
        rng.normal(size=(150, 40)), columns=["original_shape_MeshVolume", *(f"original_glcm_F{k}" for k in range(39))]
    )
    X.index = [f"p{i}" for i in range(150)]
    from sklearn.metrics import roc_auc_score

    aucs = []
    for _ in range(4):
        y = pd.Series(rng.permutation(np.repeat([0, 1], 75)), X.index)
        models = {name: m for name, m in candidate_models(X, []).items() if name != "forest"}
        aucs.append(roc_auc_score(y, nested_probabilities(X, y, models).probability))
    assert abs(np.mean(aucs) - 0.5) < 0.12


def test_a_network_shows_where_it_looked(patients, tmp_path):
    cohort = load_cohort(patients)
    facts = train(
        cohort,
        Run(tmp_path / "run"),
        settings="paper",
        model="volume",
        network=True,
        epochs=1,
        refits=2,
        n_splits=2,
        compute=Compute(jobs=1, progress=False),
    )
    assert 0 <= facts["network"]["auc"][0] <= 1
    assert (tmp_path / "run/signature/network/last.safetensors").is_file()
    who = cohort.ids[0]
    assert (
        main(
            [
                "predict",
                str(tmp_path / "run"),
                str(cohort.image_path(who)),
                "--mask",
                str(cohort.mask_path(who)),
                "-o",
                str(tmp_path / "p.csv"),
            ]
        )
        == 0
    )
    assert 0 < pd.read_csv(tmp_path / "p.csv").probability_3d_cnn[0] < 1
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "Where the network looked" in page and 'alt="CT and Grad-CAM' in page
