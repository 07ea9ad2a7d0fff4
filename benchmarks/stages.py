"""Where the time of one call goes: prepare, positives, screen, settle, write, backward, and all around the kernels.

``python -m benchmarks.stages [NxD ...]``. The kernels time their own stages (csrc/cpu/screen/mine.h says what each is);
the backward operator is timed by itself; "around" is what is left of the whole: Python, autograd, PyTorch's dispatcher
and allocator, and the loss of the mined distances.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

import fasttriplet
from benchmarks.cases import MARGIN, batch, shape_name, size, step
from benchmarks.measure import Spread, machine, table
from fasttriplet.check import DISTANCES, ON_MISSING, REDUCTIONS

OPS = torch.ops.fasttriplet
STAGES = ("prepare", "positives", "screen", "settle", "write")
DEFAULT_SIZES = ("128x128", "256x128", "256x512", "1024x128", "8192x128", "8192x512", "8192x2048")


def microseconds(rows: Tensor, labels: Tensor, rounds: int) -> dict[str, float]:
    """Medians by stage and the whole, and the exact scores per row that negatives took as "survivors"."""
    euclidean = DISTANCES.index("euclidean")
    mean, skip = REDUCTIONS.index("mean"), ON_MISSING.index("skip")
    loss, *saved = OPS.batch_hard_loss(rows.detach(), labels, MARGIN, euclidean, False, mean, skip)
    upstream = torch.ones_like(loss)
    whole = step(fasttriplet.batch_hard_triplet_loss, rows, labels)
    samples: dict[str, list[float]] = {name: [] for name in (*STAGES, "backward", "whole")}
    survivors = 0.0
    for number in range(-max(1, rounds // 10), rounds):
        start = time.perf_counter()
        whole()
        middle = time.perf_counter()
        OPS._batch_hard_loss_backward(upstream, rows.detach(), *saved, euclidean)
        end = time.perf_counter()
        seconds, counts = OPS._mine_batch_hard_profile(rows.detach(), labels, euclidean)
        if number < 0:
            continue
        for name, value in zip(STAGES, seconds.tolist(), strict=True):
            samples[name].append(1e6 * value)
        samples["whole"].append(1e6 * (middle - start))
        samples["backward"].append(1e6 * (end - middle))
        survivors = counts[1].item() / max(1, counts[0].item())
    medians = {name: Spread.of(values).median for name, values in samples.items()}
    medians["around"] = medians["whole"] - sum(medians[name] for name in (*STAGES, "backward"))
    return medians | {"survivors": survivors}


def stages_table(sizes: list[tuple[int, int]]) -> str:
    names = (*STAGES, "backward", "around")
    rows = []
    for n, d in sizes:
        work = n * n * d
        found = microseconds(*batch(n, d, 4), rounds=max(5, min(500, int(4e9 / work))))
        cells = [f"{found[name]:.0f} ({100 * found[name] / found['whole']:.0f}%)" for name in names]
        rows.append([shape_name(n, d), f"{found['whole']:.0f}", *cells, f"{found['survivors']:.1f}"])
    return table(["N x D", "whole us", *(f"{name} us" for name in names), "survivors a row"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=size, nargs="*", metavar="NxD", default=[size(text) for text in DEFAULT_SIZES])
    sizes = parser.parse_args().sizes
    print(f"{machine()}, tier {fasttriplet.build_info()['tier']}; medians, 4 per class, float32, euclidean\n")
    print(stages_table(sizes))


if __name__ == "__main__":
    main()
