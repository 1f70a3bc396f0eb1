"""What README, the page on own patients and the help texts print is executed here as it is printed: in order,
with an empty cache, by default options."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from argparse import SUPPRESS
from pathlib import Path

import pytest
from conftest import ROOT, all_commands

from nsclc_radiomics.cli.main import build_parser

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = json.loads((ROOT / "nbs" / "own_cohort.ipynb").read_text(encoding="utf-8"))
PROSE = "\n\n".join("".join(c["source"]) for c in PAGE["cells"] if c["cell_type"] == "markdown")

# Lines whose work is too long for here: what make starts for them, and the test that does that work.
LONG = {
    "make paper PROFILE=smoke": (
        "paper --run runs/smoke --profile smoke",
        "test_paper.py::test_all_ten_notebooks_run_after_what_they_need_and_say_so",
    ),
    "make paper": (
        "paper --run runs/full --profile full",
        "test_paper.py::test_what_is_committed_is_executed_normalised_and_whole",
    ),
    "make test": (
        "-m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests",
        "test_readme.py::test_make_starts_what_the_line_says",
    ),
    "make paper COHORT=mycohort RUN=runs/mine": (
        "paper --run runs/mine --profile full --cohort mycohort",
        "test_paper.py::test_a_small_own_cohort_goes_through_the_chapters_and_says_what_it_cannot_show",
    ),
}
RUNS_HERE = ("nsclc-radiomics ", "papermill ", "echo ", "rm ", "pip ", 'PYTHONPATH="$PWD" pip ')


def blocks(text: str) -> list[tuple[str, str]]:
    "Language and text of each fenced block."
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def indented(text: str) -> list[str]:
    "Each line of an indented block."
    return [line.strip() for line in re.findall(r"(?<=\n)(?: {4,}|\t)(\S.*)", "\n" + text)]


def without_comment(line: str) -> str:
    return re.split(r"\s+#\s", line)[0].strip()


SHELL = [
    line
    for language, text in blocks(README)
    if language in ("sh", "bash", "shell", "console")
    for line in text.splitlines()
    if line.strip()
]
PYTHON = [text for language, text in blocks(README) if language == "python"]
OWN = indented(PROSE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    "The files that git tracks, in a folder of their own."
    folder = tmp_path_factory.mktemp("readme") / "clone"
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def places(clone, tmp_path_factory) -> dict[str, Path]:
    "Where each page's lines run: two copies of the clone."
    return {"README": clone, "own_cohort": shutil.copytree(clone, tmp_path_factory.mktemp("own") / "clone")}


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Run a line as a user's shell would: this Python's commands on the path, an empty data cache, and what pip
    installs goes to a folder of its own.
    """
    empty = tmp_path_factory.mktemp("empty")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "NSCLC_CACHE": str(empty / "cache"),
        "PIP_TARGET": str(empty / "installed"),
        "PIP_NO_DEPS": "1",  # those are the environment's; tests/try_setup.sh installs them all
        "PIP_UPGRADE": "1",
    }

    def run(line: str, place: Path) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["sh", "-c", line], cwd=place, env=environment, capture_output=True, text=True, timeout=600
        )

    return run


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> bool:
    "Does pip reach a package index?"
    line = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(tmp_path_factory.mktemp("probe")),
        "wheel",
    ]
    return subprocess.run(line, capture_output=True).returncode == 0


def test_there_is_something_to_execute():
    assert len(SHELL) >= 15 and len(PYTHON) == 1 and len(OWN) >= 4
    assert {language for language, _ in blocks(README)} == {
        "sh",
        "python",
    }  # another one, or none, would be read by nobody
    assert README.index("```python") < README.index("```sh") and len([x for x in PYTHON[0].splitlines() if x]) == 6
    assert len(README.splitlines()) < 130
    assert not blocks(PROSE)  # the page prints its commands as indented lines


@pytest.mark.parametrize("line", [*SHELL, *OWN])
def test_every_line_is_executed_once(line):
    command = without_comment(line)
    assert command.startswith(RUNS_HERE) != (command in LONG), (
        f"{line!r}: executed by no test; run it here, or name in LONG the test that does"
    )


@pytest.mark.parametrize("where, line", [("README", s) for s in SHELL] + [("own_cohort", s) for s in OWN])
def test_a_line_works_as_it_is_printed(where, line, shell, places, index):
    if without_comment(line) in LONG:
        return  # see below
    if "pip install" in line and not index:
        pytest.skip("pip reaches no package index")
    done = shell(line, places[where])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr, done.stderr
    if not line.startswith("nsclc-radiomics"):
        return  # how papermill and pip say what they do is theirs
    assert "Warning" not in done.stderr, done.stderr
    assert max(map(len, done.stderr.splitlines()), default=0) < 500, "a progress bar drawn over and over in a log"
    said = done.stderr.splitlines()
    assert len(said) == len(set(said)), done.stderr


@pytest.mark.parametrize("text", PYTHON)
def test_a_python_block_prints_what_stands_below_it(text, shell, clone, index):
    if not index:
        pytest.skip("pip reaches no package index, and the block downloads the sample")
    (clone / "block.py").write_text(text, encoding="utf-8")
    done = shell("python block.py", clone)
    assert done.returncode == 0, done.stderr
    after = README.split(f"```python\n{text}```")[1].lstrip().splitlines()[0]
    assert done.stdout.strip() == after.strip() != ""


@pytest.mark.parametrize("line", LONG)
def test_make_starts_what_the_line_says(line, clone):
    "make itself is run, on an environment that is set up already and whose commands say what they were asked."
    begins, by = LONG[line]
    assert any(without_comment(printed) == line for printed in [*SHELL, *OWN]), f"{line} is printed nowhere"
    file, name = by.split("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{by}: no such test"
    commands = clone / ".venv" / "bin"
    commands.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(clone / "requirements.lock", clone / ".venv" / "installed.lock")
    shutil.copyfile(clone / "settings.ini", clone / ".venv" / "installed.ini")
    for command in ("python", "nsclc-radiomics"):
        (commands / command).write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
        (commands / command).chmod(0o755)
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("VENV", "PROFILE", "RUN", "COHORT", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    done = subprocess.run(["sh", "-c", line], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    started = done.stdout.splitlines()[-1]
    assert started == begins
    if begins.startswith("paper"):
        build_parser().parse_args(shlex.split(started))


@pytest.mark.parametrize("text", [README, PROSE], ids=["README", "own_cohort"])
def test_commands_and_options_in_sentences_exist(text):
    commands = all_commands()
    spans = [
        span
        for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
        if span.startswith("nsclc-radiomics ")
    ]
    for span in spans:
        words = span.split()[1:]
        assert words[0].startswith(("-", "…")) or any(" ".join(words).startswith(name) for name in commands), span
    known = {option for parser in commands.values() for option in parser._option_string_actions}
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    for option in re.findall(r"`(--[\w-]+)", text):
        assert option in known, option
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(rf"^{target}:", make, re.M), target


@pytest.mark.parametrize("name", all_commands())
def test_help_says_every_default_and_shows_no_example_that_nobody_runs(name):
    parser = all_commands()[name]
    assert not parser.epilog, f"{name}: an example in a help text has to be executed here"
    for action in parser._actions:
        if action.option_strings and not action.required and action.default not in (None, False, SUPPRESS):
            assert "default" in action.help, f"{name} {action.option_strings[0]} does not say its default"
        assert action.help or not action.option_strings, f"{name} {action.option_strings}: no help"
        if "--jobs" in action.option_strings:
            assert action.default is None and "one per core" in action.help
