"""The report's plots: time and memory against N, and small batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.cases import OURS, YARDSTICK, shape_name

LABELS = {YARDSTICK: "torch.mm(X, X.T) alone"}
#: Distinct without colour too: ours is the only thick line, the yardstick the only dashed one.
COLOURS = ("#4c72b0", "#8172b3", "#55a868", "#937860", "#64b5cd", "#da8bc3", "#8c8c8c")
OURS_COLOUR, YARDSTICK_COLOUR = "#c44e52", "#222222"


def _style(name: str, number: int) -> dict[str, Any]:
    if name == OURS:
        return {"color": OURS_COLOUR, "linewidth": 3, "marker": "o", "zorder": 5}
    if name == YARDSTICK:
        return {"color": YARDSTICK_COLOUR, "linestyle": "--", "linewidth": 1.5}
    return {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.5, "marker": ".s^DvPX"[number % 7], "markersize": 5}


def _lines(series: dict[str, dict[int, float]], unit: str, title: str, path: Path) -> None:
    """Log-log lines over N, at D = 128."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    others = [name for name in series if name not in (OURS, YARDSTICK)]
    for name, values in series.items():
        number = others.index(name) if name in others else 0
        axes.plot(list(values), list(values.values()), label=LABELS.get(name, name), **_style(name, number))
    sizes = sorted({n for values in series.values() for n in values})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set(xlabel="N, rows of the batch (D = 128)", ylabel=unit, title=title)
    axes.grid(which="major", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_times(rows: list[dict[str, Any]], path: Path, where: str = "") -> None:
    """``where`` ends the title: the device, where it is not the machine of the report."""
    series: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, spread in row["milliseconds"].items():
            series.setdefault(name, {})[row["n"]] = spread.median
    title = "Batch-hard triplet loss, forward + backward" + (f", {where}" if where else "")
    _lines(series, "milliseconds", title, path)


def plot_memory(memory: dict[str, dict[int, float]], path: Path) -> None:
    _lines(memory, "MiB added at the peak", "Memory of one forward + backward, gradient included", path)


def plot_small(rows: list[dict[str, Any]], path: Path) -> None:
    """Grouped bars, one group a size."""
    names = list(rows[0]["milliseconds"])
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    width = 0.8 / len(names)
    others = [name for name in names if name not in (OURS, YARDSTICK)]
    for place, name in enumerate(names):
        colour = {OURS: OURS_COLOUR, YARDSTICK: YARDSTICK_COLOUR}.get(name)
        colour = colour or COLOURS[others.index(name) % len(COLOURS)]
        heights = [1e3 * row["milliseconds"][name].median for row in rows]
        places = [group + place * width for group in range(len(rows))]
        bars = axes.bar(places, heights, width * 0.92, label=LABELS.get(name, name), color=colour)
        axes.bar_label(bars, [f"{height:.0f}" for height in heights], fontsize=7, padding=1)
    middle = (len(names) - 1) * width / 2
    axes.set_xticks([group + middle for group in range(len(rows))], [shape_name(row["n"], row["d"]) for row in rows])
    axes.set_yscale("log")
    axes.set(xlabel="N x D", ylabel="microseconds", title="Small batches, forward + backward")
    axes.legend(frameon=False, fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
