"""Small parts: augmentation, the agreement checks, the schedule, the network, what pictures are made of."""

from __future__ import annotations

import math

import pytest
import torch

from examples.resnet50.agreement import (
    COPIES_LOSS,
    SAME_GRADIENT,
    SAME_LOSS,
    check,
    held_steps,
    relative_difference,
)
from examples.resnet50.augment import augment, draw_changes
from examples.resnet50.errors import Disagreement
from examples.resnet50.learner import Schedule
from examples.resnet50.model import EmbeddingNet, PooledShortcut, build_model
from examples.resnet50.plots.neighbours import chosen_queries
from examples.resnet50.plots.space import in_two_dimensions


@pytest.fixture(scope="module")
def model() -> EmbeddingNet:
    return build_model(8, None, seed=0)


def test_augment_follows_its_generator():
    images = torch.rand(5, 1, 16, 16)

    def changed(seed: int) -> torch.Tensor:
        return augment(images, draw_changes(5, torch.Generator().manual_seed(seed), mirror=False))

    assert torch.equal(changed(1), changed(1)) and not torch.equal(changed(1), changed(2))
    assert changed(1).shape == images.shape and changed(1).min() >= 0 and changed(1).max() <= 1


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (1.0, 1.1, 0.1 / 1.1),
        (0.0, 1e-6, 1e-4),
        (1.0, math.nan, math.nan),
        (math.inf, 1.0, math.nan),
        (math.nan, math.nan, 0.0),
        (math.inf, math.nan, 0.0),
    ],
)
def test_relative_difference(first: float, second: float, expected: float):
    found = relative_difference(torch.tensor(first).double(), torch.tensor(second).double(), 1e-2)
    assert found.item() == pytest.approx(expected, nan_ok=True)


def row(step: int, same_loss: float, same_gradient: float, copies_loss: float) -> dict[str, float]:
    return {"step": step, SAME_LOSS: same_loss, SAME_GRADIENT: same_gradient, COPIES_LOSS: copies_loss}


def test_copies_are_held_at_first_only_and_the_same_embeddings_always():
    for step, held in ((1, 2), (2, 2), (1, 1)):
        with pytest.raises(Disagreement, match=rf"step {step}: .* the losses of the two copies"):
            check(row(step, 1e-8, 1e-8, 1e-3), held)
    check(row(3, 1e-8, 1e-8, 1e-3), 2)
    check(row(2, 1e-8, 1e-8, 1e-3), 1)
    check({key: value for key, value in row(1, 1e-8, 1e-8, 1).items() if key != COPIES_LOSS}, 2)  # no second copy
    for same_loss, same_gradient in ((2e-4, 0), (0, 2e-4), (math.nan, 0)):
        with pytest.raises(Disagreement, match=r"step 1000: .* the same embeddings"):
            check(row(1000, same_loss, same_gradient, 0), 1)


def test_copies_are_held_twice_where_nothing_but_float32_rounds():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [held_steps("float32", cpu, 64), held_steps("float32", cpu, 16), held_steps("float32", cpu, 15)] == [2, 2, 1]
    assert [held_steps("bfloat16", cpu, 64), held_steps("float32", cuda, 64), held_steps("float32", cpu, 64, 2)] == [
        1
    ] * 3
    assert [held_steps("float64", cpu, 4, 2), held_steps("float64", cuda, 64)] == [10, 10]


def test_schedule():
    plain = Schedule(lr=1.0, fine_tune_lr=0.1, total_steps=110, frozen_steps=0, cosine=True)
    assert plain.rate(1) == pytest.approx(0.1) and plain.rate(10) > 0.95 and plain.rate(110) < 1e-3
    assert not plain.is_frozen(1)
    frozen = Schedule(lr=1.0, fine_tune_lr=0.1, total_steps=100, frozen_steps=50, cosine=False)
    assert frozen.is_frozen(50) and not frozen.is_frozen(51)
    assert frozen.rate(50) == 1 and frozen.rate(51) == pytest.approx(0.01) and frozen.rate(100) == pytest.approx(0.1)


def test_network(model: EmbeddingNet):
    embeddings = model(torch.rand(4, 1, 32, 32))
    assert embeddings.shape == (4, 8) and embeddings.dtype == torch.float32
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.rand(4, 3, 32, 32)).dtype == torch.float32


def test_neighbours_stay_so_in_two_dimensions():
    """Three tight groups far apart; the same twice."""
    groups = torch.arange(30) % 3
    points = 10 * torch.eye(5)[groups] + 0.1 * torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    plane = torch.from_numpy(in_two_dimensions(points))
    distances = torch.cdist(plane, plane).fill_diagonal_(torch.inf)
    assert plane.shape == (30, 2) and torch.equal(groups[distances.argmin(1)], groups)
    assert (in_two_dimensions(points) == plane.numpy()).all()
    assert in_two_dimensions(torch.zeros(3, 5)).shape == in_two_dimensions(torch.zeros(3, 1)).shape == (3, 2)
    assert (in_two_dimensions(torch.ones(30, 5)) == 0).all()


def test_pooled_shortcuts_see_the_mean_of_four_pixels():
    network, strided = EmbeddingNet(8), EmbeddingNet(8, pooled_shortcuts=False)
    shortcuts = [layer[0].downsample[0] for layer in (network.body.layer2, network.body.layer3, network.body.layer4)]
    assert sum(isinstance(module, PooledShortcut) for module in network.modules()) == 3
    assert not any(isinstance(module, PooledShortcut) for module in strided.modules())
    assert network.state_dict().keys() == strided.state_dict().keys()
    images = torch.rand(2, 256, 5, 7)
    means = [[images[:, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((2, 3)) for x in range(4)] for y in range(3)]
    seen = torch.stack([torch.stack(row, -1) for row in means], -2)  # [2, 256, 3, 4], at the border of fewer
    torch.testing.assert_close(shortcuts[0](images), torch.nn.functional.conv2d(seen, shortcuts[0].weight))


def test_queries_take_the_classes_in_turn():
    queries = chosen_queries(torch.tensor([0] * 20 + [1] * 2 + [2] * 20))
    assert torch.tensor([0] * 20 + [1] * 2 + [2] * 20)[queries].bincount().tolist() == [3, 2, 3]
