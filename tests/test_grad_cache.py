"""grad_cache in one process: the gradient of one large batch, chunk by chunk."""

import pytest
import torch
from torch import nn

import fasttriplet
from fasttriplet import grad_cache

N = 30


class Net(nn.Module):
    """Takes its input in one of several forms; counts how many rows it is called with."""

    def __init__(self, form="tensor", dropout=0.0, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 5)).to(dtype)
        self.form, self.calls = form, []

    def forward(self, *tensors, **named):
        if self.form == "tuple":
            x = tensors[0] + tensors[1]
        elif self.form == "dict":
            x = named["x"] + named["more"]["y"]
            assert named["flag"] == "as it is"
        else:
            (x,) = tensors
        self.calls.append((len(x), torch.is_grad_enabled()))
        return self.layers(x)


class InADict(nn.Module):
    def forward(self, x):
        return {"rows": x}


def inputs(form="tensor", dtype=torch.float64, n=N):
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)
    if form == "tuple":
        return (x, torch.ones_like(x))
    if form == "dict":
        return {"x": x, "more": {"y": torch.ones_like(x)}, "flag": "as it is"}
    return x


def called(model, given):
    return model(**given) if isinstance(given, dict) else model(*given) if isinstance(given, tuple) else model(given)


def labels(n=N):
    return torch.arange(n) % 7


def gradients(model):
    return [parameter.grad for parameter in model.parameters()]


def assert_gradients(model, expected, unit=1e-12):
    """Of the largest entry of all: a bias added to every embedding has a gradient of zero but for rounding."""
    largest = max(float(wanted.abs().max()) for wanted in gradients(expected))
    for value, wanted in zip(gradients(model), gradients(expected), strict=True):
        torch.testing.assert_close(value, wanted, rtol=unit, atol=unit * largest)


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict"])
@pytest.mark.parametrize("chunk_size", [1, 7, 10, N, 100])
@pytest.mark.parametrize("name", ["BatchHardTripletLoss", "SemiHardTripletLoss", "WeightedTripletLoss"])
def test_the_gradient_is_that_of_one_large_batch(form, chunk_size, name):
    loss_function = getattr(fasttriplet, name)(margin=1.0)
    model, whole = Net(form), Net(form)
    loss = grad_cache(model, loss_function, inputs(form), labels(), chunk_size=chunk_size)
    expected = loss_function(called(whole, inputs(form)), labels())
    torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    assert loss.dim() == 0 and not any(with_graph for _, with_graph in model.calls)
    (3 * loss).backward()
    (3 * expected).backward()
    assert_gradients(model, whole)
    chunks = -(-N // chunk_size)
    assert len(model.calls) == 2 * chunks and sum(with_graph for _, with_graph in model.calls) == chunks
    assert max(rows for rows, _ in model.calls) <= chunk_size


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_stated_tolerance(dtype):
    model, whole = Net(dtype=dtype), Net(dtype=dtype)
    x = inputs(dtype=dtype, n=500)
    grad_cache(model, fasttriplet.batch_hard_triplet_loss, x, labels(500), chunk_size=7).backward()
    fasttriplet.batch_hard_triplet_loss(whole(x), labels(500)).backward()
    assert_gradients(model, whole, 1e-5 if dtype == torch.float32 else 1e-12)


def test_dropout_is_the_same_in_both_runs():
    model = Net(dropout=0.5)
    seen = []
    model.layers[2].register_forward_hook(lambda module, given, output: seen.append(output.detach() == 0))
    loss = grad_cache(model, fasttriplet.batch_hard_triplet_loss, inputs(), labels(), chunk_size=8)
    torch.rand(5)  # somebody draws between the runs
    before = torch.get_rng_state()
    loss.backward()
    assert torch.equal(torch.get_rng_state(), before)  # and is not disturbed by the second
    first, second = seen[:4], seen[4:]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])


def test_running_statistics_are_updated_once_a_chunk():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).double()
    loss = grad_cache(model, fasttriplet.batch_hard_triplet_loss, inputs(), labels(), chunk_size=10)
    assert model[1].num_batches_tracked == 0
    loss.backward()
    assert model[1].num_batches_tracked == 3


