"""Whether the installed wheel's CUDA library works inside a CUDA PyTorch as far as that can be seen without a GPU.

`make test-cuda-load` runs it as a script, isolated (python -I), in an environment that has both. Every check has a
process of its own, since what goes wrong in one may end the process.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fasttriplet
from fasttriplet import _library

SOURCES = Path(__file__).resolve().parent.parent
NO_DRIVER = "fasttriplet: CUDA kernels need an NVIDIA driver, and none was found"


def registered() -> set[str]:
    """The operators that csrc/cuda registers for CUDA tensors."""
    found: set[str] = set()
    for path in (SOURCES / "csrc" / "cuda").glob("*.cu"):
        for block in re.findall(r"LIBRARY_IMPL\(fasttriplet, CUDA, m\) \{(.*?)\n\}", path.read_text(), flags=re.DOTALL):
            found.update(re.findall(r'm\.impl\("(\w+)"', block))
    return found


def fake_batch(mode: FakeTensorMode, *, requires_grad: bool) -> tuple[torch.Tensor, torch.Tensor]:
    with mode:
        embeddings = torch.empty(64, 128, device="cuda", requires_grad=requires_grad)
        return embeddings, torch.zeros(64, dtype=torch.int64, device="cuda")


def check_library_is_loaded() -> str:
    assert not Path(fasttriplet.__file__).is_relative_to(SOURCES / "fasttriplet"), fasttriplet.__file__
    info = fasttriplet.build_info()
    assert info["cuda_library"] is True, info["cuda_library_absence"]
    names = ("torch", "cuda_library", "nvcc", "cuda_architectures", "cuda_runtime", "cuda_driver")
    return ", ".join(f"{name} {info[name]}" for name in names)


def check_operators_have_the_cuda_key() -> str:
    names = sorted(registered())
    assert names, "no operator is registered in csrc/cuda"
    for name in names:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fasttriplet::{name}", "CUDA"), name
    return ", ".join(names)


def check_compiled_without_gradient() -> str:
    mode = FakeTensorMode()
    batch = fake_batch(mode, requires_grad=False)
    with mode:
        loss = torch.compile(fasttriplet.batch_hard_triplet_loss, backend="aot_eager", fullgraph=True)(*batch)
        mined = torch.compile(fasttriplet.mine_batch_hard, backend="aot_eager", fullgraph=True)(*batch)
    assert (loss.device.type, loss.shape, loss.dtype) == ("cuda", (), torch.float32), loss
    assert (mined.negatives.device.type, mined.negatives.shape) == ("cuda", (64,)), mined
    return f"a loss {loss.dtype} {list(loss.shape)} on {loss.device}, negatives {list(mined.negatives.shape)}"


def check_compiled_with_gradient() -> str:
    mode = FakeTensorMode()
    embeddings, labels = fake_batch(mode, requires_grad=True)
    with mode:
        loss = torch.compile(fasttriplet.batch_hard_triplet_loss, backend="eager", fullgraph=True)(embeddings, labels)
    assert (loss.device.type, loss.shape, loss.requires_grad) == ("cuda", (), True), loss
    return f"a loss {loss.dtype} {list(loss.shape)} on {loss.device} with a gradient"


def check_calls_without_a_driver_say_so() -> str:
    if _library.cuda_driver() is not None:
        return "left out: a driver is here"
    rows = torch.Tensor._make_wrapper_subclass(Hollow, (8, 4), dtype=torch.float32, device="cuda")
    labels = torch.Tensor._make_wrapper_subclass(Hollow, (8,), dtype=torch.int64, device="cuda")
    values = torch.Tensor._make_wrapper_subclass(Hollow, (3, 8), dtype=torch.float64, device="cuda")
    pairs = torch.Tensor._make_wrapper_subclass(Hollow, (2, 8), dtype=torch.int64, device="cuda")
    upstream = torch.Tensor._make_wrapper_subclass(Hollow, (), dtype=torch.float32, device="cuda")
    operators = torch.ops.fasttriplet
    calls = (
        lambda: operators.mine_batch_hard(rows, labels, 0),
        lambda: operators.batch_hard_loss(rows, labels, 0.2, 0, False, 0, 0),
        lambda: operators._batch_hard_loss_backward(upstream, rows, values, pairs, 0),
        lambda: operators.triplet_margin_loss(rows, rows, rows, None, 0.2, 0, False, False, None, 2),
        lambda: operators.mine_triplets(rows, labels, None, [], [], 0, 0, 0, False, 0.0, 1, False, 0.0),
        lambda: operators._cuda_test_tensor_cores(0, "tensor"),
    )
    with torch._C._DisableTorchDispatch():
        said = [error_of(call) for call in calls]
    assert said == [NO_DRIVER] * len(calls), said
    moved = error_of(lambda: torch.zeros(8, 4).cuda())
    assert "Found no NVIDIA driver" in moved, moved
    return f"ours {NO_DRIVER!r}; PyTorch's, where a tensor is to go to CUDA, {moved!r}"


class Hollow(torch.Tensor):
    """A CUDA tensor without memory, which PyTorch makes without a driver."""

    @classmethod
    def __torch_dispatch__(cls, *_: object) -> None:
        raise AssertionError("the kernels were not called")


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except RuntimeError as error:
        return str(error)
    raise AssertionError("the call went through without a driver")


CHECKS = {name.removeprefix("check_"): function for name, function in globals().items() if name.startswith("check_")}


def main() -> int:
    failed = []
    for name in CHECKS:
        command = [sys.executable, "-I", __file__, name]
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(f"{'passed' if result.returncode == 0 else 'FAILED'}  {name}: {result.stdout.strip()}", flush=True)
        failed += [name] if result.returncode else []
    print(f"{len(CHECKS) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(main())
    print(CHECKS[sys.argv[1]]())
