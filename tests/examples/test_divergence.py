"""A loss that is no number any more ends the run in one line, also when it is noticed only steps later."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.resnet50 import trainer as trainer_module
from examples.resnet50.errors import Diverged
from examples.resnet50.learner import loss_function
from examples.resnet50.train import main
from examples.resnet50.trainer import Trainer

pytestmark = pytest.mark.usefixtures("tiny_network")
ARGUMENTS = ["--test-limit=24", "--classes-per-batch=2", "--samples-per-class=2", "--embedding-dim=8", "--device=cpu"]


def spoil(monkeypatch: pytest.MonkeyPatch, step: int, value: float) -> None:
    """Makes the fused loss ``value`` from ``step`` on."""

    calls = 0

    def losses(engine: str, *arguments: str, **options: object) -> Callable[..., Any]:
        inner = loss_function(engine, *arguments, **options)

        def loss(*given: torch.Tensor, **options: object) -> Any:
            nonlocal calls
            calls += 1
            found, stats = inner(*given, **options)
            return found * (value if calls >= step else 1), stats

        return loss if engine == "fused" else inner

    monkeypatch.setattr(trainer_module, "loss_function", losses)


@pytest.mark.parametrize(("value", "precision"), [(math.nan, "float32"), (math.inf, "float16")])
def test_the_first_bad_step_is_named_though_later_ones_ran(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    value: float,
    precision: str,
):
    spoil(monkeypatch, step=14, value=value)
    arguments = [*ARGUMENTS, "--loss=fused", "--steps=40", f"--out={tmp_path}", "--name=run", "--save-every=12"]
    assert main([*arguments, f"--precision={precision}"]) == 1
    error = capsys.readouterr().err.strip()
    remedy = "try a smaller --lr" + (" or --precision bfloat16" if precision == "float16" else "")
    assert "\n" not in error and re.fullmatch(
        rf"error: step 14: the loss of fused must be finite; got {value}; look at .*run/metrics.csv .*{remedy}", error
    )
    with (tmp_path / "run" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 15)) and rows[-1]["loss_fused"] == str(value)
    assert (tmp_path / "run" / "loss.png").exists()
    # What was saved before is kept, and whole: it goes on from step 12.
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 12 == len(state["history"])
    assert all(parameter.isfinite().all() for parameter in state["learners"]["fused"]["model"].values())


def test_a_network_that_really_diverges(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main([*ARGUMENTS, "--loss=both", "--steps=9", "--lr=1e38", f"--out={tmp_path}"]) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and re.match(r"error: step [2-9]: the loss of fused must be finite; got nan; look", error)


def test_a_loss_that_alone_becomes_nan_is_a_disagreement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    """The embeddings are finite, for the reference has a loss of them: it is no fault of the network."""
    spoil(monkeypatch, step=3, value=math.nan)
    assert main([*ARGUMENTS, "--loss=both", "--steps=9", f"--out={tmp_path}"]) == 1
    error = capsys.readouterr().err.strip()
    assert "step 3: fused and reference differ in the loss on the same embeddings by nan relative" in error
    assert "\n" not in error and len(list(tmp_path.glob("*/loss.png"))) == 1


@pytest.mark.parametrize(("copy", "name"), [(0, "fused"), (1, "reference")])
def test_either_copy_can_diverge(new_trainer: Callable[..., Trainer], copy: int, name: str):
    run = new_trainer("--steps=9", "--loss=both")

    def go_on() -> bool:
        if run.step == 3:
            run.learners[copy].model.head[0].weight.data[0, 0] = math.nan
        return True

    with pytest.raises(Diverged, match=rf"^step 4: the loss of {name} must be finite; got nan$"):
        run.run(lambda row: None, go_on)
    assert len(run.history) == 4
