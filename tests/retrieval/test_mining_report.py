"""What the report of mining counts and finds."""

from __future__ import annotations

import pytest
import torch

from fasttriplet.retrieval import mine_hard_negatives
from tests.retrieval.test_mining import case

pytestmark = pytest.mark.usefixtures("one_thread")


def test_planted_wrong_labels_are_found() -> None:
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(120) // 10
    rows = 10 * torch.randn(12, 5, generator=g)[labels] + torch.randn(120, 5, generator=g)
    rows[7], rows[33] = rows[58] + 0.01, rows[91] - 0.02
    clean = mine_hard_negatives(rows, torch.where(torch.arange(120) == 7, 5, labels).index_fill(0, torch.tensor(33), 9))
    assert len(clean.report.suspects.queries) == 0
    for distance in ("euclidean", "squared_euclidean"):
        report = mine_hard_negatives(rows, labels, distance=distance).report
        suspects = report.suspects
        assert list(zip(*(each.tolist() for each in suspects[:2]), strict=True)) == [
            (7, 58),
            (58, 7),
            (33, 91),
            (91, 33),
        ]
        assert suspects.positive_distances[0] > 5 * suspects.positive_distances[1]  # 7 is far from its own
        assert suspects.distances.tolist() == sorted(suspects.distances.tolist())
        near = mine_hard_negatives(rows, labels, distance=distance).report.typical_positive_distance
        assert report.suspect_distance == pytest.approx(near * (0.1 if distance == "euclidean" else 0.01))
        assert "7 and 58" in str(report) and "Likely wrong labels: 4 queries" in str(report)
    assert len(mine_hard_negatives(rows, labels, suspect_ratio=1e-4).report.suspects.queries) == 0
    assert len(mine_hard_negatives(rows, labels, suspect_ratio=100).report.suspects.queries) == 120
    by_product = mine_hard_negatives(rows, labels, distance="inner_product").report
    assert len(by_product.suspects.queries) == len(by_product.duplicates.queries) == 0


def test_typical_distance_is_the_median() -> None:
    given = case(True, False)
    mined = mine_hard_negatives(given.rows, given.labels)
    known = mined.positive_distances[mined.positives >= 0]
    assert mined.report.typical_positive_distance == pytest.approx(float(known.quantile(0.5)), rel=1e-12)


def test_planted_duplicates_are_found() -> None:
    g = torch.Generator().manual_seed(0)
    train, test = torch.randn(50, 4, generator=g), torch.randn(30, 4, generator=g)
    train_labels, test_labels = torch.arange(50) % 5, torch.arange(30) % 5
    test[3], test[11], test[12] = train[8], train[41], train[40] + 1e-4
    told = {"ref_embeddings": train, "ref_labels": train_labels}
    found = mine_hard_negatives(test, test_labels, **told).report.duplicates
    assert [each.tolist() for each in found] == [[3, 11], [8, 41], [0.0, 0.0], [True, True]]
    report = mine_hard_negatives(
        test, (test_labels + (torch.arange(30) == 11)) % 5, duplicate_distance=0.01, **told
    ).report
    assert report.duplicates.queries.tolist() == [3, 11, 12]
    assert report.duplicates.references.tolist() == [8, 41, 40]
    assert report.duplicates.same_label.tolist() == [True, False, False]
    assert "Duplicates: 3 queries within 0.01 of a reference, 2 of them of another label" in str(report)
    rows = torch.cat([train, train[:1], train[:1]])
    labels = torch.cat([train_labels, torch.tensor([0, 2])])
    found = mine_hard_negatives(rows, labels).report.duplicates
    assert [each.tolist() for each in found] == [[0, 51], [50, 0], [0.0, 0.0], [True, False]]
    told = {"ref_embeddings": torch.zeros(3, 1), "ref_labels": torch.tensor([1, 0, 1])}
    found = mine_hard_negatives(torch.zeros(2, 1), torch.tensor([0, 1]), **told).report.duplicates
    assert [each.tolist() for each in found] == [[0, 1], [0, 0], [0.0, 0.0], [False, True]]  # the first of all


def test_report_sums_up() -> None:
    given = case(True, False)
    mined = mine_hard_negatives(given.rows, given.labels, relative_margin=0.05, range_min=1)
    report, has = mined.report, mined.positives >= 0
    complete = (mined.negatives >= 0) & has[:, None]
    for stated, values in (
        (report.positives, mined.positive_distances[has]),
        (report.negatives, mined.distances[mined.negatives >= 0]),
        (report.differences, (mined.distances - mined.positive_distances[:, None])[complete]),
    ):
        assert stated.number == len(values) > 10
        assert stated.mean == pytest.approx(float(values.mean()), rel=1e-12)
        assert stated.std == pytest.approx(float(values.std(correction=0)), rel=1e-12)
        at = torch.tensor([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], dtype=torch.float64)
        assert list(stated.percentiles) == pytest.approx(values.quantile(at).tolist(), rel=1e-12)
    text = str(report)
    for part in ("hard negatives for 50 queries among 50 references, by euclidean distance", "difference", "95%"):
        assert part in text
    assert f"{report.left_out['relative_margin']:,} (" in text and "range_min" in text


def test_report_says_that_there_are_too_few() -> None:
    given = case(True, False)
    report = mine_hard_negatives(given.rows, given.labels, num_negatives=4, range_max=5, absolute_margin=1.0).report
    assert report.without_enough > report.without_any > 0
    text = str(report)
    assert f"{report.without_enough} queries have fewer than 4 negatives" in text
    assert "Reconsider range_max, absolute_margin, which left out candidates" in text
    paired = mine_hard_negatives(given.rows, given.labels, range_max=5, absolute_margin=1.0, positive="all").report
    assert f"{paired.without_enough} rows have fewer than 3 negatives" in str(paired)
