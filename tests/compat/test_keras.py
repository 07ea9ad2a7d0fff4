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
    with pytest.raises(ValueError, match="sample_weight must be None: this loss is a mean over pairs"):
        compat.TripletSemiHardLoss()(labels, rows, sample_weight=weights)


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
