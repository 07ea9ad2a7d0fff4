"""References in chunks: the answer of all at once to the bit, each row read once."""

from __future__ import annotations

import random
import re
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fasttriplet.retrieval import nearest, within
from fasttriplet.retrieval.merge import KNearest
from tests.inputs import DISTANCES

Q, M, D = 12, 100, 5


class Stored:
    """What is sliced as an array is, and keeps book of it; ``fails`` at the slice of that number."""

    def __init__(self, values, fails=None):
        self.values, self.fails, self.read = values, fails, []

    @property
    def shape(self):
        return self.values.shape

    @property
    def dtype(self):
        return self.values.dtype

    def __getitem__(self, some):
        if self.fails == len(self.read):
            raise OSError("the disk is gone")
        self.read.append((some.start, some.stop))
        return self.values[some]


def memmap(rows, folder):
    np.save(folder / "rows.npy", rows.numpy())
    return np.load(folder / "rows.npy", mmap_mode="r")


def big_endian(rows, folder):
    rows.numpy().astype(rows.numpy().dtype.newbyteorder(">")).tofile(folder / "rows.bin")
    return np.memmap(folder / "rows.bin", rows.numpy().dtype.newbyteorder(">"), "r", shape=tuple(rows.shape))


def one_buffer(rows, folder):
    """That is filled anew for every chunk."""
    buffer = torch.empty(3, rows.shape[1], dtype=rows.dtype)
    for piece in rows.split(3):
        buffer[: len(piece)] = piece
        yield buffer[: len(piece)]
        buffer.fill_(-1)


SOURCES = {
    "array": lambda rows, folder: rows.numpy(),
    "memmap": memmap,
    "big-endian": big_endian,
    "read backwards": lambda rows, folder: rows.flip(0).numpy()[::-1],
    "sliced": lambda rows, folder: Stored(rows.numpy()),
    "list": lambda rows, folder: list(rows.split(13)),
    "rows": lambda rows, folder: rows.split(1),
    "all in one": lambda rows, folder: [rows],
    "empty ones between": lambda rows, folder: [rows[:0], rows[:50], rows[:0], rows[:0], rows[50:], rows[:0]],
    "generator": lambda rows, folder: (piece for piece in rows.split(29)),
    "one buffer": one_buffer,
    "arrays and tensors": lambda rows, folder: [rows[:41].numpy(), rows[41:60], (rows[60:].numpy(),)],
    "loader of rows": lambda rows, folder: DataLoader(rows, batch_size=7),
    "loader of data set": lambda rows, folder: DataLoader(TensorDataset(rows), batch_size=31),
}


def rows_of(kind, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, D, generator=generator, dtype=torch.float64)
    if kind == "integers":  # many ties
        rows = rows.round()
    if kind == "not finite":
        rows[::7, 1], rows[3::11, 0] = torch.nan, torch.inf
    if kind == "overflow":  # to infinite distances, and of products to NaN
        rows = rows.sign() * 10.0 ** torch.randint(0, 300, (count, D), generator=generator)
    return rows


