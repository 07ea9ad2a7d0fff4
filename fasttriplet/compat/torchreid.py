"""torchreid's ``TripletLoss``: change the import, keep the rest.

torchreid's formula: Euclidean distances whose squares are at least 1e-12; the anchor itself counts as a positive, so
that every anchor has one; the mean over all anchors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasttriplet import functional
from fasttriplet.compat._labels import label_vector, one_class
from fasttriplet.compat._margin import Margin, margin_of
from fasttriplet.pair_distances import pair_distances
from fasttriplet.pairing import widened

#: The smallest distance there is: the root of 1e-12.
FLOOR = 1e-6


class TripletLoss(nn.Module):
    """Triplet loss with hard positive and negative mining, as torchreid's.

    Args:
        margin: finite number, or a tensor of one that needs no gradient. Default 0.3.

    Raises:
        TypeError: ``margin`` is not a number.
        ValueError: ``margin`` is not finite, or requires grad.

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
    is the same. float16 and bfloat16 inputs give a float32 loss, under autocast too. Of a batch of one class, an error
    in torchreid, the loss is NaN on CUDA and under ``torch.compile`` and ``torch.export``: to ask for the error would
    wait for the device, or break the graph.

    Source: https://github.com/KaiyangZhou/deep-person-reid; A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet
    Loss for Person Re-Identification", 2017, https://arxiv.org/abs/1703.07737.
    """

    def __init__(self, margin: Margin = 0.3) -> None:
        super().__init__()
        self.margin = margin_of(margin)

    @torch.jit.unused  # a model that holds one can be scripted, though what is here cannot
    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar.

        Args:
            inputs: [N, D] features.
            targets: [N] or [N, 1] classes, of any dtype, compared with ``==``.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a wrong shape, dtype or device; or the batch has one class alone, so that no anchor has a
                negative: on the CPU, outside of ``torch.compile``.
        """
        targets, count = label_vector("targets", targets, "inputs", inputs), inputs.shape[0]
        alone = one_class(targets)
        if not torch.compiler.is_compiling() and (count == 0 or (targets.device.type == "cpu" and bool(alone))):
            raise ValueError(f"targets must have two classes at least; got one class in {count} rows")
        mined = functional.mine_batch_hard(inputs, targets, distance="euclidean")
        rows = widened(inputs)
        nearby = _distances(rows, mined.positives)  # an anchor without a positive is its own
        apart = _distances(rows, mined.negatives)
        loss = torch.relu(nearby - apart + margin_of(self.margin)).mean()
        return loss * torch.where(alone, torch.nan, 1.0)  # the gradient too

    def extra_repr(self) -> str:
        return f"margin={self.margin}"


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """Distances [N] of rows [N, D] to those at ``others`` [N], or to themselves where that is -1, at least FLOOR."""
    anchors = torch.arange(rows.shape[0], device=rows.device)
    chosen = rows.index_select(0, torch.where(others < 0, anchors, others))
    return pair_distances(rows, chosen, "euclidean").clamp_min(FLOOR)
