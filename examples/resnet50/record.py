"""What a run writes while it goes: metrics.csv and TensorBoard events, one row per step."""

from __future__ import annotations

import csv
from pathlib import Path

from examples.resnet50.metrics import RetrievalMetrics

Row = dict[str, float]


class Record:
    """The open files of a run; a resumed one begins with the rows of its checkpoint."""

    def __init__(self, folder: Path, history: list[Row]):
        from torch.utils.tensorboard import SummaryWriter  # here: it takes a second, and --help does not need it

        self._file = (folder / "metrics.csv").open("w", newline="", encoding="utf-8")
        self._csv: csv.DictWriter[str] | None = None
        purge = int(history[-1]["step"]) + 1 if history else None
        self._board = SummaryWriter(str(folder), purge_step=purge)
        for row in history:
            self._write_csv(row)

    def _write_csv(self, row: Row) -> None:
        if self._csv is None:
            self._csv = csv.DictWriter(self._file, list(row))
            self._csv.writeheader()
        self._csv.writerow(row)
        self._file.flush()

    def add(self, row: Row) -> None:
        """One step; every row has the same keys, of which ``step`` is one."""
        self._write_csv(row)
        for key, value in row.items():
            if key != "step":
                self._board.add_scalar(f"train/{key}", value, int(row["step"]))

    def add_retrieval(self, name: str, step: int, metrics: RetrievalMetrics) -> None:
        """Retrieval among the test images after ``step`` steps, to TensorBoard."""
        for key in ("recall_at_1", "recall_at_5", "map_at_r"):
            self._board.add_scalar(f"test/{name}/{key}", getattr(metrics, key), step)

    def close(self) -> None:
        """Flushes and closes both files."""
        self._file.close()
        self._board.close()
