"""Evaluation on a device that is not the CPU: fake tensors of device "meta" stand in for those of an accelerator.

Operators that mix them with the CPU's fail, and so does reading a number from them. (Fake CUDA tensors would do the
same, but a PyTorch without CUDA cannot index them, and one that requires grad ends the process.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from examples.resnet50 import device as device_module
from examples.resnet50 import trainer as trainer_module
from examples.resnet50.agreement import (
    COPIES_GRADIENT_NORM,
    COPIES_LOSS,
    SAME_GRADIENT,
    SAME_LOSS,
    compare_copies,
    compare_losses,
)
from examples.resnet50.augment import augment, augmenting_device
from examples.resnet50.datasets import ImageSet
from examples.resnet50.evaluate import embed
from examples.resnet50.learner import StepResult
from examples.resnet50.model import EmbeddingNet
from examples.resnet50.trainer import Trainer

DEVICE = torch.device("meta")


class Float64(TorchDispatchMode):
    """Writes down on which types of device operators make float64."""

    def __init__(self) -> None:
        super().__init__()
        self.met: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                self.met.add(leaf.device.type)
        return result


@pytest.fixture
def untrained(tiny_network: Callable[[], EmbeddingNet]) -> EmbeddingNet:
    """A network with data; to be asked for before ``fake``."""
    return tiny_network().eval()


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    """No tensor has data."""
    with FakeTensorMode() as mode:
        yield mode


@pytest.fixture(params=[True, False], ids=["with float64", "without float64"])
def float64_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Says that the device has float64 or none, and on which type of device it is to be met."""
    monkeypatch.setattr(device_module, "has_float64", lambda device: request.param or device.type == "cpu")
    return DEVICE.type if request.param else "cpu"


def test_the_test_images_are_embedded_there(untrained: EmbeddingNet, fake: FakeTensorMode):
    for module in untrained.modules():
        for table in (module._parameters, module._buffers):
            for name, value in table.items():
                table[name] = None if value is None else fake.from_tensor(value).to(DEVICE)
    images = ImageSet(torch.zeros(130, 1, 32, 32, dtype=torch.uint8), torch.zeros(130, dtype=torch.int64), ("a",))
    embeddings = embed(untrained, images)
    assert embeddings.device == DEVICE and embeddings.shape == (130, 8) and embeddings.dtype == torch.float32


def test_batches_are_drawn_here_and_changed_there(
    new_trainer: Callable[..., Trainer], tiny_network: Callable[[], EmbeddingNet], monkeypatch: pytest.MonkeyPatch
):
    run = new_trainer("--steps=1")
    run.device = DEVICE
    places = []

    def spied(images: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        places.append((images.device, images.dtype))
        return augment(images, *arguments, **options)

    monkeypatch.setattr(trainer_module, "augment", spied)
    images, labels = run._next_batch(slice(None))
    assert places == [(DEVICE, torch.float32)] and images.shape == (4, 1, 32, 32)
    assert images.device == labels.device == DEVICE
    names = ("cpu", "mps:0", "cuda:1", "xpu:0")
    assert [str(augmenting_device(torch.device(name))) for name in names] == ["cpu", "cpu", "cuda:1", "xpu:0"]


@pytest.mark.usefixtures("fake")
def test_losses_are_compared_in_float64_only_where_there_is_any(float64_place: str):
    figures = {name: torch.zeros((), device=DEVICE) for name in ("loss", "gradient_norm")}
    result = StepResult(figures, torch.zeros(4, 8, device=DEVICE), torch.zeros(4, 8, device=DEVICE))
    labels = torch.zeros(4, device=DEVICE)
    with Float64() as float64:
        found = compare_losses(result, lambda x, labels: (x.sum(1) * labels).sum(), labels)
    assert float64.met == {float64_place}
    found |= compare_copies(result, result)
    assert found.keys() == {COPIES_LOSS, COPIES_GRADIENT_NORM, SAME_LOSS, SAME_GRADIENT}
    assert {(value.device, value.dtype) for value in found.values()} == {(DEVICE, torch.float32)}
