"""worst_queries.png: the test images that retrieve worst, what they find instead of their class, and how far it is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from examples.resnet50.datasets import ImageSet
from examples.resnet50.evaluate import Evaluation
from examples.resnet50.plots.canvas import OTHER, RIGHT, WRONG, draw_image, new_figure, save, short

_QUERIES, _WRONG = 8, 6


class WorstQuery(NamedTuple):
    """An image of the lowest average precision, and its nearest others."""

    query: int
    average_precision: float
    wrong: list[tuple[int, float]]  # index and distance of the nearest of other classes, nearest first
    right: tuple[int, float]  # of the nearest of its class
    rank: int  # that one's


def average_precisions(embeddings: Tensor, labels: Tensor) -> Tensor:
    """[M] float64 of each image as a query of the others, over its whole ranking; NaN where its class has no other."""
    from fasttriplet.retrieval.metrics import query_batch, query_ranks  # what retrieval_metrics makes means of

    ranks = query_ranks(query_batch("average_precisions", embeddings, labels, {}), 0, (), "error")
    return ranks.gain / ranks.positives


def worst_queries(embeddings: Tensor, labels: Tensor, number: int = _QUERIES) -> list[WorstQuery]:
    """The ``number`` queries of lowest average precision, the lowest first, ties by index; those without another image
    of their class are left out.
    """
    from fasttriplet.retrieval import nearest

    precisions = average_precisions(embeddings, labels)
    order = precisions.argsort(stable=True)  # NaN last
    chosen = order[~precisions[order].isnan()][:number]
    if not len(chosen):
        return []
    found = nearest(embeddings[chosen], embeddings, len(labels) - 1, self_indices=chosen)  # all of the ranking
    same = labels[found.indices] == labels[chosen, None]
    worst = []
    for row, query in enumerate(chosen.tolist()):
        ranking = list(zip(found.indices[row].tolist(), found.distances[row].tolist(), strict=True))
        rank = int(same[row].int().argmax())
        wrong = [ranking[place] for place in torch.nonzero(~same[row])[:_WRONG, 0].tolist()]
        worst.append(WorstQuery(query, precisions[query].item(), wrong, ranking[rank], rank + 1))
    return worst


def plot_worst_queries(test: ImageSet, evaluation: Evaluation, when: str, path: Path) -> None:
    """A row per query: itself, its nearest images of other classes, its nearest of its own class."""
    worst = worst_queries(evaluation.embeddings, test.labels)
    columns = 2 + _WRONG
    figure = new_figure(10, 1.3 * max(len(worst), 1) + 1)
    title = (
        f"The worst queries by average precision (AP), {when}: in each row the query (grey),\n"
        "the nearest images of other classes (red) and the nearest of its own (green), with their distances from it"
    )
    figure.suptitle(title if worst else "No test image has another one of its class", fontsize=12)

    def name(index: int) -> str:
        return short(test.classes[test.labels[index]])

    if worst:
        grid = figure.subplots(len(worst), columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
    for row, shown in enumerate(worst):
        drawn = [(0, shown.query, f"{name(shown.query)}\nAP {shown.average_precision:.3f}", OTHER)]
        drawn += [
            (1 + place, index, f"{name(index)}\n{distance:.3f}", WRONG)
            for place, (index, distance) in enumerate(shown.wrong)
        ]
        index, distance = shown.right
        drawn.append((columns - 1, index, f"{name(index)}\n{distance:.3f}, rank {shown.rank}", RIGHT))
        for column, index, text, colour in drawn:
            grid[row, column].axis("on")
            draw_image(grid[row, column], test.pixels[index], text, colour)
    save(figure, path)
