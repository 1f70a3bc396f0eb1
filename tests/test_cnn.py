"""The 3D-CNN: what it can and cannot learn, runs that are broken off, files that are damaged,
and arithmetic checked against plain code."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.utils.estimator_checks import (
    check_estimator_cloneable,
    check_estimator_repr,
    check_get_params_invariance,
    check_mixin_order,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
    check_valid_tag_types,
)

from nsclc_radiomics.core.compute import choose_precision, make_rng
from nsclc_radiomics.core.errors import DataError, ModelError, OptionError
from nsclc_radiomics.evaluation.protocol import out_of_fold
from nsclc_radiomics.models.cnn import CNN3DClassifier, _loss, stack_volumes
from nsclc_radiomics.models.network import Augmentation, augment_batch, build_network, mirror_batch

QUICK = dict(masks=(), widths=(8, 16), hidden=16, epochs=4, batch_size=16, learning_rate=4e-3, device="cpu")


def volumes(n, size=8, seed=0, channels=1):
    "Volumes of fine (class 0) and coarse (class 1) grain with the same mean and spread."
    rng = make_rng(seed, "volumes")
    labels = np.arange(n) % 2
    X = rng.normal(size=(n, channels, size, size, size)).astype(np.float32)
    coarse = torch.nn.functional.avg_pool3d(torch.as_tensor(X), 3, 1, 1, count_include_pad=False).numpy()
    X[labels == 1] = coarse[labels == 1]
    return (0.5 + 0.15 * X / X.std((1, 2, 3, 4), keepdims=True)).astype(np.float32), labels


def test_memorises_eight_patients():
    X = make_rng(1, "eight").random((8, 1, 8, 8, 8)).astype(np.float32)
    y = np.array([0, 1, 1, 0, 1, 0, 0, 1])
    model = CNN3DClassifier(
        masks=(), widths=(8, 16), hidden=16, dropout=0.0, epochs=60, learning_rate=5e-3, augmentation=None, device="cpu"
    ).fit(X, y)
    assert (model.predict(X) == y).all() and model.history_.loss.iloc[-1] < 0.1 < model.history_.loss.iloc[0]


def test_learns_a_planted_texture():
    X, y = volumes(300, size=10)
    model = CNN3DClassifier(**QUICK | {"epochs": 8}).fit(X[:200], y[:200])
    assert roc_auc_score(y[200:], model.predict_proba(X[200:])[:, 1]) > 0.95


def test_finds_nothing_in_shuffled_labels():
    X, _ = volumes(160)
    y = make_rng(2, "lot").permutation(np.arange(160) % 2)
    probability = cross_val_predict(CNN3DClassifier(**QUICK), X, y, cv=4, method="predict_proba")[:, 1]
    assert 0.5 - 0.16 < roc_auc_score(y, probability) < 0.5 + 0.16  # 3.5 standard errors of an AUC of 160 patients


@pytest.mark.parametrize(
    "check",
    [
        check_parameters_default_constructible,
        check_get_params_invariance,
        check_set_params,
        check_no_attributes_set_in_init,
        check_estimator_cloneable,
        check_estimator_repr,
        check_valid_tag_types,
        check_mixin_order,
    ],
    ids=lambda check: check.__name__,
)
def test_scikit_learn_checks_that_do_not_need_a_flat_table(check):
    check("CNN3DClassifier", CNN3DClassifier())


def test_labels_of_any_kind_and_the_interface_of_a_classifier():
    X, y = volumes(24)
    words = np.where(y == 1, "responder", "other")
    model = CNN3DClassifier(**QUICK).fit(X, words)
    assert model.classes_.tolist() == ["other", "responder"] and set(model.predict(X)) <= {"other", "responder"}
    numbers = CNN3DClassifier(**QUICK).fit(X, y)
    assert np.array_equal(model.predict_proba(X), numbers.predict_proba(X))
    assert np.allclose(model.predict_proba(X).sum(1), 1) and model.embed(X).shape == (24, 16)
    assert model.fit(X, words) is model and 0 <= model.score(X, words) <= 1


def test_embed_is_what_the_last_layer_sees():
    X, y = volumes(20)
    model = CNN3DClassifier(**QUICK).fit(X, y)
    weight, bias = (p.detach().numpy() for p in model.network_.classify[1].parameters())
    assert np.allclose(model.embed(X) @ weight[0] + bias, model.decision_function(X), atol=1e-5)


def test_same_seed_same_weights_whatever_the_workers():
    X, y = volumes(40)
    ids = pd.Index([f"P{i}" for i in range(40)])
    folds, labels = pd.Series(np.arange(40) // 2 % 2, index=ids), pd.Series(y, index=ids)
    column = np.empty(40, object)
    column[:] = list(X)
    table = pd.DataFrame({"crop": column}, index=ids)
    model = CNN3DClassifier(**QUICK | {"epochs": 2})
    (one, alone), (two, together) = (out_of_fold(model, table, labels, folds, jobs=jobs) for jobs in (1, 2))
    assert one.equals(two)
    for a, b in zip(alone, together):
        assert all(torch.equal(a.states_["last"][k], b.states_["last"][k]) for k in a.states_["last"])


def test_a_fit_leaves_the_callers_random_state_and_threads_alone():
    X, y = volumes(16)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    CNN3DClassifier(**QUICK).fit(X, y).predict(X)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def test_order_of_rows_given_to_predict_does_not_matter():
    X, y = volumes(90)
    model = CNN3DClassifier(**QUICK).fit(X, y)
    assert np.allclose(model.decision_function(X)[::-1], model.decision_function(X[::-1]), atol=1e-6)
    assert np.allclose(model.decision_function(X[:1]), model.decision_function(X)[:1], atol=1e-6)


KILLED = """
    import sys, os, signal
    from tests.test_cnn import volumes, QUICK
    from nsclc_radiomics.models import cnn

    epoch_of_library = cnn._epoch
    def epoch(model, network, optimizer, data, rows, number):
        if number == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return epoch_of_library(model, network, optimizer, data, rows, number)
    cnn._epoch = epoch
    X, y = volumes(24)
    settings = QUICK | {"epochs": 7, "validation": 0.25, "use": "best", "checkpoint_every": 2}
    cnn.CNN3DClassifier(**settings, checkpoint=sys.argv[1]).fit(X, y)
