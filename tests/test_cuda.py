"""On a GPU: the CPU's answers to the bit, the same on every run, and no waiting for the device.

The tests of the package run there with FASTTRIPLET_TEST_ENGINE=cuda; the kernels alone run without a GPU in
tests/native/test_cuda.py. Tests marked ``alone`` compile or start another process, or use what may break its process on
hardware that was never tried: benchmarks/gpu.sh runs each by itself.
"""

import subprocess
import sys

import pytest
import torch

import fasttriplet
from benchmarks.gpu.products import HOPPER
from fasttriplet import _library
from tests.inputs import CASE_IDS, CASES, DISTANCES, batch

if not torch.cuda.is_available() or _library.cuda_absence is not None:
    pytest.skip(f"needs a GPU: {_library.cuda_absence or 'PyTorch sees none'}", allow_module_level=True)

needs_tensor_cores = pytest.mark.skipif(
    torch.cuda.get_device_capability()[0] < 8, reason="no bfloat16 tensor cores before compute capability 8.0"
)


def both(embeddings, labels, **options):
    """Loss, gradient and mined triplets on the CPU and on the GPU, all brought to the CPU."""
    found = []
    for device in ("cpu", "cuda"):
        rows, ids = embeddings.detach().to(device).requires_grad_(), labels.to(device)
        loss = fasttriplet.batch_hard_triplet_loss(rows, ids, **options)
        loss.sum().backward()
        mined = fasttriplet.mine_batch_hard(rows, ids, distance=options["distance"])
        found.append([loss.detach().cpu(), rows.grad.cpu(), *(tensor.cpu() for tensor in mined)])
    return found


