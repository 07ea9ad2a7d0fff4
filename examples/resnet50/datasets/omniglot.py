"""Omniglot: handwritten characters of many alphabets, 20 drawers each; a class is one character of one alphabet.

Two archives (or the folders they extract to) are needed: the first is trained on, the characters of the second are
retrieved. The "minimal" pair is looked for first, then the full one. The two minimal archives share alphabets (Greek
and Latin, the very same images): characters that are in both are left out of the training, so that every character of
the test is an unseen one.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from examples.resnet50.datasets.images import ImageSet, Split, image_set, read_image
from examples.resnet50.errors import UserError

_PAIRS = (
    ("images_background_small1", "images_background_small2"),
    ("images_background", "images_evaluation"),
)


def _locate(root: Path, name: str) -> Path | None:
    """The extracted folder or the archive called ``name``."""
    return next((path for path in (root / name, root / f"{name}.zip") if path.exists()), None)


def _files(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(class, name for errors, bytes) of each PNG under a folder or in an archive, in sorted order."""
    if path.is_dir():
        for file in sorted(path.rglob("*.png")):
            yield "/".join(file.parts[-3:-1]), str(file), file.read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(name for name in archive.namelist() if name.endswith(".png")):
                try:
                    data = archive.read(name)
                except Exception as error:  # zipfile raises BadZipFile, zlib.error, EOFError, NotImplementedError
                    raise UserError(f"{path}: {name} cannot be unpacked: {error}") from error
                yield "/".join(PurePosixPath(name).parts[-3:-1]), f"{path}: {name}", data
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is not a readable zip archive, perhaps truncated: {error}") from error


def _read(path: Path, image_size: int) -> ImageSet:
    arrays: list[np.ndarray] = []
    names: list[str] = []
    for character, what, data in _files(path):
        ink = 255 - read_image(io.BytesIO(data), what, image_size, grey=True)  # drawn black on white: ink becomes 1
        arrays.append(ink)
        names.append(character)
    return image_set(arrays, names, str(path))


def _without_shared(train: ImageSet, test: ImageSet) -> Split:
    """``train`` without the characters of ``test``, which stays whole."""
    shared = set(test.classes)
    keep = [index for index, name in enumerate(train.classes) if name not in shared]
    if not keep:
        raise UserError("the two Omniglot archives must differ; every character of the first is in the second")
    renumbered = torch.full((len(train.classes),), -1)
    renumbered[keep] = torch.arange(len(keep))
    labels = renumbered[train.labels]
    kept = ImageSet(train.pixels[labels >= 0], labels[labels >= 0], tuple(train.classes[index] for index in keep))
    return Split(kept, test, unseen=True, mirrored=False, left_out=len(train.classes) - len(keep))


def read_omniglot(root: Path, image_size: int) -> Split:
    """Characters of the first archive that are not in the second to train on, all of the second to retrieve."""
    for first, second in _PAIRS:
        train, test = _locate(root, first), _locate(root, second)
        if train and test:
            return _without_shared(_read(train, image_size), _read(test, image_size))
        if train or test:
            raise UserError(
                f"{root} must hold both {first}.zip and {second}.zip; {first if test else second}.zip is missing"
            )
    raise UserError(f"{root} must hold {_PAIRS[0][0]}.zip and {_PAIRS[0][1]}.zip, or the folders of those names")
