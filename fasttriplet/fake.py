"""The operators' fake (meta) kernels: what comes out, by shape and dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from fasttriplet.check import MINERS, REDUCTIONS
from fasttriplet.engines import PORTABLE
from fasttriplet.portable.losses import values_kept
from fasttriplet.portable.ranks import COLUMNS
from fasttriplet.portable.weighted import VALUES
from fasttriplet.schemas import SCHEMAS

_Kernel = TypeVar("_Kernel", bound=Callable[..., object])


def _fake_of(name: str) -> Callable[[_Kernel], _Kernel]:
    """Of the operator and of the portable engine's own."""
    assert name in SCHEMAS, name

    def registered(kernel: _Kernel) -> _Kernel:
        for declared in (name, PORTABLE + name):
            torch.library.register_fake(f"fasttriplet::{declared}", kernel)
        return kernel

    return registered


@_fake_of("mine_batch_hard")
def _(embeddings: Tensor, labels: Tensor, distance: int) -> tuple[Tensor, Tensor, Tensor]:
    n = embeddings.shape[0]
    indices = embeddings.new_empty(n, dtype=torch.int64)
    return embeddings.new_empty((2, n), dtype=torch.float64), indices, torch.empty_like(indices)


@_fake_of("batch_hard_loss")
def _(
    embeddings: Tensor,
    labels: Tensor,
    margin: float,
    distance: int,
    soft_margin: bool,
    reduction: int,
    on_missing: int,
) -> tuple[Tensor, Tensor, Tensor]:
    n = embeddings.shape[0]
    loss = embeddings.new_empty((n,) if REDUCTIONS[reduction] == "none" else ())
    values = embeddings.new_empty((3, n), dtype=torch.float64)
    return loss, values, embeddings.new_empty((2, n), dtype=torch.int64)


@_fake_of("_batch_hard_loss_backward")
def _(grad_loss: Tensor, embeddings: Tensor, values: Tensor, pairs: Tensor, distance: int) -> Tensor:
    return embeddings.new_empty(embeddings.shape)


@_fake_of("mine_triplets")
def _(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: list[Tensor | None],
    numbers: list[int],
    distance: int,
    miner: int,
    otherwise: int,
    within_margin: bool,
    margin: float,
    k: int,
    kth_only: bool,
    skip_fraction: float,
) -> tuple[Tensor, Tensor]:
    t: int | torch.SymInt = embeddings.shape[0]
    if MINERS[miner] == "semi_hard":  # one for each ordered positive pair
        if embeddings.device.type == "meta":
            raise ValueError(
                "embeddings must be on a device that has values, since how many triplets semi-hard mining makes "
                "follows from those of the labels; got embeddings on meta"
            )
        t = torch.library.get_ctx().new_dynamic_size()
    elif MINERS[miner] == "k_hardest" and not kth_only:
        candidates = embeddings.shape[0] if ref_embeddings is None else ref_embeddings.shape[0]
        t = t * torch.sym_min(k, candidates)
    return embeddings.new_empty((2, t), dtype=torch.float64), embeddings.new_empty((3, t), dtype=torch.int64)


@_fake_of("_triplet_distances_backward")
def _(
    grad: Tensor,
    embeddings: Tensor,
    ref_embeddings: Tensor | None,
    distances: Tensor,
    triplets: Tensor,
    distance: int,
    parts: list[int],
) -> tuple[Tensor, Tensor]:
    return _gradients(embeddings, ref_embeddings, parts=parts)


@_fake_of("triplet_losses")
def _(
    distances: Tensor,
    triplets: Tensor,
    poison: Tensor,
    margin: float,
    soft_margin: bool,
    reduction: int,
    on_missing: int,
) -> tuple[Tensor, Tensor]:
    loss = distances.new_empty(distances.shape[1:] if REDUCTIONS[reduction] == "none" else ())
    return loss, distances.new_empty(distances.shape)


