"""The arguments that all losses and miners of a batch share: who pairs with whom, weights, statistics.

They are declared here once. A function takes them as ``**arguments: Unpack[...]`` under :func:`takes`, which writes
them out in its signature and its docstring. The operators take those about pairing as two lists (:func:`as_lists`,
``PairingTensors`` in ``csrc/check.h``). A new one is a field here, the same in ``PairingTensors``, and what its kernel
does with it.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor
from typing_extensions import TypedDict, get_original_bases


class BatchPairing(TypedDict, total=False):
    """Who pairs with whom in one batch; an anchor never pairs with itself.

    Attributes:
        ref_embeddings: [M, D], where positives and negatives are taken from in place of the batch: a memory bank, a
            second view. Of any dtype that ``embeddings`` may have. A loss has a gradient
            for both. Default None: the batch itself.
        ref_labels: [M] or [M, C], in the form of ``labels``; given together with ``ref_embeddings``.
        self_indices: [N] integers: which reference is anchor i's own copy and never its partner, -1 for none. With
            references only. Default None: no reference is a copy.
        sample_ids: [N] integers: rows of equal number are copies of one sample, as two views of an image or what an
            earlier epoch made of it, and never pair; -1 for none. Default None: no copies.
        ref_sample_ids: [M] integers, those of the references; given together with ``sample_ids`` where there are
            references.
        groups: [N] integers: rows of equal group never pair, as those seen by one camera; see ``groups_exclude``. -1
            is a group like any other. Default None: no groups.
        ref_groups: [M] integers, those of the references; given together with ``groups`` where there are references.
        ref_mask: [M] bool: references where it is false pair with nobody, and what is in them does not matter. With
            references only. Default None: all take part.
    """

    ref_embeddings: Tensor | None
    ref_labels: Tensor | None
    self_indices: Tensor | None
    sample_ids: Tensor | None
    ref_sample_ids: Tensor | None
    groups: Tensor | None
    ref_groups: Tensor | None
    ref_mask: Tensor | None


class PairingRules(TypedDict, total=False):
    """Who pairs with whom in every batch.

    Attributes:
        groups_exclude: what rows of equal group never are to each other. ``"pairs"``, the default: neither positive nor
            negative. ``"positives"``: of one label they never pair, of different labels they are negatives. This is the
            rule of Market-1501: the same person in the same camera is junk.
        ignore_index: rows of this label are neither anchors nor candidates; not with multi-hot labels. Default None: no
            label.
    """

    groups_exclude: str
    ignore_index: int | None


class Weights(TypedDict, total=False):
    """How much each anchor counts.

    Attributes:
        weights: [N] of a floating dtype: multiplies the loss of each anchor's triplets; means divide by the sum of the
            weights of what they run over, 0 where that sum is 0. Gradients flow to them. Negative ones are taken as
            they are. With one that is NaN every reduction is NaN, with an infinite one no reduction is finite, even
            where its anchor does not count. Default None: all 1.
    """

    weights: Tensor | None


class Statistics(TypedDict, total=False):
    """What a loss tells beside its value.

    Attributes:
        return_stats: also say what became of the batch, as :class:`fasttriplet.TripletStats`. Default false.
    """

    return_stats: bool


class Processes(TypedDict, total=False):
    """Whether the batch is that of several processes.

    Attributes:
        process_group: a ``torch.distributed.ProcessGroup`` with this process in it, or a 1-D ``DeviceMesh``. Each rank
            gives its own rows, any number of them and also none, and calls with the same options; the batch is all of
            them in rank order, and ties go to the lowest index in it. Scalar losses, statistics and which triplets
            there are come out the same on every rank; ``reduction="none"`` and miners give those of the rank's own
            anchors, indices being those of the whole batch. What is wrong on one rank is an error on all.
            References of a rank are its own anchors' alone, and only the reduction is over all ranks. Default None: no
            communication.
        ref_sharded: with a process group, each rank's references are its shard of one set, in rank order, which all
            anchors choose from. ``self_indices`` point into the rank's own shard. Default false.
    """

    process_group: Any
    ref_sharded: bool


class GradientScale(TypedDict, total=False):
    """What the gradient of a rank's rows is.

    Attributes:
        gradient_scale: with a process group, ``"mean"``, the default: the gradient of the loss times the number of
            ranks, so that what ``DistributedDataParallel`` and FSDP average is the gradient of one process with the
            whole batch. ``"sum"``: that of the loss itself. Every rank must bring the same gradient to a scalar loss.
    """

    gradient_scale: str


class Pairing(BatchPairing, PairingRules, Processes, total=False):
    """What a miner is told about who pairs with whom."""


if TYPE_CHECKING:  # LossFunction in fasttriplet/functional/_loss.py has it, since what a loss returns follows from it

    class _StatisticsOfLoss(TypedDict, total=False): ...
else:
    _StatisticsOfLoss = Statistics


class LossArguments(BatchPairing, PairingRules, Weights, _StatisticsOfLoss, Processes, GradientScale, total=False):
    """What every loss of a batch takes beside its own options."""


class ModuleOptions(PairingRules, Statistics, Processes, GradientScale, total=False):
    """What the module of every such loss is made with beside its own options."""


class ForwardArguments(BatchPairing, Weights, total=False):
    """What the module of every such loss is called with beside embeddings and labels."""


#: Where it is not None.
DEFAULTS: dict[str, object] = {
    "groups_exclude": "pairs",
    "return_stats": False,
    "ref_sharded": False,
    "gradient_scale": "mean",
    "chunk_rows": 65536,
    "progress": False,
}

#: Tensors about pairing in the order in which the operators list them: all that autograd does not see.
LISTED = tuple(name for name in BatchPairing.__annotations__ if name != "ref_embeddings")

#: What rows have and, where there are references, these have as well.
BOTH_OR_NEITHER = (("sample_ids", "ref_sample_ids"), ("groups", "ref_groups"))

GROUPS_EXCLUDE = ("pairs", "positives")

_Function = TypeVar("_Function", bound=Callable[..., Any])


def takes(arguments: Any) -> Callable[[_Function], _Function]:
    """Writes the fields of ``arguments``, a ``TypedDict``, out in the signature and docstring of what takes them."""

    def written_out(function: _Function) -> _Function:
        signature = inspect.signature(function)
        written = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        for name, annotation in annotations_of(arguments).items():
            kind, default = inspect.Parameter.KEYWORD_ONLY, DEFAULTS.get(name)
            written.append(inspect.Parameter(name, kind, default=default, annotation=annotation))
        function.__signature__ = signature.replace(parameters=written)  # type: ignore[attr-defined]
        if function.__doc__ is not None:  # it is under python -OO
            function.__doc__ = with_entries(function.__doc__, entries_of(arguments))
        return function

    return written_out


def told(function: str, arguments: Mapping[str, object], known: Any) -> dict[str, Any]:
    """Of what was passed by keyword that which says something; TypeError for a name that is none of ``known``."""
    if not arguments:  # mostly
        return {}
    names = known.__annotations__
    for name in arguments:
        if name not in names:
            raise TypeError(f"{function}() got an unexpected keyword argument '{name}'")
    return {name: value for name, value in arguments.items() if not _says_nothing(name, value)}


def as_passed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The ``locals()`` of a public function, at its beginning, as keyword arguments for it."""
    arguments = dict(given)
    for rest in ("arguments", "pairing"):  # what these functions call their **
        arguments.update(arguments.pop(rest, {}))
    return arguments


