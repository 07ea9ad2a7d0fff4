"""References that need not fit in memory, some rows at a time: a tensor, an array in a file, an iterable of chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fasttriplet.arguments import DEFAULTS
from fasttriplet.check import check_rows

#: How many rows are read at once where nothing else is said: 128 MiB of float32 with 512 columns.
CHUNK_ROWS: int = DEFAULTS["chunk_rows"]  # type: ignore[assignment]

_DTYPES = {np.dtype(name): getattr(torch, name) for name in ("float64", "float32", "float16")}


class Chunk(NamedTuple):
    """Some of the references."""

    first: int  # the number of its first row
    rows: Tensor  # [m, D] in the dtype they came in
    told: dict[str, Tensor]  # [m] ref_sample_ids, ref_groups and ref_mask, those that were given

    def behind(self, count: int) -> Chunk:
        """Without its first ``count`` rows."""
        told = {name: values[count:] for name, values in self.told.items()}
        return Chunk(self.first + count, self.rows[count:], told)


def is_array(value: object) -> bool:
    """A NumPy array, or what is read in slices as one is: of a memmap, HDF5 or Zarr."""
    return not isinstance(value, Tensor) and all(hasattr(value, name) for name in ("shape", "dtype", "__getitem__"))


class Rows:
    """[M, D] of a tensor or of an array, which is read a slice at a time.

    Args:
        name: of the argument, for errors.
        values: a tensor, or what :func:`is_array`.
        count: the letter of the number of rows, for errors.
    """

    def __init__(self, name: str, values: Any, count: str) -> None:
        self._values = values
        if isinstance(values, Tensor):
            if hasattr(values, "device_mesh"):
                raise TypeError(f"{name} must be a plain tensor, as {name}.to_local() of rows in shards; got a DTensor")
            check_rows(name, values, count)
            self.dtype = values.dtype
            self.rows, self.columns = values.shape
        else:
            self.dtype = _dtype_of(name, values.dtype)
            if len(values.shape) != 2:
                raise ValueError(f"{name} must have shape [{count}, D]; got {list(values.shape)}")
            self.rows, self.columns = (int(size) for size in values.shape)

    @property
    def is_tensor(self) -> bool:
        return isinstance(self._values, Tensor)

    def read(self, device: torch.device | None = None, first: int = 0, last: int | None = None) -> Tensor:
        """Rows from ``first`` to before ``last``, by default all: a view of a tensor, a copy on ``device``."""
        if self.is_tensor:
            return self._values.detach()[first:last]
        return torch.from_numpy(_copied(self._values[first:last])).to(device or "cpu")

    def chunks(self, device: torch.device, rows: int, start: int) -> Iterator[tuple[int, Tensor]]:
        """From row ``start`` on, each with the number of its first row."""
        for first in range(start, self.rows, rows):
            yield first, self.read(device, first, min(first + rows, self.rows))


class Stream:
    """Chunks [m, D] of an iterable, of unknown number; small ones are put together.

    Args:
        values: tensors on any device, arrays, or lists of one of these, as a ``DataLoader`` has them.
        queries: that they must match.
    """

    rows = None

    def __init__(self, values: Iterable[Any], queries: Tensor) -> None:
        self._values, self._queries = values, queries

    def chunks(self, device: torch.device, rows: int, start: int) -> Iterator[tuple[int, Tensor]]:
        """As :meth:`Rows.chunks`: what comes before ``start`` is passed over, and no chunk but a whole one that was
        yielded has more than ``rows`` rows.
        """
        first, end = start, 0
        waiting: list[Tensor] = []
        for piece in self._pieces():
            begin, end = end, end + len(piece)
            if end <= start:
                continue
            piece = piece[max(start - begin, 0) :].to(device)
            gathered = max(begin, start) - first
            if waiting and gathered + len(piece) > rows:
                yield first, torch.cat(waiting)
                first, waiting, gathered = first + gathered, [], 0
            if not waiting and len(piece) >= rows:
                yield first, piece
                first += len(piece)
            elif len(piece) > 0:
                waiting.append(piece.clone())  # its memory may be filled anew for the next one
        if waiting:
            yield first, torch.cat(waiting)

    def _pieces(self) -> Iterator[Tensor]:
        dtype = None
        for number, piece in enumerate(self._values):
            name = f"chunk {number} of references"
            if isinstance(piece, (list, tuple)) and len(piece) == 1:
                piece = piece[0]
            if not isinstance(piece, Tensor) and not is_array(piece):
                kind = type(piece).__name__
                what = f"{kind} of {len(piece)}" if isinstance(piece, (list, tuple)) else kind
                raise TypeError(f"{name} must be a torch.Tensor or an array, [m, D], or a list of one; got {what}")
            rows = Rows(name, piece, "m")
            check_columns(name, rows, self._queries, "m")
            if dtype is not None and rows.dtype != dtype:
                raise ValueError(f"{name} must have the dtype of the first, {dtype}; got {rows.dtype}")
            dtype = rows.dtype
            yield rows.read()


Source: TypeAlias = Rows | Stream


def check_columns(name: str, references: Rows, queries: Tensor | Rows, count: str = "M") -> None:
    """As many as the queries have."""
    q, d = (queries.rows, queries.columns) if isinstance(queries, Rows) else queries.shape
    if references.columns != d:
        raise ValueError(
            f"{name} must have shape [{count}, {d}] to match queries [{q}, {d}]; got "
            f"[{references.rows}, {references.columns}]"
        )


def chunks_of(
    source: Source, told: Mapping[str, Tensor], device: torch.device, rows: int, start: int
) -> Iterator[Chunk]:
    """From row ``start`` on, with what is ``told`` of all references.

    Raises:
        ValueError: a stream that ends has another number of rows than is told of.
    """
    theirs = {name: values for name, values in told.items() if name.startswith("ref_")}
    end = start
    for first, chunk in source.chunks(device, rows, start):
        end = first + len(chunk)
        for name, values in theirs.items():
            if len(values) < end:
                raise ValueError(
                    f"{name} must have a number for each of the references, {end} or more; got {len(values)}"
                )
        yield Chunk(first, chunk, {name: values[first:end] for name, values in theirs.items()})
    for name, values in theirs.items():
        if len(values) != end:
            raise ValueError(f"{name} must have shape [{end}] to match references of {end} rows; got [{len(values)}]")


def _dtype_of(name: str, dtype: object) -> torch.dtype:
    try:
        return _DTYPES[np.dtype(dtype).newbyteorder("=")]  # type: ignore[call-overload]
    except (TypeError, KeyError):
        raise ValueError(f"{name} must have dtype float64, float32 or float16; got {dtype}") from None


def _copied(values: Any) -> Any:
    """In memory, in the byte order of this machine, and no view of a file."""
    return np.array(values, dtype=np.dtype(values.dtype).newbyteorder("="), order="C")
