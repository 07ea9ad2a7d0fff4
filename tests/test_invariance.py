"""What must not change the answer: order, translation, scale, strides, threads, processes, and running it again."""

import os
import subprocess
import sys
import threading

import pytest
import torch

import fasttriplet
from tests.engine import host_only
from tests.inputs import DISTANCES

SIZES = (1, 2, 3, 97, 100, 101, 383, 384, 385, 1000)


def gauss(n, d=20, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=dtype), torch.randint(
        0, max(1, n // 4), (n,), generator=generator
    )


def run(embeddings, labels, **options):
    rows = embeddings.detach().requires_grad_()
    loss = fasttriplet.batch_hard_triplet_loss(rows, labels, soft_margin=True, **options)
    (gradient,) = torch.autograd.grad(loss, rows)
    return (loss.detach(), gradient, *fasttriplet.mine_batch_hard(embeddings, labels, **options))


def same(left, right):
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("distance", DISTANCES)
def test_permuting_the_batch_permutes_the_answer(n, distance):
    embeddings, labels = gauss(n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    place = torch.argsort(order)
    mined = fasttriplet.mine_batch_hard(embeddings, labels, distance=distance)
    moved = fasttriplet.mine_batch_hard(embeddings[order], labels[order], distance=distance)
    for before, after in ((mined.positives, moved.positives), (mined.negatives, moved.negatives)):
        expected = torch.where(before < 0, -1, place[before.clamp_min(0)])[order]
        assert torch.equal(after, expected)
    assert torch.equal(moved.negative_distances.nan_to_num(), mined.negative_distances[order].nan_to_num())


@pytest.mark.parametrize("shift", [1.0, 1000.0, 2.0**20])
@pytest.mark.parametrize("distance", ["euclidean", "squared_euclidean"])
def test_translation(shift, distance):
    embeddings, labels = gauss(300, dtype=torch.float64)
    embeddings = (embeddings * 2**20).round() / 2**20  # so that adding the shift rounds nothing
    assert same(run(embeddings, labels, distance=distance), run(embeddings + shift, labels, distance=distance))


@pytest.mark.parametrize("exponent", [-100, -30, 30, 100])
def test_scaling_by_a_power_of_two_changes_no_index(exponent):
    embeddings, labels = gauss(300)
    scaled = fasttriplet.mine_batch_hard(embeddings * 2.0**exponent, labels)
    mined = fasttriplet.mine_batch_hard(embeddings, labels)
    assert torch.equal(scaled.positives, mined.positives) and torch.equal(scaled.negatives, mined.negatives)
    assert torch.equal(scaled.negative_distances, mined.negative_distances * 2.0**exponent)


@pytest.mark.parametrize("n", [100, 1000, 3000])
@pytest.mark.parametrize("distance", DISTANCES)
def test_thread_count_and_repetition(n, distance):
    embeddings, labels = gauss(n, 64)
    labels[: n // 3] = 0  # one class large enough for the screen of positives
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8, 8, 8):
            torch.set_num_threads(threads)
            results.append(run(embeddings, labels, distance=distance))
    finally:
        torch.set_num_threads(before)
    assert all(same(result, results[0]) for result in results[1:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_strides_and_views(dtype):
    plain, labels = gauss(50, 12)
    plain = plain.to(dtype)
    wide = torch.zeros(100, 40, dtype=dtype)
    wide[::2, 3:27:2] = plain
    offset = torch.cat([torch.zeros(5, dtype=dtype), plain.flatten()])[5:].view(50, 12)
    for view in (plain.t().contiguous().t(), wide[::2, 3:27:2], offset):
        assert torch.equal(view, plain)
        assert same(run(view, labels), run(plain, labels))
    row = plain[:1].expand(50, 12)
    assert row.stride(0) == 0
    assert same(run(row, labels), run(row.contiguous(), labels))
    column = plain[:, :1].expand(50, 12)
    assert same(run(column, labels), run(column.contiguous(), labels))
    spread = torch.zeros(50, 3, dtype=torch.int64)
    spread[:, 1] = labels
    assert same(run(plain, spread[:, 1]), run(plain, labels))
    numbers = plain.double().numpy()
    assert same(run(torch.from_numpy(numbers), labels), run(plain.double(), labels))


def test_inputs_are_left_alone():
    embeddings, labels = gauss(200)
    copies = embeddings.clone(), labels.clone()
    run(embeddings, labels)
    assert torch.equal(embeddings, copies[0]) and torch.equal(labels, copies[1])


def test_calls_from_several_python_threads():
    embeddings, labels = gauss(900)
    expected = run(embeddings, labels)
    results = [None] * 6

    def work(slot):
        results[slot] = run(embeddings, labels)

    workers = [threading.Thread(target=work, args=(slot,)) for slot in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(same(result, expected) for result in results)


_FORK = """
import os, torch, fasttriplet
torch.manual_seed(0)
embeddings, labels = torch.randn(2000, 32), torch.arange(2000) // 4
torch.set_num_threads(1)  # OpenMP's threads do not survive a fork; PyTorch's own operators ask for the same
expected = fasttriplet.batch_hard_triplet_loss(embeddings, labels)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(fasttriplet.batch_hard_triplet_loss(embeddings, labels), expected) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("same")
"""


@host_only
def test_after_a_fork():
    result = subprocess.run([sys.executable, "-c", _FORK], capture_output=True, text=True, env=os.environ, timeout=120)
    assert result.stdout.strip() == "same", result.stderr


@host_only
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("scale", ["denormal", "decades"])
def test_flushing_denormals_changes_nothing(threads, scale):
    """The mode is each thread's own: threads that were there before it was set must compute the same as the caller."""
    embeddings, labels = gauss(3000, 32)
    embeddings = embeddings * (1e-39 if scale == "denormal" else torch.logspace(-44, 0, 3000)[:, None])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = run(embeddings, labels)
        if not torch.set_flush_denormal(True):
            pytest.skip("this CPU cannot flush denormals")
        mined = fasttriplet.mine_batch_hard(embeddings, labels)
        assert (torch.tensor([1e-39]) * 1).item() == 0  # the mode is the caller's again
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
    assert torch.equal(mined.positives, expected[2]) and torch.equal(mined.negatives, expected[3])
