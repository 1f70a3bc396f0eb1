"""`import nsclc_radiomics as nr`: 29 names that load on first use, and the example in each one's docstring at work."""

import ast
import doctest
import inspect
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

import nsclc_radiomics as nr

DEPENDENCIES = ("numpy", "pandas", "scipy", "sklearn", "matplotlib", "torch", "SimpleITK", "pydicom", "yaml")
ORDER = ["simulate_cohort", "train", *sorted(set(nr.__all__) - {"simulate_cohort", "train"})]  # what others read first


def loaded_by(line: str) -> set[str]:
    "The dependencies that are in memory after a line, in a process of its own."
    code = f"import sys\n{line}\nprint(*(m for m in {DEPENDENCIES} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder like a clone, where the examples leave what they write."
    folder = tmp_path_factory.mktemp("door")
    shutil.copyfile(ROOT / "settings.ini", folder / "settings.ini")
    shutil.copytree(ROOT / "nbs" / "paper", folder / "nbs" / "paper")
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.mark.parametrize(
    "line, allowed",
    [
        ("import nsclc_radiomics", set()),
        ("import nsclc_radiomics as nr; dir(nr); nr.NsclcError", set()),
        ("import nsclc_radiomics as nr; nr.Volume; nr.read_volume", {"numpy"}),
        ("import nsclc_radiomics as nr; nr.read_ct; nr.read_pet", {"numpy", "pandas", "pydicom"}),
        ("import nsclc_radiomics as nr; nr.extract", {"numpy", "pandas", "SimpleITK", "yaml"}),
        ("from nsclc_radiomics.cli.main import build_parser; build_parser().format_help()", set()),
    ],
)
def test_a_name_loads_what_it_needs_and_no_more(line, allowed):
    assert loaded_by(line) <= allowed


def test_the_names_are_the_same_for_python_editors_and_type_checkers():
    tree = ast.parse((ROOT / "nsclc_radiomics" / "__init__.py").read_text(encoding="utf-8"))
    typed = next(n for n in tree.body if isinstance(n, ast.If)).body
    assert {n.names[0].asname: n.module for n in typed if n.level} == nr._MODULE_OF
    assert 20 <= len(nr.__all__) <= 30 and set(nr.__all__) <= set(dir(nr))
    for name, module in nr._MODULE_OF.items():
        found = getattr(nr, name)
        assert found.__module__ == f"nsclc_radiomics.{module}" and found.__name__ == name
        assert name in sys.modules[found.__module__].__all__
    with pytest.raises(AttributeError, match="no attribute 'radiomics'"):
        _ = nr.radiomics


def test_the_page_that_help_shows_names_all_of_them_and_every_room():
    for name in nr.__all__:
        assert re.search(rf"\b{name}\b", nr.__doc__), name
    rooms = [p.parent.name for p in (ROOT / "nsclc_radiomics").glob("*/__init__.py")]
    assert len(rooms) == 12 and all(re.search(rf"^    {room} ", nr.__doc__, re.M) for room in rooms)
    assert len(nr.__doc__.splitlines()) <= 60


@pytest.mark.parametrize("name", ORDER)
def test_a_docstring_says_where_it_comes_from_and_its_example_works(name, place):
    text = inspect.cleandoc(getattr(nr, name).__doc__)
    assert re.search(r"^Source: ", text, re.M), "no source"
    test = doctest.DocTestParser().get_doctest(text, {"nr": nr}, name, None, 0)
    assert len(test.examples) >= 2, "an example has two lines"
    said = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
    assert result.failed == 0, "".join(said)
