"""verification_metrics beside scikit-learn, counts written out, and numbers made by hand."""

import math

import pytest
import torch

from fasttriplet.reference.distances import pairwise_distances
from fasttriplet.reference.pairs import batch_of
from fasttriplet.retrieval import verification_metrics, within
from tests.inputs import PAIRINGS, pair_up


def pairs(positives, negatives):
    distances = torch.tensor([*positives, *negatives], dtype=torch.float64)
    return distances, torch.arange(len(distances)) < len(positives)


def rows(n=40, d=3, classes=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype), torch.arange(n) % classes


def test_by_hand():
    #            1 2 3 4 5 6     positives at 1, 2, 4, negatives at 3, 4, 5, 6
    found = verification_metrics(*pairs([1, 2, 4], [3, 4, 5, 6]), fars=(0.3, 0.5, 0.0, 1.0))
    assert found.thresholds.tolist() == [-math.inf, 1, 2, 3, 4, 5, 6]
    assert found.far.tolist() == [0, 0, 0, 1 / 4, 2 / 4, 3 / 4, 1]
    assert found.tar.tolist() == [0, 1 / 3, 2 / 3, 2 / 3, 1, 1, 1]
    assert found.tar_at_far.tolist() == [2 / 3, 1, 2 / 3, 1]
    assert found.thresholds_at_far.tolist() == [2, 4, 2, 4]  # at 3 another negative, and nothing gained
    # FAR - FRR is -1/12 at 3 and 1/2 at 4: a seventh of the way, between rates 1/4 and 2/4.
    assert found.equal_error_rate.item() == pytest.approx(1 / 4 + 1 / 7 * 1 / 4)
    assert found.equal_error_threshold.item() == 4
    assert found.auc.item() == pytest.approx((4 + 4 + 2.5) / 12)
    assert (found.best_accuracy.item(), found.best_accuracy_threshold.item()) == (pytest.approx(6 / 7), 2)
    assert tuple(found[-4:]) == (3, 4, 3, 4)
    told = found.as_dict()
    assert told["tar@far=0.3"] == 2 / 3 and told["threshold@far=0"] == 2 and told["auc"] == found.auc.item()
    assert told["negative_pairs"] == 4 and all(type(value) is float for value in told.values())


def test_rates_that_are_equal_are_the_equal_error_rate():
    # A third of either kind: 1 - 2 / 3 is more than 1 / 3 in float64.
    found = verification_metrics(*pairs([1, 1, 4], [2, 5, 5]))
    assert found.equal_error_rate.item() == 1 / 3 and found.equal_error_threshold.item() == 2


def test_apart_and_the_wrong_way_round():
    apart = verification_metrics(*pairs([1, 2], [3, 4]))
    assert apart.auc.item() == 1 and apart.equal_error_rate.item() == 0 and apart.equal_error_threshold.item() == 2
    assert apart.best_accuracy.item() == 1 and apart.tar_at_far.tolist() == [1, 1, 1, 1]
    wrong = verification_metrics(*pairs([3, 4], [1, 2]))
    assert wrong.auc.item() == 0 and wrong.equal_error_rate.item() == 1 and wrong.tar_at_far.tolist() == [0, 0, 0, 0]
    assert wrong.thresholds_at_far.tolist() == [-math.inf] * 4
    assert wrong.best_accuracy.item() == 0.5 and wrong.best_accuracy_threshold.item() == -math.inf
    tied = verification_metrics(*pairs([1, 1, 1], [1, 1]))
    assert tied.auc.item() == 0.5 and tied.equal_error_rate.item() == 0.5
    assert tied.best_accuracy.item() == 3 / 5 and tied.best_accuracy_threshold.item() == 1


