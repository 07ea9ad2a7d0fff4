"""The table of inputs that correctness, gradient and operator checks share, and how to compare with the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import DISTANCES as DISTANCES
from fasttriplet.check import ON_MISSING as ON_MISSING
from fasttriplet.check import REDUCTIONS as REDUCTIONS

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class Case(NamedTuple):
    """A batch by name; ``tied_cosines``: pairs whose cosines are equal but for float64 rounding, which decides them."""

    name: str
    make: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    tied_cosines: bool = False


def _classes(n: int, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, count, (n,), generator=generator)


def _gauss(n: int, d: int, count: int) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    return lambda g: (torch.randn(n, d, generator=g, dtype=torch.float64), _classes(n, count, g))


def _shaped(shape: Callable[[Tensor], Tensor], n: int, d: int, count: int) -> Callable[..., tuple[Tensor, Tensor]]:
    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows, labels = _gauss(n, d, count)(generator)
        return shape(rows), labels

    return make


def _clusters(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.arange(120) // 4
    centres = torch.nn.functional.normalize(torch.randn(30, 24, generator=generator, dtype=torch.float64), dim=1)
    return centres[labels] + 1e-3 * torch.randn(120, 24, generator=generator, dtype=torch.float64), labels


def _some_rows_zero(rows: Tensor) -> Tensor:
    return torch.where((torch.arange(len(rows)) % 5 == 0)[:, None], 0.0, rows)


def _duplicated(rows: Tensor) -> Tensor:
    return rows[torch.arange(len(rows)) % 7]


# Sizes around the tiles' edges (rows 4 and 8, panels 12, 24 and 48, blocks 384) and odd ones.
CASES = (
    *(Case(f"gauss-{n}x{d}", _gauss(n, d, max(1, n // 4))) for n, d in [(1, 3), (2, 3), (3, 2), (8, 16), (97, 33)]),
    *(Case(f"edge-{n}", _gauss(n, 17, 9)) for n in (11, 12, 13, 24, 25, 47, 48, 49, 100, 101)),
    Case("empty", lambda g: (torch.zeros(0, 5, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))),
    Case("no-columns", lambda g: (torch.zeros(6, 0, dtype=torch.float64), torch.arange(6) // 2)),
    Case("one-column", _gauss(60, 1, 9), tied_cosines=True),
    Case("two-blocks", _gauss(400, 7, 40)),
    Case("one-class", _gauss(130, 9, 1)),
    Case("large-classes", _gauss(300, 12, 3)),
    Case("all-distinct", lambda g: (torch.randn(70, 9, generator=g, dtype=torch.float64), torch.arange(70))),
    Case("half-one-class", lambda g: (_gauss(200, 6, 2)(g)[0], torch.arange(200).clamp_min(100))),
    Case("integers", _shaped(lambda x: (4 * x).round(), 150, 3, 12), tied_cosines=True),
    Case("binary", _shaped(lambda x: (x > 0).double(), 90, 6, 8), tied_cosines=True),
    Case("all-equal", _shaped(lambda x: x[:1].expand_as(x), 100, 8, 9)),
    Case("two-values", _shaped(lambda x: x[torch.arange(len(x)) % 2], 100, 8, 9)),
    Case("duplicates", _shaped(_duplicated, 100, 8, 6)),
    Case("zero-rows", _shaped(_some_rows_zero, 80, 8, 6)),
    Case("all-zero", _shaped(torch.zeros_like, 20, 8, 3)),
    Case("offset-1e4", _shaped(lambda x: x + 1e4, 120, 32, 20)),
    Case("six-decades", _shaped(lambda x: x * torch.logspace(-3, 3, len(x), dtype=x.dtype)[:, None], 120, 16, 20)),
    Case("huge", _shaped(lambda x: x * 2.0**120, 60, 8, 9)),
    Case("tiny", _shaped(lambda x: x * 2.0**-120, 60, 8, 9)),
    Case("tight-clusters", _clusters),
)
CASE_IDS = [case.name for case in CASES]


def batch(case: Case, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The case's embeddings, rounded to ``dtype``, and labels."""
    embeddings, labels = case.make(torch.Generator().manual_seed(seed))
    return embeddings.to(dtype), labels


def undecided(case: Case, dtype: torch.dtype, distance: str) -> bool:
    """Whether rounding in float64 itself decides between pairs of this batch, so that no index is the right one."""
    out_of_range = case.name in ("huge", "tiny") and dtype == torch.float16  # rounds to infinity or to zero
    return out_of_range or (distance == "cosine" and case.tied_cosines)


#: Who pairs with whom: every way that the arguments of pairing offer, alone and together.
PAIRINGS = (
    *("plain", "references", "own-copies", "groups", "multi-hot", "ignored", "samples", "reference-samples"),
    *("junk", "masked-references", "everything"),
)


def pair_up(pairing: str, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, object]]:
    """The labels and the keyword arguments of a pairing of this batch; tensors of references are made of its rows."""
    n = len(labels)
    numbers = torch.arange(n)
    arguments: dict[str, object] = {}
    if pairing == "references":  # half of the rows, which may pair with themselves
        arguments.update(ref_embeddings=embeddings[1::2].clone(), ref_labels=labels[1::2])
    if pairing in ("own-copies", "everything"):  # every row once, most a second time
        rows = torch.cat([numbers[3:].flip(0), numbers])
        arguments.update(ref_embeddings=embeddings[rows].clone(), ref_labels=labels[rows])
        arguments["self_indices"] = torch.where(numbers % 5 == 4, -1, len(rows) - n + numbers)
    if pairing in ("groups", "junk"):
        arguments["groups"] = numbers % 3 - 1
    if pairing in ("junk", "everything"):
        arguments["groups_exclude"] = "positives"
    if pairing == "samples":  # up to five copies of a sample, most of one class, some of several; every seventh of none
        arguments["sample_ids"] = torch.where(numbers % 7 == 6, -1, numbers // 5 + 3 * (numbers % 2))
    if pairing == "reference-samples":  # two or more references are copies of an anchor
        rows = torch.cat([numbers, numbers.flip(0), numbers[::3]])
        arguments.update(ref_embeddings=embeddings[rows].clone(), ref_labels=labels[rows])
        arguments.update(sample_ids=numbers % 13 - 1, ref_sample_ids=rows % 13 - 1)
    if pairing == "masked-references":  # what is masked may be anything
        mask = numbers % 4 != 1
        rows = torch.where(mask[:, None], embeddings.flip(0), torch.nan)
        arguments.update(ref_embeddings=rows, ref_labels=labels.flip(0), ref_mask=mask)
    if pairing == "everything":
        arguments.update(groups=numbers % 4, ref_groups=(3 * rows) % 5, ref_mask=rows % 6 != 5)
        arguments.update(sample_ids=numbers % 9 - 1, ref_sample_ids=(2 * rows) % 9 - 1)
    if pairing in ("ignored", "everything"):
        arguments["ignore_index"] = int(labels.max()) if n else 0
    if pairing == "multi-hot":  # three words of bits and a bit; every eleventh row has none
        many = torch.zeros(n, 193, dtype=torch.bool)
        many[numbers, 40 * (labels % 5)] = True
        many[numbers, 188 + labels % 5] |= numbers % 4 == 0
        labels = many & (numbers % 11 != 10)[:, None]
    return labels, arguments
