"""Several processes train what one does, step by step, and what ends one of them ends all: on the CPU, over gloo."""

from __future__ import annotations

import copy
import csv
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.resnet50 import trainer as trainer_module
from examples.resnet50.agreement import COPIES_LOSS, SAME_GRADIENT, SAME_LOSS
from examples.resnet50.datasets import read_dataset
from examples.resnet50.device import choose_device
from examples.resnet50.errors import UserError
from examples.resnet50.evaluate import MEASURES, Evaluation, evaluate
from examples.resnet50.files import load_checkpoint
from examples.resnet50.learner import LossFunction
from examples.resnet50.model import EmbeddingNet
from examples.resnet50.options import complete, parse_options
from examples.resnet50.processes import Processes
from examples.resnet50.telemetry import Row
from examples.resnet50.train import main, what_all_share
from examples.resnet50.trainer import Trainer
from tests.distributed.ranks import Failed, run, whole_results
from tests.examples.conftest import REPOSITORY, build_tiny, build_trainer
from tests.examples.test_device import pretend

#: Batches of 2 x 2 images: one process has two of them, so that classes are split.
RANKS = 3
#: Of the figures of some steps in float64, see examples/resnet50/agreement.py.
TOLERANCE = 1e-10
#: Of what is learned. The convolution's bias has no gradient, for batch norm takes it off again, and Adam divides what
#: rounding leaves of it, 1e-17, by its own 1e-8: 7e-9 was measured.
LEARNED = 1e-7
STEPS = 6
FLOAT64 = "--precision=float64"
RUNS = {
    "both": ["--loss=both"],
    "fused": ["--loss=fused", "--soft-margin"],
    "plain": ["--loss=fused", "--no-augment", "--distance=cosine"],
    "checked": ["--loss=checked", "--start=semi-hard", "--start-steps=3", "--samples-per-class=3"],
    "all": ["--loss=checked", "--start=batch-all", "--start-steps=6"],
    "frozen": ["--loss=both", "--samples-per-class=12", "--epochs=6", "--freeze-epochs=3"],  # 24 of 48: 2 are one epoch
}


def trainer(rank: int, group: Any, *arguments: str) -> Trainer:
    trainer_module.build_model = build_tiny  # for as long as this process lives
    return build_trainer(*arguments, processes=Processes(rank, RANKS, group))


def measured(rows: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in rows]


def trained(run: Trainer, go_on: Callable[[], bool] = lambda: True) -> dict[str, Any]:
    """The rows of a run and where it ended."""
    run.run(lambda row: None, go_on)
    return {"rows": measured(run.history), "model": run.learners[0].model.state_dict()}


def length(name: str) -> list[str]:
    return [] if name == "frozen" else [f"--steps={STEPS}"]


def in_processes(name: str, rank: int, group: Any) -> dict[str, Any]:
    return trained(trainer(rank, group, FLOAT64, *length(name), *RUNS[name]))


def resumed(folder: Path, rank: int, group: Any) -> dict[str, Any]:
    """Two steps, saved by the first process, and the others after that."""
    arguments = [FLOAT64, f"--steps={STEPS}", "--loss=both"]
    half = trainer(rank, group, *arguments)
    half.run(lambda row: None, lambda: half.step < 2)
    if half.processes.is_first:
        half.save(folder / "checkpoint.pt")
    with half.processes.together():  # now it is written
        pass
    rest = trainer(rank, group, *arguments)
    rest.restore(load_checkpoint(str(folder / "checkpoint.pt")))
    return trained(rest)


def interrupted(rank: int, group: Any) -> int:
    run = trainer(rank, group, "--steps=30")
    trained(run, lambda: not (rank == 1 and run.step == 3))
    return run.step


