"""What makes the CUDA kernels fast and can be counted without a GPU: launches, tiles, banks, lists and shares."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.native.oracle import COSINE, EUCLIDEAN, INNER, SQUARED
from tests.native.test_cuda import PRODUCTS, check, mine, setting

TILES = ("float", "small_tensor", "large_tensor", "wgmma", "wgmma_pair")


def unit_rows(n, d, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# Launches.


@pytest.mark.parametrize(("distance", "launches"), [(EUCLIDEAN, 8), (SQUARED, 8), (COSINE, 8), (INNER, 9)])
def test_a_small_batch_has_few_launches(native, distance, launches):
    """A clear; survey, order, centre; rows and classes; terms; screen; candidates; scan; loss; for products a scale."""
    set_up = setting(native)
    set_up.small_batch = native.cuda.small_batch
    mined = check(native, unit_rows(256, 16), np.arange(256) // 4, distance, "small-tensor", set_up)
    assert mined["launches"] == launches


def test_a_larger_batch_has_another_round(native):
    rows, labels = unit_rows(1030, 4), np.arange(1030) // 5
    one_chunk = mine(native, rows[:600], labels[:600], EUCLIDEAN, "large-tensor", setting(native))
    assert one_chunk["launches"] == 8 + 3
    two_chunks = mine(native, rows, labels, EUCLIDEAN, "large-tensor", setting(native))
    assert two_chunks["launches"] == 8 + 3 + 1


# Tiles.


@pytest.mark.parametrize("tiles", [1, 2, 15, 16, 17, 31, 32, 33, 50, 65])
def test_every_tile_has_one_number(native, tiles):
    for n in (64 * tiles, 64 * tiles - 63):
        places = native.cuda.tile_order(n, 64)
        assert len(places) == tiles * (tiles + 1) // 2
        assert len(np.unique(places, axis=0)) == len(places)
        assert (places[:, 0] <= places[:, 1]).all() and places.min() == 0 and places.max() == tiles - 1


def test_tiles_beside_each_other_are_taken_one_after_the_other(native):
    """256 tiles of a square have 32 tiles of rows between them."""
    places = native.cuda.tile_order(64 * 64, 64)[4 * 136 :]
    for square in np.split(places, len(places) // 256):
        assert len(np.unique(square[:, 0])) == len(np.unique(square[:, 1])) == 16


# Banks of shared memory.


def conflicts(words):
    """Of words [32] that a warp's lanes access at once: how many different ones share a bank, at most."""
    words = np.unique(words)
    return np.bincount(words % 32).max()


@pytest.mark.parametrize("tile", TILES)
def test_products_in_shared_memory_share_no_bank(native, tile):
    part = native.cuda.products_in_memory[tile]
    words, lanes = part["words"], part["lanes"]
    rows, columns = words.shape
    assert np.array_equal(np.sort(words, axis=None), np.arange(rows * columns))
    for product in range(lanes.shape[1]):  # stores: a product of each lane at once
        assert conflicts(words[lanes[:, product, 0], lanes[:, product, 1]]) == 1
    for first in range(0, rows, 32):  # a row a lane, all at the same column
        assert all(conflicts(words[first : first + 32, column]) == 1 for column in range(columns))
    for first in range(0, columns, 32):  # a column a lane
        assert all(conflicts(words[row, first : first + 32]) == 1 for row in range(rows))


# Lists, the second round and the exact scan.


def test_lists_are_twice_as_long_as_what_overflowed(native):
    assert [native.cuda.list_length(d) for d in (1, 256, 257, 1024, 1025)] == [16, 16, 32, 32, 64]


def test_few_is_what_is_cheaper_to_score(native):
    """An eighth of the anchors where float64 runs at half the speed, fewer where it is slow."""
    assert native.cuda.few_overflows(8192, 2) == 1024
    assert native.cuda.few_overflows(1 << 20, 64) == 4096
    assert native.cuda.few_overflows(100, 0) == 25


def with_ties(n, ties, d=6):
    """A class a row; `ties` of them are equal, and farther from the others than those are from each other."""
    rows = np.abs(np.random.default_rng(0).standard_normal((n, d))).astype(np.float32)
    rows[10 : 10 + ties] = -50
    return rows, np.arange(n)


