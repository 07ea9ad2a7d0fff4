"""EmbeddingRetrieval as a metric of torchmetrics, by torchmetrics' own machinery."""

import copy
import doctest
import importlib
import pickle
import runpy
import sys

import pytest
import torch

from fasttriplet.retrieval import retrieval_metrics
from tests.compat.lightnings import module_or_skip

torchmetrics = module_or_skip("torchmetrics")
compat = importlib.import_module("fasttriplet.compat.torchmetrics")  # which imports it
EmbeddingRetrieval = compat.EmbeddingRetrieval
N = 30


def rows(seed=0, n=N, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator).to(dtype)
    return x, torch.randint(0, 5, (n,), generator=generator), torch.randint(0, 3, (n,), generator=generator)


def expected(*arguments, **told):
    found = retrieval_metrics(*arguments, **told).as_dict()
    return {name: value for name, value in found.items() if not name.startswith("cmc@")}


def numbers(found):
    assert all(isinstance(value, torch.Tensor) and value.shape == () for value in found.values())
    return {name: value.item() for name, value in found.items()}


def test_the_example():
    failed, attempted = doctest.testmod(compat)
    assert (failed, attempted > 3) == (0, True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_batches_are_all_rows_at_once(dtype):
    x, labels, groups = rows(dtype=dtype)
    metric = EmbeddingRetrieval(at=(1, 3), distance="cosine")
    for part in (slice(0, 7), slice(7, 7), slice(7, None)):
        metric.update(x[part], labels[part], groups=groups[part])
    found = metric.compute()
    assert numbers(found) == expected(x, labels, groups=groups, at=(1, 3), distance="cosine")
    assert all(value.dtype == torch.float64 for value in found.values())
    assert metric.higher_is_better and metric.full_state_update is False
    metric.reset()
    metric.update(x[:9], labels[:9])
    assert numbers(metric.compute()) == expected(x[:9], labels[:9], at=(1, 3), distance="cosine")


def test_forward_gives_the_batch_and_keeps_it():
    x, labels, _ = rows()
    metric = EmbeddingRetrieval()
    for part in (slice(0, 12), slice(12, None)):
        assert numbers(metric(x[part], labels[part])) == expected(x[part], labels[part])
    assert numbers(metric.compute()) == expected(x, labels)
    metric(x[:1], labels[:1], groups=labels[:1])
    with pytest.raises(ValueError, match="groups must be given with every batch or with none; got 1 of 3"):
        metric.compute()


def test_a_gallery_and_duplicates():
    x, labels, _ = rows()
    y, ref_labels, _ = rows(1, 20)
    ids = torch.arange(20)
    metric = EmbeddingRetrieval()
    metric.update(x, labels, sample_ids=torch.arange(100, 100 + N))
    metric.update(y, ref_labels, sample_ids=ids, references=True)
    metric.update(y[3:5], ref_labels[3:5], sample_ids=ids[3:5], references=True)
    assert numbers(metric.compute()) == expected(x, labels, ref_embeddings=y, ref_labels=ref_labels)


def test_in_a_collection():
    x, labels, _ = rows()
    collection = torchmetrics.MetricCollection(
        {
            "near": EmbeddingRetrieval(metrics=("hit_rate@1", "map")),
            "round": EmbeddingRetrieval(metrics=("hit_rate@1", "map"), distance="cosine"),
        },
        prefix="val/",
    )
    for part in (slice(0, 12), slice(12, 20), slice(20, None)):
        collection.update(x[part], labels[part])
    found = collection.compute()
    near, turned = expected(x, labels), expected(x, labels, distance="cosine")
    assert numbers(found) == {
        "val/near_hit_rate@1": near["hit_rate@1"],
        "val/near_map": near["map"],
        "val/round_hit_rate@1": turned["hit_rate@1"],
        "val/round_map": turned["map"],
    }
    assert len(collection.compute_groups) == 1  # rows are kept once
    clone = collection.clone(prefix="test/")
    clone.reset()
    clone.update(x[:9], labels[:9])
    assert clone.compute()["test/near_map"].item() == expected(x[:9], labels[:9])["map"]
    assert numbers(collection.compute())["val/near_map"] == near["map"]
    one = torchmetrics.MetricCollection([EmbeddingRetrieval(metrics=("minp",))])
    assert list(one(x, labels)) == ["minp"]


def test_copies_dtypes_and_state():
    x, labels, _ = rows()
    metric = EmbeddingRetrieval()
    metric.update(x, labels + 2**24)
    for twin in (metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric)), metric.to("cpu")):
        assert numbers(twin.compute()) == expected(x, labels)
    metric = EmbeddingRetrieval()
    metric.update(x, labels + 2**24)
    metric.half()  # changes no metric
    assert metric.embeddings[0].dtype == torch.float32
    metric.set_dtype(torch.float16)
    assert metric.embeddings[0].dtype == torch.float16 and metric.labels[0].dtype == torch.int64
    assert numbers(metric.compute()) == expected(x.half(), labels)
    metric.persistent(True)
    twin = EmbeddingRetrieval()
    twin.load_state_dict(metric.state_dict())
    twin._update_count = 1
    assert numbers(twin.compute()) == expected(x.half(), labels)
    kept = EmbeddingRetrieval(compute_on_cpu=True)
    kept.update(x, labels)
    assert numbers(kept.compute()) == expected(x, labels)


def test_merged_states():
    x, labels, _ = rows()
    first, second = EmbeddingRetrieval(), EmbeddingRetrieval()
    first.update(x[20:], labels[20:])
    second.update(x[:20], labels[:20])
    first.merge_state(second)
    assert numbers(first.compute()) == expected(x, labels)


def test_wrong_batches_and_options():
    x, labels, _ = rows()
    metric = EmbeddingRetrieval()
    metric.update(x, labels)
    with pytest.raises(ValueError, match=r"the number of columns of embeddings must be the same .* got 4 in the first"):
        metric.update(x[:, :3], labels)
    with pytest.raises(ValueError, match=r"labels must be integers or bool \[30\]"):
        metric.update(x, labels[:3])
    with pytest.raises(TypeError, match="references must be a bool"):
        metric.update(x, labels, references=1)
    with pytest.raises(ValueError, match=r"metrics must be among hit_rate@1, .* got 'hit_rate@2'"):
        EmbeddingRetrieval(metrics=("hit_rate@2",))
    with pytest.raises(TypeError, match="metrics must be a sequence of names"):
        EmbeddingRetrieval(metrics="map")
    with pytest.raises(ValueError, match="distance must be one of"):
        EmbeddingRetrieval(distance="l2")
    with pytest.raises(ValueError, match="Unexpected keyword arguments: `kind`"):
        EmbeddingRetrieval(kind=1)


def test_without_torchmetrics_it_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(
        ImportError, match=r"fasttriplet\.compat\.torchmetrics needs torchmetrics .* \(pip install torch"
    ):
        runpy.run_path(compat.__file__)
