"""Each reader on small files made here, on damaged ones, and on the real data where that is present."""

from __future__ import annotations

import gzip
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples.resnet50.datasets import read_dataset
from examples.resnet50.errors import UserError
from examples.resnet50.train import main

SMALL1, SMALL2 = "images_background_small1", "images_background_small2"


def write_images(folder: Path, classes: list[str], each: int = 3, size: int = 20) -> None:
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.full((size, size), 40 + 10 * shade + number, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def write_omniglot(root: Path) -> None:
    write_images(root / SMALL1, ["A/character01", "A/character02", "B/character01"])
    write_images(root / SMALL2, ["C/character01", "D/character01"])


def zip_folder(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*.png")):
            file.write(path, path.relative_to(folder.parent))
    return archive


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, number: int = 40, prefix: str = "t10k") -> tuple[Path, Path]:
    images = np.arange(number * 28 * 28).reshape(number, 28, 28) % 251
    paths = root / f"{prefix}-images-idx3-ubyte", root / f"{prefix}-labels-idx1-ubyte"
    for path, array in zip(paths, (images, np.arange(number) % 10), strict=True):
        path.write_bytes(idx(array))
    return paths


def one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], name: str) -> str:
    """The run ends with code 2 and one line on standard error that has ``name`` in it."""
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "Traceback" not in error and name in error, error
    return error


