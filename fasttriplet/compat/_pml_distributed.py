"""pytorch-metric-learning's wrappers for several processes, for :mod:`fasttriplet.compat.pml`."""

from __future__ import annotations

import sys
import warnings
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fasttriplet.check import check_dense
from fasttriplet.compat._pml_bases import StandInLoss, StandInMiner
from fasttriplet.distributed.agreement import Statement, agreed
from fasttriplet.distributed.autograd import JoinedRows, JoinedValues, Tied
from fasttriplet.distributed.group import Group
from fasttriplet.distributed.held import HoldsProcessGroup


class DistributedLossWrapper(HoldsProcessGroup, nn.Module):
    """A loss of the rows of all ranks, in rank order, its gradient right under ``DistributedDataParallel``.

    Args:
        loss: one of this module, or of pytorch-metric-learning, its ``CrossBatchMemory`` included.
        efficient: false, the default: the loss of the whole batch, computed on every rank, and the gradient is that of
            one process with it. True: every rank computes that of its own rows as anchors among all; what averaging
            over the ranks gives is the gradient of the mean of their losses, both sides of each pair included. Of this
            module's loss of all triplets, where it is taken in the fused pass, both are the first, and each rank does
            its share of the work.
        process_group: as in :mod:`fasttriplet.arguments`; not in the original. Default None: all processes.

    Raises:
        TypeError: ``loss`` is none of these.
        ValueError: a ``CrossBatchMemory`` with ``efficient``.

    Example:
        >>> from fasttriplet.compat.pml import DistributedLossWrapper, TripletMarginLoss
        >>> DistributedLossWrapper(TripletMarginLoss(margin=0.1), efficient=True).efficient
        True

    Deviations:

    - What is returned is the loss, the same on every rank unless ``efficient``. The original's is that times the number
      of ranks; only the gradient is multiplied here.
    - Rows are in rank order on every rank, and a ``CrossBatchMemory`` is the same on all. In the original each rank
      puts its own first. So indices for this wrapper come from the miner wrapper here, and not from the original's.
    - With ``efficient`` other ranks' rows have their gradient; in the original they have none.
    - Ranks may have different numbers of rows, and none.
    - Parameters of the loss, as proxies or a margin that is learned, have the gradient of one process. In the original
      it is that times the number of ranks.
    - ``triplets_per_anchor`` draws random triplets on each rank for itself, so that ranks have different losses.

    Source: https://kevinmusgrave.github.io/pytorch-metric-learning/distributed/.
    """

    def __init__(self, loss: nn.Module, efficient: bool = False, *, process_group: object = None) -> None:
        super().__init__()
        memory = _library_class("losses", "CrossBatchMemory")
        kinds = (StandInLoss, *_library_class("losses", "BaseMetricLossFunction"), *memory)
        if not isinstance(loss, kinds):
            raise TypeError(
                "loss must extend BaseMetricLossFunction or CrossBatchMemory of pytorch-metric-learning, or be of "
                f"fasttriplet.compat.pml; got {type(loss).__name__}"
            )
        self.loss, self.efficient = loss, efficient
        self.process_group = process_group
        self._remembers = isinstance(loss, memory)
        if self._remembers and efficient:
            raise ValueError("efficient must be False with CrossBatchMemory; got True")

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        enqueue_mask: Tensor | None = None,
    ) -> Any:
        """The loss, a scalar.

        Args:
            embeddings: [n, D] of this rank.
            labels: [n].
            indices_tuple: what a :class:`DistributedMinerWrapper` with the same ``efficient`` gives, or None.
            ref_emb: [m, D] of this rank.
            ref_labels: [m].
            enqueue_mask: [n] bool, of a ``CrossBatchMemory``.
        """
        group = _group_of(self.process_group)
        if group is None:
            warnings.warn("DistributedLossWrapper outside of a process group: the loss is as it is", stacklevel=2)
        if self._remembers and (ref_emb is not None or ref_labels is not None):
            raise ValueError("ref_emb and ref_labels must be None with CrossBatchMemory; got one of them")
        if group is None or group.size == 1:
            if self._remembers:
                return self.loss(embeddings, labels, indices_tuple, enqueue_mask)
            return self.loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
        joined = _Joined(group, embeddings, labels, ref_emb, ref_labels, enqueue_mask)
        shared = getattr(self.loss, "_shared", None)  # of this module's loss: each rank has its share of the work
        if shared is not None:
            loss = shared(group.process_group, embeddings, labels, indices_tuple, ref_emb, ref_labels)
            if loss is not None:
                return loss
        if self.efficient:
            others, other_labels = joined.candidates(exchanging=True)
            if indices_tuple is None:
                indices_tuple = joined.without_own(_all_pairs(labels, other_labels))
            loss = self.loss(embeddings, labels, indices_tuple, others, other_labels)
            # A rank without triplets has a loss of its own rows alone.
            return Tied.apply(loss, others) if isinstance(loss, Tensor) and others.requires_grad else loss
        rows, all_labels = joined.rows(exchanging=False), joined.labels()
        if self._remembers:
            return self.loss(rows, all_labels, indices_tuple, joined.told.get("enqueue_mask"))
        return self.loss(rows, all_labels, indices_tuple, *joined.references(exchanging=False))

    def extra_repr(self) -> str:
        return f"efficient={self.efficient}"


