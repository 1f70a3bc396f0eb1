"""Segmentation network: nobody scored who was learnt from, the same result again, nothing executed from a file,
clear outcomes."""

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nsclc_radiomics.cohort.folder import Cohort, load_cohort, save_cohort
from nsclc_radiomics.core.compute import Compute, choose_device, make_rng, torch_apart
from nsclc_radiomics.core.errors import GeometryError, ImageError, ModelError, OptionError
from nsclc_radiomics.core.files import read_json, write_json
from nsclc_radiomics.core.volume import Volume, grid_difference
from nsclc_radiomics.core.volume_files import read_volume, write_volume
from nsclc_radiomics.segmentation.bundle import load_bundle
from nsclc_radiomics.segmentation.inference import segment_by_network, to_grid
from nsclc_radiomics.segmentation.model import load_model, save_model
from nsclc_radiomics.segmentation.network import CHANNELS, UnetSettings, build_unet, look, network_input, sharpness
from nsclc_radiomics.segmentation.scores import dice
from nsclc_radiomics.segmentation.seeded import centre_point
from nsclc_radiomics.segmentation.segmenter import (
    open_model,
    seen_patients,
    segment_cohort,
    segmentation_folds,
    train_segmenter,
)
from nsclc_radiomics.segmentation.training import draw_patch, orthogonal, prepare_case, prepare_cases, train_network

SMALL = UnetSettings(spacing=4, patch=16, channels=(4, 8, 8), patches=24, batch=2)
QUIET = Compute(jobs=1, device="cpu", progress=False)


def ball_patient(k, shape=(24, 40, 40), spacing=(2.0, 2.0, 3.0)):
    rng = np.random.default_rng(k)
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    inside = (3 * (z - 12)) ** 2 + (2 * (y - 20)) ** 2 + (2 * (x - 20)) ** 2 <= (10 + k) ** 2
    hu = np.where(inside, 40, -850) + rng.normal(0, 20, shape)
    return Volume(hu.astype(np.int16), spacing, unit="HU"), Volume(inside, spacing, unit="mask")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Cohort:
    folder = tmp_path_factory.mktemp("balls")
    ids = [f"P{k}" for k in range(6)]
    for k, patient in enumerate(ids):
        for volume, stem in zip(ball_patient(k), ("ct", "ct_mask")):
            write_volume(volume, folder / "images" / patient / f"{stem}.nii.gz")
    save_cohort(
        folder,
        {"name": "balls", "evidence": "simulated", "endpoint": "none"},
        pd.DataFrame(
            {
                "patient_id": ids,
                "centre": "A",
                "split": ["train"] * 4 + ["holdout"] * 2,
                "has_ct": True,
                "has_pet": False,
            }
        ),
    )
    return load_cohort(folder)


