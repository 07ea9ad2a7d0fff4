"""Images in memory with their classes, and reading one image file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from examples.resnet50.device import to_device
from examples.resnet50.errors import UserError


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, held as bytes: a 64 x 64 grey one takes 4 KiB."""

    pixels: Tensor  # [M, C, S, S] uint8, C = 1 or 3
    labels: Tensor  # [M] int64, positions in classes
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor | slice, device: torch.device | str = "cpu") -> Tensor:
        """[n, C, S, S] float32 in 0..1 on ``device``; bytes travel there, a quarter of the floats."""
        return to_device(self.pixels[indices], torch.device(device)).float() / 255

    def subset(self, indices: Tensor) -> ImageSet:
        """The images at ``indices`` [n], a mask [M] too, with the same classes."""
        return ImageSet(self.pixels[indices], self.labels[indices], self.classes)

    def of_classes(self, kept: Sequence[int]) -> ImageSet:
        """The images of the classes in these positions, which are numbered anew."""
        renumbered = torch.full((len(self.classes),), -1)
        renumbered[list(kept)] = torch.arange(len(kept))
        labels = renumbered[self.labels]
        found = labels >= 0
        return ImageSet(self.pixels[found], labels[found], tuple(self.classes[position] for position in kept))


@dataclass(frozen=True)
class Split:
    """Training and test images; a class of one name in both was trained on."""

    train: ImageSet
    test: ImageSet
    mirrored: bool  # whether a mirror image still belongs to its class: not so for characters
    left_out: int = 0  # training classes that are not used because the test has them
    calibration: ImageSet | None = None  # that batch norm is measured on before a test, if not the training images

    @property
    def trained_on(self) -> Tensor:
        """[M] bool: test images, themselves never trained on, of classes that were."""
        known = set(self.train.classes)
        return torch.tensor([name in known for name in self.test.classes])[self.test.labels]

    @property
    def unseen_classes(self) -> list[str]:
        """Names of test classes that were not trained on, sorted; none where none of them was."""
        unseen = set(self.test.classes) - set(self.train.classes)
        return sorted(unseen) if len(unseen) < len(self.test.classes) else []


def image_set(arrays: list[np.ndarray], names: list[str], what: str) -> ImageSet:
    """From arrays [C, S, S] uint8 and the name of each one's class; ``what`` names the source in errors."""
    if not arrays:
        raise UserError(f"{what} must contain images; found none")
    classes = tuple(sorted(set(names)))
    position = {name: index for index, name in enumerate(classes)}
    return ImageSet(torch.from_numpy(np.stack(arrays)), torch.tensor([position[name] for name in names]), classes)


def read_image(file: IO[bytes] | str, what: str, image_size: int, *, grey: bool) -> np.ndarray:
    """[C, S, S] uint8: the middle square of the image scaled to ``image_size``; UserError names it as ``what``."""
    try:
        with Image.open(file) as image:
            image = image.convert("L" if grey else "RGB")  # first: a 1-bit image would be scaled to two levels only
            image = ImageOps.fit(
                image, (image_size, image_size), Image.Resampling.BOX if grey else Image.Resampling.BICUBIC
            )
            array = np.asarray(image)
    # Pillow reports a damaged file by any of the first four, and a member of a damaged archive adds two more.
    except (OSError, SyntaxError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{what} is not a readable image: {error}") from error
    return array[None] if grey else np.ascontiguousarray(array.transpose(2, 0, 1))


def scaled(images: np.ndarray, image_size: int) -> Tensor:
    """Grey images [M, H, W] in 0..1 to [M, 1, S, S] uint8, bilinear."""
    tensor = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))[:, None]
    tensor = torch.nn.functional.interpolate(tensor, (image_size, image_size), mode="bilinear", antialias=True)
    return (tensor * 255).round().clamp(0, 255).to(torch.uint8)
