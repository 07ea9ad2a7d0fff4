"""Forward plus backward of every loss of the family, verified and then timed in turn with ``torch.mm``.

Verified: on a batch of 512 rows loss and gradient are those of ``fasttriplet.reference`` in float64; at the size that
is timed the loss of some anchors, against the whole batch as references, is that of the reference too. Run it as
``python -m benchmarks.family``; see ``--help``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor

import fasttriplet
from benchmarks.cases import MARGIN, YARDSTICK, batch, positive, shape_name, size, step
from benchmarks.measure import Spread, add_out, in_turn, machine, publish, table
from fasttriplet import reference

DEFAULT_SIZES = ("8192x128", "8192x512")
SMALL = (512, 64)  # of the batch that is verified whole
LOSSES: dict[str, tuple[str, dict[str, object]]] = {
    "batch-hard": ("batch_hard", {}),
    "semi-hard": ("semi_hard", {}),
    "semi-hard within the margin": ("semi_hard", {"within_margin": True, "otherwise": "skip"}),
    "easy positive": ("easy_positive", {}),
    "easy positive, semi-hard": ("easy_positive", {"negatives": "semi_hard"}),
    "4 hardest": ("k_hardest", {"k": 4}),
    "4 hardest but 1 %": ("k_hardest", {"k": 4, "skip_fraction": 0.01}),
    "batch-all": ("batch_all", {}),
    "batch-all, soft margin": ("batch_all", {"soft_margin": True}),
    "weighted": ("weighted", {}),
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=size, nargs="+", default=[size(text) for text in DEFAULT_SIZES], metavar="NxD")
    parser.add_argument("--samples-per-class", type=positive, default=4)
    parser.add_argument("--rounds", type=positive, default=7, help="counted rounds of every size (default 7)")
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES), metavar="LOSS")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    add_out(parser)
    return parser.parse_args()


def function_of(module: object, loss: str) -> Callable[..., Tensor]:
    name, chosen = LOSSES[loss]
    function = getattr(module, f"{name}_triplet_loss")
    return lambda rows, labels, **more: function(rows, labels, margin=MARGIN, **chosen, **more)


def verify(loss: str, samples_per_class: int, shape: tuple[int, int] = SMALL) -> None:
    """Raises AssertionError unless loss and gradient of a small batch are those of the reference in float64."""
    rows, labels = batch(*shape, samples_per_class)
    wide = rows.detach().double().requires_grad_()
    value, expected = function_of(fasttriplet, loss)(rows, labels), function_of(reference, loss)(wide, labels)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    (gradient,), (wanted,) = torch.autograd.grad(value, rows), torch.autograd.grad(expected, wide)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())


def verify_anchors(loss: str, rows: Tensor, labels: Tensor, count: int = 8) -> None:
    """The same of a few anchors of the batch that is timed, each against all of it."""
    anchors = torch.linspace(0, len(labels) - 1, count).long()
    everyone = rows.detach()
    found = [
        function_of(module, loss)(
            everyone.to(dtype)[anchors],
            labels[anchors],
            ref_embeddings=everyone.to(dtype),
            ref_labels=labels,
            self_indices=anchors,
            reduction="sum",
        ).double()
        for module, dtype in ((fasttriplet, rows.dtype), (reference, torch.float64))
    ]
    torch.testing.assert_close(*found, rtol=1e-5, atol=0)


def measure(n: int, d: int, choices: argparse.Namespace) -> list[list[str]]:
    rows, labels = batch(n, d, choices.samples_per_class)
    fixed = rows.detach()
    contenders: dict[str, Callable[[], object]] = {YARDSTICK: lambda: torch.mm(fixed, fixed.T)}
    for loss in choices.losses:
        verify_anchors(loss, rows, labels)
        contenders[loss] = step(function_of(fasttriplet, loss), rows, labels)
    timings = in_turn(contenders, choices.rounds)
    yardstick = timings.pop(YARDSTICK)
    mm = [shape_name(n, d), "torch.mm", str(Spread.of([1e3 * value for value in yardstick.seconds])), "1"]
    return [mm] + [
        [shape_name(n, d), loss, str(timing.milliseconds()), str(timing.ratio(yardstick))]
        for loss, timing in timings.items()
    ]


def main() -> None:
    choices = options()
    torch.set_num_threads(choices.threads)
    for loss in choices.losses:
        verify(loss, choices.samples_per_class)
    rows = [row for n, d in choices.sizes for row in measure(n, d, choices)]
    header = f"{machine()}, float32, euclidean, {choices.samples_per_class} samples a class"
    report = "\n\n".join(
        [
            f"{header}; forward plus backward, median (lowest to highest)",
            table(["N x D", "loss", "ms", "ratio to torch.mm"], rows),
        ]
    )
    publish("The family on the CPU", "benchmarks.family", [report], choices.out)


if __name__ == "__main__":
    main()
