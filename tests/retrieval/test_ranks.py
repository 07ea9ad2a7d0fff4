"""What every engine says of rankings: the ranks of sorting all exact scores, ties and all."""

from __future__ import annotations

import pytest
import torch

from fasttriplet import reference
from fasttriplet.check import DISTANCES
from fasttriplet.pairing import checked_batch
from fasttriplet.portable import pairs, ranks
from fasttriplet.portable.ranks import COLUMNS
from fasttriplet.reference.pairs import batch_of
from fasttriplet.reference.retrieval import ranking
from tests.inputs import PAIRINGS, pair_up
from tests.retrieval.cases import ALL, ENGINES, EXTREME, exact_scores, named, operator, rows_of
from tests.retrieval.test_neighbours import Largest

FLOATS = torch.float32, torch.float64
AT = (1, 2, 5, 40, 2**31 - 1)
engines = pytest.mark.parametrize("engine", ENGINES, ids=["default", "portable"])
distances = pytest.mark.parametrize("distance", range(len(DISTANCES)), ids=DISTANCES)


def by_sorting(rows, labels, distance, at=AT, count_missing=False, **pairing):
    """The table of the operator."""
    batch = batch_of(rows, labels, **pairing)
    finite = batch.finite_alone()
    relevant = (batch if count_missing else finite).positive.sum(1).tolist()
    table = []
    for query, scores in enumerate(exact_scores(batch.rows, batch.references, distance)):
        positive = finite.positive[query]
        order = ranking(scores, positive | finite.negative[query])
        found = (positive[order].nonzero().squeeze(1) + 1).tolist()

        def up_to(limit, found=found):
            return sum(rank <= limit for rank in found)

        def gain(limit, found=found):
            return sum(j / rank for j, rank in enumerate(found, 1) if rank <= limit)

        r = relevant[query]
        whole = [r, found[0] if found else 0, found[-1] if found else 0, gain(torch.inf), gain(r), up_to(r), len(order)]
        table.append([*whole, *map(up_to, at), *map(gain, at)])
    return torch.tensor(table, dtype=torch.float64).view(len(rows), COLUMNS + 2 * len(at))


def assert_ranks(rows, labels, distance, at=AT, count_missing=False, **pairing):
    """Of all engines; sums one term after the other, to the bit."""
    arguments = checked_batch(rows, labels, pairing).arguments
    expected = by_sorting(rows, labels, distance, at, count_missing, **pairing)
    for engine in ENGINES:
        found = operator(engine, "retrieval_ranks")(*arguments, distance, list(at), count_missing)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@distances
@pytest.mark.parametrize("number", range(len(ALL)), ids=[case.name for case in ALL])
def test_every_input(number, distance):
    rows, labels = rows_of(ALL[number], FLOATS[(number + distance) % 2])
    assert_ranks(rows, labels, distance, count_missing=distance % 2 == 0)
    pairing = PAIRINGS[(number + 3 * distance) % len(PAIRINGS)]
    labels, told = pair_up(pairing, rows, labels)
    assert_ranks(rows, labels, distance, count_missing=distance % 2 == 1, **told)


@distances
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_every_pairing(pairing, distance):
    for number, name in enumerate(("gauss-97x33", "integers", "two-values", "not-finite")):
        rows, labels = rows_of(named(name), FLOATS[(number + distance) % 2])
        labels, told = pair_up(pairing, rows, labels)
        for count_missing in (False, True):
            assert_ranks(rows, labels, distance, (1, 10), count_missing, **told)


@distances
@pytest.mark.parametrize("case", EXTREME, ids=[case.name for case in EXTREME])
def test_scores_beyond_the_range(case, distance):
    rows, labels = rows_of(case, torch.float64)
    assert_ranks(rows, labels, distance)
    assert_ranks(rows[::2], labels[::2], distance, ref_embeddings=rows, ref_labels=labels)


