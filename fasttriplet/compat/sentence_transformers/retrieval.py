"""``InformationRetrievalEvaluator``: the original's with exact rankings. Importing this module imports
sentence-transformers.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fasttriplet import check
from fasttriplet.retrieval.merge import KNearest
from fasttriplet.retrieval.neighbours import Neighbours, nearest

if TYPE_CHECKING:
    _Original = Any
    tqdm: Any
    SCORE_FUNCTIONS: dict[str, Callable[[Any, Any], Tensor]]
else:
    try:
        from sentence_transformers.util import cos_sim, dot_score, euclidean_sim
        from tqdm import tqdm

        try:
            from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator as _Original
        except ModuleNotFoundError:  # before 5.4
            from sentence_transformers.evaluation import InformationRetrievalEvaluator as _Original
    except ImportError as error:
        raise ImportError(
            "InformationRetrievalEvaluator and LabelRetrievalEvaluator of fasttriplet.compat.sentence_transformers "
            "need sentence-transformers 5.1 or later (pip install sentence-transformers); importing it says: "
            f"{error}"
        ) from error
    #: The original's, by the name of the similarity.
    SCORE_FUNCTIONS = {"cosine": cos_sim, "dot": dot_score, "euclidean": euclidean_sim}

logger = logging.getLogger(__name__)

#: By the name of a similarity the distance that ranks as it does.
DISTANCES = {"cosine": "cosine", "dot": "inner_product", "euclidean": "euclidean"}

#: Of those distances the similarity.
_SIMILARITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda distances: 1 - distances,
    "inner_product": torch.neg,
    "euclidean": torch.neg,
}


class InformationRetrievalEvaluator(_Original):
    """Queries search a corpus: accuracy, precision, recall, MRR, NDCG and MAP at k.

    It is an ``InformationRetrievalEvaluator`` of sentence-transformers, with all that there is in it: arguments,
    prompts, names of metrics, logging, the CSV file, predictions, the entry in the model card. The search and the
    arithmetic of the metrics are done here. Of a query, R are its relevant documents, also those that the corpus lacks:
    precision@k is hits / k, recall@k hits / R, accuracy@k whether there is a hit, mrr@k 1 / rank of the first hit or
    0, ndcg@k divides by that of min(k, R) hits, map@k divides the sum of the precisions at hits by min(k, R). Queries
    without relevant documents are left out.

    Args: those of the original: ``queries``, ``corpus`` and ``relevant_docs``, dicts by id, and ``corpus_chunk_size``,
    ``mrr_at_k``, ``ndcg_at_k``, ``accuracy_at_k``, ``precision_recall_at_k``, ``map_at_k``, ``show_progress_bar``,
    ``batch_size``, ``name``, ``write_csv``, ``truncate_dim``, ``score_functions``, ``main_score_function``,
    ``query_prompt``, ``query_prompt_name``, ``corpus_prompt``, ``corpus_prompt_name`` and ``write_predictions``.

    Raises:
        ImportError: sentence-transformers is missing, or too old.
        ValueError: no query has a relevant document, the corpus is empty, or a score function is none of the
            original's ``cos_sim``, ``dot_score`` and ``euclidean_sim``.

    Deviations: documents are ranked as float64 arithmetic orders them, ties to the one that comes first in the corpus;
    the original ranks rounded scores, ties by the id, and before 5.3 as they come. Documents that are not finite are
    not found, and queries that are not find nothing. Other score functions, ``"manhattan"`` among them, are refused.

    Source: https://sbert.net/docs/package_reference/sentence_transformer/evaluation.html.
    """

    @functools.wraps(_Original.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not self.queries:
            raise ValueError("relevant_docs must have a document for at least one of the queries; got none")
        if not self.corpus:
            raise ValueError("corpus must have at least one document; got none")
        for name, function in (self.score_functions or {}).items():
            _distance_of(name, function)
        place = {document: place for place, document in enumerate(self.corpus_ids)}
        relevant = [self.relevant_docs[query] for query in self.queries_ids]
        self._relevant_counts = torch.tensor([len(documents) for documents in relevant])  # [Q]
        self._relevant_pairs = torch.tensor(
            [
                query * len(place) + place[document]
                for query, documents in enumerate(relevant)
                for document in documents
                if document in place
            ],
            dtype=torch.int64,
        )

    def compute_all_metrics(
        self, model: Any, corpus_model: Any = None, corpus_embeddings: Any = None, output_path: str | None = None
    ) -> dict[str, dict[str, dict[int, float]]]:
        """By the name of the score function, the metric, and k; what the original calls."""
        found = self._search(model, model if corpus_model is None else corpus_model, corpus_embeddings)
        if self.write_predictions and output_path is not None:
            self._write_predictions(found, output_path)
        logger.info(f"Queries: {len(self.queries)}")
        logger.info(f"Corpus: {len(self.corpus)}\n")
        scores = {name: self._metrics(neighbours.indices) for name, neighbours in found.items()}
        for name in self.score_function_names:
            logger.info(f"Score-Function: {name}")
            self.output_scores(scores[name])
        return scores

    #: As older versions call it.
    compute_metrices = compute_all_metrics

    def _search(self, model: Any, corpus_model: Any, corpus_embeddings: Any) -> dict[str, Neighbours]:
        """By score function the nearest documents of each query, on the CPU, the corpus a chunk at a time."""
        distances = {name: _distance_of(name, function) for name, function in self.score_functions.items()}
        most = max(max(at) for at in self._all_k())
        queries = self.embed_inputs(
            model, self.queries, encode_fn_name="query", prompt_name=self.query_prompt_name, prompt=self.query_prompt
        )
        found: dict[str, Neighbours] = {}
        begins = range(0, len(self.corpus), self.corpus_chunk_size)
        for begin in tqdm(begins, desc="Corpus Chunks", disable=not self.show_progress_bar):
            chunk = slice(begin, begin + self.corpus_chunk_size)
            if corpus_embeddings is None:
                documents = self.embed_inputs(
                    corpus_model,
                    self.corpus[chunk],
                    encode_fn_name="document",
                    prompt_name=self.corpus_prompt_name,
                    prompt=self.corpus_prompt,
                )
            else:
                documents = torch.as_tensor(corpus_embeddings[chunk]).to(queries.device)
            for name, distance in distances.items():
                some = nearest(queries, documents, min(most, len(documents)), distance=distance)
                indices = torch.where(some.indices < 0, -1, some.indices + begin)
                here = Neighbours(some.distances.cpu(), indices.cpu())
                if name in found:
                    both = KNearest(check.DISTANCES.index(distance), most)
                    here = Neighbours(*both.joined(found[name], here, 0))
                found[name] = here
        return found

    def _all_k(self) -> list[list[int]]:
        return [self.mrr_at_k, self.ndcg_at_k, self.accuracy_at_k, self.precision_recall_at_k, self.map_at_k]

    def _metrics(self, indices: Tensor) -> dict[str, dict[int, float]]:
        """By name and k, of the documents [Q, k] found, -1 where there are fewer; NaN nowhere."""
        relevant, documents = self._relevant_counts, len(self.corpus)
        pairs = torch.arange(len(indices))[:, None] * documents + indices
        hits = torch.isin(pairs, self._relevant_pairs) & (indices >= 0)  # [Q, k]
        ranks = torch.arange(1, indices.shape[1] + 1, dtype=torch.float64)
        gains = hits * hits.cumsum(1) / ranks  # precision at each hit
        discounts = 1 / (torch.arange(max(self.ndcg_at_k), dtype=torch.float64) + 2).log2()
        ideal = discounts.cumsum(0)

        def mean(k: int, of_query: Callable[[Tensor, int], Tensor]) -> float:
            return float(of_query(hits[:, :k], k).double().mean())

        def reciprocal_rank(found: Tensor, k: int) -> Tensor:
            return torch.where(found.any(1), 1 / (found.int().argmax(1) + 1).double(), 0)

        def ndcg(found: Tensor, k: int) -> Tensor:
            return (found * discounts[: found.shape[1]]).sum(1) / ideal[relevant.clamp_max(k) - 1]

        return {
            "accuracy@k": {k: mean(k, lambda found, k: found.any(1)) for k in self.accuracy_at_k},
            "precision@k": {k: mean(k, lambda found, k: found.sum(1) / k) for k in self.precision_recall_at_k},
            "recall@k": {k: mean(k, lambda found, k: found.sum(1) / relevant) for k in self.precision_recall_at_k},
            "ndcg@k": {k: mean(k, ndcg) for k in self.ndcg_at_k},
            "mrr@k": {k: mean(k, reciprocal_rank) for k in self.mrr_at_k},
            "map@k": {k: mean(k, lambda found, k: gains[:, :k].sum(1) / relevant.clamp_max(k)) for k in self.map_at_k},
        }

    def _write_predictions(self, found: Mapping[str, Neighbours], output_path: str) -> None:
        """A line of JSON a query, a file for each score function."""
        os.makedirs(output_path, exist_ok=True)
        for name, (distances, indices) in found.items():
            similarity = _SIMILARITIES[_distance_of(name, self.score_functions[name])]
            path = os.path.join(output_path, self.predictions_file.replace(".jsonl", f"_{name}.jsonl"))
            with open(path, "w", encoding="utf-8") as file:
                for query, scores, places in zip(range(len(indices)), similarity(distances), indices, strict=True):
                    results = [
                        {"corpus_id": self.corpus_ids[place], "score": score}
                        for place, score in zip(places.tolist(), scores.tolist(), strict=True)
                        if place >= 0
                    ]
                    line = {"query_id": self.queries_ids[query], "query": self.queries[query], "results": results}
                    file.write(json.dumps(line) + "\n")


def _distance_of(name: str, function: Any) -> str:
    """The distance that ranks as a score function does, one of the original's or a model's ``similarity``."""
    similarity = next((each for each, known in SCORE_FUNCTIONS.items() if function is known), function)
    model = getattr(function, "__self__", None)
    if function == getattr(model, "similarity", None):
        similarity = model.similarity_fn_name  # type: ignore[union-attr]
    return distance_of(similarity, f"score_functions[{name!r}]")


def distance_of(similarity: Any, what: str) -> str:
    """The distance that ranks as the similarity of this name does; ``what`` it is, for the error."""
    if not isinstance(similarity, str) or similarity not in DISTANCES:
        raise ValueError(
            f"{what} must be cos_sim, dot_score or euclidean_sim of sentence_transformers.util, or the similarity of a "
            f"model that has one of these; got {similarity!r}"
        )
    return DISTANCES[similarity]
