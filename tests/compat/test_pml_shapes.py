"""The drop-in for pytorch-metric-learning refuses on every route what is no batch of rows and labels."""

import pytest
import torch

from fasttriplet import batch_hard_triplet_loss
from fasttriplet.check import check_rows
from fasttriplet.compat import pml
from fasttriplet.compat._pml_objects import metric_of

ROWS = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) // 4
INDICES = torch.arange(6), torch.arange(6) + 1, torch.arange(6) + 9
PAIRS = INDICES[0], INDICES[1], INDICES[0], INDICES[2]


def of(options, indices):
    loss = pml.TripletMarginLoss(**options)

    def forward(rows, labels, *references):
        return loss(rows, labels, indices, *references)

    return forward


def computed(options, indices):
    loss = pml.TripletMarginLoss(**options)

    def compute(rows, labels, ref_emb=None, ref_labels=None):
        if ref_emb is None:
            return loss.compute_loss(rows, labels, indices, rows, labels)
        return loss.compute_loss(rows, labels, indices, ref_emb, ref_labels)

    return compute


def mined(name, through_mine):
    miner = getattr(pml, name)()

    def mine(rows, labels, ref_emb=None, ref_labels=None):
        if ref_emb is None:
            return miner.mine(rows, labels, rows, labels)
        return miner.mine(rows, labels, ref_emb, ref_labels)

    return mine if through_mine else miner


class Own(pml.TripletMarginLoss):
    """Computed by a subclass, as it sees fit."""

    def compute_loss(self, *arguments):
        return super().compute_loss(*arguments)


OPTIONS = {
    "plain": {},
    "swap": {"swap": True},
    "smooth": {"smooth_loss": True},
    "of each triplet": {"reducer": "none"},
    "learned margin": {"margin": torch.tensor(0.1, requires_grad=True)},
}
LOSSES = {
    f"{name}, {'mined' if indices else 'all'}, {make.__name__}": make(options, indices)
    for name, options in OPTIONS.items()
    for indices in (None, INDICES)
    for make in (of, computed)
} | {
    f"subclass, {name}": lambda rows, labels, *others, i=indices: Own()(rows, labels, i, *others)
    for name, indices in (("all", None), ("mined", INDICES))
}
MINERS = {
    f"{name}{', mine' if through_mine else ''}": mined(name, through_mine)
    for name in ("BatchHardMiner", "TripletMarginMiner")
    for through_mine in (False, True)
}
ROUTES = LOSSES | MINERS

ROWS_REFUSED = {
    "pooled maps": (ROWS[:, :, None, None], r"got \[16, 8, 1, 1\]: pool or flatten each first.*\[N, C, H, W\]"),
    "maps": (
        ROWS[:, :, None, None].expand(16, 8, 2, 2),
        r"got \[16, 8, 2, 2\]: .*, x.mean\(\(1, 2\)\) of feature maps \[N, H, W, C\] or x.mean\(\(2, 3\)\) of \[N, C,",
    ),
    "sequences": (ROWS[:, None].expand(16, 4, 8), r"got \[16, 4, 8\]: pool or .*x.mean\(1\) of sequences \[N, L, D\]"),
    "volumes": (
        torch.zeros(16, 2, 2, 2, 2),
        r"got \[16, 2, 2, 2, 2\]: pool or flatten each first, e.g. x.flatten\(1\)$",
    ),
    "numbers": (ROWS[:, 0], r"got \[16\]: make one row of it with x\[None\], or rows of numbers with x\[:, None\]"),
    "a number": (ROWS[0, 0], r"got \[\]: a number is no row of features"),
}
DTYPES_REFUSED = (torch.int64, torch.bool, torch.float8_e4m3fn, torch.complex64)
LABELS_REFUSED = {
    "five": (LABELS[:5], r"must have shape \[16\], one label a row of \w+; got \[5\]$"),
    "half": (LABELS[:8], r"must have shape \[16\].*; got \[8\]$"),
    "column": (LABELS[:, None], r"must have shape \[16\].*; got \[16, 1\]: pass \w+.squeeze\(1\)"),
    "one-hot": (torch.eye(4)[LABELS], r"must have shape \[16\].*; got \[16, 4\]: pass \w+.argmax\(1\) of one-hot rows"),
}

