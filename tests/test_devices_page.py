"""docs/devices.md says what the package chooses and what a run shows; and the run would notice a fault."""

from __future__ import annotations

import pytest
import torch

from build_tools.docs import devices as generator
from build_tools.docs import serving
from build_tools.docs.family import batch, family, with_references
from fasttriplet import engines
from fasttriplet.portable import batch_all, edges, picks, walk
from tests import engine

if engine.ENGINE != "cpu":
    pytest.skip(f"the page is about both engines, not {engine.ENGINE} alone", allow_module_level=True)

MEMBERS = {member.title: member for member in family()}


def test_the_page_is_what_a_run_renders():
    assert generator.PAGE.read_text() == generator.page(), "python -m build_tools.docs.devices writes it anew"


def test_everything_agrees():
    assert "differs" not in generator.PAGE.read_text()


def test_the_page_is_the_same_wherever_it_is_made(monkeypatch):
    """Of a machine with a GPU and CUDA's library, of ROCm, and of one where an engine is forced."""
    monkeypatch.setattr(engines, "forced", True)
    forced = generator.devices_table(family())
    monkeypatch.setattr(engines, "forced", False)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(engines._library, "cuda_absence", None)
    assert generator.devices_table(family()) == forced
    assert forced in generator.PAGE.read_text()


def test_a_kernel_that_is_taken_away_is_noticed(monkeypatch):
    member = MEMBERS["batch-hard"]
    calls = generator.loss_calls(member, batch)
    assert {call.name for call in calls} == {"batch_hard_loss", "_batch_hard_loss_backward"}
    assert serving.word(calls, serving.CUDA) == "kernels"
    fewer = {name: uses for name, uses in engines.CUDA_KERNELS.items() if name != "_batch_hard_loss_backward"}
    monkeypatch.setattr(engines, "CUDA_KERNELS", fewer)
    assert serving.word(calls, serving.CUDA) == "both"
    monkeypatch.setattr(engines, "CUDA_KERNELS", {})
    assert serving.word(calls, serving.CUDA) == "portable"
    assert "| kernel |" not in generator.operators_table()


def test_what_a_kernel_serves_is_noticed(monkeypatch):
    calls = generator.loss_calls(MEMBERS["easy positive, semi-hard negative"], with_references)
    first = calls[0]
    assert first.name == "mine_triplets"
    assert {"ref_embeddings", "the miner easy_positive_semi_hard"} <= set(first.uses)
    for served, name in ((first.uses, "cuda"), (first.uses[1:], "portable"), ((), "portable")):
        monkeypatch.setattr(engines, "CUDA_KERNELS", {"mine_triplets": frozenset(served)})
        assert serving.engine_of(first, serving.CUDA).name == name
    monkeypatch.setattr(
        engines, "CUDA_KERNELS", {"mine_triplets": frozenset({"groups", "the miner easy_positive_semi_hard"})}
    )
    assert (
        "| `mine_triplets` | kernel | the miner batch_hard, `groups`, the miner easy_positive_semi_hard |"
        in generator.operators_table()
    )


@pytest.mark.parametrize("title", ["batch-hard", "semi-hard"])
def test_other_bits_of_a_distance_are_noticed(title, monkeypatch):
    right = picks.scores_of

    def wrong(*arguments):
        scores = right(*arguments)
        return torch.nextafter(scores, scores + 1)

    monkeypatch.setattr(picks, "scores_of", wrong)
    assert generator.cell(MEMBERS[title], "euclidean", batch) == "differs"


def test_another_pair_is_noticed(monkeypatch):
    right = picks.Picker.pick

    def wrong(self, questions, count, columns, scores, keys):
        return right(self, questions, count, columns.flip(0), scores.flip(0), keys.flip(0))

    monkeypatch.setattr(picks.Picker, "pick", wrong)
    assert generator.cell(MEMBERS["k hardest negatives, k = 4"], "euclidean", batch) == "differs"


def test_a_count_that_is_one_off_is_noticed(monkeypatch):
    right = batch_all._triplets

    def wrong(*arguments):
        found = right(*arguments)
        return found._replace(counts=found.counts + 1)

    monkeypatch.setattr(batch_all, "_triplets", wrong)
    assert generator.cell(MEMBERS["batch-all"], "euclidean", batch) == "differs"


def test_a_gradient_of_float32_quality_is_noticed(monkeypatch):
    right = edges.edge_weights
    monkeypatch.setattr(walk, "edge_weights", lambda *arguments: right(*arguments).float().double())
    assert generator.cell(MEMBERS["weighted"], "euclidean", batch) == "differs"
