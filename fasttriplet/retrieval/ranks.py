"""What the ranking of every query says: the columns of the operator ``retrieval_ranks``, by name.

Ranks count from 1 and run over all candidates of a query, positives and negatives, by distance and then index. No
ranking is made: the rank of a positive is one more than the candidates before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.engines import operator, uses_of
from fasttriplet.pairing import Batch


class Ranks(NamedTuple):
    """Of Q queries, float64; ranks are 0 where there are none."""

    positives: Tensor  # [Q] how many
    first: Tensor  # [Q] the rank of the nearest positive
    last: Tensor  # [Q] that of the farthest
    gain: Tensor  # [Q] sum over the positives of precision at their rank: the j-th positive's is j / rank
    gain_at_r: Tensor  # [Q] of those of them whose rank is at most the number of positives
    hits_at_r: Tensor  # [Q] how many those are
    candidates: Tensor  # [Q] positives and negatives that are finite
    hits: Tensor  # [Q, A] positives at ranks up to each of `at`
    gains: Tensor  # [Q, A] sum of precisions over those


@torch.no_grad()
def ranks_of(batch: Batch, distance: int, at: Sequence[int], count_missing: bool = False) -> Ranks:
    """Of the batch's anchors as queries.

    Args:
        batch: checked (:func:`fasttriplet.pairing.checked_batch`).
        distance: its code.
        at: ranks to ask about, each at least 1.
        count_missing: whether positives that are not finite count, though they are at no rank.
    """
    arguments = batch.arguments
    uses = uses_of(*arguments[1:5])
    table = operator("retrieval_ranks", batch.embeddings.device, uses)(*arguments, distance, list(at), count_missing)
    whole = len(Ranks._fields) - 2
    return Ranks(*table[:, :whole].unbind(1), *table[:, whole:].split(len(at), 1))
