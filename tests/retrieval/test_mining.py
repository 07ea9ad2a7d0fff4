"""Mining of a whole data set against brute force over all pairs in float64."""

from __future__ import annotations

import itertools
import sys
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fasttriplet.check import DISTANCES
from fasttriplet.reference.distances import pairwise_distances
from fasttriplet.retrieval import mine_hard_negatives, mining
from fasttriplet.retrieval.choosing import REASONS, mixed

OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_negatives": 5, "range_min": 3},
    {"num_negatives": 2, "range_max": 9, "absolute_margin": 0.0},
    {"num_negatives": 2, "range_min": 1, "range_max": 20, "relative_margin": 0.05},
    {"num_negatives": 4, "absolute_margin": 0.2, "relative_margin": 0.3, "min_distance": 0.4, "max_distance": 2.0},
    {"num_negatives": 3, "range_max": 2048, "max_distance": 0.9},
    {"num_negatives": 1, "relative_margin": -0.1},
]


pytestmark = pytest.mark.usefixtures("one_thread")


class Case(NamedTuple):
    """Rows [N, D], references [M, D], who pairs with whom, and the same told to the function."""

    rows: Tensor
    references: Tensor
    labels: Tensor
    ref_labels: Tensor
    pairs: Tensor  # [N, M] bool: of whatever label
    groups_equal: Tensor  # [N, M] bool
    queries: Tensor  # [N] bool: not ignored
    told: dict[str, Any]


def case(of_one_set: bool, rules: bool, seed: int = 0, n: int = 50, dtype: torch.dtype = torch.float32) -> Case:
    g = torch.Generator().manual_seed(seed)
    m = n if of_one_set else 65
    labels, ref_labels = (torch.randint(-1, 8, (count,), generator=g) for count in (n, m))
    centres = torch.randn(9, 6, generator=g)
    rows, references = (
        (0.7 * centres[of + 1] + 0.5 * torch.randn(len(of), 6, generator=g)).to(dtype) for of in (labels, ref_labels)
    )
    told: dict[str, Any] = {}
    if of_one_set:
        references, ref_labels, pairs = rows, labels, ~torch.eye(n, dtype=torch.bool)
    else:
        told, pairs = {"ref_embeddings": references, "ref_labels": ref_labels}, torch.ones(n, m, dtype=torch.bool)
    groups_equal, queries = torch.zeros_like(pairs), torch.ones(n, dtype=torch.bool)
    if not rules:
        return Case(rows, references, labels, ref_labels, pairs, groups_equal, queries, told)
    ids, ref_ids = (torch.randint(-1, 25, (count,), generator=g) for count in (n, m))
    groups, ref_groups = (torch.randint(-1, 4, (count,), generator=g) for count in (n, m))
    told |= {"sample_ids": ids, "groups": groups, "ignore_index": 3}
    if of_one_set:
        ref_ids, ref_groups = ids, groups
    else:
        own, mask = torch.randint(-1, m, (n,), generator=g), torch.rand(m, generator=g) < 0.9
        told |= {"ref_sample_ids": ref_ids, "ref_groups": ref_groups, "self_indices": own, "ref_mask": mask}
        pairs &= mask & (own[:, None] != torch.arange(m))
    pairs &= (ids[:, None] != ref_ids) | (ids[:, None] < 0)
    pairs &= ref_labels != 3
    return Case(rows, references, labels, ref_labels, pairs, groups[:, None] == ref_groups, labels != 3, told)


def candidates_among(case: Case) -> Tensor:
    """[N, M] bool: those of another label, that a rule may exclude; not ignored or masked ones."""
    stay = case.told.get("ref_mask", torch.ones(len(case.references), dtype=torch.bool))
    if "ignore_index" in case.told:
        stay = stay & (case.ref_labels != case.told["ignore_index"])
    return (case.labels[:, None] != case.ref_labels) & stay & case.queries[:, None]


def relatively_far(negative: float, positive: float, margin: float, distance: str) -> bool:
    if "euclidean" in distance:
        return negative >= positive * (1 + margin)
    offset = 1.0 if distance == "cosine" else 0.0
    return offset - negative <= (offset - positive) - abs(offset - positive) * margin


class Expected(NamedTuple):
    rows: list[tuple[int, int, list[int]]]  # query, positive, negatives that fit
    left_out: dict[str, int]
    without_positive: int