def checked(folder: Path, rank: int, group: Any) -> dict[str, Any]:
    """In float32, with the second copy in two of five steps, saved after 1 and after 3 of them; the rest of each."""
    arguments = ["--loss=checked", "--steps=5"]
    found = {"whole": trained(trainer(rank, group, *arguments))["rows"]}
    for stop in (1, 3):
        half = trainer(rank, group, *arguments)
        half.run(lambda row: None, lambda half=half, stop=stop: half.step < stop)
        if rank == 0:
            half.save(folder / f"checked{stop}.pt")
        with half.processes.together():
            pass
        rest = trainer(rank, group, *arguments)
        rest.restore(load_checkpoint(str(folder / f"checked{stop}.pt")))
        found[str(stop)] = trained(rest)["rows"]
        found[f"learners {stop}"] = [learner.name for learner in rest.learners]
    return found


def wrong_reference(wrong: int, rank: int, group: Any) -> None:
    """The first process alone finds it out, in the step ``wrong``."""
    run = trainer(rank, group, "--steps=30", "--loss=checked")
    right = run.loss_at

    def loss_at(engine: str, step: int, group: Any = None) -> LossFunction:
        reference = right(engine, step, group)
        return (lambda *given: 1.001 * reference(*given)) if step == wrong else reference

    if rank == 0:
        run.loss_at = loss_at  # what it checks by; the learners have theirs
    trained(run)


def diverging(rank: int, group: Any) -> None:
    run = trainer(rank, group, "--steps=30")

    def go_on() -> bool:
        if run.step == 3 and rank == 1:
            run.learners[0].model.head[0].weight.data[0, 0] = torch.nan
        return True

    trained(run, go_on)


def failing(rank: int, group: Any) -> None:
    def go_on() -> bool:
        if rank == 2:
            raise UserError("no room on the disk of the third")
        return True

    trained(trainer(rank, group, "--steps=30"), go_on)


def refused(rank: int, group: Any) -> list[str]:
    said = []
    for arguments in (["--loss=reference"], ["--compile"]):
        with pytest.raises(UserError) as error:
            trainer(rank, group, *arguments)
        said.append(str(error.value))
    with pytest.raises(UserError) as error:
        build_trainer(processes=Processes(rank, 5, group))
    return [*said, str(error.value)]


class OfTwoParts(Exception):
    """It is pickled, and not unpickled."""

    def __init__(self, file: str, line: int) -> None:
        super().__init__(f"{file}:{line}")


def failing_oddly(rank: int, group: Any) -> str:
    try:
        with Processes(rank, RANKS, group).together():
            if rank == 1:
                raise OfTwoParts("labels.csv", 7)
    except (OfTwoParts, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def differing(rank: int, group: Any) -> list[str]:
    """What train.py compares, of one process with other options, data or progress."""
    said = []
    for what in ("nothing", "--seed", "labels", "step"):
        run = trainer(rank, group, *(["--seed=8"] if what == "--seed" and rank == 2 else []))
        if rank == 2 and what == "labels":
            run.split.train.labels[:2] = run.split.train.labels[:2].flip(0) + 1
        if rank == 2 and what == "step":
            run.step = 3
        try:
            run.processes.check_alike(what_all_share(run))
            said.append("")
        except UserError as error:
            said.append(str(error))
    return said


def evaluated(rank: int, group: Any) -> Any:
    """By the first process, after a step; the others only wait for it."""
    run = trainer(rank, group, FLOAT64, "--steps=1")
    trained(run)
    with run.processes.together():
        return run.evaluate(run.learners[0]).metrics if rank == 0 else None


def stopping_early(rank: int, group: Any) -> tuple[int, int, bool, bool]:
    """By metrics that only the first has; a batch is all of the training images and an epoch one step."""
    run = trainer(rank, group, "--samples-per-class=24", "--evaluate-every=1", "--patience=2", "--steps=30")
    values = [0.4, 0.6, 0.6, 0.5, 0.9]

    def planted(model: EmbeddingNet, *given: Any) -> Evaluation:
        return Evaluation(torch.zeros(24, 8), dict.fromkeys(MEASURES, values.pop(0)), copy.deepcopy(model))

    trainer_module.evaluate = planted
    trained(run)
    trainer_module.evaluate = evaluate
    return run.step, len(run.best.evaluations), run.best.exhausted, run.processes.any(run.best.exhausted)


def evaluating_what_is_no_number(rank: int, group: Any) -> None:
    """The first's network alone, after the step: its loss was finite."""
    run = trainer(rank, group, "--samples-per-class=24", "--evaluate-every=1", "--steps=30")
    read = run.read

    def spoilt(on_row: Callable[[Row], None]) -> None:
        read(on_row)
        if rank == 0 and run.step == 2:
            run.learners[0].model.head[0].weight.data[0, 0] = torch.nan

    run.read = spoilt
    trained(run)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[Any]], Path]:
    folder = tmp_path_factory.mktemp("processes")
    asked = (
        *(interrupted, diverging, failing, failing_oddly, differing, refused, evaluated),
        *(stopping_early, evaluating_what_is_no_number),
    )
    work: dict[str, Any] = {name: partial(in_processes, name) for name in RUNS}
    work |= {"resumed": partial(resumed, folder), "in float32": partial(checked, folder)}
    work |= {f"wrong reference in {step}": partial(wrong_reference, step) for step in (1, 12)}
    work |= {each.__name__: each for each in asked}
    return run(RANKS, work), folder


