"""Whether anything can be checked here: the libraries load and serve 64 rows, by float32 products.

The tensor cores have steps of their own, whose hang or fault would be no reason to run nothing else.

Exit status 2 where they do not, 3 without a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys

try:
    import torch
except ImportError as error:
    raise SystemExit(f"{sys.executable} cannot import PyTorch ({error}); name a Python that can in PYTHON") from None

NOT_LOADED, NO_GPU = 2, 3


def sentences(error: BaseException | None) -> str:
    """An error and what it came from, a line each: the linker's own sentence is the cause of PyTorch's."""
    lines = []
    while error is not None:
        lines.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(lines)


def serve(device: str) -> None:
    """Loads what the check is about and has it answer once; raises where that fails."""
    import fasttriplet
    from benchmarks.gpu import products
    from fasttriplet import _library, info

    if device == "cuda":
        if _library.cuda_absence is not None:
            raise RuntimeError(f"fasttriplet's CUDA library is not loaded: {_library.cuda_absence}")
    else:
        from tests.native import module

        module.load()  # the shim stands in for the GPU
    rows = torch.randn(64, 8, device=device, requires_grad=True)
    with products.forced("float"):
        fasttriplet.batch_hard_triplet_loss(rows, torch.arange(64, device=device) // 4).backward()
    if rows.grad is None or not rows.grad.isfinite().all():
        raise RuntimeError("the gradient of 64 rows is not finite")
    print(info.format_info(info.build_info()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args().device
    if device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing was run, and nothing is claimed about a GPU")
        return NO_GPU
    if device == "cuda":
        print(torch.cuda.get_device_name(), f"PyTorch {torch.__version__}, {os.cpu_count()} cores")
    try:
        serve(device)
    except Exception as error:
        print(sentences(error))
        return NOT_LOADED
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
