"""Grad-CAM, integrated gradients and SHAP against other implementations and closed forms,
and checks that fail where they must."""

import copy
import sys
from itertools import chain, combinations
from math import factorial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.pipeline import Pipeline

from nsclc_radiomics.core.compute import make_rng
from nsclc_radiomics.core.errors import DataError, MissingDependencyError, OptionError
from nsclc_radiomics.evaluation.network_maps import (
    attention_by_look,
    attention_layer,
    completeness_gap,
    deletion_effect,
    enlarge,
    grad_cam,
    integrated_gradients,
    map_similarity,
    network_checks,
    randomised,
    share_inside,
    shares_by_channel,
)
from nsclc_radiomics.evaluation.shap_values import (
    additivity_gap,
    baseline_checks,
    explain_baseline,
    importance_agreement,
)
from nsclc_radiomics.evaluation.traits import trait_weights
from nsclc_radiomics.models.baselines import make_model
from nsclc_radiomics.models.cnn import CNN3DClassifier


@pytest.fixture(scope="module")
def volumes() -> np.ndarray:
    "Twelve patients of two looks with a mask each; every second one brighter in the middle."
    values = make_rng(0, "explained").normal(0.3, 0.1, (12, 4, 16, 16, 16)).astype(np.float32)
    values[:, [1, 3]] = 0
    values[:, [1, 3], 4:12, 4:12, 4:12] = 1
    values[1::2, 0, 6:10, 6:10, 6:10] += 0.5
    return values


@pytest.fixture(scope="module")
def network(volumes) -> CNN3DClassifier:
    chosen = {
        "masks": (1, 3),
        "widths": (2, 4),
        "hidden": 4,
        "epochs": 6,
        "batch_size": 6,
        "augmentation": None,
        "device": "cpu",
    }
    return CNN3DClassifier(**chosen, learning_rate=1e-2).fit(volumes, np.arange(12) % 2)


@pytest.mark.filterwarnings("ignore:Full backward hook")  # torch, of a network whose input asks for no gradient
@pytest.mark.parametrize("layer", ["blocks.0.0", "blocks.1.0", "blocks.1.1"])
def test_grad_cam_equals_monais(network, volumes, layer):
    import monai.visualize as visualize

    theirs = visualize.GradCAM(copy.deepcopy(network).network_, target_layers=layer).compute_map(
        torch.as_tensor(volumes[:5]), class_idx=0
    )
    assert np.allclose(
        grad_cam(network, volumes[:5], layer=layer, towards=1), np.asarray(theirs.detach())[:, 0], rtol=1e-4, atol=1e-7
    )


def test_the_class_that_the_network_gives_is_explained_unless_another_is_named(network, volumes):
    given_class = network.predict(volumes)
    each = {towards: grad_cam(network, volumes, towards=towards) for towards in (None, 0, 1)}
    for k, label in enumerate(given_class):
        assert np.allclose(each[None][k], each[int(label)][k], atol=1e-7)
    assert not np.allclose(each[0], each[1])


def test_looks_are_kept_apart(network, volumes):
    """What the far look shows does not change when only the near look's channels do, in sign of place; both looks are
    given.
    """
    maps = attention_by_look(network, volumes[:3])
    assert maps.shape[:2] == (3, 2) and maps.shape[2:] == grad_cam(network, volumes[:3]).shape[1:] and (maps >= 0).all()
    with pytest.raises(OptionError, match="keeps 2 apart"):
        grad_cam(network, volumes, look=2)


def test_the_default_layer_keeps_a_quarter_of_the_edge(network):
    assert (
        attention_layer(network).startswith("blocks.")
        and grad_cam(network, np.zeros((1, 4, 16, 16, 16), np.float32)).shape[1] >= 4
    )


def test_nothing_is_left_on_the_network(network, volumes):
    before = {name: value.clone() for name, value in network.network_.state_dict().items()}
    state = torch.random.get_rng_state()
    randomised(network, 1)
    grad_cam(network, volumes)
    attention_layer(network)
    with pytest.raises(DataError):
        grad_cam(network, volumes[:, :2])
    integrated_gradients(network, volumes[:2], volumes.mean(0), steps=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in network.network_.state_dict().items())
    assert not any(part._forward_hooks for part in network.network_.modules())


