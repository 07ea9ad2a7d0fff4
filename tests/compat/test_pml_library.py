"""The library's own objects, subclasses, wrappers and example scripts with the drop-ins in the originals' place."""

import copy
import importlib
import pickle

import pytest
import torch

from benchmarks.originals import pytorch_metric_learning
from fasttriplet.compat import pml
from tests.compat.batches import BATCHES, assert_same

original_library = pytorch_metric_learning()
if original_library is None:
    pytest.skip("pytorch-metric-learning is not installed (pip install 'fasttriplet[compat]')", allow_module_level=True)
distances, losses = original_library.distances, original_library.losses
miners, reducers = original_library.miners, original_library.reducers
regularizers = importlib.import_module("pytorch_metric_learning.regularizers")
wrappers = importlib.import_module("pytorch_metric_learning.utils.distributed")

BATCH = BATCHES["random"]
LIBRARIES = (pml, losses)
MINERS = {"BatchHardMiner": {}, "TripletMarginMiner": {"margin": 0.3, "type_of_triplets": "semihard"}}


class NegativeDistance(distances.LpDistance):
    """As the library's DeepAdversarialMetricLearning has one."""

    def compute_mat(self, query_emb, ref_emb):
        return -super().compute_mat(query_emb, ref_emb)


# A user's own, under names that the library has.
class LpDistance(distances.BaseDistance):
    def compute_mat(self, query_emb, ref_emb):
        return torch.cdist(query_emb, ref_emb, p=1)


class MeanReducer(reducers.MeanReducer):
    def element_reduction(self, losses, *_):
        return losses.square().mean()


DISTANCES = {
    "LpDistance(p=1)": lambda: distances.LpDistance(p=1),
    "LpDistance(power=3)": lambda: distances.LpDistance(power=3),
    "SNRDistance": distances.SNRDistance,
    "a subclass": NegativeDistance,
    "of the library's name": LpDistance,
}
REDUCERS = {
    "ThresholdReducer(low=0)": lambda: reducers.ThresholdReducer(low=0),
    "ThresholdReducer(low=0.1)": lambda: reducers.ThresholdReducer(low=0.1),
    "ThresholdReducer(high)": lambda: reducers.ThresholdReducer(high=0.3),
    "ClassWeightedReducer": lambda: reducers.ClassWeightedReducer(torch.tensor([1.0, 2.0, 0.5, 3.0])),
    "MultipleReducers": lambda: reducers.MultipleReducers({"loss": reducers.SumReducer()}),
    "of the library's name": MeanReducer,
}


def same_losses(ours, original):
    """Over all triplets, over those of a miner and with references: value and gradient."""
    others, ref_labels = BATCHES["large"].rows[:40, :8], BATCHES["large"].labels[:40] % 4
    indices = miners.BatchHardMiner()(*BATCH)
    for arguments in ((None,), (indices,), (None, others, ref_labels)):
        if ours.swap and len(arguments) == 3:  # where the original looks positives up among the anchors
            continue
        assert_same(
            lambda rows, labels, a=arguments: ours(rows, labels, *a),
            lambda rows, labels, a=arguments: original(rows, labels, *a),
            BATCH,
            torch.float64,
        )


def same_triplets(ours, original):
    others, ref_labels = BATCHES["large"].rows[:40, :8], BATCHES["large"].labels[:40] % 4
    for references in ((), (others, ref_labels)):
        mined, expected = ours(*BATCH, *references), original(*BATCH, *references)
        assert len(mined[0]) and all(map(torch.equal, mined, expected))
        assert ours.num_triplets == original.num_triplets == len(mined[0])


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_that_the_kernels_do_not_have(name):
    same_losses(*(library.TripletMarginLoss(0.3, distance=DISTANCES[name]()) for library in LIBRARIES))
    for miner, options in MINERS.items():
        made = (getattr(library, miner)(distance=DISTANCES[name](), **options) for library in (pml, miners))
        same_triplets(*made)


