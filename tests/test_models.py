"""The baselines: every combination fits and survives a trip to another process, tuning uses training patients only,
bad tables are named."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import DataError, LeakageError, OptionError
from nsclc_radiomics.evaluation.protocol import out_of_fold
from nsclc_radiomics.models.baselines import (
    complete_rows,
    hybrid_table,
    make_model,
    selected_features,
    tuned_parameters,
)
from nsclc_radiomics.models.clinical import (
    COMPARATORS,
    MODELS,
    NETWORK_SCORE,
    REDUCTIONS,
    VOLUME_FEATURE,
    clinical_table,
)


def cohort(n=120, seed=0):
    "Radiomic features, clinical rows and a network score; labels depend on `texture`, PD-L1 and the score."
    rng = make_rng(seed, "models")
    index = pd.Index([f"P{i:03}" for i in range(n)], name="patient_id")
    y = pd.Series(rng.permutation(np.arange(n) % 2), index=index)
    X = pd.DataFrame(
        {VOLUME_FEATURE: np.exp(rng.normal(9, 1, n)), "texture": 1.2 * y + rng.normal(size=n)}, index=index
    )
    X = X.assign(copy=X["texture"] * 3, constant=1.0, **{f"noise_{k}": rng.normal(size=n) for k in range(12)})
    patients = pd.DataFrame({
        "patient_id": index, "pdl1_tps": np.clip(rng.normal(20 + 30 * y, 30), 0, 100), "tmb": rng.gamma(2, 4, n),
        "ecog": rng.integers(0, 3, n), "sex": rng.choice(["F", "M"], n),
        "histology": rng.choice(["a", "b", "c"], n, p=[0.8, 0.18, 0.02]),
        "stage": None, "country": "x",
    })  # fmt: skip
    patients.loc[::6, "pdl1_tps"] = np.nan
    patients.loc[::8, "histology"] = None
    return X, y, patients, pd.Series(y + rng.normal(0, 0.8, n), index=index)


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("name", MODELS)
def test_each_baseline_learns_and_travels(name, reduce):
    X, y, *_ = cohort()
    model = make_model(name, reduce, seed=1).fit(X[:80], y[:80])
    probability = model.predict_proba(X[80:])
    assert probability.shape == (40, 2) and np.allclose(probability.sum(1), 1)
    if name != "volume" and reduce == "lasso":
        assert roc_auc_score(y[80:], probability[:, 1]) > 0.65
        assert "texture" in selected_features(model) and not {"copy", "constant"} & set(selected_features(model))
    assert bool(tuned_parameters(model)) == (name != "volume")
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X[80:]), probability)


@pytest.mark.parametrize(("name", "tune"), [("random_forest", False), ("logistic_regression", True)])
def test_same_seed_same_model_whatever_the_workers(name, tune):
    X, y, *_ = cohort(60)
    folds = pd.Series(np.arange(60) % 2, index=X.index)
    (one, _), (two, _) = (out_of_fold(make_model(name, seed=3, tune=tune), X, y, folds, jobs=jobs) for jobs in (1, 2))
    assert one.equals(two)


def test_untuned_models_search_nothing():
    X, y, *_ = cohort()
    model = make_model("svm", tune=False).fit(X, y)
    assert tuned_parameters(model) == {} and model.predict_proba(X).shape == (120, 2)


def test_a_leak_stops_every_model_with_radiomic_features():
    X, y, patients, score = cohort()
    leak = X.assign(weeks_on_therapy=10 + 20 * y)
    clinical = clinical_table(patients)
    for name in ("logistic_regression", "random_forest", "svm"):
        with pytest.raises(LeakageError, match="weeks_on_therapy"):
            make_model(name).fit(leak, y)
    with pytest.raises(LeakageError, match="weeks_on_therapy"):
        make_model("hybrid").fit(hybrid_table(leak, clinical, score), y)


def test_unreliable_features_never_reach_a_classifier():
    X, y, *_ = cohort()
    icc = pd.Series(0.9, index=X.columns).where(~X.columns.isin(["texture", "copy"]), 0.5)
    assert not {"texture", "copy"} & set(
        selected_features(make_model("logistic_regression", reliability=icc).fit(X, y))
    )


def test_clinical_columns_as_they_come():
    _, y, patients, _ = cohort()
    table = clinical_table(patients)
    assert (
        table.columns.tolist() == ["pdl1_tps", "tmb", "ecog", "sex", "histology"]
        and (table.histology == "unknown").sum() == 15
    )
    model = make_model("clinical").fit(table[:80], y[:80])
    assert roc_auc_score(y[80:], model.predict_proba(table[80:])[:, 1]) > 0.55
    unseen = table[80:].assign(histology="never seen before")
    assert np.isfinite(model.predict_proba(unseen)).all()
    assert "missingindicator_pdl1_tps" in selected_features(model)
    with pytest.raises(DataError, match="pdl1_tps"):
        clinical_table(patients[["patient_id", "country"]])


def test_hybrid_uses_all_three_and_keeps_the_patients_that_have_them():
    X, y, patients, score = cohort()
    table = hybrid_table(X.drop(index="P005"), clinical_table(patients), score.where(score.index != "P007"))
    assert len(table) == 118 and not {"P005", "P007"} & set(table.index)
    fit, rest = table.index[:80], table.index[80:]
    model = make_model("hybrid").fit(table.loc[fit], y[fit])
    assert {NETWORK_SCORE, "texture", "pdl1_tps"} <= set(selected_features(model))
    assert roc_auc_score(y[rest], model.predict_proba(table.loc[rest])[:, 1]) > 0.7
    with pytest.raises(DataError, match="tmb"):
        hybrid_table(X.assign(tmb=1.0), clinical_table(patients), score)


def test_combined_needs_the_image_only():
    X, y, _, score = cohort()
    table = hybrid_table(X, None, score)
    assert set(table) == {*X, NETWORK_SCORE}
    model = make_model("combined").fit(table[:80], y[:80])
    assert {NETWORK_SCORE, "texture"} <= set(selected_features(model))
    together = roc_auc_score(y[80:], model.predict_proba(table[80:])[:, 1])
    assert together > roc_auc_score(y[80:], score[80:]) - 0.05 and together > 0.7


def test_what_cannot_be_used_is_named():
    X, *_ = cohort()
    for arguments in (("oracle",), ("svm", "magic")):
        with pytest.raises(OptionError, match=arguments[-1]):
            make_model(*arguments)
    with pytest.raises(DataError, match="P000"):
        complete_rows(X.iloc[[0, 0, 1]])
    with pytest.raises(DataError, match="failures.csv"):
        complete_rows(X * np.nan)
    usable, without = complete_rows(X.assign(texture=X.texture.where(X.index != "P003")))
    assert without == ["P003"] and len(usable) == 119
    assert set(COMPARATORS) == {"combined", "clinical", "hybrid"}
