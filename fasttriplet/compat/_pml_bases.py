"""What the classes of :mod:`fasttriplet.compat.pml` stand on: pytorch-metric-learning's own classes, or stand-ins.

The library's wrappers ask by ``isinstance`` for its base classes, and its protocol (``compute_loss``, ``mine``,
reducers, regularisers, statistics) is what a subclass or an object of one's own is written for. Where the library has
been imported, :func:`adopt` puts its classes below ours, so that all of it is there and is the library's own code.
Where it has not, the stand-ins here have what the fused pass needs, and refuse the rest.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fasttriplet.compat._pairs import full_precision
from fasttriplet.compat._pml_objects import AvgNonZeroReducer, LpDistance, Metric, metric_of
from fasttriplet.compat._pml_pairing import check_batch
from fasttriplet.pairing import widened

#: The major version whose classes are built upon.
_VERSION = "2"

_NEEDS = "pytorch-metric-learning 2, imported before this object is made"


class _StandIn(nn.Module):
    def __init__(self, distance: Any, collect_stats: bool | None) -> None:
        super().__init__()
        if collect_stats:
            raise ValueError(f"collect_stats must be None or False without {_NEEDS}; got {collect_stats!r}")
        self.collect_stats = False
        self.distance = self.get_default_distance() if distance is None else distance
        self._check_distance()

    def _check_distance(self) -> None:
        if metric_of(self.distance) is None:
            raise ValueError(
                "distance must be None, a name, or LpDistance (p=2, power 1 or 2), CosineSimilarity or "
                f"DotProductSimilarity without {_NEEDS}; got {self.distance!r}"
            )

    def get_default_distance(self) -> Any:
        """The distance where none is given."""
        return LpDistance()


class StandInMiner(_StandIn):
    """The library's ``BaseMiner``, as far as it goes without the library."""

    if TYPE_CHECKING:  # as in Mining below
        num_triplets: int

    def __init__(self, *, distance: Any = None, collect_stats: bool | None = None) -> None:
        super().__init__(distance, collect_stats)

    def forward(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None = None, ref_labels: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """What ``mine``, overridden, gives."""
        labels, ref_emb, ref_labels = _with_references(embeddings, labels, ref_emb, ref_labels)
        mined: tuple[Tensor, ...] = self.mine(embeddings, labels, ref_emb, ref_labels)
        self.output_assertion(mined)
        return mined

    def mine(self, embeddings: Tensor, labels: Any, ref_emb: Tensor, ref_labels: Any) -> Any:
        """Reached with a distance that the kernels do not have, or for statistics."""
        self._check_distance()
        raise ValueError(f"collect_stats must be False without {_NEEDS}")

    def output_assertion(self, output: tuple[Tensor, ...]) -> None:
        """Counts what was mined."""
        if len(output) == 3:
            self.num_triplets = len(output[0])
        else:
            self.num_pos_pairs, self.num_neg_pairs = len(output[0]), len(output[2])


class StandInLoss(_StandIn):
    """The library's ``BaseMetricLossFunction``, as far as it goes without the library."""

    def __init__(
        self,
        *,
        distance: Any = None,
        reducer: Any = None,
        embedding_regularizer: Any = None,
        embedding_reg_weight: float = 1,
        collect_stats: bool | None = None,
        triplets_per_anchor: str | int = "all",
    ) -> None:
        super().__init__(distance, collect_stats)
        if triplets_per_anchor != "all":
            raise ValueError(f"triplets_per_anchor must be 'all' without {_NEEDS}; got {triplets_per_anchor!r}")
        if embedding_regularizer is not None:
            raise ValueError(f"embedding_regularizer must be None without {_NEEDS}; got {embedding_regularizer!r}")
        self.reducer = self.get_default_reducer() if reducer is None else copy.deepcopy(reducer)
        self.embedding_regularizer: Any = None
        self.embedding_reg_weight = embedding_reg_weight

    def get_default_reducer(self) -> Any:
        """The reducer where none is given."""
        return AvgNonZeroReducer()

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: tuple[Tensor, ...] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Any:
        """What the reducer makes of the losses that ``compute_loss``, overridden perhaps, gives."""
        if self.embedding_regularizer is not None:
            raise ValueError(f"embedding_regularizer must be None without {_NEEDS}")
        labels, ref_emb, ref_labels = _with_references(embeddings, labels, ref_emb, ref_labels)
        return self.reducer(
            self.compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels), embeddings, labels
        )

    def compute_loss(
        self, embeddings: Tensor, labels: Any, indices_tuple: Any, ref_emb: Tensor, ref_labels: Any
    ) -> Any:
        """Reached with random triplets."""
        raise ValueError(f"triplets_per_anchor must be 'all' without {_NEEDS}")

    def zero_losses(self) -> dict[str, Any]:
        """The losses where no triplet was found."""
        return {"loss": {"losses": 0, "indices": None, "reduction_type": "already_reduced"}}