@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_products_far_from_the_origin(offset):
    """Where a score's rounding is above what tells rows apart."""
    generator = torch.Generator().manual_seed(0)
    rows = 1e-3 * torch.randn(96, 8, generator=generator, dtype=torch.float64)
    rows[:, 0] = offset
    rows = rows @ torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    assert_ranks(rows, torch.arange(96) // 6, DISTANCES.index("inner_product"))


@pytest.mark.parametrize("name", ["all-equal", "two-values", "integers", "duplicates"])
def test_ties_go_to_the_lowest_index(name):
    """One class before and one behind another of equal rows, and mixed."""
    rows, _ = rows_of(named(name), torch.float32)
    numbers = torch.arange(len(rows))
    for labels in (numbers // (len(rows) // 2), numbers % 2, (numbers * 7) % 5, numbers.flip(0) // 3):
        assert_ranks(rows, labels, 0)


def test_all_equal_rows_rank_by_index():
    """By hand: of rows 0 to 3 of classes 0 1 0 0 the others in their order."""
    for engine in ENGINES:
        found = operator(engine, "retrieval_ranks")(
            *(torch.ones(4, 2), torch.tensor([0, 1, 0, 0]), None, [], [], 0, [1, 2], False)
        )
        assert found[:, 0].tolist() == [2, 0, 2, 2] and found[:, 6].tolist() == [3, 3, 3, 3]
        assert found[:, 1].tolist() == [2, 0, 1, 1] and found[:, 2].tolist() == [3, 0, 3, 3]
        assert found[:, 3].tolist() == [1 / 2 + 2 / 3, 0, 1 + 2 / 3, 1 + 2 / 3]
        assert found[:, 7:].tolist() == [[0, 1, 0, 1 / 2], [0] * 4, [1, 1, 1, 1], [1, 1, 1, 1]]


def test_dtypes_of_labels():
    rows, labels = rows_of(named("integers"), torch.float32)
    expected = by_sorting(rows, labels, 0)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert_ranks(rows, labels.to(dtype), 0)
    for engine in ENGINES:  # neighbours among float32's integers
        arguments = rows, labels + 2**24, None, [], [], 0, list(AT), False
        assert torch.equal(operator(engine, "retrieval_ranks")(*arguments), expected)


def test_strides():
    rows = torch.randn(40, 48, generator=torch.Generator().manual_seed(5))
    for view in (rows.T, rows[::2], rows[:, ::3], rows[:1].expand(30, -1)):
        labels = torch.arange(3 * len(view))[::3] % 8
        assert_ranks(view, labels, 0)
        assert_ranks(view, labels, 2, ref_embeddings=view.flip(0), ref_labels=labels.flip(0))


def test_no_rank_asked_about():
    rows, labels = rows_of(named("gauss-97x33"), torch.float32)
    assert_ranks(rows, labels, 0, ())


@engines
@distances
def test_the_reference_agrees(distance, engine):
    """Its means, of other sums: rows whose scores are apart, or whole."""
    for name in ("gauss-97x33", "integers") if DISTANCES[distance] != "cosine" else ("gauss-97x33",):
        rows, labels = rows_of(named(name), torch.float64)
        table = operator(engine, "retrieval_ranks")(rows, labels, None, [], [], distance, [1, 5], False)
        table = table[table[:, 0] > 0]
        expected = reference.retrieval_metrics(rows, labels, at=(1, 5), distance=DISTANCES[distance])
        r = table[:, 0]
        found = {
            "map": table[:, 3] / r,
            "map_at_r": table[:, 4] / r,
            "r_precision": table[:, 5] / r,
            "mrr": 1 / table[:, 1],
            "minp": r / table[:, 2],
            "recall": table[:, 7:9] / r[:, None],
            "map_at": table[:, 9:] / r[:, None],
        }
        for key, values in found.items():
            torch.testing.assert_close(values.mean(0), expected[key], msg=key)


@pytest.mark.parametrize("classes", [3, 150, 400])
def test_the_portable_engine_holds_a_chunk_alone(classes, monkeypatch):
    """Of large classes and of copies, too; and chunks change no answer."""
    rows = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    rows[::4] = rows[0]
    arguments = rows, torch.arange(400) % classes, None, [], [], 0, [1, 5], False
    whole = ranks.retrieval_ranks(*arguments)
    monkeypatch.setattr(pairs, "_CHUNK_ON_CPU", 2**12)
    with Largest() as largest:
        parts = ranks.retrieval_ranks(*arguments)
    assert largest.elements <= 16 * 2**12
    assert torch.equal(parts, whole)


@engines
def test_wrong_arguments(engine):
    rows, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    run = operator(engine, "retrieval_ranks")
    with pytest.raises(ValueError, match="at must be at least 1; got 0"):
        run(rows, labels, None, [], [], 0, [1, 0], False)
    with pytest.raises(ValueError, match="labels must be integers"):
        run(rows, labels[:2], None, [], [], 0, [1], False)
    with pytest.raises(ValueError, match="distance must be a code from 0 to 3; got 7"):
        run(rows, labels, None, [], [], 7, [1], False)
