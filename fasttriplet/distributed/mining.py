"""What every rank mines for its own anchors, gathered: from there on all ranks compute what one process does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasttriplet.autograd.mined import MinedDistances, mine
from fasttriplet.check import MINERS
from fasttriplet.distributed.autograd import DistancesOfAll, JoinedValues
from fasttriplet.distributed.batch import Together
from fasttriplet.engines import engine_of, miner_uses, uses_of
from fasttriplet.pairing import Batch, Mined, Miner, poison_of


def mines_whole(batch: Batch, miner: Miner) -> bool:
    """Whether every rank mines for all anchors, by a kernel of the device that serves the batch but no references.

    Other ranks' rows are references to a rank. Mining for all is as much work as there are ranks, and still less than
    one rank's part by the portable engine. The kernels that there are of this kind have one triplet for each anchor.
    """
    embeddings, *rest = batch.arguments
    device, kind = embeddings.device, miner_uses(miner.miner)
    if device.type == "cpu" or batch.ref_embeddings is not None or kind:
        return False
    return engine_of("mine_triplets", device, uses_of(*rest)).name not in ("portable", "cpu and back")


def mined_by_all(batch: Batch, miner: Miner, distance: int) -> Mined:
    """What ``miner`` chooses for all anchors, which are numbered over all ranks, as candidates are that they share."""
    together: Together | None = batch.together
    assert together is not None
    if not together.shared:
        return _mined_among_own(together, miner, distance)
    with torch.no_grad():
        if mines_whole(batch, miner):
            distances, triplets = mine(*batch.arguments, distance, *miner)
            counts = together.sizes
        else:
            distances, triplets = mine(*together.own.arguments, distance, *miner)
            counts = _counts(together, miner, triplets)
            distances, triplets = _gathered(together, distances, triplets, counts)
        poison = poison_of(*batch.arguments)
        distances = distances * poison  # a row that is not finite may be another rank's anchor
    distances = DistancesOfAll.apply(
        together.own.embeddings,
        together.own_references,
        batch.embeddings,
        batch.ref_embeddings,
        distances,
        triplets,
        poison,
        distance,
        together.parts,
    )
    return Mined(distances, triplets, poison, counts)


@torch.no_grad()
def mined_of_own(batch: Batch, miner: Miner, distance: int) -> tuple[Tensor, Tensor]:
    """Distances [2, T] and triplets [3, T] of this rank's anchors alone, numbered likewise."""
    together: Together | None = batch.together
    assert together is not None
    if mines_whole(batch, miner):
        distances, triplets = mine(*batch.arguments, distance, *miner)
        distances, triplets = (together.group.of_each(each.T, together.sizes).T for each in (distances, triplets))
        return distances, triplets
    distances, triplets = mine(*together.own.arguments, distance, *miner)
    if together.shared:
        distances = distances * poison_of(*batch.arguments)
    return distances, torch.cat([triplets[:1] + together.first, triplets[1:]])


def _mined_among_own(together: Together, miner: Miner, distance: int) -> Mined:
    """Of candidates that every rank has for itself: only the reduction is over all."""
    distances, triplets, poison = MinedDistances.apply(*together.own.arguments, distance, *miner)
    counts = [count for (count,) in together.group.numbers([triplets.shape[1]])]
    everything, all_triplets = _gathered(together, distances, triplets, counts)
    joined = JoinedValues.apply(distances.T, everything.T, together.group, counts).T
    return Mined(joined, all_triplets, together.poison(poison), counts)


def _counts(together: Together, miner: Miner, triplets: Tensor) -> list[int]:
    """Triplets by rank. Of semi-hard mining they follow from the labels: a second wait for the host."""
    if MINERS[miner.miner] == "semi_hard":
        return [count for (count,) in together.group.numbers([triplets.shape[1]])]
    several = MINERS[miner.miner] == "k_hardest" and not miner.kth_only
    each = min(miner.k, together.own.candidates) if several else 1
    return [each * size for size in together.sizes]


def _gathered(together: Together, distances: Tensor, triplets: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """28 bytes a triplet."""
    numbered = torch.cat([triplets[:1] + together.first, triplets[1:]])
    own = {"distances": distances.detach().T, "triplets": numbered.T.int()}
    everything = together.group.rows(own, counts)
    return everything["distances"].T.contiguous(), everything["triplets"].T.long().contiguous()
