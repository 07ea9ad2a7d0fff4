"""Objects of pytorch-metric-learning adapted without a subclass: what was put in, and hooks, are run."""

import functools

import pytest
import torch

from benchmarks.originals import pytorch_metric_learning
from fasttriplet.compat import _pml_objects, pml
from fasttriplet.compat._pml_objects import _WRITTEN, Metric, metric_of, reduction_of
from tests.compat.batches import BATCHES, assert_same

original_library = pytorch_metric_learning()
if original_library is None:
    pytest.skip("pytorch-metric-learning is not installed (pip install 'fasttriplet[compat]')", allow_module_level=True)
distances, losses = original_library.distances, original_library.losses
miners, reducers = original_library.miners, original_library.reducers

BATCH = BATCHES["random"]
MINERS = {"BatchHardMiner": {}, "TripletMarginMiner": {"margin": 0.3, "type_of_triplets": "all"}}


def of_sums(query_emb, ref_emb):
    return torch.cdist(query_emb, ref_emb, p=1)


def doubled(_module, _arguments, output):
    return 2 * output


def of_absolutes(_module, arguments):
    return tuple(each.abs() for each in arguments)


#: What is done to a distance.
ADAPTED = {
    "compute_mat": lambda distance: setattr(distance, "compute_mat", of_sums),
    "forward": lambda distance: setattr(
        distance,
        "forward",
        lambda query_emb, ref_emb=None: of_sums(query_emb, query_emb if ref_emb is None else ref_emb),
    ),
    "normalize": lambda distance: setattr(distance, "normalize", lambda embeddings, dim=1: embeddings.tanh()),
    "margin": lambda distance: setattr(distance, "margin", lambda x, y: 2 * (x - y)),
    "smallest_dist": lambda distance: setattr(distance, "smallest_dist", torch.add),
    "hook": lambda distance: distance.register_forward_hook(doubled),
    "pre-hook": lambda distance: distance.register_forward_pre_hook(of_absolutes),
}


def the_same(first, second):
    for arguments in ((None,), (miners.BatchHardMiner()(*BATCH),)):
        assert_same(
            lambda rows, labels, a=arguments: first(rows, labels, *a),
            lambda rows, labels, a=arguments: second(rows, labels, *a),
            BATCH,
            torch.float64,
        )


def value_of(loss):
    return loss(*BATCH, miners.BatchHardMiner()(*BATCH))


@pytest.mark.parametrize("name", ADAPTED)
def test_distances_that_were_adapted(name):
    swap = name == "smallest_dist"
    loss, original = made = [library.TripletMarginLoss(0.3, swap) for library in (pml, losses)]
    before = value_of(loss)
    assert metric_of(loss.distance) is not None
    for each in made:
        ADAPTED[name](each.distance)
    the_same(loss, original)
    assert not torch.isclose(value_of(loss), before)
    for miner, options in MINERS.items():
        pair = [getattr(library, miner)(**options) for library in (pml, miners)]
        mined = pair[0](*BATCH)
        for each in pair:
            ADAPTED[name](each.distance)
        assert all(map(torch.equal, pair[0](*BATCH), pair[1](*BATCH)))
        moved = [a.shape != b.shape or not torch.equal(a, b) for a, b in zip(pair[0](*BATCH), mined, strict=True)]
        order_kept = name in ("smallest_dist", "margin") or (name, miner) == ("hook", "BatchHardMiner")
        assert any(moved) != order_kept


@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_hooks_of_the_backward_pass(register):
    loss, seen = pml.TripletMarginLoss(0.3), []
    getattr(loss.distance, register)(lambda *arguments: seen.append(arguments[0]))
    rows = BATCH.rows.clone().requires_grad_()
    loss(rows, BATCH.labels).backward()
    assert seen == [loss.distance]


def squares(losses, *_):
    return losses.square().mean()


