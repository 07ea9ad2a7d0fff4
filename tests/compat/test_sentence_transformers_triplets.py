"""sentence-transformers' explicit triplets: the loss beside the original's, and the evaluator."""

import copy
import csv
import functools
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.originals import sentence_transformers_module
from fasttriplet.compat import sentence_transformers as compat
from tests.compat.sentences import WORDS, Given, original, word_model

ROOT = Path(__file__).parents[2]
losses = original("losses")
METRICS = ("EUCLIDEAN", "COSINE", "MANHATTAN")
#: From 5.0 to 5.3 the original takes these two for their negatives.
FLIPPED = float(losses.TripletDistanceMetric.EUCLIDEAN(torch.zeros(1, 1), torch.ones(1, 1))) < 0
needs_distances = pytest.mark.skipif(FLIPPED, reason="this sentence-transformers has negatives of distances")


def theirs_of(metric):
    """The original's distance, from 5.4 on as it is."""
    function = getattr(losses.TripletDistanceMetric, metric)
    return (lambda x, y: -function(x, y)) if FLIPPED and metric != "COSINE" else function


def columns(dtype=torch.float64, triplets=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(triplets, 6, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


def loss_of(loss, rows):
    return loss([{"rows": each} for each in rows], None)


# The loss


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("margin", [5, 0.5, -0.25])
def test_value_and_gradient(metric, dtype, margin):
    results = []
    for module, distance in ((compat, getattr(compat.TripletDistanceMetric, metric)), (losses, theirs_of(metric))):
        rows = [each.requires_grad_() for each in columns(dtype)]
        loss = module.TripletLoss(Given(), distance, margin)
        value = loss_of(loss, rows)
        results.append((value, *torch.autograd.grad(value, rows)))
    assert results[0][0].dtype == dtype
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9 if dtype == torch.float64 else 1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_by_name_and_by_function(metric):
    rows = columns()
    expected = loss_of(compat.TripletLoss(Given(), metric.lower()), rows)
    for module in (compat, losses):
        loss = compat.TripletLoss(Given(), getattr(module.TripletDistanceMetric, metric))
        assert torch.equal(loss_of(loss, rows), expected)
        theirs = losses.TripletLoss(Given(), getattr(losses.TripletDistanceMetric, metric))
        assert loss.get_config_dict() == theirs.get_config_dict() and loss.citation == theirs.citation
    function = getattr(compat.TripletDistanceMetric, metric)
    torch.testing.assert_close(function(*rows[:2]), theirs_of(metric)(*rows[:2]), rtol=1e-9, atol=1e-9)
    assert function(*(each.half() for each in rows[:2])).dtype == torch.float32


def test_a_function_of_ones_own():
    def largest(x, y):
        return (x - y).abs().amax(1)

    rows = columns()
    ours, theirs = compat.TripletLoss(Given(), largest), losses.TripletLoss(Given(), largest)
    assert torch.equal(loss_of(ours, rows), loss_of(theirs, rows))
    assert ours.get_config_dict() == theirs.get_config_dict() == {"distance_metric": "largest", "triplet_margin": 5}


def test_a_function_of_ones_own_gives_a_distance_a_triplet():
    rows = columns()
    expected = loss_of(compat.TripletLoss(Given(), "manhattan"), rows)
    column = compat.TripletLoss(Given(), lambda x, y: (x - y).abs().sum(1, keepdim=True))
    torch.testing.assert_close(loss_of(column, rows), expected)
    wrong = {r"\[20, 20\]": torch.cdist, r"\[20, 6\]": lambda x, y: (x - y).abs(), r"\[\]": torch.dist}
    for got, metric in wrong.items():
        with pytest.raises(
            ValueError, match=rf"^distance_metric must give distances \[20\], one a triplet; got {got}$"
        ):
            loss_of(compat.TripletLoss(Given(), metric), rows)
    with pytest.raises(TypeError, match=r"^what distance_metric gives must be a torch\.Tensor; got float$"):
        loss_of(compat.TripletLoss(Given(), lambda x, y: 1.0), rows)


class TripletDistanceMetric:
    """A class of one's own by the original's name."""

    @staticmethod
    def EUCLIDEAN(x, y):
        return 3 * (x - y).abs().amax(1)

    COSINE = MANHATTAN = EUCLIDEAN


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("owner", [losses.TripletDistanceMetric, compat.TripletDistanceMetric], ids=["theirs", "ours"])
def test_a_function_of_ones_own_by_an_originals_name(metric, owner, monkeypatch):
    @functools.wraps(getattr(owner, metric))
    def wrapped(x, y):
        return TripletDistanceMetric.EUCLIDEAN(x, y)

    def assert_called(mine):
        ours, theirs = compat.TripletLoss(Given(), mine), losses.TripletLoss(Given(), mine)
        assert torch.equal(loss_of(ours, columns()), loss_of(theirs, columns()))

    assert_called(getattr(TripletDistanceMetric, metric))
    assert_called(wrapped)
    monkeypatch.setattr(owner, metric, wrapped)  # put in the place of the original
    assert_called(getattr(owner, metric))


def test_squared_distances_by_name():
    a, p, n = rows = columns()
    expected = ((a - p).square().sum(1) - (a - n).square().sum(1) + 5).relu().mean()
    torch.testing.assert_close(loss_of(compat.TripletLoss(Given(), "squared_euclidean"), rows), expected)


def test_arguments_of_the_loss():
    with pytest.raises(ValueError, match="distance_metric must be one of euclidean, squared_euclidean, cosine, manhat"):
        compat.TripletLoss(Given(), "l1")
    with pytest.raises(TypeError, match=r"distance_metric must be one of .*a function of two tensors; got float"):
        compat.TripletLoss(Given(), 5.0)
    with pytest.raises(ValueError, match="triplet_margin must not require grad"):
        compat.TripletLoss(Given(), triplet_margin=torch.tensor(1.0, requires_grad=True))
    rows = columns()
    loss = compat.TripletLoss(Given(), triplet_margin=torch.tensor(0.5))
    assert torch.equal(loss_of(loss, rows), loss_of(compat.TripletLoss(Given(), triplet_margin=0.5), rows))
    loss.distance_metric, loss.triplet_margin = losses.TripletDistanceMetric.COSINE, 1
    assert torch.equal(loss_of(loss, rows), loss_of(compat.TripletLoss(Given(), "cosine", 1), rows))
    again = copy.deepcopy(loss)
    assert torch.equal(loss_of(again, rows), loss_of(loss, rows))
    assert repr(loss).startswith("TripletLoss(\n  distance_metric='TripletDistanceMetric.COSINE', triplet_margin=1")
    for count in (2, 4):
        message = rf"^embeddings must be three columns, anchor, positive and negative; got {count}$"
        with pytest.raises(ValueError, match=message):
            loss_of(loss, [*rows, rows[0]][:count])
        with pytest.raises(ValueError, match=message):
            loss.compute_loss_from_embeddings([*rows, rows[0]][:count], None)
    for metric in ("cosine", "manhattan", lambda x, y: (x - y).abs().amax(1)):  # none broadcasts one row to all
        for short in ([rows[0], rows[1], rows[2][:1]], [rows[0], rows[1][:, :1], rows[2]], [rows[0][:1], *rows[1:]]):
            with pytest.raises(
                ValueError, match=r"anchor, positive and negative must have one shape \[T, D\]; got anchor"
            ):
                loss_of(compat.TripletLoss(Given(), metric), short)
        flat = [each[0] for each in rows]
        with pytest.raises(ValueError, match=r"^anchor must have shape \[T, D\]; got \[6\]: make one row"):
            loss_of(compat.TripletLoss(Given(), metric), flat)
        for place, name in enumerate(("anchor", "positive", "negative")):
            wrong = list(rows)
            wrong[place] = rows[place].long()
            with pytest.raises(ValueError, match=f"^{name} must have dtype float64, .*; got torch.int64"):
                loss_of(compat.TripletLoss(Given(), metric), wrong)
            wrong[place] = rows[place].tolist()
            with pytest.raises(TypeError, match=f"^{name} must be a torch.Tensor; got list"):
                loss_of(compat.TripletLoss(Given(), metric), wrong)


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_where_rows_are_equal_or_zero(metric):
    a, _, n = columns()
    a[0] = 0
    a, n = a.requires_grad_(), n
    loss = loss_of(compat.TripletLoss(Given(), metric.lower(), 50), [a, a.detach(), n])
    (gradient,) = torch.autograd.grad(loss, a)
    assert gradient.isfinite().all()
    if metric == "COSINE":
        assert not gradient[0].any()


def test_half_precision_gives_a_float32_loss():
    rows = columns(torch.bfloat16)
    for metric in METRICS:
        value = loss_of(compat.TripletLoss(Given(), metric.lower()), rows)
        expected = loss_of(compat.TripletLoss(Given(), metric.lower()), [each.float() for each in rows])
        assert value.dtype == torch.float32 and torch.equal(value, expected)


def sentences():
    first = [f"{a} {b}" for a in WORDS[:3] for b in WORDS[:3]]
    return {"anchor": first, "positive": first[::-1], "negative": [f"{a} {b}" for a in WORDS[3:6] for b in WORDS[3:6]]}


@needs_distances
def test_it_trains_as_the_original_does():
    values = {}
    for module in (compat, losses):
        model = word_model()
        loss = module.TripletLoss(model, triplet_margin=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        values[module] = []
        for _ in range(20):
            optimizer.zero_grad()
            value = loss([model.tokenize(column) for column in sentences().values()], None)
            value.backward()
            optimizer.step()
            values[module].append(value.item())
    assert values[compat] == pytest.approx(values[losses], abs=1e-4)
    assert values[compat][-1] < values[compat][0] - 0.1


def test_columns_are_embedded_in_as_many_passes_as_the_originals():
    module = sys.modules.get("sentence_transformers.base.losses.merged_forward")
    if module is None:
        pytest.skip("this sentence-transformers has one pass a column")
    passes = {}
    for which in (compat, losses):
        model = word_model()
        passes[which] = []
        model.register_forward_hook(lambda _, features, __, found=passes[which]: found.append(len(features[0])))
        which.TripletLoss(model)([model.tokenize(column) for column in sentences().values()], None)
    assert passes[compat] == passes[losses] and passes[compat]


# The evaluator

evaluation = sentence_transformers_module("evaluation")
HAS_HOOK = hasattr(evaluation.TripletEvaluator, "_get_similarity_functions")
needs_hook = pytest.mark.skipif(not HAS_HOOK, reason="this sentence-transformers is older than 6")


@pytest.mark.skipif(HAS_HOOK, reason="of sentence-transformers before 6")
def test_an_older_original_is_an_error_that_says_so():
    with pytest.raises(ImportError, match="TripletEvaluator needs sentence-transformers 6 or later"):
        _ = compat.TripletEvaluator


def test_without_the_original_it_is_an_error_that_says_so():
    code = (
        "import sys; sys.modules['sentence_transformers'] = None; import fasttriplet.compat.sentence_transformers as m"
    )
    result = subprocess.run([sys.executable, "-c", f"{code}; m.TripletLoss"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    result = subprocess.run(
        [sys.executable, "-c", f"{code}; m.TripletEvaluator"], cwd=ROOT, capture_output=True, text=True
    )
    assert "ImportError: fasttriplet.compat.sentence_transformers.TripletEvaluator needs" in result.stderr
    with pytest.raises(AttributeError, match="has no attribute 'TripletEvaluators'"):
        _ = compat.TripletEvaluators


ARGUMENTS = [
    {},
    {"name": "dev"},
    {"main_similarity_function": "dot"},
    {"similarity_fn_names": ["cosine", "dot", "euclidean", "manhattan"], "name": "all"},
    {"similarity_fn_names": ["euclidean", "manhattan"], "margin": 0.3},
    {"similarity_fn_names": ["cosine", "dot"], "margin": {"cosine": 0.2}},
    {"truncate_dim": 4, "batch_size": 2},
]


@needs_hook
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_numbers_and_csv_are_the_originals(arguments, tmp_path, caplog):
    model, texts = word_model(), sentences()
    texts = [texts["anchor"], texts["positive"][:6] + texts["negative"][6:], texts["negative"]]
    found = []
    for folder, module in (("ours", compat), ("theirs", evaluation)):
        evaluator = module.TripletEvaluator(*texts, **arguments)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            metrics = [evaluator(model, str(tmp_path / folder), epoch, step) for epoch, step in ((-1, -1), (1, 20))]
        with open(tmp_path / folder / evaluator.csv_file, newline="") as file:
            table = list(csv.reader(file))
        logged = [record.message for record in caplog.records]
        config = evaluator.get_config_dict()
        found.append((metrics, evaluator.primary_metric, table, logged, evaluator.description, config))
    assert found[0] == found[1]
    assert len(found[0][2]) == 3 and 0 <= found[0][0][0][found[0][1]] <= 1


@needs_hook
def test_evaluator_counts_exactly():
    """Far from the origin float32 distances are all equal; in float64 the positive is the nearer one."""
    offset = 4096.0
    anchor = torch.full((2, 3), offset)
    positive, negative = anchor.clone(), anchor.clone()
    positive[:, 0] += 2**-11
    negative[:, 0] += 2**-10
    evaluator = compat.TripletEvaluator(["a"] * 2, ["b"] * 2, ["c"] * 2)
    for name, score in evaluator._get_similarity_functions().items():
        scores = score(anchor.numpy(), positive.numpy(), negative.numpy())
        assert [tuple(each.shape) for each in scores] == [(2,), (2,)] and scores[0].dtype == torch.float64
        assert (scores[0] > scores[1]).all() == (name != "dot")  # a longer row has the larger product
    not_finite = torch.full((2, 3), torch.nan).numpy()
    for score in evaluator._get_similarity_functions().values():
        positives, negatives = score(not_finite, positive.numpy(), negative.numpy())
        assert not (positives > negatives).any()  # failures, never hits


@needs_hook
def test_evaluator_takes_rows_in_blocks(monkeypatch):
    from fasttriplet.compat.sentence_transformers import evaluation as ours

    a, p, n = (each.numpy() for each in columns())
    whole = {
        name: score(a, p, n) for name, score in compat.TripletEvaluator([], [], [])._get_similarity_functions().items()
    }
    monkeypatch.setattr(ours, "_BLOCK", 6 * 7)  # seven rows
    for name, score in compat.TripletEvaluator([], [], [])._get_similarity_functions().items():
        assert all(map(torch.equal, score(a, p, n), whole[name]))


@needs_hook
def test_evaluator_is_one_of_the_originals():
    assert issubclass(compat.TripletEvaluator, evaluation.TripletEvaluator)  # the trainer asks for its base class
    example = type("InputExample", (), {"texts": ["a", "b", "c"]})()
    evaluator = compat.TripletEvaluator.from_input_examples([example], name="dev")
    assert (evaluator.anchors, evaluator.positives, evaluator.negatives) == (["a"], ["b"], ["c"])
    with pytest.raises(ValueError, match=r"unexpected keys \['cosien'\]"):
        compat.TripletEvaluator(["a"], ["b"], ["c"], margin={"cosien": 0.5})


@needs_hook
def test_loss_and_evaluator_in_the_trainer(tmp_path):
    pytest.importorskip("datasets", reason="the trainer of sentence-transformers needs the package datasets")
    pytest.importorskip("accelerate", reason="the trainer of sentence-transformers needs the package accelerate")
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    model, texts = word_model(), sentences()
    evaluator = compat.TripletEvaluator(*texts.values(), name="dev")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=3,
        eval_strategy="steps",
        eval_steps=1,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(texts),
        loss=compat.TripletLoss(model, triplet_margin=1),
        evaluator=evaluator,
    )
    trainer.train()
    assert any("eval_dev_cosine_accuracy" in entry for entry in trainer.state.log_history)
