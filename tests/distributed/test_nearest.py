"""Neighbours among the shards of all ranks: what one process finds among all of them, to the bit."""

from __future__ import annotations

import random
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch

from fasttriplet.distributed.group import Group
from fasttriplet.retrieval import nearest, within
from tests.distributed.cases import RANKS, SPLITS
from tests.distributed.ranks import sizes, whole_results
from tests.inputs import DISTANCES

Q, M, D = 23, 61, 5


class Case(NamedTuple):
    """``kind`` of shards: a tensor, an array, or none, where the queries of all ranks are the references."""

    kind: str
    split: str
    ref_split: str
    told: bool
    distance: str
    dtypes: tuple[torch.dtype, torch.dtype]
    options: dict[str, Any]

    @property
    def title(self) -> str:
        return "-".join(str(each) for each in self).replace("torch.", "")


def cases() -> list[Case]:
    chance, result = random.Random(0), []
    for kind in ("tensor", "array", "none"):
        for split in SPLITS:
            for ref_split in SPLITS if kind != "none" else ("even",):
                for told in (False, True):
                    kinds = torch.float32, torch.float64, torch.float16, *([torch.bfloat16] if kind != "array" else [])
                    options = chance.choice([{"k": 1}, {"k": 6}, {"k": 100}, {"radius": 2.0}, {"radius": torch.inf}])
                    if chance.random() < 0.7:
                        options = {**options, "chunk_rows": chance.choice([3, 30])}
                    dtypes = chance.choice(kinds), chance.choice(kinds)
                    result.append(Case(kind, split, ref_split, told, chance.choice(DISTANCES), dtypes, options))
    return result


CASES = cases()


def of(ranks: int) -> list[Case]:
    """All of three ranks, of others a third each."""
    return CASES if ranks == 3 else CASES[ranks % 3 :: 3]


def whole(case: Case) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """All queries, all references and what is told of them; rows of few values, and of ties."""
    generator = torch.Generator().manual_seed(3)
    queries, references = ((2 * torch.randn(n, D, generator=generator)).round() for n in (Q, M))
    references[::9] = torch.nan
    q, m = torch.arange(Q), torch.arange(M)
    told = {"sample_ids": q % 11 - 1, "groups": (q % 5 - 1).to(torch.int16)} if case.told else {}
    if case.kind != "none" and case.told:
        told.update(ref_sample_ids=m % 13 - 1, ref_groups=m % 7 - 2, ref_mask=m % 8 != 3)
    return queries.to(case.dtypes[0]), references.to(case.dtypes[1]), told


def part(case: Case, ranks: int, rank: int) -> tuple[torch.Tensor, Any, dict[str, torch.Tensor], int, int]:
    """A rank's queries, shard and what is told, and the numbers of the first of both."""
    rows, shards = sizes(Q, ranks, case.split), sizes(M, ranks, case.ref_split)
    first, before = sum(rows[:rank]), sum(shards[:rank])
    own, theirs = slice(first, first + rows[rank]), slice(before, before + shards[rank])
    queries, references, told = whole(case)
    told = {name: values[theirs if "ref_" in name else own] for name, values in told.items()}
    if case.told and case.kind != "none":
        copies = torch.arange(rows[rank]) % max(1, shards[rank])
        told["self_indices"] = copies if shards[rank] else torch.full_like(copies, -1)
    shard = {"tensor": references[theirs], "array": None, "none": None}[case.kind]
    if case.kind == "array":
        shard = references[theirs].numpy()
    return queries[own], shard, told, first, before


def of_rank(case: Case, ranks: int, rank: int, group: Any) -> Any:
    queries, shard, told, *_ = part(case, ranks, rank)
    function = nearest if "k" in case.options else within
    return tuple(function(queries, shard, distance=case.distance, **case.options, **told, process_group=group))


def of_one_process(case: Case, ranks: int, rank: int) -> Any:
    queries, _, told, first, before = part(case, ranks, rank)
    everybody, references, of_all = whole(case)
    options = {name: value for name, value in case.options.items() if name != "chunk_rows"}
    function = nearest if "k" in case.options else within
    if case.kind == "none":
        told.update({f"ref_{name}": values for name, values in of_all.items()})
        told["self_indices"], references = torch.arange(first, first + len(queries)), everybody
    else:
        told.update({name: values for name, values in of_all.items() if "ref_" in name})
        if "self_indices" in told:
            told["self_indices"] = torch.where(told["self_indices"] < 0, -1, told["self_indices"] + before)
    return tuple(function(queries, references, distance=case.distance, **options, **told))


