"""pytorch-metric-learning's triplet miners and triplet margin loss: change the import, keep the rest.

    from fasttriplet.compat.pml import BatchHardMiner, TripletMarginLoss

Names, arguments and defaults are those of version 2 (2.8.1 and 2.9.0 are tested); its loss has the margin 0.05 where
version 3 has 0.2. Our miners work with their losses, and theirs with ours.

pytorch-metric-learning is not imported here. Where somebody has imported its version 2 by the time an object is made,
the classes here are subclasses of its own, in whichever order the imports came. Its wrappers and trainers take them,
and ``distance`` and ``reducer`` are its objects. The fused pass is taken where at the time of the call ``distance`` is
an ``LpDistance`` (p = 2, power 1 or 2), a ``CosineSimilarity`` or a ``DotProductSimilarity`` and nothing is overridden,
by a subclass, by a method put into an object or into its class, or by a hook. Other distances, reducers, regularisers
and a ``compute_loss`` or ``mine`` of one's own are called as the original calls them, with the triplets and the loss of
each from here; random triplets, and miners with another distance or with statistics, are the original's own code, in
its time and memory. Where the library has not been imported, or its version 3 has, ``distance`` and ``reducer`` are
small objects with the same attributes, and what only the original can do is refused by name.

Deviations, of all:

- Distances are exact: from differences, in float64 where rows are chosen; equal distances go to the lowest index.
- float16 and bfloat16 embeddings are computed in float32 and give a float32 loss, under autocast too, whose half
  precision the original follows. A distance object of one's own is also called in float32; its gradient is rounded by
  autocast where ``backward`` is called inside that block.
- The gradient through the normalisation of a zero row is 0, as is that of a row of norm up to 1e-12, which becomes a
  zero row. The original's is 1e12 times that of the normalised row.
- ``torch.compile(fullgraph=True)`` and ``torch.export`` go through where the fused pass is taken. For them
  ``TripletMarginMiner`` holds all positive pairs times the batch, where else it looks at some at a time. An exported
  miner does not count ``num_triplets``.

Source: https://kevinmusgrave.github.io/pytorch-metric-learning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet import functional
from fasttriplet.check import check_bool, check_choice
from fasttriplet.compat._pairs import full_precision
from fasttriplet.compat._pml_bases import (
    BatchHardMinerBase,
    TripletMarginLossBase,
    TripletMarginMinerBase,
    as_written,
)
from fasttriplet.compat._pml_distributed import DistributedLossWrapper as DistributedLossWrapper
from fasttriplet.compat._pml_distributed import DistributedMinerWrapper as DistributedMinerWrapper
from fasttriplet.compat._pml_objects import (
    Metric,
    checked_margin,
    distance_object,
    margin_number,
    margin_of_each,
    metric_of,
    one_margin,
    reduced,
    reducer_object,
    reduction_of,
)
from fasttriplet.compat._pml_pairing import (
    all_triplets,
    check_batch,
    differences,
    pairing,
    triplets_by_margin,
    triplets_of,
)
from fasttriplet.pairing import widened

TYPES_OF_TRIPLETS = ("all", "hard", "semihard", "easy")


class BatchHardMiner(BatchHardMinerBase):
    """For each anchor the farthest positive and the nearest negative, as indices: of the anchors that have both.

    Args:
        distance: ``None``, Euclidean distance of rows divided by their norm, as pytorch-metric-learning has it; or one
            of fasttriplet's distances by name, of rows as they are; or a distance object of pytorch-metric-learning.
        collect_stats: as in the original, whose code then mines. Default ``None``: what it says for all.

    Raises:
        ValueError: a distance that is none of these, or one that needs pytorch-metric-learning where it is not
            imported.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.pml import BatchHardMiner
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]])
        >>> miner = BatchHardMiner()
        >>> miner(embeddings, torch.tensor([0, 0, 1, 1]))
        (tensor([0, 1, 2, 3]), tensor([1, 0, 3, 2]), tensor([2, 2, 1, 1]))
        >>> miner.num_triplets
        4

    Deviations: those of the module :mod:`fasttriplet.compat.pml`.

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    https://arxiv.org/abs/1703.07737.
    """

    def __init__(self, distance: object = None, collect_stats: bool | None = None) -> None:
        super().__init__(distance=distance_object(distance), collect_stats=collect_stats)
        self.num_triplets = 0

    @torch.jit.unused  # a model that holds one can be scripted, though what is here cannot
    def forward(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None = None, ref_labels: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The hardest triplets; their number is then in ``num_triplets``.

        Args:
            embeddings: [N, D].
            labels: [N] of any dtype, compared with ``==``.
            ref_emb: [M, D], where positives and negatives come from; by default the batch.
            ref_labels: [M]; where it is the very tensor ``labels``, anchor i is kept from pairing with reference i.

        Returns:
            (anchors, positives, negatives), each [T] int64, of the anchors that have both.

        Raises:
            ValueError: a wrong shape, dtype or device.
        """
        return super().forward(embeddings, labels, ref_emb, ref_labels)

    def _mined(
        self, metric: Metric, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = metric.rows(embeddings)
        ids, references = pairing(metric, rows, labels, ref_emb, ref_labels)
        # Without references no argument of theirs is passed: that is the shortest way through.
        given = {} if ref_emb is None else references._asdict()
        return functional.mine_batch_hard(rows, ids, distance=metric.distance, **given).triplets()


class TripletMarginMiner(TripletMarginMinerBase):
    """The triplets that a margin picks, as indices: as many as there are.

    Args:
        margin: finite number, or a tensor of one. Default 0.2.
        type_of_triplets: ``"all"`` (default): ``d_an - d_ap <= margin``; ``"hard"``: of those ``d_an <= d_ap``,
            ``"semihard"``: ``d_an > d_ap``; ``"easy"``: ``d_an - d_ap > margin``.
        distance: as in :class:`BatchHardMiner`.
        collect_stats: as in :class:`BatchHardMiner`.

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

    def __init__(
        self,
        margin: float | Tensor = 0.2,
        type_of_triplets: str = "all",
        distance: object = None,
        collect_stats: bool | None = None,
    ) -> None:
        check_choice("type_of_triplets", type_of_triplets, TYPES_OF_TRIPLETS)
        super().__init__(distance=distance_object(distance), collect_stats=collect_stats)
        self.margin = checked_margin(margin)
        one_margin(self.margin)  # told at once, but read when mining: a tensor that is shared may move
        self.type_of_triplets = type_of_triplets
        self.num_triplets = 0

    @torch.jit.unused  # a model that holds one can be scripted, though what is here cannot
    def forward(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None = None, ref_labels: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The triplets, (anchors, positives, negatives), each [T] int64; arguments as in :class:`BatchHardMiner`."""
        return super().forward(embeddings, labels, ref_emb, ref_labels)

    def _mined(
        self, metric: Metric, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None, ref_labels: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        check_choice("type_of_triplets", self.type_of_triplets, TYPES_OF_TRIPLETS)
        margin, rows = one_margin(self.margin), metric.rows(embeddings)
        ids, references = pairing(metric, rows, labels, ref_emb, ref_labels)
        return triplets_by_margin(rows, ids, *references, metric.distance, margin, self.type_of_triplets)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, type_of_triplets={self.type_of_triplets!r}"


class _Losses(NamedTuple):
    """The losses [T] of triplets (anchors, positives, negatives), each [T], of rows [N, D]."""

    losses: Tensor
    triplets: tuple[Tensor, Tensor, Tensor]
    rows: Tensor


class TripletMarginLoss(TripletMarginLossBase):
    """Hinge on the distances of triplets: those of a miner, or all triplets of the batch.

    Args:
        margin: finite number, or a tensor: of one number or of one for each triplet, through which a gradient flows
            where it asks for one. Default 0.05.
        swap: takes the distance from positive to negative where that is smaller than that from anchor to negative.
            Default false.
        smooth_loss: ``log(1 + exp(d_ap - d_an + margin))`` in place of the hinge. Default false.
        triplets_per_anchor: what is taken where no miner's indices are given: ``"all"`` (default), or how many random
            triplets an anchor has, which are the original's.
        distance: as in :class:`BatchHardMiner`.
        reducer: ``None`` or ``"mean_nonzero"``, the mean of the losses above 0, pytorch-metric-learning's default;
            ``"mean"``, ``"sum"`` or ``"none"``, which gives the loss of each triplet, [T]; or a reducer object of
            pytorch-metric-learning; with ``AvgNonZeroReducer``, ``MeanReducer`` and ``SumReducer`` triplets need not be
            listed.
        embedding_regularizer: ``None``, or a regulariser of pytorch-metric-learning.
        embedding_reg_weight: the regulariser's weight. Default 1.
        collect_stats: as in the original. Default ``None``: what it says for all.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value, or needs pytorch-metric-learning where it is not imported.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.pml import BatchHardMiner, TripletMarginLoss
        >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]], requires_grad=True)
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> loss = TripletMarginLoss(margin=0.2)
        >>> round(loss(embeddings, labels, BatchHardMiner()(embeddings, labels)).item(), 4)
        0.2
        >>> loss(embeddings, labels).backward()  # all triplets
        >>> loss.distance.normalize_embeddings, loss.distance.p, loss.distance.power
        (True, 2, 1)

    Deviations: those of the module :mod:`fasttriplet.compat.pml`, and:

    - With ``swap`` and references the positive too is a reference; the original looks it up among the anchors.
    - The gradient of a NaN loss is NaN.
    - All triplets need memory O(N * D), but with ``swap``, ``smooth_loss``, ``"none"``, a tensor for a margin that is
      learned or on a GPU, or what is the original's own code, where each is made as the original does.

    Source: F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering",
    2015, https://arxiv.org/abs/1503.03832; for ``swap`` V. Balntas et al., "Learning local feature descriptors with
    triplets and shallow convolutional neural networks", BMVC 2016.
    """

    if TYPE_CHECKING:  # torch.jit.script reads annotations, and not as strings
        margin: float | Tensor

    def __init__(
        self,
        margin: float | Tensor = 0.05,
        swap: bool = False,
        smooth_loss: bool = False,
        triplets_per_anchor: str | int = "all",
        *,
        distance: object = None,
        reducer: object = None,
        embedding_regularizer: object = None,
        embedding_reg_weight: float = 1,
        collect_stats: bool | None = None,
    ) -> None:
        if triplets_per_anchor != "all" and (type(triplets_per_anchor) is not int or triplets_per_anchor < 1):
            raise ValueError(f"triplets_per_anchor must be 'all' or a positive int; got {triplets_per_anchor!r}")
        if reducer == "none" and embedding_regularizer is not None:
            raise ValueError("reducer must be one that sums with an embedding_regularizer; got 'none'")
        super().__init__(
            distance=distance_object(distance),
            reducer=reducer_object(reducer),
            embedding_regularizer=embedding_regularizer,
            embedding_reg_weight=embedding_reg_weight,
            collect_stats=collect_stats,
            triplets_per_anchor=triplets_per_anchor,
        )
        self.margin = checked_margin(margin)
        self.swap = check_bool("swap", swap)
        self.smooth_loss = check_bool("smooth_loss", smooth_loss)
        self.triplets_per_anchor = triplets_per_anchor

    @torch.jit.unused  # as in the miners
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """The loss.

        Args:
            embeddings: [N, D].
            labels: [N] of any dtype, compared with ``==``; not needed with ``indices_tuple``.
            indices_tuple: a miner's output: three index tensors (anchors, positives, negatives), each [T] of integers,
                or four (anchors, positives, anchors, negatives) of pairs, which are joined by anchor; a named tuple of
                as many does as well. By default all triplets.
            ref_emb: [M, D], where positives and negatives come from; by default the batch.
            ref_labels: [M]; where it is the very tensor ``labels``, anchor i is kept from pairing with reference i.

        Returns:
            A scalar, or [T] with the reducer ``"none"``; 0, joined to the graph, where there is no triplet. With
            another reducer object what that makes of the losses.

        Raises:
            TypeError: what must be a tensor is none.
            ValueError: neither labels nor ``indices_tuple``, or a wrong shape, dtype, device or value.
        """
        metric, reduction = metric_of(self.distance), reduction_of(self.reducer)
        check_batch(metric, embeddings, labels, ref_emb, ref_labels)
        if metric is None or reduction is None or not self._is_ours(indices_tuple):
            with full_precision(embeddings):
                others = None if ref_emb is None else widened(ref_emb)
                return super().forward(widened(embeddings), labels, indices_tuple, others, ref_labels)
        fused = self._fused(metric, reduction, embeddings, labels, indices_tuple, ref_emb, ref_labels)
        if fused is None:
            found = self._losses(metric, embeddings, labels, indices_tuple, ref_emb, ref_labels)
            if reduction == "none":
                return found.losses
            return reduced(found.losses, reduction) + (found.rows * 0).sum()  # joined to the graph, whatever was mined
        return fused

    def _is_ours(self, indices_tuple: tuple[Tensor, ...] | None) -> bool:
        """Whether nothing is overridden, random or added that the original's own code has to see to."""
        written = as_written(
            self, TripletMarginLoss, "compute_loss", "zero_losses", "add_embedding_regularization_to_loss_dict"
        )
        random = indices_tuple is None and self.triplets_per_anchor != "all"
        return written and not random and self.embedding_regularizer is None

    def _fused(
        self,
        metric: Metric,
        reduction: str,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
        **processes: Any,
    ) -> Tensor | None:
        """The loss of all triplets in one pass, of several ``processes`` too; None where triplets have to be listed."""
        margin = margin_number(self.margin)
        listed = indices_tuple is not None or self.swap or self.smooth_loss or reduction == "none"
        if listed or labels is None or margin is None:
            return None
        rows = metric.rows(embeddings)
        ids, references = pairing(metric, rows, labels, ref_emb, ref_labels)
        told = dict(margin=margin, distance=metric.distance, reduction=reduction, **references._asdict(), **processes)
        return functional.batch_all_triplet_loss(rows, ids, **told)

    def _shared(self, process_group: Any, *arguments: Any) -> Tensor | None:
        """For a wrapper of several processes: the same where the call would come to it, past nothing that is asked or
        overridden on the way. ``arguments`` are those of :meth:`forward`.
        """
        metric, reduction = metric_of(self.distance), reduction_of(self.reducer)
        as_called = as_written(self, TripletMarginLoss, "forward")
        hooked = bool(self._forward_hooks or self._forward_pre_hooks)
        if metric is None or reduction is None or hooked or not as_called or not self._is_ours(arguments[2]):
            return None
        sharded = arguments[3] is not None
        return self._fused(metric, reduction, *arguments, process_group=process_group, ref_sharded=sharded)

    def compute_loss(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor,
        ref_labels: Tensor | None,
    ) -> dict[str, Any]:
        """The losses of the triplets in the dict that reducers take: for subclasses, to override and to call."""
        metric = metric_of(self.distance)
        check_batch(metric, embeddings, labels, ref_emb, ref_labels)
        if indices_tuple is None and self.triplets_per_anchor != "all":
            return super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        others = None if ref_emb is embeddings and ref_labels is labels else ref_emb
        losses, triplets, _ = self._losses(metric, embeddings, labels, indices_tuple, others, ref_labels)
        if not len(losses):
            return self.zero_losses()
        return {"loss": {"losses": losses, "indices": triplets, "reduction_type": "triplet"}}

    def _losses(
        self,
        metric: Metric | None,
        embeddings: Tensor,
        labels: Tensor | None,
        indices_tuple: tuple[Tensor, ...] | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
    ) -> _Losses:
        of = metric or Metric("", False)  # rows as they are, where the distance sees to them
        rows = others = of.rows(embeddings)
        if indices_tuple is not None:
            others = rows if ref_emb is None else of.rows(ref_emb)
            triplets = triplets_of(indices_tuple)
        elif labels is None:
            raise ValueError("labels must be given where indices_tuple is not; got None")
        else:
            ids, references = pairing(of, rows, labels, ref_emb, ref_labels)
            others = rows if references.ref_embeddings is None else references.ref_embeddings
            triplets = all_triplets(ids, references)
        violation = differences(metric, self.distance, rows, others, triplets, swap=self.swap)
        violation = violation + margin_of_each(self.margin, triplets[0])
        losses = torch.nn.functional.softplus(violation) if self.smooth_loss else torch.relu(violation)
        return _Losses(losses, triplets, rows)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, swap={self.swap}, smooth_loss={self.smooth_loss}"
