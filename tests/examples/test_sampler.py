"""P x K batches: their make-up, their repetition from a seed, and classes that are too small."""

from __future__ import annotations

import pytest
import torch

from examples.resnet50.errors import UserError
from examples.resnet50.sampler import ClassBalancedSampler

LABELS = torch.tensor([0] * 10 + [1] * 7 + [3] * 8 + [4] * 2)


def sampler(p: int = 3, k: int = 4, seed: int = 0) -> ClassBalancedSampler:
    return ClassBalancedSampler(LABELS, p, k, torch.Generator().manual_seed(seed))


def test_each_batch_has_p_classes_of_k_images():
    batches = sampler()
    for _ in range(50):
        indices = batches.next_batch()
        assert indices.shape == (12,)
        labels, counts = LABELS[indices].unique(return_counts=True)
        assert len(labels) == 3 and counts.tolist() == [4, 4, 4]


def test_images_repeat_only_in_short_classes():
    batches = sampler()
    assert batches.short_classes == 1
    for _ in range(50):
        indices = batches.next_batch()
        for label in LABELS[indices].unique():
            chosen = indices[LABELS[indices] == label]
            assert len(chosen.unique()) == (2 if label == 4 else 4)


def test_every_image_is_reached():
    batches = sampler()
    assert torch.cat([batches.next_batch() for _ in range(200)]).unique().tolist() == list(range(len(LABELS)))


def test_same_seed_same_batches_and_state_continues():
    first, second = sampler(seed=7), sampler(seed=7)
    for _ in range(3):
        assert torch.equal(first.next_batch(), second.next_batch())
    assert not torch.equal(sampler(seed=8).next_batch(), sampler(seed=7).next_batch())
    second.generator.set_state(first.generator.get_state())
    assert torch.equal(first.next_batch(), second.next_batch())


def test_epoch_length():
    assert sampler().batches_per_epoch == len(LABELS) // 12
    assert sampler(4, 100).batches_per_epoch == 1


@pytest.mark.parametrize(
    ("p", "k", "message"),
    [
        (5, 2, r"--classes-per-batch must be 2 to 4, the number of training classes; got 5"),
        (1, 2, r"--classes-per-batch must be 2 to 4"),
        (2, 1, r"--samples-per-class must be at least 2; got 1"),
    ],
)
def test_wrong_sizes(p: int, k: int, message: str):
    with pytest.raises(UserError, match=message):
        sampler(p, k)
