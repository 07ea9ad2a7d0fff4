"""What a long search has found so far, in a file: a search that was interrupted goes on from there."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet.retrieval.merge import Found

_FORMAT = "fasttriplet.retrieval checkpoint 1"
#: The file is written no more often than lets this many times as long as writing takes pass in between.
_PATIENCE = 20


class Progress(NamedTuple):
    """How far a search has come."""

    done: int  # references
    found: Found
    last: Tensor | None  # [D] the last of them


def check_path(path: object) -> Path:
    """Of a file in a directory that exists."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"checkpoint must be a path or None; got {type(path).__name__}")
    file = Path(os.fsdecode(path))
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"checkpoint must be the path of a file in a directory that exists; got {file}")
    return file


def described(value: object) -> str:
    """What tells one argument of a call from another: of a tensor its dtype, shape and a digest of its values."""
    if not isinstance(value, Tensor):
        return str(value)
    values = value.detach().contiguous().cpu()
    digest = hashlib.sha256(values.view(-1).view(torch.uint8).numpy().data if values.numel() else b"")
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)} of digest {digest.hexdigest()[:16]}"


class Checkpoint:
    """The file of one search.

    Args:
        path: of :func:`check_path`.
        call: what must be the same where the search goes on, by the names of arguments.
    """

    def __init__(self, path: Path, call: Mapping[str, object]) -> None:
        self._path = path
        self._call = {name: described(value) for name, value in call.items()}
        self._written = 0  # references that the file has
        self._next = 0.0  # when it is written again

    def read(self, device: torch.device) -> Progress | None:
        """What an interrupted search of the same call has left; None where there is no file.

        Raises:
            ValueError: it cannot be read, or is that of another call.
        """
        if not self._path.exists():
            return None
        try:
            stored: Any = torch.load(self._path, map_location=device, weights_only=True)
            if stored["format"] != _FORMAT:
                raise ValueError(f"its format is {stored['format']!r}")
            call, done, last, found = (stored[name] for name in ("call", "done", "last", "found"))
        except Exception as error:  # whatever torch.load and pickle raise of a file that is none of theirs
            raise ValueError(
                f"checkpoint must be a file that an interrupted search has written, or not be there; {self._path} "
                f"cannot be read: {error}"
            ) from error
        for name in {**self._call, **call}:
            here, there = self._call.get(name, "nothing"), call.get(name, "nothing")
            if here != there:
                raise ValueError(
                    f"checkpoint must be of the same call: {self._path} was written with {name} {there}; got {name} "
                    f"{here}: delete the file to begin anew"
                )
        self._written = done
        return Progress(done, tuple(found), last)

    def check_last(self, progress: Progress, row: Tensor | None) -> None:
        """ValueError where ``row`` [D], in place of the last that was done, is another, or there is none."""
        if row is None or described(row) != described(progress.last):
            got = "fewer" if row is None else f"another row {progress.done - 1}"
            raise ValueError(
                f"references must be those that {self._path} was written for, of which {progress.done} are done; got "
                f"{got}: delete the file to begin anew"
            )

    def after_chunk(self, progress: Progress) -> None:
        """Writes the file, unless that has just been done."""
        if time.monotonic() >= self._next:
            begin = time.monotonic()
            self.write(progress)
            end = time.monotonic()
            self._next = end + _PATIENCE * (end - begin)

    def write(self, progress: Progress) -> None:
        """Beside the file first and in its place then, so that there is a whole one at any time."""
        if progress.done == self._written:
            return
        last = None if progress.last is None else progress.last.cpu()
        found = [values.cpu() for values in progress.found]
        stored = {"format": _FORMAT, "call": self._call, "done": progress.done, "last": last, "found": found}
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            with beside.open("wb") as file:
                torch.save(stored, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self._path)
        finally:
            beside.unlink(missing_ok=True)
        self._written = progress.done

    def remove(self) -> None:
        """Of a search that is complete."""
        self._path.unlink(missing_ok=True)
