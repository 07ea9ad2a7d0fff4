"""Queries and candidates that the libraries' metrics are compared on, and their order by brute force in float64.

Rows of small integers have distances without rounding in float32, however they are computed, and those of
``INTEGERS`` are drawn until no query has a positive and a negative equally far: there is then one right answer, and
all must give it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from examples.resnet50.datasets import default_root, read_dataset
from fasttriplet.check import DISTANCES
from fasttriplet.retrieval import RetrievalMetrics, nearest, retrieval_metrics
from fasttriplet.retrieval.metrics import query_batch
from fasttriplet.retrieval.ranks import Ranks, ranks_of

#: Ranks asked about; there are never as many candidates as the last.
AT = (1, 2, 5, 10, 1000)
#: How many of each class there are: one alone has no positive.
SIZES = (1, 1, 2, 2, 3, 5, 8, 13, 21)


def _average_precision(hits: np.ndarray) -> float:
    """Of a whole ranking, hits [ranked candidates]; NaN without any."""
    ranks = np.flatnonzero(hits) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean()) if len(ranks) else float("nan")


class Case(NamedTuple):
    """Q queries and M candidates, of integer labels."""

    queries: Tensor  # [Q, D]
    labels: Tensor  # [Q]
    references: Tensor | None = None  # [M, D]; None: the queries
    ref_labels: Tensor | None = None  # [M]
    includes_queries: bool = False  # the first Q references are the queries
    cameras: Tensor | None = None  # [Q]; candidates of the query's label and camera are junk
    ref_cameras: Tensor | None = None  # [M]
    distance: str = "euclidean"

    @property
    def candidates(self) -> Tensor:
        return self.queries if self.references is None else self.references

    @property
    def candidate_labels(self) -> Tensor:
        return self.labels if self.ref_labels is None else self.ref_labels

    @property
    def holds_queries(self) -> bool:
        """Whether candidate i is query i, which is not to find itself."""
        return self.references is None or self.includes_queries

    @property
    def pairing(self) -> dict[str, Any]:
        """What fasttriplet is told."""
        told = {"ref_embeddings": self.references, "ref_labels": self.ref_labels}
        told |= {"groups": self.cameras, "ref_groups": self.ref_cameras}
        if self.includes_queries:
            told["self_indices"] = torch.arange(len(self.queries))
        return {name: value for name, value in told.items() if value is not None}

    def same(self) -> np.ndarray:
        """[Q, M]: of one label."""
        return (self.labels[:, None] == self.candidate_labels).numpy()

    def ranked(self) -> np.ndarray:
        """[Q, M]: whether a candidate has a rank: not the query itself, and no junk."""
        ranked = np.ones((len(self.queries), len(self.candidates)), dtype=bool)
        if self.holds_queries:
            ranked[np.arange(len(self.queries)), np.arange(len(self.queries))] = False
        if self.cameras is not None:
            cameras = self.cameras if self.ref_cameras is None else self.ref_cameras
            ranked &= ~(self.same() & (self.cameras[:, None] == cameras).numpy())
        return ranked

    def relevant(self) -> np.ndarray:
        """[Q, M]: ranked, and of the query's label."""
        return self.same() & self.ranked()

    def distances(self) -> np.ndarray:
        """[Q, M] in float64 by the definition; squared of euclidean ones, which order alike."""
        x, y = self.queries.double().numpy(), self.candidates.double().numpy()
        if self.distance == "euclidean":
            return np.stack([((row - y) ** 2).sum(1) for row in x])
        if self.distance == "cosine":
            x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, y))
        return -np.stack([y @ row for row in x])

    def order(self, distances: np.ndarray | None = None) -> list[np.ndarray]:
        """Of each query the ranked candidates, nearest first, ties by index; by float64 unless by others' distances."""
        distances = self.distances() if distances is None else distances
        orders = np.argsort(distances, axis=1, kind="stable")
        return [order[ranked[order]] for order, ranked in zip(orders, self.ranked(), strict=True)]

    def precisions(self, orders: Sequence[np.ndarray]) -> np.ndarray:
        """[Q]: the average precision of each query by rankings of all its candidates; NaN without a positive."""
        return np.array([_average_precision(hits[order]) for hits, order in zip(self.relevant(), orders, strict=True)])


@cache
def ours(case: Case, at: tuple[int, ...] | range = AT, **options: Any) -> RetrievalMetrics:
    return retrieval_metrics(case.queries, case.labels, at=at, distance=case.distance, **options, **case.pairing)


@cache
def ours_of_queries(case: Case, at: tuple[int, ...] | range = AT) -> Ranks:
    """The counts of every query, those without a positive too."""
    batch = query_batch("retrieval_metrics", case.queries, case.labels, case.pairing)
    return ranks_of(batch, DISTANCES.index(case.distance), at)


