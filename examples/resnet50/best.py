"""The best network of a run by one metric, and when there has been no better one for long enough."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.resnet50.errors import UserError
from examples.resnet50.evaluate import Evaluation, Metrics
from examples.resnet50.files import read_state, save_state
from examples.resnet50.model import EmbeddingNet
from examples.resnet50.options import Options
from examples.resnet50.telemetry import Row


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
        #: step, metrics and embeddings as they were found, and the state of the network, on the CPU.
        self.best: dict[str, Any] | None = None

    def add(self, step: int, evaluation: Evaluation) -> bool:
        """Takes in an evaluation with its network; whether it is the best so far.

        A metric that is not a number, as where no class has two test images, is better than nothing only.
        """
        self.evaluations.append({"step": step, **evaluation.metrics})
        value = evaluation.metrics[self.by]
        if self.best is not None and not (value > self.value or (math.isnan(self.value) and not math.isnan(value))):
            self.since += 1
            return False
        assert evaluation.network is not None
        network = {key: value.cpu() for key, value in evaluation.network.state_dict().items()}
        self.best, self.since = {"step": step, **evaluation.to_dict(), "network": network}, 0
        return True

    @property
    def value(self) -> float:
        """The metric of the best."""
        assert self.best is not None
        return self.best["metrics"][self.by]

    @property
    def exhausted(self) -> bool:
        """Whether the run ends here."""
        return 0 < self.patience <= self.since

    def measured_at(self, step: int) -> bool:
        """Whether the last evaluation was after ``step``."""
        return bool(self.evaluations) and self.evaluations[-1]["step"] == step

    def save(self, path: Path, options: Options) -> None:
        """Writes the best network, for :func:`load_best`."""
        assert self.best is not None
        save_state(path, {"options": asdict(options), **self.best})

    def state_dict(self) -> dict[str, Any]:
        """All of it, the network too: whatever becomes of the file that it is kept in, a resumed run has it."""
        return {name: getattr(self, name) for name in ("evaluations", "since", "best")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of :meth:`state_dict`; UserError where the run had come to its end."""
        self.evaluations, self.since, self.best = list(state["evaluations"]), state["since"], state["best"]
        if self.exhausted:
            raise UserError(
                f"--patience must be 0 or above {self.since}, the evaluations in the checkpoint since the best; "
                f"got {self.patience}"
            )


def load_best(path: str) -> tuple[EmbeddingNet, Metrics]:
    """The network in ``best.pt``, in evaluation mode on the CPU, and what it was worth on the test images."""
    state = read_state(path, path)
    if "network" not in state:
        raise UserError(f"{path} must hold the best network of a run, as best.pt does")
    network = state["network"]
    options = state["options"]
    model = EmbeddingNet(options["embedding_dim"], pooled_shortcuts=options["shortcuts"] == "pooled")
    model.to(network["mean"].dtype).load_state_dict(network)
    return model.eval(), state["metrics"]
