"""The operators of the portable engine by name.

``fasttriplet/schemas.py`` declares them, as ``portable_NAME`` and as the default of ``NAME`` where a device has no
kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fasttriplet.portable.batch_all import batch_all, batch_all_backward
from fasttriplet.portable.edges import triplet_distances_backward
from fasttriplet.portable.hard import batch_hard_loss, batch_hard_loss_backward, mine_batch_hard
from fasttriplet.portable.losses import triplet_losses, triplet_margin_loss, triplet_margin_loss_backward
from fasttriplet.portable.miners import mine_triplets
from fasttriplet.portable.neighbours import nearest, within
from fasttriplet.portable.ranks import retrieval_ranks
from fasttriplet.portable.semi_hard import semi_hard, semi_hard_of_triplets
from fasttriplet.portable.weighted import weighted_distances, weighted_distances_backward

OPERATORS: dict[str, Callable[..., Any]] = {
    "mine_batch_hard": mine_batch_hard,
    "batch_hard_loss": batch_hard_loss,
    "_batch_hard_loss_backward": batch_hard_loss_backward,
    "mine_triplets": mine_triplets,
    "_triplet_distances_backward": triplet_distances_backward,
    "triplet_losses": triplet_losses,
    "semi_hard": semi_hard,
    "semi_hard_of_triplets": semi_hard_of_triplets,
    "batch_all": batch_all,
    "_batch_all_backward": batch_all_backward,
    "weighted_distances": weighted_distances,
    "_weighted_distances_backward": weighted_distances_backward,
    "nearest": nearest,
    "within": within,
    "retrieval_ranks": retrieval_ranks,
    "triplet_margin_loss": triplet_margin_loss,
    "_triplet_margin_loss_backward": triplet_margin_loss_backward,
}
