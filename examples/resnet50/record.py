"""What a run writes while it goes: a row per step, a row per evaluation, and TensorBoard events of both."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

Row = dict[str, float]


class _Table:
    """A CSV file that is whole after every row; each row has the columns of the first."""

    def __init__(self, path: Path):
        self._file = path.open("w", newline="", encoding="utf-8")
        self._csv: csv.DictWriter[str] | None = None

    def add(self, row: dict[str, Any]) -> None:
        if self._csv is None:
            self._csv = csv.DictWriter(self._file, list(row))
            self._csv.writeheader()
        self._csv.writerow(row)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Record:
    """The open files of a run, metrics.csv and evaluations.csv; a resumed one begins with the rows of its checkpoint.

    ``evaluations`` are those of the learner ``name``.
    """

    def __init__(self, folder: Path, history: list[Row], name: str, evaluations: list[Row]):
        from torch.utils.tensorboard import SummaryWriter  # here: it takes a second, and --help does not need it

        self._steps, self._evaluations = _Table(folder / "metrics.csv"), _Table(folder / "evaluations.csv")
        purge = int(history[-1]["step"]) + 1 if history else None
        self._board = SummaryWriter(str(folder), purge_step=purge)
        for row in history:
            self._steps.add(row)
        for row in evaluations:
            self._evaluations.add(_named(name, row))

    def add(self, row: Row) -> None:
        """One step; every row has the same keys, of which ``step`` is one."""
        self._steps.add(row)
        self._draw("train", row)

    def add_evaluation(self, name: str, row: Row) -> None:
        """Retrieval among the test images by the learner ``name``: ``step`` and the metrics by their names."""
        self._evaluations.add(_named(name, row))
        self._draw(f"test/{name}", row)

    def _draw(self, folder: str, row: Row) -> None:
        for key, value in row.items():
            if key != "step":
                self._board.add_scalar(f"{folder}/{key}", value, int(row["step"]))

    def close(self) -> None:
        """Flushes and closes all files."""
        self._steps.close()
        self._evaluations.close()
        self._board.close()


def _named(name: str, row: Row) -> dict[str, Any]:
    return {"step": int(row["step"]), "network": name, **{key: row[key] for key in row if key != "step"}}
