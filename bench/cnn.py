"""Training the 3D-CNN beside a plain MONAI loop: same network, same volumes, same number of epochs,
both on two cores, in one run."""

import json
import time

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.models.cnn import CNN3DClassifier
from nsclc_radiomics.models.crops import CropSettings
from nsclc_radiomics.models.network import Augmentation, build_network

CORES = 2
SIZE, CHANNELS = CropSettings().size, len(CropSettings().channels)
HOW = Augmentation(smooth=0.0, noise=0.01)  # what MONAI's side does; mirroring on top
MODEL = CNN3DClassifier(
    learning_rate=3e-3, augmentation=HOW, masks=(), device="cpu"
)  # a rate with which few epochs are enough


def grainy(
    patients: int,
    seed: int,
    apart: float = 1.8,  # standard deviations between the classes' mean grain; the best AUC is Φ(apart / √2), 0.90
) -> tuple[np.ndarray, np.ndarray]:
    """Volumes of the default crop's shape and labels: class 1 has coarser grain on average, and patients differ within
    a class.
    """
    rng = make_rng(seed, "bench")
    labels = rng.permutation(np.arange(patients) % 2)
    volumes = rng.normal(size=(patients, CHANNELS, SIZE, SIZE, SIZE)).astype(np.float32)
    coarse = torch.nn.functional.avg_pool3d(torch.as_tensor(volumes), 3, 1, 1, count_include_pad=False).numpy()
    share = 0.45 + 0.12 * (apart * (labels - 0.5) + rng.normal(size=patients))
    share = share.clip(0.05, 0.85).astype(np.float32)[:, None, None, None, None]
    volumes = share * coarse / coarse.std() + (1 - share) * volumes
    return (0.5 + 0.15 * volumes / volumes.std((1, 2, 3, 4), keepdims=True)).astype(np.float32), labels


def ours(folds: list[tuple[np.ndarray, np.ndarray]], epochs: int) -> tuple[float, list[CNN3DClassifier]]:
    "Seconds to fit one network a fold, folds side by side, and the networks."
    model = clone(MODEL).set_params(epochs=epochs)
    with Parallel(n_jobs=CORES) as workers:
        workers(delayed(_warm)(model) for _ in range(CORES))  # starting processes and importing torch is not training
        start = time.perf_counter()
        fitted = workers(delayed(model.fit)(X, y) for X, y in folds)
        return time.perf_counter() - start, fitted


def _warm(model: CNN3DClassifier) -> None:
    "One step of training, so that whatever is imported at first use is imported."
    network = build_network(CHANNELS, SIZE, model.widths, model.hidden, model.dropout)
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.zeros(2, CHANNELS, SIZE, SIZE, SIZE)).sum().backward()
    optimizer.step()


def monai_loop(folds: list[tuple[np.ndarray, np.ndarray]], epochs: int) -> tuple[float, list[torch.nn.Module]]:
    "Seconds to fit one network a fold, one fold after the other, as MONAI's tutorials do it, and the networks."
    from monai.data import DataLoader, Dataset
    from monai.transforms import Compose, RandAdjustContrastd, RandGaussianNoised, RandRotated, RandZoomd, ToTensord
    from monai.utils import set_determinism

    torch.set_num_threads(CORES)
    set_determinism(0)
    turn, keys = np.deg2rad(HOW.rotate), ["volume"]
    changes = Compose([
        RandRotated(keys, range_x=turn, range_y=turn, range_z=turn, prob=1.0, padding_mode="border"),
        RandZoomd(keys, min_zoom=1 - HOW.scale, max_zoom=1 + HOW.scale, prob=1.0, padding_mode="edge"),
        RandAdjustContrastd(keys, gamma=(1 - HOW.contrast, 1 + HOW.contrast), prob=1.0),
        RandGaussianNoised(keys, std=HOW.noise, prob=1.0),
        ToTensord(keys),
    ])  # fmt: skip
    changes({"volume": folds[0][0][0], "label": 0.0})  # the first call imports
    _warm(MODEL)
    model, start, fitted = MODEL, time.perf_counter(), []
    for X, y in folds:
        loader = DataLoader(
            Dataset([{"volume": v, "label": float(t)} for v, t in zip(X, y)], changes),
            batch_size=model.batch_size,
            shuffle=True,
        )
        network = build_network(CHANNELS, SIZE, model.widths, model.hidden, model.dropout).to(
            memory_format=torch.contiguous_format
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=model.learning_rate)
        loss_of = torch.nn.BCEWithLogitsLoss()
        for _ in range(epochs):
            for batch in loader:
                optimizer.zero_grad()
                loss_of(network(batch["volume"].as_tensor())[:, 0], batch["label"].float()).backward()
                optimizer.step()
        fitted.append(network.eval())
    return time.perf_counter() - start, fitted


def run(
    patients: int = 200,  # of each fold
    epochs: int = 12,
) -> dict[str, dict[str, float | str]]:
    "Volumes trained on in a second, and the AUC on a holdout, by both."
    folds, (X, y) = [grainy(patients, seed) for seed in range(CORES)], grainy(600, 99)
    seconds_other, networks = monai_loop(folds, epochs)
    seconds_ours, models = ours(folds, epochs)
    with torch.inference_mode():
        auc_other = np.mean([roc_auc_score(y, network(torch.as_tensor(X))[:, 0].numpy()) for network in networks])
    auc_ours = np.mean([roc_auc_score(y, model.decision_function(X)) for model in models])
    seen = patients * epochs * len(folds)
    common = {"cases": seen, "cores": CORES}
    return {
        "3D-CNN training against a MONAI loop": {
            "ours": seen / seconds_ours, "other": seen / seconds_other, "ratio": seconds_other / seconds_ours,
            "unit": "volumes/s", **common,
        },
        "3D-CNN holdout AUC against a MONAI loop": {
            "ours": float(auc_ours), "other": float(auc_other), "ratio": float(auc_ours / auc_other), "unit": "AUC",
            **common,
        },
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