@_fake_of("semi_hard")
def _(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: list[Tensor | None],
    numbers: list[int],
    distance: int,
    otherwise: int,
    within_margin: bool,
    margin: float,
    soft_margin: bool,
    with_gradient: bool,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_sums(embeddings), *_gradients(embeddings, ref_embeddings, with_gradient)


@_fake_of("semi_hard_of_triplets")
def _(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: list[Tensor | None],
    numbers: list[int],
    distance: int,
    distances: Tensor,
    triplets: Tensor,
    margin: float,
    soft_margin: bool,
    parts: list[int],
    with_gradient: bool,
    weights: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_sums(embeddings), *_gradients(embeddings, ref_embeddings, with_gradient, parts)


@_fake_of("batch_all")
def _(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: list[Tensor | None],
    numbers: list[int],
    distance: int,
    margin: float,
    soft_margin: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    candidates = embeddings.shape[0] if ref_embeddings is None else ref_embeddings.shape[0]
    often = embeddings.new_empty(candidates, dtype=torch.int64)
    return *_sums(embeddings), often, *_gradients(embeddings, ref_embeddings, with_gradient)


@_fake_of("_batch_all_backward")
def _(
    grad: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: list[Tensor | None],
    numbers: list[int],
    distance: int,
    margin: float,
    soft_margin: bool,
) -> tuple[Tensor, Tensor]:
    return _gradients(embeddings, ref_embeddings)


@_fake_of("weighted_distances")
def _(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: list[Tensor | None],
    numbers: list[int],
    distance: int,
) -> Tensor:
    return embeddings.new_empty((VALUES, embeddings.shape[0]), dtype=torch.float64)


@_fake_of("_weighted_distances_backward")
def _(
    grad: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: list[Tensor | None],
    numbers: list[int],
    distance: int,
    values: Tensor,
) -> tuple[Tensor, Tensor]:
    return _gradients(embeddings, ref_embeddings)


@_fake_of("nearest")
def _(
    queries: Tensor, references: Tensor | None, rules: list[Tensor | None], distance: int, k: int
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=torch.float64), queries.new_empty(shape, dtype=torch.int64)


@_fake_of("within")
def _(
    queries: Tensor, references: Tensor | None, rules: list[Tensor | None], distance: int, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    if queries.device.type == "meta":
        raise ValueError(
            "queries must be on a device that has values, since how many neighbours there are follows from them; got "
            "queries on meta"
        )
    t = torch.library.get_ctx().new_dynamic_size()
    offsets = queries.new_empty(queries.shape[0] + 1, dtype=torch.int64)
    return offsets, queries.new_empty(t, dtype=torch.float64), queries.new_empty(t, dtype=torch.int64)


@_fake_of("retrieval_ranks")
def _(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: list[Tensor | None],
    numbers: list[int],
    distance: int,
    at: list[int],
    count_missing: bool,
) -> Tensor:
    return embeddings.new_empty((embeddings.shape[0], COLUMNS + 2 * len(at)), dtype=torch.float64)


@_fake_of("triplet_margin_loss")
def _(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    weights: Tensor | None,
    margin: float,
    distance: int,
    swap: bool,
    soft_margin: bool,
    mining_margin: float | None,
    reduction: int,
) -> tuple[Tensor, Tensor]:
    t = anchor.shape[0]
    loss = anchor.new_empty((t,) if REDUCTIONS[reduction] == "none" else ())
    return loss, anchor.new_empty((values_kept(distance, swap), t), dtype=torch.float64)


@_fake_of("_triplet_margin_loss_backward")
def _(
    grad_loss: Tensor,
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    values: Tensor,
    distance: int,
    swap: bool,
    wants_anchor: bool,
    wants_positive: bool,
    wants_negative: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    def gradient(wanted: bool) -> Tensor:
        return anchor.new_empty(anchor.shape if wanted else (0,))

    return gradient(wants_anchor), gradient(wants_positive), gradient(wants_negative)


def _sums(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Of losses by anchor [N], and counts [2, N]."""
    n = embeddings.shape[0]
    return embeddings.new_empty(n, dtype=torch.float64), embeddings.new_empty((2, n), dtype=torch.int64)


def _gradients(
    embeddings: Tensor, ref_embeddings: Tensor | None, wanted: bool = True, parts: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """As the rows, or as the parts of them; [0] without references, and of both where they are not wanted."""

    def like(rows: Tensor | None, *part: int) -> Tensor:
        if rows is None or not wanted:
            return embeddings.new_empty(0)
        return embeddings.new_empty(rows.shape if not part else (part[1], rows.shape[1]))

    return like(embeddings, *parts[:2]), like(ref_embeddings, *parts[2:])