@pytest.fixture
def alone(tiny_network: object) -> Callable[..., Trainer]:
    """What one process has."""
    return partial(build_trainer, FLOAT64)


def assert_rows(found: list[Row], expected: list[Row]) -> None:
    """In every column that ``expected`` has."""
    assert len(found) == len(expected) > 0
    for row, other in zip(found, expected, strict=True):
        for key, value in other.items():
            assert row[key] == pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE), (key, row["step"])


@pytest.mark.parametrize("name", RUNS)
def test_every_step_is_that_of_one_process(
    found: tuple[dict[str, list[Any]], Path], alone: Callable[..., Trainer], name: str
):
    arguments = [each for each in RUNS[name] if each not in ("--loss=both", "--loss=checked")]
    expected = trained(alone(*length(name), *arguments))
    ranks = whole_results(found[0][name])
    for each in ranks:
        assert_rows(each["rows"], expected["rows"])
        for key, value in expected["model"].items():
            torch.testing.assert_close(each["model"][key], value, rtol=LEARNED, atol=LEARNED)
    if arguments != RUNS[name]:
        for row, other in zip(ranks[0]["rows"], expected["rows"], strict=True):
            assert row["loss_reference"] == pytest.approx(other["loss_fused"], rel=TOLERANCE)
            assert row["copies_loss_difference"] < TOLERANCE and row["same_embeddings_gradient_difference"] < 1e-12
        assert "loss_reference" not in ranks[1]["rows"][0]


def test_a_resumed_run_is_the_whole_one(found: tuple[dict[str, list[Any]], Path], alone: Callable[..., Trainer]):
    for each, whole in zip(whole_results(found[0]["resumed"]), whole_results(found[0]["both"]), strict=True):
        assert_rows(each["rows"], figures(whole["rows"]))  # not to the bit: see "Several processes" in the README
    single = alone(f"--steps={STEPS}", "--loss=both")  # it may go on in another number of processes
    single.restore(load_checkpoint(str(found[1] / "checkpoint.pt")))
    assert_rows(trained(single)["rows"], figures(whole_results(found[0]["both"])[0]["rows"]))


def figures(rows: list[Row]) -> list[Row]:
    """Without the differences, which are all rounding."""
    return [
        {key: value for key, value in row.items() if key.startswith(("loss", "gradient", "active"))} for row in rows
    ]


