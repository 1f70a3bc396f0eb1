"""The paper as a whole: a smoke run through papermill, what it leaves, what is kept, what a kill costs,
and what is committed."""

import json
import os
import re
import signal
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from conftest import ROOT
from jupyter_client import BlockingKernelClient

from nsclc_radiomics.cohort.folder import load_cohort, save_cohort
from nsclc_radiomics.core.errors import CohortError, OptionError, RunError
from nsclc_radiomics.core.files import read_json
from nsclc_radiomics.core.run import EVIDENCE, Run
from nsclc_radiomics.outcomes.endpoints import cohort_outcomes
from nsclc_radiomics.paper import chapters, schedule
from nsclc_radiomics.paper.chapters import paper_notebooks, run_paper
from nsclc_radiomics.paper.compare import verify
from nsclc_radiomics.paper.execution import normalise_notebook
from nsclc_radiomics.paper.record import note_inputs
from nsclc_radiomics.paper.schedule import needed_by
from nsclc_radiomics.simulation.cohort import simulate_cohort

NAMES = [p.stem for p in paper_notebooks()]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> tuple[Run, list[str]]:
    said: list[str] = []
    return run_paper(tmp_path_factory.mktemp("runs") / "smoke", profile="smoke", say=said.append), said


def test_all_ten_notebooks_run_after_what_they_need_and_say_so(smoke):
    run, said = smoke
    steps = [(name, step) for line in said if "] " in line for name, step in [line.split("] ")[1].split(": ", 1)]]
    starts = [name for name, step in steps if step.startswith("running")]
    assert sorted(starts) == NAMES and len(NAMES) == 10
    over = {name: k for k, (name, step) in enumerate(steps) if step.endswith(" s") and "(" not in step}
    for name in NAMES:
        began = next(k for k, (other, step) in enumerate(steps) if other == name and step.startswith("running"))
        assert all(over[other] < began for other in needed_by(name, NAMES))
    for name in NAMES:
        cells = read_json(run.path / "notebooks" / f"{name}.ipynb")["cells"]
        assert not any(o["output_type"] == "error" for c in cells if c["cell_type"] == "code" for o in c["outputs"])


def test_every_number_has_its_kind_of_evidence(smoke):
    numbers = smoke[0].numbers()
    assert "reported.table5.3d_cnn.auc" in numbers and "cross_validated.logistic_regression.auc" in numbers
    assert {entry["evidence"] for entry in numbers.values()} <= set(EVIDENCE)
    assert all(numbers[k]["evidence"] == "reported" for k in numbers if k.startswith("reported."))
    assert numbers["features.sample.largest_relative_difference"]["value"] < 1e-9


def test_figures_come_with_their_data_and_origin(smoke):
    folder = smoke[0].path / "figures"
    names = {p.stem for p in folder.iterdir()}
    assert {"figure2_features", "figure4_roc_holdout", "figure5_roc_external", "kaplan_meier_by_group"} <= names
    for name in names:
        assert {".png", ".svg", ".csv", ".json"} <= {p.suffix for p in folder.glob(f"{name}.*")}
        origin = read_json(folder / f"{name}.json")
        assert set(origin["evidence"].split(" and ")) <= set(EVIDENCE) and len(origin["caption"]) > 20


def test_tables_come_as_csv_and_markdown(smoke):
    folder = smoke[0].path / "tables"
    for name in (
        "table1_challenges",
        "table2_dataset",
        "table3_features",
        "table5_performance",
        "table6_comparison",
        "arithmetic",
    ):
        assert len(pd.read_csv(folder / f"{name}.csv")) >= 3
        assert "Evidence:" in (folder / f"{name}.md").read_text(encoding="utf-8")


def test_provenance(smoke):
    found = read_json(smoke[0].path / "provenance.json")
    assert (
        found["parameters"]["profile"] == "smoke"
        and len(found["code"]["sha256"]) == 64
        and found["packages"]["pyradiomics"] != "absent"
    )


def test_a_second_run_does_nothing_again(smoke):
    run, _ = smoke
    said: list[str] = []
    run_paper(run.path, profile="smoke", say=said.append)
    assert sum("unchanged" in line for line in said) == 10 and not any("running" in line for line in said)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_notebook_reads_from_another_is_made_before(name):
    text = "\n".join("".join(c["source"]) for c in read_json(ROOT / "nbs/paper" / f"{name}.ipynb")["cells"])
    read = set(re.findall(r"need\([^()]*\"(\d\d_\w+)\"\)", text))
    read |= set(re.findall(r"\"(\d\d_\w+)\"", _opening(name))) - {name}
    assert read <= needed_by(name, NAMES), (
        f"{name} reads what {read - needed_by(name, NAMES)} leave: name them in AFTER"
    )


