"""What the pictures of the evaluations show: the queries that are worst by definition, and every pair once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from examples.resnet50.datasets import ImageSet
from examples.resnet50.evaluate import Evaluation
from examples.resnet50.measures import MEASURES
from examples.resnet50.plots import distances, retrieval, worst_queries
from examples.resnet50.plots.worst_queries import average_precisions

CLASSES = ("ant", "bee", "cat", "dog")


def some(number: int, labels: torch.Tensor | None = None) -> tuple[ImageSet, Evaluation]:
    """Images and embeddings of no meaning; small integers, so that distances tie."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(256, (number, 1, 16, 16), generator=generator, dtype=torch.uint8)
    labels = torch.randint(len(CLASSES), (number,), generator=generator) if labels is None else labels
    embeddings = torch.randint(-3, 4, (number, 3), generator=generator).float()
    return ImageSet(pixels, labels, CLASSES), Evaluation(embeddings, dict.fromkeys(MEASURES, 0.5))


def ranking(embeddings: torch.Tensor, query: int) -> list[int]:
    """The definition: by distance, then index."""
    gaps = (embeddings.double() - embeddings[query].double()).norm(dim=1)
    return sorted((i for i in range(len(gaps)) if i != query), key=lambda i: (gaps[i].item(), i))


def average_precision(embeddings: torch.Tensor, labels: torch.Tensor, query: int) -> float | None:
    hits = [bool(labels[i] == labels[query]) for i in ranking(embeddings, query)]
    found = [sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit]
    return sum(found) / len(found) if found else None


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Those that would be saved, which takes a second each."""
    kept: list[Figure] = []
    for module in (distances, retrieval, worst_queries):
        monkeypatch.setattr(module, "save", lambda figure, path: kept.append(figure))
    return kept


@pytest.mark.parametrize("number", [2, 9, 40])
def test_the_worst_queries_are_those_of_the_lowest_average_precision(number: int):
    test, evaluation = some(number)
    test.labels[0], embeddings = 0, evaluation.embeddings
    test.labels[1:][test.labels[1:] == 0] = 1  # the first image is the only one of its class, and no query
    expected = [average_precision(embeddings, test.labels, query) for query in range(number)]
    found = average_precisions(embeddings, test.labels)
    assert [None if value != value else pytest.approx(value) for value in found.tolist()] == expected
    order = sorted((value, query) for query, value in enumerate(expected) if value is not None)
    worst = worst_queries.worst_queries(embeddings, test.labels, 5)
    assert [each.query for each in worst] == [query for _, query in order[:5]] and len(worst) == min(5, len(order))
    for each in worst:
        others = ranking(embeddings, each.query)
        same = [int(test.labels[i]) == int(test.labels[each.query]) for i in others]
        assert each.average_precision == pytest.approx(expected[each.query])
        assert [index for index, _ in each.wrong] == [i for i, hit in zip(others, same, strict=True) if not hit][:6]
        assert each.rank == same.index(True) + 1 and each.right[0] == others[each.rank - 1]
        for index, distance in (*each.wrong, each.right):
            assert distance == pytest.approx((embeddings[index] - embeddings[each.query]).norm().item())


def test_a_row_of_the_picture_is_a_query_with_what_it_finds(figures: list[Figure], tmp_path: Path):
    test, evaluation = some(40)
    worst_queries.plot_worst_queries(test, evaluation, "after 12 steps", tmp_path / "worst_queries.png")
    worst = worst_queries.worst_queries(evaluation.embeddings, test.labels)
    (figure,) = figures
    assert len(worst) == 8 and len(figure.axes) == 8 * 8
    for row, each in enumerate(worst):
        axes = figure.axes[8 * row : 8 * row + 8]
        shown = [each.query, *(index for index, _ in each.wrong), each.right[0]]
        assert [test.classes[test.labels[index]] for index in shown] == [a.get_title().split("\n")[0] for a in axes]
        for a, index in zip(axes, shown, strict=True):
            assert (a.images[0].get_array() == test.pixels[index, 0].numpy()).all()
        assert axes[0].get_title().endswith(f"AP {each.average_precision:.3f}")
        assert axes[1].get_title().endswith(f"{each.wrong[0][1]:.3f}")
        assert axes[7].get_title().endswith(f"{each.right[1]:.3f}, rank {each.rank}")


@pytest.mark.parametrize(("number", "classes", "rows"), [(4, 4, 0), (3, 2, 2), (2, 1, 2)])
def test_few_images_are_drawn_too(figures: list[Figure], tmp_path: Path, number: int, classes: int, rows: int):
    """Each its own class; a class with one image; one class alone."""
    test, evaluation = some(number, torch.arange(number) % classes)
    worst_queries.plot_worst_queries(test, evaluation, "after 1 step", tmp_path / "worst_queries.png")
    distances.plot_distances(test, evaluation, evaluation, "after 1 step", tmp_path / "distances.png")
    retrieval.plot_retrieval(test, evaluation, evaluation, "after 1 step", tmp_path / "retrieval.png")
    assert len(figures) == 3 and len(figures[0].axes) == 8 * rows
    for figure in figures:
        figure.canvas.draw()
    assert ("No test image" in figures[0].get_suptitle()) == (rows == 0)


def test_the_histograms_have_every_pair_once_before_and_after(figures: list[Figure], tmp_path: Path):
    test, before = some(40)
    after = Evaluation(torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), before.metrics)
    distances.plot_distances(test, before, after, "after 12 steps", tmp_path / "distances.png")
    (figure,) = figures
    same = test.labels[:, None] == test.labels
    pairs = torch.ones(40, 40).triu(1).bool()
    for axes, evaluation in zip(figure.axes, (before, after), strict=True):
        gaps = torch.cdist(evaluation.embeddings.double(), evaluation.embeddings.double())
        steps = [patch for patch in axes.patches if isinstance(patch, StepPatch) and patch.get_fill()]
        kinds = [gaps[pairs & same], gaps[pairs & ~same]]
        for step, kind, name in zip(steps, kinds, ("same class", "two classes"), strict=True):
            values, edges, _ = step.get_data()
            widths = torch.from_numpy(edges).diff()
            assert step.get_label() == f"{name}: {len(kind)} pairs"
            counts = (torch.from_numpy(values) * widths * len(kind)).round()
            expected = torch.histogram(kind, torch.from_numpy(edges)).hist
            assert counts.sum() == len(kind) and (counts - expected).abs().sum() <= 4  # rounding at an edge
    assert [axes.get_title().split(",")[0] for axes in figure.axes] == ["before training", "after 12 steps"]


def test_neighbours_are_the_nearest(figures: list[Figure], tmp_path: Path):
    test, evaluation = some(40)
    retrieval.plot_retrieval(test, evaluation, evaluation, "after 1 step", tmp_path / "retrieval.png")
    axes = figures[0].subfigs[0].axes
    for row, query in enumerate(retrieval.chosen_queries(test.labels).tolist()):
        shown = [query, *ranking(evaluation.embeddings, query)[:6]]
        for a, index in zip(axes[7 * row : 7 * row + 7], shown, strict=True):
            assert (a.images[0].get_array() == test.pixels[index, 0].numpy()).all()
