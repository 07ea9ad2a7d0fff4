"""The public functions against the float64 reference, over the whole table of inputs."""

import os
import subprocess
import sys

import pytest
import torch

import fasttriplet
from fasttriplet import reference
from tests.engine import ENGINE, host_only
from tests.inputs import CASE_IDS, CASES, DISTANCES, DTYPES, ON_MISSING, REDUCTIONS, batch, undecided

CASE = pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
DECIDED = [
    pytest.param(case, distance, dtype, id=f"{case.name}-{distance}-{str(dtype).removeprefix('torch.')}")
    for case in CASES
    for distance in DISTANCES
    for dtype in DTYPES
    if not undecided(case, dtype, distance)
]
DISTANCE = pytest.mark.parametrize("distance", DISTANCES)
DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def loss_and_gradient(function, embeddings, labels, upstream=None, **options):
    rows = embeddings.detach().clone().requires_grad_()
    loss = function(rows, labels, **options)
    loss.backward(torch.ones_like(loss) if upstream is None else upstream.to(loss.dtype))
    return loss.detach(), rows.grad


@CASE
@DISTANCE
@DTYPE
def test_mined_indices_are_those_of_float64(case, distance, dtype):
    embeddings, labels = batch(case, dtype)
    mined = fasttriplet.mine_batch_hard(embeddings, labels, distance=distance)
    expected = reference.mine_batch_hard(embeddings.double(), labels, distance=distance)
    working = torch.float64 if dtype == torch.float64 else torch.float32
    assert mined.positive_distances.dtype == mined.negative_distances.dtype == working
    if not undecided(case, dtype, distance):
        assert torch.equal(mined.positives, expected.positives)
        assert torch.equal(mined.negatives, expected.negatives)
    if embeddings.isfinite().all():
        close = dict(rtol=1e-6, atol=1e-7, equal_nan=True, check_dtype=False)
        torch.testing.assert_close(mined.positive_distances, expected.positive_distances.to(working), **close)
        torch.testing.assert_close(mined.negative_distances, expected.negative_distances.to(working), **close)


