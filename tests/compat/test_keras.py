"""The losses for Keras 3: the numbers of TensorFlow Addons, training with ``fit``, saving."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

if importlib.util.find_spec("keras") is None:
    pytest.skip("Keras is not installed (pip install 'fasttriplet[compat]')", allow_module_level=True)

from benchmarks.published import tfa_hard, tfa_semihard
from fasttriplet.compat import keras as compat  # chooses the backend, before anything imports Keras
from fasttriplet.compat import tfa
from tests.compat.batches import BATCHES, assert_same

keras = pytest.importorskip("keras")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras' own arrays


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("soft", [False, True])
def test_hard_is_that_of_tensorflow_addons(name, soft):
    loss = compat.TripletHardLoss(0.7, soft)
    assert_same(
        lambda rows, labels: loss(labels, rows),
        lambda rows, labels: tfa_hard(labels, rows, 0.7, soft, "L2"),
        BATCHES[name],
        torch.float32,
    )


@pytest.mark.parametrize("name", [n for n in BATCHES if n not in ("no positives", "one row", "two rows, two classes")])
def test_semihard_is_that_of_tensorflow_addons(name):
    loss = compat.TripletSemiHardLoss(0.7)
    assert_same(
        lambda rows, labels: loss(labels, rows),
        lambda rows, labels: tfa_semihard(labels, rows, 0.7, "L2"),
        BATCHES[name],
        torch.float32,
    )


@pytest.mark.parametrize("metric", tfa.DISTANCE_METRICS)
def test_distances_labels_and_reductions(metric):
    rows, labels = BATCHES["random"]
    rows, count = rows.float(), len(rows)
    for ours, function in (
        (compat.TripletHardLoss, tfa.triplet_hard_loss),
        (compat.TripletSemiHardLoss, tfa.triplet_semihard_loss),
    ):
        expected = function(labels, rows, distance_metric=metric)
        for given in (labels, labels[:, None], labels.numpy(), labels.float()):
            torch.testing.assert_close(ours(distance_metric=metric)(given, rows), expected)
        assert ours(distance_metric=metric)(labels, rows).dtype == torch.float32
    losses = compat.TripletHardLoss(distance_metric=metric, reduction=None)(labels, rows)
    assert losses.shape == (count,)
    weights = torch.rand(count, generator=torch.Generator().manual_seed(0))
    weighted = compat.TripletHardLoss(distance_metric=metric)(labels, rows, sample_weight=weights)
    torch.testing.assert_close(weighted, (weights * losses).mean())


#: Labels that the dtype does not tell apart.
MERGED = {"bfloat16": 256, "float16": 2048, "float32": 2**24}


@pytest.mark.parametrize("dtype", MERGED)
@pytest.mark.parametrize("make", [compat.TripletHardLoss, compat.TripletSemiHardLoss])
def test_integer_labels_stay_integers(make, dtype):
    first = MERGED[dtype]
    labels = numpy.array([first, first, first + 1, first + 1])
    assert torch.tensor(labels).to(getattr(torch, dtype)).unique().numel() == 1  # what Keras would make of them
    rows = numpy.array([[0.0], [1.0], [10.0], [11.0]], "float32")
    for given in (labels, labels[:, None], labels.astype("int32"), torch.tensor(labels), labels.tolist()):
        assert float(make(margin=0.5, dtype=dtype)(given, rows)) == 0
    one_class = make(margin=0.5, dtype=dtype)(numpy.full(4, first), rows)
    assert float(one_class) == pytest.approx({"Hard": 0.5, "Semi": 0.5 + 42 / 6}[make.__name__[7:11]], rel=1e-2)


@pytest.mark.parametrize("make", [compat.TripletHardLoss, compat.TripletSemiHardLoss])
def test_floating_labels_are_compared_as_they_come(make):
    rows = numpy.array([[0.0], [1.0], [10.0], [11.0]], "float32")
    loss = make(margin=0.5, dtype="bfloat16")
    assert float(loss(numpy.array([256.0, 256, 257, 257]), rows)) == 0
    half = numpy.array([0.25, 0.25, -0.0, 0.0])
    assert float(loss(half, rows)) == 0


def fitted_loss(loss, first):
    """The loss of two tight pairs, far apart, whose labels are ``first`` and ``first + 1``."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(1.0), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=loss)
    model.layers[-1].set_weights([numpy.ones((1, 1))])
    rows, labels = numpy.array([[0.0], [1.0], [10.0], [11.0]], "float32"), first + numpy.array([0, 0, 1, 1])
    (loss,) = model.fit(rows, labels, batch_size=4, verbose=0).history["loss"]
    assert model.evaluate(rows, labels, batch_size=4, verbose=0) == loss
    return loss