def brute(case: Case, distance: str, positive: str, groups_exclude: str, options: dict[str, Any]) -> Expected:
    apart = pairwise_distances(case.rows.double(), distance, case.references.double()).tolist()
    mates = (case.pairs & (case.labels[:, None] == case.ref_labels) & ~case.groups_equal).tolist()
    may = case.pairs & (case.labels[:, None] != case.ref_labels)
    if groups_exclude == "pairs":
        may &= ~case.groups_equal
    among, may_be = candidates_among(case).sum(1).tolist(), may.tolist()
    left_out = dict.fromkeys(REASONS, 0)
    rows, without = [], 0
    wanted = options.get("num_negatives", 3)
    first = options.get("range_min", 0)
    filters = [options.get(each) for each in ("absolute_margin", "relative_margin", "min_distance", "max_distance")]
    narrow = all(each is None for each in filters) and options.get("sampling", "top") == "top"
    last = options.get("range_max", first + (wanted if narrow else 10 * wanted))
    absolute, relative, least, most = filters
    for query in range(len(case.rows)):
        order = sorted(range(len(case.references)), key=lambda j: (apart[query][j], j))
        own = [j for j in order if mates[query][j]]
        if not case.queries[query]:
            rows.append((query, -1, []))
            continue
        without += not own
        chosen = {"nearest": own[:1], "farthest": own[-1:], "all": sorted(own)}[positive]
        if positive == "farthest" and own:  # of equally far ones the first
            chosen = [min(j for j in own if apart[query][j] == apart[query][own[-1]])]
        for with_ in chosen or [-1]:
            negatives = [j for j in order if may_be[query][j]]
            left_out["never_pair"] += among[query] - len(negatives)
            left_out["range_max"] += len(negatives[last:])
            left_out["range_min"] += len(negatives[:first])
            fit = []
            for j in negatives[first:last]:
                far, near = apart[query][j], apart[query][with_] if with_ >= 0 else 0.0
                if with_ < 0 and (absolute is not None or relative is not None):
                    left_out["no_positive"] += 1
                elif absolute is not None and not far >= near + absolute:
                    left_out["absolute_margin"] += 1
                elif relative is not None and not relatively_far(far, near, relative, distance):
                    left_out["relative_margin"] += 1
                elif least is not None and not far >= least:
                    left_out["min_distance"] += 1
                elif most is not None and not far <= most:
                    left_out["max_distance"] += 1
                else:
                    fit.append(j)
            left_out["not_needed"] += len(fit[wanted:])
            rows.append((query, with_, fit))
    return Expected(rows, left_out, without)


def check(case: Case, distance: str, positive: str, groups_exclude: str, options: dict[str, Any]) -> None:
    told = case.told | ({"groups_exclude": groups_exclude} if "groups" in case.told else {})
    mined = mine_hard_negatives(case.rows, case.labels, distance=distance, positive=positive, **told, **options)
    expected = brute(case, distance, positive, groups_exclude, options)
    wanted, report = options.get("num_negatives", 3), mined.report
    padded = [(fit[:wanted] + [-1] * wanted)[:wanted] for _, _, fit in expected.rows]
    assert mined.anchors.tolist() == [query for query, _, _ in expected.rows]
    assert mined.positives.tolist() == [with_ for _, with_, _ in expected.rows]
    assert mined.negatives.tolist() == padded
    assert mined.negatives.shape == mined.distances.shape == (len(padded), wanted)
    apart = pairwise_distances(case.rows.double(), distance, case.references.double())
    for found, indices in (
        (mined.positive_distances[:, None], mined.positives[:, None]),
        (mined.distances, mined.negatives),
    ):
        stated = apart[mined.anchors[:, None], indices.clamp_min(0)].masked_fill(indices < 0, torch.nan)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, stated, rtol=1e-12, atol=1e-12, equal_nan=True)
    of_queries = [row for row in expected.rows if case.queries[row[0]]]
    assert report.left_out == expected.left_out
    assert report.candidates == sum(report.left_out.values()) + report.chosen
    assert report.chosen == sum(len(fit[:wanted]) for _, _, fit in of_queries)
    assert report.rows == len(of_queries)
    assert report.queries == int(case.queries.sum())
    assert report.without_positive == expected.without_positive
    assert report.without_enough == sum(len(fit) < wanted for _, _, fit in of_queries)
    assert report.without_any == sum(not fit for _, _, fit in of_queries)
    triplets = [(q, p, n) for q, p, fit in expected.rows for n in fit[:wanted] if p >= 0]
    assert list(zip(*(each.tolist() for each in mined.triplets()), strict=True)) == triplets


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("positive", mining.POSITIVES)
@pytest.mark.parametrize("distance", DISTANCES)
def test_as_brute_force(distance: str, positive: str, options: dict[str, Any]) -> None:
    check(case(True, False), distance, positive, "pairs", options)
    check(case(False, True, 1), distance, positive, "pairs", options)