@pytest.mark.parametrize("kind", ["MeanReducer", "AvgNonZeroReducer"])
@pytest.mark.parametrize("adapted", ["element_reduction", "hook", "pre-hook"])
def test_reducers_that_were_adapted(kind, adapted):
    loss, original = made = [
        library.TripletMarginLoss(0.3, reducer=getattr(reducers, kind)()) for library in (pml, losses)
    ]
    before = value_of(loss)
    assert reduction_of(loss.reducer) is not None
    for each in made:
        if adapted == "element_reduction":
            each.reducer.element_reduction = squares
            each.reducer.triplet_reduction = squares
        elif adapted == "hook":
            each.reducer.register_forward_hook(doubled)
        else:
            each.reducer.register_forward_pre_hook(
                lambda _module, arguments: (
                    {name: {**of, "losses": 3 * of["losses"]} for name, of in arguments[0].items()},
                    *arguments[1:],
                )
            )
    the_same(loss, original)
    assert not torch.isclose(value_of(loss), before)


@pytest.mark.parametrize(
    "cls, name", [("LpDistance", "compute_mat"), ("LpDistance", "forward"), ("BaseDistance", "normalize")]
)
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("seen", [False, True])
def test_classes_that_were_patched(monkeypatch, cls, name, wrapped, seen):
    """Before or after the class was first seen."""
    owner = getattr(distances, cls)
    written = getattr(owner, name)

    def patched(self, embeddings, *others, **options):
        return written(self, embeddings.abs() + 1, *others, **options)

    loss, original = (library.TripletMarginLoss(0.3) for library in (pml, losses))
    before, miner = value_of(loss), pml.BatchHardMiner()
    mined = miner(*BATCH)
    if not seen:
        _WRITTEN.clear()
    monkeypatch.setattr(owner, name, functools.wraps(written)(patched) if wrapped else patched)
    the_same(loss, original)
    assert not torch.isclose(value_of(loss), before)
    assert all(map(torch.equal, miner(*BATCH), miners.BatchHardMiner()(*BATCH)))
    assert not torch.equal(miner(*BATCH)[1], mined[1])
    monkeypatch.undo()
    assert torch.equal(value_of(loss), before)


def test_reducer_classes_that_were_patched(monkeypatch):
    loss, original = (library.TripletMarginLoss(0.3, reducer=reducers.MeanReducer()) for library in (pml, losses))
    monkeypatch.setattr(reducers.MeanReducer, "triplet_reduction", lambda self, losses, *_: losses.square().mean())
    the_same(loss, original)


def test_what_is_set_and_overrides_nothing_stays_with_the_kernels():
    loss = pml.TripletMarginLoss(0.3)
    loss.distance.note, loss.distance.callback = "of one's own", len
    loss.reducer.callback = len
    assert metric_of(loss.distance) is not None and reduction_of(loss.reducer) is not None
    handle = loss.distance.register_forward_hook(doubled)
    assert metric_of(loss.distance) is None
    handle.remove()
    assert metric_of(loss.distance) is not None


@pytest.mark.parametrize("own", [False, True])
def test_a_backward_pass_inside_autocast(own):
    """Rounds the gradient through a distance of one's own, and no other."""

    class Own(distances.DotProductSimilarity):
        pass

    loss = pml.TripletMarginLoss(0.3, distance=(Own if own else distances.DotProductSimilarity)())
    gradients = []
    for inside in (False, True):
        rows = BATCH.rows.float().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(rows, BATCH.labels)
            if inside:
                value.backward()
        if not inside:
            value.backward()
        assert value.dtype == torch.float32
        gradients.append(rows.grad)
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-2)
    assert torch.equal(*gradients) != own


@pytest.mark.parametrize("compute", [False, True])
def test_a_distance_is_told_once_a_call(monkeypatch, compute):
    told, loss = [], pml.TripletMarginLoss(0.3)
    monkeypatch.setattr(
        _pml_objects, "_metric_of", lambda *arguments: told.append(arguments) or Metric("cosine", False)
    )
    indices = tuple(torch.arange(24).view(3, 8))
    arguments = (*BATCH, indices, *BATCH)
    value = loss.compute_loss(*arguments)["loss"]["losses"] if compute else loss(*arguments)
    assert value.isfinite().all() and len(told) == 1
