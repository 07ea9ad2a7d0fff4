"""What the tests of PKSampler share: labels of unequal classes, samplers of them, and their epochs."""

from __future__ import annotations

import warnings

import numpy as np
from torch.utils.data import Dataset

from fasttriplet import PKSampler

#: Classes of 3 to 20 rows, in no order; with K = 3 none is short.
SIZES = {7: 3, -2: 5, 40: 20, 0: 4, 11: 9, 5: 3, 6: 7, 100: 8}
LABELS = np.random.default_rng(0).permutation(np.repeat(list(SIZES), list(SIZES.values())))


def made(p=3, k=3, labels=LABELS, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none of a short class
        return PKSampler(labels, p, k, **options)


def epoch_of(sampler, epoch=0):
    """[batches, rows]"""
    sampler.set_epoch(epoch)
    return np.array(list(sampler))


class Rows(Dataset):
    """Whose rows are their own number."""

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, index):
        return index
