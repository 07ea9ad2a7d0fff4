"""The weighted loss of few large classes: its positives come from keys, as its negatives do, and nothing is kept of
any pair."""

import pytest
import torch

import fasttriplet
from tests.engine import ENGINE, host_only
from tests.family import assert_as_reference, loss_and_gradients
from tests.inputs import DISTANCES, DTYPES, PAIRINGS, pair_up

#: Above this many an anchor's positives come from keys.
FEW = 48


def rows_of(n: int, d: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def uneven(n: int) -> torch.Tensor:
    """Two large classes, classes of four among them, and rows that are alone."""
    numbers = torch.arange(n)
    return torch.where(numbers % 3 > 0, numbers % 3, torch.where(numbers % 2 > 0, 3 + numbers // 24, 100 + numbers))


@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_values_and_gradients(pairing, distance, soft_margin):
    for classes in (torch.arange(200) % 2, uneven(250)):
        embeddings = rows_of(len(classes))
        labels, arguments = pair_up(pairing, embeddings, classes)
        options = dict(distance=distance, soft_margin=soft_margin, margin=0.5, reduction="sum")
        assert_as_reference("weighted", embeddings, labels, **options, **arguments)


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("n", [FEW - 1, FEW, FEW + 1, FEW + 2])
def test_classes_around_the_size_from_which_keys_serve(n, dtype):
    """Beside a class of that size one row of another, at every place of the vectors."""
    for place in (0, 7, n):
        labels = torch.zeros(n + 1, dtype=torch.int64)
        labels[place] = 1
        assert_as_reference("weighted", rows_of(n + 1, 5).to(dtype), labels, reduction="none")


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", ["equal", "two values", "near duplicates", "one column", "one class", "far"])
def test_large_classes_of_hard_rows(name, distance):
    n = 130
    embeddings, labels = rows_of(n, 6), torch.arange(n) % 2
    if name == "equal":
        embeddings = embeddings[:1].expand(n, 6) * 0 + 2  # its products are exact
    if name == "two values":
        embeddings = torch.eye(6)[torch.arange(n) // 3 % 2]
    if name == "near duplicates":  # within the share of its terms from which a distance is scored
        embeddings = torch.cat([embeddings[: n // 2], embeddings[: n // 2] + 1e-4 * rows_of(n // 2, 6, 1)])
        labels = torch.arange(n) % (n // 2) % 2
    if name == "one column":
        embeddings = 1 + rows_of(n, 1).abs()
    if name == "one class":
        labels = torch.zeros_like(labels)
    if name == "far":
        embeddings = embeddings + 1e4
    if (name, distance) in (("one column", "cosine"), ("equal", "inner_product")):
        pytest.skip("the gradient is zero but for roundings")
    assert_as_reference("weighted", embeddings, labels, distance=distance, reduction="sum", margin=0.5)


@host_only
def test_a_distance_is_found_the_same_way_for_rows_and_references():
    """Were it a key for one and a score for the other, a weight would be off by the exponential of their difference."""
    embeddings = 2.0**28 * rows_of(120, 3)
    labels = torch.where(torch.arange(120) < 100, 0, 1 + torch.arange(120) % 2)
    options = dict(ref_embeddings=embeddings.flip(0) / 2, ref_labels=labels.flip(0), margin=0.0, reduction="sum")
    assert_as_reference("weighted", embeddings, labels, **options)
    few = torch.arange(120) >= 90  # anchors of which a reference has few, and each of which has many references
    assert_as_reference("weighted", embeddings[few], torch.zeros(30, dtype=torch.int64), **options)


@host_only
def test_gradients_of_tiny_upstreams_do_not_vanish():
    embeddings, labels = rows_of(130), torch.arange(130) % 2
    _, (one,) = loss_and_gradients(fasttriplet, "weighted", embeddings, labels)
    _, (tiny,) = loss_and_gradients(fasttriplet, "weighted", embeddings, labels, torch.tensor(2.0**-70))
    torch.testing.assert_close(tiny * 2.0**70, one, rtol=1e-6, atol=0)


@host_only
def test_bits_do_not_depend_on_threads():
    embeddings, labels = rows_of(301, 40), uneven(301)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss, (gradient,) = loss_and_gradients(fasttriplet, "weighted", embeddings, labels)
            found.append(loss.numpy().tobytes() + gradient.numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


@pytest.mark.skipif(ENGINE == "shim", reason="says nothing about the shim")
def test_a_row_that_is_not_finite_makes_all_nan():
    embeddings, labels = rows_of(130), torch.arange(130) % 2
    embeddings[70, 3] = torch.nan
    loss, (gradient,) = loss_and_gradients(fasttriplet, "weighted", embeddings, labels)
    assert loss.isnan() and gradient.isnan().all()
