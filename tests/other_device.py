"""Run by test_trip.py and test_engines.py in a process of its own: a device "other", and what must work on it.

It is PyTorch's PrivateUse1 backend in Python: its tensors stand for ones on the CPU, and operators run on those. With
float64 it is a device that the portable engine serves. Without, a float64 tensor is a TypeError, forward and backward,
as on MPS. A copy that casts is one too: whether it casts before or after the data has come to the device is the
backend's own business.
"""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import fasttriplet
from fasttriplet import engines
from fasttriplet.compat import fastreid, pml, sentence_transformers, tfa, torchreid
from tests.compat.sentences import Given

_setup_privateuseone_for_python_backend("other")


#: What is on the CPU for the tensors of a storage; both are kept, so that no number comes again.
_RAW: dict[int, tuple[torch.UntypedStorage, Tensor]] = {}


has_float64 = False


def raw_of(tensor: Tensor) -> Tensor:
    # By the storage, which a copy of a tensor shares that autograd makes without asking anybody.
    return _RAW[tensor.untyped_storage()._cdata][1]


def wrapped(raw: Tensor) -> Tensor:
    if raw.dtype == torch.float64 and not has_float64:
        raise TypeError("the device other has no float64")
    tensor = torch._C._acc.create_empty_tensor(tuple(raw.shape), raw.dtype)
    storage = tensor.untyped_storage()
    _RAW[storage._cdata] = storage, raw
    return tensor


def run(op: torch._ops.OpOverload, *arguments: object, **keywords: object) -> object:
    """Any operator with a tensor on the device among its arguments, or that is to make one."""
    # Numbers in place of tensors are numbers again where they come from C++.
    kinds = [str(argument.type) for argument in op._schema.arguments]
    given = [
        torch.tensor(value) if kind == "Tensor" and isinstance(value, (bool, int, float)) else value
        for value, kind in zip(arguments, kinds, strict=False)
    ]
    own: dict[int, Tensor] = {}
    strangers: list[Tensor] = []

    def on_the_cpu(leaf: object) -> object:
        if isinstance(leaf, torch.device):
            return torch.device("cpu")
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.device.type != "other":
            if leaf.dim() > 0:
                strangers.append(leaf)
            return leaf
        raw = raw_of(leaf)
        own[id(raw)] = leaf
        return raw

    given, keywords = pytree.tree_map(on_the_cpu, (given, keywords))
    if op is torch.ops.aten._copy_from.default:
        source, target = given[:2]
        if source.dtype != target.dtype and torch.float64 in (source.dtype, target.dtype) and not has_float64:
            raise TypeError("a copy from or to the device other casts float64")
        target.copy_(source)
        return arguments[1]
    if own and strangers:
        raise RuntimeError(f"tensors must be on one device; got other and cpu for {op}")
    # Tensors here say that they are contiguous, whatever strides a view has on the CPU.
    if op is torch.ops.aten.view.default:
        op = torch.ops.aten.reshape.default
    if op is torch.ops.aten.as_strided.default:
        given[0] = given[0].contiguous()
    results = op(*given, **keywords)
    return pytree.tree_map_only(Tensor, lambda raw: own[id(raw)] if id(raw) in own else wrapped(raw), results)


_ANYTHING = torch.library.Library("_", "IMPL")
_ANYTHING.fallback(run, "PrivateUse1")
# What PyTorch composes for any device would make tensors behind our back.
_COMPOSED = torch.library.Library("aten", "IMPL")
for _name in torch._C._dispatch_get_all_op_names():
    _packet, _, _overload = _name.removeprefix("aten::").partition(".")
    if not _name.startswith("aten::") or _packet in ("_to_copy", "copy_"):
        continue
    if any(
        torch._C._dispatch_has_kernel_for_dispatch_key(_name, f"CompositeExplicitAutograd{kind}")
        for kind in ("", "NonFunctional")
    ):
        _op = getattr(getattr(torch.ops.aten, _packet), _overload or "default")
        _COMPOSED.impl(_name, functools.partial(run, _op), "PrivateUse1")

Case = Callable[[Tensor, Tensor], object]

LOSSES = ("batch_hard", "semi_hard", "easy_positive", "k_hardest", "batch_all", "weighted")
MINERS = ("batch_hard", "semi_hard", "easy_positive", "k_hardest")
DISTANCES = ("euclidean", "squared_euclidean", "cosine", "inner_product")


def function(name: str, **options: object) -> Case:
    return lambda rows, labels: getattr(fasttriplet, name)(rows, labels, **options)


