"""The batch of all ranks: every rank's rows in rank order, and this rank's anchors with their candidates among them.

Three ways, by where candidates come from:

- the batch itself, no references: rows travel to every rank, which scans its own anchors against all of them;
- references in shards (``ref_sharded``): these travel as well;
- references of the rank's own: no rows travel, what ranks share is the reduction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from fasttriplet.arguments import LISTED, BatchPairing
from fasttriplet.check import DISTANCES, MINERS, OTHERWISE, check_tensors
from fasttriplet.distributed.agreement import Statement, agreed
from fasttriplet.distributed.autograd import JoinedRows, JoinedValues, OwnValues, Scaled
from fasttriplet.distributed.group import Group
from fasttriplet.distributed.untransformed import refuse_transforms
from fasttriplet.pairing import Batch, Miner, checked_batch
from fasttriplet.portable.checks import check_pairing
from fasttriplet.reduction import Options

_Options = TypeVar("_Options")
_Call: TypeAlias = tuple[Batch, Any, int, bool]  # the rank's own batch, options, the gradient's factor, ref_sharded

#: What rows are told apart by, beside their labels.
_IDS = ("sample_ids", "groups")
#: What is told of a batch that no rows have.
_RULES = ("groups_exclude", "ignore_index", "return_stats")


class Together(NamedTuple):
    """What a batch of several ranks is made of; ``sizes`` and ``ref_sizes`` are rows by rank."""

    group: Group
    factor: int  # of the gradient
    sizes: list[int]
    own: Batch  # this rank's anchors, with a graph, and all their candidates as references, without one
    shared: bool  # whether all ranks have the same candidates
    ref_sizes: list[int] | None  # where references are in shards
    own_references: Tensor | None  # this rank's, with a graph

    @property
    def first(self) -> int:
        """The row of the batch that this rank's first anchor is."""
        return self.group.first(self.sizes)

    @property
    def parts(self) -> list[int]:
        """First row and rows, first reference and references of this rank, of those that are shared."""
        rank, ref_sizes = self.group.rank, self.ref_sizes or [0] * self.group.size
        return [self.first, self.sizes[rank], self.group.first(ref_sizes), ref_sizes[rank]]

    def with_graph(self) -> Batch:
        """``own``, the candidates with a graph as well."""
        candidates = self.own.ref_embeddings
        assert candidates is not None
        if not self.shared:
            return self.own
        own, sizes = self.own.embeddings, self.sizes
        if self.ref_sizes is not None:
            assert self.own_references is not None
            own, sizes = self.own_references, self.ref_sizes
        return self.own._replace(ref_embeddings=JoinedRows.apply(own, candidates, self.group, sizes))

    def joined(self, sizes: Sequence[int] | None = None, **own: Tensor) -> dict[str, Tensor]:
        """Values [n, ...] of this rank's anchors, or of as many of something as ``sizes`` say, as those of all."""
        sizes = self.sizes if sizes is None else sizes
        everything = self.group.rows(own, sizes)
        return {name: JoinedValues.apply(values, everything[name], self.group, sizes) for name, values in own.items()}

    def poison(self, own: Tensor) -> Tensor:
        """[]: NaN where a rank's own is, else 1; ``own`` is of a rank's anchors and their candidates."""
        if self.shared and self.ref_sizes is None:  # the candidates are all rows
            return own
        return self.group.rows({"poison": own[None]}, [1] * self.group.size)["poison"].mean()


