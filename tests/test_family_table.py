"""docs/family.md says what a run of every loss, distance and option shows; and the run would notice a fault."""

from __future__ import annotations

import pytest
import torch

import fasttriplet
from build_tools.docs import family as generator
from tests import engine

if engine.ENGINE != "cpu":
    pytest.skip(f"the page is about the CPU's kernels, not {engine.ENGINE}", allow_module_level=True)

BATCH_HARD = generator.family()[0]


@pytest.mark.slow
def test_the_page_is_what_a_run_renders():
    try:
        rendered = generator.page()
    except OSError as error:
        if "Permission" in str(error) or "Read-only" in str(error):
            pytest.skip("this kernel does not let a process reset its peak memory")
        raise
    assert generator.PAGE.read_text() == rendered, "python -m build_tools.docs.family writes it anew"


def test_everything_agrees():
    for member in generator.family():
        text = next(line for line in generator.PAGE.read_text().splitlines() if line.startswith(f"| {member.title} |"))
        assert "differs" not in text and "above" not in text, text


def test_a_wrong_loss_is_noticed(monkeypatch):
    right = fasttriplet.batch_hard_triplet_loss
    monkeypatch.setattr(fasttriplet, "batch_hard_triplet_loss", lambda *a, **k: right(*a, **k) * (1 + 1e-4))
    assert generator.cell(BATCH_HARD, "euclidean", generator.batch) == "differs"


def test_a_wrong_gradient_is_noticed(monkeypatch):
    def wrong(embeddings, labels, **keywords):
        loss = right(embeddings, labels, **keywords)
        return loss + (embeddings - embeddings.detach()).sum()  # adds zero, with a gradient

    right = fasttriplet.batch_hard_triplet_loss
    monkeypatch.setattr(fasttriplet, "batch_hard_triplet_loss", wrong)
    assert generator.cell(BATCH_HARD, "cosine", generator.batch) == "L"


def test_a_loss_that_cannot_be_differentiated_twice_is_noticed(monkeypatch):
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient.clone()

    right = fasttriplet.batch_hard_triplet_loss
    monkeypatch.setattr(
        fasttriplet, "batch_hard_triplet_loss", lambda embeddings, *a, **k: right(Once.apply(embeddings), *a, **k)
    )
    assert generator.cell(BATCH_HARD, "euclidean", generator.batch) == "LG"


def test_a_matrix_of_distances_is_noticed(monkeypatch):
    right = fasttriplet.batch_hard_triplet_loss

    def wasteful(embeddings, labels, **keywords):
        torch.ones(len(embeddings), len(embeddings))
        return right(embeddings, labels, **keywords)

    monkeypatch.setattr(fasttriplet, "batch_hard_triplet_loss", wasteful)
    try:
        assert generator.multiple_of_inputs(BATCH_HARD) > BATCH_HARD.limit
    except OSError as error:
        pytest.skip(f"this kernel does not let a process reset its peak memory: {error}")