@pytest.fixture(scope="module")
def trained(cohort, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    return out, *train_segmenter(cohort, out, SMALL, folds=2, compute=QUIET)


@dataclass
class Dense:
    "Stands in for a network: tissue is tumour."

    spacing: float = 2.0
    patch: int = 32
    trained_on: dict = field(default_factory=dict)

    def probability(self, hu, spacing, half=None, known=True, sharp=None, device="auto"):
        return (hu > -300).astype(np.float32)


def test_a_network_is_told_how_sharp_the_scan_is_and_where_the_crop_ends():
    "In both looks what training told it of the same scan; a click knows no crop's faces."
    told = []

    class Listener(Dense):
        def probability(self, hu, spacing, half=None, known=True, sharp=None, device="auto"):
            told.append((half, sharp))
            return super().probability(hu, spacing)

    rng = np.random.default_rng(0)
    ct, _ = ball_patient(0)
    coarse = np.repeat(ct.array[::4], 4, axis=0) + rng.normal(0, 20, ct.shape)  # thick slices, fine pixels
    ct = ct.with_array(np.rint(coarse).astype(np.int16))
    middle = (np.array(ct.shape) - 1) / 2
    expected = sharpness(ct.array, middle, ct.spacing[::-1])
    segment_by_network(ct, Listener())
    assert len(told) == 2 and all(
        np.array_equal(sharp, expected) and np.allclose(half, np.array(ct.shape) * ct.spacing[::-1] / 2)
        for half, sharp in told
    )
    told.clear()
    segment_by_network(ct, Listener(), ct.index_to_point(middle))
    assert told and all(np.allclose(sharp, expected) and half is None for half, sharp in told)


def test_a_patient_is_in_one_fold_and_folds_are_even():
    split = segmentation_folds([f"p{i}" for i in range(11)], 3, seed=1)
    assert sorted(split.value_counts()) == [3, 4, 4]
    assert split.equals(segmentation_folds([f"p{i}" for i in reversed(range(11))], 3, seed=1))
    assert not split.equals(segmentation_folds([f"p{i}" for i in range(11)], 3, seed=2))
    for wrong in ((["a", "a"], 2), (["a", "b"], 3), (["a", "b"], 1)):
        with pytest.raises(OptionError):
            segmentation_folds(*wrong)


def test_training_is_out_of_fold_and_complete(trained):
    out, model, scores = trained
    assert sorted(scores.index) == ["P0", "P1", "P2", "P3"] and sorted(model.trained_on) == sorted(scores.index)
    assert sorted(p.name for p in (out / "masks").iterdir()) == [f"P{k}.nii.gz" for k in range(4)]
    assert len(model.networks) == 2 and scores["fold"].value_counts().tolist() == [2, 2]


def test_no_network_has_seen_whom_it_scores(cohort, tmp_path, monkeypatch):
    "What each fold's training is given, and whom it then outlines, do not meet."
    from nsclc_radiomics.segmentation import segmenter

    learnt, scored = [], []
    train, score = segmenter.train_network, segmenter._score
    monkeypatch.setattr(
        segmenter, "train_network", lambda cases, *a: learnt.append({c.patient_id for c in cases}) or train(cases, *a)
    )
    monkeypatch.setattr(segmenter, "_score", lambda c, p, *a: scored.append((len(learnt) - 1, p)) or score(c, p, *a))
    train_segmenter(cohort, tmp_path / "run", SMALL, folds=2, compute=QUIET)
    assert len(scored) == 4 and all(patient not in learnt[fold] for fold, patient in scored)


def test_the_same_seed_gives_the_same_weights_whatever_the_workers(cohort, trained, tmp_path):
    out, _, scores = trained
    _, again = train_segmenter(cohort, tmp_path / "run", SMALL, folds=2, compute=replace(QUIET, jobs=2))
    assert scores["fold"].equals(again["fold"])
    # a network hardly trained puts voxels at one half to the last bit, where the rounding of another process shows in a
    # voxel or two
    pd.testing.assert_series_equal(scores["dice"], again["dice"], rtol=1e-3)
    assert read_json(out / "model/model.json")["weights"] == read_json(tmp_path / "run/model/model.json")["weights"]


def test_the_filters_learn(cohort):
    network, _ = train_network(prepare_cases(cohort, ["P0", "P1"], SMALL), SMALL, "cpu")
    with torch_apart(seed=SMALL.seed):
        drawn = build_unet(SMALL)
    assert not any(torch.equal(before, after) for before, after in zip(drawn.parameters(), network.parameters()))


@pytest.mark.parametrize("shape", [(8, 16, 3, 3, 3), (48, 24, 3, 3, 3)])
def test_steps_of_the_filters_are_those_of_torchs_muon(shape):
    "Within what bfloat16 can say: torch's own takes them there, on the whole matrix."
    generator = torch.Generator().manual_seed(1)
    weights = torch.zeros(shape[0], np.prod(shape[1:]), requires_grad=True)
    for size in torch.logspace(-3, 0, shape[0])[:, None], 1.0:
        weights.grad = torch.randn(weights.shape, generator=generator) * size
        with torch.no_grad():
            weights.zero_()
        torch.optim.Muon([weights], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False).step()
        mine = orthogonal(weights.grad.view(shape)).flatten(1)
        assert (mine + weights).norm() < 0.05 * mine.norm() and mine.norm() > 0.5 * shape[0] ** 0.5


def test_the_callers_random_state_is_kept(cohort, tmp_path):
    torch.manual_seed(5)
    expected, threads = torch.rand(3), torch.get_num_threads()
    torch.manual_seed(5)
    train_segmenter(cohort, tmp_path / "run", SMALL, folds=2, compute=QUIET)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def test_training_is_not_done_twice_and_never_mixed(cohort, trained, monkeypatch):
    from nsclc_radiomics.segmentation import segmenter

    out, _, scores = trained
    monkeypatch.setattr(segmenter, "_train_fold", None)
    _, again = train_segmenter(cohort, out, SMALL, folds=2, compute=QUIET)
    assert np.allclose(again["dice"], scores["dice"])
    with pytest.raises(OptionError, match="not an empty folder"):
        train_segmenter(cohort, out, SMALL, folds=3, compute=QUIET)


def test_an_unreadable_patient_is_left_out_of_training_by_name(cohort, tmp_path):
    broken = tmp_path / "cohort"
    import shutil

    shutil.copytree(cohort.path, broken)
    write_volume(
        read_volume(broken / "images/P1/ct_mask.nii.gz").with_array(np.zeros((24, 40, 40), np.uint8)),
        broken / "images/P1/ct_mask.nii.gz",
    )
    with pytest.warns(UserWarning, match="P1 is left out of training: .*empty"):
        _, scores = train_segmenter(load_cohort(broken), tmp_path / "run", SMALL, folds=2, compute=QUIET)
    assert "P1" not in scores.index and len(scores) == 3


def test_a_model_comes_back_equal_and_tampering_is_noticed(trained, tmp_path):
    out, model, _ = trained
    hu = look(ball_patient(2)[0].array, (12, 20, 20), (1.5, 2, 2), 16)
    assert np.array_equal(
        load_model(out / "model").probability(hu, (4, 4, 4), device="cpu"),
        model.probability(hu, (4, 4, 4), device="cpu"),
    )
    for change in (
        {"kind": "other"},
        {"weights": {"../x.safetensors": "0"}},
        {"settings": {"spacing": -1}},
        {"settings": {"nonsense": 1}},
        {"trained_on": 3},
    ):
        copy = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        save_model(model, copy)
        write_json(copy / "model.json", {**read_json(copy / "model.json"), **change})
        with pytest.raises(ModelError, match=copy.name):
            load_model(copy)
    with pytest.raises(ModelError, match="no model.json"):
        load_model(tmp_path)


def test_a_point_a_centre_and_a_search_find_the_ball():
    image, mask = ball_patient(3)
    for where in ("auto", "centre", "search", centre_point(mask)):
        result = segment_by_network(image, Dense(), where)
        assert dice(result.mask, mask) > 0.9 and len(result.places) == 1 and grid_difference(result.mask, image) is None


def two_tumours():
    z, y, x = np.ogrid[:50, :110, :110]
    balls = [(3 * (z - 25)) ** 2 + (2 * (y - 30)) ** 2 + (2 * (x - cx)) ** 2 <= r**2 for cx, r in ((20, 14), (90, 18))]
    hu = np.where(balls[0] | balls[1], 40, -850).astype(np.int16)
    return Volume(hu, (2, 2, 3), (-100, 50, 7), unit="HU"), balls


def test_two_tumours_are_both_said_and_the_larger_is_kept():
    image, balls = two_tumours()
    result = segment_by_network(image, Dense(), "search")
    assert len(result.places) == 2 and "1 more suspicious place" in result.note
    assert result.mask.array[balls[1]].mean() > 0.9 and not result.mask.array[balls[0]].any()
    clicked = segment_by_network(image, Dense(), image.index_to_point((25, 30, 20)))
    assert clicked.mask.array[balls[0]].mean() > 0.9 and not clicked.mask.array[balls[1]].any()


def test_no_tumour_is_an_outcome_and_not_an_error():
    lung = Volume(np.full((40, 90, 90), -850, np.int16), (2, 2, 3), unit="HU")
    for where in ("auto", "centre", "search"):
        result = segment_by_network(lung, Dense(), where)
        assert not result.mask.array.any() and result.note.startswith("no tumour found") and result.places.empty


def test_a_tumour_at_the_edge_is_said():
    image, _ = ball_patient(4)
    cut = Volume(image.array[:, :, 18:], image.spacing, image.origin, unit="HU")
    assert "edge" in segment_by_network(cut, Dense(), "centre").note


def test_images_that_are_no_ct_are_refused():
    image, _ = ball_patient(1)
    with pytest.raises(ImageError, match="SUVbw"):
        segment_by_network(image.with_array(image.array, "SUVbw"), Dense())
    with pytest.raises(ImageError, match="HU"):
        segment_by_network(image.with_array(np.zeros(image.shape)), Dense())
    with pytest.raises(OptionError, match="outside"):
        segment_by_network(image, Dense(), (1e4, 0, 0))


def test_turned_axes_give_the_same_mask():
    image, mask = ball_patient(3)
    turned = Volume(image.array, image.spacing, (5, 6, 7), (0, 1, 0, 0, 0, 1, 1, 0, 0), "HU")
    assert np.array_equal(segment_by_network(turned, Dense()).mask.array, segment_by_network(image, Dense()).mask.array)


def test_the_grid_keeps_place_and_volume():
    _, mask = ball_patient(5)
    grid = to_grid(mask, 4.0)
    share = grid.array.sum() * grid.voxel_volume / (mask.array.sum() * mask.voxel_volume)
    assert share == pytest.approx(1, abs=0.05)
    assert np.allclose(grid.centre, mask.centre)


def test_trained_patients_are_known_again_under_another_name(cohort, trained, tmp_path):
    import shutil

    _, model, _ = trained
    shutil.copytree(cohort.path, tmp_path / "renamed")
    (tmp_path / "renamed/images/P0").rename(tmp_path / "renamed/images/Q0")
    table = cohort.patients.assign(patient_id=cohort.patients["patient_id"].replace("P0", "Q0"))
    save_cohort(tmp_path / "renamed", cohort.meta, table)
    renamed = load_cohort(tmp_path / "renamed")
    assert seen_patients(model, renamed) == ["Q0", "P1", "P2", "P3"]
    with pytest.warns(UserWarning, match="trained on 1 of these 2 patients \\(Q0\\)"):
        rows = segment_cohort(renamed, model, tmp_path / "found", patients=["Q0", "P4"], compute=QUIET)
    assert rows["seen_in_training"].tolist() == [True, False]


def test_one_bad_patient_stops_nobody(cohort, tmp_path):
    rows = segment_cohort(
        cohort,
        "seeded",
        tmp_path / "found",
        where={"P4": (39.0, 39.0, 36.0), "P5": (9e4, 0, 0)},
        patients=["P3", "P4", "P5"],
        compute=QUIET,
    )
    assert rows["status"].tolist() == ["failed", "found", "failed"]
    assert (
        "no point for P3" in rows.loc["P3", "note"]
        and "outside" in rows.loc["P5", "note"]
        and rows.loc["P4", "dice"] > 0.8
    )
    assert sorted(p.name for p in (tmp_path / "found").iterdir()) == ["P4.nii.gz", "segmentation.csv"]
    with pytest.raises(OptionError, match="not an empty folder"):
        segment_cohort(cohort, "seeded", tmp_path / "found", where="mask", compute=QUIET)


def test_a_scored_mask_must_lie_on_its_image(cohort):
    image, mask = ball_patient(0)
    with pytest.raises(GeometryError):
        dice(segment_by_network(image, Dense()).mask, Volume(mask.array, (1, 1, 1)))


STEPS = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [3.0, 3.0, 3.0], "mode": "bilinear"},
    {
        "_target_": "ScaleIntensityRanged",
        "keys": "image",
        "a_min": -1000,
        "a_max": 400,
        "b_min": 0.0,
        "b_max": 1.0,
        "clip": True,
    },
]
NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
}
NAMES = {"network_data_format": {"outputs": {"pred": {"channel_def": {"0": "background", "1": "tumor"}}}}}


