"""retrieval.png: test images with their nearest neighbours, before and after training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from examples.resnet50.datasets import ImageSet
from examples.resnet50.evaluate import Evaluation
from examples.resnet50.plots.canvas import OTHER, RIGHT, WRONG, draw_image, new_figure, save, short

_QUERIES, _NEIGHBOURS = 8, 6
_COLUMNS = 1 + _NEIGHBOURS


def chosen_queries(labels: Tensor) -> Tensor:
    """Eight images, the classes in turn: drawn by a fixed seed, not picked for their looks."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    position = torch.zeros(len(labels), dtype=torch.int64)  # how often the class came before, in that order
    seen: dict[int, int] = {}
    for index in order.tolist():
        label = int(labels[index])
        position[index] = seen.get(label, 0)
        seen[label] = seen.get(label, 0) + 1
    chosen = order[position[order].argsort(stable=True)][:_QUERIES]
    return chosen[labels[chosen].argsort(stable=True)]


def plot_retrieval(test: ImageSet, before: Evaluation, after: Evaluation, when: str, path: Path) -> None:
    """A row per query: the neighbours before training on the left, after it on the right."""
    from fasttriplet.retrieval import nearest  # on use, as everywhere in the example

    queries = chosen_queries(test.labels)
    neighbours = min(_NEIGHBOURS, len(test) - 1)
    figure = new_figure(15, 1.12 * len(queries) + 0.9)
    halves = figure.subfigures(1, 2, wspace=0.03)
    for half, evaluation, title in zip(halves, (before, after), ("before training", when), strict=True):
        rows = evaluation.embeddings
        found = nearest(rows[queries], rows, neighbours, self_indices=queries).indices  # [Q, neighbours]
        right = test.labels[found] == test.labels[queries, None]
        half.suptitle(f"{title}: {int(right.sum())} of {right.numel()} neighbours right", fontsize=12)
        grid = half.subplots(len(queries), _COLUMNS, squeeze=False)
        for row, query in enumerate(queries.tolist()):
            draw_image(grid[row, 0], test.pixels[query], short(test.classes[test.labels[query]]), OTHER)
            for column in range(neighbours):
                index = int(found[row, column])
                name = short(test.classes[test.labels[index]])
                draw_image(grid[row, column + 1], test.pixels[index], name, RIGHT if right[row, column] else WRONG)
            for column in range(neighbours, _NEIGHBOURS):
                grid[row, column + 1].axis("off")
    figure.suptitle(
        "In each row a query (grey) and its nearest test images, nearest first: green is the same class, red another",
        fontsize=13,
    )
    save(figure, path)
