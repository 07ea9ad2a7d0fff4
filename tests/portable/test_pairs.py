"""The portable engine's pairs and distances are the CPU kernels', to the index and to the bit."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fasttriplet.check import DISTANCES, MINERS, OTHERWISE
from fasttriplet.pairing import checked_batch
from fasttriplet.portable import exact, miners, pairs, screen
from fasttriplet.portable.rows import frame_of, survey
from tests.inputs import CASE_IDS, CASES, PAIRINGS, batch, pair_up
from tests.portable import products

OPS = torch.ops.fasttriplet
#: miner, otherwise, within_margin, margin, k, kth_only, skip_fraction
MINED = (
    *(
        (MINERS.index("batch_hard"), 0, False, 0.0, 1, False, 0.0),
        (MINERS.index("easy_positive"), 0, False, 0.0, 1, False, 0.0),
    ),
    *((MINERS.index("semi_hard"), o, w, 0.3, 1, False, 0.0) for o, w in itertools.product(range(2), (False, True))),
    *((MINERS.index("easy_positive_semi_hard"), o, False, 0.0, 1, False, 0.0) for o in range(2)),
    *(
        (MINERS.index("k_hardest"), 0, False, 0.0, k, only, f)
        for k, only, f in ((1, False, 0.0), (3, False, 0.4), (5, True, 0.0))
    ),
)


def arguments_of(case, dtype, pairing="plain", seed=0):
    """The operators' first five."""
    embeddings, labels = batch(case, dtype, seed)
    labels, told = pair_up(pairing, embeddings, labels)
    return checked_batch(embeddings, labels, told).arguments


def assert_same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours.nan_to_num(-1.0), theirs.nan_to_num(-1.0))


def assert_as_kernel(arguments, distance, miner):
    assert_same(
        OPS.portable_mine_triplets(*arguments, distance, *miner), OPS.mine_triplets(*arguments, distance, *miner)
    )


@pytest.mark.parametrize("distance", range(len(DISTANCES)), ids=DISTANCES)
@pytest.mark.parametrize("number", range(len(CASES)), ids=CASE_IDS)
def test_every_miner(number, distance):
    for at, miner in enumerate(MINED):
        dtype = (torch.float32, torch.float64)[(number + at) % 2]
        pairing = PAIRINGS[(number + 3 * at + distance) % len(PAIRINGS)]
        assert_as_kernel(arguments_of(CASES[number], dtype), distance, miner)
        assert_as_kernel(arguments_of(CASES[number], dtype, pairing), distance, miner)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("number", range(len(CASES)), ids=CASE_IDS)