@pytest.mark.parametrize("groups_exclude", ["pairs", "positives"])
@pytest.mark.parametrize("of_one_set", [True, False])
@pytest.mark.parametrize("positive", mining.POSITIVES)
def test_rules_as_brute_force(positive: str, of_one_set: bool, groups_exclude: str) -> None:
    for seed, options in enumerate(OPTIONS):
        check(case(of_one_set, True, seed), "euclidean", positive, groups_exclude, options)


@pytest.mark.parametrize("of_one_set", [True, False])
def test_some_queries_at_a_time(monkeypatch: pytest.MonkeyPatch, of_one_set: bool) -> None:
    from fasttriplet.retrieval import candidates

    for module, name, value in (
        *((mining, "_FEWEST_QUERIES", 11), (mining, "_FOUND", 1), (mining, "_JUDGED", 50)),
        (candidates, "_QUERIES", 7),
    ):
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, value)
    for positive in mining.POSITIVES:
        check(case(of_one_set, True), "euclidean", positive, "pairs", OPTIONS[3])
        check(case(of_one_set, False), "cosine", positive, "pairs", OPTIONS[1])


def test_ties_go_to_the_lowest_index() -> None:
    g = torch.Generator().manual_seed(0)
    rows, labels = torch.randint(0, 3, (60, 2), generator=g).float(), torch.randint(0, 4, (60,), generator=g)
    tied = case(True, False, n=60)._replace(rows=rows, references=rows, labels=labels, ref_labels=labels)
    for positive, options in itertools.product(mining.POSITIVES, OPTIONS[:4]):
        check(tied, "squared_euclidean", positive, "pairs", options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_of_rows(dtype: torch.dtype) -> None:
    check(case(False, True, dtype=dtype), "euclidean", "nearest", "pairs", OPTIONS[3])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.bool])
def test_dtypes_of_labels(dtype: torch.dtype) -> None:
    given = case(True, False)
    labels = (given.labels % 2 if dtype == torch.bool else given.labels + 1).to(dtype)
    wide = mine_hard_negatives(given.rows, labels.long())
    narrow = mine_hard_negatives(given.rows, labels)
    assert torch.equal(wide.negatives, narrow.negatives) and (wide.negatives >= 0).any()
    assert torch.equal(wide.positives, narrow.positives)


def test_labels_beyond_float32_and_strides() -> None:
    given = case(True, False)
    plain = mine_hard_negatives(given.rows, given.labels)
    strided = torch.cat([given.rows, given.rows], 1).T.contiguous().T[:, :6]
    large = mine_hard_negatives(strided, given.labels * 3 + 2**40)
    assert torch.equal(plain.negatives, large.negatives) and torch.equal(plain.positives, large.positives)


def test_random_choice() -> None:
    given = case(False, True)
    options = {"num_negatives": 4, "range_max": 30, "absolute_margin": 0.1}
    fit = brute(given, "euclidean", "nearest", "pairs", options).rows
    told = given.told | options
    mined = mine_hard_negatives(given.rows, given.labels, sampling="random", seed=5, **told)
    again = mine_hard_negatives(given.rows, given.labels, sampling="random", seed=5, **told)
    other = mine_hard_negatives(given.rows, given.labels, sampling="random", seed=6, **told)
    assert torch.equal(mined.negatives, again.negatives)
    assert not torch.equal(mined.negatives, other.negatives)
    for (_, _, may), negatives, distances in zip(fit, mined.negatives.tolist(), mined.distances.tolist(), strict=True):
        chosen = [j for j in negatives if j >= 0]
        assert len(set(chosen)) == len(chosen) == min(4, len(may)) and set(chosen) <= set(may)
        assert negatives[len(chosen) :] == [-1] * (4 - len(chosen))
        known = distances[: len(chosen)]
        assert known == sorted(known)
    report = mined.report
    assert report.left_out["not_needed"] == sum(max(0, len(may) - 4) for _, _, may in fit)
    assert report.candidates == sum(report.left_out.values()) + report.chosen


def test_random_choice_is_of_the_rows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = case(True, False)
    whole = mine_hard_negatives(given.rows, given.labels, sampling="random", positive="all")
    monkeypatch.setattr(mining, "_FEWEST_QUERIES", 13)
    monkeypatch.setattr(mining, "_FOUND", 1)
    parts = mine_hard_negatives(given.rows, given.labels, sampling="random", positive="all")
    assert torch.equal(whole.negatives, parts.negatives)
    same = whole.anchors[1:] == whole.anchors[:-1]
    assert (whole.negatives[1:][same] != whole.negatives[:-1][same]).any()  # each pair draws anew


