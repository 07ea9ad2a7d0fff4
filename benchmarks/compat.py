"""The drop-ins of ``fasttriplet.compat`` beside their originals: forward plus backward, verified, then timed in turn.

A pair is verified by its value and its gradient on the batch that is timed. An original that makes an [N, N, N] array
takes part up to N = 512, as one does that lists all triplets. Those of TensorFlow Addons, torchreid and fast-reid are
their formulas (``benchmarks.published``). Run it as ``python -m benchmarks.compat``; see ``--help``.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import originals, published
from benchmarks.cases import LOSS_TOLERANCE, MARGIN, batch, positive, shape_name, size, step
from benchmarks.measure import add_out, in_turn, machine, publish, table
from fasttriplet.compat import fastreid, pml, sentence_transformers, tfa, torchreid

DEFAULT_SIZES = ("256x128", "512x128", "1024x128", "2048x128")
#: Above it an original with an [N, N, N] array does not take part.
CUBIC_LIMIT = 512
#: Of the norm of the gradient: float32 picks other partners in near ties, and each moves two rows' share of it.
GRADIENT_TOLERANCE = 0.05

Loss = Callable[[Tensor, Tensor], Tensor]


class Pair(NamedTuple):
    """A drop-in and its original."""

    name: str
    ours: Loss
    original: Loss
    cubic: bool = False


class _Given(torch.nn.Module):
    """A model whose embeddings are its features."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["rows"]}


def _of_features(loss: torch.nn.Module) -> Loss:
    return lambda rows, labels: loss([{"rows": rows}], labels)


def _pml_pairs() -> Iterator[Pair]:
    library = originals.pytorch_metric_learning()
    if library is None:
        return
    mined = []
    for miner, loss in ((pml.BatchHardMiner(), pml), (library.miners.BatchHardMiner(), library.losses)):
        module = loss.TripletMarginLoss(margin=MARGIN)
        mined.append(lambda rows, labels, m=miner, f=module: f(rows, labels, m(rows, labels)))
    yield Pair("pytorch-metric-learning BatchHardMiner + TripletMarginLoss", *mined)
    everything = [module.TripletMarginLoss(margin=MARGIN) for module in (pml, library.losses)]
    yield Pair("pytorch-metric-learning TripletMarginLoss, all triplets", *everything, cubic=True)


def _sentence_transformers_pairs() -> Iterator[Pair]:
    library = originals.sentence_transformers_module("losses")
    if library is None:
        return
    cubic_once = originals.version("sentence-transformers") < (6, 2)
    for name, options, cubic in (
        ("BatchHardTripletLoss", {"margin": MARGIN}, False),
        ("BatchHardSoftMarginTripletLoss", {}, False),
        ("BatchSemiHardTripletLoss", {"margin": MARGIN}, cubic_once),
        ("BatchAllTripletLoss", {"margin": MARGIN}, cubic_once),
    ):
        both = [_of_features(getattr(module, name)(_Given(), **options)) for module in (sentence_transformers, library)]
        yield Pair(f"sentence-transformers {name}", *both, cubic=cubic)


def _published_pairs() -> Iterator[Pair]:
    yield Pair(
        "TensorFlow Addons TripletHardLoss, formula in PyTorch",
        lambda rows, labels: tfa.triplet_hard_loss(labels, rows, MARGIN),
        lambda rows, labels: published.tfa_hard(labels, rows, MARGIN, False, "L2"),
    )
    yield Pair(
        "TensorFlow Addons TripletSemiHardLoss, formula in PyTorch",
        lambda rows, labels: tfa.triplet_semihard_loss(labels, rows, MARGIN),
        lambda rows, labels: published.tfa_semihard(labels, rows, MARGIN, "L2"),
        cubic=True,
    )
    yield Pair(
        "torchreid TripletLoss, formula",
        torchreid.TripletLoss(MARGIN),
        lambda rows, labels: published.torchreid(rows, labels, MARGIN),
    )
    for mining, hard_mining in (("hard", True), ("weighted", False)):
        yield Pair(
            f"fast-reid triplet_loss, {mining} mining, formula",
            lambda rows, labels, hard=hard_mining: fastreid.triplet_loss(rows, labels, MARGIN, False, hard),
            lambda rows, labels, hard=hard_mining: published.fastreid(rows, labels, MARGIN, False, hard),
        )


