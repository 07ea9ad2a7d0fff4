"""What a bug report needs: versions, compiler, instruction sets, threads, and whether the CUDA library is there."""

from __future__ import annotations

import os
import platform

import torch

from fasttriplet import _library


def build_info() -> dict[str, str | int | bool | None]:
    """Facts about this installation and this machine.

    Returns:
        A dict with the keys, in this order:

        - ``fasttriplet``, ``torch``, ``python``: versions.
        - ``torch_cuda``: the CUDA version PyTorch was built with; None for a CPU build.
        - ``platform``: operating system and machine.
        - ``compiler``: what compiled the CPU library.
        - ``cxx_standard``: the C++ standard it was compiled as, the value of ``__cplusplus``.
        - ``tiers``: the instruction-set tiers in the library, parted by commas.
        - ``tiers_available``: those of them that this CPU has.
        - ``tier``: the one in use.
        - ``FASTTRIPLET_ISA``: the environment variable that forces a tier; None where it is not set.
        - ``threads``: as many as PyTorch uses on the CPU.
        - ``cuda_library``: True where the CUDA library is loaded.
        - ``cuda_library_absence``: why it is not; None where it is.
        - ``cuda_runtime``: the version of the CUDA runtime inside it; None where it was not built.
        - ``cuda_driver``: the newest CUDA that the NVIDIA driver serves; None where there is none.
        - ``nvcc``, ``cuda_architectures``: what compiled the CUDA library and for which GPUs; only where it is loaded.

    Example:
        >>> from fasttriplet import build_info
        >>> info = build_info()
        >>> info["tier"] in info["tiers_available"].split(",")
        True
    """
    import fasttriplet  # here, since that module imports this one

    info: dict[str, str | int | bool | None] = {
        "fasttriplet": fasttriplet.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "torch_cuda": torch.version.cuda,
        "platform": platform.platform(),
    }
    info.update(_pairs(torch.ops.fasttriplet._build_info()))
    info["FASTTRIPLET_ISA"] = os.environ.get("FASTTRIPLET_ISA")
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


def _pairs(text: str) -> dict[str, str]:
    """The lines ``key=value`` of the libraries' own reports."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
