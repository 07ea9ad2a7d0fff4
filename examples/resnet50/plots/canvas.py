"""Figures that are written to a file and never shown, so that no display is needed."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FUSED, REFERENCE, OTHER = "#1f77b4", "#d95f02", "#444444"
RIGHT, WRONG = "#1a9641", "#d7191c"


def new_figure(width: float, height: float) -> Figure:
    """In inches, 120 dots each."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """As PNG."""
    figure.savefig(path, facecolor="white")
