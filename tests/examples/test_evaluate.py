"""Retrieval among the test images: by hand, of classes that were trained on and of others, and under nuisance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from examples.resnet50.datasets import Split
from examples.resnet50.evaluate import (
    MEASURES,
    bounded,
    calibrated,
    evaluate,
    measured,
    pixel_metrics,
    under_nuisance,
)
from tests.examples.conftest import TinyNet, build_split

CPU = torch.device("cpu")


def by_hand(embeddings: Tensor, labels: Tensor, asked: list[int]) -> dict[str, float]:
    """hit_rate@1, recall@5 and map_at_r of the queries ``asked`` among all rows, by their definitions."""
    hits, recalls, precisions = [], [], []
    for query in asked:
        gaps = (embeddings.double() - embeddings[query].double()).norm(dim=1)
        others = sorted((i for i in range(len(gaps)) if i != query), key=lambda i: (gaps[i].item(), i))
        right = [bool(labels[i] == labels[query]) for i in others]
        number = sum(right)
        if number:
            hits.append(right[0])
            recalls.append(sum(right[:5]) / number)
            precisions.append(sum(sum(right[: r + 1]) / (r + 1) for r in range(number) if right[r]) / number)
    figures = {"hit_rate@1": hits, "recall@5": recalls, "map_at_r": precisions}
    return {name: sum(found) / len(found) for name, found in figures.items()} | {"queries": float(len(hits))}


def test_figures_are_apart_for_classes_that_were_trained_on():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (60,), generator=generator)
    labels[0] = 7  # alone in its class, which was not trained on: no query
    embeddings = torch.randn(60, 4, generator=generator) + 0.7 * torch.nn.functional.one_hot(labels, 8)[:, :4]
    known = (labels == 1) | (labels == 3) | (labels == 4)
    found = measured(embeddings, labels, known)
    for prefix, asked in (("", known), ("unseen_", ~known)):
        expected = by_hand(embeddings, labels, asked.nonzero()[:, 0].tolist())
        assert {name: found[f"{prefix}{name}"] for name in expected} == pytest.approx(expected)
    assert found["unseen_queries_without_positive"] == 1 and found["queries_without_positive"] == 0
    assert found["map_at_r"] != found["unseen_map_at_r"]
    assert found.keys() >= {*MEASURES, *(f"unseen_{name}" for name in MEASURES)}
    whole = by_hand(embeddings, labels, list(range(60)))
    for of_one_kind in (torch.ones(60), torch.zeros(60)):
        alone = measured(embeddings, labels, of_one_kind.bool())
        assert {name: alone[name] for name in whole} == pytest.approx(whole) and "unseen_map" not in alone


@pytest.mark.parametrize(
    ("tested", "known"), [("de", [False, False]), ("ba", [True, True]), ("bdc", [True, False, True])]
)
def test_classes_are_known_by_their_names(tested: str, known: list[bool]):
    split = build_split(tested)
    assert split.trained_on.tolist() == [known[label] for label in split.test.labels.tolist()]
    unseen = {name for name in pixel_metrics(split, CPU) if name.startswith("unseen_")}
    assert bool(unseen) == (len(set(known)) == 2)


def test_test_images_are_changed_once_and_always_alike():
    split = build_split("ad")
    split = replace(split, train=split.train.subset(torch.arange(600) % 48))
    changed, again = under_nuisance(split), under_nuisance(split)
    assert changed.calibration is not None and again.calibration is not None
    assert torch.equal(changed.test.pixels, again.test.pixels)
    assert torch.equal(changed.calibration.pixels, again.calibration.pixels)
    assert changed.test.pixels.dtype == torch.uint8 and changed.test.pixels.shape == split.test.pixels.shape
    differ = (changed.test.pixels != split.test.pixels).flatten(1).any(1)
    assert differ.all() and torch.equal(changed.test.labels, split.test.labels)
    assert changed.train is split.train and len(changed.calibration) == 512  # those that are trained on stay
    assert pixel_metrics(changed, CPU) == pixel_metrics(again, CPU) != pixel_metrics(split, CPU)


def test_batch_norm_is_measured_on_changed_images_too(tiny_network: Callable[[], TinyNet]):
    split = build_split()
    plain, changed = (evaluate(tiny_network(), each) for each in (split, under_nuisance(split)))
    assert plain.network is not None and changed.network is not None
    norms = [network.body[1].running_mean for network in (plain.network, changed.network)]
    assert not torch.equal(norms[0], norms[1])
    with torch.no_grad():  # the embeddings are those of the changed images
        assert torch.equal(changed.network(under_nuisance(split).test.images(slice(None))), changed.embeddings)


def test_evaluation_leaves_the_network_as_it_was(tiny_network: Callable[[], TinyNet], random_split: Split):
    model = tiny_network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = evaluate(model, random_split), evaluate(model, random_split)
    assert torch.equal(first.embeddings, second.embeddings) and first.metrics == second.metrics
    assert first.metrics["queries"] == len(random_split.test)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    norms = [module for module in model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert all(module.training for module in model.modules()) and all(norm.momentum == 0.1 for norm in norms)
    found = calibrated(model, random_split.train)
    assert not any(module.training for module in found.modules())
    with torch.no_grad():  # one batch has all 48 of them
        values = model.body[0]((random_split.train.images(slice(None)).expand(-1, 3, -1, -1) - 0.5) / 0.3)
    torch.testing.assert_close(found.body[1].running_mean, values.mean((0, 2, 3)))


def test_bounded_and_pixels(random_split: Split):
    assert bounded(random_split.test, 24) is random_split.test
    some = bounded(random_split.test, 10)
    assert len(some) == 10 and torch.equal(some.pixels, bounded(random_split.test, 10).pixels)
    assert 0 < pixel_metrics(random_split, CPU)["map_at_r"] < 1
