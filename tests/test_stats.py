"""The statistics against the reference's, by example, and what they are there to show."""

import math

import pytest
import torch

import fasttriplet
from fasttriplet import reference
from tests.family import LOSSES, MINED, NAMES, in_float64
from tests.inputs import CASES, DISTANCES, PAIRINGS, batch, pair_up

BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("case", ["edge-25", "one-class", "all-distinct", "empty", "gauss-1x3"])
def test_statistics_are_those_of_the_reference(case, pairing):
    embeddings, classes = batch(BY_NAME[case], torch.float32)
    labels, arguments = pair_up(pairing, embeddings, classes)
    for number, (name, chosen) in enumerate(LOSSES):
        options = dict(distance=DISTANCES[number % 4], soft_margin=number % 5 == 0, return_stats=True, **chosen)
        function = getattr(fasttriplet, f"{name}_triplet_loss")
        loss, stats = function(embeddings, labels, **options, **arguments)
        alone = function(embeddings, labels, **{**options, "return_stats": False}, **arguments)
        torch.testing.assert_close(loss, alone)
        wanted_of = getattr(reference, f"{name}_triplet_loss")
        _, wanted = wanted_of(embeddings.double(), labels, **options, **in_float64(arguments))
        assert stats._fields == wanted._fields
        for field, ours, theirs in zip(stats._fields, stats, wanted, strict=True):
            if ours.dtype == torch.int64:
                assert torch.equal(ours, theirs), (name, field)
            else:
                assert ours.dtype == torch.float32 and not ours.requires_grad
                torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-6, equal_nan=True)


def test_by_hand():
    rows = torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0]], requires_grad=True)
    loss, stats = fasttriplet.batch_hard_triplet_loss(rows, torch.tensor([0, 0, 1, 1, 2]), return_stats=True)
    assert loss.requires_grad
    # Farthest positives at 1, 1, 4, 4 and none; nearest negatives are rows 2, 2, 1, 4, 3 at 3, 2, 2, 1, 1.
    assert stats.active_fraction == 0.5 and stats.negative_counts.tolist() == [0, 1, 2, 1, 1]
    assert stats.missing_positive == 1 and stats.missing_negative == 0
    assert stats.mean_positive_distance == 2.5
    assert stats.mean_negative_distance == pytest.approx(9 / 5)
    assert stats.collapse == pytest.approx(9 / 5 / (123 / 5) ** 0.5)


@pytest.mark.parametrize("distance", DISTANCES[:3])
def test_collapse_goes_to_zero_as_all_rows_become_one(distance):
    generator = torch.Generator().manual_seed(0)
    noise, centre = torch.randn(64, 16, generator=generator), torch.randn(16, generator=generator)
    labels = torch.arange(64) // 4
    values = []
    for spread in (1.0, 0.1, 0.01):
        _, stats = fasttriplet.batch_hard_triplet_loss(
            (1 - spread) * centre + spread * noise, labels, distance=distance, return_stats=True
        )
        values.append(stats.collapse.item())
    assert 0.5 < values[0] < 1.5 and values[0] > 4 * values[1] > 16 * values[2] > 0


def test_collapse_does_not_depend_on_the_distance_it_is_mined_by():
    rows = torch.nn.functional.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    values = [
        fasttriplet.batch_hard_triplet_loss(rows, torch.arange(40) // 4, distance=distance, return_stats=True)[1]
        for distance in DISTANCES  # on rows at length 1 they all choose the same
    ]
    for stats in values[1:]:
        torch.testing.assert_close(stats.collapse, values[0].collapse, rtol=1e-5, atol=1e-5)


def test_a_hub_is_counted():
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(60, 30, generator=generator), dim=1)
    rows[59] = rows.mean(0)
    for name, chosen in MINED[:1]:
        _, stats = getattr(fasttriplet, f"{name}_triplet_loss")(
            rows, torch.arange(60) // 2, return_stats=True, **chosen
        )
        assert stats.negative_counts.argmax() == 59 and stats.negative_counts[59] >= 50


