"""Simulated cohorts of growing size: time and memory a patient must not grow with the cohort;
the cohort of the paper's size within its limits."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

SIZES = (100, 200, 400)
LIMITS = {"s": 180.0, "MB of memory": 1500.0, "MB on disk": 1000.0}
CALL = "import sys; from nsclc_radiomics.cli.main import main; sys.exit(main())"


def simulate(patients: int, external: int, jobs: int = 2) -> dict[str, float]:
    "Seconds, peak memory of all processes together and size on disk of one simulated cohort, made by the command."
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "simulate",
            f"{folder}/cohort",
            "--patients",
            str(patients),
            "--external",
            str(external),
            "--jobs",
            str(jobs),
        ]
        started, peak = time.perf_counter(), 0
        command = psutil.Popen(
            [sys.executable, "-c", CALL, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while command.poll() is None:
            peak = max(peak, _memory(command))
            time.sleep(0.2)
        if command.returncode:
            raise RuntimeError(f"simulate ended with status {command.returncode}")
        seconds = time.perf_counter() - started
        size = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
    return {"s": seconds, "MB of memory": peak / 1e6, "MB on disk": size / 1e6}


def _memory(process: psutil.Process) -> int:
    "Of a process and its children; what two of them share is counted once (proportional set size)."
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def run(sizes: tuple[int, ...] = SIZES) -> dict[str, dict[str, Any]]:
    "`other` is the limit that was set, or the smallest cohort."
    results = {}
    for unit, value in simulate(500, 150).items():
        row = {
            "ours": value,
            "other": LIMITS[unit],
            "ratio": LIMITS[unit] / value,
            "unit": f"{unit} (limit)",
            "cases": 650,
            "cores": 2,
        }
        results[f"simulate the paper's cohort: {unit}"] = row
    small = simulate(sizes[0], 0)
    for size in sizes[1:]:
        large = simulate(size, 0)
        for unit, share in (("s", size / sizes[0]), ("MB of memory", 1.0)):
            ours, other = large[unit] / share, small[unit]
            row = {
                "ours": ours,
                "other": other,
                "ratio": other / ours,
                "unit": f"{unit} for {sizes[0]} patients" if unit == "s" else unit,
                "cases": size,
                "cores": 2,
            }
            results[f"simulate {size} patients against {sizes[0]}: {unit}"] = row
    return results


if __name__ == "__main__":
    for name, row in run(tuple(int(size) for size in sys.argv[1:]) or SIZES).items():
        print(name, {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
