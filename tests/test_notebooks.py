"""Every library notebook runs from top to bottom, with its own asserts."""

import os
import warnings

import pytest
from conftest import ROOT
from nbdev.test import test_nb as run_notebook

LIBRARY = [*sorted((ROOT / "nbs").glob("[0-9]*_*/[0-9]*.ipynb")), *sorted((ROOT / "nbs").glob("*.ipynb"))]
run_notebook.__test__ = False


@pytest.mark.parametrize("notebook", LIBRARY, ids=lambda p: p.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_the_asserts_of_a_library_notebook(notebook, monkeypatch):
    monkeypatch.setitem(os.environ, "IN_TEST", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # examples may warn; what they must not do they assert
        passed, _ = run_notebook(notebook, basepath=ROOT)
    assert passed, f"{notebook.name}: see the traceback above"
