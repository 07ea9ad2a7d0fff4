"""Validation of Python arguments, in one place. Dtypes and shapes of tensors the engines check.

The kernels' are in ``csrc/check.cpp``, those of the portable engine in ``fasttriplet/portable/checks.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch

from fasttriplet.arguments import BOTH_OR_NEITHER, GROUPS_EXCLUDE, BatchPairing

#: Names in the order of the enumerations in ``csrc/core/options.h``: the position is the code the operators take.
DISTANCES = ("euclidean", "squared_euclidean", "cosine", "inner_product")
REDUCTIONS = ("none", "sum", "mean", "mean_nonzero")
ON_MISSING = ("skip", "zero", "error")
MINERS = ("batch_hard", "semi_hard", "easy_positive", "easy_positive_semi_hard", "k_hardest")
OTHERWISE = ("farthest", "skip")
GRADIENT_SCALES = ("mean", "sum")
#: Of :func:`fasttriplet.easy_positive_triplet_loss`.
NEGATIVES = ("hardest", "semi_hard")


def check_dense(name: str, value: object) -> None:
    """A tensor whose entries lie in memory as they are."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
    if value.layout is not torch.strided or value.is_quantized:
        kind = "a quantized tensor" if value.is_quantized else value.layout
        raise ValueError(f"{name} must be a dense tensor (torch.strided), not quantized; got {kind}")


def check_tensors(embeddings: object, labels: object) -> None:
    """Both must be tensors on one device."""
    for name, value in (("embeddings", embeddings), ("labels", labels)):
        check_dense(name, value)
    assert isinstance(embeddings, torch.Tensor) and isinstance(labels, torch.Tensor)
    if embeddings.device != labels.device:
        raise ValueError(
            f"labels must be on the device of embeddings, {embeddings.device}; got labels on {labels.device}"
        )


#: Of embeddings; half precision is computed in float32.
ROW_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_rows(name: str, rows: object, count: str = "N") -> None:
    """Rows of features of a floating dtype, [N, D]; ``count`` is the letter of their number, for the error.

    As ``csrc/check.cpp`` words it, for rows that go another way than to the operators.
    """
    check_dense(name, rows)
    assert isinstance(rows, torch.Tensor)
    if rows.dtype not in ROW_DTYPES:
        raise ValueError(f"{name} must have dtype float64, float32, float16 or bfloat16; got {rows.dtype}")
    if rows.ndim != 2:
        raise ValueError(
            f"{name} must have shape [{count}, D]; got {list(rows.shape)}: {advice_for_dim(rows.ndim, count)}"
        )


def advice_for_dim(dim: int, count: str) -> str:
    """What makes rows of features of something else."""
    if dim == 0:
        return "a number is no row of features"
    if dim == 1:
        return "make one row of it with x[None], or rows of numbers with x[:, None]"
    advice = "pool or flatten each first, e.g. x.flatten(1)"
    if dim == 3:
        return f"{advice} or x.mean(1) of sequences [{count}, L, D]"
    if dim == 4:
        return f"{advice}, x.mean((1, 2)) of feature maps [{count}, H, W, C] or x.mean((2, 3)) of [{count}, C, H, W]"
    return advice


def check_choice(name: str, value: object, choices: Sequence[str]) -> int:
    """The position of ``value`` among ``choices``."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, one of {', '.join(choices)}; got {type(value).__name__}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
    return choices.index(value)


def check_margin(margin: object, name: str = "margin") -> float:
    """A finite real number, as a float."""
    if type(margin) is float and -math.inf < margin < math.inf:  # nearly always, and at once
        return margin
    if isinstance(margin, bool) or not isinstance(margin, Real):
        raise TypeError(f"{name} must be a real number; got {type(margin).__name__}")
    try:
        value = float(margin)
    except OverflowError:
        raise ValueError(f"{name} must be finite as a float; got {margin}") from None
    if not -math.inf < value < math.inf:  # math.isfinite is opaque to torch.compile
        raise ValueError(f"{name} must be finite; got {value}")
    return value


def check_bool(name: str, value: object) -> bool:
    """Exactly ``True`` or ``False``: a margin passed in its place must not count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool; got {type(value).__name__}")
    return value