@pytest.mark.parametrize("distance", [None, *DISTANCES])
def test_swap_with_references(distance):
    """The positive, too, is a reference: the loss of the rows together, where triplets name them by their place."""
    others = BATCHES["large"].rows[:40, :8]
    anchors, positives, negatives = torch.arange(24), torch.arange(24) + 8, torch.arange(24).flip(0)
    made = (
        library.TripletMarginLoss(0.3, swap=True, distance=DISTANCES[distance]() if distance else None)
        for library in LIBRARIES
    )
    ours, original = made
    assert_same(
        lambda rows, labels: ours(rows, None, (anchors, positives, negatives), others),
        lambda rows, labels: original(
            torch.cat([rows, others]), indices_tuple=(anchors, 24 + positives, 24 + negatives)
        ),
        BATCH,
        torch.float64,
    )


@pytest.mark.parametrize("name", REDUCERS)
def test_reducers(name):
    same_losses(*(library.TripletMarginLoss(0.3, reducer=REDUCERS[name]()) for library in LIBRARIES))


def test_reducers_where_nothing_was_mined():
    for name in ("no positives", "one class"):
        rows, labels = BATCHES[name]
        for reducer in REDUCERS.values():
            leaf = rows.clone().requires_grad_()
            value = pml.TripletMarginLoss(reducer=reducer())(leaf, labels)
            assert value.item() == 0
            assert not torch.autograd.grad(value, leaf)[0].any()


def test_a_divisor_that_triplets_do_not_have_is_told():
    for library in LIBRARIES:
        with pytest.raises(KeyError, match="divisor"):
            library.TripletMarginLoss(reducer=reducers.DivisorReducer())(*BATCH)


@pytest.mark.parametrize("reducer", [None, *REDUCERS])
def test_regularizers(reducer):
    made = (
        library.TripletMarginLoss(
            0.3,
            reducer=REDUCERS[reducer]() if reducer else None,
            embedding_regularizer=regularizers.LpRegularizer(),
            embedding_reg_weight=0.7,
        )
        for library in LIBRARIES
    )
    same_losses(*made)
    assert pml.TripletMarginLoss(embedding_regularizer=regularizers.LpRegularizer()).sub_loss_names() == [
        "loss",
        "embedding_reg_loss",
    ]


def test_objects_set_or_changed_after_construction():
    made = [library.TripletMarginLoss(0.3) for library in LIBRARIES]

    def change(**attributes):
        for loss in made:
            for name, value in attributes.items():
                setattr(loss, name, value)
        same_losses(*made)

    values = set()
    for distance in (
        distances.LpDistance(normalize_embeddings=False),
        distances.CosineSimilarity(),
        NegativeDistance(),
        distances.DotProductSimilarity(normalize_embeddings=False),
    ):
        change(distance=distance)
        values.add(round(made[0](*BATCH).item(), 6))
    for reducer in (reducers.SumReducer(), reducers.ThresholdReducer(low=0.2), reducers.MeanReducer()):
        change(reducer=reducer)
        values.add(round(made[0](*BATCH).item(), 6))
    assert len(values) == 7
    change(distance=distances.LpDistance(), margin=0.1, swap=True, smooth_loss=True)
    change(swap=False, smooth_loss=False)
    for name, value in {"power": 2, "normalize_embeddings": False, "p": 1}.items():
        for loss in made:
            setattr(loss.distance, name, value)
        same_losses(*made)
    change(embedding_regularizer=regularizers.LpRegularizer(), reducer=reducers.MultipleReducers({}))
    for miner, options in MINERS.items():
        pair = [getattr(library, miner)(**options) for library in (pml, miners)]
        for distance in (distances.LpDistance(normalize_embeddings=False), distances.SNRDistance()):
            for each in pair:
                each.distance = distance
            same_triplets(*pair)


def test_subclasses_with_other_defaults():
    def subclass(library):
        class Cosine(library.TripletMarginLoss):
            def get_default_distance(self):
                return distances.CosineSimilarity()

            def get_default_reducer(self):
                return reducers.SumReducer()

        return Cosine(0.3)

    ours, original = map(subclass, LIBRARIES)
    same_losses(ours, original)
    assert torch.equal(
        ours(*BATCH), pml.TripletMarginLoss(0.3, distance="cosine", reducer="sum")(*BATCH)
    )  # still the fused pass