def test_digits():
    split = read_dataset("digits", None, 32)
    assert split.train.classes == tuple("01234567") and split.test.classes == tuple("0123456789")
    assert split.trained_on.tolist() == [label < 8 for label in split.test.labels.tolist()]
    from sklearn.datasets import load_digits

    each = np.bincount(load_digits().target)
    assert split.test.labels.bincount().tolist() == [-(-n // 3) for n in each]
    assert split.train.labels.bincount().tolist() == [n - -(-n // 3) for n in each[:8]]
    assert torch.equal(split.test.pixels, read_dataset("digits", None, 32).test.pixels)
    assert split.train.pixels.shape[1:] == (1, 32, 32) and split.train.pixels.dtype == torch.uint8
    images = split.test.images(slice(0, 5))
    assert images.shape == (5, 1, 32, 32) and images.min() == 0 and 0.9 < images.max() <= 1


def test_omniglot_from_folders_and_archives_is_the_same(tmp_path: Path):
    write_omniglot(tmp_path / "folders")
    (tmp_path / "zips").mkdir()
    for name in (SMALL1, SMALL2):
        zip_folder(tmp_path / "folders" / name).rename(tmp_path / "zips" / f"{name}.zip")
    a, b = (read_dataset("omniglot", str(tmp_path / kind), 16) for kind in ("folders", "zips"))
    assert a.train.classes == b.train.classes == ("A/character01", "A/character02", "B/character01")
    assert a.test.classes == b.test.classes == ("C/character01", "D/character01") and not a.trained_on.any()
    assert torch.equal(a.train.pixels, b.train.pixels) and torch.equal(a.test.labels, b.test.labels)
    assert a.train.pixels[0].unique().tolist() == [255 - 40]  # ink is bright


def test_omniglot_trains_on_no_character_of_the_test(tmp_path: Path):
    write_images(tmp_path / SMALL1, ["A/character01", "C/character01", "E/character01"])
    write_images(tmp_path / SMALL2, ["C/character01", "D/character01"])
    split = read_dataset("omniglot", str(tmp_path), 16)
    assert split.train.classes == ("A/character01", "E/character01") and split.left_out == 1
    assert split.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and len(split.test) == 6


def test_omniglot_truncated_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_omniglot(tmp_path)
    archive = zip_folder(tmp_path / SMALL2)
    (tmp_path / SMALL2).rename(tmp_path / "elsewhere")
    archive.write_bytes(archive.read_bytes()[:-200])
    one_line(capsys, ["--data", "omniglot", "--root", str(tmp_path)], str(archive))


def test_omniglot_damaged_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_omniglot(tmp_path)
    broken = tmp_path / SMALL1 / "A" / "character01" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    zip_folder(tmp_path / SMALL1)
    one_line(capsys, ["--data", "omniglot", "--root", str(tmp_path)], str(broken))
    (tmp_path / SMALL1).rename(tmp_path / "elsewhere")
    one_line(capsys, ["--data", "omniglot", "--root", str(tmp_path)], f"{SMALL1}/A/character01/1.png")


def test_omniglot_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one_line(capsys, ["--data", "omniglot", "--root", str(tmp_path)], f"{SMALL1}.zip")
    (tmp_path / SMALL1).mkdir()
    one_line(capsys, ["--data", "omniglot", "--root", str(tmp_path)], f"{SMALL2}.zip is missing")
    one_line(capsys, ["--data", "omniglot", "--root", str(tmp_path / "no")], "--root must be an existing folder")


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist(tmp_path: Path, zipped: bool):
    paths = write_mnist(tmp_path)
    if zipped:
        for path in paths:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    split = read_dataset("mnist", str(tmp_path), 28)
    assert len(split.train) == 28 and len(split.test) == 12 and split.test.classes == tuple("789")
    assert split.train.pixels[1].flatten()[:5].tolist() == [(28 * 28 + i) % 251 for i in range(5)]


def test_mnist_training_files_are_used_if_there(tmp_path: Path):
    write_mnist(tmp_path)
    write_mnist(tmp_path, 100, "train")
    split = read_dataset("mnist", str(tmp_path), 28)
    assert len(split.train) == 70 and len(split.test) == 12


def test_mnist_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--data", "mnist", "--root", str(tmp_path)]
    one_line(capsys, arguments, "t10k-images-idx3-ubyte")
    images, labels = write_mnist(tmp_path)
    whole = images.read_bytes()
    images.write_bytes(whole[:-7])
    assert "truncated" in one_line(capsys, arguments, str(images))
    images.write_bytes(b"<html>not found</html>")
    one_line(capsys, arguments, str(images))
    images.write_bytes(whole)
    labels.write_bytes(idx(np.zeros(39)))
    assert "must hold 40 labels" in one_line(capsys, arguments, str(labels))
    labels.unlink()
    zipped = labels.with_name(labels.name + ".gz")
    zipped.write_bytes(gzip.compress(idx(np.zeros(40)))[:-9])
    one_line(capsys, arguments, str(zipped))


def test_folder_keeps_the_last_classes_for_the_test(tmp_path: Path):
    write_images(tmp_path, ["a", "b", "c", "d", "e", "f", "g"], size=30)
    split = read_dataset("folder", str(tmp_path), 16)
    assert split.train.classes == ("a", "b", "c", "d", "e") and split.test.classes == ("f", "g")
    assert not split.trained_on.any() and split.mirrored and split.train.pixels.shape == (15, 3, 16, 16)


def test_folder_with_train_and_test(tmp_path: Path):
    write_images(tmp_path / "train", ["a", "b"])
    write_images(tmp_path / "test", ["b", "c"])
    split = read_dataset("folder", str(tmp_path), 16)
    assert split.train.classes == ("a", "b") and split.test.classes == ("b", "c")
    assert split.trained_on.tolist() == [True] * 3 + [False] * 3  # by name: b is 1 in the one and 0 in the other


def test_folder_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--data", "folder", "--root", str(tmp_path)]
    assert "got 0" in one_line(capsys, arguments, str(tmp_path))
    write_images(tmp_path, ["a", "b", "c", "d"])
    broken = tmp_path / "c" / "0.png"
    broken.write_bytes(broken.read_bytes()[:50])
    one_line(capsys, arguments, str(broken))
    broken.write_text("not an image")
    one_line(capsys, arguments, str(broken))


def test_root_is_asked_for(capsys: pytest.CaptureFixture[str]):
    one_line(capsys, ["--data", "folder"], "--root must name the folder")
    with pytest.raises(UserError, match="--root must not be given with --data digits"):
        read_dataset("digits", ".", 32)


def test_real_omniglot(data_folder: Callable[[str], Path]):
    split = read_dataset("omniglot", str(data_folder("omniglot")), 32)
    assert len(split.train) == 86 * 20 and len(split.train.classes) == 86 and split.left_out == 50  # Greek and Latin
    assert len(split.test) == 156 * 20 and len(split.test.classes) == 156
    assert not set(split.train.classes) & set(split.test.classes)
    assert set(split.train.labels.bincount().tolist()) == {20}


def test_real_mnist(data_folder: Callable[[str], Path]):
    split = read_dataset("mnist", str(data_folder("mnist")), 28)
    assert len(split.train) + len(split.test) == 10_000
    assert split.train.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958]
    assert split.test.labels.bincount().tolist() == [1028, 974, 1009]
