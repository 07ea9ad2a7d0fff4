"""Evaluation of retrieval by several processes: to the bit what one process with the rows of all has."""

from __future__ import annotations

import copy
import importlib
import pickle
import tempfile
from functools import partial

import pytest
import torch

from fasttriplet.distributed.group import Group
from fasttriplet.retrieval import RetrievalEvaluator
from fasttriplet.retrieval.evaluation import _batch, _ranks, _ranks_of_all
from fasttriplet.retrieval.kept import kept_of_all
from tests.distributed.ranks import sizes, whole_results
from tests.distributed.test_mined import same

RANKS = (1, 2, 3)
N, M = 41, 23
SPLITS = ("even", "uneven", "empty", "alone")
#: Options, and what comes with the rows.
CASES = {
    "plain": ({}, ()),
    "cameras": ({"distance": "cosine", "ignore_index": 2}, ("groups",)),
    "pairs": ({"groups_exclude": "pairs", "at": (2, 4)}, ("groups",)),
    "copies": ({"distance": "inner_product", "max_rank": 3}, ("sample_ids",)),
    "all views": ({"drop_duplicates": False}, ("sample_ids",)),
    "gallery": ({"distance": "squared_euclidean"}, ("references",)),
    "gallery, everything": ({"on_nonfinite": "fail"}, ("references", "groups", "sample_ids", "broken")),
    "skipped": ({"on_nonfinite": "skip"}, ("broken",)),
    "histograms": ({"histograms": True, "bins": 5, "pairs": 50}, ("groups",)),
    "multi-hot": ({}, ("several",)),
    "half": ({}, ("half", "references")),
}


