"""Batches of more kinds of rows, labels and group together, than are looked at in one go: who pairs with whom."""

import time

import pytest
import torch

import fasttriplet
from fasttriplet import reference
from tests.engine import host_only
from tests.family import mine

N = 530  # kinds are looked at 64 and 512 at a time
MINERS = (
    ("batch_hard", {}),
    ("easy_positive", {"negatives": "semi_hard"}),
    ("k_hardest", {"k": 3, "skip_fraction": 0.1}),
    ("semi_hard", {}),
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def several(n, classes, seed=0, most=3):
    """[n, classes] one to ``most`` labels a row."""
    scores = torch.rand(n, classes, generator=generator(seed))
    ranks = scores.argsort(1).argsort(1)
    return ranks < torch.randint(1, most + 1, (n, 1), generator=generator(seed + 1))


def numbers(n, count, seed=0):
    return torch.randint(count, (n,), generator=generator(seed))


def labellings():
    """By name labels of N rows, and other arguments of the pairing."""
    people = torch.arange(N) // 4
    wide = several(N, 300)
    every_other_word = torch.zeros(N, 2, dtype=torch.bool)
    every_other_word[torch.arange(N), torch.arange(N) // 64 % 2] = True
    apart = dict(groups=torch.arange(N))  # a kind each
    return {
        "few groups": (people, dict(groups=numbers(N, 6))),
        "few groups, positives": (people, dict(groups=numbers(N, 6), groups_exclude="positives")),
        "many groups": (people, dict(groups=torch.arange(N) % 40 - 20)),  # a kind each
        "many groups, positives": (
            torch.arange(N) // 40,
            dict(groups=torch.arange(N) % 39, groups_exclude="positives"),
        ),
        "two labels among 300": (wide, {}),
        "two labels among 20": (several(N, 20), {}),
        "half of 64 labels": (torch.rand(N, 64, generator=generator()) < 0.5, {}),
        "a label for all": (torch.cat([wide, torch.ones(N, 1, dtype=torch.bool)], 1), {}),
        "words of kinds": (every_other_word, dict(apart, groups_exclude="positives")),
        "no labels for half": (wide & (torch.arange(N) % 2 == 0)[:, None], {}),
        "labels and groups": (several(N, 30), dict(groups=numbers(N, 7))),
        "labels and groups, positives": (several(N, 30), dict(groups=numbers(N, 7), groups_exclude="positives")),
    }


def of_references(labels, arguments):
    """The same labelling for references, shuffled, of which some have what no anchor has."""
    order = torch.randperm(N, generator=generator(5))
    others = labels[order].clone()
    if others.dim() == 1:
        others[::9] += 10**6
    given = dict(arguments, ref_labels=others, self_indices=torch.where(torch.arange(N) % 5 == 0, -1, order.argsort()))
    if "groups" in arguments:
        given["ref_groups"] = arguments["groups"][order] + (torch.arange(N) % 11 == 0)
    return order, given


@pytest.mark.parametrize(("with_references", "ties"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("name", list(labellings()))
def test_who_pairs_with_whom(name, ties, with_references):
    labels, arguments = labellings()[name]
    rows = torch.randn(N, 6, generator=generator(7))
    if ties:  # of which many are equal, too
        rows = torch.randint(3, (N, 4), generator=generator(8)).float()
    if with_references:
        order, arguments = of_references(labels, arguments)
        arguments["ref_embeddings"] = rows[order]
    arguments["sample_ids"] = torch.where(torch.arange(N) % 7 == 6, -1, torch.arange(N) // 2)
    if with_references:
        arguments["ref_sample_ids"] = torch.where(torch.arange(N) % 3 == 0, -1, order // 2)
    few = reference.batch_of(rows, labels, **arguments).positive.sum() < 15_000  # else too much for the reference
    for miner, options in MINERS:
        if miner == "semi_hard" and not few:
            continue
        found, expected = (
            mine(module, miner, rows, labels, **options, **arguments) for module in (fasttriplet, reference)
        )
        assert torch.equal(found.positives, expected.positives), miner
        assert torch.equal(found.negatives, expected.negatives), miner
    for loss in ("batch_all", "weighted") if few else ():
        options = dict(soft_margin=loss == "batch_all", return_stats=True, **arguments)
        both = [getattr(module, f"{loss}_triplet_loss")(rows, labels, **options) for module in (fasttriplet, reference)]
        torch.testing.assert_close(*(value for value, _ in both), rtol=1e-5, atol=1e-6)
        assert torch.equal(*(stats.negative_counts for _, stats in both)), loss


def least_seconds(runs, rounds=4):
    """Of each, run in turn."""
    least = [float("inf")] * len(runs)
    for _ in range(rounds):
        for number, run in enumerate(runs):
            start = time.perf_counter()
            run()
            least[number] = min(least[number], time.perf_counter() - start)
    return least


@host_only
def test_many_kinds_cost_hardly_more_than_plain_labels():
    """Where each anchor asked every kind these took 4 to 16 times as long."""
    n = 4000
    rows, people = torch.randn(n, 64, generator=generator()), torch.randperm(n, generator=generator()) // 4
    half = torch.rand(n, 64, generator=generator()) < 0.5
    runs = [
        lambda: fasttriplet.mine_batch_hard(rows, people, ignore_index=-1),
        lambda: fasttriplet.mine_batch_hard(rows, people, groups=numbers(n, 6)),
        lambda: fasttriplet.mine_batch_hard(rows, several_of_1000),
        lambda: fasttriplet.mine_batch_hard(rows, half),
    ]
    several_of_1000 = several(n, 1000)
    plain, *others = least_seconds(runs)
    assert max(others) < 3.5 * plain, (plain, others)
