"""The batch losses of sentence-transformers: value and gradient of the original, and a training step of its model."""

import copy
import functools
import math
import pickle

import pytest
import torch

from fasttriplet.compat import sentence_transformers as compat
from tests.compat.batches import BATCHES, DTYPES, assert_same
from tests.compat.sentences import WORDS, Given, original, word_model

original = original("losses")
Metric = original.BatchHardTripletLossDistanceFunction
Ours = compat.BatchHardTripletLossDistanceFunction
#: 6.2's; the older original that `make test-originals` runs has not got all of it.
CURRENT = hasattr(original.BatchHardTripletLoss, "compute_loss_from_embeddings")
needs_current = pytest.mark.skipif(not CURRENT, reason="this sentence-transformers is older than 5.7")

METRICS = {
    "euclidean": Metric.eucledian_distance,
    "squared_euclidean": functools.partial(Metric.eucledian_distance, squared=True),
    "cosine": Metric.cosine_distance,
}
WITH_MARGIN = ("BatchHardTripletLoss", "BatchSemiHardTripletLoss", "BatchAllTripletLoss")
LOSSES = (*WITH_MARGIN, "BatchHardSoftMarginTripletLoss")
# Where there is no positive pair: older originals of the semi-hard loss are NaN there.
EMPTY = ("no positives", "one row", "two rows, two classes")


def loss_function(loss):
    return lambda rows, labels: loss([{"rows": rows}], labels)


def tied(name, batch_name, metric, dtype):
    """Whether rounding in the original decides which negative is the semi-hard one, or which triplet is above 0."""
    if name == "BatchHardTripletLoss" or name == "BatchHardSoftMarginTripletLoss":
        return False
    return batch_name in ("all equal", "duplicates") and (metric == "cosine" or dtype == torch.float32)


@pytest.mark.parametrize("batch_name", BATCHES)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_and_gradient(batch_name, name, metric, dtype):
    if name == "BatchSemiHardTripletLoss" and batch_name in EMPTY and not CURRENT:
        batch_name = "random"
    if batch_name == "one dimension" and metric == "cosine":
        batch_name = "pairs"  # all cosines are 1 or -1, and rounding decides between them
    if tied(name, batch_name, metric, dtype):
        batch_name = "large"
    margin = {"margin": 0.7} if name in WITH_MARGIN else {}
    assert_same(
        loss_function(getattr(compat, name)(Given(), METRICS[metric], **margin)),
        loss_function(getattr(original, name)(Given(), METRICS[metric], **margin)),
        BATCHES[batch_name],
        dtype,
    )


@pytest.mark.parametrize("batch_name", EMPTY)
def test_no_pairs_are_zero(batch_name):
    rows, labels = BATCHES[batch_name]
    leaf = rows.clone().requires_grad_()
    theirs = loss_function(original.BatchSemiHardTripletLoss(Given()))(rows, labels)
    assert theirs == 0 if CURRENT else theirs.isnan()
    value = loss_function(compat.BatchSemiHardTripletLoss(Given()))(leaf, labels)
    value.backward()
    assert value.item() == 0 and not leaf.grad.any()


def test_soft_margin_does_not_overflow():
    rows, labels = torch.tensor([[0.0], [2000.0], [1.0]]), torch.tensor([0, 0, 1])
    value = loss_function(compat.BatchHardSoftMarginTripletLoss(Given()))(rows, labels)
    # Differences of 1999, of 2000 - 1999 and, where there is no positive, of 0 - 1.
    expected = (1999 + math.log1p(math.e) + math.log1p(1 / math.e)) / 3
    assert value.item() == pytest.approx(expected, rel=1e-6)
    theirs = loss_function(original.BatchHardSoftMarginTripletLoss(Given()))(rows, labels)
    assert theirs.item() == (pytest.approx(expected, rel=1e-6) if CURRENT else math.inf)


@pytest.mark.parametrize("name", LOSSES)
def test_distances_by_name_and_by_function(name):
    rows, labels = BATCHES["random"]
    for metric, function in METRICS.items():
        losses = [loss_function(getattr(compat, name)(Given(), chosen))(rows, labels) for chosen in (metric, function)]
        assert torch.equal(*losses)
    assert getattr(compat, name)(Given()).distance_metric is Ours.euclidean_distance


@pytest.mark.parametrize("module", [original, compat], ids=["theirs", "ours"])
@pytest.mark.parametrize("spelling", ["eucledian_distance", "euclidean_distance", "cosine_distance"])
def test_distance_functions_by_every_spelling(module, spelling):
    function = getattr(module.BatchHardTripletLossDistanceFunction, spelling, None)
    if function is None:
        pytest.skip("this sentence-transformers has one spelling")
    rows, labels = BATCHES["random"]
    metric = "cosine" if spelling.startswith("cosine") else "euclidean"
    expected = loss_function(compat.BatchHardTripletLoss(Given(), metric))(rows, labels)
    loss = compat.BatchHardTripletLoss(Given(), function)
    assert loss.distance_metric is function and torch.equal(loss_function(loss)(rows, labels), expected)
    if metric == "euclidean":
        for squared, name in ((True, "squared_euclidean"), (False, "euclidean")):
            loss = compat.BatchHardTripletLoss(Given(), functools.partial(function, squared=squared))
            expected = loss_function(compat.BatchHardTripletLoss(Given(), name))(rows, labels)
            assert torch.equal(loss_function(loss)(rows, labels), expected)


