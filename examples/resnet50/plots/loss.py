"""loss.png: over the steps the loss, the active share, distances of positives and negatives, and the check of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from examples.resnet50.agreement import COPIES_LOSS, SAME_GRADIENT, SAME_LOSS, TOLERANCE
from examples.resnet50.plots.canvas import FUSED, OTHER, REFERENCE, RIGHT, WRONG, new_figure, save
from examples.resnet50.telemetry import Row

_LEAST = 1e-9  # a difference of 0 has no place on a logarithmic axis: it is drawn here


def _column(history: list[Row], key: str) -> np.ndarray:
    """NaN in steps without it, which draws nothing."""
    return np.array([row.get(key, np.nan) for row in history])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a window of a twentieth of the run, shorter at the ends."""
    width = max(1, len(values) // 20)
    sums, counts = (np.convolve(v, np.ones(width), mode="same") for v in (values, np.ones_like(values)))
    return sums / counts


def _draw(axes: Axes, steps: np.ndarray, values: np.ndarray, label: str, colour: str) -> None:
    """Every step pale, and smoothed."""
    axes.plot(steps, values, linewidth=1, alpha=0.4, color=colour)
    axes.plot(steps, _smoothed(values), linewidth=2, color=colour, label=label)


def _draw_differences(axes: Axes, steps: np.ndarray, history: list[Row], held: int) -> None:
    for key, label, colour in (
        (COPIES_LOSS, "losses of two copies", OTHER),
        (SAME_LOSS, "loss on the same embeddings", FUSED),
        (SAME_GRADIENT, "gradient on the same embeddings", REFERENCE),
    ):
        axes.plot(steps, np.maximum(_column(history, key), _LEAST), color=colour, label=label, linewidth=1.2)
    axes.axhline(TOLERANCE, color="red", linestyle=":", label=f"tolerance {TOLERANCE:.0e}")
    axes.axvspan(0.5, held + 0.5, color="red", alpha=0.12, label="steps in which copies must agree")
    axes.set_yscale("log")
    axes.set_ylim(_LEAST / 2, 10)
    axes.set_ylabel("fused and reference,\nrelative difference")


def plot_loss(history: list[Row], title: str, held: int, path: Path) -> None:
    """Draws ``history``, one row per step and at least one; in the first ``held`` steps two copies had to agree."""
    names = [key.removeprefix("loss_") for key in history[0] if key.startswith("loss_")]
    steps, checked = _column(history, "step"), SAME_LOSS in history[0]
    heights = [2.4, 1.3, 2.0, 2.0][: 4 if checked else 3]
    figure = new_figure(10, 1.9 + 1.15 * sum(heights))
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _draw(panels[0], steps, _column(history, f"loss_{names[0]}"), names[0], FUSED)
    for name in names[1:]:  # on the first, which it covers where the two coincide
        panels[0].plot(steps, _column(history, f"loss_{name}"), "--", linewidth=1.4, color=REFERENCE, label=name)
    panels[0].set_title(title)
    panels[0].set_ylabel("loss")
    _draw(panels[1], steps, 100 * _column(history, f"active_{names[0]}"), "with a loss above 0", OTHER)
    panels[1].set_ylabel("triplets, %")
    panels[1].set_ylim(-4, 104)
    _draw(panels[2], steps, _column(history, f"positive_distance_{names[0]}"), "to mined positives", RIGHT)
    _draw(panels[2], steps, _column(history, f"negative_distance_{names[0]}"), "to mined negatives", WRONG)
    panels[2].set_ylabel("mean distance")
    if checked:
        _draw_differences(panels[3], steps, history, held)
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_xlabel("step")
    save(figure, path)
