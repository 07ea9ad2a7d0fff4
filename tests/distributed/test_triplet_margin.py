"""Explicit triplets of several processes: to the bit what one process with all of them has."""

import random
from functools import partial

import pytest
import torch

import fasttriplet
from fasttriplet.check import DISTANCES, REDUCTIONS
from tests.distributed.ranks import sizes, whole_results
from tests.distributed.test_mined import same

RANKS, T = 3, 60


def asked():
    chance = random.Random(0)
    for distance in DISTANCES:
        for reduction in REDUCTIONS:
            for soft_margin in (False, True):
                yield dict(
                    distance=distance,
                    reduction=reduction,
                    soft_margin=soft_margin,
                    swap=chance.random() < 0.5,
                    mining_margin=chance.choice((None, 0.2)),
                    weighted=chance.random() < 0.5,
                    dtype=chance.choice((torch.float32, torch.float64, torch.bfloat16)),
                    spoilt=chance.random() < 0.2,
                    split=chance.choice(("even", "uneven", "empty", "alone")),
                )


CASES = list(asked())


def rows(case):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(T, 7, generator=generator, dtype=torch.float64).to(case["dtype"]) for _ in range(3)]
    if case["spoilt"]:
        tensors[1][5, 2] = torch.inf
    return tensors, torch.rand(T, generator=generator) + 0.1


def computed(case, own, **more):
    tensors, weights = rows(case)
    leaves = [tensor[own].clone().requires_grad_() for tensor in tensors]
    told = {name: case[name] for name in ("distance", "reduction", "soft_margin", "swap", "mining_margin")}
    loss = fasttriplet.triplet_margin_loss(*leaves, weights=weights[own] if case["weighted"] else None, **told, **more)
    loss.backward(torch.tensor(3.0, dtype=loss.dtype) if loss.dim() == 0 else 1 + loss.detach())
    return loss.detach(), [leaf.grad for leaf in leaves]


def of_rank(number, rank, group):
    shares = sizes(T, RANKS, CASES[number]["split"])
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    return computed(CASES[number], own, process_group=group, gradient_scale="sum")


def averaged(rank, group):
    """Under "mean" the gradient is that of the loss times the ranks."""
    loss = fasttriplet.TripletMarginLoss(process_group=group)
    x = torch.arange(12.0).reshape(3, 4).sin().requires_grad_()
    loss(x, x.detach().flip(0), x.detach().roll(1, 0)).backward()
    return x.grad


def disagreeing(rank, group):
    x = torch.randn(4, 3 if rank == 1 else 2)
    try:
        fasttriplet.triplet_margin_loss(x, x, x[:2] if rank == 2 else x, process_group=group)
    except ValueError as error:
        return str(error)


def work(ranks):
    if ranks != RANKS:
        return {}
    asked_for = {f"explicit {number}": partial(of_rank, number) for number in range(len(CASES))}
    return {**asked_for, "explicit averaged": averaged, "explicit disagreeing": disagreeing}


@pytest.mark.parametrize("number", range(len(CASES)))
def test_all_is_as_in_one_process(number, found):
    results = whole_results(found(RANKS)[f"explicit {number}"])
    loss, gradients = computed(CASES[number], slice(None))
    if loss.dim() == 0:
        for of_rank_loss, _ in results:
            same(of_rank_loss, loss, "loss")
    else:
        same(torch.cat([each for each, _ in results]), loss, "loss")
    for which, gradient in enumerate(gradients):
        same(torch.cat([each[which] for _, each in results]), gradient, f"gradient {which}")


def test_the_gradient_for_averages(found):
    x = torch.arange(12.0).reshape(3, 4).sin().repeat(RANKS, 1).requires_grad_()
    others = [torch.arange(12.0).reshape(3, 4).sin() for _ in range(2)]
    others = [others[0].flip(0).repeat(RANKS, 1), others[1].roll(1, 0).repeat(RANKS, 1)]
    fasttriplet.triplet_margin_loss(x, *others).backward()
    for gradient in whole_results(found(RANKS)["explicit averaged"]):
        torch.testing.assert_close(gradient, RANKS * x.grad[:3])


def test_what_is_wrong_on_one_rank_is_an_error_on_all(found):
    for text in whole_results(found(RANKS)["explicit disagreeing"]):
        assert text.endswith("(on rank 2 of process_group)") and "one shape [T, D]" in text