def test_distance_functions_are_functions():
    rows = BATCHES["random"].rows
    torch.testing.assert_close(Ours.cosine_distance(rows), Metric.cosine_distance(rows))
    for squared in (False, True):
        torch.testing.assert_close(
            Ours.euclidean_distance(rows, squared), Metric.eucledian_distance(rows, squared), rtol=1e-9, atol=1e-7
        )
    assert Ours.euclidean_distance(rows.half()).dtype == torch.float32
    assert Ours.eucledian_distance is Ours.euclidean_distance


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_set_later_counts(name):
    rows, labels = BATCHES["random"]
    loss, margin = getattr(compat, name)(Given()), {"margin": 0.3} if name in WITH_MARGIN else {}
    loss.distance_metric = Metric.cosine_distance
    loss.triplet_margin = torch.tensor(0.3)
    expected = loss_function(getattr(compat, name)(Given(), "cosine", **margin))(rows, labels)
    torch.testing.assert_close(loss_function(loss)(rows, labels), expected, rtol=1e-6, atol=0)
    if hasattr(loss, "margin"):
        loss.margin = 2
        assert loss.triplet_margin == 2
    with pytest.raises(ValueError, match="distance_metric must be one of"):
        loss.distance_metric = lambda rows: rows @ rows.T
    assert loss.distance_metric is Metric.cosine_distance


@pytest.mark.parametrize("name", WITH_MARGIN)
def test_margins_as_tensors(name):
    rows, labels = BATCHES["random"]
    make, theirs = getattr(compat, name), getattr(original, name)
    margin = torch.tensor(0.25, dtype=torch.float64)
    value = loss_function(make(Given(), margin=margin))(rows, labels)
    assert torch.equal(value, loss_function(make(Given(), margin=0.25))(rows, labels))
    torch.testing.assert_close(value, loss_function(theirs(Given(), margin=margin))(rows, labels))
    with pytest.raises(ValueError, match="margin must not require grad"):
        make(Given(), margin=margin.clone().requires_grad_())
    with pytest.raises(ValueError, match=r"margin must be one number; got a tensor of shape \[2\]"):
        make(Given(), margin=torch.ones(2))
    with pytest.raises(ValueError, match="margin must be finite"):
        make(Given(), margin=torch.tensor(torch.inf))


@pytest.mark.parametrize("name", LOSSES)
def test_embeddings_that_are_given(name):
    rows, labels = BATCHES["random"]
    ours, theirs = getattr(compat, name)(Given()), getattr(original, name)(Given())
    value = ours.compute_loss_from_embeddings([rows], labels)
    assert torch.equal(value, loss_function(ours)(rows, labels))
    if CURRENT:
        torch.testing.assert_close(value, theirs.compute_loss_from_embeddings([rows], labels))


@pytest.mark.parametrize("name", LOSSES)
def test_labels_of_every_shape(name):
    rows, labels = BATCHES["random"]
    ours, theirs = getattr(compat, name)(Given()), getattr(original, name)(Given())
    expected = loss_function(ours)(rows, labels)
    for given in (labels[:, None], labels[None], labels.float()[:, None]):
        assert torch.equal(loss_function(ours)(rows, given), expected)
        if CURRENT:
            torch.testing.assert_close(loss_function(theirs)(rows, given), expected)
    for wrong in (labels[:3], labels[:3, None], labels[:, None].expand(-1, 2)):
        with pytest.raises(ValueError, match=r"labels must .*\["):
            loss_function(ours)(rows, wrong)


def test_masks():
    labels = torch.tensor([0, 1, 0, 2, 1, 1])
    for name in ("get_triplet_mask", "get_anchor_positive_triplet_mask", "get_anchor_negative_triplet_mask"):
        for make in (compat.BatchHardTripletLoss, compat.BatchHardSoftMarginTripletLoss):
            assert torch.equal(getattr(make, name)(labels), getattr(original.BatchHardTripletLoss, name)(labels))