@pytest.mark.parametrize("make", [compat.TripletHardLoss, compat.TripletSemiHardLoss])
def test_large_labels_come_through_fit(make):
    assert fitted_loss(make(margin=0.5), 2**24) == 0


@pytest.mark.parametrize("floatx", MERGED)
@pytest.mark.parametrize("function", [compat.triplet_hard_loss, compat.triplet_semihard_loss])
def test_functions_have_labels_in_floatx(function, floatx):
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        assert fitted_loss(function, MERGED[floatx] - 2) == 0
        assert fitted_loss(function, MERGED[floatx]) >= 0.5  # the two classes have become one
    finally:
        keras.config.set_floatx(before)


def pairs_by_hand(rows, labels, margin):
    """The losses [T] of the ordered positive pairs and their anchors, one by one."""
    distances, losses, anchors = (rows[:, None] - rows).norm(dim=2), [], []
    for a in range(len(rows)):
        negatives = distances[a][labels != labels[a]]
        for p in range(len(rows)):
            if p != a and labels[p] == labels[a]:
                farther = negatives[negatives > distances[a, p]]
                negative = farther.min() if len(farther) else negatives.max()
                losses.append(max(float(distances[a, p] - negative) + margin, 0))
                anchors.append(a)
    return torch.tensor(losses), torch.tensor(anchors)


