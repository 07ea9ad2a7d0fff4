"""Retrieval by the same engine."""

from fasttriplet.retrieval.evaluator import RetrievalEvaluator
from fasttriplet.retrieval.histograms import DistanceHistogram
from fasttriplet.retrieval.metrics import RetrievalMetrics, retrieval_metrics
from fasttriplet.retrieval.mining import HardNegatives, mine_hard_negatives
from fasttriplet.retrieval.neighbours import Neighbours, NeighboursWithin, nearest, within
from fasttriplet.retrieval.report import MiningReport
from fasttriplet.retrieval.rerank import k_reciprocal_distances, rerank_k_reciprocal
from fasttriplet.retrieval.verification import VerificationMetrics, verification_metrics

__all__ = [
    "DistanceHistogram",
    "HardNegatives",
    "MiningReport",
    "Neighbours",
    "NeighboursWithin",
    "RetrievalEvaluator",
    "RetrievalMetrics",
    "VerificationMetrics",
    "k_reciprocal_distances",
    "mine_hard_negatives",
    "nearest",
    "rerank_k_reciprocal",
    "retrieval_metrics",
    "verification_metrics",
    "within",
]
