"""nearest and within: what the specification finds, whatever the rows and who is told apart; arguments, errors."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from fasttriplet import engines
from fasttriplet.reference import retrieval as reference
from fasttriplet.retrieval import nearest, within
from tests.inputs import CASES, DISTANCES, DTYPES, batch, undecided

#: What is told of who is no neighbour of whom, of Q queries and M references; without references of the queries alone.
RULES = {
    "plain": lambda q, m: {},
    "own copies": lambda q, m: {"self_indices": torch.where(q % 5 == 4, -1, q % max(1, len(m)))},
    "samples": lambda q, m: {"sample_ids": q % 7 - 1, "ref_sample_ids": m % 9 - 1},
    "groups": lambda q, m: {"groups": q % 3 - 1, "ref_groups": m % 4 - 2},
    "mask": lambda q, m: {"ref_mask": m % 4 != 1},
    "everything": lambda q, m: {
        name: value for rule in list(RULES.values())[1:5] for name, value in rule(q, m).items()
    },
}
SMALL = [case for case in CASES if len(batch(case)[0]) <= 150]


def told(name, queries, references):
    given = RULES[name](torch.arange(len(queries)), torch.arange(len(queries if references is None else references)))
    if references is None:
        return {name: value for name, value in given.items() if name in ("sample_ids", "groups")}
    return {} if len(references) == 0 and "self_indices" in given else given


def same_neighbours(found, expected, exact):
    """Indices are the same; distances but for rounding in float64, or where ``exact``, to the bit."""
    *places, distances = sorted(found, key=lambda values: values.dtype == torch.float64)
    *their_places, theirs = sorted(expected, key=lambda values: values.dtype == torch.float64)
    assert distances.dtype == torch.float64
    for one, other in zip(places, their_places, strict=True):
        assert one.dtype == torch.int64 and torch.equal(one, other)
    if exact:
        assert torch.equal(distances.view(torch.int64), theirs.view(torch.int64))
    else:
        largest = float(theirs[theirs.isfinite()].abs().max()) if theirs.isfinite().any() else 1.0
        torch.testing.assert_close(distances, theirs, rtol=1e-12, atol=1e-14 * max(largest, 1.0), equal_nan=True)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("case", SMALL, ids=[case.name for case in SMALL])
def test_they_are_those_of_the_specification(case, distance):
    number = SMALL.index(case) + 5 * DISTANCES.index(distance)  # all rules and dtypes have their turn
    dtype, rule = DTYPES[number % len(DTYPES)], list(RULES)[number % len(RULES)]
    rows, _ = batch(case, dtype)
    if undecided(case, dtype, distance):
        assert nearest(rows, k=3, distance=distance).indices.shape == (len(rows), 3)
        return
    for references in (None, rows.flip(0)[1::2]):
        given = told(rule, rows, references)
        wide = None if references is None else references.double()
        k = len(rows) + 3 if number % 3 == 0 else 7
        found = nearest(rows, references, k, distance=distance, **given)
        expected = reference.nearest(rows.double(), wide, k, distance=distance, **given)
        same_neighbours(found, expected, exact=False)
        reached = expected[0][expected[0].isfinite()].sort().values
        radius = float(reached[len(reached) // 3]) * (1 + 1e-9) if len(reached) else 1.0
        found = within(rows, references, radius, distance=distance, **given)
        expected = reference.within(rows.double(), wide, radius, distance=distance, **given)
        same_neighbours(found, expected, exact=False)


ROWS = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0], [0.0, 1.0]])


def test_equal_distances_go_to_the_lowest_index():
    found = nearest(ROWS[:1], ROWS.repeat(3, 1), 9)
    assert found.indices.tolist() == [[0, 4, 8, 2, 3, 6, 7, 10, 11]]
    assert found.distances.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1, 1]]
    assert within(ROWS[:1], ROWS.repeat(3, 1), 1).indices.tolist() == found.indices.tolist()[0]


def test_many_neighbours():
    """More than there are, and as many as a candidate list of a reranker has."""
    rows = torch.randn(2300, 3, generator=torch.Generator().manual_seed(0))
    found = nearest(rows[:3], rows, 2500)
    distances = torch.cdist(rows[:3].double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(found.indices[:, :2300], distances.argsort(dim=1, stable=True))
    assert (found.indices[:, 2300:] == -1).all() and found.distances[:, 2300:].isnan().all()
    assert torch.equal(nearest(rows[:3], rows, 2048).indices, found.indices[:, :2048])


@pytest.mark.parametrize("shape", [(0, 4, 3), (3, 0, 2), (3, 4, 0), (0, 0, 0)])
def test_nothing_to_search(shape):
    q, m, d = shape
    found = nearest(torch.zeros(q, d), torch.zeros(m, d), 2)
    assert found.indices.tolist() == [[0, 1] if m else [-1, -1]] * q
    assert found.distances.shape == (q, 2)
    assert within(torch.zeros(q, d), torch.zeros(m, d), 1).offsets.tolist() == [m * each for each in range(q + 1)]


def test_one_row_has_no_neighbour():
    assert nearest(ROWS[:1]).indices.tolist() == [[-1]]
    assert within(ROWS[:1], radius=torch.inf).offsets.tolist() == [0, 0]


def test_rows_that_are_not_finite_are_nobodys_neighbours():
    rows = ROWS.clone()
    rows[1, 0], rows[2, 1] = torch.nan, torch.inf
    assert nearest(rows, k=2).indices.tolist() == [[3, -1], [-1, -1], [-1, -1], [0, -1]]
    assert within(rows, radius=torch.inf).offsets.tolist() == [0, 1, 1, 1, 2]
    assert nearest(ROWS, rows, 1, ref_mask=torch.tensor([False, True, True, True])).indices.tolist() == [[3]] * 4


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint64])
def test_numbers_of_any_integer_dtype(dtype):
    numbers = torch.tensor([1, 7, 1, 7]).to(dtype)
    for name in ("sample_ids", "groups"):
        given = {name: numbers, f"ref_{name}": numbers.clone()}
        assert nearest(ROWS, ROWS, 2, **given).indices.tolist() == [[3, 1], [2, 0], [3, 1], [0, 2]], name
    own = torch.arange(4).to(dtype)
    assert nearest(ROWS, ROWS, 1, self_indices=own).indices.tolist() == [[2], [3], [0], [0]]


def test_minus_one_is_no_sample_and_a_group_like_any_other():
    numbers = torch.tensor([-1, -1, 5, 5])
    assert nearest(ROWS, k=3, sample_ids=numbers).indices.tolist() == [[2, 3, 1], [3, 2, 0], [0, 1, -1], [0, 1, -1]]
    assert nearest(ROWS, k=3, groups=numbers).indices.tolist() == [[2, 3, -1], [3, 2, -1], [0, 1, -1], [0, 1, -1]]
    assert nearest(ROWS, k=1, groups=numbers > 0).indices.tolist() == [[2], [3], [0], [0]]


def test_numbers_that_float_does_not_tell_apart():
    """And negative ones, which hashes are half the time."""
    for near in (2**24, 2**53, -(2**63) + 1, -(2**40), 2**63 - 2):
        numbers = torch.tensor([near, near, near + 1, near + 1])
        for name in ("sample_ids", "groups"):
            assert nearest(ROWS, **{name: numbers}).indices.tolist() == [[2], [3], [0], [0]], (near, name)


def test_half_precision_is_widened_and_dtypes_are_promoted():
    queries, rows = torch.randn(5, 8, dtype=torch.float64), torch.randn(40, 8, dtype=torch.float64)
    for one, other in [(torch.bfloat16, torch.float64), (torch.float16, torch.float32), (torch.float64, torch.float32)]:
        found = nearest(queries.to(one), rows.to(other), 4)
        same_neighbours(found, nearest(queries.to(one).double(), rows.to(other).double(), 4), exact=True)


def test_any_strides():
    wide = torch.randn(12, 30)
    rows = wide.T[::2, 3:9]
    same_neighbours(nearest(rows, k=3), nearest(rows.contiguous(), k=3), exact=True)
    numbers = torch.arange(60)[::4] % 4
    same_neighbours(nearest(rows, groups=numbers), nearest(rows, groups=numbers.clone()), exact=True)
    same_neighbours(nearest(rows[:1].expand(4, -1), rows), nearest(rows[:1].repeat(4, 1), rows), exact=True)


def test_no_graph_and_no_autocast():
    rows = torch.randn(20, 8, requires_grad=True)
    found = nearest(rows, 2 * rows, 3)
    assert not found.distances.requires_grad and rows.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        same_neighbours(nearest(rows, 2 * rows, 3), found, exact=True)


def test_it_compiles_without_a_graph_break():
    torch.compiler.reset()
    numbers = torch.arange(12)

    def call(queries, references):
        given = {"groups": numbers % 3 - 1, "ref_groups": numbers % 4, "self_indices": numbers}
        return nearest(2 * queries, references, 3, **given), within(queries, radius=1.5, sample_ids=numbers % 5)

    rows, others = torch.randn(12, 4), torch.randn(12, 4, dtype=torch.float64)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(rows, others), call(rows, others), strict=True):
        same_neighbours(found, expected, exact=True)


@pytest.mark.parametrize("what", ["array", "queries", "stream", "generator", "progress", "checkpoint"])
def test_what_cannot_be_traced_breaks_the_graph(what, tmp_path, recwarn):
    torch.compiler.reset()
    rows, seen = torch.randn(12, 4), []
    given = {
        "array": lambda x: {"queries": x, "references": rows.numpy()},
        "queries": lambda x: {"queries": x.numpy(), "references": rows},
        "stream": lambda x: {"queries": x, "references": rows.split(3)},
        "generator": lambda x: {"queries": x, "references": (piece for piece in rows.split(3))},
        "progress": lambda x: {"queries": x, "references": rows, "progress": lambda *counts: seen.append(counts)},
        "checkpoint": lambda x: {"queries": x, "references": rows, "checkpoint": tmp_path / "found.pt"},
    }[what]
    compiled = torch.compile(lambda x: nearest(**given(2 * x), k=2, chunk_rows=5).indices + 0, backend="aot_eager")
    assert torch.equal(compiled(rows), nearest(2 * rows, rows, k=2).indices)
    assert what != "progress" or seen == [(5, 12), (10, 12), (12, 12)]
    assert [str(each.message) for each in recwarn if "Dynamo" in str(each.message)] == []


def test_nothing_is_made_in_float64_on_a_device_without_it(monkeypatch):
    monkeypatch.setattr(engines, "fallback", "silent")
    with FakeTensorMode():
        rows, numbers = torch.empty(8, 3, device="mps"), torch.zeros(8, dtype=torch.int64, device="mps")
        graph = make_fx(lambda x, y: tuple(nearest(x, x + 1, 2, groups=y, ref_groups=y)))(rows, numbers).graph
    made = [node.meta["val"] for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    assert {value.dtype for value in made if value.device.type == "mps"} <= {torch.float32, torch.int64}
    assert torch.float64 in {value.dtype for value in made if value.device.type == "cpu"}


def test_queries_may_be_an_array(tmp_path):
    rows = torch.randn(20, 6)
    np.save(tmp_path / "rows.npy", rows.numpy())
    stored = np.load(tmp_path / "rows.npy", mmap_mode="r")
    same_neighbours(nearest(stored, rows, 3), nearest(rows, rows, 3), exact=True)
    same_neighbours(nearest(stored, k=3), nearest(rows, k=3), exact=True)
    same_neighbours(nearest(stored[::-1], k=3), nearest(rows.flip(0), k=3), exact=True)


def test_a_radius_of_any_real_number():
    everything = within(ROWS, radius=torch.inf)
    assert everything.offsets.tolist() == [0, 3, 6, 9, 12]
    assert within(ROWS, radius=-torch.inf).offsets.tolist() == [0] * 5
    for radius in (10**400, np.float32(100), 100):
        assert torch.equal(within(ROWS, radius=radius).indices, everything.indices)
    assert within(ROWS, radius=-(10**400)).offsets.tolist() == [0] * 5
    assert within(ROWS, radius=-3, distance="inner_product").offsets.tolist() == [0, 0, 2, 3, 4]
    assert within(torch.cat([ROWS, ROWS[1:2]])).indices.tolist() == [4, 1]
    assert nearest(ROWS, k=np.int64(2)).indices.shape == (4, 2)


LABELS = torch.arange(4)
ERRORS = [
    ({"queries": [[0.0]]}, TypeError, "queries must be a torch.Tensor or an array, [Q, D]; got list"),
    (
        {"queries": ROWS.long()},
        ValueError,
        "queries must have dtype float64, float32, float16 or bfloat16; got torch.i",
    ),
    ({"queries": ROWS[0]}, ValueError, "queries must have shape [Q, D]; got [2]: make one row"),
    ({"queries": ROWS.to_sparse()}, ValueError, "queries must be a dense tensor"),
    ({"queries": np.zeros((2, 2), int)}, ValueError, "queries must have dtype float64, float32 or float16; got int64"),
    ({"queries": np.zeros(2)}, ValueError, "queries must have shape [Q, D]; got [2]"),
    (
        {"references": 3},
        TypeError,
        "references must be a torch.Tensor, an array, an iterable of chunks or None; got int",
    ),
    ({"references": ROWS[0]}, ValueError, "references must have shape [M, D]; got [2]: "),
    ({"references": ROWS[:, :1]}, ValueError, "references must have shape [M, 2] to match queries [4, 2]; got [4, 1]"),
    ({"references": ROWS.int()}, ValueError, "references must have dtype float64, "),
    (
        {"references": ROWS.to("meta")},
        ValueError,
        "references must be on the device of queries, cpu, or come in chunks",
    ),
    (
        {"references": np.zeros((2, 3))},
        ValueError,
        "references must have shape [M, 2] to match queries [4, 2]; got [2, 3]",
    ),
    ({"distance": "manhattan"}, ValueError, "distance must be one of euclidean, "),
    ({"distance": 1}, TypeError, "distance must be a str"),
    ({"self_indices": [0]}, TypeError, "self_indices must be a torch.Tensor; got list"),
    ({"self_indices": LABELS, "references": None}, ValueError, "self_indices must come with references, whose rows"),
    ({"ref_mask": LABELS > 0, "references": None}, ValueError, "ref_mask must come with references, whose rows"),
    ({"ref_groups": LABELS, "references": None}, ValueError, "ref_groups must come with references, whose rows"),
    (
        {"groups": LABELS},
        ValueError,
        "groups and ref_groups must be given together where there are references; got groups",
    ),
    ({"ref_sample_ids": LABELS}, ValueError, "got ref_sample_ids and no sample_ids"),
    ({"self_indices": LABELS + 1}, ValueError, "self_indices must hold -1 or an index below 4; got 4 at index 3"),
    ({"self_indices": LABELS - 2}, ValueError, "self_indices must hold -1 or an index below 4; got -2 at index 0"),
    ({"self_indices": LABELS > 1}, ValueError, "self_indices must have an integer dtype; got torch.bool"),
    ({"sample_ids": LABELS.float()}, ValueError, "sample_ids must have an integer dtype; got torch.float32"),
    ({"groups": LABELS.float()}, ValueError, "groups must have an integer dtype or bool; got torch.float32"),
    ({"groups": LABELS[:3]}, ValueError, "groups must have shape [4] to match queries [4, 2]; got [3]"),
    ({"groups": LABELS[:, None]}, ValueError, "groups must have shape [4] to match queries [4, 2]; got [4, 1]"),
    ({"ref_mask": LABELS}, ValueError, "ref_mask must have dtype torch.bool; got torch.int64"),
    ({"ref_mask": LABELS[1:] > 0}, ValueError, "ref_mask must have shape [4] to match references [4, 2]; got [3]"),
    ({"groups": LABELS.to("meta")}, ValueError, "groups must be on the device of queries, cpu; got meta"),
    ({"chunk_rows": 0}, ValueError, "chunk_rows must be at least 1 and at most 2^31 - 1; got 0"),
    ({"progress": 1}, TypeError, "progress must be a bool or a function (done, total); got int"),
    ({"checkpoint": 7}, TypeError, "checkpoint must be a path or None; got int"),
    ({"checkpoint": "/nowhere/at/all"}, ValueError, "checkpoint must be the path of a file in a directory that exists"),
    ({"process_group": "world"}, TypeError, "process_group must be a torch.distributed.ProcessGroup"),
]


@pytest.mark.parametrize("function", [nearest, within])
@pytest.mark.parametrize(("given", "kind", "text"), ERRORS)
def test_errors_name_the_argument_what_it_must_be_and_what_came(function, given, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        function(**{"queries": ROWS, "references": ROWS, **given})


@pytest.mark.parametrize(
    ("function", "name", "value", "kind", "text"),
    [
        (nearest, "k", 0, ValueError, "k must be at least 1 and at most 2^31 - 1; got 0"),
        (nearest, "k", 2**31, ValueError, "k must be at least 1 and at most 2^31 - 1; got 2147483648"),
        (nearest, "k", True, TypeError, "k must be an int; got bool"),
        (nearest, "k", 2.0, TypeError, "k must be an int; got float"),
        (within, "radius", torch.nan, ValueError, "radius must be a number or infinite; got nan"),
        (within, "radius", "1", TypeError, "radius must be a real number; got str"),
        (within, "radius", True, TypeError, "radius must be a real number; got bool"),
        (within, "radius", None, TypeError, "radius must be a real number; got NoneType"),
    ],
)
def test_errors_of_how_many(function, name, value, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        function(ROWS, ROWS, **{name: value})
