"""Figures that are written to a file and never shown, so that no display is needed."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from examples.resnet50.datasets import ImageSet
from examples.resnet50.evaluate import UNSEEN, Evaluation

FUSED, REFERENCE, OTHER = "#1f77b4", "#d95f02", "#444444"
RIGHT, WRONG = "#1a9641", "#d7191c"
_LONGEST = 15  # letters of a class name above a picture


def new_figure(width: float, height: float) -> Figure:
    """In inches, 120 dots each."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """As PNG."""
    figure.savefig(path, facecolor="white")


def in_figures(evaluation: Evaluation, *names: str) -> str:
    """Metrics by their names; those of classes that were not trained on beside them."""
    found = evaluation.metrics
    text = ", ".join(f"{name} {found[name]:.3f}" for name in names)
    unseen = [f"{found[f'{UNSEEN}{name}']:.3f}" for name in names if f"{UNSEEN}{name}" in found]
    return text + (f" (unseen classes {', '.join(unseen)})" if unseen else "")


def short(name: str) -> str:
    """``Japanese_(katakana)/character11`` becomes ``Japanese_… 11``: beginning and end tell classes apart."""
    name = name.replace("/character", " ")
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 6]}…{name[-3:]}"


def draw_image(axes: Axes, images: ImageSet, index: int, colour: str, below: str = "") -> None:
    """The image at ``index`` in a frame of ``colour``, above it its class and what is ``below`` that."""
    array = images.pixels[index].permute(1, 2, 0).numpy()
    axes.imshow(array.squeeze(2) if array.shape[2] == 1 else array, cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(short(images.classes[images.labels[index]]) + below, fontsize=7, color=colour, pad=3)
    for spine in axes.spines.values():
        spine.set_edgecolor(colour)
        spine.set_linewidth(3)
