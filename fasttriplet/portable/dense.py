"""Losses over all pairs by the portable engine: batch-all and softly weighted distances, in chunks of anchors.

Everything is float64. The distance of a negative is ``sqrt(2 key) / scale`` for euclidean, with the error of its key;
pairs so near that few digits would be left are scored, and so are those that lie as near to a threshold as the error,
so that active triplets are counted exactly. Slopes of a chunk are one matrix, which two products turn into gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.portable.edges import edge_weights
from fasttriplet.portable.losses import softplus
from fasttriplet.portable.miners import Batch, PositivePairs, positive_pairs
from fasttriplet.portable.pairs import Chunk, Pairs
from fasttriplet.portable.picks import Found
from fasttriplet.portable.rows import Rows
from fasttriplet.portable.screen import NONE, Level
from fasttriplet.reduction import SOFTPLUS_VANISHES

#: Lines of what :func:`weighted_distances` returns.
VALUES = 8

#: A key below this share of its anchor's term has lost too many digits.
_NEAR = 2.0**-22

#: Roundings of a distance made of a key, as a share of it, and of the difference to another.
_ROUNDINGS = 2.0**-46


class Some(NamedTuple):
    """Some anchors and their distances to everyone."""

    chunk: Chunk
    positives: PositivePairs
    distances: Tensor  # [C, M] float64 to negatives, infinite to what is none
    absent: Tensor  # [C, M] bool: what is none
    slack: Tensor  # [C, 1] of their keys
    equal: list[tuple[Tensor, Tensor]]  # rows and columns of pairs at distance 0, which have no slope but by products


class Walk:
    """Over the chunks of a batch, with all distances, and back with their slopes."""

    def __init__(self, pairs: Pairs, distance: int) -> None:
        self.batch, self.pairs, self.distance = Batch(pairs, distance), pairs, distance
        self.name, self.frame = DISTANCES[distance], self.batch.frame
        #: Rows so large or small that keys say nothing: all is scored. Float32 rows never are.
        self.extreme = pairs.dtype == torch.float64 and bool(self.frame.scale == 0)
        self.scale = torch.ones_like(self.frame.scale) if self.extreme else self.frame.scale

    def chunks(self) -> Iterator[Some]:
        pairs, level = self.pairs, self.batch.fine
        m = len(pairs.columns)
        widest, own = (torch.nn.functional.pad(each, (1, 0)).amax() for each in level.candidates[1:])
        for chunk in pairs.chunks():
            some = chunk.anchors
            lower = self.batch.keys(level, chunk)
            classes = pairs.of_class(chunk)
            positives = positive_pairs(self.batch, chunk, classes)
            pairs.leave_negatives(chunk, classes, lower, NONE)
            lower = lower[:, :m]
            absent, term = lower >= NONE / 2, level.anchors.term[some, None]
            slack = 2 * (level.anchors.reach[some] * widest + own + level.anchors.rounding[some])[:, None]
            keys = self._exact_keys(level, some, lower)
            where = None
            if self.extreme:
                where = ~absent
            elif self.name != "inner_product" and m:  # which has no relative precision to lose
                near = _NEAR * term
                if (keys.amin(1, keepdim=True) <= near).any():  # a wait for the device
                    where = keys <= near  # what is absent is far
            found = Some(chunk, positives, self._distances(keys).masked_fill_(absent, torch.inf), absent, slack, [])
            if where is not None:
                self.score(found, where)
            yield found

    @staticmethod
    def _exact_keys(level: Level, some: slice, lower: Tensor) -> Tensor:
        """The whole keys, but for roundings, in place of their lower bounds [C, M]: what was taken off is put back."""
        theirs, ours = level.candidates, level.anchors
        m = lower.shape[1]
        one = theirs.own.new_ones(1)
        taken = torch.stack([ours.reach[some], one.expand(len(lower)), ours.term[some]], 1)
        return lower.addmm_(taken, torch.stack([theirs.reach[:m], theirs.own[:m], one.expand(m)]))

    def _distances(self, keys: Tensor) -> Tensor:
        if self.name == "euclidean":
            return keys.mul_(2).clamp_min_(0).sqrt_().div_(self.scale)
        if self.name == "squared_euclidean":
            return keys.mul_(2).clamp_min_(0).div_(self.scale * self.scale)
        if self.name == "inner_product":
            keys -= self.frame.centre_norm().square()
        else:
            keys.clamp_min_(0)
        return keys.div_(self.scale * self.scale)

    def error_at(self, some: Some, distance: Tensor) -> Tensor:
        """[C, P] by how much a distance to a negative may be wrong where it is about ``distance`` [C, P]."""
        error = some.slack / (self.scale * self.scale)
        if self.name == "euclidean":
            error = error / torch.where(distance > 0, distance, 1)
        elif self.name == "squared_euclidean":
            error = error * 2
        return error + distance.abs().nan_to_num(posinf=0, neginf=0) * _ROUNDINGS

    def score(self, some: Some, where: Tensor) -> None:
        """Makes the distances [C, M] of pairs ``where`` exact; a wait for how many there are."""
        rows, columns = where.nonzero().unbind(1)
        scores = self.batch.picker.scores(some.chunk.anchors, Found(rows, columns))
        some.distances[rows, columns] = scores
        equal = (scores == 0).nonzero().squeeze(1)
        some.equal.append((rows[equal], columns[equal]))


class Gradients:
    """What the slopes of all pairs pull, chunk by chunk, into gradients of the rows."""

    def __init__(self, walk: Walk) -> None:
        self._walk, pairs, level = walk, walk.pairs, walk.batch.fine
        d = pairs.rows.wide.shape[1]
        self._anchors = level.anchors.rounded[: len(pairs), :d]
        self._candidates = level.candidates.matrix[: len(pairs.columns), :d]
        if walk.extreme:
            self._anchors, self._candidates = (
                torch.where(rows.finite[:, None], rows.wide, 0) for rows in (pairs.rows, pairs.candidates)
            )
        self._own = pairs.rows.wide.new_zeros((len(pairs), d))
        self._theirs = self._own.new_zeros((len(pairs.columns), d))
        self._sums = [self._own.new_zeros(len(each)) for each in (self._own, self._theirs)]
        self._shrinks = [torch.zeros_like(each) for each in self._sums]

    def add(self, some: Some, of_negatives: Tensor, of_positives: Tensor) -> None:
        """Slopes [C, M] by the distances to negatives, overwritten as these are, and [Q] by those to positives."""
        walk, anchors = self._walk, some.chunk.anchors
        listed = some.positives
        # As edge_weights, in place; what is absent is at an infinite distance and has no slope.
        weights = of_negatives
        if walk.name == "euclidean":
            weights.div_(some.distances)
            for rows, columns in some.equal:
                weights[rows, columns] = 0
        elif walk.name == "squared_euclidean":
            weights.mul_(2)
        weights[listed.rows, listed.columns] = edge_weights(of_positives, listed.scores, walk.distance)
        self._own[anchors] = weights @ self._candidates
        self._theirs.addmm_(weights.T, self._anchors[anchors])
        self._sums[0][anchors] = weights.sum(1)
        self._sums[1] += weights.sum(0)
        if walk.name == "cosine":
            distances = some.distances.masked_fill_(some.absent, 0)
            distances[listed.rows, listed.columns] = listed.scores
            shrinks = distances.mul_(weights)
            self._shrinks[0][anchors] = shrinks.sum(1)
            self._shrinks[1] += shrinks.sum(0)

    def results(self, factor: Tensor, like: Tensor, references: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of the embeddings and of the references, [0] without any, times ``factor`` []."""
        walk = self._walk
        own = self._of(walk.pairs.rows, self._anchors, self._own, 0) * factor
        theirs = self._of(walk.pairs.candidates, self._candidates, self._theirs, 1) * factor
        if references is None:
            own, theirs = own + theirs, own[:0, :0].flatten()
        else:
            theirs = _put(theirs, walk.pairs.columns)
        return _put(own, walk.pairs.order).to(like.dtype), theirs.to(like.dtype)

    def _of(self, rows: Rows, prepared: Tensor, pulled: Tensor, side: int) -> Tensor:
        walk, sums = self._walk, self._sums[side][:, None]
        centre = torch.zeros_like(walk.frame.centre) if walk.extreme else walk.frame.centre
        if walk.name == "inner_product":
            return -(pulled / walk.scale + sums * centre)
        gradient = (sums * prepared - pulled) / walk.scale
        if rows.factors is None:
            return gradient
        units = prepared / walk.scale + centre
        return (gradient - self._shrinks[side][:, None] * units) * rows.factors[:, None]


