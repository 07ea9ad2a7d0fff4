"""Devices without float64: to the CPU's kernels and back."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import fasttriplet
from fasttriplet import engines, trip

ROOT = Path(__file__).resolve().parent.parent
LOSSES = [name for name in fasttriplet.__all__ if name.endswith("_triplet_loss")]
MINERS = [name for name in fasttriplet.__all__ if name.startswith("mine_")]
#: What the device computes by itself, in float32 as the originals do: pairs of given triplets in plain PyTorch.
IN_FLOAT32 = {
    *(f"pml loss of each, {name}" for name in ("euclidean", "squared_euclidean", "cosine")),
    "sentence-transformers Triplet, manhattan",
}


def test_all_come_back_as_from_the_cpu(other_device: dict):
    assert len(other_device["there and back"]) > 60
    assert {name: wrong for name, wrong in other_device["there and back"].items() if wrong} == {}


def test_none_but_those_in_float32_would_work_without_the_trip(other_device: dict):
    refused = {name for name, wrong in other_device["refused"].items() if "other has no float64" in wrong}
    assert other_device["refused"].keys() - refused == IN_FLOAT32


def test_it_is_said_once_for_each_function_with_the_callers_file(other_device: dict):
    texts, files, categories = zip(*other_device["of the trip"]["warnings"], strict=True)
    functions = ["mine_batch_hard", "batch_hard_triplet_loss"]
    for text, function in zip(texts, functions, strict=True):
        assert text.startswith(f"fasttriplet runs {function} of tensors on other:0 on the CPU and brings the results")
        assert "other has no float64" in text and "FASTTRIPLET_FALLBACK=silent" in text
    assert set(files) == {str(ROOT / "tests" / "other_device.py")}
    assert set(categories) == {"EngineWarning"}


def test_it_is_refused_at_every_call_where_that_is_wanted(other_device: dict):
    first, second = other_device["of the trip"]["refused"]
    assert first == second
    assert first.startswith("RuntimeError: ") and first.endswith("; FASTTRIPLET_FALLBACK=error forbids it")


def test_tensors_on_two_devices_are_refused(other_device: dict):
    assert other_device["of the trip"]["apart"] == [
        "ValueError: labels must be on the device of embeddings, other:0; got labels on cpu",
        "ValueError: weights must be on the device of embeddings, other:0; got weights on cpu",
    ]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "fallback", "silent")


def fake_batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(8, 3, device="mps"), torch.zeros(8, dtype=torch.int64, device="mps")


@pytest.mark.parametrize("name", [*LOSSES, *MINERS])
def test_no_float64_on_mps(name: str, silent: None):
    # A fake tensor there accepts float64: what is looked at is that nothing makes one.
    with FakeTensorMode(shape_env=ShapeEnv()):
        rows, labels = fake_batch()
        graph = make_fx(lambda x, y: tuple(_leaves(getattr(fasttriplet, name)(x, y))))(rows, labels).graph
        made = [node.meta["val"] for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    there = {value.dtype for value in made if value.device.type == "mps"}
    assert there <= {torch.float32, torch.int64}
    assert torch.float64 in {value.dtype for value in made if value.device.type == "cpu"}


def _leaves(result: object) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


@pytest.mark.parametrize("name", ["batch_hard_triplet_loss", "weighted_triplet_loss", "mine_k_hardest"])
def test_it_is_traced_whole(name: str, silent: None):
    function = getattr(fasttriplet, name)
    compiled = torch.compile(lambda x, y: function(x, y, groups=y), fullgraph=True, backend="eager")
    with FakeTensorMode():
        results = _leaves(compiled(*fake_batch()))
    assert {result.device.type for result in results} == {"mps"}
    assert {result.dtype for result in results} <= {torch.float32, torch.int64}


def test_the_cpu_never_travels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "without_float64", frozenset({"mps", "cpu"}))
    assert not trip.away(torch.zeros(2))
    assert not trip.away([0.0])


@pytest.mark.parametrize(("has", "engine"), [(False, "cpu and back"), (True, "portable")])
def test_an_xpu_is_asked_for_float64(monkeypatch: pytest.MonkeyPatch, has: bool, engine: str):
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "current_device", lambda: 0)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda index: type("Properties", (), {"has_fp64": has}))
    engines._xpu_lacks_float64.cache_clear()
    for device in (torch.device("xpu"), torch.device("xpu", 1)):
        assert engines.lacks_float64(device) is not has
        assert engines.engine_of("batch_all", device).name == engine
    engines._xpu_lacks_float64.cache_clear()


def test_every_public_function_asks_first():
    for name in [*LOSSES, *MINERS, "triplet_margin_loss"]:
        source = inspect.getsource(inspect.unwrap(getattr(fasttriplet, name)))
        assert f"return there_and_back({name}, locals())" in source
