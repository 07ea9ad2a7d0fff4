"""Every argument of every public function with a wrong type, shape, device, dtype or value.

The error names the argument, says what it must be and what came.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fasttriplet
from fasttriplet import _library, engines

EMBEDDINGS = torch.zeros(8, 4)
LABELS = torch.arange(8) // 2

TENSOR_ERRORS = [
    ("embeddings", [[0.0]], TypeError, r"embeddings must be a torch\.Tensor; got list"),
    ("embeddings", None, TypeError, r"embeddings must be a torch\.Tensor; got NoneType"),
    (
        "embeddings",
        torch.zeros(8, 4, dtype=torch.int64),
        ValueError,
        r"embeddings must have dtype float64, .*; got torch.int64",
    ),
    (
        "embeddings",
        torch.zeros(8, 4, dtype=torch.complex64),
        ValueError,
        r"embeddings must have dtype .*; got torch.complex64",
    ),
    ("embeddings", torch.zeros(8), ValueError, r"embeddings must have shape \[N, D\]; got \[8\]: .* x\[None\]"),
    ("embeddings", torch.zeros(2, 8, 4), ValueError, r"embeddings must have .*; got \[2, 8, 4\]: .* x\.mean\(1\) of"),
    (
        "embeddings",
        torch.zeros(8, 4, 2, 2),
        ValueError,
        r"got \[8, 4, 2, 2\]: pool or flatten .* x\.flatten\(1\), .* x\.mean\(\(2, 3\)\) of \[N, C, H, W\]",
    ),
    ("embeddings", torch.zeros(()), ValueError, r"embeddings must have shape \[N, D\]; got \[\]"),
    (
        "embeddings",
        torch.zeros(8, 4, device="meta"),
        ValueError,
        r"labels must be on the device of embeddings, meta; got",
    ),
    ("embeddings", torch.empty(1, 0).expand(8, 0).new_empty(8, 2**22 + 1), ValueError, r"at most 2\^22 columns; got"),
    (
        "embeddings",
        torch.zeros(8, 4).to_sparse(),
        ValueError,
        r"embeddings must be a dense tensor .*; got torch\.sparse_coo",
    ),
    ("embeddings", torch.zeros(8, 4).to_sparse_csr(), ValueError, r"embeddings must be a dense tensor .*sparse_csr"),
    (
        "embeddings",
        torch.quantize_per_tensor(torch.zeros(8, 4), 1.0, 0, torch.qint8),
        ValueError,
        r"embeddings must be a dense tensor .*; got a quantized tensor",
    ),
    ("labels", LABELS.to_sparse(), ValueError, r"labels must be a dense tensor .*; got torch\.sparse_coo"),
    ("labels", [0] * 8, TypeError, r"labels must be a torch\.Tensor; got list"),
    ("labels", LABELS.float(), ValueError, r"got torch.float32 \[8\]: pass labels.long\(\) of whole numbers"),
    ("labels", LABELS[:7], ValueError, r"labels must be .* \[8\], .* to match embeddings \[8, 4\]; got .*int64 \[7\]"),
    ("labels", LABELS[:, None], ValueError, r"got torch.int64 \[8, 1\]: for classes pass labels.squeeze\(1\)"),
    ("labels", LABELS[:, None].double(), ValueError, r"got torch.float64 \[8, 1\]: .* labels.squeeze\(1\).long\(\)"),
    ("labels", LABELS[:, None].expand(8, 3), ValueError, r"\[8, 3\]: pass labels.bool\(\) where .* labels.argmax\(1\)"),
    ("labels", torch.rand(8, 3), ValueError, r"got torch.float32 \[8, 3\]: pass labels.bool\(\) where .*"),
    ("labels", LABELS[:, None, None], ValueError, r"labels must be integers or bool \[8\], .*; got .* \[8, 1, 1\]"),
    ("labels", torch.ones(7, 3, dtype=torch.bool), ValueError, r"labels must be .*; got torch.bool \[7, 3\]"),
    ("labels", torch.zeros(8, dtype=torch.int64, device="meta"), ValueError, r"labels must be on .* cpu; got .* meta"),
]
CHOICE_ERRORS = [
    ("distance", "manhattan", ValueError, r"distance must be one of euclidean, .*, inner_product; got 'manhattan'"),
    ("distance", 2, TypeError, r"distance must be a str, one of euclidean, .*; got int"),
]
OPTION_ERRORS = [
    *CHOICE_ERRORS,
    ("margin", "0.3", TypeError, r"margin must be a real number; got str"),
    ("margin", None, TypeError, r"margin must be a real number; got NoneType"),
    ("margin", True, TypeError, r"margin must be a real number; got bool"),
    ("margin", torch.tensor(0.3), TypeError, r"margin must be a real number; got Tensor"),
    ("margin", float("nan"), ValueError, r"margin must be finite; got nan"),
    ("margin", 10**400, ValueError, r"margin must be finite as a float; got 1000"),
    ("margin", float("inf"), ValueError, r"margin must be finite; got inf"),
    ("soft_margin", 1, TypeError, r"soft_margin must be a bool; got int"),
    ("soft_margin", 0.3, TypeError, r"soft_margin must be a bool; got float"),
    ("reduction", "average", ValueError, r"reduction must be one of none, sum, mean, mean_nonzero; got 'average'"),
    ("reduction", None, TypeError, r"reduction must be a str, .*; got NoneType"),
    ("on_missing", "ignore", ValueError, r"on_missing must be one of skip, zero, error; got 'ignore'"),
    ("on_missing", False, TypeError, r"on_missing must be a str, .*; got bool"),
]


def _ids(errors):
    return [f"{name}-{number}" for number, (name, *_) in enumerate(errors)]


@pytest.mark.parametrize(
    ("name", "value", "error", "match"), TENSOR_ERRORS + OPTION_ERRORS, ids=_ids(TENSOR_ERRORS + OPTION_ERRORS)
)
def test_batch_hard_triplet_loss(name, value, error, match):
    arguments = {"embeddings": EMBEDDINGS, "labels": LABELS, name: value}
    with pytest.raises(error, match=match):
        fasttriplet.batch_hard_triplet_loss(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "error", "match"), TENSOR_ERRORS + CHOICE_ERRORS, ids=_ids(TENSOR_ERRORS + CHOICE_ERRORS)
)
def test_mine_batch_hard(name, value, error, match):
    arguments = {"embeddings": EMBEDDINGS, "labels": LABELS, name: value}
    with pytest.raises(error, match=match):
        fasttriplet.mine_batch_hard(**arguments)


@pytest.mark.parametrize(("name", "value", "error", "match"), OPTION_ERRORS, ids=_ids(OPTION_ERRORS))
def test_module_checks_at_construction(name, value, error, match):
    with pytest.raises(error, match=match):
        fasttriplet.BatchHardTripletLoss(**{name: value})


@pytest.mark.parametrize(("name", "value", "error", "match"), TENSOR_ERRORS, ids=_ids(TENSOR_ERRORS))
def test_module_checks_tensors_when_called(name, value, error, match):
    arguments = {"embeddings": EMBEDDINGS, "labels": LABELS, name: value}
    with pytest.raises(error, match=match):
        fasttriplet.BatchHardTripletLoss()(**arguments)


def test_options_are_keywords_only():
    with pytest.raises(TypeError, match="positional"):
        fasttriplet.batch_hard_triplet_loss(EMBEDDINGS, LABELS, 0.3)
    with pytest.raises(TypeError, match="positional"):
        fasttriplet.mine_batch_hard(EMBEDDINGS, LABELS, "cosine")
    with pytest.raises(TypeError, match="positional"):
        fasttriplet.BatchHardTripletLoss(0.3)


def test_margins_of_any_real_type():
    from fractions import Fraction

    import numpy as np

    expected = fasttriplet.batch_hard_triplet_loss(EMBEDDINGS, LABELS, margin=0.5)
    for margin in (np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        assert torch.equal(fasttriplet.batch_hard_triplet_loss(EMBEDDINGS, LABELS, margin=margin), expected)
    assert fasttriplet.batch_hard_triplet_loss(EMBEDDINGS, LABELS, margin=-1).item() == 0


@pytest.mark.parametrize("absence", ["it was not built", None])
@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_every_device_is_taken(monkeypatch, device, absence):
    monkeypatch.setattr(engines, "fallback", "silent")
    monkeypatch.setattr(_library, "cuda_absence", absence)
    with FakeTensorMode():
        rows, labels = torch.empty(4, 2, device=device), torch.zeros(4, dtype=torch.int64, device=device)
        mined = fasttriplet.mine_batch_hard(rows, labels)
        assert [each.device.type for each in mined] == [device] * 4
        assert [each.shape for each in mined] == [(4,)] * 4
        loss = fasttriplet.batch_hard_triplet_loss(rows, labels)
        assert loss.device.type == device and loss.shape == () and loss.dtype == torch.float32
