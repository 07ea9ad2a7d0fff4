"""Random affine changes of a batch, on tensors: the same generator state gives the same changes on any device.

They are drawn for the whole batch and then made: a process that has a part of it makes those of its part.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from examples.resnet50.device import to_device

_ROTATION = math.radians(20)
_SCALING = 0.25
_SHEAR = 0.15
_SHIFT = 0.15  # of the width


def augmenting_device(device: torch.device) -> torch.device:
    """Where images for ``device`` are augmented: there, but on the CPU for MPS.

    Before PyTorch 2.13 MPS cannot repeat the border, and it shares the CPU's memory: the copy of floats is cheap.
    """
    return torch.device("cpu") if device.type == "mps" else device


def draw_changes(n: int, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """[n, 2, 3] on the CPU: a rotation, scaling, shear and shift for each image; half of them mirror if ``mirror``."""

    def uniform(limit: float) -> Tensor:  # [N] in -limit..limit
        return (torch.rand(n, generator=generator) * 2 - 1) * limit

    angle, scale, shear = uniform(_ROTATION), 1 + uniform(_SCALING), uniform(_SHEAR)
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0) if mirror else torch.ones(n)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0] = angle.cos() * scale * flip
    matrix[:, 0, 1] = shear - angle.sin() * scale
    matrix[:, 1, 0] = angle.sin() * scale * flip
    matrix[:, 1, 1] = angle.cos() * scale
    matrix[:, 0, 2] = uniform(2 * _SHIFT)  # grid_sample's width is 2, from -1 to 1
    matrix[:, 1, 2] = uniform(2 * _SHIFT)
    return matrix


def augment(images: Tensor, changes: Tensor) -> Tensor:
    """``images`` [N, C, S, S] after the ``changes`` [N, 2, 3] of :func:`draw_changes`.

    The border repeats outwards, so an image with a bright background gets no dark corners.
    """
    grid = torch.nn.functional.affine_grid(to_device(changes, images.device), list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