def with_everything(name: str, miner: bool) -> Case:
    def call(rows: Tensor, labels: Tensor) -> object:
        given = {
            "ref_embeddings": rows.roll(3, 0) + 0.5,
            "ref_labels": labels.roll(3, 0),
            "sample_ids": torch.arange(len(rows), device=rows.device),
            "ref_sample_ids": torch.arange(len(rows), device=rows.device) + 5,
            "groups": torch.arange(len(rows), device=rows.device) // 9,
            "ref_groups": torch.arange(len(rows), device=rows.device) // 7,
            "groups_exclude": "positives",
            "ref_mask": labels.roll(3, 0) != 9,
            "ignore_index": 1,
        }
        more = {} if miner else {"weights": rows[:, 0].abs(), "return_stats": True}
        return getattr(fasttriplet, name)(rows, labels, **given, **more)

    return call


def memory(rows: Tensor, labels: Tensor) -> object:
    bank = fasttriplet.CrossBatchMemory(40, rows.shape[1]).to(rows.device)
    for step in range(3):
        bank.enqueue(rows + step, labels, sample_ids=torch.arange(len(rows), device=rows.device))
    given = {name: value for name, value in bank.references()._asdict().items() if value is not None}
    ids = torch.arange(len(rows), device=rows.device)
    return fasttriplet.batch_hard_triplet_loss(rows, labels, sample_ids=ids, **given), bank.ages()


def of_features(loss: torch.nn.Module) -> Case:
    return lambda rows, labels: loss([{"rows": rows}], labels)


def of_columns(metric: str) -> Case:
    loss = sentence_transformers.TripletLoss(Given(), metric, 1)
    return lambda rows, labels: loss([{"rows": rows.roll(by, 0)} for by in range(3)], labels)


def mined(miner: torch.nn.Module, **options: object) -> Case:
    def call(rows: Tensor, labels: Tensor) -> object:
        indices = miner(rows, labels)
        return indices, pml.TripletMarginLoss(0.3, **options)(rows, labels, indices)

    return call


def twice(rows: Tensor, labels: Tensor) -> Tensor:
    loss = fasttriplet.batch_hard_triplet_loss(rows, labels, distance="squared_euclidean", soft_margin=True)
    (gradient,) = torch.autograd.grad(loss, rows, create_graph=True)
    return gradient.square().sum()


def of_module(module: torch.nn.Module) -> Case:
    return lambda rows, labels: module(rows, labels)


#: What leaves the device, by the name of a test; the gradient of the sum of what is a number comes back.
CASES: dict[str, Case] = {
    **{f"{name}_triplet_loss": function(f"{name}_triplet_loss") for name in LOSSES},
    **{f"{name}, none": function(f"{name}_triplet_loss", reduction="none", distance="cosine") for name in LOSSES},
    **{f"{name}, all arguments": with_everything(f"{name}_triplet_loss", False) for name in LOSSES},
    **{f"{name}, half": lambda x, y, f=f"{name}_triplet_loss": function(f)(x.bfloat16(), y) for name in LOSSES},
    **{f"mine_{name}": function(f"mine_{name}") for name in MINERS},
    **{f"mine_{name}, all arguments": with_everything(f"mine_{name}", True) for name in MINERS},
    "several labels": lambda x, y: fasttriplet.batch_hard_triplet_loss(x, torch.stack([y == 0, y == 1, y > 1], 1)),
    "module": of_module(fasttriplet.SemiHardTripletLoss(on_missing="error")),
    "triplet_margin_loss": lambda x, y: fasttriplet.triplet_margin_loss(
        x, x.roll(1, 0), x.roll(2, 0), swap=True, weights=x.detach()[:, 0].abs()
    ),
    "second derivative": twice,
    "torch.func": lambda x, y: torch.func.grad(lambda rows: fasttriplet.batch_all_triplet_loss(rows, y))(x.detach()),
    "memory": memory,
    "pml miner": lambda x, y: pml.BatchHardMiner()(x, y),
    **{
        f"pml margin miner, {kind}": lambda x, y, kind=kind: pml.TripletMarginMiner(0.3, kind)(x, y, x + 0.1, y.clone())
        for kind in pml.TYPES_OF_TRIPLETS
    },
    "pml margin miner, tensor": lambda x, y: pml.TripletMarginMiner(torch.tensor(0.3))(x, y),
    **{f"pml loss, {name}": of_module(pml.TripletMarginLoss(0.3, distance=name)) for name in DISTANCES},
    **{f"pml loss of each, {name}": of_module(pml.TripletMarginLoss(distance=name, swap=True)) for name in DISTANCES},
    "pml loss of mined": mined(pml.BatchHardMiner(), smooth_loss=True, distance="inner_product"),
    "pml loss of mined by margin": mined(pml.TripletMarginMiner(), reducer="none"),
    "sentence-transformers BatchHard": of_features(sentence_transformers.BatchHardTripletLoss(Given())),
    "sentence-transformers SoftMargin": of_features(sentence_transformers.BatchHardSoftMarginTripletLoss(Given())),
    "sentence-transformers BatchSemiHard": of_features(sentence_transformers.BatchSemiHardTripletLoss(Given())),
    "sentence-transformers BatchAll": of_features(sentence_transformers.BatchAllTripletLoss(Given())),
    "sentence-transformers Triplet": of_columns("euclidean"),
    "sentence-transformers Triplet, manhattan": of_columns("manhattan"),
    "torchreid": of_module(torchreid.TripletLoss()),
    "fastreid, hard": lambda x, y: fastreid.triplet_loss(x, y, 0.3, True, True),
    "fastreid, weighted": lambda x, y: fastreid.triplet_loss(x, y, 0.0, False, False),
    "tfa hard": lambda x, y: tfa.TripletHardLoss(soft=True)(y, x),
    "tfa semi-hard": lambda x, y: tfa.TripletSemiHardLoss(distance_metric="angular")(y, x),
}


