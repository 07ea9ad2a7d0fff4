"""torchvision's ResNet-50 with an embedding head, and its pretrained weights."""

from __future__ import annotations

import pickle
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from examples.resnet50.errors import UserError
from examples.resnet50.vision import load_torchvision

_POOLED = 2048  # channels of ResNet-50 after its global average
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


class PooledShortcut(nn.Conv2d):
    """In place of a 1 x 1 convolution of stride 2: with its weight, a convolution of the means of 2 x 2 pixels."""

    def __init__(self, strided: nn.Conv2d):
        super().__init__(strided.in_channels, strided.out_channels, 1, bias=False)
        self.weight = strided.weight

    def forward(self, features: Tensor) -> Tensor:
        """[N, C, S, S] to [N, C', S/2, S/2], rounded up."""
        return super().forward(nn.functional.avg_pool2d(features, 2, ceil_mode=True, count_include_pad=False))


class EmbeddingNet(nn.Module):
    """Images [N, C, S, S] in 0..1, C = 1 or 3, to unit embeddings [N, D].

    The head is linear and batch-normalised before the rows are divided by their norm. Pooled features follow a ReLU:
    all are positive, so without centring the embeddings of a new network are nearly one point, and batch-hard training
    stays for long where all distances are equal and the loss is the margin.

    A new network also starts with every residual branch at zero (``zero_init_residual``), so that its depth does not
    scramble the images before the first step. It then sees through its shortcuts alone, and where these halve a map
    they take one pixel in four: of a 32 x 32 image little arrives. ``pooled_shortcuts`` takes the mean of the four, as
    ResNet-D does (T. He et al., Bag of Tricks for Image Classification, https://arxiv.org/abs/1812.01187), with the
    same parameters. Pretrained weights were trained without.
    """

    mean: Tensor  # [3, 1, 1]
    std: Tensor  # [3, 1, 1]

    def __init__(self, embedding_dim: int = 128, *, pooled_shortcuts: bool = True):
        super().__init__()
        self.body = load_torchvision().models.resnet50(weights=None, zero_init_residual=True)
        self.body.fc = nn.Identity()
        if pooled_shortcuts:
            for layer in (self.body.layer2, self.body.layer3, self.body.layer4):
                layer[0].downsample[0] = PooledShortcut(layer[0].downsample[0])
        self.head = nn.Sequential(nn.Linear(_POOLED, embedding_dim, bias=False), nn.BatchNorm1d(embedding_dim))
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(3, 1, 1))
        # On the CPU nearly twice as fast as channels first; tensor cores in half precision take no other layout.
        self.to(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        """Where its parameters are, and images must be."""
        return self.mean.device

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, S, S] to [N, embedding_dim], rows of norm 1, in the dtype of the parameters, under autocast too."""
        normalised = (images.expand(-1, 3, -1, -1) - self.mean) / self.std
        features = self.head(self.body(normalised.contiguous(memory_format=torch.channels_last)))
        return nn.functional.normalize(features.to(self.mean.dtype), dim=1)


def _read_state(weights: str) -> dict[str, Tensor]:
    """The state dict named by ``weights``: a file if it exists or ends in .pth or .pt, else a torchvision name."""
    if Path(weights).exists() or weights.endswith((".pth", ".pt")):
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
            line = str(error).splitlines()[0]
            raise UserError(f"--weights {weights} is not a readable PyTorch file: {line}") from error
        if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
            state = state["state_dict"]
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise UserError(f"--weights {weights} must hold a state dict of ResNet-50; got {type(state).__name__}")
        return state
    models = load_torchvision().models
    name = weights if "." in weights else f"ResNet50_Weights.{weights}"
    try:
        chosen = models.get_weight(name)
    except (ValueError, KeyError, AttributeError) as error:
        known = ", ".join(f"ResNet50_Weights.{w.name}" for w in models.ResNet50_Weights)
        raise UserError(f"--weights must be an existing .pth file or one of {known}; got {weights}") from error
    try:
        return dict(chosen.get_state_dict(progress=True, check_hash=True))
    except (URLError, OSError, RuntimeError) as error:
        raise UserError(f"--weights {weights} cannot be downloaded from {chosen.url}: {error}") from error


def load_weights(model: EmbeddingNet, weights: str) -> None:
    """Fills the body of ``model``; the 1000-way classifier of the file, if there, is left out."""
    state = {key.removeprefix("module."): value for key, value in _read_state(weights).items()}
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    try:
        model.body.load_state_dict(state)
    except RuntimeError as error:
        wrong = " ".join(str(error).split())[:200]
        raise UserError(f"--weights {weights} must hold the parameters of torchvision's resnet50: {wrong}") from error


def build_model(embedding_dim: int, weights: str | None, seed: int, *, pooled_shortcuts: bool = True) -> EmbeddingNet:
    """A network whose every start value follows from ``seed``."""
    torch.manual_seed(seed)
    model = EmbeddingNet(embedding_dim, pooled_shortcuts=pooled_shortcuts)
    if weights is not None:
        load_weights(model, weights)
    return model
