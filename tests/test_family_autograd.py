"""Derivatives, operator registration and torch.compile of the family."""

import pytest
import torch

import fasttriplet
from fasttriplet import engines
from fasttriplet.arguments import PairingRules, as_lists
from fasttriplet.check import MINERS
from tests.family import LOSSES, MODULES, NAMES
from tests.inputs import DISTANCES, PAIRINGS, REDUCTIONS, pair_up

OPS = torch.ops.fasttriplet
LABELS = torch.arange(9) // 3
MINED_NAMES = NAMES[:4]


def leaf(n=9, d=3, dtype=torch.float64, seed=0):
    return torch.randn(n, d, dtype=dtype, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def function_of(name, labels, **options):
    """Of rows and, with references, of those."""

    def loss(rows, references=None):
        if references is not None:
            options["ref_embeddings"] = references
        return getattr(fasttriplet, f"{name}_triplet_loss")(rows, labels, **options)

    return loss


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("pairing", ["plain", "everything", "multi-hot"])
@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_derivatives(number, pairing, distance):
    name, chosen = LOSSES[number]
    labels, arguments = pair_up(pairing, leaf().detach(), LABELS)
    rows = [leaf()]
    if "ref_embeddings" in arguments:
        rows.append(leaf(len(arguments.pop("ref_embeddings")), seed=1))
    options = dict(distance=distance, soft_margin=True, reduction=REDUCTIONS[number % 4], weights=torch.ones(9))
    if number % 2:
        options.update(soft_margin=False, on_missing="zero", weights=None, margin=2.0)
    loss = function_of(name, labels, **options, **chosen, **arguments)
    assert torch.autograd.gradcheck(loss, rows)
    if name in MINED_NAMES:
        assert torch.autograd.gradgradcheck(loss, rows)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("name", MINED_NAMES)
def test_second_derivatives_beside_an_ignored_row_that_is_not_finite(name, references, bad):
    """Row 0, which stands first where an anchor has no positive: the last two rows are alone in their classes."""
    labels = torch.tensor([-1, 0, 0, 1, 1, 2, 3])

    def second(first):
        rows = leaf(7)
        broken = torch.where(torch.arange(7)[:, None] == 0, bad, rows)
        options = {"ref_embeddings": broken[first:].detach(), "ref_labels": labels[first:]} if references else {}
        loss = function_of(name, labels[first:], ignore_index=-1, soft_margin=True, on_missing="zero", **options)
        (gradient,) = torch.autograd.grad(loss(broken[first:]), rows, create_graph=True)
        (result,) = torch.autograd.grad(gradient[1:].square().sum(), rows)
        return result[1:]

    assert second(1).any()
    torch.testing.assert_close(second(0), second(1))


@pytest.mark.parametrize("on_missing", ["skip", "zero"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("name", MINED_NAMES)
def test_the_loss_in_one_operator_is_that_of_plain_pytorch(name, soft_margin, reduction, on_missing):
    """Weights of one and statistics go by plain PyTorch; two rows have no positive. An index that no label has makes
    batch-hard take the way of the others."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 3])
    good = leaf(7).detach()
    for rows in (good, good.index_fill(0, torch.tensor([1]), torch.nan), good * 1e100, good[:3], good[5:6], good[:0]):
        results = []
        for extra in ({}, dict(weights=torch.ones(len(rows))), dict(return_stats=True)):
            options = dict(
                soft_margin=soft_margin, reduction=reduction, on_missing=on_missing, ignore_index=-1, **extra
            )
            own = rows.clone().requires_grad_()
            loss = function_of(name, labels[: len(rows)], **options)(own)
            loss = loss[0] if "return_stats" in extra else loss
            loss.sum().backward()
            results.append((loss.detach(), own.grad))
        for other in results[1:]:
            torch.testing.assert_close(results[0], other, equal_nan=True)


@pytest.mark.parametrize("name", MINED_NAMES)
def test_an_infinite_gradient_of_a_loss_of_zero_stays_with_it(name):
    """As a root over the losses has it; what does not count or is zero moves nothing."""
    gradients = []
    for extra in ({}, dict(weights=torch.ones(9))):
        rows = leaf()
        options = dict(reduction="none", ignore_index=-1, **extra)
        middle = function_of(name, LABELS, margin=100.0, **options)(rows).median().item()
        losses = function_of(name, LABELS, margin=100.0 - middle - 1e-3, **options)(rows)
        assert losses.any() and not losses.all()
        gradients.append(torch.autograd.grad(losses.sqrt().sum(), rows)[0])
    assert gradients[0].isfinite().all()
    torch.testing.assert_close(*gradients)


def test_arguments_of_the_loss_operator():
    distances, triplets = OPS.mine_triplets(leaf(), LABELS, None, [], [], 0, 0, 0, False, 0.0, 1, False, 0.0)
    one = distances.new_ones(())
    for arguments, match in (
        (
            (distances.float(), triplets, one),
            r"distances must be what mine_triplets returned .*; got torch.float32 \[2, 9\]",
        ),
        (
            (distances[:, 1:], triplets, one),
            r"distances must be what mine_triplets returned .*; got torch.float64 \[2, 8\]",
        ),
        ((distances, triplets[:2], one), r"triplets must be what mine_triplets returned .*; got torch.int64 \[2, 9\]"),
        ((distances, triplets, one[None]), r"poison must be a float64 scalar, \[\]; got torch.float64 \[1\]"),
    ):
        with pytest.raises(ValueError, match=match):
            OPS.triplet_losses(*arguments, 0.3, False, 0, 0)


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_an_ignored_row_that_is_not_finite_has_no_gradient(name, distance, references):
    labels = torch.tensor([0, 0, -1, 1, 1, 2, 2])
    rows = torch.where(labels[:, None] == -1, torch.nan, leaf(7)).detach().requires_grad_()
    options = dict(distance=distance, margin=2.0, ignore_index=-1)
    candidates = rows.detach().clone().requires_grad_()
    if references:
        options.update(ref_embeddings=candidates, ref_labels=labels)
    function_of(name, labels, **options)(rows).backward()
    for leaves in (rows, candidates) if references else (rows,):
        assert not leaves.grad[2].any() and leaves.grad.isfinite().all() and leaves.grad.any()


@pytest.mark.parametrize("name", ["batch_all", "weighted"])
def test_second_derivatives_of_dense_losses_are_refused_by_name(name):
    rows = leaf()
    for reduction in ("mean", "none"):
        loss = function_of(name, LABELS, reduction=reduction, soft_margin=True)(rows).sum()
        (gradient,) = torch.autograd.grad(loss, rows, create_graph=True)
        with pytest.raises(
            NotImplementedError, match=rf"{name}_triplet_loss is differentiable once; .*reference\.{name}"
        ):
            gradient.square().sum().backward()


@pytest.mark.parametrize("name", MINED_NAMES)
def test_second_derivative_at_distance_zero_is_finite(name):
    rows = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    loss = function_of(name, torch.arange(6) // 2, weights=torch.ones(6))(rows)
    (gradient,) = torch.autograd.grad(loss, rows, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), rows)
    assert second.isfinite().all()


def test_only_what_is_asked_for_has_a_gradient():
    for name in NAMES:
        rows, references = leaf(), leaf(8, seed=1)
        loss = function_of(name, LABELS, ref_labels=torch.arange(8) % 3)
        loss(rows.detach(), references).backward()
        assert references.grad.any() and rows.grad is None
        (gradient,) = torch.autograd.grad(loss(rows, references.detach()), rows)
        assert gradient.any()


def test_backward_twice_gives_the_same():
    for name in NAMES:
        rows = leaf()
        loss = function_of(name, LABELS)(rows)
        (first,) = torch.autograd.grad(loss, rows, retain_graph=True)
        (second,) = torch.autograd.grad(loss, rows)
        assert first.any() and torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:fasttriplet.*an autograd kernel was not registered")  # the Functions are above them
@pytest.mark.filterwarnings("ignore:.*is_leaf:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pairing", ["plain", "reference-samples", "multi-hot"])
def test_opcheck(pairing, dtype):
    rows = leaf(12, 4, dtype).detach()  # opcheck compares without equal_nan: every anchor must be complete
    labels, arguments = pair_up("plain" if pairing == "multi-hot" else pairing, rows, torch.arange(12) // 4 % 2)
    if pairing == "multi-hot":
        labels = torch.nn.functional.one_hot(labels).bool()
    references = arguments.pop("ref_embeddings", None)
    five = (rows, labels, references, *as_lists(arguments))
    for miner in range(len(MINERS)):
        choice = (*five, miner % 4, miner, 0, False, 0.3, 2, miner % 2 == 0, 0.1)
        torch.library.opcheck(OPS.mine_triplets.default, choice)
    distances, triplets = OPS.mine_triplets(*five, 0, 4, 0, False, 0.0, 2, False, 0.0)
    for reduction in range(len(REDUCTIONS)):
        arguments = distances, triplets, distances.new_ones(()), 0.3, reduction % 2 == 0, reduction, reduction % 2
        torch.library.opcheck(OPS.triplet_losses.default, arguments)
    grad = torch.ones_like(distances)
    given = grad, rows, references, distances, triplets, 0
    for parts in ([], [1, 3, 2, 2] if references is not None else [1, 3, 0, 0]):
        torch.library.opcheck(OPS._triplet_distances_backward.default, (*given, parts))
    torch.library.opcheck(OPS.batch_all.default, (*five, 1, 0.3, False, True))
    grad = torch.ones(12, dtype=torch.float64)
    for with_gradient, weights in ((True, None), (True, grad), (False, None)):
        torch.library.opcheck(OPS.semi_hard.default, (*five, 1, 0, True, 0.3, False, with_gradient, weights))
    torch.library.opcheck(OPS._batch_all_backward.default, (grad, *five, 1, 0.3, True))
    torch.library.opcheck(OPS.weighted_distances.default, (*five, 2))
    distances = OPS.weighted_distances(*five, 2)
    torch.library.opcheck(
        OPS._weighted_distances_backward.default, (torch.ones(2, 12, dtype=torch.float64), *five, 2, distances)
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name != "semi_hard"])
@pytest.mark.parametrize("pairing", ["plain", "everything"])
def test_compiles_without_a_graph_break(name, pairing):
    torch.compiler.reset()
    labels, arguments = pair_up(pairing, leaf(dtype=torch.float32).detach(), LABELS)
    rules = {rule: arguments.pop(rule) for rule in PairingRules.__annotations__ if rule in arguments}
    module = getattr(fasttriplet, MODULES[name])(**rules, return_stats=True)
    function = torch.compile(lambda rows: module(2 * rows, labels, **arguments), fullgraph=True)
    rows, twin = leaf(dtype=torch.float32), leaf(dtype=torch.float32)
    (loss, stats), (expected, wanted) = function(rows), module(2 * twin, labels, **arguments)
    loss.backward(), expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(rows.grad, twin.grad)
    torch.testing.assert_close(tuple(stats), tuple(wanted), equal_nan=True)


def test_semi_hard_compiles_around_its_length():
    """How many triplets there are depends on the labels: the length is a symbol in the graph."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        function = torch.compile(lambda rows: fasttriplet.mine_semi_hard(rows, LABELS).negatives, fullgraph=True)
        assert torch.equal(function(leaf().detach()), fasttriplet.mine_semi_hard(leaf().detach(), LABELS).negatives)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero", "sum"])
def test_semi_hard_compiles_where_no_pair_is_listed(reduction, weighted):
    torch.compiler.reset()
    labels = LABELS
    arguments = {"weights": torch.linspace(0.5, 2, len(LABELS))} if weighted else {}
    loss = function_of("semi_hard", labels, reduction=reduction, **arguments)
    rows, twin = leaf(dtype=torch.float32), leaf(dtype=torch.float32)
    found, expected = torch.compile(loss, fullgraph=True)(rows), loss(twin)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(*pair)[0] for pair in ((found, rows), (expected, twin))))


@pytest.mark.parametrize("k", [4, 10**5])
def test_k_hardest_compiles_for_any_number_of_candidates(k):
    """Its length is k or their number an anchor, whichever is less."""
    torch.compiler.reset()

    def losses(rows, labels):
        return fasttriplet.k_hardest_triplet_loss(rows, labels, k=k, reduction="none")

    compiled = torch.compile(losses, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (9, 5, 3):
        rows, labels = torch.randn(n, 3, requires_grad=True), torch.arange(n) // 2
        found, expected = compiled(rows, labels), losses(rows, labels)
        assert len(found) == n * min(k, n)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(each.sum(), rows) for each in (found, expected)))