def called(case: Case, device: str) -> tuple[list[Tensor], Tensor | None]:
    """The tensors that a case gives for one batch on ``device``, and the gradient of their sum."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(24, 5, generator=generator).to(device).requires_grad_()
    labels = (torch.arange(24) % 4).to(device)
    results = [each for each in pytree.tree_leaves(case(rows, labels)) if isinstance(each, Tensor)]
    losses = [each for each in results if each.requires_grad]
    if not losses:
        return results, None
    sum(each.sum() for each in losses).backward()
    return results, rows.grad


def wrong(name: str) -> str:
    """What a case does otherwise on the device than on the CPU; empty: nothing."""
    found, gradient = called(CASES[name], "other")
    expected, expected_gradient = called(CASES[name], "cpu")
    if (gradient is None) != (expected_gradient is None):
        return "no gradient comes back"
    if gradient is not None:
        found, expected = [*found, gradient], [*expected, expected_gradient]
    for one, other in zip(found, expected, strict=True):
        if one.device.type != "other" or one.dtype != other.dtype:
            return f"{one.dtype} on {one.device} came back for {other.dtype}"
        # What drop-ins compute there in float32, and sums of gradients, may come in another order.
        if not torch.allclose(one.cpu(), other, rtol=1e-5, atol=1e-7, equal_nan=True):
            return f"{one.cpu()} came back for {other}"
    return ""


def outcome(case: Callable[[], str]) -> str:
    try:
        return case()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def outcomes() -> dict[str, str]:
    return {name: outcome(functools.partial(wrong, name)) for name in CASES}


def heard() -> dict[str, object]:
    """What is said, and refused, of tensors on the device."""
    rows, labels = torch.randn(6, 2).to("other"), (torch.arange(6) % 2).to("other")
    engines._announced.clear()
    engines.fallback = "warn"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            fasttriplet.mine_batch_hard(rows, labels)
        fasttriplet.batch_hard_triplet_loss(rows, labels)
    engines.fallback = "error"
    refused = [outcome(lambda: str(fasttriplet.mine_batch_hard(rows, labels))) for _ in range(2)]
    engines.fallback = "silent"
    apart = outcome(lambda: str(fasttriplet.mine_batch_hard(rows, labels.cpu())))
    weights = outcome(lambda: str(fasttriplet.batch_hard_triplet_loss(rows, labels, weights=torch.ones(6))))
    texts = [[str(each.message), each.filename, each.category.__name__] for each in caught]
    return {"warnings": texts, "refused": refused, "apart": [apart, weights]}


def main() -> dict[str, dict[str, object]]:
    global has_float64
    engines.fallback = "silent"
    results: dict[str, dict[str, object]] = {"refused": outcomes()}
    engines.without_float64 |= {"other"}
    results["there and back"] = outcomes()
    results["of the trip"] = heard()
    engines.without_float64 -= {"other"}
    has_float64 = True
    results["portable"] = outcomes()
    results["of the engine"] = heard()
    return results


if __name__ == "__main__":
    json.dump(main(), sys.stdout)
