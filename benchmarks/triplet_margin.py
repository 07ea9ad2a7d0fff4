"""Forward plus backward of explicit triplets, verified and then timed in turn with PyTorch's ``triplet_margin_loss``.

All three inputs get their gradient. Run it as ``python -m benchmarks.triplet_margin``; see ``--help``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

import fasttriplet
from benchmarks.cases import OURS, positive, shape_name, size
from benchmarks.measure import add_out, in_turn, machine, publish, table
from fasttriplet import reference

DEFAULT_SIZES = ("64x128", "64x512", "4096x128", "4096x2048")
PYTORCH = "PyTorch"
#: PyTorch adds 1e-6 to every entry of a difference and computes in the inputs' dtype; a mean loss hardly moves.
LOSS_TOLERANCE = 1e-4
MEASURED_SECONDS = 0.02  # calls in a row that make one measurement take about as long


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=size, nargs="+", default=[size(text) for text in DEFAULT_SIZES], metavar="TxD")
    parser.add_argument("--rounds", type=positive, default=15, help="counted rounds of every size (default 15)")
    parser.add_argument("--dtype", default="float32", choices=("float64", "float32"))
    parser.add_argument("--swap", action="store_true", help="the negative at its distance from the nearer of the two")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    add_out(parser)
    return parser.parse_args()


def triplets(t: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    """Random unit vectors [t, d] as anchors, positives near them, and negatives."""
    generator = torch.Generator().manual_seed(0)
    anchor, noise, negative = torch.randn(3, t, d, generator=generator, dtype=dtype).unbind(0)
    rows = (anchor, anchor + noise, negative)
    return [functional.normalize(row, dim=1).requires_grad_() for row in rows]


def step(loss: Callable[..., Tensor], rows: list[Tensor], **arguments: object) -> Callable[[], None]:
    """Forward plus backward."""

    def run() -> None:
        for row in rows:
            row.grad = None
        loss(*rows, **arguments).backward()

    return run


def verify(rows: list[Tensor], **arguments: object) -> None:
    """Raises AssertionError unless loss and gradients are those of float64, and PyTorch computes the same loss."""
    wide = [row.detach().double().requires_grad_() for row in rows]
    expected = reference.triplet_margin_loss(*wide, **arguments)
    loss = fasttriplet.triplet_margin_loss(*rows, **arguments)
    resolution = torch.finfo(rows[0].dtype).eps
    torch.testing.assert_close(loss.double(), expected, rtol=2 * resolution + 1e-13, atol=0)
    for gradient, right in zip(torch.autograd.grad(loss, rows), torch.autograd.grad(expected, wide), strict=True):
        largest = right.abs().max().item()
        torch.testing.assert_close(gradient.double(), right, rtol=4 * resolution, atol=4 * resolution * largest)
    theirs = functional.triplet_margin_loss(*rows, **arguments).item()
    assert abs(theirs - expected.item()) <= LOSS_TOLERANCE * abs(expected.item()), f"PyTorch computes {theirs}"


def repeats_for(run: Callable[[], None]) -> int:
    run()
    start = time.perf_counter()
    run()
    return max(1, int(MEASURED_SECONDS / (time.perf_counter() - start)))


def row_of(t: int, d: int, arguments: argparse.Namespace) -> list[str]:
    rows = triplets(t, d, getattr(torch, arguments.dtype))
    verify(rows, margin=1.0, swap=arguments.swap)
    contenders = {
        OURS: step(fasttriplet.triplet_margin_loss, rows, margin=1.0, swap=arguments.swap),
        PYTORCH: step(functional.triplet_margin_loss, rows, margin=1.0, swap=arguments.swap),
    }
    timings = in_turn(contenders, arguments.rounds, repeats=repeats_for(contenders[PYTORCH]))
    ours, theirs = timings[OURS], timings[PYTORCH]
    return [shape_name(t, d), str(ours.milliseconds()), str(theirs.milliseconds()), str(ours.ratio(theirs))]


def main() -> None:
    arguments = options()
    torch.set_num_threads(arguments.threads)
    columns = ["T x D", f"{OURS}, ms", f"{PYTORCH}, ms", f"{OURS} / {PYTORCH}"]
    found = table(columns, [row_of(t, d, arguments) for t, d in arguments.sizes])
    about = f"{machine()}; {arguments.dtype}, swap={arguments.swap}; forward plus backward, median (lowest to highest)"
    publish("Explicit triplets on the CPU", "benchmarks.triplet_margin", [about, "", found], arguments.out)


if __name__ == "__main__":
    main()
