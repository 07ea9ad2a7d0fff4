"""Labels as the originals take them: of any dtype, compared with ``==``."""

from __future__ import annotations

import torch
from torch import Tensor

from fasttriplet.check import check_dense, check_rows

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def integer_labels(labels: Tensor) -> Tensor:
    """Integers that are equal where ``labels`` are.

    Floating-point labels become their bits: equal numbers have equal bits, but for the two zeros, and ``+ 0`` makes
    one of those. (NaN labels, which equal nothing, here equal those of the same bits.)
    """
    if labels.is_floating_point():
        if labels.element_size() == 1:  # float8 knows no arithmetic
            labels = labels.float()
        return (labels + 0.0).view(_BITS[labels.element_size()])
    return labels


def check_labels(name: str, labels: object, rows_name: str, rows: Tensor) -> None:
    """One label a row, [N] of any dtype, for rows [N, ...]; the names are the arguments', for the error."""
    check_dense(name, labels)
    assert isinstance(labels, Tensor)
    if labels.ndim == 1 and labels.shape[0] == rows.shape[0]:
        return
    must = f"{name} must have shape [{rows.shape[0]}], one label a row of {rows_name}; got {list(labels.shape)}"
    if labels.ndim == 2 and labels.shape[0] == rows.shape[0]:
        one = labels.shape[1] == 1
        raise ValueError(f"{must}: pass {name}.squeeze(1)" if one else f"{must}: pass {name}.argmax(1) of one-hot rows")
    raise ValueError(must)


def label_vector(name: str, labels: Tensor, rows_name: str, rows: Tensor) -> Tensor:
    """:func:`integer_labels` of labels [N] or [N, 1], as Keras has them and torchreid and fast-reid take them, and of
    rows [N, D] on their device. What is wrong has the name of the caller's argument here, not that of the operators'.
    """
    check_rows(rows_name, rows)
    if isinstance(labels, Tensor) and labels.shape == (rows.shape[0], 1):
        labels = labels[:, 0]
    check_labels(name, labels, rows_name, rows)
    if labels.is_complex():
        raise ValueError(f"{name} must be integers, bool or real numbers; got {labels.dtype}")
    if labels.device != rows.device:
        raise ValueError(f"{name} must be on the device of {rows_name}, {rows.device}; got {name} on {labels.device}")
    return integer_labels(labels)


def one_class(labels: Tensor) -> Tensor:
    """Whether all rows have one label, as a bool tensor [], so that nothing waits for a device; false for no rows.

    It is the one case in which an anchor has no negative, and then no anchor has one.
    """
    return (labels == labels[:1]).all() & (labels.shape[0] > 0)