def rows(n: int = 6, d: int = 3, **more: Any) -> torch.Tensor:
    return torch.arange(float(n * d), **more).reshape(n, d).cos()


#: By name what rank 1 does otherwise, of nearest(rows, rows, 2) everywhere, and the error of all.
WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no tensor": ({"queries": "rows"}, TypeError, "queries must be a torch.Tensor or an array, [Q, D]; got str"),
    "an unknown distance": ({"distance": "manhattan"}, ValueError, "distance must be one of"),
    "k of none": ({"k": 0}, ValueError, "k must be at least 1"),
    "columns apart": ({"references": rows(d=4)}, ValueError, "references must have shape [M, 3] to match queries"),
    "a copy of another shard": ({"self_indices": torch.full((6,), 6)}, ValueError, "self_indices must hold -1 or an"),
    "a mask too short": ({"ref_mask": torch.ones(5).bool()}, ValueError, "ref_mask must have shape [6]"),
    "an iterable": (
        {"references": [rows()]},
        TypeError,
        "references must be a torch.Tensor or an array with a process",
    ),
    "a file": ({"checkpoint": "found.pt"}, ValueError, "checkpoint must be None with a process_group; got found.pt"),
    "a listener that is none": ({"progress": 3}, TypeError, "progress must be a bool or a function"),
}
#: Right by itself, but other than on the other ranks.
ALONE: dict[str, tuple[dict[str, Any], str]] = {
    "another k": ({"k": 3}, "k must be the same on every rank of process_group; got 2 on rank 0 and 3 on rank 1"),
    "another distance": ({"distance": "cosine"}, "distance must be the same on every rank"),
    "no references": ({"references": None}, "references must be the same on every rank of process_group; got given on"),
    "other columns": ({"queries": rows(d=4), "references": rows(d=4)}, "the number of columns of queries must be"),
    "another dtype": ({"queries": rows().double()}, "the dtype of queries must be the same on every rank"),
    "shards of another dtype": ({"references": rows().half().numpy()}, "the dtype of references must be the same on"),
    "a mask": ({"ref_mask": torch.ones(6).bool()}, "ref_mask must be the same on every rank of process_group; got not"),
    "other chunks": ({"chunk_rows": 3}, "chunk_rows must be the same on every rank"),
    "another function": ({"within": True}, "the function must be the same on every rank"),
}


def errors(given: dict[str, Any], rank: int, group: Any) -> Any:
    """Of rank 1 with other arguments; (type, text, and what the next call finds, which must be none the worse)."""
    call: dict[str, Any] = {"queries": rows(), "references": rows(), "k": 2}
    other = {**call, **given} if rank == 1 else call
    try:
        if other.pop("within", False):
            within(other["queries"], other["references"], 2.0, process_group=group)
        else:
            nearest(**other, process_group=group)
        raised = None
    except Exception as error:
        raised = type(error).__name__, str(error)
    return raised, nearest(**call, process_group=group).indices


def travels(rank: int, group: Any) -> Any:
    """What is sent, and what a listener on one rank hears."""
    sent, heard, real = [], [], Group.from_rank

    def from_rank(self: Group, source: int, own: torch.Tensor) -> torch.Tensor:
        sent.append((source, own.dtype, tuple(own.shape)))
        return real(self, source, own)

    Group.from_rank = from_rank  # type: ignore[method-assign]
    try:
        listener: Any = (lambda *counts: heard.append(counts)) if rank == 0 else False
        shard = rows(5 + 4 * rank).bfloat16()
        nearest(rows(2), shard, 2, process_group=group, chunk_rows=6, progress=listener)
    finally:
        Group.from_rank = real  # type: ignore[method-assign]
    return sent, heard


class Unreadable:
    """An array of which a file gives nothing behind its first chunk."""

    def __init__(self) -> None:
        self.rows = rows(9).numpy()
        self.shape, self.dtype = self.rows.shape, self.rows.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, some: slice) -> Any:
        if some.start > 0:
            raise OSError("the disk is gone")
        return self.rows[some]


