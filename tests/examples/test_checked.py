"""--loss checked: the second copy for the first steps, the reference in every one; and the losses of --start."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import fasttriplet
from examples.resnet50 import trainer as trainer_module
from examples.resnet50.agreement import COPIES_LOSS, SAME_GRADIENT, SAME_LOSS
from examples.resnet50.errors import Disagreement, UserError
from examples.resnet50.files import load_checkpoint
from examples.resnet50.learner import STARTS, LossFunction, loss_function
from examples.resnet50.options import complete, parse_options
from examples.resnet50.trainer import Trainer
from tests.examples.conftest import with_gradient_times
from tests.examples.test_trainer import assert_same, history, ignore, stepped

pytestmark = pytest.mark.usefixtures("tiny_network")
NewTrainer = Callable[..., Trainer]
#: 16 images in a batch: the second copy is held for two steps.
ENOUGH = ["--samples-per-class=8"]


WRONG: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "loss": (lambda loss: 1.001 * loss, "the loss on the same embeddings"),
    "gradient": (partial(with_gradient_times, 1.001), "the gradient with respect to the same embeddings"),
}


@pytest.mark.parametrize("step", [1, 3, 14])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("start", ["batch-all", "batch-hard"])
def test_a_wrong_loss_or_gradient_fails_the_run(
    new_trainer: NewTrainer, monkeypatch: pytest.MonkeyPatch, start: str, wrong: str, step: int
):
    """In the first step, and in later ones: in the last of the second copy, and after it is gone."""
    change, what = WRONG[wrong]
    name = f"{start.replace('-', '_')}_triplet_loss"
    right, calls = getattr(fasttriplet, name), 0

    def loss(*given: torch.Tensor, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        value, stats = right(*given, **options)
        return change(value) if calls == step else value, stats

    monkeypatch.setattr(fasttriplet, name, loss)
    run = new_trainer("--loss=checked", f"--start={start}", "--start-steps=30", "--steps=30", *ENOUGH)
    with pytest.raises(Disagreement, match=rf"^step {step}: fused and reference differ in {what} by "):
        run.run(ignore)
    assert run.history[-1]["step"] == step


def test_the_second_copy_is_trained_for_three_steps(new_trainer: NewTrainer):
    run = new_trainer("--loss=checked", "--steps=5", *ENOUGH)
    assert [learner.name for learner in run.learners] == ["fused", "reference"]
    run.run(ignore)
    assert [learner.name for learner in run.learners] == ["fused"]
    for row in run.history:
        here = row["step"] <= 3
        assert (COPIES_LOSS in row) == ("loss_reference" in row) == ("active_reference" in row) == here
        assert row[SAME_LOSS] < 1e-5 and row[SAME_GRADIENT] < 1e-5
    both, fused = (new_trainer(f"--loss={loss}", "--steps=5", *ENOUGH) for loss in ("both", "fused"))
    for other in (both, fused):
        other.run(ignore)
        assert [row["loss_fused"] for row in other.history] == [row["loss_fused"] for row in run.history]
        assert_same(other.learners[0].state_dict(), run.learners[0].state_dict())
    assert len(both.learners) == 2 and all(COPIES_LOSS in row for row in both.history)
    assert SAME_LOSS not in fused.history[0]


@pytest.mark.parametrize(
    ("arguments", "trained"),
    [(ENOUGH, 3), ([], 2), ([*ENOUGH, "--precision=bfloat16"], 2), (["--precision=float64"], 11)],
)
def test_it_is_trained_for_a_step_longer_than_it_is_held(new_trainer: NewTrainer, arguments: list[str], trained: int):
    run = new_trainer("--loss=checked", "--steps=12", *arguments)
    run.run(ignore)
    assert [int(row["step"]) for row in run.history if COPIES_LOSS in row] == list(range(1, trained + 1))
    assert run.history[0][COPIES_LOSS] < 1e-4


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_resumed_run_is_the_whole_one_across_the_end_of_the_copy(new_trainer: NewTrainer, tmp_path: Path, stop: int):
    arguments = ("--loss=checked", "--steps=6", *ENOUGH)
    whole = new_trainer(*arguments)
    whole.run(ignore)
    interrupted = new_trainer(*arguments)
    interrupted.run(ignore, lambda: interrupted.step < stop)
    interrupted.save(tmp_path / "checkpoint.pt")
    state = load_checkpoint(str(tmp_path / "checkpoint.pt"))
    assert list(state["learners"]) == (["fused", "reference"] if stop <= 3 else ["fused"])
    continued = new_trainer(*arguments)
    continued.restore(state)
    continued.run(ignore)
    assert history(continued) == history(whole) and len(continued.learners) == 1
    assert_same(continued.learners[0].state_dict(), whole.learners[0].state_dict())


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Engine and mining of every loss that is asked for."""
    found: list[tuple[str, str]] = []

    def spied(engine: str, mining: str, **options: Any) -> LossFunction:
        found.append((engine, mining))
        return loss_function(engine, mining, **options)

    monkeypatch.setattr(trainer_module, "loss_function", spied)
    return found


