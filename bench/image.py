"""Reading a CT of 134 slices: ours against SimpleITK's series reader, both in turn, the same array."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.loading.ct import read_ct
from nsclc_radiomics.loading.write_dicom import write_series


def _simpleitk(folder: Path) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return sitk.GetArrayFromImage(reader.Execute())


def run(slices: int = 134, size: int = 512, rounds: int = 7) -> dict[str, dict[str, Any]]:
    "Median seconds of `rounds` reads each, taken in turn, by the clock and by the processor."
    array = make_rng(1, "bench").integers(-1000, 2000, (slices, size, size)).astype(np.int16)
    taken: dict[str, list[tuple[float, float]]] = {"ours": [], "other": []}
    with tempfile.TemporaryDirectory() as name:
        folder = write_series(Volume(array, spacing=(0.9765625, 0.9765625, 3.0), unit="HU"), Path(name) / "ct")[
            0
        ].parent
        if not np.array_equal(read_ct(folder).array, array) or not np.array_equal(_simpleitk(folder), array):
            raise AssertionError("the two readers do not give the array that was written")
        for _ in range(rounds):
            for who, read in (("ours", read_ct), ("other", _simpleitk)):
                clock, processor = time.perf_counter(), time.process_time()
                read(folder)
                taken[who].append((time.perf_counter() - clock, time.process_time() - processor))
    result = {}
    for k, kind in enumerate(("read_ct", "read_ct_processor_time")):
        ours, other = (float(np.median([t[k] for t in taken[who]])) for who in ("ours", "other"))
        result[kind] = {"ours": ours, "other": other, "ratio": other / ours, "unit": "s", "cases": rounds, "cores": 1}
    return result


if __name__ == "__main__":
    for name, row in run().items():
        print(name, {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
