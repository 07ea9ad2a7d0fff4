"""The best network of a run by one metric, and when there has been no better one for long enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from examples.resnet50.checkpoint import read_saved, save_checkpoint
from examples.resnet50.errors import UserError
from examples.resnet50.evaluate import Evaluation
from examples.resnet50.measures import Metrics
from examples.resnet50.model import EmbeddingNet
from examples.resnet50.record import Row


@dataclass(frozen=True)
class Best:
    """A network as it was measured after ``step``, with the batch-norm statistics of that; its state is on the CPU."""

    step: int
    evaluation: Evaluation
    network: dict[str, Tensor]


class BestSoFar:
    """Every evaluation of a run, the best by the metric ``by``, and the count for ``patience``.

    Better is higher; of equal ones the first is the best. The run ends after ``patience`` evaluations in a row that
    were not better, 0: never.
    """

    def __init__(self, by: str, patience: int):
        self.by = by
        self.patience = patience
        self.evaluations: list[Row] = []  # step and metrics of each
        self.since = 0  # how many there were since the best
        self.best: Best | None = None

    def add(self, step: int, model: EmbeddingNet, evaluation: Evaluation) -> bool:
        """Takes in an evaluation of ``model`` as it is now; whether it is the best so far.

        A metric that is not a number, as where no class has two test images, is better than nothing only.
        """
        self.evaluations.append({"step": step, **evaluation.metrics})
        if self.best is not None and not _better(evaluation.metrics[self.by], self.value):
            self.since += 1
            return False
        network = {**model.state_dict(), **evaluation.statistics}
        network = {key: value.detach().to("cpu", copy=True) for key, value in network.items()}
        self.best, self.since = Best(step, evaluation, network), 0
        return True

    @property
    def value(self) -> float:
        """The metric of the best."""
        assert self.best is not None
        return self.best.evaluation.metrics[self.by]

    @property
    def exhausted(self) -> bool:
        """Whether the run ends here."""
        return 0 < self.patience <= self.since

    def measured_at(self, step: int) -> bool:
        """Whether the last evaluation was after ``step``."""
        return bool(self.evaluations) and self.evaluations[-1]["step"] == step

    def save(self, path: Path, options: dict[str, Any]) -> None:
        """Writes the best network, for :func:`load_best`."""
        assert self.best is not None
        best = self.best
        found = {"step": best.step, "metrics": best.evaluation.metrics, "network": best.network}
        save_checkpoint(path, {"options": options, **found})

    def state_dict(self) -> dict[str, Any]:
        """All of it, the network too: whatever becomes of the file that it is kept in, a resumed run has it."""
        best = self.best
        return {
            "evaluations": self.evaluations,
            "since": self.since,
            "best": None
            if best is None
            else {"step": best.step, "evaluation": best.evaluation.to_dict(), "network": best.network},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`state_dict`; UserError where the run had come to its end."""
        self.evaluations = list(state["evaluations"])
        self.since = state["since"]
        best = state["best"]
        if best is not None:
            self.best = Best(best["step"], Evaluation(**best["evaluation"]), best["network"])
        if self.exhausted:
            raise UserError(
                f"--patience must be 0 or above {self.since}, the evaluations in the checkpoint since the best; "
                f"got {self.patience}"
            )


def _better(value: float, best: float) -> bool:
    return value > best or (math.isnan(best) and not math.isnan(value))


def load_best(path: str) -> tuple[EmbeddingNet, Metrics]:
    """The network in ``best.pt``, in evaluation mode on the CPU, and what it was worth on the test images."""
    state = read_saved(path, path)
    if "network" not in state:
        raise UserError(f"{path} must hold the best network of a run, as best.pt does")
    network = state["network"]
    model = EmbeddingNet(state["options"]["embedding_dim"]).to(network["mean"].dtype)
    model.load_state_dict(network)
    return model.eval(), state["metrics"]
