"""The processes of a run that share its batches: which rows are whose, and what they decide together.

``torchrun`` starts them and says in the environment which one each is. What one alone meets, Ctrl-C or two losses that
part, all must hear of before the next step: those that went on would wait for the one that did not.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from examples.resnet50.errors import RunError, UserError

#: How long one waits for another. torchrun ends the others at once when one dies, but the first evaluates while they
#: wait: some minutes on the CPU.
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Processes:
    """This process among ``size``; by default it is alone. All of them must call each method that waits for others."""

    rank: int = 0
    size: int = 1
    group: Any = None  # torch.distributed.ProcessGroup; None if alone

    @property
    def is_first(self) -> bool:
        """Whether it is the one that reports, evaluates and writes."""
        return self.rank == 0

    def part(self, n: int) -> slice:
        """Which rows of a batch of ``n`` are this process's. In rank order they are the batch as one process has it."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def whole(self, own: Tensor, n: int) -> Tensor:
        """[n, ...] of all processes, from ``own``, the rows :meth:`part` of them. Waits for the others."""
        if self.size == 1:
            return own
        rows = own.new_zeros(n, *own.shape[1:])
        rows[self.part(n)] = own
        dist.all_reduce(rows, group=self.group)  # adds zeros: exact
        return rows

    def any(self, own: bool) -> bool:
        """Whether one of them says so. Waits for the others, but for no device."""
        if self.size == 1:
            return own
        said = torch.tensor(int(own))
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self.group)
        return bool(said)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is raised inside in one is raised in all. Waits at the end for the others; inside nothing may."""
        if self.size == 1:
            yield
            return
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        sent = own
        if own is not None and not isinstance(own, RunError):  # it might not come through
            sent = RuntimeError(f"process {self.rank}: {type(own).__name__}: {own}")
        for raised in (own, *self._told(sent)):
            if raised is not None:
                raise raised

    def check_alike(self, own: dict[str, object]) -> None:
        """UserError in all of them where something of ``own``, by its name, differs. Waits for the others."""
        first, *others = self._told(own)
        for rank, other in enumerate(others, 1):
            for name, value in first.items():
                if other[name] != value:
                    raise UserError(
                        f"{name} must be the same in all processes; got {value} in process 0 and {other[name]} in "
                        f"process {rank}"
                    )

    def _told(self, own: Any) -> list[Any]:
        """What each of them says."""
        if self.size == 1:
            return [own]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own, group=self.group)
        return found


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Those that torchrun, or what does as it, started, or this process alone; UserError where it says half of it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE") if name not in os.environ]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} must be in the environment beside WORLD_SIZE={os.environ['WORLD_SIZE']}, as "
            "torchrun sets them; got none: use torchrun, or unset WORLD_SIZE"
        )
    # gloo beside NCCL: what is decided on the CPU then waits for no GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    processes = Processes(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)
    try:
        yield processes
        # After an error that was told, too: at the first exit code that is not 0 torchrun ends those that still write.
        processes.any(False)
    finally:
        # DistributedDataParallel may lie in a cycle with its network. Were it the last to hold a gloo group, it would
        # wait for the group's thread with Python's lock in its hand, which that thread may wait for.
        gc.collect()
        dist.destroy_process_group()