def test_integrated_gradients_of_a_linear_answer_are_exact(network, volumes):
    "Where the answer is linear, each voxel's share is its difference times its weight, whatever the number of steps."

    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.linspace(-1, 1, 4 * 16**3).reshape(1, 4, 16, 16, 16))

        def forward(self, x):
            return (x * self.weight).sum(dim=(1, 2, 3, 4))[:, None]

    linear = copy.copy(network)
    linear.network_ = Linear()
    base = volumes.mean(0)
    shares = integrated_gradients(linear, volumes[:3], base, steps=2)
    assert np.allclose(shares, (volumes[:3] - base) * linear.network_.weight.detach().numpy()[0], atol=1e-5)


def test_shares_add_up_better_with_more_steps(network, volumes):
    base = volumes.mean(0)
    gaps = [
        completeness_gap(network, volumes, base, integrated_gradients(network, volumes, base, steps=n)).max()
        for n in (1, 40)
    ]
    assert gaps[1] < 0.05 and gaps[1] < gaps[0]
    with pytest.raises(DataError, match="baseline has shape"):
        integrated_gradients(network, volumes, base[:2])


def test_wiping_out_what_decides_changes_the_answer(network, volumes):
    middle = np.zeros((12, 16, 16, 16), np.float32)
    middle[:, 6:10, 6:10, 6:10] = 1
    fall = deletion_effect(network, volumes, middle, volumes[::2].mean(0), share=64 / 16**3, towards=1)
    assert fall.hottest[1::2].mean() > 3 * abs(fall.random[1::2].mean())
    nothing = deletion_effect(network, volumes, middle, volumes[0], share=1.0)
    assert np.allclose(nothing.hottest, nothing.random, atol=1e-5)  # all voxels either way


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 7), st.integers(0, 10**6))
def test_share_inside_lies_between_none_and_all(edge, seed):
    rng = make_rng(seed, "inside")
    maps, masks = rng.random((2, edge, edge, edge)), rng.random((2, edge, edge, edge)) > 0.5
    found = share_inside(maps, masks)
    assert ((found.inside >= 0) & (found.inside <= 1)).all()
    assert np.allclose(found.inside + share_inside(maps, ~masks).inside, 1)
    assert np.allclose(share_inside(maps, np.ones_like(masks)).inside, 1)


def test_maps_without_anything_are_not_counted():
    none = np.zeros((2, 4, 4, 4))
    assert share_inside(none, none + 1).inside.isna().all() and map_similarity(none, none + 1).isna().all().all()
    with pytest.raises(DataError, match="enlarge"):
        map_similarity(none, np.zeros((2, 8, 8, 8)))


def test_enlarging_keeps_a_constant_and_the_place():
    small = np.zeros((1, 4, 4, 4), np.float32)
    small[0, 3, 0, 2] = 1
    large = enlarge(small, 16)[0]
    assert (
        np.unravel_index(large.argmax(), large.shape)[0] >= 12 and np.unravel_index(large.argmax(), large.shape)[1] <= 3
    )
    assert np.allclose(enlarge(small * 0 + 2, 16), 2)


def test_shares_by_channel_add_up_to_one(network, volumes):
    names = ["ct 1 mm", "mask 1 mm", "ct 2 mm", "mask 2 mm"]
    table = shares_by_channel(integrated_gradients(network, volumes, volumes.mean(0), steps=4), volumes, names)
    assert table.share.sum() == pytest.approx(1) and np.allclose(table.expected, 1 / 8)
    with pytest.raises(DataError, match="do not fit"):
        shares_by_channel(np.zeros((12, 4, 16, 16, 16)), volumes, names[:2])


def test_the_checks_are_the_same_twice_and_without_other_trainings(network, volumes):
    masks, base = volumes[:, 1], volumes.mean(0)
    one, other = (
        network_checks(network, volumes[:4], masks[:4], base, look=0, mean_gradient=False, seed=3) for _ in range(2)
    )
    pd.testing.assert_frame_equal(one, other)
    assert "trainings" not in set(one.key) and set(one.holds) <= {"yes", "no", "", "not measurable"}
    same = network_checks(network, volumes[:4], masks[:4], base, [network], look=0, mean_gradient=False).set_index(
        "key"
    )
    assert same.value["trainings"] == pytest.approx(1)  # the same network is another training of itself


