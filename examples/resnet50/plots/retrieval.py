"""retrieval.png: test images with their nearest neighbours, before and after training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from examples.resnet50.datasets import ImageSet
from examples.resnet50.evaluate import Evaluation
from examples.resnet50.metrics import nearest
from examples.resnet50.plots.canvas import OTHER, RIGHT, WRONG, new_figure, save

_QUERIES, _NEIGHBOURS = 8, 6
_COLUMNS = 1 + _NEIGHBOURS
_LONGEST = 15  # letters of a class name above a picture


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


def _short(name: str) -> str:
    """``Japanese_(katakana)/character11`` becomes ``Japane… 11``: the beginning and the end tell classes apart."""
    name = name.replace("/character", " ")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 6]}…{name[-3:]}"


def _draw(axes: Axes, image: Tensor, name: str, colour: str) -> None:
    """``image`` [C, S, S] in a frame of ``colour``."""
    array: np.ndarray = image.permute(1, 2, 0).numpy()
    axes.imshow(array.squeeze(2) if array.shape[2] == 1 else array, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(name, fontsize=7, color=colour, pad=3)
    for spine in axes.spines.values():
        spine.set_edgecolor(colour)
        spine.set_linewidth(3)


def plot_retrieval(test: ImageSet, before: Evaluation, after: Evaluation, step: int, path: Path) -> None:
    """A row per query: the neighbours before training on the left, after it on the right."""
    queries = chosen_queries(test.labels)
    neighbours = min(_NEIGHBOURS, len(test) - 1)
    figure = new_figure(15, 1.12 * len(queries) + 0.9)
    halves = figure.subfigures(1, 2, wspace=0.03)
    for half, evaluation, when in zip(halves, (before, after), ("before training", f"after {step} steps"), strict=True):
        found = nearest(evaluation.embeddings, queries)[:, :neighbours]  # [Q, neighbours]
        right = test.labels[found] == test.labels[queries, None]
        half.suptitle(f"{when}: {int(right.sum())} of {right.numel()} neighbours right", fontsize=12)
        grid = half.subplots(len(queries), _COLUMNS, squeeze=False)
        for row, query in enumerate(queries.tolist()):
            _draw(grid[row, 0], test.pixels[query], _short(test.classes[test.labels[query]]), OTHER)
            for column in range(neighbours):
                index = int(found[row, column])
                name = _short(test.classes[test.labels[index]])
                _draw(grid[row, column + 1], test.pixels[index], name, RIGHT if right[row, column] else WRONG)
            for column in range(neighbours, _NEIGHBOURS):
                grid[row, column + 1].axis("off")
    figure.suptitle(
        "In each row a query (grey) and its nearest test images, nearest first: green is the same class, red another",
        fontsize=13,
    )
    save(figure, path)
