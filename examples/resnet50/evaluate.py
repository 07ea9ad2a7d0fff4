"""Embeds the test images and measures retrieval among them, by the names that ``RetrievalMetrics.as_dict`` gives."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from examples.resnet50.augment import augment, draw_changes
from examples.resnet50.datasets import ImageSet, Split
from examples.resnet50.device import to_device
from examples.resnet50.errors import Diverged
from examples.resnet50.model import EmbeddingNet
from fasttriplet.retrieval import retrieval_metrics

Metrics = dict[str, float]

_AT, _RANKS = (1, 5, 10), 10
#: Each between 0 and 1, the higher the better.
MEASURES = (
    *(f"{name}@{k}" for name in ("hit_rate", "precision", "recall", "map") for k in _AT),
    *(f"cmc@{k}" for k in range(1, _RANKS + 1)),
    *("map", "map_at_r", "r_precision", "mrr", "minp"),
)
#: In front of the names of those of classes that were not trained on, where there are others too.
UNSEEN = "unseen_"

_BATCH = 128
_CALIBRATION_BATCH, _CALIBRATION_BATCHES = 64, 8


@dataclass(frozen=True)
class Evaluation:
    """How well the test images retrieve, with their embeddings [M, D] on the CPU for the pictures."""

    embeddings: Tensor
    metrics: Metrics
    network: EmbeddingNet | None = None  # a copy as it was measured, in evaluation mode

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, for ``Evaluation(**...)``."""
        return {"embeddings": self.embeddings, "metrics": self.metrics}


@torch.no_grad()
def calibrated(model: EmbeddingNet, images: ImageSet) -> EmbeddingNet:
    """A copy of ``model`` in evaluation mode with batch-norm statistics measured on 512 training images.

    The running statistics lag behind weights that move fast and mean nothing before the first step. Statistics of the
    weights as they are, always of the same images, none of which is tested, make "before" and "after" comparable.
    """
    found = copy.deepcopy(model).train()
    for norm in found.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    for indices in chosen[: _CALIBRATION_BATCH * _CALIBRATION_BATCHES].split(_CALIBRATION_BATCH):
        if len(indices) > 1:  # the variance of one image does not exist
            found(images.images(indices, model.device))
    return found.eval()


@torch.no_grad()
def embed(model: EmbeddingNet, images: ImageSet) -> Tensor:
    """[M, D] embeddings of all ``images``, on the device of ``model``."""
    blocks = [slice(start, start + _BATCH) for start in range(0, len(images), _BATCH)]
    return torch.cat([model(images.images(block, model.device)) for block in blocks])


def measured(embeddings: Tensor, labels: Tensor, trained_on: Tensor) -> Metrics:
    """Each row of ``embeddings`` [M, D] queries all the others, on its device.

    Where some are of classes that were trained on and some are not, ``trained_on`` [M] bool, the figures are those of
    the former, and those of the latter stand beside them by names that begin with ``unseen_``.
    """

    def of(asked: Tensor) -> Metrics:
        rows = to_device(asked.nonzero()[:, 0], embeddings.device)
        candidates: dict[str, Any] = {"ref_embeddings": embeddings, "ref_labels": labels, "self_indices": rows}
        return retrieval_metrics(embeddings[rows], labels[rows], at=_AT, max_rank=_RANKS, **candidates).as_dict()

    if trained_on.all() or not trained_on.any():
        return of(torch.ones_like(trained_on))
    return of(trained_on) | {f"{UNSEEN}{name}": value for name, value in of(~trained_on).items()}


@torch.no_grad()
def evaluate(model: EmbeddingNet, split: Split, name: str = "the network", step: int = 0) -> Evaluation:
    """Embeds the test images and lets each query the others, on the device of ``model``.

    Raises Diverged, which tells of ``name`` and ``step``, where embeddings are not finite: such rows retrieve nothing.
    """
    network = calibrated(model, split.calibration or split.train)
    embeddings = embed(network, split.test)
    wrong = ~embeddings.isfinite().all(1)
    if wrong.any():
        raise Diverged(
            f"step {step}: the embeddings of {name} must be finite; got {int(wrong.sum())} of {len(wrong)} rows that "
            f"are not, the first at {int(wrong.int().argmax())}"
        )
    metrics = measured(embeddings, to_device(split.test.labels, model.device), split.trained_on)
    return Evaluation(embeddings.cpu(), metrics, network)


def pixel_metrics(split: Split, device: torch.device) -> Metrics:
    """Retrieval among the test images by the images themselves, at 16 x 16: how far one gets without a network.

    They are scaled down on the CPU, since MPS divides no size that is not a multiple of 16.
    """
    test = split.test
    blocks = torch.arange(len(test)).split(512)
    small = torch.cat([torch.nn.functional.adaptive_avg_pool2d(test.images(block), 16) for block in blocks])
    return measured(to_device(small.flatten(1), device), to_device(test.labels, device), split.trained_on)


def under_nuisance(split: Split) -> Split:
    """Each test image changed once as training images are in every step, always the same way.

    All that is measured afterwards is measured on these, the pixels for comparison too. So are the training images that
    batch norm is measured on.
    """
    generator = torch.Generator().manual_seed(0)

    def changed(images: ImageSet) -> ImageSet:
        changes = draw_changes(len(images), generator, mirror=split.mirrored)
        blocks = torch.arange(len(images)).split(512)
        pixels = [(augment(images.images(block), changes[block]) * 255).round().to(torch.uint8) for block in blocks]
        return replace(images, pixels=torch.cat(pixels))

    measured_on = torch.randperm(len(split.train), generator=generator)[: _CALIBRATION_BATCH * _CALIBRATION_BATCHES]
    return replace(split, test=changed(split.test), calibration=changed(split.train.subset(measured_on)))


def bounded(images: ImageSet, limit: int) -> ImageSet:
    """All of ``images``, or ``limit`` of them, always the same, so that an evaluation has a known cost."""
    if len(images) <= limit:
        return images
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:limit]
    return images.subset(chosen.sort().values)
