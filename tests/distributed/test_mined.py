"""Mined losses and miners of several processes: to the bit what one process with the whole batch has."""

from functools import partial

import pytest
import torch

from tests.distributed.cases import LONG, RANKS, cases, of_one_process, of_rank
from tests.distributed.ranks import whole_results


def cases_of(ranks):
    return cases(seed=ranks, dense=False, share=1.0 if LONG else 0.2)


def work(ranks):
    return {case.title: partial(of_rank, case, ranks) for case in cases_of(ranks)}


@pytest.mark.parametrize(
    ("ranks", "case"),
    [pytest.param(ranks, case, id=f"{ranks}-{case.title}") for ranks in RANKS for case in cases_of(ranks)],
)
def test_all_is_as_in_one_process(ranks, case, found):
    results, expected = whole_results(found(ranks)[case.title]), of_one_process(case, ranks)
    if expected["loss"].dim() == 0:
        for result in results:
            same(result["loss"], expected["loss"], "loss")
    else:
        same(torch.cat([result["loss"] for result in results]), expected["loss"], "loss")
    if expected["stats"] is not None:
        for result in results:
            for name, value in expected["stats"]._asdict().items():
                same(getattr(result["stats"], name), value, name)
    for name in ("embeddings", "ref_embeddings", "weights"):
        if name in expected:
            same(torch.cat([result[name] for result in results]), expected[name], name)
    for name, value in expected["mined"].items():
        same(torch.cat([result["mined"][name] for result in results]), value, name)


def same(value, expected, name):
    """To the bit: NaN is NaN, and -0.0 another number than 0.0."""
    assert value.dtype == expected.dtype and value.shape == expected.shape, (name, value, expected)
    if value.is_floating_point():
        bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[value.element_size()]
        nan = value.isnan() & expected.isnan()
        value, expected = (torch.where(nan, 0, each).view(bits) for each in (value, expected))
    differs = (value != expected).nonzero()
    assert len(differs) == 0, f"{name} differs in {len(differs)} places, the first at {differs[0].tolist()}"