def test_the_loss_and_its_arguments_get_their_gradient():
    class WithProxies(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, rows, y, weights):
            return fasttriplet.batch_hard_triplet_loss(self.scale * rows, y, weights=weights, margin=1.0)

    results = []
    for cached in (True, False):
        model, loss_function = Net(), WithProxies()
        weights = torch.linspace(1, 2, N, dtype=torch.float64, requires_grad=True)
        squared = weights**2  # with a graph of its own
        if cached:
            grad_cache(model, loss_function, inputs(), labels(), squared, chunk_size=9).backward()
        else:
            loss_function(model(inputs()), labels(), squared).backward()
        results.append([weights.grad, loss_function.scale.grad, *gradients(model)])
    for value, wanted in zip(*results, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-14)


def test_it_goes_with_grad_scaler_and_autocast():
    model, whole = Net(dtype=torch.float32), Net(dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    x = inputs(dtype=torch.float32)
    dtypes = []
    model.layers.register_forward_hook(lambda module, given, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss = grad_cache(model, fasttriplet.batch_hard_triplet_loss, x, labels(), chunk_size=11)
        expected = fasttriplet.batch_hard_triplet_loss(whole(x), labels())
    scaler.scale(loss).backward()
    scaler.scale(expected).backward()
    assert set(dtypes) == {torch.bfloat16}
    assert_gradients(model, whole, 3e-2)


def test_without_a_gradient_the_model_runs_once():
    model = Net()
    with torch.no_grad():
        loss = grad_cache(model, fasttriplet.batch_hard_triplet_loss, inputs(), labels(), chunk_size=10)
    assert not loss.requires_grad and len(model.calls) == 3


def test_it_is_added_to_other_losses_and_gone_back_through_once():
    model = Net()
    loss = grad_cache(model, fasttriplet.batch_hard_triplet_loss, inputs(), labels(), chunk_size=10)
    total = loss + model.layers[0].weight.square().sum()
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        total.backward()


def test_what_is_wrong_is_named():
    model, loss = Net(), fasttriplet.batch_hard_triplet_loss
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        grad_cache(model, loss, inputs(), labels(), chunk_size=0)
    with pytest.raises(TypeError, match="inputs must be a tensor, or a tuple, list or dict of them; got str"):
        grad_cache(model, loss, "rows", labels(), chunk_size=4)
    with pytest.raises(ValueError, match=r"of one N; got \[30, 6\], \[3\]"):
        grad_cache(Net("tuple"), loss, (inputs(), torch.zeros(3)), labels(), chunk_size=4)
    with pytest.raises(ValueError, match="loss must return a scalar"):
        grad_cache(model, fasttriplet.BatchHardTripletLoss(reduction="none"), inputs(), labels(), chunk_size=4)
    with pytest.raises(TypeError, match="loss must return a tensor; got tuple"):
        grad_cache(model, fasttriplet.BatchHardTripletLoss(return_stats=True), inputs(), labels(), chunk_size=4)
    with pytest.raises(TypeError, match="model must return a tensor of embeddings"):
        grad_cache(InADict(), loss, inputs(), labels(), chunk_size=4)


def test_no_rows():
    model = Net()
    grad_cache(model, fasttriplet.batch_hard_triplet_loss, inputs(n=0), labels(0), chunk_size=4).backward()
    assert all(gradient is not None and not gradient.any() for gradient in gradients(model))


def test_a_frozen_model_leaves_the_losses_own_parameters_their_gradient():
    model = Net().requires_grad_(False)
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def loss(rows, y):
        return fasttriplet.batch_hard_triplet_loss(scale * rows, y, margin=1.0)

    grad_cache(model, loss, inputs(), labels(), chunk_size=7).backward()
    (expected,) = torch.autograd.grad(loss(model(inputs()), labels()), scale)
    torch.testing.assert_close(scale.grad, expected, rtol=1e-12, atol=0)
    assert all(gradient is None for gradient in gradients(model))
