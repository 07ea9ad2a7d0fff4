"""--compile: the network is traced whole, trains alike, and keeps its names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from examples.resnet50.trainer import Trainer

pytestmark = pytest.mark.usefixtures("tiny_network")


def test_the_network_is_compiled_whole_and_trains_alike(
    new_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
):
    """By a backend that counts graphs and runs them as they are: a compiler would take a minute."""
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    plain = new_trainer("--steps=2", "--loss=both")
    assert counter.frame_count == 0
    compiled = new_trainer("--steps=2", "--loss=both", "--compile")
    for run in (plain, compiled):
        run.run(lambda row: None)
    assert counter.frame_count == 1  # for both copies and both steps: the graph of one serves the other
    for row in (*plain.history, *compiled.history):
        del row["images_per_second"]
    assert plain.history == compiled.history
    assert plain.learners[0].state_dict()["model"].keys() == compiled.learners[0].state_dict()["model"].keys()
    compiled.evaluate(compiled.learners[0])
    assert counter.frame_count == 1


def test_one_graph_for_the_resting_body_and_one_for_all(
    new_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
):
    torch._dynamo.reset()
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter, fullgraph=True))
    arguments = ["--samples-per-class=24", "--epochs=4", "--freeze-epochs=2"]  # a step is an epoch
    run = new_trainer(*arguments, "--evaluate-every=1", "--compile")
    run.run(lambda row: None)
    assert counter.frame_count == 2 and len(run.best.evaluations) == 4  # which leave the network as it was compiled
