"""Processes that share a batch, over gloo: started once for a number of ranks, with all that is asked of them.

What a rank finds, or the error it raises, comes back by name. Collectives time out, and what fails in one case leaves
the next a process group of its own, so that a rank which never comes is the failure of one test.
"""

from __future__ import annotations

import gc
import tempfile
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

PATIENCE = timedelta(seconds=60)

#: (rank, process group) -> what is found, of tensors and plain values.
Work = Callable[[int, Any], Any]


class Failed:
    """An error on a rank."""

    def __init__(self, error: BaseException) -> None:
        self.kind, self.text = type(error).__name__, str(error)
        self.trace = "".join(traceback.format_exception(error))

    def __repr__(self) -> str:
        return self.trace


def _rank(rank: int, ranks: int, folder: str, cases: Mapping[str, Work], threads: int) -> None:
    torch.set_num_threads(threads)
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
    group, found = dist.new_group(timeout=PATIENCE), {}
    for name, work in cases.items():
        try:
            found[name] = work(rank, group)
        except Exception as error:
            found[name] = Failed(error)
        # Whether the group is as it was on every rank; over the store, which is.
        broken = isinstance(found[name], Failed) and "process_group" not in found[name].text
        store.set(f"{name}/{rank}", "broken" if broken else "whole")
        if any(store.get(f"{name}/{other}") == b"broken" for other in range(ranks)):
            group = dist.new_group(timeout=PATIENCE)
    torch.save(found, f"{folder}/{rank}.pt")
    leave()


def leave() -> None:
    """The end of the processes' groups, once no DistributedDataParallel is left that holds one.

    Its reducer, where it is the last to hold a gloo group, waits for the group's thread without letting go of Python's
    lock, for which that thread may wait to drop the last collective: the process then never ends.
    """
    gc.collect()
    dist.destroy_process_group()


def run(ranks: int, cases: Mapping[str, Work], threads: int = 1) -> dict[str, list[Any]]:
    """What each of ``cases`` gives on each rank; they are pickled, so that functions of a module and partials do."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (ranks, folder, dict(cases), threads), nprocs=ranks)
        found = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(ranks)]
    return {name: [each[name] for each in found] for name in cases}


def whole_results(results: list[Any]) -> list[Any]:
    """Of all ranks; an assertion fails where one raised an error."""
    for rank, result in enumerate(results):
        assert not isinstance(result, Failed), f"rank {rank}: {result}"
    return results


def sizes(n: int, ranks: int, how: str) -> list[int]:
    """Rows of each rank: ``"even"`` as far as it goes, ``"uneven"``, ``"empty"`` with a rank that has none, and
    ``"alone"``, all on the last.
    """
    shares = {
        "even": [1] * ranks,
        "uneven": [1 + 2 * rank for rank in range(ranks)],
        "empty": [0 if rank == ranks // 2 else 1 + rank for rank in range(ranks)],
        "alone": [0] * (ranks - 1) + [1],
    }[how]
    if sum(shares) == 0:
        shares = [1] * ranks
    ends = [n * sum(shares[: rank + 1]) // sum(shares) for rank in range(ranks)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