A, P, N = INDICES
INDICES_REFUSED = {
    "one negative": ((A, P, N[:1]), r"\[6\], \[6\], \[1\], dtypes torch.int64, torch.int64, torch.int64$"),
    "one positive": ((A, P[:1], N), r"\[6\], \[1\], \[6\], dtypes"),
    "one anchor": ((A[:1], P, N), r"\[1\], \[6\], \[6\], dtypes"),
    "none": ((A[:0], P[:1], N[:1]), r"\[0\], \[1\], \[1\], dtypes"),
    "columns": ((A[:, None], P[:, None], N[:, None]), r"\[6, 1\], \[6, 1\], \[6, 1\], dtypes"),
    "numbers": ((A[1], P[1], N[1]), r"\[\], \[\], \[\], dtypes"),
    "a row and a column": ((A, P, N[:, None]), r"\[6\], \[6\], \[6, 1\], dtypes"),
    "masks": ((LABELS == 0, LABELS == 0, LABELS == 1), r"\[16\], .* dtypes torch.bool, torch.bool, torch.bool$"),
    "floats": ((A.float(), P, N), r"\[6\], .* dtypes torch.float32, torch.int64, torch.int64$"),
    "complex": ((A, P, N.cfloat()), r"\[6\], .* dtypes torch.int64, torch.int64, torch.complex64$"),
    "pairs, one positive": ((A, P[:1], A, N), r"\[6\], \[1\], \[6\], \[6\], dtypes"),
    "pairs, one negative": ((A, P, A, N[:1]), r"\[6\], \[6\], \[6\], \[1\], dtypes"),
    "pairs, masks": ((LABELS == 0,) * 4, r"\[16\], .* dtypes torch.bool, torch.bool, torch.bool, torch.bool$"),
    "pairs, columns": ((A, P[:, None], A, N), r"\[6\], \[6, 1\], \[6\], \[6\], dtypes"),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", ROWS_REFUSED)
def test_rows_are_two_dimensional(route, name):
    rows, message = ROWS_REFUSED[name]
    with pytest.raises(ValueError, match=r"embeddings must have shape \[N, D\]; " + message):
        ROUTES[route](rows, LABELS)
    with pytest.raises(ValueError, match=r"ref_emb must have shape \[M, D\]; " + message.replace(r"\[N,", r"\[M,")):
        ROUTES[route](ROWS, LABELS, rows, LABELS)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dtype", DTYPES_REFUSED, ids=str)
def test_rows_are_floating(route, dtype):
    with pytest.raises(ValueError, match=f"embeddings must have dtype float64, .*; got {dtype}"):
        ROUTES[route](ROWS.to(dtype), LABELS)
    with pytest.raises(ValueError, match=f"ref_emb must have dtype float64, float32, float16 or bfloat16; got {dtype}"):
        ROUTES[route](ROWS, LABELS, ROWS.to(dtype), LABELS)


@pytest.mark.parametrize("route", ROUTES)
def test_rows_and_references_have_as_many_columns(route):
    for columns in (1, 7):
        with pytest.raises(
            ValueError, match=r"ref_emb must have shape \[M, 8\] to match embeddings \[16, 8\]; got \[16,"
        ):
            ROUTES[route](ROWS, LABELS, ROWS[:, :columns], LABELS)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", LABELS_REFUSED)
def test_there_is_one_label_a_row(route, name):
    labels, message = LABELS_REFUSED[name]
    with pytest.raises(ValueError, match="^labels " + message):
        ROUTES[route](ROWS, labels)
    with pytest.raises(ValueError, match="ref_labels " + message):
        ROUTES[route](ROWS, LABELS, ROWS, labels)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_is_right_is_taken(route, dtype):
    rows = ROWS.to(dtype)
    ROUTES[route](rows, LABELS)
    ROUTES[route](rows, LABELS, rows, LABELS.clone())
    ROUTES[route](rows, LABELS, rows[:15], LABELS[:15].float())
    if "mined" in route:  # a miner's indices say it all
        ROUTES[route](rows, None)
        ROUTES[route](rows, None, rows, None)


def losses_of_indices():
    """Functions of rows and indices: fused, through the protocol, of a subclass and with a distance of one's own."""
    own = pml.TripletMarginLoss()
    own.distance = Summed()
    for options in OPTIONS.values():
        loss = pml.TripletMarginLoss(**options)
        yield lambda rows, indices, loss=loss: loss(rows, LABELS, indices)
    yield lambda rows, indices: loss.compute_loss(rows, LABELS, indices, rows, LABELS)["loss"]["losses"]
    yield lambda rows, indices: Own()(rows, LABELS, indices)
    yield lambda rows, indices: own(rows, LABELS, indices)


class Summed(torch.nn.Module):
    """A distance of one's own."""

    is_inverted = False

    def forward(self, query_emb, ref_emb=None):
        return torch.cdist(query_emb, query_emb if ref_emb is None else ref_emb, p=1)

    def margin(self, x, y):
        return x - y


@pytest.mark.parametrize("name", INDICES_REFUSED)
def test_indices_are_index_tensors_of_one_length(name):
    indices, message = INDICES_REFUSED[name]
    for loss in losses_of_indices():
        with pytest.raises(
            ValueError, match=r"^indices_tuple must be index .* \[T\] of one length; got shapes " + message
        ):
            loss(ROWS, indices)


def test_indices_are_dense_tensors():
    for loss in losses_of_indices():
        with pytest.raises(TypeError, match=r"indices_tuple\[1\] must be a torch.Tensor; got list"):
            loss(ROWS, (A, P.tolist(), N))
        with pytest.raises(ValueError, match=r"indices_tuple\[2\] must be a dense tensor .*; got torch.sparse_coo"):
            loss(ROWS, (A, P, N.to_sparse()))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8], ids=str)