@cache
def our_order(case: Case) -> list[np.ndarray]:
    """As ``case.order()``, by fasttriplet's neighbours. Junk, which depends on labels, is taken out afterwards."""
    own = torch.arange(len(case.queries)) if case.includes_queries else None
    found = nearest(
        case.queries, case.references, len(case.candidates), distance=case.distance, self_indices=own
    ).indices.numpy()
    ranked = case.ranked()
    rows = (order[order >= 0] for order in found)
    return [order[ranked[query, order]] for query, order in enumerate(rows)]


def _drawn(seed: int, sizes: Sequence[int], d: int, spread: int = 120) -> tuple[Tensor, Tensor]:
    """Integer rows around a centre for each class, in no order; squared distances stay below 2^22, and so does every
    term of |x|^2 + |y|^2 - 2 x.y: neither these nor, in float32, their roots coincide by rounding."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randint(-100, 101, (len(sizes), d), generator=generator)
    noise = torch.randint(-spread, spread + 1, (len(labels), d), generator=generator)
    return (centres[labels] + noise).float(), labels


def _unambiguous(case: Case) -> bool:
    """Whether no query is equally far from a positive and a negative."""
    relevant, distances = case.relevant(), case.distances()
    for query, order in enumerate(case.order()):
        values, hits = distances[query, order], relevant[query, order]
        if ((values[1:] == values[:-1]) & (hits[1:] != hits[:-1])).any():
            return False
    return True


def _among_themselves(seed: int) -> Case:
    return Case(*_drawn(seed, SIZES, 8))


def _with_copies(seed: int) -> Case:
    """Every row of the larger classes three times: positives that are equally far, and rows at distance 0."""
    rows, labels = _drawn(seed, SIZES, 8)
    copied = (labels > 4).nonzero().squeeze(1).repeat(2)
    return Case(torch.cat([rows, rows[copied]]), torch.cat([labels, labels[copied]]))


def _gallery(seed: int) -> Case:
    """Some labels are among the queries alone, some among the references alone."""
    rows, labels = _drawn(seed, [2 * size for size in SIZES], 8)
    case = Case(rows[:40], labels[:40], rows[40:], labels[40:])
    return case._replace(labels=torch.where(case.labels == 5, 100, case.labels))


def _gallery_with_queries(seed: int) -> Case:
    rows, labels = _drawn(seed, SIZES, 8)
    return Case(rows[:35], labels[:35], rows, labels, includes_queries=True)


def _products(seed: int) -> Case:
    return _gallery(seed)._replace(distance="inner_product")


def _cameras(seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)
    case = _gallery(seed)
    cameras = torch.randint(0, 3, (len(case.queries) + len(case.candidates),), generator=generator)
    return case._replace(cameras=cameras[: len(case.queries)], ref_cameras=cameras[len(case.queries) :])


INTEGERS: dict[str, Callable[[int], Case]] = {
    "among themselves": _among_themselves,
    "with copies": _with_copies,
    "gallery": _gallery,
    "gallery with the queries": _gallery_with_queries,
    "inner product": _products,
    "cameras": _cameras,
}


@cache
def integers(name: str) -> Case:
    return next(case for case in map(INTEGERS[name], itertools.count()) if _unambiguous(case))


@cache
def digits(name: str = "unit") -> Case:
    """scikit-learn's digits, 100 queries and 250 other candidates [.., 64]: of length 1, or as ``"pixels"`` 0 to 16."""
    from sklearn.datasets import load_digits  # here: importing scikit-learn takes a second

    data = load_digits()
    rows, labels = torch.from_numpy(data.data).float()[:350], torch.from_numpy(data.target).long()[:350]
    if name == "unit":
        rows = torch.nn.functional.normalize(rows)
    return Case(rows[:100], labels[:100], rows[100:], labels[100:])


@cache
def clusters() -> Case:
    """Tight classes far from the origin, as of a network whose outputs are all positive: few digits are left."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(350) % 35
    centres = torch.randn(35, 32, generator=generator, dtype=torch.float64)
    rows = 6 + 0.02 * centres[labels] + 0.03 * torch.randn(350, 32, generator=generator, dtype=torch.float64)
    return Case(rows[:100].float(), labels[:100], rows[100:].float(), labels[100:])


def images(name: str) -> Case:
    """Of ``"mnist"`` or ``"omniglot"``, or a skip where that is not present: 28 x 28 grey values, of length 1."""
    root = default_root(name)
    if root is None:
        pytest.skip(f"no {name} in $FASTTRIPLET_DATA nor in ../shared/data beside the repository")
    return _images(name)


@cache
def _images(name: str) -> Case:
    test = read_dataset(name, None, 28).test
    chosen = test.subset(torch.randperm(len(test.labels), generator=torch.Generator().manual_seed(0))[:300])
    rows = torch.nn.functional.normalize(chosen.images(slice(None)).flatten(1))
    return Case(rows[:60], chosen.labels[:60], rows[60:], chosen.labels[60:])


REAL: dict[str, Callable[[], Case]] = {
    "digits": digits,
    "pixels": lambda: digits("pixels"),
    "clusters": clusters,
}
#: Of images that are read where they are present.
IMAGES = ("mnist", "omniglot")
