"""What a run says of its data and its losses, and what it does without TensorBoard."""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from examples.resnet50 import train as train_module
from examples.resnet50.agreement import COPIES_GRADIENT_NORM, COPIES_LOSS, SAME_GRADIENT, SAME_LOSS
from examples.resnet50.datasets import ImageSet, Split
from examples.resnet50.report import progress_line
from examples.resnet50.train import main
from tests.examples.conftest import build_split

pytestmark = pytest.mark.usefixtures("tiny_network", "nothing_drawn")


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The output of a run on a data set."""

    def run(split: Split, *arguments: str) -> str:
        monkeypatch.setattr(train_module, "read_dataset", lambda *given: split)
        small = ["--classes-per-batch=2", "--samples-per-class=2", "--embedding-dim=8", "--device=cpu", "--steps=1"]
        assert main([*small, f"--out={tmp_path}", "--name=run", "--overwrite", *arguments]) == 0
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("tested", "relation"),
    [("de", "2 classes, none of them"), ("ab", "2 classes, all of them"), ("abd", "3 classes, 2 of them")],
)
def test_which_classes_were_trained_on(said: Callable[..., str], tested: str, relation: str):
    output = said(build_split(tested))
    assert f"train 48 images of 3 classes, test 24 other images of {relation} trained on" in output
    both = len(set(tested) & set("abc")) not in (0, len(tested))
    assert (
        "\nimages of classes never trained on (d), 8 of them: each looks for its like among all 24" in output
    ) == both
    assert ("unseen classes: " in output) == both
    assert ("\ntest images, 24 of them: each looks for its like among all 24\n" in output) == (not both)


def test_many_unseen_classes_are_not_all_named(said: Callable[..., str]):
    split = build_split()
    test = ImageSet(split.test.pixels, torch.arange(24) % 12, tuple("abcdefghijkl"))
    assert "\nimages of classes never trained on (d, e, f, g, h and 4 more), 18 of them: " in said(
        replace(split, test=test)
    )


def test_a_class_without_images_is_not_told_of(said: Callable[..., str]):
    """As --test-limit may leave it."""
    split = build_split("abd")
    output = said(replace(split, test=split.test.subset(split.test.labels < 2)))
    assert "\ntest images, 16 of them: each looks for its like among all 16\n" in output and "unseen" not in output


@pytest.mark.parametrize("augmented", [True, False])
def test_short_classes_are_told_of_once_and_by_the_run(said: Callable[..., str], augmented: bool):
    """One of the three has a single image, of which a batch has two."""
    split = build_split()
    rows = (split.train.labels < 2).nonzero()[:, 0].tolist()
    split = replace(split, train=split.train.subset(torch.tensor([*rows, 2])))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        output = said(split, *([] if augmented else ["--no-augment"]))
    end = ", differently augmented" if augmented else ""
    note = (
        f"note:    training classes with fewer than 2 images: 1; some of theirs come more than once in a batch{end}\n"
    )
    assert output.count(note) == 1
    assert ("as training images are" in output) == augmented
    assert "training classes with fewer" not in said(build_split())


@pytest.mark.parametrize(
    ("arguments", "losses"),
    [
        (["--start=batch-hard"], "batch-hard"),
        (["--start=semi-hard", "--start-steps=1"], "semi-hard"),
        (["--start=batch-all", "--start-steps=2", "--steps=3"], "batch-all for 2 steps, then batch-hard"),
    ],
)
def test_the_losses_are_told(said: Callable[..., str], arguments: list[str], losses: str):
    assert f"\nloss:    {losses}; active is the share of triplets with a loss above 0\n" in said(
        build_split(), *arguments
    )


def test_the_next_command_is_told(said: Callable[..., str]):
    assert "--data folder --root PHOTOS" in said(build_split())
    output = said(build_split(), "--data=folder", "--no-nuisance")
    assert output.endswith("next:    python -m examples.resnet50.train --help\n") and "note: " not in output


def test_without_tensorboard_the_tables_are_written(
    said: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "metrics.csv, evaluations.csv, best.pt" in said(build_split(), "--steps=5")
    assert not list((tmp_path / "run").glob("events*"))
    with (tmp_path / "run" / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "5"] and None not in rows[0]
    with (tmp_path / "run" / "evaluations.csv").open(encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "5"]


def test_a_line_of_progress_has_what_the_step_has():
    row = {"step": 7, "loss_fused": 0.25, "active_fused": 0.5, "images_per_second": 10.04}
    assert progress_line(row, 100, 1) == "step    7/100  loss fused 0.25000  active  50%  10.0 images/s"
    row |= {SAME_LOSS: 1e-7, SAME_GRADIENT: 2e-7}
    assert "  off the reference: loss 1e-07, gradient 2e-07  10.0" in progress_line(row, 100, 1)
    row |= {"loss_reference": 0.5, COPIES_LOSS: 3e-7, COPIES_GRADIENT_NORM: 4e-7}
    line = progress_line(row, 100, 2)
    assert "loss fused in 2 processes 0.25000, reference in one 0.50000  active  50%" in line
    assert line.endswith("  copies apart: loss 3e-07, gradient norm 4e-07  10.0 images/s")
