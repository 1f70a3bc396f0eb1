"How long the responses of 100,000 patients take, on one core."

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.outcomes.endpoints import overall_survival, pfs
from nsclc_radiomics.outcomes.responses import responses


def cohort(patients: int, seed: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Lesions of made-up patients: two or three targets, one non-target, five visits, new lesions in some."
    rng = make_rng(seed, "bench_response")
    ids = np.array([f"P{i:06d}" for i in range(patients)])
    visit, lesion = 5, 4
    p, v, k = (a.ravel() for a in np.meshgrid(np.arange(patients), np.arange(visit), np.arange(lesion), indexing="ij"))
    trend, size = rng.normal(-0.05, 0.2, patients), rng.uniform(15, 60, (patients, lesion))
    mm = np.round(size[p, k] * np.exp(trend[p] * v + rng.normal(0, 0.08, len(p)) * (v > 0)), 1)
    role = np.where(k < 3, "target", "non_target")
    table = pd.DataFrame({
        "patient_id": ids[p], "visit_date": pd.Timestamp("2024-01-01") + pd.to_timedelta(56 * v, unit="D"),
        "lesion_id": np.array(["T1", "T2", "T3", "N1"])[k], "role": role,
        "organ": np.array(["lung", "lung", "liver", "bone"])[k],
        "is_node": False, "diameter_mm": np.where(k < 3, mm, np.nan), "status": np.where(k < 3, "", "present"),
    })  # fmt: skip
    table = table[~((k == 2) & (p % 2 == 0))]
    fresh = rng.random(patients) < 0.15
    new = table[(table["lesion_id"] == "N1") & (table["visit_date"] >= "2024-05-01") & fresh[p[table.index]]]
    table = pd.concat(
        [table, new.assign(lesion_id="X1", role="new", organ="liver", diameter_mm=12.0)], ignore_index=True
    )
    start = pd.Timestamp("2024-01-08")
    people = pd.DataFrame({"patient_id": ids, "treatment_start": start})
    people["death_date"] = (start + pd.to_timedelta(rng.integers(240, 1200, patients), unit="D")).where(
        rng.random(patients) < 0.4
    )
    return table, people


LIMIT_SECONDS = 60.0


def run(patients: int = 100_000) -> dict[str, dict[str, Any]]:
    "Response by both criteria, and PFS with OS, of made-up patients on one core; `other` is the limit that was set."
    lesions, people = cohort(patients)
    results = {}
    for name, criteria in (("RECIST 1.1", "recist11"), ("iRECIST", "irecist")):
        started = time.perf_counter()
        visits, table = responses(lesions, people, criteria=criteria)
        results[f"response of {patients:,} patients, {name}"] = _row(started, patients)
        started = time.perf_counter()
        pfs(visits, table), overall_survival(table)
        results[f"PFS and OS of {patients:,} patients, {name}"] = _row(started, patients)
    return results


def _row(started: float, patients: int) -> dict[str, Any]:
    wall = time.perf_counter() - started
    return {
        "ours": wall,
        "other": LIMIT_SECONDS,
        "ratio": LIMIT_SECONDS / wall,
        "unit": "s (limit)",
        "cases": patients,
        "cores": 1,
    }
