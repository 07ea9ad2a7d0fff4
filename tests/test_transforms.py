"""Losses and miners under the transforms of ``torch.func``, against ``torch.autograd`` and loops."""

import warnings

import pytest
import torch
from torch.func import grad, hessian, jacrev, jvp, vjp, vmap

import fasttriplet
from fasttriplet import reference
from tests.family import LOSSES, NAMES

G = torch.Generator().manual_seed(0)
ROWS = torch.randn(12, 4, dtype=torch.float64, generator=G)
MANY = torch.randn(3, 12, 4, dtype=torch.float64, generator=G)
LABELS = torch.arange(12) // 3
REFERENCES = dict(
    ref_embeddings=torch.randn(20, 4, dtype=torch.float64, generator=G),
    ref_labels=torch.arange(20) // 5,
    ref_mask=torch.arange(20) != 3,
    sample_ids=torch.arange(12) - 1,
    ref_sample_ids=torch.arange(20) - 1,
)
OF_PAIRS = ("batch_all", "weighted")
MINED = tuple(name for name in NAMES if name not in OF_PAIRS)


def function(name, **options):
    return lambda rows, labels=LABELS: getattr(fasttriplet, f"{name}_triplet_loss")(rows, labels, **options)


def gradient(loss, rows):
    rows = rows.clone().requires_grad_()
    return torch.autograd.grad(loss(rows), rows)[0]


