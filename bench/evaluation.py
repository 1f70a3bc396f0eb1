"How fast five models are bootstrapped on 500 patients; `python bench/evaluation.py` prints what `run()` gives."

from __future__ import annotations

import json
import time

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn import metrics

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.evaluation.metrics import bootstrap_metrics


def cohort(patients: int = 500, models: int = 5) -> tuple[np.ndarray, pd.DataFrame]:
    "Labels and probabilities of made-up models, from good to none."
    rng = make_rng(1, "bench_evaluation")
    y = (rng.random(patients) < 0.4).astype(int)
    return y, pd.DataFrame(
        {f"model {k}": expit((1.2 - 0.3 * k) * y + rng.normal(-0.5, 1, patients)) for k in range(models)}
    )


def by_loop(y: np.ndarray, scores: pd.DataFrame, resamples: int) -> np.ndarray:
    "The same metrics with scikit-learn, a resample and a model at a time."
    rng, out = np.random.default_rng(0), []
    for _ in range(resamples):
        rows = rng.integers(0, len(y), len(y))
        for name in scores:
            truth, p = y[rows], scores[name].to_numpy()[rows]
            call = p >= 0.5
            tn, fp, fn, tp = metrics.confusion_matrix(truth, call).ravel()
            sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
            shares = [
                (tp + tn) / len(y),
                (sensitivity + specificity) / 2,
                sensitivity,
                specificity,
                tp / (tp + fp),
                tn / (tn + fn),
            ]
            out.append([metrics.roc_auc_score(truth, p), *shares, metrics.brier_score_loss(truth, p)])
    return np.array(out)


def run(resamples: int = 10_000, loops: int = 200) -> dict:
    "Seconds for all resamples; the loop's are measured on fewer and scaled."
    y, scores = cohort()
    start, cpu = time.perf_counter(), time.process_time()
    bootstrap_metrics(y, scores, dict.fromkeys(scores, 0.5), resamples)
    ours, cpu = time.perf_counter() - start, time.process_time() - cpu
    start = time.perf_counter()
    by_loop(y, scores, loops)
    other = (time.perf_counter() - start) * resamples / loops
    cases = (
        f"{resamples} resamples of 5 models on 500 patients ({cpu:.2f} s of processor); scikit-learn in a loop, scaled"
        f" from {loops}"
    )
    return {"bootstrap": {"ours": ours, "other": other, "ratio": other / ours, "unit": "s", "cases": cases, "cores": 1}}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