def test_the_second_copy_goes_and_the_check_stays(found: tuple[dict[str, list[Any]], Path]):
    first, *others = whole_results(found[0]["in float32"])
    for rows in (first["whole"], first["1"], first["3"]):
        assert [int(row["step"]) for row in rows if COPIES_LOSS in row] == [1, 2]
        assert all(row[SAME_LOSS] < 1e-5 and row[SAME_GRADIENT] < 1e-5 for row in rows) and len(rows) == 5
        for row, whole in zip(rows, first["whole"], strict=True):
            assert row["loss_fused"] == pytest.approx(whole["loss_fused"], rel=1e-2)  # float32 sums of parts
    assert first["learners 1"] == first["learners 3"] == ["fused"]
    for each in others:
        assert SAME_LOSS not in each["whole"][0] and COPIES_LOSS not in each["whole"][0]
        assert [row["loss_fused"] for row in each["whole"]] == [row["loss_fused"] for row in first["whole"]]


def test_one_that_is_interrupted_stops_all_after_the_same_step(found: tuple[dict[str, list[Any]], Path]):
    assert whole_results(found[0]["interrupted"]) == [3, 3, 3]


def test_all_stop_early_after_the_same_step(found: tuple[dict[str, list[Any]], Path]):
    assert whole_results(found[0]["stopping_early"]) == [(4, 4, True, True), (4, 0, False, True), (4, 0, False, True)]


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("wrong reference in 1", "Disagreement", "step 1: fused and reference differ in the loss on the same embedd"),
        ("wrong reference in 12", "Disagreement", "step 12: fused and reference differ in the loss on the same embe"),
        ("diverging", "Diverged", "step 4: the loss of fused must be finite; got nan"),
        ("failing", "UserError", "no room on the disk of the third"),
        (
            "evaluating_what_is_no_number",
            "Diverged",
            "step 2: the embeddings of fused must be finite; got 24 of 24 rows",
        ),
    ],
)
def test_what_ends_one_ends_all(found: tuple[dict[str, list[Any]], Path], name: str, kind: str, text: str):
    for each in found[0][name]:
        assert isinstance(each, Failed) and each.kind == kind, each
        assert each.text.startswith(text)


def test_what_several_cannot_do_is_refused_by_name(found: tuple[dict[str, list[Any]], Path]):
    for reference, compiled, small in whole_results(found[0]["refused"]):
        assert reference.startswith("--loss must be another in several processes")
        assert compiled.startswith("--compile must be left out in several processes")
        assert small == "--classes-per-batch x --samples-per-class must be at least 5, the processes; got 4"


def test_the_first_evaluates_without_the_others(
    found: tuple[dict[str, list[Any]], Path], alone: Callable[..., Trainer]
):
    single = alone("--steps=1")
    trained(single)
    expected = single.evaluate(single.learners[0]).metrics
    assert whole_results(found[0]["evaluated"])[0] == pytest.approx(expected, abs=1e-12)


