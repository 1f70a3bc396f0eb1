"""What several tests share: small cohorts, the command line, one smoke run of the paper."""

import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pandas as pd
import pytest

from nsclc_radiomics.cohort.folder import save_cohort
from nsclc_radiomics.cohort.sample import save_sample_cohort
from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.files import reference_dir
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.core.volume_files import write_volume

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list) -> None:
    "The two files that take longest first: workers then end together."
    longest = ["test_paper.py", "test_notebooks.py"]
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


@pytest.fixture(scope="session")
def reference() -> Path:
    found = reference_dir()
    if found is None:
        pytest.skip("reference data are absent: set NSCLC_REFERENCE to their folder")
    return found


def pytest_terminal_summary(terminalreporter) -> None:
    "How many tests could not compare with data that may not be passed on."
    skipped = terminalreporter.stats.get("skipped", [])
    if count := sum("reference data" in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(f"{count} tests skipped for want of the reference data (NSCLC_REFERENCE)")


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    "The cohort of two real lung CTs; their archive is there after set-up."
    return save_sample_cohort(tmp_path_factory.mktemp("sample") / "cohort")


@pytest.fixture
def cohort(tmp_path) -> Path:
    "Three small made-up patients: textured balls."
    folder = tmp_path / "cohort"
    folder.mkdir()
    z, y, x = np.ogrid[-8:9, -10:11, -10:11]
    for k, patient in enumerate(("P1", "P2", "P3")):
        inside = z**2 + y**2 + x**2 <= (5 + k) ** 2
        noise = make_rng(1, "test", patient).normal(0, 20, inside.shape)
        write_volume(
            Volume((np.where(inside, 40, -850) + noise).astype(np.int16), unit="HU"),
            folder / f"images/{patient}/ct.nii.gz",
        )
        write_volume(Volume(inside), folder / f"images/{patient}/ct_mask.nii.gz")
    patients = pd.DataFrame(
        {"patient_id": ["P1", "P2", "P3"], "centre": "A", "split": "train", "has_ct": True, "has_pet": False}
    )
    patients["response"] = ["PR", "PD", "SD"]
    save_cohort(folder, {"name": "balls", "evidence": "simulated", "endpoint": "response"}, patients)
    return folder


@pytest.fixture(scope="session")
def command():
    "Run `nsclc-radiomics` in a process of its own, as a user does."

    def run(*arguments, **options) -> subprocess.CompletedProcess:
        line = [
            sys.executable,
            "-c",
            "import sys; from nsclc_radiomics.cli.main import main; sys.exit(main())",
            *map(str, arguments),
        ]
        return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=300, **options)

    return run


@pytest.fixture
def refused(monkeypatch, capsys):
    """Give the command a line that must fail as design says: status 2, a short error on stderr that holds each given
    text, no exception.
    """
    from nsclc_radiomics.cli.main import main

    monkeypatch.chdir(ROOT)

    def run(*arguments, says: tuple[str, ...]) -> str:
        try:
            status = main([*map(str, arguments)])
        except SystemExit as stop:  # of the parser
            status = stop.code
        error = capsys.readouterr().err
        assert status == 2, (status, error)
        assert "Traceback" not in error
        for text in says:
            assert text in error, error
        return error

    return run


def all_commands() -> dict:
    "Every command's parser by its name, `import dicom` among them."
    from nsclc_radiomics.cli.main import build_parser

    found = {}

    def walk(parser, name):
        inner = [
            action for action in parser._actions if hasattr(action, "choices") and isinstance(action.choices, dict)
        ]
        for action in inner:
            for word, below in action.choices.items():
                walk(below, f"{name} {word}".strip())
        if not inner:
            found[name] = parser

    walk(build_parser(), "")
    return found
