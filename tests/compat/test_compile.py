"""The drop-ins in a graph: ``torch.compile(fullgraph=True)`` and ``torch.export``, as their originals allow it; on a
device nothing may wait for an answer."""

import importlib.util

import pytest
import torch

from benchmarks.originals import pytorch_metric_learning, sentence_transformers_module
from fasttriplet.compat import fastreid, pml, sentence_transformers, tfa, torchreid
from tests.compat.batches import BATCHES
from tests.compat.sentences import Given


class Explicit(torch.nn.Module):
    """The loss of explicit triplets, three rows of the batch each."""

    def __init__(self, metric):
        super().__init__()
        sentence_transformers_module("losses")  # whose forward pass of several columns is taken once it is there
        self.loss = sentence_transformers.TripletLoss(Given(), metric, 1)

    def forward(self, rows, labels):
        columns = rows, rows.roll(1, 0), rows.roll(2, 0)
        return self.loss([{"rows": column} for column in columns], labels)


class Of(torch.nn.Module):
    """A loss as a module of rows and labels."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, rows, labels):
        return self.function(rows, labels)


def of_features(loss):
    return Of(lambda rows, labels: loss([{"rows": rows}], labels))


def of_keras(name):
    def make():
        from fasttriplet.compat import keras

        loss = getattr(keras, name)()
        return Of(lambda rows, labels: loss(labels, rows))

    return make


LOSSES = {
    "sentence-transformers BatchHard": lambda: of_features(sentence_transformers.BatchHardTripletLoss(Given())),
    "sentence-transformers BatchSemiHard": lambda: of_features(sentence_transformers.BatchSemiHardTripletLoss(Given())),
    "sentence-transformers BatchAll": lambda: of_features(sentence_transformers.BatchAllTripletLoss(Given())),
    "sentence-transformers Triplet": lambda: Explicit("euclidean"),
    "sentence-transformers Triplet, manhattan": lambda: Explicit("manhattan"),
    "sentence-transformers Triplet, a function": lambda: Explicit(lambda x, y: (x - y).abs().amax(1)),
    "tfa hard": lambda: Of(lambda rows, labels: tfa.TripletHardLoss()(labels, rows)),
    "tfa semi-hard": lambda: Of(lambda rows, labels: tfa.TripletSemiHardLoss()(labels, rows)),
    "torchreid": lambda: Of(torchreid.TripletLoss()),
    "fast-reid hard": lambda: Of(lambda rows, labels: fastreid.triplet_loss(rows, labels, 0.3, True, True)),
    "fast-reid weighted": lambda: Of(lambda rows, labels: fastreid.triplet_loss(rows, labels, 0.3, False, False)),
}
if importlib.util.find_spec("keras") is not None:
    LOSSES["keras hard"] = of_keras("TripletHardLoss")
    LOSSES["keras semi-hard"] = of_keras("TripletSemiHardLoss")
#: The others have an answer for a batch of one class; torchreid's is NaN in a graph.
BATCH_NAMES = ("random", "one class", "two rows, two classes")


def value_and_gradient(loss, batch):
    rows = batch.rows.float().requires_grad_()
    value = loss(rows, batch.labels)
    (gradient,) = torch.autograd.grad(value, rows)
    return value, gradient


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_whole(name):
    loss = LOSSES[name]()
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for batch_name in BATCH_NAMES:
        batch = BATCHES[batch_name]
        found = value_and_gradient(compiled, batch)
        if name == "torchreid" and batch_name == "one class":
            assert all(each.isnan().any() for each in found)
            continue
        for ours, expected in zip(found, value_and_gradient(loss, batch), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_exported(name):
    loss, batch = LOSSES[name](), BATCHES["random"]
    program = torch.export.export(loss, (batch.rows.float(), batch.labels))
    other = batch.rows.float().roll(3, 0)
    torch.testing.assert_close(program.module()(other, batch.labels), loss(other, batch.labels))


class NoWaiting(torch.overrides.TorchFunctionMode):
    """Refuses what a tensor on a device answers only after a wait."""

    #: Methods and functions of these names.
    WAITS = (
        *("__bool__", "__int__", "__float__", "__index__", "__array__", "item", "tolist", "cpu", "numpy"),
        *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "equal", "allclose"),
    )

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = function.__name__
        masked = name == "__getitem__" and any(
            isinstance(each, torch.Tensor) and each.dtype == torch.bool
            for each in (args[1] if isinstance(args[1], tuple) else args[1:])
        )
        places = name == "where" and len(args) == 1 and not kwargs
        assert name not in self.WAITS and not masked and not places, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))


#: Ways to ask a tensor, all of which :class:`NoWaiting` must know.
WAITS = {
    "bool": lambda entries: bool(entries[0]),
    "int": lambda entries: int(entries[0]),
    "float": lambda entries: float(entries[0]),
    "index": lambda entries: range(5)[entries[0]],
    "item": lambda entries: entries[0].item(),
    "tolist": torch.Tensor.tolist,
    "cpu": torch.Tensor.cpu,
    "numpy": torch.Tensor.numpy,
    "nonzero": torch.nonzero,
    "Tensor.nonzero": torch.Tensor.nonzero,
    "where": lambda entries: torch.where(entries > 1),
    "mask": lambda entries: entries[entries > 1],
    "masks": lambda entries: entries[None][:, entries > 1],
    "masked_select": lambda entries: entries.masked_select(entries > 1),
    "unique": torch.unique,
    "Tensor.unique": torch.Tensor.unique,
    "equal": lambda entries: torch.equal(entries, entries),
    "Tensor.equal": lambda entries: entries.equal(entries),
}


@pytest.mark.parametrize("name", [name for name in LOSSES if "torchreid" not in name])  # that one asks on the CPU
@pytest.mark.parametrize("batch_name", ["random", "one class"])
def test_nothing_asks_a_tensor(name, batch_name):
    loss, batch = LOSSES[name](), BATCHES[batch_name]
    with NoWaiting():
        value = loss(batch.rows.float(), batch.labels)
    assert value.isfinite()


@pytest.mark.parametrize("wait", WAITS, ids=WAITS)
def test_what_waits_is_refused(wait):
    entries = torch.arange(4)
    with NoWaiting(), pytest.raises(AssertionError, match="waits for the device"):
        WAITS[wait](entries)
    with NoWaiting():  # which do not
        assert entries[entries].shape == entries[None][0, :].shape == (4,)
        assert torch.where(entries > 1, 1, entries).shape == (4,)


def test_torchreid_asks_on_the_cpu_alone():
    """A tensor on the meta device has no answer at all."""
    rows, labels = BATCHES["random"]
    with pytest.raises(RuntimeError, match="meta"):
        bool((labels.to("meta") == 0).all())
    assert torchreid.TripletLoss()(rows.to("meta"), labels.to("meta")).shape == ()


class Holds(torch.nn.Module):
    """A model that holds a loss and does not call it."""

    def __init__(self, loss):
        super().__init__()
        self.layer, self.loss = torch.nn.Linear(4, 4), loss

    def forward(self, rows):
        return self.layer(rows)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("make", [torchreid.TripletLoss, tfa.TripletHardLoss, tfa.TripletSemiHardLoss], ids=str)
def test_a_model_that_holds_one_can_be_scripted(make):
    model = Holds(make())
    rows = torch.randn(2, 4)
    assert torch.equal(torch.jit.script(model)(rows), model(rows))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "BatchHardTripletLoss",
        "BatchSemiHardTripletLoss",
        "BatchAllTripletLoss",
        "BatchHardSoftMarginTripletLoss",
        "TripletLoss",
    ],
)
def test_a_model_that_holds_one_of_sentences_can_be_scripted(name):
    model = Holds(getattr(sentence_transformers, name)(torch.nn.Identity()))
    rows = torch.randn(2, 4)
    assert torch.equal(torch.jit.script(model)(rows), model(rows))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("distance", [None, "cosine"])
@pytest.mark.parametrize("name", ["TripletMarginLoss", "BatchHardMiner", "TripletMarginMiner"])
def test_a_model_that_holds_one_of_metric_learning_can_be_scripted(name, distance):
    """Without the library, which tests/compat/pml_alone.py sees to, and with it, whose own cannot be."""
    pytorch_metric_learning()
    model = Holds(getattr(pml, name)(distance=distance))
    rows = torch.randn(2, 4)
    assert torch.equal(torch.jit.script(model)(rows), model(rows))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_margin_that_is_learned_is_scripted_and_moves_along():
    model = Holds(pml.TripletMarginLoss(torch.nn.Parameter(torch.tensor(0.5)), reducer="none", swap=True))
    scripted = torch.jit.script(model)
    assert torch.equal(scripted(torch.ones(2, 4)), model(torch.ones(2, 4)))
    assert "loss.margin" in scripted.state_dict()
