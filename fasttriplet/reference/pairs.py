"""Which pairs of an anchor and a candidate are positive, which are negative, and which are neither."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from fasttriplet.reference.distances import check

GROUPS_EXCLUDE = ("pairs", "positives")


class Pairing(TypedDict, total=False):
    """The keyword arguments that say who pairs with whom; every loss and every miner takes them."""

    ref_embeddings: Tensor | None  # [M, D], the candidates; None: the batch itself
    ref_labels: Tensor | None  # [M] or [M, C], given together with ref_embeddings
    self_indices: Tensor | None  # [N], the anchor's own copy among the references, -1: none
    sample_ids: Tensor | None  # [N]; rows of equal number never pair, -1: no number
    ref_sample_ids: Tensor | None  # [M], with references both or neither
    groups: Tensor | None  # [N]; rows of equal group never pair
    ref_groups: Tensor | None  # [M], with references both or neither
    ref_mask: Tensor | None  # [M] bool, false: never pairs
    groups_exclude: str  # what rows of equal group never are: "pairs", or "positives" alone
    ignore_index: int | None  # rows of this label are neither anchors nor candidates


class Batch(NamedTuple):
    """A batch with its pairs. Rows that are ignored have become zeros, so that nothing in them matters."""

    rows: Tensor  # [N, D]
    references: Tensor | None  # [M, D]; None: candidates are the rows themselves
    positive: Tensor  # [N, M] bool
    negative: Tensor  # [N, M] bool
    takes_part: Tensor  # [N] bool, anchors that are not ignored
    poison: Tensor  # [], 1 or, where a row that takes part is not finite, NaN

    def detached(self) -> Batch:
        references = None if self.references is None else self.references.detach()
        return self._replace(rows=self.rows.detach(), references=references)

    def poisoned(self) -> Batch:
        """Everything made of these rows is NaN, gradients too, where one entry of the batch is not finite."""
        references = None if self.references is None else self.references * self.poison
        return self._replace(rows=self.rows * self.poison, references=references)

    def finite_alone(self) -> Batch:
        """Rows that are not finite are in no pair."""
        anchors = self.rows.isfinite().all(1)
        candidates = anchors if self.references is None else self.references.isfinite().all(1)
        allowed = anchors[:, None] & candidates
        return self._replace(positive=self.positive & allowed, negative=self.negative & allowed)


def same_label(labels: Tensor, ref_labels: Tensor) -> Tensor:
    """[N, M]: equal numbers, or multi-hot labels [N, C] and [M, C] with a label in common."""
    if labels.dim() == 1:
        return labels[:, None] == ref_labels
    return (labels[:, None] & ref_labels).any(2)


def check_rows(name: str, rows: Tensor, labels_name: str, labels: Tensor) -> None:
    """Rows [N, D] with classes [N] or multi-hot labels [N, C]: anything else would broadcast to some number."""
    if rows.dim() != 2:
        raise ValueError(f"{name} must have shape [N, D]; got {list(rows.shape)}")
    shape = labels.shape[:1] if labels.dtype == torch.bool and labels.dim() == 2 else labels.shape
    if labels.is_floating_point() or shape != rows.shape[:1]:
        raise ValueError(
            f"{labels_name} must be integers or bool [{len(rows)}], one class a row, or bool [{len(rows)}, C]; got "
            f"{labels.dtype} {list(labels.shape)}"
        )


def batch_of(
    embeddings: Tensor,
    labels: Tensor,
    *,
    ref_embeddings: Tensor | None = None,
    ref_labels: Tensor | None = None,
    self_indices: Tensor | None = None,
    sample_ids: Tensor | None = None,
    ref_sample_ids: Tensor | None = None,
    groups: Tensor | None = None,
    ref_groups: Tensor | None = None,
    ref_mask: Tensor | None = None,
    groups_exclude: str = "pairs",
    ignore_index: int | None = None,
) -> Batch:
    """The batch and its pairs, from the labels and the arguments of :class:`Pairing`."""
    check_rows("embeddings", embeddings, "labels", labels)
    if ref_embeddings is not None and ref_labels is not None:
        check_rows("ref_embeddings", ref_embeddings, "ref_labels", ref_labels)
    candidate_labels = labels if ref_labels is None else ref_labels
    candidates = torch.arange(len(candidate_labels), device=labels.device)
    if ref_embeddings is not None:
        own = candidates.new_full((len(labels),), -1) if self_indices is None else self_indices
    else:
        own = candidates
    allowed = own[:, None] != candidates
    if sample_ids is not None:
        candidate_ids = sample_ids if ref_sample_ids is None else ref_sample_ids
        allowed &= (sample_ids[:, None] != candidate_ids) | (candidate_ids == -1)
    one_group = torch.zeros_like(allowed)
    if groups is not None:
        one_group = groups[:, None] == (groups if ref_groups is None else ref_groups)
    check("groups_exclude", groups_exclude, GROUPS_EXCLUDE)
    if groups_exclude == "pairs":
        allowed &= ~one_group
    takes_part = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    ref_takes_part = torch.ones_like(candidates, dtype=torch.bool)
    if ignore_index is not None:
        takes_part, ref_takes_part = labels != ignore_index, candidate_labels != ignore_index
    if ref_mask is not None:
        ref_takes_part = ref_takes_part & ref_mask
    allowed &= takes_part[:, None] & ref_takes_part

    rows = torch.where(takes_part[:, None], embeddings, 0)
    references = None if ref_embeddings is None else torch.where(ref_takes_part[:, None], ref_embeddings, 0)
    finite = rows.isfinite().all()
    if references is not None:
        finite = finite & references.isfinite().all()
    poison = torch.where(finite, 1.0, torch.nan).to(embeddings.dtype)
    same = same_label(labels, candidate_labels)
    return Batch(rows, references, allowed & same & ~one_group, allowed & ~same, takes_part, poison)
