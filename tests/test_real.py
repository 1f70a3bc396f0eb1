"""Public sources: found, downloaded, checked; and what they are known to give."""

import hashlib
import http.server
import threading
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from nsclc_radiomics.core.compute import Compute, make_rng
from nsclc_radiomics.core.errors import DataError
from nsclc_radiomics.core.files import shipped_yaml
from nsclc_radiomics.evaluation.mask_cost import one_click
from nsclc_radiomics.evaluation.metrics import auc_interval
from nsclc_radiomics.outcomes.endpoints import cohort_outcomes
from nsclc_radiomics.paper.real_cohorts import (
    SOURCES,
    auc_by_diameter,
    auc_table,
    ct_cohort,
    icb_cohort,
    network_and_hybrid,
    read_two_hospitals,
    real_folder,
    shuffled_features,
)


@pytest.fixture
def served(tmp_path, monkeypatch):
    "A source of one file on a server of this machine, nothing else within reach."
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a b.csv").write_text("x\n1\n")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.sha256((tmp_path / "web/a b.csv").read_bytes()).hexdigest()
    facts = {
        "folder": "toy",
        "licence": "free",
        "url": f"http://127.0.0.1:{server.server_port}/",
        "files": {"sub/a.csv": {"path": "a%20b.csv", "sha256": digest}},
    }
    monkeypatch.setattr("nsclc_radiomics.paper.real_cohorts.shipped_yaml", lambda name: {"toy": facts})
    monkeypatch.setenv("NSCLC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NSCLC_REFERENCE", str(tmp_path / "absent"))
    yield facts
    server.shutdown()
    server.server_close()


def test_a_source_is_downloaded_once(served, tmp_path):
    with pytest.raises(DataError, match="not on this machine"):
        real_folder("toy")
    folder = real_folder("toy", download=True)
    assert (folder / "sub/a.csv").read_text() == "x\n1\n"
    (tmp_path / "web/a b.csv").unlink()
    assert real_folder("toy") == folder


def test_another_content_is_refused(served, tmp_path):
    (tmp_path / "web/a b.csv").write_text("x\n2\n")
    with pytest.raises(DataError, match="could not be had"):
        real_folder("toy", download=True)
    assert not list((tmp_path / "cache").rglob("a.csv"))


def test_no_such_page_says_how_to_get_it(served, tmp_path):
    (tmp_path / "web/a b.csv").unlink()
    with pytest.raises(DataError, match="Set NSCLC_REFERENCE"):
        real_folder("toy", download=True)


def test_every_file_of_the_catalogue_has_its_checksum(reference):
    for facts in shipped_yaml(SOURCES).values():
        for name, entry in list(facts["files"].items())[:12]:
            assert hashlib.sha256((reference / facts["folder"] / name).read_bytes()).hexdigest() == entry["sha256"]


def test_published_scores_give_the_published_auc(reference):
    features, facts = read_two_hospitals(reference / "lung1")
    for centre, n, auc in (("Lung1", 211, 0.702), ("Radboud", 104, 0.698)):
        part = facts[facts.centre == centre]
        assert len(part) == n and round(auc_interval(part.y, part.network)[0], 3) == auc
    assert features.shape[1] > 900 and np.isfinite(features.to_numpy()).all() and features.index.is_unique
    assert not [c for c in features if "surv" in c or "logit" in c]


def test_immunotherapy_patients(reference, tmp_path):
    cohort = icb_cohort(reference / "msk_mind", tmp_path / "icb")
    outcomes = cohort_outcomes(cohort)
    assert len(cohort.ids) == 246 and int(outcomes.label.sum()) == 61
    known = outcomes.label.notna() & cohort.patients.set_index("patient_id").pdl1_tps.notna()
    pdl1 = cohort.patients.set_index("patient_id").pdl1_tps[known]
    assert round(auc_interval(outcomes.label[known].astype(int), pdl1)[0], 3) == 0.738
    assert icb_cohort(reference / "msk_mind", tmp_path / "icb").ids == cohort.ids  # read again, not made again