@pytest.mark.parametrize("name", NAMES)
def test_no_grad_inference_mode_and_autocast(name):
    rows = leaf(dtype=torch.float32)
    loss = function_of(name, LABELS, weights=torch.ones(9))
    expected = loss(rows)
    assert expected.requires_grad
    with torch.no_grad():
        assert not loss(rows).requires_grad and torch.equal(loss(rows), expected)
    with torch.inference_mode():
        assert torch.equal(loss(rows.clone()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = rows @ torch.eye(3)
        autocast = loss(half)
    assert half.dtype == torch.bfloat16 and autocast.dtype == torch.float32
    autocast.backward()
    assert rows.grad.dtype == torch.float32 and rows.grad.any()


def test_meta_tensors_give_shapes():
    rows, labels = torch.empty(7, 3, device="meta", requires_grad=True), torch.empty(7, device="meta").long()
    for name, shape in (("batch_hard", 7), ("easy_positive", 7), ("k_hardest", 28), ("batch_all", 7), ("weighted", 7)):
        loss = function_of(name, labels, reduction="none", weights=torch.ones(7, device="meta"))(rows)
        assert loss.shape == (shape,)
        assert torch.autograd.grad(loss.sum(), rows)[0].shape == (7, 3)
    loss = function_of("k_hardest", labels, reduction="none", k=100)(rows)
    assert loss.shape == (7 * 7,)
    loss = function_of("semi_hard", labels)(rows)
    assert loss.shape == () and torch.autograd.grad(loss, rows)[0].shape == (7, 3)
    with pytest.raises(ValueError, match=r"embeddings must be on a device that has values, .* on meta"):
        function_of("semi_hard", labels, reduction="none")(rows)


def test_every_pairing_is_tested():
    assert set(PAIRINGS) >= {"plain", "reference-samples", "multi-hot", "everything"}


def test_batch_all_makes_no_gradient_where_none_is_recorded():
    asked = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is engines.operator("batch_all", rows.device):
                asked.append(args[-1])
            return function(*args, **(kwargs or {}))

    rows, labels = torch.randn(6, 4, requires_grad=True), torch.arange(6) // 2
    with Watch():
        loss = fasttriplet.batch_all_triplet_loss(rows, labels)
        with torch.no_grad():
            same = fasttriplet.batch_all_triplet_loss(rows, labels)
    assert asked == [True, False] and torch.equal(loss.detach(), same)
