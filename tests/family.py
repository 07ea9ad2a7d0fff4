"""What the tests of the family share: its losses and miners by name, and how to compare them with the reference."""

from __future__ import annotations

import torch
from torch import Tensor

import fasttriplet
from fasttriplet import reference

#: Every miner with every choice of its own.
MINED = (
    ("batch_hard", {}),
    *(("semi_hard", dict(within_margin=w, otherwise=o)) for w in (False, True) for o in reference.OTHERWISE),
    *(("easy_positive", dict(negatives=n, otherwise=o)) for n in ("hardest", "semi_hard") for o in reference.OTHERWISE),
    *(("k_hardest", dict(k=k, kth_only=o, skip_fraction=f)) for k, f in ((1, 0.0), (3, 0.4)) for o in (False, True)),
)
DENSE = (("batch_all", {}), ("weighted", {}))
LOSSES = (*MINED, *DENSE)
#: One of each, for where choices do not matter.
NAMES = ("batch_hard", "semi_hard", "easy_positive", "k_hardest", "batch_all", "weighted")
MODULES = {name: "".join(part.capitalize() for part in name.split("_")) + "TripletLoss" for name in NAMES}


def mine(module, name: str, embeddings: Tensor, labels: Tensor, **options):
    """By ``fasttriplet`` or ``fasttriplet.reference``, in which rows are float64."""
    if module is reference:
        embeddings, options = embeddings.double(), in_float64(options)
    return getattr(module, f"mine_{name}")(embeddings, labels, **options)


def in_float64(arguments: dict[str, object]) -> dict[str, object]:
    rows = arguments.get("ref_embeddings")
    return arguments if rows is None else {**arguments, "ref_embeddings": rows.double()}


def loss_and_gradients(module, name: str, embeddings: Tensor, labels: Tensor, upstream=None, **options):
    """The loss, and the gradients of embeddings and, where there are any, references."""
    leaves = [embeddings.detach().clone().requires_grad_()]
    if module is reference:
        leaves, options = [embeddings.detach().double().requires_grad_()], in_float64(options)
    if options.get("ref_embeddings") is not None:
        leaves.append(options["ref_embeddings"].detach().clone().requires_grad_())
        options["ref_embeddings"] = leaves[1]
    loss = getattr(module, f"{name}_triplet_loss")(leaves[0], labels, **options)
    loss.backward(torch.ones_like(loss) if upstream is None else upstream.to(loss.dtype))
    return loss.detach(), [leaf.grad for leaf in leaves]


def beyond_float32(gradient: Tensor) -> bool:
    """Near the end of float32's range a share of a sum may leave it, though the sum does not."""
    return gradient.numel() > 0 and float(gradient.abs().amax()) > torch.finfo(torch.float32).max / 1e3


def many_decades(embeddings: Tensor) -> bool:
    """Products of rows whose norms lie four decades apart or more keep fewer digits of the short rows' distances."""
    norms = embeddings.detach().double().norm(dim=1)
    norms = norms[norms > 0]
    return len(norms) > 0 and bool(norms.max() > 1e4 * norms.min())


def large_products(embeddings: Tensor, options: dict[str, object]) -> bool:
    """Products of rows of 1e4 err by hundredths in float32: their exponentials, and sums that cancel, keep nothing."""
    return options.get("distance") == "inner_product" and float(embeddings.detach().abs().sum()) > 1e3 * len(embeddings)


def assert_as_reference(name: str, embeddings: Tensor, labels: Tensor, upstream=None, **options) -> None:
    """Value and gradients; of float32 quality where the loss sums over all pairs of float32 rows."""
    loss, gradients = loss_and_gradients(fasttriplet, name, embeddings, labels, upstream, **options)
    expected, expected_gradients = loss_and_gradients(reference, name, embeddings, labels, upstream, **options)
    dense, double = name in ("batch_all", "weighted"), embeddings.dtype == torch.float64
    assert loss.dtype == (torch.float64 if double else torch.float32)
    unit = 1e-10 if double else 1e-5 if dense else 2e-6
    scale = float(expected.abs().amax()) if expected.numel() else 0.0
    torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=unit, atol=unit * max(scale, 0.1))
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        wanted = torch.zeros_like(gradient) if wanted is None else wanted  # of references of which none was chosen
        # Each entry is rounded once from float64, but its terms may cancel: the largest entry sets the scale.
        scale = float(wanted.abs().amax()) if wanted.numel() else 0.0
        if dense and not double and (beyond_float32(wanted) or large_products(embeddings, options)):
            continue
        of_sums = 1e-4 if many_decades(embeddings) else 1e-5
        unit = {torch.float64: 1e-9, torch.float32: of_sums if dense else 2e-6}.get(gradient.dtype, 1e-2)
        torch.testing.assert_close(gradient, wanted.to(gradient.dtype), rtol=unit, atol=unit * scale)
