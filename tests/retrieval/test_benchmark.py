"""The benchmark of retrieval verifies before it times."""

import pytest
import torch

from benchmarks import retrieval


def run(monkeypatch, capsys):
    arguments = ["--sizes", "300x8", "--metric-sizes", "300x8", "--large", "200x4", "--classes", "2", "--rounds", "1"]
    monkeypatch.setattr("sys.argv", ["retrieval", *arguments])
    monkeypatch.setattr(retrieval, "PRODUCTS", (300, 8))
    retrieval.main()
    return capsys.readouterr().out


def test_it_runs_and_counts_what_others_have_wrong(capsys, monkeypatch):
    found = run(monkeypatch, capsys)
    assert "| 300 x 8 | clusters | fasttriplet |" in found
    assert "| 300 x 8 | random | torch.cdist + topk |" in found
    assert "2 classes of 100 rows" in found and "| metrics |" in found


def test_wrong_neighbours_end_it(capsys, monkeypatch):
    right = retrieval.nearest

    def second(rows, k):
        found = right(rows, k=k + 1)
        return found._replace(indices=found.indices[:, 1:])

    monkeypatch.setattr(retrieval, "nearest", second)
    with pytest.raises(AssertionError, match="are not float64's"):
        run(monkeypatch, capsys)


def test_the_judge_takes_the_lowest_of_equal_rows():
    judge = retrieval.Judge.of(torch.ones(100, 3))
    assert judge.neighbours[0].tolist() == list(range(1, 11))
    assert judge.wrong(judge.neighbours.new_zeros(100, 10)) == 10 * retrieval.VERIFIED - (retrieval.VERIFIED - 1)
