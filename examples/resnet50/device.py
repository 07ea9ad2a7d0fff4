"""Where a run computes and in what precision, and how tensors get there.

Under autocast the parameters stay in float32, and so does the loss. bfloat16 has the exponents of float32; float16's
gradients go under below 6e-8 and overflow above 65504, so that the loss is multiplied by a scale that adapts itself: it
is halved after a step whose gradients overflow, which is skipped, and doubled after 2000 steps without one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from examples.resnet50.errors import UserError

#: The accelerators that are offered; torch.accelerator knows more, which may lack the fused Adam, say.
_TYPES = ("cuda", "mps", "xpu")
#: Where the copy engine reads pinned memory by itself. Apple's GPUs share the CPU's memory: nothing to be gained.
_PINNED = ("cuda", "xpu")
#: What autocast makes of them, if anything. float64 has weights and loss in float64 too, to compare runs.
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": None}


def available_devices() -> list[torch.device]:
    """Every device that a run can take: accelerators, PyTorch's current one first, then the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or accelerator.type not in _TYPES:
        return [torch.device("cpu")]
    current = torch.accelerator.current_device_index()
    indices = sorted(range(torch.accelerator.device_count()), key=lambda index: (index != current, index))
    return [*(torch.device(accelerator.type, index) for index in indices), torch.device("cpu")]


def choose_device(name: str, index: int = 0, number: int = 1) -> torch.device:
    """The device that ``--device name`` means: ``auto`` is the first there is, a type the first of that type.

    For process ``index`` of ``number`` on this machine: they share the CPU, or have a GPU each.
    """
    here = available_devices()
    device = next((each for each in here if name in ("auto", each.type, str(each))), None)
    if device is None:
        found = ", ".join(map(str, here))
        raise UserError(
            f"--device must be auto or one that PyTorch {torch.__version__} finds here: {found}; got {name}"
        )
    if number == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or ":" in name:
        raise UserError(f"--device must be cpu or cuda for several processes, each of which has a GPU; got {name}")
    if number > len(here) - 1:
        raise UserError(
            f"--nproc-per-node must be at most {len(here) - 1}, the number of GPUs, or --device cpu; got {number}"
        )
    return torch.device("cuda", index)


def describe(device: torch.device, asked: str) -> str:
    """``device`` for people, and for ``auto`` what it was chosen from."""
    text = str(device)
    if device.type in ("cuda", "xpu"):
        text += f", {torch.get_device_module(device).get_device_name(device)}"
    if asked == "auto":
        text += f" (auto: the best of {', '.join(map(str, available_devices()))})"
    return text


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` of the CPU on ``device``, by way of pinned memory where that lets the CPU go on meanwhile.

    PyTorch hands pinned memory out again only when the copies from it are through, so none has to be held here.
    """
    if device.type not in _PINNED:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def has_float64(device: torch.device) -> bool:
    """Apple's GPUs have none, nor have some of Intel's."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def float64_device(device: torch.device) -> torch.device:
    """Where to compute in float64 what lies on ``device``: there, or on the CPU."""
    return device if has_float64(device) else torch.device("cpu")


def parameter_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Of weights, batch norm and loss."""
    if precision != "float64":
        return torch.float32
    if not has_float64(device):
        raise UserError(f"--precision must be another than float64 on {device}, which has none; got float64")
    return torch.float64


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context to run the network in."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """One that scales for float16, and for the others hands everything through."""
    scales = precision == "float16"
    # GradScaler inverts its scale in float64, on MPS alone without.
    if scales and device.type != "mps" and not has_float64(device):
        raise UserError(f"--precision must be float32 or bfloat16 on {device}, which has no float64; got float16")
    return torch.amp.GradScaler(device.type, enabled=scales)
