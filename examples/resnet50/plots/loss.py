"""loss.png: the loss over the steps, and for two copies how far they are apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from examples.resnet50.agreement import COPIES_LOSS, SAME_GRADIENT, SAME_LOSS, TOLERANCE
from examples.resnet50.plots.canvas import FUSED, OTHER, REFERENCE, new_figure, save
from examples.resnet50.record import Row

_LEAST = 1e-9  # a difference of 0 has no place on a logarithmic axis: it is drawn here


def _column(history: list[Row], key: str) -> np.ndarray:
    return np.array([row[key] for row in history])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a twentieth of the run, shorter at the ends."""
    width = max(1, len(values) // 20)
    sums, counts = (np.convolve(v, np.ones(width), mode="same") for v in (values, np.ones_like(values)))
    return sums / counts


def _draw_differences(axes: Axes, steps: np.ndarray, history: list[Row], held: int) -> None:
    for key, label, colour, style in (
        (COPIES_LOSS, "losses of the two copies", OTHER, "-"),
        (SAME_LOSS, "loss on the same embeddings", FUSED, "-"),
        (SAME_GRADIENT, "gradient on the same embeddings", REFERENCE, "-"),
    ):
        axes.plot(steps, np.maximum(_column(history, key), _LEAST), style, color=colour, label=label, linewidth=1.2)
    axes.axhline(TOLERANCE, color="red", linestyle=":", label=f"tolerance {TOLERANCE:.0e}")
    axes.axvspan(0.5, held + 0.5, color="red", alpha=0.12, label="steps in which copies must agree")
    axes.set_yscale("log")
    axes.set_ylim(_LEAST / 2, 10)
    axes.set_ylabel("relative difference")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    axes.grid(alpha=0.3)


def plot_loss(history: list[Row], title: str, held: int, path: Path) -> None:
    """Draws ``history``, one row per step and at least one; in the first ``held`` steps two copies had to agree."""
    names = [key.removeprefix("loss_") for key in history[0] if key.startswith("loss_")]
    both = len(names) == 2
    steps = _column(history, "step")
    figure = new_figure(10, 7.5 if both else 6)
    panels = figure.subplots(3 if both else 2, 1, sharex=True, height_ratios=[3, 1.3, 2.2] if both else [3, 1.3])
    # The wide pale line below and the thin dashed one on it both show where the two coincide.
    styles = (("-", 5.0, 0.45, FUSED), ("--", 1.4, 1.0, REFERENCE)) if both else (("-", 1.0, 0.5, FUSED),)
    for name, (style, width, alpha, colour) in zip(names, styles, strict=True):
        loss = _column(history, f"loss_{name}")
        panels[0].plot(steps, loss, style, linewidth=width, alpha=alpha, color=colour, label=name)
        if not both:
            panels[0].plot(steps, _smoothed(loss), color=FUSED, linewidth=2.2, label=f"{name}, smoothed")
        active = 100 * _column(history, f"active_{name}")
        panels[1].plot(steps, active, style, linewidth=width, alpha=alpha, color=colour)
    panels[0].set_title(title)
    panels[0].set_ylabel("batch-hard triplet loss")
    panels[0].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    panels[1].set_ylabel("active anchors, %")
    panels[1].set_ylim(-4, 104)
    for axes in panels[:2]:
        axes.grid(alpha=0.3)
    if both:
        _draw_differences(panels[2], steps, history, held)
    panels[-1].set_xlabel("step")
    save(figure, path)
