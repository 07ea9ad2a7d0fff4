"""Retrieval metrics of a module's embeddings at the end of Lightning's validation and test epochs.

Importing this module imports ``lightning`` or ``pytorch_lightning``, or both where both are installed: the callback
is then one of either.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fasttriplet.check import check_bool
from fasttriplet.distributed.group import Group
from fasttriplet.retrieval.evaluation import checked_names, named
from fasttriplet.retrieval.evaluator import RetrievalEvaluator
from fasttriplet.retrieval.metrics import RetrievalMetrics


def _callbacks() -> list[type]:
    """The class of each that can be imported; their trainers look for methods and seldom at the class."""
    found: list[type] = []
    errors = []
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            found.append(importlib.import_module(name).Callback)
        except ImportError as error:
            errors.append(str(error))
    if not found:
        raise ImportError(
            "fasttriplet.compat.lightning needs lightning or pytorch-lightning 2.4 or later (pip install lightning); "
            f"importing them says: {'; '.join(errors)}"
        )
    return list(dict.fromkeys(found))


if TYPE_CHECKING:
    _Callback = Any
else:
    _Callback = type("_Callback", tuple(_callbacks()), {})

#: What a step's output, or what ``embed`` gives, may hold.
_KEYS = ("embeddings", "labels", "sample_ids", "groups")


class RetrievalCallback(_Callback):
    """Evaluates what a ``LightningModule`` embeds in an epoch of validation or test, and logs the metrics.

    ``validation_step`` and ``test_step`` return a dict with ``"embeddings"`` [N, D] and ``"labels"`` [N], and if wanted
    ``"sample_ids"`` and ``"groups"`` [N]; or ``embed`` makes one of a batch. At the end of the epoch metrics are
    logged, as ``"val/hit_rate@1"`` and ``"test/map_at_r"``. Several loaders are evaluated each by itself, and the names
    end in ``"/loader_1"`` and so on; with ``gallery`` one of them is what all others are searched in.
    ``ModelCheckpoint(monitor="val/map_at_r", mode="max")`` keeps the best.

    With several processes the rows of all are evaluated together, by whichever backend the strategy has. Lightning's
    sampler gives some samples to two ranks; give ``"sample_ids"``, as the index in the data set, so that each counts
    once.

    Args:
        embed: called as ``embed(pl_module, batch)`` after each step, without gradients and outside of autocast; gives a
            dict as above in place of the step's. Default None: what the step returned.
        metrics: names of those to log, as ``"hit_rate@1"``. Default None: all of
            :meth:`fasttriplet.retrieval.RetrievalMetrics.as_dict` but ``"cmc@k"``.
        gallery: which loader's rows are the references of all other loaders'. Default None: each loader's rows are
            searched in themselves.
        evaluator: :class:`fasttriplet.retrieval.RetrievalEvaluator` with the options wanted, of which each loader gets
            a copy; one with a ``process_group`` of its own keeps it. Default None: one with the defaults.
        prog_bar: whether to show the metrics in the progress bar. Default false.

    Attributes:
        results: what was found last, :class:`fasttriplet.retrieval.RetrievalMetrics` by ``"val"`` or ``"test"`` and
            the loader's index: in float64, and with all that is not logged.

    Raises:
        ImportError: where this module is imported without Lightning.
        TypeError: an argument is of the wrong type, or a step gives no dict.
        ValueError: an argument has a wrong value, or a step's dict lacks embeddings or labels.

    Example:
        >>> from fasttriplet.compat.lightning import RetrievalCallback
        >>> from fasttriplet.retrieval import RetrievalEvaluator
        >>> callback = RetrievalCallback(
        ...     embed=lambda module, batch: {"embeddings": module(batch[0]), "labels": batch[1]},
        ...     metrics=("hit_rate@1", "map_at_r"),
        ...     evaluator=RetrievalEvaluator(distance="cosine", device="cpu"),
        ... )
        >>> # lightning.pytorch.Trainer(callbacks=[callback]).fit(module, train_loader, val_loader)
    """

    def __init__(
        self,
        embed: Callable[[Any, Any], Mapping[str, Tensor]] | None = None,
        *,
        metrics: Sequence[str] | None = None,
        gallery: int | None = None,
        evaluator: RetrievalEvaluator | None = None,
        prog_bar: bool = False,
    ) -> None:
        super().__init__()
        self.embed = embed
        if gallery is not None and (type(gallery) is not int or gallery < 0):
            raise ValueError(f"gallery must be the index of a loader, 0 or more, or None; got {gallery!r}")
        self.gallery = gallery
        self.evaluator = RetrievalEvaluator() if evaluator is None else evaluator
        self.metrics = checked_names(metrics, self.evaluator.options)
        self.prog_bar = check_bool("prog_bar", prog_bar)
        self.results: dict[tuple[str, int], RetrievalMetrics] = {}
        self._rows: list[RetrievalEvaluator] = []  # by loader

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._rows = []

    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._rows = []

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._add(pl_module, "validation_step", outputs, batch, dataloader_idx)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._add(pl_module, "test_step", outputs, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._evaluate(trainer, pl_module, "test")

    def _add(self, pl_module: Any, step: str, outputs: Any, batch: Any, loader: int) -> None:
        """The rows of a batch, to those of its loader."""
        source = step if self.embed is None else "embed"
        told = outputs if self.embed is None else self.embed(pl_module, batch)
        if not isinstance(told, Mapping):
            raise TypeError(f"{source} must give a dict with 'embeddings' and 'labels'; got {type(told).__name__}")
        missing = [name for name in _KEYS[:2] if name not in told]
        if missing:
            raise ValueError(
                f"{source} must give a dict with 'embeddings' and 'labels'; got none for {' and '.join(missing)}, but "
                f"{', '.join(map(repr, told)) or 'nothing'}"
            )
        self._rows_of(loader).update(**{name: told[name] for name in _KEYS if name in told})

    def _rows_of(self, loader: int) -> RetrievalEvaluator:
        while len(self._rows) <= loader:
            rows = copy.deepcopy(self.evaluator)
            rows.reset()
            self._rows.append(rows)
        return self._rows[loader]

    def _evaluate(self, trainer: Any, pl_module: Any, stage: str) -> None:
        process_group = self.evaluator.process_group
        if process_group is None and trainer.world_size > 1:
            process_group = torch.distributed.group.WORLD
        loaders, gallery = len(self._rows), self.gallery
        found_in = 0 if gallery is None or gallery >= loaders else len(self._rows[gallery])
        if process_group is not None:  # a rank may have had no batch of some
            counts = Group(process_group).numbers([loaders, found_in])
            loaders, found_in = max(count for count, _ in counts), sum(count for _, count in counts)
        self._rows_of(max(loaders, 1) - 1)
        evaluated = [loader for loader in range(len(self._rows)) if loader != gallery]
        if gallery is not None and (found_in == 0 or not evaluated):
            raise ValueError(
                f"gallery must be the index of one of several loaders, with rows; got {gallery} of {len(self._rows)} "
                f"loaders, with {found_in} rows"
            )
        for loader in evaluated:
            rows = self._rows[loader]
            rows.process_group = process_group
            if gallery is not None:
                rows._references = self._rows[gallery]._queries  # which need not be there twice
            found = rows.compute()
            if not trainer.sanity_checking:
                self.results[stage, loader] = found
            behind = f"/loader_{loader}" if len(evaluated) > 1 else ""
            pl_module.log_dict(
                {f"{stage}/{name}{behind}": value for name, value in named(found, self.metrics).items()},
                prog_bar=self.prog_bar,
                add_dataloader_idx=False,
                sync_dist=trainer.world_size > 1,  # the same everywhere; Lightning warns of what it has not averaged
            )
        self._rows = []
