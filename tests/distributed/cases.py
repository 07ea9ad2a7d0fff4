"""Losses and miners on batches in pieces: what a rank computes of its own, and one process of the whole."""

from __future__ import annotations

import os
import random
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fasttriplet
from tests.distributed.ranks import sizes
from tests.family import DENSE, MINED
from tests.inputs import CASES, DISTANCES, ON_MISSING, PAIRINGS, REDUCTIONS, batch, pair_up

#: Of processes.
RANKS = (1, 2, 3, 4)
#: Whether everything is tried: ``make test-distributed``.
LONG = bool(os.environ.get("FASTTRIPLET_LONG_TESTS"))
SPLITS = ("even", "uneven", "empty", "alone")
#: Without references, and with a shard of them on every rank.
OF_BATCH = tuple(
    name for name in PAIRINGS if "ref_embeddings" not in pair_up(name, torch.zeros(9, 2), torch.arange(9))[1]
)
SHARDED = ("shards", "shards-own-copies", "shards-everything")
BATCHES = (
    "gauss-97x33",
    "edge-25",
    "one-class",
    "integers",
    "binary",
    "all-equal",
    "duplicates",
    "zero-rows",
    "six-decades",
)


class Case(NamedTuple):
    """What is computed; ``split`` says which rows each rank has."""

    name: str  # of the loss
    choices: dict[str, Any]
    distance: str
    pairing: str
    of: str  # batch
    dtype: torch.dtype
    split: str
    options: dict[str, Any]

    @property
    def title(self) -> str:
        words = [f"{name}={value}" for name, value in {**self.choices, **self.options}.items()]
        kind = str(self.dtype).removeprefix("torch.")
        return "-".join([self.name, self.distance, self.pairing, self.of, kind, self.split, *words])


def cases(seed: int, dense: bool, share: float = 1.0) -> list[Case]:
    """Every loss with every distance and every pairing; what else there is to choose by chance."""
    chance = random.Random(seed)
    result = []
    for name, choices in DENSE if dense else MINED:
        for distance in DISTANCES:
            for pairing in (*OF_BATCH, *SHARDED):
                options = {
                    "reduction": chance.choice(REDUCTIONS),
                    "on_missing": chance.choice(ON_MISSING[:2]),
                    "soft_margin": chance.random() < 0.3,
                    "return_stats": chance.random() < 0.3,
                    "weighted": chance.choice(("no", "no", "yes", "learnt")),
                }
                dtype = chance.choice((torch.float32, torch.float32, torch.float64, torch.bfloat16))
                case = Case(
                    name, choices, distance, pairing, chance.choice(BATCHES), dtype, chance.choice(SPLITS), options
                )
                if chance.random() < share:
                    result.append(case)
    return result


class Whole(NamedTuple):
    """A batch in rank order, and how it is split."""

    embeddings: Tensor
    labels: Tensor
    arguments: dict[str, Any]
    rows: list[int]
    references: list[int]
    weights: Tensor | None