class DistributedMinerWrapper(HoldsProcessGroup, nn.Module):
    """What a miner chooses from the rows of all ranks, in rank order: for :class:`DistributedLossWrapper`.

    Args:
        miner: one of this module, or of pytorch-metric-learning.
        efficient: false, the default: of all anchors, by numbers in the whole batch, the same on every rank. True: of
            this rank's own, anchors by their numbers in it and partners in the whole batch.
        process_group: as in :class:`DistributedLossWrapper`; not in the original.

    Raises:
        TypeError: ``miner`` is none of these.

    Example:
        >>> from fasttriplet.compat.pml import BatchHardMiner, DistributedMinerWrapper
        >>> DistributedMinerWrapper(BatchHardMiner()).efficient
        False

    Deviations: rows are in rank order on every rank; in the original each rank puts its own first.

    Source: https://kevinmusgrave.github.io/pytorch-metric-learning/distributed/.
    """

    def __init__(self, miner: nn.Module, efficient: bool = False, *, process_group: object = None) -> None:
        super().__init__()
        if not isinstance(miner, (StandInMiner, *_library_class("miners", "BaseMiner"))):
            raise TypeError(
                "miner must extend BaseMiner of pytorch-metric-learning, or be of fasttriplet.compat.pml; got "
                f"{type(miner).__name__}"
            )
        self.miner, self.efficient = miner, efficient
        self.process_group = process_group

    @torch.no_grad()
    def forward(
        self, emb: Tensor, labels: Tensor, ref_emb: Tensor | None = None, ref_labels: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The miner's indices; arguments as in :class:`DistributedLossWrapper`."""
        group = _group_of(self.process_group)
        mined: tuple[Tensor, ...]
        if group is None or group.size == 1:
            mined = self.miner(emb, labels, ref_emb, ref_labels)
            return mined
        joined = _Joined(group, emb, labels, ref_emb, ref_labels, None)
        if self.efficient:
            mined = self.miner(emb, labels, *joined.candidates(exchanging=False))
            return joined.without_own(mined)
        mined = self.miner(joined.rows(exchanging=False), joined.labels(), *joined.references(exchanging=False))
        return mined

    def extra_repr(self) -> str:
        return f"efficient={self.efficient}"


class _Joined:
    """A batch and its references of all ranks, in rank order."""

    def __init__(
        self,
        group: Group,
        embeddings: Tensor,
        labels: Tensor | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
        enqueue_mask: Tensor | None,
    ) -> None:
        self._group, self._own, self._own_references = group, embeddings, ref_emb
        self._same_labels = labels is not None and ref_labels is labels  # row i is reference i's own copy
        self._batch = {"embeddings": embeddings, "labels": labels, "enqueue_mask": enqueue_mask}
        self._shard = {"ref_emb": ref_emb, "ref_labels": ref_labels}
        statements, _ = agreed(group, self._checked)
        self._sizes, self._ref_sizes = [each.rows for each in statements], [each.references for each in statements]

    def _checked(self) -> tuple[Statement, bool]:
        alike: dict[str, object] = {"ref_labels are labels": self._same_labels}
        counts = []
        for given in (self._batch, self._shard):
            rows_name, rows = next(iter(given.items()))
            for name, values in given.items():
                if values is None:
                    alike[f"the dtype of {name}"] = "that of None"
                    continue
                check_dense(name, values)
                if rows is None or values.shape[:1] != rows.shape[:1]:
                    of = "no rows" if rows is None else f"{rows_name} {list(rows.shape)}"
                    raise ValueError(f"{name} must be one a row of {rows_name}; got {list(values.shape)} and {of}")
                # They travel as they are: of one dtype and width, and all or none with a way back.
                alike[f"the dtype of {name}"] = values.dtype
                alike[f"the columns of {name}"] = list(values.shape[1:])
                alike[f"whether {name} require grad"] = values.requires_grad and torch.is_grad_enabled()
            counts.append(0 if rows is None else len(rows))
        return Statement(alike, *counts), True

    @cached_property
    def told(self) -> dict[str, Tensor]:
        """Of the batch, of all ranks, without a graph."""
        return self._gathered(self._batch, self._sizes)

    @cached_property
    def _ref_told(self) -> dict[str, Tensor]:
        return self._gathered(self._shard, self._ref_sizes)

    def _gathered(self, given: dict[str, Tensor | None], sizes: list[int]) -> dict[str, Tensor]:
        sent = {name: rows.detach().to(self._own.device) for name, rows in given.items() if rows is not None}
        return self._group.rows(sent, sizes) if sent else {}

    def labels(self) -> Tensor | None:
        return self.told.get("labels")

    def rows(self, *, exchanging: bool) -> Tensor:
        """[N, D] with a graph. ``exchanging``: each rank makes another loss of them, whose gradients add up; else all
        make the same, whose gradient is multiplied for averages."""
        return self._with_graph(self._own, self.told["embeddings"], self._sizes, exchanging)

    def _with_graph(self, own: Tensor, everything: Tensor, sizes: list[int], exchanging: bool) -> Tensor:
        if exchanging:
            return JoinedRows.apply(own, everything, self._group, sizes)
        return JoinedValues.apply(own, everything, self._group, sizes, self._group.size)

    def references(self, *, exchanging: bool) -> tuple[Tensor | None, Tensor | None]:
        """And their labels, the very tensor of the batch's where the rank's were."""
        if self._own_references is None:
            return None, None
        everything = self._ref_told["ref_emb"]
        rows = self._with_graph(self._own_references, everything, self._ref_sizes, exchanging)
        return rows, self.labels() if self._same_labels else self._ref_told.get("ref_labels")

    def candidates(self, *, exchanging: bool) -> tuple[Tensor, Tensor | None]:
        """The references, or else the batch, and their labels."""
        rows, labels = self.references(exchanging=exchanging)
        return (self.rows(exchanging=exchanging), self.labels()) if rows is None else (rows, labels)

    def without_own(self, indices: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Of a miner's indices those that do not pair a row with itself, or with its own copy."""
        if self._own_references is not None and not self._same_labels:
            return indices
        first = sum(self._sizes[: self._group.rank])
        kept = indices[0] + first != indices[1]
        if len(indices) == 3:
            return tuple(each[kept] for each in indices)
        return indices[0][kept], indices[1][kept], *indices[2:]


def _all_pairs(labels: Tensor | None, ref_labels: Tensor | None) -> tuple[Tensor, ...]:
    """(anchors, positives, anchors, negatives) of all pairs."""
    if labels is None or ref_labels is None:
        raise ValueError("labels must be given where indices_tuple is not; got None")
    same = labels[:, None] == ref_labels
    return *torch.where(same), *torch.where(~same)


def _group_of(process_group: object) -> Group | None:
    """None where there are no processes."""
    if process_group is None:
        if not (dist.is_available() and dist.is_initialized()):
            return None
        process_group = dist.group.WORLD
    return Group(process_group)


def _library_class(module: str, name: str) -> tuple[type, ...]:
    """Of pytorch-metric-learning where somebody has imported it."""
    found = sys.modules.get(f"pytorch_metric_learning.{module}")
    return () if found is None else (getattr(found, name),)
