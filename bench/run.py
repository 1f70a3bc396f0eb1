"""Every comparison of speed, both sides in turn in one run: `make bench`,
or `python bench/run.py NAME ...` for some."""

import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import pandas as pd  # noqa: E402  # with one thread

from nsclc_radiomics.core.files import write_json  # noqa: E402


def main(names: list[str]) -> None:
    known = sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run")
    if unknown := set(names) - set(known):
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    found: dict[str, dict] = {}
    for name in names or known:
        print(f"{name} …", flush=True)
        found |= importlib.import_module(name).run()
        write_json(HERE.parent / "runs" / "bench" / "bench.json", found)
    print(pd.DataFrame(found).T.to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
