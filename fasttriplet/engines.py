"""Which engine serves a call: a kernel of the device, or the portable engine in plain PyTorch.

The dispatcher alone cannot choose, since a device that has a kernel for an operator always takes it, and kernels do not
serve every call. So :func:`operator` decides before. Environment variables, read when the package is imported:

- ``FASTTRIPLET_ENGINE=portable`` forces the portable engine on any device, the CPU included.
- ``FASTTRIPLET_FALLBACK`` says what becomes of a call that falls to it otherwise: ``warn``, the default, once for each
  operator and device; ``silent``; or ``error``.

Where a device has no float64, neither can serve: tensors go to the CPU and results come back
(:mod:`fasttriplet.trip`), which says so by the same rule, once for each function and device.
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
    """A call runs by the portable engine, or on the CPU, since no kernel of its device serves it."""


class Engine(NamedTuple):
    """What serves a call."""

    name: str  #: ``"cpu"`` or ``"cuda"`` for that device's kernel, ``"portable"``, or ``"cpu and back"``
    why: str  #: why no kernel of the device does; empty where one does


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
    "mine_triplets": frozenset(("sample_ids", "groups", "ignore_index")),
    "_triplet_distances_backward": frozenset(),
    "triplet_losses": frozenset(),
    "triplet_margin_loss": frozenset(),
    "_triplet_margin_loss_backward": frozenset(),
}

#: Device types without float64, whose tensors go to the CPU and back. An XPU is asked for its own. A device type may be
#: added, for hardware that is not known here or for a test; not "cpu", where the way ends.
without_float64: frozenset[str] = frozenset({"mps"})

_KERNELS = torch.ops.fasttriplet


def operator(name: str, device: torch.device, uses: Iterable[str] = ()) -> Any:
    """``torch.ops.fasttriplet.NAME.default`` of the engine for a call on ``device``, see :func:`engine_of`."""
    # The first test, nearly always true, costs a call 0.1 us.
    if device.type == "cpu" and not forced and _library.cpu_absence is None:
        return getattr(_KERNELS, name).default
    served = _has_kernel(name, device.type, device.index, tuple(uses))
    return getattr(_KERNELS, name if served else PORTABLE + name).default


@torch.compiler.assume_constant_result
def _has_kernel(name: str, kind: str, index: int | None, uses: tuple[str, ...]) -> bool:
    """A constant to ``torch.compile``, which need not see what is asked of the device."""
    return engine_of(name, device_of(kind, index), uses).name != "portable"


def device_of(kind: str, index: int | None) -> torch.device:
    """From what ``torch.compile`` takes for constants."""
    return torch.device(kind) if index is None else torch.device(kind, index)


def engine_of(name: str, device: torch.device, uses: Iterable[str] = ()) -> Engine:
    """What serves the operator ``name`` on ``device``.

    Args:
        name: of an operator, as ``"mine_triplets"``.
        device: where the tensors are; there need not be such a device here.
        uses: what the call uses more than labels [N]: the names of :func:`uses_of`. Default: nothing.

    Returns:
        :class:`Engine`, its name and why it is not a kernel of the device.

    Example:
        >>> import torch
        >>> from fasttriplet.engines import engine_of
        >>> engine_of("batch_all", torch.device("mps"))
        Engine(name='cpu and back', why='mps has no float64')
    """
    kind = device.type
    if lacks_float64(device):
        return Engine("cpu and back", f"{kind} has no float64")
    if forced:
        return Engine("portable", "FASTTRIPLET_ENGINE=portable forces it")
    if kind in ("cpu", "meta"):
        absence = _library.cpu_absence
        return Engine("portable", f"the compiled library is missing: {absence}") if absence else Engine("cpu", "")
    if kind != "cuda":
        return Engine("portable", f"there are no kernels for {kind}")
    absence = _cuda_absence(0 if device.index is None else device.index)
    if absence is not None:
        return Engine("portable", absence)
    if name not in CUDA_KERNELS:
        return Engine("portable", "it has no CUDA kernel")
    missing = [use for use in uses if use not in CUDA_KERNELS[name]]
    if missing:
        return Engine("portable", f"its CUDA kernel does not serve {', '.join(missing)}")
    return Engine("cuda", "")


def lacks_float64(device: torch.device) -> bool:
    """Whether nothing can be computed in float64 there."""
    return device.type in without_float64 or (device.type == "xpu" and _xpu_lacks_float64(device.index))


@functools.cache
def _xpu_lacks_float64(index: int | None) -> bool:
    if not torch.xpu.is_available():  # fake tensors of a device that is not there
        return False
    properties = torch.xpu.get_device_properties(torch.xpu.current_device() if index is None else index)
    return not properties.has_fp64


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
    gpu, oldest = torch.cuda.get_device_name(index), _library.dotted(min(built))
    return f"{gpu} is of compute capability {_library.dotted(found)}, and the kernels are for {oldest} and later"


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
    if device.type == "cpu" and _library.cpu_absence is not None:  # said at the import
        return
    uses: list[str] = []
    if name in ("mine_triplets", "semi_hard", "batch_all", "weighted_distances"):
        uses = uses_of(arguments[1], *arguments[2:5])
        if name == "mine_triplets":
            uses += miner_uses(arguments[6])
    engine = engine_of(name, device, uses)
    if engine.name != "portable":  # called by its own name
        return
    _say(
        name,
        device,
        f"fasttriplet runs {name} on {device} by its portable engine, in plain PyTorch: {engine.why}. Results are the "
        "same, kernels are faster",
    )


def announce_trip(function: str, device: torch.device) -> None:
    """Says once for each function and device that its tensors go to the CPU and back and why, or refuses to."""
    if fallback == "silent" or (fallback == "warn" and (function, device) in _announced):
        return
    _say(
        function,
        device,
        f"fasttriplet runs {function} of tensors on {device} on the CPU and brings the results back: "
        f"{engine_of(function, device).why}",
    )


def announce_absence() -> None:
    """Says, where the package is imported, that the compiled library is missing and what to do, or refuses to."""
    if forced or fallback == "silent" or _library.cpu_absence is None:
        return
    text = (
        "fasttriplet runs by its portable engine, in plain PyTorch, since its compiled library is missing: "
        f"{_library.cpu_absence}"
    )
    if fallback == "error":
        raise ImportError(f"{text}; FASTTRIPLET_FALLBACK=error forbids it")
    _warn(f"{text}. Results are the same, kernels are faster; FASTTRIPLET_FALLBACK=silent silences this")


def _say(name: str, device: torch.device, text: str) -> None:
    if fallback == "error":
        raise RuntimeError(f"{text}; FASTTRIPLET_FALLBACK=error forbids it")
    _announced.add((name, device))
    _warn(f"{text}. `python -m fasttriplet` lists what runs where and why; FASTTRIPLET_FALLBACK=silent silences this")


def _warn(text: str) -> None:
    warnings.warn(text, EngineWarning, stacklevel=_level_of_caller())


def miner_uses(code: int) -> list[str]:
    """What a miner is to a kernel beyond batch-hard."""
    return [] if MINERS[code] == "batch_hard" else [f"the miner {MINERS[code]}"]


def _level_of_caller() -> int:
    """How far up :func:`warnings.warn`, called by the caller of this, X."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None:
        package = frame.f_globals.get("__name__", "").split(".")[0]
        if package == "importlib":  # which warnings does not count
            level -= 1
        elif package not in ("fasttriplet", "torch"):
            break
        frame, level = frame.f_back, level + 1
    return level
