"""Verification: whether two rows are of one class, decided by a threshold of their distance.

The curve has a point for every distinct distance of the pairs looked at. Counts are integers throughout, so that no sum
depends on an order.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import Unpack

from fasttriplet.arguments import takes, told
from fasttriplet.check import DISTANCES, ROW_DTYPES, check_choice, check_dense
from fasttriplet.retrieval.metrics import QueryPairing, query_batch, refuse_nonfinite
from fasttriplet.retrieval.pairs import Pairs, checked_pairs, checked_seed, distances_of
from fasttriplet.trip import away, there_and_back


class VerificationMetrics(NamedTuple):
    """How well a threshold tells pairs of one class from others, float64. A pair is accepted at distance <= threshold.

    FAR is the share of negative pairs that are accepted, TAR that of positive pairs, FRR = 1 - TAR. NaN where there is
    no pair of the kind that is needed.

    Attributes:
        far: [T], ascending, at each of ``thresholds``.
        tar: [T], ascending.
        thresholds: [T], ascending: -inf, at which nothing is accepted, and every distinct distance looked at.
        tar_at_far: [F], for each of ``fars`` the largest TAR at a threshold whose FAR is not above it. No
            interpolation: below 1 / negative pairs it is the TAR at which no negative pair is accepted.
        thresholds_at_far: [F], the smallest threshold with that TAR.
        equal_error_rate: [], FAR where it equals FRR, on a straight line between the last point of the curve with FAR
            below FRR and the next one.
        equal_error_threshold: [], the threshold of that next one: the smallest at which FAR >= FRR.
        auc: [], area under TAR over FAR: how often a positive pair is nearer than a negative one, ties counting half.
        best_accuracy: [], the largest share of all pairs looked at that is decided rightly, as LFW reports it for as
            many positive as negative pairs; of the same pairs that the threshold is chosen by, hence optimistic.
        best_accuracy_threshold: [], the smallest threshold with that.
        fars: those asked for.
        positive_pairs: how many there are.
        negative_pairs: how many there are.
        sampled_positives: how many were looked at: all, or so many drawn with replacement.
        sampled_negatives: how many were looked at.
    """

    far: Tensor
    tar: Tensor
    thresholds: Tensor
    tar_at_far: Tensor
    thresholds_at_far: Tensor
    equal_error_rate: Tensor
    equal_error_threshold: Tensor
    auc: Tensor
    best_accuracy: Tensor
    best_accuracy_threshold: Tensor
    fars: tuple[float, ...]
    positive_pairs: int
    negative_pairs: int
    sampled_positives: int
    sampled_negatives: int

    def as_dict(self) -> dict[str, float]:
        """By name, as a logger takes them: ``"tar@far=0.001"``, ``"threshold@far=0.001"``, ``"auc"``, ...; no curve."""
        found: dict[str, float] = {}
        for name, values in (("tar", self.tar_at_far), ("threshold", self.thresholds_at_far)):
            found |= {f"{name}@far={far:g}": float(x) for far, x in zip(self.fars, values.tolist(), strict=True)}
        rest = ("equal_error_rate", "equal_error_threshold", "auc", "best_accuracy", "best_accuracy_threshold")
        counts = ("positive_pairs", "negative_pairs", "sampled_positives", "sampled_negatives")
        return found | {name: float(getattr(self, name)) for name in (*rest, *counts)}


@torch.no_grad()
@takes(QueryPairing)
def verification_metrics(
    embeddings: Tensor,
    labels: Tensor,
    *,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    distance: str = "euclidean",
    pairs: int | None = 1_000_000,
    seed: int = 0,
    on_nonfinite: str = "error",
    groups_exclude: str = "positives",
    **pairing: Unpack[QueryPairing],
) -> VerificationMetrics:
    """ROC curve, TAR at FAR, equal error rate, AUC and best accuracy of pairs, from embeddings or from distances.

    The pairs are those of the rows, each once, or with ``ref_embeddings`` those of rows and references. Their distances
    are those of float64 arithmetic.

    Args:
        embeddings: [N, D] float64, float32, float16 or bfloat16, any strides; or the distances [T] of given pairs, the
            smaller the likelier of one class: pass ``-similarities`` of similarities.
        labels: [N] of any integer dtype or bool, equal ones make a positive pair; or [N, C] bool, several a row. Of
            distances [T] bool, whether a pair is positive.
        fars: rates from 0 to 1, distinct. Default (0.1, 0.01, 0.001, 0.0001).
        distance: ``"euclidean"``, ``"squared_euclidean"``, ``"cosine"`` or ``"inner_product"``. Of embeddings, as what
            follows.
        pairs: how many positive and how many negative pairs to look at where there are more: these are drawn uniformly,
            with replacement. A FAR needs a multiple of 1 / FAR negative ones. Some 300 bytes of memory a pair. Default
            1,000,000. None: all there are.
        seed: of that draw, at least 0 and below 2^63. Default 0.
        on_nonfinite: what becomes of rows with a NaN or infinite entry that are neither ignored nor masked.
            ``"error"``: ``ValueError``. ``"skip"``: as if they were not there.
        groups_exclude: with ``groups``, what rows of equal group never are to each other. ``"positives"``, the
            default: of one label no pair, of different labels negatives. ``"pairs"``: pairs at all.
        **pairing: who pairs with whom: :class:`fasttriplet.retrieval.metrics.QueryPairing`.

    Returns:
        :class:`VerificationMetrics`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a wrong shape, dtype, device or value, or distances or, with ``on_nonfinite="error"``, rows that are
            not finite.

    Example:
        >>> import torch
        >>> from fasttriplet.retrieval import verification_metrics
        >>> found = verification_metrics(torch.tensor([[0.0], [1.0], [3.0], [4.0]]), torch.tensor([0, 0, 1, 1]))
        >>> found.auc.item(), found.equal_error_rate.item(), found.thresholds_at_far.tolist()
        (1.0, 0.0, [1.0, 1.0, 1.0, 1.0])
        >>> distances, same = torch.tensor([0.2, 0.6, 0.4, 0.9]), torch.tensor([True, True, False, False])
        >>> verification_metrics(distances, same, fars=(0.5, 0.0)).tar_at_far.tolist()
        [1.0, 0.5]

    Source: T. Fawcett, "An introduction to ROC analysis", 2006, for curve and AUC; A. K. Jain, A. Ross, S. Prabhakar,
    "An Introduction to Biometric Recognition", 2004, for the rates; G. B. Huang et al., "Labeled Faces in the Wild: A
    Database for Studying Face Recognition in Unconstrained Environments", 2007, for the accuracy.
    """
    if away(embeddings):
        return there_and_back(verification_metrics, locals())
    rates = _checked_fars(fars)
    if isinstance(embeddings, Tensor) and embeddings.dim() == 1:
        for name, value in told("verification_metrics", pairing, QueryPairing).items():
            raise ValueError(
                f"{name} must be None where embeddings are the distances [T] of given pairs; got {type(value).__name__}"
            )
        distances, same = _checked_distances(embeddings, labels)
        positives, negatives = distances[same], distances[~same]
        return _metrics(positives, negatives, rates, len(positives), len(negatives))
    code = check_choice("distance", distance, DISTANCES)
    most, start = checked_pairs(pairs), checked_seed(seed)
    check_choice("on_nonfinite", on_nonfinite, ("error", "skip"))
    batch = query_batch("verification_metrics", embeddings, labels, pairing, groups_exclude)
    if on_nonfinite == "error":
        refuse_nonfinite(batch, ("skip",))
    eligible = Pairs(batch)
    found = []
    for positive in (True, False):
        pieces = list(distances_of(batch, eligible.looked_at(positive, most, start), code))
        found.append(torch.cat(pieces) if pieces else batch.embeddings.new_zeros(0, dtype=torch.float64))
        if not found[-1].isfinite().all():
            raise ValueError("embeddings must have distances that float64 holds; got some that overflow it")
    return _metrics(found[0], found[1], rates, eligible.count(True), eligible.count(False))


def _checked_fars(fars: object) -> tuple[float, ...]:
    if not isinstance(fars, Sequence) or isinstance(fars, str):
        raise TypeError(f"fars must be a sequence of real numbers, as (0.01, 0.001); got {type(fars).__name__}")
    for place, far in enumerate(fars):
        if isinstance(far, bool) or not isinstance(far, Real):
            raise TypeError(f"fars[{place}] must be a real number; got {type(far).__name__}")
        if not 0 <= float(far) <= 1:
            raise ValueError(f"fars[{place}] must be at least 0 and at most 1; got {far}")
    rates = tuple(map(float, fars))
    if len(set(rates)) != len(rates):
        raise ValueError(f"fars must hold distinct rates; got {list(rates)}")
    return rates


def _checked_distances(distances: Tensor, labels: object) -> tuple[Tensor, Tensor]:
    """[T] float64 and [T] bool."""
    check_dense("embeddings", distances)
    check_dense("labels", labels)
    assert isinstance(labels, Tensor)
    if distances.dtype not in ROW_DTYPES:
        raise ValueError(
            f"embeddings must have dtype float64, float32, float16 or bfloat16, also where they are distances [T]; got "
            f"{distances.dtype}"
        )
    if labels.dtype != torch.bool or labels.shape != distances.shape:
        raise ValueError(
            f"labels must be bool {list(distances.shape)} where embeddings are distances {list(distances.shape)}, "
            f"whether each is of a positive pair; got {labels.dtype} {list(labels.shape)}"
        )
    if labels.device != distances.device:
        raise ValueError(f"labels must be on the device of embeddings, {distances.device}; got {labels.device}")
    wrong = ~distances.isfinite()
    if wrong.any():
        raise ValueError(
            f"embeddings must be finite where they are distances; got {int(wrong.sum())} of {len(wrong)} that are not, "
            f"the first at index {int(wrong.int().argmax())}"
        )
    return distances.detach().double(), labels


def _metrics(
    positives: Tensor, negatives: Tensor, fars: tuple[float, ...], positive_pairs: int, negative_pairs: int
) -> VerificationMetrics:
    """Of finite distances [P] and [K] float64."""
    thresholds, accepted = _accepted(positives, negatives)
    tars, rates = (each / (each[-1:] if int(each[-1]) else torch.nan) for each in accepted.double())
    tar_at_far, thresholds_at_far = _at_fars(rates, tars, thresholds, fars)
    equal_error_rate, equal_error_threshold = _equal_error(accepted, thresholds)
    best_accuracy, best_accuracy_threshold = _best_accuracy(accepted, thresholds)
    return VerificationMetrics(
        far=rates,
        tar=tars,
        thresholds=thresholds,
        tar_at_far=tar_at_far,
        thresholds_at_far=thresholds_at_far,
        equal_error_rate=equal_error_rate,
        equal_error_threshold=equal_error_threshold,
        auc=_area(accepted),
        best_accuracy=best_accuracy,
        best_accuracy_threshold=best_accuracy_threshold,
        fars=fars,
        positive_pairs=positive_pairs,
        negative_pairs=negative_pairs,
        sampled_positives=len(positives),
        sampled_negatives=len(negatives),
    )


def _accepted(positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Thresholds [T], -inf and all distinct distances, and how many of either kind each accepts, [2, T] int64."""
    distances, which = torch.cat([positives, negatives]).unique(return_inverse=True)
    kinds = which.split([len(positives), len(negatives)])
    counts = torch.stack([torch.bincount(each, minlength=len(distances)) for each in kinds])
    thresholds = torch.cat([distances.new_full((1,), -torch.inf), distances])
    return thresholds, torch.nn.functional.pad(counts, (1, 0)).cumsum(1)


