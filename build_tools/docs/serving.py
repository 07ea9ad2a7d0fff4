"""Which operators a loss calls, and which engine serves them on devices that are not here.

The calls are those of a run on the CPU, forward and backward, by the portable engine, which says of each what it is.
Devices are simulated by what :mod:`fasttriplet.engines` looks at: what is loaded, and what PyTorch says of the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from fasttriplet import _library, engines
from fasttriplet.arguments import LISTED
from fasttriplet.check import MINERS
from fasttriplet.schemas import SCHEMAS


class Call(NamedTuple):
    """Of an operator, with what it uses beyond labels [N]."""

    name: str
    uses: tuple[str, ...]
    arguments: tuple[Any, ...]


def calls_of(run: Callable[[], object]) -> list[Call]:
    """The operators that ``run`` calls, in order."""
    calls: list[Call] = []

    def record(name: str, tensors: Sequence[Tensor], arguments: tuple[Any, ...]) -> None:
        calls.append(Call(name, tuple(uses_of(name, arguments)), arguments))

    with mock.patch.object(engines, "announce", record), by_portable_engine():
        run()
    return calls


def uses_of(name: str, arguments: Sequence[Any]) -> list[str]:
    if not of_a_batch(name):
        return []
    uses = engines.uses_of(arguments[1], *arguments[2:5])
    return uses + (engines.miner_uses(arguments[6]) if name == "mine_triplets" else [])


def of_a_batch(name: str) -> bool:
    """Whether an operator chooses or sums over pairs by labels, with all that says who pairs with whom."""
    return "pairing" in SCHEMAS[name] and not name.startswith("_")


def every_use(name: str) -> list[str]:
    """All that a call of an operator may use beyond labels [N]."""
    if not of_a_batch(name):
        return []
    own = [each for each in LISTED if not each.startswith("ref_") or each == "ref_mask"]
    uses = ["labels [N, C]", "ref_embeddings", *own, "ignore_index"]
    return uses + [use for code in range(len(MINERS)) for use in engines.miner_uses(code) if name == "mine_triplets"]


@contextlib.contextmanager
def by_portable_engine() -> Iterator[None]:
    with mock.patch.object(engines, "forced", True):
        yield


class Device(NamedTuple):
    """A device as it may be; ``absences`` of the libraries of CPU and CUDA are why they are not loaded."""

    title: str
    device: torch.device
    absences: tuple[str | None, str | None] = (None, None)
    hip: str | None = None
    capability: tuple[int, int] | None = None  # of a GPU that is there
    float64: bool = True  # what an XPU says of itself


# An index keeps apart what is remembered of a device once it has been asked.
CUDA = Device("CUDA", torch.device("cuda"))
DEVICES = (
    Device("CPU", torch.device("cpu")),
    CUDA,
    Device("CUDA, library not loaded", torch.device("cuda"), (None, "it was not built")),
    Device("older GPU", torch.device("cuda", 7), capability=(7, 0)),
    Device("ROCm", torch.device("cuda"), hip="7.0"),
    Device("XPU", torch.device("xpu")),
    Device("XPU without float64", torch.device("xpu", 7), float64=False),
    Device("MPS", torch.device("mps")),
    Device("nothing compiled", torch.device("cpu"), ("it was not built", "it was not built")),
)


@contextlib.contextmanager
def simulated(device: Device) -> Iterator[None]:
    """What the package sees where there is such a device, whatever there is here."""
    cpu, cuda = device.absences
    there = device.capability is not None
    patches: list[Any] = [
        mock.patch.multiple(_library, cpu_absence=cpu, cuda_absence=cuda, cuda_architectures=lambda: [(7, 5), (9, 0)]),
        mock.patch.multiple(engines, forced=False, fallback="silent"),
        mock.patch.object(torch.version, "hip", device.hip),
        mock.patch.multiple(
            torch.cuda,
            is_available=lambda: there,
            get_device_capability=lambda index=None: device.capability,
            get_device_name=lambda index=None: "Tesla V100",
        ),
        mock.patch.multiple(
            torch.xpu,
            is_available=lambda: device.device.type == "xpu",
            current_device=lambda: 0,
            get_device_properties=lambda index=None: mock.Mock(has_fp64=device.float64),
        ),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def engine_of(call: Call, device: Device) -> engines.Engine:
    with simulated(device):
        return engines.engine_of(call.name, device.device, call.uses)


def word(calls: Iterable[Call], device: Device) -> str:
    """One for all calls: ``kernels``, ``portable``, another engine's name, or ``both``."""
    found = {engine_of(call, device).name for call in calls}
    found = {"kernels" if name in ("cpu", "cuda") else name for name in found}
    return found.pop() if len(found) == 1 else "both"