def test_indices_of_any_integers_are_taken(dtype):
    """As many as there are rows, where bytes could be taken for a mask."""
    anchors = torch.arange(16)
    for indices in ((anchors, anchors ^ 1, anchors.flip(0)), (anchors, anchors ^ 1, anchors, anchors.flip(0)), PAIRS):
        narrow = tuple(each.to(dtype) for each in indices)
        for loss in losses_of_indices():
            torch.testing.assert_close(loss(ROWS, narrow), loss(ROWS, indices), rtol=0, atol=0)


def test_pairs_may_be_of_two_lengths_and_no_triplets_are_right():
    joined = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3]), torch.tensor([8, 8, 9])
    pairs = torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3]), torch.tensor([0, 1]), torch.tensor([8, 9])
    loss = pml.TripletMarginLoss(0.3, reducer="none")
    assert torch.equal(loss(ROWS, LABELS, pairs), loss(ROWS, LABELS, joined))
    assert loss(ROWS, LABELS, torch.stack(joined)).tolist() == loss(ROWS, LABELS, joined).tolist()
    assert not len(loss(ROWS, LABELS, (A[:0],) * 3)) and not len(loss(ROWS, LABELS, (A[:0],) * 4))


def test_what_is_no_tensor_is_told():
    for route in ROUTES.values():
        with pytest.raises(TypeError, match=r"embeddings must be a torch.Tensor; got list"):
            route([[1.0]], LABELS)
        with pytest.raises(TypeError, match=r"labels must be a torch.Tensor; got list"):
            route(ROWS, [0] * 16)


