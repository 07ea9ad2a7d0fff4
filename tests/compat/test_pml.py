"""The miner and the loss of pytorch-metric-learning: indices, value and gradient of the original."""

import itertools
from collections import namedtuple

import pytest
import torch

from benchmarks.originals import pytorch_metric_learning
from fasttriplet.compat import pml
from fasttriplet.compat._pairs import normalized
from tests.compat.batches import BATCHES, DTYPES, assert_same

original_library = pytorch_metric_learning()
if original_library is None:
    pytest.skip("pytorch-metric-learning is not installed (pip install 'fasttriplet[compat]')", allow_module_level=True)
distances, losses = original_library.distances, original_library.losses
miners, reducers = original_library.miners, original_library.reducers

METRICS = {
    "default": lambda: None,
    "Lp raw": lambda: distances.LpDistance(normalize_embeddings=False),
    "Lp squared": lambda: distances.LpDistance(power=2),
    "cosine": lambda: distances.CosineSimilarity(),
    "dot": lambda: distances.DotProductSimilarity(normalize_embeddings=False),
    "dot normalised": lambda: distances.DotProductSimilarity(),
}
REDUCERS = {
    "mean_nonzero": reducers.AvgNonZeroReducer,
    "mean": reducers.MeanReducer,
    "sum": reducers.SumReducer,
}
# Rows of one dimension, normalised, are 1 or -1, and equal rows have distances that rounding makes different: with
# ties in exact arithmetic the original's choice is that of rounding.
UNTIED = [name for name in BATCHES if name not in ("one dimension", "duplicates", "all equal")]


@pytest.mark.parametrize("name", UNTIED)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_miner(name, metric, dtype):
    rows, labels = BATCHES[name].rows.to(dtype), BATCHES[name].labels
    ours = pml.BatchHardMiner(distance=METRICS[metric]())(rows, labels)
    original = miners.BatchHardMiner(distance=METRICS[metric]())(rows, labels)
    assert all(torch.equal(*pair) for pair in zip(ours, original, strict=True))
    assert all(indices.dtype == torch.int64 for indices in ours)


def test_miner_gives_ties_to_the_first_index():
    rows = torch.tensor([[0.0], [1.0], [-1.0], [1.0], [-1.0], [0.0]])
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    mined = pml.BatchHardMiner(distance="euclidean")(rows, labels)
    original = miners.BatchHardMiner(distance=METRICS["Lp raw"]())(rows, labels)
    assert [indices.tolist() for indices in mined] == [[0, 1, 2, 3, 4, 5], [1, 2, 1, 4, 3, 3], [5, 3, 4, 1, 2, 0]]
    assert all(torch.equal(*pair) for pair in zip(mined, original, strict=True))


@pytest.mark.parametrize("name", UNTIED)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", pml.TYPES_OF_TRIPLETS)
def test_margin_miner(name, metric, kind):
    rows, labels = BATCHES[name]
    ours = pml.TripletMarginMiner(0.1, kind, METRICS[metric]())(rows, labels)
    original = miners.TripletMarginMiner(0.1, kind, distance=METRICS[metric]())(rows, labels)
    assert all(torch.equal(*pair) for pair in zip(ours, original, strict=True))
    assert all(indices.dtype == torch.int64 for indices in ours)


def test_margin_miner_in_blocks_and_with_references(monkeypatch):
    rows, labels = BATCHES["random"]
    others, ref_labels = BATCHES["large"].rows[:50, :8], BATCHES["large"].labels[:50]
    original = miners.TripletMarginMiner()(rows, labels, others, ref_labels)
    for block in (1, 120, 2**20):  # of pairs with 50 candidates each: one, two, all at a time
        monkeypatch.setattr("fasttriplet.compat._pml_pairing._BLOCK", block)
        ours = pml.TripletMarginMiner()(rows, labels, others, ref_labels)
        assert len(ours[0]) > 100
        assert all(torch.equal(*pair) for pair in zip(ours, original, strict=True))


def test_margin_miner_at_its_thresholds():
    rows, labels = torch.tensor([[0.0], [1.0], [1.0], [-1.5], [2.0]]), torch.tensor([0, 0, 1, 2, 3])
    negatives = {}
    for kind in pml.TYPES_OF_TRIPLETS:
        anchors, _, found = pml.TripletMarginMiner(0.5, kind, "euclidean")(rows, labels)
        negatives[kind] = found[anchors == 0].tolist()
    # d_ap is 1; the negatives are at 1, 1.5 and 2: at a gap of 0, of the margin and beyond it.
    assert negatives == {"all": [2, 3], "hard": [2], "semihard": [3], "easy": [4]}
    with pytest.raises(ValueError, match="type_of_triplets must be one of all, hard, semihard, easy; got 'soft'"):
        pml.TripletMarginMiner(type_of_triplets="soft")
    assert repr(pml.TripletMarginMiner()) == (
        "TripletMarginMiner(\n  margin=0.2, type_of_triplets='all'\n  (distance): LpDistance()\n)"
    )