def _at_fars(rates: Tensor, tars: Tensor, thresholds: Tensor, fars: Sequence[float]) -> tuple[Tensor, Tensor]:
    if bool(rates[-1].isnan()) or bool(tars[-1].isnan()):
        none = thresholds.new_full((len(fars),), torch.nan)
        return none, none
    last = torch.searchsorted(rates, rates.new_tensor(fars), right=True) - 1  # the first rate is 0
    found = tars[last]
    return found, thresholds[torch.searchsorted(tars, found)]


def _equal_error(accepted: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Between the last point with FAR below FRR, as the first one is, and the next, as the last one is."""
    positives, negatives = accepted
    of_positives, of_negatives = accepted[:, -1].tolist()
    if not of_positives or not of_negatives:
        return (thresholds.new_full((), torch.nan),) * 2
    # FAR - FRR times both numbers of pairs: of integers, so that equal rates are equal.
    above = negatives * of_positives + (positives - of_positives) * of_negatives
    k = int((above < 0).sum())
    share = -above[k - 1].double() / (above[k] - above[k - 1])
    return (negatives[k - 1] + share * (negatives[k] - negatives[k - 1])) / of_negatives, thresholds[k]


def _area(accepted: Tensor) -> Tensor:
    """By trapezia, twice as large in integers: exact up to some 10^18 pairs of pairs."""
    positives, negatives = accepted
    twice = ((negatives[1:] - negatives[:-1]) * (positives[1:] + positives[:-1])).sum()
    return twice.double() / 2 / (positives[-1].double() * negatives[-1].double())


def _best_accuracy(accepted: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    positives, negatives = accepted
    right = positives + (negatives[-1] - negatives)
    best = right.amax()
    total = accepted[:, -1].sum()
    if int(total) == 0:
        return (thresholds.new_full((), torch.nan),) * 2
    return best.double() / total, thresholds[int((right == best).int().argmax())]
