"""The batch losses of sentence-transformers: value and gradient of the original, and a training step of its model."""

import functools
import math

import pytest
import torch

from benchmarks.originals import sentence_transformers_losses
from fasttriplet.compat import sentence_transformers as compat
from tests.compat.batches import BATCHES, DTYPES, assert_same

original = sentence_transformers_losses()
if original is None:
    pytest.skip("sentence-transformers is not installed (pip install 'fasttriplet[compat]')", allow_module_level=True)
Metric = original.BatchHardTripletLossDistanceFunction

METRICS = {
    "euclidean": Metric.euclidean_distance,
    "squared_euclidean": functools.partial(Metric.euclidean_distance, squared=True),
    "cosine": Metric.cosine_distance,
}
WITH_MARGIN = ("BatchHardTripletLoss", "BatchSemiHardTripletLoss", "BatchAllTripletLoss")
LOSSES = (*WITH_MARGIN, "BatchHardSoftMarginTripletLoss")
# Where the original of the semi-hard loss divides by the number of pairs, 0.
EMPTY = ("no positives", "one row", "two rows, two classes")


class Given(torch.nn.Module):
    """A model whose embeddings are its features."""

    def forward(self, features):
        return {"sentence_embedding": features["rows"]}


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
    if name == "BatchSemiHardTripletLoss" and batch_name in EMPTY:
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
    assert loss_function(original.BatchSemiHardTripletLoss(Given()))(rows, labels).isnan()
    value = loss_function(compat.BatchSemiHardTripletLoss(Given()))(leaf, labels)
    value.backward()
    assert value.item() == 0 and not leaf.grad.any()


def test_soft_margin_does_not_overflow():
    rows, labels = torch.tensor([[0.0], [2000.0], [1.0]]), torch.tensor([0, 0, 1])
    assert loss_function(original.BatchHardSoftMarginTripletLoss(Given()))(rows, labels).isinf()
    value = loss_function(compat.BatchHardSoftMarginTripletLoss(Given()))(rows, labels)
    # Differences of 1999, of 2000 - 1999 and, where there is no positive, of 0 - 1.
    expected = (1999 + math.log1p(math.e) + math.log1p(1 / math.e)) / 3
    assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_distances_by_name_and_by_function(name):
    rows, labels = BATCHES["random"]
    for metric, function in METRICS.items():
        losses = [loss_function(getattr(compat, name)(Given(), chosen))(rows, labels) for chosen in (metric, function)]
        assert torch.equal(*losses)
    default = getattr(compat, name)(Given())
    assert default.distance_metric == compat.BatchHardTripletLossDistanceFunction.eucledian_distance == "euclidean"
    cosine = getattr(compat, name)(Given(), compat.BatchHardTripletLossDistanceFunction.cosine_distance)
    assert cosine.distance_metric == "cosine"


@pytest.mark.parametrize("metric", [lambda rows: rows @ rows.T, functools.partial(METRICS["cosine"], 1), None, 5.0])
def test_other_distances_are_refused(metric):
    with pytest.raises(ValueError, match=r"distance_metric must be one of euclidean, .* or a function of"):
        compat.BatchHardTripletLoss(Given(), metric)
    with pytest.raises(ValueError, match="distance_metric must be one of euclidean, squared_euclidean, cosine"):
        compat.BatchHardTripletLoss(Given(), "inner_product")


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_a_module_as_the_trainer_wants_it(name):
    ours, theirs = getattr(compat, name)(Given()), getattr(original, name)(Given())
    assert [child for child, _ in ours.named_children()] == [child for child, _ in theirs.named_children()]
    assert ours.citation == theirs.citation
    margin = {"margin": 5.0} if name in WITH_MARGIN else {}
    assert ours.get_config_dict() == {"distance_metric": "euclidean", **margin}
    for attribute in ("triplet_margin", "margin"):
        if hasattr(theirs, attribute) and margin:
            assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert repr(ours).startswith(f"{name}(\n  distance_metric='euclidean'")


@pytest.mark.parametrize("name", LOSSES)
def test_it_trains_a_sentence_transformer(name):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    torch.manual_seed(0)
    words = ["cat", "dog", "bird", "red", "green", "blue", "one", "two", "three"]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="cat"))
    tokenizer.pre_tokenizer = Whitespace()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
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
