"""The drop-ins over several processes: pytorch-metric-learning's wrappers, sentence-transformers' gathering."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fasttriplet.compat import pml, sentence_transformers
from tests.distributed.ranks import sizes, whole_results
from tests.distributed.test_dense import close

RANKS, N = 3, 26
OURS = ("ours", "ours hooked", "ours soft", "ours mined", "ours among references", "ours of references")
THEIRS = ("theirs", "theirs mined", "their contrastive", "their memory")
SENTENCES = (
    "BatchHardTripletLoss",
    "BatchHardSoftMarginTripletLoss",
    "BatchSemiHardTripletLoss",
    "BatchAllTripletLoss",
)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5)).double()


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, 6, generator=generator, dtype=torch.float64), torch.randint(0, 6, (N,), generator=generator)


def part(rank, split="uneven"):
    shares = sizes(N, RANKS, split)
    return slice(sum(shares[:rank]), sum(shares[: rank + 1]))


def loss_and_miner(kind):
    """Of this package, or of the library."""
    from pytorch_metric_learning import losses, miners

    loss, miner = {
        "ours": lambda: (pml.TripletMarginLoss(margin=0.4), None),
        "ours hooked": lambda: (hooked(pml.TripletMarginLoss(margin=0.4)), None),
        "ours among references": lambda: (pml.TripletMarginLoss(margin=0.4, reducer="mean"), None),
        "ours soft": lambda: (pml.TripletMarginLoss(margin=0.4, smooth_loss=True, swap=True), None),
        "ours mined": lambda: (pml.TripletMarginLoss(margin=0.4), pml.BatchHardMiner()),
        "ours of references": lambda: (pml.TripletMarginLoss(margin=0.4), pml.TripletMarginMiner(margin=0.3)),
        "theirs": lambda: (losses.TripletMarginLoss(margin=0.4), None),
        "theirs mined": lambda: (losses.TripletMarginLoss(margin=0.4), miners.BatchHardMiner()),
        "their contrastive": lambda: (losses.ContrastiveLoss(neg_margin=0.8), None),
        "their memory": lambda: (
            losses.CrossBatchMemory(losses.TripletMarginLoss(margin=0.4), 5, memory_size=40),
            None,
        ),
    }[kind]()
    return (loss.double() if kind == "their memory" else loss), miner


def hooked(loss):
    """What a call goes through is not passed over: every rank then computes the whole."""
    loss.register_forward_hook(lambda module, arguments, value: 2 * value)
    return loss


def given(kind, parts):
    x, y = batch()
    told = [x[parts], y[parts]]
    if kind in ("ours of references", "ours among references"):
        others, ref_labels = batch(1)
        told += [others[parts], ref_labels[parts]]
    return told


def stepped(model, loss, miner, told):
    x, y, *references = told
    rows = model(x)
    others = [model(references[0]).detach(), references[1]] if references else []
    indices = None if miner is None else miner(rows.detach(), y, *others)
    value = loss(rows, y, indices, *others)
    value.backward()
    return value.detach(), [parameter.grad for parameter in model.parameters()]


def by_the_wrappers(kind, efficient, rank, group):
    model = DistributedDataParallel(net(), process_group=group)
    loss, miner = loss_and_miner(kind)
    loss = pml.DistributedLossWrapper(loss, efficient, process_group=group)
    miner = None if miner is None else pml.DistributedMinerWrapper(miner, efficient, process_group=group)
    split = "even" if efficient else "uneven"
    return stepped(model, loss, miner, given(kind, part(rank, split)))


def sparse_loss_and_miner(kind):
    from pytorch_metric_learning import losses, miners
    from pytorch_metric_learning.regularizers import LpRegularizer

    return {
        "theirs mined": lambda: (losses.TripletMarginLoss(margin=0.4), miners.BatchHardMiner()),
        "their contrastive": lambda: (losses.ContrastiveLoss(neg_margin=-1), None),
        "ours regularised": lambda: (pml.TripletMarginLoss(0.4, embedding_regularizer=LpRegularizer()), None),
    }[kind]()


def sparse_batch():
    """All labels of rank 1 are its own and different: it has no triplet, and its loss nothing of the others' rows."""
    x, y = batch()
    own = part(1, "even")
    y[own] = 100 + torch.arange(len(y[own]))
    return x, y


def without_triplets(kind, rank, group):
    loss, miner = sparse_loss_and_miner(kind)
    x, y = (each[part(rank, "even")] for each in sparse_batch())
    model = DistributedDataParallel(net(), process_group=group)
    rows = model(x)
    indices = pml.DistributedMinerWrapper(miner, True, process_group=group)(rows.detach(), y) if miner else None
    value = pml.DistributedLossWrapper(loss, True, process_group=group)(rows, y, indices)
    value.backward()
    return value.detach(), [parameter.grad for parameter in model.parameters()]


