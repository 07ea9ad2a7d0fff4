"""The public functions: they check their arguments, name the options' codes and call the operators.

- :mod:`~fasttriplet.functional.batch_hard`: the farthest positive and the nearest negative of every anchor.
- :mod:`~fasttriplet.functional.semi_hard`, :mod:`~fasttriplet.functional.easy_positive`,
  :mod:`~fasttriplet.functional.k_hardest`: the other miners and the losses of what they mine.
- :mod:`~fasttriplet.functional.dense`: losses of all pairs, batch-all and weighted.
- :mod:`~fasttriplet.functional.triplet_margin`: the loss of explicit triplets.
- ``fasttriplet.functional._loss``: from a batch and a miner to the loss, the same for all that choose triplets.
"""

from fasttriplet.functional.batch_hard import batch_hard_triplet_loss, mine_batch_hard
from fasttriplet.functional.dense import batch_all_triplet_loss, weighted_triplet_loss
from fasttriplet.functional.easy_positive import easy_positive_triplet_loss, mine_easy_positive
from fasttriplet.functional.k_hardest import k_hardest_triplet_loss, mine_k_hardest
from fasttriplet.functional.semi_hard import mine_semi_hard, semi_hard_triplet_loss
from fasttriplet.functional.triplet_margin import triplet_margin_loss

__all__ = [
    "batch_all_triplet_loss",
    "batch_hard_triplet_loss",
    "easy_positive_triplet_loss",
    "k_hardest_triplet_loss",
    "mine_batch_hard",
    "mine_easy_positive",
    "mine_k_hardest",
    "mine_semi_hard",
    "semi_hard_triplet_loss",
    "triplet_margin_loss",
    "weighted_triplet_loss",
]