def write_bundle(folder, network=NETWORK, steps=STEPS, names=NAMES, weights=None):
    from monai.networks.nets import UNet

    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    config = {
        "network_def": network,
        "preprocessing": {"_target_": "Compose", "transforms": steps},
        "inferer": {"roi_size": "@roi"},
        "roi": [32, 32, 32],
    }
    (folder / "configs/inference.json").write_text(json.dumps(config))
    (folder / "configs/metadata.json").write_text(json.dumps(names))
    if weights is None:
        torch.manual_seed(0)
        torch.save(
            UNet(**{k: v for k, v in NETWORK.items() if k != "_target_"}).state_dict(), folder / "models/model.pt"
        )
    else:
        (folder / "models/model.pt").write_bytes(weights)
    return folder


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI, of a decoder that is not installed
def test_a_bundle_prepares_images_as_monai_does(tmp_path):
    "The same image, written as NIfTI and prepared by MONAI's own transforms."
    from monai.transforms import Compose, LoadImaged, Orientationd, ScaleIntensityRanged, Spacingd

    from nsclc_radiomics.segmentation.bundle import _prepare

    rng = np.random.default_rng(0)
    image = Volume(rng.integers(-1000, 300, (12, 20, 24)).astype(np.int16), (1.5, 1.5, 4.0), (10, -20, 30), unit="HU")
    write_volume(image, tmp_path / "ct.nii.gz")
    theirs = Compose(
        [
            LoadImaged("image", ensure_channel_first=True, image_only=True),
            Orientationd("image", "RAS"),
            Spacingd("image", (3, 3, 3), mode="bilinear"),
            ScaleIntensityRanged("image", -1000, 400, 0, 1, clip=True),
        ]
    )({"image": tmp_path / "ct.nii.gz"})["image"]
    ours = image.to_sitk()
    for step in STEPS[1:]:
        ours = _prepare(ours, step)
    ours = Volume.from_sitk(ours).array.transpose(2, 1, 0)
    assert ours.shape == tuple(theirs.shape[1:])
    assert np.abs(ours - np.asarray(theirs[0])).max() < 1e-4


