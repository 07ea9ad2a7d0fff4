"""Validation of Python arguments, in one place; tensors' dtypes and shapes are checked in C++ (``csrc/check.cpp``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch

from fasttriplet import _library

#: Names in the order of the enumerations in ``csrc/core/options.h``: the position is the code the operators take.
DISTANCES = ("euclidean", "squared_euclidean", "cosine", "inner_product")
REDUCTIONS = ("none", "sum", "mean", "mean_nonzero")
ON_MISSING = ("skip", "zero", "error")


def check_tensors(embeddings: object, labels: object) -> None:
    """Both must be tensors on one device that has kernels: the CPU, or CUDA where that library is loaded."""
    for name, value in (("embeddings", embeddings), ("labels", labels)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
        if value.layout is not torch.strided or value.is_quantized:
            kind = "a quantized tensor" if value.is_quantized else value.layout
            raise ValueError(f"{name} must be a dense tensor (torch.strided), not quantized; got {kind}")
    assert isinstance(embeddings, torch.Tensor) and isinstance(labels, torch.Tensor)
    if embeddings.device != labels.device:
        raise ValueError(
            f"labels must be on the device of embeddings, {embeddings.device}; got labels on {labels.device}"
        )
    if embeddings.device.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"embeddings must be on cpu or cuda, where the kernels are; got {embeddings.device}")
    if embeddings.device.type == "cuda" and _library.cuda_absence is not None:
        raise ValueError(
            f"embeddings must be on the cpu, since fasttriplet's CUDA library is not loaded ({_library.cuda_absence}); "
            f"got {embeddings.device}"
        )


def check_choice(name: str, value: object, choices: Sequence[str]) -> int:
    """The position of ``value`` among ``choices``."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, one of {', '.join(choices)}; got {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
    return choices.index(value)


def check_margin(margin: object) -> float:
    """A finite real number, as a float."""
    if type(margin) is float and -math.inf < margin < math.inf:  # nearly always, and at once
        return margin
    if isinstance(margin, bool) or not isinstance(margin, Real):
        raise TypeError(f"margin must be a real number; got {type(margin).__name__}")
    try:
        value = float(margin)
    except OverflowError:
        raise ValueError(f"margin must be finite as a float; got {margin}") from None
    if not -math.inf < value < math.inf:  # math.isfinite is opaque to torch.compile
        raise ValueError(f"margin must be finite; got {value}")
    return value


def check_bool(name: str, value: object) -> bool:
    """Exactly ``True`` or ``False``: a margin passed in its place must not count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool; got {type(value).__name__}")
    return value