def finished(batch: Batch, loss: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """The loss as it is returned. Of several ranks' one that is not reduced this rank's, of as many as ``sizes``."""
    together: Together | None = batch.together
    if together is not None:
        if loss.dim() > 0:
            loss = OwnValues.apply(loss, together.group, together.sizes if sizes is None else sizes)
        if together.factor != 1:
            loss = Scaled.apply(loss, together.factor)
    return loss.to(batch.embeddings.dtype)


def batch_of_all(
    function: str,
    embeddings: Tensor,
    labels: Tensor,
    process_group: object,
    told: Callable[[], dict[str, Any]],
    checked: Callable[[], _Options],
) -> tuple[Batch, _Options]:
    """The batch of all ranks of ``process_group``, and the options that ``checked`` gives; ``told`` gives the rest.

    Raises:
        Whatever is wrong with the arguments of any rank, on every rank.
    """
    refuse_transforms(function)
    group = Group(process_group)

    def own_arguments() -> tuple[Statement, _Call]:
        given, options = told(), checked()
        own = _own_batch(embeddings, labels, given, group)
        scale, sharded = given.get("gradient_scale", "mean"), given.get("ref_sharded", False)
        alike = {
            "the function": function,
            **_named(options),
            "gradient_scale": scale,
            "ref_sharded": sharded,
            **_alike(embeddings, labels, given, own, sharded),
        }
        references = own.ref_embeddings
        count = 0 if references is None else len(references)
        factor = group.size if scale == "mean" else 1
        return Statement(alike, len(embeddings), count), (own, options, factor, sharded)

    statements, (own, options, factor, sharded) = agreed(group, own_arguments)
    if group.size == 1:  # the symmetric walks of one process, twice as fast
        return own, options
    return _together(group, factor, statements, embeddings, own, sharded), options


def _own_batch(embeddings: Tensor, labels: Tensor, given: dict[str, Any], group: Group) -> Batch:
    """This rank's arguments, checked as far as a kernel would."""
    check_tensors(embeddings, labels)
    for name, tensor in (("embeddings", embeddings), ("ref_embeddings", given.get("ref_embeddings"))):
        if hasattr(tensor, "device_mesh"):
            raise TypeError(f"{name} must be a plain tensor, as {name}.to_local() of rows in shards; got a DTensor")
    own = checked_batch(embeddings, labels, given)
    check_pairing(*own.arguments)
    backends = group.device_types()
    if embeddings.device.type not in backends:
        served = ", ".join(f"{device} ({backend})" for device, backend in backends.items())
        raise ValueError(
            f"embeddings must be on a device that process_group has a backend for: {served}; got {embeddings.device}"
        )
    return own


def _named(options: Any) -> dict[str, object]:
    """Options by the names of their arguments, as an error tells them: of a loss, of a miner, or the distance alone."""
    if isinstance(options, Options):
        return {**options._asdict(), "distance": DISTANCES[options.distance]}
    if isinstance(options, Miner):
        codes = {"miner": MINERS[options.miner], "otherwise": OTHERWISE[options.otherwise]}
        return {**options._asdict(), **codes}
    if isinstance(options, tuple):  # the loss's come first, and its margin is that of both
        return {name: value for each in reversed(options) for name, value in _named(each).items()}
    return {"distance": DISTANCES[options]}


def _alike(
    embeddings: Tensor, labels: Tensor, given: Mapping[str, Any], own: Batch, sharded: bool
) -> dict[str, object]:
    """What must be the same on every rank, of a rank's own arguments."""
    tensors = (*BatchPairing.__annotations__, "weights")
    return {
        "the dtype of embeddings": embeddings.dtype,
        "the dtype of embeddings and ref_embeddings together": own.embeddings.dtype,
        "the number of columns of embeddings": embeddings.shape[1],
        "the device type of embeddings": embeddings.device.type,
        "whether embeddings require grad": _has_graph(embeddings),
        "the dtype of ref_embeddings": given["ref_embeddings"].dtype if sharded else "any",
        "whether ref_embeddings require grad": _has_graph(given.get("ref_embeddings")),
        "the form of labels": "[N]" if labels.dim() == 1 else f"[N, {labels.shape[1]}]",
        **{name: "given" if name in given else "not given" for name in tensors},
        "whether weights require grad": _has_graph(own.weights),
        **{name: given.get(name) for name in _RULES},
    }


def _has_graph(tensor: Tensor | None) -> bool:
    """Whether its gradient is asked for. On the way back ranks may have to send each other something: all or none."""
    return tensor is not None and tensor.requires_grad and torch.is_grad_enabled()


def _together(
    group: Group, factor: int, statements: Sequence[Statement], embeddings: Tensor, own: Batch, sharded: bool
) -> Batch:
    sizes, ref_sizes = [each.rows for each in statements], [each.references for each in statements]
    shared, dtype = own.ref_embeddings is None or sharded, own.embeddings.dtype
    rules = {name: own.told[name] for name in _RULES if name in own.told}
    sent = _sent(own, embeddings if shared else None, group.first(ref_sizes) if sharded else None)
    told: dict[str, Any] = group.rows({name: values.detach() for name, values in sent.items()}, sizes)
    labels = told.pop("labels")
    if own.weights is not None:
        told["weights"] = JoinedValues.apply(sent["weights"], told["weights"], group, sizes)
    told.update(rules)
    if not shared:
        together = Together(group, factor, sizes, own, False, None, own.ref_embeddings)
        return Batch(own.embeddings, own.ref_embeddings, labels, told, together)
    rows = told.pop("rows").to(dtype)
    of_anchors = {name: sent[name] for name in (*_IDS, "self_indices") if name in sent}
    if not sharded:
        first = group.first(sizes)
        of_anchors["self_indices"] = torch.arange(first, first + len(embeddings), device=embeddings.device)
        candidates = {"ref_labels": labels, **{f"ref_{name}": told[name] for name in _IDS if name in told}}
        anchors = Batch(own.embeddings, rows, own.labels, {**rules, **of_anchors, **candidates})
        return Batch(rows, None, labels, told, Together(group, factor, sizes, anchors, True, None, None))
    names = [name for name in LISTED if name.startswith("ref_") and name in own.told]
    shard = {"rows": own.told["ref_embeddings"].detach(), **{name: _whole(name, own.told[name]) for name in names}}
    candidates = group.rows(shard, ref_sizes)
    references = candidates.pop("rows").to(dtype)
    anchors = Batch(own.embeddings, references, own.labels, {**rules, **of_anchors, **candidates})
    together = Together(group, factor, sizes, anchors, True, ref_sizes, own.ref_embeddings)
    return Batch(rows, references, labels, {**told, **candidates}, together)


def _sent(own: Batch, embeddings: Tensor | None, first_reference: int | None) -> dict[str, Tensor]:
    """What every rank is to know of this rank's anchors: with ``embeddings`` their rows too, and where candidates are
    the shards of which this rank's begins at ``first_reference``, their own copies among all.
    """
    sent = {"labels": _whole("labels", own.labels)}
    if own.weights is not None:
        sent["weights"] = own.weights.double()
    if embeddings is not None:
        sent["rows"] = embeddings
        sent.update((name, own.told[name].long()) for name in _IDS if name in own.told)
    if first_reference is not None and "self_indices" in own.told:
        copies = own.told["self_indices"].long()
        sent["self_indices"] = torch.where(copies < 0, -1, copies + first_reference)
    return sent


def _whole(name: str, values: Tensor) -> Tensor:
    """Of one dtype on every rank: int64, or bool of several labels a row and of masks."""
    return values if values.dim() == 2 or name == "ref_mask" else values.long()
