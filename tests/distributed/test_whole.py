"""Where a kernel serves no references, as CUDA's, every rank mines the whole batch: the same answers."""

from functools import partial

import pytest
import torch

from fasttriplet import engines
from fasttriplet.check import MINERS
from fasttriplet.distributed import mining
from fasttriplet.functional._loss import HARDEST
from fasttriplet.pairing import Batch, Miner
from tests.distributed.cases import OF_BATCH, Case, of_one_process, of_rank
from tests.distributed.ranks import whole_results
from tests.distributed.test_mined import same

RANKS = 3


def case_of(pairing, reduction):
    options = dict(reduction=reduction, on_missing="skip", soft_margin=False, return_stats=True, weighted="learnt")
    return Case("batch_hard", {}, "euclidean", pairing, "gauss-97x33", torch.float32, "empty", options)


def by_the_whole(case, rank, group):
    before = mining.mines_whole
    mining.mines_whole = lambda batch, miner: True
    try:
        return of_rank(case, RANKS, rank, group)
    finally:
        mining.mines_whole = before


CASES = [case_of(pairing, reduction) for pairing in OF_BATCH for reduction in ("none", "mean")]


def work(ranks):
    return {f"whole {case.title}": partial(by_the_whole, case) for case in CASES} if ranks == RANKS else {}


@pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES])
def test_all_is_as_in_one_process(case, found):
    results, expected = whole_results(found(RANKS)[f"whole {case.title}"]), of_one_process(case, RANKS)
    if expected["loss"].dim() == 0:
        for result in results:
            same(result["loss"], expected["loss"], "loss")
    else:
        same(torch.cat([result["loss"] for result in results]), expected["loss"], "loss")
    for name in ("embeddings", "weights"):
        same(torch.cat([result[name] for result in results]), expected[name], name)
    for name, value in expected["mined"].items():
        same(torch.cat([result["mined"][name] for result in results]), value, name)


@pytest.mark.parametrize("kernels", [True, False])
def test_it_is_for_kernels_without_references(kernels, monkeypatch):
    """Asked of a device that is not here."""
    name = "cuda" if kernels else "portable"
    monkeypatch.setattr(mining, "engine_of", lambda *asked: engines.Engine(name, ""))
    rows, labels = torch.empty(4, 2, device="meta"), torch.empty(4, dtype=torch.int64, device="meta")
    assert mining.mines_whole(Batch(rows, None, labels, {}), HARDEST) is kernels
    assert not mining.mines_whole(Batch(rows, rows, labels, {"ref_labels": labels}), HARDEST)
    k_hardest = Miner(MINERS.index("k_hardest"), k=2)
    assert not mining.mines_whole(Batch(rows, None, labels, {}), k_hardest)
    assert not mining.mines_whole(Batch(torch.empty(4, 2), None, torch.zeros(4).long(), {}), HARDEST)
