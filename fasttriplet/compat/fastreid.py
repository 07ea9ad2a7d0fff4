"""fast-reid's ``triplet_loss``: change the import, keep the rest.

fast-reid's formula: the anchor itself counts as a positive; an anchor without a negative has the loss 0 and counts in
the mean over all anchors.
"""

from __future__ import annotations

from torch import Tensor

from fasttriplet import functional
from fasttriplet.check import check_bool, check_margin
from fasttriplet.compat._labels import integer_labels
from fasttriplet.compat._pairs import normalized
from fasttriplet.pairing import widened


def triplet_loss(embedding: Tensor, targets: Tensor, margin: float, norm_feat: bool, hard_mining: bool) -> Tensor:
    """Triplet loss with hard mining as fast-reid's.

    Args:
        embedding: [N, D] features.
        targets: [N] classes, of any dtype, compared with ``==``.
        margin: finite number; from 0 downwards softplus takes the place of the margin.
        norm_feat: whether distances are ``2 - 2 cos`` rather than Euclidean.
        hard_mining: must be true; the weighted mining that fast-reid has for false is not offered, see
            :func:`fasttriplet.weighted_triplet_loss`.

    Returns:
        The loss, a scalar.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``margin`` is not finite or ``hard_mining`` is false.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.fastreid import triplet_loss
        >>> embedding = torch.tensor([[0.0], [1.0], [1.2], [9.0]])
        >>> round(triplet_loss(embedding, torch.tensor([0, 0, 1, 2]), 0.3, False, True).item(), 4)
        0.325

    Deviations:

    - Distances are exact, and 0 where two rows are equal; fast-reid's are 1e-6 at least.
    - A zero row with ``norm_feat`` is at distance 1 from all rows but zero ones, not 2. Its gradient is 0, as is that
      of a row of norm up to 1e-12, which counts as a zero row; fast-reid's is 1e12 times that of a row of norm 1.
    - Among rows at the same distance the gradient goes to the lowest index, where fast-reid splits it evenly.
    - Softplus does not overflow, so that the fallback to a margin of 0.3 is not needed.
    - float16 and bfloat16 embeddings give a float32 loss, under autocast too, where fast-reid multiplies in half
      precision.

    Source: https://github.com/JDAI-CV/fast-reid, ``fastreid/modeling/losses/triplet_loss.py``.
    """
    margin = check_margin(margin)
    if not check_bool("hard_mining", hard_mining):
        raise ValueError("hard_mining must be True, for False see fasttriplet.weighted_triplet_loss; got False")
    if check_bool("norm_feat", norm_feat):  # 2 - 2 cos is the squared distance of rows of norm 1
        embedding, distance = normalized(widened(embedding)), "squared_euclidean"
    else:
        distance = "euclidean"
    return functional.batch_hard_triplet_loss(
        embedding,
        integer_labels(targets, "targets"),
        margin=margin,
        distance=distance,
        soft_margin=margin <= 0,
        reduction="mean",
        on_missing="zero",
    )
