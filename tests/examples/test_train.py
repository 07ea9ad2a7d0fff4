"""The command from end to end, with ResNet-50 on tiny batches: results, exit codes, seeds, resuming, Ctrl-C."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from examples.resnet50.best import load_best
from examples.resnet50.datasets import read_dataset
from examples.resnet50.evaluate import bounded, embed, measured, pixel_metrics, under_nuisance
from examples.resnet50.options import build_parser
from examples.resnet50.train import main

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = ["--image-size=32", "--test-limit=24", "--classes-per-batch=2", "--samples-per-class=2", "--embedding-dim=8"]


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., int]:
    """Runs the command with results under ``tmp_path``."""

    def run(*arguments: str) -> int:
        return main([*TINY, "--threads=2", f"--out={tmp_path}", *arguments])

    return run


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table_below(output: str, title: str) -> list[str]:
    """The heading and three lines of the closing table below ``title``."""
    return output[output.index(f"\n{title}") + 1 :].splitlines()[1:5]


def test_checked_writes_everything(train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Four steps of the default: the second copy is trained in two of them, for so small a batch."""
    assert train("--steps=4") == 0
    folder = tmp_path / "digits-checked"
    table = rows(folder)
    assert [row["step"] for row in table] == ["1", "2", "3", "4"]
    for row in table:
        assert float(row["same_embeddings_loss_difference"]) < 1e-5
        assert float(row["same_embeddings_gradient_difference"]) < 1e-5
        assert float(row["positive_distance_fused"]) > 0 and float(row["negative_distance_fused"]) > 0
    assert float(table[0]["copies_loss_difference"]) < 1e-5
    assert [row["loss_reference"] != "" for row in table] == [True, True, False, False]
    assert [row["copies_loss_difference"] != "" for row in table] == [True, True, False, False]
    for name in ("loss.png", "embeddings.png", "retrieval.png", "worst_queries.png", "distances.png"):
        with Image.open(folder / name) as image:
            assert min(image.size) > 300
    assert list(folder.glob("events.out.tfevents.*"))

    output = capsys.readouterr().out
    assert (
        "torch 2" in output and "must give the same loss and gradient, to 1e-04; and in the first step a copy" in output
    )
    assert "test 24 other images of 10 classes, 8 of them trained on" in output
    assert "test images are turned, scaled, sheared and shifted at random, as training images are" in output
    figures = (
        r"hit_rate@1 \d\.\d+   hit_rate@5 \d\.\d+   map_at_r (0\.\d+)   unseen classes: [01]\.\d+ [01]\.\d+ 0\.\d+"
    )
    fused = re.search(rf"^after 4 steps, fused +{figures}   best so far$", output, re.M)
    assert fused and not re.search(r"^after 4 steps, reference", output, re.M)
    assert re.search(
        r"^\d+ s, of which evaluations took \d+%; see .*: loss.png, .*, best.pt, checkpoint.pt$", output, re.M
    )
    assert re.search(r"^in each of 4 steps loss and gradient agreed .*, to \de-0[678] at worst$", output, re.M)
    assert "-m examples.resnet50.train --data folder --root PHOTOS" in output

    with (folder / "evaluations.csv").open(encoding="utf-8") as file:
        evaluations = list(csv.DictReader(file))
    assert [(row["step"], row["network"]) for row in evaluations] == [("0", "fused"), ("4", "fused")]
    split = read_dataset("digits", None, 32)
    split = under_nuisance(replace(split, test=bounded(split.test, 24)))
    pixels = {name: str(value) for name, value in pixel_metrics(split, torch.device("cpu")).items()}
    for prefix, title in (
        ("", "new images of classes trained on"),
        ("unseen_", "images of classes never trained on (8, 9)"),
    ):
        number = int(float(evaluations[0][f"{prefix}queries"]))
        assert f"\n{title}, {number} of them: each looks for its like among all 24\n" in output
        heading, *lines = table_below(output, title)
        assert {len(line) for line in lines} == {len(heading)}
        assert [re.findall(r"(\d+%)", line) for line in lines] == [
            [f"{float(row[f'{prefix}{name}']):.0%}" for name in ("hit_rate@1", "map_at_r")]
            for row in (pixels, *evaluations)
        ]

    model, metrics = load_best(str(folder / "best.pt"))
    assert measured(embed(model, split.test), split.test.labels, split.trained_on) == pytest.approx(metrics)
    assert f"{metrics['map_at_r']:.4f}" == fused.group(1)


