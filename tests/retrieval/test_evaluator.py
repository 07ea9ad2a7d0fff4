"""RetrievalEvaluator of batches beside retrieval_metrics of all rows at once."""

import copy
import pickle

import pytest
import torch

from fasttriplet.retrieval import RetrievalEvaluator, retrieval_metrics

N, D = 37, 5
SPLITS = ([N], [10, 20, 7], [0, 1, 36, 0])


def rows(n=N, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=generator).to(dtype)
    x[n // 2] = x[n // 3]  # equal distances
    return x, torch.randint(0, 6, (n,), generator=generator), torch.randint(0, 3, (n,), generator=generator)


def same(found, expected):
    """To the bit."""
    assert found.queries == expected.queries > 0
    for name, value in expected._asdict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(found, name), value, rtol=0, atol=0, equal_nan=True, msg=name)
        elif name != "histograms":
            assert getattr(found, name) == value, name


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_batches_are_all_rows_at_once(sizes, dtype):
    x, labels, cameras = rows(dtype=dtype)
    options = {"at": (1, 3), "distance": "cosine", "max_rank": 7, "ignore_index": 5}
    evaluator = RetrievalEvaluator(**options)
    for batch in zip(x.split(sizes), labels.split(sizes), cameras.split(sizes), strict=True):
        evaluator.update(*batch[:2], groups=batch[2])
    assert len(evaluator) == N
    expected = retrieval_metrics(x, labels, groups=cameras, **options)
    for _ in range(2):  # rows stay
        same(evaluator.compute(), expected)
    evaluator.update(x[:4], labels[:4], groups=cameras[:4])
    same(
        evaluator.compute(),
        retrieval_metrics(
            torch.cat([x, x[:4]]), torch.cat([labels, labels[:4]]), groups=torch.cat([cameras, cameras[:4]]), **options
        ),
    )
    evaluator.reset()
    assert len(evaluator) == 0 and evaluator
    evaluator.update(x, labels, groups=cameras)
    same(evaluator.compute(), expected)


@pytest.mark.parametrize("exclude", ["positives", "pairs"])
def test_a_gallery(exclude):
    x, labels, cameras = rows()
    y, ref_labels, ref_cameras = rows(23, seed=1, dtype=torch.float64)
    evaluator = RetrievalEvaluator(groups_exclude=exclude)
    evaluator.update(x, labels, groups=cameras)
    for part in (slice(0, 9), slice(9, None)):
        evaluator.update_references(y[part], ref_labels[part], groups=ref_cameras[part])
    told = {"ref_embeddings": y, "ref_labels": ref_labels, "groups": cameras, "ref_groups": ref_cameras}
    same(evaluator.compute(), retrieval_metrics(x, labels, groups_exclude=exclude, **told))
    assert len(evaluator) == N
    evaluator.reset()
    evaluator.update(x, labels)
    same(evaluator.compute(), retrieval_metrics(x, labels))


def test_rows_of_one_sample_count_once():
    x, labels, _ = rows()
    ids = torch.arange(N)
    ids[[3, 8]] = -1  # of no sample, both stay
    order = torch.cat([torch.arange(N), torch.tensor([5, 0, 5])])  # what a sampler pads with
    evaluator = RetrievalEvaluator()
    for part in order.split(11):
        evaluator.update(x[part], labels[part], sample_ids=ids[part])
    assert len(evaluator) == N + 3
    same(evaluator.compute(), retrieval_metrics(x, labels, sample_ids=ids))
    kept = RetrievalEvaluator(drop_duplicates=False)
    kept.update(x[order], labels[order], sample_ids=ids[order])
    found = kept.compute()
    same(found, retrieval_metrics(x[order], labels[order], sample_ids=ids[order]))
    assert found.queries == N + 3


def test_sample_ids_of_one_side_alone_drop_duplicates():
    x, labels, _ = rows()
    y, ref_labels, _ = rows(23, seed=1)
    order = torch.cat([torch.arange(23), torch.tensor([2])])
    evaluator = RetrievalEvaluator()
    evaluator.update(x, labels)
    evaluator.update_references(y[order], ref_labels[order], sample_ids=order)
    same(evaluator.compute(), retrieval_metrics(x, labels, ref_embeddings=y, ref_labels=ref_labels))
    evaluator.reset()
    evaluator.update(x, labels, sample_ids=torch.arange(N))
    evaluator.update_references(y[order], ref_labels[order], sample_ids=order)
    told = {"sample_ids": torch.arange(N), "ref_sample_ids": torch.arange(23)}  # equal ones are no pair
    same(evaluator.compute(), retrieval_metrics(x, labels, ref_embeddings=y, ref_labels=ref_labels, **told))


@pytest.mark.parametrize("how", ["fail", "skip"])
def test_rows_that_are_not_finite(how):
    x, labels, _ = rows()
    x[4, 1], x[9, 0] = torch.nan, torch.inf
    evaluator = RetrievalEvaluator(on_nonfinite=how)
    evaluator.update(x, labels)
    same(evaluator.compute(), retrieval_metrics(x, labels, on_nonfinite=how))
    evaluator = RetrievalEvaluator()
    evaluator.update(x, labels)
    with pytest.raises(ValueError, match=r"embeddings must be finite .* got 2 of 37 rows .* the first at index 4"):
        evaluator.compute()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool])