"""


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    X, y = volumes(24)
    settings_ = QUICK | {"epochs": 7, "validation": 0.25, "use": "best"}
    dead = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr.decode()
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    resumed = CNN3DClassifier(**settings_, checkpoint=tmp_path, checkpoint_every=2).fit(X, y)
    unbroken = CNN3DClassifier(**settings_).fit(X, y)
    assert resumed.history_.equals(unbroken.history_) and resumed.best_epoch_ == unbroken.best_epoch_
    for which in ("last", "best"):
        assert all(torch.equal(resumed.states_[which][k], v) for k, v in unbroken.states_[which].items())


def test_checkpoints_of_different_runs_do_not_meet(tmp_path):
    X, y = volumes(16)
    for seed in (1, 2):
        CNN3DClassifier(**QUICK, seed=seed, checkpoint=tmp_path).fit(X, y)
    CNN3DClassifier(**QUICK, seed=1, checkpoint=tmp_path).fit(X[:12], y[:12])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_checkpoint_is_named(tmp_path):
    X, y = volumes(16)
    model = CNN3DClassifier(**QUICK, checkpoint=tmp_path).fit(X, y)
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ModelError, match=file.name):
        model.fit(X, y)


def test_saved_and_loaded(tmp_path):
    X, y = volumes(16)
    model = CNN3DClassifier(**QUICK, augmentation=Augmentation(rotate=5), validation=0.25).fit(
        X, np.where(y, "yes", "no")
    )
    model.save(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "best.safetensors",
        "history.csv",
        "last.safetensors",
        "model.json",
    ]
    loaded = CNN3DClassifier.load(tmp_path / "model", device="cpu")
    assert np.array_equal(loaded.predict_proba(X), model.predict_proba(X)) and loaded.classes_.tolist() == ["no", "yes"]
    assert loaded.get_params() == model.get_params() and loaded.best_epoch_ == model.best_epoch_
    assert np.allclose(loaded.history_, model.history_)
    travelled = pickle.loads(pickle.dumps(model))
    assert np.array_equal(travelled.predict_proba(X), model.predict_proba(X))
    with pytest.raises(OptionError, match="not an empty folder"):
        model.save(tmp_path / "model")


@pytest.mark.parametrize(
    "harm, says",
    [
        (lambda f: (f / "last.safetensors").unlink(), "last.safetensors: no such file"),
        (lambda f: (f / "model.json").write_text("{"), "model.json: cannot be read"),
        (lambda f: (f / "model.json").write_text("[]"), "not a stored 3D-CNN"),
        (lambda f: (f / "last.safetensors").write_bytes(b"\x00" * 40), "last.safetensors: is damaged"),
        (lambda f: change(f, "params", widths=[8, 8]), "another architecture: blocks.1"),
        (lambda f: change(f, "params", learner="x"), "model.json: does not describe"),
    ],
)
def test_a_stored_model_that_is_not_whole_is_refused(tmp_path, harm, says):
    X, y = volumes(16)
    CNN3DClassifier(**QUICK | {"epochs": 1}).fit(X, y).save(tmp_path / "model")
    harm(tmp_path / "model")
    with pytest.raises(ModelError, match=says):
        CNN3DClassifier.load(tmp_path / "model")


def change(folder, key, **values):
    facts = json.loads((folder / "model.json").read_text())
    facts[key] |= values
    (folder / "model.json").write_text(json.dumps(facts))


def test_a_pickle_dressed_as_weights_runs_nothing(tmp_path):
    X, y = volumes(16)
    CNN3DClassifier(**QUICK | {"epochs": 1}).fit(X, y).save(tmp_path / "model")

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"w": Bomb()}, tmp_path / "model" / "last.safetensors")
    with pytest.raises(ModelError):
        CNN3DClassifier.load(tmp_path / "model")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "bend, says",
    [
        (lambda X, y: (X, np.ones(len(y))), "two classes"),
        (lambda X, y: (X, np.arange(len(y)) % 3), "two classes"),
        (lambda X, y: (np.where(np.arange(len(X))[:, None, None, None, None] == 5, np.nan, X), y), "patient 5"),
        (lambda X, y: (X[:, :, :3, :3, :3], y), "too small"),
        (lambda X, y: (X[:, :, :6], y), "equal edges"),
        (lambda X, y: (X[:, 0], y), "shape"),
        (lambda X, y: (X, y[:-1]), "one label a patient"),
        (lambda X, y: (X, np.where(np.arange(len(y)) == 3, np.nan, y)), "missing"),
        (lambda X, y: (X.astype(str), y), "numbers"),
        (lambda X, y: (X[:0], y[:0]), "."),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_with_a_reason(bend, says):
    with pytest.raises(DataError, match=says):
        CNN3DClassifier(**QUICK).fit(*bend(*volumes(16)))


@pytest.mark.parametrize(
    "settings_",
    [{"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0}, {"dropout": 1}, {"widths": ()}, {"use": "x"}]
    + [{"device": "abacus"}, {"seed": -1}, {"precision": "float8"}, {"augmentation": "none"}],
)
def test_settings_that_cannot_be_used_are_refused(settings_):
    with pytest.raises(OptionError):
        CNN3DClassifier(**QUICK | settings_).fit(*volumes(8))


def test_prediction_refuses_volumes_of_another_shape():
    model = CNN3DClassifier(**QUICK).fit(*volumes(12))
    with pytest.raises(DataError, match=r"\(1, 8, 8, 8\)"):
        model.predict_proba(volumes(4, size=10)[0])
    with pytest.raises(DataError, match="same settings"):
        column = np.empty(2, object)
        column[:] = [np.zeros((1, 8, 8, 8)), np.zeros((1, 8, 8, 9))]
        stack_volumes(pd.DataFrame({"crop": column}))


def test_balanced_weights_make_classes_count_the_same():
    target = torch.as_tensor((np.arange(60) < 12).astype(np.float32))
    for weight, expected in (("balanced", 0.5), (None, 0.2)):
        slopes = []
        for said in (expected - 0.05, expected, expected + 0.05):
            logit = torch.logit(torch.tensor(said)).requires_grad_()  # of a network that says the same of everyone
            loss = _loss(
                CNN3DClassifier(class_weight=weight),
                lambda batch, logit=logit: logit.expand(len(batch), 1),
                torch.zeros(60, 1),
                target,
                target,
            )
            slopes.append(torch.autograd.grad(loss, logit)[0].item())
        assert slopes[0] < -1e-3 and abs(slopes[1]) < 1e-5 and slopes[2] > 1e-3


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 90), st.floats(0, 0.3))
def test_augmentation_agrees_with_each_patient_taken_alone(seed, rotate, scale):
    batch = torch.as_tensor(volumes(3, size=7, channels=2, seed=seed % 97)[0])
    how = Augmentation(rotate=rotate, scale=scale, contrast=0.2, smooth=0.4, flip=True)
    whole = augment_batch(batch, how, torch.Generator().manual_seed(seed), masks=(1,))
    assert whole.shape == batch.shape and torch.isfinite(whole).all()
    assert whole[:, 1].min() >= batch[:, 1].min() - 1e-5 and whole[:, 1].max() <= batch[:, 1].max() + 1e-5
    again = augment_batch(batch, how, torch.Generator().manual_seed(seed), masks=(1,))
    assert torch.equal(whole, again)


def test_a_quarter_turn_is_a_quarter_turn(monkeypatch):
    from nsclc_radiomics.models import network

    batch = torch.as_tensor(volumes(2, size=6)[0])
    quarter = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]).repeat(2, 1, 1)
    monkeypatch.setattr(network, "_random_maps", lambda n, how, generator: quarter)
    turned = augment_batch(batch, Augmentation(contrast=0, smooth=0), torch.Generator())
    assert torch.allclose(turned, torch.rot90(batch, 1, (3, 4)), atol=1e-5) or torch.allclose(
        turned, torch.rot90(batch, -1, (3, 4)), atol=1e-5
    )


def test_a_pet_that_is_not_there_stays_zero():
    batch = torch.zeros(4, 1, 6, 6, 6)
    out = augment_batch(batch, Augmentation(noise=0.1, contrast=0.5), torch.Generator().manual_seed(0))
    assert not out.any()


def test_channels_are_averaged_inside_the_mask_of_their_look():
    network = build_network(6, 8, (4, 8), 8, 0.0, masks=(2, 5)).eval()
    rng = make_rng(6, "pool")
    values, inside = (
        rng.random((3, 8, 4, 4, 4)).astype(np.float32),
        (rng.random((3, 2, 4, 4, 4)) < 0.3).astype(np.float32),
    )
    found = network.average(torch.as_tensor(values), torch.as_tensor(inside)).numpy()
    for patient in range(3):
        for channel in range(8):
            weight = inside[patient, channel // 4] + 1e-3
            assert found[patient, channel] == pytest.approx(
                np.average(values[patient, channel], weights=weight), rel=1e-4
            )


def test_looks_do_not_mix_before_the_fully_connected_layers():
    network = build_network(6, 8, (4, 8), 8, 0.0, masks=(2, 5)).eval()
    volumes_ = torch.rand(1, 6, 8, 8, 8)
    other = volumes_.clone()
    other[:, 3:5] += 1
    with torch.no_grad():
        a, b = (network.blocks(v) for v in (volumes_, other))
    assert torch.equal(a[:, :8], b[:, :8]) and not torch.equal(a[:, 8:], b[:, 8:])


@pytest.mark.parametrize("channels, masks", [(6, (1, 2)), (5, (2, 4)), (3, (2, 5)), (6, (6,)), (6, (5, 2))])
def test_masks_that_do_not_fit_the_channels_are_refused(channels, masks):
    with pytest.raises(DataError, match="do not fit"):
        build_network(channels, 8, (4, 8), 8, 0.0, masks)


def test_a_network_that_is_told_sizes_learns_them():
    "The outcome is the mask's size and nothing else; every box is full of noise."
    rng = make_rng(8, "sizes")
    X, y = rng.random((60, 3, 8, 8, 8)).astype(np.float32), np.arange(60) % 2
    X[:, 2] = 1.0
    X[y == 1, 2, :, :, 6:] = 0.0
    model = CNN3DClassifier(
        masks=(2,),
        sizes=True,
        widths=(4, 8),
        hidden=8,
        epochs=60,
        learning_rate=1e-2,
        batch_size=20,
        augmentation=None,
        dropout=0.0,
    )
    model.fit(X[:40], y[:40])
    assert (model.predict(X[40:]) == y[40:]).all()
    with pytest.raises(OptionError, match="sizes"):
        CNN3DClassifier(masks=(), sizes=True, epochs=1).fit(X, y)


@pytest.mark.parametrize("edge", [2, 3, 4, 6, 12])
def test_gradients_in_the_chosen_precision_are_right_whatever_memory_held(edge):
    "In bfloat16 those of volumes of two voxels an edge were not: where memory held NaN, so did they."
    generator = torch.Generator().manual_seed(edge)
    x, weights, gradient = (
        torch.randn(shape, generator=generator)
        for shape in [(4, 16, edge, edge, edge), (16, 16, 3, 3, 3), (4, 16, edge, edge, edge)]
    )
    found = {}
    for number in (torch.float32, choose_precision("auto", torch.device("cpu"), edge)):
        held = [torch.full((4**k,), torch.nan) for k in range(3, 12) for _ in range(6)]
        del held
        filters = weights.to(number).detach().requires_grad_()
        torch.nn.functional.conv3d(x.to(number), filters, padding=1).backward(gradient.to(number))
        found[number] = filters.grad.float()
    assert all((g - found[torch.float32]).norm() < 0.02 * g.norm() for g in found.values())


def test_mirroring_keeps_every_patient_whole():
    batch = torch.rand(3, 2, 4, 4, 4)
    seen = [mirror_batch(batch, torch.Generator().manual_seed(k)) for k in range(200)]
    assert all(torch.equal(s.flatten(1).sort().values, batch.flatten(1).sort().values) for s in seen)
    assert len({s[0, 0].numpy().tobytes() for s in seen}) == 16  # three mirrors and an exchange of axes


def test_the_learning_rate_falls_along_a_cosine_or_stays(monkeypatch):
    rates, step = [], torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    X, y = volumes(8)
    for schedule, expected in (("cosine", [4e-3, 3.414e-3, 2e-3, 0.586e-3]), ("constant", [4e-3] * 4)):
        rates.clear()
        CNN3DClassifier(**QUICK, schedule=schedule).fit(X, y)
        assert rates == pytest.approx(expected, rel=1e-3)


def test_a_draw_of_the_augmentation_serves_for_some_epochs(monkeypatch):
    from nsclc_radiomics.models import cnn

    draws, redraw = [], cnn._redraw
    monkeypatch.setattr(
        cnn, "_redraw", lambda model, volumes, times: draws.append(times) or redraw(model, volumes, times)
    )
    X, y = volumes(8)
    CNN3DClassifier(**QUICK | {"epochs": 7}, augment_every=3).fit(X, y)
    assert draws == [0, 1, 2]
    CNN3DClassifier(**QUICK, augmentation=None).fit(X, y)
    assert draws == [0, 1, 2]


def test_network_has_the_papers_parts():
    kinds = [type(m).__name__ for m in build_network(2, 16, (4, 8), 8, 0.5).modules()]
    assert {"Conv3d", "BatchNorm3d", "Dropout", "MaxPool3d", "Linear"} <= set(kinds)
    assert all(m.kernel_size == (3, 3, 3) for m in build_network(2, 16).modules() if isinstance(m, torch.nn.Conv3d))


def test_defaults_are_the_papers():
    model = CNN3DClassifier()
    assert (model.epochs, model.batch_size, model.learning_rate) == (100, 32, 1e-3)
    assert clone(model).get_params() == model.get_params()


WITHOUT = """
    import sys
    import numpy as np

    class NoTorch:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "torch":
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, NoTorch())
    from nsclc_radiomics.models.cnn import CNN3DClassifier
    from nsclc_radiomics.core.errors import MissingDependencyError

    try:
        CNN3DClassifier().fit(np.zeros((4, 1, 8, 8, 8)), [0, 1, 0, 1])
    except MissingDependencyError as error:
        print(error)
"""


def test_imports_without_torch():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.returncode == 0 and "pip install" in done.stdout, done.stderr