@pytest.mark.parametrize("own", [False, True])
def test_miner_with_references(own):
    rows, labels = BATCHES["random"]
    others = BATCHES["large"].rows[: len(rows), :8] if own else BATCHES["large"].rows[:50, :8]
    # The very tensor of labels says that reference i is the anchor's own copy.
    ref_labels = labels if own else BATCHES["large"].labels[:50]
    ours = pml.BatchHardMiner()(rows, labels, others, ref_labels)
    original = miners.BatchHardMiner()(rows, labels, others, ref_labels)
    assert all(torch.equal(*pair) for pair in zip(ours, original, strict=True))
    for indices in (None, ours):
        assert_same(
            lambda x, y, i=indices: pml.TripletMarginLoss()(x, labels, i, others, ref_labels),
            lambda x, y, i=indices: losses.TripletMarginLoss()(x, labels, i, others, ref_labels),
            BATCHES["random"],
            torch.float64,
        )


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_loss_of_the_miner(name, dtype, metric):
    ours = pml.TripletMarginLoss(margin=0.3, distance=METRICS[metric]()), pml.BatchHardMiner(METRICS[metric]())
    original = (
        losses.TripletMarginLoss(margin=0.3, distance=METRICS[metric]()),
        miners.BatchHardMiner(distance=METRICS[metric]()),
    )
    assert_same(
        lambda rows, labels: ours[0](rows, labels, ours[1](rows, labels)),
        lambda rows, labels: original[0](rows, labels, original[1](rows, labels)),
        BATCHES[name],
        dtype,
        with_gradient=name in UNTIED,
    )


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reducer", REDUCERS)
def test_loss_of_all_triplets(name, dtype, reducer):
    # At a loss of exactly 0 rounding decides whether it counts: a margin that no difference of equal distances meets.
    ours, original = (
        pml.TripletMarginLoss(0.3, reducer=reducer),
        losses.TripletMarginLoss(0.3, reducer=REDUCERS[reducer]()),
    )
    scale = max(1, len(BATCHES[name].rows) ** 2) if reducer == "sum" else 1  # as many roundings are added up
    assert_same(
        ours, original, BATCHES[name], dtype, with_gradient=scale == 1 and name in UNTIED, value_atol=1e-6 * scale
    )


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("mined", [False, True])
@pytest.mark.parametrize("options", list(itertools.product([False, True], repeat=2)))
def test_swap_and_smooth_loss(name, mined, options):
    swap, smooth_loss = options
    miner = miners.BatchHardMiner()
    indices = miner(*BATCHES[name]) if mined else None
    assert_same(
        lambda rows, labels: pml.TripletMarginLoss(0.2, swap, smooth_loss)(rows, labels, indices),
        lambda rows, labels: losses.TripletMarginLoss(0.2, swap, smooth_loss)(rows, labels, indices),
        BATCHES[name],
        torch.float64,
        with_gradient=name in UNTIED,
    )


@pytest.mark.parametrize("swap", [False, True])
def test_pairs_are_joined_by_their_anchor(swap):
    rows, labels = BATCHES["random"]
    pairs = miners.BatchEasyHardMiner(pos_strategy="all", neg_strategy="hard")(rows, labels)
    assert len(pairs) == 4
    assert_same(
        lambda rows, labels: pml.TripletMarginLoss(swap=swap)(rows, labels, pairs),
        lambda rows, labels: losses.TripletMarginLoss(swap=swap)(rows, labels, pairs),
        BATCHES["random"],
        torch.float64,
    )


@pytest.mark.parametrize("mined", [False, True])
def test_no_reduction_gives_the_loss_of_every_triplet(mined):
    rows, labels = BATCHES["random"]
    indices = miners.BatchHardMiner()(rows, labels) if mined else None
    ours = pml.TripletMarginLoss(reducer=reducers.DoNothingReducer())(rows, labels, indices)["loss"]
    original = losses.TripletMarginLoss(reducer=reducers.DoNothingReducer())(rows, labels, indices)["loss"]
    torch.testing.assert_close(ours["losses"], original["losses"])
    assert ours["reduction_type"] == original["reduction_type"] == "triplet"
    assert all(map(torch.equal, ours["indices"], original["indices"]))
    assert torch.equal(ours["losses"], pml.TripletMarginLoss(reducer="none")(rows, labels, indices))


