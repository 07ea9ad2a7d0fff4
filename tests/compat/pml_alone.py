"""Run by test_pml_alone.py in a process of its own: the drop-in before anybody imports pytorch-metric-learning."""

import copy
import inspect
import pickle
import sys

import pytest
import torch

from fasttriplet.compat import pml

ROWS = torch.randn(24, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OTHERS = torch.randn(30, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS, REF_LABELS = torch.arange(24) % 4, torch.arange(30) % 5
NAMES = ("euclidean", "squared_euclidean", "cosine", "inner_product")


def alone():
    return "pytorch_metric_learning" not in sys.modules


def objects_to_read():
    loss, miner = pml.TripletMarginLoss(), pml.TripletMarginMiner()
    for each in (loss.distance, miner.distance):
        assert (each.normalize_embeddings, each.p, each.power, each.is_inverted) == (True, 2, 1, False)
    assert (loss.reducer.low, loss.reducer.high) == (0, None)
    assert loss.embedding_regularizer is None and not loss.collect_stats
    assert (loss.margin, loss.swap, loss.smooth_loss, loss.triplets_per_anchor) == (0.05, False, False, "all")
    assert pml.BatchHardMiner("cosine").distance.is_inverted
    assert repr(loss) == (
        "TripletMarginLoss(\n  margin=0.05, swap=False, smooth_loss=False\n"
        "  (distance): LpDistance(normalize_embeddings=True, power=1)\n  (reducer): AvgNonZeroReducer()\n)"
    )
    assert list(inspect.signature(pml.TripletMarginMiner).parameters)[:3] == ["margin", "type_of_triplets", "distance"]


def objects_to_change():
    unit = torch.nn.functional.normalize(ROWS, dim=1)
    loss, miner = pml.TripletMarginLoss(0.3), pml.BatchHardMiner()
    for changed in (loss, miner):
        changed.distance.power = 2
    expected = pml.TripletMarginLoss(0.3, distance="squared_euclidean")(unit, LABELS)
    torch.testing.assert_close(loss(ROWS, LABELS), expected)
    loss.distance, loss.reducer = pml.BatchHardMiner("cosine").distance, pml.TripletMarginLoss(reducer="sum").reducer
    expected = pml.TripletMarginLoss(0.3, distance="cosine", reducer="sum")(ROWS, LABELS)
    assert torch.equal(loss(ROWS, LABELS), expected)
    miner.distance.normalize_embeddings = False
    for each, mined in zip(miner(ROWS, LABELS), pml.BatchHardMiner("squared_euclidean")(ROWS, LABELS), strict=True):
        assert torch.equal(each, mined)


def called_objects():
    """As a subclass's ``compute_loss`` calls them: the losses are those of the fused pass."""
    for name in NAMES:
        for swap in (False, True):

            class Own(pml.TripletMarginLoss):
                def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
                    anchors, positives, negatives = indices_tuple
                    matrix = self.distance(embeddings, ref_emb)
                    apart = matrix[anchors, negatives]
                    if self.swap:
                        apart = self.distance.smallest_dist(apart, self.distance(ref_emb)[positives, negatives])
                    losses = torch.relu(self.distance.margin(matrix[anchors, positives], apart) + self.margin)
                    return {"loss": {"losses": losses, "indices": indices_tuple, "reduction_type": "triplet"}}

            triplets = torch.arange(24), torch.arange(24), torch.arange(24).flip(0)
            for reducer in ("none", "sum", "mean", "mean_nonzero"):
                made = (
                    kind(0.3, swap, distance=name, reducer=reducer)(ROWS, None, triplets, OTHERS)
                    for kind in (Own, pml.TripletMarginLoss)
                )
                torch.testing.assert_close(*made)
    distance = pml.BatchHardMiner("inner_product").distance
    assert torch.equal(distance.largest_dist(torch.tensor(1.0), torch.tensor(2.0)), torch.tensor(1.0))
    torch.testing.assert_close(distance(ROWS, OTHERS), ROWS @ OTHERS.T)
    assert torch.equal(
        pml.BatchHardMiner().distance.largest_dist(torch.tensor(1.0), torch.tensor(2.0)), torch.tensor(2.0)
    )
    distance.power = 3
    with pytest.raises(ValueError, match="distance must have p = 2 and a power of 1 or 2; got p=2, power=3"):
        distance(ROWS)


def adapted_objects():
    """They are called as they are now; a miner has no other way then."""
    whole, loss, miner = pml.TripletMarginLoss(0.3), pml.TripletMarginLoss(0.3), pml.BatchHardMiner()
    triplets = miner(ROWS, LABELS)
    loss.distance.margin = lambda x, y: x - y - 0.1
    torch.testing.assert_close(loss(ROWS, LABELS, triplets), pml.TripletMarginLoss(0.2)(ROWS, LABELS, triplets))
    del loss.distance.margin
    handle = loss.reducer.register_forward_hook(lambda _module, _arguments, output: 2 * output)
    torch.testing.assert_close(loss(ROWS, LABELS), 2 * whole(ROWS, LABELS))
    handle.remove()
    assert torch.equal(loss(ROWS, LABELS), whole(ROWS, LABELS))
    miner.distance.register_forward_hook(lambda _module, _arguments, output: -output)
    with pytest.raises(ValueError, match=r"distance must be None, a name, or .* without"):
        miner(ROWS, LABELS)


def subclasses():
    class Half(pml.TripletMarginLoss):
        def compute_loss(self, *arguments):
            found = super().compute_loss(*arguments)
            return {**found, "loss": {**found["loss"], "losses": found["loss"]["losses"] / 2}}

        def get_default_distance(self):
            return pml.BatchHardMiner("cosine").distance

        def get_default_reducer(self):
            return pml.TripletMarginLoss(reducer="sum").reducer

    whole = pml.TripletMarginLoss(0.3, distance="cosine", reducer="sum")
    for arguments in ((LABELS,), (LABELS, None, OTHERS, REF_LABELS), (LABELS, None, ROWS.clone(), LABELS)):
        torch.testing.assert_close(Half(0.3)(ROWS, *arguments), whole(ROWS, *arguments) / 2)
    assert Half()(ROWS, torch.arange(24)) == 0

    class Fewer(pml.TripletMarginMiner):
        def mine(self, embeddings, labels, ref_emb, ref_labels):
            return tuple(each[:5] for each in super().mine(embeddings, labels, ref_emb, ref_labels))

    class Pairs(pml.BatchHardMiner):
        def mine(self, embeddings, labels, ref_emb, ref_labels):
            return (torch.arange(3),) * 2 + (torch.arange(4),) * 2

    fewer, pairs = Fewer(), Pairs()
    for references in ((), (OTHERS, REF_LABELS)):
        mined = fewer(ROWS, LABELS, *references)
        for each, all_of_them in zip(mined, pml.TripletMarginMiner()(ROWS, LABELS, *references), strict=True):
            assert torch.equal(each, all_of_them[:5])
    assert fewer.num_triplets == 5
    pairs(ROWS, LABELS)
    assert (pairs.num_pos_pairs, pairs.num_neg_pairs) == (3, 4)


def a_reducer_of_ones_own():
    class Largest(torch.nn.Module):
        def forward(self, loss_dict, embeddings, labels):
            return loss_dict["loss"]["losses"].max()

    value = pml.TripletMarginLoss(0.3, reducer=Largest())(ROWS, LABELS)
    assert torch.equal(value, pml.TripletMarginLoss(0.3, reducer="none")(ROWS, LABELS).max())


def refusals():
    class Distance(torch.nn.Module):
        is_inverted = False

    needs = "without pytorch-metric-learning 2, imported before this object is made; got "
    for make, message in {
        lambda: pml.BatchHardMiner(Distance()): f"distance must be .* {needs}",
        lambda: pml.TripletMarginLoss(distance=Distance()): f"distance must be .* {needs}",
        lambda: pml.TripletMarginMiner(collect_stats=True): f"collect_stats must be None or False {needs}True",
        lambda: pml.TripletMarginLoss(triplets_per_anchor=3): f"triplets_per_anchor must be 'all' {needs}3",
        lambda: pml.TripletMarginLoss(embedding_regularizer=Distance()): f"embedding_regularizer must be None {needs}",
    }.items():
        with pytest.raises(ValueError, match=message):
            make()
    miner, loss = pml.BatchHardMiner(collect_stats=False), pml.TripletMarginLoss(embedding_regularizer=None)
    loss.triplets_per_anchor = 3
    with pytest.raises(ValueError, match="triplets_per_anchor must be 'all' without"):
        loss(ROWS, LABELS)
    loss.triplets_per_anchor, loss.embedding_regularizer = "all", Distance()
    with pytest.raises(ValueError, match="embedding_regularizer must be None without"):
        loss(ROWS, LABELS)
    miner.collect_stats = True
    with pytest.raises(ValueError, match="collect_stats must be False without"):
        miner(ROWS, LABELS)
    miner.distance = Distance()
    with pytest.raises(ValueError, match=r"distance must be None, a name, or .* without"):
        miner(ROWS, LABELS)


def scripted():
    """A model that holds them, as the library's cannot be."""

    class Holds(torch.nn.Module):
        def __init__(self, held):
            super().__init__()
            self.layer, self.held = torch.nn.Linear(8, 2), held

        def forward(self, rows):
            return self.layer(rows)

    for make in (pml.TripletMarginLoss, pml.BatchHardMiner, pml.TripletMarginMiner):
        for distance in (None, *NAMES):
            model, rows = Holds(make(distance=distance)), ROWS.float()
            assert torch.equal(torch.jit.script(model)(rows), model(rows))


def copies():
    loss, miner = pml.TripletMarginLoss(0.3, distance="cosine"), pml.TripletMarginMiner(0.3)
    for make in (copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))):
        assert torch.equal(make(loss)(ROWS, LABELS), loss(ROWS, LABELS))
        assert torch.equal(make(miner)(ROWS, LABELS)[2], miner(ROWS, LABELS)[2])


