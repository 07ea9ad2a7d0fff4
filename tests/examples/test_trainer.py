"""The loop without the command around it: seeds, saving and going on, the resting body."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.resnet50.errors import UserError
from examples.resnet50.files import load_checkpoint
from examples.resnet50.telemetry import Row
from examples.resnet50.trainer import Trainer

NewTrainer = Callable[..., Trainer]


def ignore(row: Row) -> None:
    """For runs whose rows are looked at in the history."""


def stepped(run: Trainer) -> Row:
    """The row of one more step."""
    run.train_step()
    run.read(ignore)
    return run.history[-1]


def history(of: Trainer) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in of.history]


def assert_same(first: Any, second: Any) -> None:
    """Equal bit for bit, in depth."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        assert first == second


def test_same_seed_same_run(new_trainer: NewTrainer):
    runs = [new_trainer("--steps=2", f"--seed={seed}") for seed in (3, 3, 4)]
    for run in runs:
        run.run(ignore)
    assert history(runs[0]) == history(runs[1]) != history(runs[2])
    assert_same(runs[0].learners[0].state_dict(), runs[1].learners[0].state_dict())


def test_two_and_two_steps_are_four_bit_for_bit(new_trainer: NewTrainer, tmp_path: Path):
    """With the second copy, which goes after the second; tests/examples/test_checked.py has more of that."""
    whole = new_trainer("--steps=4", "--loss=checked")
    whole.run(ignore)

    interrupted = new_trainer("--steps=4", "--loss=checked")
    interrupted.run(ignore, lambda: interrupted.step < 2)
    assert interrupted.step == 2
    interrupted.save(tmp_path / "checkpoint.pt")
    torch.rand(1)  # the state of PyTorch's generator must not matter
    continued = new_trainer("--steps=4", "--loss=checked")
    continued.restore(load_checkpoint(str(tmp_path / "checkpoint.pt")))
    continued.run(ignore)

    assert history(continued) == history(whole)
    for first, second in zip(continued.learners, whole.learners, strict=True):
        assert_same(first.state_dict(), second.state_dict())
    assert torch.equal(continued.generator.get_state(), whole.generator.get_state())


def test_longer_constant_run_continues_a_shorter_one(new_trainer: NewTrainer, tmp_path: Path):
    whole = new_trainer("--steps=4", "--schedule=constant")
    whole.run(ignore)
    half = new_trainer("--steps=2", "--schedule=constant")
    half.run(ignore)
    half.save(tmp_path / "checkpoint.pt")
    continued = new_trainer("--steps=4", "--schedule=constant")
    continued.restore(load_checkpoint(str(tmp_path / "checkpoint.pt")))
    continued.run(ignore)
    assert history(continued) == history(whole)
    assert_same(continued.learners[0].state_dict(), whole.learners[0].state_dict())


def test_the_body_rests_then_trains(new_trainer: NewTrainer):
    # 2 x 24 of 48 images: one step is one epoch
    arguments = ("--samples-per-class=24", "--epochs=3", "--freeze-epochs=1", "--precision=bfloat16", "--lr=0.001")
    run = new_trainer(*arguments)
    model = run.learners[0].model
    start = {key: value.clone() for key, value in model.state_dict().items()}
    assert stepped(run)["learning_rate"] == pytest.approx(1e-4)  # the first of ten steps of warm-up to 1e-3
    after = model.state_dict()
    assert all(torch.equal(after[key], start[key]) for key in start if key.startswith("body."))
    assert not torch.equal(after["head.0.weight"], start["head.0.weight"])
    assert stepped(run)["learning_rate"] == pytest.approx(1e-5)  # now to 1e-4
    assert not torch.equal(model.state_dict()["body.bn1.running_mean"], start["body.bn1.running_mean"])
    run.train_step()
    assert not torch.equal(model.state_dict()["body.conv1.weight"], start["body.conv1.weight"])


def test_freezing_must_end_before_the_run(new_trainer: NewTrainer):
    with pytest.raises(UserError, match="--freeze-epochs must end before the run does, at step 24; got 2 epochs"):
        new_trainer("--epochs=2", "--freeze-epochs=2")


@pytest.mark.parametrize("arguments", [["--soft-margin"], ["--distance=cosine", "--margin=0.1"], ["--no-augment"]])
def test_options_of_the_loss(new_trainer: NewTrainer, arguments: list[str]):
    run = new_trainer("--loss=both", "--steps=1", *arguments)
    row = stepped(run)
    assert row["same_embeddings_loss_difference"] < 1e-5 and row["same_embeddings_gradient_difference"] < 1e-5


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--classes-per-batch=4", "--classes-per-batch must be at most 3, the number of classes to train on; got 4"),
        ("--start-steps=5", "--start must be given with --start-steps 5; got none"),
    ],
)
def test_what_would_not_be_what_was_asked_for_is_refused(new_trainer: NewTrainer, argument: str, told: str):
    with pytest.raises(UserError, match=f"^{told}$"):
        new_trainer(argument)
