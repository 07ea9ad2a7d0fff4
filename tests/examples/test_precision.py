"""Half precision: what autocast runs in it, and the steps that overflow float16."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from examples.resnet50 import trainer as trainer_module
from examples.resnet50.device import grad_scaler
from examples.resnet50.errors import UserError
from examples.resnet50.files import load_checkpoint
from examples.resnet50.learner import loss_function
from examples.resnet50.options import complete, merge_resumed, parse_options
from examples.resnet50.train import main
from examples.resnet50.trainer import Trainer
from tests.examples.conftest import with_gradient_times

pytestmark = pytest.mark.usefixtures("tiny_network")
NewTrainer = Callable[..., Trainer]


#: A loss whose gradient is so large that float16 cannot hold it behind the head.
ENLARGED = 1e20


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Steps in which the gradients overflow, to be filled."""
    steps: set[int] = set()
    step = 0

    def losses(*arguments: str, **options: Any) -> Callable[..., Any]:
        inner = loss_function(*arguments, **options)

        def loss(*given: torch.Tensor, **options: Any) -> Any:
            nonlocal step
            step += 1
            value, stats = inner(*given, **options)
            return with_gradient_times(ENLARGED, value) if step in steps else value, stats

        return loss

    monkeypatch.setattr(trainer_module, "loss_function", losses)
    return steps


SCALE = 64.0


def float16(new_trainer: NewTrainer, *arguments: str) -> Trainer:
    """A trainer whose scale is one at which its tiny network does not overflow; at the first one, 65536, it does."""
    run = new_trainer("--precision=float16", *arguments)
    for learner in run.learners:
        learner.scaler.load_state_dict({**learner.scaler.state_dict(), "scale": SCALE})
    return run


def weights(run: Trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in run.learners[0].model.parameters()]


def moved(run: Trainer) -> bool:
    """Whether one more step moves the weights."""
    before = weights(run)
    run.train_step()
    run.read(lambda row: None)
    return not all(torch.equal(a, b) for a, b in zip(before, weights(run), strict=True))


def test_steps_that_overflow_are_skipped_and_counted(new_trainer: NewTrainer, overflowing: set[int]):
    overflowing.update({2, 4, 5})
    run = float16(new_trainer, "--steps=6")
    assert [moved(run) for _ in range(6)] == [True, False, True, False, False, True]
    assert [row["skipped_fused"] for row in run.history] == [0, 1, 1, 2, 3, 3]
    assert run.learners[0].scaler.get_scale() == SCALE / 8
    assert all(parameter.isfinite().all() for parameter in weights(run))


def test_without_a_scale_nothing_is_skipped_nor_counted(new_trainer: NewTrainer):
    for precision in ("float32", "bfloat16"):
        run = new_trainer("--steps=2", f"--precision={precision}")
        assert moved(run) and moved(run)
        assert "skipped_fused" not in run.history[-1] and not run.learners[0].scaler.is_enabled()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_network_runs_in_its_precision_and_the_loss_in_float32(new_trainer: NewTrainer, precision: str):
    run = new_trainer("--steps=1", f"--precision={precision}")
    learner = run.learners[0]
    seen: dict[str, torch.dtype] = {}
    learner.model.head[0].register_forward_hook(lambda module, args, out: seen.update(head=out.dtype))
    inner = learner.loss_at

    def loss(embeddings: torch.Tensor, labels: torch.Tensor, **options: bool) -> Any:
        seen["loss"] = embeddings.dtype
        return inner(1)(embeddings, labels, **options)

    learner.loss_at = lambda step: loss
    run.train_step()
    assert seen == {"head": getattr(torch, precision), "loss": torch.float32}
    assert {parameter.dtype for parameter in learner.model.parameters()} == {torch.float32}


def test_what_is_reported_is_not_scaled(new_trainer: NewTrainer):
    """Norm and gradient of the embeddings: the comparison with the reference depends on it."""
    half, single = float16(new_trainer, "--steps=1", "--loss=both"), new_trainer("--steps=1", "--loss=both")
    for run in (half, single):
        run.run(lambda row: None)
    assert half.history[0]["gradient_norm_fused"] == pytest.approx(single.history[0]["gradient_norm_fused"], rel=0.05)
    assert half.history[0]["same_embeddings_gradient_difference"] < 1e-5


def test_the_scale_goes_on_where_it_stopped(new_trainer: NewTrainer, overflowing: set[int], tmp_path: Path):
    overflowing.add(2)
    run = float16(new_trainer, "--steps=4")
    run.run(lambda row: None, lambda: run.step < 2)
    run.save(tmp_path / "checkpoint.pt")
    continued = new_trainer("--steps=4", "--precision=float16")
    continued.restore(load_checkpoint(str(tmp_path / "checkpoint.pt")))
    assert continued.learners[0].scaler.get_scale() == SCALE / 2
    continued.run(lambda row: None)
    assert continued.history[-1]["skipped_fused"] == 1


def test_float16_is_refused_where_its_scale_cannot_be_inverted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: SimpleNamespace(has_fp64=False))
    with pytest.raises(
        UserError, match="--precision must be float32 or bfloat16 on xpu:0, which has no float64; got f"
    ):
        grad_scaler("float16", torch.device("xpu:0"))
    assert not grad_scaler("bfloat16", torch.device("xpu:0")).is_enabled()


@pytest.mark.usefixtures("nothing_drawn")
def test_the_command_counts_them_and_says_where_it_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    arguments = ["--test-limit=24", "--classes-per-batch=2", "--samples-per-class=2", "--embedding-dim=8", "--steps=12"]
    assert main([*arguments, "--precision=float16", "--loss=both", "--device=cpu", f"--out={tmp_path}"]) == 0
    output = capsys.readouterr().out
    assert "\ndevice:  cpu; the network in float16\n" in output
    for name in ("fused", "reference"):  # the latter is measured at the end as well
        assert re.search(rf"\nafter 12 steps, {name} +hit_rate@1 ", output)
    with (tmp_path / "digits-both" / "evaluations.csv").open(encoding="utf-8") as file:
        measured = [(row["step"], row["network"]) for row in csv.DictReader(file)]
    assert measured == [("0", "fused"), ("12", "fused"), ("12", "reference")]
    with (tmp_path / "digits-both" / "metrics.csv").open(encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    for name in ("fused", "reference"):
        told = re.search(
            rf"\nskipped: (\d+) of 12 steps of {name}, whose gradients overflowed float16; .* by (\d+) now\n", output
        )
        assert told and int(told[1]) == float(last[f"skipped_{name}"]) > 0
        assert int(told[2]) == 65536 // 2 ** int(told[1])


def test_a_resumed_run_may_change_its_device_but_not_its_precision():
    saved = asdict(complete(parse_options(["--precision=bfloat16", "--device=cuda:1", "--steps=4"])[0]))
    moved = merge_resumed(*parse_options(["--resume=x", "--device=cpu", "--compile", "--steps=9"]), saved)
    assert (moved.device, moved.compile, moved.precision, moved.steps) == ("cpu", True, "bfloat16", 9)
    assert merge_resumed(*parse_options(["--resume=x"]), saved).device == "cuda:1"
    with pytest.raises(UserError, match="--precision must be left out or 'bfloat16' as in --resume; got 'float32'"):
        merge_resumed(*parse_options(["--resume=x", "--precision=float32"]), saved)
