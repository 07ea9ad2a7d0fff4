"""What a faster loss brings to a whole training step: the loss, ours and others', beside an encoder.

Verified, then timed: the loss by itself, in turn with the others'; within steps of an encoder, where all losses are
taken of the same embeddings; of a batch against a memory of past embeddings. Then what each adds to a fresh process at
its peak, and how wrong each is far from the origin. The others are those of ``benchmarks/peers.py``. Verified: at each
size some anchors' loss is that of ``fasttriplet.reference`` in float64, and every other's loss is ours. Run it as
``python -m benchmarks.worth``; see ``--help``.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

import fasttriplet
from benchmarks import family, originals, peers
from benchmarks.cases import LOSS_TOLERANCE, MARGIN, OURS, batch, positive, shape_name, step, verify_peer
from benchmarks.measure import Timing, add_out, in_turn, machine, mib, publish, table
from benchmarks.peak_memory import added_mib_of_fresh_process
from examples.resnet50.vision import load_torchvision
from fasttriplet import reference

#: Of ``peers``: what people use, and ``gather``, the best that is written in a few lines of plain PyTorch.
OTHERS = ("pytorch-metric-learning", "sentence-transformers", "masks", "gather")
PER_CLASS = 4
#: A measurement of a small batch is as many calls in a row as make this many rows.
ROWS_IN_A_ROW = 256
#: Kept features that a head is trained on.
FEATURES = 2048
#: What is added to a batch that is not timed: far from the origin others' losses are wrong.
OFFSET_SHAPE = (512, 128)
OFFSETS = (0, 10, 100, 1000, 10000)

Loss = Callable[..., Tensor]


class Encoder(NamedTuple):
    """A network with ``inputs`` of one sample; one of ``"resnet18"``, ``"resnet50"``, ``"head"``."""

    network: str
    inputs: tuple[int, ...]

    @property
    def title(self) -> str:
        if self.network == "head":
            return f"linear head on {self.inputs[0]} kept features"
        return f"{self.network.replace('resnet', 'ResNet-')}, {self.inputs[1]} x {self.inputs[2]}"


class Plan(NamedTuple):
    """What is measured; embeddings have ``dim`` numbers where a table does not say otherwise."""

    sizes: tuple[int, ...]
    dims: tuple[int, ...]
    steps: tuple[tuple[Encoder, int], ...]  # with the rows of a batch
    memories: tuple[int, ...]  # rows of one
    peaks: tuple[int, ...]  # rows of a batch whose memory is measured
    dim: int
    rounds: int
    seconds: float  # of encoders that take longer than a second a step


HEAD = Encoder("head", (FEATURES,))
RESNET18, RESNET50 = (Encoder(name, (3, 224, 224)) for name in ("resnet18", "resnet50"))
FULL = Plan(
    sizes=(32, 64, 128, 256, 512, 1024, 2048, 4096),
    dims=(128, 512, 2048),
    steps=(
        *((HEAD, n) for n in (64, 256, 1024, 4096)),
        *((RESNET18, n) for n in (32, 64)),
        *((RESNET50, n) for n in (32, 64)),
        *((each, 128) for each in (RESNET18, RESNET50)),  # the longest come last, as long as there is time
    ),
    memories=(16384, 65536),
    peaks=(4096, 8192),
    dim=128,
    rounds=3,
    seconds=150,
)
QUICK = Plan(
    sizes=(32, 64),
    dims=(8,),
    steps=((HEAD, 32), (Encoder("resnet18", (3, 32, 32)), 8)),
    memories=(256,),
    peaks=(256,),
    dim=8,
    rounds=1,
    seconds=1,
)


def losses() -> dict[str, Loss]:
    """Ours first, then the others' that are installed."""
    known = peers.available()
    return {OURS: fasttriplet.batch_hard_triplet_loss} | {name: known[name]() for name in OTHERS if name in known}


def ms(value: float) -> str:
    return f"{value:.{1 if value >= 10 else 2}f} ms"


