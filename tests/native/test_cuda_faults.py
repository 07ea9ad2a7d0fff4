"""That the checks of the CUDA kernels can fail.

Every wait in the kernels' source is left out once, or leaves one group more of copies or products than it should; the
screen's bound is shrunk; and each time some run must notice.
"""

import faulthandler
import os
import re
from pathlib import Path

import numpy as np
import pytest

from tests.native.oracle import COSINE, EUCLIDEAN, INNER
from tests.native.test_cuda import PRODUCTS, backward, mine, setting

KERNELS = Path(__file__).parents[2] / "csrc" / "cuda"


def battery(native, set_up):
    """Runs that reach every kernel, as arrays: several tiles a block, all rounds, a hub, more than one chunk."""
    random = np.random.default_rng(0)
    found = []
    wide = random.standard_normal((300, 300)).astype(np.float32)
    rows = wide[:200, :150].copy()
    labels = np.arange(300) // 3 % 50
    # More steps than stages, and more tiles than blocks.
    shapes = {"wgmma": (200, 250), "wgmma-pair": (300, 300)}
    for products in PRODUCTS:
        n, d = shapes.get(products, rows.shape)
        for distance, offset in ((COSINE, 0), (INNER, 3)):
            batch = wide[:n, :d] + np.float32(offset)
            mined = mine(native, batch, labels[:n], distance, products, set_up)
            found += [mined["pairs"], mined["distances"], mined["slopes"], mined["scale"], mined["centre_norm"]]
    few_steps = mine(native, wide[:, :100].copy(), labels, EUCLIDEAN, "wgmma-pair", set_up)
    found += [few_steps["pairs"], few_steps["distances"]]
    rows[77] *= 1e3  # one long row among the products
    mined = mine(native, rows, labels[:200], INNER, "float", set_up)
    found += [mined["pairs"], mined["product_scale"]]
    flat = random.standard_normal((200, 2)).astype(np.float32)  # many near ties
    found.append(mine(native, flat, np.arange(200) // 3, EUCLIDEAN, "small-tensor", set_up)["pairs"])
    lattice = random.integers(-1, 2, (90, 1)).astype(np.float64)  # ties: the exact scan
    mined = mine(native, lattice, np.arange(90) % 7, EUCLIDEAN, "small-tensor", set_up)
    assert sum(mined["scanned"]) > 50
    found += [mined["pairs"], mined["distances"]]
    hub = {**mined, "pairs": np.stack([np.full(90, 3), np.full(90, 3)]), "slopes": np.ones(90)}
    found.append(backward(native, lattice, hub, np.array(1.0), EUCLIDEAN, set_up))
    for products in PRODUCTS:  # tiles whose products are not wanted after all
        mined = mine(native, rows * np.float32(np.nan), labels[:200], EUCLIDEAN, products, set_up)
        found += [mined["pairs"], mined["distances"]]
    many = random.standard_normal((1100, 1))
    found.append(mine(native, many, np.arange(1100) // 5, EUCLIDEAN, "float", set_up)["loss"])
    triplets = list(random.standard_normal((3, 40, 20)))
    given = native.cuda.triplet_margin_float64(triplets, np.zeros(0), 0.5, COSINE, True, False, None, 2, set_up)
    found += [given["loss"], given["values"]]
    keys = random.integers(0, 50, 2101)  # two tiles of ranked keys, and a few of their threads see an upper half
    keys[[40, 2090]] += 2**32
    found += native.cuda.sort_classes(keys.astype(np.uint64), set_up)
    return found


def survives(function, *arguments):
    """Whether the function is true, in a process of its own: broken kernels may write anywhere."""
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a sanitizer's report of what was broken on purpose
            os._exit(0 if function(*arguments) else 1)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def same(native, want, set_up):
    found = battery(native, set_up)
    return all(np.array_equal(f, w, equal_nan=True) for f, w in zip(found, want, strict=True))


def notices(native, want, **faults):
    """Whether a wrong answer, a check of the shim's (threads that wait for ever) or a crash tells of the fault."""
    for seed in range(20):
        set_up = setting(native, seed, deferred=seed % 2 == 1, processors=1)
        for name, value in faults.items():
            setattr(set_up, name, value)
        if not survives(same, native, want, set_up):
            return True
    return False


@pytest.fixture(scope="module")
def want(native):
    """What unbroken kernels find."""
    return battery(native, setting(native, 100, processors=1))


def test_nothing_is_noticed_where_nothing_is_broken(native, want):
    assert all(survives(same, native, want, setting(native, seed, seed % 2 == 1, processors=1)) for seed in range(5))


def test_every_wait_is_needed(native, want):
    sites = native.cuda.sites()
    in_source = {
        f"{path.name}:{number}"
        for path in KERNELS.glob("*.cuh")
        if not path.name.startswith("device")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(
            r"\b(block_barrier|block_any|warp_barrier|cluster_barrier|arrival_wait|(copy_async|group)_wait<.*>)\(", line
        )
    }
    # Those of the bindings are of the shim's own tests.
    seen = [site for kind in sites.values() for site in kind if not site.startswith("bindings")]
    assert in_source == set(seen)
    superfluous = [site for site in seen if not notices(native, want, broken_site=site)]
    assert not superfluous, superfluous


def test_a_shrunk_bound_is_noticed(native, want):
    assert notices(native, want, bound_factor=1 / 20)
