"""What ``nearest`` and ``within`` were given, checked, and how one process answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.check import check_count
from fasttriplet.pairing import widened
from fasttriplet.portable.checks import check_self_indices
from fasttriplet.retrieval.checkpoint import Checkpoint, check_path
from fasttriplet.retrieval.chunks import Rows, Source, Stream, check_columns, chunks_of, is_array
from fasttriplet.retrieval.merge import Found, Task
from fasttriplet.retrieval.rules import Rules, check_told
from fasttriplet.retrieval.walk import Report, check_report, walk


class Call(NamedTuple):
    """A search, checked."""

    task: Task
    queries: Tensor  # [Q, D] as they were given
    references: Source | None  # None: the queries
    told: dict[str, Tensor]  # who is no neighbour of whom, by the names of the arguments
    chunk_rows: int
    progress: Report
    checkpoint: Path | None


def checked_call(task: Callable[[], Task], given: Mapping[str, Any]) -> Call:
    """The arguments of a public function, its ``locals()``, without those of its own, which are checked by ``task``."""
    search = task()
    if not isinstance(given["queries"], Tensor) and not is_array(given["queries"]):
        kind = type(given["queries"]).__name__
        raise TypeError(f"queries must be a torch.Tensor or an array, [Q, D]; got {kind}")
    queries = Rows("queries", given["queries"], "Q").read()
    references = _source(given["references"], queries)
    told = {name: given[name] for name in ("self_indices", "sample_ids", "groups")}
    told.update((name, given[name]) for name in ("ref_sample_ids", "ref_groups", "ref_mask"))
    count = None if references is None else references.rows
    path = None if given["checkpoint"] is None else check_path(given["checkpoint"])
    return Call(
        search,
        queries,
        references,
        check_told(told, queries, references is not None, count),
        check_count("chunk_rows", given["chunk_rows"]),
        check_report(given["progress"]),
        path,
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