def test_a_few_real_cts(reference, tmp_path):
    cohort = ct_cohort(reference / "owkin/x_train", tmp_path / "ct", patients=3)
    assert cohort.patients.centre.value_counts().max() <= 3 and cohort.patients.centre.nunique() == 2
    scores = one_click(cohort, tmp_path / "click", jobs=1)
    assert scores.index.tolist() == cohort.ids and scores.dice.between(0, 1).all()
    shuffled = shuffled_features(cohort, "paper")
    from nsclc_radiomics.features.extraction import extract_cohort

    plain = extract_cohort(cohort, tmp_path / "f.parquet", settings="paper", jobs=1, progress=False)
    same = [c for c in plain if "_shape_" in c]
    assert np.allclose(plain[same], shuffled[same]) and not np.allclose(
        plain["original_glcm_Correlation"], shuffled["original_glcm_Correlation"]
    )


class OnPatches(ClassifierMixin, BaseEstimator):
    "A stand-in for a network: logistic regression on the voxels."

    def fit(self, X, y):
        self.model_ = LogisticRegression().fit(np.stack(X["crop"]).reshape(len(X), -1), y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(np.stack(X["crop"]).reshape(len(X), -1))


@pytest.fixture
def two_hospitals():
    "Sixty patients of two hospitals whose outcome is in the image, in a feature and in the age, a little in each."
    rng = make_rng(4, "hospitals")
    ids = pd.Index([f"p{k:02d}" for k in range(60)], name="patient_id")
    y = pd.Series(rng.integers(0, 2, 60), ids)
    features = pd.DataFrame(
        rng.normal(size=(60, 3)) + y.to_numpy()[:, None],
        ids,
        ["original_glcm_A", "original_glcm_B", "original_shape_MeshVolume"],
    )
    patches = pd.DataFrame({"crop": [p + label for p, label in zip(rng.normal(size=(60, 1, 2, 2, 2)), y)]}, ids)
    clinical = pd.DataFrame({"age": rng.normal(65, 8, 60) + 4 * y}, ids)
    return patches, features, clinical, y, pd.Series(np.repeat(["A", "B"], 30), ids)


@pytest.mark.filterwarnings("ignore:the AUC is 1")  # the planted signal is perfect in some parts
def test_labels_of_the_hospital_that_is_left_out_change_nothing(two_hospitals):
    *tables, y, centre = two_hospitals
    other = y.where(centre == "A", 1 - y)
    found = [network_and_hybrid(OnPatches(), *tables, labels, centre, n_splits=3) for labels in (y, other)]
    at_b = [p[p["set"].str.endswith("at B")] for p in found]
    assert at_b[0].model.unique().tolist() == ["3D-CNN", "hybrid"] and len(at_b[0]) == 60
    assert at_b[0].probability.equals(at_b[1].probability) and not at_b[0].y.equals(at_b[1].y)
    aucs = auc_table(found[0])
    assert (aucs.value > 0.7).all()  # and there is something to find


def test_fits_side_by_side_give_the_same(two_hospitals):
    *tables, y, centre = two_hospitals
    one, two = (
        network_and_hybrid(OnPatches(), *tables, y, centre, n_splits=3, compute=Compute(jobs=jobs)) for jobs in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.filterwarnings("ignore:the AUC is 1")  # the planted signal is perfect in some parts
def test_large_tumours_are_counted_apart(two_hospitals):
    *_, y, centre = two_hospitals
    rows = pd.DataFrame({"model": "m", "set": "x", "y": y, "probability": y * 0.5}, y.index)
    found = auc_by_diameter(rows, pd.Series(np.tile([36.0, 36.1, 100.0], 20), y.index))
    assert found.n.tolist() == [20, 20, 20] and (found.value == 1).all() and found.set.tolist()[0] == "up to 36 mm"
