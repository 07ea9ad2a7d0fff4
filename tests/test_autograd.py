"""Derivatives, operator registration, torch.compile and the modes a training loop runs under."""

import copy

import pytest
import torch

import fasttriplet
from tests.engine import ENGINE, host_only
from tests.inputs import CASES, DISTANCES, REDUCTIONS, batch

OPS = torch.ops.fasttriplet
# Even sizes, labelled in pairs below: opcheck compares outputs without equal_nan, so every anchor must be complete.
SMALL = [case for case in CASES if case.name in ("gauss-8x16", "edge-12", "edge-24", "empty", "duplicates", "all-zero")]


def leaf(n=12, d=5, dtype=torch.float64, seed=0):
    return torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(seed), requires_grad=True)


LABELS = torch.arange(12) // 3


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("on_missing", ["skip", "zero"])
def test_first_and_second_derivatives(distance, soft_margin, reduction, on_missing):
    labels = LABELS.clone()
    labels[5] = 7  # alone: has no positive
    options = dict(distance=distance, soft_margin=soft_margin, reduction=reduction, on_missing=on_missing)
    embeddings = leaf()

    def loss(x):
        return fasttriplet.batch_hard_triplet_loss(x, labels, **options)

    assert torch.autograd.gradcheck(loss, (embeddings,))
    assert torch.autograd.gradgradcheck(loss, (embeddings,))


def test_second_derivative_at_distance_zero_is_finite():
    embeddings = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    loss = fasttriplet.batch_hard_triplet_loss(embeddings, torch.arange(6) // 2)
    (gradient,) = torch.autograd.grad(loss, embeddings, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), embeddings)
    assert second.isfinite().all()


def test_second_derivative_of_cosine_beside_a_zero_row():
    rows = leaf(6, 3).detach().clone()
    rows[0] = 0
    labels, weights = torch.arange(6) // 2, torch.arange(18.0, dtype=torch.float64).view(6, 3)

    def gradient(x, graph):
        loss = fasttriplet.batch_hard_triplet_loss(x, labels, distance="cosine", margin=2.0)
        return torch.autograd.grad(loss, x, create_graph=graph)[0]

    x = rows.clone().requires_grad_()
    (second,) = torch.autograd.grad((gradient(x, True) * weights).sum(), x)
    assert not second[0].any()
    step = 1e-6
    for i, k in ((1, 0), (2, 1), (3, 2), (5, 0)):
        sides = []
        for sign in (1, -1):
            moved = rows.clone()
            moved[i, k] += sign * step
            sides.append((gradient(moved.requires_grad_(), False) * weights).sum())
        assert second[i, k].item() == pytest.approx(((sides[0] - sides[1]) / (2 * step)).item(), rel=1e-5, abs=1e-7)


@host_only
@pytest.mark.parametrize("case", SMALL, ids=[case.name for case in SMALL])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:fasttriplet.*an autograd kernel was not registered")  # the Functions are above them
@pytest.mark.filterwarnings("ignore:.*is_leaf:UserWarning")
def test_opcheck(case, dtype):
    embeddings, _ = batch(case, dtype)
    labels = torch.arange(len(embeddings)) // 2
    for distance in range(len(DISTANCES)):
        torch.library.opcheck(OPS.mine_batch_hard.default, (embeddings, labels, distance))
    for number in range(len(REDUCTIONS)):  # each distance, reduction and on_missing, with and without soft margin
        arguments = (embeddings, labels, 0.3, number, number % 2 == 1, number, number % 3)
        torch.library.opcheck(OPS.batch_hard_loss.default, arguments)
        loss, *saved = OPS.batch_hard_loss(*arguments)
        torch.library.opcheck(
            OPS._batch_hard_loss_backward.default, (torch.ones_like(loss), embeddings, *saved, number)
        )


@host_only
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dtype, dynamic):
    torch.compiler.reset()

    def step(x, labels):
        return fasttriplet.batch_hard_triplet_loss(2 * x, labels, soft_margin=True) + x.sum()

    compiled = torch.compile(step, fullgraph=True, dynamic=dynamic)
    for n in (12, 9) if dynamic else (12,):
        eager, traced = leaf(n, dtype=torch.float64).to(dtype).detach(), leaf(n).to(dtype).detach()
        eager.requires_grad_(), traced.requires_grad_()
        expected, loss = step(eager, LABELS[:n]), compiled(traced, LABELS[:n])
        expected.backward(), loss.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(traced.grad, eager.grad)
    mined = torch.compile(fasttriplet.mine_batch_hard, fullgraph=True)(leaf(), LABELS)
    assert torch.equal(mined.negatives, fasttriplet.mine_batch_hard(leaf(), LABELS).negatives)


