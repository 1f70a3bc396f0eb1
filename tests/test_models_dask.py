"""Folds and final models on a Dask cluster: the same numbers, to the last bit, as on one machine,
by joblib's switch alone."""

import distributed
import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config

from nsclc_radiomics.cohort.splits import patient_folds
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.evaluation.protocol import predict_sets
from nsclc_radiomics.models.baselines import make_model
from nsclc_radiomics.models.clinical import VOLUME_FEATURE
from nsclc_radiomics.models.cnn import CNN3DClassifier


@pytest.fixture(scope="module")
def cluster():
    "Two worker processes on loopback."
    options = dict(n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address=None)
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


def patients(n):
    "Ids, labels, a split and the folds of the training patients."
    ids = pd.Index([f"P{i:03}" for i in range(n)], name="patient_id")
    y = pd.Series(np.arange(n) // 2 % 2, index=ids)
    split = pd.Series(np.where(np.arange(n) < 0.75 * n, "train", "holdout"), index=ids)
    return y, split, patient_folds(y[split == "train"], n_splits=3, seed=1)


def workers_used(client):
    return sum(client.run(lambda dask_worker: dask_worker.state.executed_count).values())


def check(model, X, y, split, folds, client):
    "Locally, then on the cluster, and that the cluster did the work."
    local, _ = predict_sets(model, X, y, split, folds, jobs=1)
    before = workers_used(client)
    with parallel_config(backend="dask", client=client, n_jobs=-1):
        remote, models = predict_sets(model, X, y, split, folds)
    assert workers_used(client) - before >= 3
    pd.testing.assert_frame_equal(remote, local, check_exact=True)
    return models


@pytest.mark.parametrize("name", ["logistic_regression", "random_forest"])
def test_tabular_models(name, cluster):
    y, split, folds = patients(60)
    rng = make_rng(1, "dask")
    X = pd.DataFrame(
        {f"f{k}": rng.normal(size=60) + y * (k < 2) for k in range(6)} | {VOLUME_FEATURE: rng.uniform(1, 9, 60)},
        index=y.index,
    )
    check(make_model(name, seed=1, tune=False), X, y, split, folds, cluster)


def test_network(cluster):
    import torch

    y, split, folds = patients(32)
    crops = pd.DataFrame({"crop": list(make_rng(2, "dask").random((32, 3, 8, 8, 8)).astype(np.float32))}, index=y.index)
    model = CNN3DClassifier(masks=(2,), widths=(4, 8), hidden=8, epochs=2, batch_size=8, device="cpu", seed=3)
    models = check(model, crops, y, split, folds, cluster)
    train = (split == "train").to_numpy()
    here = model.fit(crops[train], y[train])
    assert all(torch.equal(here.states_["last"][k], models[-1].states_["last"][k]) for k in here.states_["last"])