def _put(values: Tensor, order: Tensor) -> Tensor:
    placed = torch.empty_like(values)
    placed[order] = values
    return placed


class _Sums(NamedTuple):
    """Of the triplets of some anchors."""

    sums: Tensor  # [C]
    active: Tensor  # [C] int64
    of_negatives: Tensor  # [C, M] slopes, not yet negated
    of_positives: Tensor  # [C, P] slopes
    counts: Tensor  # [M] int64, active triplets a candidate is the negative of
    doubtful: Tensor  # [C] bool, some loss is about as far from zero as the error of its distance


def _triplets(walk: Walk, some: Some, margin: float, soft_margin: bool) -> _Sums:
    """Positive after positive, each with all negatives."""
    distances = some.distances
    thresholds = some.positives.in_slots(-torch.inf)
    edge = -SOFTPLUS_VANISHES if soft_margin else margin
    errors = walk.error_at(some, thresholds + edge)
    c, slots = thresholds.shape
    sums, active = distances.new_zeros(c), distances.new_zeros(c, dtype=torch.int64)
    of_negatives, of_positives = torch.zeros_like(distances), torch.zeros_like(thresholds)
    often = torch.zeros_like(distances) if soft_margin else of_negatives
    doubtful = torch.zeros_like(active, dtype=torch.bool)
    for slot in range(slots):
        difference = thresholds[:, slot, None] - distances
        if soft_margin:
            missing = difference.isneginf()
            beyond = (difference - SOFTPLUS_VANISHES).abs_()
            doubtful |= beyond.amin(1) <= errors[:, slot] if beyond.shape[1] else doubtful
            losses, slopes = softplus(difference.masked_fill_(missing, 0))
            losses, slopes = losses.masked_fill_(missing, 0), slopes.masked_fill_(missing, 0)
            is_active = (difference > SOFTPLUS_VANISHES) & ~missing
            often += is_active
        else:
            losses = difference.add_(margin)
            doubtful |= losses.abs().amin(1) <= errors[:, slot] if losses.shape[1] else doubtful
            is_active = losses > 0
            slopes = is_active
            losses = losses.clamp_min_(0)
        of_negatives += slopes
        of_positives[:, slot] = slopes.sum(1)
        sums += losses.sum(1)
        active += is_active.sum(1) if soft_margin else of_positives[:, slot].long()
    if walk.extreme:
        sums = torch.where(_overflows(some, thresholds, 0 if soft_margin else margin), torch.nan, sums)
    return _Sums(sums, active, of_negatives, of_positives, often.sum(0).long(), doubtful)