@pytest.mark.parametrize("metric", METRICS)
def test_few_triplets_and_many_have_the_same_distances(metric):
    """Few are gathered row by row, many are picked from a matrix."""
    rows = torch.cat([BATCHES["random"].rows, torch.zeros(2, 8)]).requires_grad_()
    anchors = torch.arange(26).repeat_interleave(26)
    positives, negatives = torch.arange(26).repeat(26), torch.arange(26).repeat(26).flip(0)
    loss = pml.TripletMarginLoss(margin=9.0, distance=METRICS[metric](), reducer="none")
    many = loss(rows, indices_tuple=(anchors, positives, negatives))
    few = torch.cat(
        [
            loss(rows, indices_tuple=triplet)
            for triplet in zip(*(x.split(2) for x in (anchors, positives, negatives)), strict=True)
        ]
    )
    torch.testing.assert_close(many, few, rtol=1e-12, atol=1e-12)
    weights = torch.linspace(-1, 1, len(many), dtype=torch.float64)
    gradients = [torch.autograd.grad(weights @ values, rows)[0][:24] for values in (many, few)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_the_two_libraries_halves_fit_together():
    rows, labels = BATCHES["random"]
    expected = pml.TripletMarginLoss()(rows, labels, pml.BatchHardMiner()(rows, labels))
    torch.testing.assert_close(losses.TripletMarginLoss()(rows, labels, pml.BatchHardMiner()(rows, labels)), expected)
    torch.testing.assert_close(pml.TripletMarginLoss()(rows, labels, miners.BatchHardMiner()(rows, labels)), expected)


def test_cross_batch_memory_of_the_original_takes_the_loss():
    values = []
    for library in (pml, losses):
        memory = losses.CrossBatchMemory(library.TripletMarginLoss(), embedding_size=8, memory_size=40)
        for step in range(3):
            rows = (BATCHES["random"].rows + step).float()
            value = memory(rows, BATCHES["random"].labels)
        values.append(value)
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)


def test_labels_of_two_dtypes_are_compared_as_numbers():
    rows, labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]]), torch.tensor([0, 1, 0, 1])
    whole = pml.BatchHardMiner()(rows, labels, rows.flip(0), labels.flip(0))
    mixed = pml.BatchHardMiner()(rows, labels, rows.flip(0), labels.flip(0).half())
    assert len(whole[0]) == 4
    assert all(torch.equal(a, b) for a, b in zip(whole, mixed, strict=True))


def test_labels_of_floats_and_half_precision():
    rows, labels = BATCHES["random"]
    assert torch.equal(pml.TripletMarginLoss()(rows, labels / 2), pml.TripletMarginLoss()(rows, labels))
    half = pml.TripletMarginLoss()(rows.half(), labels)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), pml.TripletMarginLoss()(rows, labels), rtol=1e-2, atol=1e-3)


def test_defaults_and_names():
    loss = pml.TripletMarginLoss()
    original = losses.TripletMarginLoss()
    for name in ("margin", "swap", "smooth_loss", "triplets_per_anchor", "embedding_regularizer", "collect_stats"):
        assert getattr(loss, name) == getattr(original, name)
    assert type(loss.distance) is type(original.distance) and type(loss.reducer) is type(original.reducer)
    assert repr(pml.TripletMarginLoss(0.1, distance="cosine", reducer="mean")) == (
        "TripletMarginLoss(\n  margin=0.1, swap=False, smooth_loss=False\n"
        "  (distance): CosineSimilarity(normalize_embeddings=True, power=1)\n  (reducer): MeanReducer()\n)"
    )
    rows, labels = BATCHES["random"]
    by_name = pml.TripletMarginLoss(distance="cosine")(rows, labels)
    assert torch.equal(by_name, pml.TripletMarginLoss(distance=distances.CosineSimilarity())(rows, labels))


@pytest.mark.parametrize("distance", ["L2", 2, distances.LpDistance, torch.cdist])
def test_what_is_no_distance_is_refused(distance):
    with pytest.raises(ValueError, match=r"distance must be None, one of euclidean, .*; got "):
        pml.BatchHardMiner(distance)
    with pytest.raises(ValueError, match="distance must be None"):
        pml.TripletMarginLoss(distance=distance)