def test_labels_of_any_dtype_and_large_ids(dtype):
    x, labels, _ = rows()
    labels = labels.to(dtype)
    if dtype == torch.int64:
        labels += 2**24
    evaluator = RetrievalEvaluator()
    evaluator.update(x, labels)
    same(evaluator.compute(), retrieval_metrics(x, labels))


def test_multi_hot_labels():
    x, labels, _ = rows()
    several = torch.nn.functional.one_hot(labels, 6).bool()
    several[:, 0] |= several[:, 1]
    evaluator = RetrievalEvaluator()
    for part in (slice(0, 20), slice(20, None)):
        evaluator.update(x[part], several[part])
    same(evaluator.compute(), retrieval_metrics(x, several))


def test_what_is_kept_is_a_copy_without_a_graph():
    x, labels, _ = rows()
    expected, buffer = retrieval_metrics(x, labels), x.clone()
    weight = torch.eye(D, requires_grad=True)
    evaluator = RetrievalEvaluator(device="cpu")
    with torch.inference_mode():
        evaluator.update(x[:10] @ weight, labels[:10])
    embeddings, classes = buffer @ weight, labels.clone()
    evaluator.update(embeddings[10:], classes[10:])
    with torch.no_grad():
        embeddings.zero_()
        classes.zero_()
    same(evaluator.compute(), expected)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        same(evaluator.compute(), expected)
    assert weight.grad is None


def test_strides():
    x, labels, _ = rows()
    evaluator = RetrievalEvaluator()
    evaluator.update(torch.stack([x, x], 2)[:, :, 0], torch.stack([labels, labels], 1)[:, 1])
    same(evaluator.compute(), retrieval_metrics(x, labels))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda evaluator: pickle.loads(pickle.dumps(evaluator))])
def test_copies_have_rows_of_their_own(copied):
    x, labels, _ = rows()
    evaluator = RetrievalEvaluator(at=(2,), distance="inner_product")
    evaluator.update(x[:20], labels[:20])
    twin = copied(evaluator)
    twin.update(x[20:], labels[20:])
    same(twin.compute(), retrieval_metrics(x, labels, at=(2,), distance="inner_product"))
    same(evaluator.compute(), retrieval_metrics(x[:20], labels[:20], at=(2,), distance="inner_product"))


def test_nothing_to_evaluate():
    for evaluator in (RetrievalEvaluator(), RetrievalEvaluator(), RetrievalEvaluator()):
        found = evaluator.compute()
        assert (found.queries, found.queries_without_positive) == (0, 0) and found.map.isnan()
    evaluator.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert evaluator.compute().queries == 0
    evaluator.update(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long))
    found = evaluator.compute()
    assert (found.queries, found.queries_without_positive) == (0, 1) and found.hit_rate.isnan().all()
    evaluator = RetrievalEvaluator()
    evaluator.update_references(torch.zeros(4, 3), torch.arange(4))
    assert evaluator.compute().queries == 0


@pytest.mark.parametrize(
    ("arguments", "told", "message"),
    [
        ((torch.zeros(4), torch.arange(4)), {}, r"embeddings must have shape \[N, D\]; got \[4\]"),
        ((torch.zeros(4, 3).int(), torch.arange(4)), {}, "embeddings must have dtype float64, .* got torch.int32"),
        ((torch.zeros(4, 3), torch.arange(5)), {}, r"labels must be integers or bool \[4\].* got torch.int64 \[5\]"),
        ((torch.zeros(4, 3), torch.zeros(4)), {}, "labels must be integers or bool .* got torch.float32"),
        ((torch.zeros(4, 3), torch.arange(4)), {"groups": torch.arange(3)}, r"groups must have shape \[4\]"),
        ((torch.zeros(4, 3), torch.arange(4)), {"sample_ids": torch.zeros(4)}, "sample_ids must have an integer dtype"),
        ((torch.zeros(4, 2), torch.arange(4)), {}, "the number of columns of embeddings .* got 3 before and now 2"),
        ((torch.zeros(4, 3), torch.ones(4, 2).bool()), {}, r"form of labels .* got \[N\] before and now \[N, 2\]"),
        (
            (torch.zeros(4, 3), torch.arange(4)),
            {"groups": torch.arange(4)},
            "groups .* got not given before and now given",
        ),
    ],
)
def test_a_wrong_batch_is_refused_where_it_comes(arguments, told, message):
    evaluator = RetrievalEvaluator()
    for add in (evaluator.update, evaluator.update_references):
        add(torch.zeros(2, 3), torch.arange(2))
        with pytest.raises(ValueError, match=message):
            add(*arguments, **told)
    assert len(evaluator) == 2 and evaluator.compute().queries_without_positive == 0


def test_labels_that_are_no_tensor():
    with pytest.raises(TypeError, match=r"labels must be a torch\.Tensor; got list"):
        RetrievalEvaluator().update(torch.zeros(2, 3), [0, 1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"at": (0,)}, ValueError, r"at\[0\] must be at least 1 .* got 0"),
        ({"distance": "l2"}, ValueError, "distance must be one of"),
        ({"on_nonfinite": "raise"}, ValueError, "on_nonfinite must be one of"),
        ({"groups_exclude": "all"}, ValueError, "groups_exclude must be one of"),
        ({"max_rank": 0}, ValueError, "max_rank must be at least 1"),
        ({"ignore_index": 1.0}, TypeError, "ignore_index must be an int or None"),
        ({"drop_duplicates": 1}, TypeError, "drop_duplicates must be a bool"),
        ({"process_group": 3}, TypeError, "process_group must be a torch.distributed.ProcessGroup"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        RetrievalEvaluator(**options)
