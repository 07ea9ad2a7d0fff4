"""The ends of the range: losses that underflow, differences that overflow, rows too short for float32's gradients."""

import math

import pytest
import torch

import fasttriplet
from fasttriplet import reference
from fasttriplet.pairing import checked_batch
from fasttriplet.reduction import SOFTPLUS_VANISHES
from tests.engine import ENGINE
from tests.family import NAMES, loss_and_gradients
from tests.inputs import DISTANCES, DTYPES, PAIRINGS, REDUCTIONS, pair_up

FAR = torch.tensor([[0.0], [1.0], [3.0], [2000.0]])
PAIRS = torch.tensor([0, 0, 1, 1])


def test_softplus_vanishes_where_float64_rounds_it_to_zero():
    least = math.nextafter(SOFTPLUS_VANISHES, 0)
    assert math.log1p(math.exp(SOFTPLUS_VANISHES)) == 0 < math.log1p(math.exp(least))
    differences = torch.tensor([SOFTPLUS_VANISHES, least, -745.0, -744.2, 3.0], dtype=torch.float64)
    above = reference.loss.above_zero(differences, 0.0, soft_margin=True)
    assert above.tolist() == [False, True, True, True, True]


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("module", [fasttriplet, reference])
def test_softplus_losses_that_underflow_are_not_active(module, dtype):
    """Of 8 triplets those of anchors 0 and 1 with the negative at 2000 have a difference below -1998: 6 are active."""
    loss, stats = module.batch_all_triplet_loss(FAR.to(dtype), PAIRS, soft_margin=True, return_stats=True)
    # d_ap - d_an of 0: 1 - 3; of 1: 1 - 2; of 3: 1997 - 3 and 1997 - 2; of 2000: 1997 - 2000 and 1997 - 1999
    total = sum(max(x, 0) + math.log1p(math.exp(-abs(x))) for x in (-2, -1, 1994, 1995, -3, -2))
    torch.testing.assert_close(loss, torch.tensor(total / 6, dtype=dtype))
    assert stats.active_fraction == 6 / 8
    assert stats.negative_counts.tolist() == [2, 2, 2, 0]
    hardest = module.k_hardest_triplet_loss(FAR.to(dtype), PAIRS, k=2, soft_margin=True, reduction="mean_nonzero")
    torch.testing.assert_close(loss, hardest)
    mean = module.batch_all_triplet_loss(FAR.to(dtype), PAIRS, soft_margin=True, reduction="mean")
    torch.testing.assert_close(mean, torch.tensor(total / 8, dtype=dtype))


@pytest.mark.parametrize("name", ["batch_hard", "semi_hard", "easy_positive", "k_hardest", "weighted"])
def test_every_loss_counts_underflow_the_same_way(name):
    """In one operator, with weights of 1 and in the reference; of 4 equal triplets where vectors have another range."""
    if name == "weighted" and ENGINE == "portable":
        pytest.skip("a distance of the portable engine's sums over all pairs may be off by roundings")
    for difference in (-744.2, -745.0, math.nextafter(SOFTPLUS_VANISHES, 0), SOFTPLUS_VANISHES, -746.0):
        rows = torch.zeros(16, 2, dtype=torch.float64)
        rows[::2, 1] = -difference
        labels = torch.arange(16) % 2
        options = dict(soft_margin=True, return_stats=True)
        for module in (fasttriplet, reference):
            _, stats = getattr(module, f"{name}_triplet_loss")(rows, labels, **options)
            assert stats.active_fraction == (difference > SOFTPLUS_VANISHES), (module.__name__, difference)


def counts_by_definition(embeddings, labels, arguments, distance):
    """Active triplets by anchor and by negative, from float64 distances by differences."""
    wanted = reference.batch_of(embeddings.double(), labels, **{**arguments, **_double(arguments)})
    matrix = reference.pairwise_distances(wanted.rows, distance, wanted.references)
    active, per_negative = [], torch.zeros(wanted.negative.shape[1], dtype=torch.int64)
    for row, positive, negative in zip(matrix, wanted.positive, wanted.negative, strict=True):
        above = row[positive][:, None] - row[negative] > SOFTPLUS_VANISHES
        active.append(above.sum())
        per_negative[negative] += above.sum(0)
    return torch.stack(active), per_negative


