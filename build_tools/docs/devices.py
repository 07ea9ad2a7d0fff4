"""Writes ``docs/devices.md``: which engine serves what on which device, as the package chooses, and what a run showed.

``python -m build_tools.docs.devices`` writes the page; ``tests/test_devices_page.py`` compares it with what a run says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import fasttriplet
from benchmarks.measure import table
from build_tools.docs.family import (
    OPTIONS,
    ROOT,
    Inputs,
    Member,
    agree,
    batch,
    call,
    family,
    results,
    second_derivatives,
    triplets,
)
from build_tools.docs.serving import CUDA, DEVICES, Call, by_portable_engine, calls_of, engine_of, every_use, word
from fasttriplet import engines
from fasttriplet.check import DISTANCES
from fasttriplet.portable.pairs import _CHUNK as CHUNK
from fasttriplet.portable.pairs import _CHUNK_ON_CPU as CHUNK_ON_CPU
from fasttriplet.schemas import SCHEMAS

PAGE = ROOT / "docs" / "devices.md"
TEXT = Path(__file__).with_name("devices.txt")
FIGURES = ROOT / "benchmarks" / "results" / "portable.md"

#: Of the portable engine beside the CPU's kernels, as a share of the norm; sums of float32 rows are the kernels' own.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}

#: Miners by themselves, beside the losses.
MINERS = ("mine_batch_hard", "mine_semi_hard", "mine_easy_positive", "mine_k_hardest")

Make = Callable[[torch.Generator], Inputs]


# What is called.


def loss_calls(member: Member, make: Make, **more: object) -> list[Call]:
    inputs = make(torch.Generator().manual_seed(1))
    function = getattr(fasttriplet, member.function)
    return calls_of(lambda: results(function, inputs, {**member.keywords, **more}, torch.float32))


def miner_calls(name: str, make: Make) -> list[Call]:
    inputs = make(torch.Generator().manual_seed(1))
    return calls_of(lambda: call(getattr(fasttriplet, name), inputs, inputs.tensors, {}))


def plain(member: Member) -> Make:
    return triplets if member.explicit else batch


# Agreement with the CPU's kernels.


def same_bits(ours: Tensor, theirs: Tensor) -> bool:
    """Not of a NaN, which has many."""
    if ours.dtype != torch.float64:
        return torch.equal(ours, theirs)
    known = ~theirs.isnan()
    same = torch.equal(ours.view(torch.int64)[known], theirs.view(torch.int64)[known])
    return same and torch.equal(known, ~ours.isnan())


#: Of what an operator returns, what must have the same bits from each engine; by default nothing.
EXACT: dict[str, Callable[..., list[Tensor]]] = {
    "mine_batch_hard": lambda distances, positives, negatives: [distances, positives, negatives],
    "mine_triplets": lambda distances, triplets: [distances, triplets],
    "batch_hard_loss": lambda loss, values, pairs: [values[1:], pairs],
    "semi_hard": lambda sums, counts, *_: [sums, counts],  # which hinges of other pairs would not have
    "batch_all": lambda sums, counts, negative_counts, *_: [counts, negative_counts],
    "triplet_margin_loss": lambda loss, values: [values[1:3]],
}


def exact(one: Call) -> bool | None:
    """Whether both engines give the same bits; None where they need not."""
    if one.name not in EXACT:
        return None
    with mock.patch.object(engines, "fallback", "silent"):
        kernel, portable = (
            EXACT[one.name](*getattr(torch.ops.fasttriplet, name)(*one.arguments))
            for name in (one.name, engines.PORTABLE + one.name)
        )
    return all(map(same_bits, portable, kernel))


def cell(member: Member, distance: str, make: Make) -> str:
    """``P``, ``L``, ``G``, ``S`` for what agrees, or ``differs``."""
    function, keywords = getattr(fasttriplet, member.function), {"distance": distance, **member.keywords}
    inputs = make(torch.Generator().manual_seed(1))
    pairs: list[bool | None] = []
    agreed: list[list[bool]] = []
    for dtype, tolerance in TOLERANCE.items():
        kernels = results(function, inputs, keywords, dtype)
        found: list[Tensor] = []
        calls = calls_of(lambda dtype=dtype, found=found: found.extend(results(function, inputs, keywords, dtype)))
        pairs += map(exact, calls)
        agreed.append(agree(found, [each.double() for each in kernels], tolerance))
    said = "P" if True in pairs and False not in pairs else ""
    said += "L" if all(loss for loss, *_ in agreed) else ""
    said += "G" if all(all(gradients) for _, *gradients in agreed) else ""
    if False in pairs or "LG" not in said:
        return "differs"
    return said + ("S" if twice(function, inputs, keywords) else "")


def twice(function: Callable[..., Any], inputs: Inputs, keywords: dict[str, Any]) -> bool:
    try:
        kernels = second_derivatives(function, inputs, keywords)
        with by_portable_engine():
            return all(agree(second_derivatives(function, inputs, keywords), kernels, TOLERANCE[torch.float64]))
    except RuntimeError:  # once differentiable
        return False


# The page.


def devices_table(members: list[Member]) -> str:
    rows = []
    for member in members:
        calls = loss_calls(member, plain(member))
        rows.append([member.title, *(word(calls, device) for device in DEVICES)])
    for name in MINERS:
        calls = miner_calls(name, batch)
        rows.append([f"`{name}`", *(word(calls, device) for device in DEVICES)])
    return table(["", *(device.title for device in DEVICES)], rows)


def reasons() -> str:
    """Why a device has no kernels at all, of an operator that has one on CUDA."""
    some = Call("mine_batch_hard", (), ())
    found = [(device.title, engine_of(some, device)) for device in DEVICES]
    return "".join(f"- {title}: {engine.why}.\n" for title, engine in found if engine.why)


def cuda_table(members: list[Member]) -> str:
    """What a batch may use before a loss leaves its kernels."""
    heads = ["", "labels [N]", *OPTIONS, "`return_stats`"]
    rows = []
    for member in (each for each in members if "return_stats" not in each.keywords):  # a column here
        if member.explicit:  # no pairing, and nothing to tell
            words = [word(loss_calls(member, triplets), CUDA)]
        else:
            words = [word(loss_calls(member, make), CUDA) for make in [batch, *OPTIONS.values()]]
            words.append(word(loss_calls(member, batch, return_stats=True), CUDA))
        rows.append([member.title, *words, *[""] * (len(heads) - 1 - len(words))])
    for name in MINERS:
        makes = [make for option, make in OPTIONS.items() if option != "`weights`"]
        words = [word(miner_calls(name, make), CUDA) for make in [batch, *makes]]
        rows.append([f"`{name}`", *words, *[""] * (len(heads) - 1 - len(words))])
    return table(heads, rows)


def operators_table() -> str:
    rows = []
    for name in SCHEMAS:
        kernel = engine_of(Call(name, (), ()), CUDA).name == "cuda"
        uses = [use for use in every_use(name) if kernel and engine_of(Call(name, (use,), ()), CUDA).name == "cuda"]
        more = [f"`{use}`" if use.isidentifier() else use for use in uses]
        if kernel and name == "mine_triplets":
            more.insert(0, "the miner batch_hard")  # the one that is no use beyond others
        if kernel and "labels" in SCHEMAS[name] and not more:
            more = ["nothing"]
        rows.append([f"`{name}`", "kernel" if kernel else "portable", ", ".join(more)])
    return table(["operator", "on CUDA", "its kernel serves, beside labels [N]"], rows)


def agreement_tables(members: list[Member]) -> tuple[str, str]:
    distances = [[m.title, *(cell(m, d, plain(m)) for d in DISTANCES)] for m in members]
    options = [[m.title, *(cell(m, "euclidean", make) for make in OPTIONS.values())] for m in members if not m.explicit]
    return table(["", *(f"`{d}`" for d in DISTANCES)], distances), table(["", *OPTIONS], options)


def figures() -> str:
    if FIGURES.exists():
        return (
            "[What it takes on the CPU](performance/portable.md), beside other libraries and the kernels, is measured."
        )
    return "Nothing has been measured for this page yet; `python -m benchmarks.portable` measures it."


def page() -> str:
    members = family()
    distances, options = agreement_tables(members)
    return TEXT.read_text().format(
        devices=devices_table(members),
        reasons=reasons(),
        cuda=cuda_table(members),
        operators=operators_table(),
        distances=distances,
        options=options,
        tolerance64=f"{TOLERANCE[torch.float64]:g}",
        tolerance32=f"{TOLERANCE[torch.float32]:g}",
        figures=figures(),
        chunk_cpu=f"2^{CHUNK_ON_CPU.bit_length() - 1}",
        chunk=f"2^{CHUNK.bit_length() - 1}",
    )


if __name__ == "__main__":
    PAGE.write_text(page())