def beside_ours(timings: Mapping[str, Timing]) -> list[str]:
    """Of ours the milliseconds with their spread; of the others those and the multiple of ours."""
    cells = [str(timings[OURS].milliseconds())]
    for name, timing in timings.items():
        if name != OURS:
            multiple = str(timing.ratio(timings[OURS])).replace(" (", " times (")
            cells.append(f"{ms(timing.milliseconds().median)}, {multiple}")
    return cells


# The loss by itself.


def loss_lines(plan: Plan) -> Iterator[str]:
    yield "## The loss by itself"
    yield ""
    yield "Forward and backward, ms of ours; of the others ms and the multiple of ours. All in turn."
    yield ""
    contenders = losses()
    columns = ["N x D", f"{OURS}, ms", *list(contenders)[1:]]
    yield table(columns, [])
    for d in plan.dims:
        for n in plan.sizes:
            rows, labels = batch(n, d, PER_CLASS)
            family.verify_anchors("batch-hard", rows, labels)
            for name, loss in contenders.items():
                verify_peer(name, loss, rows, labels)
            runs = {name: step(loss, rows, labels) for name, loss in contenders.items()}
            timings = in_turn(runs, plan.rounds, repeats=max(1, ROWS_IN_A_ROW // n))
            yield table(columns, [[shape_name(n, d), *beside_ours(timings)]]).splitlines()[-1]
    yield ""


# Within a training step.


def network_of(encoder: Encoder, dim: int) -> nn.Module:
    """With embeddings of ``dim`` numbers. Channels last, which is the quicker of the two on a CPU."""
    torch.manual_seed(0)
    if encoder.network == "head":
        return nn.Linear(*encoder.inputs, dim)
    network: nn.Module = getattr(load_torchvision().models, encoder.network)(num_classes=dim)
    return network.to(memory_format=torch.channels_last)


def inputs_of(encoder: Encoder, n: int) -> Tensor:
    inputs = torch.randn(n, *encoder.inputs)
    return inputs.to(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs


def seconds_of_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor, contenders: Mapping[str, Loss]
) -> dict[str, float]:
    """One step, in which every loss is taken of the same embeddings, forward and backward to them; ``"encoder"`` is all
    else: the network forward and backward, rows of length 1, and the optimizer."""
    seconds = {}
    start = time.perf_counter()
    rows = normalize(network(inputs))
    encoder = time.perf_counter() - start
    gradient = None
    for name, loss in contenders.items():
        leaf = rows.detach().requires_grad_()
        start = time.perf_counter()
        loss(leaf, labels).backward()
        seconds[name] = time.perf_counter() - start
        gradient = leaf.grad
    start = time.perf_counter()
    rows.backward(gradient)
    optimizer.step()
    optimizer.zero_grad()
    seconds["encoder"] = encoder + time.perf_counter() - start
    family.verify_anchors("batch-hard", rows.detach(), labels)
    return seconds


def percent(share: float) -> str:
    return "below 0.01 %" if abs(share) < 1e-4 else f"{100 * share:.2g} %"


def step_cells(timings: Mapping[str, Timing]) -> list[str]:
    """The encoder's time; of each loss ms, its share of the step, and what of the step ours in its place saves."""
    medians = {name: timing.milliseconds().median for name, timing in timings.items()}
    encoder = medians.pop("encoder")
    cells = [str(timings["encoder"].milliseconds())]
    for name, own in medians.items():
        saved = "" if name == OURS else f"; saved {percent((own - medians[OURS]) / (encoder + own))}"
        cells.append(f"{ms(own)}, {percent(own / (encoder + own))}{saved}")
    return cells


def steps(encoder: Encoder, n: int, plan: Plan, left: float) -> dict[str, Timing]:
    """Rounds after one that does not count, as many as the seconds that are ``left`` allow."""
    network = network_of(encoder, plan.dim)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    inputs, labels = inputs_of(encoder, n), torch.arange(n) // PER_CLASS
    contenders = losses()
    found: dict[str, list[float]] = {name: [] for name in ("encoder", *contenders)}
    small = min(n, 2 * PER_CLASS)
    if encoder.network == "head":
        small = n
    seconds_of_step(network, optimizer, inputs[:small], labels[:small], contenders)  # everything is loaded and compiled
    started = time.perf_counter()
    for number in range(plan.rounds):
        names = list(contenders)
        names = names[number % len(names) :] + names[: number % len(names)]  # the first one finds other caches
        seconds = seconds_of_step(network, optimizer, inputs, labels, {name: contenders[name] for name in names})
        for name, value in seconds.items():
            found[name].append(value)
        taken = time.perf_counter() - started
        if taken + seconds["encoder"] > left and taken > 1:
            break
    return {name: Timing(values) for name, values in found.items()}


def step_lines(plan: Plan) -> Iterator[str]:
    yield "## Within a training step"
    yield ""
    yield f"Batches of {PER_CLASS} images a class, embeddings of {plan.dim} numbers, float32, channels last, SGD with"
    yield "momentum. In each step all losses are taken of the same embeddings. Of each loss: ms, its share of the step,"
    yield f"and how much of the step {OURS} in its place saves. A batch of an encoder that would not be through within"
    yield f"{plan.seconds:g} s of all encoders is not run; nor is a ResNet without torchvision."
    yield ""
    columns = ["encoder", "batch", "encoder, ms", *losses()]
    yield table(columns, [])
    left, rate = plan.seconds, dict.fromkeys((each for each, _ in plan.steps), 0.0)
    for encoder, n in plan.steps:
        cells = ["not run"] * (len(columns) - 2)
        if rate[encoder] * n <= left and (encoder.network == "head" or peers.installed("torchvision")):
            start = time.perf_counter()
            timings = steps(encoder, n, plan, left / 4)
            rate[encoder] = timings["encoder"].milliseconds().median / 1e3 / n
            if rate[encoder] * n > 1:
                left -= time.perf_counter() - start
            cells = step_cells(timings)
        yield table(columns, [[encoder.title, str(n), *cells]]).splitlines()[-1]
    yield ""


# Against a memory of past embeddings.


def masks_of_references(rows: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor) -> Tensor:
    """``peers.masks`` with candidates from elsewhere."""
    distances = torch.cdist(rows, references)
    same = labels[:, None] == reference_labels
    ap = distances.masked_fill(~same, 0).amax(1)
    an = distances.masked_fill(same, torch.inf).amin(1)
    return torch.relu(ap - an + MARGIN).mean()


def pml_of_references() -> Loss | None:
    library = originals.pytorch_metric_learning()
    if library is None:
        return None
    metric = library.distances.LpDistance(normalize_embeddings=False)
    miner = library.miners.BatchHardMiner(distance=metric)
    loss = library.losses.TripletMarginLoss(margin=MARGIN, distance=metric, reducer=library.reducers.MeanReducer())

    def value(rows: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor) -> Tensor:
        mined = miner(rows, labels, references, reference_labels)
        return loss(rows, labels, mined, references, reference_labels)

    return value


def with_references(module: object) -> Loss:
    function = family.function_of(module, "batch-hard")
    return lambda rows, labels, references, reference_labels, **more: function(
        rows, labels, ref_embeddings=references, ref_labels=reference_labels, **more
    )


def memory_bank_lines(plan: Plan, rows_of_batch: int = 64) -> Iterator[str]:
    yield "## Against a memory"
    yield ""
    yield f"{rows_of_batch} rows of {plan.dim} numbers, mined in a memory of M past embeddings in place of the batch;"
    yield "cells as in the first table."
    yield ""
    contenders = {OURS: with_references(fasttriplet)}
    pml = pml_of_references()
    contenders |= {} if pml is None else {"pytorch-metric-learning": pml}
    contenders["masks"] = masks_of_references
    columns = ["M", f"{OURS}, ms", *list(contenders)[1:]]
    yield table(columns, [])
    for m in plan.memories:
        # Another row of each class of the batch is in the memory.
        everyone, every_label = batch(m + rows_of_batch, plan.dim, PER_CLASS)
        fixed = everyone.detach()
        rows, labels = fixed[:rows_of_batch].clone().requires_grad_(), every_label[:rows_of_batch]
        own = torch.cat([fixed[rows_of_batch:], normalize(rows.detach() + 0.1)])
        memory = own, torch.cat([every_label[rows_of_batch:], labels])
        few, wide = slice(0, 8), (memory[0].double(), memory[1])
        expected = with_references(reference)(rows.detach()[few].double(), labels[few], *wide)
        torch.testing.assert_close(
            contenders[OURS](rows[few], labels[few], *memory).double(), expected, rtol=1e-5, atol=0
        )
        exact = contenders[OURS](rows, labels, *memory).item()
        for name, loss in contenders.items():
            value = loss(rows, labels, *memory).item()
            assert abs(value - exact) <= LOSS_TOLERANCE * exact, f"{name} computes {value}, not {exact}"
        options = dict(zip(("references", "reference_labels"), memory, strict=True))
        runs = {name: step(loss, rows, labels, **options) for name, loss in contenders.items()}
        timings = in_turn(runs, plan.rounds)
        yield table(columns, [[str(m), *beside_ours(timings)]]).splitlines()[-1]
    yield ""


# Memory and exactness.


def peak_lines(plan: Plan) -> Iterator[str]:
    yield "## Memory"
    yield ""
    yield "MiB that forward and backward add to a fresh process at their peak, the gradient among them."
    yield ""
    names = list(losses())
    columns = ["N x D", *names]
    yield table(columns, [])
    for n in plan.peaks:
        cells = [mib(added_mib_of_fresh_process(n, plan.dim, PER_CLASS, name)) for name in names]
        yield table(columns, [[shape_name(n, plan.dim), *cells]]).splitlines()[-1]
    yield ""


def error(value: float, exact: float) -> str:
    return f"{abs(value - exact) / exact:.0e}"


def offset_lines() -> Iterator[str]:
    n, d = OFFSET_SHAPE
    yield "## Far from the origin"
    yield ""
    yield f"How far off each loss is, relative, of {shape_name(n, d)} float32 numbers of a standard normal distribution"
    yield "to which a constant was added, beside the specification in float64 of those very numbers."
    yield ""
    contenders = losses()
    lines = []
    plain = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(n) // PER_CLASS
    for offset in OFFSETS:
        rows = plain + offset
        exact = reference.batch_hard_triplet_loss(rows.double(), labels, margin=MARGIN).item()
        values = [loss(rows, labels).item() for loss in contenders.values()]
        if abs(values[0] - exact) > 1e-6 * exact:
            raise AssertionError(f"at {offset} {OURS} computes {values[0]}, not {exact}")
        lines.append([str(offset), *(error(value, exact) for value in values)])
    yield table(["added", *contenders], lines)
    yield ""


def report(plan: Plan, quick: bool) -> Iterator[str]:
    yield f"{datetime.date.today().isoformat()}, {machine()}, tier `{fasttriplet.build_info()['tier']}`,"
    yield f"{originals.versions()}."
    yield f"Batch-hard, euclidean, float32, random rows of length 1, {PER_CLASS} a class; median (lowest to highest) of"
    yield f"{plan.rounds} rounds, fewer where a step takes long. `sentence-transformers` is its formula, `masks` are"
    yield "masks over `torch.cdist`, and `gather` mines without a graph and differentiates the chosen pairs."
    if quick:
        yield ""
        yield "**A quick run, which goes through the motions: its figures say nothing.**"
    yield ""
    yield from loss_lines(plan)
    yield from step_lines(plan)
    yield from memory_bank_lines(plan)
    yield from peak_lines(plan)
    yield from offset_lines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny batches, one round: goes through the motions")
    parser.add_argument("--rounds", type=positive, help=f"counted rounds (default {FULL.rounds})")
    parser.add_argument("--seconds", type=positive, help=f"that encoders may take (default {FULL.seconds:g})")
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    add_out(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plan = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        plan = plan._replace(rounds=arguments.rounds)
    if arguments.seconds is not None:
        plan = plan._replace(seconds=arguments.seconds)
    publish("Beside an encoder", "benchmarks.worth", report(plan, arguments.quick), arguments.out)


if __name__ == "__main__":
    main()
