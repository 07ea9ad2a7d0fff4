"""Distances of pairs of rows, and of all pairs."""

import torch
from torch import Tensor

DISTANCES = ("euclidean", "squared_euclidean", "cosine", "inner_product")


def check(name: str, value: str, choices: tuple[str, ...]) -> None:
    """A specification must not take a misspelt name for another."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def unit_rows(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by their norm [N, D], and which rows are zero [N]; those are returned as rows of equal entries.

    A row whose norm is below the smallest normal number counts as zero. Dividing by the largest entry first keeps the
    squares of huge and tiny rows inside the range of the dtype.
    """
    tiny = torch.finfo(embeddings.dtype).tiny
    magnitudes = torch.nn.functional.pad(embeddings.detach().abs(), (1, 0))  # a zero more, for D = 0
    scaled = embeddings / magnitudes.amax(1, keepdim=True).clamp_min(tiny)
    zero = scaled.detach().norm(dim=1) < 1
    scaled = torch.where(zero[:, None], torch.ones_like(scaled), scaled)  # nothing flows back through a constant
    return scaled / scaled.norm(dim=1, keepdim=True), zero


def paired_distances(
    embeddings: Tensor, first: Tensor, second: Tensor, distance: str, references: Tensor | None = None
) -> Tensor:
    """Differentiable distances [K] of the pairs of rows ``(first[k], second[k])``; zero gradient at distance zero.

    ``second`` counts the rows of ``references`` where those are given.
    """
    check("distance", distance, DISTANCES)
    others = embeddings if references is None else references
    if distance == "inner_product":
        return -(embeddings[first] * others[second]).sum(1)
    if distance == "cosine":
        unit, zero = unit_rows(embeddings)
        other_unit, other_zero = (unit, zero) if references is None else unit_rows(references)
        # 1 - cos of unit rows is half the squared difference, without cancellation; the cosine of a zero row is 0.
        halves = (unit[first] - other_unit[second]).square().sum(1) / 2
        return torch.where(zero[first] | other_zero[second], torch.ones_like(halves), halves)
    squared = (embeddings[first] - others[second]).square().sum(1)
    if distance == "squared_euclidean":
        return squared
    same = squared == 0
    return torch.where(same, squared, torch.where(same, torch.ones_like(squared), squared).sqrt())


def pairwise_distances(embeddings: Tensor, distance: str = "euclidean", references: Tensor | None = None) -> Tensor:
    """Distance matrix [N, N], or [N, M] to ``references``; a row that is not finite is at distance NaN from every row.

    Differentiable once for ``"euclidean"``, twice for the others.
    """
    check("distance", distance, DISTANCES)
    others = embeddings if references is None else references
    if distance == "euclidean":
        matrix = torch.cdist(embeddings, others, compute_mode="donot_use_mm_for_euclid_dist")
    else:
        matrix = all_pairs(embeddings, distance, references)
    finite = embeddings.isfinite().all(1)
    return torch.where(finite[:, None] & others.isfinite().all(1), matrix, torch.nan)


def all_pairs(embeddings: Tensor, distance: str, references: Tensor | None = None) -> Tensor:
    """Distances [N, M] by differences, differentiable twice; some anchors at a time, to bound the copies of rows.

    A matrix product, or the square of a root, would tie or part what should not.
    """
    n, m = len(embeddings), len(embeddings if references is None else references)
    anchors, everyone = (torch.arange(size, device=embeddings.device) for size in (n, m))
    some = max(1, 2**22 // max(1, m * embeddings.shape[1]))
    blocks = [
        paired_distances(
            embeddings, block.repeat_interleave(m), everyone.repeat(len(block)), distance, references
        ).view(len(block), m)
        for block in anchors.split(some)
    ]
    return torch.cat(blocks)
