"""Loads the compiled libraries, which register kernels under ``torch.ops.fasttriplet``; importing this is enough.

``_C`` has the CPU kernels. ``_cuda`` has the CUDA kernels, is there where nvcc was when the package was built, and can
be loaded only into a PyTorch with CUDA and beside a driver that serves the CUDA runtime inside it. Where one is not
loaded the portable engine takes its place (:mod:`fasttriplet.engines`).
"""

from __future__ import annotations

import ctypes
import mmap
import re
from pathlib import Path

import torch

_FOLDER = Path(__file__).resolve().parent
_CPU = _FOLDER / "_C.abi3.so"
_CUDA = _FOLDER / "_cuda.abi3.so"


def load_cpu() -> str | None:
    """Loads ``_C``; None where that went well, else why not and what to do about it. Twice is harmless."""
    if not _CPU.is_file():
        if (_FOLDER.parent / "setup.py").is_file():
            advice = (
                f"{_FOLDER.parent} is a source checkout in which it was not built: run `pip install -e .` there, "
                "or `pip install .` and start Python in another folder"
            )
        else:
            advice = "run `pip install .` or `pip install -e .` in the sources, where there is a C++ compiler"
        return f"{_CPU} is not there; {advice}"
    try:
        torch.ops.load_library(str(_CPU))
    except OSError as error:
        return (
            f"{_CPU} cannot be loaded into PyTorch {torch.__version__}, which must be 2.10 or later and built for this "
            f"machine: {_with_cause(error)}"
        )
    return None


def load_cuda() -> str | None:
    """Loads ``_cuda`` into a PyTorch with CUDA; None where that went well, else why not. Twice is harmless."""
    if not _CUDA.is_file():
        return "it was not built; FASTTRIPLET_CUDA=1 at build time asks for it"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} has no CUDA"
    runtime, driver = cuda_runtime(), cuda_driver()
    # Within a major version every driver serves every runtime. Without a driver the first call says so.
    if runtime is not None and driver is not None and driver[0] < runtime[0]:
        return (
            f"the NVIDIA driver serves CUDA {dotted(driver)} at most and the library has the runtime of CUDA "
            f"{dotted(runtime)}: update the driver to one of CUDA {runtime[0]}, or build fasttriplet with a toolkit of "
            f"CUDA {driver[0]} in CUDA_HOME"
        )
    try:
        torch.ops.load_library(str(_CUDA))
    except OSError as error:
        return _with_cause(error)
    return None


def cuda_runtime() -> tuple[int, int] | None:
    """The version of the CUDA runtime inside ``_cuda``, read from the file; None where it was not built."""
    if not _CUDA.is_file() or _CUDA.stat().st_size == 0:  # nothing empty can be mapped
        return None
    # Tens of megabytes, at every import: mapped, not copied.
    with _CUDA.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        found = re.search(rb"fasttriplet_cuda_runtime=(\d+)", text)
        return None if found is None else _version(int(found[1]))


def cuda_driver() -> tuple[int, int] | None:
    """The newest CUDA that the driver here serves; None without a driver. It makes no context: a fork may follow."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return _version(version.value)


def cuda_architectures() -> list[tuple[int, int]]:
    """The compute capabilities that ``_cuda`` was built for, where it is loaded; else none."""
    if cuda_absence is not None:
        return []
    text = torch.ops.fasttriplet._cuda_build_info()
    listed = re.search(r"cuda_architectures=(.*)", text)
    found = re.findall(r"(\d+)\.(\d+)", listed[1] if listed else "")
    return [(int(major), int(minor)) for major, minor in found]


def dotted(version: tuple[int, int]) -> str:
    """13.0 for (13, 0)."""
    return f"{version[0]}.{version[1]}"


def _version(number: int) -> tuple[int, int]:
    """CUDA writes 13.2 as 13020."""
    return number // 1000, number % 1000 // 10


def _with_cause(error: OSError) -> str:
    """PyTorch says that a library could not be loaded, and the linker, in the cause, why."""
    return f"{error}: {error.__cause__}" if error.__cause__ else str(error)


#: Why the CPU library is not loaded; None where it is.
cpu_absence: str | None = load_cpu()
#: Why the CUDA library is not loaded; None where it is.
cuda_absence: str | None = load_cuda()