def _with_references(
    embeddings: Tensor, labels: Any, ref_emb: Tensor | None, ref_labels: Tensor | None
) -> tuple[Any, Tensor, Any]:
    """Labels on the device of their rows, and the batch itself where no references are given."""
    labels = None if labels is None else labels.to(embeddings.device)
    if ref_emb is None:
        return labels, embeddings, labels
    return labels, ref_emb, None if ref_labels is None else ref_labels.to(ref_emb.device)


def as_written(instance: nn.Module, cls: type, *methods: str) -> bool:
    """Whether an instance has these methods as ``cls`` has them, so that what they would do may be done otherwise."""
    kind = type(instance)
    return all(
        name not in instance.__dict__ and getattr(kind, name, None) is getattr(cls, name, None) for name in methods
    )


class Mining(nn.Module):
    """Who mines: the kernels, a subclass, or the library. Stands before the library's class, which ``super()`` is."""

    if TYPE_CHECKING:  # torch.jit.script reads annotations, and not as strings
        distance: Any
        collect_stats: bool
        output_assertion: Callable[[tuple[Tensor, ...]], None]  # the bases', which counts the triplets
        #: The subclasses': the triplets of rows and labels, with references or without.
        _mined: Callable[[Metric, Tensor, Tensor, Tensor | None, Tensor | None], tuple[Tensor, Tensor, Tensor]]

    @torch.no_grad()
    def forward(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor | None = None, ref_labels: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """The triplets, each [T] int64; their number is then in ``num_triplets``."""
        metric = metric_of(self.distance)
        check_batch(metric, embeddings, labels, ref_emb, ref_labels)
        if metric is None or self.collect_stats or not as_written(self, Mining, "mine"):
            with full_precision(embeddings):
                rows, others = widened(embeddings), None if ref_emb is None else widened(ref_emb)
                return super().forward(rows, labels, others, ref_labels)
        mined = self._mined(metric, embeddings, labels, ref_emb, ref_labels)
        if not torch.compiler.is_exporting():  # what is exported keeps no count
            self.output_assertion(mined)
        return mined

    def mine(self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor) -> tuple[Tensor, ...]:
        """The triplets, as the original's ``forward`` asks for them: for subclasses, to override and to call."""
        metric = metric_of(self.distance)
        check_batch(metric, embeddings, labels, ref_emb, ref_labels)
        if metric is None or self.collect_stats:
            return super().mine(embeddings, labels, ref_emb, ref_labels)  # type: ignore[misc]
        others = None if ref_emb is embeddings and ref_labels is labels else ref_emb
        return self._mined(metric, embeddings, labels, others, ref_labels)


class _Adopting(nn.Module):
    """Looks for the library whenever an object is made, also from a pickle or as a copy."""

    #: Left out of a model that is scripted, since the library's objects cannot be.
    __jit_ignored_attributes__ = ("distance", "reducer", "embedding_regularizer")

    def __init__(self, **options: Any) -> None:
        adopt()
        super().__init__(**options)  # what is below, which may have changed in the line before

    def __setstate__(self, state: dict[str, Any]) -> None:
        adopt()
        super().__setstate__(state)


class BatchHardMinerBase(Mining, _Adopting, StandInMiner):
    """Below it: a stand-in, or the library's ``BatchHardMiner``."""


class TripletMarginMinerBase(Mining, _Adopting, StandInMiner):
    """Below it: a stand-in, or the library's ``TripletMarginMiner``."""


class TripletMarginLossBase(_Adopting, StandInLoss):
    """Below it: a stand-in, or the library's ``TripletMarginLoss``."""


def adopt() -> None:
    """Puts the library's classes below ours where somebody has imported it, of all instances at once.

    ``__bases__`` is what Python lets a program exchange: the import of either library may then come first, and pickles
    of ours name no class but ours.
    """
    library = sys.modules.get("pytorch_metric_learning")
    if library is None or StandInLoss not in TripletMarginLossBase.__bases__:
        return
    if str(getattr(library, "__version__", "")).split(".")[0] != _VERSION:
        return
    losses, miners = (importlib.import_module(f"pytorch_metric_learning.{name}") for name in ("losses", "miners"))
    BatchHardMinerBase.__bases__ = (Mining, _Adopting, miners.BatchHardMiner)
    TripletMarginMinerBase.__bases__ = (Mining, _Adopting, miners.TripletMarginMiner)
    TripletMarginLossBase.__bases__ = (_Adopting, losses.TripletMarginLoss)