def test_semihard_weights_are_those_of_anchors():
    rows, labels = BATCHES["random"].rows.float(), BATCHES["random"].labels
    losses, anchors = pairs_by_hand(rows, labels, 0.7)
    assert len(losses) != len(rows) and len(labels.bincount().unique()) > 1  # classes of several sizes
    weights = torch.rand(len(rows), generator=torch.Generator().manual_seed(0))
    weighted = losses * weights[anchors]
    expected = {
        "sum_over_batch_size": weighted.sum() / len(losses),
        "mean": weighted.sum() / len(losses),
        "mean_with_sample_weight": weighted.sum() / weights[anchors].sum(),
        "sum": weighted.sum(),
        None: weighted,
        "none": weighted,
    }
    for reduction, value in expected.items():
        loss = compat.TripletSemiHardLoss(0.7, reduction=reduction)
        for given in (weights, weights[:, None], weights.numpy()):
            torch.testing.assert_close(loss(labels, rows, sample_weight=given), value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            loss(labels, rows, sample_weight=2.0),
            2 * loss(labels, rows) / (2 if reduction and "_with" in reduction else 1),
        )
    assert compat.TripletSemiHardLoss(reduction=None).call(labels, rows).shape == losses.shape
    with pytest.raises(ValueError, match=r"sample_weight must be one number or have shape \[24\]; got \[3\]"):
        compat.TripletSemiHardLoss()(labels, rows, sample_weight=weights[:3])


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
@pytest.mark.parametrize("make", [compat.TripletHardLoss, compat.TripletSemiHardLoss])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_keras_reduces_it_reduces_the_same(make, reduction, dtype):
    rows, labels = BATCHES["random"].rows.to(getattr(torch, dtype)), BATCHES["random"].labels
    weights = torch.rand(len(rows), generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
    losses = make(reduction=None, dtype=dtype)(labels, rows)

    class Given(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return y_pred

    of_losses = weights
    if make is compat.TripletSemiHardLoss:
        of_losses = weights[pairs_by_hand(rows, labels, 1.0)[1]]
    expected = Given(reduction=reduction, dtype=dtype)(losses, losses, sample_weight=of_losses)
    value = make(reduction=reduction, dtype=dtype)(labels, rows, sample_weight=weights)
    torch.testing.assert_close(value, expected.to(rows.dtype), rtol=1e-6, atol=0)  # its division is float32's
    divisor = {"sum": 1, "mean_with_sample_weight": of_losses.sum()}.get(reduction, len(losses))
    rtol = 1e-12 if dtype == "float64" else 1e-6
    torch.testing.assert_close(value, (losses * of_losses).sum() / divisor, rtol=rtol, atol=0)


def test_a_mask_leaves_anchors_out():
    rows, labels = BATCHES["random"].rows.float(), BATCHES["random"].labels
    mask = torch.arange(len(rows)) % 3 > 0
    for make in (compat.TripletHardLoss, compat.TripletSemiHardLoss):
        masked = rows.clone()
        masked._keras_mask = mask
        anchors = torch.arange(len(rows))
        if make is compat.TripletSemiHardLoss:
            anchors = pairs_by_hand(rows, labels, 1.0)[1]
        losses = make(reduction=None)(labels, rows)
        torch.testing.assert_close(make()(labels, masked), losses[mask[anchors]].mean())


def test_no_pairs_are_zero_with_weights_too():
    rows = torch.randn(5, 3, requires_grad=True)
    for reduction in ("sum_over_batch_size", "mean_with_sample_weight", "sum"):
        loss = compat.TripletSemiHardLoss(reduction=reduction)(torch.arange(5), rows, sample_weight=torch.ones(5))
        loss.backward()
        assert loss.item() == 0 and not rows.grad.any()


@pytest.mark.parametrize("make", [compat.TripletHardLoss, compat.TripletSemiHardLoss])
def test_weights_in_fit_of_a_model_with_two_outputs(make):
    keras.utils.set_random_seed(0)
    labels = numpy.arange(24) // 4
    samples = numpy.random.RandomState(0).randn(24, 6).astype("float32")
    weights = numpy.random.RandomState(1).rand(24).astype("float32")
    inputs = keras.Input((6,))
    outputs = {"embedding": keras.layers.Dense(4, name="embedding")(inputs)}
    outputs["kind"] = keras.layers.Dense(6, "softmax", name="kind")(inputs)
    model = keras.Model(inputs, outputs)
    both = {"embedding": make(margin=2.0), "kind": "sparse_categorical_crossentropy"}
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=both)
    expected = make(margin=2.0)(labels, model.predict(samples, verbose=0)["embedding"], sample_weight=weights)
    options = {"batch_size": 24, "epochs": 2, "verbose": 0}
    targets = {"embedding": labels, "kind": labels}
    for given in (weights, {"embedding": weights, "kind": numpy.ones(24, "float32")}):
        history = model.fit(samples, targets, sample_weight=given, **options).history
        assert history["embedding_loss"] == pytest.approx([float(expected)] * 2, rel=1e-5)


@pytest.mark.parametrize("make", [compat.TripletHardLoss, compat.TripletSemiHardLoss])
def test_class_weights_in_fit(make):
    keras.utils.set_random_seed(0)
    labels = numpy.arange(24) // 4
    samples = numpy.random.RandomState(0).randn(24, 6).astype("float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=make(margin=2.0))
    class_weight = {name: 0.5 + name for name in range(6)}
    expected = make(margin=2.0)(labels, model.predict(samples, verbose=0), sample_weight=0.5 + labels)
    history = model.fit(samples, labels, class_weight=class_weight, batch_size=24, verbose=0).history["loss"]
    assert history == pytest.approx([float(expected)], rel=1e-5)


@pytest.mark.parametrize("name", ["triplet_hard_loss", "triplet_semihard_loss"])
def test_functions(name, tmp_path):
    rows, labels = BATCHES["random"].rows, BATCHES["random"].labels
    ours, theirs = getattr(compat, name), getattr(tfa, name)
    assert torch.equal(ours(labels.numpy(), rows.numpy(), 0.3), theirs(labels, rows, 0.3))
    assert torch.equal(ours(labels, rows, distance_metric="angular"), theirs(labels, rows, distance_metric="angular"))
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=ours)
    samples = rows.numpy().astype("float32")
    expected = float(theirs(labels, torch.tensor(model.predict(samples, verbose=0))))
    history = model.fit(samples, labels.numpy(), batch_size=24, verbose=0).history["loss"]
    assert history == pytest.approx([expected], rel=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(samples, labels.numpy(), batch_size=24, verbose=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [compat.TripletHardLoss, compat.TripletSemiHardLoss])
def test_fit_trains_and_the_model_comes_back_from_a_file(make, tmp_path):
    keras.utils.set_random_seed(0)
    generator = numpy.random.RandomState(0)
    labels = numpy.repeat(numpy.arange(6), 8)
    samples = (generator.randn(6, 12)[labels] + 0.7 * generator.randn(48, 12)).astype("float32")
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(4)])
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=make(margin=0.5))
    history = model.fit(samples, labels, batch_size=24, epochs=15, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.loss) is make and loaded.loss.margin == 0.5
    assert loaded.evaluate(samples, labels, verbose=0) == pytest.approx(model.evaluate(samples, labels, verbose=0))


