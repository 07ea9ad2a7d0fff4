"""``build_info`` and ``python -m fasttriplet``."""

from __future__ import annotations

import os
import subprocess
import sys

import torch

import fasttriplet
from fasttriplet.info import format_info

KEYS = [
    "fasttriplet",
    "torch",
    "python",
    "torch_cuda",
    "platform",
    "compiler",
    "cxx_standard",
    "tiers",
    "tiers_available",
    "tier",
    "FASTTRIPLET_ISA",
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
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(fasttriplet.build_info())


def test_every_available_tier_can_be_forced():
    for tier in fasttriplet.build_info()["tiers_available"].split(","):
        lines = run_module(FASTTRIPLET_ISA=tier).stdout.splitlines()
        assert ["tier", tier] in [line.split() for line in lines]
        assert ["FASTTRIPLET_ISA", tier] in [line.split() for line in lines]


def test_unknown_tier_is_one_line_naming_those_available():
    result = run_module(FASTTRIPLET_ISA="abacus")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: FASTTRIPLET_ISA must be one of")
    assert line.endswith("got 'abacus'")


def test_format_shows_none_as_a_dash():
    assert format_info({"a": None, "long": 1}) == "a     -\nlong  1"
