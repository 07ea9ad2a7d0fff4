"""Every loss and miner of the family against the float64 reference, over the whole table of inputs."""

import pytest
import torch

import fasttriplet
from fasttriplet import reference
from fasttriplet.pairing import checked_batch
from tests.family import DENSE, LOSSES, MINED, NAMES, assert_as_reference, loss_and_gradients, mine
from tests.inputs import CASES, DISTANCES, DTYPES, ON_MISSING, PAIRINGS, REDUCTIONS, batch, pair_up, undecided

BY_NAME = {case.name: case for case in CASES}
FEW = ("edge-25", "integers", "zero-rows")
TABLE = [
    pytest.param(number, case, distance, dtype, id=f"{case.name}-{distance}-{str(dtype).removeprefix('torch.')}")
    for number, case in enumerate(CASES)
    for distance in DISTANCES
    for dtype in DTYPES[:2]
    if not undecided(case, dtype, distance)
]


def assert_mined_as_reference(name, embeddings, labels, **options):
    mined = mine(fasttriplet, name, embeddings, labels, **options)
    expected = mine(reference, name, embeddings, labels, **options)
    for field in mined._fields:
        ours, theirs = getattr(mined, field), getattr(expected, field)
        if ours.dtype == torch.int64:
            assert torch.equal(ours, theirs), field
        else:
            torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=1e-6, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize(("number", "case", "distance", "dtype"), TABLE)
def test_mined_triplets_are_those_of_float64(number, case, distance, dtype):
    embeddings, classes = batch(case, dtype)
    for pairing in ("plain", PAIRINGS[1 + number % (len(PAIRINGS) - 1)]):
        labels, arguments = pair_up(pairing, embeddings, classes)
        for name, chosen in MINED:
            options = dict(chosen, margin=1.0) if name == "semi_hard" else chosen
            assert_mined_as_reference(name, embeddings, labels, distance=distance, **options, **arguments)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("dtype", DTYPES[1:3])
def test_mined_triplets_of_every_pairing(pairing, distance, dtype):
    for case in FEW:
        embeddings, classes = batch(BY_NAME[case], dtype)
        if undecided(BY_NAME[case], dtype, distance):
            continue
        labels, arguments = pair_up(pairing, embeddings, classes)
        for name, chosen in MINED:
            assert_mined_as_reference(name, embeddings, labels, distance=distance, **chosen, **arguments)


@pytest.mark.parametrize(("number", "case", "distance", "dtype"), TABLE)
def test_losses_are_those_of_the_reference(number, case, distance, dtype):
    embeddings, classes = batch(case, dtype)
    for turn, (name, chosen) in enumerate(LOSSES, start=number):  # in turns, so that each combination occurs
        labels, arguments = pair_up(PAIRINGS[turn % len(PAIRINGS)], embeddings, classes)
        options = dict(
            distance=distance,
            margin=0.5,
            soft_margin=turn % 3 == 0,
            reduction=REDUCTIONS[turn % 4],
            on_missing=ON_MISSING[turn % 2],
        )
        if turn % 5 < 2:
            options["weights"] = torch.arange(len(embeddings), dtype=torch.float32) % 4
        assert_as_reference(name, embeddings, labels, **options, **chosen, **arguments)


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_losses_of_every_pairing(pairing, soft_margin, reduction):
    embeddings, classes = batch(BY_NAME["edge-25"])
    labels, arguments = pair_up(pairing, embeddings, classes)
    for number, (name, chosen) in enumerate(LOSSES):
        for on_missing in ON_MISSING[:2]:
            options = dict(soft_margin=soft_margin, reduction=reduction, on_missing=on_missing)
            options["distance"] = DISTANCES[number % 4]
            weights = torch.linspace(0, 2, len(embeddings), dtype=torch.float64) if number % 3 else None
            assert_as_reference(name, embeddings, labels, weights=weights, **options, **chosen, **arguments)