def test_configurations():
    assert compat.TripletHardLoss(torch.tensor(0.25)).get_config()["margin"] == 0.25
    hard = compat.TripletHardLoss(0.3, True, "angular", name="n", reduction="sum")
    again = compat.TripletHardLoss.from_config(hard.get_config())
    assert again.get_config() == hard.get_config()
    assert (again.margin, again.soft, again.distance_metric) == (0.3, True, "angular")
    assert (again.name, again.reduction) == ("n", "sum")
    semi = compat.TripletSemiHardLoss(0.3, "squared-L2")
    assert compat.TripletSemiHardLoss.from_config(semi.get_config()).get_config() == semi.get_config()
    with pytest.raises(ValueError, match="distance_metric must be one of L2, squared-L2, angular; got 'cosine'"):
        compat.TripletSemiHardLoss(distance_metric="cosine")
    with pytest.raises(TypeError, match="soft must be a bool; got float"):
        compat.TripletHardLoss(1.0, 1.0)


@pytest.mark.parametrize("make", [compat.TripletHardLoss, compat.TripletSemiHardLoss])
def test_what_is_set_later_counts(make):
    rows, labels = BATCHES["random"].rows.float(), BATCHES["random"].labels
    loss, options = make(), {"margin": 0.25, "distance_metric": "angular"}
    loss.margin, loss.distance_metric = torch.tensor(0.25), "angular"
    assert torch.equal(loss(labels, rows), make(**options)(labels, rows))
    assert loss.get_config() == make(**options).get_config()
    if make is compat.TripletHardLoss:
        loss.soft = True
        assert torch.equal(loss(labels, rows), make(soft=True, **options)(labels, rows))
        loss.soft = 1.0
        with pytest.raises(TypeError, match="soft must be a bool; got float"):
            loss(labels, rows)
    loss = make()
    loss.distance_metric = "cosine"
    with pytest.raises(ValueError, match="distance_metric must be one of L2, squared-L2, angular; got 'cosine'"):
        loss(labels, rows)


def imported(*before: str) -> str:
    """The last line of the error when the module is imported in a process of its own, with no backend chosen."""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    code = "; ".join(["import os, sys, types", *before, "import fasttriplet.compat.keras"])
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    return result.stderr.strip().rpartition("\n")[2] if result.returncode else ""


def test_pytorch_is_chosen_where_nothing_else_was():
    assert imported() == ""


def test_another_backend_is_an_error_that_says_so():
    # Keras itself fails to import where the backend it is told to use is missing; a stand-in that does not.
    stand_in = "sys.modules['keras'] = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: 'jax'))"
    message = imported(stand_in)
    assert message.startswith("RuntimeError: fasttriplet.compat.keras needs Keras on its PyTorch backend")
    assert message.endswith("got jax")
    message = imported("os.environ['KERAS_BACKEND'] = 'jax'")
    assert ": fasttriplet.compat.keras needs Keras" in message and "KERAS_BACKEND=torch" in message and "jax" in message


def test_keras_missing_is_an_import_error_that_says_so():
    message = imported("sys.modules['keras'] = None")
    assert message.startswith("ImportError: fasttriplet.compat.keras needs Keras 3 (pip install keras)")
