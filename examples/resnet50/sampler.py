"""P x K batches: P classes, K images of each, so that every anchor has a positive and a negative."""

from __future__ import annotations

import torch
from torch import Tensor

from examples.resnet50.errors import UserError


class ClassBalancedSampler:
    """An endless seeded stream of batches; its state is that of one generator, so it can be saved and continued.

    Classes are drawn without replacement within a batch, and so are the images of a class, except where it has fewer
    than K: then all of them are taken and the rest is drawn again from the same ones, with another augmentation.
    """

    def __init__(self, labels: Tensor, classes_per_batch: int, samples_per_class: int, generator: torch.Generator):
        present = torch.unique(labels)
        if not 2 <= classes_per_batch <= len(present):
            raise UserError(
                f"--classes-per-batch must be 2 to {len(present)}, the number of training classes; "
                f"got {classes_per_batch}"
            )
        if samples_per_class < 2:
            raise UserError(f"--samples-per-class must be at least 2; got {samples_per_class}")
        self.classes_per_batch = classes_per_batch
        self.samples_per_class = samples_per_class
        self.generator = generator
        self._members = [torch.nonzero(labels == label)[:, 0] for label in present]  # [class] of [images of the class]
        self.short_classes = sum(len(members) < samples_per_class for members in self._members)
        self.batch_size = classes_per_batch * samples_per_class
        self.batches_per_epoch = max(1, len(labels) // self.batch_size)

    def _draw(self, members: Tensor) -> Tensor:
        chosen = members[torch.randperm(len(members), generator=self.generator)[: self.samples_per_class]]
        lacking = self.samples_per_class - len(chosen)
        if lacking > 0:
            again = torch.randint(len(members), (lacking,), generator=self.generator)
            chosen = torch.cat([chosen, members[again]])
        return chosen

    def next_batch(self) -> Tensor:
        """[P * K] indices of images, class by class."""
        classes = torch.randperm(len(self._members), generator=self.generator)[: self.classes_per_batch]
        return torch.cat([self._draw(self._members[index]) for index in classes.tolist()])