@pytest.mark.parametrize("dtype", DTYPES[2:])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_widened(name, dtype):
    embeddings, classes = batch(BY_NAME["edge-48"], dtype)
    for pairing in ("plain", "own-copies"):
        labels, arguments = pair_up(pairing, embeddings, classes)
        assert_as_reference(name, embeddings, labels, **arguments)


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_references_of_two_dtypes(name):
    """Both become the wider one, which changes no value; each gradient has the dtype of its rows."""
    embeddings, labels = batch(BY_NAME["edge-48"], torch.float32)
    options = dict(ref_labels=labels, distance="squared_euclidean")
    for dtype, working in ((torch.float64, torch.float64), (torch.float16, torch.float32)):
        references = (embeddings + 0.25).to(dtype)
        loss, gradients = loss_and_gradients(
            fasttriplet, name, embeddings, labels, ref_embeddings=references, **options
        )
        assert loss.dtype == working and [gradient.dtype for gradient in gradients] == [torch.float32, dtype]
        expected, _ = loss_and_gradients(
            fasttriplet, name, embeddings.double(), labels, ref_embeddings=references.double(), **options
        )
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_float64_references_make_half_precision_rows_float64(name):
    """The loss is float64 and that of the values given: not of references rounded to the rows' dtype."""
    rows, labels = batch(BY_NAME["edge-48"], torch.float16)
    references = rows.double() + 1e-9
    options = dict(ref_labels=labels, margin=1.0)
    loss, gradients = loss_and_gradients(fasttriplet, name, rows, labels, ref_embeddings=references, **options)
    expected, _ = loss_and_gradients(reference, name, rows.double(), labels, ref_embeddings=references, **options)
    assert loss.dtype == torch.float64 and [gradient.dtype for gradient in gradients] == [torch.float16, torch.float64]
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", NAMES)
def test_a_pair_at_distance_zero_has_no_gradient_but_by_inner_product(name, distance):
    """A positive that is equal to its anchor, by inner product at right angles, and what it gets."""
    anchor = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    positive = torch.tensor([[0.0, 1.0]], dtype=torch.float64) if distance == "inner_product" else anchor
    references = torch.cat([positive, torch.tensor([[-3.0, -9.0]])])
    arguments = dict(ref_embeddings=references, ref_labels=torch.tensor([0, 1]), distance=distance, margin=999.0)
    loss, gradients = loss_and_gradients(fasttriplet, name, anchor, torch.tensor([0]), **arguments)
    assert loss > 0
    expected = -anchor[0] if distance == "inner_product" else torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(gradients[1][0], expected)


@pytest.mark.parametrize("name", NAMES)
def test_upstream_gradients_are_carried(name):
    embeddings, labels = batch(BY_NAME["edge-25"])
    generator = torch.Generator().manual_seed(3)
    none = getattr(fasttriplet, f"{name}_triplet_loss")(embeddings, labels, reduction="none")
    each = torch.randn(len(none), dtype=torch.float64, generator=generator)
    assert_as_reference(name, embeddings, labels, each, reduction="none", soft_margin=True)
    assert_as_reference(name, embeddings, labels, torch.tensor(-2.5), reduction="mean", soft_margin=True)


@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("case", ["integers", "binary", "duplicates", "two-values", "all-equal", "edge-100"])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_batch_all_counts_exactly(case, soft_margin, dtype):
    """Exact ties in d_ap + margin = d_an: such a triplet is not active."""
    embeddings, classes = batch(BY_NAME[case], dtype)
    for pairing in PAIRINGS:
        labels, arguments = pair_up(pairing, embeddings, classes)
        given = checked_batch(embeddings, labels, arguments)
        wanted = reference.batch_of(embeddings.double(), labels, **{**arguments, **_double(arguments)})
        for distance in (0, 1, 3):
            matrix = reference.pairwise_distances(wanted.rows, DISTANCES[distance], wanted.references)
            for margin in (0.0, 1.0, -1.0):
                _, counts, negative_counts, *_ = torch.ops.fasttriplet.batch_all(
                    *given.arguments, distance, margin, soft_margin, False
                )
                active, per_negative = [], torch.zeros_like(negative_counts)
                for row, positive, negative in zip(matrix, wanted.positive, wanted.negative, strict=True):
                    above = (row[positive][:, None] - row[negative] + margin > 0) | soft_margin
                    active.append(above.sum())
                    per_negative[negative] += above.sum(0)
                assert torch.equal(counts[0], torch.stack(active))
                assert torch.equal(counts[1], wanted.positive.sum(1) * wanted.negative.sum(1))
                assert torch.equal(negative_counts, per_negative)