def _double(arguments):
    return {name: value.double() for name, value in arguments.items() if name == "ref_embeddings"}


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("spread", [1.0, 20.0, 200.0, 1000.0])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_batch_all_counts_softplus_exactly(dtype, spread, pairing):
    """Distances on both sides of the last loss above zero, some apart by as much to the bit."""
    generator = torch.Generator().manual_seed(0)
    rows = spread * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    edge = -SOFTPLUS_VANISHES
    line = [0.0, 0.0, 1.0, 2.0, edge, math.nextafter(edge, 0), 745.1331787109375, 745.13323974609375, 746, 748]
    rows[:10], rows[:10, 0] = 0, torch.tensor(line, dtype=torch.float64)
    classes = torch.randint(9, (60,), generator=generator)
    classes[:10] = torch.tensor([0, 0, 0, 0, 1, 2, 1, 2, 3, 3])
    labels, arguments = pair_up(pairing, rows.to(dtype), classes)
    given = checked_batch(rows.to(dtype), labels, arguments)
    vanished = 0
    for code in (0, 1, 3):
        sums, counts, negatives, *_ = torch.ops.fasttriplet.batch_all(*given.arguments, code, 0.3, True, False)
        active, per_negative = counts_by_definition(rows.to(dtype), labels, arguments, DISTANCES[code])
        assert torch.equal(counts[0], active) and torch.equal(negatives, per_negative)
        assert not sums[active == 0].any()
        vanished += int((counts[1] - counts[0]).sum())
    assert vanished > 0 or spread < 100


def test_nothing_is_active_where_all_softplus_losses_underflow():
    rows = torch.tensor([[0.0], [1.0], [2000.0], [2001.0]], requires_grad=True)
    for reduction in REDUCTIONS:
        loss = fasttriplet.batch_all_triplet_loss(rows, PAIRS, soft_margin=True, reduction=reduction)
        assert not loss.any() and loss.requires_grad


HUGE = torch.tensor([[0.0], [1.0], [1e155], [1e155]], dtype=torch.float64)


@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("module", [fasttriplet, reference])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("rows", "labels", "distance"),
    [
        (HUGE[:3], [0, 0, 1], "euclidean"),  # every negative too far: differences of minus infinity
        (HUGE[:3], [0, 1, 0], "euclidean"),  # every positive
        (HUGE, [0, 1, 0, 1], "euclidean"),
        (HUGE[:3], [0, 0, 1], "squared_euclidean"),
        (HUGE[[1, 2, 2]] * torch.tensor([[1.0], [1.0], [-1.0]]), [0, 0, 1], "inner_product"),
    ],
)
def test_a_difference_that_overflows_is_nan(rows, labels, distance, name, module, weighted, soft_margin):
    """The loss, each reduction and the whole gradient, as with an entry that is not finite."""
    labels = torch.tensor(labels)
    weights = torch.linspace(1, 2, len(rows), dtype=torch.float64) if weighted else None
    for reduction in REDUCTIONS:
        options = dict(distance=distance, soft_margin=soft_margin, reduction=reduction, weights=weights)
        loss, (gradient,) = loss_and_gradients(module, name, rows, labels, **options)
        assert loss.isnan().any() if reduction == "none" else loss.isnan()
        assert gradient.isnan().all()


