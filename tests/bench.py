"""Every comparison of speed, both sides in turn in one run: `make bench`, or `python tests/bench.py NAME ...` for some."""

import importlib
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import pandas as pd

from nsclc_radiomics.core.files import write_json


def main(names: list[str]) -> None:
    known = {path.stem.removeprefix("bench_"): path.stem for path in sorted(HERE.glob("bench_*.py"))}
    if unknown := set(names) - set(known):
        sys.exit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    found: dict[str, dict] = {}
    for name in names or known:
        print(f"{name} …", flush=True)
        found |= importlib.import_module(known[name]).run()
        write_json(HERE.parent / "runs" / "bench" / "bench.json", found)
    print(pd.DataFrame(found).T.to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
