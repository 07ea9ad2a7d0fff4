"""Two instruction sets of the host's processor, bit for bit: ``python -m benchmarks.gpu.tiers amx avx2``.

A machine with a GPU often has a processor with units that multiply matrices, which few others do. A tier is chosen
when the library is loaded, so each answers in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import fasttriplet
from benchmarks.gpu import LEFT_OUT
from benchmarks.gpu.answers import CASES, TRIAL, Answer, answer
from fasttriplet.check import DISTANCES

_CHILD = "from benchmarks.gpu import tiers; import sys; tiers.save(sys.argv[1], sys.argv[2] == 'small')"


def save(path: str, small: bool) -> None:
    """The answers of this process, in the order of the cases and distances."""
    found = []
    for case in TRIAL if small else CASES:
        rows, labels = case.batch()
        for code in range(len(DISTANCES)):
            found.append(tuple(answer(torch.ops.fasttriplet, rows, labels, code)))
    torch.save(found, path)


def answers_of(tier: str, folder: Path, small: bool) -> list[Answer]:
    path = folder / f"{tier}.pt"
    command = [sys.executable, "-c", _CHILD, str(path), "small" if small else "all"]
    subprocess.run(command, env=os.environ | {"FASTTRIPLET_ISA": tier}, check=True)
    return [Answer(*tensors) for tensors in torch.load(path)]


def compare(first: str, second: str, small: bool) -> int:
    """How many cases differ; each is printed."""
    with tempfile.TemporaryDirectory() as folder:
        found = answers_of(first, Path(folder), small)
        expected = answers_of(second, Path(folder), small)
    names = [f"{case}, {distance}" for case in (TRIAL if small else CASES) for distance in DISTANCES]
    failed = 0
    for name, ours, theirs in zip(names, found, expected, strict=True):
        differing = [
            field
            for field, a, b in zip(Answer._fields, ours, theirs, strict=True)
            if not torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
        ]
        failed += bool(differing)
        verdict = f"FAILED: {', '.join(differing)} differ" if differing else "the same bits"
        print(f"{first} and {second}, {name}: {verdict}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--small", action="store_true", help="the few cases that the trial without a GPU has")
    arguments = parser.parse_args()
    available = str(fasttriplet.build_info()["tiers_available"]).split(",")
    for tier in (arguments.first, arguments.second):
        if tier not in available:
            print(f"this processor has no {tier}, only {', '.join(available)}")
            return LEFT_OUT
    return 1 if compare(arguments.first, arguments.second, arguments.small) else 0


if __name__ == "__main__":
    raise SystemExit(main())
