"""Any images, one folder per class.

``ROOT/train/CLASS/*`` and ``ROOT/test/CLASS/*`` are taken as they are. Without these two, the classes ``ROOT/CLASS/*``
are sorted by name and the last three in ten (at least one) are kept for the test.
"""

from __future__ import annotations

import os
from pathlib import Path

from examples.resnet50.datasets.images import ImageSet, Split, image_set, read_image
from examples.resnet50.errors import UserError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_TEST_SHARE = 0.3


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _refuse_what_does_not_fit(root: Path, number: int, image_size: int) -> None:
    """All images are held in memory as bytes; better a line now than swapping later."""
    needed = number * 3 * image_size**2
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > memory // 2:
        raise UserError(
            f"--image-size must be smaller for the {number} images of {root}: at {image_size} they take "
            f"{needed / 2**30:.1f} GiB, more than half of this machine's {memory / 2**30:.1f} GiB"
        )


def _read(folders: list[Path], root: Path, image_size: int) -> ImageSet:
    files = [(folder.name, file) for folder in folders for file in sorted(folder.rglob("*"))]
    files = [(name, file) for name, file in files if file.suffix.lower() in _SUFFIXES]
    _refuse_what_does_not_fit(root, len(files), image_size)
    arrays = [read_image(str(file), str(file), image_size, grey=False) for _, file in files]
    return image_set(arrays, [name for name, _ in files], str(root))


def read_folder(root: Path, image_size: int) -> Split:
    """See the top of the file."""
    halves = [root / "train", root / "test"]
    if all(half.is_dir() for half in halves):
        train, test = (_read(_class_folders(half), half, image_size) for half in halves)
        return Split(train, test, mirrored=True)
    folders = _class_folders(root)
    if len(folders) < 3:
        raise UserError(
            f"{root} must hold a folder per class, 3 or more, or train/ and test/ of such; got {len(folders)}"
        )
    number = max(1, int(len(folders) * _TEST_SHARE))
    train, test = (_read(part, root, image_size) for part in (folders[:-number], folders[-number:]))
    return Split(train, test, mirrored=True)
