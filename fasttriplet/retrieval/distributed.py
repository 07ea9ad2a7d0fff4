"""A search of several processes: each has queries and a shard of the references, which travels to all, some rows at a
time.

The shards come in rank order, each in ascending chunks, and are joined as those of one process are
(:mod:`fasttriplet.retrieval.merge`): so every rank finds what one process with all references finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fasttriplet.distributed.agreement import Statement, agreed
from fasttriplet.distributed.group import Group
from fasttriplet.distributed.untransformed import refuse_transforms
from fasttriplet.portable.checks import check_self_indices
from fasttriplet.retrieval.call import RULES, Call, answered
from fasttriplet.retrieval.chunks import Chunk, Rows
from fasttriplet.retrieval.merge import Found
from fasttriplet.retrieval.rules import Rules
from fasttriplet.retrieval.walk import walk


def answered_by_all(process_group: object, checked: Callable[[], Call]) -> Found:
    """What there is for this rank's queries, of the call that ``checked`` gives, among the references of all.

    Raises:
        Whatever is wrong with the arguments of any rank, on every rank.
    """
    refuse_transforms("nearest and within")
    group = Group(process_group)

    def own() -> tuple[Statement, Call]:
        call = checked()
        _check_shard(call, group)
        shard = call.references
        count = shard.rows if isinstance(shard, Rows) else 0
        return Statement(_alike(call), len(call.queries), count), call

    statements, call = agreed(group, own)
    if group.size == 1:
        return answered(call)
    sizes = [each.rows if call.references is None else each.references for each in statements]
    first = group.first(sizes)
    told = dict(call.told)
    if isinstance(call.references, Rows):
        shard = call.references
        if "self_indices" in told:
            own_copies = told["self_indices"].long()
            told["self_indices"] = torch.where(own_copies < 0, -1, own_copies + first)
    else:
        shard = Rows("queries", call.queries, "Q")
        told.update({f"ref_{name}": values for name, values in call.told.items()})
        told["self_indices"] = torch.arange(first, first + len(call.queries), device=call.queries.device)
    theirs = {name: values for name, values in told.items() if name.startswith("ref_")}
    # Of one dtype on every rank.
    theirs = {name: values if name == "ref_mask" else values.long() for name, values in theirs.items()}
    chunks = _travelling(group, shard, theirs, sizes, call)
    try:
        return walk(call.task, call.queries, Rules(told), chunks, sum(sizes), call.progress)
    except Exception:
        for _ in chunks:  # the others wait for what this rank sends
            pass
        raise


def _check_shard(call: Call, group: Group) -> None:
    """What one process need not ask."""
    if call.checkpoint is not None:
        raise ValueError(f"checkpoint must be None with a process_group; got {call.checkpoint}")
    shard, device = call.references, call.queries.device
    if shard is not None and not isinstance(shard, Rows):
        raise TypeError(
            "references must be a torch.Tensor or an array with a process_group, whose ranks must know how many there "
            "are; got an iterable"
        )
    if shard is not None and "self_indices" in call.told:
        check_self_indices(call.told["self_indices"].long(), shard.rows)
    backends = group.device_types()
    if device.type not in backends:
        served = ", ".join(f"{kind} ({backend})" for kind, backend in backends.items())
        raise ValueError(f"queries must be on a device that process_group has a backend for: {served}; got {device}")


def _alike(call: Call) -> dict[str, object]:
    """What must be the same on every rank."""
    shard = call.references
    return {
        "the function": call.task.name,
        **call.task.named,
        "chunk_rows": call.chunk_rows,
        "the dtype of queries": call.queries.dtype,
        "the number of columns of queries": call.queries.shape[1],
        "the device type of queries": call.queries.device.type,
        "references": "not given" if shard is None else "given",
        "the dtype of references": shard.dtype if isinstance(shard, Rows) else "any",
        **{name: "given" if name in call.told else "not given" for name in RULES},
    }


def _travelling(
    group: Group, shard: Rows, theirs: dict[str, Tensor], sizes: Sequence[int], call: Call
) -> Iterator[Chunk]:
    """The chunks of all ranks, numbered over all: this rank's ``shard`` and what is told of it, ``theirs``, is sent."""
    device, begin = call.queries.device, 0
    for rank, size in enumerate(sizes):
        for first in range(0, size, call.chunk_rows):
            last = min(first + call.chunk_rows, size)
            failure: Exception | None = None
            if rank == group.rank:
                try:
                    rows = shard.read(device, first, last)
                except Exception as error:
                    failure = error
                told = {name: values[first:last] for name, values in theirs.items()}
            else:
                rows = torch.empty(last - first, shard.columns, dtype=shard.dtype, device=device)
                told = {name: values.new_empty(last - first) for name, values in theirs.items()}
            failed = group.from_rank(rank, torch.tensor([failure is not None], device=device))
            if failure is not None:
                raise failure
            if failed.item():
                raise RuntimeError(
                    f"references {first} to {last} of rank {rank} of process_group could not be read: that rank's own "
                    "error says why"
                )
            rows = group.from_rank(rank, rows)
            yield Chunk(begin + first, rows, {name: group.from_rank(rank, told[name]) for name in told})
        begin += size
