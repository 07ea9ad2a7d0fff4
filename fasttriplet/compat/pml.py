"""pytorch-metric-learning's triplet miners and triplet margin loss: change the import, keep the rest.

    from fasttriplet.compat.pml import BatchHardMiner, TripletMarginLoss

pytorch-metric-learning is not imported here; its distance and reducer objects are taken where it is in use, names where
it is not. Either half works with the other library's other half: indices are exchanged as it does.

Deviations, of all:

- Distances are exact: from differences, in float64 where rows are chosen; equal distances go to the lowest index.
- float16 embeddings are computed in float32, and give a float32 loss.
- Statistics (``collect_stats``), embedding regularisers and random ``triplets_per_anchor`` are not offered.

Source: https://kevinmusgrave.github.io/pytorch-metric-learning.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasttriplet import functional
from fasttriplet.check import check_bool, check_choice, check_margin
from fasttriplet.compat._pairs import PairDistances, distance_matrix
from fasttriplet.compat._pml import (
    References,
    all_triplets,
    metric_of,
    pairing,
    reduction_of,
    triplets_of,
    triplets_where,
)

TYPES_OF_TRIPLETS = ("all", "hard", "semihard", "easy")


class BatchHardMiner(nn.Module):
    """For each anchor the farthest positive and the nearest negative, as indices.

    Args:
        distance: ``None``, Euclidean distance of rows divided by their norm, as pytorch-metric-learning has it; or one
            of fasttriplet's distances by name, of rows as they are; or an ``LpDistance`` (p = 2, power 1 or 2),
            ``CosineSimilarity`` or ``DotProductSimilarity`` of pytorch-metric-learning.

    Raises:
        ValueError: any other distance.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.pml import BatchHardMiner
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]])
        >>> BatchHardMiner()(embeddings, torch.tensor([0, 0, 1, 1]))
        (tensor([0, 1, 2, 3]), tensor([1, 0, 3, 2]), tensor([2, 2, 1, 1]))

    Deviations: those of the module :mod:`fasttriplet.compat.pml`.

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """

    def __init__(self, distance: object = None) -> None:
        super().__init__()
        self.distance = distance
        self._metric = metric_of(distance)

    @torch.no_grad()
    def forward(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None = None, ref_labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The hardest triplets.

        Args:
            embeddings: [N, D].
            labels: [N] of any dtype, compared with ``==``.
            ref_emb: [M, D], where positives and negatives come from; by default the batch.
            ref_labels: [M]; where it is the very tensor ``labels``, anchor i is kept from pairing with reference i.

        Returns:
            (anchors, positives, negatives), each [T] int64, of the anchors that have both.
        """
        rows = self._metric.rows(embeddings)
        ids, references = pairing(self._metric, rows, labels, ref_emb, ref_labels)
        # Without references no argument of theirs is passed: that is the shortest way through.
        given = {} if ref_emb is None else references._asdict()
        return functional.mine_batch_hard(rows, ids, distance=self._metric.distance, **given).triplets()


