"""Processes of one group on this machine, over gloo, with one thread each."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing

_Result = TypeVar("_Result")

#: The longest that a rank waits for the others: while one alone verifies or is timed, they wait.
_PATIENCE = timedelta(minutes=5)


def run(ranks: int, work: Callable[..., _Result], *arguments: object) -> list[_Result]:
    """What ``work(group, *arguments)`` gives on each rank. All of it is pickled; an error on one rank ends all."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (ranks, folder, work, arguments), nprocs=ranks)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def _rank(rank: int, ranks: int, folder: str, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    # What people call today has newer names.
    warnings.filterwarnings("ignore", "torch.distributed.* is deprecated", FutureWarning)
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=_PATIENCE)
    torch.save(work(dist.group.WORLD, *arguments), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
