"""Explicit triplets: every argument with a wrong type, shape, device, dtype or value."""

import pytest
import torch

import fasttriplet
from fasttriplet import engines, triplet_margin_loss

OPS = torch.ops.fasttriplet


ROWS = torch.zeros(8, 4)
OPTIONS = [
    ("distance", "manhattan", ValueError, r"distance must be one of euclidean, .*, inner_product; got 'manhattan'"),
    ("distance", 2, TypeError, r"distance must be a str, one of euclidean, .*; got int"),
    ("margin", "0.3", TypeError, r"margin must be a real number; got str"),
    ("margin", True, TypeError, r"margin must be a real number; got bool"),
    ("margin", float("nan"), ValueError, r"margin must be finite; got nan"),
    ("margin", 10**400, ValueError, r"margin must be finite as a float; got 1000"),
    ("swap", 1, TypeError, r"swap must be a bool; got int"),
    ("soft_margin", 0.3, TypeError, r"soft_margin must be a bool; got float"),
    ("mining_margin", "hard", TypeError, r"mining_margin must be a real number; got str"),
    ("mining_margin", True, TypeError, r"mining_margin must be a real number; got bool"),
    ("mining_margin", float("inf"), ValueError, r"mining_margin must be finite; got inf"),
    ("mining_margin", 10**400, ValueError, r"mining_margin must be finite as a float; got 1000"),
    ("reduction", "average", ValueError, r"reduction must be one of none, sum, mean, mean_nonzero; got 'average'"),
    ("reduction", None, TypeError, r"reduction must be a str, .*; got NoneType"),
]
WEIGHTS = [
    ([1.0] * 8, TypeError, r"weights must be a torch\.Tensor; got list"),
    (torch.ones(8).to_sparse(), ValueError, r"weights must be a dense tensor .*; got torch\.sparse_coo"),
    (torch.ones(8, dtype=torch.int64), ValueError, r"weights must have dtype float64, .*; got torch.int64"),
    (torch.ones(7), ValueError, r"weights must have shape \[8\] to match anchor \[8, 4\]; got \[7\]"),
    (torch.ones(8, 1), ValueError, r"weights must have shape \[8\] to match anchor \[8, 4\]; got \[8, 1\]"),
    (torch.ones(()), ValueError, r"weights must have shape \[8\] to match anchor \[8, 4\]; got \[\]"),
    (
        torch.ones(8, requires_grad=True),
        ValueError,
        r"weights must not require grad, .*\.detach\(\).*; got weights that",
    ),
    (torch.ones(8, device="meta"), ValueError, r"weights must be on the device of anchor, cpu; got weights on meta"),
]


@pytest.mark.parametrize(("name", "value", "error", "match"), OPTIONS)
def test_wrong_options(name, value, error, match):
    with pytest.raises(error, match=match):
        triplet_margin_loss(ROWS, ROWS, ROWS, **{name: value})
    with pytest.raises(error, match=match):
        fasttriplet.TripletMarginLoss(**{name: value})


@pytest.mark.parametrize(("value", "error", "match"), WEIGHTS)
def test_wrong_weights(value, error, match):
    with pytest.raises(error, match=match):
        triplet_margin_loss(ROWS, ROWS, ROWS, weights=value)


