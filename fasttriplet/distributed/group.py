"""A process group as the losses use it: who is in it, and what its processes send one another.

Everything goes through ``torch.distributed`` and whatever backend the group has. Rows of all kinds travel as bytes in
one collective, in the precision they have, padded to the longest of the ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

#: By its name since PyTorch 2.13, or the one before.
_all_gather: Any = getattr(dist, "all_gather_single", None) or getattr(dist, "all_gather_into_tensor", None)

_ALIGNMENT = 16  # bytes: blocks of one dtype begin at multiples of its size


def check_process_group(process_group: object) -> object:
    """A ``ProcessGroup`` with this process in it, a 1-D ``DeviceMesh`` of one, or None."""
    if process_group is not None:
        _resolved(process_group)
    return process_group


def _resolved(process_group: object) -> Any:
    """The ``ProcessGroup``."""
    if not dist.is_available():
        raise ValueError("process_group must be None where PyTorch was built without torch.distributed; got one")
    from torch.distributed.device_mesh import DeviceMesh  # not there without torch.distributed

    if isinstance(process_group, DeviceMesh):
        if process_group.ndim != 1:
            raise ValueError(
                "process_group must be a ProcessGroup or a DeviceMesh of one dimension, as mesh['data']; got a mesh "
                f"of shape {list(process_group.shape)}"
            )
        process_group = process_group.get_group()
    if process_group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("process_group must be one that this process is in; got a group of other processes")
    if not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(
            "process_group must be a torch.distributed.ProcessGroup, as dist.group.WORLD after "
            f"dist.init_process_group, or a DeviceMesh; got {type(process_group).__name__}"
        )
    return process_group


class Group:
    """The processes that share a batch. Every method is a collective, which all ranks call in one order, but for those
    that name a rank's part, ``first`` and ``of_each``, and ``device_types``.

    Args:
        process_group: see :func:`check_process_group`.
    """

    def __init__(self, process_group: object) -> None:
        self.process_group = _resolved(process_group)
        self.rank = dist.get_rank(self.process_group)
        self.size = dist.get_world_size(self.process_group)
        #: Where numbers of the host travel: on the CPU where the group has a backend for it, which needs no device.
        self.device = torch.device("cpu")
        if "cpu" not in self.device_types():
            accelerator = torch.accelerator.current_accelerator()
            assert accelerator is not None
            self.device = torch.device(accelerator.type, torch.accelerator.current_device_index())

    def device_types(self) -> dict[str, str]:
        """By device type the backend that serves it."""
        backends = dist.distributed_c10d.get_backend_config(self.process_group)
        return dict(pair.split(":", 1) for pair in backends.split(",") if ":" in pair)

    def numbers(self, own: Sequence[int]) -> list[list[int]]:
        """Each rank's ``own``, of one length everywhere, by rank: a wait for the host."""
        sent = torch.tensor(own, dtype=torch.int64, device=self.device)
        try:
            return self._gathered(sent).tolist()
        except RuntimeError as error:
            raise RuntimeError(
                "the ranks of process_group did not all come here, or could not hear one another: each must call the "
                "same losses equally often. One with fewer batches is given empty ones, model(x[:0]), in place of "
                f"DistributedDataParallel.join, which is not supported. torch.distributed says: {error}"
            ) from error

    def objects(self, own: object) -> list[Any]:
        """Each rank's ``own``, pickled: for what goes into an error."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own, group=self.process_group)
        return found

    def rows(self, own: Mapping[str, Tensor], sizes: Sequence[int]) -> dict[str, Tensor]:
        """Tensors with each rank's rows in rank order.

        Args:
            own: by name tensors [n, ...] of this rank, n of them ``sizes[rank]``; one dtype and one shape behind the
                first axis on every rank.
            sizes: rows of each rank.

        Returns:
            By name tensors [sum of sizes, ...].
        """
        assert all(len(rows) == sizes[self.rank] for rows in own.values()), (self.rank, sizes)
        longest = max(sizes)
        widths = {name: _row_bytes(rows) for name, rows in own.items()}
        lengths = {name: -(-longest * width // _ALIGNMENT) * _ALIGNMENT for name, width in widths.items()}
        some = next(iter(own.values()))
        *places, end = accumulate(lengths.values(), initial=0)
        payload = torch.zeros(end, dtype=torch.uint8, device=some.device)
        for place, (name, rows) in zip(places, own.items(), strict=True):
            payload[place : place + len(rows) * widths[name]] = _as_bytes(rows)
        gathered = self._gathered(payload)  # [ranks, bytes]
        result = {}
        for place, (name, rows) in zip(places, own.items(), strict=True):
            parts = [
                gathered[rank, place : place + size * widths[name]].view(rows.dtype).view(size, *rows.shape[1:])
                for rank, size in enumerate(sizes)
                if size > 0 and widths[name] > 0
            ]
            empty = rows.new_empty(sum(sizes), *rows.shape[1:])  # of rows without columns
            result[name] = torch.cat(parts) if parts else empty
        return result

    def from_rank(self, rank: int, own: Tensor) -> Tensor:
        """What ``rank`` has for ``own``, a tensor of one shape and dtype everywhere."""
        if own.numel() == 0:
            return own
        payload = (
            _as_bytes(own) if rank == self.rank else own.new_empty(own.numel() * own.element_size(), dtype=torch.uint8)
        )
        dist.broadcast(payload, group=self.process_group, group_src=rank)
        return own if rank == self.rank else payload.view(own.dtype).view(own.shape)

    def pieces(self, rows: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """What every rank has of this rank's rows: ``rows`` [sum of sizes, ...] hold some of each rank's, in order.

        Returns:
            By rank tensors [sizes[rank of this process], ...], theirs of this process's rows.
        """
        own, shape = sizes[self.rank], rows.shape[1:]
        received = rows.new_empty(self.size * own, *shape)
        dist.all_to_all_single(
            received,
            rows.contiguous(),
            output_split_sizes=[own] * self.size,
            input_split_sizes=list(sizes),
            group=self.process_group,
        )
        return list(received.view(self.size, own, *shape))

    def total(self, own: Tensor) -> Tensor:
        """The sum of each rank's integers ``own``, of one shape everywhere."""
        result = own.clone()
        dist.all_reduce(result, group=self.process_group)
        return result

    def first(self, sizes: Sequence[int]) -> int:
        """Where this rank's rows begin."""
        return sum(sizes[: self.rank])

    def of_each(self, values: Tensor, sizes: Sequence[int]) -> Tensor:
        """Of values in rank order those of this rank."""
        return values.narrow(0, self.first(sizes), sizes[self.rank])

    def _gathered(self, own: Tensor) -> Tensor:
        """[ranks, L] of ``own`` [L]."""
        result = own.new_empty(self.size * len(own))
        if len(own) > 0:
            _all_gather(result, own, group=self.process_group)
        return result.view(self.size, len(own))


def _row_bytes(rows: Tensor) -> int:
    return rows.element_size() * math.prod(rows.shape[1:])


def _as_bytes(rows: Tensor) -> Tensor:
    if rows.numel() == 0:  # of any strides, which a view of bytes would refuse
        return rows.new_empty(0, dtype=torch.uint8)
    return rows.detach().contiguous().view(-1).view(torch.uint8)
