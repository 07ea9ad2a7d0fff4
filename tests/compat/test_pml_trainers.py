"""The library's trainers with the drop-ins in the originals' place: the losses of every step."""

import importlib

import pytest
import torch

from benchmarks.originals import pytorch_metric_learning
from fasttriplet.compat import pml

original_library = pytorch_metric_learning()
if original_library is None:
    pytest.skip("pytorch-metric-learning is not installed (pip install 'fasttriplet[compat]')", allow_module_level=True)
losses, miners = original_library.losses, original_library.miners
trainers = importlib.import_module("pytorch_metric_learning.trainers")

LOSSES = {
    "MetricLossOnly": ["metric_loss"],
    # Its constructor turns the margin of g_adv_loss around, and gives it a distance of its own.
    "DeepAdversarialMetricLearning": ["metric_loss", "synth_loss", "g_adv_loss"],
}


def trained(name, loss, miner):
    """What a trainer tells after each of its steps, and the weights that it ends with."""
    torch.manual_seed(0)
    labels = torch.arange(64) % 4
    rows = torch.randn(64, 8) + labels[:, None]
    models = {"trunk": torch.nn.Linear(8, 8), "embedder": torch.nn.Linear(8, 4)}
    if name == "DeepAdversarialMetricLearning":
        models["generator"] = torch.nn.Linear(24, 8)
    told = []
    trainer = getattr(trainers, name)(
        models=models,
        optimizers={f"{key}_optimizer": torch.optim.SGD(model.parameters(), lr=0.1) for key, model in models.items()},
        batch_size=16,
        loss_funcs={key: loss(0.2) for key in LOSSES[name]},
        mining_funcs={"tuple_miner": miner()},
        dataset=torch.utils.data.TensorDataset(rows, labels),
        iterations_per_epoch=4,
        data_device=torch.device("cpu"),
        dataloader_num_workers=0,
        end_of_iteration_hook=lambda at: told.append(
            {key: torch.as_tensor(value).item() for key, value in at.losses.items()}
        ),
        **({"g_triplets_per_anchor": 5} if "generator" in models else {}),
    )
    trainer.train(num_epochs=2)
    return told, [weights for model in models.values() for weights in model.parameters()]


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # the trainers print their losses
@pytest.mark.parametrize("miner", ["BatchHardMiner", "TripletMarginMiner"])
@pytest.mark.parametrize("name", LOSSES)
def test_trainers(name, miner):
    ours, weights = trained(name, pml.TripletMarginLoss, getattr(pml, miner))
    original, expected = trained(name, losses.TripletMarginLoss, getattr(miners, miner))
    assert len(ours) == len(original) == 8
    for step, expected_step in zip(ours, original, strict=True):
        assert step == pytest.approx(expected_step, rel=1e-4, abs=1e-6)
        assert all(step[key] > 0 for key in LOSSES[name])
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