def rules(queries, references):
    q, m = torch.arange(len(queries)), torch.arange(len(references))
    return {
        "self_indices": torch.where(q % 5 == 4, -1, (7 * q) % max(1, len(m))),
        "sample_ids": q % 7 - 1,
        "ref_sample_ids": m % 9 - 1,
        "groups": q % 3 - 1,
        "ref_groups": m % 4 - 2,
        "ref_mask": m % 6 != 5,
    }


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert torch.equal(one.view(torch.int64), other.view(torch.int64))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", ["gauss", "integers", "not finite", "overflow"])
def test_as_all_at_once(kind, source, tmp_path):
    number = list(SOURCES).index(source)
    dtypes = [torch.float64] if kind == "overflow" else [torch.float32, torch.float64, torch.float16]
    queries, rows = rows_of(kind, Q, 1), rows_of(kind, M)
    for at, distance in enumerate(DISTANCES):
        of_queries, dtype = (dtypes[(number + at + more) % len(dtypes)] for more in (0, at // 2))
        one, other = queries.to(of_queries), rows.to(dtype)
        told = rules(one, other) if (number + at) % 2 else {}
        for k in (1, 9, M + 5):
            whole = nearest(one, other, k, distance=distance, **told)
            chunks = SOURCES[source](other, tmp_path)
            same(nearest(one, chunks, k, distance=distance, chunk_rows=17, **told), whole)
        finite = whole.distances[whole.distances.isfinite()]
        radius = float(finite.median()) if len(finite) else torch.inf
        chunks = SOURCES[source](other, tmp_path)
        found = within(one, chunks, radius, distance=distance, chunk_rows=17, **told)
        assert kind == "overflow" or found.offsets[-1] > 0
        same(found, within(one, other, radius, distance=distance, **told))


def test_chunks_of_any_size():
    chance = random.Random(0)
    for seed in range(60):
        queries, rows = (
            rows_of("integers", chance.randrange(6), seed + 1),
            rows_of("integers", chance.randrange(40), seed),
        )
        sizes = []
        while sum(sizes) < len(rows):
            sizes.append(min(chance.choice([0, 1, 2, 3, 9]), len(rows) - sum(sizes)))
        told = rules(queries, rows) if len(rows) and chance.random() < 0.5 else {}
        k, chunk_rows = chance.randrange(1, 12), chance.choice([1, 2, 5, 100])
        whole = nearest(queries, rows, k, **told)
        for chunks in (rows.split(sizes), rows.numpy()):
            same(nearest(queries, chunks, k, chunk_rows=chunk_rows, **told), whole)


def test_a_tensor_and_the_queries_themselves():
    """In chunks where somebody listens."""
    rows, seen = rows_of("integers", M), []
    told = {"sample_ids": torch.arange(M) % 30 - 1, "groups": torch.arange(M) % 4 - 1}
    for function, options in ((nearest, {"k": 6}), (within, {"radius": 2.0})):
        for references in (None, rows.flip(0)):
            given = {**told, **({} if references is None else {f"ref_{name}": told[name] for name in told})}
            seen.clear()
            found = function(
                rows, references, **options, **given, chunk_rows=40, progress=lambda *counts: seen.append(counts)
            )
            assert seen == [(40, 100), (80, 100), (100, 100)]
            same(found, function(rows, references, **options, **given))


def test_nothing_comes():
    queries = rows_of("gauss", 3)
    for nothing in ([], iter([]), [queries[:0]], np.zeros((0, D))):
        found = nearest(queries, nothing, 2)
        assert found.indices.tolist() == [[-1, -1]] * 3 and found.distances.isnan().all()
    assert within(queries, [], torch.inf).offsets.tolist() == [0] * 4
    assert nearest(queries[:0], [queries], 2).indices.shape == (0, 2)


def test_each_row_is_read_once_and_no_more_at_a_time_than_asked_for():
    queries, rows = rows_of("gauss", Q), rows_of("gauss", 1000)
    for chunk_rows in (1, 64, 999, 1000, 2000):
        stored, most = Stored(rows.numpy()), min(chunk_rows, 1000)
        nearest(queries, stored, 3, chunk_rows=chunk_rows)
        assert [stop - start for start, stop in stored.read[:-1]] == [most] * (len(stored.read) - 1)
        assert [start for start, _ in stored.read] == list(range(0, 1000, most)) and stored.read[-1][1] == 1000


def test_an_iterable_is_not_read_ahead():
    """Chunks that are put together reach no further than chunk_rows and one chunk."""
    alive = []

    def chunks():
        for piece in rows_of("gauss", 300).split(10):
            alive.append(len(piece))
            yield piece

    def done(so_far, total):
        assert total is None
        assert sum(alive) <= so_far + 10 and so_far % 30 == 0
        counts.append(so_far)

    counts = []
    nearest(rows_of("gauss", Q), chunks(), chunk_rows=35, progress=done)
    assert counts == list(range(30, 301, 30))


# What is wrong.


class Interrupted(Exception):
    pass


def failing(pieces, at):
    for number, piece in enumerate(pieces):
        if number == at:
            raise Interrupted
        yield piece


ROWS = torch.zeros(8, 2)
OF = "must have shape [m, 2] to match queries [4, 2]; got [8, 1]"
MASK = torch.ones(20, dtype=torch.bool)
BEYOND = torch.full((4,), 8)
ERRORS = [
    (
        [ROWS, ROWS.double()],
        {},
        ValueError,
        "chunk 1 of references must have the dtype of the first, torch.float32; got",
    ),
    ([ROWS, ROWS[:, :1]], {}, ValueError, f"chunk 1 of references {OF}"),
    ([ROWS[:, :1]], {}, ValueError, f"chunk 0 of references {OF}"),
    ([ROWS[0]], {}, ValueError, "chunk 0 of references must have shape [m, D]; got [2]: make one row"),
    (
        [[ROWS, ROWS]],
        {},
        TypeError,
        "chunk 0 of references must be a torch.Tensor or an array, [m, D], or a list of one",
    ),
    ([[ROWS, ROWS]], {}, TypeError, "got list of 2"),
    ([[0.0, 1.0]], {}, TypeError, "got list of 2"),
    ("rows", {}, TypeError, "got str"),
    ([ROWS.int()], {}, ValueError, "chunk 0 of references must have dtype float64, float32, float16 or bfloat16; got"),
    (
        [ROWS.int().numpy()],
        {},
        ValueError,
        "chunk 0 of references must have dtype float64, float32 or float16; got int",
    ),
    ([ROWS] * 2, {"ref_mask": MASK[:12]}, ValueError, "ref_mask must have a number for each of the references, 16 or"),
    (
        [ROWS] * 2,
        {"ref_mask": MASK[:17]},
        ValueError,
        "ref_mask must have shape [16] to match references of 16 rows; got",
    ),
    ([ROWS], {"ref_mask": MASK[:8].view(2, 4)}, ValueError, "ref_mask must have shape [M], a number for each of the"),
    ([ROWS], {"self_indices": BEYOND}, ValueError, "self_indices must hold -1 or an index below 8; got 8"),
    (ROWS.numpy(), {"self_indices": BEYOND}, ValueError, "self_indices must hold -1 or an index below 8; got 8"),
    (ROWS.numpy(), {"ref_mask": MASK[:9]}, ValueError, "ref_mask must have shape [8] to match references [8, 2]; got"),
]


@pytest.mark.parametrize(("references", "given", "kind", "text"), ERRORS)
def test_errors_of_chunks(references, given, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        nearest(torch.zeros(4, 2), references, chunk_rows=5, **given)


def test_the_first_error_of_a_generator_is_its_own():
    with pytest.raises(Interrupted):
        nearest(ROWS, failing([ROWS], 0))


def test_a_bar_is_shown(capsys):
    nearest(ROWS, ROWS.numpy(), chunk_rows=4, progress=True)
    assert "8.00/8.00" in capsys.readouterr().err
    nearest(ROWS, [ROWS], progress=False)
    assert capsys.readouterr().err == ""


def test_a_bar_needs_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="progress=True needs tqdm: pip install tqdm, or give a function"):
        nearest(ROWS, failing([], 0), progress=True)


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    queries, rows = rows_of("gauss", Q), rows_of("gauss", M)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        stored = file.create_dataset("rows", data=rows.numpy())
        same(nearest(queries, stored, 4, chunk_rows=30), nearest(queries, rows, 4))


def test_order_of_what_is_found_apart():
    """NaN of either sign first, then by distance, zeros of either sign alike, what is missing last."""
    nan, inf = torch.tensor([torch.nan, -torch.nan]).double(), torch.inf
    first = torch.tensor([[-inf, -0.0, 0.0, inf, nan[0]]]).double(), torch.tensor([[4, 1, 2, 3, -1]])
    then = torch.tensor([[nan[0], nan[1], -inf, 0.0, -0.0, inf, nan[0]]]).double()
    more = then, torch.tensor([[5, 6, 0, 2, 3, 1, -1]])
    distances, indices = KNearest(0, 9).joined(first, more, 10)
    assert indices.tolist() == [[15, 16, 4, 10, 1, 2, 12, 13, 3]]
    assert distances.isnan().tolist() == [[True] * 2 + [False] * 7]
    assert distances[0, 4:8].signbit().tolist() == [True, False, False, True]
    assert KNearest(0, 13).finished(KNearest(0, 13).joined(first, more, 10))[1].tolist()[0][9:] == [11, -1, -1, -1]
