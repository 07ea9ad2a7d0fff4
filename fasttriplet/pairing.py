"""Who pairs with whom, as all functions are told it, and the rows that the operators are given."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.arguments import Pairing
from fasttriplet.check import check_pairing, check_tensors

HALF_DTYPES = (torch.float16, torch.bfloat16)


def widened(embeddings: Tensor) -> Tensor:
    """Half precision widened to float32, which changes no value; autograd casts the gradient back."""
    return embeddings.float() if embeddings.dtype in HALF_DTYPES else embeddings


class Batch(NamedTuple):
    """A batch checked and widened: what the operators take first."""

    embeddings: Tensor  # [N, D] float32 or float64
    ref_embeddings: Tensor | None  # [M, D] of the same dtype
    labels: Tensor  # [N] or [N, W]
    pairing: Pairing

    @property
    def arguments(self) -> tuple[Tensor | int | None, ...]:
        """The operators' first eight: embeddings, labels, and the pairing in its order."""
        return (self.embeddings, self.labels, self.ref_embeddings, *self.pairing[1:])

    @property
    def candidates(self) -> int:
        """How many there are to choose from."""
        return len(self.embeddings if self.ref_embeddings is None else self.ref_embeddings)

    def takes_part(self) -> Tensor | None:
        """[N] bool, anchors that are not ignored; None where none is."""
        index = self.pairing.ignore_index
        return None if index is None else ~_ignored(self.labels, index)


def _ignored(labels: Tensor, index: int) -> Tensor:
    """As the kernels compare, in int64: in the labels' own dtype -1 would be 255 among uint8 labels."""
    return labels.long() == index


@torch.no_grad()
def poison_of(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    ref_labels: Tensor | None,
    ignore_index: int | None,
) -> Tensor:
    """[] float64: 1, or NaN where a row that is not ignored is not finite."""
    finite = []
    for rows, classes in ((embeddings, labels), (ref_embeddings, ref_labels)):
        if rows is None or classes is None or rows.shape[1] == 0:
            continue
        low, high = torch.aminmax(rows, dim=1)  # one pass and no copy, as isfinite would take; NaN goes through
        fine = (low > -torch.inf) & (high < torch.inf)
        finite.append((fine if ignore_index is None else fine | _ignored(classes, ignore_index)).all())
    if not finite:
        return embeddings.new_ones((), dtype=torch.float64)
    return torch.where(torch.stack(finite).all(), 1.0, torch.nan).double()


def batch_of(function: str, embeddings: Tensor, labels: Tensor, pairing: Pairing) -> Batch:
    """The batch as the operators take it, checked; ``function`` is the public one, for its errors.

    Rows and references become float64 where one of them is, else float32: no value changes.
    """
    check_tensors(embeddings, labels)
    check_pairing(function, embeddings, labels, pairing)
    rows, references = widened(embeddings), pairing.ref_embeddings
    if references is not None:
        references = widened(references)
        if rows.is_floating_point() and references.is_floating_point():  # what is not is refused in C++
            dtype = torch.promote_types(rows.dtype, references.dtype)
            rows, references = rows.to(dtype), references.to(dtype)
    return Batch(rows, references, labels, pairing)
