"""``build_info`` and ``python -m fasttriplet``."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch

import fasttriplet
from fasttriplet import _library, engines
from fasttriplet.info import engine_table, format_engines, format_info
from fasttriplet.portable.operators import OPERATORS

KEYS = [
    "fasttriplet",
    "torch",
    "python",
    "torch_cuda",
    "platform",
    "cpu_library",
    "cpu_library_absence",
    "compiler",
    "cxx_standard",
    "tiers",
    "tiers_available",
    "tier",
    "FASTTRIPLET_ISA",
    "FASTTRIPLET_ENGINE",
    "FASTTRIPLET_FALLBACK",
    "threads",
    "cuda_library",
    "cuda_library_absence",
    "cuda_runtime",
    "cuda_driver",
]


def run_module(**environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fasttriplet"]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True)


def test_keys_are_the_documented_ones():
    info = fasttriplet.build_info()
    assert list(info)[: len(KEYS)] == KEYS
    for key in info:
        assert f"``{key}``" in fasttriplet.build_info.__doc__, key


def test_facts():
    info = fasttriplet.build_info()
    assert info["fasttriplet"] == fasttriplet.__version__
    assert info["torch"] == torch.__version__
    assert info["threads"] == torch.get_num_threads()
    assert info["compiler"]
    assert set(info["tiers_available"].split(",")) <= set(info["tiers"].split(","))
    assert info["tier"] in info["tiers_available"].split(",")
    assert info["cuda_library"] is (info["cuda_library_absence"] is None)
    if torch.version.cuda is None:
        assert info["cuda_library"] is False


def test_module_prints_every_fact_in_a_line():
    result = run_module()
    assert result.returncode == 0, result.stderr
    facts, _, _ = result.stdout.partition("\n\n")
    assert [line.split()[0] for line in facts.splitlines()] == list(fasttriplet.build_info())


def test_module_lists_which_engine_serves_what_where_and_why():
    result = run_module()
    _, table, notes = result.stdout.split("\n\n")
    header, *rows = (re.split(r" {2,}", line) for line in table.splitlines())
    assert [name.removesuffix(" *") for name in header][:5] == ["operator", "cpu", "cuda", "mps", "xpu"]
    assert [row[0] for row in rows] == [name for name in OPERATORS if not name.startswith("_")]
    for row in rows:
        assert len(row) == len(header)
        assert row[1] == "cpu"
        assert row[3].startswith("cpu and back [")
    numbers = [int(number) for number in re.findall(r"^\[(\d+)\] \S", notes, re.MULTILINE)]
    assert numbers == sorted({int(number) for number in re.findall(r"\[(\d+)\]", table)}) != []
    assert "] mps has no float64" in notes
    assert notes.endswith("* no such device here\n")


def test_table_tells_what_a_cuda_kernel_serves(monkeypatch):
    monkeypatch.setattr(_library, "cuda_absence", None)
    monkeypatch.setitem(engines.CUDA_KERNELS, "mine_triplets", frozenset({"ref_embeddings", "groups"}))
    table = engine_table()
    assert table["cuda"]["batch_hard_loss"] == table["cuda"]["mine_triplets"] == engines.Engine("cuda", "")
    text = format_engines(table)
    assert re.search(r"^batch_hard_loss +cpu +cuda  ", text, re.MULTILINE)
    assert re.search(r"^mine_triplets +cpu +cuda \[\d\]  ", text, re.MULTILINE)
    assert "calls that use nothing but labels [N], groups, ref_embeddings; others by the portable engine" in text


def test_table_has_a_gpu_that_differs_from_the_first(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    monkeypatch.setattr(engines, "_cuda_absence", lambda index: "old" if index == 2 else None)
    table = engine_table()
    assert list(table) == ["cpu", "cuda", "cuda:2", "mps", "xpu"]
    assert table["cuda:2"]["batch_hard_loss"] == engines.Engine("portable", "old")
    header = format_engines(table).splitlines()[0]
    assert "mps *" in header and "cuda *" not in header and "cuda:2 *" not in header


def test_every_available_tier_can_be_forced():
    for tier in fasttriplet.build_info()["tiers_available"].split(","):
        lines = run_module(FASTTRIPLET_ISA=tier).stdout.splitlines()
        assert ["tier", tier] in [line.split() for line in lines]
        assert ["FASTTRIPLET_ISA", tier] in [line.split() for line in lines]


_SCORED = """
import torch, fasttriplet
torch.set_num_threads(1)
for n in (500, 520):
    rows = torch.randn(n, 64, generator=torch.Generator().manual_seed(0))
    print(int(torch.ops.fasttriplet._mine_batch_hard_profile(rows, torch.arange(n) // 4, 0)[1][1]))
"""


@pytest.mark.skipif(
    "avx512vnni" not in fasttriplet.build_info()["tiers_available"].split(","), reason="no AVX-512 VNNI"
)
def test_a_tier_that_is_named_screens_few_rows_too():
    """By what is scored, of which int8 leaves more."""

    def scored(tier):
        environment = {key: value for key, value in os.environ.items() if key != "FASTTRIPLET_ISA"}
        environment |= {"FASTTRIPLET_ISA": tier} if tier else {}
        told = subprocess.run([sys.executable, "-c", _SCORED], capture_output=True, text=True, env=environment)
        assert told.returncode == 0, told.stderr
        return [int(line) for line in told.stdout.split()]

    int8, int16, own = scored("avx512vnni"), scored("avx512int16"), scored(None)
    assert all(more > fewer for more, fewer in zip(int8, int16, strict=True))
    if "amx" not in fasttriplet.build_info()["tiers_available"].split(","):
        assert own == [int16[0], int8[1]]


def test_unknown_tier_is_one_line_naming_those_available():
    result = run_module(FASTTRIPLET_ISA="abacus")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: FASTTRIPLET_ISA must be one of")
    assert line.endswith("got 'abacus'")


def test_format_shows_none_as_a_dash():
    assert format_info({"a": None, "long": 1}) == "a     -\nlong  1"