class TripletMarginMiner(nn.Module):
    """The triplets that a margin picks, as indices: as many as there are.

    Args:
        margin: finite number. Default 0.2.
        type_of_triplets: ``"all"`` (default): ``d_an - d_ap <= margin``; ``"hard"``: of those ``d_an <= d_ap``,
            ``"semihard"``: ``d_an > d_ap``; ``"easy"``: ``d_an - d_ap > margin``.
        distance: as in :class:`BatchHardMiner`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.pml import TripletMarginMiner
        >>> embeddings, labels = torch.tensor([[0.0], [1.0], [1.5], [4.0]]), torch.tensor([0, 0, 1, 1])
        >>> TripletMarginMiner(margin=0.6, type_of_triplets="semihard", distance="euclidean")(embeddings, labels)
        (tensor([0, 3]), tensor([1, 2]), tensor([2, 1]))

    Deviations: those of the module :mod:`fasttriplet.compat.pml`. Memory is that of the indices and of the matrix of
    distances [N, M] in float64; the original's is O(N^3).

    Source: F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering",
    2015, https://arxiv.org/abs/1503.03832.
    """

    def __init__(self, margin: float = 0.2, type_of_triplets: str = "all", distance: object = None) -> None:
        super().__init__()
        check_choice("type_of_triplets", type_of_triplets, TYPES_OF_TRIPLETS)
        self.margin = check_margin(margin)
        self.type_of_triplets = type_of_triplets
        self.distance = distance
        self._metric = metric_of(distance)

    @torch.no_grad()
    def forward(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None = None, ref_labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The triplets, (anchors, positives, negatives), each [T] int64; arguments as in :class:`BatchHardMiner`."""
        rows = self._metric.rows(embeddings)
        ids, references = pairing(self._metric, rows, labels, ref_emb, ref_labels)
        others = rows if references.ref_embeddings is None else references.ref_embeddings
        distances = distance_matrix(rows.double(), others.double(), self._metric.distance)

        def chosen(anchors: Tensor, positives: Tensor) -> Tensor:
            gap = distances.index_select(0, anchors) - distances[anchors, positives][:, None]  # [P, M]
            if self.type_of_triplets == "easy":
                return gap > self.margin
            violating = gap <= self.margin
            if self.type_of_triplets == "hard":
                return violating & (gap <= 0)
            return violating & (gap > 0) if self.type_of_triplets == "semihard" else violating

        return triplets_where(ids, references, chosen)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, type_of_triplets={self.type_of_triplets!r}, distance={self.distance!r}"


class TripletMarginLoss(nn.Module):
    """Hinge on the distances of triplets: those of a miner, or all triplets of the batch.

    Args:
        margin: finite number. Default 0.05.
        swap: takes the distance from positive to negative where that is smaller than that from anchor to negative.
            Default false.
        smooth_loss: ``log(1 + exp(d_ap - d_an + margin))`` in place of the hinge. Default false.
        triplets_per_anchor: ``"all"``, nothing else; what is taken where no miner's indices are given.
        distance: as in :class:`BatchHardMiner`.
        reducer: ``None`` or ``"mean_nonzero"``, the mean of the losses above 0, pytorch-metric-learning's default;
            ``"mean"``, ``"sum"`` or ``"none"``, which gives the loss of each triplet; or its ``AvgNonZeroReducer``,
            ``MeanReducer``, ``SumReducer`` or ``DoNothingReducer``.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.pml import BatchHardMiner, TripletMarginLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]], requires_grad=True)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss = TripletMarginLoss(margin=0.2)
        >>> round(loss(embeddings, labels, BatchHardMiner()(embeddings, labels)).item(), 4)
        0.2
        >>> loss(embeddings, labels).backward()  # all triplets

    Deviations: those of the module :mod:`fasttriplet.compat.pml`, and:

    - With ``swap`` and references the positive too is a reference; the original looks it up among the anchors.
    - ``DoNothingReducer`` gives the losses [T], not a dict with them.
    - The gradient of a NaN loss is NaN.
    - All triplets need memory O(N * D), but with ``swap``, ``smooth_loss`` or ``"none"``, where each is made as the
      original does.

    Source: F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering",
    2015, https://arxiv.org/abs/1503.03832; for ``swap`` V. Balntas et al., "Learning local feature descriptors with
    triplets and shallow convolutional neural networks", BMVC 2016.
    """

    def __init__(
        self,
        margin: float = 0.05,
        swap: bool = False,
        smooth_loss: bool = False,
        triplets_per_anchor: str = "all",
        *,
        distance: object = None,
        reducer: object = None,
    ) -> None:
        super().__init__()
        if triplets_per_anchor != "all":
            raise ValueError(f"triplets_per_anchor must be 'all'; got {triplets_per_anchor!r}")
        self.margin = check_margin(margin)
        self.swap = check_bool("swap", swap)
        self.smooth_loss = check_bool("smooth_loss", smooth_loss)
        self.triplets_per_anchor = triplets_per_anchor
        self.distance = distance
        self.reducer = reducer
        self._metric = metric_of(distance)
        self._reduction = reduction_of(reducer)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            embeddings: [N, D].
            labels: [N] of any dtype, compared with ``==``; not needed with ``indices_tuple``.
            indices_tuple: a miner's output: three index tensors (anchors, positives, negatives), or four (anchors,
                positives, anchors, negatives) of pairs, which are joined by anchor. By default all triplets.
            ref_emb: [M, D], where positives and negatives come from; by default the batch.
            ref_labels: [M]; where it is the very tensor ``labels``, anchor i is kept from pairing with reference i.

        Returns:
            A scalar, or [T] with the reducer ``"none"``; 0, joined to the graph, where there is no triplet.

        Raises:
            ValueError: neither labels nor ``indices_tuple``, or a wrong shape, dtype, device or value.
        """
        rows = self._metric.rows(embeddings)
        if indices_tuple is not None:
            others = rows if ref_emb is None else self._metric.rows(ref_emb)
            return self._of_triplets(rows, others, triplets_of(indices_tuple))
        if labels is None:
            raise ValueError("labels must be given where indices_tuple is not; got None")
        ids, references = pairing(self._metric, rows, labels, ref_emb, ref_labels)
        if self.swap or self.smooth_loss or self._reduction == "none":
            others = rows if references.ref_embeddings is None else references.ref_embeddings
            return self._of_triplets(rows, others, all_triplets(ids, references))
        return self._of_all(rows, ids, references)

    def _of_all(self, rows: Tensor, ids: Tensor, references: References) -> Tensor:
        return functional.batch_all_triplet_loss(
            rows,
            ids,
            margin=self.margin,
            distance=self._metric.distance,
            reduction=self._reduction,
            **references._asdict(),
        )

    def _of_triplets(self, rows: Tensor, others: Tensor, triplets: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        anchors, positives, negatives = triplets
        distances = PairDistances(rows, others, self._metric.distance, pairs=2 * len(anchors))
        nearby, apart = distances(anchors, positives), distances(anchors, negatives)
        if self.swap:
            among = PairDistances(others, others, self._metric.distance, pairs=len(anchors))
            apart = torch.minimum(apart, among(positives, negatives))
        difference = nearby - apart + self.margin
        losses = torch.nn.functional.softplus(difference) if self.smooth_loss else torch.relu(difference)
        return self._reduced(losses, rows)

    def _reduced(self, losses: Tensor, rows: Tensor) -> Tensor:
        if self._reduction == "none":
            return losses
        total = losses.sum() + (rows * 0).sum()  # joined to the graph, whatever was mined
        if self._reduction == "sum":
            return total
        count = (losses > 0).sum() if self._reduction == "mean_nonzero" else losses.new_tensor(losses.numel())
        return total / count.clamp_min(1)

    def extra_repr(self) -> str:
        return (
            f"margin={self.margin}, swap={self.swap}, smooth_loss={self.smooth_loss}, distance={self.distance!r}, "
            f"reducer={self.reducer!r}"
        )
