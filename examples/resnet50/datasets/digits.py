"""scikit-learn's digits: 1797 images of 8 x 8 that come with the library, so nothing is downloaded."""

from __future__ import annotations

import torch

from examples.resnet50.datasets.images import ImageSet, Split, scaled

_CLASSES = tuple("0123456789")
_TRAINED = range(8)
_TEST_SHARE = 3  # every third image of each digit, in the order of a fixed shuffle


def read_digits(image_size: int) -> Split:
    """Two thirds of the images of 0 to 7 to train on; of all ten every third image to retrieve, 8 and 9 among them."""
    from sklearn.datasets import load_digits  # here: importing scikit-learn takes a second

    digits = load_digits()
    labels = torch.from_numpy(digits.target).long()
    images = ImageSet(scaled(digits.images / 16, image_size), labels, _CLASSES)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    tested = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(len(_CLASSES)):
        tested[order[labels[order] == digit][::_TEST_SHARE]] = True
    return Split(images.subset(~tested).of_classes(_TRAINED), images.subset(tested), mirrored=False)
