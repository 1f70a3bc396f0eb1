"""Two runs compared: byte for byte on one machine, within stated tolerances between machines."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsclc_radiomics.cli.main import main
from nsclc_radiomics.core.files import read_json, write_json
from nsclc_radiomics.core.run import Run
from nsclc_radiomics.paper.compare import TOLERANCES, _same_text, verify
from nsclc_radiomics.paper.provenance import write_provenance
from nsclc_radiomics.paper.record import note_inputs, save_figure, save_table


def make(
    folder,
    auc: float = 0.81,
    count: int = 13,
    shown: str = "0.81 (0.75 to 0.87)",
    network: float | None = None,
    by: str = "3D-CNN",
    rows: int = 2,
) -> Run:
    "A small run; with the AUC of a network, that and a table of calls by a model."
    run = Run(folder)
    note_inputs(run, {"profile": "smoke", "seed": 1, "cohort": ""}, {"cohort": "abc"})
    run.record({"holdout.random_forest.auc": {"value": auc, "evidence": "simulated"}})
    save_table(
        run,
        "counts",
        pd.DataFrame({"centre": ["A"], "patients": [count], "AUC": [shown]}),
        "simulated",
        "Patients <by> centre.",
    )
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.plot([0, 1])
    save_figure(run, "line", fig, pd.DataFrame({"x": [auc]}), "simulated", "A line.", inputs={"ct": "def"})
    if network:
        run.record(
            {
                "holdout.3d_cnn.auc": {
                    "value": network,
                    "low": network - 0.06,
                    "high": network + 0.06,
                    "evidence": "simulated",
                }
            }
        )
        save_table(
            run,
            "calls",
            pd.DataFrame({"model": [by] * rows, "probability": network, "call": network > 0.81}),
            "simulated",
            "Calls.",
        )
    return run


def test_equal_runs_agree_and_any_change_is_named(tmp_path):
    a = make(tmp_path / "a")
    assert verify(a, make(tmp_path / "b")) == []
    found = verify(a, make(tmp_path / "c", auc=0.8100001, count=14))
    assert {d.split(":")[0] for d in found} == {"numbers.json", "tables/counts.csv", "figures/line.csv"}
    (a.path / "tables/extra.csv").write_text("x\n1\n")
    assert [d for d in verify(a, make(tmp_path / "d")) if "only in" in d]


def test_another_machine_may_differ_in_last_digits_and_no_more(tmp_path):
    a = make(tmp_path / "a")
    near, far = (
        make(tmp_path / "b", auc=0.81 * (1 + 1e-9), shown="0.81 (0.75 to 0.88)"),
        make(tmp_path / "c", auc=0.811),
    )
    assert verify(a, near) != [] and verify(a, near, tolerance=None) == []
    assert len(verify(a, far, tolerance=None)) == 2
    assert verify(a, make(tmp_path / "d", count=14), tolerance=None) != []


def test_a_network_of_another_machine_agrees_where_intervals_overlap_and_in_words(tmp_path):
    """As another seed would: the same rows with other numbers; but never with other words, another count of rows, or
    far away.
    """
    a, b = make(tmp_path / "a", network=0.80), make(tmp_path / "b", network=0.85)
    c, d = make(tmp_path / "c", network=0.85, by="Random Forest"), make(tmp_path / "d", network=0.95, rows=3)
    assert len(verify(a, b)) == 2 and verify(a, b, tolerance=None) == []
    assert [f.split(":")[0] for f in verify(a, c, tolerance=None)] == ["tables/calls.csv"]
    assert [f.split(":")[0] for f in verify(a, d, tolerance=None)] == ["numbers.json", "tables/calls.csv"]
    assert len(verify(a, b, tolerance=1e-3)) == 2


def made_by(run: Run, processor: str, public: str = "absent") -> str:
    "The run's folder, with a provenance that names that processor."
    write_provenance(run, inputs={"public_patients": public})
    made = read_json(run.path / "provenance.json")
    write_json(run.path / "provenance.json", made | {"machine": made["machine"] | {"processor": processor}})
    return str(run.path)


def test_what_agreement_means_follows_from_the_processors_that_provenance_names(tmp_path, capsys):
    a, near = make(tmp_path / "a"), make(tmp_path / "b", auc=0.81 * (1 + 1e-9))
    assert main(["verify", made_by(a, "one"), made_by(near, "one")]) == 1
    assert "numbers.json: holdout.random_forest.auc" in capsys.readouterr().out
    assert main(["verify", made_by(a, "one"), made_by(near, "other")]) == 0
    assert "within the tolerances between machines" in capsys.readouterr().out
    assert main(["verify", made_by(a, "one"), made_by(near, "other"), "--tolerance", "0"]) == 1
    assert main(["verify", made_by(a, "one"), made_by(near, "one"), "--tolerance", "1e-6"]) == 0
    assert main(["verify", made_by(a, "one"), made_by(near, "one"), "--between-machines"]) == 0
    (near.path / "provenance.json").unlink()
    assert main(["verify", str(a.path), str(near.path)]) == 1


def test_a_run_without_public_patients_is_weighed_by_the_rest(tmp_path, capsys):
    "Where provenance says that the data were others; a number that only one of two alike runs has is a difference."
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    for run, total in ((a, 18), (b, 17)):
        run.record({"claims.not_testable_here": {"value": total, "evidence": "simulated"}})
    b.record({"real.ct.volume.auc": {"value": 0.7, "evidence": "real"}})
    assert main(["verify", made_by(a, "one"), made_by(b, "one", public="9f2c"), "--numbers"]) == 0
    assert "2 numbers not compared" in capsys.readouterr().out
    assert main(["verify", made_by(a, "one"), made_by(b, "one"), "--numbers"]) == 1
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()} == {
        "claims.not_testable_here",
        "real.ct.volume.auc",
    }
    b.record({"holdout.random_forest.auc": {"value": 0.82, "evidence": "simulated"}})
    assert main(["verify", made_by(a, "one"), made_by(b, "one", public="9f2c"), "--numbers"]) == 1
    assert "holdout.random_forest.auc is" in capsys.readouterr().out


def test_every_picture_and_table_says_what_it_is_made_from(tmp_path):
    run = make(tmp_path / "a")
    origin = read_json(run.path / "figures/line.json")
    assert (
        origin["inputs"] == {"cohort": "abc", "ct": "def"}
        and origin["parameters"]["seed"] == 1
        and origin["alt"] == "A line."
    )
    shown = save_table(run, "more", pd.DataFrame({"a": ["<b>"]}), "real", "x < y")._repr_html_()
    assert (
        "&lt;b&gt;" in shown
        and "x &lt; y" in shown
        and '<a href="../tables/more.json">' in shown
        and "Evidence: real." in shown
    )


def test_provenance_names_what_the_results_rest_on(tmp_path):
    run = make(tmp_path / "a")
    write_provenance(run, {"10_introduction": "123"})
    found = read_json(run.path / "provenance.json")
    assert {"torch", "monai", "numpy", "scikit-learn", "pyradiomics", "SimpleITK"} <= found["packages"].keys()
    assert found["seeds"] == {"seed": 1} and found["inputs"] == {"cohort": "abc"} and len(found["code"]["sha256"]) == 64
    assert {"tables/counts.csv", "figures/line.csv", "numbers.json"} <= found["results"].keys()
    assert {"python", "system", "processor", "cores"} <= found["machine"].keys()


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.sampled_from([0.0, 1e-9, 1e-3]))
def test_text_of_numbers_agrees_as_the_numbers_do(value, shift):
    one, other = f"{value:.10g}", f"{value * (1 + shift):.10g}"
    relative, absolute = TOLERANCES["other"]
    close = abs(float(one) - float(other)) <= absolute + relative * abs(float(other))
    assert _same_text(one, other, relative, absolute) is (close or one == other)


@pytest.mark.parametrize(("one", "other"), [("true", "false"), ("A 1.0", "A 1.2"), ("1", "2"), ("", "1")])
def test_other_words_and_counts_are_never_the_same(one, other):
    assert not _same_text(one, other, *TOLERANCES["other"])