@pytest.mark.usefixtures("nothing_drawn", "tiny_network")
def test_resume_refuses_what_would_be_another_run(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert train("--loss=fused", "--steps=1", "--name=run", "--lr=0.001") == 0
    resume = f"--resume={tmp_path / 'run' / 'checkpoint.pt'}"
    assert train("--loss=fused", resume, "--lr=0.5", "--steps=2") == 2
    assert "--lr must be left out or 0.001" in capsys.readouterr().err
    assert train("--loss=fused", resume) == 2
    assert "--steps must be above 1" in capsys.readouterr().err
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    assert train(f"--resume={tmp_path / 'broken.pt'}") == 2
    assert "broken.pt is not a readable checkpoint" in capsys.readouterr().err
    assert train(f"--resume={tmp_path / 'run' / 'best.pt'}") == 2
    assert "best.pt must be a whole run, as checkpoint.pt beside it; got its best" in capsys.readouterr().err


@pytest.mark.usefixtures("nothing_drawn", "tiny_network")
def test_a_name_is_not_overwritten_by_accident(
    train: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").touch()
    assert train("--loss=fused", "--steps=1", "--name=run") == 2
    assert "--name must be new, or --overwrite given" in capsys.readouterr().err
    (tmp_path / "run" / "loss.png").touch()
    assert train("--loss=fused", "--steps=1", "--name=run", "--overwrite") == 0
    assert not (tmp_path / "run" / "loss.png").exists()  # of the other run, and nothing is drawn here
    assert len(rows(tmp_path / "run")) == 1


@pytest.mark.usefixtures("tiny_network")
def test_interrupt_saves_and_can_be_continued(tmp_path: Path):
    command = [sys.executable, "-m", "tests.examples.tiny_train", *TINY, "--threads=1"]
    run = subprocess.Popen(
        [*command, "--steps=100000", f"--out={tmp_path}", "--name=run"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    seen = ""
    for line in run.stdout:
        seen += line
        if line.startswith("step "):
            break
    run.send_signal(signal.SIGINT)
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 130, seen + output + errors
    assert "Traceback" not in errors
    step = int(re.search(r"interrupted after step (\d+); continue with --resume", output).group(1))
    folder = tmp_path / "run"
    assert len(rows(folder)) == step
    assert all((folder / name).exists() for name in ("loss.png", "embeddings.png", "retrieval.png"))
    assert main(["--threads=1", f"--resume={folder / 'checkpoint.pt'}", f"--steps={step + 1}"]) == 0
    assert len(rows(folder)) == step + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--weights no.pth is not a readable PyTorch file"),
        ({"conv1.weight": torch.zeros(1)}, "must hold the parameters of torchvision's resnet50"),
        ([1, 2], "must hold a state dict of ResNet-50; got list"),
    ],
)
def test_wrong_weights(
    train: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: object,
    message: str,
):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        torch.save(content, "no.pth")
    assert train("--weights=no.pth") == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert train("--weights=IMAGENET1K_V9") == 2
    assert "ResNet50_Weights.IMAGENET1K_V2; got IMAGENET1K_V9" in capsys.readouterr().err


def test_weights_that_cannot_be_downloaded(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from urllib.error import URLError

    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert train("--weights=IMAGENET1K_V2") == 2
    error = capsys.readouterr().err.strip()
    assert "--weights IMAGENET1K_V2 cannot be downloaded from https://" in error and "\n" not in error


def test_local_weights_fill_the_body(train: Callable[..., int], tmp_path: Path):
    from examples.resnet50.vision import load_torchvision

    torch.manual_seed(5)
    state = load_torchvision().models.resnet50().state_dict()  # with its 1000-way classifier
    torch.save(state, tmp_path / "resnet50.pth")
    from examples.resnet50.model import build_model

    model = build_model(8, str(tmp_path / "resnet50.pth"), seed=0)
    assert torch.equal(model.body.conv1.weight, state["conv1.weight"])
    assert torch.equal(model.body.layer4[2].bn3.running_var, state["layer4.2.bn3.running_var"])


def test_help_reads_well(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for action in build_parser()._actions:
        assert action.option_strings[-1] in text and action.help
    assert "default: digits 32, omniglot 64, mnist 32, folder 128" in " ".join(text.split())
    for heading in ("data", "network", "loss", "training", "evaluation", "device", "output"):
        assert f"\n{heading}:\n" in text
    for wrong in (
        ["--patience=-1"],
        ["--evaluate-every=x"],
        ["--best-by=recall"],
        ["--steps=0"],
        ["--lr=-1"],
        ["--margin=nan"],
        ["--steps=1", "--epochs=1"],
        ["--data=cats"],
        ["--start=easy"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert "argument --patience: must be an integer of at least 0; got -1" in errors
    assert "argument --lr: must be a finite number above 0; got -1" in errors
    assert "argument --margin: must be a finite number; got nan" in errors and "invalid int value: 'x'" in errors


@pytest.mark.usefixtures("tiny_network")
def test_a_network_that_diverged_is_told_of_in_one_line(
    train: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from examples.resnet50 import evaluate

    embed = evaluate.embed
    monkeypatch.setattr(evaluate, "embed", lambda *arguments: embed(*arguments) * torch.nan)
    assert train("--steps=1", "--loss=reference") == 1
    error = "error: step 0: the embeddings of reference must be finite; got 24 of 24 rows that are not, the first at 0"
    assert error in capsys.readouterr().err
