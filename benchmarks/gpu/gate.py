"""Whether anything can be checked here: the libraries load and serve 64 rows. How exact tensor cores are is told too.

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
#: Of the test of one kind of tensor cores, in a process apart: a hang there is a later step's failure, not the gate's.
TEST_SECONDS = 15.0


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
    from fasttriplet import _library, info

    if device == "cuda":
        if _library.cuda_absence is not None:
            raise RuntimeError(f"fasttriplet's CUDA library is not loaded: {_library.cuda_absence}")
    else:
        from tests.native import module

        module.load()  # the shim stands in for the GPU
    rows = torch.randn(64, 8, device=device, requires_grad=True)
    fasttriplet.batch_hard_triplet_loss(rows, torch.arange(64, device=device) // 4).backward()
    if rows.grad is None or not rows.grad.isfinite().all():
        raise RuntimeError("the gradient of 64 rows is not finite")
    print(info.format_info(info.build_info()))


def tell_shares(device: torch.device) -> None:
    """A line for each kind of products; nothing that goes wrong there is the gate's failure."""
    from benchmarks.gpu import products
    from benchmarks.gpu.apart import Apart

    with Apart(TEST_SECONDS) as apart:
        for kind in products.PRODUCTS:
            try:
                print(apart(products.share, kind, device), flush=True)
            except RuntimeError as error:
                print(f"{kind}: the test of its tensor cores ended in {error}", flush=True)


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
    tell_shares(torch.device(device))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
