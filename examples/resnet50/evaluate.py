"""Embeds the test images and measures retrieval among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from examples.resnet50.datasets import ImageSet
from examples.resnet50.divergence import check_embeddings
from examples.resnet50.errors import UserError
from examples.resnet50.measures import AT, RANKS, Metrics
from examples.resnet50.model import EmbeddingNet
from examples.resnet50.transfer import to_device

_BATCH = 128
_CALIBRATION_BATCH, _CALIBRATION_BATCHES = 64, 8


@dataclass(frozen=True)
class Evaluation:
    """Embeddings [M, D] of the test images, on the CPU for the pictures, and how well they retrieve.

    ``statistics`` are those of batch norm that they were embedded with, by their names in the network's state.
    """

    embeddings: Tensor
    metrics: Metrics
    statistics: dict[str, Tensor] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, for ``Evaluation(**...)``."""
        return {"embeddings": self.embeddings, "metrics": self.metrics}


def _statistics(model: EmbeddingNet) -> dict[str, Tensor]:
    """A copy of batch norm's, by their names in the network's state."""
    state = model.state_dict()
    return {key: value.clone() for key, value in state.items() if "running_" in key or "num_batches" in key}


@contextmanager
def calibrated(model: EmbeddingNet, train: ImageSet) -> Iterator[None]:
    """Evaluation mode with batch-norm statistics measured on 512 training images; puts back what was there.

    The running statistics lag behind weights that move fast and mean nothing before the first step, so that a short
    run would be compared with noise. Statistics of the weights as they are, always of the same training images (no
    test image is looked at), make "before" and "after" comparable.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    saved = _statistics(model)
    momenta = [norm.momentum for norm in norms]
    training = {module: module.training for module in model.modules()}
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    batches = chosen[: _CALIBRATION_BATCH * _CALIBRATION_BATCHES].split(_CALIBRATION_BATCH)
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
        model.train()
        for indices in batches:
            if len(indices) > 1:  # the variance of one image does not exist
                model(train.images(indices, model.device))
        model.eval()
        yield
    finally:
        model.load_state_dict(saved, strict=False)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in training.items():
            module.training = mode


@torch.no_grad()
def embed(model: EmbeddingNet, images: ImageSet) -> Tensor:
    """[M, D] embeddings of all ``images``, on the device of ``model``."""
    blocks = [slice(start, start + _BATCH) for start in range(0, len(images), _BATCH)]
    return torch.cat([model(images.images(block, model.device)) for block in blocks])


def measured(embeddings: Tensor, labels: Tensor) -> Metrics:
    """Each row of ``embeddings`` [M, D] queries the others, on its device; fasttriplet is imported on use."""
    try:
        from fasttriplet.retrieval import retrieval_metrics
    except ImportError as error:
        raise UserError(f"to measure retrieval needs fasttriplet installed: {error}") from error
    return retrieval_metrics(embeddings, labels, at=AT, max_rank=RANKS).as_dict()


@torch.no_grad()
def evaluate(
    model: EmbeddingNet, train: ImageSet, test: ImageSet, name: str = "the network", step: int = 0
) -> Evaluation:
    """Embeds ``test`` and lets each image query the others, on the device of ``model``.

    Raises Diverged, which tells of ``name`` and ``step``, where embeddings are not finite: such rows retrieve nothing.
    """
    with calibrated(model, train):
        embeddings = embed(model, test)
        statistics = _statistics(model)
    check_embeddings(embeddings, name, step)
    return Evaluation(embeddings.cpu(), measured(embeddings, to_device(test.labels, model.device)), statistics)


def pixel_metrics(images: ImageSet, device: torch.device) -> Metrics:
    """Retrieval by the images themselves, at 16 x 16: what no network is needed for. On the digits that is much.

    They are scaled down on the CPU, since MPS divides no size that is not a multiple of 16.
    """
    blocks = torch.arange(len(images)).split(512)
    small = torch.cat([torch.nn.functional.adaptive_avg_pool2d(images.images(block), 16) for block in blocks])
    return measured(to_device(small.flatten(1), device), to_device(images.labels, device))


def bounded(images: ImageSet, limit: int) -> ImageSet:
    """All of ``images``, or ``limit`` of them, always the same, so that an evaluation has a known cost."""
    if len(images) <= limit:
        return images
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:limit]
    return images.subset(chosen.sort().values)
