"""What a miner returns: the chosen positives and negatives, by anchor or by triplet."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class MinedTriplets(NamedTuple):
    """The positive and the negative mined for each of N anchors.

    Attributes:
        positives: [N] int64, index into the batch, or the references, of the anchor's positive, -1 where it has none.
        negatives: [N] int64, index into the batch, or the references, of the anchor's negative, -1 where it has none.
        positive_distances: [N], float64 where embeddings or references are, else float32; NaN where there is none.
        negative_distances: [N], the same dtype; NaN where there is no negative.
    """

    positives: Tensor
    negatives: Tensor
    positive_distances: Tensor
    negative_distances: Tensor

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices (anchors, positives, negatives), each [T] int64, of the anchors that have both.

        Example:
            >>> import torch
            >>> from fasttriplet import mine_batch_hard
            >>> mined = mine_batch_hard(torch.tensor([[0.0], [1.0], [3.0], [9.0]]), torch.tensor([0, 0, 1, 2]))
            >>> [indices.tolist() for indices in mined.triplets()]
            [[0, 1], [1, 0], [2, 2]]
        """
        anchors = ((self.positives >= 0) & (self.negatives >= 0)).nonzero()[:, 0]
        return anchors, self.positives.index_select(0, anchors), self.negatives.index_select(0, anchors)


class Triplets(NamedTuple):
    """T mined triplets, by anchor.

    Attributes:
        anchors: [T] int64, index into the batch, ascending.
        positives: [T] int64, index into the batch, or the references, of the positive, -1 where there is none.
        negatives: [T] int64, index into the batch, or the references, of the negative, -1 where there is none.
        positive_distances: [T], float64 for float64 rows, else float32; NaN where there is no positive.
        negative_distances: [T], the same dtype; NaN where there is no negative.
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    positive_distances: Tensor
    negative_distances: Tensor

    def triplets(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices (anchors, positives, negatives), each int64, of the triplets that are complete.

        Example:
            >>> import torch
            >>> from fasttriplet import mine_easy_positive
            >>> mined = mine_easy_positive(torch.tensor([[0.0], [1.0], [3.0], [9.0]]), torch.tensor([0, 0, 1, 2]))
            >>> [indices.tolist() for indices in mined.triplets()]
            [[0, 1], [1, 0], [2, 2]]
        """
        complete = ((self.positives >= 0) & (self.negatives >= 0)).nonzero()[:, 0]
        anchors, positives, negatives = (indices.index_select(0, complete) for indices in self[:3])
        return anchors, positives, negatives