@pytest.mark.parametrize("distance", [None, *DISTANCES])
def test_subclasses_that_compute_the_loss(distance):
    def subclass(library):
        class Doubled(library.TripletMarginLoss):
            def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
                found = super().compute_loss(embeddings, labels, indices_tuple, ref_emb, ref_labels)
                if found["loss"]["indices"] is not None:
                    found["loss"]["losses"] = 2 * found["loss"]["losses"] + found["loss"]["indices"][0]
                return found

        class Alone(library.TripletMarginLoss):
            def compute_loss(self, embeddings, labels, indices_tuple, ref_emb, ref_labels):
                mat = self.distance(embeddings, ref_emb)
                return {
                    "loss": {
                        "losses": mat.mean(1),
                        "indices": torch.arange(len(mat)),
                        "reduction_type": "element",
                    }
                }

        return [kind(0.3, distance=DISTANCES[distance]() if distance else None) for kind in (Doubled, Alone)]

    for ours, original in zip(*map(subclass, LIBRARIES), strict=True):
        same_losses(ours, original)


@pytest.mark.parametrize("name", MINERS)
def test_subclasses_that_mine(name):
    def subclass(library):
        class EverySecond(getattr(library, name)):
            def mine(self, embeddings, labels, ref_emb, ref_labels):
                return tuple(indices[::2] for indices in super().mine(embeddings, labels, ref_emb, ref_labels))

        return EverySecond(**MINERS[name])

    ours, original = map(subclass, (pml, miners))
    same_triplets(ours, original)
    every = getattr(pml, name)(**MINERS[name])(*BATCH)
    assert torch.equal(ours(*BATCH)[0], every[0][::2])


@pytest.mark.parametrize("k", [1, 5])
def test_random_triplets_are_the_originals(k):
    values = []
    for library in LIBRARIES:
        torch.manual_seed(0)
        values.append(library.TripletMarginLoss(0.3, triplets_per_anchor=k)(*BATCH))
    torch.testing.assert_close(*values)
    indices = miners.BatchHardMiner()(*BATCH)
    ours = pml.TripletMarginLoss(0.3, triplets_per_anchor=k)
    assert torch.equal(ours(*BATCH, indices), pml.TripletMarginLoss(0.3)(*BATCH, indices))


def test_statistics():
    for miner, options in MINERS.items():
        ours, original = (getattr(library, miner)(collect_stats=True, **options) for library in (pml, miners))
        same_triplets(ours, original)
        assert ours._record_these_stats == original._record_these_stats
        for name in original._record_these_stats:
            assert getattr(ours, name) == pytest.approx(getattr(original, name)), name
    stats = [distances.LpDistance(collect_stats=True), reducers.MeanReducer(collect_stats=True)]
    loss = pml.TripletMarginLoss(distance=stats[0], reducer=stats[1], collect_stats=False)
    loss(*BATCH)
    assert loss.distance.final_avg_query_norm == pytest.approx(1)
    assert loss.reducer.losses_size == len(pml.TripletMarginLoss(reducer="none")(*BATCH))
    assert not pml.TripletMarginLoss(collect_stats=False).collect_stats
    assert pml.BatchHardMiner().num_triplets == pml.TripletMarginMiner().num_triplets == 0


