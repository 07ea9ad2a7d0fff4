"""Which device a run takes, and what of float64 it has."""

from __future__ import annotations

import torch

from examples.resnet50.errors import UserError

#: The accelerators that are offered; torch.accelerator knows more, which may lack the fused Adam, say.
TYPES = ("cuda", "mps", "xpu")


def available_devices() -> list[torch.device]:
    """Every device that a run can take: accelerators, PyTorch's current one first, then the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None or accelerator.type not in TYPES:
        return [torch.device("cpu")]
    current = torch.accelerator.current_device_index()
    indices = sorted(range(torch.accelerator.device_count()), key=lambda index: (index != current, index))
    return [*(torch.device(accelerator.type, index) for index in indices), torch.device("cpu")]


def choose_device(name: str) -> torch.device:
    """The device that ``--device name`` means: ``auto`` is the first there is, a type the first of that type."""
    here = available_devices()
    if name == "auto":
        return here[0]
    for device in here:
        if name in (device.type, str(device)):
            return device
    found = ", ".join(map(str, here))
    raise UserError(f"--device must be auto or one that PyTorch {torch.__version__} finds here: {found}; got {name}")


def choose_own_device(name: str, index: int, number: int) -> torch.device:
    """The same for process ``index`` of the ``number`` on this machine: they share the CPU, or have a GPU each."""
    device = choose_device(name)
    if number == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or ":" in name:
        raise UserError(f"--device must be cpu or cuda for several processes, each of which has a GPU; got {name}")
    if number > torch.cuda.device_count():
        raise UserError(
            f"--nproc-per-node must be at most {torch.cuda.device_count()}, the number of GPUs, or --device cpu; "
            f"got {number}"
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


def has_float64(device: torch.device) -> bool:
    """Apple's GPUs have none, nor have some of Intel's."""
    if device.type == "xpu":
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return device.type != "mps"


def float64_device(device: torch.device) -> torch.device:
    """Where to compute in float64 what lies on ``device``: there, or on the CPU."""
    return device if has_float64(device) else torch.device("cpu")