def _double(arguments):
    return {name: value.double() for name, value in arguments.items() if name == "ref_embeddings"}


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], []])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_counts_gives_zero_joined_to_the_graph(name, labels, reduction):
    function = getattr(fasttriplet, f"{name}_triplet_loss")
    for weights in (None, torch.ones(len(labels))):
        embeddings = torch.randn(len(labels), 4, requires_grad=True)
        loss = function(embeddings, torch.tensor(labels, dtype=torch.int64), reduction=reduction, weights=weights)
        assert loss.requires_grad and not loss.any()
        loss.sum().backward()
        assert embeddings.grad.shape == embeddings.shape and not embeddings.grad.any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0)])
def test_no_references_and_no_columns(name, shape):
    function = getattr(fasttriplet, f"{name}_triplet_loss")
    embeddings, references = torch.zeros(6, shape[1], requires_grad=True), torch.zeros(shape, requires_grad=True)
    ref_labels = torch.arange(shape[0]) % 2
    loss = function(embeddings, torch.arange(6) % 2, ref_embeddings=references, ref_labels=ref_labels, margin=0.25)
    assert loss.item() == pytest.approx(0.25 if shape[0] else 0.0)
    loss.backward()
    assert embeddings.grad.shape == (6, shape[1]) and references.grad.shape == shape


@pytest.mark.parametrize("name", NAMES)
def test_no_anchors_beside_references(name):
    function = getattr(fasttriplet, f"{name}_triplet_loss")
    embeddings, references = torch.zeros(0, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.int64)
    loss = function(embeddings, labels, ref_embeddings=references, ref_labels=torch.arange(5) % 2)
    loss.backward()
    assert loss.item() == 0 and not references.grad.any()


@pytest.mark.parametrize("operator", ["batch_all", "_batch_all_backward", "_weighted_distances_backward"])
def test_no_anchors_leave_no_gradient_unwritten(operator):
    references = torch.randn(5, 3)
    pairing = (torch.zeros(0, 3), torch.zeros(0).long(), references, [torch.arange(5) % 2], [], 0)
    call = getattr(torch.ops.fasttriplet, operator)
    for _ in range(20):  # an allocator hands out the memory that was freed last
        for _ in range(8):
            torch.full_like(references, float("nan"))
        if operator == "batch_all":
            results = call(*pairing, 0.2, False, True)[3:]
        elif operator == "_batch_all_backward":
            results = call(torch.zeros(0, dtype=torch.float64), *pairing, 0.2, False)
        else:
            results = call(torch.zeros(2, 0, dtype=torch.float64), *pairing, torch.zeros(8, 0, dtype=torch.float64))
        assert results[1].shape == (5, 3) and not results[1].any()


