"""The walk over all pairs for sums of them: distances in chunks of anchors, and back with their slopes.

Everything is float64. The distance of a negative is ``sqrt(2 key) / scale`` for euclidean, with the error of its key;
pairs so near that few digits would be left are scored. Slopes of a chunk are one matrix, which two products turn into
gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.portable.edges import edge_weights
from fasttriplet.portable.miners import Batch, PositivePairs, positive_pairs
from fasttriplet.portable.pairs import Chunk, Given, Pairs
from fasttriplet.portable.picks import Found
from fasttriplet.portable.rows import Rows
from fasttriplet.portable.screen import NONE, Level

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

    def __init__(self, given: Given) -> None:
        self.given, self.pairs = given, Pairs(given)
        self.batch = Batch(self.pairs, given.distance)
        self.name, self.frame = DISTANCES[given.distance], self.batch.frame
        #: Rows so large or small that keys say nothing: all is scored. Float32 rows never are.
        self.extreme = given.embeddings.dtype == torch.float64 and bool(self.frame.scale == 0)
        self.scale = torch.ones_like(self.frame.scale) if self.extreme else self.frame.scale

    def chunks(self) -> Iterator[Some]:
        pairs, level = self.pairs, self.batch.fine
        m = len(pairs.columns)
        for chunk in pairs.chunks():
            some = chunk.anchors
            lower = self.batch.keys(level, chunk)
            classes = pairs.of_class(chunk)
            positives = positive_pairs(self.batch, chunk, classes)
            pairs.leave_negatives(chunk, classes, lower, NONE)
            lower = lower[:, :m]
            absent, term = lower >= NONE / 2, level.anchors.term[some, None]
            keys = self._exact_keys(level, some, lower)
            where = None
            if self.extreme:
                where = ~absent
            elif self.name != "inner_product" and m:  # which has no relative precision to lose
                near = _NEAR * term
                if (keys.amin(1, keepdim=True) <= near).any():  # a wait for the device
                    where = keys <= near  # what is absent is far
            distances = self._distances(keys).masked_fill_(absent, torch.inf)
            found = Some(chunk, positives, distances, absent, level.widest(some), [])
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
        weights[listed.rows, listed.columns] = edge_weights(of_positives, listed.scores, walk.given.distance)
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

    def results(self, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Of the embeddings and of the references, [0] without any, times ``factor`` []."""
        walk, dtype = self._walk, self._walk.given.embeddings.dtype
        own = self._of(walk.pairs.rows, self._anchors, self._own, 0) * factor
        theirs = self._of(walk.pairs.candidates, self._candidates, self._theirs, 1) * factor
        if walk.pairs.own:
            own, theirs = own + theirs, own[:0, :0].flatten()
        else:
            theirs = placed(theirs, walk.pairs.columns)
        return placed(own, walk.pairs.order).to(dtype), theirs.to(dtype)

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


def placed(values: Tensor, order: Tensor) -> Tensor:
    """Rows of ``values`` in the order of the batch, from that of places or of columns."""
    result = torch.empty_like(values)
    result[order] = values
    return result