@pytest.fixture(scope="module")
def table() -> tuple[pd.DataFrame, pd.Series]:
    rng = make_rng(5, "table")
    X = pd.DataFrame(rng.normal(size=(120, 12)), columns=[f"original_glcm_f{k}" for k in range(12)])
    return X, pd.Series((X.iloc[:, 0] - X.iloc[:, 5] + 0.7 * rng.normal(size=120) > 0).astype(int))


@pytest.mark.parametrize(
    ("name", "tune"), [("logistic_regression", True), ("logistic_regression", False), ("random_forest", False)]
)
def test_shap_values_add_up(table, name, tune):
    X, y = table
    model = make_model(name, tune=tune).fit(X[:90], y[:90])
    explained = explain_baseline(model, X[90:], X[:90])
    assert additivity_gap(model, X[90:], explained) < 1e-6 and set(explained.importance().index[:2]) == {
        "original_glcm_f0",
        "original_glcm_f5",
    }
    wrong = explained.__class__(explained.values * 1.1, explained.data, explained.base, explained.unit)
    assert additivity_gap(model, X[90:], wrong) > 1e-3


def test_forest_shap_equals_the_brute_force_over_the_trees(table):
    "Two features, one tree: Shapley's formula by hand with the tree's own expectations."
    X, y = table
    model = make_model("random_forest", tune=False).fit(X[:90], y[:90])
    forest = model[-1]
    seen = model[:-1].transform(X[90:92])

    def expectation(tree, node, row, known):
        t = tree.tree_
        if t.children_left[node] < 0:
            return t.value[node][0][1] / t.value[node][0].sum()
        left, right = t.children_left[node], t.children_right[node]
        if t.feature[node] in known:
            return expectation(
                tree, left if np.float32(row[t.feature[node]]) <= t.threshold[node] else right, row, known
            )
        n = t.weighted_n_node_samples
        return (n[left] * expectation(tree, left, row, known) + n[right] * expectation(tree, right, row, known)) / n[
            node
        ]

    m = seen.shape[1]
    assert m <= 6
    subsets = list(chain.from_iterable(combinations(range(m), k) for k in range(m + 1)))
    row = seen.iloc[0].to_numpy()
    value = {
        s: np.mean([expectation(tree, 0, row, s) for tree in forest.estimators_[:300]]) for s in map(frozenset, subsets)
    }
    shapley = [
        sum(
            factorial(len(s)) * factorial(m - len(s) - 1) / factorial(m) * (value[s | {k}] - value[s])
            for s in value
            if k not in s
        )
        for k in range(m)
    ]
    assert np.allclose(explain_baseline(model, X[90:92], X[:90]).values.iloc[0], shapley, atol=1e-6)


def test_checks_of_baselines_tell_signal_from_lot(table):
    X, y = table

    def make(seed: int) -> Pipeline:
        return make_model("logistic_regression", seed=seed, tune=False)

    found = baseline_checks(make, X[:90], y[:90], X[90:], seeds=(0, 1)).set_index("key")
    assert (found.holds == "yes").all() and found.value["labels_by_lot"] < found.value["stability"]


def test_importance_agreement():
    a, b = pd.Series({"x": 3.0, "y": 2.0, "z": 1.0}), pd.Series({"x": 1.0, "y": 2.0, "z": 3.0})
    assert importance_agreement(a, a) == (1.0, 1.0) and importance_agreement(a, b)[0] == pytest.approx(-1)
    assert importance_agreement(a, pd.Series({"w": 1.0}))[1] == 0


def test_without_shap_the_message_says_how_to_get_it(table, monkeypatch):
    X, y = table
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(MissingDependencyError, match="pip install shap"):
        explain_baseline(make_model("logistic_regression", tune=False).fit(X, y), X, X)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 50))
def test_trait_weights_do_not_depend_on_the_scale_of_the_score(seed, scale):
    rng = make_rng(seed, "traits")
    latents = pd.DataFrame(rng.normal(size=(80, 5)), columns=["grain", "margin", "necrosis", "rim", "size"])
    truth = latents.grain - latents.rim
    score = truth + rng.normal(size=80)
    one, other = trait_weights(score, latents, truth), trait_weights(np.exp(score / scale), latents, truth)
    assert np.allclose(one.found, other.found) and np.allclose(one.truth, [1, 0, 0, -1, 0], atol=1e-9)
    assert one.attrs["agreement"] > 0.7 and trait_weights(-score, latents, truth).attrs["agreement"] < -0.7
