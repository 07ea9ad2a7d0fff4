"""distances.png: how far apart test images of one class are, and those of two, before and after training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from examples.resnet50.datasets import ImageSet
from examples.resnet50.evaluate import Evaluation
from examples.resnet50.plots.canvas import RIGHT, WRONG, new_figure, save

_BINS = 80


def _draw_kind(axes: Axes, counts: np.ndarray, edges: np.ndarray, label: str, colour: str) -> None:
    """As a density, since there are many more negative pairs than positive ones."""
    total = counts.sum()
    density = counts / (max(total, 1) * np.diff(edges))
    axes.stairs(density, edges, fill=True, color=colour, alpha=0.45, label=label)
    axes.stairs(density, edges, color=colour, linewidth=1.2)


def plot_distances(test: ImageSet, before: Evaluation, after: Evaluation, when: str, path: Path) -> None:
    """One axis of distances for both halves."""
    from fasttriplet.retrieval import retrieval_metrics

    figure = new_figure(9, 6.4)
    panels = figure.subplots(2, 1, sharex=True)
    for axes, evaluation, title in zip(panels, (before, after), ("before training", when), strict=True):
        found = retrieval_metrics(evaluation.embeddings, test.labels, at=(), histograms=True, bins=_BINS).histograms
        assert found is not None
        edges = found.edges.numpy()
        for counts, exist, sampled, label, colour in (
            (found.positives, found.positive_pairs, found.sampled_positives, "same class", RIGHT),
            (found.negatives, found.negative_pairs, found.sampled_negatives, "two classes", WRONG),
        ):
            drawn = f"{exist:,} pairs" if sampled == exist else f"{sampled:,} of {exist:,} pairs"
            _draw_kind(axes, counts.numpy(), edges, f"{label}: {drawn}", colour)
        axes.set_title(f"{title}, map_at_r {evaluation.metrics['map_at_r']:.3f}")
        axes.set_ylabel("density")
        axes.legend(fontsize=9)
        axes.grid(alpha=0.3)
    panels[1].set_xlabel("Euclidean distance of two embeddings")
    figure.suptitle("Distances of the test images: the less the two overlap, the better classes are told apart")
    save(figure, path)
