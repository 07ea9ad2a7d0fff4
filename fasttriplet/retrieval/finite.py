"""Which rows are finite, and the error where they must be."""

from __future__ import annotations

import torch
from torch import Tensor

from fasttriplet.pairing import finite_rows


def finite(rows: Tensor) -> Tensor:
    """[N] bool, of rows [N, D] of any D."""
    return finite_rows(rows) if rows.shape[1] else rows.new_ones(len(rows), dtype=torch.bool)


def refuse_rows(name: str, wrong: Tensor, places: Tensor | None = None, why: str = "", advice: str = "") -> None:
    """ValueError where one of the rows ``wrong`` [N] bool is; ``places`` [N] are their indices."""
    if not wrong.any():
        return
    first = int(wrong.int().argmax())
    raise ValueError(
        f"{name} must be finite{why}; got {int(wrong.sum())} of {len(wrong)} rows with a NaN or infinite entry, the "
        f"first at index {first if places is None else int(places[first])}{advice}"
    )
