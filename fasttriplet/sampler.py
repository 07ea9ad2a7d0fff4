"""P x K batches: P classes with K rows of each, so that every anchor has positives and negatives."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Sampler

from fasttriplet.check import check_choice, check_dense, check_ignore_index, check_integer

ON_SHORT = ("repeat", "skip", "error")


class PKSampler(Sampler[list[int]]):
    """Batches of P classes with K rows of each, for ``DataLoader(dataset, batch_sampler=PKSampler(...))``.

    Classes come in a shuffled order, each once before any comes again, and so do the rows of a class: an epoch sees
    classes equally often, and as many different rows of them as it can. Batches follow from ``seed`` and the epoch
    alone. The epoch is one more in every pass, unless :meth:`set_epoch` said which it is.

    In several processes each rank has P classes with K rows of its own, no class on two ranks in the same step where
    there are classes enough; together they are the batch of a loss with ``process_group``. Every rank makes the same
    number of batches.

    Lightning's ``Trainer`` needs ``use_distributed_sampler=False`` there, and so does Fabric's ``setup_dataloaders``:
    they would put a ``DistributedSampler`` into a batch sampler, and end with an error that says so. Both tell the
    sampler the epoch, Fabric from 0 on in every run.

    Accelerate's ``prepare``, and with it the ``Trainer`` of transformers, deals the batches of one sampler out to its
    processes in turn: give ``num_replicas=1, rank=0``. Without them each of W processes makes the batches of its own
    rank, and trains on every W-th of these alone: an epoch is W times shorter than it should be. In several processes
    a loader of ``skip_first_batches`` does not pass the epoch on: call :meth:`set_epoch` yourself.

    With workers a ``DataLoader`` asks for batches before they are trained on: what :meth:`state_dict` says is then
    ahead. To resume at a step of your own count, call ``set_epoch(epoch, batch)``.

    Args:
        labels: the class of every row of the data set, [M] of any integer dtype or bool: a tensor, an array, or what
            NumPy makes one of.
        classes_per_batch: P, at least 2, of each rank.
        samples_per_class: K, at least 2.
        batches_per_epoch: batches of each rank in one pass, at least 1. Default: as many as M rows fill, at least 1.
        seed: of the order of classes and rows, at least 0, the same on every rank. Default: 0.
        num_replicas: number of ranks. Default: those of ``torch.distributed`` when a pass begins, else 1.
        rank: which of them this is. Default: that of ``torch.distributed`` when a pass begins, else 0.
        on_short: what becomes of classes with fewer than K rows. ``"repeat"``, the default: all of their rows come, and
            some more than once, and a warning says so (``sample_ids`` of a loss keeps copies from pairing). ``"skip"``:
            they are left out. ``"error"``: they are refused.
        ignore_index: a label whose rows are left out. Default: None.

    Attributes:
        batch_size: P x K.
        num_classes: classes that batches are made of.
        short_classes: how many classes have fewer than K rows.
        epoch: the epoch of the pass that was begun last, or is about to begin.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a wrong value, or fewer than P classes are there.

    Example:
        >>> import torch
        >>> labels = torch.arange(100) // 5
        >>> sampler = PKSampler(labels, classes_per_batch=4, samples_per_class=3)
        >>> len(sampler), sampler.batch_size
        (8, 12)
        >>> first = next(iter(sampler))
        >>> labels[first].unique(return_counts=True)[1]
        tensor([3, 3, 3, 3])

    Source: A. Hermans, L. Beyer, B. Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017,
    section 2, https://arxiv.org/abs/1703.07737.
    """

    # `drop_last` is missed on purpose. With that and batch_size Lightning calls the class with other arguments than it
    # has; without, it says that `use_distributed_sampler=False` is wanted.

    def __init__(
        self,
        labels: Tensor | ArrayLike,
        classes_per_batch: int,
        samples_per_class: int,
        *,
        batches_per_epoch: int | None = None,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
        on_short: str = "repeat",
        ignore_index: int | None = None,
    ) -> None:
        self.classes_per_batch = _at_least(2, "classes_per_batch", classes_per_batch)
        self.samples_per_class = _at_least(2, "samples_per_class", samples_per_class)
        self.batch_size = self.classes_per_batch * self.samples_per_class
        self.seed = _at_least(0, "seed", seed)
        self._batches = None if batches_per_epoch is None else _at_least(1, "batches_per_epoch", batches_per_epoch)
        self._ranks = _check_ranks(rank, num_replicas)
        check_choice("on_short", on_short, ON_SHORT)

        rows, sizes = _rows_of_classes(labels, check_ignore_index(ignore_index))
        short = sizes < self.samples_per_class
        self.short_classes = int(short.sum())
        if self.short_classes:
            few = f"{self.short_classes} of {len(sizes)} classes"
            if on_short == "error":
                raise ValueError(
                    f"labels must have at least {self.samples_per_class} rows of every class, samples_per_class, where "
                    f"on_short is 'error'; got fewer of {few}"
                )
            if on_short == "skip":
                rows, sizes = rows[np.repeat(~short, sizes)], sizes[~short]
            else:
                warnings.warn(
                    f"{few} have fewer than {self.samples_per_class} rows: some of theirs come more than once in a "
                    "batch, where a copy is its own positive unless it is augmented anew or the loss is given "
                    'sample_ids; on_short="skip" leaves these classes out',
                    stacklevel=2,
                )
        self.num_classes = len(sizes)
        if self.classes_per_batch > self.num_classes:
            enough = f" of at least {self.samples_per_class} rows" if self.short_classes and on_short == "skip" else ""
            raise ValueError(
                f"classes_per_batch must be at most {self.num_classes}, the number of classes{enough} in labels; got "
                f"{classes_per_batch}"
            )
        self._rows, self._sizes = rows, sizes

        self.epoch = 0
        self._batch = 0  # of the epoch, how many were handed out
        self._begun = False  # whether a pass over the epoch was begun
        self._finished = False  # whether a state was loaded of the end of the epoch, and set_epoch not called since

    @property
    def sampler(self) -> PKSampler:
        """Itself: where trainers look for the ``set_epoch`` of a batch sampler."""
        return self

    def _rank_of(self) -> tuple[int, int]:
        """This rank, and how many there are."""
        if self._ranks is not None:
            return self._ranks
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch, also where a pass goes on in the midst of one."""
        if self._batches is not None:
            return self._batches
        return max(1, len(self._rows) // (self.batch_size * self._rank_of()[1]))

    def set_epoch(self, epoch: int, batch: int | None = None) -> None:
        """The next pass is over ``epoch``, from ``batch`` on.

        Without ``batch`` it begins at 0, but where a loaded state is of this very epoch: there it goes on, with nothing
        where that epoch was finished. So trainers may tell the epoch after a state was loaded.
        """
        epoch = _at_least(0, "epoch", epoch)
        if batch is not None:
            self._batch = _at_least(0, "batch", batch)
            if self._batch > len(self):  # perhaps a step that was counted over all epochs
                warnings.warn(f"batch {batch} is beyond the {len(self)} of an epoch: the pass is empty", stacklevel=2)
        elif self._begun or epoch != self.epoch:
            self._batch = 0
        self.epoch, self._begun, self._finished = epoch, False, False

    def state_dict(self) -> dict[str, int]:
        """``seed``, ``epoch``, ``batch``: how many of that epoch were handed out, ``finished``: whether all of them."""
        finished = self._finished or self._batch >= len(self)
        return {"seed": self.seed, "epoch": self.epoch, "batch": self._batch, "finished": finished}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next pass goes on where the sampler of :meth:`state_dict` was; a finished epoch is followed by the next.

        Batches are those it would have made where labels, arguments and the number of ranks are the same.
        """
        lacking = {"seed", "epoch", "batch", "finished"} - state.keys()
        if lacking:
            raise ValueError(f"state must be what state_dict gave; got none of its {sorted(lacking)}")
        self.seed, self.epoch, self._batch = state["seed"], state["epoch"], state["batch"]
        self._begun, self._finished = False, bool(state["finished"])

    def __iter__(self) -> Iterator[list[int]]:
        # All of it is put off until the first batch is asked for: a DataLoader with workers makes two iterators for its
        # first pass, of which one is never asked, and Lightning makes one before it tells the epoch.
        if self._begun or self._finished:
            self.epoch, self._batch = self.epoch + 1, 0
        self._begun, self._finished = True, False
        epoch, first = self.epoch, self._batch
        for number, batch in enumerate(self._epoch_batches(epoch)):
            if number < first:
                continue
            if self.epoch == epoch:  # else another pass was begun since, and it counts
                self._batch = number + 1
            yield batch.tolist()

    def _epoch_batches(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """The batches of this rank, [P * K]: each rank deals those of all, so that they need not speak."""
        rank, replicas = self._rank_of()
        rng = np.random.default_rng([self.seed, epoch])
        classes = _Decks(np.arange(self.num_classes), np.array([self.num_classes]), rng)
        rows = _Decks(self._rows, self._sizes, rng)
        together = replicas * self.classes_per_batch
        at_once = together if together <= self.num_classes else self.classes_per_batch
        for _ in range(len(self)):
            hands = [
                rows.deal(classes.deal(np.array([0]), at_once)[0], self.samples_per_class)
                for _ in range(together // at_once)
            ]  # [at_once, K] each
            yield np.concatenate(hands).reshape(replicas, -1)[rank]


class _Decks:
    """Decks of cards, each dealt in a shuffled order and shuffled anew once all are gone; many at once, in arrays.

    A hand has no card twice; one that is larger than its deck has no card two times more often than another.
    """

    def __init__(self, cards: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator) -> None:
        self._cards = cards.copy()  # [sum of sizes], deck by deck; those of a deck that are left are its last
        self._sizes = sizes  # [decks]
        self._starts = np.cumsum(sizes) - sizes
        self._left = np.zeros_like(sizes)
        self._rng = rng

    def deal(self, decks: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        """[len(decks), n]: a hand from each of ``decks``, of which none is given twice."""
        sizes, left = self._sizes[decks], self._left[decks]
        dealt = np.where(n <= sizes, n, n % sizes)  # the others of a hand are its whole deck, once or more
        column = np.arange(n)
        places = self._starts[decks, None] + (sizes[:, None] - left[:, None] + column) % sizes[:, None]
        hands = self._cards[places]
        empty = left < dealt
        if empty.any():
            self._shuffle(decks[empty])
            anew = empty[:, None] & (column >= left[:, None])
            hands[anew] = self._cards[places[anew]]
        self._left[decks] = (left - dealt) % sizes
        return hands

    def _shuffle(self, decks: NDArray[np.int64]) -> None:
        """Anew, with the cards that are left last: the hand that begins with them goes on with the first."""
        sizes = self._sizes[decks]
        deck = np.repeat(np.arange(len(decks)), sizes)
        within = np.arange(len(deck)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = np.repeat(self._starts[decks], sizes) + within
        held = within >= np.repeat(sizes - self._left[decks], sizes)
        order = np.argsort(2 * deck + held + self._rng.random(len(deck)), kind="stable")
        self._cards[places] = self._cards[places[order]]


def _at_least(least: int, name: str, value: object) -> int:
    number = check_integer(name, value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}; got {value}")
    return number


def _check_ranks(rank: object, num_replicas: object) -> tuple[int, int] | None:
    if rank is None and num_replicas is None:
        return None
    if rank is None or num_replicas is None:
        had, absent = ("num_replicas", "rank") if rank is None else ("rank", "num_replicas")
        raise ValueError(f"num_replicas and rank must be given together; got {had} and no {absent}")
    ranks = _at_least(0, "rank", rank), _at_least(1, "num_replicas", num_replicas)
    if ranks[0] >= ranks[1]:
        raise ValueError(f"rank must be below num_replicas, {num_replicas}; got {rank}")
    return ranks


def _rows_of_classes(
    labels: Tensor | ArrayLike, ignore_index: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows class by class, those of one ascending, and how many each class has, in the order of the labels."""
    if isinstance(labels, Tensor):
        check_dense("labels", labels)
        labels = labels.detach().cpu().numpy()
    array: NDArray[Any] = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"labels must have shape [M], a class for every row; got {list(array.shape)}")
    if array.size == 0:
        raise ValueError("labels must have at least one row; got none")
    if array.dtype.kind not in "iub":
        raise TypeError(
            f"labels must be integers or bool; got {array.dtype}: number them with np.unique(labels, "
            "return_inverse=True)[1]"
        )
    rows = np.argsort(array, kind="stable").astype(np.int64)
    if ignore_index is not None:
        rows = rows[array[rows] != ignore_index]
    array = array[rows]
    starts = np.flatnonzero(np.concatenate([[True], array[1:] != array[:-1]])[: len(array)])
    return rows, np.diff(starts, append=len(array))
