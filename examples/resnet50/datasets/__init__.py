"""Data sets by name: each file reads one kind and gives training and test images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from examples.resnet50.datasets.digits import read_digits
from examples.resnet50.datasets.folder import read_folder
from examples.resnet50.datasets.images import ImageSet, Split
from examples.resnet50.datasets.mnist import read_mnist
from examples.resnet50.datasets.omniglot import read_omniglot
from examples.resnet50.errors import UserError

__all__ = ["ImageSet", "Split", "default_root", "read_dataset"]

#: Those in files, by ``--data``: (root, image_size) -> the images.
_READERS: dict[str, Callable[[Path, int], Split]] = {
    "omniglot": read_omniglot,
    "mnist": read_mnist,
    "folder": read_folder,
}


def default_root(name: str) -> Path | None:
    """``$FASTTRIPLET_DATA/NAME``, else ``../shared/data/NAME`` beside the repository; None where neither is there."""
    beside = Path(__file__).resolve().parents[3].parent / "shared" / "data"
    for parent in (os.environ.get("FASTTRIPLET_DATA"), beside):
        if parent and (Path(parent) / name).is_dir():
            return Path(parent) / name
    return None


def read_dataset(name: str, root: str | None, image_size: int) -> Split:
    """The data set ``name`` in the folder ``root``; UserError names the file where one is missing or damaged."""
    if name == "digits":
        if root is not None:
            raise UserError(f"--root must not be given with --data digits, which come with scikit-learn; got {root}")
        return read_digits(image_size)
    folder = default_root(name) if root is None else Path(root)
    if folder is None:
        raise UserError(f"--root must name the folder that holds the {name} files; got nothing")
    if not folder.is_dir():
        raise UserError(f"--root must be an existing folder; got {root}")
    return _READERS[name](folder, image_size)
