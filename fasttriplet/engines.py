"""Which engine serves a call: a kernel of the device, or the portable engine in plain PyTorch.

The dispatcher alone cannot choose, since a device that has a kernel for an operator always takes it, and kernels do not
serve every call. So :func:`operator` decides before. Environment variables, read when the package is imported:

- ``FASTTRIPLET_ENGINE=portable`` forces the portable engine on any device, the CPU included.
- ``FASTTRIPLET_FALLBACK`` says what becomes of a call that falls to it otherwise: ``warn``, the default, once for each
  operator and device; ``silent``; or ``error``.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fasttriplet import _library
from fasttriplet.arguments import LISTED
from fasttriplet.check import MINERS

#: Before the name of an operator that is the portable engine's own.
PORTABLE = "portable_"

FALLBACKS = ("warn", "silent", "error")


class EngineWarning(UserWarning):
    """A call runs by the portable engine, since no kernel serves it."""


class Engine(NamedTuple):
    """What serves a call."""

    name: str  #: ``"cpu"`` or ``"cuda"`` for that device's kernel, or ``"portable"``
    why: str  #: of the portable engine why no kernel does; else empty


def _from_environment(name: str, choices: Sequence[str], default: str) -> str:
    value = os.environ.get(name) or default
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")
    return value


#: Whether every call goes to the portable engine.
forced = _from_environment("FASTTRIPLET_ENGINE", ("auto", "portable"), "auto") == "portable"
#: One of :data:`FALLBACKS`.
fallback = _from_environment("FASTTRIPLET_FALLBACK", FALLBACKS, "warn")

#: What the CUDA kernel of an operator serves beside labels [N] alone; an operator that is not here has none.
CUDA_KERNELS: dict[str, frozenset[str]] = {
    "mine_batch_hard": frozenset(),
    "batch_hard_loss": frozenset(),
    "_batch_hard_loss_backward": frozenset(),
}

_KERNELS = torch.ops.fasttriplet


def operator(name: str, device: torch.device, uses: Iterable[str] = ()) -> Any:
    """The overload ``torch.ops.fasttriplet.NAME.default`` of the engine for a call on ``device``, see :func:`engine_of`."""
    # The first test, nearly always true, costs a call 0.1 us.
    if device.type == "cpu" and not forced and _library.cpu_absence is None:
        return getattr(_KERNELS, name).default
    served = _has_kernel(name, device.type, device.index, tuple(uses))
    return getattr(_KERNELS, name if served else PORTABLE + name).default


@torch.compiler.assume_constant_result
def _has_kernel(name: str, kind: str, index: int | None, uses: tuple[str, ...]) -> bool:
    """A constant to ``torch.compile``, which need not see what is asked of the device."""
    return (
        engine_of(name, torch.device(kind, index) if index is not None else torch.device(kind), uses).name != "portable"
    )


def engine_of(name: str, device: torch.device, uses: Iterable[str] = ()) -> Engine:
    """The engine for the operator ``name`` on ``device`` in a call that ``uses`` more than labels [N]: the names of
    :func:`uses_of`."""
    if forced:
        return Engine("portable", "FASTTRIPLET_ENGINE=portable forces it")
    if device.type in ("cpu", "meta"):
        absence = _library.cpu_absence
        return (
            Engine("cpu", "") if absence is None else Engine("portable", f"the compiled library is missing: {absence}")
        )
    if device.type != "cuda":
        return Engine("portable", f"there are no kernels for {device.type}")
    absence = _cuda_absence(0 if device.index is None else device.index)
    if absence is not None:
        return Engine("portable", absence)
    if name not in CUDA_KERNELS:
        return Engine("portable", "it has no CUDA kernel")
    missing = [use for use in uses if use not in CUDA_KERNELS[name]]
    if missing:
        return Engine("portable", f"its CUDA kernel does not serve {', '.join(missing)}")
    return Engine("cuda", "")


def _cuda_absence(index: int) -> str | None:
    """Why no CUDA kernel serves a "cuda" device at all, which may be one of ROCm; None where they do."""
    if torch.version.hip is not None:
        return "the CUDA kernels do not run under ROCm"
    if _library.cuda_absence is not None:
        return f"the CUDA library is not loaded: {_library.cuda_absence}"
    return _too_old(index)


@functools.cache
def _too_old(index: int) -> str | None:
    if not torch.cuda.is_available():  # fake tensors of a device that is not there
        return None
    built = _library.cuda_architectures()
    found = torch.cuda.get_device_capability(index)
    if not built or found >= min(built):
        return None
    return (
        f"{torch.cuda.get_device_name(index)} is of compute capability {_library.dotted(found)}, and the kernels are "
        + (f"for {_library.dotted(min(built))} and later")
    )


def uses_of(
    labels: Tensor, ref_embeddings: Tensor | None, pairing: Sequence[Tensor | None], numbers: Sequence[int]
) -> list[str]:
    """What a batch uses beyond labels [N], by the names of the arguments."""
    uses = ["labels [N, C]"] if labels.dim() == 2 else []
    if ref_embeddings is not None:
        uses.append("ref_embeddings")
    uses += [
        name
        for name, value in zip(LISTED, pairing, strict=False)
        if value is not None and not (name.startswith("ref_") and name != "ref_mask")
    ]
    if len(numbers) > 1:
        uses.append("ignore_index")
    return uses


#: Of those that come with these of a call, nothing is said.
_UNSAID = ("triplet_losses",)

_announced: set[tuple[str, torch.device]] = set()


def announce(name: str, tensors: Sequence[Tensor], arguments: Sequence[Any]) -> None:
    """Says once for each operator and device that the portable engine runs it and why, or refuses to.

    Called by the operator itself, so that nothing runs unsaid under ``torch.compile``, or where the dispatcher chose.
    """
    if forced or name.startswith("_") or name in _UNSAID or fallback == "silent":
        return
    device = tensors[0].device
    if fallback == "warn" and (name, device) in _announced:
        return
    uses: list[str] = []
    if name in ("mine_triplets", "batch_all", "weighted_distances"):
        uses = uses_of(arguments[1], *arguments[2:5])
        if name == "mine_triplets":
            uses += miner_uses(arguments[6])
    engine = engine_of(name, device, uses)
    if engine.name != "portable":  # called by its own name
        return
    text = (
        f"fasttriplet runs {name} on {device} by its portable engine, in plain PyTorch: {engine.why}. Results are the "
        "same, kernels are faster"
    )
    if fallback == "error":
        raise RuntimeError(f"{text}; FASTTRIPLET_FALLBACK=error forbids it")
    _announced.add((name, device))
    warnings.warn(
        f"{text}. `python -m fasttriplet` lists what runs where and why; FASTTRIPLET_FALLBACK=silent silences this",
        EngineWarning,
        stacklevel=_level_of_caller(),
    )


def miner_uses(code: int) -> list[str]:
    """What a miner is to a kernel beyond batch-hard."""
    return [] if MINERS[code] == "batch_hard" else [f"the miner {MINERS[code]}"]


def _level_of_caller() -> int:
    """How far up :func:`warnings.warn`, called by a function of this module, finds code that is neither ours nor PyTorch's."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("fasttriplet", "torch"):
        frame, level = frame.f_back, level + 1
    return level
