"""Retrieval metrics as a ``torchmetrics.Metric``. Importing this module imports torchmetrics.

torchmetrics' own retrieval metrics take a score for every pair of a query and a document. This one takes embeddings and
labels, batch by batch, and ranks exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fasttriplet.check import check_bool
from fasttriplet.distributed.group import Group
from fasttriplet.engines import lacks_float64
from fasttriplet.retrieval.evaluation import Options, checked_names, metrics_of_kept, named
from fasttriplet.retrieval.kept import Kept, difference, form_of, joined, to_keep

if TYPE_CHECKING:
    _Metric = Any
else:
    try:
        from torchmetrics import Metric as _Metric
    except ImportError as error:
        raise ImportError(
            "fasttriplet.compat.torchmetrics needs torchmetrics 1.2 or later (pip install torchmetrics); importing it "
            f"says: {error}"
        ) from error


class EmbeddingRetrieval(_Metric):
    """:func:`fasttriplet.retrieval.retrieval_metrics` as a metric of torchmetrics, also in a ``MetricCollection``.

    Each row is a query, and all others are its candidates; where batches came with ``references=True``, those rows are
    the candidates in place of them: a gallery. Of several processes every rank ranks the rows of all, which
    torchmetrics brings together; :class:`fasttriplet.retrieval.RetrievalEvaluator` divides that work among them.

    Args:
        at: distinct ranks k, at least 1, for hit rate, precision, recall and MAP at k. Default (1, 5, 10).
        metrics: names of those that :meth:`compute` gives, as ``"hit_rate@1"`` or ``"map_at_r"``. Default None: all of
            :meth:`fasttriplet.retrieval.RetrievalMetrics.as_dict` but ``"cmc@k"``.
        distance: ``"euclidean"`` (default), ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``.
        on_nonfinite: what becomes of rows with a NaN or infinite entry: ``"error"`` (default), ``"fail"`` or
            ``"skip"``, see :func:`fasttriplet.retrieval.retrieval_metrics`.
        groups_exclude: with ``groups``, what rows of equal group never are to each other: ``"positives"`` (default,
            the rule of Market-1501) or ``"pairs"``.
        max_rank: how many ranks of the CMC curve. Default 50.
        ignore_index: rows of this label are neither queries nor candidates. Default None: no label.
        drop_duplicates: where rows come with ``sample_ids``, keep the first row of each id alone, of queries and of
            references: a ``DistributedSampler`` gives some samples to two ranks. Default true.
        **options: those of ``torchmetrics.Metric``, as ``compute_on_cpu``, ``sync_on_compute`` or ``process_group``.

    Raises:
        ImportError: where this module is imported without torchmetrics.
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.torchmetrics import EmbeddingRetrieval
        >>> metric = EmbeddingRetrieval(at=(1, 2), metrics=("hit_rate@2", "queries"))
        >>> metric.update(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1]))
        >>> metric.update(torch.tensor([[7.0], [8.0]]), torch.tensor([1, 2]))
        >>> {name: value.item() for name, value in metric.compute().items()}
        {'hit_rate@2': 0.75, 'queries': 4.0}
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(
        self,
        *,
        at: Sequence[int] = (1, 5, 10),
        metrics: Sequence[str] | None = None,
        distance: str = "euclidean",
        on_nonfinite: str = "error",
        groups_exclude: str = "positives",
        max_rank: int = 50,
        ignore_index: int | None = None,
        drop_duplicates: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**{"dist_sync_fn": gathered, **options})
        self.options = Options.checked(
            at=at,
            distance=distance,
            on_nonfinite=on_nonfinite,
            groups_exclude=groups_exclude,
            max_rank=max_rank,
            ignore_index=ignore_index,
            drop_duplicates=drop_duplicates,
        )
        self.metrics = checked_names(metrics, self.options)
        for prefix in ("", "ref_"):
            for name in Kept._fields:
                self.add_state(f"{prefix}{name}", default=[], dist_reduce_fx="cat")

    def update(
        self,
        embeddings: Tensor,
        labels: Tensor,
        *,
        sample_ids: Tensor | None = None,
        groups: Tensor | None = None,
        references: bool = False,
    ) -> None:
        """Adds a batch; see :meth:`fasttriplet.retrieval.RetrievalEvaluator.update` for its tensors and errors.

        Args:
            embeddings: [N, D].
            labels: [N], or [N, C] bool.
            sample_ids: [N] integers.
            groups: [N] integers.
            references: whether these are of the gallery. Default false.
        """
        prefix = "ref_" if check_bool("references", references) else ""
        rows = to_keep(embeddings, labels, sample_ids, groups, None)
        _check_alike([*self._batches(prefix)[:1], rows])
        for name, column in rows._asdict().items():
            if column is not None:
                getattr(self, prefix + name).append(column)

    def compute(self) -> dict[str, Tensor]:
        """By name tensors [], float64, or float32 on a device without it."""
        found = named(metrics_of_kept(self._kept(""), self._kept("ref_"), self.options), self.metrics)
        dtype = torch.float32 if lacks_float64(self.device) else torch.float64
        return {name: torch.tensor(value, dtype=dtype, device=self.device) for name, value in found.items()}

    def set_dtype(self, dst_type: str | torch.dtype) -> EmbeddingRetrieval:
        """As torchmetrics has it, of the embeddings alone: labels and ids are integers."""
        names = [f"{prefix}{name}" for prefix in ("", "ref_") for name in Kept._fields[1:]]
        kept = {name: getattr(self, name) for name in names}
        super().set_dtype(dst_type)
        for name, column in kept.items():
            setattr(self, name, column)
        return self

    def _kept(self, prefix: str) -> Kept | None:
        batches = self._batches(prefix)
        _check_alike(batches)
        return joined(batches) if batches else None

    def _batches(self, prefix: str) -> list[Kept]:
        """From the states, which are lists of batches, or tensors where ranks have been brought together."""
        lists = {}
        for name in Kept._fields:
            state = getattr(self, prefix + name)
            lists[name] = [each for each in ([state] if isinstance(state, Tensor) else state) if not _is_nothing(each)]
        count = len(lists["embeddings"])
        for name, columns in lists.items():
            if columns and len(columns) != count:
                raise ValueError(f"{name} must be given with every batch or with none; got {len(columns)} of {count}")
        given = (columns or [None] * count for columns in lists.values())
        return [Kept._make(columns) for columns in zip(*given, strict=True)]


