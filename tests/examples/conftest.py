"""What the tests of the example share: where the real data is, a tiny data set, a tiny network and a trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from examples.resnet50 import plots
from examples.resnet50 import trainer as trainer_module
from examples.resnet50.datasets import ImageSet, Split, default_root
from examples.resnet50.device import choose_device
from examples.resnet50.evaluate import MEASURES, Evaluation
from examples.resnet50.model import EmbeddingNet
from examples.resnet50.options import complete, parse_options
from examples.resnet50.processes import ALONE, Processes
from examples.resnet50.trainer import Trainer

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """A run with --threads changes PyTorch's setting for the whole process: put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def nothing_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of a run take seconds, and most tests do not look at them."""
    for name in plots.__all__:
        monkeypatch.setattr(plots, name, lambda *given: None)


@pytest.fixture
def data_folder() -> Callable[[str], Path]:
    """The folder of a real data set, or a skip that says where it was looked for."""

    def locate(name: str) -> Path:
        found = default_root(name)
        if found is None:
            pytest.skip(f"no {name} in $FASTTRIPLET_DATA nor in ../shared/data beside the repository")
        return found

    return locate


def build_split(tested: str = "de") -> Split:
    """48 training images of the classes a, b and c and 24 test images of 2 others, 32 x 32, of no meaning."""
    generator = torch.Generator().manual_seed(0)

    def images(number: int, classes: str) -> ImageSet:
        pixels = torch.randint(256, (number, 1, 32, 32), generator=generator, dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(number) % len(classes), tuple(classes))

    return Split(images(48, "abc"), images(24, tested), mirrored=False)


@pytest.fixture
def random_split() -> Split:
    """The data of :func:`build_split`."""
    return build_split()


def with_gradient_times(factor: float, loss: torch.Tensor) -> torch.Tensor:
    """The loss, whose gradient is ``factor`` times as large as it should be."""
    loss = loss.clone()
    loss.register_hook(lambda gradient: gradient * factor)
    return loss


class TinyNet(EmbeddingNet):
    """The embedding network around one convolution in place of ResNet-50: a step takes a millisecond."""

    def __init__(self, embedding_dim: int):
        torch.nn.Module.__init__(self)
        nn = torch.nn
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(8, embedding_dim, bias=False), nn.BatchNorm1d(embedding_dim))
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
        self.register_buffer("std", torch.full((3, 1, 1), 0.3))
        self.to(memory_format=torch.channels_last)


def build_tiny(embedding_dim: int = 8, weights: str | None = None, seed: int = 0, **options: object) -> TinyNet:
    """In the place of ``examples.resnet50.model.build_model``."""
    torch.manual_seed(seed)
    return TinyNet(embedding_dim)


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> Callable[[], TinyNet]:
    """Puts the tiny network in the place of ResNet-50 in every trainer, and gives one to be had alone."""
    monkeypatch.setattr(trainer_module, "build_model", build_tiny)
    return build_tiny


def build_trainer(*arguments: str, processes: Processes = ALONE) -> Trainer:
    """A trainer of tiny batches on the CPU with more options; it has no need to measure the untrained network.

    It evaluates at the end alone where ``arguments`` do not say otherwise.
    """
    tiny = ["--loss=fused", "--classes-per-batch=2", "--samples-per-class=2", "--embedding-dim=8", "--device=cpu"]
    options, split = complete(parse_options([*tiny, "--evaluate-every=0", *arguments])[0]), build_split()
    made = Trainer(options, split, choose_device("cpu"), processes=processes)
    made.before = Evaluation(torch.zeros(len(split.test), 8), dict.fromkeys(MEASURES, 0.0))
    return made


@pytest.fixture
def new_trainer() -> Callable[..., Trainer]:
    """Makes trainers from more options."""
    return build_trainer