@pytest.mark.parametrize("extra", ["plain", "references", "weights"])
@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_grad_is_that_of_autograd(number, extra):
    name, chosen = LOSSES[number]
    options = {"plain": {}, "references": REFERENCES, "weights": dict(weights=torch.linspace(0, 2, 12))}[extra]
    for soft_margin, distance in ((False, "euclidean"), (True, "cosine"), (True, "inner_product")):
        loss = function(name, soft_margin=soft_margin, distance=distance, margin=1.0, **chosen, **options)
        torch.testing.assert_close(grad(loss)(ROWS), gradient(loss, ROWS), rtol=1e-10, atol=1e-13)
        value, pull = vjp(loss, ROWS)
        torch.testing.assert_close(value, loss(ROWS), rtol=1e-12, atol=0)
        (pulled,) = pull(torch.tensor(2.0, dtype=torch.float64))
        torch.testing.assert_close(pulled, 2 * gradient(loss, ROWS), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes_are_those_of_autograd(name, dtype):
    rows, loss = ROWS.to(dtype), function(name)
    found, expected = grad(loss)(rows), gradient(loss, rows)
    assert found.dtype == dtype and vjp(loss, rows)[0].dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_references(name):
    options = {**REFERENCES}
    references = options.pop("ref_embeddings")

    def loss(rows):
        return function(name, ref_embeddings=rows, **options)(ROWS)

    torch.testing.assert_close(grad(loss)(references), gradient(loss, references), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_jacrev_is_the_gradient_of_each_loss(name):
    loss = function(name, reduction="none", margin=1.0)
    each = loss(ROWS)
    expected = torch.stack([gradient(lambda rows, t=t: loss(rows)[t], ROWS) for t in range(len(each))])
    torch.testing.assert_close(jacrev(loss)(ROWS), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("labels", ["one", "many"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "semi_hard"])
def test_vmap_is_a_loop(name, labels):
    each = LABELS.expand(3, 12) if labels == "one" else torch.stack([LABELS, LABELS.flip(0), torch.arange(12) % 4])
    loss = function(name, soft_margin=True)
    dims = (0, None if labels == "one" else 0)
    given = LABELS if labels == "one" else each
    expected = torch.stack([loss(rows, ids) for rows, ids in zip(MANY, each, strict=True)])
    torch.testing.assert_close(vmap(loss, dims)(MANY, given), expected, rtol=1e-12, atol=0)
    expected = torch.stack([gradient(lambda r, ids=ids: loss(r, ids), r) for r, ids in zip(MANY, each, strict=True)])
    torch.testing.assert_close(vmap(grad(loss), dims)(MANY, given), expected, rtol=1e-10, atol=1e-13)
    losses, stats = vmap(function(name, return_stats=True))(MANY)
    assert losses.shape == (3,) and stats.negative_counts.shape == (3, 12)


@pytest.mark.parametrize("name", ["batch_hard", "easy_positive", "k_hardest"])
def test_vmap_of_miners(name):
    miner = getattr(fasttriplet, f"mine_{name}")
    for options in ({}, REFERENCES):
        found = vmap(lambda rows, options=options: tuple(miner(rows, LABELS, **options)))(MANY)
        expected = [miner(rows, LABELS, **options) for rows in MANY]
        for field, each in zip(found, zip(*expected, strict=True), strict=True):
            torch.testing.assert_close(field, torch.stack(each), equal_nan=True)


@pytest.mark.parametrize("name", MINED)
def test_mined_losses_have_every_derivative(name):
    loss = function(name, soft_margin=True, distance="squared_euclidean")
    expected = hessian(
        lambda rows: getattr(reference, f"{name}_triplet_loss")(
            rows, LABELS, soft_margin=True, distance="squared_euclidean"
        )
    )(ROWS)
    torch.testing.assert_close(hessian(loss)(ROWS), expected, rtol=1e-9, atol=1e-12)
    direction = torch.linspace(-1, 1, 48, dtype=torch.float64).view(12, 4)
    _, along = jvp(loss, (ROWS,), (direction,))
    torch.testing.assert_close(along, (gradient(loss, ROWS) * direction).sum())


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("options", [{}, dict(swap=True, soft_margin=True), dict(mining_margin=0.3, reduction="sum")])
def test_explicit_triplets(options, distance):
    weights = torch.linspace(0, 1, 12, dtype=torch.float64)

    def loss(anchor, positive=MANY[1], negative=MANY[2]):
        return fasttriplet.triplet_margin_loss(
            anchor, positive, negative, distance=distance, weights=weights, **options
        )

    torch.testing.assert_close(grad(loss)(ROWS), gradient(loss, ROWS), rtol=1e-10, atol=1e-13)
    expected = torch.stack([gradient(loss, rows) for rows in MANY])
    torch.testing.assert_close(vmap(grad(loss))(MANY), expected, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(vjp(loss, ROWS)[0], loss(ROWS), rtol=1e-12, atol=0)
    broken = torch.where(torch.arange(12)[:, None] == 2, torch.inf, ROWS)
    assert vjp(loss, broken)[0].isnan() and grad(loss)(broken)[2].isnan().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_is_not_finite_makes_everything_nan(name):
    broken = torch.where(torch.arange(12)[:, None] == 3, torch.nan, ROWS)
    for labels in (LABELS, torch.zeros(12, dtype=torch.int64)):  # where nothing counts as well
        assert grad(lambda rows, labels=labels: function(name)(rows, labels))(broken).isnan().all()
    options = {**REFERENCES}
    references = options.pop("ref_embeddings")
    of_references = grad(lambda rows: function(name, ref_embeddings=rows, **options)(broken))(references)
    assert of_references.isnan().all()  # of those too that were not chosen
    empty = dict(ref_embeddings=ROWS[:0], ref_labels=LABELS[:0])
    assert vjp(function(name, **empty), broken)[0].isnan()
    partly = torch.where(torch.arange(12) == 3, -1, LABELS)
    finite = grad(lambda rows: function(name, ignore_index=-1)(rows, partly))(broken)
    assert finite.isfinite().all() and finite.any()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_choose_from(name):
    empty = dict(ref_embeddings=ROWS[:0], ref_labels=LABELS[:0])
    assert not grad(function(name, **empty))(ROWS).any()
    assert not grad(lambda rows: function(name)(rows, torch.arange(12)))(ROWS).any()
    assert grad(lambda rows: function(name)(rows, LABELS[:0]))(ROWS[:0]).shape == (0, 4)


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match=r"embeddings must be one batch .* for semi-hard mining"):
        vmap(function("semi_hard"))(MANY)
    with pytest.raises(ValueError, match=r"on_missing must be 'skip' or 'zero' under torch.vmap"):
        vmap(function("batch_hard", on_missing="error"))(MANY)
    with pytest.raises(ValueError, match=r"on_missing must be 'skip' or 'zero' under torch.vmap"):
        vmap(grad(function("weighted", on_missing="error")))(MANY)
    with pytest.raises(ValueError, match=r"on_missing must be 'skip' or 'zero' under torch.vmap"):
        options = dict(ref_labels=LABELS, on_missing="error")
        vmap(lambda rows: function("batch_all", ref_embeddings=rows, **options)(ROWS))(MANY)
    with pytest.raises(ValueError, match=r"embeddings must be at least one batch \[N, D\] under torch.vmap; got 0"):
        vmap(function("batch_hard"))(MANY[:0])
    for name in OF_PAIRS:
        loss = function(name)
        with pytest.raises(NotImplementedError, match=r"have no derivative in forward mode"):
            jvp(loss, (ROWS,), (ROWS,))
        with pytest.raises(NotImplementedError, match=rf"{name}_triplet_loss is differentiable once"):
            grad(lambda rows, loss=loss: grad(loss)(rows).sum())(ROWS)
    with pytest.raises(ValueError, match=r"got 12 of 12 anchors without"):
        grad(lambda rows: function("k_hardest", on_missing="error")(rows, torch.arange(12)))(ROWS)


@pytest.mark.parametrize("name", ["batch_hard", "k_hardest"])
def test_a_compiled_transform_is_the_transform(name):
    torch.compiler.reset()
    loss = function(name, soft_margin=True)
    compiled = torch.compile(grad(loss), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ROWS), grad(loss)(ROWS), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_compiled_transform_over_all_pairs_is_refused(name):
    torch.compiler.reset()
    with pytest.raises(Exception, match=r"cannot be traced by torch.compile"):
        torch.compile(grad(function(name)), fullgraph=True, backend="aot_eager")(ROWS)


def test_ordinary_calls_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in NAMES:
            grad(function(name))(ROWS)