def broken(what: str, rank: int, group: Any) -> Any:
    """Rank 1 in the middle of a search; (type, text, and what the next call finds)."""

    def listener(done: int, _: int) -> None:
        if rank == 1 and done > 4:
            raise KeyError("nobody listens")

    shard = Unreadable() if (what, rank) == ("disk", 1) else rows(9).numpy()
    try:
        progress: Any = listener if what == "listener" else False
        result = nearest(rows(), shard, 2, process_group=group, chunk_rows=4, progress=progress)
        raised = "nothing", str(result.indices.tolist())
    except Exception as error:
        raised = type(error).__name__, str(error)
    return raised, nearest(rows(), rows(), 2, process_group=group).indices


def work(ranks: int) -> dict[str, Any]:
    asked = {f"nearest {case.title}": partial(of_rank, case, ranks) for case in of(ranks)}
    if ranks == 3:
        asked.update({f"nearest wrong {name}": partial(errors, given) for name, (given, *_) in WRONG.items()})
        asked.update({f"nearest alone {name}": partial(errors, given) for name, (given, _) in ALONE.items()})
        asked["nearest travels"] = travels
        asked.update({f"nearest broken {what}": partial(broken, what) for what in ("disk", "listener")})
    return asked


ASKED = [(ranks, case) for ranks in RANKS for case in of(ranks)]


@pytest.mark.parametrize(("ranks", "case"), ASKED, ids=[f"{ranks}-{case.title}" for ranks, case in ASKED])
def test_every_rank_finds_what_one_process_finds(ranks, case, found):
    results, some = whole_results(found(ranks)[f"nearest {case.title}"]), 0
    for rank, result in enumerate(results):
        for one, other in zip(result, of_one_process(case, ranks, rank), strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape
            assert torch.equal(one.view(torch.int64), other.view(torch.int64))
        some += int((result[-1] >= 0).sum())
    assert some > 0


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_on_one_rank_is_an_error_on_all(name, found):
    results = whole_results(found(3)[f"nearest wrong {name}"])
    _, kind, text = WRONG[name]
    for raised, after in results:
        assert raised is not None and raised[0] == kind.__name__, raised
        assert text in raised[1] and raised[1].endswith("(on rank 1 of process_group)")
        assert after[:, 0].tolist() == list(range(6))
    assert len({raised for raised, _ in results}) == 1


@pytest.mark.parametrize("name", ALONE)
def test_ranks_must_agree(name, found):
    results = whole_results(found(3)[f"nearest alone {name}"])
    for raised, after in results:
        assert raised is not None and raised[0] == "ValueError", raised
        assert ALONE[name][1] in raised[1]
        assert after[:, 0].tolist() == list(range(6))
    assert len({raised for raised, _ in results}) == 1


def test_each_shard_travels_once_in_its_own_precision_a_chunk_at_a_time(found):
    """Of 5, 9 and 13 rows, 6 at a time."""
    chunks = [(0, 5), (1, 6), (1, 3), (2, 6), (2, 6), (2, 1)]
    for rank, (sent, heard) in enumerate(whole_results(found(3)["nearest travels"])):
        assert sent == [  # whether it could be read, and then what was
            each
            for source, count in chunks
            for each in ((source, torch.bool, (1,)), (source, torch.bfloat16, (count, 3)))
        ]
        assert heard == ([(done, 27) for done in (5, 11, 14, 20, 26, 27)] if rank == 0 else [])


def test_what_cannot_be_read_is_an_error_on_all_ranks(found):
    for rank, (raised, after) in enumerate(whole_results(found(3)["nearest broken disk"])):
        kind, text = raised
        assert kind == ("OSError" if rank == 1 else "RuntimeError")
        assert text == "the disk is gone" if rank == 1 else "4 to 8 of rank 1 of process_group could not" in text
        assert after[:, 0].tolist() == list(range(6))


def test_the_others_go_on_where_a_listener_of_one_rank_fails(found):
    for rank, (raised, after) in enumerate(whole_results(found(3)["nearest broken listener"])):
        assert raised[0] == ("KeyError" if rank == 1 else "nothing")
        assert after[:, 0].tolist() == list(range(6))