@pytest.mark.parametrize("stop", [None, 1, 2, 3])
def test_the_loss_changes_after_the_first_steps_in_a_resumed_run_too(
    new_trainer: NewTrainer, asked: list[tuple[str, str]], tmp_path: Path, stop: int | None
):
    arguments = ("--loss=fused", "--start=semi-hard", "--start-steps=2", "--steps=5")
    run = new_trainer(*arguments)
    run.run(ignore, lambda: run.step != stop)
    if stop is not None:
        run.save(tmp_path / "checkpoint.pt")
        run = new_trainer(*arguments)
        run.restore(load_checkpoint(str(tmp_path / "checkpoint.pt")))
        run.run(ignore)
    assert asked == [("fused", "semi-hard")] * 2 + [("fused", "batch-hard")] * 3


@pytest.mark.parametrize("start", STARTS)
def test_each_start_trains_and_is_checked(new_trainer: NewTrainer, asked: list[tuple[str, str]], start: str):
    """The checked loss is the one of the step, by both engines."""
    run = new_trainer("--loss=checked", f"--start={start}", "--start-steps=4", "--steps=6", *ENOUGH)
    run.run(ignore)
    assert [mining for engine, mining in asked if engine == "fused"] == [start] * 4 + ["batch-hard"] * 2
    # of a second copy in three steps, and of the check in six
    assert [mining for engine, mining in asked if engine == "reference"] == [start] * 7 + ["batch-hard"] * 2
    assert all(row[SAME_LOSS] < 1e-5 and row[SAME_GRADIENT] < 1e-5 for row in run.history)
    assert all(0 <= row["active_fused"] <= 1 for row in run.history)


@pytest.mark.parametrize("soft", [False, True])
def test_what_is_recorded_of_a_step_is_what_the_loss_tells(new_trainer: NewTrainer, soft: bool):
    """Batch-hard by the hinge, and as ``--start=soft-margin``."""
    start = ["--start=soft-margin", "--start-steps=1"] if soft else ["--start=batch-hard"]
    run, other = (new_trainer("--loss=fused", "--steps=1", *start) for _ in range(2))
    row = stepped(run)
    images, labels = other._next_batch(slice(None))
    with torch.no_grad():
        embeddings = other.learners[0].model.train()(images)
    mined = fasttriplet.mine_batch_hard(embeddings, labels)
    gaps = mined.positive_distances - mined.negative_distances
    losses = torch.nn.functional.softplus(gaps) if soft else (gaps + 0.3).clamp_min(0)
    assert row["loss_fused"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert row["active_fused"] == pytest.approx((losses > 0).float().mean().item())
    assert row["positive_distance_fused"] == pytest.approx(mined.positive_distances.mean().item(), rel=1e-5)
    assert row["negative_distance_fused"] == pytest.approx(mined.negative_distances.mean().item(), rel=1e-5)


def test_a_start_needs_steps():
    for steps in ([], ["--start-steps=0"]):
        with pytest.raises(UserError, match=r"^--start-steps must be above 0 with --start semi-hard; got 0$"):
            complete(parse_options(["--data=omniglot", "--start=semi-hard", *steps])[0])
    assert complete(parse_options(["--data=omniglot", "--start=semi-hard", "--start-steps=9"])[0]).start_steps == 9