@pytest.mark.parametrize("name", ["batch_all", "weighted"])
@pytest.mark.parametrize("scale", [1.0, 1e200])
def test_distances_beyond_float64_make_the_loss_nan(name, scale):
    rows = scale * torch.tensor([[1.0], [2.0], [5.0], [9.0]], dtype=torch.float64)
    for module in (fasttriplet, reference):
        function = getattr(module, f"{name}_triplet_loss")
        loss = function(rows, torch.tensor([0, 0, 1, 1]), distance="squared_euclidean")
        assert loss.isnan() == (scale > 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_is_not_finite(name, pairing, value):
    embeddings = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    embeddings[7, 1] = value
    labels, arguments = pair_up(pairing, embeddings, torch.arange(30) // 3)
    takes_part = torch.ones(30, dtype=torch.bool)
    if "ignore_index" in arguments:
        takes_part = labels != arguments["ignore_index"]
    for reduction in REDUCTIONS:
        for weights in (None, torch.ones(30)):
            options = dict(reduction=reduction, weights=weights, **arguments)
            loss, gradients = loss_and_gradients(fasttriplet, name, embeddings, labels, **options)
            expected, _ = loss_and_gradients(reference, name, embeddings, labels, **options)
            assert torch.equal(loss.isnan(), expected.isnan()) and loss.isnan().any()
            assert gradients[0][takes_part].isnan().all() and all(g.isnan().any() for g in gradients)
    if name not in ("batch_all", "weighted"):
        mined = mine(fasttriplet, name, embeddings, labels, **arguments)
        expected = mine(reference, name, embeddings, labels, **arguments)
        assert torch.equal(mined.positives, expected.positives) and torch.equal(mined.negatives, expected.negatives)
        assert torch.equal(mined.negative_distances.isnan(), expected.negative_distances.isnan())


@pytest.mark.parametrize("name", NAMES)
def test_not_finite_and_nothing_counts(name):
    for labels in ([0, 0, 0], [0, 1, 2]):
        embeddings = torch.tensor([[0.0], [float("nan")], [1.0]])
        for reduction in REDUCTIONS[1:]:
            options = dict(reduction=reduction, weights=torch.ones(3))
            loss, (gradient,) = loss_and_gradients(fasttriplet, name, embeddings, torch.tensor(labels), **options)
            assert loss.isnan() and gradient.isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_error_on_missing(name):
    function = getattr(fasttriplet, f"{name}_triplet_loss")
    options = dict(on_missing="error", ignore_index=5)
    with pytest.raises(ValueError, match=r"labels must give .*; got 1 of 3 anchors without, the first at index 2"):
        function(torch.zeros(3, 1), torch.tensor([0, 0, 1]), **options)
    assert function(torch.zeros(5, 1), torch.tensor([0, 0, 5, 1, 1]), **options) == pytest.approx(0.3)
    assert function(torch.full((3, 1), torch.nan), torch.tensor([0, 0, 1]), **options).isnan()


def test_weights_have_gradients():
    embeddings, labels = batch(BY_NAME["edge-25"])
    for name, chosen in LOSSES:
        weights = torch.rand(25, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        function = getattr(fasttriplet, f"{name}_triplet_loss")
        function(embeddings, labels, weights=weights, **chosen).backward()
        wanted = weights.detach().clone().requires_grad_()
        getattr(reference, f"{name}_triplet_loss")(embeddings, labels, weights=wanted, **chosen).backward()
        torch.testing.assert_close(weights.grad, wanted.grad)


def test_permuting_the_batch_permutes_the_answer():
    embeddings, labels = batch(BY_NAME["edge-101"])
    order = torch.randperm(101, generator=torch.Generator().manual_seed(2))
    for name, chosen in (*MINED[:1], *MINED[5:], *DENSE):
        function = getattr(fasttriplet, f"{name}_triplet_loss")
        per_anchor = function(embeddings, labels, reduction="none", weights=torch.ones(101), **chosen).view(101, -1)
        permuted = function(embeddings[order], labels[order], reduction="none", weights=torch.ones(101), **chosen).view(
            101, -1
        )
        torch.testing.assert_close(permuted, per_anchor[order], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kth_only", [False, True])
@pytest.mark.parametrize("skip_fraction", [0.0, 0.4])
@pytest.mark.parametrize("references", [None, 3, 0])
def test_a_k_above_the_candidates_is_their_number(references, skip_fraction, kth_only):
    """The largest k that is taken would otherwise ask for terabytes."""
    embeddings, labels = batch(BY_NAME["edge-25"])
    arguments, candidates = {}, len(labels)
    if references is not None:
        arguments, candidates = dict(ref_embeddings=embeddings[:references], ref_labels=labels[:references]), references
    for k in (max(1, candidates - 1), max(1, candidates), candidates + 1, 10**5, 2**31 - 1):
        options = dict(k=k, kth_only=kth_only, skip_fraction=skip_fraction)
        assert_mined_as_reference("k_hardest", embeddings, labels, **options, **arguments)
        mined = mine(fasttriplet, "k_hardest", embeddings, labels, **options, **arguments)
        assert len(mined.anchors) == len(labels) * (1 if kth_only else min(k, candidates))
        ours, theirs = (
            module.k_hardest_triplet_loss(embeddings, labels, return_stats=True, **options, **arguments)[1]
            for module in (fasttriplet, reference)
        )
        torch.testing.assert_close(tuple(ours), tuple(theirs), rtol=1e-6, atol=1e-7, equal_nan=True)
        for number, reduction in enumerate(REDUCTIONS):
            options.update(reduction=reduction, on_missing=ON_MISSING[number % 2], margin=0.5)
            assert_as_reference("k_hardest", embeddings, labels, **options, **arguments)
            weights = torch.arange(len(labels), dtype=torch.float64)
            assert_as_reference("k_hardest", embeddings, labels, weights=weights, **options, **arguments)
