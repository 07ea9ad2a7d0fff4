"""Margins as some originals take them: numbers, or tensors that hold one."""

from __future__ import annotations

from torch import Tensor

from fasttriplet.check import check_margin

#: A number, or a tensor of one element.
Margin = float | Tensor


def margin_of(margin: object, name: str = "margin") -> float:
    """``margin`` as a finite float; ``name`` is the argument's, for its error.

    A tensor is read where it is given, which waits for its device. One that is to be learned is refused: the kernels
    give it no gradient, and it would stay what it is in silence.
    """
    if isinstance(margin, Tensor):
        if margin.numel() != 1:
            raise ValueError(f"{name} must be one number; got a tensor of shape {list(margin.shape)}")
        if margin.requires_grad:
            raise ValueError(f"{name} must not require grad, since none flows to it; got a tensor that does")
        margin = margin.item()
    return check_margin(margin, name)
