"""Loads the compiled libraries, which register the operators under ``torch.ops.fasttriplet``; importing this is enough.

``_C`` has the schemas and the CPU kernels and must be there. ``_cuda`` has the CUDA kernels, is there where nvcc was
when the package was built, and can be loaded only into a PyTorch with CUDA: without it the CPU still works.
"""

from __future__ import annotations

from pathlib import Path

import torch

_FOLDER = Path(__file__).resolve().parent


def load_cpu() -> None:
    """Loads ``_C``; raises ImportError with what to do about it where that fails. Twice is harmless."""
    path = _FOLDER / "_C.abi3.so"
    if not path.is_file():
        if (_FOLDER.parent / "setup.py").is_file():
            advice = (
                f"{_FOLDER.parent} is a source checkout in which it was not built: run `pip install -e .` there, "
                "or `pip install .` and start Python in another folder"
            )
        else:
            advice = "the installation is not complete: run `pip install .` or `pip install -e .` in the sources"
        raise ImportError(f"fasttriplet's compiled library {path} is missing; {advice}", path=str(path))
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise ImportError(
            f"fasttriplet's compiled library cannot be loaded into PyTorch {torch.__version__}, which must be 2.10 "
            f"or later and built for this machine: {error}",
            path=str(path),
        ) from error


def load_cuda() -> str | None:
    """Loads ``_cuda`` into a PyTorch with CUDA; None where that went well, else why not. Twice is harmless."""
    path = _FOLDER / "_cuda.abi3.so"
    if not path.is_file():
        return "it was not built; FASTTRIPLET_CUDA=1 at build time asks for it"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} has no CUDA"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return str(error)
    return None


load_cpu()
#: Why the CUDA library is not loaded; None where it is.
cuda_absence: str | None = load_cuda()