def test_batch_hard_over_labels_alone(number, dtype):
    embeddings, labels = batch(CASES[number], dtype)
    for distance in range(len(DISTANCES)):
        assert_same(
            OPS.portable_mine_batch_hard(embeddings, labels, distance),
            OPS.mine_batch_hard(embeddings, labels, distance),
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("distance", range(len(DISTANCES)), ids=DISTANCES)
def test_rows_that_are_not_finite(distance, value):
    generator = torch.Generator().manual_seed(distance)
    for n, count, broken in ((1, 1, 1), (9, 3, 1), (30, 4, 5), (40, 1, 3), (40, 40, 4), (20, 3, 20)):
        embeddings = torch.randn(n, 6, generator=generator)
        labels = torch.randint(0, count, (n,), generator=generator)
        embeddings[torch.randperm(n, generator=generator)[:broken], 2] = value
        assert_same(
            OPS.portable_mine_batch_hard(embeddings, labels, distance),
            OPS.mine_batch_hard(embeddings, labels, distance),
        )
        for miner in MINED:
            assert_as_kernel((embeddings, labels, None, (), (0,)), distance, miner)


@pytest.mark.parametrize("scale", [1e-320, 1e-160, 1e150, 1e160, 1e308])
def test_float64_rows_at_the_ends_of_its_range(scale):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(30, 5, generator=generator, dtype=torch.float64).clamp(-1.5, 1.5) * scale
    labels = torch.randint(0, 5, (30,), generator=generator)
    for distance in range(len(DISTANCES)):
        assert_same(
            OPS.portable_mine_batch_hard(embeddings, labels, distance),
            OPS.mine_batch_hard(embeddings, labels, distance),
        )
        for miner in MINED:
            # Where inner products are infinite or NaN none is a threshold for others.
            if DISTANCES[distance] != "inner_product" or scale < 1e154 or "semi_hard" not in MINERS[miner[0]]:
                assert_as_kernel((embeddings, labels, None, (), (0,)), distance, miner)


@pytest.mark.parametrize("keys", [400, 3000])
def test_however_long_a_chunk_is(keys, monkeypatch):
    monkeypatch.setattr(pairs, "_CHUNK_ON_CPU", keys)
    for name in ("gauss-97x33", "duplicates", "large-classes", "half-one-class", "tight-clusters"):
        for pairing in ("plain", "everything", "multi-hot"):
            arguments = arguments_of(CASES[CASE_IDS.index(name)], torch.float32, pairing)
            for miner in MINED:
                assert_as_kernel(arguments, 0, miner)


@pytest.mark.parametrize("many", [0, 10**6])
def test_at_either_level_of_keys(many, monkeypatch):
    """``many`` is how many candidates make finer keys take over: at once, or never."""
    monkeypatch.setattr(miners, "_MANY", many)
    for case in CASES:
        for distance in range(len(DISTANCES)):
            assert_as_kernel(arguments_of(case, torch.float32), distance, MINED[0])


def test_long_rows_of_keys():
    """So many candidates that keys are looked at by lines, and that a prefix of sorted keys does not reach."""
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(1500, 9, generator=generator)
    embeddings[200:500] = embeddings[200]  # far more ties than the prefix holds
    labels = torch.randint(0, 150, (1500,), generator=generator)
    for distance in range(len(DISTANCES)):
        for miner in (MINED[0], MINED[1], MINED[2], MINED[-1]):
            assert_as_kernel((embeddings, labels, None, (), (0,)), distance, miner)


@pytest.mark.parametrize("many", [2, 20])
def test_scores_of_long_rows_have_roundings_of_their_own(many):
    """The nearest beyond is as near to the threshold as float64 tells, in a sum of 16384 terms."""
    positive = torch.zeros(2**14, dtype=torch.float64)
    positive[:16] = 1
    beyond = positive.clone()
    beyond[16:] = 1.4 * 2.0**-27
    others = [positive * (1 + 2.0**-16 * i) for i in range(1, 9)]
    embeddings = torch.stack([torch.zeros_like(positive), *[positive] * (many - 1), beyond, *others])
    labels = torch.tensor([0] * many + [1] * 9)
    for miner in MINED:
        assert_as_kernel((embeddings, labels, None, (), (0,)), 0, miner)


def test_rows_so_long_that_coarse_products_say_nothing():
    batch_of_four = torch.randn(4, 2**22 - 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 1])
    assert_same(OPS.portable_mine_batch_hard(*batch_of_four, 0), OPS.mine_batch_hard(*batch_of_four, 0))


@pytest.mark.parametrize("count", [2, 40])
def test_a_collapsed_batch(count):
    """Each of many positives has all negatives for candidates; those are scored once. A few rows are apart."""
    embeddings, labels = torch.zeros(240, 5), torch.arange(240) % count
    embeddings[::31] = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    for distance in range(len(DISTANCES)):
        for miner in MINED:
            assert_as_kernel((embeddings, labels, None, (), (0,)), distance, miner)


