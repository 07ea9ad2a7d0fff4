"""Nearest neighbours by every engine: the indices and the bits of sorting all exact scores, ties and all."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fasttriplet import reference
from fasttriplet.check import DISTANCES
from fasttriplet.portable import neighbours, pairs
from tests.retrieval.cases import ALL, ENGINES, EXTREME, RULES, Judge, assert_equal, named, operator, rows_of, rules_of

FLOATS = torch.float32, torch.float64
engines = pytest.mark.parametrize("engine", ENGINES, ids=["default", "portable"])
distances = pytest.mark.parametrize("distance", range(len(DISTANCES)), ids=DISTANCES)


@distances
@pytest.mark.parametrize("number", range(len(ALL)), ids=[case.name for case in ALL])
def test_every_input(number, distance):
    rows, _ = rows_of(ALL[number], FLOATS[(number + distance) % 2])
    Judge(rows, None, [], distance).agrees((1, 10, len(rows) + 5))
    rule = RULES[(number + 2 * distance) % len(RULES)]
    Judge(rows, *rules_of(rule, rows), distance).agrees((3, 300))


@distances
@pytest.mark.parametrize("rule", RULES)
def test_every_rule(rule, distance):
    for number, name in enumerate(("gauss-97x33", "integers", "two-values", "not-finite")):
        rows, _ = rows_of(named(name), FLOATS[(number + distance) % 2])
        Judge(rows, *rules_of(rule, rows), distance).agrees((1, 10))


@distances
@pytest.mark.parametrize("case", EXTREME, ids=[case.name for case in EXTREME])
def test_scores_beyond_the_range(case, distance):
    """Infinite distances are distances; of a product that is NaN the candidate goes first, with its index."""
    rows, _ = rows_of(case, torch.float64)
    for rule in ("own", "everything"):
        Judge(rows, *rules_of(rule, rows), distance).agrees((1, 10, 60))


@engines
def test_a_product_that_is_nan_goes_first(engine):
    queries = torch.tensor([[1e200, -1e200]], dtype=torch.float64)
    references = torch.tensor([[0.0, 0.0], [1e200, 1e200], [1e200, 0.0]], dtype=torch.float64)
    found, indices = operator(engine, "nearest")(queries, references, [], DISTANCES.index("inner_product"), 4)
    assert indices.tolist() == [[1, 2, 0, -1]]
    assert found[0].isnan().tolist() == [True, False, False, True]


#: Where rounding decides nearly everything.
UNDECIDED = ("cosine", "near-1e4"), ("cosine", "one-column")


@engines
@distances
def test_the_reference_agrees(distance, engine):
    """Which sums otherwise: distances but for the last bits, indices where those do not decide."""
    for number, name in enumerate(("gauss-97x33", "integers", "near-1e4", "six-decades", "not-finite", "one-column")):
        rows, _ = rows_of(named(name), FLOATS[(number + distance) % 2])
        found = operator(engine, "nearest")(rows, None, [], distance, 8)
        expected = reference.nearest(rows.double(), k=9, distance=DISTANCES[distance])
        values, rounding = expected[0], 1e-12
        if DISTANCES[distance] in ("cosine", "inner_product"):  # whose terms may cancel
            rounding *= rows[rows.isfinite().all(1)].double().square().sum(1).amax().clamp_min(1)
        torch.testing.assert_close(found[0], values[:, :8], rtol=1e-12, atol=float(rounding), equal_nan=True)
        apart = values.diff(dim=1).nan_to_num(torch.inf) > 1e-12 * values[:, 1:].abs().nan_to_num() + 4 * rounding
        decided = apart & torch.nn.functional.pad(apart, (1, 0), value=True)[:, :-1]
        if name == "integers" and DISTANCES[distance] != "cosine":  # nothing is rounded
            decided.fill_(True)
        assert decided.double().mean() > 0.5 or (DISTANCES[distance], name) in UNDECIDED
        assert torch.equal(found[1][decided], expected[1][:, :8][decided])


@pytest.mark.parametrize("dtype", FLOATS)
def test_strides_and_offsets(dtype):
    rows = torch.randn(60, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    for view in (rows.T, rows[::3], rows[:, 1::2], rows[5:, 3:], rows[:1].expand(30, -1), rows[:, :1].expand(-1, 5)):
        keys = torch.arange(2 * len(view)).view(len(view), 2).T[:1] % 11
        Judge(view, None, [None, keys], 0).agrees((4,))
        Judge(view, view.flip(0)[1:], [None, keys, keys[:, 1:]], 0).agrees((4,))


@distances
def test_many_queries_of_few_references_and_few_of_many(distance):
    generator = torch.Generator().manual_seed(distance)
    few = (4 * torch.randn(3, 5, generator=generator)).round()
    many = (4 * torch.randn(5000, 5, generator=generator)).round()
    Judge(few, many, [], distance).agrees((1, 50, 700), 0.01)
    Judge(many, few, [], distance).agrees((2,))


@engines
@pytest.mark.parametrize("name", ["all-equal", "two-values", "integers", "gauss-97x33", "near-1e6"])
def test_permuting_the_references_permutes_the_answer(name, engine):
    rows, _ = rows_of(named(name), torch.float32)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    before, permuted = (operator(engine, "nearest")(rows, each, [], 0, len(rows)) for each in (rows, rows[order]))
    assert torch.equal(before[0], permuted[0])
    assert torch.equal(before[1].sort(1).values, order[permuted[1]].sort(1).values)
    tied = permuted[0].diff(dim=1) == 0
    assert (permuted[1].diff(dim=1)[tied] > 0).all()


class Largest(TorchDispatchMode):
    """Remembers the most elements that a tensor has had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        results = function(*arguments, **(options or {}))
        sizes = [each.numel() for each in tree_leaves(results) if isinstance(each, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return results


@pytest.mark.parametrize("name", ["all-equal", "two-values", "gauss"])
def test_the_portable_engine_holds_a_chunk_alone(name, monkeypatch):
    """Of copies, too, which are all scored; and chunks change no answer."""
    rows = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    rows = {"all-equal": rows[:1].expand(400, -1), "two-values": rows[torch.arange(400) % 2], "gauss": rows}[name]
    radius = 0.0 if name == "two-values" else 0.5
    whole = neighbours.nearest(rows, None, [], 0, 3), neighbours.within(rows, None, [], 0, radius)
    monkeypatch.setattr(pairs, "_CHUNK_ON_CPU", 2**12)
    with Largest() as largest:
        parts = neighbours.nearest(rows, None, [], 0, 3)
    assert largest.elements <= 16 * 16 * 400  # the lanes of all scores of a chunk of 16 queries; there are 400
    assert_equal(parts, whole[0])
    assert_equal(neighbours.within(rows, None, [], 0, radius), whole[1])


ROWS = torch.zeros(3, 2)
KEYS = torch.zeros(1, 3, dtype=torch.int64)
WRONG = {
    "queries": ((ROWS[0], None, [], 0, 1), r"queries must have shape \[Q, D\]; got \[2\]"),
    "queries_of_integers": ((ROWS.long(), None, [], 0, 1), "queries must have dtype float64, .*; got torch.int64"),
    "references": ((ROWS, ROWS[:, :1], [], 0, 1), r"references must have shape \[M, 2\] to match queries .*\[3, 1\]"),
    "references_of_float64": ((ROWS, ROWS.double(), [], 0, 1), "references must have the dtype of queries"),
    "k": ((ROWS, None, [], 0, 0), "k must be at least 1; got 0"),
    "distance": ((ROWS, None, [], 4, 1), "distance must be a code from 0 to 3; got 4"),
    "rules": ((ROWS, ROWS, [None] * 5, 0, 1), "rules must list at most 4 tensors; got 5"),
    "self_indices_range": (
        (ROWS, ROWS, [KEYS[0] + 3], 0, 1),
        "self_indices must hold -1 or .* below 3; got 3 at index 0",
    ),
    "self_indices_below": ((ROWS, ROWS, [KEYS[0] - 2], 0, 1), "self_indices must hold -1 or .* below 3; got -2"),
    "self_indices_shape": ((ROWS, ROWS, [KEYS[0, :2]], 0, 1), r"self_indices must be torch.int64 \[3\]; got .*\[2\]"),
    "self_indices_alone": ((ROWS, None, [KEYS[0]], 0, 1), "self_indices must come with references"),
    "keys": ((ROWS, None, [None, KEYS[0]], 0, 1), r"keys must be torch.int64 \[K, 3\]; got torch.int64 \[3\]"),
    "keys_dtype": ((ROWS, None, [None, KEYS.int()], 0, 1), r"keys must be torch.int64 \[K, 3\]; got torch.int32"),
    "keys_alone": ((ROWS, ROWS, [None, KEYS], 0, 1), "keys and ref_keys must be given together"),
    "ref_keys": (
        (ROWS, ROWS, [None, KEYS, KEYS[:, :2]], 0, 1),
        r"ref_keys must be torch.int64 \[1, 3\]; got .*\[1, 2\]",
    ),
    "ref_keys_alone": ((ROWS, None, [None, KEYS, KEYS], 0, 1), "ref_keys must come with references"),
    "ref_mask": ((ROWS, ROWS, [None] * 3 + [KEYS[0]], 0, 1), r"ref_mask must be torch.bool \[3\]; got torch.int64"),
}


@engines
@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name, engine):
    arguments, match = WRONG[name]
    with pytest.raises(ValueError, match=match):
        operator(engine, "nearest")(*arguments)
    if name != "k":
        with pytest.raises(ValueError, match=match):
            operator(engine, "within")(*arguments[:4], 1.0)


@engines
def test_a_radius_that_is_nan(engine):
    with pytest.raises(ValueError, match="radius must be a number; got nan"):
        operator(engine, "within")(ROWS, None, [], 0, torch.nan)