def test_copies():
    loss = pml.TripletMarginLoss(0.3, distance=distances.CosineSimilarity(), reducer=reducers.ThresholdReducer(high=1))
    for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert type(again) is pml.TripletMarginLoss and isinstance(again, losses.TripletMarginLoss)
        assert torch.equal(again(*BATCH), loss(*BATCH))
    miner = pickle.loads(pickle.dumps(pml.TripletMarginMiner(0.1)))
    assert all(map(torch.equal, miner(*BATCH), pml.TripletMarginMiner(0.1)(*BATCH)))
    loss.load_state_dict(losses.TripletMarginLoss().state_dict())


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", DISTANCES)
def test_autocast_over_the_originals_code(name, half):
    rows, labels = BATCH.rows.float(), BATCH.labels
    loss = pml.TripletMarginLoss(0.3, distance=DISTANCES[name](), reducer=reducers.ThresholdReducer(high=2))
    dot = distances.DotProductSimilarity(normalize_embeddings=False, collect_stats=True)
    for each in (loss, pml.TripletMarginLoss(distance=dot)):
        expected = each(rows, labels)
        with torch.autocast("cpu", half):
            value = each(rows, labels)
        assert value.dtype == torch.float32 and torch.equal(value, expected)
        assert each(rows.to(half), labels).dtype == torch.float32
        assert each(rows.to(half), labels, None, rows.to(half), labels).dtype == torch.float32
    for miner, options in MINERS.items():
        for distance in (DISTANCES[name](), dot):
            made = getattr(pml, miner)(distance=distance, **options)
            mined = made(rows, labels)
            with torch.autocast("cpu", half):
                assert all(map(torch.equal, made(rows, labels), mined))


def test_wrappers():
    values = []
    for library in LIBRARIES:
        memory = losses.CrossBatchMemory(library.TripletMarginLoss(), 8, 40, miner=_miners(library).BatchHardMiner())
        for step in range(3):
            value = memory(BATCH.rows + step, BATCH.labels)
        both = losses.MultipleLosses([library.TripletMarginLoss(), losses.ContrastiveLoss()])
        wrapped = wrappers.DistributedLossWrapper(library.TripletMarginLoss(), efficient=True)
        with pytest.warns(UserWarning, match="non-distributed"):
            values.append(
                [
                    value,
                    both(*BATCH),
                    wrapped(*BATCH),
                    losses.SelfSupervisedLoss(library.TripletMarginLoss())(BATCH.rows[:12], BATCH.rows[12:]),
                    losses.SelfSupervisedLoss(library.TripletMarginLoss(), symmetric=False)(
                        BATCH.rows[:12], BATCH.rows[12:]
                    ),
                ]
            )
        assert wrappers.DistributedMinerWrapper(_miners(library).BatchHardMiner(), efficient=True).efficient
    for ours, original in zip(*values, strict=True):
        torch.testing.assert_close(ours, original)


def _miners(library):
    return pml if library is pml else miners


def example(library, miners_of, make):
    """The loop of the library's TripletMarginLossMNIST, on small images; its losses and numbers of triplets."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(288, 16)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loss_func, mining_func = make(library, miners_of)
    told = []
    for _ in range(4):
        data, labels = torch.randn(48, 1, 14, 14), torch.randint(0, 6, (48,))
        optimizer.zero_grad()
        embeddings = model(data)
        indices_tuple = mining_func(embeddings, labels)
        loss = loss_func(embeddings, labels, indices_tuple)
        loss.backward()
        optimizer.step()
        told.append((loss.item(), mining_func.num_triplets))
    return told


def notebook(library, miners_of):
    distance = distances.CosineSimilarity()
    return (
        library.TripletMarginLoss(margin=0.2, distance=distance, reducer=reducers.ThresholdReducer(low=0)),
        miners_of.TripletMarginMiner(margin=0.2, distance=distance, type_of_triplets="semihard"),
    )


def readme(library, miners_of):
    """Its customised loss."""
    return (
        library.TripletMarginLoss(
            distance=distances.CosineSimilarity(),
            reducer=reducers.ThresholdReducer(high=0.3),
            embedding_regularizer=regularizers.LpRegularizer(),
        ),
        miners_of.BatchHardMiner(),
    )


@pytest.mark.parametrize("make", [notebook, readme])
def test_example_scripts(make):
    ours, original = (example(library, _miners(library), make) for library in LIBRARIES)
    for (loss, triplets), (expected, as_many) in zip(ours, original, strict=True):
        assert loss == pytest.approx(expected, rel=1e-4)
        assert triplets == as_many > 0
