"""The benchmark of the drop-ins verifies before it times."""

import re

import pytest

from benchmarks import cases, compat


def test_it_verifies_times_and_prints_a_table(capsys, monkeypatch, tmp_path):
    written = tmp_path / "compat.md"
    monkeypatch.setattr("sys.argv", ["compat", "--sizes", "32x8", "--rounds", "1", "--out", str(written)])
    monkeypatch.setattr(compat, "CUBIC_LIMIT", 32)
    compat.main()
    printed = capsys.readouterr().out
    assert written.read_text().startswith("# Drop-ins") and printed in written.read_text()
    lines = printed.splitlines()
    assert re.match(r"20\d\d-\d\d-\d\d\. Originals: pytorch-metric-learning \S+, sentence-transformers ", lines[0])
    assert lines[4] == "| drop-in for | N x D | fasttriplet ms | original ms | original / fasttriplet |"
    assert len(lines) == 6 + len(compat.pairs()) >= 10
    assert all("| 32 x 8 |" in line and "not run" not in line for line in lines[6:])


def test_an_original_that_would_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr(compat, "CUBIC_LIMIT", 31)
    pair = next(pair for pair in compat.pairs() if pair.cubic)
    assert compat.cells(pair, 32, 8, 1, 4)[3:] == ["not run", "not run"]


def test_what_computes_something_else_is_not_timed():
    rows, labels = cases.batch(32, 8, 4)
    pair = compat.pairs()[-1]
    with pytest.raises(AssertionError, match=r"and its original"):
        compat.verify(pair._replace(original=lambda rows, labels: 2 * pair.ours(rows, labels)), rows, labels)
    other = pair._replace(original=lambda rows, labels: pair.ours(rows, labels).detach() + 0 * (rows**2).sum())
    with pytest.raises(AssertionError, match="the gradients differ by"):
        compat.verify(other, rows, labels)
