"""The AMX tier beyond its answers, which the other tests compare: it runs here, by the CPU or emulated."""

import numpy as np
import pytest

from tests.native.oracle import EUCLIDEAN


def test_the_tier_is_tested_wherever_its_vectors_run(native):
    tiers = native.tiers_to_test()
    if "avx512" not in tiers:
        pytest.skip("the AMX tier needs AVX-512, which this CPU lacks")
    assert tiers[:2] == ["amx", "amxbf16x2"]


def test_tiles_are_given_back(native):
    """A thread that keeps its tiles pays for their 8 KB at every switch."""
    if not native.amx_is_emulated():
        pytest.skip("only the emulator can tell: this CPU has AMX, or lacks AVX-512")
    rows = np.random.default_rng(0).standard_normal((100, 40)).astype(np.float32)
    native.mine_float32(rows, np.arange(100) // 4, EUCLIDEAN, "amx", 1)
    assert native.amx_tile_products() > 0
    assert not native.amx_tiles_configured()
