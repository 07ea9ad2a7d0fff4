"""embeddings.png: the test images in two dimensions, before and after training."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from torch import Tensor

from examples.resnet50.datasets import ImageSet
from examples.resnet50.evaluate import Evaluation
from examples.resnet50.plots.canvas import new_figure, save

_SHOWN = 10  # classes: more colours than that cannot be told apart


def principal_plane(embeddings: Tensor) -> tuple[Tensor, float]:
    """[M, 2] coordinates along the two directions of largest variance, and the share of the variance they carry."""
    centred = embeddings.double() - embeddings.double().mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    plane = torch.zeros(len(embeddings), 2, dtype=torch.float64)
    found = min(2, len(values))
    plane[:, :found] = centred @ directions[:found].T
    total = values.square().sum().item()
    return plane, (values[:2].square().sum().item() / total if total else 0.0)


def _shown_classes(test: ImageSet) -> list[int]:
    """All classes, or ten of them spread evenly over the list, which is sorted by alphabet or name."""
    number = len(test.classes)
    if number <= _SHOWN:
        return list(range(number))
    return [round(i * (number - 1) / (_SHOWN - 1)) for i in range(_SHOWN)]


def plot_embeddings(test: ImageSet, before: Evaluation, after: Evaluation, when: str, path: Path) -> None:
    """Each half has its own principal plane, of the shown classes only."""
    classes = _shown_classes(test)
    keep = torch.isin(test.labels, torch.tensor(classes))
    labels = test.labels[keep]
    palette = matplotlib.colormaps["tab10"]
    figure = new_figure(12, 6.2)
    panels = figure.subplots(1, 2)
    for axes, evaluation, title in zip(panels, (before, after), ("before training", when), strict=True):
        plane, share = principal_plane(evaluation.embeddings[keep])
        for colour, label in enumerate(classes):
            points = plane[labels == label]
            axes.scatter(points[:, 0], points[:, 1], s=16, alpha=0.75, color=palette(colour), label=test.classes[label])
        metrics = evaluation.metrics
        axes.set_title(f"{title}\nmap_at_r {metrics['map_at_r']:.3f}, hit_rate@1 {metrics['hit_rate@1']:.3f}")
        axes.set_xlabel(f"two principal components, {share:.0%} of the variance")
        axes.set_aspect("equal", adjustable="datalim")
        axes.grid(alpha=0.3)
    shown = "" if len(classes) == len(test.classes) else f", {len(classes)} of {len(test.classes)} classes drawn"
    figure.suptitle(f"Embeddings of the test images{shown}")
    handles, texts = panels[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=5, fontsize=9, title="test class")
    save(figure, path)