def check_triplets(anchor: object, positive: object, negative: object, weights: object) -> None:
    """Dense tensors on one device; weights may be None."""
    check_dense("anchor", anchor)
    check_dense("positive", positive)
    check_dense("negative", negative)
    assert isinstance(anchor, torch.Tensor) and isinstance(positive, torch.Tensor)
    assert isinstance(negative, torch.Tensor)
    if not anchor.device == positive.device == negative.device:
        raise ValueError(
            f"anchor, positive and negative must be on one device; got anchor on {anchor.device}, positive on "
            f"{positive.device}, negative on {negative.device}"
        )
    if weights is not None:
        check_dense("weights", weights)
        assert isinstance(weights, torch.Tensor)
        if weights.device != anchor.device:
            raise ValueError(
                f"weights must be on the device of anchor, {anchor.device}; got weights on {weights.device}"
            )
        if weights.requires_grad:
            raise ValueError(
                "weights must not require grad, since none flows to them: pass weights.detach(), or multiply the "
                "losses of reduction='none'; got weights that require grad"
            )


def check_integer(name: str, value: object) -> int:
    """An integer, and no bool."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int; got {type(value).__name__}")
    return int(value)


def check_count(name: str, value: object) -> int:
    """An integer from 1 to 2^31 - 1, as many as there may be rows."""
    count = check_integer(name, value)
    if not 1 <= count < 2**31:
        raise ValueError(f"{name} must be at least 1 and at most 2^31 - 1; got {value}")
    return count


def check_fraction(name: str, value: object) -> float:
    """A real number from 0 to below 1."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a real number; got {type(value).__name__}")
    try:
        fraction = float(value)
    except OverflowError:  # of a huge int
        fraction = math.inf
    if not 0 <= fraction < 1:
        raise ValueError(f"{name} must be at least 0 and below 1; got {value}")
    return fraction


def check_ignore_index(value: object) -> int | None:
    """An integer that a label can be, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"ignore_index must be an int or None; got {type(value).__name__}")
    if not -(2**63) <= int(value) < 2**63:
        raise ValueError(f"ignore_index must be a number that int64 holds; got {value}")
    return int(value)


def check_pairing(embeddings: torch.Tensor, labels: torch.Tensor, given: Mapping[str, Any]) -> None:
    """What is told about who pairs with whom; shapes and dtypes are left to C++."""
    for name, value in given.items():
        if name not in BatchPairing.__annotations__:
            continue
        check_dense(name, value)
        if value.device != embeddings.device:
            raise ValueError(
                f"{name} must be on the device of embeddings, {embeddings.device}; got {name} on {value.device}"
            )
    check_ignore_index(given.get("ignore_index"))
    check_choice("groups_exclude", given.get("groups_exclude", "pairs"), GROUPS_EXCLUDE)
    if "groups_exclude" in given and "groups" not in given:
        raise ValueError(
            f"groups must be given where groups_exclude is {given['groups_exclude']!r}, which says what rows of one "
            "group never are; got no groups"
        )
    references = "ref_embeddings" in given
    if references != ("ref_labels" in given):
        had, absent = ("ref_embeddings", "ref_labels")[:: 1 if references else -1]
        raise ValueError(f"ref_embeddings and ref_labels must be given together; got {had} and no {absent}")
    for own, theirs in BOTH_OR_NEITHER:
        if references and (own in given) != (theirs in given):
            had, absent = (own, theirs)[:: 1 if own in given else -1]
            raise ValueError(
                f"{own} and {theirs} must be given together where there are references; got {had} and no {absent}"
            )
    if not references:
        for name in given:
            if name == "self_indices" or name.startswith("ref_"):
                raise ValueError(f"{name} must come with ref_embeddings, whose rows it is about; got no ref_embeddings")
    if "ignore_index" in given and labels.dim() == 2:
        raise ValueError(
            f"ignore_index must be None where labels are multi-hot, [N, C]: a row without a label has no positives; "
            f"got {given['ignore_index']}"
        )


def check_weights(weights: object, embeddings: torch.Tensor) -> None:
    """[N] of a floating dtype where the embeddings are, or None."""
    if weights is None:
        return
    check_dense("weights", weights)
    assert isinstance(weights, torch.Tensor)
    if weights.dtype not in ROW_DTYPES:
        raise ValueError(f"weights must have dtype float64, float32, float16 or bfloat16; got {weights.dtype}")
    if weights.device != embeddings.device:
        raise ValueError(f"weights must be on the device of embeddings, {embeddings.device}; got {weights.device}")
    if weights.shape != embeddings.shape[:1]:
        raise ValueError(
            f"weights must have shape {list(embeddings.shape[:1])} to match embeddings {list(embeddings.shape)}; got "
            f"{list(weights.shape)}"
        )
