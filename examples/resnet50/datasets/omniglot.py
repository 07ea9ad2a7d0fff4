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
    arrays, names = [], []
    for character, what, data in _files(path):
        arrays.append(255 - read_image(io.BytesIO(data), what, image_size, grey=True))  # black on white: ink becomes 1
        names.append(character)
    return image_set(arrays, names, str(path))


def _read_pair(first: Path, second: Path, image_size: int) -> Split:
    train, test = _read(first, image_size), _read(second, image_size)
    shared = set(test.classes)
    kept = [index for index, name in enumerate(train.classes) if name not in shared]
    if not kept:
        raise UserError("the two Omniglot archives must differ; every character of the first is in the second")
    return Split(train.of_classes(kept), test, mirrored=False, left_out=len(train.classes) - len(kept))


def read_omniglot(root: Path, image_size: int) -> Split:
    """See the top of the file."""
    for first, second in _PAIRS:
        train, test = _locate(root, first), _locate(root, second)
        if train and test:
            return _read_pair(train, test, image_size)
        if train or test:
            raise UserError(
                f"{root} must hold both {first}.zip and {second}.zip; {first if test else second}.zip is missing"
            )
    raise UserError(f"{root} must hold {_PAIRS[0][0]}.zip and {_PAIRS[0][1]}.zip, or the folders of those names")
