"""What ``nearest`` and ``within`` were given, checked, and how one process answers it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import TypedDict

from fasttriplet.arguments import told
from fasttriplet.check import check_count
from fasttriplet.pairing import widened
from fasttriplet.portable.checks import check_self_indices
from fasttriplet.retrieval.checkpoint import Checkpoint, check_path
from fasttriplet.retrieval.chunks import CHUNK_ROWS, Rows, Source, Stream, check_columns, chunks_of, is_array
from fasttriplet.retrieval.merge import Found, Task
from fasttriplet.retrieval.rules import Rules, check_told
from fasttriplet.retrieval.walk import Report, check_report, walk

#: Arguments that say who is no neighbour of whom.
RULES = ("self_indices", "sample_ids", "groups", "ref_sample_ids", "ref_groups", "ref_mask")


class SearchArguments(TypedDict, total=False):
    """What a search takes beside queries, references and what is looked for.

    Attributes:
        self_indices: [Q] integers: which reference is query i itself and none of its neighbours, -1 for none. With
            references only. Default None: no reference is a query.
        sample_ids: [Q] integers: a reference of the same number is a copy of the query and none of its neighbours; -1
            for none. Default None: no copies.
        ref_sample_ids: [M] integers, those of the references; given together with ``sample_ids`` where there are
            references.
        groups: [Q] integers or bool: references of a query's group are none of its neighbours; -1 is a group like any
            other. Default None: no groups.
        ref_groups: [M], those of the references; given together with ``groups`` where there are references.
        ref_mask: [M] bool: references where it is false are nobody's neighbours, and what is in them does not matter.
            With references only. Default None: all take part.
        process_group: a ``torch.distributed.ProcessGroup`` or a 1-D ``DeviceMesh``: each rank gives its own queries and
            its own shard of the references, a tensor or an array, and gets what one process finds for its queries among
            all shards. Indices are those of the shards one behind the other in rank order; ``self_indices`` point into
            the rank's own. Without references the queries of all ranks are. There may be any number of queries and
            references on a rank, and none. Shards travel ``chunk_rows`` at a time. Default None: no communication.
        chunk_rows: how many references are in memory at a time, at least 1; those in a tensor are searched at once
            where neither ``progress`` nor ``checkpoint`` is asked for. Default 65536.
        progress: true: show a bar, which needs ``tqdm``. Or a function of the number of references done and of all,
            None where nobody knows, which is called after each chunk. Default false.
        checkpoint: the path of a file to keep what is found so far in, written after a chunk, so often that it takes a
            twentieth of the time, and where an error or an interruption ends the search. It is replaced in one step. A
            call with the same arguments goes on from there: an array is read from there on, an iterable passed over.
            Queries are compared with those of before, of the references their number and the last row done alone.
            The file is removed once all is found. Not with a process group. Default None: no file.
    """

    self_indices: Tensor | None
    sample_ids: Tensor | None
    ref_sample_ids: Tensor | None
    groups: Tensor | None
    ref_groups: Tensor | None
    ref_mask: Tensor | None
    process_group: Any
    chunk_rows: int
    progress: bool | Callable[[int, int | None], object]
    checkpoint: str | os.PathLike[str] | None


class Call(NamedTuple):
    """A search, checked."""

    task: Task
    queries: Tensor  # [Q, D] as they were given
    references: Source | None  # None: the queries
    told: dict[str, Tensor]  # who is no neighbour of whom, by the names of the arguments
    chunk_rows: int
    progress: Report
    checkpoint: Path | None


def checked_call(
    function: str, task: Callable[[], Task], queries: Any, references: Any, arguments: Mapping[str, object]
) -> Call:
    """The arguments of a public function; what is looked for is checked by ``task``."""
    given = told(function, arguments, SearchArguments)
    search = task()
    if not isinstance(queries, Tensor) and not is_array(queries):
        raise TypeError(f"queries must be a torch.Tensor or an array, [Q, D]; got {type(queries).__name__}")
    rows = Rows("queries", queries, "Q").read()
    source = _source(references, rows)
    rules = {name: given[name] for name in RULES if name in given}
    return Call(
        search,
        rows,
        source,
        check_told(rules, rows, source is not None, None if source is None else source.rows),
        check_count("chunk_rows", given.get("chunk_rows", CHUNK_ROWS)),
        check_report(given.get("progress", False)),
        check_path(given["checkpoint"]) if "checkpoint" in given else None,
    )


def _source(references: Any, queries: Tensor) -> Source | None:
    if references is None:
        return None
    if isinstance(references, Tensor) or is_array(references):
        rows = Rows("references", references, "M")
        check_columns("references", rows, queries)
        if isinstance(references, Tensor) and references.device != queries.device:
            raise ValueError(
                f"references must be on the device of queries, {queries.device}, or come in chunks, as "
                f"references.split(65536), which are taken there; got references on {references.device}"
            )
        return rows
    if not isinstance(references, Iterable):
        kind = type(references).__name__
        raise TypeError(f"references must be a torch.Tensor, an array, an iterable of chunks or None; got {kind}")
    return Stream(references, queries)


def answered(call: Call) -> Found:
    """By one process."""
    rules = Rules(call.told)
    at_once = call.references is None or (isinstance(call.references, Rows) and call.references.is_tensor)
    if at_once and call.progress is False and call.checkpoint is None:
        return _at_once(call, rules)
    queries, references, told = call.queries, call.references, call.told
    device = queries.device
    if references is None:
        references, rules, told = _of_queries(call)
    elif references.rows is not None and rules.self_indices is not None:
        check_self_indices(rules.self_indices, references.rows)
    checkpoint, begun = None, None
    if call.checkpoint is not None:
        count = "that of queries" if call.references is None else references.rows or "unknown"
        what = {"the function": call.task.name, **call.task.named, "queries": queries, **call.told}
        what["the number of references"] = count
        checkpoint = Checkpoint(call.checkpoint, what)
        begun = checkpoint.read(device)
    start = 0 if begun is None else max(begun.done - 1, 0)  # its last row once more, to see that it is the same
    chunks = chunks_of(references, told, device, call.chunk_rows, start)
    return walk(call.task, queries, rules, chunks, references.rows, call.progress, begun, checkpoint)


def _at_once(call: Call, rules: Rules) -> Found:
    """All references by one call of the operator."""
    rows, others = widened(call.queries), None
    if isinstance(call.references, Rows):
        others = widened(call.references.read())
        dtype = torch.promote_types(rows.dtype, others.dtype)
        rows, others = rows.to(dtype), others.to(dtype)
    return call.task.among(rows, others, rules.of_all(call.told))


def _of_queries(call: Call) -> tuple[Source, Rules, dict[str, Tensor]]:
    """References that are the queries, where each one's own row is none of its neighbours."""
    told = {**call.told, **{f"ref_{name}": values for name, values in call.told.items()}}
    told["self_indices"] = torch.arange(len(call.queries), device=call.queries.device)
    return Rows("queries", call.queries, "Q"), Rules(told), told
