"""What the pictures show: the queries that are worst by definition, every pair once, the steps of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from examples.resnet50.agreement import COPIES_LOSS, SAME_GRADIENT, SAME_LOSS
from examples.resnet50.datasets import ImageSet, Split
from examples.resnet50.evaluate import MEASURES, Evaluation
from examples.resnet50.plots import (
    loss,
    neighbours,
    plot_distances,
    plot_embeddings,
    plot_loss,
    plot_retrieval,
    plot_worst_queries,
    space,
)
from examples.resnet50.plots.neighbours import average_precisions, chosen_queries

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
    for module in (space, neighbours, loss):
        monkeypatch.setattr(module, "save", lambda figure, path: kept.append(figure))
    return kept


@pytest.mark.parametrize("number", [2, 9, 40, 300])
def test_average_precisions_are_those_of_the_definition(number: int):
    test, evaluation = some(number)
    test.labels[0], embeddings = 0, evaluation.embeddings
    test.labels[1:][test.labels[1:] == 0] = 1  # the first image is the only one of its class, and no query
    expected = [average_precision(embeddings, test.labels, query) for query in range(number)]
    found = average_precisions(embeddings, test.labels)
    assert [None if value != value else pytest.approx(value) for value in found.tolist()] == expected


def test_a_row_of_the_worst_is_a_query_with_what_it_finds(figures: list[Figure], tmp_path: Path):
    test, evaluation = some(40)
    test.labels[:6], embeddings = torch.tensor([0, 1, 2, 3, 0, 0]), evaluation.embeddings
    plot_worst_queries(test, evaluation, "after 12 steps", tmp_path / "worst_queries.png")
    (figure,) = figures
    precisions = {query: average_precision(embeddings, test.labels, query) for query in range(40)}
    worst = sorted((value, query) for query, value in precisions.items() if value is not None)[:8]
    assert len(figure.axes) == 8 * 8
    for row, (precision, query) in enumerate(worst):
        axes = figure.axes[8 * row : 8 * row + 8]
        others = ranking(embeddings, query)
        same = [bool(test.labels[i] == test.labels[query]) for i in others]
        wrong = [index for index, hit in zip(others, same, strict=True) if not hit][:6]
        right = others[same.index(True)]
        shown = [query, *wrong, right]
        gaps = [(embeddings[index] - embeddings[query]).norm().item() for index in shown]
        assert [test.classes[test.labels[index]] for index in shown] == [a.get_title().split("\n")[0] for a in axes]
        for a, index in zip(axes, shown, strict=True):
            assert (a.images[0].get_array() == test.pixels[index, 0].numpy()).all()
        assert axes[0].get_title().endswith(f"AP {precision:.3f}")
        assert [a.get_title().split("\n")[1] for a in axes[1:7]] == [f"{gap:.3f}" for gap in gaps[1:7]]
        assert axes[7].get_title().endswith(f"{gaps[7]:.3f}, rank {same.index(True) + 1}")


@pytest.mark.parametrize(("number", "classes", "rows"), [(4, 4, 0), (3, 2, 2), (2, 1, 2)])
def test_few_images_are_drawn_too(figures: list[Figure], tmp_path: Path, number: int, classes: int, rows: int):
    """Each its own class; a class with one image; one class alone."""
    test, evaluation = some(number, torch.arange(number) % classes)
    plot_worst_queries(test, evaluation, "after 1 step", tmp_path / "worst_queries.png")
    plot_distances(test, evaluation, evaluation, "after 1 step", tmp_path / "distances.png")
    plot_retrieval(test, evaluation, evaluation, "after 1 step", tmp_path / "retrieval.png")
    split = Split(test, test, mirrored=False)
    plot_embeddings(split, evaluation, evaluation, "after 1 step", tmp_path / "embeddings.png")
    assert len(figures) == 4 and len(figures[0].axes) == 8 * rows
    for figure in figures:
        figure.canvas.draw()
    assert ("No test image" in figures[0].get_suptitle()) == (rows == 0)


def test_the_histograms_have_every_pair_once_before_and_after(figures: list[Figure], tmp_path: Path):
    test, before = some(40)
    after = Evaluation(torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), before.metrics)
    plot_distances(test, before, after, "after 12 steps", tmp_path / "distances.png")
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
    assert [axes.get_title().split(":")[0] for axes in figure.axes] == ["before training", "after 12 steps"]


def test_neighbours_are_the_nearest(figures: list[Figure], tmp_path: Path):
    test, evaluation = some(40)
    plot_retrieval(test, evaluation, evaluation, "after 1 step", tmp_path / "retrieval.png")
    axes = figures[0].subfigs[0].axes
    for row, query in enumerate(chosen_queries(test.labels).tolist()):
        shown = [query, *ranking(evaluation.embeddings, query)[:6]]
        for a, index in zip(axes[7 * row : 7 * row + 7], shown, strict=True):
            assert (a.images[0].get_array() == test.pixels[index, 0].numpy()).all()


def test_embeddings_are_drawn_by_class_with_what_they_are_worth(figures: list[Figure], tmp_path: Path):
    test, before = some(40)
    after = Evaluation(before.embeddings + 1, {**dict.fromkeys(MEASURES, 0.75), "unseen_map_at_r": 0.125})
    train = ImageSet(test.pixels[:3], torch.arange(3), ("cat", "ant", "eel"))
    plot_embeddings(Split(train, test, mirrored=False), before, after, "after 12 steps", tmp_path / "embeddings.png")
    assert figures[0].legends[0].get_title().get_text() == "test class; those with crosses were not trained on"
    for axes in figures[0].axes:
        crosses = [points.get_label() for points in axes.collections if len(points.get_paths()[0].vertices) == 4]
        assert crosses == ["bee", "dog"]
        drawn = {points.get_label(): len(points.get_offsets()) for points in axes.collections}
        assert drawn == {name: int((test.labels == label).sum()) for label, name in enumerate(CLASSES)}
    assert [axes.get_title() for axes in figures[0].axes] == [
        "before training\nmap_at_r 0.500, hit_rate@1 0.500",
        "after 12 steps\nmap_at_r 0.750, hit_rate@1 0.750 (unseen classes 0.125)",
    ]
    many = ImageSet(test.pixels, torch.arange(40), tuple(f"a class by a long name {i:02}" for i in range(40)))
    plot_embeddings(Split(train, many, mirrored=False), before, before, "after 12 steps", tmp_path / "embeddings.png")
    assert figures[1].legends[0].get_title().get_text() == "test class"  # none of them was
    names = [points.get_label() for points in figures[1].axes[0].collections]
    assert len(names) == 10 and names[0] == "a class b… 00" and names[-1] == "a class b… 39"
    assert figures[1].get_suptitle().endswith("10 of 40 classes drawn")
    figures[1].canvas.draw()
    box, canvas = figures[1].legends[0].get_window_extent(), figures[1].bbox
    assert box.x0 >= 0 and box.x1 <= canvas.x1 and box.y0 >= 0  # not cut


@pytest.mark.parametrize("checked", [False, True])
def test_the_steps_of_a_run_are_drawn(figures: list[Figure], tmp_path: Path, checked: bool):
    history = []
    for step in range(1, 8):
        row = {"step": step, "loss_fused": 1 / step, "active_fused": 0.5}
        row |= {"positive_distance_fused": 1.0 + step, "negative_distance_fused": 1.5}
        if checked:
            row |= {SAME_LOSS: 0.0, SAME_GRADIENT: 1e-7}
        if checked and step < 4:  # the second copy is there for three steps
            row |= {"loss_reference": 2 / step, COPIES_LOSS: 1e-6}
        history.append(row)
    plot_loss(history, "title", 2, tmp_path / "loss.png")
    panels = figures[0].axes
    lines = [{line.get_label(): line.get_ydata() for line in axes.lines} for axes in panels]
    assert len(panels) == (4 if checked else 3)
    assert list(lines[0]["fused"]) == [row["loss_fused"] for row in history]
    assert list(lines[1]["with a loss above 0"]) == [50.0] * 7
    assert list(lines[2]["to mined positives"]) == [row["positive_distance_fused"] for row in history]
    assert list(lines[2]["to mined negatives"]) == [1.5] * 7
    if checked:
        assert list(lines[0]["reference"][:3]) == [2, 1, 2 / 3] and all(y != y for y in lines[0]["reference"][3:])
        assert list(lines[3]["losses of two copies"][:3]) == [1e-6] * 3
        assert list(lines[3]["loss on the same embeddings"]) == [1e-9] * 7  # 0 has no place on the axis
        assert list(lines[3]["gradient on the same embeddings"]) == [1e-7] * 7
    figures[0].canvas.draw()


@pytest.mark.parametrize("tested", [range(5), range(600, 659, 7)])
def test_classes_that_have_test_images_are_drawn(figures: list[Figure], tmp_path: Path, tested: range):
    """Of many, as --test-limit leaves them."""
    labels = torch.tensor(list(tested)).repeat_interleave(2)
    _, evaluation = some(len(labels))
    test = ImageSet(
        torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels, tuple(f"class{n:03}" for n in range(659))
    )
    plot_embeddings(Split(test, test, mirrored=False), evaluation, evaluation, "after", tmp_path / "x.png")
    drawn = [text.get_text() for text in figures[-1].legends[0].get_texts()]
    assert drawn == [f"class{n:03}" for n in tested]