def _overflows(some: Some, thresholds: Tensor, margin: float) -> Tensor:
    """[C] bool: whether a difference of distances leaves float64's range."""
    found = torch.zeros_like(thresholds[:, 0] if thresholds.shape[1] else some.slack[:, 0], dtype=torch.bool)
    for threshold in thresholds.unbind(1):
        there = ~some.absent & ~threshold.isneginf()[:, None]
        found |= (~(threshold[:, None] - some.distances + margin).isfinite() & there).any(1)
    return found


def _certain(walk: Walk, some: Some, margin: float, soft_margin: bool) -> _Sums:
    """Likewise, with what is doubtful scored first; a wait for whether anything is."""
    found = _triplets(walk, some, margin, soft_margin)
    if walk.extreme or not found.doubtful.any():
        return found
    thresholds = some.positives.in_slots(-torch.inf) + (-SOFTPLUS_VANISHES if soft_margin else margin)
    errors = walk.error_at(some, thresholds)
    where = torch.zeros_like(some.absent)
    for threshold, error in zip(thresholds.unbind(1), errors.unbind(1), strict=True):
        where |= (threshold[:, None] - some.distances).abs() <= 2 * error[:, None]
    walk.score(some, where & ~some.absent)
    return _triplets(walk, some, margin, soft_margin)


