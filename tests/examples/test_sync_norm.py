"""Batch norm over three processes is that of one with all rows: values, gradients, running statistics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from examples.resnet50.model import EmbeddingNet
from examples.resnet50.processes import Processes
from examples.resnet50.sync_norm import CpuSyncBatchNorm, synchronised
from tests.distributed.ranks import Failed, run, whole_results
from tests.examples.conftest import build_tiny

RANKS, CHANNELS = 3, 5
SIZES = {"even": [4, 4, 4], "uneven": [1, 7, 4], "empty": [0, 3, 2]}
KINDS: dict[str, tuple[Callable[[int], Any], list[int]]] = {
    "1d": (nn.BatchNorm1d, []),
    "2d": (nn.BatchNorm2d, [6, 3]),
    "average": (partial(nn.BatchNorm2d, momentum=None), [2, 2]),
}
#: The sums of parts run in another order.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def rows(shape: list[int], number: int, step: int) -> tuple[Tensor, Tensor]:
    """Input and the gradient of what comes out; the mean is far from 0, where sums of squares would cancel."""
    generator = torch.Generator().manual_seed(step)
    x, gradient = (torch.randn(number, CHANNELS, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return x * 0.1 + 1000, gradient


def norm_of(kind: str) -> Any:
    norm = KINDS[kind][0](CHANNELS).double()
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(CHANNELS, generator=generator))
        norm.bias.copy_(torch.randn(CHANNELS, generator=generator))
    return norm


def found_by(norm: Any, kind: str, number: int, part: slice, dtype: torch.dtype) -> dict[str, Any]:
    """What two steps in training and then an evaluation give."""
    norm.to(dtype)
    found: dict[str, Any] = {"y": [], "dx": []}
    for step in range(2):
        x, gradient = (each[part].to(dtype) for each in rows(KINDS[kind][1], number, step))
        if dtype == torch.float32:
            x = x - 1000  # which takes four of its seven digits
        y = norm(x.requires_grad_())
        y.backward(gradient)
        found["y"].append(y.detach())
        found["dx"].append(x.grad)
    norm.eval()
    found["y"].append(norm(x).detach())
    found["parameters"] = [norm.weight.grad, norm.bias.grad]  # of this process's rows: DDP adds them up
    found["statistics"] = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
    return found


def in_processes(kind: str, sizes: str, dtype: torch.dtype, rank: int, group: Any) -> dict[str, Any]:
    first = sum(SIZES[sizes][:rank])
    part = slice(first, first + SIZES[sizes][rank])
    return found_by(CpuSyncBatchNorm(norm_of(kind), group), kind, sum(SIZES[sizes]), part, dtype)


def in_bfloat16(rank: int, group: Any) -> list[Tensor]:
    """Under autocast rows come in half precision; what is computed of them does not."""
    norm = CpuSyncBatchNorm(nn.BatchNorm1d(CHANNELS), group)
    return [norm((rows([], 12, 0)[0] - 1000)[4 * rank : 4 * rank + 4].bfloat16()).detach(), norm.running_var]


def of_one_value(rank: int, group: Any) -> None:
    CpuSyncBatchNorm(nn.BatchNorm1d(CHANNELS), group)(torch.ones(rank // 2, CHANNELS))


def twin(rank: int, group: Any) -> dict[str, Any]:
    """The network that is trained beside the one that it shares everything with but its batch norms."""
    model = build_tiny()
    trained = synchronised(model, Processes(rank, RANKS, group))
    pairs = zip(trained.state_dict(keep_vars=True).items(), model.state_dict(keep_vars=True).items(), strict=True)
    found = {
        "shared": all(ours == theirs and value is other for (ours, value), (theirs, other) in pairs),
        "kinds": [{type(module).__name__ for module in net.modules()} for net in (trained, model)],
    }
    trained(torch.rand(2, 1, 8, 8))
    if rank == 0:
        model(torch.rand(3, 1, 8, 8))  # would wait for the others if it were synchronised
    found["tracked"] = int(model.head[1].num_batches_tracked)
    return found


CASES = [(kind, sizes, dtype) for kind in KINDS for sizes in SIZES for dtype in TOLERANCE]


@pytest.fixture(scope="module")
def found() -> dict[str, list[Any]]:
    work: dict[str, Any] = {str(case): partial(in_processes, *case) for case in CASES}
    return run(RANKS, {**work, "bfloat16": in_bfloat16, "one": of_one_value, "twin": twin})


@pytest.mark.parametrize(("kind", "sizes", "dtype"), CASES)
def test_it_is_that_of_one_process(found: dict[str, list[Any]], kind: str, sizes: str, dtype: torch.dtype):
    ranks = whole_results(found[str((kind, sizes, dtype))])
    expected = found_by(norm_of(kind), kind, sum(SIZES[sizes]), slice(None), dtype)
    close = partial(torch.testing.assert_close, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    if dtype == torch.float64:
        close = partial(close, atol=1e-9)  # of values near 1000 divided by 0.1
    for name in ("y", "dx"):
        for step, value in enumerate(expected[name]):
            close(torch.cat([each[name][step] for each in ranks]), value)
    for index, value in enumerate(expected["parameters"]):
        close(sum(each["parameters"][index] for each in ranks), value)
    for each in ranks:
        for value, other in zip(each["statistics"], expected["statistics"], strict=True):
            close(value, other)


def test_half_precision_comes_out_as_it_went_in(found: dict[str, list[Any]]):
    ranks = whole_results(found["bfloat16"])
    norm = nn.BatchNorm1d(CHANNELS)
    expected = norm((rows([], 12, 0)[0] - 1000).bfloat16().float())
    assert all(y.dtype == torch.bfloat16 for y, _ in ranks)
    torch.testing.assert_close(torch.cat([y for y, _ in ranks]).float(), expected, rtol=2**-8, atol=1e-6)
    for _, variance in ranks:
        torch.testing.assert_close(variance, norm.running_var)


def test_one_value_has_no_variance(found: dict[str, list[Any]]):
    for each in found["one"]:
        assert isinstance(each, Failed) and each.kind == "ValueError"
        assert each.text == "a channel must have at least 2 values in all processes together; got 1"


def test_the_network_itself_stays_as_it_was(found: dict[str, list[Any]]):
    for rank, each in enumerate(whole_results(found["twin"])):
        trained, model = each["kinds"]
        assert each["shared"] and "CpuSyncBatchNorm" not in model
        assert "CpuSyncBatchNorm" in trained and not {"BatchNorm1d", "BatchNorm2d"} & trained
        assert each["tracked"] == (2 if rank == 0 else 1)


def test_on_a_gpu_it_is_that_of_pytorch(monkeypatch: pytest.MonkeyPatch):
    """As far as it can be seen without one: it takes the place of the same norms, and shares what they have."""
    monkeypatch.setattr(EmbeddingNet, "device", property(lambda self: torch.device("cuda", 0)))
    model = build_tiny()
    group = object()
    trained = synchronised(model, Processes(0, RANKS, group))
    assert all(module.process_group is group for module in trained.modules() if isinstance(module, nn.SyncBatchNorm))
    kinds = [type(module) for module in trained.modules()]
    assert kinds.count(nn.SyncBatchNorm) == 2 and not any(issubclass(kind, CpuSyncBatchNorm) for kind in kinds)
    ours, theirs = (net.state_dict(keep_vars=True) for net in (trained, model))
    assert ours.keys() == theirs.keys() and all(ours[key] is theirs[key] for key in ours)


def test_alone_nothing_is_replaced():
    model = build_tiny()
    assert synchronised(model, Processes()) is model
