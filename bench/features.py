"""How fast features are, against PyRadiomics' own command and its own extractor, on the same cases in turn.

Both sides start in a new process, with one numerical thread a worker, and read the same files. Values are
compared before times are.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from nsclc_radiomics.cohort.folder import save_cohort
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import write_volume
from nsclc_radiomics.features.robustness import real_tumours
from nsclc_radiomics.features.settings import load_settings

PARAMS = {"setting": {"binWidth": 25}, "imageType": {"Original": {}, "Wavelet": {}, "LoG": {"sigma": [1.0, 2.0, 3.0]}}}
ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {
    "PYTHONPATH": str(ROOT)
}

OURS = """
import sys
from nsclc_radiomics import extract_cohort, load_cohort
cohort, out, params, jobs = sys.argv[1:]
extract_cohort(load_cohort(cohort), out, params, jobs=int(jobs), cache=out + ".cache", progress=False)
"""

LOOP = """
import csv, sys, logging
from radiomics.featureextractor import RadiomicsFeatureExtractor
logging.getLogger("radiomics").setLevel(logging.CRITICAL)
extractor = RadiomicsFeatureExtractor(sys.argv[2])
for case in csv.DictReader(open(sys.argv[1])):
    extractor.execute(case["Image"], case["Mask"])
"""

# VmHWM, since ru_maxrss would also count what the process that started this one held
PEAK = """
from pathlib import Path
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")))
"""

MEMORY = (
    """