def test_a_bundle_runs_and_stands_in_for_a_model(cohort, tmp_path):
    rows = segment_cohort(
        cohort,
        f"bundle:{write_bundle(tmp_path / 'b')}",
        tmp_path / "found",
        patients=["P4"],
        compute=QUIET,
    )
    assert rows.loc["P4", "status"] in ("found", "nothing found") and np.isfinite(rows.loc["P4", "dice"])


class Evil:
    def __reduce__(self):
        return (exec, ("open('nsclc_evil', 'w').write('x')",))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"network": {**NETWORK, "channels": "$[4, 8]"}}, "executed"),
        ({"network": {**NETWORK, "_target_": "os.system"}}, "os.system"),
        ({"network": {**NETWORK, "nonsense": 1}}, "arguments"),
        ({"steps": [*STEPS, {"_target_": "Lambdad", "keys": "image"}]}, "Lambdad"),
        (
            {
                "steps": [
                    {
                        "_target_": "ScaleIntensityRanged",
                        "keys": "image",
                        "a_min": "$print(1)",
                        "a_max": 1,
                        "b_min": 0,
                        "b_max": 1,
                    }
                ]
            },
            "executed",
        ),
        (
            {
                "names": {
                    "network_data_format": {"outputs": {"pred": {"channel_def": {"0": "background", "1": "liver"}}}}
                }
            },
            "which of 2 outputs",
        ),
        ({"weights": pickle.dumps(Evil())}, "cannot be read"),
        ({"weights": b"PK\x03\x04 cut"}, "cannot be read"),
        ({"network": {**NETWORK, "channels": [8, 16]}}, "cannot be read"),
    ],
)
def test_a_bundle_that_would_run_code_or_does_not_fit_is_refused(tmp_path, change, named):
    from pathlib import Path

    with pytest.raises(ModelError, match=named):
        load_bundle(write_bundle(tmp_path / "b", **change))
    assert not Path("nsclc_evil").exists()


