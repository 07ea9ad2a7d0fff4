"""MNIST in its original idx files, gzipped or not.

Digits 0 to 6 are trained on and 7 to 9 retrieved. Both come from the test files (``t10k-``); where the training files
(``train-``) are there too, the training images come from those.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch

from examples.resnet50.datasets.images import ImageSet, Split, scaled
from examples.resnet50.errors import UserError

_CLASSES = tuple("0123456789")
_TRAINED, _TESTED = range(7), range(7, 10)
_UNSIGNED_BYTE = 0x08


def _locate(root: Path, name: str) -> Path | None:
    """``name`` as it is or gzipped, also in the spelling with a dot that some copies have."""
    spellings = (name, name.replace("-idx", ".idx"))
    return next((p for s in spellings for p in (root / s, root / f"{s}.gz") if p.is_file()), None)


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The array of unsigned bytes in an idx file: two zero bytes, type, rank, sizes as big-endian int32, the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read, perhaps truncated: {error}") from error
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]):
        raise UserError(
            f"{path} must be an idx file of unsigned bytes with {dimensions} dimensions; it starts {data[:4]!r}"
        )
    shape = [int(size) for size in np.frombuffer(data, ">i4", dimensions, offset=4)]
    expected = header + math.prod(shape)
    if min(shape) < 0 or len(data) != expected:
        raise UserError(f"{path} must hold {expected} bytes for shape {shape}; got {len(data)}, perhaps truncated")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read(root: Path, prefix: str, image_size: int) -> ImageSet | None:
    paths = [_locate(root, f"{prefix}-{name}-ubyte") for name in ("images-idx3", "labels-idx1")]
    if paths[0] is None or paths[1] is None:
        return None
    images, labels = _read_idx(paths[0], 3), _read_idx(paths[1], 1)
    if len(images) != len(labels):
        raise UserError(f"{paths[1]} must hold {len(images)} labels to match {paths[0]}; got {len(labels)}")
    if labels.size == 0 or labels.max() > 9:
        raise UserError(f"{paths[1]} must hold labels 0 to 9; got {labels.max() if labels.size else 'none'}")
    return ImageSet(scaled(images / 255, image_size), torch.from_numpy(labels.astype(np.int64)), _CLASSES)


def read_mnist(root: Path, image_size: int) -> Split:
    """See the top of the file."""
    test = _read(root, "t10k", image_size)
    if test is None:
        raise UserError(f"{root} must hold t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, gzipped or not")
    train = _read(root, "train", image_size) or test
    return Split(train.of_classes(_TRAINED), test.of_classes(_TESTED), mirrored=False)
