"""A cohort in, a table out, whatever happens: failures, resumption, killed workers,
a Dask cluster that loses a worker."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nsclc_radiomics.cohort.folder import load_cohort, save_cohort
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import OptionError, RunError
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import write_volume
from nsclc_radiomics.features import extraction
from nsclc_radiomics.features.extraction import extract_cohort, run_cases
from nsclc_radiomics.features.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
QUICK = {"setting": {"binWidth": 25}, "featureClass": {"firstorder": [], "glcm": ["Contrast", "MCC"]}}


def add_patient(folder: Path, patient: str, size: int = 20) -> None:
    z, y, x = np.ogrid[:size, :size, :size]
    inside = (z - size / 2) ** 2 + (y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 4) ** 2
    values = np.where(inside, 40, -850) + make_rng(1, "cohort test", patient).normal(0, 30, inside.shape)
    write_volume(Volume(values.astype(np.int16), unit="HU"), folder / f"images/{patient}/ct.nii.gz")
    write_volume(Volume(inside), folder / f"images/{patient}/ct_mask.nii.gz")


def make_cohort(folder: Path, patients: list[str]):
    for patient in patients:
        if not (folder / f"images/{patient}").exists():
            add_patient(folder, patient)
    table = pd.DataFrame({"patient_id": patients, "centre": "A", "split": "train", "has_ct": True, "has_pet": False})
    save_cohort(folder, {"name": "toy", "evidence": "simulated", "endpoint": "none"}, table)
    return load_cohort(folder)


def extract(cohort, out: Path, **options) -> pd.DataFrame:
    return extract_cohort(cohort, out, QUICK, cache=out.parent / "cache", progress=False, **{"jobs": 1, **options})


def test_each_bad_patient_is_a_row_and_a_line_and_the_others_go_on(tmp_path):
    cohort = make_cohort(tmp_path / "c", ["good", "empty", "torn", "gone", "also_good"])
    write_volume(Volume(np.zeros((20, 20, 20), bool)), cohort.mask_path("empty"))
    cohort.image_path("torn").write_bytes(cohort.image_path("torn").read_bytes()[:300])
    cohort.mask_path("gone").unlink()
    table = extract(cohort, tmp_path / "ct.parquet", jobs=2)
    failures = pd.read_csv(tmp_path / "failures.csv").set_index("patient_id")
    assert table.index.tolist() == cohort.ids and table.columns.tolist() == load_settings(QUICK).columns
    assert table.isna().all(axis=1).to_dict() == {
        "good": False,
        "empty": True,
        "torn": True,
        "gone": True,
        "also_good": False,
    }
    assert failures.error.to_dict() == {"empty": "MaskError", "torn": "ImageError", "gone": "ImageError"}
    assert all(str(tmp_path) in message for message in failures.message)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "ct.parquet"), table, check_exact=True)


def test_adding_a_patient_extracts_one(tmp_path, monkeypatch):
    cohort = make_cohort(tmp_path / "c", ["a", "b", "c"])
    first = extract(cohort, tmp_path / "one.parquet")
    work = []
    real = extraction.run_cases
    monkeypatch.setattr(extraction, "run_cases", lambda do, cases, *more: work.extend(cases) or real(do, cases, *more))
    second = extract(make_cohort(tmp_path / "c", ["a", "b", "c", "d"]), tmp_path / "two.parquet")
    assert work == ["d"] and second.loc[["a", "b", "c"]].equals(first)
    add_patient(tmp_path / "c", "b", size=24)
    third = extract(make_cohort(tmp_path / "c", ["a", "b", "c", "d"]), tmp_path / "two.parquet")
    assert work == ["d", "b"] and not third.loc["b"].equals(second.loc["b"])


def test_a_damaged_store_is_made_again_and_failures_of_other_tables_stay(tmp_path):
    cohort = make_cohort(tmp_path / "c", ["a", "b"])
    table = extract(cohort, tmp_path / "one.parquet")
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(b"torn")
    cohort.mask_path("b").unlink()
    with pytest.warns(UserWarning, match="is damaged .*; it is made again"):
        extract(cohort, tmp_path / "two.parquet")
    assert extract(cohort, tmp_path / "one.parquet").loc["a"].equals(table.loc["a"])
    assert pd.read_csv(tmp_path / "failures.csv").table.tolist() == ["two.parquet", "one.parquet"]


def test_a_killed_run_resumes(tmp_path):
    cohort = make_cohort(tmp_path / "c", [f"P{n}" for n in range(40)])
    script = (
        "import sys; from nsclc_radiomics.cohort.folder import load_cohort; from"
        " nsclc_radiomics.features.extraction import extract_cohort\n"
        f"extract_cohort(load_cohort(sys.argv[1]), sys.argv[2], {QUICK!r}, jobs=1, cache=sys.argv[3], progress=False)"
    )
    out, cache = tmp_path / "ct.parquet", tmp_path / "cache"
    run = subprocess.Popen([sys.executable, "-c", script, str(cohort.path), str(out), str(cache)], cwd=ROOT)
    deadline = time.monotonic() + 120
    while len(list(cache.glob("[!.]*.npy"))) < 2 and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    run.kill()
    run.wait()
    stored = {p.name: p.stat().st_mtime_ns for p in cache.glob("[!.]*.npy")}
    assert 2 <= len(stored) < 40 and not out.exists()
    table = extract(cohort, out)
    assert table.notna().all().all() and all((cache / name).stat().st_mtime_ns == when for name, when in stored.items())


def fatal(patient: str) -> dict[str, float]:
    if patient == "big":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return {patient: 1.0}


def test_a_worker_killed_by_the_system_costs_that_patient_only():
    names = ["a", "b", "big", *"cdefghij"]
    done = dict(run_cases(fatal, {name: (name,) for name in names}, jobs=2))
    assert set(done) == set(names) and isinstance(done.pop("big"), MemoryError)
    assert done == {name: {name: 1.0} for name in names if name != "big"}


def test_number_of_workers_does_not_matter(tmp_path):
    cohort = make_cohort(tmp_path / "c", ["a", "b", "c", "d"])
    one = extract_cohort(cohort, tmp_path / "1.parquet", QUICK, jobs=1, cache=tmp_path / "c1", progress=False)
    two = extract_cohort(cohort, tmp_path / "2.parquet", QUICK, jobs=2, cache=tmp_path / "c2", progress=False)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_options_are_checked_before_work(tmp_path):
    cohort = make_cohort(tmp_path / "c", ["a"])
    for options in ({"jobs": 0}, {"modality": "mr"}):
        with pytest.raises(OptionError):
            extract(cohort, tmp_path / "x.parquet", **options)
    with pytest.raises(OptionError, match=r"\.parquet"):
        extract(cohort, tmp_path / "x.csv")


@pytest.fixture
def cluster(tmp_path):
    "A Dask scheduler and two workers as processes on loopback."
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    quiet = {"env": env, "cwd": tmp_path, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = [
        sys.executable,
        "-c",
        "from distributed.cli.dask_scheduler import main; main()",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--no-dashboard",
    ]
    worker = [
        sys.executable,
        "-c",
        "from distributed.cli.dask_worker import main; main()",
        address,
        "--nthreads",
        "1",
        "--no-nanny",
        "--no-dashboard",
    ]
    processes = [subprocess.Popen(scheduler, **quiet), *(subprocess.Popen(worker, **quiet) for _ in range(2))]
    yield address, processes
    for process in processes:
        process.kill()
        process.wait()


def test_dask_cluster_that_loses_a_worker_gives_the_same_table(tmp_path, cluster):
    address, (_, first, _) = cluster
    patients = make_cohort(tmp_path / "c", [f"P{n}" for n in range(24)])
    local = extract_cohort(patients, tmp_path / "local.parquet", QUICK, jobs=1, cache=tmp_path / "c1", progress=False)

    def kill_in_mid_run() -> None:
        while len(list((tmp_path / "c2").glob("[!.]*.npy"))) < 3:
            time.sleep(0.01)
        first.kill()

    killer = threading.Thread(target=kill_in_mid_run, daemon=True)
    killer.start()
    remote = extract_cohort(
        patients, tmp_path / "remote.parquet", QUICK, scheduler=address, cache=tmp_path / "c2", progress=False
    )
    killer.join(timeout=10)
    assert first.wait(timeout=10) == -signal.SIGKILL
    pd.testing.assert_frame_equal(remote, local, check_exact=True)


def test_a_scheduler_that_does_not_answer(tmp_path, monkeypatch):
    import distributed

    real = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: real(address, timeout=1))
    with pytest.raises(RunError, match="no Dask scheduler"):
        extract(make_cohort(tmp_path / "c", ["a"]), tmp_path / "x.parquet", scheduler="tcp://127.0.0.1:9")
