"""Batch-all and weighted losses of several processes: of float32 quality, the same on all ranks and in every run."""

from functools import partial

import pytest
import torch

from tests.distributed.cases import LONG, RANKS, cases, of_one_process, of_rank, whole
from tests.distributed.ranks import whole_results
from tests.distributed.test_mined import same
from tests.family import many_decades


def cases_of(ranks):
    return cases(seed=10 + ranks, dense=True, share=1.0 if LONG else 0.6)


def twice(case, ranks, rank, group):
    return [of_rank(case, ranks, rank, group) for _ in range(2)]


def work(ranks):
    return {case.title: partial(twice, case, ranks) for case in cases_of(ranks)}


@pytest.mark.parametrize(
    ("ranks", "case"),
    [pytest.param(ranks, case, id=f"{ranks}-{case.title}") for ranks in RANKS for case in cases_of(ranks)],
)
def test_all_is_as_in_one_process(ranks, case, found):
    results, expected = whole_results(found(ranks)[case.title]), of_one_process(case, ranks)
    for first, second in results:
        for name in ("loss", "embeddings", "ref_embeddings", "weights"):
            if name in first:
                same(second[name], first[name], name)
    results = [first for first, _ in results]
    rows = whole(case, ranks).embeddings
    exact = rows.dtype == torch.float64
    unit = 1e-9 if exact else 1e-4 if many_decades(rows) else 1e-5
    if expected["loss"].dim() == 0:
        for result in results:
            same(result["loss"], results[0]["loss"], "loss")
            close(result["loss"], expected["loss"], unit)
    else:
        close(torch.cat([result["loss"] for result in results]), expected["loss"], unit)
    if expected["stats"] is not None:
        for result in results:
            for name, value in expected["stats"]._asdict().items():
                if name == "active_fraction" or value.dtype == torch.int64:
                    close(getattr(result["stats"], name), value, unit)
                else:  # of mined triplets
                    same(getattr(result["stats"], name), value, name)
    for name in ("embeddings", "ref_embeddings", "weights"):
        if name in expected:
            value = torch.cat([result[name] for result in results])
            close(value, expected[name], 4e-3 if value.dtype == torch.bfloat16 else unit)


def close(value, expected, unit):
    assert value.dtype == expected.dtype and value.shape == expected.shape
    scale = float(expected.abs().nan_to_num(0, 0, 0).amax()) if expected.numel() else 0.0
    torch.testing.assert_close(value, expected, rtol=unit, atol=unit * scale, equal_nan=True)
