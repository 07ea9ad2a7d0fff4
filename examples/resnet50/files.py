"""What a run writes: its folder, its tables and TensorBoard events while it goes, and its checkpoints."""

from __future__ import annotations

import csv
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from examples.resnet50.errors import UserError
from examples.resnet50.options import Options
from examples.resnet50.telemetry import Row

WRITTEN = (
    *("loss.png", "embeddings.png", "retrieval.png", "worst_queries.png", "distances.png"),
    *("metrics.csv", "evaluations.csv", "best.pt", "checkpoint.pt", "events.out.tfevents.*"),
)
_FORMAT = 3


def run_folder(options: Options) -> Path:
    """Makes and returns the folder: that of the checkpoint for ``--resume``, ``OUT/NAME``, or a free name."""
    if options.name is not None:
        folder = Path(options.out) / options.name
        written = _written(folder)
        if written and options.resume is None and not options.overwrite:
            raise UserError(f"--name must be new, or --overwrite given; {folder} already holds a run")
        for path in () if options.resume else written:
            path.unlink()
    elif options.resume is not None:
        folder = Path(options.resume).parent
    else:
        base = f"{options.data}-{options.loss}"
        candidates = (Path(options.out) / (base if n == 1 else f"{base}-{n}") for n in range(1, 10**6))
        folder = next(folder for folder in candidates if not _written(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out and --name must give a folder that can be made; {folder}: {error.strerror}") from error
    return folder


def _written(folder: Path) -> list[Path]:
    return [path for pattern in WRITTEN for path in folder.glob(pattern)]


class Record:
    """The open files of a run, metrics.csv and evaluations.csv, whole after every row; a resumed one begins with the
    rows of its checkpoint, ``history`` and the ``evaluations`` of the learner ``name``.

    TensorBoard's events are written where that is installed.
    """

    def __init__(self, folder: Path, history: list[Row], name: str, evaluations: list[Row]):
        self._folder = folder
        self._tables: dict[str, tuple[TextIO, csv.DictWriter[str]]] = {}
        self._board: Any = None
        for row in history:
            self.add(row)
        for row in evaluations:
            self.add_evaluation(name, row)
        try:
            from torch.utils.tensorboard import SummaryWriter  # here: it takes a second
        except ImportError:
            return
        self._board = SummaryWriter(str(folder), purge_step=int(history[-1]["step"]) + 1 if history else None)

    def add(self, row: Row) -> None:
        """One step, with ``step`` among the columns, which are those of the first or fewer."""
        self._write("metrics.csv", "train", row)

    def add_evaluation(self, name: str, row: Row) -> None:
        """Retrieval among the test images by the learner ``name``: ``step`` and the metrics by their names."""
        self._write("evaluations.csv", f"test/{name}", {"step": row["step"], "network": name, **row})

    def _write(self, name: str, place: str, row: Mapping[str, Any]) -> None:
        if name not in self._tables:
            opened = (self._folder / name).open("w", newline="", encoding="utf-8")
            self._tables[name] = opened, csv.DictWriter(opened, list(row))
            self._tables[name][1].writeheader()
        file, table = self._tables[name]
        table.writerow(row)
        file.flush()
        for key, value in row.items():
            if self._board is not None and key not in ("step", "network"):
                self._board.add_scalar(f"{place}/{key}", value, int(row["step"]))

    def close(self) -> None:
        """Flushes and closes all files."""
        for file, _ in self._tables.values():
            file.close()
        if self._board is not None:
            self._board.close()


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes beside ``path`` first: an interruption leaves the earlier checkpoint whole."""
    partial = path.with_name(path.name + ".partial")
    torch.save({"format": _FORMAT, **state}, partial)
    os.replace(partial, path)


def read_state(path: str, what: str) -> dict[str, Any]:
    """What :func:`save_state` wrote; ``what`` names it in errors. Tensors and plain values only: reading runs no code
    from the file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise UserError(f"{what} is not a readable checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise UserError(f"{what} must be a checkpoint that this program wrote, in this version")
    return state


def load_checkpoint(path: str) -> dict[str, Any]:
    """The state of a run to go on with."""
    state = read_state(path, f"--resume {path}")
    if "learners" not in state:
        raise UserError(
            f"--resume {path} must be a whole run, as checkpoint.pt beside it; got its best network alone, which "
            "nothing can go on from"
        )
    return state
