"""The arguments about who pairs with whom, which all losses and miners of a batch take."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Pairing(NamedTuple):
    """The arguments of the same names, which :func:`fasttriplet.batch_hard_triplet_loss` explains."""

    ref_embeddings: Tensor | None
    ref_labels: Tensor | None
    self_indices: Tensor | None
    groups: Tensor | None
    ref_groups: Tensor | None
    ignore_index: int | None
