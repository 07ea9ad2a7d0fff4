"""sentence-transformers where it is installed, and a small model of words for it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from benchmarks.originals import sentence_transformers_module

WORDS = ["cat", "dog", "bird", "red", "green", "blue", "one", "two", "three"]
MISSING = "sentence-transformers is not installed (pip install 'fasttriplet[compat]')"


def original(name: str):
    """Its module ``losses`` or ``evaluation``; the tests of a file are skipped without it."""
    module = sentence_transformers_module(name)
    if module is None:
        pytest.skip(MISSING, allow_module_level=True)
    return module


class Given(torch.nn.Module):
    """A model whose embeddings are its features."""

    def forward(self, features):
        return {"sentence_embedding": features["rows"]}


def word_model():
    """A SentenceTransformer: the mean of the embeddings [8] of a sentence's words."""
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    torch.manual_seed(0)
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="cat"))
    tokenizer.pre_tokenizer = Whitespace()
    home = "modules" if find_spec("sentence_transformers.sentence_transformer") else "models"
    embedding = sentence_transformers_module(home).StaticEmbedding(tokenizer, embedding_dim=8)
    return SentenceTransformer(modules=[embedding], device="cpu")
