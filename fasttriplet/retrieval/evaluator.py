"""Retrieval metrics of rows that come batch by batch, to one process or to several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fasttriplet.distributed.held import HoldsProcessGroup
from fasttriplet.retrieval.evaluation import Options, metrics_of_kept
from fasttriplet.retrieval.kept import Kept, difference, form_of, joined, to_keep
from fasttriplet.retrieval.metrics import RetrievalMetrics


class RetrievalEvaluator(HoldsProcessGroup):
    """:func:`fasttriplet.retrieval.retrieval_metrics` of rows that come batch by batch, over all ranks of a group.

    Give it every batch with :meth:`update`, then ask :meth:`compute`. Each row is a query, and all others are its
    candidates; where :meth:`update_references` was called, those are the candidates in place of the rows: a gallery.

    Args:
        at: distinct ranks k, at least 1, for hit rate, precision, recall and MAP at k. Default (1, 5, 10).
        distance: ``"euclidean"`` (default), ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        on_nonfinite: what becomes of rows with a NaN or infinite entry: ``"error"`` (default), ``"fail"`` or
            ``"skip"``, see :func:`fasttriplet.retrieval.retrieval_metrics`.
        groups_exclude: with ``groups``, what rows of equal group never are to each other: ``"positives"`` (default,
            the rule of Market-1501) or ``"pairs"``.
        max_rank: how many ranks of the CMC curve. Default 50.
        ignore_index: rows of this label are neither queries nor candidates. Default None: no label.
        drop_duplicates: where rows come with ``sample_ids``, keep the first row of each id alone, of queries and of
            references: a ``DistributedSampler`` gives some samples to two ranks, so that all have equally many. False
            where equal ids are different views of a sample. Default true.
        histograms: also count the distances of positive and of negative pairs. Default false.
        bins: how many bins a histogram has. Default 100.
        pairs: how many pairs a histogram is of where there are more, see
            :func:`fasttriplet.retrieval.retrieval_metrics`. Default 1,000,000. None: all there are.
        seed: of their draw. Default 0.
        device: where rows are kept and evaluated, as ``"cpu"``. Default None: where the embeddings are.
        process_group: a ``torch.distributed.ProcessGroup`` with this process in it, or a 1-D ``DeviceMesh``. Each rank
            gives its own batches, any number of them and also none, and all call :meth:`compute` together, which gives
            on each the metrics of the rows of all, in rank order: to the bit those of one process with these rows.
            Default None: no communication.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    What is kept are copies without a graph, in the dtype given; half precision takes half the memory. With a process
    group :meth:`compute` brings the rows of all ranks to each. It is not a module and has no ``state_dict()``;
    without a process group it can be pickled.

    Example:
        >>> import torch
        >>> from fasttriplet.retrieval import RetrievalEvaluator
        >>> evaluator = RetrievalEvaluator(at=(1, 2))
        >>> for rows, labels in (([[0.0], [1.0], [3.0]], [0, 0, 1]), ([[7.0], [8.0]], [1, 2])):
        ...     evaluator.update(torch.tensor(rows), torch.tensor(labels))
        >>> found = evaluator.compute()
        >>> len(evaluator), found.hit_rate.tolist(), found.queries
        (5, [0.5, 0.75], 4)
    """

    def __init__(
        self,
        *,
        at: Sequence[int] = (1, 5, 10),
        distance: str = "euclidean",
        on_nonfinite: str = "error",
        groups_exclude: str = "positives",
        max_rank: int = 50,
        ignore_index: int | None = None,
        drop_duplicates: bool = True,
        histograms: bool = False,
        bins: int = 100,
        pairs: int | None = 1_000_000,
        seed: int = 0,
        device: torch.device | str | None = None,
        process_group: Any = None,
    ) -> None:
        self.options = Options.checked(
            at=at,
            distance=distance,
            on_nonfinite=on_nonfinite,
            groups_exclude=groups_exclude,
            max_rank=max_rank,
            ignore_index=ignore_index,
            drop_duplicates=drop_duplicates,
            histograms=histograms,
            bins=bins,
            pairs=pairs,
            seed=seed,
        )
        self.device = None if device is None else torch.device(device)
        self.process_group = process_group
        self.reset()

    def update(
        self, embeddings: Tensor, labels: Tensor, *, sample_ids: Tensor | None = None, groups: Tensor | None = None
    ) -> None:
        """Adds a batch of queries, which are the candidates of each other where there are no references.

        Args:
            embeddings: [N, D] float64, float32, float16 or bfloat16; N may be 0.
            labels: [N] of any integer dtype or bool, or [N, C] bool, several a row; on any device, as the others.
            sample_ids: [N] integers: which sample each row is, of queries and references together: equal ids never
                pair, and see ``drop_duplicates``. -1 is no sample. Default None: no copies.
            groups: [N] integers, as cameras; see ``groups_exclude``. Default None: no groups.

        Raises:
            TypeError: an argument is not a tensor.
            ValueError: a wrong shape or dtype, or one that the batches before did not have.
        """
        self._add(self._queries, embeddings, labels, sample_ids, groups)

    def update_references(
        self, embeddings: Tensor, labels: Tensor, *, sample_ids: Tensor | None = None, groups: Tensor | None = None
    ) -> None:
        """Adds a batch of references [M, D], the gallery; the arguments and errors are those of :meth:`update`."""
        self._add(self._references, embeddings, labels, sample_ids, groups)

    def compute(self) -> RetrievalMetrics:
        """The metrics of all rows so far, which stay; with a process group on every rank, all of which call it.

        Returns:
            :class:`fasttriplet.retrieval.RetrievalMetrics`; NaN where there is no query with a positive.

        Raises:
            ValueError: with ``on_nonfinite="error"`` where a row is not finite; rows or options of two ranks that do
                not fit. It is raised on every rank.
        """
        for batches in (self._queries, self._references):
            if batches:
                batches[:] = [joined(batches)]
        queries, references = (batches[0] if batches else None for batches in (self._queries, self._references))
        return metrics_of_kept(queries, references, self.options, self.process_group)

    def reset(self) -> None:
        """Forgets all rows."""
        self._queries: list[Kept] = []
        self._references: list[Kept] = []

    def __len__(self) -> int:
        """Queries of this process so far, duplicates included."""
        return sum(len(rows.labels) for rows in self._queries)

    def __bool__(self) -> bool:
        """True, also while there are no rows."""
        return True

    def _add(
        self,
        batches: list[Kept],
        embeddings: Tensor,
        labels: Tensor,
        sample_ids: Tensor | None,
        groups: Tensor | None,
    ) -> None:
        rows = to_keep(embeddings, labels, sample_ids, groups, self.device)
        if batches:
            differs = difference(form_of(batches[0]), form_of(rows))
            if differs is not None:
                name, first, other = differs
                raise ValueError(f"{name} must be the same in every batch; got {first} before and now {other}")
        batches.append(rows)