@pytest.mark.parametrize("shape", [(), (5,), (5, 4, 3), (5, 4, 3, 2), (5, 1, 1, 1, 1), (5, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.complex64], ids=str)
def test_words_are_those_of_the_operators(shape, dtype):
    rows, told = torch.zeros(shape, dtype=dtype), []
    for check in (
        lambda: batch_hard_triplet_loss(rows, torch.zeros(5, dtype=torch.int64)),
        lambda: check_rows("embeddings", rows),
    ):
        try:
            check()
            told.append(None)
        except ValueError as error:
            told.append(str(error))
    assert told[0] == told[1] and (told[0] is None) == (len(shape) == 2 and dtype == torch.float32)


def test_rows_are_left_to_a_distance_of_ones_own():
    """Which may be one of sequences."""

    class OfSequences(torch.nn.Module):
        is_inverted = False

        def forward(self, query_emb, ref_emb=None):
            others = query_emb if ref_emb is None else ref_emb
            return torch.cdist(query_emb.mean(1), others.mean(1))

        def margin(self, x, y):
            return x - y

    sequences = torch.stack([ROWS - 1, ROWS + 1], dim=1)
    loss = pml.TripletMarginLoss(0.3)
    loss.distance = OfSequences()
    assert metric_of(loss.distance) is None
    torch.testing.assert_close(
        loss(sequences, LABELS, INDICES), pml.TripletMarginLoss(0.3, distance="euclidean")(ROWS, LABELS, INDICES)
    )
    with pytest.raises(ValueError, match=r"labels must have shape \[16\], one label a row of embeddings; got \[5\]"):
        loss(sequences, LABELS[:5], INDICES)


MARGINS_REFUSED = {
    "of fewer": (torch.zeros(5), r"\[5\]"),
    "of none": (torch.zeros(0), r"\[0\]"),
    "a column": (torch.zeros(6, 1), r"\[6, 1\]"),
    "a row": (torch.zeros(1, 6), r"\[1, 6\]"),
    "learned": (torch.nn.Parameter(torch.zeros(7)), r"\[7\]"),
}


@pytest.mark.parametrize("name", MARGINS_REFUSED)
@pytest.mark.parametrize("options", [{}, {"smooth_loss": True}, {"reducer": "none"}], ids=str)
def test_a_margin_is_one_number_or_one_for_each_triplet(name, options):
    margin, shape = MARGINS_REFUSED[name]
    message = rf"^margin must be one number or have shape \[T\]; got {shape}$"
    with pytest.raises(ValueError, match=message):
        pml.TripletMarginLoss(margin, **options)(ROWS, LABELS, INDICES)
    loss = pml.TripletMarginLoss(**options)
    loss.margin = margin
    for call in (
        lambda: loss(ROWS, LABELS, INDICES),
        lambda: loss.compute_loss(ROWS, LABELS, INDICES, ROWS, LABELS),
        lambda: loss(ROWS, LABELS),  # of 576 triplets
    ):
        with pytest.raises(ValueError, match=message):
            call()
    miner = pml.TripletMarginMiner()
    miner.margin = margin
    for refused in (lambda: pml.TripletMarginMiner(margin), lambda: miner(ROWS, LABELS)):
        with pytest.raises(ValueError, match=rf"^margin must be one number; got a tensor of shape {shape}$"):
            refused()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("learned", [False, True])
def test_a_margin_of_one_element_is_a_number(shape, learned):
    """Whatever its shape, and shared: what moves it moves the loss and the miner."""
    margin = torch.full(shape, 0.2, requires_grad=learned)
    loss, miner = pml.TripletMarginLoss(margin, reducer="none"), pml.TripletMarginMiner(margin)
    assert loss.margin is margin and miner.margin is margin
    for value in (0.2, 0.4):
        with torch.no_grad():
            margin.fill_(value)
        expected = pml.TripletMarginMiner(value)(ROWS, LABELS)
        mined = miner(ROWS, LABELS)
        assert len(mined) == 3 and all(map(torch.equal, mined, expected))
        losses = loss(ROWS, LABELS, mined)
        torch.testing.assert_close(losses, pml.TripletMarginLoss(value, reducer="none")(ROWS, LABELS, mined))
        for reducer in ("mean", "sum"):
            values = [pml.TripletMarginLoss(m, reducer=reducer)(ROWS, LABELS) for m in (margin, value)]
            torch.testing.assert_close(*values)
    if learned:
        (slope,) = torch.autograd.grad(losses.sum(), margin)
        assert slope.shape == shape and slope.item() == (losses > 0).sum()


def test_a_type_of_triplets_set_to_what_is_none_is_told():
    miner = pml.TripletMarginMiner()
    for value in ("hard", "semihard", "easy", "all"):
        miner.type_of_triplets = value
        assert all(map(torch.equal, miner(ROWS, LABELS), pml.TripletMarginMiner(0.2, value)(ROWS, LABELS)))
    for value, error in (("semi-hard", ValueError), (None, TypeError)):
        miner.type_of_triplets = value
        for mine in (lambda: miner(ROWS, LABELS), lambda: miner.mine(ROWS, LABELS, ROWS, LABELS)):
            with pytest.raises(error, match=r"type_of_triplets must be .*one of all, hard, semihard, easy; got "):
                mine()
