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
from benchmarks.cases import batch, size, step, verify, verify_peer
from benchmarks.measure import Timing, in_turn, machine, table
from benchmarks.peak_memory import added_mib_of_fresh_process
from fasttriplet.check import DISTANCES

DEFAULT_SIZES = ("256x128", "1024x128", "8192x128", "8192x512", "32768x128")
DEFAULT_PEERS = ("gather", "pytorch-metric-learning", "reference")
OURS = "fasttriplet"
#: The reference is written to be read, KeOps does not use BLAS: beyond this many multiply-adds they take very long.
SLOW_PEERS = ("reference", "reference compiled", "KeOps")
SLOW_LIMIT = 8192**2 * 128


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = list(peers.available())
    usual = [name for name in DEFAULT_PEERS if name in here]
    parser.add_argument("--sizes", type=size, nargs="+", default=[size(text) for text in DEFAULT_SIZES], metavar="NxD")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds of every size (default 7)")
    parser.add_argument("--peer-rounds", type=int, default=7, help="rounds the peers take part in (default 7)")
    parser.add_argument("--repeats", type=int, default=1, help="calls in a row that make one measurement (default 1)")
    parser.add_argument("--samples-per-class", type=int, default=4)
    parser.add_argument("--distance", default="euclidean", choices=DISTANCES)
    parser.add_argument("--dtype", default="float32", choices=("float64", "float32", "float16", "bfloat16"))
    parser.add_argument("--peer-limit", type=int, default=8192, help="largest N of the peers (default 8192)")
    parser.add_argument("--peers", nargs="*", default=usual, choices=here, metavar="PEER", help=f"of {here}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="also the peak of a fresh process")
    parser.add_argument("--json", action="store_true", help="one line of JSON a size instead of a table")
    arguments = parser.parse_args()
    if arguments.peers and arguments.distance != "euclidean":
        parser.error("--peers compute euclidean distances; leave them out (--peers without a name) for another")
    return arguments


def timings(n: int, d: int, arguments: argparse.Namespace) -> tuple[str, dict[str, Timing]]:
    """What was verified, and seconds by contender."""
    rows, labels = batch(n, d, arguments.samples_per_class, getattr(torch, arguments.dtype))
    verified = verify(rows, labels, arguments.distance)
    plain = rows.detach().float()
    contenders: dict[str, Callable[[], object]] = {
        "mm": lambda: torch.mm(plain, plain.T),
        OURS: step(fasttriplet.batch_hard_triplet_loss, rows, labels, distance=arguments.distance),
    }
    if n <= arguments.peer_limit:
        for name in arguments.peers:
            if name in SLOW_PEERS and n * n * d > SLOW_LIMIT:
                continue
            peer = peers.available()[name]()
            verify_peer(name, peer, rows, labels)
            contenders[name] = step(peer, rows, labels)
    few = dict.fromkeys(arguments.peers, arguments.peer_rounds)
    few = {name: limit for name, limit in few.items() if name in contenders}
    return verified, in_turn(contenders, arguments.rounds, repeats=arguments.repeats, fewer_rounds=few)


def result(n: int, d: int, arguments: argparse.Namespace) -> dict[str, object]:
    verified, measured = timings(n, d, arguments)
    mm = measured["mm"]
    return {
        "n": n,
        "d": d,
        "verified": verified,
        "milliseconds": {name: timing.milliseconds() for name, timing in measured.items()},
        "ratio": {name: timing.ratio(mm) for name, timing in measured.items() if name != "mm"},
        "ours_to_peer": {
            name: timing.ratio(measured[OURS]) for name, timing in measured.items() if name not in ("mm", OURS)
        },
        "added_mib": added_mib_of_fresh_process(n, d, arguments.samples_per_class) if arguments.memory else None,
        "tier": fasttriplet.build_info()["tier"],
    }


def row(found: dict, names: list[str]) -> list[str]:
    milliseconds, ratio = found["milliseconds"], found["ratio"]
    cells = [f"{found['n']} x {found['d']}", found["verified"], str(milliseconds["mm"]), str(milliseconds[OURS])]
    cells += [str(ratio[name]) if name in ratio else "not run" for name in (OURS, *names)]
    return [*cells, *([] if found["added_mib"] is None else [f"{found['added_mib']:.1f}"])]


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
    columns = ["N x D", "verified", "mm ms", f"{OURS} ms", *(f"{name} / mm" for name in (OURS, *arguments.peers))]
    columns += ["added peak MiB"] if arguments.memory else []
    print(table(columns, [row(result(n, d, arguments), arguments.peers) for n, d in arguments.sizes]))


if __name__ == "__main__":
    main()
