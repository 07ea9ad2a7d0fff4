"""The shim that runs CUDA kernels on the host: fragments by tables of their own, roundings, and its own checks."""

from fractions import Fraction

import numpy as np
import pytest

# PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" (.bf16): the entry in register r of lane l, with
# group = l >> 2 and member = l % 4; a_i and c_i as the manual numbers them, two bfloat16 a 32-bit register.
GROUP, MEMBER = np.arange(32) >> 2, np.arange(32) % 4
A_ROW = {i: GROUP if i in (0, 1, 4, 5) else GROUP + 8 for i in range(8)}
A_COLUMN = {i: MEMBER * 2 + (i & 1) + (8 if i >= 4 else 0) for i in range(8)}
B_ROW = {i: MEMBER * 2 + (i & 1) + (8 if i >= 2 else 0) for i in range(4)}
B_COLUMN = dict.fromkeys(range(4), GROUP)
C_ROW = {i: GROUP if i < 2 else GROUP + 8 for i in range(4)}
C_COLUMN = {i: MEMBER * 2 + (i & 1) for i in range(4)}


def bfloat16_bits(values):
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint32)


def in_registers(matrix, row, column):
    """[32, registers] words: entry i of a lane is in the lower half of register i / 2 for even i, else the upper."""
    bits = bfloat16_bits(matrix)
    words = np.zeros((32, len(row) // 2), np.uint32)
    for i in row:
        words[:, i // 2] |= bits[row[i], column[i]] << np.uint32(16 * (i & 1))
    return words


def test_products_of_fragments_lie_as_the_manual_says(native):
    random = np.random.default_rng(0)
    a, b = random.integers(-9, 9, (16, 16)), random.integers(-9, 9, (16, 8))
    c = random.integers(-99, 99, (16, 8)).astype(np.float32)
    start = np.stack([c[C_ROW[i], C_COLUMN[i]] for i in range(4)], 1)
    found = native.cuda.multiply_fragments(in_registers(a, A_ROW, A_COLUMN), in_registers(b, B_ROW, B_COLUMN), start)
    want = a @ b + c
    for i in range(4):
        np.testing.assert_array_equal(found[:, i], want[C_ROW[i], C_COLUMN[i]])


def test_the_tables_hold_every_entry_once():
    for row, column, shape in ((A_ROW, A_COLUMN, (16, 16)), (B_ROW, B_COLUMN, (16, 8)), (C_ROW, C_COLUMN, (16, 8))):
        seen = np.zeros(shape, int)
        for i in row:
            np.add.at(seen, (row[i], column[i]), 1)
        assert (seen == 1).all()


def test_matrices_are_loaded_as_the_manual_says(native):
    """ldmatrix.x4: lane l gives row l % 8 of matrix l / 8 and gets, in register m, two entries of row l / 4."""
    matrices = np.arange(4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)
    words = native.cuda.load_fragments(matrices)
    for lane in range(32):
        for m in range(4):
            low, high = matrices[m, lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2]
            assert words[lane, m] == int(low) | int(high) << 16


@pytest.mark.parametrize("columns", [128, 256])
def test_products_of_four_warps_lie_as_the_manual_says(native, columns):
    """PTX ISA, wgmma m64nNk16: operands K-major with 128-byte swizzling, accumulators by the manual's formula."""
    random = np.random.default_rng(0)
    a, b = random.integers(-9, 9, (64, 16)), random.integers(-9, 9, (columns, 16))
    image = np.zeros((64 + columns, 8, 8), np.uint16)  # rows of eight chunks of eight entries
    for r, row in enumerate((*a, *b)):
        for chunk in (0, 1):  # Swizzle<3, 4, 3>: of eight rows each has its chunks elsewhere
            image[r, chunk ^ (r % 8)] = bfloat16_bits(row[8 * chunk : 8 * chunk + 8])
    sums = getattr(native.cuda, f"multiply_group_fragments_{columns}")(image.view(np.uint8).reshape(-1))
    want = a @ b.T
    for thread in range(128):
        for i in range(columns // 2):  # the manual's d_i
            row = 16 * (thread // 32) + thread % 32 // 4 + (8 if i % 4 >= 2 else 0)
            column = 8 * (i // 4) + thread % 4 * 2 + i % 2
            assert sums[thread, i % 4 // 2, i // 4 * 2 + i % 2] == want[row, column]


def test_directed_sums(native):
    random = np.random.default_rng(0)
    a = (random.standard_normal(2000) * 10.0 ** random.uniform(-20, 20, 2000)).astype(np.float32)
    b = (random.standard_normal(2000) * 10.0 ** random.uniform(-20, 20, 2000)).astype(np.float32)
    b[::2] = -a[::2] * random.choice([1, 1 + 1e-6, 0.5], 1000).astype(np.float32)
    for x, y in zip(a, b, strict=True):
        exact = Fraction(float(x)) + Fraction(float(y))
        low, high = native.cuda.add_down(x, y), native.cuda.add_up(x, y)
        assert Fraction(low) <= exact <= Fraction(high)
        step = np.nextafter(np.float32(low), np.float32(np.inf))
        assert high == low == exact or (high == step and exact not in (Fraction(low), Fraction(high)))


def test_ordered_bits_keep_the_order(native):
    values = np.float32([-np.inf, -3e38, -1, -1e-45, 0, 1e-45, 1, 3e38, np.inf])
    bits = [native.cuda.ordered_bits(value) for value in values]
    assert bits == sorted(bits) and len(set(bits)) == len(bits)
    assert native.cuda.ordered_bits(-0.0) == native.cuda.ordered_bits(0.0)
    assert [native.cuda.ordered_value(word) for word in bits] == values.tolist()


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("lane stays away", "31 wait for shuffle_xor and 1 have left"),
        ("two operations", "lanes of a warp meet in (warp_any and in shuffle_xor|shuffle_xor and in warp_any)"),
        ("thread leaves", "31 wait for the block and 1 have left"),
        ("copy beyond", "a copy ends outside shared memory"),
        ("copy not aligned", "a copy's address is not a multiple of 16"),
        ("copies under way", "a thread left with copies under way"),
        ("two operations of a group", "threads of a group meet in group_\\w+ and in group_"),
        ("products under way", "a group left with products under way"),
        ("arrivals started twice", "a barrier of arrivals is started twice"),
        ("arrivals not started", "a barrier of arrivals is used that was not started"),
        ("arrivals of too many", "more arrive at a barrier than it waits for"),
        ("arrivals in a block that is not there", "the cluster has fewer blocks"),
        ("arrivals at a block that has left", "a barrier of arrivals is used that was not started"),
        ("arrivals of a box beyond", "a box ends outside shared memory"),
        ("arrivals of a box not aligned", "a box or its rows are not aligned"),
        ("arrivals ended twice", "a barrier of arrivals is used that was not started"),
        ("arrivals ended early", "a barrier of arrivals ends before its bytes have come"),
        ("arrivals never come", "1 wait for arrivals"),
        ("one block stays away", "32 wait for the cluster"),
        ("arrivals not ended", "a barrier of arrivals was not ended"),
    ],
)
def test_mistakes_are_noticed(native, mistake, message):
    settings = native.cuda.Settings()
    settings.deferred_copies = settings.deferred_products = True
    with pytest.raises(RuntimeError, match=message):
        native.cuda.make_mistake(mistake, settings)
