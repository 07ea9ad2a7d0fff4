"""fast-reid's ``triplet_loss``: change the import, keep the rest.

fast-reid's formulas: the anchor itself counts as a positive, and all anchors count in the mean. With hard mining an
anchor without a negative has the loss 0, with weighted mining its negative is at distance 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fasttriplet import functional
from fasttriplet.check import check_bool
from fasttriplet.compat._labels import label_vector
from fasttriplet.compat._margin import Margin, margin_of
from fasttriplet.compat._pairs import normalized
from fasttriplet.compat._soft_mining import soft_mined_distances
from fasttriplet.pairing import widened


def triplet_loss(embedding: Tensor, targets: Tensor, margin: Margin, norm_feat: bool, hard_mining: bool) -> Tensor:
    """Triplet loss with hard or weighted mining as fast-reid's.

    With ``hard_mining`` an anchor's positive is the farthest, its negative the nearest. Without, they are means of
    distances: of all positives, the anchor itself among them, weighted by softmax(d), and of all negatives, weighted by
    softmax(-d).

    To the sum of the negatives' weights exp(-d) fast-reid adds 1e-6, and so does this function. From distances of about
    14 on that is more than they are: the mean goes to 0, and the gradient draws negatives nearer. Features so far apart
    are better normalised (``norm_feat=True``), mined hard or given to :func:`fasttriplet.weighted_triplet_loss`, which
    adds nothing.

    Args:
        embedding: [N, D] features.
        targets: [N] or [N, 1] classes, of any dtype, compared with ``==``.
        margin: finite number, or a tensor of one that needs no gradient; from 0 downwards softplus takes the place of
            the margin.
        norm_feat: whether distances are ``2 - 2 cos`` rather than Euclidean.
        hard_mining: whether the hardest are taken rather than weighted means. Means are made in
            memory O(N * D), and are differentiable once.

    Returns:
        The loss, a scalar.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value.

    Example:
        >>> import torch
        >>> from fasttriplet.compat.fastreid import triplet_loss
        >>> embedding = torch.tensor([[0.0], [1.0], [1.2], [9.0]])
        >>> round(triplet_loss(embedding, torch.tensor([0, 0, 1, 2]), 0.3, False, True).item(), 4)
        0.325
        >>> round(triplet_loss(embedding, torch.tensor([0, 0, 1, 2]), 0.3, False, False).item(), 4)
        0.207

    Deviations:

    - Distances are exact, and 0 where two rows are equal; fast-reid's are 1e-6 at least.
    - A zero row with ``norm_feat`` is at distance 1 from all rows but zero ones, not 2. Its gradient is 0, as is that
      of a row of norm up to 1e-12, which counts as a zero row; fast-reid's is 1e12 times that of a row of norm 1.
    - Among rows at the same distance the gradient goes to the lowest index, where fast-reid splits it evenly.
    - Softplus does not overflow, so that the fallback to a margin of 0.3 is not needed.
    - fast-reid also adds 1e-6 to the sum of the positives' weights. That sum is at least 1, so it is left out here.
    - float16 and bfloat16 embeddings give a float32 loss, under autocast too, where fast-reid multiplies in half
      precision.

    Source: https://github.com/JDAI-CV/fast-reid, ``fastreid/modeling/losses/triplet_loss.py``.
    """
    value, labels = margin_of(margin), label_vector("targets", targets, "embedding", embedding)
    check_bool("hard_mining", hard_mining)
    if check_bool("norm_feat", norm_feat):  # 2 - 2 cos is the squared distance of rows of norm 1
        embedding, distance = normalized(widened(embedding)), "squared_euclidean"
    else:
        distance = "euclidean"
    if not hard_mining:
        nearby, apart = soft_mined_distances(embedding, labels, distance)
        difference = nearby - apart
        # Not torch's softplus, which is cut off at 20.
        losses = torch.relu(difference + value) if value > 0 else torch.logaddexp(difference, 0 * difference)
        return losses.mean().to(widened(embedding).dtype)
    return functional.batch_hard_triplet_loss(
        embedding,
        labels,
        margin=value,
        distance=distance,
        soft_margin=value <= 0,
        reduction="mean",
        on_missing="zero",
    )
