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
from torch import Tensor

from examples.resnet50.datasets.images import Split, scaled, split_by_class
from examples.resnet50.errors import UserError

_CLASSES = tuple("0123456789")
_UNSIGNED_BYTE = 0x08


def _locate(root: Path, name: str) -> Path | None:
    """``name`` as it is or gzipped, also in the spelling with a dot that some copies have."""
    spellings = (name, name.replace("-idx", ".idx"))
    return next((p for s in spellings for p in (root / s, root / f"{s}.gz") if p.is_file()), None)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
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
    shape = tuple(int(size) for size in np.frombuffer(data, ">i4", dimensions, offset=4))
    if min(shape) < 0 or len(data) != header + math.prod(shape):
        expected = header + math.prod(shape)
        raise UserError(
            f"{path} must hold {expected} bytes for shape {list(shape)}; got {len(data)}, perhaps truncated"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read_pair(root: Path, prefix: str, image_size: int) -> tuple[Tensor, Tensor] | None:
    images_path = _locate(root, f"{prefix}-images-idx3-ubyte")
    labels_path = _locate(root, f"{prefix}-labels-idx1-ubyte")
    if images_path is None or labels_path is None:
        return None
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise UserError(f"{labels_path} must hold {len(images)} labels to match {images_path}; got {len(labels)}")
    if labels.size == 0 or labels.max() > 9:
        raise UserError(f"{labels_path} must hold labels 0 to 9; got {labels.max() if labels.size else 'none'}")
    return scaled(images / 255, image_size), torch.from_numpy(labels.astype(np.int64))


def read_mnist(root: Path, image_size: int) -> Split:
    """Digits 0 to 6 to train on, 7 to 9 to retrieve."""
    test_pair = _read_pair(root, "t10k", image_size)
    if test_pair is None:
        raise UserError(f"{root} must hold t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, gzipped or not")
    train_pair = _read_pair(root, "train", image_size) or test_pair
    train = split_by_class(*train_pair, _CLASSES, range(0, 7))
    test = split_by_class(*test_pair, _CLASSES, range(7, 10))
    return Split(train, test, unseen=True, mirrored=False)
