"""The module: the function with its arguments bound, and nothing else."""

import pytest
import torch

import fasttriplet
from tests.family import MODULES
from tests.inputs import CASES, DISTANCES, ON_MISSING, REDUCTIONS, batch

EMBEDDINGS, LABELS = batch(next(case for case in CASES if case.name == "edge-100"))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("on_missing", ON_MISSING[:2])
@pytest.mark.parametrize("soft_margin", [False, True])
def test_the_module_is_the_function(distance, reduction, on_missing, soft_margin):
    options = dict(margin=0.7, distance=distance, reduction=reduction, on_missing=on_missing, soft_margin=soft_margin)
    module = fasttriplet.BatchHardTripletLoss(**options)
    assert torch.equal(module(EMBEDDINGS, LABELS), fasttriplet.batch_hard_triplet_loss(EMBEDDINGS, LABELS, **options))
    assert repr(module) == (
        f"BatchHardTripletLoss(margin=0.7, distance='{distance}', soft_margin={soft_margin}, "
        f"reduction='{reduction}', on_missing='{on_missing}')"
    )


def test_defaults_are_those_of_the_function():
    assert torch.equal(
        fasttriplet.BatchHardTripletLoss()(EMBEDDINGS, LABELS), fasttriplet.batch_hard_triplet_loss(EMBEDDINGS, LABELS)
    )


def test_it_has_no_state_and_trains_a_model():
    assert not fasttriplet.BatchHardTripletLoss().state_dict()
    torch.manual_seed(0)
    model, loss = torch.nn.Linear(17, 8), fasttriplet.BatchHardTripletLoss(soft_margin=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        value = loss(model(EMBEDDINGS.float()), LABELS)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", [*MODULES.values(), "TripletMarginLoss"])
def test_a_model_that_holds_one_can_be_scripted(name):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)
            self.held = getattr(fasttriplet, name)()

        def forward(self, x):
            return self.layer(x)

    model = Model()
    rows = torch.randn(3, 4)
    assert torch.equal(torch.jit.script(model)(rows), model(rows))
