"""Labels of the drop-ins: one a row, of any dtype; and batches of one class."""

import importlib.util

import pytest
import torch

from benchmarks import published
from fasttriplet.compat import fastreid, pml, sentence_transformers, tfa, torchreid

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
COLUMN = torch.arange(6)[:, None] // 2


def of_features(name):
    loss = getattr(sentence_transformers, name)(torch.nn.Identity())
    return "labels", "embeddings", lambda rows, labels: loss([{"sentence_embedding": rows}], labels)


def of_fastreid(norm_feat, hard_mining):
    options = {"margin": 0.3, "norm_feat": norm_feat, "hard_mining": hard_mining}
    return "targets", "embedding", lambda rows, labels: fastreid.triplet_loss(rows, labels, **options)


def of_tfa(function):
    return "y_true", "y_pred", lambda rows, labels: function(labels, rows)


#: The names of the labels and of the rows, and the loss of rows and labels.
LOSSES = {
    "pml": ("labels", "embeddings", pml.TripletMarginLoss()),
    "torchreid": ("targets", "inputs", torchreid.TripletLoss()),
    "tfa hard": of_tfa(tfa.triplet_hard_loss),
    "tfa semi-hard": of_tfa(tfa.TripletSemiHardLoss()),
    **{f"fast-reid {norm} {hard}": of_fastreid(norm, hard) for norm in (False, True) for hard in (False, True)},
    **{
        name: of_features(name)
        for name in (
            "BatchHardTripletLoss",
            "BatchHardSoftMarginTripletLoss",
            "BatchSemiHardTripletLoss",
            "BatchAllTripletLoss",
        )
    },
}
if importlib.util.find_spec("keras") is not None:
    from fasttriplet.compat import keras

    for name in ("triplet_hard_loss", "triplet_semihard_loss"):
        LOSSES[f"keras {name}"] = of_tfa(getattr(keras, name))
    for name in ("TripletHardLoss", "TripletSemiHardLoss"):
        LOSSES[f"keras {name}"] = of_tfa(getattr(keras, name)())
        LOSSES[f"keras {name}, called by Keras"] = of_tfa(getattr(keras, name)().call)


@pytest.mark.parametrize("name", LOSSES)
def test_labels_that_are_not_one_a_row_are_refused_by_the_callers_names(name):
    argument, rows_name, loss = LOSSES[name]
    must = rf"^{argument} must have shape \[6\], one label a row of {rows_name}; got "
    wrong = {
        r"\[\]": torch.tensor(1),
        r"\[3\]": COLUMN[:3, 0],
        r"\[4\]": torch.zeros(4),  # one class
        r"\[3, 1\]": COLUMN[:3],
        rf"\[6, 3\]: pass {argument}.argmax\(1\) of one-hot rows": torch.nn.functional.one_hot(COLUMN[:, 0]),
        rf"\[6, 2\]: pass {argument}.argmax\(1\) of one-hot rows": torch.ones(6, 2, dtype=torch.bool),
        r"\[6, 1, 1\]": None if argument == "labels" and name != "pml" else COLUMN[..., None],
    }
    for got, labels in wrong.items():
        if labels is not None:  # sentence-transformers takes N labels in any shape
            with pytest.raises(ValueError, match=f"{must}{got}$"):
                loss(ROWS, labels)
    if name != "pml":
        with pytest.raises(
            ValueError, match=f"^{argument} must be integers, bool or real numbers; got torch.complex64$"
        ):
            loss(ROWS, COLUMN[:, 0].to(torch.complex64))
    if "keras" not in name:  # which takes what can be made a tensor, where it wants it
        with pytest.raises(TypeError, match=f"^{argument} must be a torch.Tensor; got list$"):
            loss(ROWS, [0, 0, 1, 1, 2, 2])
    if "keras" not in name and name != "pml":  # which moves labels to the rows
        elsewhere = f"^{argument} must be on the device of {rows_name}, cpu; got {argument} on meta$"
        with pytest.raises(ValueError, match=elsewhere):
            loss(ROWS, COLUMN[:, 0].to("meta"))


@pytest.mark.parametrize("name", LOSSES)
def test_what_are_no_rows_is_refused_by_the_callers_name(name):
    _, argument, loss = LOSSES[name]
    labels = COLUMN[:, 0]
    for rows in (ROWS[:, 0], ROWS[None]):
        with pytest.raises(ValueError, match=rf"^{argument} must have shape \[N, D\]; got \[.*\]: "):
            loss(rows, labels)
    if "keras Triplet" in name and "called" not in name:  # a loss of Keras casts rows to its dtype
        assert loss(ROWS.long(), labels).isfinite()
    else:
        with pytest.raises(ValueError, match=f"^{argument} must have dtype float64, .*; got torch.int64"):
            loss(ROWS.long(), labels)
    if "keras" not in name:
        with pytest.raises(TypeError, match=f"^{argument} must be a torch.Tensor; got list$"):
            loss(ROWS.tolist(), labels)


def test_a_column_of_labels_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"labels must have shape \[6\], .*; got \[6, 1\]: pass labels.squeeze\(1\)"):
        pml.TripletMarginLoss(swap=True)(ROWS, COLUMN)
    with pytest.raises(ValueError, match=r"labels must have shape \[6\], .*; got \[6, 1\]: pass labels.squeeze\(1\)"):
        pml.BatchHardMiner()(ROWS, COLUMN)


@pytest.mark.parametrize("hard_mining", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_columns_of_labels_as_torchreid_and_fastreid_take_them(hard_mining, dtype):
    column = COLUMN.to(dtype)
    labels = column[:, 0]
    # torchreid's way to compare them; fast-reid's begins with a view of shape [N, 1].
    assert torch.equal(column.expand(6, 6) == column.expand(6, 6).T, labels[:, None] == labels)
    assert torch.equal(torchreid.TripletLoss()(ROWS, column), torchreid.TripletLoss()(ROWS, labels))
    torch.testing.assert_close(torchreid.TripletLoss()(ROWS, column), published.torchreid(ROWS, labels, 0.3))
    ours = [fastreid.triplet_loss(ROWS, each, 0.3, False, hard_mining) for each in (column, labels)]
    assert torch.equal(*ours)
    theirs = published.fastreid(ROWS, labels, 0.3, False, hard_mining)
    torch.testing.assert_close(ours[0], theirs, rtol=1e-5, atol=5e-6)  # it adds 1e-6 to the positives' weights


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float64, torch.uint8])
def test_labels_of_any_dtype(dtype):
    labels = torch.tensor([0, 0, 1, 1, 3, 3])
    expected = torchreid.TripletLoss()(ROWS, labels)
    torch.testing.assert_close(torchreid.TripletLoss()(ROWS, labels.to(dtype)), expected)
    signs = torch.tensor([0.0, -0.0, 1, 1, 3, 3])
    if dtype.is_floating_point:
        torch.testing.assert_close(torchreid.TripletLoss()(ROWS, signs.to(dtype)), expected)


def test_a_zero_row_in_a_batch_of_one_class_is_at_cosine_distance_one():
    rows = torch.cat([torch.zeros(2, 4), ROWS]).double().requires_grad_()
    loss = tfa.triplet_semihard_loss(torch.zeros(8), rows, margin=0.2, distance_metric="angular")
    unit = torch.nn.functional.normalize(rows.detach(), dim=1)
    distances = 1 - unit @ unit.T
    expected = (distances + 0.2).clamp_min(0)[~torch.eye(8, dtype=torch.bool)].mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert rows.grad.isfinite().all() and not rows.grad[:2].any() and rows.grad[2:].any()