@pytest.mark.parametrize("large", [1e20, 1e30])
def test_what_takes_no_part_has_no_say(large):
    """Rows that are ignored or masked, and far longer than the rest, neither make keys coarse nor sums wrong."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.cat([torch.randn(64, 12, generator=generator), torch.full((2, 12), large)])
    labels = torch.cat([torch.arange(64) % 8, torch.tensor([-1, -1])])
    for distance in range(len(DISTANCES)):
        ignored = (embeddings, labels, None, (), (0, -1), distance)
        for ours, theirs in zip(
            OPS.portable_weighted_distances(*ignored)[:2], OPS.weighted_distances(*ignored)[:2], strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
        for miner in MINED:
            assert_as_kernel(ignored[:5], distance, miner)


@pytest.mark.parametrize("dropped", [products.TF32, products.BFLOAT16], ids=["tf32", "bfloat16"])
def test_products_of_low_precision_change_nothing(dropped, monkeypatch):
    """What the flags ``torch.backends.*.matmul`` allow. The same products of the rows as they are would."""
    generator = torch.Generator().manual_seed(1)
    wrong = 0
    for n, d, offset in ((90, 40, 0.0), (120, 16, 0.0), (90, 24, 30.0)):
        embeddings = torch.randn(n, d, generator=generator) + offset
        labels = torch.randint(0, n // 4, (n,), generator=generator)
        expected = [OPS.mine_batch_hard(embeddings, labels, distance) for distance in range(4)]
        with products.as_on(monkeypatch, dropped, seed=n):
            for distance, theirs in enumerate(expected):
                assert_same(OPS.portable_mine_batch_hard(embeddings, labels, distance), theirs)
            keys = embeddings.square().sum(1) / 2 - torch.mm(embeddings, embeddings.T)
        keys = keys.masked_fill(labels[:, None] == labels, torch.inf)
        wrong += int((keys.argmin(1) != expected[0][2]).sum())
    assert wrong > 10


@pytest.mark.parametrize("distance", range(len(DISTANCES)), ids=DISTANCES)
@pytest.mark.parametrize("coarse", [True, False], ids=["coarse", "fine"])
def test_the_bounds_of_keys_hold(coarse, distance, monkeypatch):
    """Against keys in float64 of float32 rows, whose own error is far below; the bound of the coarse ones is used up to
    a tenth, so that it is not one that would hold of anything."""
    for case in ("gauss-97x33", "offset-1e4", "six-decades", "zero-rows", "tight-clusters", "integers"):
        embeddings, _ = batch(CASES[CASE_IDS.index(case)], torch.float32)
        rows = survey(embeddings, distance)
        frame = frame_of(rows, rows)
        with products.as_on(monkeypatch, products.TF32, seed=7):
            level = screen.level_of(frame, rows, rows, distance, coarse)
            lower = level.lower(slice(0, len(embeddings)))[:, : len(embeddings)].double()
        x = frame.prepared(rows, slice(0, len(embeddings)))
        dots = (x[:, None] * x).sum(2)
        half = level.anchors.term
        keys = half - dots
        numbers = torch.arange(len(embeddings))
        upper = lower + level.slack(numbers[:, None], numbers)
        rounding = 1e-13 * (half.abs().amax() + dots.abs().amax())
        assert (lower <= keys + rounding).all() and (keys <= upper + rounding).all()
        if coarse and case == "gauss-97x33":
            assert ((keys - lower) / (upper - lower)).amax() > 0.55 or ((keys - lower) / (upper - lower)).amin() < 0.45


def test_roots_are_rounded_to_nearest():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(20000, generator=generator, dtype=torch.float64) * 4
    values = torch.cat([values, values * 1e-200, values * 1e200, torch.tensor([0.0, 4.0, 1e-310, 1e308]).double()])
    assert exact.root(values).tolist() == [math.sqrt(value) for value in values.tolist()]


@pytest.mark.parametrize("d", [*range(0, 35), 63, 64, 65, 127, 200, 513])
def test_scores_have_the_kernels_bits(d):
    generator = torch.Generator().manual_seed(d)
    for dtype in (torch.float32, torch.float64):
        embeddings = torch.randn(40, d, generator=generator, dtype=dtype)
        labels = torch.arange(40) // 2
        for distance in range(len(DISTANCES)):
            ours = OPS.portable_mine_batch_hard(embeddings, labels, distance)
            assert torch.equal(ours[0], OPS.mine_batch_hard(embeddings, labels, distance)[0])


def test_the_options_have_the_operators_order():
    assert MINERS == ("batch_hard", "semi_hard", "easy_positive", "easy_positive_semi_hard", "k_hardest")
    assert miners.Options.of_codes(*MINED[2]) == miners.Options("semi_hard", OTHERWISE[0], False, 0.3, 1, False, 0.0)
