"""Data sets by name: each file reads one kind and gives training and test images, in classes that do not overlap."""

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

#: name -> reader(root, image_size)
READERS: dict[str, Callable[[Path, int], Split]] = {
    "digits": lambda root, image_size: read_digits(image_size),
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
    """Reads the data set ``name``, one of ``READERS``; UserError names the file where one is missing or damaged."""
    if name == "digits":
        if root is not None:
            raise UserError(f"--root must not be given with --data digits, which come with scikit-learn; got {root}")
        folder = Path()
    elif root is not None:
        folder = Path(root)
        if not folder.is_dir():
            raise UserError(f"--root must be an existing folder; got {root}")
    else:
        found = default_root(name)
        if found is None:
            raise UserError(f"--root must name the folder that holds the {name} files; got nothing")
        folder = found
    return READERS[name](folder, image_size)


__all__ = ["READERS", "ImageSet", "Split", "default_root", "read_dataset"]