def test_arguments():
    rows, labels = BATCHES["random"]
    for reducer in ("avg", 1, reducers.MeanReducer):
        with pytest.raises(
            ValueError, match=r"reducer must be None, one of none, sum, mean, mean_nonzero, or .*; got ('avg'|1|<class)"
        ):
            pml.TripletMarginLoss(reducer=reducer)
    with pytest.raises(ValueError, match="reducer must be one that sums with an embedding_regularizer; got 'none'"):
        pml.TripletMarginLoss(reducer="none", embedding_regularizer=torch.nn.Identity())
    with pytest.raises(TypeError, match="swap must be a bool; got int"):
        pml.TripletMarginLoss(swap=1)
    with pytest.raises(ValueError, match="labels must be given where indices_tuple is not; got None"):
        pml.TripletMarginLoss()(rows)
    with pytest.raises(ValueError, match="ref_labels must be given with ref_emb; got None"):
        pml.TripletMarginLoss()(rows, labels, ref_emb=rows)
    with pytest.raises(ValueError, match=r"indices_tuple must be .*; got 2 tensors"):
        pml.TripletMarginLoss()(rows, labels, (labels, labels))
    with pytest.raises(ValueError, match="margin must be finite; got nan"):
        pml.TripletMarginLoss(torch.tensor(torch.nan))
    with pytest.raises(TypeError, match="margin must be a real number or a tensor of such; got a tensor of torch"):
        pml.TripletMarginMiner(torch.tensor(True))
    with pytest.raises(TypeError, match="margin must be a real number; got str"):
        pml.TripletMarginLoss("0.1")


@pytest.mark.parametrize("mined", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_a_margin_that_is_a_tensor(mined, learned):
    """Also one that is learned, and one for each triplet."""
    rows, labels = BATCHES["random"]
    indices = miners.BatchHardMiner()(rows, labels) if mined else None
    results = []
    for library in (pml, losses):
        leaf = rows.clone().requires_grad_()
        margin = torch.tensor(0.25)
        loss = library.TripletMarginLoss(torch.nn.Parameter(margin) if learned else margin)
        value = loss(leaf, labels, indices)
        results.append((value, *torch.autograd.grad(value, [leaf, *loss.parameters()])))
        assert len(list(loss.parameters())) == learned
    for ours, original in zip(*results, strict=True):
        torch.testing.assert_close(ours, original, rtol=1e-5, atol=1e-7)
    each = torch.linspace(0, 1, 24, dtype=torch.float64)
    triplets = miners.BatchHardMiner()(rows, labels)
    for library in (pml, losses):
        results.append(library.TripletMarginLoss(each)(rows, labels, triplets))
    torch.testing.assert_close(*results[2:])
    found = (library.TripletMarginMiner(torch.tensor(0.25))(rows, labels) for library in (pml, miners))
    assert all(map(torch.equal, *found))


def test_a_named_tuple_of_indices_is_taken():
    """Version 3 of the library has them."""
    rows, labels = BATCHES["random"]
    mined = pml.BatchHardMiner()(rows, labels)
    triplets = namedtuple("Triplets", "anchor positive negative")(*mined)
    pairs = namedtuple("Pairs", "a1 p a2 n")(mined[0], mined[1], mined[0], mined[2])
    expected = pml.TripletMarginLoss()(rows, labels, mined)
    assert torch.equal(pml.TripletMarginLoss()(rows, labels, triplets), expected)
    torch.testing.assert_close(pml.TripletMarginLoss()(rows, labels, pairs), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("smooth_loss", [False, True])
def test_rows_of_length_zero_have_no_gradient(metric, smooth_loss):
    rows, labels = BATCHES["random"]
    rows = torch.cat([rows, torch.zeros(2, 8), torch.full((2, 8), 1e-14)]).float().requires_grad_()
    loss = pml.TripletMarginLoss(0.3, smooth_loss=smooth_loss, distance=METRICS[metric]())
    (gradient,) = torch.autograd.grad(loss(rows, torch.cat([labels, torch.tensor([0, 1, 0, 1])])), rows)
    assert gradient.isfinite().all() and gradient[:24].any()
    if loss.distance.normalize_embeddings:
        assert not gradient[24:26].any()
        assert gradient.abs().max() < 10 or metric == "cosine"  # a slope of 1e13 is that of the cosine there


def test_normalized():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-13, 0.0], [1e-11, 0.0], [torch.nan, 0.0]], dtype=torch.float64)
    unit = normalized(rows)
    assert unit[:4].tolist() == [[0.6, 0.8], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    assert unit[4].isnan().all()
    leaf = rows[:3].clone().requires_grad_()
    (slope,) = torch.autograd.grad((normalized(leaf) * torch.tensor([1.0, 2.0])).sum(), leaf, create_graph=True)
    assert slope[1:].eq(0).all() and slope[0].ne(0).all()
    (curvature,) = torch.autograd.grad(slope.sum(), leaf)
    assert curvature.isfinite().all()
