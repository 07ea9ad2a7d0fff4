"""The figures of an evaluation, by the names that ``fasttriplet.retrieval.RetrievalMetrics.as_dict`` gives them."""

from __future__ import annotations

#: The k of hit rate, precision, recall and MAP at k, and how far the CMC curve goes.
AT = (1, 5, 10)
RANKS = 10

#: Each between 0 and 1, the higher the better. Written down here so that ``--help`` needs no built extension.
MEASURES = (
    *(f"{name}@{k}" for name in ("hit_rate", "precision", "recall", "map") for k in AT),
    *(f"cmc@{k}" for k in range(1, RANKS + 1)),
    *("map", "map_at_r", "r_precision", "mrr", "minp"),
)
#: Those that are printed, beside the one of ``--best-by``.
PRINTED = ("hit_rate@1", "hit_rate@5", "map_at_r")

Metrics = dict[str, float]


def figures(metrics: Metrics, by: str) -> str:
    """What is printed of ``metrics``, with ``by`` among it."""
    return "   ".join(f"{name} {metrics[name]:.4f}" for name in dict.fromkeys((*PRINTED, by)))