@host_only
def test_module_compiles_inside_a_model():
    torch.compiler.reset()
    model = torch.nn.Linear(5, 4)
    twin = copy.deepcopy(model)
    loss = fasttriplet.BatchHardTripletLoss(distance="cosine")
    x = leaf(dtype=torch.float32).detach()
    torch.compile(lambda x: loss(model(x), LABELS), fullgraph=True)(x).backward()
    loss(twin(x), LABELS).backward()
    torch.testing.assert_close(model.weight.grad, twin.weight.grad)


def test_no_grad_and_inference_mode():
    embeddings = leaf()
    expected = fasttriplet.batch_hard_triplet_loss(embeddings, LABELS)
    assert expected.requires_grad
    with torch.no_grad():
        loss = fasttriplet.batch_hard_triplet_loss(embeddings, LABELS)
        assert not loss.requires_grad and torch.equal(loss, expected)
    with torch.inference_mode():
        loss = fasttriplet.batch_hard_triplet_loss(embeddings.clone(), LABELS)
        assert loss.is_inference() and torch.equal(loss, expected)
        assert fasttriplet.mine_batch_hard(embeddings, LABELS).positives.is_inference()


@host_only
def test_autocast_computes_and_returns_float32():
    embeddings = leaf(dtype=torch.float32)
    weight = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = torch.nn.functional.linear(embeddings, weight)
        loss = fasttriplet.batch_hard_triplet_loss(half, LABELS)
    assert half.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert torch.equal(loss, fasttriplet.batch_hard_triplet_loss(half.float(), LABELS))
    loss.backward()
    assert embeddings.grad.dtype == torch.float32 and embeddings.grad.any()


def test_grad_scaler_skips_the_step_of_a_batch_that_overflowed():
    weight = torch.nn.Parameter(torch.ones(5, 5))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    bad = leaf(dtype=torch.float32).detach().clone()
    bad[3, 1] = float("inf")
    scaler.scale(fasttriplet.batch_hard_triplet_loss(bad @ weight, LABELS)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight.detach(), torch.ones(5, 5)) and scaler.get_scale() == 4.0


def test_mining_has_no_graph():
    mined = fasttriplet.mine_batch_hard(leaf(), LABELS)
    assert not mined.positive_distances.requires_grad and not mined.negative_distances.requires_grad


@host_only
def test_deepcopy_and_pickle_of_the_module():
    import pickle

    loss = fasttriplet.BatchHardTripletLoss(margin=0.7, reduction="sum")
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert repr(twin) == repr(loss)
        assert torch.equal(twin(leaf(), LABELS), loss(leaf(), LABELS))


@host_only
def test_meta_tensors_give_shapes():
    embeddings, labels = torch.empty(7, 3, device="meta", requires_grad=True), torch.empty(7, device="meta").long()
    loss = fasttriplet.batch_hard_triplet_loss(embeddings, labels, reduction="none")
    assert loss.shape == (7,) and loss.device.type == "meta"
    loss.sum().backward()
    assert embeddings.grad.shape == (7, 3)


def test_the_backward_operator_does_not_follow_pairs_beyond_the_batch():
    """On the CPU an error; a GPU cannot report one without waiting, there the gradient is NaN."""
    embeddings = leaf(dtype=torch.float32).detach()
    loss, values, pairs = OPS.batch_hard_loss(embeddings, LABELS, 0.3, 0, False, 2, 0)
    for row in (0, 1):
        wrong = pairs.clone()
        wrong[row, 5] = 12
        if ENGINE not in ("cpu", "portable"):
            assert OPS._batch_hard_loss_backward(loss, embeddings, values, wrong, 0).isnan().all()
            continue
        with pytest.raises(
            ValueError, match=rf"pairs must hold -1 or an index below 12; got 12 in row {row} at index 5"
        ):
            OPS._batch_hard_loss_backward(loss, embeddings, values, wrong, 0)


@pytest.mark.skipif(ENGINE == "shim", reason="the checks of tensors are not under the shim")
def test_the_backward_operator_refuses_what_forward_did_not_make():
    embeddings = leaf(dtype=torch.float32).detach()
    loss, values, pairs = OPS.batch_hard_loss(embeddings, LABELS, 0.3, 0, False, 2, 0)
    backward = OPS._batch_hard_loss_backward
    with pytest.raises(
        ValueError, match=r"values must be what batch_hard_loss returned .* got torch.float32 \[3, 12\]"
    ):
        backward(loss, embeddings, values.float(), pairs, 0)
    with pytest.raises(ValueError, match=r"values must be .* got torch.float64 \[12\]"):
        backward(loss, embeddings, values[0], pairs, 0)
    with pytest.raises(ValueError, match=r"pairs must be .* got torch.int64 \[1, 12\]"):
        backward(loss, embeddings, values, pairs[:1], 0)
    with pytest.raises(ValueError, match=r"grad_loss must have .* shape \[\] or \[12\]; got torch.float32 \[3\]"):
        backward(torch.ones(3), embeddings, values, pairs, 0)
    with pytest.raises(ValueError, match=r"distance must be a code from 0 to 3; got 4"):
        backward(loss, embeddings, values, pairs, 4)
