"""Prints how many MiB one forward and backward add to a fresh process at its peak, inputs not counted.

``python -m benchmarks.peak_memory NxD [--loss LOSS | --contender NAME]``; the gradient, N * D * 4 bytes, is part of
what is added. Linux only: the kernel keeps the peak and can start it anew.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fasttriplet
from benchmarks import family, peers
from benchmarks.cases import OURS, batch, positive, shape_name, size, step

BATCH_HARD = "batch-hard"  # of the losses of the family the one that peers compute


def peak_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def added_by(run: Callable[[], object]) -> float:
    """MiB that the process grows by at its peak while ``run`` runs."""
    ctypes.CDLL(None).malloc_trim(0)  # what making the batch has freed must not be there to be used again
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_mib()
    run()
    return peak_mib() - before


def added_mib(n: int, d: int, samples_per_class: int, contender: str = OURS, loss_name: str = BATCH_HARD) -> float:
    ours = family.function_of(fasttriplet, loss_name)
    loss = ours if contender == OURS else peers.available()[contender]()
    step(loss, *batch(16, d, 4))()  # the libraries are up
    return added_by(step(loss, *batch(n, d, samples_per_class)))


def added_mib_of_fresh_process(
    n: int, d: int, samples_per_class: int, contender: str = OURS, loss_name: str = BATCH_HARD
) -> float | None:
    arguments = [
        f"{n}x{d}",
        "--contender",
        contender,
        "--loss",
        loss_name,
        "--samples-per-class",
        str(samples_per_class),
    ]
    return told_by_fresh_process("benchmarks.peak_memory", arguments, f"{contender}, {loss_name}, {shape_name(n, d)}")


def told_by_fresh_process(module: str, arguments: list[str], of: str) -> float | None:
    """What ``module`` prints in a process of its own, since memory pools of this one would hide it; None where that
    cannot be measured."""
    run = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    if run.returncode != 0:
        print(f"no peak of {of}: {run.stderr.strip()[-200:]}", file=sys.stderr)
        return None
    return float(run.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", type=size, metavar="NxD")
    parser.add_argument("--samples-per-class", type=positive, default=4)
    parser.add_argument("--contender", default=OURS, choices=(OURS, *peers.available()))
    parser.add_argument("--loss", default=BATCH_HARD, choices=list(family.LOSSES), metavar="LOSS", help="of ours")
    arguments = parser.parse_args()
    if arguments.contender != OURS and arguments.loss != BATCH_HARD:
        parser.error(f"--loss: the contender {arguments.contender} computes {BATCH_HARD} alone; got {arguments.loss!r}")
    print(f"{added_mib(*arguments.size, arguments.samples_per_class, arguments.contender, arguments.loss):.1f}")


if __name__ == "__main__":
    main()