@pytest.mark.parametrize("seed", range(10))
def test_counts_written_out(seed):
    """Whole numbers, so that many distances are tied."""
    generator = torch.Generator().manual_seed(seed)
    distances = torch.randint(0, 4 + 4 * seed, (30,), generator=generator)
    same = torch.rand(30, generator=generator) < 0.4
    fars = (0.0, 0.01, 0.1, 1 / 3, 0.5, 0.9, 1.0)
    found = verification_metrics(distances.float(), same, fars=fars)
    positives, negatives = distances[same].tolist(), distances[~same].tolist()
    points = []
    for threshold in sorted({-math.inf, *distances.tolist()}):
        tar = sum(value <= threshold for value in positives) / len(positives)
        far = sum(value <= threshold for value in negatives) / len(negatives)
        points.append((threshold, far, tar))
    for place, each in enumerate((found.thresholds, found.far, found.tar)):
        assert each.tolist() == [point[place] for point in points]
    for far, tar, threshold in zip(fars, found.tar_at_far.tolist(), found.thresholds_at_far.tolist(), strict=True):
        assert tar == max(point[2] for point in points if point[1] <= far)
        assert threshold == min(point[0] for point in points if point[2] == tar)
    wins = sum((p < n) + (p == n) / 2 for p in positives for n in negatives)
    assert found.auc.item() == pytest.approx(wins / len(positives) / len(negatives), rel=1e-14)
    right = {t: sum(v <= t for v in positives) + sum(v > t for v in negatives) for t, _, _ in points}
    assert found.best_accuracy.item() == max(right.values()) / 30
    assert found.best_accuracy_threshold.item() == min(t for t in right if right[t] == max(right.values()))
    before = max(point for point in points if point[1] < 1 - point[2] - 1e-9)
    after = min(point for point in points if point[1] >= 1 - point[2] - 1e-9)
    assert before[1] <= found.equal_error_rate.item() <= after[1]
    assert found.equal_error_threshold.item() == after[0]


def test_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(1)
    distances, same = torch.randn(500, generator=generator).round(decimals=1), torch.arange(500) % 3 == 0
    found = verification_metrics(distances, same)
    far, tar, scores = metrics.roc_curve(same.numpy(), -distances.double().numpy(), drop_intermediate=False)
    assert found.far.tolist() == pytest.approx(far, rel=1e-14) and found.tar.tolist() == pytest.approx(tar, rel=1e-14)
    assert found.thresholds[1:].tolist() == (-scores[1:]).tolist()
    assert found.auc.item() == pytest.approx(metrics.roc_auc_score(same.numpy(), -distances.numpy()), rel=1e-12)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_embeddings(pairing, distance):
    embeddings, labels = rows()
    labels, arguments = pair_up(pairing, embeddings, labels)
    embeddings[12, 1] = math.nan
    expected = batch_of(embeddings, labels, **{"groups_exclude": "positives", **arguments}).finite_alone()
    matrix = pairwise_distances(embeddings, distance, arguments.get("ref_embeddings"))
    kinds = [expected.positive, expected.negative]
    if "ref_embeddings" not in arguments:
        kinds = [each.triu() for each in kinds]
    given = verification_metrics(*pairs(*(matrix[each].tolist() for each in kinds)))
    found = verification_metrics(embeddings, labels, distance=distance, on_nonfinite="skip", **arguments)
    assert found[-4:] == given[-4:] == tuple(int(each.sum()) for each in kinds) * 2
    for name in ("tar_at_far", "thresholds_at_far", "equal_error_rate", "auc", "best_accuracy"):
        torch.testing.assert_close(
            getattr(found, name), getattr(given, name), rtol=1e-9, atol=1e-9, equal_nan=True, msg=name
        )
    with pytest.raises(ValueError, match=r"^embeddings must be finite .* pass on_nonfinite='skip' to leave them out$"):
        verification_metrics(embeddings, labels, **arguments)


@pytest.mark.parametrize("distance", ["euclidean", "cosine", "inner_product"])
def test_thresholds_are_those_of_within(distance):
    """To the bit: what is accepted here is found there."""
    embeddings, labels = rows(50, 7, dtype=torch.float32)
    found = verification_metrics(embeddings, labels, distance=distance)
    for far, tar, threshold in zip(*(each[1::97].tolist() for each in found[:3]), strict=True):
        accepted = within(embeddings, radius=threshold, distance=distance).offsets[-1].item() / 2
        assert accepted == pytest.approx(far * found.negative_pairs + tar * found.positive_pairs, abs=1e-6)


