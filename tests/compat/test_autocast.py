"""Losses are float32 in every drop-in and under any autocast, from float32 distances; those of float64 rows float64."""

import importlib.util
from functools import partial

import pytest
import torch

from fasttriplet.compat import fastreid, pml, sentence_transformers, tfa, torchreid

#: Of lengths about 16, so that inner products in half precision are far off.
ROWS = 4 * torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) // 4
DISTANCES = ("euclidean", "squared_euclidean", "cosine", "inner_product")


def _pml():
    for distance in (None, *DISTANCES):
        make = partial(pml.TripletMarginLoss, distance=distance)
        yield f"{distance}", make()
        yield f"{distance}, of each triplet", make(smooth_loss=True, reducer="none")
        yield f"{distance}, swap", make(swap=True, reducer="mean")
        yield f"{distance}, learned margin", make(torch.tensor(0.2, requires_grad=True), reducer="sum")
        mined = pml.BatchHardMiner(distance)(ROWS, LABELS)
        yield f"{distance}, mined", partial(_of_triplets, make(0.3), mined)


def _of_triplets(loss, mined, rows, labels):
    return loss(rows, indices_tuple=mined)


def _sentence_transformers():
    for name in (
        "BatchHardTripletLoss",
        "BatchHardSoftMarginTripletLoss",
        "BatchSemiHardTripletLoss",
        "BatchAllTripletLoss",
    ):
        for distance in ("euclidean", "squared_euclidean", "cosine"):
            loss = getattr(sentence_transformers, name)(torch.nn.Identity(), distance_metric=distance)
            yield f"{name}, {distance}", partial(_of_features, loss)
    for distance in ("euclidean", "squared_euclidean", "cosine", "manhattan"):
        yield f"TripletLoss, {distance}", partial(_of_columns, sentence_transformers.TripletLoss(_Given(), distance, 1))
    of_ones_own = sentence_transformers.TripletLoss(_Given(), _largest, 1)
    yield "TripletLoss, a function of one's own", partial(_of_columns, of_ones_own)


def _largest(x, y):
    return (x - y).abs().amax(1)


class _Given(torch.nn.Module):
    def forward(self, features):
        return features


def _of_columns(loss, rows, labels):
    others = (rows.detach().roll(shift, 0) for shift in (1, 2))  # one gradient: sums of several are rounded
    return loss([{"sentence_embedding": each} for each in (rows, *others)], None)


def _of_features(loss, rows, labels):
    return loss([{"sentence_embedding": rows}], labels)


def _reid():
    yield "torchreid", torchreid.TripletLoss()
    for norm_feat in (False, True):
        for hard_mining in (False, True):
            options = {"margin": 0.3, "norm_feat": norm_feat, "hard_mining": hard_mining}
            yield f"fast-reid, {options}", partial(fastreid.triplet_loss, **options)


def _of_labels_first(loss, rows, labels):
    return loss(labels, rows)


def _tfa():
    for kind in (tfa.TripletHardLoss, tfa.TripletSemiHardLoss):
        for distance in tfa.DISTANCE_METRICS:
            yield f"{kind.__name__}, {distance}", partial(_of_labels_first, kind(distance_metric=distance))


LOSSES = {
    f"{library}: {name}": loss
    for library, losses in {
        "pml": _pml(),
        "sentence-transformers": _sentence_transformers(),
        "reid": _reid(),
        "tfa": _tfa(),
    }.items()
    for name, loss in losses
}


def value_and_gradient(loss, rows, labels):
    leaf = rows.clone().requires_grad_()
    value = loss(leaf, labels)
    return value.detach(), *torch.autograd.grad(value.sum(), leaf)


#: Batches of one class take a path of their own in some.
CASES = [(name, False) for name in LOSSES] + [(name, True) for name in LOSSES if "emiHard" in name]


@pytest.mark.parametrize(("name", "one_class"), CASES)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_loss(name, one_class, half):
    labels = torch.zeros_like(LABELS) if one_class else LABELS
    expected, slope = value_and_gradient(LOSSES[name], ROWS, labels)
    coarse, coarse_slope = value_and_gradient(LOSSES[name], ROWS.to(half).float(), labels)
    with torch.autocast("cpu", half):
        value, gradient = value_and_gradient(LOSSES[name], ROWS, labels)
        # What a layer under autocast hands over.
        of_half, of_half_gradient = value_and_gradient(LOSSES[name], ROWS.to(half), labels)
    assert value.dtype == of_half.dtype == torch.float32
    assert torch.equal(value, expected) and torch.equal(gradient, slope)
    assert torch.equal(of_half, coarse)
    assert of_half_gradient.dtype == half and torch.equal(of_half_gradient, coarse_slope.to(half))


@pytest.mark.parametrize(("name", "one_class"), CASES)
def test_float64_stays(name, one_class):
    labels = torch.zeros_like(LABELS) if one_class else LABELS
    expected = value_and_gradient(LOSSES[name], ROWS.double(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        values = value_and_gradient(LOSSES[name], ROWS.double(), labels)
    assert all(each.dtype == torch.float64 for each in values) and all(map(torch.equal, values, expected))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_functions_of_ones_own_multiply_in_full_precision(half):
    def product(x, y):
        return -torch.bmm(x[:, None], y[..., None]).flatten()

    loss = partial(_of_columns, sentence_transformers.TripletLoss(_Given(), product, 1))
    for rows in (ROWS, ROWS.to(half)):
        expected, slope = value_and_gradient(loss, rows.float(), LABELS)
        leaf = rows.clone().requires_grad_()
        with torch.autocast("cpu", half):
            value = loss(leaf, LABELS)
        (gradient,) = torch.autograd.grad(value, leaf)  # outside, where a backward pass belongs
        assert torch.equal(value, expected) and torch.equal(gradient, slope.to(rows.dtype))


@pytest.mark.parametrize("kind", ["TripletHardLoss", "TripletSemiHardLoss"])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed")
def test_keras(kind, half):
    keras = importlib.import_module("fasttriplet.compat.keras")
    loss = getattr(keras, kind)()
    expected = loss(LABELS, ROWS)
    with torch.autocast("cpu", half):
        value = loss(LABELS, ROWS)
        others = [getattr(keras, kind)(dtype=dtype)(LABELS, ROWS).dtype for dtype in ("float64", "bfloat16")]
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    assert others == [torch.float64, torch.bfloat16]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [pml.BatchHardMiner, pml.TripletMarginMiner])
def test_miners(distance, half, kind):
    expected = kind(distance=distance)(ROWS, LABELS)
    with torch.autocast("cpu", half):
        mined = kind(distance=distance)(ROWS, LABELS)
    assert all(map(torch.equal, mined, expected))
