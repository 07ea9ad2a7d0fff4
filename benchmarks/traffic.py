"""What collectives carry: the bytes that a process sends and receives, counted as ``torch.distributed`` is called.

Counted is what has to travel for the result, with L the bytes that a rank passes and W ranks:

    all_gather   L to each of the others, as much from each: (W - 1) L both ways
    all_to_all   the pieces of the others, and theirs of it; no piece of its own
    scatter      the pieces of the others by the one that has them, a piece by each of these
    all_reduce   a reduce-scatter and an all_gather: 2 (W - 1) / W L both ways

A backend may send more. Any other collective is refused while counting, so that nothing travels uncounted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, NamedTuple
from unittest import mock

import torch.distributed as dist
from torch import Tensor

from fasttriplet.distributed import group as groups


class Traffic(NamedTuple):
    """Of one rank."""

    collectives: int
    sent: int  # bytes
    received: int


NOTHING = Traffic(0, 0, 0)


class Counter:
    """Of what passes by what was sent and received, collective by collective."""

    def __init__(self) -> None:
        self.bytes: list[tuple[int, int]] = []

    def add(self, sent: int, received: int) -> None:
        self.bytes.append((sent, received))

    def taken(self) -> Traffic:
        """What has passed since the last call."""
        found = Traffic(len(self.bytes), *(sum(each) for each in zip(*[(0, 0), *self.bytes], strict=True)))
        self.bytes.clear()
        return found


#: Of the functions of ``torch.distributed`` those whose names have one of these send something, or wait for others.
_CARRIES = ("gather", "reduce", "scatter", "to_all", "send", "recv", "broadcast", "barrier")


@contextlib.contextmanager
def counted() -> Iterator[Counter]:
    """Counts what this process sends and receives meanwhile, the losses' own collectives and those of others."""
    counter = Counter()
    with contextlib.ExitStack() as stack:

        def replace(module: Any, name: str, make: Callable[[Any], Any]) -> None:
            stack.enter_context(mock.patch.object(module, name, make(getattr(module, name))))

        for name, function in list(vars(dist).items()):
            carries = type(function) is FunctionType and any(word in name for word in _CARRIES)
            if carries and name not in _COUNTED:
                replace(dist, name, lambda _, name=name: _refused(name))
        replace(groups, "_all_gather", lambda real: _all_gather_single(real, counter))
        for name, make in _COUNTED.items():
            replace(dist, name, lambda real, make=make: make(real, counter))
        yield counter


def _refused(name: str) -> Callable[..., Any]:
    def run(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(f"torch.distributed.{name} is not counted here")

    return run


def _all_gather_single(real: Any, counter: Counter) -> Callable[..., Any]:
    def run(output: Tensor, own: Tensor, **where: Any) -> Any:
        counter.add(*[_bytes(output) - _bytes(own)] * 2)
        return real(output, own, **where)

    return run


def _all_gather(real: Any, counter: Counter) -> Callable[..., Any]:
    def run(outputs: Sequence[Tensor], own: Tensor, **where: Any) -> Any:
        others = len(outputs) - 1
        counter.add(others * _bytes(own), sum(map(_bytes, outputs)) - _bytes(own))
        return real(outputs, own, **where)

    return run


def _all_to_all_single(real: Any, counter: Counter) -> Callable[..., Any]:
    def run(output: Tensor, own: Tensor, *, output_split_sizes: Any, input_split_sizes: Any, group: Any) -> Any:
        rank = dist.get_rank(group)
        kept = _bytes(own) * input_split_sizes[rank] // max(1, sum(input_split_sizes))
        counter.add(_bytes(own) - kept, _bytes(output) - kept)
        return real(
            output, own, output_split_sizes=output_split_sizes, input_split_sizes=input_split_sizes, group=group
        )

    return run


def _scatter(real: Any, counter: Counter) -> Callable[..., Any]:
    def run(output: Tensor, pieces: Sequence[Tensor] | None, source: int, **where: Any) -> Any:
        if pieces is None:
            counter.add(0, _bytes(output))
        else:
            counter.add(sum(map(_bytes, pieces)) - _bytes(output), 0)
        return real(output, pieces, source, **where)

    return run


def _all_reduce(real: Any, counter: Counter) -> Callable[..., Any]:
    def run(own: Tensor, *arguments: Any, group: Any, **how: Any) -> Any:
        ranks = dist.get_world_size(group)
        counter.add(*[2 * (ranks - 1) * _bytes(own) // ranks] * 2)
        return real(own, *arguments, group=group, **how)

    return run


_COUNTED = {
    "all_gather": _all_gather,
    "all_to_all_single": _all_to_all_single,
    "scatter": _scatter,
    "all_reduce": _all_reduce,
}


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _blocks(*lengths: int) -> int:
    """Of what travels in one payload each begins at a multiple of 16 bytes."""
    return sum(-(-length // 16) * 16 for length in lengths)


#: By loss what a rank sends each other one on the way forward, with n rows a rank and, of semi-hard, T pairs.
FORMULAS = {
    "batch-hard": "32 + (4 D + 8) n + 28 n",
    "semi-hard": "32 + (4 D + 8) n + 8 + 28 T",
    "batch-all": "32 + (4 D + 8) n + 24 n",
    "weighted": "32 + (4 D + 8) n + 16 n",
}
#: And on the way back.
FORMULAS_BACK = {"batch-hard": "0", "semi-hard": "0", "batch-all": "4 D n", "weighted": "4 D n"}


def expected(loss: str, ranks: int, n: int, d: int, pairs: int) -> tuple[Traffic, Traffic]:
    """What a step sends forward and backward: float32 rows, int64 labels, ``n`` rows on every rank, and on the one with
    most of them ``pairs`` ordered positive pairs. A rank alone asks whether it is, and nothing more."""
    if ranks == 1:
        return Traffic(1, 0, 0), NOTHING
    header, rows = 4 * 8, _blocks(4 * n * d, 8 * n)
    after = {
        "batch-hard": [_blocks(16 * n, 12 * n)],  # the triplets
        "semi-hard": [8, _blocks(16 * pairs, 12 * pairs)],  # how many there are, then these
        "batch-all": [_blocks(8 * n, 16 * n)],  # sums and counts by anchor
        "weighted": [_blocks(16 * n)],
    }[loss]
    forward = (ranks - 1) * (header + rows + sum(after))
    back = (ranks - 1) * 4 * n * d if FORMULAS_BACK[loss] != "0" else 0
    return Traffic(2 + len(after), forward, forward), Traffic(int(FORMULAS_BACK[loss] != "0"), back, back)