@pytest.mark.parametrize(("case", "distance", "dtype"), DECIDED)
def test_loss_and_gradient_are_those_of_the_reference(case, distance, dtype):
    embeddings, labels = batch(case, dtype)
    half = dtype in (torch.float16, torch.bfloat16)  # the same kernels on widened rows: one combination will do
    for soft_margin in (False,) if half else (False, True):
        for reduction in ("mean",) if half else REDUCTIONS:
            for on_missing in ("skip",) if half else ("skip", "zero"):
                options = dict(
                    distance=distance, soft_margin=soft_margin, reduction=reduction, on_missing=on_missing, margin=0.5
                )
                loss, gradient = loss_and_gradient(fasttriplet.batch_hard_triplet_loss, embeddings, labels, **options)
                expected = loss_and_gradient(reference.batch_hard_triplet_loss, embeddings.double(), labels, **options)
                assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
                assert gradient.dtype == dtype and gradient.shape == embeddings.shape
                tolerance = {"rtol": 1e-10, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 2e-6, "atol": 1e-6}
                torch.testing.assert_close(loss, expected[0].to(loss.dtype), **tolerance)
                # Each entry is rounded once from float64, but its terms may cancel: the largest entry sets the scale.
                scale = expected[1].abs().amax() if expected[1].numel() else 0.0
                unit = {torch.float64: 1e-9, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
                tolerance = {"rtol": unit, "atol": float(unit * scale)}
                torch.testing.assert_close(gradient, expected[1].to(dtype), **tolerance)


@DISTANCE
def test_upstream_gradient_is_carried_per_anchor(distance):
    embeddings, labels = batch(CASES[4])
    upstream = torch.randn(len(labels), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    options = dict(distance=distance, reduction="none", soft_margin=True)
    _, gradient = loss_and_gradient(fasttriplet.batch_hard_triplet_loss, embeddings, labels, upstream, **options)
    _, expected = loss_and_gradient(reference.batch_hard_triplet_loss, embeddings, labels, upstream, **options)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_the_worked_example_of_triplet_loss_note():
    """Four points, labels [1, 2, 1, 1]; the lone point counts with d_ap = 0; margin 0.3, mean over all four anchors."""
    points = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [0.0, 3.0]], dtype=torch.float64)
    labels = torch.tensor([1, 2, 1, 1])
    root = 8.0**0.5
    # d_ap: 2 (to 2 and to 3: the lower index), 0, sqrt 8, sqrt 8; d_an: 1, 1, 1, sqrt 5.
    expected = (max(2 - 1 + 0.3, 0) + max(0 - 1 + 0.3, 0) + (root - 1 + 0.3) + (root - 5.0**0.5 + 0.3)) / 4
    options = dict(margin=0.3, on_missing="zero")
    assert fasttriplet.batch_hard_triplet_loss(points, labels, **options).item() == pytest.approx(expected, abs=1e-12)

    # Cosines of the points: (0, 1) and (0, 3) coincide, (1, 1) is at 45 degrees, (2, 1) at atan(1 / 2).
    d_01, d_02, d_12 = 1 - 0.5**0.5, 1 - 1 / 5**0.5, 1 - 3 / 10**0.5
    expected = (2 * (d_02 - d_01 + 0.3) + max(0 - d_12 + 0.3, 0) + (d_02 - d_12 + 0.3)) / 4
    loss = fasttriplet.batch_hard_triplet_loss(points, labels, distance="cosine", **options)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("label_dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.uint16])
def test_labels_of_any_integer_dtype(label_dtype):
    embeddings, labels = batch(CASES[4])
    expected = fasttriplet.mine_batch_hard(embeddings, labels)
    assert torch.equal(fasttriplet.mine_batch_hard(embeddings, labels.to(label_dtype)).negatives, expected.negatives)


def test_labels_may_be_negative_huge_or_bool():
    embeddings, labels = batch(CASES[4])
    expected = fasttriplet.mine_batch_hard(embeddings, labels).negatives
    assert torch.equal(fasttriplet.mine_batch_hard(embeddings, labels * 2**58 - 2**62).negatives, expected)
    two = fasttriplet.mine_batch_hard(embeddings, labels % 2 == 0).negatives
    assert torch.equal(two, fasttriplet.mine_batch_hard(embeddings, labels % 2).negatives)


def test_on_missing():
    embeddings = torch.tensor([[0.0], [1.0], [5.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    loss = lambda **options: fasttriplet.batch_hard_triplet_loss(embeddings, labels, margin=6.0, **options)  # noqa: E731
    assert loss(reduction="none").tolist() == [2.0, 3.0, 0.0]
    assert loss(reduction="none", on_missing="zero").tolist() == [2.0, 3.0, 2.0]
    assert loss().item() == 2.5
    assert loss(on_missing="zero").item() == pytest.approx(7 / 3)
    complete = fasttriplet.batch_hard_triplet_loss(embeddings[:2], torch.tensor([0, 1]), on_missing="zero")
    assert complete.item() == 0.0


@pytest.mark.skipif(ENGINE == "shim", reason="the operators' errors are not under the shim")
def test_on_missing_error():
    with pytest.raises(ValueError, match=r"got 1 of 3 anchors without, the first at index 2"):
        fasttriplet.batch_hard_triplet_loss(torch.randn(3, 1), torch.tensor([0, 0, 1]), on_missing="error")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], []])
def test_nothing_counts_gives_zero_joined_to_the_graph(reduction, labels):
    embeddings = torch.randn(len(labels), 4, requires_grad=True)
    loss = fasttriplet.batch_hard_triplet_loss(embeddings, torch.tensor(labels, dtype=torch.int64), reduction=reduction)
    assert loss.requires_grad and not loss.any()
    loss.sum().backward()
    assert embeddings.grad.shape == embeddings.shape and not embeddings.grad.any()


def test_soft_margin_does_not_overflow():
    embeddings = torch.tensor([[0.0], [5000.0], [1.0], [9000.0]], dtype=torch.float64, requires_grad=True)
    loss = fasttriplet.batch_hard_triplet_loss(
        embeddings, torch.tensor([0, 0, 1, 1]), distance="squared_euclidean", soft_margin=True, reduction="none"
    )
    assert loss[0].item() == 25e6 - 1
    loss.sum().backward()
    assert embeddings.grad.isfinite().all()


@DISTANCE
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [[3], [0, 40], range(60)])
def test_a_row_that_is_not_finite(distance, value, where):
    embeddings = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    embeddings[list(where), 2] = value
    labels = torch.arange(60) // 4
    labels[59] = 99  # alone in its class
    mined = fasttriplet.mine_batch_hard(embeddings, labels, distance=distance)
    expected = reference.mine_batch_hard(embeddings.double(), labels, distance=distance)
    assert torch.equal(mined.positives, expected.positives) and torch.equal(mined.negatives, expected.negatives)
    assert torch.equal(mined.negative_distances.isnan(), expected.negative_distances.isnan())
    assert torch.equal(mined.positive_distances.isnan(), expected.positive_distances.isnan())
    for reduction in REDUCTIONS:
        options = dict(distance=distance, reduction=reduction)
        loss, gradient = loss_and_gradient(fasttriplet.batch_hard_triplet_loss, embeddings, labels, **options)
        expected_loss, expected_gradient = loss_and_gradient(
            reference.batch_hard_triplet_loss, embeddings, labels, **options
        )
        assert torch.equal(loss.isnan(), expected_loss.isnan()) and loss.isnan().any()
        assert gradient.isnan().all() and expected_gradient.isnan().all()


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_not_finite_and_nothing_counts(labels):
    embeddings = torch.tensor([[0.0], [float("nan")], [1.0]])
    for reduction in ("sum", "mean", "mean_nonzero"):
        loss, gradient = loss_and_gradient(
            fasttriplet.batch_hard_triplet_loss, embeddings, torch.tensor(labels), reduction=reduction
        )
        assert loss.isnan() and gradient.isnan().all()


