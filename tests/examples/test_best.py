"""Evaluations during a run: which network is kept as the best, when the run ends early, what a resumed run knows."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from examples.resnet50 import train as train_module
from examples.resnet50 import trainer as trainer_module
from examples.resnet50.best import BestSoFar, load_best
from examples.resnet50.errors import Diverged, UserError
from examples.resnet50.evaluate import MEASURES, Evaluation, embed, evaluate, measured
from examples.resnet50.files import load_checkpoint, read_state
from examples.resnet50.model import EmbeddingNet
from examples.resnet50.options import complete, parse_options
from examples.resnet50.telemetry import Row
from examples.resnet50.train import main
from examples.resnet50.trainer import Trainer
from tests.examples.conftest import build_split
from tests.examples.test_trainer import assert_same, history, ignore

pytestmark = pytest.mark.usefixtures("tiny_network")
NewTrainer = Callable[..., Trainer]
#: 24 of 48 images in a batch: two steps are one epoch.
EPOCHS = ["--samples-per-class=12", "--evaluate-every=1"]


def planted(monkeypatch: pytest.MonkeyPatch, values: list[float], by: str = "map_at_r") -> None:
    """The next evaluations find these, whatever the network."""
    left = list(values)

    def found(model: EmbeddingNet, *given: Any) -> Evaluation:
        metrics = dict.fromkeys((*MEASURES, "queries"), 0.5) | {by: left.pop(0)}
        return Evaluation(torch.zeros(24, 8), metrics, copy.deepcopy(model))

    monkeypatch.setattr(trainer_module, "evaluate", found)


def test_the_measures_are_those_of_the_library():
    found = measured(torch.randn(6, 2), torch.arange(6) // 2, torch.ones(6, dtype=torch.bool))
    assert found.keys() - set(MEASURES) == {"queries", "queries_without_positive"} and set(MEASURES) <= found.keys()


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "best", "since", "ends"),
    [
        ([0.2, 0.5, 0.4, 0.1, 0.9], 5, 0, 4),
        ([0.3, 0.3, 0.3], 1, 2, 3),  # of equal ones the first
        ([0.1, 0.2, 0.3], 3, 0, None),
        ([0.3, 0.2, 0.4, 0.1], 3, 1, None),  # a better one starts the count anew
        ([NAN, NAN, 0.0, NAN], 3, 1, None),
        ([NAN, NAN, NAN], 1, 2, 3),
    ],
)
def test_the_best_of_a_sequence(
    tiny_network: Callable[..., Any], values: list[float], best: int, since: int, ends: int | None
):
    kept = BestSoFar("mrr", patience=2)
    ended = []
    for step, value in enumerate(values, 1):
        network = tiny_network()
        torch.nn.init.constant_(network.head[0].weight, step)
        other = dict.fromkeys(MEASURES, step / 10)  # rises always
        kept.add(step, Evaluation(torch.full((1, 1), step), {**other, "mrr": value}, network))
        ended += [step] if kept.exhausted else []
    assert kept.best is not None and kept.best["step"] == best and kept.since == since
    assert kept.value == pytest.approx(values[best - 1], nan_ok=True)
    assert (kept.best["network"]["head.0.weight"] == best).all() and kept.best["embeddings"] == best
    assert ended[:1] == ([] if ends is None else [ends])
    assert [row["step"] for row in kept.evaluations] == list(range(1, len(values) + 1))


def test_without_patience_a_run_goes_on():
    kept = BestSoFar("map", patience=0)
    kept.since = 1000
    assert not kept.exhausted


@pytest.mark.parametrize(
    ("every", "steps", "due"), [(1, 7, [2, 4, 6, 7]), (2, 8, [4, 8]), (3, 4, [4]), (0, 5, [5]), (1, 4, [2, 4])]
)
def test_evaluated_every_so_many_epochs_and_at_the_end(new_trainer: NewTrainer, every: int, steps: int, due: list[int]):
    run = new_trainer(*EPOCHS, f"--evaluate-every={every}", f"--steps={steps}")
    told: list[tuple[int, int]] = []
    run.run(ignore, on_evaluation=lambda row, is_best: told.append((int(row["step"]), len(run.history))))
    assert told == [(step, step) for step in due]  # what came before an evaluation is read, and found finite
    assert [row["step"] for row in run.best.evaluations] == due and run.evaluation_seconds > 0


def test_a_run_ends_early_and_keeps_the_best(new_trainer: NewTrainer, monkeypatch: pytest.MonkeyPatch):
    planted(monkeypatch, [0.2, 0.5, 0.4, 0.5, 0.9], by="recall@5")
    run = new_trainer(*EPOCHS, "--steps=100", "--patience=2", "--best-by=recall@5")
    told: list[tuple[float, bool]] = []
    weights: dict[int, torch.Tensor] = {}

    def on_evaluation(row: Row, is_best: bool) -> None:
        told.append((row["recall@5"], is_best))
        weights[run.step] = run.learners[0].model.head[0].weight.detach().clone()

    run.run(ignore, on_evaluation=on_evaluation)
    assert told == [(0.2, True), (0.5, True), (0.4, False), (0.5, False)]
    assert run.step == 8 == len(run.history) and run.best.best is not None and run.best.best["step"] == 4
    assert torch.equal(run.best.best["network"]["head.0.weight"], weights[4]) and not torch.equal(
        weights[4], weights[8]
    )


def test_evaluations_leave_the_training_as_it_was(new_trainer: NewTrainer):
    watched, plain = (new_trainer(*EPOCHS, f"--evaluate-every={every}", "--steps=7") for every in (1, 0))
    watched.run(ignore)
    plain.run(ignore)
    assert len(watched.best.evaluations) == 4 and history(watched) == history(plain)
    assert_same(watched.learners[0].state_dict(), plain.learners[0].state_dict())


def test_the_best_network_is_the_one_that_was_measured(new_trainer: NewTrainer, tmp_path: Path):
    """In evaluation mode it gives the very embeddings: it has the batch-norm statistics that these were made with."""
    run = new_trainer(*EPOCHS, "--steps=6")
    run.run(ignore)
    assert run.best.best is not None
    run.best.save(tmp_path / "best.pt", run.options)
    state = read_state(str(tmp_path / "best.pt"), "it")
    network = trainer_module.build_model(8, None, seed=5).eval()
    network.load_state_dict(state["network"])
    with torch.no_grad():
        embeddings = embed(network, run.split.test)
    assert torch.equal(embeddings, run.best.best["embeddings"])
    assert measured(embeddings, run.split.test.labels, run.split.trained_on) == state["metrics"]
    assert not torch.equal(network.body[1].running_mean, run.learners[0].model.body[1].running_mean)


@pytest.mark.parametrize("stop", [3, 4, 5, 7])
def test_a_resumed_run_has_the_best_and_the_count_of_the_whole(
    new_trainer: NewTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
):
    values = [0.5, 0.2, 0.3, 0.4]  # after 2, 4, 6 and 8 steps; three are not better
    arguments = [*EPOCHS, "--steps=20", "--patience=3"]
    planted(monkeypatch, values)
    whole = new_trainer(*arguments)
    whole.run(ignore)
    assert whole.step == 8

    planted(monkeypatch, values)
    interrupted = new_trainer(*arguments)
    interrupted.run(ignore, lambda: interrupted.step < stop)
    assert interrupted.step == stop
    interrupted.save(tmp_path / "checkpoint.pt")
    continued = new_trainer(*arguments)
    continued.restore(load_checkpoint(str(tmp_path / "checkpoint.pt")))
    assert continued.best.since == (stop // 2 - 1)
    continued.run(ignore)
    assert continued.step == 8 and history(continued) == history(whole)
    assert_same(continued.best.state_dict(), whole.best.state_dict())


def test_a_run_that_ended_early_goes_on_with_more_patience(
    new_trainer: NewTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    planted(monkeypatch, [0.5, 0.4, 0.3, 0.6])
    run = new_trainer(*EPOCHS, "--steps=8", "--patience=2")
    run.run(ignore)
    assert run.step == 6
    run.save(tmp_path / "checkpoint.pt")
    state = load_checkpoint(str(tmp_path / "checkpoint.pt"))
    expected = "^--patience must be 0 or above 2, the evaluations in the checkpoint since the best; got 2$"
    with pytest.raises(UserError, match=expected):
        new_trainer(*EPOCHS, "--steps=8", "--patience=2").restore(state)
    for patience in (0, 3):
        planted(monkeypatch, [0.6])
        patient = new_trainer(*EPOCHS, "--steps=8", f"--patience={patience}")
        patient.restore(state)
        patient.run(ignore)
        assert patient.step == 8 and patient.best.best is not None and patient.best.best["step"] == 8


def test_patience_needs_evaluations():
    with pytest.raises(UserError, match=r"^--patience must be 0 with --evaluate-every 0, .* at the end alone; got 3$"):
        complete(parse_options(["--evaluate-every=0", "--patience=3"])[0])
    assert complete(parse_options(["--data=mnist", "--patience=3"])[0]).evaluate_every == 1
    assert complete(parse_options(["--data=omniglot"])[0]).evaluate_every == 5


def test_a_network_of_no_numbers_is_not_measured(new_trainer: NewTrainer, tiny_network: Callable[..., Any]):
    run = new_trainer("--steps=1")
    network = tiny_network()
    network.head[0].weight.data[0] = torch.nan
    expected = "^step 3: the embeddings of fused must be finite; got 24 of 24 rows that are not, the first at 0$"
    with pytest.raises(Diverged, match=expected):
        evaluate(network, run.split, "fused", 3)


def test_load_best_names_what_is_no_network(new_trainer: NewTrainer, tmp_path: Path):
    run = new_trainer("--steps=1")
    run.run(ignore)
    run.save(tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=r"checkpoint.pt must hold the best network of a run, as best.pt does$"):
        load_best(str(tmp_path / "checkpoint.pt"))
    with pytest.raises(UserError, match=r"no.pt is not a readable checkpoint"):
        load_best(str(tmp_path / "no.pt"))


@pytest.mark.parametrize(("arguments", "shortcuts"), [([], "pooled"), (["--weights=x.pth"], "strided")])
def test_load_best_gives_the_network_that_was_kept(tmp_path: Path, arguments: list[str], shortcuts: str):
    """ResNet-50 with the shortcuts of a run without, and with, pretrained weights."""
    options = complete(parse_options(["--embedding-dim=8", *arguments])[0])
    assert options.shortcuts == shortcuts
    network = EmbeddingNet(8, pooled_shortcuts=shortcuts == "pooled").eval()
    kept = BestSoFar("map", patience=0)
    kept.add(3, Evaluation(torch.zeros(2, 8), {"map": 0.25}, network))
    kept.save(tmp_path / "best.pt", options)
    found, metrics = load_best(str(tmp_path / "best.pt"))
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(images), network(images)) and metrics == {"map": 0.25}


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command on the tiny data set, of which two batches are an epoch, with results under ``tmp_path``."""
    monkeypatch.setattr(train_module, "read_dataset", lambda *given: build_split())
    small = ["--loss=fused", "--evaluate-every=1", "--no-nuisance", "--embedding-dim=8", "--device=cpu"]
    small += ["--classes-per-batch=2", "--samples-per-class=12"]
    return lambda *arguments: main([*small, f"--out={tmp_path}", *arguments])


