"""The operators ``torch.ops.fasttriplet``: their schemas, and the portable engine as the default of each.

Options are codes, the positions of their names in :mod:`fasttriplet.check`. The compiled libraries register a device's
kernels under these names; importing this module declares them whether or not there are any.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from fasttriplet import engines
from fasttriplet.portable.operators import OPERATORS

#: Who may pair with whom, as a list of tensors and one of numbers (``PairingTensors`` in ``csrc/check.h``).
_BATCH = "Tensor embeddings, Tensor labels, Tensor? ref_embeddings, Tensor?[] pairing, int[] numbers, int distance"

SCHEMAS = {
    # distances [2, N] float64 (to the positive, to the negative), positives [N] int64, negatives [N] int64.
    "mine_batch_hard": "(Tensor embeddings, Tensor labels, int distance) -> (Tensor, Tensor, Tensor)",
    # loss [N] or []; values [3, N] float64: slopes d loss / d d_ap, distances to the positive and to the negative;
    # pairs [2, N] int64: positives, negatives. Few tensors, since each costs a call 2 us.
    "batch_hard_loss": "("
    "Tensor embeddings, Tensor labels, float margin, int distance, bool soft_margin, int reduction, "
    "int on_missing) -> (Tensor, Tensor, Tensor)",
    # Gradient [N, D] of the embeddings.
    "_batch_hard_loss_backward": "(Tensor grad_loss, Tensor embeddings, Tensor values, Tensor pairs, int distance) -> "
    "Tensor",
    # The mined triplets of a miner (core/options.h MinerKind, Otherwise): distances [2, T] float64 to the positive and
    # to the negative, NaN where there is none, and all NaN where a row that takes part is not finite; triplets [3, T]
    # int64: anchors, ascending, positives and negatives among the candidates, -1 where there is none.
    "mine_triplets": f"({_BATCH}, int miner, int otherwise, bool within_margin, float margin, int k, bool kth_only, "
    "float skip_fraction) -> (Tensor, Tensor)",
    # Gradients [N, D] of the embeddings and [M, D] of the references, [0] without any; grad [2, T] is of distances.
    # With parts, four numbers, of some rows alone: the first and how many, of the embeddings and of the references.
    "_triplet_distances_backward": "(Tensor grad, Tensor embeddings, Tensor? ref_embeddings, Tensor distances, Tensor "
    "triplets, int distance, int[] parts) -> (Tensor, Tensor)",
    # Of what mine_triplets returned: loss [T] or [], float64; slopes [2, T] float64 of the loss by the distances, 0
    # where there is none. poison [] float64: NaN where a row that takes part is not finite.
    "triplet_losses": "("
    "Tensor distances, Tensor triplets, Tensor poison, float margin, bool soft_margin, int reduction, "
    "int on_missing) -> (Tensor, Tensor)",
    # Of every ordered positive pair with its semi-hard negative: sums [N] float64 of the losses, counts [2, N] int64 of
    # pairs with a loss above zero and of pairs with a negative, both by anchor; gradients [N, D] and [M, D] of the sum
    # of weights times sums, divided by the number of pairs with a negative, [0] where not asked for or without
    # references. weights [N] float64; ones where there are none.
    "semi_hard": f"({_BATCH}, int otherwise, bool within_margin, float margin, bool soft_margin, bool with_gradient, "
    "Tensor? weights) -> (Tensor, Tensor, Tensor, Tensor)",
    # The same of what mine_triplets returned of this batch: the pairs are not mined again. parts as above.
    "semi_hard_of_triplets": f"({_BATCH}, Tensor distances, Tensor triplets, float margin, bool soft_margin, int[] "
    "parts, bool with_gradient, Tensor? weights) -> (Tensor, Tensor, Tensor, Tensor)",
    # Of every triplet: sums [N] float64 of the losses, counts [2, N] int64 of active and of all triplets, both by
    # anchor; of each candidate how often it is the negative of an active one, [N or M] int64; gradients of the sums'
    # sum divided by the number of triplets [N, D] and [M, D], [0] where not asked for or without references.
    "batch_all": f"({_BATCH}, float margin, bool soft_margin, bool with_gradient) -> (Tensor, Tensor, Tensor, Tensor, "
    "Tensor)",
    # Gradients [N, D] and [M, D], [0] without references; grad [N] is that of the sums.
    "_batch_all_backward": f"(Tensor grad, {_BATCH}, float margin, bool soft_margin) -> (Tensor, Tensor)",
    # values [8, N] float64: softmax-weighted mean distances to the positives and to the negatives, NaN where there is
    # none, and what their backward needs (csrc/cpu/dense/weighted.h).
    "weighted_distances": f"({_BATCH}) -> Tensor",
    # Gradients [N, D] and [M, D], [0] without references; grad [2, N] is that of the distances.
    "_weighted_distances_backward": f"(Tensor grad, {_BATCH}, Tensor values) -> (Tensor, Tensor)",
    # The k nearest candidates of each query, the queries' own rows without references: distances [Q, k] float64 and
    # indices [Q, k] int64, by distance and then index, NaN and -1 where there are fewer. rules lists who is no
    # neighbour of whom, and may end early (NeighbourRules in csrc/check.h): self_indices [Q] int64, keys [K, Q] and
    # ref_keys [K, M] int64, ref_mask [M] bool. Rows that are not finite are nobody's neighbours and have none.
    "nearest": "(Tensor queries, Tensor? references, Tensor?[] rules, int distance, int k) -> (Tensor, Tensor)",
    # All at a distance of at most radius: offsets [Q + 1] int64 into distances [T] float64 and indices [T] int64.
    "within": "(Tensor queries, Tensor? references, Tensor?[] rules, int distance, float radius) -> (Tensor, Tensor, "
    "Tensor)",
    # Of each query what its ranking says, [Q, 7 + 2 A] float64 for A = len(at): the columns are those of
    # fasttriplet/retrieval/ranks.py. With count_missing positives that are not finite count, at no rank.
    "retrieval_ranks": f"({_BATCH}, int[] at, bool count_missing) -> Tensor",
    # loss [T] or []; values [3, 4, 6 or 7, T] float64 for the backward: slopes d loss / d d_ap, distances to the
    # positive and to the negative, with swap whether it was swapped, for cosine the three rows' 1 / |x|. weights [T] or
    # none.
    "triplet_margin_loss": "(Tensor anchor, Tensor positive, Tensor negative, Tensor? weights, float margin, int "
    "distance, bool swap, bool soft_margin, float? mining_margin, int reduction) -> (Tensor, Tensor)",
    # Gradients [T, D] of anchor, positive and negative; [0] of one that is not wanted.
    "_triplet_margin_loss_backward": "("
    "Tensor grad_loss, Tensor anchor, Tensor positive, Tensor negative, Tensor values, "
    "int distance, bool swap, bool wants_anchor, bool wants_positive, bool wants_negative) -> (Tensor, Tensor, Tensor)",
}


def _undisturbed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The operator as it is registered: announced, and without graph or autocast, which would round."""

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
        engines.announce(name, tensors, arguments)
        kind = tensors[0].device.type
        with torch.no_grad():
            if torch.is_autocast_enabled(kind):
                with torch.autocast(kind, enabled=False):
                    return function(*arguments)
            return function(*arguments)

    return run


#: Kept, since what it has declared goes with it.
LIBRARY = torch.library.Library("fasttriplet", "DEF")

for _name, _schema in SCHEMAS.items():
    for _declared in (_name, engines.PORTABLE + _name):
        LIBRARY.define(_declared + _schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(_declared, _undisturbed(_name, OPERATORS[_name]), "CompositeExplicitAutograd")