def test_random_choice_takes_any_alike() -> None:
    rows, labels = torch.arange(21.0)[:, None], torch.arange(21)
    seen = torch.zeros(21)
    for seed in range(400):
        mined = mine_hard_negatives(rows[:21], labels, num_negatives=5, range_max=20, sampling="random", seed=seed)
        seen[mined.negatives[0]] += 1
    assert seen[0] == 0 and seen.sum() == 2000
    assert (seen[1:] - 100).abs().max() < 40  # 4.6 standard deviations
    drawn = mixed(0, torch.arange(10_000)).double() / 2**62
    assert abs(float(drawn.mean()) - 0.5) < 0.02 and drawn.min() >= 0 and drawn.max() < 1


def test_window_of_2048_ranks() -> None:
    g = torch.Generator().manual_seed(0)
    rows, references = torch.randn(3, 2, generator=g), torch.randn(2100, 2, generator=g)
    labels, ref_labels = torch.arange(3), torch.arange(2100) % 3
    mined = mine_hard_negatives(
        rows, labels, ref_embeddings=references, ref_labels=ref_labels, num_negatives=5, range_min=1300, range_max=2048
    )
    for query in range(3):
        apart = (rows[query].double() - references.double()).norm(dim=1).masked_fill(ref_labels == query, torch.inf)
        assert mined.negatives[query].tolist() == apart.argsort()[1300:1305].tolist()
    mined = mine_hard_negatives(
        rows, labels, ref_embeddings=references, ref_labels=ref_labels, range_max=2048, max_distance=1e-9
    )
    assert mined.report.without_any == 3 and mined.report.left_out["max_distance"] == 3 * 1400


@pytest.mark.parametrize("positive", mining.POSITIVES)
@pytest.mark.parametrize("sampling", mining.SAMPLINGS)
def test_sets_with_next_to_nothing(positive: str, sampling: str) -> None:
    options = {"positive": positive, "sampling": sampling, "num_negatives": 2}
    empty = mine_hard_negatives(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), **options)
    assert empty.negatives.shape == (0, 2) and empty.report.queries == 0 and len(empty.triplets()[0]) == 0
    assert "0 hard negatives for 0 queries" in str(empty.report)
    one = mine_hard_negatives(torch.ones(1, 4), torch.zeros(1, dtype=torch.long), **options)
    assert one.positives.tolist() == [-1] and one.negatives.tolist() == [[-1, -1]]
    assert one.report.without_positive == one.report.without_any == 1
    of_one_class = mine_hard_negatives(torch.arange(5.0)[:, None], torch.zeros(5, dtype=torch.long), **options)
    assert (of_one_class.negatives == -1).all() and (of_one_class.positives >= 0).all()
    assert of_one_class.report.candidates == 0
    none = {"ref_embeddings": torch.zeros(0, 4), "ref_labels": torch.zeros(0, dtype=torch.long)}
    without = mine_hard_negatives(torch.ones(3, 4), torch.arange(3), **none, **options)
    assert without.anchors.tolist() == [0, 1, 2] and (without.negatives == -1).all()
    ignored = mine_hard_negatives(torch.ones(3, 4), torch.zeros(3, dtype=torch.long), ignore_index=0, **options)
    assert ignored.anchors.tolist() == [0, 1, 2] and ignored.report.queries == 0
    columnless = mine_hard_negatives(torch.zeros(4, 0), torch.tensor([0, 0, 1, 1]), **options)
    assert columnless.distances.tolist() == [[0.0, 0.0]] * 4


