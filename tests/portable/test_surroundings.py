"""What surrounds a call changes nothing: autocast, deterministic mode, torch.compile; and what memory it takes."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fasttriplet
from fasttriplet import engines
from fasttriplet.portable import exact, pairs
from tests.family import LOSSES

ROWS = torch.randn(60, 9, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 12, (60,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "forced", True)


def step(name: str, options: dict[str, object], embeddings=ROWS, labels=LABELS, compiled: bool = False):
    """The loss and its gradient."""
    leaf = embeddings.clone().requires_grad_()
    loss = getattr(fasttriplet, f"{name}_triplet_loss")
    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value = loss(leaf, labels, **options)
    value.backward()
    return value.detach(), leaf.grad


def assert_equal(found, expected) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_under_autocast(number):
    with torch.autocast("cpu", torch.bfloat16):
        found = step(*LOSSES[number])
    assert_equal(found, step(*LOSSES[number]))


@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_in_deterministic_mode_and_again(number):
    expected = step(*LOSSES[number])
    torch.use_deterministic_algorithms(True)
    try:
        assert_equal(step(*LOSSES[number]), expected)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_equal(step(*LOSSES[number]), expected)


@pytest.mark.parametrize("name", ["batch_hard", "k_hardest", "batch_all", "weighted"])
def test_traced_whole(name):
    assert_equal(step(name, {}, compiled=True), step(name, {}))


class _Largest(TorchDispatchMode):
    """The most entries that a tensor has while it is on."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        self.entries = max([self.entries, *sizes])
        return result


@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_no_tensor_is_larger_than_the_rows_and_a_chunk(number, monkeypatch):
    """Of 1200 x 1200 pairs, each looked at: chunks have 2^15 keys, which are padded, and the rows 9600 entries."""
    monkeypatch.setattr(pairs, "_CHUNK_ON_CPU", 2**15)
    monkeypatch.setattr(exact, "_PIECE_ON_CPU", 2**13)
    generator = torch.Generator().manual_seed(2)
    embeddings, labels = torch.randn(1200, 8, generator=generator), torch.arange(1200) // 4
    operators = torch.ops.fasttriplet
    name, options = LOSSES[number]
    largest = []
    monkeypatch.setattr(
        engines, "operator", lambda each, *_: _watched(getattr(operators, f"portable_{each}").default, largest)
    )
    for module in (
        "autograd.batch_hard",
        "autograd.mined",
        "autograd.semi_hard",
        "autograd.dense",
        "portable.semi_hard",
    ):
        monkeypatch.setattr(f"fasttriplet.{module}.operator", engines.operator)
    step(name, options, embeddings, labels)
    assert max(largest) > 2**14
    assert max(largest) <= 1.1 * 2**15


def _watched(operator, largest: list[int]):
    from fasttriplet.portable.operators import OPERATORS

    function = OPERATORS[operator._schema.name.split("portable_")[1]]

    def run(*arguments):
        with torch.no_grad(), _Largest() as watch:
            result = function(*arguments)
        largest.append(watch.entries)
        return result

    return run
