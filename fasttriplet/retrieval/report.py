"""What mining a data set tells: how many, at what distances, what was left out and why, and what looks wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

#: Of :class:`Distances`, in percent.
PERCENTILES = (0, 5, 25, 50, 75, 95, 100)

#: Pairs that are printed of many.
_SHOWN = 5

#: Reasons that are options.
_OPTIONS = ("range_max", "range_min", "absolute_margin", "relative_margin", "min_distance", "max_distance")


class Suspects(NamedTuple):
    """Queries that lie at a row of another label, nearest first: one of the two labels is likely wrong.

    Attributes:
        queries: [S] int64, index of the query.
        references: [S] int64, index of its nearest row of another label.
        distances: [S] float64, between the two.
        positive_distances: [S] float64, of the query and its nearest positive, NaN without one. Where that is large,
            the query's own label is the likelier to be wrong.
    """

    queries: Tensor
    references: Tensor
    distances: Tensor
    positive_distances: Tensor


class Duplicates(NamedTuple):
    """Rows that coincide with one that they may pair with, by query; of one data set each pair once.

    Attributes:
        queries: [S] int64, index of the query.
        references: [S] int64, index of the nearest of all it may pair with.
        distances: [S] float64, between the two.
        same_label: [S] bool.
    """

    queries: Tensor
    references: Tensor
    distances: Tensor
    same_label: Tensor


class Distances(NamedTuple):
    """Some distances, summed up; NaN where there are none.

    Attributes:
        number: how many.
        mean: of them.
        std: their standard deviation, divided by ``number``.
        percentiles: least, 5, 25, 50, 75, 95 % and most, between two of them by a straight line.
    """

    number: int
    mean: float
    std: float
    percentiles: tuple[float, ...]


def summed_up(values: Tensor) -> Distances:
    """Of [K] float64."""
    count = len(values)
    if not count:
        return Distances(0, math.nan, math.nan, (math.nan,) * len(PERCENTILES))
    ordered = values.sort().values  # torch.quantile takes no more than 2^24
    mean = ordered.mean()
    std = (ordered - mean).square().mean().sqrt()
    return Distances(count, float(mean), float(std), tuple(percentile(ordered, each) for each in PERCENTILES))


def percentile(ordered: Tensor, percent: float) -> float:
    """Of ascending values [K], K at least 1."""
    place = (len(ordered) - 1) * percent / 100
    low, high = (float(ordered[round_(place)]) for round_ in (math.floor, math.ceil))
    return low if low == high else low + (high - low) * (place - math.floor(place))


@dataclass(frozen=True)
class MiningReport:
    """What :func:`mine_hard_negatives` tells; ``print`` it.

    A row is a query with the positive that margins are held against: one a query, or with ``positive="all"`` one for
    each of its positives. A candidate is a reference of another label than the query's; they are counted once a row,
    and those left out under the first reason in the order of ``left_out``:
    ``candidates == sum(left_out.values()) + chosen``.

    Attributes:
        distance: its name.
        num_negatives: how many negatives were asked for.
        queries: how many, ignored ones aside.
        references: how many, ignored and masked ones aside.
        rows: how many.
        without_positive: queries without one.
        without_enough: rows with fewer negatives than asked for, those without any among them.
        without_any: rows without a negative.
        candidates: how many.
        chosen: as negatives.
        left_out: how many candidates by reason. ``"never_pair"``: own copy, or equal sample id or group;
            ``"range_max"``: not looked at, since they are behind that many nearest negatives; ``"range_min"``: nearer
            than those that many ranks are skipped for; ``"no_positive"``: margins were given, and the query has no
            positive to hold them against; ``"absolute_margin"``, ``"relative_margin"``, ``"min_distance"``,
            ``"max_distance"``: by that option; ``"not_needed"``: fit to be negatives, and not chosen.
        positives: distances of the rows' positives.
        negatives: distances of the chosen negatives.
        differences: of each chosen negative, its distance less that of the row's positive.
        typical_positive_distance: the median over the queries of the distance to the nearest positive; NaN without any.
        suspect_distance: how near a row of another label is suspect; NaN where nothing can be said.
        suspects: likely wrong labels.
        duplicate_distance: how near rows are duplicates; NaN by inner product, which does not tell.
        duplicates: rows that coincide.
    """

    distance: str
    num_negatives: int
    queries: int
    references: int
    rows: int
    without_positive: int
    without_enough: int
    without_any: int
    candidates: int
    chosen: int
    left_out: dict[str, int]
    positives: Distances
    negatives: Distances
    differences: Distances
    typical_positive_distance: float
    suspect_distance: float
    suspects: Suspects
    duplicate_distance: float
    duplicates: Duplicates

    def __str__(self) -> str:
        parts = [
            f"{self.chosen:,} hard negatives for {_some(self.queries, 'query', 'queries')} among "
            f"{_some(self.references, 'reference')}, by {self.distance} distance",
            *self._table(),
            *self._left_out(),
            *self._missing(),
            *self._found(),
        ]
        return "\n".join(parts)

    def _table(self) -> list[str]:
        columns = self.positives, self.negatives, self.differences
        lines = [f"{'':8}{'positive':>14}{'negative':>14}{'difference':>14}"]
        lines.append(f"{'count':8}" + "".join(f"{each.number:>14,}" for each in columns))
        names = ["min", *(f"{each}%" for each in PERCENTILES[1:-1]), "max"]
        rows = [("mean", [each.mean for each in columns]), ("std", [each.std for each in columns])]
        rows += [(name, [each.percentiles[place] for each in columns]) for place, name in enumerate(names)]
        lines += [f"{name:8}" + "".join(f"{value:>14.4f}" for value in values) for name, values in rows]
        return lines

    def _left_out(self) -> list[str]:
        reasons = {
            "never_pair": "own copies, or of the query's sample or group",
            "range_max": "behind the nearest ones, range_max",
            "range_min": "too near by rank, range_min",
            "no_positive": "of queries without a positive to hold the margin against",
            "absolute_margin": "too near beside the positive, absolute_margin",
            "relative_margin": "too near beside the positive, relative_margin",
            "min_distance": "nearer than min_distance",
            "max_distance": "farther than max_distance",
            "not_needed": "fit, and not needed",
        }
        some = {reason: count for reason, count in self.left_out.items() if count}
        if not some:
            return []
        lines = [f"Of {_some(self.candidates, 'candidate')}, rows of another label, these were left out:"]
        width = max(len(f"{count:,}") for count in some.values())
        for reason, count in some.items():
            lines.append(f"  {count:>{width},} ({count / self.candidates:.2%}) {reasons[reason]}")
        return lines

    def _missing(self) -> list[str]:
        lines = []
        if self.without_positive:
            lines.append(f"{_some(self.without_positive, 'query has', 'queries have')} no positive.")
        if self.without_enough:
            limits = [each for each in self.left_out if each in _OPTIONS and self.left_out[each]]
            advice = f" Reconsider {', '.join(limits)}, which left out candidates." if limits else ""
            nouns = ("query has", "queries have") if self.rows == self.queries else ("row has", "rows have")
            lines.append(
                f"{_some(self.without_enough, *nouns)} fewer than {_some(self.num_negatives, 'negative')} "
                f"({self.without_enough / self.rows:.2%}), {self.without_any:,} of them none.{advice}"
            )
        return lines

    def _found(self) -> list[str]:
        lines = []
        suspects, duplicates = self.suspects, self.duplicates
        if count := len(suspects.queries):
            columns = (column[:_SHOWN].tolist() for column in suspects)
            lines.append(
                f"Likely wrong labels: {_some(count, 'query', 'queries')} within {self.suspect_distance:.4g} of a row "
                f"of another label, where the nearest positive is typically at {self.typical_positive_distance:.4g}:"
            )
            lines += [
                f"  {query} and {other}, {near:.4g} apart; nearest positive of {query} at {far:.4g}"
                for query, other, near, far in zip(*columns, strict=True)
            ]
            lines += ["  ..."] * (count > _SHOWN)
        if count := len(duplicates.queries):
            columns = (column[:_SHOWN].tolist() for column in duplicates)
            others = int((~duplicates.same_label).sum())
            lines.append(
                f"Duplicates: {_some(count, 'query', 'queries')} within {self.duplicate_distance:.4g} of a reference, "
                f"{others:,} of them of another label:"
            )
            lines += [
                f"  {query} and {other}, {near:.4g} apart" for query, other, near, _ in zip(*columns, strict=True)
            ]
            lines += ["  ..."] * (count > _SHOWN)
        return lines


def _some(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"