def test_rows_that_are_not_finite() -> None:
    given = case(False, True)
    rows, references = given.rows.clone(), given.references.clone()
    rows[(given.labels == 3).nonzero()[0, 0]] = torch.nan  # ignored
    references[(~given.told["ref_mask"]).nonzero()[0, 0]] = torch.inf  # masked
    told = given.told | {"ref_embeddings": references}
    plain = mine_hard_negatives(given.rows, given.labels, **given.told)
    mined = mine_hard_negatives(rows, given.labels, **told)
    assert torch.equal(mined.negatives, plain.negatives) and torch.equal(mined.positives, plain.positives)
    stay = (given.labels != 3).nonzero()[:, 0]
    rows[stay[-2]], rows[stay[-1]] = torch.nan, torch.inf  # behind an ignored one
    message = f"embeddings must be finite; got 2 of {len(stay)} rows with a NaN or infinite entry, the first at index"
    with pytest.raises(ValueError, match=f"^{message} {int(stay[-2])}$"):
        mine_hard_negatives(rows, given.labels, **told)
    with pytest.raises(ValueError, match=r"^ref_embeddings must be finite; got 1 of 50 rows .* index 49$"):
        mine_hard_negatives(
            given.rows,
            given.labels,
            ref_embeddings=given.rows.index_fill(0, torch.tensor(49), torch.nan),
            ref_labels=given.labels,
        )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_negatives": 0}, ValueError, "num_negatives must be at least 1"),
        ({"num_negatives": 2.0}, TypeError, "num_negatives must be an int; got float"),
        ({"range_min": -1}, ValueError, "range_min must be at least 0; got -1"),
        ({"range_min": True}, TypeError, "range_min must be an int; got bool"),
        ({"range_min": 8, "range_max": 10}, ValueError, r"range_max must be at least .*, 8 \+ 3, .*; got 10"),
        ({"positive": "hardest"}, ValueError, "positive must be one of nearest, farthest, all; got 'hardest'"),
        ({"sampling": 1}, TypeError, "sampling must be a str"),
        ({"distance": "l1"}, ValueError, "distance must be one of"),
        ({"absolute_margin": float("nan")}, ValueError, "absolute_margin must be finite"),
        ({"relative_margin": "5 %"}, TypeError, "relative_margin must be a real number; got str"),
        ({"max_distance": float("inf")}, ValueError, "max_distance must be finite"),
        ({"seed": 1.5}, TypeError, "seed must be an int; got float"),
        ({"progress": 3}, TypeError, "progress must be a bool or a function .*; got int"),
        ({"groups_exclude": "all"}, ValueError, "groups_exclude must be one of"),
        ({"margin": 0.1}, TypeError, r"mine_hard_negatives\(\) got an unexpected keyword argument 'margin'"),
        ({"ref_labels": torch.zeros(4, dtype=torch.long)}, ValueError, "must be given together"),
        ({"sample_ids": torch.zeros(3, dtype=torch.long)}, ValueError, r"sample_ids must have shape \[4\]"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mine_hard_negatives(torch.zeros(4, 2), torch.arange(4), **options)


def test_wrong_rows_and_labels() -> None:
    with pytest.raises(ValueError, match=r"labels must be one class a row, \[4\], .*; got multi-hot \[4, 3\]"):
        mine_hard_negatives(torch.zeros(4, 2), torch.zeros(4, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"to match embeddings \[4, 2\]; got torch.int64 \[3\]"):
        mine_hard_negatives(torch.zeros(4, 2), torch.arange(3))
    with pytest.raises(ValueError, match=r"embeddings must have shape \[N, D\]; got \[4\]"):
        mine_hard_negatives(torch.zeros(4), torch.arange(4))
    with pytest.raises(TypeError, match=r"embeddings must be a torch\.Tensor"):
        mine_hard_negatives([[0.0]], torch.arange(1))


def test_progress(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    given, seen = case(True, False), []
    monkeypatch.setattr(mining, "_FEWEST_QUERIES", 20)
    monkeypatch.setattr(mining, "_FOUND", 1)
    mine_hard_negatives(given.rows, given.labels, progress=lambda done, count: seen.append((done, count)))
    assert seen == [(20, 50), (40, 50), (50, 50)]
    pytest.importorskip("tqdm")
    mine_hard_negatives(given.rows, given.labels, progress=True)
    assert "50/50" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match="progress=True needs tqdm"):
        mine_hard_negatives(given.rows, given.labels, progress=True)


def test_no_graph_and_inputs_stay() -> None:
    given = case(False, True)
    rows = given.rows.clone().requires_grad_()
    before = {name: value.clone() for name, value in given.told.items() if isinstance(value, Tensor)}
    mined = mine_hard_negatives(rows, given.labels, **given.told)
    assert not mined.distances.requires_grad and not mined.positive_distances.requires_grad
    assert torch.equal(rows, given.rows)
    assert all(torch.equal(given.told[name], value) for name, value in before.items())


def test_negative_ids_but_minus_one_are_ids() -> None:
    rows, labels = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
    for ids in ([-2, -3, -2, -4], [5, 6, 5, 7]):
        mined = mine_hard_negatives(rows, labels, num_negatives=2, sample_ids=torch.tensor(ids))
        assert mined.negatives[0].tolist() == [3, -1]
    mined = mine_hard_negatives(rows, labels, num_negatives=2, sample_ids=torch.tensor([-1, -3, -1, -4]))
    assert mined.negatives[0].tolist() == [2, 3]
