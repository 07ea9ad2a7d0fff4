"""Batches large enough for several blocks of edges, for tensors that threads share, and for the screens' tiles."""

from functools import partial

import pytest
import torch

import fasttriplet
from tests.distributed.ranks import sizes, whole_results
from tests.distributed.test_mined import same

RANKS = 2
#: By name the loss, rows, columns, classes and options. 1500 rows of two classes have 1.1 million positive pairs.
CASES = {
    "blocks of edges": ("semi_hard", 1500, 4, 2, {}),
    "blocks of edges, weighted": ("semi_hard", 1500, 4, 2, {"soft_margin": True, "weighted": True}),
    "long tensors": ("semi_hard", 12_000, 4, 3000, {"soft_margin": True, "weighted": True, "return_stats": True}),
    "batch-hard": ("batch_hard", 4000, 64, 1000, {"return_stats": True}),
    "k hardest": ("k_hardest", 3000, 16, 300, {"k": 20, "skip_fraction": 0.1, "weighted": True}),
}


def computed(name, own, **more):
    loss_name, n, d, classes, options = CASES[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    weights = torch.rand(n, generator=generator)
    told = {key: value for key, value in options.items() if key != "weighted"}
    leaves = [x[own].clone().requires_grad_()]
    if options.get("weighted"):
        leaves.append(weights[own].clone().requires_grad_())
        told["weights"] = leaves[1]
    result = getattr(fasttriplet, f"{loss_name}_triplet_loss")(leaves[0], labels[own], margin=0.5, **told, **more)
    loss, stats = result if options.get("return_stats") else (result, ())
    loss.backward()
    return [loss.detach(), *stats], [leaf.grad for leaf in leaves]


def of_rank(name, rank, group):
    shares = sizes(CASES[name][1], RANKS, "uneven")
    own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
    return computed(name, own, process_group=group, gradient_scale="sum")


def work(ranks):
    return {f"large {name}": partial(of_rank, name) for name in CASES} if ranks == RANKS else {}


@pytest.mark.parametrize("name", CASES)
def test_all_is_as_in_one_process(name, found):
    results = whole_results(found(RANKS)[f"large {name}"])
    values, gradients = computed(name, slice(None))
    for of_rank_values, _ in results:
        for number, (value, expected) in enumerate(zip(of_rank_values, values, strict=True)):
            same(value, expected, f"value {number}")
    for number, gradient in enumerate(gradients):
        same(torch.cat([each[number] for _, each in results]), gradient, f"gradient {number}")