@pytest.mark.parametrize("name", NAMES)
def test_not_finite(name):
    rows = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    rows[0, 0] = torch.inf
    _, stats = getattr(fasttriplet, f"{name}_triplet_loss")(rows, torch.arange(12) // 3, return_stats=True)
    for field in ("active_fraction", "mean_positive_distance", "mean_negative_distance"):
        assert getattr(stats, field).isnan()


def stats_of(module, name, rows, labels, **options):
    return getattr(module, f"{name}_triplet_loss")(rows, labels, return_stats=True, **options)[1]


@pytest.mark.parametrize("module", [fasttriplet, reference])
def test_a_zero_row_has_no_length(module):
    """Unit rows and zeros: apart by 1 from a unit row, by 0 from each other; the root mean square norm is below 1."""
    rows = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 3.0], [0.0, 5.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0])
    for cosine in (True, False):
        unit = rows if cosine else torch.nn.functional.normalize(rows)
        distance = "cosine" if cosine else "euclidean"
        stats = stats_of(module, "batch_hard", unit, labels, distance=distance)
        # By cosine nearest negatives of 0: 1 and 2 tie, 1; of 1: 0; of 2: 3, the same; of 3: 2. All rows but one: 3/4.
        assert stats.collapse == pytest.approx((1 + 1 + 0 + 0) / 4 / math.sqrt(3 / 4))
    only_zero = dict(ref_embeddings=torch.zeros(3, 2).double(), ref_labels=torch.tensor([0, 1, 1]))
    stats = stats_of(module, "batch_hard", rows, labels, distance="cosine", **only_zero)
    assert stats.collapse == pytest.approx(3 / 4 / math.sqrt(3 / 4))


@pytest.mark.parametrize("module", [fasttriplet, reference])
@pytest.mark.parametrize("distance", DISTANCES)
def test_zeros_are_collapsed(module, distance):
    stats = stats_of(module, "batch_hard", torch.zeros(6, 2), torch.arange(6) // 2, distance=distance)
    assert stats.collapse == 0
    tiny = torch.full((6, 2), 1e-309, dtype=torch.float64)  # by cosine zero as well
    assert stats_of(module, "batch_hard", tiny, torch.arange(6) // 2, distance="cosine").collapse == 0


@pytest.mark.parametrize("module", [fasttriplet, reference])
def test_what_counts_as_missing(module):
    """Rows 0 and 1 are positives, row 2 is alone; semi-hard mines for pairs, and row 2 has none."""
    rows, labels = torch.tensor([[0.0], [1.0], [5.0], [6.0]]), torch.tensor([0, 0, 1, 9])
    for name in NAMES:
        options = dict(k=1) if name == "k_hardest" else {}
        stats = stats_of(module, name, rows, labels, ignore_index=9, **options)
        assert stats.missing_positive == 1
        assert stats.missing_negative == (1 if name == "semi_hard" else 0)
        # The negative of row 2 is row 1, at 4, though row 2 counts for nothing without a positive.
        negatives = [5.0, 4.0] if name == "semi_hard" else [5.0, 4.0, 4.0]
        assert stats.mean_negative_distance == pytest.approx(sum(negatives) / len(negatives))
        if name not in ("semi_hard", "batch_all"):
            assert stats.negative_counts.tolist() == [0, 1, 2, 0]
        # All three anchors that are not ignored are in the norm.
        root = math.sqrt((0 + 1 + 25) / 3)
        assert stats.collapse == pytest.approx(sum(negatives) / len(negatives) / root)


@pytest.mark.parametrize("module", [fasttriplet, reference])
def test_k_hardest_counts_a_positive_in_each_of_its_triplets(module):
    rows = torch.tensor([[0.0], [2.0], [5.0]], dtype=torch.float64)
    stats = stats_of(module, "k_hardest", rows, torch.tensor([0, 0, 1]), k=2)
    # Positives: 0 and 1 at 2, in two triplets each, of which the second has no negative. Negatives: 5, 3, and of row 2
    # both of the others, 3 and 5.
    assert stats.mean_positive_distance == 2 and stats.mean_negative_distance == 4