def proxies(rank, group):
    """The gradient of the rows is for averages, that of the loss's own parameters as in one process."""
    from pytorch_metric_learning import losses

    torch.manual_seed(0)
    loss = losses.ProxyAnchorLoss(6, 5).double()
    x, y = batch()
    rows = x[part(rank)][:, :5].clone().requires_grad_()
    pml.DistributedLossWrapper(loss, process_group=group)(rows, y[part(rank)]).backward()
    return rows.grad, loss.proxies.grad


def wrong(what, rank, group):
    x, y = batch()
    x, y = x[:6], y[:6]
    if rank == 1:
        y = {"short": y[:3], "long": y.repeat(2)[:7], "dtype": y.float()}[what]
    raised = []
    for call in (
        lambda: pml.DistributedLossWrapper(pml.TripletMarginLoss(), process_group=group)(x, y),
        lambda: pml.DistributedMinerWrapper(pml.BatchHardMiner(), process_group=group)(x, y),
        lambda: sentence_transformers.BatchHardTripletLoss(Model(), gather_across_devices=True)([{"x": x}], y),
    ):
        try:
            call()
            raised.append(None)
        except ValueError as error:
            raised.append(str(error))
    return raised


class Model(nn.Module):
    """As the losses of sentence-transformers call it."""

    def __init__(self):
        super().__init__()
        self.layers = net()

    def forward(self, features):
        return {"sentence_embedding": self.layers(features["x"])}


def sentences(name, gather, distance, parts, wrap):
    model = wrap(Model())
    loss = getattr(sentence_transformers, name)(model, distance_metric=distance, gather_across_devices=gather)
    x, y = batch()
    if parts == "one class":
        value = loss([{"x": x[:8]}], torch.zeros(8, dtype=torch.int64))
    else:
        value = loss([{"x": x[parts]}], y[parts])
    value.backward()
    return value.detach(), [parameter.grad for parameter in model.parameters()], loss.get_config_dict()


def sentences_of_rank(name, distance, rank, group):
    return sentences(name, True, distance, part(rank), partial(DistributedDataParallel, process_group=group))


def one_class(name, rank, group):
    return sentences(name, True, "euclidean", "one class", partial(DistributedDataParallel, process_group=group))[0]


SPARSE = ("theirs mined", "their contrastive", "ours regularised")


def work(ranks):
    if ranks != RANKS:
        return {}
    asked = {f"pml {kind} {efficient}": partial(by_the_wrappers, kind, efficient) for kind, efficient in PML}
    asked.update({f"without triplets {kind}": partial(without_triplets, kind) for kind in SPARSE})
    asked.update({f"compat wrong {what}": partial(wrong, what) for what in ("short", "long", "dtype")})
    asked["proxies"] = proxies
    for name in SENTENCES:
        for distance in ("euclidean", "cosine"):
            asked[f"{name} {distance}"] = partial(sentences_of_rank, name, distance)
        asked[f"{name} one class"] = partial(one_class, name)
    return asked


PML = [
    (kind, efficient)
    for kind in (*OURS, *THEIRS)
    for efficient in (False, True)
    if kind != "their memory" or not efficient
]


@pytest.mark.parametrize(("kind", "efficient"), PML)
def test_the_wrappers_have_the_gradient_of_one_process(kind, efficient, found):
    pytest.importorskip("pytorch_metric_learning")
    results = whole_results(found(RANKS)[f"pml {kind} {efficient}"])
    if not efficient or kind in (
        "ours",
        "ours among references",
    ):  # which takes each rank's share of one fused pass either way
        value, gradients = stepped(net(), *loss_and_miner(kind), given(kind, slice(None)))
        for loss_of_rank, _ in results:
            close(loss_of_rank, value, 1e-9)
    else:  # the mean of the losses of each rank's anchors among all
        gradients = mean_of_parts(partial(loss_and_miner, kind), *given(kind, slice(None)))
    for _, gradients_of_rank in results:
        close_together(gradients_of_rank, gradients)


def close_together(values, expected):
    """Of the largest entry of all: a bias added to every embedding has a gradient of zero but for rounding."""
    close(*(torch.cat([each.flatten() for each in both]) for both in (values, expected)), 1e-9)


