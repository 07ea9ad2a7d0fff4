"""What is wrong on one rank is the same error on all of them, and nobody waits."""

import contextlib
from functools import partial

import pytest
import torch

import fasttriplet
from tests.distributed.ranks import whole_results
from tests.family import NAMES

RANKS = 3


def rows(n=6, d=4, **more):
    return torch.arange(float(n * d), **more).reshape(n, d).cos()


def call(name="batch_hard_triplet_loss", x=None, y=None, **options):
    x = rows() if x is None else x
    return getattr(fasttriplet, name), (x, torch.arange(len(x)) // 2 if y is None else y), options


#: By name what rank 1 does otherwise, and the error of all.
WRONG = {
    "shape of labels": (lambda: call(y=torch.arange(5)), ValueError, "labels must be integers"),
    "dtype of labels": (lambda: call(y=torch.zeros(6)), ValueError, "labels must be integers"),
    "no labels": (lambda: call(y="none"), TypeError, "labels must be a torch.Tensor; got str"),
    "rows of one axis": (
        lambda: call(x=rows().flatten(), y=torch.zeros(24).long()),
        ValueError,
        "embeddings must have",
    ),
    "an unknown name": (lambda: call(margn=0.2), TypeError, "unexpected keyword argument 'margn'"),
    "a margin of str": (lambda: call(margin="0.2"), TypeError, "margin must be a real number"),
    "an unknown distance": (lambda: call(distance="manhattan"), ValueError, "distance must be one of"),
    "a wrong scale": (lambda: call(gradient_scale="all"), ValueError, "gradient_scale must be one of mean, sum"),
    "shards of nothing": (lambda: call(ref_sharded=True), ValueError, "ref_sharded must come with ref_embeddings"),
    "weights of another shape": (lambda: call(weights=torch.ones(2)), ValueError, "weights must have shape"),
    "self_indices beyond": (
        lambda: call(ref_embeddings=rows(), ref_labels=torch.arange(6), self_indices=torch.full((6,), 9)),
        ValueError,
        "self_indices must hold",
    ),
}
#: Right by itself, but other than on the other ranks.
ALONE = {
    "another margin": (lambda: call(margin=0.1), "margin must be the same on every rank of process_group; got 0.3 on"),
    "another distance": (lambda: call(distance="cosine"), "distance must be the same on every rank"),
    "another reduction": (lambda: call(reduction="sum"), "reduction must be the same on every rank"),
    "another function": (lambda: call("semi_hard_triplet_loss"), "the function must be the same"),
    "other columns": (lambda: call(x=rows(d=5)), "the number of columns of embeddings must be the same"),
    "another dtype": (lambda: call(x=rows(dtype=torch.float64)), "the dtype of embeddings must be the same"),
    "half precision": (lambda: call(x=rows().half()), "the dtype of embeddings must be the same"),
    "several labels": (lambda: call(y=torch.ones(6, 2, dtype=torch.bool)), "the form of labels must be the same"),
    "a gradient": (lambda: call(x=rows(requires_grad=True)), "whether embeddings require grad must be the same"),
    "references": (lambda: call(ref_embeddings=rows(), ref_labels=torch.arange(6)), "ref_embeddings must be the same"),
    "weights": (lambda: call(weights=torch.ones(6)), "weights must be the same on every rank"),
    "an ignored label": (lambda: call(ignore_index=3), "ignore_index must be the same on every rank"),
    "statistics": (lambda: call(return_stats=True), "return_stats must be the same on every rank"),
    "another scale": (lambda: call(gradient_scale="sum"), "gradient_scale must be the same on every rank"),
}


def errors(kind, name, rank, group):
    """Of rank 1 with other arguments; (type, text, and what the next call gives, which must be none the worse)."""
    function, given, options = {"wrong": WRONG, "alone": ALONE}[kind][name][0]() if rank == 1 else call()
    try:
        function(*given, **options, process_group=group)
        raised = None
    except Exception as error:
        raised = type(error).__name__, str(error)
    function, given, options = call()
    return raised, function(*given, **options, process_group=group)


def miners(rank, group):
    """Options of miners are told by their names and values too."""
    raised = []
    for name, alone in (
        ("mine_batch_hard", {"distance": "cosine"}),
        ("mine_k_hardest", {"k": 2}),
        ("mine_semi_hard", {"otherwise": "skip"}),
        ("mine_semi_hard", {"margin": 0.1}),
        ("semi_hard_triplet_loss", {"margin": 0.1}),
        ("k_hardest_triplet_loss", {"margin": 0.1}),
        ("easy_positive_triplet_loss", {"negatives": "semi_hard"}),
    ):
        function, given, told = call(name, **(alone if rank == 1 else {}))
        try:
            function(*given, **told, process_group=group)
            raised.append(None)
        except ValueError as error:
            raised.append(str(error).split(" must be the same on every rank of process_group; "))
    return raised


def gradients(rank, group):
    """What requires grad on one rank alone, or is in no_grad there, of losses whose way back needs all ranks."""
    raised = []
    for options, alone in (
        (dict(weights=torch.ones(6, requires_grad=True)), torch.no_grad()),
        (dict(weights=torch.ones(6, requires_grad=rank != 1)), contextlib.nullcontext()),
        (dict(ref_embeddings=rows(requires_grad=rank == 0), ref_labels=torch.arange(6)), contextlib.nullcontext()),
        (dict(ref_embeddings=rows(requires_grad=True), ref_labels=torch.arange(6), ref_sharded=True), torch.no_grad()),
    ):
        function, given, told = call("batch_all_triplet_loss", reduction="none", **options)
        try:
            with alone if rank == 1 else contextlib.nullcontext():
                function(*given, **told, process_group=group)
            raised.append(None)
        except ValueError as error:
            raised.append(str(error))
    return raised


def first_step(name, rank, group):
    """An empty memory on every rank, and statistics."""
    loss, stats = getattr(fasttriplet, f"{name}_triplet_loss")(
        rows(),
        torch.arange(6) // 2,
        ref_embeddings=rows(0),
        ref_labels=torch.zeros(0, dtype=torch.int64),
        return_stats=True,
        process_group=group,
    )
    return loss, stats.missing_positive


def missing(rank, group):
    """A class on rank 0 alone, of one row: only the whole batch can tell."""
    labels = torch.tensor([7, 8]) if rank == 0 else torch.tensor([8, 9, 9])
    try:
        fasttriplet.batch_hard_triplet_loss(rows(len(labels)), labels, on_missing="error", process_group=group)
    except ValueError as error:
        return str(error)


def not_a_number(rank, group):
    """One row of one rank: the loss of all, and all gradients."""
    x = rows()
    x[2, 1] = torch.nan if rank == 1 else 0.0
    x.requires_grad_()
    loss = fasttriplet.batch_hard_triplet_loss(x, torch.arange(6) // 2, process_group=group)
    loss.backward()
    mined = fasttriplet.mine_batch_hard(x.detach(), torch.arange(6) // 2, process_group=group)
    return loss.detach(), x.grad, mined.negative_distances


def groups(rank, group):
    """What is no group, and a group of others."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    found = {}
    x, y = rows(), torch.arange(6) // 2
    others = dist.new_group([0])
    mesh = init_device_mesh("cpu", (1, dist.get_world_size()), mesh_dim_names=("one", "all"))
    for name, given in {"str": "world", "others": others, "mesh": mesh}.items():
        if name == "others" and rank == 0:
            continue
        try:
            fasttriplet.batch_hard_triplet_loss(x, y, process_group=given)
        except (TypeError, ValueError) as error:
            found[name] = type(error).__name__, str(error)
    for name in ("embeddings", "ref_embeddings"):
        sharded = DTensor.from_local(x, mesh["all"], [Shard(0)])
        told = {"ref_embeddings": sharded, "ref_labels": y} if name == "ref_embeddings" else {}
        try:
            fasttriplet.batch_hard_triplet_loss(x if told else sharded, y, process_group=group, **told)
        except TypeError as error:
            found[name] = str(error)
    by_mesh = fasttriplet.batch_hard_triplet_loss(x, y, process_group=mesh["all"])
    return found, by_mesh, fasttriplet.batch_hard_triplet_loss(x, y, process_group=group)


def work(ranks):
    if ranks != RANKS:
        return {}
    others = {f"first step {name}": partial(first_step, name) for name in NAMES}
    others.update({"gradients": gradients, "miners": miners})
    asked = {f"wrong {name}": partial(errors, "wrong", name) for name in WRONG}
    asked.update({f"alone {name}": partial(errors, "alone", name) for name in ALONE})
    return {**asked, "missing": missing, "not a number": not_a_number, "groups": groups, **others}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_on_one_rank_is_an_error_on_all(name, found):
    results = whole_results(found(RANKS)[f"wrong {name}"])
    _, kind, text = WRONG[name]
    for raised, after in results:
        assert raised is not None and raised[0] == kind.__name__, raised
        assert text in raised[1] and raised[1].endswith("(on rank 1 of process_group)")
        assert after.isfinite()
    assert len({raised for raised, _ in results}) == 1


@pytest.mark.parametrize("name", ALONE)
def test_ranks_must_agree(name, found):
    results = whole_results(found(RANKS)[f"alone {name}"])
    for raised, after in results:
        assert raised is not None and raised[0] == "ValueError", raised
        assert ALONE[name][1] in raised[1]
        assert after.isfinite()
    assert len({raised for raised, _ in results}) == 1


def test_an_anchor_without_a_partner_anywhere_is_an_error_on_all(found):
    texts = set(whole_results(found(RANKS)["missing"]))
    assert len(texts) == 1
    assert "got 1 of 8 anchors without, the first at index 0" in texts.pop()


def test_a_row_that_is_not_finite_poisons_all_ranks(found):
    for loss, gradient, distances in whole_results(found(RANKS)["not a number"]):
        assert loss.isnan() and gradient.isnan().all() and distances.isnan().all()


def test_a_group_is_a_group_with_this_process_in_it(found):
    for rank, (errors_found, by_mesh, by_group) in enumerate(whole_results(found(RANKS)["groups"])):
        assert errors_found["str"][0] == "TypeError" and "got str" in errors_found["str"][1]
        assert errors_found["mesh"] == (
            "ValueError",
            "process_group must be a ProcessGroup or a DeviceMesh of one dimension, as mesh['data']; got a mesh of "
            "shape [1, 3]",
        )
        if rank > 0:
            assert errors_found["others"][0] == "ValueError" and "this process is in" in errors_found["others"][1]
        for name in ("embeddings", "ref_embeddings"):
            assert errors_found[name].startswith(
                f"{name} must be a plain tensor, as {name}.to_local() of rows in shards"
            )
        assert by_mesh == by_group


def test_gradients_are_asked_for_on_all_ranks_or_none(found):
    names = ("weights", "weights", "ref_embeddings", "ref_embeddings")
    for raised in whole_results(found(RANKS)["gradients"]):
        for name, text in zip(names, raised, strict=True):
            assert text is not None and text.startswith(f"whether {name} require grad must be the same"), text


@pytest.mark.parametrize("name", NAMES)
def test_no_references_yet(name, found):
    for loss, missing_positive in whole_results(found(RANKS)[f"first step {name}"]):
        assert loss == 0 and missing_positive == 6 * RANKS


def test_options_of_miners_are_told_by_name(found):
    expected = [
        ["distance", "got euclidean on rank 0 and cosine on rank 1"],
        ["k", "got 4 on rank 0 and 2 on rank 1"],
        ["otherwise", "got farthest on rank 0 and skip on rank 1"],
        ["margin", "got 0.3 on rank 0 and 0.1 on rank 1"],
        ["margin", "got 0.3 on rank 0 and 0.1 on rank 1"],
        ["margin", "got 0.3 on rank 0 and 0.1 on rank 1"],
        ["miner", "got easy_positive on rank 0 and easy_positive_semi_hard on rank 1"],
    ]
    for raised in whole_results(found(RANKS)["miners"]):
        assert raised == expected