@pytest.fixture
def two_notebooks(tmp_path, monkeypatch):
    "A paper of a notebook that fails at once, one beside it that takes a second, and one after both."
    cells = {"10_bad": "raise ValueError('no such thing')", "20_slow": "import time; time.sleep(1)", "90_last": "1"}
    for name, source in cells.items():
        parameters = nbformat.v4.new_code_cell(
            "run, cohort, profile, seed = '', '', '', 0", metadata={"tags": ["parameters"]}
        )
        nbformat.write(
            nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(source)]), tmp_path / f"{name}.ipynb"
        )
    monkeypatch.setattr(chapters, "paper_notebooks", lambda: [tmp_path / f"{name}.ipynb" for name in cells])
    monkeypatch.setattr(schedule, "AFTER", {"10_bad": (), "20_slow": ()})
    monkeypatch.setattr(
        BlockingKernelClient, "execute", lambda *_, **__: None
    )  # of warm kernels: these notebooks need nothing imported
    return tmp_path / "run"


def test_where_one_fails_the_other_ends_and_nothing_more_starts(two_notebooks):
    said: list[str] = []
    with pytest.raises(RunError, match="10_bad.ipynb, cell 3: ValueError: no such thing"):
        run_paper(two_notebooks, profile="smoke", say=said.append)
    assert {p.name for p in (two_notebooks / "notebooks").glob("*.ipynb")} == {"10_bad.failed.ipynb", "20_slow.ipynb"}
    assert not any("90_last" in line for line in said)
    again: list[str] = []
    with pytest.raises(RunError, match="no such thing"):
        run_paper(two_notebooks, profile="smoke", say=again.append)
    assert any("20_slow: unchanged" in line for line in again)


def test_what_was_done_is_done_again_where_public_patients_come(two_notebooks, tmp_path, monkeypatch):
    "Chapters show more where the reference data are there: 'unchanged' would hide them from who got them later."
    monkeypatch.setenv("NSCLC_REFERENCE", str(tmp_path / "reference"))

    def started() -> bool:
        said: list[str] = []
        run_paper(two_notebooks, profile="smoke", only=["20_slow"], say=said.append)
        return any("running" in line for line in said)

    assert started() and read_json(two_notebooks / "provenance.json")["inputs"]["public_patients"] == "absent"
    assert not started()
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference/patients.csv").write_text("a\n")
    assert started() and not started()
    (tmp_path / "reference/patients.csv").write_text("a\n1\n")
    assert started() and read_json(two_notebooks / "provenance.json")["inputs"]["public_patients"] != "absent"


def test_a_killed_run_goes_on_and_gives_the_same(smoke, tmp_path):
    """Killed while the second notebook draws the patients: what was done is kept, and the end is as if nothing had
    happened.
    """
    run = Run(tmp_path / "killed")
    call = (
        f"from nsclc_radiomics.paper.chapters import run_paper; run_paper({str(run.path)!r}, profile='smoke',"
        f" only={NAMES[:2]!r})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", call], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if line.startswith("[1/10]") and line.rstrip().endswith(" s") and "(" not in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run.path / "notebooks" / f"{NAMES[1]}.ipynb").is_file()
    said: list[str] = []
    run_paper(run.path, profile="smoke", only=NAMES[:2], say=said.append)
    assert ["unchanged" in line for line in said if line.startswith("[1/10]")] == [True]
    assert not [line for line in verify(run, smoke[0]) if "only in" not in line and "one run only" not in line]
    for name in NAMES[:2]:
        assert _as_if_anywhere(run, name) == _as_if_anywhere(smoke[0], name)


def _as_if_anywhere(run: Run, name: str) -> list[dict]:
    "The cells of an executed notebook without what says in which folder it was."
    notebook = normalise_notebook(read_json(run.path / "notebooks" / f"{name}.ipynb"), run.path)
    return [c for c in notebook["cells"] if c["id"] != "injected-parameters"]


@pytest.mark.parametrize("notebook", paper_notebooks(), ids=lambda p: p.stem)
def test_what_is_committed_is_executed_normalised_and_whole(notebook):
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content == normalise_notebook(content), "not normalised: make publish"
    code = [c for c in content["cells"] if c["cell_type"] == "code"]
    assert any(c["outputs"] for c in code), "not executed: make paper publish"
    assert not any(o["output_type"] == "error" for c in code for o in c["outputs"])
    injected = [c for c in content["cells"] if c["id"] == "injected-parameters"]
    assert "".join(injected[0]["source"]).count('profile = "full"') == 1, "committed from a run that was not full"
    assert notebook.stat().st_size < 3_000_000
    assert not any("def " in line[:4] for c in code for line in "".join(c["source"]).splitlines()), (
        "logic belongs in the library"
    )