def test_each_process_has_a_gpu_or_all_share_the_cpu(monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, "cuda", 2)
    assert [str(choose_device(name, 1, 2)) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    assert str(choose_device("cuda:1", 0, 1)) == "cuda:1"
    with pytest.raises(UserError, match=r"^--device must be cpu or cuda for several .*; got cuda:1$"):
        choose_device("cuda:1", 0, 2)
    with pytest.raises(UserError, match=r"^--nproc-per-node must be at most 2, the number of GPUs, .*; got 3$"):
        choose_device("auto", 0, 3)


SMALL = ["--image-size=16", "--test-limit=10", "--classes-per-batch=3", "--samples-per-class=3", "--embedding-dim=8"]


@pytest.fixture
def torchrun() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts two processes; ended, with torchrun, if they still live after the test."""
    started = []

    def start(module: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", module]
        started.append(
            subprocess.Popen(
                [*command, *SMALL, *arguments],
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for each in started:
        if each.poll() is None:
            each.terminate()  # torchrun ends its processes, by force after half a minute
            each.wait(timeout=60)


def columns(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_torchrun_prints_the_losses_of_one_process_beside_its_own(
    torchrun: Callable[..., subprocess.Popen[str]], tmp_path: Path
):
    """ResNet-50 on 5 and 4 of 9 digits, in float64; one process is asked twice: in the same run, and by itself."""
    run = torchrun("examples.resnet50.train", FLOAT64, "--steps=4", f"--out={tmp_path}", "--name=two")
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    assert "spread:  2 processes with 4 to 5 images of each batch, batch norm and loss of all 9" in output
    assert output.count("\nbefore training ") == output.count("\nafter 4 steps, fused ") == 1  # the second is silent
    printed = re.findall(r"^step +(\d)/4  loss fused in 2 processes ([\d.]+), reference in one ([\d.]+) ", output, re.M)
    assert [step for step, _, _ in printed] == ["1", "2", "3", "4"]
    rows = columns(tmp_path / "two")
    for (_, *side_by_side), row in zip(printed, rows, strict=True):
        assert side_by_side == [f"{row[f'loss_{name}']:.5f}" for name in ("fused", "reference")]

    options = complete(parse_options([*SMALL, FLOAT64, "--steps=4", "--loss=fused"])[0])
    one = Trainer(options, read_dataset(options.data, None, options.image_size), torch.device("cpu"))
    for row, expected in zip(rows, trained(one)["rows"], strict=True):
        for name in ("fused", "reference"):
            assert row[f"loss_{name}"] == pytest.approx(expected["loss_fused"], rel=1e-8)
            assert row[f"gradient_norm_{name}"] == pytest.approx(expected["gradient_norm_fused"], rel=1e-7)
        assert row["active_fused"] == pytest.approx(expected["active_fused"])


@pytest.mark.slow
def test_interrupt_by_way_of_torchrun(torchrun: Callable[..., subprocess.Popen[str]], tmp_path: Path):
    run = torchrun("tests.examples.tiny_train", "--steps=1000000", f"--out={tmp_path}", "--name=run", "--loss=fused")
    assert run.stdout is not None
    seen = ""
    for line in run.stdout:
        seen += line
        if line.startswith("step "):
            break
    run.send_signal(signal.SIGINT)
    output, errors = run.communicate(timeout=120)
    assert run.returncode != 0, errors  # torchrun has but one code for it
    assert output.count("interrupted: finishing this step") == 1, seen + output + errors
    step = int(re.search(r"^interrupted after step (\d+); continue with --resume", output, re.M).group(1))
    assert len(columns(tmp_path / "run")) == step == load_checkpoint(str(tmp_path / "run" / "checkpoint.pt"))["step"]
    assert f"after {step} steps, fused" in output and "Unable to shutdown" not in errors


@pytest.mark.slow
def test_an_error_by_way_of_torchrun_is_told_once(torchrun: Callable[..., subprocess.Popen[str]], tmp_path: Path):
    """The folder is the first's affair alone."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").touch()
    run = torchrun("tests.examples.tiny_train", f"--out={tmp_path}", "--name=run", "--loss=fused")
    output, errors = run.communicate(timeout=120)
    assert run.returncode != 0 and "step " not in output
    assert errors.count("error: --name must be new, or --overwrite given") == 1


def test_an_error_that_cannot_be_sent_is_told_of(found: tuple[dict[str, list[Any]], Path]):
    first, own, third = whole_results(found[0]["failing_oddly"])
    assert own == "OfTwoParts: labels.csv:7"
    assert first == third == "RuntimeError: process 1: OfTwoParts: labels.csv:7"


def test_what_differs_between_processes_is_told_before_the_first_step(found: tuple[dict[str, list[Any]], Path]):
    for same, seed, labels, step in whole_results(found[0]["differing"]):
        end = "must be the same in all processes; got 0 in process 0 and 3 in process 2"
        assert same == ""
        assert seed == "--seed must be the same in all processes; got 0 in process 0 and 8 in process 2"
        assert labels.startswith("the training labels of --data and --root must be the same in all processes; got ")
        assert step == f"the step that --resume goes on from {end}"


@pytest.mark.parametrize("missing", ["RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"])
def test_half_an_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
):
    for name in {"RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"} - {missing}:
        monkeypatch.setenv(name, "2")
    monkeypatch.delenv(missing, raising=False)
    assert main([]) == 2
    assert f"error: {missing} must be in the environment beside WORLD_SIZE=2" in capsys.readouterr().err