def the_library_comes_later():
    """In any order: what is made after its import is of its classes, and with that all that was made before."""
    loss, miner = pml.TripletMarginLoss(0.3), pml.BatchHardMiner()
    before, mined = loss(ROWS, LABELS), miner(ROWS, LABELS)
    pickled = pickle.dumps(loss)
    assert alone()
    from pytorch_metric_learning import distances, losses, reducers
    from pytorch_metric_learning.miners import BaseMiner

    assert not isinstance(loss, losses.BaseMetricLossFunction)
    again = pickle.loads(pickled)
    for each in (loss, again):
        assert isinstance(each, losses.TripletMarginLoss)
        assert torch.equal(each(ROWS, LABELS), before)
        each.distance = distances.SNRDistance()
        each.reducer = reducers.ThresholdReducer(low=0.1)
        original = losses.TripletMarginLoss(0.3, distance=each.distance, reducer=each.reducer)
        torch.testing.assert_close(each(ROWS, LABELS), original(ROWS, LABELS))
    assert isinstance(miner, BaseMiner) and isinstance(pml.TripletMarginMiner(), BaseMiner)
    assert torch.equal(miner(ROWS, LABELS)[1], mined[1])
    made = pml.TripletMarginLoss(0.3)
    assert type(made.distance) is distances.LpDistance and type(made.reducer) is reducers.AvgNonZeroReducer


if __name__ == "__main__":
    assert alone()
    for check in (
        objects_to_read,
        objects_to_change,
        called_objects,
        adapted_objects,
        subclasses,
        a_reducer_of_ones_own,
        refusals,
        scripted,
        copies,
    ):
        check()
        assert alone(), check
    if sys.argv[1:] == ["installed"]:
        the_library_comes_later()
    print("done")