def whole(case: Case, ranks: int) -> Whole:
    """The batch of a case; references are in shards, with each anchor's own copy in the shard of its rank."""
    found = next(each for each in CASES if each.name == case.of)
    embeddings, labels = batch(found, case.dtype)
    rows = sizes(len(embeddings), ranks, case.split)
    weights = None
    if case.options["weighted"] != "no":
        weights = torch.rand(len(labels), generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    if case.pairing in OF_BATCH:
        labels, arguments = pair_up(case.pairing, embeddings, labels)
        return Whole(embeddings, labels, arguments, rows, [0] * ranks, weights)
    numbers, parts, copies, first, before = torch.arange(len(embeddings)), [], [], 0, 0
    for rank, count in enumerate(rows):
        own = numbers[first : first + count]
        shard = torch.cat([numbers[rank :: ranks + 2].flip(0), own])
        copies.append(torch.where(own % 5 == 4, -1, before + len(shard) - count + torch.arange(count)))
        parts.append(shard)
        first, before = first + count, before + len(shard)
    chosen = torch.cat(parts)
    arguments = dict(ref_embeddings=embeddings[chosen].clone(), ref_labels=labels[chosen])
    if case.pairing != "shards":
        arguments["self_indices"] = torch.cat(copies)
    if case.pairing == "shards-everything":
        arguments.update(groups=numbers % 4, ref_groups=(3 * chosen) % 5, ref_mask=chosen % 6 != 5)
        arguments.update(sample_ids=numbers % 9 - 1, ref_sample_ids=(2 * chosen) % 9 - 1)
        arguments.update(groups_exclude="positives", ignore_index=int(labels.max()))
    return Whole(embeddings, labels, arguments, rows, [len(part) for part in parts], weights)


def part(of: Whole, rank: int) -> tuple[Tensor, Tensor, dict[str, Any], Tensor | None]:
    """A rank's embeddings, labels, arguments and weights."""
    first, before = sum(of.rows[:rank]), sum(of.references[:rank])
    own, shard = slice(first, first + of.rows[rank]), slice(before, before + of.references[rank])
    arguments = {}
    for name, value in of.arguments.items():
        if isinstance(value, Tensor):
            value = value[shard] if name.startswith("ref_") else value[own]
        arguments[name] = value
    if "self_indices" in arguments:
        copies = arguments["self_indices"]
        arguments["self_indices"] = torch.where(copies < 0, -1, copies - before)
    return of.embeddings[own], of.labels[own], arguments, None if of.weights is None else of.weights[own]


def computed(
    case: Case, embeddings: Tensor, labels: Tensor, arguments: dict[str, Any], weights: Tensor | None, **more: Any
) -> dict[str, Any]:
    """Loss, statistics and gradients, and what the miner says."""
    leaves = {"embeddings": embeddings.detach().clone().requires_grad_()}
    arguments = dict(arguments)
    if "ref_embeddings" in arguments:
        leaves["ref_embeddings"] = arguments["ref_embeddings"].detach().clone().requires_grad_()
        arguments["ref_embeddings"] = leaves["ref_embeddings"]
    options = {name: value for name, value in case.options.items() if name != "weighted"}
    if weights is not None:
        leaves["weights"] = weights.detach().clone().requires_grad_(case.options["weighted"] == "learnt")
        options["weights"] = leaves["weights"]
    function = getattr(fasttriplet, f"{case.name}_triplet_loss")
    scale = {"gradient_scale": "sum"} if "process_group" in more else {}
    result = function(
        leaves["embeddings"], labels, distance=case.distance, **case.choices, **options, **arguments, **more, **scale
    )
    loss, stats = result if case.options["return_stats"] else (result, None)
    loss.backward(_upstream(loss))
    found: dict[str, Any] = {"loss": loss.detach(), "stats": stats}
    found.update((name, leaf.grad) for name, leaf in leaves.items() if leaf.requires_grad)
    miner = getattr(fasttriplet, f"mine_{case.name}", None)
    if miner is not None:
        arguments = {name: value.detach() if isinstance(value, Tensor) else value for name, value in arguments.items()}
        found["mined"] = miner(
            embeddings, labels, distance=case.distance, **case.choices, **arguments, **more
        )._asdict()
    return found


def _upstream(loss: Tensor) -> Tensor:
    """Of a loss by triplet another number for each, from its value: a rank does not know where its first one is."""
    return torch.tensor(3.0, dtype=loss.dtype) if loss.dim() == 0 else 1 + loss.detach()


def of_rank(case: Case, ranks: int, rank: int, group: Any) -> dict[str, Any]:
    return computed(case, *part(whole(case, ranks), rank), process_group=group, ref_sharded=case.pairing in SHARDED)


def of_one_process(case: Case, ranks: int) -> dict[str, Any]:
    found = whole(case, ranks)
    return computed(case, found.embeddings, found.labels, found.arguments, found.weights)
