"""Forward plus backward of the batch-hard loss, verified and then timed in turn with ``torch.mm(X, X.T)``.

The yardstick is the one matrix product that other implementations start with, float32, of the same batch. Run it with
``make bench`` or ``python -m benchmarks.bench_loss``; see ``--help``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor

import fasttriplet
from benchmarks import peers
from benchmarks.measure import in_turn, machine
from fasttriplet import reference
from fasttriplet.check import DISTANCES

DEFAULT_SIZES = ("256x128", "1024x128", "8192x128", "8192x512", "32768x128")


def size(text: str) -> tuple[int, int]:
    try:
        n, d = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size must be NxD, two integers; got {text!r}") from None
    if n < 1 or d < 1:
        raise argparse.ArgumentTypeError(f"a size must be positive; got {text!r}")
    return n, d


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in ("gather", "pytorch-metric-learning") if name in peers.available()]
    parser.add_argument("--sizes", type=size, nargs="+", default=[size(text) for text in DEFAULT_SIZES], metavar="NxD")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds of every size (default 7)")
    parser.add_argument("--samples-per-class", type=int, default=4)
    parser.add_argument("--distance", default="euclidean", choices=DISTANCES)
    parser.add_argument("--dtype", default="float32", choices=("float64", "float32", "float16", "bfloat16"))
    parser.add_argument("--reference-limit", type=int, default=8192, help="largest N of the reference and the peers")
    parser.add_argument("--peers", nargs="*", default=usual, choices=list(peers.available()), help=f"default: {usual}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def batch(n: int, d: int, samples_per_class: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Random unit vectors, as an embedding network gives them, and shuffled labels."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1).to(dtype)
    labels = (torch.arange(n) // samples_per_class)[torch.randperm(n, generator=generator)]
    return rows.requires_grad_(), labels


def verify(rows: Tensor, labels: Tensor, distance: str) -> str:
    """Raises AssertionError unless a sample of anchors is mined as float64 does; says what was compared."""
    mined = fasttriplet.mine_batch_hard(rows, labels, distance=distance)
    n = len(labels)
    if n <= 2048:
        expected = reference.mine_batch_hard(rows.detach().double(), labels, distance=distance)
        assert torch.equal(mined.positives, expected.positives) and torch.equal(mined.negatives, expected.negatives)
        return f"all {n} anchors"
    wide = rows.detach().double()
    anchors = torch.linspace(0, n - 1, 256).long().unique()
    for anchor in anchors.tolist():
        # The reference on one anchor against all: row `anchor` of its distance matrix.
        pairs = torch.full((n,), anchor), torch.arange(n)
        distances = reference.paired_distances(wide, *pairs, distance)
        same = labels == labels[anchor]
        nearest = -1 if same.all() else torch.where(same, torch.inf, distances).argmin()
        assert mined.negatives[anchor] == nearest
        same[anchor] = False
        farthest = torch.where(same, distances, -torch.inf).argmax() if same.any() else torch.tensor(-1)
        assert mined.positives[anchor] == farthest
    return f"{len(anchors)} anchors"


def step(function: Callable[..., Tensor], rows: Tensor, labels: Tensor, distance: str) -> Callable[[], None]:
    def run() -> None:
        rows.grad = None
        function(rows, labels, distance=distance).backward()

    return run


def peer_step(peer: peers.Peer, rows: Tensor, labels: Tensor) -> Callable[[], None]:
    return step(lambda rows, labels, distance: peer(rows, labels), rows, labels, "euclidean")


def added_mib(n: int, d: int, samples_per_class: int) -> str:
    """Of float32 rows and euclidean distances, in a process of its own: this one's memory pools would hide it."""
    command = [sys.executable, "-m", "benchmarks.peak_memory", str(n), str(d), str(samples_per_class)]
    run = subprocess.run(command, capture_output=True, text=True)
    return run.stdout.strip() if run.returncode == 0 else "unknown"


def main() -> None:
    arguments = options()
    torch.set_num_threads(arguments.threads)
    print(f"{machine()}, tier {fasttriplet.build_info()['tier']}")
    print(
        f"forward + backward, {arguments.dtype}, {arguments.distance}, {arguments.samples_per_class} per class, "
        f"{arguments.rounds} rounds in turn; median (lowest to highest)\n"
    )
    named = [*arguments.peers, "reference"]
    columns = ["N x D", "verified", "mm ms", "fasttriplet ms", "fasttriplet / mm", *(f"{name} / mm" for name in named)]
    columns.append("added peak MiB")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for n, d in arguments.sizes:
        rows, labels = batch(n, d, arguments.samples_per_class, getattr(torch, arguments.dtype))
        verified = verify(rows, labels, arguments.distance)
        plain = rows.detach().float()
        contenders: dict[str, Callable[[], object]] = {
            "mm": lambda plain=plain: torch.mm(plain, plain.T),
            "fused": step(fasttriplet.batch_hard_triplet_loss, rows, labels, arguments.distance),
        }
        if n <= arguments.reference_limit:
            contenders |= {name: peer_step(peers.available()[name], rows, labels) for name in arguments.peers}
            contenders["reference"] = step(reference.batch_hard_triplet_loss, rows, labels, arguments.distance)
        timings = in_turn(contenders, arguments.rounds)
        cells = (
            f"{n} x {d}",
            verified,
            timings["mm"].milliseconds(),
            timings["fused"].milliseconds(),
            timings["fused"].ratio(timings["mm"]),
            *(timings[name].ratio(timings["mm"]) if name in timings else "not run" for name in named),
            added_mib(n, d, arguments.samples_per_class),
        )
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
