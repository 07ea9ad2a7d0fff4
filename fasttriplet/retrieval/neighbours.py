"""Exact nearest neighbours: of every query the k nearest references, or all within a radius."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from fasttriplet.arguments import takes
from fasttriplet.check import DISTANCES, check_choice, check_count
from fasttriplet.distributed.untransformed import eagerly
from fasttriplet.retrieval.call import Call, SearchArguments, answered, checked_call
from fasttriplet.retrieval.distributed import answered_by_all
from fasttriplet.retrieval.merge import AllWithin, Found, KNearest, Task
from fasttriplet.trip import away, there_and_back


class Neighbours(NamedTuple):
    """The k nearest references of each of Q queries, nearest first.

    Attributes:
        distances: [Q, k] float64, NaN where there are fewer than k.
        indices: [Q, k] int64, of the references, -1 where there are fewer.
    """

    distances: Tensor
    indices: Tensor


class NeighboursWithin(NamedTuple):
    """All references of each of Q queries up to a distance, nearest first.

    Attributes:
        offsets: [Q + 1] int64: those of query i are ``distances[offsets[i]:offsets[i + 1]]``.
        distances: [T] float64.
        indices: [T] int64, of the references.
    """

    offsets: Tensor
    distances: Tensor
    indices: Tensor


@torch.no_grad()
@takes(SearchArguments)
def nearest(
    queries: Any,
    references: Tensor | Iterable[Any] | None = None,
    k: int = 1,
    *,
    distance: str = "euclidean",
    **arguments: Unpack[SearchArguments],
) -> Neighbours:
    """The k nearest references of each query, exactly: those of float64 arithmetic, ties to the lowest index.

    No [Q, M] array is made. References that do not fit in memory are given as an array in a file or in chunks, and
    searched a chunk at a time, with the same answer to the bit.

    Args:
        queries: [Q, D] float64, float32, float16 or bfloat16, any strides; or an array as ``references`` may be, which
            is read whole, to the CPU. Where queries or references are float64, distances are those of float64 rows;
            half precision is widened to float32.
        references: [M, D] of any dtype that queries may have, on their device. Or an array [M, D] of float64, float32
            or float16, of which ``chunk_rows`` at a time are read: of NumPy, ``np.memmap``, or what is sliced as one
            is, as HDF5 and Zarr. Or chunks [m, D] of one dtype, in an iterable: tensors on any device, arrays, or
            lists of one of these, as a ``DataLoader`` in order has them; chunks below ``chunk_rows`` are put together.
            Default None: the queries, each without its own row.
        k: how many, at least 1 and at most 2^31 - 1. Default 1.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``; the last is negated, so
            that less is nearer.
        **arguments: who is no neighbour of whom, and how references are gone through:
            :class:`fasttriplet.retrieval.call.SearchArguments`.

    Returns:
        :class:`Neighbours`, without a graph: distances [Q, k] float64 and indices [Q, k] int64. A query with fewer than
        k candidates has NaN and -1 for the rest. Rows that are not finite are nobody's neighbours and have none; a
        distance that overflows to NaN comes first. On a device without float64 distances are float32.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value; ``checkpoint`` is that of another call.
        ImportError: ``progress=True`` without tqdm.

    Example:
        >>> import torch
        >>> from fasttriplet.retrieval import nearest
        >>> found = nearest(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0], [7.0]]), k=2)
        >>> found.distances.tolist(), found.indices.tolist()
        ([[1.0, 4.0], [1.0, 2.0]], [[1, 0], [0, 2]])
        >>> nearest(torch.tensor([[0.0], [1.0], [3.0]]), k=3).indices.tolist()
        [[1, 2, -1], [0, 2, -1], [1, 0, -1]]
        >>> chunks = (torch.tensor([[float(row)]]) for row in (4, 1, 7))
        >>> nearest(torch.tensor([[0.0]]), chunks, k=2).indices.tolist()
        [[1, 0]]
    """
    given = locals()  # before anything breaks the graph that torch.compile makes, and adds names of its own
    if away(queries):
        return there_and_back(nearest, given)
    if _cannot_be_traced(queries, references, arguments):
        return eagerly(nearest, given)
    return Neighbours(
        *_found(
            "nearest",
            lambda: KNearest(check_choice("distance", distance, DISTANCES), check_count("k", k)),
            *(queries, references, arguments),
        )
    )


@torch.no_grad()
@takes(SearchArguments)
def within(
    queries: Any,
    references: Tensor | Iterable[Any] | None = None,
    radius: float = 0.0,
    *,
    distance: str = "euclidean",
    **arguments: Unpack[SearchArguments],
) -> NeighboursWithin:
    """All references at a distance of at most ``radius`` of each query, exactly, as float64 arithmetic finds them.

    No [Q, M] array is made, but what is found must fit in memory.

    Args:
        queries: as those of :func:`nearest`.
        references: as those of :func:`nearest`. Default None: the queries, each without its own row.
        radius: a real number, or infinity, for all candidates. Default 0: what is equal.
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``; the last is negated, so
            that less is nearer: with ``radius=-r`` products of r and more.
        **arguments: who is no neighbour of whom, and how references are gone through:
            :class:`fasttriplet.retrieval.call.SearchArguments`.

    Returns:
        :class:`NeighboursWithin`, without a graph: offsets [Q + 1] int64, and distances [T] float64 and indices [T]
        int64 by query, distance and index. Rows that are not finite are nobody's neighbours and have none.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value; ``checkpoint`` is that of another call.
        ImportError: ``progress=True`` without tqdm.

    Example:
        >>> import torch
        >>> from fasttriplet.retrieval import within
        >>> found = within(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0], [7.0]]), radius=2)
        >>> found.offsets.tolist(), found.distances.tolist(), found.indices.tolist()
        ([0, 1, 3], [1.0, 1.0, 2.0], [1, 0, 2])
        >>> rows = torch.tensor([[0.0], [1.0], [0.0]])
        >>> within(rows).indices.tolist()  # what is there twice
        [2, 0]
    """
    given = locals()  # before anything breaks the graph that torch.compile makes, and adds names of its own
    if away(queries):
        return there_and_back(within, given)
    if _cannot_be_traced(queries, references, arguments):
        return eagerly(within, given)
    return NeighboursWithin(
        *_found(
            "within",
            lambda: AllWithin(check_choice("distance", distance, DISTANCES), _check_radius(radius)),
            *(queries, references, arguments),
        )
    )


def _found(
    function: str, task: Callable[[], Task], queries: Any, references: Any, arguments: Mapping[str, object]
) -> Found:
    group = arguments.get("process_group")

    def checked() -> Call:
        return checked_call(function, task, queries, references, arguments)

    return answered(checked()) if group is None else answered_by_all(group, checked)


def _cannot_be_traced(queries: object, references: object, arguments: Mapping[str, object]) -> bool:
    """Whether ``torch.compile`` is at work and the call does more than one operator on tensors."""
    if not torch.compiler.is_compiling():
        return False
    tensors = isinstance(queries, Tensor) and (references is None or isinstance(references, Tensor))
    more = any(arguments.get(name) is not None for name in ("process_group", "checkpoint"))
    return not tensors or more or arguments.get("progress", False) is not False


def _check_radius(radius: Any) -> float:
    if isinstance(radius, bool) or not isinstance(radius, Real):
        raise TypeError(f"radius must be a real number; got {type(radius).__name__}")
    try:
        value = float(radius)
    except OverflowError:  # of a huge int
        value = math.inf if radius > 0 else -math.inf  # type: ignore[operator]
    if math.isnan(value):
        raise ValueError("radius must be a number or infinite; got nan")
    return value
