"""What the tests of the example share: where the real data is, and a tiny data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from examples.resnet50.datasets import ImageSet, Split

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def few_threads() -> Iterator[None]:
    """A run with --threads changes PyTorch's setting for the whole process: put it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def data_folder() -> Callable[[str], Path]:
    """The folder of a real data set, or a skip that says where it was looked for."""

    def locate(name: str) -> Path:
        parents = [os.environ.get("FASTTRIPLET_DATA"), REPOSITORY.parent / "shared" / "data"]
        for parent in parents:
            if parent and (Path(parent) / name).is_dir():
                return Path(parent) / name
        pytest.skip(f"no {name} in $FASTTRIPLET_DATA nor in ../shared/data beside the repository")

    return locate


@pytest.fixture
def random_split() -> Split:
    """48 training images of 3 classes and 24 test images of 2 others, 32 x 32, of no meaning."""
    generator = torch.Generator().manual_seed(0)

    def images(number: int, classes: str) -> ImageSet:
        pixels = torch.randint(256, (number, 1, 32, 32), generator=generator, dtype=torch.uint8)
        return ImageSet(pixels, torch.arange(number) % len(classes), tuple(classes))

    return Split(images(48, "abc"), images(24, "de"), unseen=True, mirrored=False)