def _check_alike(batches: Sequence[Kept]) -> None:
    forms = [form_of(rows)._replace(device="") for rows in batches]  # torchmetrics moves them
    for form in forms[1:]:
        differs = difference(forms[0], form)
        if differs is not None:
            name, first, other = differs
            raise ValueError(f"{name} must be the same in every batch; got {first} in the first and {other} in another")


def _is_nothing(state: Tensor) -> bool:
    """Whether it is what torchmetrics puts in place of a list without batches."""
    return state.dim() == 1 and state.is_floating_point()


def gathered(state: Tensor, group: Any = None) -> list[Tensor]:
    """Each rank's ``state``, by rank: torchmetrics' ``dist_sync_fn`` for rows, also where a rank has none.

    torchmetrics' own asks for as many axes on every rank, and has none of bfloat16 on some backends.
    """
    ranks = Group(torch.distributed.group.WORLD if group is None else group)
    forms = ranks.objects(None if _is_nothing(state) else (len(state), state.shape[1:], state.dtype))
    having = [form for form in forms if form is not None]
    if not having:
        return [state]
    tails = {tail for _, tail, _ in having}
    if len(tails) > 1:
        raise ValueError(f"rows must have one width on every rank; got shapes [N, ...] of {sorted(map(list, tails))}")
    dtype = functools.reduce(torch.promote_types, (each for _, _, each in having))
    rows = state.to(dtype) if not _is_nothing(state) else state.new_zeros(0, *tails.pop(), dtype=dtype)
    sizes = [0 if form is None else form[0] for form in forms]
    way = rows.device if rows.device.type in ranks.device_types() else ranks.device
    found = ranks.rows({"state": rows.to(way)}, sizes)["state"].to(rows.device)
    return list(found.split(sizes))
