"""torchreid's ``TripletLoss``: change the import, keep the rest.

torchreid's formula: Euclidean distances whose squares are at least 1e-12; the anchor itself counts as a positive, so
that every anchor has one; the mean over all anchors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasttriplet import functional
from fasttriplet.check import check_margin
from fasttriplet.compat._labels import integer_labels, one_class
from fasttriplet.compat._pairs import PairDistances
from fasttriplet.pairing import widened

#: The smallest distance there is: the root of 1e-12.
FLOOR = 1e-6


class TripletLoss(nn.Module):
    """Triplet loss with hard positive and negative mining, as torchreid's.

    Args:
        margin: finite number. Default 0.3.

    Raises:
        TypeError: ``margin`` is not a number.
        ValueError: ``margin`` is not finite.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.torchreid import TripletLoss
        >>> inputs = torch.tensor([[0.0], [1.0], [1.2], [9.0]], requires_grad=True)
        >>> loss = TripletLoss(margin=0.3)(inputs, torch.tensor([0, 0, 1, 2]))
        >>> loss.backward()
        >>> round(loss.item(), 4)  # (0.1 + 1.1 + 0.1 + 0) / 4
        0.325

    Deviations: distances are exact, from differences, not from a float32 matrix of dot products. Among positives or
    negatives at the same distance the gradient goes to the lowest index, where torchreid splits it evenly; the value
    is the same. float16 and bfloat16 inputs give a float32 loss, under autocast too.

    Source: https://github.com/KaiyangZhou/deep-person-reid; A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet
    Loss for Person Re-Identification", 2017, https://arxiv.org/abs/1703.07737.
    """

    def __init__(self, margin: float = 0.3) -> None:
        super().__init__()
        self.margin = check_margin(margin)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            inputs: [N, D] features.
            targets: [N] classes, of any dtype, compared with ``==``.

        Raises:
            ValueError: the batch has one class alone, so that no anchor has a negative. On CUDA this waits for the
                device.
        """
        targets = integer_labels(targets, "targets")
        if inputs.shape[0] == 0 or bool(one_class(targets)):
            raise ValueError(f"targets must have two classes at least; got one class in {inputs.shape[0]} rows")
        mined = functional.mine_batch_hard(inputs, targets, distance="euclidean")
        anchors = torch.arange(inputs.shape[0], device=inputs.device)
        rows = widened(inputs)
        distances = PairDistances(rows, rows, "euclidean", pairs=2 * len(anchors))
        positives = torch.where(mined.positives < 0, anchors, mined.positives)
        nearby = distances(anchors, positives).clamp_min(FLOOR)
        apart = distances(anchors, mined.negatives).clamp_min(FLOOR)
        return torch.relu(nearby - apart + self.margin).mean()

    def extra_repr(self) -> str:
        return f"margin={self.margin}"