def test_what_is_no_bundle_is_said(tmp_path):
    with pytest.raises(ModelError, match="no MONAI bundle"):
        open_model(f"bundle:{tmp_path}")
    write_bundle(tmp_path / "b")
    (tmp_path / "b/models/model.pt").unlink()
    with pytest.raises(ModelError, match="model.ts holds a program"):
        load_bundle(tmp_path / "b")
    (tmp_path / "b/configs/inference.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_bundle(tmp_path / "b")


def test_without_torch_the_module_imports_and_says_what_to_install():
    code = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "monai", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}")
sys.meta_path.insert(0, Absent())
import nsclc_radiomics.segmentation.segmenter
from nsclc_radiomics.core.compute import choose_device
from nsclc_radiomics.core.errors import MissingDependencyError
try: choose_device()
except MissingDependencyError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "pip install" in done.stdout, done.stderr


def test_devices():
    assert choose_device("cpu") == "cpu" and choose_device() in ("cpu", "cuda", "mps")
    with pytest.raises(OptionError, match="not there"):
        choose_device("quantum")


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    centre=st.tuples(*[st.floats(-2, 10)] * 3),
    step=st.tuples(*[st.floats(0.2, 4)] * 3),
)
@settings(max_examples=60, deadline=None)
def test_a_look_is_a_weighted_mean_of_the_array(shape, centre, step):
    """Linear in place where there is room, never beyond the array's values, and the same as interpolation by SciPy
    where nothing is averaged.
    """
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    seen = look(array, centre, step, 4)
    assert seen.shape == (4, 4, 4) and array.min() - 1e-5 <= seen.min() and seen.max() <= array.max() + 1e-5
    if max(step) <= 1:
        at = np.meshgrid(*(c + (np.arange(4) - 1.5) * s for c, s in zip(centre, step)), indexing="ij")
        assert np.allclose(seen, ndimage.map_coordinates(array, at, order=1, mode="nearest"), atol=1e-4)


