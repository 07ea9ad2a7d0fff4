"""retrieval.png and worst_queries.png: test images with what they find, each row a query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.resnet50.datasets import ImageSet
from examples.resnet50.evaluate import Evaluation
from examples.resnet50.plots.canvas import OTHER, RIGHT, WRONG, draw_image, new_figure, save
from fasttriplet.retrieval import nearest
from fasttriplet.retrieval.metrics import query_batch, query_ranks  # what retrieval_metrics makes means of

_QUERIES, _NEIGHBOURS = 8, 6


def chosen_queries(labels: Tensor) -> Tensor:
    """Eight images, the classes in turn: drawn by a fixed seed, not picked for their looks."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    drawn = labels[order]
    before = torch.tensor([int((drawn[:place] == label).sum()) for place, label in enumerate(drawn)])  # of its class
    chosen = order[before.argsort(stable=True)][:_QUERIES]
    return chosen[labels[chosen].argsort(stable=True)]


def plot_retrieval(test: ImageSet, before: Evaluation, after: Evaluation, when: str, path: Path) -> None:
    """The neighbours before training on the left, after it on the right."""
    queries = chosen_queries(test.labels)
    neighbours = min(_NEIGHBOURS, len(test) - 1)
    figure = new_figure(15, 1.12 * len(queries) + 0.9)
    halves: Any = figure.subfigures(1, 2, wspace=0.03)
    for half, evaluation, title in zip(halves, (before, after), ("before training", when), strict=True):
        rows = evaluation.embeddings
        found = nearest(rows[queries], rows, neighbours, self_indices=queries).indices  # [Q, neighbours]
        right = test.labels[found] == test.labels[queries, None]
        half.suptitle(f"{title}: {int(right.sum())} of {right.numel()} neighbours right", fontsize=12)
        grid = half.subplots(len(queries), 1 + _NEIGHBOURS, squeeze=False)
        for row, query in enumerate(queries.tolist()):
            draw_image(grid[row, 0], test, query, OTHER)
            for column in range(_NEIGHBOURS):
                axes = grid[row, 1 + column]
                if column < neighbours:
                    draw_image(axes, test, int(found[row, column]), RIGHT if right[row, column] else WRONG)
                else:
                    axes.axis("off")
    figure.suptitle(
        "In each row a query (grey) and its nearest test images, nearest first: green is the same class, red another",
        fontsize=13,
    )
    save(figure, path)


def average_precisions(embeddings: Tensor, labels: Tensor) -> Tensor:
    """[M] float64 of each image as a query of the others, over its whole ranking; NaN where its class has no other."""
    ranks = query_ranks(query_batch("average_precisions", embeddings, labels, {}), 0, (), "error")
    return ranks.gain / ranks.positives


def plot_worst_queries(test: ImageSet, evaluation: Evaluation, when: str, path: Path) -> None:
    """Those of the lowest average precision, the lowest first, of classes with another image: the nearest images of
    other classes, and the nearest of its own at the end of the row.
    """
    rows, labels = evaluation.embeddings, test.labels
    precisions = average_precisions(rows, labels)
    order = precisions.argsort(stable=True)  # NaN last
    queries = order[~precisions[order].isnan()][:_QUERIES]
    figure = new_figure(10, 1.3 * max(len(queries), 1) + 1)
    title = (
        f"The worst queries by average precision (AP), {when}: in each row the query (grey),\n"
        "the nearest images of other classes (red) and the nearest of its own (green), with their distances from it"
    )
    figure.suptitle(title if len(queries) else "No test image has another one of its class", fontsize=12)
    grid: Any = figure.subplots(len(queries), 2 + _NEIGHBOURS, squeeze=False) if len(queries) else []
    for panels, query in zip(grid, queries, strict=True):
        found = nearest(rows[query, None], rows, len(rows) - 1, self_indices=query[None])  # the whole ranking
        same = labels[found.indices[0]] == labels[query]
        first = int(same.int().argmax())
        wrong = (~same).nonzero()[:_NEIGHBOURS, 0].tolist()
        draw_image(panels[0], test, int(query), OTHER, f"\nAP {precisions[query]:.3f}")
        for axes, place in zip(panels[1:], wrong, strict=False):
            draw_image(axes, test, int(found.indices[0, place]), WRONG, f"\n{found.distances[0, place]:.3f}")
        for axes in panels[1 + len(wrong) : -1]:
            axes.axis("off")
        text = f"\n{found.distances[0, first]:.3f}, rank {first + 1}"
        draw_image(panels[-1], test, int(found.indices[0, first]), RIGHT, text)
    save(figure, path)
