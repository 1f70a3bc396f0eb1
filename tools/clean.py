"""Clean notebooks of the library: `python tools/clean.py [NOTEBOOK ...]`, all of them by default.

Outputs, counts and odd metadata go, so that a commit shows what was written. Executed notebooks (`nbs/paper`, the
index) stay as they are.
"""

import sys
from pathlib import Path

from nbdev.clean import nbdev_clean

ROOT = Path(__file__).resolve().parents[1]


def library() -> list[Path]:
    "The notebooks that hold no outputs."
    return [*sorted((ROOT / "nbs").glob("[0-9]*_*/*.ipynb")), ROOT / "nbs" / "own_cohort.ipynb"]


if __name__ == "__main__":
    for notebook in sys.argv[1:] or library():
        nbdev_clean(str(notebook))