@pytest.mark.parametrize("name", ["anchor", "positive", "negative"])
def test_wrong_tensors(name):
    def refused(value, error, match):
        arguments = dict(anchor=ROWS, positive=ROWS, negative=ROWS) | {name: value}
        with pytest.raises(error, match=match):
            triplet_margin_loss(**arguments)

    refused([[0.0]], TypeError, rf"{name} must be a torch\.Tensor; got list")
    refused(None, TypeError, rf"{name} must be a torch\.Tensor; got NoneType")
    refused(ROWS.to_sparse(), ValueError, rf"{name} must be a dense tensor .*; got torch\.sparse_coo")
    quantized = torch.quantize_per_tensor(ROWS, 1.0, 0, torch.qint8)
    refused(quantized, ValueError, rf"{name} must be a dense tensor .*; got a quantized tensor")
    refused(ROWS.to("meta"), ValueError, rf"must be on one device; got .*{name} on meta")
    refused(ROWS.double(), ValueError, rf"must have one dtype; got .*{name} torch.float64")
    refused(ROWS.half(), ValueError, rf"must have one dtype; got .*{name} torch.float16")


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        (
            [(8, 4), (8, 4), (7, 4)],
            r"must have one shape \[T, D\]; got anchor \[8, 4\], positive \[8, 4\], negative \[7, 4\]: the number of "
            r"triplets T differs$",
        ),
        ([(8, 4), (1, 4), (8, 4)], r"positive \[1, 4\], negative \[8, 4\]: the number of triplets T differs$"),
        ([(8, 5), (8, 4), (8, 4)], r"got anchor \[8, 5\], .*: the number of features D differs$"),
        ([(8, 4), (7, 4), (8, 3)], r"the number of triplets T differs, and the number of features D differs$"),
        (
            [(8, 7, 7, 3)] * 3,
            r"must have shape \[T, D\], one row a triplet; got anchor \[8, 7, 7, 3\], positive \[8, 7, 7, 3\], "
            r"negative \[8, 7, 7, 3\]: pool or flatten each first, e\.g\. x\.flatten\(1\), x\.mean\(\(1, 2\)\) of "
            r"feature maps \[T, H, W, C\] or x\.mean\(\(2, 3\)\) of \[T, C, H, W\]$",
        ),
        (
            [(8, 5, 3)] * 3,
            r"pool or flatten each first, e\.g\. x\.flatten\(1\) or x\.mean\(1\) of sequences \[T, L, D\]$",
        ),
        ([(2, 8, 5, 4, 3)] * 3, r"pool or flatten each first, e\.g\. x\.flatten\(1\)$"),
        ([(8, 4), (8, 4), (8, 4, 1)], r"got anchor \[8, 4\], positive \[8, 4\], negative \[8, 4, 1\]: pool or flatten"),
        (
            [(4,)] * 3,
            r"got anchor \[4\], .*: make one row of it with x\[None\], or rows of numbers with x\[:, None",
        ),
        ([()] * 3, r"got anchor \[\], positive \[\], negative \[\]: a number is no row of features$"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_wrong_shapes(shapes, match, dtype):
    with pytest.raises(ValueError, match=match):
        triplet_margin_loss(*(torch.zeros(shape, dtype=dtype) for shape in shapes))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_wrong_dtypes(dtype):
    with pytest.raises(
        ValueError, match=r"must have dtype float64, float32, float16 or bfloat16; got torch.(int64|complex64|bool)"
    ):
        triplet_margin_loss(*[ROWS.to(dtype)] * 3)


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_every_device_is_taken(monkeypatch, device):
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(engines, "fallback", "silent")
    with FakeTensorMode():
        rows = torch.empty(4, 2, device=device)
        loss = triplet_margin_loss(rows, rows, rows, weights=torch.empty(4, device=device), reduction="none")
        assert loss.device.type == device and loss.shape == (4,)


def test_options_are_keywords_only():
    with pytest.raises(TypeError, match="positional"):
        triplet_margin_loss(ROWS, ROWS, ROWS, 0.3)
    with pytest.raises(TypeError, match="positional"):
        fasttriplet.TripletMarginLoss(0.3)


def test_the_operators_refuse_codes_and_what_forward_did_not_make():
    with pytest.raises(ValueError, match=r"distance must be a code from 0 to 3; got 4"):
        OPS.triplet_margin_loss(ROWS, ROWS, ROWS, None, 1.0, 4, False, False, None, 2)
    with pytest.raises(ValueError, match=r"reduction must be a code from 0 to 3; got -1"):
        OPS.triplet_margin_loss(ROWS, ROWS, ROWS, None, 1.0, 0, False, False, None, -1)
    loss, values = OPS.triplet_margin_loss(ROWS, ROWS, ROWS, None, 1.0, 0, True, False, None, 2)
    assert values.shape == (4, 8)
    backward = OPS._triplet_margin_loss_backward
    for swap, distance, rows in ((False, 0, 3), (True, 2, 7), (False, 2, 6)):
        match = rf"values must be what triplet_margin_loss .*torch.float64 \[{rows}, 8\]; got .* \[4, 8\]"
        with pytest.raises(ValueError, match=match):
            backward(loss, ROWS, ROWS, ROWS, values, distance, swap, True, True, True)
    with pytest.raises(
        ValueError, match=r"grad_loss must have the dtype of anchor, torch.float32, and shape \[\] or \[8\]"
    ):
        backward(loss.double(), ROWS, ROWS, ROWS, values, 0, True, True, True, True)
    with pytest.raises(ValueError, match=r"the number of triplets T differs"):
        backward(loss, ROWS, ROWS[:7], ROWS, values, 0, True, True, True, True)
