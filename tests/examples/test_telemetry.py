"""Numbers stay on the device until they are read together: no step waits for them, none is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from examples.resnet50 import telemetry
from examples.resnet50 import trainer as trainer_module
from examples.resnet50.learner import loss_function
from examples.resnet50.telemetry import READ_EVERY, Telemetry
from examples.resnet50.trainer import Trainer

pytestmark = pytest.mark.usefixtures("tiny_network")
NewTrainer = Callable[..., Trainer]
#: For these the CPU needs a device's numbers: as a number or a condition in Python, or for the size of a result.
WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "_unique2", "unique_dim")


class Waits(TorchDispatchMode):
    """Writes down what would wait for a device if it ran on one."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITS:
            self.met.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers each ``tolist`` brought, which on the CPU is no operator."""
    numbers: list[int] = []
    tolist = torch.Tensor.tolist

    def told(self: torch.Tensor) -> Any:
        numbers.append(self.numel())
        return tolist(self)

    monkeypatch.setattr(torch.Tensor, "tolist", told)
    return numbers


@pytest.mark.parametrize(("loss", "start"), [("fused", "batch-hard"), ("fused", "batch-all"), ("both", "batch-all")])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_step_waits_for_nothing(
    new_trainer: NewTrainer, monkeypatch: pytest.MonkeyPatch, reads: list[int], precision: str, loss: str, start: str
):
    # The plain reference looks at its arguments' values itself; what is asked here is whether the loop does.
    monkeypatch.setattr(
        trainer_module, "loss_function", lambda engine, *arguments, **told: loss_function("fused", *arguments, **told)
    )
    run = new_trainer("--steps=3", f"--precision={precision}", f"--loss={loss}", f"--start={start}", "--start-steps=3")
    batches = [run._next_batch(slice(None)) for _ in range(3)]  # drawing classes and images is the CPU's own affair
    monkeypatch.setattr(run, "_next_batch", lambda part: batches.pop())
    del reads[:]
    with Waits() as waits:
        for _ in range(3):
            run.train_step()
    assert waits.met == [] and reads == []
    run.read(lambda row: None)
    columns = len(run.history[0].keys() - {"step", "learning_rate", "images_per_second"})
    each = 5 + (precision == "float16")
    assert reads == [3 * columns] and columns == (each if loss == "fused" else 2 * each + 4)


def test_all_steps_are_read_together_and_the_first_and_the_last_at_once(new_trainer: NewTrainer):
    assert READ_EVERY == 10
    run = new_trainer("--steps=23")
    seen: list[tuple[int, int]] = []  # the step that was trained last, and the one that was read
    run.run(lambda row: seen.append((run.step, int(row["step"]))))
    assert [step for _, step in seen] == list(range(1, 24)) == [int(row["step"]) for row in run.history]
    assert [when for when, _ in seen] == [1] + [10] * 9 + [20] * 10 + [23] * 3


def test_every_step_has_the_numbers_that_it_would_have_alone(new_trainer: NewTrainer):
    together, alone = new_trainer("--steps=12", "--loss=both"), new_trainer("--steps=12", "--loss=both")
    together.run(lambda row: None)
    for _ in range(12):
        alone.train_step()
        alone.read(lambda row: None)
    for row in (*together.history, *alone.history):
        assert row.pop("images_per_second") > 0
    assert together.history == alone.history and len({row["loss_fused"] for row in alone.history}) == 12


def test_a_run_that_stops_early_is_read_to_its_end(new_trainer: NewTrainer):
    run = new_trainer("--steps=20")
    run.run(lambda row: None, lambda: run.step < 7)
    assert run.step == 7 and [row["step"] for row in run.history] == [1, 2, 3, 4, 5, 6, 7] and not run.telemetry


def test_speed_is_that_of_the_steps_together(monkeypatch: pytest.MonkeyPatch):
    times = iter([100.0, 104.0, 200.0, 201.0])
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: next(times))
    kept = Telemetry()
    for step in (1, 2):
        kept.start_step()
        kept.add({"step": step}, {"loss": torch.tensor(step / 2)}, images=8)
    assert kept.read() == [
        {"step": 1, "loss": 0.5, "images_per_second": 4},
        {"step": 2, "loss": 1, "images_per_second": 4},
    ]
    assert kept.read() == []
    kept.start_step()
    kept.add({"step": 3}, {"loss": torch.tensor(0.0)}, images=8)
    assert kept.read()[0]["images_per_second"] == 8  # the clock stood still between
