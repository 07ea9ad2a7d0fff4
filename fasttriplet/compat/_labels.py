"""Labels as the originals take them: of any dtype, compared with ``==``."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def integer_labels(labels: Tensor, name: str = "labels") -> Tensor:
    """Integers that are equal where ``labels`` are; ``name`` is the argument's, for its error.

    Floating-point labels become their bits: equal numbers have equal bits, but for the two zeros, and ``+ 0`` makes
    one of those. (NaN labels, which equal nothing, here equal those of the same bits.)
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(labels).__name__}")
    if labels.ndim != 1:  # bool [N, C] would be several labels a row
        advice = ": squeeze(1) makes classes of a column" if labels.ndim == 2 and labels.shape[1] == 1 else ""
        raise ValueError(f"{name} must have shape [N], one label a row; got {list(labels.shape)}{advice}")
    if labels.is_floating_point():
        if labels.element_size() == 1:  # float8 knows no arithmetic
            labels = labels.float()
        return (labels + 0.0).view(_BITS[labels.element_size()])
    return labels


def label_vector(labels: Tensor, name: str) -> Tensor:
    """:func:`integer_labels` of labels [N] or [N, 1], as Keras has them and torchreid and fast-reid take them."""
    if isinstance(labels, Tensor) and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return integer_labels(labels, name)


def one_class(labels: Tensor) -> Tensor:
    """Whether all rows have one label, as a bool tensor [], so that nothing waits for a device; false for no rows.

    It is the one case in which an anchor has no negative, and then no anchor has one.
    """
    return (labels == labels[:1]).all() & (labels.shape[0] > 0)
