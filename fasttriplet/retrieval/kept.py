"""Rows as an evaluator keeps them: joined from batches, those of all ranks of a process group, each sample once."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import check_dense, check_rows
from fasttriplet.distributed.group import Group
from fasttriplet.pairing import checked_batch
from fasttriplet.portable.checks import check_pairing


class Kept(NamedTuple):
    """Queries, or references."""

    embeddings: Tensor  # [N, D]
    labels: Tensor  # [N] int64, or [N, C] bool
    sample_ids: Tensor | None  # [N] int64
    groups: Tensor | None  # [N] int64


class Form(NamedTuple):
    """What rows that are joined must have in common; dtypes of embeddings are promoted."""

    columns: int
    labels: str
    sample_ids: str
    groups: str
    device: str
    dtype: torch.dtype


#: How an error calls each, and whether it must be the same.
_ALIKE = {
    "columns": "the number of columns of embeddings",
    "labels": "the form of labels",
    "sample_ids": "sample_ids",
    "groups": "groups",
    "device": "the device type of embeddings",
}


def to_keep(
    embeddings: Tensor, labels: Tensor, sample_ids: Tensor | None, groups: Tensor | None, device: torch.device | None
) -> Kept:
    """A batch as it is kept: copies without a graph, on ``device`` or where the embeddings are.

    Raises:
        TypeError: an argument is not a tensor.
        ValueError: a wrong shape or dtype.
    """
    check_rows("embeddings", embeddings)
    given = {"labels": labels, "sample_ids": sample_ids, "groups": groups}
    for name, value in given.items():
        if value is not None:
            check_dense(name, value)
    # Loaders leave labels on the CPU. A copy outlives what the caller does to its batch, and holds no larger tensor.
    place = embeddings.device if device is None else device
    rows = embeddings.detach().to(place, copy=True)
    others = {name: value.detach().to(place) for name, value in given.items() if value is not None}
    classes = others.pop("labels")
    check_pairing(*checked_batch(rows, classes, others).arguments)
    classes = classes.clone() if classes.dim() == 2 else classes.to(torch.int64, copy=True)
    ids = {name: value.to(torch.int64, copy=True) for name, value in others.items()}
    return Kept(rows, classes, ids.get("sample_ids"), ids.get("groups"))


def form_of(rows: Kept) -> Form:
    of_labels = "[N]" if rows.labels.dim() == 1 else f"[N, {rows.labels.shape[1]}]"
    ids, groups = ("not given" if each is None else "given" for each in (rows.sample_ids, rows.groups))
    embeddings = rows.embeddings
    return Form(embeddings.shape[1], of_labels, ids, groups, embeddings.device.type, embeddings.dtype)


def joined(batches: Sequence[Kept]) -> Kept:
    """At least one batch, in order; their forms are alike."""
    if len(batches) == 1:
        return batches[0]
    return Kept._make(None if column[0] is None else torch.cat(column) for column in zip(*batches, strict=True))


def difference(first: Form, other: Form) -> tuple[str, Any, Any] | None:
    """What is not alike, and what each has there."""
    for field, name in _ALIKE.items():
        if getattr(first, field) != getattr(other, field):
            return name, getattr(first, field), getattr(other, field)
    return None


def kept_of_all(group: Group, own: Kept | None) -> Kept | None:
    """Those of every rank, in rank order, on each; None where no rank has any.

    A rank without rows knows neither their width nor their dtype, and takes them from the others.

    Raises:
        ValueError: rows of two ranks are not alike; on all ranks.
    """
    forms: list[tuple[Form, int] | None] = group.objects(None if own is None else (form_of(own), len(own.labels)))
    sizes = [0 if each is None else each[1] for each in forms]
    having = [(rank, each[0]) for rank, each in enumerate(forms) if each is not None]
    if not having:
        return None
    lowest, form = having[0]
    for rank, other in having[1:]:
        differs = difference(form, other)
        if differs is not None:
            raise ValueError(
                f"{differs[0]} must be the same on every rank of process_group that has rows; got {differs[1]} on "
                f"rank {lowest} and {differs[2]} on rank {rank}"
            )
    rows = _none_of(form) if own is None else own
    dtype = functools.reduce(torch.promote_types, (each.dtype for _, each in having))
    rows = rows._replace(embeddings=rows.embeddings.to(dtype))
    kept = rows.embeddings.device
    way = kept if kept.type in group.device_types() else group.device
    sent = {name: column.to(way) for name, column in rows._asdict().items() if column is not None}
    found = group.rows(sent, sizes)
    return Kept._make(found[name].to(kept) if name in found else None for name in Kept._fields)


def _none_of(form: Form) -> Kept:
    """No rows of this form."""
    device = torch.device(form.device)
    if form.device != "cpu":
        device = torch.device(form.device, torch.accelerator.current_device_index())
    classes = torch.zeros(0, dtype=torch.int64, device=device)
    if form.labels != "[N]":
        classes = torch.zeros(0, int(form.labels[4:-1]), dtype=torch.bool, device=device)
    no_ids = torch.zeros(0, dtype=torch.int64, device=device)
    ids, groups = (no_ids if each == "given" else None for each in (form.sample_ids, form.groups))
    return Kept(torch.zeros(0, form.columns, dtype=form.dtype, device=device), classes, ids, groups)


def without_duplicates(rows: Kept) -> Kept:
    """Of rows of one sample id, but for -1, the first alone."""
    ids = rows.sample_ids
    if ids is None or len(ids) == 0:
        return rows
    _, which = ids.unique(return_inverse=True)
    places = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(ids, len(ids)).scatter_reduce(0, which, places, "amin")  # [N], of each id
    keep = (ids == -1) | (first[which] == places)
    if keep.all():
        return rows
    return Kept._make(None if column is None else column[keep] for column in rows)
