"""Explicit triplets: derivatives, operator registration, torch.compile and the modes a training loop runs under."""

import copy
import itertools

import pytest
import torch

import fasttriplet
from fasttriplet import engines, triplet_margin_loss
from tests.inputs import DISTANCES, REDUCTIONS
from tests.triplets import Inputs, positive_weights, triplets

OPS = torch.ops.fasttriplet


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_first_and_second_derivatives(distance, swap, soft_margin, reduction):
    rows = triplets(Inputs("small", (4, 2)))
    options = dict(distance=distance, swap=swap, soft_margin=soft_margin, reduction=reduction)
    for more in ({}, dict(mining_margin=0.1, weights=positive_weights(4))):

        def loss(*leaves, more=more):
            return triplet_margin_loss(*leaves, **options, **more)

        assert torch.autograd.gradcheck(loss, rows)
        assert torch.autograd.gradgradcheck(loss, rows)


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=3))[1:])
@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_of_some_inputs_only(wanted, distance):
    rows = triplets()
    everything = torch.autograd.grad(triplet_margin_loss(*rows, distance=distance, swap=True), rows)
    some = [row.detach().requires_grad_(is_wanted) for row, is_wanted in zip(rows, wanted, strict=True)]
    triplet_margin_loss(*some, distance=distance, swap=True).backward()
    for row, gradient, is_wanted in zip(some, everything, wanted, strict=True):
        assert torch.equal(row.grad, gradient) if is_wanted else row.grad is None
    small = [row.detach()[:3, :3].requires_grad_(is_wanted) for row, is_wanted in zip(rows, wanted, strict=True)]
    assert torch.autograd.gradgradcheck(lambda *rows: triplet_margin_loss(*rows, distance=distance, swap=True), small)


def test_no_gradient_work_for_what_needs_none(monkeypatch):
    rows = triplets()
    rows[0].requires_grad_(False), rows[2].requires_grad_(False)
    operator, results = engines.operator("_triplet_margin_loss_backward", rows[0].device), []

    def recorded(*arguments):
        results.append(operator(*arguments))
        return results[-1]

    monkeypatch.setattr(getattr(OPS, operator._schema.name.split("::")[1]), "default", recorded)
    triplet_margin_loss(*rows).backward()
    assert [tuple(gradient.shape) for gradient in results[0]] == [(0,), (100, 37), (0,)]


def test_one_tensor_in_several_roles():
    x, y = triplets()[:2]
    loss = triplet_margin_loss(x, x, y)
    (gradient,) = torch.autograd.grad(loss, x)
    parts = [x.detach().requires_grad_(), x.detach().requires_grad_(), y]
    expected = torch.autograd.grad(triplet_margin_loss(*parts), parts[:2])
    torch.testing.assert_close(gradient, expected[0] + expected[1])


def test_second_derivative_at_distance_zero_is_finite():
    rows = [torch.ones(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    gradients = torch.autograd.grad(triplet_margin_loss(*rows, swap=True), rows, create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), rows)
    assert all(gradient.isfinite().all() for gradient in second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inputs", ["gauss-7x7", "empty", "no-columns", "equal-rows"])
@pytest.mark.filterwarnings("ignore:fasttriplet.*an autograd kernel was not registered")  # the Functions are above them
@pytest.mark.filterwarnings("ignore:.*is_leaf:UserWarning")
def test_opcheck(dtype, inputs):
    rows = [row.detach() for row in triplets(inputs, dtype)]
    weights = positive_weights(len(rows[0]))
    for number in range(len(REDUCTIONS)):  # each distance and reduction, with and without the rest
        some = number % 2 == 1
        options = (1.0, number, some, not some, 0.5 if some else None, number)
        arguments = (*rows, weights if some else None, *options)
        torch.library.opcheck(OPS.triplet_margin_loss.default, arguments)
        loss, values = OPS.triplet_margin_loss(*arguments)
        torch.library.opcheck(
            OPS._triplet_margin_loss_backward.default,
            (torch.ones_like(loss), *rows, values, number, some, True, some, not some),
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dtype, dynamic):
    torch.compiler.reset()

    def step(anchor, positive, negative, weights):
        return triplet_margin_loss(
            2 * anchor, positive, negative, swap=True, mining_margin=0.5, distance="cosine", weights=weights
        )

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic)
    for t in (12, 9) if dynamic else (12,):
        rows = [row.detach()[:t] for row in triplets(dtype=dtype)]
        eager, traced = ([row.clone().requires_grad_() for row in rows] for _ in range(2))
        expected, loss = step(*eager, positive_weights(t)), compiled(*traced, positive_weights(t))
        expected.backward(), loss.backward()
        torch.testing.assert_close(loss, expected)
        for left, right in zip(traced, eager, strict=True):
            torch.testing.assert_close(left.grad, right.grad)


def test_module_compiles_inside_a_model():
    torch.compiler.reset()
    model = torch.nn.Linear(37, 4)
    twin = copy.deepcopy(model)
    loss = fasttriplet.TripletMarginLoss(soft_margin=True)
    rows = [row.detach() for row in triplets(dtype=torch.float32)]

    def step(model):
        return loss(*(model(row) for row in rows))

    torch.compile(lambda: step(model), fullgraph=True)().backward()
    step(twin).backward()
    torch.testing.assert_close(model.weight.grad, twin.weight.grad)


def test_no_grad_inference_mode_autocast_and_meta():
    rows = triplets(dtype=torch.float32)
    expected = triplet_margin_loss(*rows)
    with torch.no_grad():
        loss = triplet_margin_loss(*rows)
        assert not loss.requires_grad and torch.equal(loss, expected)
    with torch.inference_mode():
        assert torch.equal(triplet_margin_loss(*(row.clone() for row in rows)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = [row.detach().bfloat16().requires_grad_() for row in rows]
        loss = triplet_margin_loss(*half)
    assert loss.dtype == torch.float32
    loss.backward()
    assert half[0].grad.dtype == torch.bfloat16 and half[0].grad.any()
    meta = [torch.empty(7, 3, device="meta", requires_grad=True) for _ in range(3)]
    loss = triplet_margin_loss(*meta, reduction="none", distance="cosine")
    assert loss.shape == (7,) and loss.device.type == "meta"
    loss.sum().backward()
    assert meta[2].grad.shape == (7, 3)
