"""FASTTRIPLET_TEST_ENGINE runs the tests of the package (``SUITE``) on another engine than the CPU's.

``cuda`` is a GPU, ``shim`` the CUDA kernels on the host (``make test-shim``), ``portable`` the engine of that name on
the CPU (``make test-portable``). The tests stay as they are: the operators' CPU kernels are replaced by ones that take
their tensors there and bring the results back, or by the portable engine. On a GPU that engine has its turn with
FASTTRIPLET_ENGINE=portable beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fasttriplet import engines
from fasttriplet.check import REDUCTIONS
from fasttriplet.portable.operators import OPERATORS
from tests.native import module

ENGINE = os.environ.get("FASTTRIPLET_TEST_ENGINE", "cpu")
#: What calls the operators and says something of every engine. The shim has no checks of tensors: test_arguments.
SUITE = (
    *("test_functional.py", "test_autograd.py", "test_invariance.py", "test_losses.py", "test_miners.py"),
    *("test_triplet_margin.py", "test_triplet_margin_autograd.py"),
    *(["test_arguments.py"] if ENGINE == "cuda" else []),
)
#: Of the compiled libraries, of a GPU, of the build and of what surrounds the package.
_NOT_PORTABLE = (
    *("native", "examples", "test_benchmarks.py", "test_cuda.py", "test_cuda_driver.py", "test_cuda_library.py"),
    *("test_engines.py", "test_gpu_check.py", "test_gpu_script.py", "test_info.py", "test_packaging.py"),
    *("scripts", "test_rooms.py", "test_sampler.py", "test_sampler_trainers.py", "test_workflows.py", "typing"),
)
#: Of a test of the host's processor, of its compiler or of Python: on another engine it would only take the time.
host_only = pytest.mark.skipif(ENGINE != "cpu", reason="says nothing about another engine")


class CudaEngine:
    """Every call on a GPU, by the engine that serves it there: with FASTTRIPLET_ENGINE=portable always by that."""

    def __init__(self, device: str = "cuda") -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("FASTTRIPLET_TEST_ENGINE=cuda needs a GPU, and PyTorch sees none")

    def kernel(self, name: str) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            moved = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(self.device), arguments)
            uses = []
            if name in ("mine_triplets", "semi_hard", "batch_all", "weighted_distances"):
                uses = engines.uses_of(moved[1], *moved[2:5])
            if name == "mine_triplets":
                uses += engines.miner_uses(moved[6])
            return pytree.tree_map_only(Tensor, Tensor.cpu, engines.operator(name, self.device, uses)(*moved))

        return call


class ShimEngine:
    """Every call by the CUDA kernels under the shim of tests/native/cuda."""

    def __init__(self) -> None:
        self.native = module.load().cuda
        self.calls = 0

    def _settings(self) -> object:
        settings = self.native.Settings()
        settings.seed, settings.deferred_copies = self.calls, self.calls % 2 == 1
        settings.deferred_products = self.calls % 4 >= 2  # of wgmma, whose groups end later
        self.calls += 1
        return settings

    @staticmethod
    def _products(n: int) -> str:
        """As on a GPU that can do all of them, by FASTTRIPLET_CUDA_PRODUCTS."""
        wish = os.environ.get("FASTTRIPLET_CUDA_PRODUCTS") or "tensor"
        return wish if wish != "tensor" else "small-tensor" if n <= 4096 else "large-tensor"

    def _run(self, rows: Tensor, labels: Tensor, distance: int, *options: object) -> dict:
        suffix = str(rows.dtype).removeprefix("torch.")
        function = getattr(self.native, f"mine_{suffix}")
        products = self._products(len(rows))
        return function(rows.numpy(force=True), labels.long().numpy(), distance, products, self._settings(), *options)

    def mine_batch_hard(self, rows: Tensor, labels: Tensor, distance: int) -> tuple[Tensor, ...]:
        found = self._run(rows, labels, distance, 0.0, False, 0, 0)
        positives, negatives = torch.from_numpy(found["pairs"])
        return torch.from_numpy(found["distances"]), positives.clone(), negatives.clone()

    def batch_hard_loss(
        self, rows: Tensor, labels: Tensor, margin: float, distance: int, soft: bool, reduction: int, on_missing: int
    ) -> tuple[Tensor, ...]:
        found = self._run(rows, labels, distance, margin, soft, reduction, on_missing)
        loss = torch.as_tensor(found["loss"], dtype=rows.dtype)
        assert loss.dim() == (REDUCTIONS[reduction] == "none")
        values = torch.cat([torch.from_numpy(found["slopes"])[None], torch.from_numpy(found["distances"])])
        return loss, values, torch.from_numpy(found["pairs"])

    def _batch_hard_loss_backward(
        self, grad_loss: Tensor, rows: Tensor, values: Tensor, pairs: Tensor, distance: int
    ) -> Tensor:
        suffix = str(rows.dtype).removeprefix("torch.")
        gradient = getattr(self.native, f"backward_{suffix}")(
            rows.numpy(force=True),
            pairs.numpy(force=True),
            values[1:].numpy(force=True),
            values[0].numpy(force=True),
            grad_loss.numpy(force=True),
            distance,
            self._settings(),
        )
        return torch.from_numpy(gradient)

    def triplet_margin_loss(
        self, anchor: Tensor, positive: Tensor, negative: Tensor, weights: Tensor | None, *options: object
    ) -> tuple[Tensor, Tensor]:
        rows = [tensor.numpy(force=True) for tensor in (anchor, positive, negative)]
        numbers = torch.zeros(0) if weights is None else weights
        function = getattr(self.native, f"triplet_margin_{rows[0].dtype}")
        found = function(rows, numbers.double().numpy(force=True), *options, self._settings())
        return torch.from_numpy(found["loss"]), torch.from_numpy(found["values"])

    def _triplet_margin_loss_backward(
        self,
        grad_loss: Tensor,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        values: Tensor,
        distance: int,
        swap: bool,
        *wanted: bool,
    ) -> tuple[Tensor, ...]:
        rows = [tensor.numpy(force=True) for tensor in (anchor, positive, negative)]
        function = getattr(self.native, f"triplet_margin_backward_{rows[0].dtype}")
        upstream, saved = grad_loss.numpy(force=True), values.numpy(force=True)
        found = function(rows, saved, upstream, distance, swap, list(wanted), self._settings())
        return tuple(
            torch.from_numpy(gradient if want else gradient.reshape(-1))
            for gradient, want in zip(found, wanted, strict=True)
        )


#: The operators that the shim replaces.
REPLACED = (
    *("mine_batch_hard", "batch_hard_loss", "_batch_hard_loss_backward"),
    *("triplet_margin_loss", "_triplet_margin_loss_backward"),
)


def runs(name: str) -> bool:
    """Whether a file or folder of tests says something of the engine."""
    everything = ENGINE == "portable" or (ENGINE == "cuda" and engines.forced)
    return name not in _NOT_PORTABLE if everything else name in SUITE


def replace_cpu_kernels(kernels: dict[str, Callable[..., object]]) -> torch.library.Library:
    library = torch.library.Library("fasttriplet", "IMPL")
    for name, kernel in kernels.items():
        library.impl(name, kernel, "CPU", allow_override=True)
    return library


def select() -> torch.library.Library | None:
    """Replaces the kernels for as long as what it returns lives; None for the CPU's own."""
    if ENGINE == "cpu":
        return None
    if ENGINE == "portable":
        # The package itself must choose it, too: by FASTTRIPLET_ENGINE.
        assert engines.forced, "FASTTRIPLET_TEST_ENGINE=portable needs FASTTRIPLET_ENGINE=portable beside it"
        return replace_cpu_kernels(OPERATORS)
    if ENGINE == "cuda":
        gpu = CudaEngine()
        return replace_cpu_kernels({name: gpu.kernel(name) for name in OPERATORS})
    if ENGINE != "shim":
        raise ValueError(f"FASTTRIPLET_TEST_ENGINE must be cpu, cuda, shim or portable; got {ENGINE!r}")
    shim = ShimEngine()
    return replace_cpu_kernels({name: getattr(shim, name) for name in REPLACED})