def test_the_input_of_a_mirrored_look_is_the_mirrored_input():
    from nsclc_radiomics.segmentation.model import _mirrored

    hu = np.random.default_rng(0).normal(-400, 300, (16, 16, 16))
    for axes in ((0,), (1,), (2,), (0, 2)):
        assert np.array_equal(
            network_input(np.flip(hu, axes), (1, 2, 3), (9, 20, 30)),
            _mirrored(network_input(hu, (1, 2, 3), (9, 20, 30)), axes),
        )


def test_what_is_not_pointed_at_is_not_told():
    hu = np.zeros((16, 16, 16))
    told, blind = network_input(hu, (2, 2, 2), (10, 30, 30)), network_input(hu, (2, 2, 2), known=False)
    assert (
        told[16:20].any()
        and told[20].min() < 0 < told[21].min()
        and not blind[16:20].any()
        and (blind[20:23] == 1).all()
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_how_sharp_a_scan_is_does_not_depend_on_the_voxels_it_is_stored_in(axis):
    """The same tissue on voxels of 1 mm and, along one axis, of 3 mm from which 1 mm is made again: smooth there, and
    as sharp as before elsewhere.
    """
    fine = np.random.default_rng(0).normal(-300, 80, (72, 72, 72))
    kept = sharpness(fine, (35.5,) * 3, (1, 1, 1))
    assert np.allclose(kept, 1, atol=0.03)  # grain without any neighbours in it
    thick, spacing = np.moveaxis(np.moveaxis(fine, axis, 0)[1::3], 0, axis), np.ones(3)
    spacing[axis] = 3
    middle = (np.array(thick.shape) - 1) / 2
    again = look(thick, middle, 1 / spacing, 72)
    for found in (sharpness(thick, middle, spacing), sharpness(again, (35.5,) * 3, (1, 1, 1))):
        assert found[axis] > 1.5 and np.allclose(np.delete(found, axis), 1, atol=0.05)
    ramp = np.moveaxis(np.broadcast_to(np.linspace(-900, 300, 72)[:, None, None], (72, 72, 72)), 0, axis)
    assert sharpness(ramp, (35.5,) * 3, (1, 1, 1))[axis] == pytest.approx(2, abs=0.01)
    assert np.isfinite(sharpness(np.full((9, 9, 9), -700), (4, 4, 4), (1, 1, 1))).all()


def test_the_network_is_told_how_sharp_the_scan_is():
    hu = np.zeros((16, 16, 16))
    told = network_input(hu, (2, 2, 2), sharp=(1.0, 1.6, 2.0))
    assert (told[26] < 0).all() and np.allclose(told[27], 0, atol=1e-6) and (told[28] > 0).all()
    assert np.array_equal(told[:26], network_input(hu, (2, 2, 2))[:26])


def test_a_small_tumour_is_looked_at_again_closer():
    "The stand-in is asked twice: about the whole crop, then about so much that what was found fills much of it."
    asked = []

    class Asked(Dense):
        def probability(self, hu, spacing, half=None, known=True, sharp=None, device="auto"):
            asked.append(32 * np.asarray(spacing))
            return super().probability(hu, spacing)

    image, mask = ball_patient(0)
    assert dice(segment_by_network(image, Asked()).mask, mask) > 0.9
    assert np.allclose(asked[0], (72, 80, 80)) and len(asked) == 2 and 24 <= asked[1].max() < 50


def test_looks_of_all_kinds_are_drawn_from_a_scan_that_is_no_crop(tmp_path):
    image, (ball, _) = two_tumours()
    write_volume(image, tmp_path / "images/W/ct.nii.gz")
    write_volume(Volume(ball, image.spacing, image.origin, unit="mask"), tmp_path / "images/W/ct_mask.nii.gz")
    table = pd.DataFrame({"patient_id": ["W"], "centre": "A", "split": "train", "has_ct": True, "has_pet": False})
    save_cohort(tmp_path, {"name": "whole", "evidence": "simulated", "endpoint": "none"}, table)
    case = prepare_case(load_cohort(tmp_path), "W", SMALL)
    assert case.half is None and case.inside.sum() == ball.sum() and case.extent == pytest.approx(28, abs=3)
    for kinds in ({"click": 0.0, "blind": 0.0}, {"click": 1.0, "blind": 0.0}, {"click": 0.0, "blind": 1.0}):
        x, y = draw_patch(case, replace(SMALL, **kinds), make_rng(0, str(kinds)))
        assert x.shape == (CHANNELS, 8, 8, 8) and y.shape == (1, 16, 16, 16) and y.max() > 0.5
        assert x[16:20].any() == (kinds["blind"] == 0)
