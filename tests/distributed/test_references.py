"""References that every rank has for itself: only the reduction is over all ranks."""

from functools import partial

import pytest
import torch

import fasttriplet
from fasttriplet.check import DISTANCES, REDUCTIONS
from tests.distributed.ranks import sizes, whole_results
from tests.distributed.test_dense import close
from tests.distributed.test_mined import same
from tests.family import NAMES

RANKS, N, D = 2, 40, 8


def batch(rank):
    """A rank's rows, labels, references and weights."""
    count = sizes(N, RANKS, "uneven")[rank]
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(count, D, generator=generator, dtype=torch.float64)
    references = torch.randn(17 + rank, D, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (count,), generator=generator)
    weights = torch.rand(count, generator=generator, dtype=torch.float64) + 0.1
    return x, labels, references, torch.randint(0, 5, (17 + rank,), generator=generator), weights


def of_rank(name, distance, reduction, weighted, rank, group):
    x, labels, references, ref_labels, weights = batch(rank)
    leaves = [x.requires_grad_(), references.requires_grad_()]
    loss, stats = getattr(fasttriplet, f"{name}_triplet_loss")(
        x,
        labels,
        ref_embeddings=references,
        ref_labels=ref_labels,
        distance=distance,
        reduction=reduction,
        margin=0.5,
        return_stats=True,
        process_group=group,
        gradient_scale="sum",
        **({"weights": weights} if weighted else {}),
    )
    loss.sum().backward()
    return loss.detach(), stats, [leaf.grad for leaf in leaves]


def asked():
    for number, name in enumerate(NAMES):
        for other, distance in enumerate(DISTANCES):
            yield name, distance, REDUCTIONS[(number + other) % len(REDUCTIONS)], (number + other // 2) % 2 == 1


def work(ranks):
    return {f"references {each}": partial(of_rank, *each) for each in asked()} if ranks == RANKS else {}


@pytest.mark.parametrize(("name", "distance", "reduction", "weighted"), list(asked()))
def test_the_reduction_is_over_all_ranks(name, distance, reduction, weighted, found):
    """As in one process with all references, where groups keep each rank's anchors from the other's."""
    results = whole_results(found(RANKS)[f"references {(name, distance, reduction, weighted)}"])
    x, labels, references, ref_labels, weights = (
        torch.cat(each) for each in zip(*map(batch, range(RANKS)), strict=True)
    )
    leaves = [x.requires_grad_(), references.requires_grad_()]
    of_rows, of_references = (
        torch.cat([torch.full((len(batch(rank)[which]),), rank) for rank in range(RANKS)]) for which in (0, 2)
    )
    loss, stats = getattr(fasttriplet, f"{name}_triplet_loss")(
        x,
        labels,
        ref_embeddings=references,
        ref_labels=ref_labels,
        groups=1 - of_rows,
        ref_groups=of_references,
        distance=distance,
        reduction=reduction,
        margin=0.5,
        return_stats=True,
        **({"weights": weights} if weighted else {}),
    )
    loss.sum().backward()
    loss = loss.detach()
    losses = torch.cat([result[0] for result in results]) if reduction == "none" else results[0][0]
    close(losses, loss, 1e-12)
    for number, leaf in enumerate(leaves):
        close(torch.cat([result[2][number] for result in results]), leaf.grad, 1e-12)
    for loss_of_rank, told, _ in results:
        if reduction != "none":
            same(loss_of_rank, results[0][0], "loss")
        for field, value in stats._asdict().items():
            if field != "negative_counts":
                close(getattr(told, field), value, 1e-12)
    often = torch.cat([told.negative_counts for _, told, _ in results])
    same(often, stats.negative_counts, "negative_counts")
