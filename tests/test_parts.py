"""Operators that give the gradient of a part of the rows, for processes that hold a batch together: the bits of all."""

from __future__ import annotations

import pytest
import torch

from fasttriplet.check import DISTANCES, MINERS
from tests.engine import host_only
from tests.inputs import pair_up

OPS = torch.ops.fasttriplet
SEMI_HARD = MINERS.index("semi_hard"), 0, False, 0.0, 1, False, 0.0


def batch(n, d, classes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)
    return rows, torch.randint(0, classes, (n,), generator=generator), torch.rand(n, generator=generator).double() + 0.1


def same(value, expected):
    assert value.dtype == expected.dtype and torch.equal(value, expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("distance", range(len(DISTANCES)))
@pytest.mark.parametrize(
    ("n", "classes"), [(97, 20), pytest.param(1500, 2, id="blocks of edges", marks=host_only)]
)  # the latter has 2.2 million edges, three blocks of them
def test_semi_hard_of_mined_triplets_is_semi_hard(n, classes, distance, weighted):
    rows, labels, weights = batch(n, 3, classes)
    given = rows, labels, None, [], [0], distance
    weights = weights if weighted else None
    expected = OPS.semi_hard(*given, 0, False, 0.4, False, True, weights)
    mined = OPS.mine_triplets(*given, *SEMI_HARD)
    found = OPS.semi_hard_of_triplets(*given, *mined, 0.4, False, [], True, weights)
    for value, wanted in zip(found, expected, strict=True):
        same(value, wanted)
    for first, count in ((0, n), (0, 0), (5, 30), (n - 7, 7)):
        part = OPS.semi_hard_of_triplets(*given, *mined, 0.4, False, [first, count, 0, 0], True, weights)
        same(part[0], expected[0])
        same(part[2], expected[2][first : first + count])


@pytest.mark.parametrize("pairing", ["plain", "everything"])
@pytest.mark.parametrize("distance", range(len(DISTANCES)))
def test_parts_of_rows_and_references(distance, pairing):
    rows, labels, _ = batch(60, 5, 9, torch.float64)
    labels, told = pair_up(pairing, rows, labels)
    references = told.get("ref_embeddings")
    names = ("ref_labels", "self_indices", "sample_ids", "ref_sample_ids", "groups", "ref_groups", "ref_mask")
    numbers = [1, told["ignore_index"]] if pairing == "everything" else [0]
    given = rows, labels, references, [told.get(name) for name in names], numbers, distance
    distances, triplets = OPS.mine_triplets(*given, *SEMI_HARD)
    grad = torch.where(triplets[1:] >= 0, torch.rand(distances.shape).double(), 0)
    asked = grad, rows, references, distances, triplets, distance
    expected = OPS._triplet_distances_backward(*asked, [])
    m = 0 if references is None else len(references)
    for parts in ([0, 60, 0, m], [3, 20, m // 2, m // 3], [60, 0, m, 0]):
        found = OPS._triplet_distances_backward(*asked, parts)
        same(found[0], expected[0][parts[0] :][: parts[1]])
        if references is not None:
            same(found[1], expected[1][parts[2] :][: parts[3]])
    sums = OPS.semi_hard(*given, 0, False, 0.4, True, True, None)
    part = OPS.semi_hard_of_triplets(*given, distances, triplets, 0.4, True, [3, 20, m // 2, m // 3], True, None)
    same(part[0], sums[0])
    same(part[2], sums[2][3:23])
    if references is not None:
        same(part[3], sums[3][m // 2 :][: m // 3])


@pytest.mark.parametrize("parts", [[1], [0, 61, 0, 0], [-1, 3, 0, 0], [0, 3, 0, 1], [4, -1, 0, 0], [0, 3, 0, 0, 0]])
def test_parts_beyond_the_batch_are_refused(parts):
    rows, labels, _ = batch(60, 5, 9, torch.float64)
    given = rows, labels, None, [], [0], 0
    distances, triplets = OPS.mine_triplets(*given, *SEMI_HARD)
    text = "parts must be none, or the first row and the number of rows of 60 and the same of 0 references; got "
    with pytest.raises(ValueError, match=text):
        OPS._triplet_distances_backward(distances, rows, None, distances, triplets, 0, parts)
    with pytest.raises(ValueError, match=text):
        OPS.semi_hard_of_triplets(*given, distances, triplets, 0.4, False, parts, True, None)


def test_the_operator_is_what_it_says():
    rows, labels, weights = batch(20, 3, 5)
    given = rows, labels, None, [], [0], 0
    mined = OPS.mine_triplets(*given, *SEMI_HARD)
    for parts in ([], [4, 9, 0, 0]):
        for gradient in (True, False):
            told = (*given, *mined, 0.4, False, parts, gradient, weights)
            torch.library.opcheck(OPS.semi_hard_of_triplets.default, told)


def test_a_triplet_without_a_positive_or_a_negative_does_not_count():
    """Of a list that nobody mined so: a partner of -1 is no row."""
    rows, labels, _ = batch(20, 3, 5, torch.float64)
    given = rows, labels, None, [], [0], 0
    distances, triplets = OPS.mine_triplets(*given, *SEMI_HARD)
    found = []
    for side in (1, 2):
        fewer = triplets.clone()
        fewer[side, :3] = -1
        found.append(OPS.semi_hard_of_triplets(*given, distances, fewer, 9.0, False, [], True, None))
    for value, other in zip(*found, strict=True):
        same(value, other)
    whole = OPS.semi_hard_of_triplets(*given, distances, triplets, 9.0, False, [], True, None)
    assert whole[1][1].sum() - found[0][1][1].sum() == 3
