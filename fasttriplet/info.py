"""What a bug report needs: versions, compiler, instruction sets, threads, libraries, and what runs where."""

from __future__ import annotations

import os
import platform

import torch

from fasttriplet import _library
from fasttriplet.engines import CUDA_KERNELS, Engine, engine_of
from fasttriplet.schemas import SCHEMAS

#: What only the CPU library knows.
_OF_THE_CPU_LIBRARY = ("compiler", "cxx_standard", "tiers", "tiers_available", "tier")
#: Operators of a batch, whose calls may use more than labels [N].
_OF_A_BATCH = ("mine_triplets", "batch_all", "weighted_distances")


def build_info() -> dict[str, str | int | bool | None]:
    """Facts about this installation and this machine.

    Returns:
        A dict with the keys, in this order:

        - ``fasttriplet``, ``torch``, ``python``: versions.
        - ``torch_cuda``: the CUDA version PyTorch was built with; None for a CPU build.
        - ``platform``: operating system and machine.
        - ``cpu_library``: True where the CPU library is loaded. Where it is not, the next five are None.
        - ``cpu_library_absence``: why it is not; None where it is.
        - ``compiler``: what compiled the CPU library.
        - ``cxx_standard``: the C++ standard it was compiled as, the value of ``__cplusplus``.
        - ``tiers``: the instruction-set tiers in the library, parted by commas.
        - ``tiers_available``: those of them that this CPU has.
        - ``tier``: the one in use.
        - ``FASTTRIPLET_ISA``: the environment variable that forces a tier; None where it is not set.
        - ``FASTTRIPLET_ENGINE``, ``FASTTRIPLET_FALLBACK``: see :mod:`fasttriplet.engines`; None where they are not set.
        - ``threads``: as many as PyTorch uses on the CPU.
        - ``cuda_library``: True where the CUDA library is loaded.
        - ``cuda_library_absence``: why it is not; None where it is.
        - ``cuda_runtime``: the version of the CUDA runtime inside it; None where it was not built.
        - ``cuda_driver``: the newest CUDA that the NVIDIA driver serves; None where there is none.
        - ``nvcc``, ``cuda_architectures``: what compiled the CUDA library and for which GPUs; only where it is loaded.

    Example:
        >>> from fasttriplet import build_info
        >>> info = build_info()
        >>> info["torch"].split(".")[0]
        '2'
    """
    import fasttriplet  # here, since that module imports this one

    info: dict[str, str | int | bool | None] = {
        "fasttriplet": fasttriplet.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "torch_cuda": torch.version.cuda,
        "platform": platform.platform(),
    }
    info["cpu_library"] = _library.cpu_absence is None
    info["cpu_library_absence"] = _library.cpu_absence
    info.update(dict.fromkeys(_OF_THE_CPU_LIBRARY))
    if _library.cpu_absence is None:
        info.update(_pairs(torch.ops.fasttriplet._build_info()))
    for variable in ("FASTTRIPLET_ISA", "FASTTRIPLET_ENGINE", "FASTTRIPLET_FALLBACK"):
        info[variable] = os.environ.get(variable)
    info["threads"] = torch.get_num_threads()
    info["cuda_library"] = _library.cuda_absence is None
    info["cuda_library_absence"] = _library.cuda_absence
    for name, version in (("cuda_runtime", _library.cuda_runtime()), ("cuda_driver", _library.cuda_driver())):
        info[name] = None if version is None else _library.dotted(version)
    if _library.cuda_absence is None:
        info.update(_pairs(torch.ops.fasttriplet._cuda_build_info()))
    return info


def format_info(info: dict[str, str | int | bool | None]) -> str:
    """One aligned line per fact; None is shown as ``-``.

    Example:
        >>> print(format_info({"tier": "portable", "threads": 2, "FASTTRIPLET_ISA": None}))
        tier             portable
        threads          2
        FASTTRIPLET_ISA  -
    """
    width = max(map(len, info))
    return "\n".join(f"{name:<{width}}  {'-' if value is None else value}" for name, value in info.items())


def engine_table() -> dict[str, dict[str, Engine]]:
    """Which engine each operator gets on each type of device, here or not.

    Returns:
        By device, as ``"cuda"``, or ``"cuda:1"`` where it differs from the first of its type, and by the operators'
        names: :class:`fasttriplet.engines.Engine`, that of a call with labels [N] alone. Operators of the way back go
        with those of the way there.

    Example:
        >>> from fasttriplet.info import engine_table
        >>> table = engine_table()
        >>> list(table)[:2], table["mps"]["batch_all"].name
        (['cpu', 'cuda'], 'cpu and back')
    """
    table: dict[str, dict[str, Engine]] = {}
    for kind in dict.fromkeys(("cpu", "cuda", "mps", "xpu", *_devices_here())):
        table[kind] = _engines_on(torch.device(kind))
        for index in range(1, _count(kind)):
            engines = _engines_on(torch.device(kind, index))
            if engines != table[kind]:
                table[f"{kind}:{index}"] = engines
    return table


def format_engines(table: dict[str, dict[str, Engine]]) -> str:
    """The operators in rows and devices in columns, reasons below.

    Example:
        >>> from fasttriplet.engines import Engine
        >>> from fasttriplet.info import format_engines
        >>> kernel, why = Engine("cpu", ""), Engine("portable", "there are no kernels for hpu")
        >>> print(format_engines({"cpu": {"batch_all": kernel}, "hpu": {"batch_all": why}}))
        operator   cpu  hpu *
        batch_all  cpu  portable [1]
        <BLANKLINE>
        [1] there are no kernels for hpu
        * no such device here
    """
    reasons: list[str] = []
    here = _devices_here()

    def cell(device: str, operator: str) -> str:
        name, why = table[device][operator]
        if name == "cuda" and operator in _OF_A_BATCH:
            served = ", ".join(("labels [N]", *sorted(CUDA_KERNELS[operator])))
            why = f"calls that use nothing but {served}; others by the portable engine"
        if not why:
            return name
        if why not in reasons:
            reasons.append(why)
        return f"{name} [{reasons.index(why) + 1}]"

    absent = [device for device in table if device.split(":")[0] not in here]
    rows = [["operator", *(f"{device} *" if device in absent else device for device in table)]]
    rows += [[operator, *(cell(device, operator) for device in table)] for operator in next(iter(table.values()))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"[{number}] {why}" for number, why in enumerate(reasons, 1)]
    notes += ["* no such device here"] if absent else []
    return "\n".join([*lines, "", *notes] if notes else lines)


def _engines_on(device: torch.device) -> dict[str, Engine]:
    return {name: engine_of(name, device) for name in SCHEMAS if not name.startswith("_")}


def _devices_here() -> list[str]:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return ["cpu"] if accelerator is None else ["cpu", accelerator.type]


def _count(kind: str) -> int:
    return torch.accelerator.device_count() if kind != "cpu" and kind in _devices_here() else 1


def _pairs(text: str) -> dict[str, str]:
    """The lines ``key=value`` of the libraries' own reports."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
