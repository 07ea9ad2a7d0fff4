"""embeddings.png and distances.png: how the test images lie, before and after training."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from examples.resnet50.datasets import ImageSet, Split
from examples.resnet50.evaluate import Evaluation
from examples.resnet50.plots.canvas import RIGHT, WRONG, in_figures, new_figure, save, short
from fasttriplet.retrieval import retrieval_metrics

_SHOWN = 10  # classes: more colours than that cannot be told apart
_POINTS = 1000  # of t-SNE, which takes seconds for these
_BINS = 80


def in_two_dimensions(embeddings: Tensor) -> np.ndarray:
    """[M, 2] by scikit-learn's t-SNE from the principal axes, so that it is the same every time."""
    from sklearn.manifold import TSNE  # here: it takes a second

    rows = embeddings.double().numpy()
    if len(rows) < 4 or rows.shape[1] < 2 or (rows == rows[0]).all():
        return np.zeros((len(rows), 2))  # too few to arrange, or one point, by which scikit-learn divides
    return TSNE(perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=0).fit_transform(rows)


def plot_embeddings(split: Split, before: Evaluation, after: Evaluation, when: str, path: Path) -> None:
    """Each half is arranged by itself; of more than a thousand images every n-th is shown."""
    test, unseen = split.test, split.unseen_classes
    number = len(test.classes)
    tested = test.labels.unique().numpy()  # --test-limit may leave none of a class
    classes = tested[np.unique(np.linspace(0, len(tested) - 1, _SHOWN).round()).astype(int)]  # evenly, by name
    keep = torch.isin(test.labels, torch.from_numpy(classes)).nonzero()[:, 0]
    keep = keep[:: -(-len(keep) // _POINTS)]
    labels = test.labels[keep].numpy()
    figure = new_figure(12, 6.4)
    panels = figure.subplots(1, 2)
    for axes, evaluation, title in zip(panels, (before, after), ("before training", when), strict=True):
        plane = in_two_dimensions(evaluation.embeddings[keep])
        for place, label in enumerate(classes):
            points, name = plane[labels == label], test.classes[label]
            look = {"color": matplotlib.colormaps["tab10"](place), "marker": "x" if name in unseen else "o"}
            axes.scatter(*points.T, s=16, alpha=0.75, label=short(name), **look)
        axes.set_title(f"{title}\n{in_figures(evaluation, 'map_at_r', 'hit_rate@1')}")
        axes.set_xticks([])
        axes.set_yticks([])
    shown = "" if len(classes) == number else f", {len(classes)} of {number} classes drawn"
    figure.suptitle(f"Embeddings of the test images in two dimensions (t-SNE){shown}")
    handles, texts = panels[0].get_legend_handles_labels()
    columns = 10 if max(map(len, texts)) < 8 else 5
    title = "test class" + ("; those with crosses were not trained on" if unseen else "")
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, fontsize=9, title=title)
    save(figure, path)


def plot_distances(test: ImageSet, before: Evaluation, after: Evaluation, when: str, path: Path) -> None:
    """Of pairs in one class and in two, on one axis of distances for both halves."""
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
            # As a density, since there are many more negative pairs than positive ones.
            density = counts.numpy() / (max(counts.sum().item(), 1) * np.diff(edges))
            axes.stairs(density, edges, fill=True, color=colour, alpha=0.45, label=f"{label}: {drawn}")
            axes.stairs(density, edges, color=colour, linewidth=1.2)
        axes.set_title(f"{title}: {in_figures(evaluation, 'map_at_r')}")
        axes.set_ylabel("density")
        axes.legend(fontsize=9)
        axes.grid(alpha=0.3)
    panels[1].set_xlabel("Euclidean distance of two embeddings")
    figure.suptitle("Distances of the test images: the less the two overlap, the better classes are told apart")
    save(figure, path)