def pairs() -> list[Pair]:
    """All whose original is here."""
    return [*_pml_pairs(), *_sentence_transformers_pairs(), *_published_pairs()]


def result_of(loss: Callable[..., Tensor], *inputs: Tensor) -> tuple[float, Tensor]:
    """Its value, and the gradient of those inputs that want one, as one vector."""
    fresh = [each.detach().clone().requires_grad_(each.requires_grad) for each in inputs]
    value = loss(*fresh)
    value.backward()
    return value.item(), torch.cat([leaf.grad.flatten() for leaf in fresh if leaf.requires_grad])


def compare(
    name: str,
    ours: tuple[float, Tensor],
    original: tuple[float, Tensor],
    of_value: float = LOSS_TOLERANCE,
    of_gradient: float = GRADIENT_TOLERANCE,
) -> None:
    """Raises AssertionError unless value and gradient are the original's within these shares of it."""
    apart = abs(ours[0] - original[0])
    assert apart <= of_value * abs(original[0]), f"{name}: {ours[0]}, and its original {original[0]}"
    error = ((ours[1] - original[1]).norm() / original[1].norm()).item()
    assert error <= of_gradient, f"{name}: the gradients differ by {error:.2g} of their norm"


def verify(pair: Pair, rows: Tensor, labels: Tensor) -> None:
    """Raises AssertionError unless value and gradient are the original's."""
    compare(pair.name, result_of(pair.ours, rows, labels), result_of(pair.original, rows, labels))


def cells(pair: Pair, n: int, d: int, rounds: int, samples_per_class: int) -> list[str]:
    """A row of the table."""
    rows, labels = batch(n, d, samples_per_class)
    contenders = {"ours": step(pair.ours, rows, labels)}
    if not pair.cubic or n <= CUBIC_LIMIT:
        verify(pair, rows, labels)
        contenders["original"] = step(pair.original, rows, labels)
    measured = in_turn(contenders, rounds)
    found = [pair.name, shape_name(n, d), str(measured["ours"].milliseconds())]
    if "original" not in measured:
        return [*found, "not run", "not run"]
    original = measured["original"]
    return [*found, str(original.milliseconds()), str(original.ratio(measured["ours"]))]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=size, nargs="+", default=[size(text) for text in DEFAULT_SIZES], metavar="NxD")
    parser.add_argument("--rounds", type=positive, default=7, help="counted rounds of every size (default 7)")
    parser.add_argument("--samples-per-class", type=positive, default=4)
    parser.add_argument("--only", default="", metavar="TEXT", help="pairs whose name has this in it")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    add_out(parser)
    return parser.parse_args()


def report(arguments: argparse.Namespace) -> Iterator[str]:
    """Line by line: a size may take a minute."""
    yield (
        f"{datetime.date.today()}. Originals: {originals.versions()}; those of TensorFlow Addons, torchreid and "
        "fast-reid are their formulas."
    )
    yield ""
    yield (
        f"{machine()}; float32, margin {MARGIN}, {arguments.samples_per_class} samples per class; forward plus "
        f"backward, median (lowest to highest). An original that makes an array of N x N x N numbers, or lists all "
        f"triplets, takes part up to N = {CUBIC_LIMIT}."
    )
    yield ""
    columns = ["drop-in for", "N x D", "fasttriplet ms", "original ms", "original / fasttriplet"]
    yield table(columns, [])
    for pair in pairs():
        if arguments.only in pair.name:
            for n, d in arguments.sizes:
                found = cells(pair, n, d, arguments.rounds, arguments.samples_per_class)
                yield table(columns, [found]).splitlines()[-1]


def main() -> None:
    arguments = options()
    torch.set_num_threads(arguments.threads)
    publish("Drop-ins beside their originals", "benchmarks.compat", report(arguments), arguments.out)


if __name__ == "__main__":
    main()
