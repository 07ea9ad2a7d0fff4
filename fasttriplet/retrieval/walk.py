"""A search over references that come a chunk at a time, which says how far it is and can be taken up again."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fasttriplet.pairing import widened
from fasttriplet.portable.checks import check_self_indices
from fasttriplet.retrieval.checkpoint import Checkpoint, Progress
from fasttriplet.retrieval.chunks import Chunk
from fasttriplet.retrieval.merge import Found, Task
from fasttriplet.retrieval.rules import Rules

#: Whether to show a bar, or what is called with references done and in all, None where nobody knows.
Report: TypeAlias = bool | Callable[[int, int | None], object]


def check_report(progress: object) -> Report:
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress must be a bool or a function (done, total); got {type(progress).__name__}")
    if progress is True:
        _bar()
    return progress


def _bar() -> Any:
    try:
        return importlib.import_module("tqdm.auto").tqdm
    except ImportError as error:
        raise ImportError(
            "progress=True needs tqdm: pip install tqdm, or give a function (done, total) as progress"
        ) from error


@contextlib.contextmanager
def reporting(
    progress: Report, total: int | None, unit: str, done: int = 0, scaled: bool = False
) -> Iterator[Callable[[int], object]]:
    """What is told how many of ``total`` are done; ``scaled``: a bar says 1.20M for 1200000."""
    if progress is True:
        with _bar()(initial=done, total=total, unit=unit, unit_scale=scaled, dynamic_ncols=True) as bar:
            yield lambda now: bar.update(now - bar.n)
    elif progress is False:
        yield lambda now: None
    else:
        yield lambda now: progress(now, total)


def walk(
    task: Task,
    queries: Tensor,
    rules: Rules,
    chunks: Iterable[Chunk],
    total: int | None,
    progress: Report,
    begun: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Found:
    """What ``task`` finds among ``chunks`` in ascending order.

    Args:
        queries: [Q, D] as they were given.
        total: how many references there are; None: as many as come.
        begun: where to go on; ``chunks`` begin with its last row at the latest.
        checkpoint: written now and then, and when something goes wrong; removed in the end.
    """
    queries = widened(queries)
    at = begun or Progress(0, task.nothing(queries), None)
    unseen = at.done > 0  # the last row that was done
    with reporting(progress, total, " references", at.done, scaled=True) as report:
        try:
            for chunk in chunks:
                if chunk.first < at.done:
                    if checkpoint is not None:
                        checkpoint.check_last(at, chunk.rows[at.done - 1 - chunk.first])
                    chunk, unseen = chunk.behind(at.done - chunk.first), False
                count = len(chunk.rows)
                if count == 0:
                    continue
                references = widened(chunk.rows)
                dtype = torch.promote_types(queries.dtype, references.dtype)
                queries = queries.to(dtype)  # once: the chunks are of one dtype
                told = rules.of_chunk(chunk.first, count, chunk.told)
                more = task.among(queries, references.to(dtype), told)
                found = task.joined(at.found, more, chunk.first)
                # In one step, so that what an interruption leaves behind belongs together.
                at = Progress(chunk.first + count, found, chunk.rows[-1].clone())
                if checkpoint is not None:
                    checkpoint.after_chunk(at)
                report(at.done)
            if unseen and checkpoint is not None:
                checkpoint.check_last(at, None)
            if total is None and rules.self_indices is not None:
                check_self_indices(rules.self_indices, at.done)
        except BaseException:
            if checkpoint is not None:
                checkpoint.write(at)
            raise
    if checkpoint is not None:
        checkpoint.remove()
    return task.finished(at.found)
