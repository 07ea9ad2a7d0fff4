"""A batch as the operators take it: rows, and who pairs with whom, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.arguments import LISTED, as_lists
from fasttriplet.check import GRADIENT_SCALES, ROW_DTYPES, check_bool, check_choice, check_pairing, check_weights

HALF_DTYPES = (torch.float16, torch.bfloat16)


class Miner(NamedTuple):
    """A miner with its options, as the operator takes them: codes are those of :mod:`fasttriplet.check`."""

    miner: int
    otherwise: int = 0
    within_margin: bool = False
    margin: float = 0.0
    k: int = 1
    kth_only: bool = False
    skip_fraction: float = 0.0


def widened(embeddings: Tensor) -> Tensor:
    """Half precision widened to float32, which changes no value; autograd casts the gradient back."""
    return embeddings.float() if embeddings.dtype in HALF_DTYPES else embeddings


def finite_rows(rows: Tensor) -> Tensor:
    """[N] bool: rows [N, D] without an entry that is NaN or infinite; D at least 1.

    NaN goes through both extremes, which take an eighth of the time of ``torch.aminmax`` and a twelfth of ``isfinite``.
    """
    return (rows.amax(1) < torch.inf) & (rows.amin(1) > -torch.inf)


class Batch(NamedTuple):
    """A batch checked and widened. Of several processes it is that of all of them, and without a graph."""

    embeddings: Tensor  # [N, D] float32 or float64
    ref_embeddings: Tensor | None  # [M, D] of the same dtype
    labels: Tensor  # [N], or [N, C] bool
    told: dict[str, Any]  # what was told beside that, see fasttriplet.arguments
    #: Of several processes: who they are and this one's part, fasttriplet.distributed.batch.Together.
    together: Any = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The operators' first five."""
        return (self.embeddings, self.labels, self.ref_embeddings, *as_lists(self.told))

    @property
    def weights(self) -> Tensor | None:
        return self.told.get("weights")

    @property
    def return_stats(self) -> bool:
        return self.told.get("return_stats", False)

    @property
    def anchors(self) -> int:
        """How many."""
        return len(self.labels)

    @property
    def is_plain_in_group_of_one(self) -> bool:
        """Whether all that is told of it beside labels [N] is a process group, in which this process is alone."""
        plain = self.labels.dim() == 1 and self.told.keys() <= {"process_group", "gradient_scale", "ref_sharded"}
        return plain and self.together is None and "process_group" in self.told

    @property
    def candidates(self) -> int:
        """How many there are to choose from."""
        return len(self.embeddings if self.ref_embeddings is None else self.ref_embeddings)

    def takes_part(self) -> Tensor | None:
        """[N] bool, anchors that are not ignored; None where none is."""
        index = self.told.get("ignore_index")
        return None if index is None else ~_ignored(self.labels, index)


class Mined(NamedTuple):
    """What a miner chooses."""

    distances: Tensor  # [2, T] float64
    triplets: Tensor  # [3, T]
    poison: Tensor  # [] of the batch
    counts: list[int] | None = None  # of several processes: how many of the triplets each has


def _ignored(labels: Tensor, index: int) -> Tensor:
    """As the kernels compare, in int64: in the labels' own dtype -1 would be 255 among uint8 labels."""
    return labels.long() == index


@torch.no_grad()
def poison_of(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: Sequence[Tensor | None],
    numbers: Sequence[int],
) -> Tensor:
    """[] float64: 1, or NaN where a row that is neither ignored nor masked is not finite.

    Of what the operators were given, once they have checked it.
    """
    given = dict(zip(LISTED, pairing, strict=False))
    index, finite = numbers[1] if len(numbers) > 1 else None, []
    for rows, classes, mask in (
        (embeddings, labels, None),
        (ref_embeddings, given.get("ref_labels"), given.get("ref_mask")),
    ):
        if rows is None or rows.shape[1] == 0:
            continue
        fine = finite_rows(rows)
        if index is not None and classes is not None:
            fine = fine | _ignored(classes, index)
        finite.append((fine if mask is None else fine | ~mask).all())
    if not finite:
        return embeddings.new_ones((), dtype=torch.float64)
    return torch.where(torch.stack(finite).all(), 1.0, torch.nan).double()


def checked_batch(embeddings: Tensor, labels: Tensor, given: dict[str, Any]) -> Batch:
    """The batch as the operators take it, checked.

    Of two tensors that have been looked at, and what was :func:`~fasttriplet.arguments.told`. Rows and references
    become float64 where one of them is, else float32: no value changes.
    """
    check_pairing(embeddings, labels, given)
    check_bool("return_stats", given.get("return_stats", False))
    check_bool("ref_sharded", given.get("ref_sharded", False))
    check_choice("gradient_scale", given.get("gradient_scale", "mean"), GRADIENT_SCALES)
    check_weights(given.get("weights"), embeddings)
    rows, references = widened(embeddings), given.get("ref_embeddings")
    if references is not None:
        references = widened(references)
        if rows.dtype in ROW_DTYPES and references.dtype in ROW_DTYPES:  # what is not the engine refuses
            dtype = torch.promote_types(rows.dtype, references.dtype)
            rows, references = rows.to(dtype), references.to(dtype)
    return Batch(rows, references, labels, given)