def _opening(name: str) -> str:
    "The first code cell of a chapter after its parameters."
    cells = [c for c in read_json(ROOT / "nbs/paper" / f"{name}.ipynb")["cells"] if c["cell_type"] == "code"]
    return "".join(
        next(c for c in cells if not {"parameters", "injected-parameters"} & set(c["metadata"].get("tags", [])))[
            "source"
        ]
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_refuses_in_its_first_cell_what_it_cannot_go_on_with(name, tmp_path):
    (tmp_path / "file").write_text("")
    given = {"run": str(tmp_path / "run"), "cohort": "", "profile": "smoke", "seed": 1}
    wrong = [
        ({"profile": "huge"}, OptionError, "unknown profile 'huge'"),
        ({"seed": -1}, OptionError, "seed must be a whole number of zero or more"),
        ({"seed": "one"}, OptionError, "seed must be a whole number of zero or more"),
        ({"cohort": str(tmp_path / "nowhere")}, CohortError, "no such cohort folder"),
        ({"run": str(tmp_path / "file")}, RunError, "is a file"),
        ({"run": str(tmp_path / "file" / "below")}, RunError, "is a file"),
    ]
    if "needs=" in _opening(name):
        wrong.append(({}, RunError, r"has no results of chapter \d\d_\w+"))
    for options, kind, words in wrong:
        with pytest.raises(kind, match=words):
            exec(_opening(name), {**given, **options})
    assert not (tmp_path / "run").exists()


def test_results_of_other_patients_do_not_stay_in_a_run_folder(tmp_path):
    run = Run(tmp_path / "run")
    parameters = {"cohort": "", "profile": "smoke", "seed": 1}
    note_inputs(run, parameters, {"cohort": "abc"})
    run.record({"holdout.hybrid.auc": {"value": 0.9, "evidence": "simulated"}})
    chapters.note_run(run, "", "smoke", 1)  # the same patients, made by other code
    assert "holdout.hybrid.auc" in run.numbers()
    chapters.note_run(run, "", "smoke", 2)
    assert not (run.path / "numbers.json").exists()


@pytest.fixture(scope="module")
def awkward(tmp_path_factory) -> tuple[Run, dict[str, str]]:
    """Chapters on an own cohort: four responders in training, one patient without images, no external centre, no
    lesions, one centre, no clinic.
    """
    home = tmp_path_factory.mktemp("own")
    made = load_cohort(simulate_cohort(home / "cohort", patients=20, external=0, jobs=1, progress=False))
    outcomes = cohort_outcomes(made)
    table = made.patients.assign(
        response=made.patients.patient_id.map(outcomes.response), has_pet=False, centre="A", split="train"
    )
    table = table[table.response.isin(["PR", "CR", "SD", "PD"])]
    responders = table.index[table.response.isin(["PR", "CR"])]
    table = table.drop(responders[4:])
    table.loc[table.index[table.response.isin(["SD", "PD"])][0], "has_ct"] = False
    clinic = [
        "age",
        "sex",
        "smoking",
        "histology",
        "stage",
        "ecog",
        "pdl1_tps",
        "tmb",
        "albumin",
        "dnlr",
        "line_of_therapy",
        "time",
        "event",
    ]
    (made.path / "lesions.csv").unlink()
    meta = {"name": "own", "evidence": "simulated", "endpoint": "response"}
    save_cohort(made.path, meta, table.drop(columns=[c for c in clinic if c in table]))
    run = run_paper(
        home / "run", str(made.path), profile="smoke", only=[n for n in NAMES if "20" <= n < "70"], say=lambda _: None
    )
    said = {}
    for name in [n for n in NAMES if "20" <= n < "70"]:
        outputs = [
            o
            for c in read_json(run.path / "notebooks" / f"{name}.ipynb")["cells"]
            if c["cell_type"] == "code"
            for o in c["outputs"]
        ]
        said[name] = "".join(
            "".join(o["text"]) for o in outputs if o["output_type"] == "stream" and o["name"] == "stdout"
        )
    return run, said


def test_a_small_own_cohort_goes_through_the_chapters_and_says_what_it_cannot_show(awkward):
    run, said = awkward
    assert (
        "4 folds in place of 5: the smaller class has 4 patients" in said["35_network"]
        and "4 folds in place of 5" in said["40_performance"]
    )
    assert "not shown: no patient of this cohort has a PET" in said["20_cohort"]
    assert "not shown: no clinical variables" in said["40_performance"]
    assert "not shown: no lesions.csv" in said["50_outcomes"] and "not shown: no follow-up times" in said["50_outcomes"]
    assert "not shown: no holdout and no external patient with CT" in said["60_discussion"]
    numbers = run.numbers()
    assert "cross_validated.logistic_regression.auc" in numbers and not any("clinical" in key for key in numbers)
    shown = pd.read_csv(run.path / "tables/scope.csv").set_index("part").shown
    assert shown["training, choices"] == "yes" and shown["clinical model, hybrid"] == "no"
