"""What ``examples/lightning_module.py`` prints: figures of the checkpoint that it keeps, on images not learned from."""

import importlib.util
import re

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from tests.scripts.running import run_script

if importlib.util.find_spec("lightning") is None:
    pytest.skip("lightning is not installed (pip install 'fasttriplet[compat]')", allow_module_level=True)


def hit_rate_and_map_at_r(rows: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """By the formulas, of all distances sorted."""
    distances = torch.cdist(rows.double(), rows.double()).fill_diagonal_(torch.inf)
    same = (labels[distances.argsort(1)[:, :-1]] == labels[:, None]).double()  # [N, N - 1] by rank
    ranks, positives = torch.arange(1, len(rows)), same.sum(1, keepdim=True)
    counted = same * (ranks <= positives)
    return same[:, 0].mean().item(), (counted * counted.cumsum(1) / ranks / positives).sum(1).mean().item()


def test_the_best_checkpoint_is_what_is_tested(tmp_path):
    printed = run_script("lightning_module.py", "--out", "kept", folder=tmp_path)  # all of it: until it stops early
    told = re.search(
        r"^kept/best.ckpt: best of (\d+) epochs, MAP@R ([01]\.\d{3}) in validation$", printed, re.MULTILINE
    )
    rows = re.findall(r"^(\w+) +nearest of the same class ([01]\.\d{3}), MAP@R ([01]\.\d{3}), in test$", printed, re.M)
    assert told and [name for name, *_ in rows] == ["pixels", "untrained", "trained"], printed
    pixels, untrained, trained = (tuple(map(float, figures)) for _, *figures in rows)
    assert trained[0] > 0.85 > 0.45 > max(pixels[0], untrained[0])
    assert trained[1] > 0.5 > 0.05 > max(pixels[1], untrained[1])

    # its images once more, and its network made of the file's weights
    digits, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    torch.manual_seed(0)
    images, places = torch.zeros(len(digits), 1, 20, 20), torch.randint(13, (len(digits), 2)).tolist()
    for image, digit, (row, column) in zip(images, digits, places, strict=True):
        image[0, row : row + 8, column : column + 8] = digit.view(8, 8) / 16
    checkpoint = torch.load(tmp_path / "kept" / "best.ckpt", map_location="cpu", weights_only=False)
    layers: list[nn.Module] = []
    for inputs, outputs, pool in (
        (1, 16, nn.MaxPool2d(2)),
        (16, 32, nn.MaxPool2d(2)),
        (32, 64, nn.AdaptiveMaxPool2d(1)),
    ):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(), pool]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 32)).eval()
    network.load_state_dict({name.removeprefix("network."): each for name, each in checkpoint["state_dict"].items()})
    with torch.no_grad():
        embeddings = network(images)
    # to half of the last digit, and for an image that rounding decides about
    assert hit_rate_and_map_at_r(images[1300:].flatten(1), labels[1300:]) == pytest.approx(pixels, abs=3e-3)
    assert hit_rate_and_map_at_r(embeddings[1300:], labels[1300:]) == pytest.approx(trained, abs=3e-3)
    assert hit_rate_and_map_at_r(embeddings[900:1300], labels[900:1300])[1] == pytest.approx(float(told[2]), abs=3e-3)
    epochs, kept = int(told[1]), checkpoint["epoch"] + 1
    assert kept == epochs - 4 or epochs == 40  # the best of validation, and no better one in four epochs after it
