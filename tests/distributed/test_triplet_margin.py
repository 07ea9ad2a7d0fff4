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


def weights_of_many_dtypes(rank, group):
    tensors, weights = rows(CASES[0] | {"spoilt": False})
    own = slice(T * rank // RANKS, T * (rank + 1) // RANKS)
    kind = (torch.float32, torch.float64, torch.bfloat16)[rank]
    anchor, positive, negative = (tensor[own].double() for tensor in tensors)
    told = dict(weights=weights[own].bfloat16().to(kind), process_group=group)
    return fasttriplet.triplet_margin_loss(anchor, positive, negative, **told)


def transformed(rank, group):
    def loss(x):
        return fasttriplet.triplet_margin_loss(x, x.flip(0), x.roll(1, 0), process_group=group)

    with pytest.raises(NotImplementedError) as raised:
        torch.func.grad(loss)(torch.randn(4, 3))
    return str(raised.value)


def options_that_differ(rank, group):
    x = torch.randn(4, 3)
    raised = []
    for alone in ({"distance": "cosine"}, {"reduction": "sum"}, {"margin": 0.5}, {"gradient_scale": "sum"}):
        try:
            fasttriplet.triplet_margin_loss(x, x, x, process_group=group, **(alone if rank == 1 else {}))
        except ValueError as error:
            raised.append(str(error))
    return raised


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
    return {
        **asked_for,
        "explicit averaged": averaged,
        "explicit weights": weights_of_many_dtypes,
        "explicit transformed": transformed,
        "explicit options": options_that_differ,
        "explicit disagreeing": disagreeing,
    }


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


def test_ranks_may_have_weights_of_different_dtypes(found):
    tensors, weights = rows(CASES[0] | {"spoilt": False})
    expected = fasttriplet.triplet_margin_loss(*(tensor.double() for tensor in tensors), weights=weights.bfloat16())
    for loss in whole_results(found(RANKS)["explicit weights"]):
        same(loss, expected, "loss")


def test_transforms_are_refused_by_name(found):
    for text in whole_results(found(RANKS)["explicit transformed"]):
        assert text.startswith("process_group must be None under a transform of torch.func")


def test_options_are_told_by_name_and_value(found):
    told = ("distance", "euclidean", "cosine"), ("reduction", "mean", "sum"), ("margin", "1.0", "0.5")
    for raised in whole_results(found(RANKS)["explicit options"]):
        assert len(raised) == 4 and raised[3].startswith("gradient_scale must be the same")
        for (name, usual, other), text in zip(told, raised[:3], strict=True):
            rank = f"got {usual} on rank 0 and {other} on rank 1"
            assert text == f"{name} must be the same on every rank of process_group; {rank}"