def test_subclasses_are_heard():
    rows, labels = BATCHES["random"]

    class Doubled(compat.BatchHardTripletLoss):
        def batch_hard_triplet_loss(self, labels, embeddings):
            return 2 * super().batch_hard_triplet_loss(labels, embeddings)

    class Tripled(compat.BatchHardSoftMarginTripletLoss):
        def batch_hard_triplet_soft_margin_loss(self, labels, embeddings):
            return 3 * super().batch_hard_triplet_soft_margin_loss(labels, embeddings)

        def batch_hard_triplet_loss(self, labels, embeddings):
            raise AssertionError("it is the other loss")

    class OfTwo(compat.BatchSemiHardTripletLoss):
        def compute_loss_from_embeddings(self, embeddings, labels):
            return super().compute_loss_from_embeddings([2 * embeddings[0]], labels)

    expected = loss_function(compat.BatchHardTripletLoss(Given()))(rows, labels)
    assert torch.equal(loss_function(Doubled(Given()))(rows, labels), 2 * expected)
    expected = loss_function(compat.BatchHardSoftMarginTripletLoss(Given()))(rows, labels)
    assert torch.equal(loss_function(Tripled(Given()))(rows, labels), 3 * expected)
    expected = loss_function(compat.BatchSemiHardTripletLoss(Given()))(2 * rows, labels)
    assert torch.equal(loss_function(OfTwo(Given()))(rows, labels), expected)
    assert issubclass(compat.BatchHardSoftMarginTripletLoss, compat.BatchHardTripletLoss)  # as in the original


@pytest.mark.parametrize("name", LOSSES)
def test_copies(name):
    rows, labels = BATCHES["random"]
    for metric in (Ours.cosine_distance, Metric.cosine_distance, "cosine"):
        loss = getattr(compat, name)(Given(), metric)
        for again in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
            assert torch.equal(loss_function(again)(rows, labels), loss_function(loss)(rows, labels))


@pytest.mark.parametrize("metric", [lambda rows: rows @ rows.T, functools.partial(METRICS["cosine"], 1), None, 5.0])
def test_other_distances_are_refused(metric):
    with pytest.raises(ValueError, match=r"distance_metric must be one of euclidean, .* or a function of"):
        compat.BatchHardTripletLoss(Given(), metric)
    with pytest.raises(ValueError, match="distance_metric must be one of euclidean, squared_euclidean, cosine"):
        compat.BatchHardTripletLoss(Given(), "inner_product")


class BatchHardTripletLossDistanceFunction:
    """A class of one's own by the original's name."""

    @staticmethod
    def cosine_distance(embeddings):
        return 3 * Metric.cosine_distance(embeddings)


@pytest.mark.parametrize("owner", [Metric, Ours], ids=["theirs", "ours"])
def test_functions_of_ones_own_by_the_originals_names_are_refused(owner, monkeypatch):
    @functools.wraps(owner.cosine_distance)
    def tripled(embeddings):
        return 3 * owner.cosine_distance(embeddings)

    def renamed(embeddings):
        return 3 * owner.cosine_distance(embeddings)

    for name in ("__name__", "__qualname__", "__module__"):
        setattr(renamed, name, getattr(owner.cosine_distance, name))
    own = (tripled, renamed, BatchHardTripletLossDistanceFunction.cosine_distance)
    for metric in (*own, functools.partial(tripled)):
        with pytest.raises(ValueError, match=r"distance_metric must be one of euclidean, .* or a function of"):
            compat.BatchHardTripletLoss(Given(), metric)
    monkeypatch.setattr(owner, "cosine_distance", tripled)  # put in the place of the original
    with pytest.raises(ValueError, match=r"distance_metric must be one of euclidean, .* or a function of"):
        compat.BatchHardTripletLoss(Given(), owner.cosine_distance)


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_a_module_as_the_trainer_wants_it(name):
    ours, theirs = getattr(compat, name)(Given()), getattr(original, name)(Given())
    assert [child for child, _ in ours.named_children()] == [child for child, _ in theirs.named_children()]
    assert ours.citation == theirs.citation
    margin = {"margin": 5.0} if name in WITH_MARGIN else {}
    config = ours.get_config_dict()
    assert config == {"distance_metric": "euclidean_distance", **margin}
    if CURRENT:
        assert config == theirs.get_config_dict()
    for attribute in ("triplet_margin", "margin"):
        if hasattr(theirs, attribute) and margin:
            assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert repr(ours).startswith(f"{name}(\n  distance_metric='euclidean_distance'")


@pytest.mark.parametrize("name", LOSSES)
def test_it_trains_a_sentence_transformer(name):
    model, words = word_model(), WORDS
    loss = getattr(compat, name)(model)
    sentences = [f"{first} {second}" for first in words[:3] for second in words[:3]]
    sentences += [f"{first} {second}" for first in words[3:6] for second in words[3:6]]
    labels = torch.arange(18) // 9
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss([model.tokenize(sentences)], labels)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]


@needs_current
@pytest.mark.parametrize("name", LOSSES)
def test_splade_takes_it(name):
    from sentence_transformers.sparse_encoder.losses import SpladeLoss

    rows, labels = BATCHES["random"].rows.float().relu(), BATCHES["random"].labels
    values = []
    for module in (compat, original):
        loss = SpladeLoss(
            Given(),
            loss=getattr(module, name)(Given()),
            document_regularizer_weight=1e-3,
            use_document_regularizer_only=True,
        )
        parts = loss([{"rows": rows}], labels)
        values.append(torch.stack(list(parts.values())) if isinstance(parts, dict) else parts)
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-5)
