"""Losses over all pairs and their gradients are within the bound that docs/numerics.md states, by either engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import fasttriplet
from fasttriplet import engines, reference
from fasttriplet.check import DISTANCES
from fasttriplet.portable.walk import Walk
from tests import dense_bound, engine

if engine.ENGINE != "cpu":
    pytest.skip("forces either engine on the CPU", allow_module_level=True)

D, MARGIN = 24, 0.3


class Given(NamedTuple):
    rows: Tensor
    labels: Tensor


def of_four(rows: Tensor) -> Given:
    return Given(rows, torch.arange(len(rows)) // 4)


def of_two_classes(rows: Tensor) -> Given:
    return Given(rows, torch.arange(len(rows)) // (len(rows) // 2))


def random(n: int = 48) -> Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0))


def clustered(n: int = 48) -> Tensor:
    """Four tight clusters far apart, with rows of every class in each: near negatives, and far ones of one distance."""
    places = torch.randn(4, D, generator=torch.Generator().manual_seed(1))
    return 4 * places[torch.arange(n) % 4] + 0.02 * random(n)


BATCHES: dict[str, Callable[[], Given]] = {
    "random": lambda: of_four(random()),
    "offset": lambda: of_four(random() + 1000),
    "clustered": lambda: of_four(clustered()),
    "large classes": lambda: of_two_classes(random(100)),
    "large classes, offset": lambda: of_two_classes(random(100) + 1000),
    "large classes, clustered": lambda: of_two_classes(clustered(100)),
}
RANDOM = ("random", "large classes")
#: The engine and the dtype of the rows.
ENGINES = {
    "kernels, float32": (False, torch.float32),
    "kernels, float64": (False, torch.float64),
    "portable, float32": (True, torch.float32),
    "portable, float64": (True, torch.float64),
}
LOSSES = {"batch_all": dense_bound.batch_all, "weighted": dense_bound.weighted}


def loss_and_gradient(
    module: object, loss: str, batch: Given, distance: str, soft_margin: bool
) -> tuple[Tensor, Tensor]:
    leaf = batch.rows.clone().requires_grad_()
    keywords = {"margin": MARGIN, "distance": distance, "soft_margin": soft_margin, "reduction": "sum"}
    value = getattr(module, f"{loss}_triplet_loss")(leaf, batch.labels, **keywords)
    return value.detach().double(), torch.autograd.grad(value, leaf)[0].double()


def shares(
    which: str,
    loss: str,
    batch: Given,
    distance: str,
    soft_margin: bool,
    k: float = 1,
    a: float = 1,
    given: Tensor | None = None,
) -> tuple[float, float]:
    """The error of the loss and the largest of a row's gradient, as shares of their bounds.

    ``k`` and ``a`` make those narrower; the engine is given ``given``, where that is something else than the rows.
    """
    portable, dtype = ENGINES[which]
    rows, labels = batch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "forced", portable)
        given_rows = (rows if given is None else given).to(dtype)
        found = loss_and_gradient(fasttriplet, loss, Given(given_rows, labels), distance, soft_margin)
    right = loss_and_gradient(reference, loss, Given(rows.double(), labels), distance, soft_margin)
    if which == "kernels, float32":
        quality = dense_bound.Quality.of_float32_kernels(*rows.shape)
    else:
        quality = dense_bound.Quality.of_float64(*rows.shape)
    exact = dense_bound.Batch(rows.to(dtype), labels, distance, quality.times(k, a))
    bound = LOSSES[loss](exact, MARGIN, soft_margin)
    assert right[0] > 0, "nothing to be wrong about"
    returned = 2.0**-24 if dtype == torch.float32 else 2.0**-53  # a rounding of what is returned
    of_loss = (found[0] - right[0]).abs() / (bound.loss + returned * right[0].abs())
    norms = right[1].norm(dim=1)
    of_gradient = (found[1] - right[1]).norm(dim=1) / (bound.gradient + 3 * returned * norms)
    assert of_loss.isfinite() and of_gradient[norms > 0].isfinite().all()
    return of_loss.item(), of_gradient.nan_to_num(0).max().item()


@pytest.mark.parametrize("soft_margin", [False, True], ids=["hinge", "soft"])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("which", ENGINES)
@pytest.mark.parametrize("batch", BATCHES)
def test_errors_are_within_the_bound(batch, which, loss, distance, soft_margin):
    assert max(shares(which, loss, BATCHES[batch](), distance, soft_margin)) <= 1


@pytest.mark.parametrize("batch", RANDOM)
@pytest.mark.parametrize("which", ["kernels, float32", "portable, float64"])
def test_a_bound_ten_thousand_times_as_narrow_fails(which, batch):
    given = BATCHES[batch]()
    found = [shares(which, loss, given, each, False, k=1e-4, a=1e-4) for loss in LOSSES for each in DISTANCES]
    assert max(of_gradient for _, of_gradient in found) > 1


def test_keys_off_by_a_billionth_fail(monkeypatch):
    right = Walk._distances
    monkeypatch.setattr(Walk, "_distances", lambda self, keys: right(self, keys) * (1 + 1e-9))
    for loss in LOSSES:
        for distance in DISTANCES:
            assert min(shares("portable, float64", loss, of_four(random()), distance, True)) > 1


def test_products_of_half_precision_fail():
    for loss, batch in (("batch_all", "random"), ("weighted", "random"), ("batch_all", "large classes")):
        given = BATCHES[batch]()
        rounded = given.rows.bfloat16().float()
        for distance in DISTANCES:
            assert max(shares("kernels, float32", loss, given, distance, False, given=rounded)) > 1
