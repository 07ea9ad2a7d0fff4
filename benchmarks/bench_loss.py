"""Forward plus backward of the batch-hard loss, verified and then timed in turn with ``torch.mm(X, X.T)``.

The yardstick is the one matrix product that other implementations start with, float32, of the same batch. Run it as
``python -m benchmarks.bench_loss``; see ``--help``. ``make bench`` runs it for every table of ``results/cpu.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch

import fasttriplet
from benchmarks import peers
from benchmarks.cases import OURS, YARDSTICK, batch, positive, shape_name, size, step, verify, verify_peer
from benchmarks.measure import Timing, in_turn, machine, mib, table
from benchmarks.peak_memory import added_mib_of_fresh_process
from fasttriplet.check import DISTANCES

DEFAULT_SIZES = ("256x128", "1024x128", "8192x128", "8192x512", "32768x128")
DEFAULT_PEERS = ("gather", "pytorch-metric-learning", "reference")
PEER_LIMIT = 8192
#: The reference is written to be read, KeOps does not use BLAS: with more columns a call takes minutes at PEER_LIMIT.
SLOW_PEERS = ("reference", "reference compiled", "KeOps")
SLOW_LIMIT = PEER_LIMIT**2 * 128


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = list(peers.available())
    usual = [name for name in DEFAULT_PEERS if name in here]
    parser.add_argument("--sizes", type=size, nargs="+", default=[size(text) for text in DEFAULT_SIZES], metavar="NxD")
    parser.add_argument("--rounds", type=positive, default=7, help="counted rounds of every size (default 7)")
    parser.add_argument("--peer-rounds", type=positive, default=7, help="rounds the peers take part in (default 7)")
    parser.add_argument("--repeats", type=positive, default=1, help="calls in a row that make one measurement")
    parser.add_argument("--samples-per-class", type=positive, default=4)
    parser.add_argument("--distance", default="euclidean", choices=DISTANCES)
    parser.add_argument("--dtype", default="float32", choices=("float64", "float32", "float16", "bfloat16"))
    parser.add_argument(
        "--peers",
        nargs="*",
        default=usual,
        choices=here,
        metavar="PEER",
        help=f"of {here}; up to N = {PEER_LIMIT}, and {', '.join(SLOW_PEERS)} up to the work that D = 128 makes there",
    )
    parser.add_argument("--threads", type=positive, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="also the peak of a fresh process")
    parser.add_argument("--json", action="store_true", help="one line of JSON a size instead of a table")
    arguments = parser.parse_args()
    if arguments.peers and arguments.distance != "euclidean":
        parser.error("--peers compute euclidean distances; leave them out (--peers without a name) for another")
    if arguments.memory and (arguments.distance, arguments.dtype) != ("euclidean", "float32"):
        parser.error(f"--memory is of euclidean float32 only; got {arguments.distance} {arguments.dtype}")
    return arguments


def takes_part(peer: str, n: int, d: int) -> bool:
    return n <= PEER_LIMIT and not (peer in SLOW_PEERS and n * n * d > SLOW_LIMIT)


def timings(n: int, d: int, arguments: argparse.Namespace) -> tuple[str, dict[str, Timing]]:
    """What was verified, and seconds by contender."""
    rows, labels = batch(n, d, arguments.samples_per_class, getattr(torch, arguments.dtype))
    verified = verify(rows, labels, arguments.distance)
    plain = rows.detach().float()
    contenders: dict[str, Callable[[], object]] = {
        YARDSTICK: lambda: torch.mm(plain, plain.T),
        OURS: step(fasttriplet.batch_hard_triplet_loss, rows, labels, distance=arguments.distance),
    }
    for name in arguments.peers:
        if takes_part(name, n, d):
            peer = peers.available()[name]()
            verify_peer(name, peer, rows, labels)
            contenders[name] = step(peer, rows, labels)
    few = dict.fromkeys(arguments.peers, arguments.peer_rounds)
    return verified, in_turn(contenders, arguments.rounds, repeats=arguments.repeats, fewer_rounds=few)


def result(n: int, d: int, arguments: argparse.Namespace) -> dict[str, object]:
    verified, measured = timings(n, d, arguments)
    return {
        "n": n,
        "d": d,
        "verified": verified,
        "milliseconds": {name: timing.milliseconds() for name, timing in measured.items()},
        "ratio": {name: timing.ratio(measured[YARDSTICK]) for name, timing in measured.items() if name != YARDSTICK},
        "added_mib": added_mib_of_fresh_process(n, d, arguments.samples_per_class) if arguments.memory else None,
    }


def columns(names: list[str], memory: bool) -> list[str]:
    ratios = [f"{name} / {YARDSTICK}" for name in (OURS, *names)]
    return [
        "N x D",
        "indices verified",
        f"{YARDSTICK} ms",
        f"{OURS} ms",
        *ratios,
        *(["added peak MiB"] if memory else []),
    ]


def row(found: dict, names: list[str], memory: bool) -> list[str]:
    milliseconds, ratio = found["milliseconds"], found["ratio"]
    cells = [shape_name(found["n"], found["d"]), found["verified"]]
    cells += [str(milliseconds[name]) for name in (YARDSTICK, OURS)]
    cells += [str(ratio[name]) if name in ratio else "not run" for name in (OURS, *names)]
    return [*cells, *([mib(found["added_mib"])] if memory else [])]


def main() -> None:
    arguments = options()
    torch.set_num_threads(arguments.threads)
    if arguments.json:
        for n, d in arguments.sizes:
            print(json.dumps(result(n, d, arguments)), flush=True)
        return
    print(f"{machine()}, tier {fasttriplet.build_info()['tier']}")
    print(
        f"forward + backward, {arguments.dtype}, {arguments.distance}, {arguments.samples_per_class} per class, "
        f"{arguments.rounds} rounds in turn; median (lowest to highest)\n"
    )
    rows = [row(result(n, d, arguments), arguments.peers, arguments.memory) for n, d in arguments.sizes]
    print(table(columns(arguments.peers, arguments.memory), rows))


if __name__ == "__main__":
    main()
