"""Segmentation: `run()` for `make bench`;
`python bench/segmentation.py owkin [patches] [folds]` for real patients, out of fold.

The second takes minutes: it trains one network a fold. It prints the table of scores, and seconds of
training in wall and processor time.
"""

import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from nsclc_radiomics.cohort.folder import load_cohort
from nsclc_radiomics.core.compute import Compute
from nsclc_radiomics.core.files import reference_dir
from nsclc_radiomics.core.volume import Volume
from nsclc_radiomics.loading.owkin import import_owkin
from nsclc_radiomics.segmentation.inference import segment_by_network
from nsclc_radiomics.segmentation.model import UnetSegmenter
from nsclc_radiomics.segmentation.network import UnetSettings, build_unet
from nsclc_radiomics.segmentation.scores import segmentation_scores, summarise_scores
from nsclc_radiomics.segmentation.seeded import centre_point, segment_seeded
from nsclc_radiomics.segmentation.segmenter import segment_cohort, train_segmenter

LIMIT_SECONDS, LIMIT_GB = 60.0, 3.0  # for a 512x512x134 CT on two cores


def chest(
    shape: tuple[int, int, int] = (134, 512, 512), spacing: tuple[float, float, float] = (0.8, 0.8, 2.5)
) -> tuple[Volume, Volume]:
    "A body with two lungs and a tumour in one of them, in the size of a chest CT."
    z, y, x = (
        np.linspace(-1, 1, n, dtype=np.float32).reshape(s) for n, s in zip(shape, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))
    )
    hu = np.full(shape, -1000, np.int16)
    hu[np.broadcast_to((x / 0.9) ** 2 + (y / 0.65) ** 2 < 1, shape)] = 40
    for side in (-0.42, 0.42):
        hu[((x - side) / 0.32) ** 2 + (y / 0.48) ** 2 + (z / 0.9) ** 2 < 1] = -850
    tumour = ((x - 0.4) * 512 * 0.4) ** 2 + (y * 512 * 0.4) ** 2 + (z * 134 * 1.25) ** 2 < 15**2
    hu[tumour] = 40
    hu += np.random.default_rng(0).integers(-30, 31, shape, np.int16)
    return Volume(hu, spacing, unit="HU"), Volume(tumour, spacing, unit="mask")


def run() -> dict[str, dict[str, Any]]:
    """A whole CT searched by the mean of three networks (untrained: the work is the same), and one click; `other` is
    the limit that was set.
    """
    import torch

    torch.manual_seed(0)
    settings = UnetSettings()
    model = UnetSegmenter(tuple(build_unet(settings).eval() for _ in range(3)), settings)
    image, mask = chest()
    results = {}
    for name, work in (
        ("segment a 512x512x134 CT, nothing pointed at", lambda: segment_by_network(image, model, "search")),
        (
            "segment a 512x512x134 CT, one click and the network",
            lambda: segment_by_network(image, model, centre_point(mask)),
        ),
        ("segment a 512x512x134 CT, one click without a network", lambda: segment_seeded(image, centre_point(mask))),
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        results[name] = {
            "ours": wall,
            "other": LIMIT_SECONDS,
            "ratio": LIMIT_SECONDS / wall,
            "unit": "s (limit)",
            "cases": 1,
            "cores": torch.get_num_threads(),
            "cpu_s": cpu,
        }
    results["score an outline of a 512x512x134 CT, beside MONAI's metrics"] = scoring(mask)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    results["peak memory of that"] = {
        "ours": peak,
        "other": LIMIT_GB,
        "ratio": LIMIT_GB / peak,
        "unit": "GB (limit)",
        "cases": 1,
        "cores": torch.get_num_threads(),
    }
    return results


def scoring(truth: Volume) -> dict[str, Any]:
    "Surface Dice and 95 % Hausdorff distance, both sides in turn on the tumour's box; they agree."
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice
    from scipy import ndimage

    box = tuple(slice(s.start - 8, s.stop + 8) for s in ndimage.find_objects(truth.array.astype(np.uint8))[0])
    truth = Volume(truth.array[box], truth.spacing, unit="mask")
    found = truth.with_array(ndimage.binary_dilation(np.roll(truth.array, 2, axis=2), iterations=2), "mask")
    both, spacing = [torch.as_tensor(m.array[None, None]) for m in (found, truth)], truth.spacing[::-1]

    def theirs() -> tuple[float, float]:
        near = compute_surface_dice(*both, class_thresholds=[2.0], include_background=True, spacing=spacing)
        return float(near), float(
            compute_hausdorff_distance(*both, include_background=True, percentile=95, spacing=spacing)
        )

    def ours() -> tuple[float, float]:
        scores = segmentation_scores(found, truth)
        return scores["surface_dice"], scores["hausdorff95_mm"]

    assert np.allclose(ours(), theirs(), rtol=0.02), (ours(), theirs())
    took, repeats = {"ours": 0.0, "other": 0.0}, 10
    for _ in range(repeats):
        for side, work in (("ours", ours), ("other", theirs)):
            start = time.perf_counter()
            work()
            took[side] += (time.perf_counter() - start) / repeats
    return took | {"ratio": took["other"] / took["ours"], "unit": "s", "cases": 1, "cores": 1}


def owkin(patches: int, folds: int) -> None:
    "Scores of the network (given the crop) and of one click, on all real patients, out of fold."
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_owkin(reference_dir() / "owkin/x_train", Path(folder) / "cohort")
        cohort = load_cohort(Path(folder) / "cohort")
        wall = time.perf_counter()
        _, scores = train_segmenter(
            cohort, Path(folder) / "trained", UnetSettings(patches=patches), folds=folds, compute=Compute(device="cpu")
        )
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"training and scoring: {time.perf_counter() - wall:.0f} s, processor {spent.ru_utime:.0f} s in workers")
        print("network, given the crop, out of fold\n", summarise_scores(scores).round(3).to_string())
        clicks = segment_cohort(cohort, "seeded", Path(folder) / "clicks", where="mask")
        scored = clicks.dropna(subset=["dice"])
        print(f"one click at the mask's centre, {len(scored)} scored\n", summarise_scores(scored).round(3).to_string())


if __name__ == "__main__":
    if sys.argv[1:2] == ["owkin"]:
        owkin(
            int(sys.argv[2]) if len(sys.argv) > 2 else UnetSettings().patches,
            int(sys.argv[3]) if len(sys.argv) > 3 else 5,
        )
    else:
        for name, row in run().items():
            print(
                f"{name}: {row['ours']:.2f} {row['unit']} {row['other']:g}"
                + (f", processor {row['cpu_s']:.1f} s" if "cpu_s" in row else "")
            )
