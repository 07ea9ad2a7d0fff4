"""What the losses of mined triplets share: from a batch and a miner to the loss.

In one operator where there are no weights and no statistics, else in plain PyTorch on [T] float64 tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, overload

import torch
from torch import Tensor
from typing_extensions import Never

from fasttriplet import transforms
from fasttriplet.arguments import told
from fasttriplet.autograd import MinedDistances, TripletLosses, mine
from fasttriplet.check import (
    DISTANCES,
    MINERS,
    ON_MISSING,
    REDUCTIONS,
    check_bool,
    check_choice,
    check_margin,
    check_tensors,
)
from fasttriplet.distributed.batch import batch_of_all, finished
from fasttriplet.distributed.mining import mined_by_all, mined_of_own
from fasttriplet.miners import Triplets
from fasttriplet.pairing import Batch, Mined, Miner, checked_batch, poison_of
from fasttriplet.reduction import Options, losses_of, ordered_sum, reduced
from fasttriplet.stats import TripletStats, stats_of

#: A loss, or (loss, :class:`fasttriplet.TripletStats`) with ``return_stats=True``.
LossResult: TypeAlias = Tensor | Any

_Arguments = ParamSpec("_Arguments")
_Options = TypeVar("_Options")

#: The farthest positive and the nearest negative.
HARDEST = Miner(MINERS.index("batch_hard"))


class LossFunction(Protocol[_Arguments]):
    """A loss of a batch as type checkers see it: ``return_stats`` says what it returns."""

    @overload  # first: what torch.compile and functools.partial are taken to be given
    def __call__(self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Tensor: ...
    @overload  # of a dict[str, Any]: mypy prefers overloads that have ** too, and nothing else is a Never
    def __call__(self, embeddings: Tensor, labels: Tensor, **arguments: Never) -> Tensor: ...
    @overload
    def __call__(
        self, embeddings: Tensor, labels: Tensor, *, return_stats: Literal[True], **arguments: Any
    ) -> tuple[Tensor, TripletStats]: ...
    @overload
    def __call__(self, embeddings: Tensor, labels: Tensor, *, return_stats: bool, **arguments: Any) -> LossResult: ...


def with_stats(function: Callable[_Arguments, LossResult]) -> LossFunction[_Arguments]:
    """The function itself, under that type."""
    return function  # type: ignore[return-value]


def checked_options(margin: float, distance: str, soft_margin: bool, reduction: str, on_missing: str) -> Options:
    code = check_choice("distance", distance, DISTANCES)
    check_choice("reduction", reduction, REDUCTIONS)
    check_choice("on_missing", on_missing, ON_MISSING)
    return Options(check_margin(margin), code, check_bool("soft_margin", soft_margin), reduction, on_missing)


def batch_of(
    function: str,
    embeddings: Tensor,
    labels: Tensor,
    arguments: Mapping[str, object],
    known: Any,
    checked: Callable[[], _Options],
) -> tuple[Batch, _Options]:
    """The batch of a call with ``arguments``, of which those of ``known`` may be there, and what ``checked`` makes of
    the rest; with a process group that of all its ranks, which raise what is wrong with the arguments of any.
    """
    process_group = arguments.get("process_group")
    if process_group is not None:  # nothing may be refused before all ranks have said what they were given
        return batch_of_all(
            function, embeddings, labels, process_group, lambda: told(function, arguments, known), checked
        )
    given = told(function, arguments, known)
    check_tensors(embeddings, labels)
    return checked_batch(embeddings, labels, given), checked()


def is_plain(function: str, embeddings: Tensor, labels: Tensor, arguments: Mapping[str, object], known: Any) -> bool:
    """Whether nothing is told beside labels [N], so that one operator serves the call."""
    if arguments.get("process_group") is not None or told(function, arguments, known):
        return False
    check_tensors(embeddings, labels)
    return labels.dim() == 1 and not transforms.active()


def mined_distances(batch: Batch, miner: Miner, distance: int) -> Mined:
    """What ``miner`` chooses, the distances with a graph."""
    if batch.together is not None:
        return mined_by_all(batch, miner, distance)
    arguments = batch.arguments
    if not transforms.active():
        return Mined(*MinedDistances.apply(*arguments, distance, *miner))
    with torch.no_grad():
        _, triplets = mine(*arguments, distance, *miner)
    poison = poison_of(*arguments)
    rows = batch.embeddings, batch.ref_embeddings
    return Mined(transforms.distances_of_mined(*rows, triplets, poison, distance), triplets, poison)


def loss_of_distances(distances: Tensor, triplets: Tensor, poison: Tensor, options: Options) -> Tensor:
    """The loss, float64, without weights: in one operator, since plain PyTorch's many take longer than mining."""
    if transforms.active():
        return reduced(losses_of(distances, triplets[1:] >= 0, poison, options), None, poison, options.reduction)
    codes = REDUCTIONS.index(options.reduction), ON_MISSING.index(options.on_missing)
    return TripletLosses.apply(distances, triplets, poison, options.margin, options.soft_margin, *codes)


def loss_of_mined(batch: Batch, miner: Miner, options: Options) -> LossResult:
    """The loss of what ``miner`` chooses."""
    weights = batch.weights
    distances, triplets, poison, counts = mined = mined_distances(batch, miner, options.distance)
    if options.on_missing == "error":
        complete = (triplets[1:] >= 0).all(0).long()
        refuse_missing(batch, triplets.new_zeros(batch.anchors).index_add(0, triplets[0], complete) > 0, poison)
    if weights is None and not batch.return_stats:
        return finished(batch, loss_of_distances(distances, triplets, poison, options), counts)
    losses = losses_of(distances, triplets[1:] >= 0, poison, options)
    of_triplets = None if weights is None else weights.double().index_select(0, triplets[0])
    loss = reduced(losses, of_triplets, poison, options.reduction)
    if weights is not None and options.reduction != "none" and MINERS[miner[0]] == "semi_hard":
        loss = loss + 0 * ordered_sum(
            weights.double()
        )  # of anchors without a triplet too, which only this miner leaves out
    loss = finished(batch, loss, counts)
    if not batch.return_stats:
        return loss
    return loss, stats_of(batch, mined, losses.counted, losses.active, options.distance)


def refuse_missing(batch: Batch, complete: Tensor, poison: Tensor) -> None:
    """ValueError where an anchor that is not ignored is not ``complete`` [N]; a batch that is not finite passes."""
    if transforms.under_vmap(complete):
        raise ValueError(
            "on_missing must be 'skip' or 'zero' under torch.vmap, where no value can be asked for; got 'error'"
        )
    takes_part = batch.takes_part()
    missing = ~complete if takes_part is None else takes_part & ~complete
    missing = missing & (poison == 1)
    if missing.any():
        raise ValueError(
            f"labels must give every anchor a positive and a negative (on_missing='error'); got {int(missing.sum())} "
            f"of {len(missing)} anchors without, the first at index {int(missing.int().argmax())}"
        )


@torch.no_grad()
def mined_triplets(batch: Batch, miner: Miner, distance: int) -> Triplets:
    """What ``miner`` chooses, without a graph; of several processes for this one's anchors."""
    if batch.together is not None:
        distances, triplets = mined_of_own(batch, miner, distance)
    else:
        distances, triplets = mine(*batch.arguments, distance, *miner)
    return Triplets(*triplets.unbind(0), *distances.to(batch.embeddings.dtype).unbind(0))
