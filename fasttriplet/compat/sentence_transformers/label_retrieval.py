"""``LabelRetrievalEvaluator`` of labelled sentences, an evaluator for sentence-transformers. Importing this module
imports sentence-transformers.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fasttriplet.check import check_choice
from fasttriplet.compat.sentence_transformers.retrieval import DISTANCES, InformationRetrievalEvaluator, distance_of
from fasttriplet.retrieval.evaluation import Options, checked_names, metrics_of_kept, named
from fasttriplet.retrieval.kept import Kept

#: The base of all evaluators, whose place differs from version to version.
if TYPE_CHECKING:
    _Base = Any
else:
    _Base = InformationRetrievalEvaluator.__mro__[2]

logger = logging.getLogger(__name__)


class LabelRetrievalEvaluator(_Base):
    """Each sentence searches all others for those of its label: hit rate, precision, recall, MAP, MAP@R and more.

    Give it as ``evaluator=`` to ``SentenceTransformerTrainer``, or call it with a model. Sentences whose embedding is
    not finite find nothing and are not found.

    Args:
        sentences: N of them, or what else the model embeds.
        labels: N of them: integers in a tensor, an array or a sequence, or whatever can be a key of a dict.
        at: distinct ranks k, at least 1. Default (1, 5, 10).
        metrics: names of those to give, of :meth:`fasttriplet.retrieval.RetrievalMetrics.as_dict`, as
            ``"hit_rate@1"``. Default None: all but ``"cmc@k"``.
        main_metric: one of them, for choosing the best checkpoint. Default ``"map_at_r"``.
        similarity_fn_name: ``"cosine"``, ``"dot"`` or ``"euclidean"``. Default None: the model's.
        name: put before the names of the metrics. Default ``""``.
        batch_size: of sentences that are embedded together. Default 32.
        show_progress_bar: while they are embedded. Default false.
        write_csv: whether to add a line to a CSV file in ``output_path``. Default true.
        truncate_dim: columns of the embeddings to use. Default None: all.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value; or no two sentences have one label.
    """

    def __init__(
        self,
        sentences: Sequence[Any],
        labels: Any,
        *,
        at: Sequence[int] = (1, 5, 10),
        metrics: Sequence[str] | None = None,
        main_metric: str = "map_at_r",
        similarity_fn_name: str | None = None,
        name: str = "",
        batch_size: int = 32,
        show_progress_bar: bool = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.sentences = list(sentences)
        self.labels = _numbered(labels)
        if len(self.labels) != len(self.sentences):
            raise ValueError(f"labels must be {len(self.sentences)}, one a sentence; got {len(self.labels)}")
        if len(self.labels.unique()) == len(self.labels):
            raise ValueError("labels must have one that two sentences share; got none")
        self.options = Options.checked(at=at, on_nonfinite="fail", max_rank=1)
        self.metrics = checked_names(metrics, self.options)
        check_choice("main_metric", main_metric, self.metrics)
        self.main_metric, self.similarity_fn_name = main_metric, similarity_fn_name
        if similarity_fn_name is not None:
            check_choice("similarity_fn_name", similarity_fn_name, tuple(DISTANCES))
        self.name, self.batch_size, self.show_progress_bar = name, batch_size, show_progress_bar
        self.write_csv, self.truncate_dim = write_csv, truncate_dim
        self.csv_file = f"Label-Retrieval_evaluation{'_' + name if name else ''}_results.csv"
        self.csv_headers = ["epoch", "steps", *self.metrics]

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: int = -1, steps: int = -1
    ) -> dict[str, float]:
        """The metrics of a ``SentenceTransformer`` by name, as ``"dev_cosine_map_at_r"``."""
        similarity = self.similarity_fn_name or model.similarity_fn_name
        distance = distance_of(similarity, "the model's similarity")
        embeddings = model.encode(
            self.sentences,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_tensor=True,
            truncate_dim=self.truncate_dim,
        )
        labels = self.labels.to(embeddings.device)
        options = self.options._replace(distance=distance)
        found = named(metrics_of_kept(Kept(embeddings, labels, None, None), None, options), self.metrics)
        after = (
            "" if epoch == -1 else f" in epoch {epoch} after {steps} steps" if steps != -1 else f" after epoch {epoch}"
        )
        logger.info(f"Label Retrieval Evaluation of the model on the {self.name} dataset{after}:")
        for name, value in found.items():
            logger.info(f"{name}: {value:.4f}")
        if output_path is not None and self.write_csv:
            self._write(output_path, [epoch, steps, *found.values()])
        self.primary_metric = f"{similarity}_{self.main_metric}"
        metrics = {f"{similarity}_{name}": value for name, value in found.items()}
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def _write(self, output_path: str, row: list[Any]) -> None:
        os.makedirs(output_path, exist_ok=True)
        path = os.path.join(output_path, self.csv_file)
        is_new = not os.path.isfile(path)
        with open(path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.csv_headers, row] if is_new else [row])

    def get_config_dict(self) -> dict[str, Any]:
        """For the model card."""
        return {} if self.truncate_dim is None else {"truncate_dim": self.truncate_dim}


def _numbered(labels: Any) -> Tensor:
    """[N] int64, equal where labels are."""
    labels = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(label, len(numbers)) for label in labels], dtype=torch.int64)