def mean_of_parts(make, x, y, *references):
    """Gradients of the mean of what each rank's anchors make of all; ``make`` gives a loss and a miner."""
    model, total = net(), 0
    rows = model(x)
    others = [model(references[0]).detach(), references[1]] if references else [rows, y]
    for rank in range(RANKS):
        own = part(rank, "even")
        loss, miner = make()
        if miner is not None:
            indices = miner(rows[own].detach(), y[own], others[0].detach(), others[1])
        else:
            same = y[own][:, None] == others[1]
            indices = *torch.where(same), *torch.where(~same)
        if not references:
            kept = indices[0] + own.start != indices[1]
            indices = (
                tuple(each[kept] for each in indices)
                if len(indices) == 3
                else (indices[0][kept], indices[1][kept], *indices[2:])
            )
        total = total + loss(rows[own], y[own], indices, *others) / RANKS
    total.backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", SENTENCES)
def test_sentence_losses_gather(name, distance, found):
    value, gradients, _ = sentences(name, False, distance, slice(None), lambda model: model)
    for loss_of_rank, gradients_of_rank, config in whole_results(found(RANKS)[f"{name} {distance}"]):
        close(loss_of_rank, value, 1e-9)
        assert config["gather_across_devices"] is True
        close_together(gradients_of_rank, gradients)


@pytest.mark.parametrize("name", SENTENCES)
def test_a_batch_of_one_class_has_the_originals_loss(name, found):
    x, _ = batch()
    model = Model()
    loss = getattr(sentence_transformers, name)(model)
    expected = loss([{"x": x[:8].repeat(RANKS, 1)}], torch.zeros(8 * RANKS, dtype=torch.int64)).detach()
    for value in whole_results(found(RANKS)[f"{name} one class"]):
        close(value, expected, 1e-9)


def test_without_processes_nothing_is_gathered():
    x, y = batch()
    loss = sentence_transformers.BatchHardTripletLoss(Model(), gather_across_devices=True)
    plain = sentence_transformers.BatchHardTripletLoss(Model())
    assert torch.equal(loss([{"x": x}], y), plain([{"x": x}], y))
    assert "gather_across_devices" not in plain.get_config_dict()
    with pytest.raises(TypeError, match="gather_across_devices must be a bool"):
        sentence_transformers.BatchHardTripletLoss(Model(), gather_across_devices=1)


def test_what_is_wrapped_is_looked_at():
    with pytest.raises(TypeError, match="loss must extend BaseMetricLossFunction"):
        pml.DistributedLossWrapper(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="miner must extend BaseMiner"):
        pml.DistributedMinerWrapper(nn.Linear(2, 2))
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    memory = losses.CrossBatchMemory(losses.TripletMarginLoss(), 4, memory_size=8)
    with pytest.raises(ValueError, match="efficient must be False with CrossBatchMemory"):
        pml.DistributedLossWrapper(memory, efficient=True)
    x, y = batch()
    wrapper, loss = pml.DistributedLossWrapper(pml.TripletMarginLoss()), pml.TripletMarginLoss()
    with pytest.warns(UserWarning, match="outside of a process group"):
        assert torch.equal(wrapper(x, y), loss(x, y))


@pytest.mark.parametrize("kind", SPARSE)
def test_a_rank_without_triplets_leaves_nobody_waiting(kind, found):
    pytest.importorskip("pytorch_metric_learning")
    results = whole_results(found(RANKS)[f"without triplets {kind}"])
    assert results[0][0] > 0 and all(value.isfinite() for value, _ in results)
    expected = mean_of_parts(partial(sparse_loss_and_miner, kind), *sparse_batch())
    assert any(gradient.abs().max() > 0 for gradient in expected)
    for _, gradients in results:
        close_together(gradients, expected)


def test_parameters_of_a_loss_have_the_gradient_of_one_process(found):
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    torch.manual_seed(0)
    loss = losses.ProxyAnchorLoss(6, 5).double()
    x, y = batch()
    rows = x[:, :5].clone().requires_grad_()
    loss(rows, y).backward()
    results = whole_results(found(RANKS)["proxies"])
    close(torch.cat([of_rows for of_rows, _ in results]), RANKS * rows.grad, 1e-9)
    for _, of_proxies in results:
        close(of_proxies, loss.proxies.grad, 1e-9)


@pytest.mark.parametrize("what", ["short", "long", "dtype"])
def test_what_is_wrong_on_one_rank_is_an_error_on_all(what, found):
    results = whole_results(found(RANKS)[f"compat wrong {what}"])
    for raised in results:
        assert raised == results[0] and all(text is not None and "labels" in text for text in raised)
        if what != "dtype":
            assert all(text.endswith("(on rank 1 of process_group)") for text in raised)