def batch_all(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: Sequence[Tensor | None],
    numbers: Sequence[int],
    distance: int,
    margin: float,
    soft_margin: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator: sums [N], counts [2, N], negative counts [M], gradients."""
    pairs = Pairs(embeddings, labels, ref_embeddings, pairing, numbers, distance)
    return _batch_all(pairs, embeddings, ref_embeddings, distance, margin, soft_margin, None, with_gradient)


def batch_all_backward(
    grad: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: Sequence[Tensor | None],
    numbers: Sequence[int],
    distance: int,
    margin: float,
    soft_margin: bool,
) -> tuple[Tensor, Tensor]:
    """The operator: gradients, ``grad`` [N] being that of the sums."""
    pairs = Pairs(embeddings, labels, ref_embeddings, pairing, numbers, distance)
    results = _batch_all(pairs, embeddings, ref_embeddings, distance, margin, soft_margin, grad, True)
    return results[3], results[4]


def _batch_all(
    pairs: Pairs,
    embeddings: Tensor,
    ref_embeddings: Tensor | None,
    distance: int,
    margin: float,
    soft_margin: bool,
    upstream: Tensor | None,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Without ``upstream`` the gradients are those of the sums' sum divided by the number of triplets."""
    walk = Walk(pairs, distance)
    gradients = Gradients(walk) if with_gradient else None
    n, m = len(pairs), len(pairs.columns)
    sums = embeddings.new_zeros(n, dtype=torch.float64)
    counts, often = _numbers(sums, (2, n)), _numbers(sums, (m,))
    for some in walk.chunks():
        found, at = _certain(walk, some, margin, soft_margin), some.chunk.anchors
        positives = torch.bincount(some.positives.rows, minlength=some.positives.anchors)
        sums[at], counts[0, at] = found.sums, found.active
        counts[1, at] = positives * (~some.absent).sum(1)
        often += found.counts
        if gradients is not None:
            share = torch.ones_like(found.sums) if upstream is None else upstream[pairs.order[at]]
            share = torch.where(found.sums.isnan(), torch.nan, share)[:, None]  # of an overflow
            listed = some.positives
            of_positives = (found.of_positives * share)[listed.rows, listed.slot]
            gradients.add(some, found.of_negatives * -share, of_positives)
    poison = torch.where(pairs.finite & ~sums.isnan().any(), 1.0, torch.nan).double()
    sums = _put(torch.where(pairs.finite, sums, torch.nan), pairs.order)
    counts, often = _put(counts.T, pairs.order).T.contiguous(), _put(often, pairs.columns)
    if gradients is None:
        return sums, counts, often, embeddings.new_empty(0), embeddings.new_empty(0)
    if upstream is None:
        factor = poison.double() / counts[1].sum().clamp_min(1)  # else a quotient in float32
    else:
        factor = torch.where(upstream.isnan().any(), torch.nan, poison)
    return sums, counts, often, *gradients.results(factor, embeddings, ref_embeddings)


def _numbers(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    return values.new_zeros(shape, dtype=torch.int64)


class _Side(NamedTuple):
    """Of the softly weighted distances of some anchors to their positives, or to their negatives."""

    pivot: Tensor  # [C]
    log_total: Tensor  # [C]
    above_pivot: Tensor  # [C]

    @property
    def mean(self) -> Tensor:
        return self.pivot + self.above_pivot


def _soft(distances: Tensor, absent: Tensor, sign: int) -> _Side:
    """Weights are softmax(sign d); NaN where an anchor has none. What is absent is at distance ``-sign`` infinity."""
    if distances.shape[1] == 0:
        nothing = distances.new_full((len(distances),), torch.nan)
        return _Side(nothing, nothing, nothing)
    none = absent.all(1)
    pivot = distances.amax(1) if sign > 0 else distances.amin(1)
    above = distances - pivot[:, None]  # NaN where all are absent
    weights = (above * sign).exp_()
    total = weights.sum(1)
    shift = weights.mul_(above.masked_fill_(absent, 0)).sum(1) / total
    # With a distance beyond float64's range the mean is infinite: the loss is NaN, as it is not without a pair.
    beyond = shift.isnan() & ~none
    pivot = torch.where(none, torch.nan, torch.where(beyond, torch.inf, pivot))
    return _Side(pivot, total.log(), torch.where(beyond, 0, shift))


def weighted_distances(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: Sequence[Tensor | None],
    numbers: Sequence[int],
    distance: int,
) -> Tensor:
    """The operator: values [8, N], of the lines of ``csrc/cpu/dense/weighted.h``."""
    pairs = Pairs(embeddings, labels, ref_embeddings, pairing, numbers, distance)
    walk = Walk(pairs, distance)
    values = embeddings.new_full((VALUES, len(pairs)), torch.nan, dtype=torch.float64)
    for some in walk.chunks():
        near = _soft(some.positives.in_slots(-torch.inf), ~some.positives.taken, 1)
        apart = _soft(some.distances, some.absent, -1)
        lines = [(a, b) for a, b in zip((near.mean, *near), (apart.mean, *apart), strict=True)]
        values[:, some.chunk.anchors] = torch.stack([each for line in lines for each in line])
    return _put(torch.where(pairs.finite, values, torch.nan).T, pairs.order).T.contiguous()


def weighted_distances_backward(
    grad: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: Sequence[Tensor | None],
    numbers: Sequence[int],
    distance: int,
    values: Tensor,
) -> tuple[Tensor, Tensor]:
    """The operator: gradients, ``grad`` [2, N] being that of the distances."""
    pairs = Pairs(embeddings, labels, ref_embeddings, pairing, numbers, distance)
    walk = Walk(pairs, distance)
    gradients = Gradients(walk)
    upstream, values = grad[:, pairs.order], values[:, pairs.order]
    for some in walk.chunks():
        at, listed = some.chunk.anchors, some.positives
        near, apart = (_Side(*values[2 + side :: 2, at]) for side in (0, 1))
        above = listed.scores - near.pivot[listed.rows]
        weights = (above - near.log_total[listed.rows]).exp()
        of_positives = weights * (1 + above - near.above_pivot[listed.rows]) * upstream[0, at][listed.rows]
        above = some.distances - apart.pivot[:, None]
        weights = above.neg().sub_(apart.log_total[:, None]).exp_().mul_(upstream[1, at, None])
        of_negatives = above.neg_().add_(1 + apart.above_pivot[:, None]).mul_(weights)
        still = upstream[:, at] == 0  # where distances may be infinite
        of_positives.masked_fill_(still[0][listed.rows], 0)
        gradients.add(some, of_negatives.masked_fill_(some.absent | still[1][:, None], 0), of_positives)
    poison = torch.where(pairs.finite & ~_weighs_nan(grad, values, pairs), 1.0, torch.nan)
    return gradients.results(poison, embeddings, ref_embeddings)


def _weighs_nan(grad: Tensor, values: Tensor, pairs: Pairs) -> Tensor:
    return (grad[:, pairs.order].isnan() & ~values[:2].isnan()).any()