def random_batch(n, d, per_class=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=dtype), dim=1)
    return rows, (torch.arange(n) // per_class)[torch.randperm(n, generator=generator)]


def same_bits(found, expected):
    """The distance of an anchor without a positive is NaN."""
    pairs = zip(found, expected, strict=True)
    return all(torch.equal(ours.cpu().nan_to_num(7.0), theirs.nan_to_num(7.0)) for ours, theirs in pairs)


def mined_alike(rows, labels, distance="euclidean"):
    """Whether both devices mine the same."""
    found = fasttriplet.mine_batch_hard(rows.cuda(), labels.cuda(), distance=distance)
    return same_bits(found, fasttriplet.mine_batch_hard(rows, labels, distance=distance))


def left_open(rows, labels, distance="euclidean"):
    """What the screen on the GPU left, by name."""
    text = torch.ops.fasttriplet._cuda_mine_counters(rows.cuda(), labels.cuda(), DISTANCES.index(distance))
    return {name: int(value) for name, value in (line.split("=") for line in text.split())}


def with_ties(n, ties):
    """A class a row; `ties` of them are equal, and farther from the others than those are from each other.

    Of unit vectors with 128 dimensions the lists never hold more than a few.
    """
    rows, _ = random_batch(n, 128)
    rows[10 : 10 + ties] = 3 * rows[10]
    return rows, torch.arange(n)


# First what rests on atomics between blocks and on the block that comes last, which the host's shim does not have.


@needs_tensor_cores
def test_a_few_anchors_with_more_ties_than_a_list_holds_cause_no_second_round():
    """20 are few of 8000 even where float64 is slow; a list has 16 candidates up to 256 dimensions."""
    batch = with_ties(8000, 20)
    assert mined_alike(*batch)
    found = left_open(*batch)
    assert found["overflown_nearest"] == found["scanned_nearest"] == 20
    assert found["fine_round"] == found["scanned_farthest"] == 0


@needs_tensor_cores
@pytest.mark.parametrize("n", [3000, 8000])
def test_many_anchors_with_ties_cause_a_second_round(n):
    batch = with_ties(n, n // 2)
    assert mined_alike(*batch)
    found = left_open(*batch)
    assert found["fine_round"] == 1 and found["overflown_nearest"] >= found["scanned_nearest"] >= n // 2


@needs_tensor_cores
@pytest.mark.parametrize("n", [300, 512, 513])
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_small_batch_full_of_ties(n, distance):
    """Up to 512 rows an anchor whose list does not suffice is scored where candidates are settled."""
    lattice = torch.randint(-1, 2, (n, 2), generator=torch.Generator().manual_seed(0)).float()
    cpu, cuda = both(lattice, torch.arange(n) % 9, distance=distance)
    assert same_bits(cuda[2:], cpu[2:])
    torch.testing.assert_close(cuda[1], cpu[1], rtol=1e-5, atol=1e-9)
    found = left_open(lattice, torch.arange(n) % 9, distance)
    assert found["scanned_nearest"] + found["scanned_farthest"] > 100
    assert found["fine_round"] == (n > 512)


@pytest.mark.parametrize("wide", [False, True], ids=["narrow", "wide"])
@pytest.mark.parametrize("n", [4096, 4097, 8192, 8193])
def test_keys_are_ranked_or_sorted(n, wide):
    """Up to 8192 labels, and edges, two a row, are ranked by counting; wide ones differ in their upper halves."""
    rows, labels = random_batch(n, 32)
    cpu, cuda = both(rows, (labels - 7) << 33 if wide else labels, distance="euclidean")
    assert same_bits(cuda[2:], cpu[2:])
    torch.testing.assert_close(cuda[0], cpu[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(cuda[1], cpu[1], rtol=1e-5, atol=1e-9)


def test_inner_products_with_a_few_very_long_rows():
    """The longest are found by all blocks, of which the last one merges what the others found."""
    rows, labels = random_batch(100_000, 16)
    rows[[3, 50_001, 99_998]] *= 1e4
    assert mined_alike(rows, labels, "inner_product")


@pytest.mark.parametrize("case", CASES, ids=CASE_IDS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_bits_of_the_cpu(case, distance, dtype):
    embeddings, labels = batch(case, dtype)
    cpu, cuda = both(embeddings, labels, distance=distance, reduction="none", margin=0.5)
    assert same_bits(cuda[2:], cpu[2:])
    torch.testing.assert_close(cuda[0], cpu[0], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(cuda[1], cpu[1], rtol=1e-12, atol=1e-12, equal_nan=True)  # hubs add in another order


@pytest.mark.parametrize(("n", "d"), [(256, 2048), (1000, 3), (4096, 128), (5000, 512), (20000, 64)])
@pytest.mark.parametrize("distance", DISTANCES)
def test_sizes_of_training(n, d, distance):
    cpu, cuda = both(*random_batch(n, d), distance=distance)
    for ours, theirs in zip(cuda[2:], cpu[2:], strict=True):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(cuda[0], cpu[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(cuda[1], cpu[1], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    "view",
    [lambda x: x[:, ::2], lambda x: x[::3], lambda x: x.T.contiguous().T, lambda x: x[:1].expand(len(x), -1)],
    ids=["columns", "rows", "transposed", "expanded"],
)
def test_rows_with_any_strides(view):
    """Also an upstream gradient that is one number for all."""
    found = []
    for device in ("cpu", "cuda"):
        rows = view(random_batch(300, 64)[0].to(device)).requires_grad_()
        assert not rows.is_contiguous()
        labels = (torch.arange(2 * len(rows), device=device) // 8)[::2]
        loss = fasttriplet.batch_hard_triplet_loss(rows, labels, reduction="none")
        (gradient,) = torch.autograd.grad(loss, rows, torch.ones((), device=device).expand(len(rows)))
        found.append((loss.detach().cpu(), gradient.cpu()))
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-5, atol=1e-9)


def test_float_products_give_the_same(monkeypatch):
    """FASTTRIPLET_CUDA_PRODUCTS is read at every call."""
    rows, labels = (tensor.cuda() for tensor in random_batch(5000, 96))
    default = fasttriplet.mine_batch_hard(rows, labels)
    monkeypatch.setenv("FASTTRIPLET_CUDA_PRODUCTS", "float")
    forced = fasttriplet.mine_batch_hard(rows, labels)
    monkeypatch.setenv("FASTTRIPLET_CUDA_PRODUCTS", "wood")
    with pytest.raises(
        ValueError, match="FASTTRIPLET_CUDA_PRODUCTS must be tensor, wgmma, wgmma-pair or float; got 'wood'"
    ):
        fasttriplet.mine_batch_hard(rows, labels)
    assert all(torch.equal(a, b) for a, b in zip(default, forced, strict=True))


@needs_tensor_cores
def test_tensor_cores_multiply_as_expected():
    device = torch.cuda.current_device()
    assert torch.ops.fasttriplet._cuda_test_tensor_cores(device, "tensor") == ""
    assert 0 < torch.ops.fasttriplet._cuda_tensor_core_share(device, "tensor") <= 1


@pytest.mark.alone
@pytest.mark.parametrize("products", HOPPER)
def test_wgmma_gives_the_same(products, monkeypatch):
    built_for = fasttriplet.build_info()["cuda_architectures"]
    if torch.cuda.get_device_capability() != (9, 0) or "sm_90a" not in built_for:
        pytest.skip(f"wgmma needs compute capability 9.0 and a library built for 9.0a, not {built_for}")
    rows, labels = (tensor.cuda() for tensor in random_batch(5000, 96))
    default = fasttriplet.mine_batch_hard(rows, labels)
    monkeypatch.setenv("FASTTRIPLET_CUDA_PRODUCTS", products)
    forced = fasttriplet.mine_batch_hard(rows, labels)
    assert all(torch.equal(a, b) for a, b in zip(default, forced, strict=True))


def triplet_margin(rows, weights, distance, swap, soft, mining_margin, reduction):
    """Loss, values and gradients of anchors, positives and negatives by the operators themselves."""
    operators = torch.ops.fasttriplet
    loss, values = operators.triplet_margin_loss(*rows, weights, 0.5, distance, swap, soft, mining_margin, reduction)
    upstream = torch.linspace(-1, 2, loss.numel(), dtype=loss.dtype, device=loss.device).view(loss.shape)
    return (
        loss,
        values,
        *operators._triplet_margin_loss_backward(upstream, *rows, values, distance, swap, True, True, True),
    )


@pytest.mark.parametrize(("t", "d"), [(0, 4), (1, 0), (1, 1), (17, 7), (1000, 64), (3000, 513), (200_000, 16)], ids=str)
@pytest.mark.parametrize("distance", range(len(DISTANCES)), ids=DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_explicit_triplets_have_the_bits_of_the_cpu(t, d, distance, dtype):
    """But for softplus, whose exponentials may round otherwise, and for the order of a reduction's sum."""
    rows = torch.randn(3, t, d, generator=torch.Generator().manual_seed(t + d), dtype=dtype)
    rows[:, ::7] = (2 * rows[:, ::7]).round() / 2  # ties between the distances of a swap
    rows[1, 3::50] = torch.inf
    weights = torch.rand(t, generator=torch.Generator().manual_seed(t))
    for options in ((True, False, None, 0), (False, True, 0.1, 0), (True, False, 0.1, 2), (True, True, None, 3)):
        for factors in (None, weights):
            if factors is not None and options[-1] == 0:
                continue
            given = [factors if factors is None else factors.cuda(), distance, *options]
            ours = [x.cpu() for x in triplet_margin(rows.cuda(), *given)]
            theirs = triplet_margin(rows, factors, *given[1:])
            assert same_bits([ours[1][1:]], [theirs[1][1:]])
            if options == (True, False, None, 0):
                assert same_bits(ours, theirs)
            tolerance = 1e-5 if dtype == torch.float32 else 1e-11
            for found, expected in zip(ours, theirs, strict=True):
                torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-15, equal_nan=True)


def test_explicit_triplets_are_the_same_on_every_run_and_wait_for_nothing():
    rows = torch.randn(3, 50_000, 40, generator=torch.Generator().manual_seed(0)).cuda()
    weights = torch.rand(50_000, device="cuda")
    first = triplet_margin(rows, weights, 2, True, True, 0.2, 2)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # a capture refuses any wait
        captured = triplet_margin(rows, weights, 2, True, True, 0.2, 2)
    for _ in range(5):
        graph.replay()
        again = triplet_margin(rows, weights, 2, True, True, 0.2, 2)
        assert all(torch.equal(a, b) and torch.equal(c, b) for a, b, c in zip(again, first, captured, strict=True))


def test_explicit_triplets_of_another_device_are_refused():
    rows = torch.randn(3, 8, 4)
    with pytest.raises(ValueError, match=r"positive must be on the device of anchor, cuda:0; got cpu$"):
        torch.ops.fasttriplet.triplet_margin_loss(
            rows[0].cuda(), rows[1], rows[2].cuda(), None, 0.5, 0, False, False, None, 2
        )
    on_gpu = rows.cuda()
    found = triplet_margin(on_gpu.transpose(1, 2).contiguous().transpose(1, 2), None, 0, True, False, None, 0)
    assert all(
        torch.equal(a, b) for a, b in zip(found, triplet_margin(on_gpu, None, 0, True, False, None, 0), strict=True)
    )


def mine_triplets(rows, labels, distance, pairing=(), numbers=(), references=None, miner=0):
    """By the operator itself: distances [2, T] and triplets [3, T]."""
    given = [None if tensor is None else tensor.to(rows.device) for tensor in pairing]
    options = (0, False, 0.0, 2, False, 0.0)
    return torch.ops.fasttriplet.mine_triplets(rows, labels, references, given, numbers, distance, miner, *options)


@pytest.mark.parametrize("n", [60, 500, 5000])
@pytest.mark.parametrize("distance", range(len(DISTANCES)), ids=DISTANCES)
def test_samples_groups_and_an_ignored_label_have_the_bits_of_the_cpu(n, distance):
    rows, labels = random_batch(n, 24)
    rows[1::2] = rows[::2] + 1e-4 * rows[1::2]  # a copy is near, and of another class
    rows[labels == 3] = torch.nan
    samples, groups = torch.arange(n) // 2, torch.arange(n) % 5
    samples[::7] = -1
    for pairing, numbers in (
        ((None, None, samples), (0, 3)),
        ((None, None, None, None, groups), (0, 3)),
        ((None, None, samples, None, groups), (1, 3)),
        ((), (0,)),
    ):
        expected = mine_triplets(rows, labels, distance, pairing, numbers)
        assert same_bits(mine_triplets(rows.cuda(), labels.cuda(), distance, pairing, numbers), expected)


@pytest.mark.parametrize("t", [50, 3000, 6000])
@pytest.mark.parametrize("distance", range(len(DISTANCES)), ids=DISTANCES)
@pytest.mark.parametrize("referred", [False, True], ids=["own", "references"])
def test_losses_and_gradients_of_triplets_of_any_miner(t, distance, referred):
    """Up to 4096 triplets their edges are ranked, above they are sorted; a hub's edges add up in another order."""
    random = torch.Generator().manual_seed(t)
    rows = torch.randn(300, 40, generator=random, dtype=torch.float64)
    references = torch.randn(70, 40, generator=random, dtype=torch.float64) if referred else None
    triplets = torch.randint(-1, 70, (3, t), generator=random)
    triplets[0] = torch.randint(0, 300, (t,), generator=random).sort().values
    distances = torch.rand(2, t, generator=random, dtype=torch.float64).masked_fill(triplets[1:] < 0, torch.nan)
    operators = torch.ops.fasttriplet
    for reduction, soft, poison in ((0, False, 1.0), (2, False, 1.0), (3, True, 1.0), (2, False, torch.nan)):
        found = []
        for place in ("cpu", "cuda"):
            given = [x if x is None else x.to(place) for x in (rows, references, distances, triplets)]
            number = torch.tensor(poison, dtype=torch.float64, device=place)
            loss, slopes = operators.triplet_losses(*given[2:], number, 0.3, soft, reduction, 0)
            gradients = operators._triplet_distances_backward(slopes, *given, distance, [])
            found.append([x.cpu() for x in (loss, slopes, *gradients)])
        for ours, theirs in zip(*reversed(found), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_what_the_kernels_do_not_serve_is_refused_by_name():
    rows, labels = (tensor.cuda() for tensor in random_batch(64, 8))
    with pytest.raises(ValueError, match=r"miner must be 0, batch-hard, for CUDA's kernels; got 4$"):
        mine_triplets(rows, labels, 0, miner=4)
    with pytest.raises(ValueError, match=r"ref_embeddings must not be given to CUDA's kernels; got 64 rows$"):
        mine_triplets(rows, labels, 0, (labels,), references=rows)
    hot = torch.eye(64, dtype=torch.bool, device="cuda")
    with pytest.raises(ValueError, match=r"labels must have shape \[N\] for CUDA's kernels; got .*\[64, 64\]$"):
        mine_triplets(rows, hot, 0)


def test_indices_that_no_miner_gave_make_the_gradient_nan():
    """They cannot be reported without a wait for the device."""
    rows = torch.randn(9, 3, device="cuda")
    triplets = torch.arange(8, device="cuda").repeat(3, 1)
    distances = torch.ones(2, 8, dtype=torch.float64, device="cuda")
    for place, value in (((0, 3), 1), ((0, 7), 99), ((1, 2), 9), ((2, 2), -2)):
        wrong = triplets.clone()
        wrong[place] = value
        gradient, _ = torch.ops.fasttriplet._triplet_distances_backward(distances, rows, None, distances, wrong, 0, [])
        assert gradient.isnan().all()


@pytest.mark.parametrize("n", [200, 9000])
def test_twenty_runs_give_the_same_bits(n):
    rows, labels = (tensor.cuda() for tensor in random_batch(n, 64))
    rows = (16 * rows).round() / 16  # ties
    first = None
    for _ in range(20):
        leaf = rows.clone().requires_grad_()
        loss = fasttriplet.batch_hard_triplet_loss(leaf, labels)
        loss.backward()
        found = (loss.detach(), leaf.grad, *fasttriplet.mine_batch_hard(rows, labels))
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True))


def test_a_graph_is_captured_and_replayed():
    rows, labels = (tensor.cuda() for tensor in random_batch(256, 128))
    fixed = rows.clone().requires_grad_()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            fixed.grad = None
            fasttriplet.batch_hard_triplet_loss(fixed, labels).backward()
    torch.cuda.synchronize()
    fixed.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = fasttriplet.batch_hard_triplet_loss(fixed, labels)
        loss.backward()
    for seed in (1, 2):
        other = random_batch(256, 128, seed=seed)[0].cuda()
        with torch.no_grad():
            fixed.copy_(other)
        graph.replay()
        leaf = other.clone().requires_grad_()
        expected = fasttriplet.batch_hard_triplet_loss(leaf, labels)
        expected.backward()
        assert torch.equal(loss, expected) and torch.equal(fixed.grad, leaf.grad)


def test_an_error_that_has_to_wait_is_refused_in_a_graph():
    rows, labels = (tensor.cuda() for tensor in random_batch(64, 8))
    fasttriplet.batch_hard_triplet_loss(rows, labels)
    with (
        pytest.raises(ValueError, match="on_missing must be 'skip' or 'zero' while a CUDA graph is captured"),
        torch.cuda.graph(torch.cuda.CUDAGraph()),
    ):
        fasttriplet.batch_hard_triplet_loss(rows, labels, on_missing="error")


def test_operators_refuse_tensors_of_another_device():
    rows, labels = random_batch(64, 8)
    operators = torch.ops.fasttriplet
    with pytest.raises(ValueError, match=r"labels must be on the device of embeddings, cuda:0; got cpu$"):
        operators.mine_batch_hard(rows.cuda(), labels, 0)
    loss, values, pairs = operators.batch_hard_loss(rows.cuda(), labels.cuda(), 0.3, 0, False, 2, 0)
    with pytest.raises(ValueError, match=r"values must be on the device of embeddings, cuda:0; got cpu$"):
        operators._batch_hard_loss_backward(loss, rows.cuda(), values.cpu(), pairs, 0)


def test_missing_positives_are_an_error_where_asked():
    rows = torch.randn(5, 3, device="cuda")
    with pytest.raises(ValueError, match="got 1 of 5 anchors without, the first at index 4"):
        fasttriplet.batch_hard_triplet_loss(rows, torch.tensor([0, 0, 1, 1, 2], device="cuda"), on_missing="error")


@pytest.mark.alone
def test_compiled_with_less_overhead():
    rows, labels = (tensor.cuda() for tensor in random_batch(128, 32))
    compiled = torch.compile(lambda x, y: fasttriplet.batch_hard_triplet_loss(2 * x, y), mode="reduce-overhead")
    for _ in range(4):
        leaf, plain = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        compiled(leaf, labels).backward()
        fasttriplet.batch_hard_triplet_loss(2 * plain, labels).backward()
        torch.testing.assert_close(leaf.grad, plain.grad)


def test_streams_beside_each_other():
    batches = [tuple(tensor.cuda() for tensor in random_batch(3000, 32, seed=seed)) for seed in range(4)]
    expected = [fasttriplet.mine_batch_hard(*pair) for pair in batches]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in batches]
    found = []
    for stream, pair in zip(streams, batches, strict=True):
        with torch.cuda.stream(stream):
            found.append(fasttriplet.mine_batch_hard(*pair))
    torch.cuda.synchronize()
    for ours, theirs in zip(found, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_nothing_waits_for_the_device():
    rows, labels = (tensor.cuda() for tensor in random_batch(300, 16))
    leaf = rows.clone().requires_grad_()
    fasttriplet.batch_hard_triplet_loss(leaf, labels)  # the first call tests the tensor cores
    torch.cuda.set_sync_debug_mode("error")
    try:
        fasttriplet.batch_hard_triplet_loss(leaf, labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # The mode sees PyTorch's own waits only: a capture, which refuses any, sees ours.
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        fasttriplet.batch_hard_triplet_loss(leaf, labels)


def test_every_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    rows, labels = random_batch(500, 40)
    expected = fasttriplet.mine_batch_hard(rows, labels)
    for index in range(torch.cuda.device_count()):
        mined = fasttriplet.mine_batch_hard(rows.to(index), labels.to(index))
        assert mined.positives.device.index == index
        assert all(torch.equal(a.cpu(), b) for a, b in zip(mined, expected, strict=True))


def test_memory_is_linear_and_pairs_may_exceed_32_bits():
    n, d = 100_000, 64
    rows, labels = (tensor.cuda() for tensor in random_batch(n, d))
    leaf = rows.clone().requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    fasttriplet.batch_hard_triplet_loss(leaf, labels).backward()
    torch.cuda.synchronize()
    added = torch.cuda.max_memory_allocated() - before
    assert added < 8 * rows.nbytes, f"{added / rows.nbytes:.1f} times the input"
    wide = rows.double()
    for anchor in (0, n // 2, n - 1):
        distances = (wide - wide[anchor]).square().sum(1)
        distances[labels == labels[anchor]] = torch.inf
        assert fasttriplet.mine_batch_hard(rows, labels).negatives[anchor] == distances.argmin()


@pytest.mark.alone
def test_an_untested_device_is_not_trusted_while_a_graph_is_captured():
    """A first call inside a capture works, by float32 products."""
    code = (
        "import torch, fasttriplet\n"
        "rows, labels = torch.randn(64, 8, device='cuda'), torch.arange(64, device='cuda') // 4\n"
        "graph = torch.cuda.CUDAGraph()\n"
        "with torch.cuda.graph(graph):\n"
        "    mined = fasttriplet.mine_batch_hard(rows, labels)\n"
        "graph.replay()\n"
        "again = fasttriplet.mine_batch_hard(rows, labels)\n"
        "assert all(torch.equal(a, b) for a, b in zip(mined, again))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