@pytest.mark.parametrize("module", [fasttriplet, reference])
def test_only_the_losses_that_overflow_are_nan(module):
    """Anchors 0 to 3 lie together, 4 and 5 have each other: only their own differences leave the range."""
    rows = torch.tensor([[0.0], [1.0], [3.0], [4.0], [1e155], [-1e155]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    loss = module.batch_hard_triplet_loss(rows, labels, margin=3.5, reduction="none")
    assert loss[:4].tolist() == [1.5, 2.5, 2.5, 1.5] and loss[4:].isnan().all()


@pytest.mark.parametrize("module", [fasttriplet, reference])
def test_a_margin_that_overflows_is_nan(module):
    rows = torch.tensor([[0.0], [1.2e154], [0.5]], dtype=torch.float64)
    options = dict(distance="squared_euclidean", margin=1e308)
    loss = module.batch_hard_triplet_loss(rows, torch.tensor([0, 0, 1]), reduction="none", **options)
    assert loss[0].isnan() and loss[1] == 1e308 and loss[2] == 0
    loss = module.triplet_margin_loss(rows[:1], rows[1:2], rows[2:], **options)
    assert loss.isnan()


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_count_overflows_unseen(name):
    """Anchor 2 has no positive: that its negatives are too far away is no loss, and has no slope."""
    rows = torch.tensor([[0.0], [1.0], [1e155]], dtype=torch.float64)
    references = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    arguments = dict(ref_embeddings=references, ref_labels=torch.tensor([0, 0, 1]), margin=3.0)
    labels = torch.tensor([0, 0, 2])
    loss, gradients = loss_and_gradients(fasttriplet, name, rows, labels, reduction="sum", **arguments)
    expected, wanted = loss_and_gradients(fasttriplet, name, rows[:2], labels[:2], reduction="sum", **arguments)
    assert loss == expected and loss > 0
    assert torch.equal(gradients[0][:2], wanted[0]) and not gradients[0][2:].any()
    assert torch.equal(gradients[1], wanted[1])


@pytest.mark.parametrize("pairing", ["plain", "own-copies"])
@pytest.mark.parametrize("length", [1e-30, 1e-36, 1e-38, 1e-40, 1e-43])
@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("name", ["batch_hard", "k_hardest", "batch_all", "weighted"])
def test_cosine_gradients_of_short_rows_are_float64s_rounded(name, soft_margin, length, pairing):
    """1 / |x| is near the end of float32's range or beyond it: infinite where the gradient is, never NaN."""
    generator = torch.Generator().manual_seed(3)
    rows = length * torch.randn(40, 6, generator=generator)
    rows[::7] *= 2.0**60  # among rows that are not short
    labels, arguments = pair_up(pairing, rows, torch.arange(40) // 4)
    for reduction in REDUCTIONS:
        options = dict(distance="cosine", soft_margin=soft_margin, reduction=reduction, **arguments)
        loss, gradients = loss_and_gradients(fasttriplet, name, rows, labels, **options)
        wide = {**options, **_double(options)}
        expected, wanted = loss_and_gradients(fasttriplet, name, rows.double(), labels, **wide)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        for gradient, exact in zip(gradients, wanted, strict=True):
            assert exact.isfinite().all()
            limit = torch.finfo(torch.float32).max
            atol = 1e-5 * exact.abs().amax(1, keepdim=True)  # the rows' lengths differ
            apart = (gradient.double().clamp(-limit, limit) - exact.clamp(-limit, limit)).abs()
            assert (apart <= atol.clamp_min(1e-5)).all()  # false of NaN


@pytest.mark.parametrize("name", ["batch_all", "weighted"])
def test_lengthening_rows_changes_no_bit(name):
    """Rows of a power of two of the length have a gradient of the same digits, across the limit of short rows."""
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) // 4
    expected, (wanted,) = loss_and_gradients(fasttriplet, name, rows, labels, distance="cosine")
    for exponent in (-60, -70, -100):
        loss, (gradient,) = loss_and_gradients(fasttriplet, name, rows * 2.0**exponent, labels, distance="cosine")
        assert torch.equal(loss, expected)
        assert torch.equal(gradient, wanted * 2.0**-exponent)


@pytest.mark.parametrize("name", NAMES)
def test_cosine_of_short_float64_rows(name):
    """Down to the smallest normal number a row has a direction; below it counts as zero, as the docstring says."""
    tiny = torch.finfo(torch.float64).smallest_normal
    rows = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(rows)
    labels = torch.arange(12) // 3
    for length, is_zero in ((4 * tiny, False), (0.3 * tiny, True), (5e-309, True)):
        short = torch.where((torch.arange(12) % 4 == 0)[:, None], length * unit, rows)
        as_if = torch.where((torch.arange(12) % 4 == 0)[:, None], 0.0 if is_zero else unit, rows)
        loss, (gradient,) = loss_and_gradients(fasttriplet, name, short, labels, distance="cosine")
        expected, (wanted,) = loss_and_gradients(reference, name, as_if, labels, distance="cosine")
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient[1:4], wanted[1:4], rtol=1e-9, atol=1e-9)
        assert not gradient.isnan().any() and (not gradient[::4].any() if is_zero else gradient[::4].any())


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_that_is_not_finite_misses_nobody(name):
    """on_missing="error" tells of labels; the loss of such a batch is NaN, with whatever arguments."""
    rows, labels = torch.tensor([[0.0], [torch.nan], [1.0]]), torch.tensor([0, 0, 1])
    for module in (fasttriplet, reference):
        function = getattr(module, f"{name}_triplet_loss")
        for arguments in ({}, dict(weights=torch.ones(3)), dict(groups=torch.zeros(3).long())):
            assert function(rows, labels, on_missing="error", **arguments).isnan()
        with pytest.raises(ValueError, match=r"miss|without"):
            function(rows.nan_to_num(5.0), labels, on_missing="error")
