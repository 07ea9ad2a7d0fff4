"""Which engine serves a call, and what is said about it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import fasttriplet
from fasttriplet import _library, engines
from fasttriplet.engines import Engine, engine_of
from fasttriplet.portable.operators import OPERATORS
from tests.engine import CudaEngine

ROOT = Path(__file__).resolve().parent.parent
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As if the CUDA library were loaded, with kernels for 7.5 and later, beside a GPU of 9.0."""
    monkeypatch.setattr(_library, "cuda_absence", None)
    monkeypatch.setattr(_library, "cuda_architectures", lambda: [(7, 5), (9, 0)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    engines._too_old.cache_clear()
    yield monkeypatch
    engines._too_old.cache_clear()


# The choice.


@pytest.mark.parametrize("name", OPERATORS)
def test_the_cpu_has_a_kernel_for_every_operator(name: str):
    for device in (CPU, torch.device("meta")):
        assert engine_of(name, device) == Engine("cpu", "")
    assert engines.operator(name, CPU) is getattr(torch.ops.fasttriplet, name).default


def test_the_portable_engine_is_forced_anywhere(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "forced", True)
    for device in (CPU, CUDA, torch.device("xpu")):
        assert engine_of("batch_all", device) == Engine("portable", "FASTTRIPLET_ENGINE=portable forces it")
    assert engines.operator("batch_all", CPU) is torch.ops.fasttriplet.portable_batch_all.default


def test_without_the_cpu_library(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_library, "cpu_absence", "lost")
    assert engine_of("batch_all", CPU) == Engine("portable", "the compiled library is missing: lost")
    assert engines.operator("batch_all", CPU) is torch.ops.fasttriplet.portable_batch_all.default


def test_without_the_cuda_library(cuda: pytest.MonkeyPatch):
    cuda.setattr(_library, "cuda_absence", "it was not built")
    for name in OPERATORS:
        assert engine_of(name, CUDA) == Engine("portable", "the CUDA library is not loaded: it was not built")


def registered_for_cuda() -> set[str]:
    """What the CUDA library's sources register for that device, its own operators aside."""
    sources = "".join(path.read_text() for path in (ROOT / "csrc" / "cuda").glob("register*.cu"))
    return set(re.findall(r'm\.impl\("(\w+)"', sources)) & set(OPERATORS)


def test_the_table_of_cuda_kernels_is_what_the_library_registers():
    assert set(engines.CUDA_KERNELS) == registered_for_cuda()


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_with_a_cuda_kernel_and_without(cuda: pytest.MonkeyPatch, name: str):
    there = name in engines.CUDA_KERNELS
    expected = Engine("cuda", "") if there else Engine("portable", "it has no CUDA kernel")
    assert engine_of(name, CUDA) == engine_of(name, torch.device("cuda", 1)) == expected
    assert engines.operator(name, CUDA) is getattr(torch.ops.fasttriplet, ("" if there else "portable_") + name).default


def test_rocm_calls_itself_cuda(cuda: pytest.MonkeyPatch):
    cuda.setattr(torch.version, "hip", "6.2")
    assert engine_of("batch_hard_loss", CUDA) == Engine("portable", "the CUDA kernels do not run under ROCm")


@pytest.mark.parametrize(("capability", "engine"), [((7, 0), "portable"), ((7, 5), "cuda"), ((12, 0), "cuda")])
def test_a_gpu_older_than_the_kernels(cuda: pytest.MonkeyPatch, capability: tuple[int, int], engine: str):
    asked = []
    cuda.setattr(torch.cuda, "get_device_capability", lambda index: asked.append(index) or capability)
    found = [engine_of("batch_hard_loss", torch.device("cuda", 1)) for _ in range(2)]
    assert found[0] == found[1] and found[0].name == engine
    assert asked == [1]  # once, since PyTorch asks the driver
    if engine == "portable":
        assert found[0].why == "GPU 1 is of compute capability 7.0, and the kernels are for 7.5 and later"


def test_what_a_cuda_kernel_does_not_serve(cuda: pytest.MonkeyPatch):
    cuda.setitem(engines.CUDA_KERNELS, "mine_triplets", frozenset({"ref_embeddings", "groups"}))
    assert engine_of("mine_triplets", CUDA, ["groups", "ref_embeddings"]) == Engine("cuda", "")
    found = engine_of("mine_triplets", CUDA, ["groups", "ignore_index", "the miner k_hardest"])
    assert found == Engine("portable", "its CUDA kernel does not serve ignore_index, the miner k_hardest")


def test_what_a_batch_uses():
    given = dict.fromkeys(engines.LISTED)
    rows, some = torch.zeros(4, 2), torch.zeros(4)
    assert engines.uses_of(some, None, (), (0,)) == []
    assert engines.uses_of(torch.zeros(4, 3), None, (), (0, 7)) == ["labels [N, C]", "ignore_index"]
    given |= {"ref_labels": some, "groups": some, "ref_groups": some, "ref_mask": some}
    assert engines.uses_of(some, rows, tuple(given.values()), (1,)) == ["ref_embeddings", "groups", "ref_mask"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mps", Engine("cpu and back", "mps has no float64")),
        ("xpu", Engine("portable", "there are no kernels for xpu")),
        ("hpu", Engine("portable", "there are no kernels for hpu")),
    ],
)
def test_other_devices(kind: str, expected: Engine):
    assert {engine_of(name, torch.device(kind)) for name in OPERATORS} == {expected}


# What a call runs.


def operators_of(function: str, device: str, **arguments: Tensor) -> set[str]:
    """The operators in the graph of a call with fake tensors."""
    with FakeTensorMode():
        rows, labels = torch.empty(8, 3, device=device), torch.zeros(8, dtype=torch.int64, device=device)
        given = {name: labels for name in arguments}
        graph = make_fx(lambda x, y: tuple(getattr(fasttriplet, function)(x, y, **given)))(rows, labels).graph
    names = [str(node.target) for node in graph.nodes]
    return {name.split(".")[1] for name in names if name.startswith("fasttriplet.")}


def test_a_call_on_cuda_takes_the_kernels_that_there_are(cuda: pytest.MonkeyPatch):
    assert operators_of("mine_batch_hard", "cuda") == {"mine_batch_hard"}
    assert operators_of("mine_batch_hard", "cuda", groups=None) == {"mine_triplets"}
    assert operators_of("mine_easy_positive", "cuda") == {"portable_mine_triplets"}
    cuda.setattr(_library, "cuda_absence", "it was not built")
    assert operators_of("mine_batch_hard", "cuda") == {"portable_mine_batch_hard"}


def test_a_miner_beyond_batch_hard_is_a_use_of_its_own(cuda: pytest.MonkeyPatch):
    cuda.setitem(engines.CUDA_KERNELS, "mine_triplets", frozenset({"groups"}))
    assert operators_of("mine_batch_hard", "cuda", groups=None) == {"mine_triplets"}
    assert operators_of("mine_k_hardest", "cuda", groups=None) == {"portable_mine_triplets"}


def test_a_call_on_a_device_without_kernels():
    assert operators_of("mine_batch_hard", "xpu") == {"portable_mine_batch_hard"}


def test_the_portable_engine_serves_another_device(other_device: dict):
    assert len(other_device["portable"]) > 60
    assert {name: wrong for name, wrong in other_device["portable"].items() if wrong} == {}


def test_tests_on_a_gpu_call_the_engine_that_serves_the_call():
    """On the CPU in its place."""
    called = CudaEngine("cpu").kernel("mine_triplets")
    options = 0, 1, 0, False, 0.3, 1, False, 0.0
    for ours, theirs in zip(
        called(*BATCH, *options), torch.ops.fasttriplet.mine_triplets(*BATCH, *options), strict=True
    ):
        assert torch.equal(ours, theirs)


# What is said.


def test_it_is_said_once_for_each_operator_and_device_with_the_callers_file(other_device: dict):
    texts, files, categories = zip(*other_device["of the engine"]["warnings"], strict=True)
    for text, name in zip(texts, ["mine_batch_hard", "batch_hard_loss"], strict=True):
        assert text.startswith(
            f"fasttriplet runs {name} on other:0 by its portable engine, in plain PyTorch: there are"
        )
        assert "`python -m fasttriplet`" in text and "FASTTRIPLET_FALLBACK=silent" in text
    assert set(files) == {str(ROOT / "tests" / "other_device.py")}
    assert set(categories) == {"EngineWarning"}


def test_it_is_refused_at_every_call_where_that_is_wanted(other_device: dict):
    first, second = other_device["of the engine"]["refused"]
    assert first == second
    assert first.startswith("RuntimeError: fasttriplet runs mine_batch_hard on other:0 by its portable engine")
    assert first.endswith("; FASTTRIPLET_FALLBACK=error forbids it")


def announced(name: str, *arguments: object, fallback: str = "warn", chosen: bool = True) -> list[str]:
    """What is said of the portable engine's operator, twice called on the CPU, as if it were ``chosen`` there."""
    engines._announced.clear()
    with warnings.catch_warnings(record=True) as caught, pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("always")
        patch.setattr(engines, "fallback", fallback)
        if chosen:
            patch.setattr(engines, "engine_of", lambda *call: Engine("portable", "there are none"))
        for _ in range(2):
            getattr(torch.ops.fasttriplet, name)(*arguments)
    engines._announced.clear()
    assert {each.filename for each in caught} <= {__file__}
    return [str(each.message) for each in caught]


BATCH = torch.randn(6, 2), torch.arange(6) % 2, None, [], [0]


def test_operators_of_a_way_back_say_nothing():
    assert len(announced("portable_weighted_distances", *BATCH, 0)) == 1
    values = torch.ops.fasttriplet.weighted_distances(*BATCH, 0)
    grad = torch.ones(2, 6, dtype=torch.float64)
    assert announced("portable__weighted_distances_backward", grad, *BATCH, 0, values) == []


def test_an_operator_of_the_portable_engine_called_by_its_name_says_nothing():
    assert announced("portable_mine_batch_hard", *BATCH[:2], 0, chosen=False) == []


def test_silence():
    assert announced("portable_mine_batch_hard", *BATCH[:2], 0, fallback="silent") == []


def test_nothing_is_said_of_kernels():
    rows, labels = torch.randn(6, 2, requires_grad=True), torch.arange(6) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", fasttriplet.EngineWarning)
        for name in (each for each in fasttriplet.__all__ if each.endswith("_triplet_loss")):
            loss = getattr(fasttriplet, name)(rows, labels, weights=torch.ones(6))
            loss.backward()
    assert rows.grad is not None


def test_nothing_is_said_where_it_is_forced(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "forced", True)
    assert announced("portable_mine_batch_hard", *BATCH[:2], 0, fallback="error") == []


@pytest.mark.parametrize(
    ("name", "choices"), [("FASTTRIPLET_ENGINE", "auto, portable"), ("FASTTRIPLET_FALLBACK", "warn, silent, error")]
)
def test_variables_take_what_they_name(name: str, choices: str):
    environ = {**os.environ, name: "fast"}
    result = subprocess.run([sys.executable, "-c", "import fasttriplet"], env=environ, capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == f"ValueError: {name} must be one of {choices}; got 'fast'"


def test_variables_that_are_empty_are_not_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FASTTRIPLET_FALLBACK", "")
    assert engines._from_environment("FASTTRIPLET_FALLBACK", engines.FALLBACKS, "warn") == "warn"