def _says_nothing(name: str, value: object) -> bool:
    """Whether it is the default, and nothing that merely equals it."""
    default = DEFAULTS.get(name)
    return value is default or (isinstance(value, str) and value == default)


def as_lists(pairing: Mapping[str, Any]) -> tuple[tuple[Tensor | None, ...], tuple[int, ...]]:
    """What was :func:`told` of pairing as the operators take it: tensors, and numbers."""
    tensors = tuple(pairing.get(name) for name in LISTED) if pairing else ()
    exclude = GROUPS_EXCLUDE.index(pairing.get("groups_exclude", "pairs"))
    index = pairing.get("ignore_index")
    return tensors, (exclude,) if index is None else (exclude, int(index))


def annotations_of(arguments: Any) -> dict[str, str]:
    """The fields of ``arguments`` and their types, as they are written."""
    return {name: getattr(to, "__forward_arg__", str(to)) for name, to in arguments.__annotations__.items()}


def entries_of(arguments: Any) -> str:
    """What the docstrings say of the fields of ``arguments``, those of what it is made of first; not indented."""
    bases = [base for base in get_original_bases(arguments) if base is not TypedDict]
    _, _, attributes = inspect.cleandoc(arguments.__doc__ or "").partition("Attributes:\n")
    return "".join(map(entries_of, bases)) + textwrap.dedent(attributes.rstrip() + "\n" if attributes else "")


def with_entries(docstring: str, entries: str) -> str:
    """The entry ``**...`` of the Args of ``docstring``, which stands for them all, gives way to ``entries``."""
    kept: list[str] = []
    indent = None  # of that entry, while its lines go by
    for line in docstring.splitlines(keepends=True):
        blank = line[: len(line) - len(line.lstrip())]
        if line.lstrip().startswith("**"):
            indent = blank
            kept.append(textwrap.indent(entries, indent))
        elif indent is None or not line.strip() or len(blank) <= len(indent):
            indent = None
            kept.append(line)
    return "".join(kept)