def rows(of, n, seed):
    """[n] of what CASES says, and their ids."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    x[n // 2] = x[n // 3]
    labels = torch.randint(0, 5, (n,), generator=generator)
    if "broken" in of:
        x[3, 0] = torch.nan
    if "half" in of:
        x = x.bfloat16()
    if "several" in of:
        labels = torch.nn.functional.one_hot(labels, 6).bool() | (torch.rand(n, 6, generator=generator) < 0.1)
    told = {}
    if "groups" in of:
        told["groups"] = torch.randint(0, 3, (n,), generator=generator)
    if "sample_ids" in of:  # some twice, as a sampler pads
        told["sample_ids"] = torch.arange(n) % (n - 5) + (n > M) * 10
    return x, labels, told


def fed(of, options, shares=None, rank=0, **more):
    """An evaluator with the rows of a rank, two batches, or with all."""
    evaluator = RetrievalEvaluator(**options, **more)
    adds = [(evaluator.update, N, 0)] + [(evaluator.update_references, M, 1)] * ("references" in of)
    for add, n, seed in adds:
        x, labels, told = rows(of, n, seed)
        counts = [n] if shares is None else sizes(n, len(shares), shares[0])
        begin = sum(counts[:rank])
        for part in torch.arange(begin, begin + counts[rank]).chunk(2):
            if len(part):
                add(x[part], labels[part], **{name: value[part] for name, value in told.items()})
    return evaluator


def evaluated(case, split, ranks, rank, group):
    options, of = CASES[case]
    evaluator = fed(of, options, [split] * ranks, rank, process_group=group)
    found = evaluator.compute()
    batch = _batch(
        kept_of_all(Group(group), evaluator._queries[0] if evaluator._queries else None), None, evaluator.options
    )
    return found, _ranks_of_all(Group(group), batch, evaluator.options)._asdict()


def empty_everywhere(rank, group):
    return RetrievalEvaluator(process_group=group).compute().queries


def wrong(rank, group):
    """What each rank raises, by case."""
    x, labels, _ = rows((), 6, 0)
    last = rank == 1
    cases = {
        "columns": ({}, {"embeddings": x[:, :3] if last else x}),
        "labels": ({}, {"labels": torch.ones(6, 2).bool() if last else labels}),
        "ids": ({}, {"groups": labels} if last else {}),
        "options": ({"at": (1, 2) if last else (1, 3)}, {}),
        "not finite": ({}, {"embeddings": x.index_fill(0, torch.tensor([2, 4]), torch.inf) if last else x}),
    }
    found = {}
    for name, (options, told) in cases.items():
        evaluator = RetrievalEvaluator(**options, process_group=group)
        evaluator.update(**{"embeddings": x, "labels": labels, **told})
        try:
            evaluator.compute()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def copies(rank, group):
    evaluator = RetrievalEvaluator(process_group=group)
    evaluator.update(*rows((), 6, rank)[:2])
    twin = copy.deepcopy(evaluator)
    found = [twin.process_group is group, twin.compute().map, evaluator.compute().map]
    try:
        pickle.dumps(evaluator)
    except TypeError as error:
        found.append(str(error))
    evaluator.process_group = None
    return [*found, len(pickle.loads(pickle.dumps(evaluator)))]


def imported(name):
    """A module of compat, whose original may import a torchvision of another build; None without the original."""
    from examples.resnet50.vision import load_torchvision

    if importlib.util.find_spec(name) is None:
        return None
    if importlib.util.find_spec("torchvision") is not None:
        load_torchvision()
    return importlib.import_module(f"fasttriplet.compat.{name}")


def by_torchmetrics(ranks, rank, group):
    """Its own synchronisation, of the group and of all processes, and with a rank that has nothing."""
    module = imported("torchmetrics")
    if module is None:
        return None
    found = []
    for split in ("uneven", "empty"):
        for told in ({"process_group": group}, {}):
            x, labels, ids = rows(("sample_ids", "half"), N, 0)
            counts = sizes(N, ranks, split)
            metric = module.EmbeddingRetrieval(**told)
            part = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
            if counts[rank]:
                metric.update(x[part], labels[part], sample_ids=ids["sample_ids"][part])
            metric._update_count += 1  # else it warns that there was no update
            found.append(metric.compute())
            assert [len(each) for each in metric.labels] == [counts[rank]] * bool(counts[rank])  # its own again
    return found


def by_lightning(ranks, rank, group):
    """A run of two epochs under its DistributedDataParallel, whose sampler pads."""
    compat = imported("lightning")
    if compat is None:
        return None
    import lightning.pytorch as lightning
    from lightning.pytorch.plugins.environments import LightningEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    class Environment(LightningEnvironment):
        creates_processes_externally = True

        def world_size(self):
            return ranks

        def global_rank(self):
            return rank

        def local_rank(self):
            return 0

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(4, 3)

        def training_step(self, batch, batch_idx):
            return self.layer(batch[0]).square().mean()

        def validation_step(self, batch, batch_idx):
            return {"embeddings": self.layer(batch[0]), "labels": batch[1], "sample_ids": batch[2]}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    x, labels, _ = rows((), N, 0)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels, torch.arange(N)), batch_size=7)
    module, callback = Module(), compat.RetrievalCallback(metrics=("map", "queries"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            strategy=DDPStrategy(cluster_environment=Environment(), process_group_backend="gloo"),
            accelerator="cpu",
            devices=1,
            num_nodes=ranks,
            max_epochs=1,
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[callback],
            default_root_dir=folder,
        )
        trainer.fit(module, loader, loader)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    return metrics, callback.results["val", 0].map.clone(), {k: v.clone() for k, v in module.layer.state_dict().items()}


def work(ranks):
    if ranks not in RANKS:
        return {}
    asked = {f"evaluator {case} {split}": partial(evaluated, case, split, ranks) for case in CASES for split in SPLITS}
    asked["evaluator empty"] = empty_everywhere
    if ranks == 2:
        asked |= {"evaluator wrong": wrong, "evaluator copies": copies}
        asked["evaluator torchmetrics"] = partial(by_torchmetrics, ranks)
        asked["evaluator lightning"] = partial(by_lightning, ranks)
    return asked


def same_metrics(found, expected):
    assert expected.queries > 0
    for name, value in expected._asdict().items():
        if isinstance(value, torch.Tensor):
            same(getattr(found, name), value, name)
        elif name == "histograms" and value is not None:
            for field, column in value._asdict().items():
                if isinstance(column, torch.Tensor):
                    same(getattr(found.histograms, field), column, field)
                else:
                    assert getattr(found.histograms, field) == column
        else:
            assert getattr(found, name) == value, name


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("case", CASES)
def test_every_rank_has_what_one_process_has(ranks, split, case, found):
    options, of = CASES[case]
    whole = fed(of, options)
    expected = whole.compute()
    per_query = _ranks(_batch(whole._queries[0], None, whole.options), whole.options)
    for metrics, columns in whole_results(found(ranks)[f"evaluator {case} {split}"]):
        same_metrics(metrics, expected)
        for name, column in per_query._asdict().items():
            same(columns[name], column, name)


@pytest.mark.parametrize("ranks", RANKS)
def test_no_rank_has_rows(ranks, found):
    assert whole_results(found(ranks)["evaluator empty"]) == [0] * ranks


def test_what_is_wrong_on_one_rank_is_an_error_on_all(found):
    first, second = whole_results(found(2)["evaluator wrong"])
    assert first == second
    alike = "must be the same on every rank of process_group"
    having = f"{alike} that has rows"
    assert first == {
        "columns": f"ValueError: the number of columns of embeddings {having}; got 4 on rank 0 and 3 on rank 1",
        "labels": f"ValueError: the form of labels {having}; got [N] on rank 0 and [N, 2] on rank 1",
        "ids": f"ValueError: groups {having}; got not given on rank 0 and given on rank 1",
        "options": f"ValueError: at {alike}; got (1, 3) on rank 0 and (1, 2) on rank 1",
        "not finite": first["not finite"],
    }
    assert first["not finite"].startswith("ValueError: embeddings must be finite")
    assert "got 2 of 12 rows" in first["not finite"] and "the first at index 8" in first["not finite"]


def test_copies_share_the_group_and_a_pickle_of_it_is_refused(found):
    for shares, twins, own, refused, kept in whole_results(found(2)["evaluator copies"]):
        assert shares and twins == own and "cannot be pickled" in refused and kept == 6


def test_torchmetrics_brings_the_ranks_together(found):
    results = found(2)["evaluator torchmetrics"]
    if results[0] is None:
        pytest.skip("torchmetrics is not installed (pip install 'fasttriplet[compat]')")
    expected = fed(("sample_ids", "half"), {}).compute().as_dict()
    for each in whole_results(results):
        assert len(each) == 4
        for metrics in each:
            assert {name: value.item() for name, value in metrics.items()} == {
                name: value for name, value in expected.items() if not name.startswith("cmc@")
            }


def test_lightning_evaluates_the_rows_of_all(found):
    results = found(2)["evaluator lightning"]
    if results[0] is None:
        pytest.skip("lightning is not installed (pip install 'fasttriplet[compat]')")
    (logged, exact, state), (other_logged, other_exact, _) = whole_results(results)
    assert logged == other_logged == {"val/map": exact.float().item(), "val/queries": N}
    same(other_exact, exact, "map")
    x, labels, _ = rows((), N, 0)
    order = torch.cat([torch.arange(0, N, 2), torch.arange(1, N, 2)])  # the sampler's
    evaluator = RetrievalEvaluator()
    evaluator.update((x @ state["weight"].T + state["bias"])[order], labels[order])
    torch.testing.assert_close(evaluator.compute().map, exact)
