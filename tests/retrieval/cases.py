"""Inputs of retrieval, and a judge: every pair scored exactly, every query's candidates sorted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasttriplet.portable.exact import scores_of
from fasttriplet.portable.rows import survey
from fasttriplet.reference.retrieval import neighbours
from tests.inputs import CASES, Case

#: The kernels, where a device has them, and the portable engine.
ENGINES = ("", "portable_")


def operator(engine: str, name: str):
    return getattr(torch.ops.fasttriplet, engine + name)


def _near(offset: float):
    """Rows spread by 1e-2 about a point far from the origin, some twice."""

    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = offset + 1e-2 * torch.randn(140, 24, generator=generator, dtype=torch.float64)
        rows[100:120] = rows[:20]
        return rows, torch.arange(140) % 20

    return make


def _spoilt(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A NaN or an infinity in every fourth row."""
    rows = torch.randn(110, 7, generator=generator, dtype=torch.float64)
    values = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=torch.float64)
    for at, row in enumerate(range(2, 110, 4)):
        rows[row, at % 7] = values[at % 3]
    return rows, torch.arange(110) % 13


def _scaled(factor: float):
    """Float64 rows whose scores leave its range, and some that do not."""

    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = factor * torch.randn(50, 3, generator=generator, dtype=torch.float64)
        rows[::7] = rows[3]
        rows[5::9] = 0
        return rows, torch.arange(50) % 7

    return make


EXTRA = (
    Case(
        "one-far-column", lambda g: (1e6 + torch.randn(90, 1, generator=g, dtype=torch.float64), torch.arange(90) % 9)
    ),
    Case("wide", lambda g: (torch.randn(60, 128, generator=g, dtype=torch.float64), torch.arange(60) % 12)),
    Case("near-1e4", _near(1e4)),
    Case("near-1e6", _near(1e6)),
    Case("not-finite", _spoilt),
    Case("all-nan", lambda g: (torch.full((9, 2), torch.nan, dtype=torch.float64), torch.arange(9) % 3)),
)
#: Of float64 alone.
EXTREME = (Case("beyond-1e308", _scaled(1e200)), Case("below-1e-308", _scaled(1e-200)))
ALL = (*CASES, *EXTRA)


def named(name: str) -> Case:
    return next(case for case in ALL if case.name == name)


def rows_of(case: Case, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows and labels."""
    rows, labels = case.make(torch.Generator().manual_seed(seed))
    return rows.to(dtype), labels


#: Who is no neighbour of whom.
RULES = ("own", "references", "copies", "own-keys", "keys", "mask", "everything", "nobody", "no-references")


def rules_of(name: str, rows: Tensor) -> tuple[Tensor | None, list[Tensor | None]]:
    """References made of ``rows`` [N, D], or none, and the rules as the operators take them."""
    n = len(rows)
    numbers = torch.arange(n)
    keys = torch.stack([numbers // 3 % 5 - 1, numbers % 7])
    if name == "own":
        return None, []
    if name == "own-keys":
        return None, [None, keys]
    at = torch.cat([numbers.flip(0), numbers[::2]])  # most rows twice
    references = rows[at].clone()
    if name == "references":
        return references[: n // 2 + 1], []
    if name == "no-references":
        return references[:0], [None, keys, keys[:, :0]]
    m = len(references)
    copies = torch.where(numbers % 5 == 4, -1, m - 1 - numbers // 2) if m else numbers
    mask = at % 4 != 1
    if name == "copies":
        return references, [copies]
    if name == "keys":
        return references, [None, keys[:1], keys[:1, at]]
    if name == "mask":  # what is masked may be anything
        return torch.where(mask[:, None], references, torch.nan), [None, None, None, mask]
    if name == "nobody":
        return references, [copies, keys[:0], keys[:0, at], torch.zeros_like(mask)]
    return references, [copies, keys, 8 - keys[:, at] if n else keys[:, at], mask]


def told(rules: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [*rules, *[None] * (4 - len(rules))]


def exact_scores(queries: Tensor, references: Tensor | None, distance: int) -> Tensor:
    """[Q, M] float64, each summed from its own pair in the order of the kernels."""
    rows = survey(queries, distance)
    candidates = rows if references is None else survey(references, distance)
    q, m = len(queries), len(candidates.wide)
    if q * m == 0:
        return torch.zeros(q, m, dtype=torch.float64)
    first, second = torch.arange(q).repeat_interleave(m), torch.arange(m).repeat(q)
    return scores_of(rows, candidates, first, second, distance).view(q, m)


def allowed_of(queries: Tensor, references: Tensor | None, rules: Sequence[Tensor | None]) -> Tensor:
    """[Q, M] bool."""
    copies, keys, ref_keys, mask = told(rules)
    allowed = neighbours(queries, references, copies, None, None, None, None, mask)
    for at in range(0 if keys is None else len(keys)):
        theirs = None if ref_keys is None else ref_keys[at]
        allowed &= neighbours(queries, references, None, keys[at], theirs, None, None, None)
    return allowed


class Judge:
    """Every query's candidates in order: by exact score, NaN first, then by index."""

    def __init__(
        self, queries: Tensor, references: Tensor | None, rules: Sequence[Tensor | None], distance: int
    ) -> None:
        self.given = queries, references, rules, distance
        scores, allowed = exact_scores(queries, references, distance), allowed_of(queries, references, rules)
        order = (-scores).sort(dim=1, descending=True, stable=True).indices
        order = order.gather(1, (~allowed.gather(1, order)).int().sort(dim=1, stable=True).indices)
        there = torch.arange(order.shape[1]) < allowed.sum(1, keepdim=True)
        self.indices = torch.where(there, order, -1)
        self.scores = torch.where(there, scores.gather(1, order), torch.nan)
        self.there = there

    def nearest(self, k: int) -> tuple[Tensor, Tensor]:
        more = max(0, k - self.scores.shape[1])
        padded = (
            torch.nn.functional.pad(each, (0, more), value=value)
            for each, value in ((self.scores, torch.nan), (self.indices, -1))
        )
        return tuple(each[:, :k].contiguous() for each in padded)

    def within(self, radius: float) -> tuple[Tensor, Tensor, Tensor]:
        inside = self.scores <= radius
        offsets = torch.nn.functional.pad(inside.sum(1).cumsum(0), (1, 0))
        return offsets, self.scores[inside], self.indices[inside]

    def radii(self, share: float) -> tuple[float, ...]:
        """A score, one below it, and what nothing and everything is within."""
        there = self.scores[self.scores.isfinite()].sort().values
        at = there[int(share * (len(there) - 1))].item() if len(there) else 0.0
        return at, at - 1e-9 * abs(at), -torch.inf, torch.inf

    def agrees(self, ks: Sequence[int], share: float = 0.1, engines: Sequence[str] = ENGINES) -> None:
        """Asserts that the operators answer the same, to the bit."""
        for engine in engines:
            for k in ks:
                assert_equal(operator(engine, "nearest")(*self.given, k), self.nearest(k))
            for radius in self.radii(share):
                assert_equal(operator(engine, "within")(*self.given, radius), self.within(radius))


def assert_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """To the bit; NaN is NaN."""
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