@pytest.mark.parametrize("products", [name for name in PRODUCTS if name != "float"])
def test_a_few_anchors_with_ties_do_not_cause_another_round(native, products):
    mined = check(native, *with_ties(300, 20), EUCLIDEAN, products, setting(native))
    assert mined["overflown"] == mined["scanned"] == (20, 0) and not mined["fine_round"]
    many = check(native, *with_ties(300, 60), EUCLIDEAN, products, setting(native))
    # Others that meet tied rows first may overflow on the way; the second round is enough for most of them.
    assert many["overflown"][0] >= many["scanned"][0] >= 60 and many["fine_round"]
    slow_float64 = setting(native)
    slow_float64.float64_ratio = 64
    assert check(native, *with_ties(300, 20), EUCLIDEAN, products, slow_float64)["fine_round"]


@pytest.mark.parametrize("distance", [EUCLIDEAN, COSINE])
@pytest.mark.parametrize("processors", [1, 7, 80])
def test_idle_blocks_share_the_candidates_of_an_exact_scan(native, distance, processors):
    rows, labels = with_ties(700, 18)
    mined = check(native, rows, labels, distance, "large-tensor", setting(native, processors, processors=processors))
    assert mined["scanned"] == (18, 0)
    groups = -(-18 // 4)
    shares = min(processors // groups, -(-700 // 128))
    assert mined["scan_shares"] == (groups * shares if shares > 1 else 0)


def test_the_farthest_are_shared_out_too(native):
    rows = np.random.default_rng(0).standard_normal((300, 5)).astype(np.float32)
    rows[20:60] = 30 + rows[0]
    mined = check(native, rows, np.arange(300) // 150, EUCLIDEAN, "small-tensor", setting(native, processors=90))
    assert mined["scanned"][1] > 0 and mined["scan_shares"] > 0


@pytest.mark.parametrize("distance", [EUCLIDEAN, COSINE, INNER])
@pytest.mark.parametrize(("n", "d"), [(300, 2), (201, 27)])
def test_a_small_batch_has_no_second_round(native, distance, n, d):
    set_up = setting(native)
    set_up.small_batch = native.cuda.small_batch
    lattice = np.random.default_rng(0).integers(-1, 2, (n, 2)).astype(np.float32)
    lattice = np.repeat(lattice, [1, d - 1], axis=1)
    mined = check(native, lattice, np.arange(n) % 9, distance, "small-tensor", set_up)
    assert sum(mined["scanned"]) > 100 and not mined["fine_round"]


def test_tiles_in_which_nothing_searches_are_left_out_of_the_second_round(native):
    """Rows that only bfloat16 takes for equal, in one class after the other: whole tiles of other rows are done."""
    rows, labels = with_ties(400, 100)
    rows[10:110] += np.random.default_rng(1).uniform(0, 3, (100, 6)).astype(np.float32)
    native.cuda.take_waits()
    mined = check(native, rows, labels, EUCLIDEAN, "large-tensor", setting(native))
    assert mined["fine_round"] and mined["overflown"] == (100, 0) and mined["scanned"] == (0, 0)
    waits = sum(count for place, count in native.cuda.take_waits().items() if place.startswith("tile_float.cuh"))
    assert waits == 2 * 128 * (7 + 6)  # two for each thread of a tile: those of two rows of tiles, of 28 in all


# Fences.


def test_an_arrival_at_every_step_of_the_products_is_no_fence_of_all_memory():
    """ptxas makes MEMBAR.ALL.GPU of a release to the cluster, before each arrival that frees a stage."""
    source = (Path(__file__).parents[2] / "csrc" / "cuda" / "device_nvidia.cuh").read_text()
    arrivals = re.findall(r'"(mbarrier\.arrive\.\S*)', source)
    assert len(arrivals) == 2 and not [name for name in arrivals if ".release" in name], arrivals


# The longest rows of inner products.


@pytest.mark.parametrize("blocks", [1, 2, 7])
@pytest.mark.parametrize("n", [1, 3, 5, 300, 5000])
def test_the_longest_rows_are_found_by_all_blocks(native, n, blocks):
    lengths = np.random.default_rng(n).uniform(1, 2, n)
    lengths[n // 2] = 1e6
    usual, largest = native.cuda.product_scale(lengths, setting(native, n), blocks)
    longest = np.sort(lengths)[::-1][:5]
    assert largest == 1e6
    assert usual == (longest[1] if n > 1 else 1e6)
