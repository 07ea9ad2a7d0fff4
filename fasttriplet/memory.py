"""A memory of past batches, as references for any loss or miner.

The ring is neither parameter nor buffer: DistributedDataParallel broadcasts buffers, and averages of weights copy or
blend them. It moves with the module all the same and is in ``state_dict()``. What decides the shapes of results is
counted on the host, so that nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fasttriplet.check import ROW_DTYPES, check_bool, check_count, check_dense, check_rows
from fasttriplet.distributed.agreement import Statement, agreed
from fasttriplet.distributed.group import Group
from fasttriplet.distributed.held import HoldsProcessGroup
from fasttriplet.pairing import finite_rows


class References(NamedTuple):
    """The memory's side of a loss or a miner: each field is the argument of its name.

    So ``loss(x, y, **memory.references()._asdict())`` passes them all. K is the number of slots in use.
    """

    ref_embeddings: Tensor  # [K, dim], a view of the ring
    ref_labels: Tensor  # [K] int64 or [K, num_labels] bool, a view of the ring
    ref_mask: Tensor  # [K] bool: whether a row has ever been kept there
    self_indices: Tensor  # [N] int64: where each row of the batch enqueued last is, -1 where it was not kept
    ref_sample_ids: Tensor | None  # [K] int64, a view of the ring; None where batches came without
    ref_groups: Tensor | None  # [K] int64, a view of the ring; None where batches came without


class _Counters(NamedTuple):
    """What the host knows of the ring; as a tensor of integers in ``state_dict()``."""

    place: int = 0  # the slot that is written next
    filled: int = 0  # slots in use, from the first on
    step: int = 0  # batches enqueued
    sample_ids: int = 0  # 1 where batches come with them
    groups: int = 0  # 1 where batches come with them


_STATE = ("embeddings", "labels", "steps", "sample_ids", "groups", "counters")


class CrossBatchMemory(HoldsProcessGroup, nn.Module):
    """The last ``size`` embeddings and their labels, in a ring of slots: more candidates than a batch has, at no graph.

    Give it the batch first, then take the loss over it: each anchor's own copy is left out. Slots fill from the first
    on, and then the oldest is written over, so that the order of slots is not the order of age; of equal distances the
    lowest slot wins, whatever its age. :meth:`ages` tells how old each is. Past embeddings drift from what the network
    would make of those samples now: start to use them once the network changes slowly, and keep ``size`` to what a few
    hundred steps fill.

    Args:
        size: slots, at least 1.
        dim: columns of the embeddings, at least 1.
        num_labels: columns of multi-hot labels, at least 1. Default None: labels are classes.
        dtype: floating dtype of the stored embeddings, which ``.half()`` and the like leave alone. Half precision takes
            half the memory, and is widened each time it is searched. Default ``torch.float32``.
        process_group: of the processes whose batches it remembers, see :mod:`fasttriplet.arguments`. :meth:`enqueue` is
            then called by all of them, and writes the rows of all ranks, in rank order, on every rank. Default None:
            each process remembers its own.
        sharded: with a process group, each rank keeps its own rows alone, ``size`` of them: a memory ``size`` times the
            ranks large, whose references are for losses with ``ref_sharded=True``. Nothing travels at
            :meth:`enqueue`. Default false.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument has a wrong value.

    In eval mode nothing is kept.

    The ring moves with ``.to(device)`` and is in ``state_dict()`` as copies, in tensors: ``embeddings``, ``labels``,
    ``steps`` (the number of the :meth:`enqueue` that wrote the slot, -1 where none has), ``sample_ids``, ``groups`` and
    ``counters``. Only ``load_state_dict`` brings them back: writing to a state dict's tensors, as averages of weights
    do, leaves a memory as it is. Under ``DistributedDataParallel`` each process has its own memory; a checkpoint that
    one process writes has that one's, which all of them then start from. With a process group all have the same, and
    one process's checkpoint is that of all. Where it is sharded the names say whose shard it is, as
    ``embeddings_2of4``: each rank writes a file of its own, or all of them one checkpoint by
    ``torch.distributed.checkpoint``, and another rank's, or one of another number of ranks, is refused.

    Call :meth:`enqueue` and :meth:`references` outside of what ``torch.compile`` traces: the place in the ring is a
    Python integer that changes with each batch. Losses over the references may be traced.

    Example:
        >>> import torch
        >>> from fasttriplet import CrossBatchMemory, batch_hard_triplet_loss
        >>> memory = CrossBatchMemory(size=1024, dim=16)
        >>> for step in range(3):
        ...     x, y = torch.randn(8, 16, requires_grad=True), torch.arange(8) // 2
        ...     memory.enqueue(x, y)
        ...     loss = batch_hard_triplet_loss(x, y, **memory.references()._asdict())
        ...     loss.backward()
        >>> memory
        CrossBatchMemory(size=1024, dim=16, dtype=torch.float32)
        >>> len(memory)
        24

    Source: X. Wang, H. Zhang, W. Huang, M. Scott, "Cross-Batch Memory for Embedding Learning", 2020,
    https://arxiv.org/abs/1912.06798.
    """

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        num_labels: int | None = None,
        dtype: torch.dtype = torch.float32,
        process_group: object = None,
        sharded: bool = False,
    ) -> None:
        super().__init__()
        self.process_group, self.sharded = process_group, check_bool("sharded", sharded)
        if sharded and process_group is None:
            raise ValueError("process_group must be given where sharded is true; got None")
        self.size, self.dim = check_count("size", size), check_count("dim", dim)
        self.num_labels = None if num_labels is None else check_count("num_labels", num_labels)
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype; got {type(dtype).__name__}")
        if dtype not in ROW_DTYPES:
            raise ValueError(f"dtype must be float64, float32, float16 or bfloat16; got {dtype}")
        self.dtype = dtype
        self._ring, self._own, self._counters = self._empty(None)

    def __len__(self) -> int:
        """Slots in use, those too whose row was not finite: that is known on the device alone, see ``ref_mask``."""
        return self._counters.filled

    @torch.no_grad()
    def enqueue(
        self, embeddings: Tensor, labels: Tensor, *, sample_ids: Tensor | None = None, groups: Tensor | None = None
    ) -> None:
        """Writes a batch over the oldest slots, detached; of a batch larger than ``size`` the last rows.

        A row that is not finite in the memory's dtype leaves its slot as it was, and what was never written is nobody's
        candidate. In eval mode no row is kept.

        It writes in place. A loss over :meth:`references` keeps views of the slots for its backward: enqueue before the
        loss or after its backward, in between PyTorch raises an error.

        Args:
            embeddings: [N, dim] of any floating dtype, on the memory's device.
            labels: [N] of any integer dtype or bool; with ``num_labels`` [N, num_labels] bool, several labels a row.
            sample_ids: [N] of any integer dtype, the samples' numbers in the data set, -1 for none: a sample that comes
                again is then not compared with what an older network made of it. Default None: not kept.
            groups: [N] of any integer dtype, see the losses' argument of that name. Default None: not kept.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: a wrong shape, dtype or device, or ``sample_ids`` or ``groups`` for some batches alone: until
                :meth:`reset` each batch comes with what the first came with.
        """
        batch = {"embeddings": embeddings, "labels": labels, "sample_ids": sample_ids, "groups": groups}
        if self.process_group is None or self.sharded:
            self._check(embeddings, labels, sample_ids, groups)
            self._write({name: value for name, value in batch.items() if value is not None})
            return
        group = Group(self.process_group)
        everything, sizes = self._of_all(group, batch)
        self._write(everything)
        self._own = group.of_each(self._own, sizes)

    def _of_all(self, group: Group, batch: dict[str, Any]) -> tuple[dict[str, Tensor], list[int]]:
        """The rows of all ranks, and how many each has."""

        def checked() -> tuple[Statement, dict[str, Tensor]]:
            self._check(*batch.values())
            given = {name: value for name, value in batch.items() if value is not None}
            alike: dict[str, object] = {name: name in given for name in batch}
            alike.update({"the dtype of embeddings": batch["embeddings"].dtype, "training": self.training})
            alike.update({name: getattr(self, name) for name in ("size", "dim", "num_labels", "dtype")})
            alike["what the memory has kept so far"] = tuple(self._counters)
            return Statement(alike, len(batch["embeddings"])), given

        statements, given = agreed(group, checked)
        sizes = [statement.rows for statement in statements]
        # Integers of one dtype on every rank.
        sent = {
            name: value if name == "embeddings" else value.to(self._ring[name].dtype) for name, value in given.items()
        }
        return group.rows(sent, sizes), sizes

    def _write(self, batch: dict[str, Tensor]) -> None:
        """The rows of a batch that was checked."""
        embeddings, labels = batch["embeddings"], batch["labels"]
        own = torch.full((len(embeddings),), -1, device=labels.device)
        if self._counters.filled == 0:  # this batch alone says what comes with batches
            told = {name: int(name in batch) for name in ("sample_ids", "groups")}
            self._counters = self._counters._replace(**told)
        if not self.training:
            self._own = own
            return
        counters, kept = self._counters, min(len(embeddings), self.size)
        rows = {name: value[len(value) - kept :] for name, value in batch.items()}
        rows = {name: value.to(self._ring[name].dtype) for name, value in rows.items()}
        rows["steps"] = torch.full((kept,), counters.step, device=labels.device)
        finite = finite_rows(rows["embeddings"])  # as stored: half precision makes large values infinite
        slots = torch.arange(counters.place, counters.place + kept, device=labels.device) % self.size
        own[len(embeddings) - kept :] = torch.where(finite, slots, -1)
        slots = torch.where(finite, slots, self.size)  # the row behind the ring takes what is not kept
        for name, value in rows.items():
            self._ring[name].index_copy_(0, slots, value)
        self._own = own
        self._counters = _Counters(
            place=(counters.place + kept) % self.size,
            filled=min(counters.filled + kept, self.size),
            step=counters.step + 1,
            sample_ids=counters.sample_ids,
            groups=counters.groups,
        )

    def references(self) -> References:
        """The slots in use, as arguments of a loss or a miner whose anchors are the batch enqueued last.

        Where the memory was given ``sample_ids`` or ``groups``, the loss wants those of its anchors too: -1 is the
        sample id of rows from another data set, as in validation.
        ``self_indices`` is of that batch and all -1 in eval mode. For other anchors, and where the loss comes before
        :meth:`enqueue`, use ``references()._replace(self_indices=None)``. Embeddings, labels, ids and groups are views
        of the ring.
        """
        counters = self._counters
        used = {name: rows[: counters.filled] for name, rows in self._ring.items()}
        return References(
            ref_embeddings=used["embeddings"],
            ref_labels=used["labels"],
            ref_mask=used["steps"] >= 0,
            self_indices=self._own if self.training else torch.full_like(self._own, -1),
            ref_sample_ids=used["sample_ids"] if counters.sample_ids else None,
            ref_groups=used["groups"] if counters.groups else None,
        )

    def ages(self) -> Tensor:
        """[K] int64: how many batches have been enqueued since the one in each slot in use; 0 for the last, -1 where
        no row was ever kept."""
        steps = self._ring["steps"][: self._counters.filled]
        return torch.where(steps < 0, -1, self._counters.step - 1 - steps)

    def reset(self) -> None:
        """Empties all slots; whether batches come with sample ids and groups is open again."""
        self._ring, self._own, self._counters = self._empty(self._own.device)

    def extra_repr(self) -> str:
        labels = "" if self.num_labels is None else f", num_labels={self.num_labels}"
        sharded = ", sharded=True" if self.sharded else ""
        return f"size={self.size}, dim={self.dim}{labels}, dtype={self.dtype}{sharded}"

    @torch.inference_mode(False)  # what is made under it could not be written to outside
    def _empty(self, device: torch.device | None) -> tuple[dict[str, Tensor], Tensor, _Counters]:
        """The ring, the slots of the batch enqueued last [N], and the counters."""
        rows = self.size + 1  # see enqueue
        labels = (rows,) if self.num_labels is None else (rows, self.num_labels)
        kind = torch.int64 if self.num_labels is None else torch.bool
        ring = {
            "embeddings": torch.zeros(rows, self.dim, dtype=self.dtype, device=device),
            "labels": torch.zeros(labels, dtype=kind, device=device),
            "steps": torch.full((rows,), -1, device=device),
            "sample_ids": torch.full((rows,), -1, device=device),
            "groups": torch.zeros(rows, dtype=torch.int64, device=device),
        }
        return ring, torch.zeros(0, dtype=torch.int64, device=device), _Counters()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CrossBatchMemory:
        """``.to``, ``.cuda`` and the like: the device, not the dtype."""
        super()._apply(fn, recurse)
        before = self._own.device
        device = fn(self._own.new_empty(1)).device
        if before.type == "meta" and device != before:  # there is nothing to be moved
            self._ring, self._own, self._counters = self._empty(device)
        elif device != before:
            self._ring = {name: rows.to(device) for name, rows in self._ring.items()}
            self._own = self._own.to(device)
        return self

    def __getattr__(self, name: str) -> Any:
        """The names of the state are attributes: ``torch.distributed.checkpoint`` looks for each of them."""
        # Not while __init__ has still to say whether it is sharded.
        if name.startswith(_STATE) and "sharded" in self.__dict__:
            state = {self._key(each): value for each, value in self._state().items()}
            if name in state:
                return state[name]
        return super().__getattr__(name)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, value in self._state().items():
            destination[prefix + self._key(name)] = value.clone()

    def _key(self, name: str) -> str:
        """In ``state_dict()``: of a shard it says which of how many, from 1 on."""
        if not self.sharded:
            return name
        group = Group(self.process_group)
        return f"{name}_{group.rank + 1}of{group.size}"

    def _state(self) -> dict[str, Tensor]:
        ring = {name: rows[: self.size] for name, rows in self._ring.items()}
        return {**ring, "counters": torch.tensor(self._counters, device=self._own.device)}

    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        """All or nothing: what fits of a memory of another shape would end up beside what does not."""
        others: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, others, errors)
        mine = self._state()
        keys = {name: prefix + self._key(name) for name in mine}
        unexpected += [key for key in others if key not in keys.values()]
        absent = [key for key in keys.values() if key not in state_dict]
        if absent:
            missing += absent if strict else []
            return
        saved = {name: state_dict[key] for name, key in keys.items()}
        wrong = [
            f"size mismatch for {keys[name]}: must have shape {list(mine[name].shape)}; got {list(value.shape)}"
            for name, value in saved.items()
            if value.shape != mine[name].shape
        ] + [
            f"dtype mismatch for {keys[name]}: must be {mine[name].dtype}; got {value.dtype}"
            for name, value in saved.items()
            if value.dtype != mine[name].dtype and not (name == "embeddings" and value.is_floating_point())
        ]
        counters = _Counters(*saved["counters"].tolist()) if not wrong else _Counters()
        if not (0 <= counters.place < self.size and 0 <= counters.filled <= self.size):
            wrong.append(
                f"{keys['counters']} must have a place below {self.size} and at most as many slots in use; got "
                f"{counters.place} and {counters.filled}"
            )
        if wrong:
            errors += wrong
            return
        # A model made on the meta device is brought from there by load_state_dict(assign=True).
        device = saved["steps"].device if self._own.is_meta else self._own.device
        self._ring, self._own, self._counters = self._empty(device)
        for name, rows in self._ring.items():
            rows[: self.size] = saved[name]
        finite = finite_rows(self._ring["embeddings"])  # a narrower dtype makes large values infinite
        self._ring["steps"].masked_fill_(~finite, -1)
        self._counters = counters

    def _check(self, embeddings: object, labels: object, sample_ids: object, groups: object) -> None:
        given = {"embeddings": embeddings, "labels": labels, "sample_ids": sample_ids, "groups": groups}
        device = self._own.device
        for name, value in given.items():
            if value is None and name in ("sample_ids", "groups"):
                continue
            check_dense(name, value)
            assert isinstance(value, Tensor)
            if value.device != device:
                raise ValueError(f"{name} must be on the memory's device, {device}; got {value.device}")
        assert isinstance(embeddings, Tensor) and isinstance(labels, Tensor)
        check_rows("embeddings", embeddings)
        if embeddings.shape[1] != self.dim:
            raise ValueError(f"embeddings must have shape [N, {self.dim}]; got {list(embeddings.shape)}")
        self._check_labels(labels, embeddings)
        for name in ("sample_ids", "groups"):
            self._check_numbers(name, given[name], embeddings)

    def _check_labels(self, labels: Tensor, embeddings: Tensor) -> None:
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"labels must have an integer dtype or bool; got {labels.dtype}")
        wanted = [len(embeddings)] if self.num_labels is None else [len(embeddings), self.num_labels]
        if list(labels.shape) != wanted:
            advice = ""
            if self.num_labels is None and labels.dim() == 2:
                one = labels.shape[1] == 1
                advice = ": pass labels.squeeze(1)" if one else ": give num_labels=C to the constructor for [N, C]"
            raise ValueError(
                f"labels must have shape {wanted} to match embeddings {list(embeddings.shape)}; got "
                f"{list(labels.shape)}{advice}"
            )
        if self.num_labels is not None and labels.dtype != torch.bool:
            raise ValueError(f"labels must be bool where they are multi-hot; got {labels.dtype}: pass labels.bool()")

    def _check_numbers(self, name: str, numbers: Any, embeddings: Tensor) -> None:
        if self._counters.filled > 0 and (numbers is not None) != bool(getattr(self._counters, name)):
            before = "batches without" if numbers is not None else "batches with them"
            raise ValueError(
                f"{name} must come with each batch or with none until reset(); got "
                f"{'none' if numbers is None else name} after {before}"
            )
        if numbers is None:
            return
        may_be_bool = name == "groups"
        if numbers.is_floating_point() or numbers.is_complex() or (numbers.dtype == torch.bool and not may_be_bool):
            raise ValueError(
                f"{name} must have an integer dtype{' or bool' if may_be_bool else ''}; got {numbers.dtype}"
            )
        if numbers.shape != embeddings.shape[:1]:
            raise ValueError(
                f"{name} must have shape [{len(embeddings)}] to match embeddings {list(embeddings.shape)}; got "
                f"{list(numbers.shape)}"
            )
