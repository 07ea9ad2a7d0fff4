"""Which device is chosen, what it is called, and how images reach it; accelerators are pretended."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from examples.resnet50.device import available_devices, choose_device, describe, float64_device, to_device
from examples.resnet50.errors import UserError
from examples.resnet50.train import main


def pretend(monkeypatch: pytest.MonkeyPatch, kind: str | None, number: int = 1, current: int = 0) -> None:
    """``number`` accelerators of type ``kind``."""
    found = None if kind is None else torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: number)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: current)


@pytest.mark.parametrize(
    ("kind", "number", "current", "here"),
    [
        (None, 0, 0, ["cpu"]),
        ("mps", 1, 0, ["mps:0", "cpu"]),
        ("cuda", 3, 0, ["cuda:0", "cuda:1", "cuda:2", "cpu"]),
        ("xpu", 3, 1, ["xpu:1", "xpu:0", "xpu:2", "cpu"]),
        ("mtia", 1, 0, ["cpu"]),  # not offered
    ],
)
def test_auto_takes_the_first_there_is(
    monkeypatch: pytest.MonkeyPatch, kind: str | None, number: int, current: int, here: list[str]
):
    pretend(monkeypatch, kind, number, current)
    assert [str(device) for device in available_devices()] == here
    assert str(choose_device("auto")) == here[0]
    assert str(choose_device("cpu")) == "cpu"
    if len(here) > 1:
        assert str(choose_device(str(kind))) == here[0]
        assert [str(choose_device(name)) for name in here] == here


@pytest.mark.parametrize("name", ["cuda:2", "cuda:x", "mps", "xpu", "cpu:1", "tpu", ""])
def test_a_device_that_is_not_there_is_refused_with_what_is(monkeypatch: pytest.MonkeyPatch, name: str):
    pretend(monkeypatch, "cuda", 2)
    with pytest.raises(UserError, match=rf"^--device must be auto or .* here: cuda:0, cuda:1, cpu; got {name}$"):
        choose_device(name)


def test_the_command_refuses_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    pretend(monkeypatch, None)
    assert main(["--device=cuda:1"]) == 2
    error = capsys.readouterr().err.strip()
    assert error == f"error: --device must be auto or one that PyTorch {torch.__version__} finds here: cpu; got cuda:1"


def test_the_device_is_made_the_current_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Pinned memory belongs to the current one, and would start a first GPU that the run has nothing to do with."""
    pretend(monkeypatch, "cuda", 2)
    made: list[str] = []
    monkeypatch.setattr(torch.accelerator, "set_device_index", lambda device: made.append(str(device)))
    for name in ("cuda:1", "cpu"):
        assert main([f"--device={name}", "--root=nowhere"]) == 2  # the next thing that is looked at is the data
        assert "--root must not be given" in capsys.readouterr().err
    assert made == ["cuda:1"]


def test_auto_says_what_it_took(monkeypatch: pytest.MonkeyPatch):
    pretend(monkeypatch, "cuda", 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, {device}")
    assert describe(choose_device("auto"), "auto") == "cuda:0, a GPU, cuda:0 (auto: the best of cuda:0, cuda:1, cpu)"
    assert describe(choose_device("cuda:1"), "cuda:1") == "cuda:1, a GPU, cuda:1"
    assert describe(torch.device("cpu"), "cpu") == "cpu"


def test_float64_is_computed_where_there_is_any(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        torch.xpu, "get_device_properties", lambda device: SimpleNamespace(has_fp64=torch.device(device).index == 1)
    )
    places = {name: str(float64_device(torch.device(name))) for name in ("cpu", "cuda:1", "mps:0", "xpu:0", "xpu:1")}
    assert places == {"cpu": "cpu", "cuda:1": "cuda:1", "mps:0": "cpu", "xpu:0": "cpu", "xpu:1": "xpu:1"}


class _Told(torch.Tensor):
    """Writes down how it is copied."""

    calls: list[object]

    def pin_memory(self) -> _Told:
        self.calls.append("pinned")
        return self

    def to(self, device: torch.device, non_blocking: bool = False) -> _Told:
        self.calls.append((device.type, non_blocking))
        return self


def test_copies_are_pinned_and_nobody_waits_for_them():
    calls = {}
    for kind in ("cpu", "mps", "cuda", "xpu"):
        tensor = torch.zeros(2).as_subclass(_Told)
        tensor.calls = []
        to_device(tensor, torch.device(kind))
        calls[kind] = tensor.calls
    assert calls["cpu"] == [("cpu", False)] and calls["mps"] == [("mps", False)]
    assert calls["cuda"] == ["pinned", ("cuda", True)] and calls["xpu"] == ["pinned", ("xpu", True)]
