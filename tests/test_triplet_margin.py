"""The loss of explicit triplets against its specification in float64, PyTorch's own and formulas in use elsewhere."""

import copy
import itertools
import pickle

import pytest
import torch
from torch.nn import functional

import fasttriplet
from fasttriplet import triplet_margin_loss
from fasttriplet.reference import triplet_margin as specification
from tests.inputs import DISTANCES, DTYPES, REDUCTIONS
from tests.triplets import (
    BY_NAME,
    INPUT_IDS,
    INPUTS,
    assert_as_specified,
    out_of_range,
    positive_weights,
    triplets,
    with_gradients,
)


@pytest.mark.parametrize("inputs", INPUTS, ids=INPUT_IDS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("soft_margin", [False, True])
def test_every_input_is_as_specified(inputs, distance, swap, soft_margin):
    if distance == "cosine" and swap and inputs.tied_cosines:
        inputs = BY_NAME["gauss-33x17"]  # rounding would decide which distance is the smaller
    rows = triplets(inputs)
    options = dict(distance=distance, swap=swap, soft_margin=soft_margin)
    for reduction in REDUCTIONS:
        assert_as_specified(rows, reduction=reduction, **options)
    assert_as_specified(rows, reduction="mean", weights=positive_weights(inputs.shape[0]), **options)


@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("inputs", INPUTS, ids=INPUT_IDS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_every_dtype_is_as_specified(dtype, inputs, distance):
    if out_of_range(inputs, dtype):
        inputs = BY_NAME["gauss-31x9"]
    swap = not (distance == "cosine" and inputs.tied_cosines)
    for reduction in REDUCTIONS:
        assert_as_specified(triplets(inputs, dtype), distance=distance, swap=swap, margin=0.4, reduction=reduction)
    assert_as_specified(triplets(inputs, dtype), distance=distance, swap=swap, soft_margin=True, reduction="none")


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_option_is_as_specified(distance, swap, soft_margin, weighted):
    rows = triplets()
    weights = positive_weights(100) if weighted else None
    margins = itertools.cycle((1.0, 0, -0.5))
    for reduction, mining_margin in itertools.product(REDUCTIONS, (0.0, 0.5, -0.7)):
        assert_as_specified(
            rows,
            margin=next(margins),
            distance=distance,
            swap=swap,
            soft_margin=soft_margin,
            mining_margin=mining_margin,
            reduction=reduction,
            weights=weights,
        )


# PyTorch's own


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("margin", [0.2, 1.0, 3.0])
def test_euclidean_is_pytorch_s_triplet_margin_loss_but_for_its_epsilon(swap, reduction, margin):
    rows = triplets()
    options = dict(swap=swap, reduction=reduction, margin=margin)
    ours = with_gradients(triplet_margin_loss, rows, **options)
    theirs = with_gradients(functional.triplet_margin_loss, rows, eps=0.0, **options)
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)
    default = functional.triplet_margin_loss(*rows, **options)
    torch.testing.assert_close(triplet_margin_loss(*rows, **options), default, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_other_distances_are_pytorch_s_triplet_margin_with_distance_loss(swap, reduction, distance):
    functions = {
        "euclidean": lambda x, y: (x - y).norm(dim=1),
        "squared_euclidean": lambda x, y: (x - y).square().sum(1),
        "cosine": lambda x, y: 1 - functional.cosine_similarity(x, y),
        "inner_product": lambda x, y: -(x * y).sum(1),
    }
    rows = triplets()

    def theirs(*leaves):
        function = functions[distance]
        return functional.triplet_margin_with_distance_loss(
            *leaves, distance_function=function, margin=1.0, swap=swap, reduction=reduction
        )

    ours = with_gradients(triplet_margin_loss, rows, distance=distance, swap=swap, reduction=reduction)
    for left, right in zip(ours, with_gradients(theirs, rows), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-11)


def test_soft_margin_is_pytorch_s_softplus_of_the_difference():
    rows = triplets()

    def theirs(anchor, positive, negative):
        return functional.softplus((anchor - positive).norm(dim=1) - (anchor - negative).norm(dim=1)).mean()

    ours = with_gradients(triplet_margin_loss, rows, soft_margin=True)
    for left, right in zip(ours, with_gradients(theirs, rows), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_the_modules_agree():
    rows = triplets(dtype=torch.float32)
    ours = fasttriplet.TripletMarginLoss(margin=0.7, swap=True)(*rows)
    torch.testing.assert_close(ours, torch.nn.TripletMarginLoss(margin=0.7, swap=True)(*rows), rtol=1e-5, atol=1e-5)


# The Keras examples: squared distances, max(ap - an + margin, 0); "hard mining" keeps ap > an - margin before the mean.


@pytest.mark.parametrize("margin", [0.5, 30.0])
def test_squared_euclidean_is_keras_siamese_example(margin):
    rows = triplets()

    def siamese(anchor, positive, negative):
        to_positive = (anchor - positive).square().sum(-1)
        to_negative = (anchor - negative).square().sum(-1)
        return torch.clamp_min(to_positive - to_negative + margin, 0.0).mean()

    for left, right in zip(
        with_gradients(triplet_margin_loss, rows, distance="squared_euclidean", margin=margin),
        with_gradients(siamese, rows),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("margin", [0.3, 1.0])
@pytest.mark.parametrize("mining_margin", [0.0, 0.4, -0.2])
def test_mining_margin_is_keras_hard_mining(margin, mining_margin):
    rows = triplets()

    def hard(anchor, positive, negative):
        to_positive, to_negative = (anchor - positive).norm(dim=1), (anchor - negative).norm(dim=1)
        kept = to_positive > to_negative - mining_margin
        assert 0 < kept.sum() < len(kept)
        return torch.clamp_min(to_positive[kept] - to_negative[kept] + margin, 0.0).mean()

    for left, right in zip(
        with_gradients(triplet_margin_loss, rows, margin=margin, mining_margin=mining_margin),
        with_gradients(hard, rows),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-13)


# Exact values


def test_equal_distances_are_not_kept_and_are_not_swapped():
    anchor = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    positive = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
    negative = torch.tensor([[6.0, 8.0], [3.0, 4.0]])
    # d_ap = 5, 10; d_an = 10, 5; d_pn = 5, 5
    loss = triplet_margin_loss(anchor, positive, negative, margin=1.0, mining_margin=5.0, reduction="none")
    assert loss.tolist() == [0.0, 6.0]  # 5 > 10 - 5 is false
    loss = triplet_margin_loss(anchor, positive, negative, margin=1.0, mining_margin=5.0)
    assert loss.item() == 6.0
    leaf = anchor.clone().requires_grad_()
    loss = triplet_margin_loss(leaf, positive, negative, margin=1.0, swap=True, reduction="none")
    assert loss.tolist() == [1.0, 6.0]
    loss.sum().backward()
    # The first goes through p and n alone; the second, d_an = d_pn, through a: -(0.6, 0.8) + (0.6, 0.8).
    torch.testing.assert_close(leaf.grad, torch.tensor([[-0.6, -0.8], [0.0, 0.0]]))


def test_integers_are_exact_in_every_dtype_and_distance():
    rows = [row.detach() for row in triplets("integers")]
    for dtype, distance in itertools.product(DTYPES, ("squared_euclidean", "inner_product")):
        options = dict(distance=distance, margin=2.0, swap=True, reduction="none")
        expected = specification.triplet_margin_loss(*rows, **options)
        assert torch.equal(triplet_margin_loss(*(row.to(dtype) for row in rows), **options).double(), expected)


def test_distances_come_from_differences():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 40, 64, generator=generator, dtype=torch.float64)
    rows = list((4096.0 + noise).float())
    loss = triplet_margin_loss(*rows, reduction="none", margin=0.1)
    wide = specification.triplet_margin_loss(*(row.double() for row in rows), reduction="none", margin=0.1)
    assert torch.equal(loss, wide.float())


def test_no_epsilon_and_no_gradient_at_distance_zero():
    x = torch.ones(4, 3, requires_grad=True)
    loss = triplet_margin_loss(x, x.detach(), x.detach(), margin=0.25, reduction="none")
    assert loss.tolist() == [0.25] * 4
    loss.sum().backward()
    assert not x.grad.any()


def test_soft_margin_of_huge_differences():
    anchor = torch.zeros(2, 1, requires_grad=True)
    far, near = torch.tensor([[1e20], [0.0]]), torch.tensor([[0.0], [1e20]])
    loss = triplet_margin_loss(anchor, far, near, soft_margin=True, reduction="none", margin=100.0)
    assert loss.tolist() == [torch.tensor(1e20).item(), 0.0]
    loss.sum().backward()
    assert anchor.grad.tolist() == [[-1.0], [0.0]]


# Reductions and weights


def test_an_empty_selection_is_zero_with_a_zero_gradient():
    rows = triplets()
    for reduction, options in itertools.product(
        REDUCTIONS, (dict(mining_margin=-1e9), dict(margin=-1e9), dict(weights=torch.zeros(100)))
    ):
        loss, *gradients = with_gradients(triplet_margin_loss, rows, reduction=reduction, **options)
        assert not loss.any() and not any(gradient.any() for gradient in gradients)
    for shape in ((0, 5), (0, 0)):
        loss, *gradients = with_gradients(triplet_margin_loss, [torch.zeros(shape)] * 3)
        assert loss.item() == 0 and all(gradient.shape == shape for gradient in gradients)


def test_weights_that_sum_to_zero_give_zero():
    weights = torch.tensor([1.0, -1.0]).repeat(50)
    loss, *gradients = with_gradients(triplet_margin_loss, triplets(), weights=weights)
    assert loss.item() == 0 and not any(gradient.any() for gradient in gradients)


def test_the_divisors():
    anchor = torch.zeros(4, 1)
    positive = torch.tensor([[1.0], [2.0], [3.0], [1.0]])
    negative = torch.tensor([[9.0], [1.0], [1.0], [1.5]])
    weights = torch.tensor([1.0, 2.0, 4.0, 8.0])
    losses = triplet_margin_loss(anchor, positive, negative, reduction="none", weights=weights)
    assert losses.tolist() == [0.0, 4.0, 12.0, 4.0]  # 0, 2, 3, 0.5

    def value(**options):
        return triplet_margin_loss(anchor, positive, negative, **options).item()

    assert value(reduction="sum", weights=weights) == 20
    assert value(weights=weights) == pytest.approx(20 / 15)
    assert value(reduction="mean_nonzero", weights=weights) == pytest.approx(20 / 14)
    assert value(reduction="mean_nonzero") == pytest.approx(5.5 / 3)
    assert value(weights=weights, mining_margin=0.0) == pytest.approx(16 / 6)
    assert value(mining_margin=0.0) == 2.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_any_floating_dtype_and_stride(dtype):
    rows = triplets(dtype=torch.float32)
    weights = (positive_weights(100) * 8).round() / 8  # exact in every dtype
    expected = triplet_margin_loss(*rows, weights=weights)
    spread = torch.zeros(100, 3, dtype=dtype)
    spread[:, 1] = weights
    assert torch.equal(triplet_margin_loss(*rows, weights=spread[:, 1]), expected)
    ones = torch.ones(1, dtype=dtype).expand(100)
    assert torch.equal(triplet_margin_loss(*rows, weights=ones), triplet_margin_loss(*rows))


# What is not finite


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("role", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_an_entry_that_is_not_finite_poisons_its_triplet_alone(distance, role, value, dtype):
    clean = [row.detach() for row in triplets("gauss-33x17", dtype)]
    dirty = [row.clone() for row in clean]
    dirty[role][5, 3] = value
    others = torch.arange(33) != 5
    for swap, soft_margin, mining_margin in ((False, False, None), (True, False, 0.1), (True, True, -1e9)):
        options = dict(distance=distance, swap=swap, soft_margin=soft_margin, mining_margin=mining_margin)
        expected = with_gradients(triplet_margin_loss, clean, reduction="none", **options)
        found = with_gradients(triplet_margin_loss, dirty, reduction="none", **options)
        for left, right in zip(found, expected, strict=True):
            assert left[5].isnan().all() and torch.equal(left[others], right[others])
        assert_as_specified(dirty, reduction="none", **options)
        for reduction in ("sum", "mean", "mean_nonzero"):
            loss, *gradients = with_gradients(triplet_margin_loss, dirty, reduction=reduction, **options)
            assert loss.isnan()
            for gradient in gradients:
                assert gradient[5].isnan().all() and not gradient[others].isnan().any()


def test_an_infinite_entry_beside_a_zero_row():
    """The cosine of a zero row is 0 whatever the other row, so that the distance alone would hide it."""
    rows = [torch.zeros(1, 3), torch.tensor([[1.0, float("inf"), 0.0]]), torch.ones(1, 3)]
    loss, *gradients = with_gradients(triplet_margin_loss, rows, distance="cosine")
    assert loss.isnan() and all(gradient.isnan().all() for gradient in gradients)
    assert_as_specified(rows, distance="cosine")


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("swap", [False, True])
def test_distances_beyond_float64(distance, swap):
    rows = [row.detach() * 1e200 for row in triplets("gauss-7x7")]
    assert_as_specified(rows, distance=distance, swap=swap, reduction="none")
    loss = triplet_margin_loss(*rows, distance=distance, swap=swap, reduction="none")
    assert loss.isnan().all() or distance == "cosine"


def test_weights_that_are_not_finite():
    weights = torch.ones(33)
    weights[4] = float("nan")
    loss, *gradients = with_gradients(
        triplet_margin_loss, triplets("gauss-33x17"), weights=weights, reduction="none", margin=50.0
    )
    assert loss.isnan().nonzero().flatten().tolist() == [4]
    assert all(gradient.isnan().all(1).nonzero().flatten().tolist() == [4] for gradient in gradients)


# The module


def test_the_module_is_the_function():
    rows = triplets()
    options = dict(margin=0.7, distance="cosine", swap=True, soft_margin=True, mining_margin=0.5, reduction="sum")
    module = fasttriplet.TripletMarginLoss(**options)
    expected = triplet_margin_loss(*rows, weights=positive_weights(100), **options)
    for twin in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(*rows, weights=positive_weights(100)), expected)
        assert repr(twin) == (
            "TripletMarginLoss(margin=0.7, distance='cosine', swap=True, soft_margin=True, mining_margin=0.5, "
            "reduction='sum')"
        )
    assert torch.equal(fasttriplet.TripletMarginLoss()(*rows), triplet_margin_loss(*rows))
    assert not module.state_dict()