def test_float64_beyond_the_range_of_squares():
    """Squares overflow or vanish: distances tie at infinity or zero, and the lowest index wins, as in the reference."""
    rows = torch.randn(80, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(80) // 4
    for scale in (2.0**600, 2.0**-600, 2.0**-1060):
        mined = fasttriplet.mine_batch_hard(rows * scale, labels)
        expected = reference.mine_batch_hard(rows * scale, labels)
        assert torch.equal(mined.positives, expected.positives) and torch.equal(mined.negatives, expected.negatives)
    mixed = rows * torch.where(torch.arange(80) % 2 == 0, 1.0, 2.0**-560)[:, None]
    mined, expected = fasttriplet.mine_batch_hard(mixed, labels), reference.mine_batch_hard(mixed, labels)
    assert torch.equal(mined.positives, expected.positives) and torch.equal(mined.negatives, expected.negatives)


def test_distances_that_tie_after_rounding_go_to_the_lowest_index():
    """The squares differ in the last bit; their roots, the euclidean distances, are equal."""
    rows = torch.tensor([[0.0, 0.0], [1.0, 2.0**-26], [1.0, 0.0]], dtype=torch.float64)
    for distance, expected in (("euclidean", 1), ("squared_euclidean", 2)):
        for module in (fasttriplet, reference):
            assert module.mine_batch_hard(rows, torch.tensor([0, 1, 1]), distance=distance).negatives[0] == expected
    positives = fasttriplet.mine_batch_hard(rows[[0, 2, 1]], torch.tensor([0, 0, 0])).positives
    assert positives[0] == 1


def test_cosine_of_rows_whose_norm_overflows():
    rows = torch.tensor([[1.7e308] * 4, [1, 2, 1, 1], [1, 0, 0, 0], [-1, 2, 3, 4]], dtype=torch.float64)
    labels = torch.arange(4)
    mined = fasttriplet.mine_batch_hard(rows, labels, distance="cosine")
    assert torch.equal(mined.negatives, reference.mine_batch_hard(rows, labels, distance="cosine").negatives)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_distance_zero_has_zero_gradient(reduction):
    for distance in DISTANCES[:3]:
        embeddings = torch.ones(6, 3, requires_grad=True)
        loss = fasttriplet.batch_hard_triplet_loss(
            embeddings, torch.arange(6) // 2, distance=distance, reduction=reduction
        )
        loss.sum().backward()
        assert not embeddings.grad.any()


def test_every_on_missing_is_tested():
    assert ON_MISSING == ("skip", "zero", "error")


_DIGEST = """
import hashlib, torch, fasttriplet
from tests.inputs import CASES, DISTANCES, batch
digest = hashlib.sha256()
for case in CASES:
    for distance in DISTANCES:
        for dtype in (torch.float64, torch.float32):
            embeddings, labels = batch(case, dtype)
            embeddings.requires_grad_()
            loss = fasttriplet.batch_hard_triplet_loss(embeddings, labels, distance=distance, soft_margin=True)
            loss.backward()
            mined = fasttriplet.mine_batch_hard(embeddings, labels, distance=distance)
            for tensor in (loss, embeddings.grad, *mined):
                digest.update(tensor.detach().numpy().tobytes())
print(fasttriplet.build_info()["tier"], digest.hexdigest())
"""


@host_only
def test_every_tier_gives_the_same_bits():
    tiers = fasttriplet.build_info()["tiers_available"].split(",")
    digests = {}
    for tier in tiers:
        run = subprocess.run(
            [sys.executable, "-c", _DIGEST],
            env={**os.environ, "FASTTRIPLET_ISA": tier},
            capture_output=True,
            text=True,
            check=True,
        )
        chosen, digest = run.stdout.split()
        assert chosen == tier
        digests[tier] = digest
    assert len(set(digests.values())) == 1, digests


@host_only
def test_a_missing_tier_is_refused_by_name():
    run = subprocess.run(
        [sys.executable, "-c", "import fasttriplet; fasttriplet.build_info()"],
        env={**os.environ, "FASTTRIPLET_ISA": "mmx"},
        capture_output=True,
        text=True,
    )
    assert run.returncode != 0
    assert "FASTTRIPLET_ISA must be one of the tiers this CPU can run" in run.stderr and "'mmx'" in run.stderr