import sys
from nsclc_radiomics.features.measure import measure_files
from nsclc_radiomics.features.settings import load_settings
from nsclc_radiomics.features.robustness import real_tumours
chosen = load_settings(sys.argv[3])
values = measure_files(sys.argv[1], sys.argv[2], "HU", None, *chosen.parts)
assert isinstance(values, dict), values
"""
    + PEAK
)


def ball_case(seed: int, shape: tuple[int, int, int] = (72, 72, 72), radius: float = 17.0) -> tuple[Volume, Volume]:
    "A noisy ball of soft tissue in lung, for where the real patients are absent."
    rng = make_rng(seed, "bench")
    centre = [n / 2 for n in shape]
    grid = np.ogrid[tuple(slice(0, n) for n in shape)]
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
    noise = rng.normal(0, 60, shape)
    image = Volume((-800 + 850 / (1 + np.exp((distance - radius) / 2)) + noise).astype(np.int16), unit="HU")
    return image, image.with_array(distance < radius + rng.uniform(-6, 4), "mask")


def write_cohort(folder: Path, cases: list[tuple[Volume, Volume]]) -> pd.DataFrame:
    "The cases as a cohort; returns PyRadiomics' batch table of the same files."
    rows = []
    for n, (image, mask) in enumerate(cases):
        place = folder / "images" / f"P{n:04d}"
        rows.append(
            {"Image": write_volume(image, place / "ct.nii.gz"), "Mask": write_volume(mask, place / "ct_mask.nii.gz")}
        )
    ids = [f"P{n:04d}" for n in range(len(cases))]
    patients = pd.DataFrame({"patient_id": ids, "centre": "A", "split": "train", "has_ct": True, "has_pet": False})
    meta = {
        "name": "bench",
        "evidence": "simulated",
        "endpoint": "none",
        "licence": "none",
        "citation": "none",
        "centres": ["A"],
        "made_by": "bench",
    }
    save_cohort(folder, meta, patients)
    return pd.DataFrame(rows)


def timed(command: list[str], folder: Path) -> tuple[float, float, str]:
    "Wall seconds and CPU seconds of a command and its children, and what it printed."
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command[:3]} failed: {done.stderr[-2000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def largest_difference(ours: pd.DataFrame, theirs: pd.DataFrame) -> float:
    "The largest relative difference over all cases and features."
    a, b = ours.to_numpy(), theirs[list(ours.columns)].to_numpy(float)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return float(np.where(same, 0, np.abs(a - b) / np.maximum(np.abs(b), 1e-300)).max())


def against_pyradiomics(folder: Path, count: int, jobs: int) -> dict:
    "Throughput against the command with the same jobs, and against a plain loop over the extractor."
    cases = [*real_tumours(count).values()] or [ball_case(seed) for seed in range(count)]
    batch = write_cohort(folder / "cohort", cases)
    batch.to_csv(folder / "cases.csv", index=False)
    params = folder / "params.yaml"
    params.write_text(yaml.safe_dump(PARAMS))
    script = Path(sys.executable).with_name("pyradiomics")
    command = [str(script), "cases.csv", "-p", str(params), "-j", str(jobs), "-f", "csv", "-o", "theirs.csv", "-v", "1"]
    theirs, theirs_cpu, _ = timed(command, folder)
    ours, ours_cpu, _ = timed(
        [sys.executable, "-c", OURS, str(folder / "cohort"), str(folder / "ours.parquet"), str(params), str(jobs)],
        folder,
    )
    loop, loop_cpu, _ = timed([sys.executable, "-c", LOOP, "cases.csv", str(params)], folder)
    off = largest_difference(pd.read_parquet(folder / "ours.parquet"), pd.read_csv(folder / "theirs.csv"))
    if off > 1e-9:
        raise RuntimeError(
            f"values differ from PyRadiomics' by a relative {off:.1e}: the comparison of times means nothing"
        )
    shared = {
        "unit": "patients/s",
        "cases": len(cases),
        "cores": os.cpu_count(),
        "jobs": jobs,
        "largest_relative_difference": off,
    }
    shared |= {"ours": len(cases) / ours, "ours_cpu_s": ours_cpu}
    return {
        "features_vs_command": {
            **shared,
            "other": len(cases) / theirs,
            "ratio": theirs / ours,
            "other_cpu_s": theirs_cpu,
        },
        "features_vs_loop": {**shared, "other": len(cases) / loop, "ratio": loop / ours, "other_cpu_s": loop_cpu},
    }


def memory(folder: Path, shape: tuple[int, int, int] = (134, 512, 512)) -> dict:
    "Peak memory of a worker on a whole chest CT, against 700 MB."
    image, mask = ball_case(0, shape, radius=24)
    files = [str(write_volume(v, folder / name)) for v, name in ((image, "ct.nii.gz"), (mask, "ct_mask.nii.gz"))]
    peaks = {}
    for name in ("bench", "ct"):
        params = folder / "memory.yaml"
        params.write_text(yaml.safe_dump(PARAMS if name == "bench" else load_settings_dict(name)))
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, *files, str(params)],
            env={**os.environ, **ONE_THREAD},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        peaks[name] = float(done.stdout.split()[-1])
    worst = max(peaks.values())
    return {
        "features_worker_memory": {
            "ours": worst,
            "other": 700.0,
            "ratio": 700.0 / worst,
            "unit": "MB",
            "cases": 1,
            "cores": 1,
            "peaks": peaks,
        }
    }


def load_settings_dict(name: str) -> dict:
    "A shipped settings file as PyRadiomics takes it."
    chosen = load_settings(name)
    return {
        "setting": {k: v for k, v in chosen.setting.items() if v is not None},
        "imageType": chosen.image_types,
        "featureClass": chosen.classes,
    }


def scaling(folder: Path, counts: tuple[int, ...] = (100, 300, 1000), jobs: int = 2) -> dict:
    """Seconds, and peak memory of the process that collects, for cohorts of growing size, and a straight line through
    both.

    The ratio is the seconds that one more patient costs in the first half of the range over those in the second: 1
    where growth is linear. What starting costs, once, is the line's intercept. `off_line` is the largest distance of a
    measurement from the line as a share of it; the trend to 5,000 is the line's.
    """
    cases = [ball_case(seed, (24, 24, 24), 7) for seed in range(20)]
    seconds, memory_mb = {}, {}
    for count in counts:
        here = folder / f"n{count}"
        moved = [cases[n % len(cases)] for n in range(count)]  # other places, or the store would know them
        write_cohort(
            here,
            [
                tuple(Volume(v.array, v.spacing, (n, 0, 0), v.direction, v.unit) for v in pair)
                for n, pair in enumerate(moved)
            ],
        )
        arguments = [str(here), str(folder / f"{count}.parquet"), "original", str(jobs)]
        seconds[count], _, printed = timed([sys.executable, "-c", OURS + PEAK, *arguments], folder)
        memory_mb[count] = float(printed.split()[-1])
    first, middle, last = counts[0], counts[len(counts) // 2], counts[-1]
    early, late = ((seconds[b] - seconds[a]) / (b - a) for a, b in ((first, middle), (middle, last)))
    entry = {
        "ours": late * 1000,
        "other": early * 1000,
        "ratio": early / late,
        "unit": "ms/patient",
        "cases": last,
        "cores": os.cpu_count(),
        "jobs": jobs,
    }
    return {"features_scaling": {**entry, **_line("seconds", seconds), **_line("memory_mb", memory_mb)}}


def _line(name: str, measured: dict[int, float]) -> dict:
    """A straight line through measurements by number of patients: what was measured, the line, how far off it they are,
    and its value for 5,000.
    """
    line = np.poly1d(np.polyfit(list(measured), list(measured.values()), 1))
    off = max(abs(value - line(n)) / line(n) for n, value in measured.items())
    fit = {"per_patient": line[1], "at_start": line[0], "off_line": off, "at_5000": line(5000)}
    return {
        name: {str(n): value for n, value in measured.items()},
        **{f"{name}_{key}": float(value) for key, value in fit.items()},
    }


def run(count: int = 20, jobs: int = 2) -> dict:
    "All comparisons: name to {ours, other, ratio, unit, cases, cores}."
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return {**against_pyradiomics(folder, count, jobs), **memory(folder), **scaling(folder, jobs=jobs)}


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