def evaluations(folder: Path) -> list[dict[str, str]]:
    with (folder / "evaluations.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def results(output: str) -> list[str]:
    """What is said of the last evaluations and of the best, but for where it is."""
    return [line.split(";")[0] for line in output.splitlines() if line.startswith(("after 6", "after 7", "best"))]


@pytest.mark.usefixtures("nothing_drawn")
def test_a_run_killed_and_resumed_has_the_same_best(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--steps=7", "--save-every=3", "--lr=0.01"]
    assert train(*arguments, "--name=whole") == 0
    whole = capsys.readouterr().out

    step = Trainer.train_step

    def killed(self: Trainer) -> None:
        if self.step == 5:  # it has evaluated after 4 steps, and saved after 3
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "train_step", killed)
        assert train(*arguments, "--name=killed") == 130
    folder = tmp_path / "killed"
    assert [row["step"] for row in evaluations(folder)] == ["0", "2", "4"]
    assert load_checkpoint(str(folder / "checkpoint.pt"))["step"] == 3
    for resumed in (tmp_path / "elsewhere", folder):  # there is no best.pt yet in the one, a later one in the other
        capsys.readouterr()
        assert train(f"--resume={folder / 'checkpoint.pt'}", f"--name={resumed.name}") == 0
        assert evaluations(resumed) == evaluations(tmp_path / "whole")
        best, expected = (read_state(str(each / "best.pt"), "it") for each in (resumed, tmp_path / "whole"))
        for key in ("step", "metrics", "network"):
            assert_same(best[key], expected[key])
        said = results(capsys.readouterr().out)
        assert said == results(whole) and len(said) == 3


@pytest.mark.usefixtures("nothing_drawn")
def test_what_is_found_is_written_and_printed(
    train: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    planted(monkeypatch, [0.1, 0.2, 0.4, 0.3, 0.35])  # the first before training
    assert train("--steps=40", "--patience=2", "--name=run") == 0
    folder, output = tmp_path / "run", capsys.readouterr().out
    assert "every epoch; the network with the best map_at_r is kept, and after 2 evaluations in a row" in output
    best = ["best so far" in line for line in output.splitlines() if line.startswith("after ")]
    assert best == [True, True, False, False]
    assert "stopped: 2 evaluations in a row had no better map_at_r than the best" in output
    assert f"best:    map_at_r 0.4000 after 4 steps; that network is in {folder / 'best.pt'}" in output

    rows = evaluations(folder)
    found = [("0", 0.1), ("2", 0.2), ("4", 0.4), ("6", 0.3), ("8", 0.35)]
    assert [(row["step"], float(row["map_at_r"])) for row in rows] == found
    assert set(MEASURES) < rows[0].keys() and {row["network"] for row in rows} == {"fused"}
    board = EventAccumulator(str(folder)).Reload()
    drawn = [(str(event.step), pytest.approx(event.value)) for event in board.Scalars("test/fused/map_at_r")]
    assert drawn == found and len(board.Scalars("test/fused/hit_rate@1")) == 5

    assert train(f"--resume={folder / 'checkpoint.pt'}") == 2
    assert "--patience must be 0 or above 2" in capsys.readouterr().err
    assert train(f"--resume={folder / 'checkpoint.pt'}", "--best-by=mrr") == 2
    assert "--best-by must be left out or 'map_at_r' as in --resume; got 'mrr'" in capsys.readouterr().err
