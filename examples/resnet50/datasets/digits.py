"""scikit-learn's digits: 1797 images of 8 x 8 that come with the library, so nothing is downloaded."""

from __future__ import annotations

import torch

from examples.resnet50.datasets.images import Split, scaled, split_by_class

_CLASSES = tuple("0123456789")


def read_digits(image_size: int) -> Split:
    """Digits 0 to 6 to train on, 7 to 9 to retrieve."""
    from sklearn.datasets import load_digits  # here: importing scikit-learn takes a second

    digits = load_digits()
    pixels = scaled(digits.images / 16, image_size)
    labels = torch.from_numpy(digits.target).long()
    train = split_by_class(pixels, labels, _CLASSES, range(0, 7))
    test = split_by_class(pixels, labels, _CLASSES, range(7, 10))
    return Split(train, test, unseen=True, mirrored=False)
