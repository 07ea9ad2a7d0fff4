"""Searches that are interrupted and go on: with the answer of one that is not, and what they do not go on from."""

from __future__ import annotations

import shutil

import pytest
import torch

from fasttriplet.retrieval import nearest, within
from fasttriplet.retrieval.checkpoint import Checkpoint
from tests.retrieval.test_chunks import Interrupted, M, Q, Stored, failing, rows_of, rules, same


def searches():
    queries, rows = rows_of("integers", Q, 1), rows_of("integers", M)
    told = rules(queries, rows)
    return [
        (lambda references, **more: nearest(queries, references, 6, chunk_rows=10, **told, **more), rows),
        (lambda references, **more: within(queries, references, 2.5, chunk_rows=10, **told, **more), rows),
    ]


@pytest.mark.parametrize("search", [0, 1])
@pytest.mark.parametrize("at", [0, 1, 4, 9])
def test_an_interrupted_search_goes_on(search, at, tmp_path):
    search, rows = searches()[search]
    path, counts = tmp_path / "found.pt", []
    with pytest.raises(Interrupted):
        search(failing(rows.split(10), at), checkpoint=path)
    assert path.exists() == (at > 0)
    found = search(rows.split(10), checkpoint=str(path), progress=lambda done, total: counts.append(done))
    assert counts == list(range(10 * at + 10, 101, 10))  # what was done is passed over
    same(found, search(rows))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("search", [0, 1])
def test_an_array_is_read_from_there_on(search, tmp_path):
    search, rows = searches()[search]
    path, stored = tmp_path / "found.pt", Stored(rows.numpy(), fails=4)
    with pytest.raises(OSError, match="the disk is gone"):
        search(stored, checkpoint=path)
    again = Stored(rows.numpy())
    same(search(again, checkpoint=path), search(rows))
    assert stored.read == [(0, 10), (10, 20), (20, 30), (30, 40)]
    assert again.read[0] == (39, 49)  # the last row once more, to see that it is the same
    assert again.read[-1][1] == M and all(
        one[1] == other[0] for one, other in zip(again.read, again.read[1:], strict=False)
    )
    assert not path.exists()


def test_an_interruption_by_hand_and_by_a_listener(tmp_path):
    search, rows = searches()[0]

    def stop(done, total):
        if done == 30:
            raise KeyboardInterrupt

    path = tmp_path / "found.pt"
    with pytest.raises(KeyboardInterrupt):
        search(rows.numpy(), checkpoint=path, progress=stop)
    again = Stored(rows.numpy())
    same(search(again, checkpoint=path), search(rows))
    assert again.read[0][0] == 29


def test_a_process_that_is_killed_leaves_a_file(tmp_path, monkeypatch):
    """What is in the file while the search runs is whole at any time: another file takes its place."""
    search, rows = searches()[0]
    path, kept, files = tmp_path / "found.pt", [], [0]
    monkeypatch.setattr("fasttriplet.retrieval.checkpoint._PATIENCE", 0)

    def keep(done, total):
        kept.append(shutil.copy(path, tmp_path / f"{done}.pt"))
        assert path.stat().st_ino != files[-1]
        files.append(path.stat().st_ino)

    search(rows.numpy(), checkpoint=path, progress=keep)
    assert not path.exists() and len(kept) == 10
    for copy in kept:
        same(search(rows.numpy(), checkpoint=copy), search(rows))


def test_chunks_of_another_size_when_it_goes_on(tmp_path):
    search, rows = searches()[0]
    for sizes in (7, 33, 100):
        with pytest.raises(Interrupted):
            search(failing(rows.split(10), 5), checkpoint=tmp_path / "found.pt")
        same(search(rows.split(sizes), checkpoint=tmp_path / "found.pt"), search(rows))


def test_writing_takes_a_small_part_of_the_time(tmp_path, monkeypatch):
    """The clock goes on by a second where the file is written, and by one a chunk."""
    now, written = [0.0], []

    def write(self, progress, real=Checkpoint.write):
        now[0] += 1
        written.append(progress.done)
        real(self, progress)

    monkeypatch.setattr(Checkpoint, "write", write)
    monkeypatch.setattr("fasttriplet.retrieval.checkpoint.time.monotonic", lambda: now[0])

    def tick(done, total):
        now[0] += 1

    nearest(rows_of("gauss", 2), rows_of("gauss", 60).numpy(), chunk_rows=1, checkpoint=tmp_path / "x", progress=tick)
    assert written == [1, 21, 41]


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    search, rows = searches()[0]
    path = tmp_path / "found.pt"
    with pytest.raises(OSError, match="the disk is gone"):
        search(Stored(rows.numpy(), fails=3), checkpoint=path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:

        def fail(stored, file):
            file.write(b"a part of it")
            raise OSError("no space left on device")

        patch.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="no space left"):
            search(rows.numpy(), checkpoint=path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    same(search(rows.numpy(), checkpoint=path), search(rows))


OTHERWISE = {
    "k": ({"k": 7}, "was written with k 6; got k 7: delete the file to begin anew"),
    "distance": ({"distance": "cosine"}, "was written with distance euclidean; got distance cosine"),
    "queries": (
        {"queries": rows_of("integers", Q, 2)},
        r"with queries float64 \[12, 5\] of digest .*; got queries float64",
    ),
    "groups": (
        {"groups": torch.zeros(Q).long(), "ref_groups": torch.ones(M).long()},
        "with groups nothing; got groups int64",
    ),
    "references": (
        {"references": rows_of("integers", 90).split(10)},
        "references must be those that .*, of which 30 are done; got another row 29",
    ),
    "array": ({"references": rows_of("integers", M)}, "with the number of references unknown; got .* 100"),
    "fewer": ({"references": rows_of("integers", M)[:25].split(10)}, "of which 30 are done; got fewer: delete"),
    "one fewer": ({"references": rows_of("integers", M)[:29].split(10)}, "of which 30 are done; got fewer: delete"),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_a_file_of_another_call_is_refused(what, tmp_path):
    rows = rows_of("integers", M)
    if what == "references":
        rows = rows.flip(0)
    call = {"queries": rows_of("integers", Q, 1), "k": 6, "chunk_rows": 10, "checkpoint": tmp_path / "found.pt"}
    with pytest.raises(Interrupted):
        nearest(**call, references=failing(rows.split(10), 3))
    before = call["checkpoint"].read_bytes()
    given, text = OTHERWISE[what]
    with pytest.raises(ValueError, match=text):
        nearest(**{**call, "references": rows.split(10), **given})
    assert call["checkpoint"].read_bytes() == before
    if what == "k":
        with pytest.raises(ValueError, match="with the function nearest; got the function within"):
            within(call["queries"], rows.split(10), 1.0, checkpoint=call["checkpoint"])


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "cut", "other"])
def test_a_file_that_is_none_is_refused(content, tmp_path):
    search, rows = searches()[0]
    path = tmp_path / "found.pt"
    if content == "other":
        torch.save({"model": torch.zeros(3)}, path)
    elif content == "cut":
        with pytest.raises(Interrupted):
            search(failing(rows.split(10), 3), checkpoint=path)
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="checkpoint must be a file that an interrupted search has written, or not be"):
        search(rows.numpy(), checkpoint=path)
    assert path.read_bytes() == before
