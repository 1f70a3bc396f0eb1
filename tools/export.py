"""Export the library from the notebooks: `python tools/export.py` (what `make sync` does).

nbdev writes the modules; then imports of the package that span several lines are made relative, as nbdev makes those of
one line, and the modules are laid out by ruff as the notebooks are.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = "nsclc_radiomics"


def relative_imports(code: str, module: str) -> str:
    "The code of a module (`room.name`) with absolute imports of its own package made relative."

    def relative(found: re.Match) -> str:
        target = found.group(2).split(".")
        here = module.split(".")[:-1]
        shared = len(os.path.commonprefix([here, target[:-1]]))
        return f"{found.group(1)}from {'.' * (len(here) - shared + 1)}{'.'.join(target[shared:])} import"

    return re.sub(rf"^([ \t]*)from {PACKAGE}\.([\w.]+) import", relative, code, flags=re.M)


def export(root: Path) -> None:
    "Export the notebooks below a project's folder into its package."
    environment = {
        name: value for name, value in os.environ.items() if name != "IN_TEST"
    }  # in a test nbdev exports nothing
    line = "from nbdev.doclinks import nbdev_export; nbdev_export()"
    subprocess.run([sys.executable, "-c", line], cwd=root, env=environment, check=True)
    modules = [path for path in (root / PACKAGE).rglob("*.py") if path.name not in ("__init__.py", "_modidx.py")]
    for path in modules:
        code = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(root / PACKAGE).with_suffix("").parts)
        path.write_text(relative_imports(code, module), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", PACKAGE], cwd=root, check=True)


if __name__ == "__main__":
    export(Path(__file__).resolve().parents[1])