def test_samples():
    embeddings, labels = rows(120, classes=4)
    first, again, other = (verification_metrics(embeddings, labels, pairs=300, seed=seed) for seed in (5, 5, 6))
    assert tuple(first[-4:]) == (4 * 30 * 29 // 2, 6 * 30 * 30, 300, 300)
    assert torch.equal(first.thresholds, again.thresholds) and not torch.equal(first.thresholds, other.thresholds)
    whole = verification_metrics(embeddings, labels, pairs=None)
    assert tuple(whole[-2:]) == (4 * 30 * 29 // 2, 6 * 30 * 30)
    assert abs(first.auc.item() - whole.auc.item()) < 0.1


def test_one_kind_alone():
    embeddings = rows(5)[0]
    for labels in (torch.zeros(5).long(), torch.arange(5)):
        found = verification_metrics(embeddings, labels)
        assert len(found.thresholds) == 11
        for name in ("tar_at_far", "thresholds_at_far", "equal_error_rate", "equal_error_threshold", "auc"):
            assert getattr(found, name).isnan().all(), name
        assert found.best_accuracy.item() == 1
        present, absent = (found.tar, found.far)[:: 1 if labels[1] == 0 else -1]
        assert present[-1] == 1 and absent.isnan().all()


def test_no_pairs():
    for embeddings in (torch.zeros(0, 3), torch.zeros(1, 3)):
        found = verification_metrics(embeddings, torch.zeros(len(embeddings)).long())
        assert found.thresholds.tolist() == [-math.inf] and tuple(found[-4:]) == (0, 0, 0, 0)
        assert found.best_accuracy.isnan() and found.auc.isnan() and found.tar_at_far.shape == (4,)
    found = verification_metrics(torch.zeros(0), torch.zeros(0, dtype=torch.bool), fars=())
    assert found.tar_at_far.shape == (0,) and found.equal_error_rate.isnan()


def test_distances_of_any_precision():
    distances, same = pairs([1, 2, 4], [3, 4, 5, 6])
    expected = verification_metrics(distances, same)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = verification_metrics(distances.to(dtype).requires_grad_(), same)
        assert found.as_dict() == expected.as_dict() and not found.thresholds.requires_grad


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fars": (0.1, 1.5)}, ValueError, r"^fars\[1\] must be at least 0 and at most 1; got 1.5$"),
        ({"fars": (math.nan,)}, ValueError, r"^fars\[0\] must be at least 0"),
        ({"fars": (0.1, 0.1)}, ValueError, "^fars must hold distinct rates"),
        ({"fars": 0.1}, TypeError, "^fars must be a sequence of real numbers, .*; got float$"),
        ({"fars": ("0.1",)}, TypeError, r"^fars\[0\] must be a real number; got str$"),
        ({"pairs": 0}, ValueError, "^pairs must be at least 1"),
        ({"seed": True}, TypeError, "^seed must be an int; got bool$"),
        ({"on_nonfinite": "fail"}, ValueError, "^on_nonfinite must be one of error, skip; got 'fail'$"),
        ({"groups_exclude": "all"}, ValueError, "^groups_exclude must be one of"),
        ({"distance": "l1"}, ValueError, "^distance must be one of"),
        ({"at": (1,)}, TypeError, "got an unexpected keyword argument 'at'"),
    ],
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        verification_metrics(*rows(), **options)


@pytest.mark.parametrize(
    ("distances", "labels", "options", "message"),
    [
        (torch.ones(3), torch.tensor([0, 1, 1]), {}, r"^labels must be bool \[3\] where .*; got torch.int64 \[3\]$"),
        (
            torch.ones(3),
            torch.ones(2, dtype=torch.bool),
            {},
            r"^labels must be bool \[3\] where .*; got torch.bool \[2\]$",
        ),
        (torch.ones(3).long(), torch.ones(3, dtype=torch.bool), {}, "^embeddings must have dtype"),
        (torch.tensor([1, math.nan]), torch.ones(2, dtype=torch.bool), {}, "got 1 of 2 .* the first at index 1$"),
        (torch.ones(3), torch.ones(3, dtype=torch.bool), {"groups": torch.arange(3)}, "^groups must be None where"),
        (
            torch.tensor([[0.0], [1e200]], dtype=torch.float64),
            torch.zeros(2).long(),
            {"distance": "squared_euclidean"},
            "overflow it$",
        ),
    ],
)
def test_wrong_tensors(distances, labels, options, message):
    with pytest.raises(ValueError, match=message):
        verification_metrics(distances, labels, **options)
