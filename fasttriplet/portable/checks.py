"""What the operators of the portable engine check of their tensors, in the words of ``csrc/check.cpp``.

Written twice because each stands where the other cannot: that one guards the kernels' memory, and this one must do
where nothing is compiled. The tests of arguments run on both. Indices that come back from a way forward are looked at
on the CPU alone: anywhere else it would be a wait for the device, and PyTorch itself refuses to reach beyond a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fasttriplet.arguments import GROUPS_EXCLUDE, LISTED
from fasttriplet.check import DISTANCES, ON_MISSING, REDUCTIONS, ROW_DTYPES, advice_for_dim

_INTEGERS = (
    *(torch.bool, torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64),
    torch.uint64,
)
_WIDE = torch.float32, torch.float64
_MOST_ROWS, _MOST_COLUMNS = 2**31 - 1, 2**22


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _device(tensor: Tensor, name: str, embeddings: Tensor, like: str = "embeddings") -> None:
    if tensor.device != embeddings.device:
        raise ValueError(f"{name} must be on the device of {like}, {embeddings.device}; got {tensor.device}")


def check_embeddings(embeddings: Tensor) -> None:
    _rows(embeddings, "embeddings", "N")


def _rows(rows: Tensor, name: str, count: str) -> None:
    """Of features, of which there are ``count``."""
    if rows.dtype not in _WIDE:
        raise ValueError(f"{name} must have dtype float64, float32, float16 or bfloat16; got {rows.dtype}")
    if rows.dim() != 2:
        raise ValueError(
            f"{name} must have shape [{count}, D]; got {_shape(rows)}: {advice_for_dim(rows.dim(), count)}"
        )
    if rows.shape[0] > _MOST_ROWS:
        raise ValueError(f"{name} must have at most 2^31 - 1 rows; got {_shape(rows)}")
    if rows.shape[1] > _MOST_COLUMNS:
        raise ValueError(f"{name} must have at most 2^22 columns; got {_shape(rows)}")


def _classes(labels: Tensor, name: str, rows: Tensor, rows_name: str) -> None:
    """Classes [N], or several labels a row, bool [N, C]."""
    n, matches = len(rows), labels.dim() > 0 and labels.shape[0] == len(rows)
    integer = labels.dtype in _INTEGERS
    if labels.dim() == 1 and matches and integer:
        return
    many = labels.dim() == 2 and matches
    if many and labels.dtype == torch.bool:
        return
    must = (
        f"{name} must be integers or bool [{n}], one class a row, or bool [{n}, C], several labels a row, to match "
        f"{rows_name} {_shape(rows)}; got {labels.dtype} {_shape(labels)}"
    )
    if many and labels.shape[1] == 1:
        raise ValueError(f"{must}: for classes pass {name}.squeeze(1){'' if integer else '.long()'}")
    if many:
        raise ValueError(f"{must}: pass {name}.bool() where a row may have several, {name}.argmax(1) of one-hot rows")
    if labels.dim() == 1 and matches:
        raise ValueError(f"{must}: pass {name}.long() of whole numbers")
    raise ValueError(must)


def check_labels(labels: Tensor, embeddings: Tensor) -> None:
    _classes(labels, "labels", embeddings, "embeddings")
    if labels.dim() != 1:
        raise ValueError(f"labels must have shape [N] here; got {_shape(labels)}")
    _device(labels, "labels", embeddings)


def _references(references: Tensor, rows: Tensor, name: str = "ref_embeddings", rows_name: str = "embeddings") -> None:
    if references.dim() != 2 or references.shape[1] != rows.shape[1]:
        advice = "" if references.dim() == 2 else f": {advice_for_dim(references.dim(), 'M')}"
        raise ValueError(
            f"{name} must have shape [M, {rows.shape[1]}] to match {rows_name} {_shape(rows)}; got "
            f"{_shape(references)}{advice}"
        )
    if references.dtype not in _WIDE:
        raise ValueError(f"{name} must have dtype float64, float32, float16 or bfloat16; got {references.dtype}")
    if references.dtype != rows.dtype:
        raise ValueError(f"{name} must have the dtype of {rows_name}, {rows.dtype}; got {references.dtype}")
    if len(rows) + len(references) > _MOST_ROWS:
        raise ValueError(
            f"{rows_name} and {name} must have at most 2^31 - 1 rows together; got {_shape(rows)} and "
            f"{_shape(references)}"
        )
    _device(references, name, rows, rows_name)


def _ids(ids: Tensor, name: str, rows: Tensor, rows_name: str, may_be_bool: bool) -> None:
    if ids.dtype not in _INTEGERS or (ids.dtype == torch.bool and not may_be_bool):
        raise ValueError(f"{name} must have an integer dtype{' or bool' if may_be_bool else ''}; got {ids.dtype}")
    if ids.shape != rows.shape[:1]:
        raise ValueError(f"{name} must have shape [{len(rows)}] to match {rows_name} {_shape(rows)}; got {_shape(ids)}")


def check_pairing(
    embeddings: Tensor,
    labels: Tensor,
    ref_embeddings: Tensor | None,
    pairing: Sequence[Tensor | None],
    numbers: Sequence[int],
) -> None:
    if len(pairing) > len(LISTED) or len(numbers) > 2:
        raise ValueError(
            f"pairing must list at most {len(LISTED)} tensors and 2 numbers; got {len(pairing)} and {len(numbers)}"
        )
    if numbers:
        check_code(numbers[0], GROUPS_EXCLUDE, "groups_exclude")
    told = dict(zip(LISTED, pairing, strict=False))
    check_embeddings(embeddings)
    _classes(labels, "labels", embeddings, "embeddings")
    _device(labels, "labels", embeddings)
    ref_labels = told.get("ref_labels")
    if (ref_embeddings is None) != (ref_labels is None):
        raise ValueError("ref_embeddings and ref_labels must be given together; got one of them")
    if len(numbers) > 1 and labels.dim() == 2:
        raise ValueError(
            f"ignore_index must not be given where labels are multi-hot, bool [N, C]; got labels {_shape(labels)}"
        )
    if ref_embeddings is not None and ref_labels is not None:
        _references(ref_embeddings, embeddings)
        _classes(ref_labels, "ref_labels", ref_embeddings, "ref_embeddings")
        if ref_labels.shape[1:] != labels.shape[1:]:
            raise ValueError(f"ref_labels must have the form of labels, {_shape(labels)}; got {_shape(ref_labels)}")
        _device(ref_labels, "ref_labels", embeddings)
    self_indices = told.get("self_indices")
    if self_indices is not None:
        if ref_embeddings is None:
            raise ValueError("self_indices must come with ref_embeddings, which they point into; got them without")
        _ids(self_indices, "self_indices", embeddings, "embeddings", False)
        _device(self_indices, "self_indices", embeddings)
        check_self_indices(self_indices.long(), len(ref_embeddings))
    mask = told.get("ref_mask")
    if mask is not None:
        if ref_embeddings is None:
            raise ValueError("ref_mask must come with ref_embeddings, which it masks; got it without")
        if mask.dtype != torch.bool:
            raise ValueError(f"ref_mask must have dtype torch.bool; got {mask.dtype}")
        _ids(mask, "ref_mask", ref_embeddings, "ref_embeddings", True)
        _device(mask, "ref_mask", embeddings)
    for own, theirs, may_be_bool in (("sample_ids", "ref_sample_ids", False), ("groups", "ref_groups", True)):
        ids, ref_ids = told.get(own), told.get(theirs)
        wants_both = ref_embeddings is not None
        if ref_ids is not None if ids is None else (ref_ids is not None) != wants_both:
            raise ValueError(
                f"{theirs} must be given with {own} and ref_embeddings, and not otherwise; got "
                f"{'no ' if ids is None else ''}{own}{' and no ' if ref_ids is None else ' and '}{theirs}"
            )
        if ids is not None:
            _ids(ids, own, embeddings, "embeddings", may_be_bool)
            _device(ids, own, embeddings)
        if ref_ids is not None and ref_embeddings is not None:
            _ids(ref_ids, theirs, ref_embeddings, "ref_embeddings", may_be_bool)
            _device(ref_ids, theirs, embeddings)


class NeighbourRules(NamedTuple):
    """Who is no neighbour of whom, in the order in which operators list it; a list may end early."""

    self_indices: Tensor | None = None  # [Q] int64, each -1 or an index below M
    keys: Tensor | None = None  # [K, Q] int64: a pair with an equal one, not below zero, is none
    ref_keys: Tensor | None = None  # [K, M] int64
    ref_mask: Tensor | None = None  # [M] bool


def check_neighbours(queries: Tensor, references: Tensor | None, rules: Sequence[Tensor | None]) -> NeighbourRules:
    """What searches for neighbours are given; the rules by name."""
    if len(rules) > len(NeighbourRules._fields):
        raise ValueError(f"rules must list at most {len(NeighbourRules._fields)} tensors; got {len(rules)}")
    told = NeighbourRules(*rules)
    _rows(queries, "queries", "Q")
    if references is not None:
        _references(references, queries, "references", "queries")
    else:
        for name in ("self_indices", "ref_keys", "ref_mask"):
            if getattr(told, name) is not None:
                raise ValueError(f"{name} must come with references, which it is about; got it without")
    q, m = len(queries), len(queries if references is None else references)
    _rule(told.self_indices, "self_indices", torch.int64, [q], queries)
    _rule(told.keys, "keys", torch.int64, [None, q], queries)
    if references is not None and (told.keys is None) != (told.ref_keys is None):
        raise ValueError("keys and ref_keys must be given together where there are references; got one of them")
    _rule(told.ref_keys, "ref_keys", torch.int64, [None if told.keys is None else len(told.keys), m], queries)
    _rule(told.ref_mask, "ref_mask", torch.bool, [m], queries)
    if told.self_indices is not None:
        check_self_indices(told.self_indices, m)
    return told


def _rule(rule: Tensor | None, name: str, dtype: torch.dtype, shape: Sequence[int | None], queries: Tensor) -> None:
    """``shape`` has None where any size will do."""
    if rule is None:
        return
    matches = rule.dim() == len(shape) and all(want in (None, got) for want, got in zip(shape, rule.shape, strict=True))
    if not matches or rule.dtype != dtype:
        must = ", ".join("K" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must be {dtype} [{must}]; got {rule.dtype} {_shape(rule)}")
    _device(rule, name, queries, "queries")


def check_radius(radius: float) -> None:
    if math.isnan(radius):
        raise ValueError("radius must be a number; got nan")


def check_count(count: int, name: str) -> None:
    if count < 1:
        raise ValueError(f"{name} must be at least 1; got {count}")


def check_self_indices(indices: Tensor, references: int) -> None:
    """Looked at wherever they are: the kernels do, and these would choose another copy without a word."""
    wrong = (indices < -1) | (indices >= references)
    if wrong.any():
        at = int(wrong.int().argmax())
        raise ValueError(
            f"self_indices must hold -1 or an index below {references}; got {int(indices[at])} at index {at}"
        )


def check_saved(tensor: Tensor, name: str, dtype: torch.dtype, leading: int, embeddings: Tensor, origin: str) -> None:
    if tensor.dtype != dtype or tensor.shape != (leading, len(embeddings)):
        raise ValueError(
            f"{name} must be what {origin}, {dtype} [{leading}, {len(embeddings)}]; got {tensor.dtype} {_shape(tensor)}"
        )
    _device(tensor, name, embeddings)


def check_upstream(grad_loss: Tensor, embeddings: Tensor, name: str = "embeddings") -> None:
    shaped = grad_loss.dim() == 0 or grad_loss.shape == embeddings.shape[:1]
    if grad_loss.dtype != embeddings.dtype or not shaped:
        raise ValueError(
            f"grad_loss must have the dtype of {name}, {embeddings.dtype}, and shape [] or [{len(embeddings)}]; got "
            f"{grad_loss.dtype} {_shape(grad_loss)}"
        )
    _device(grad_loss, "grad_loss", embeddings, name)


def check_anchor_values(tensor: Tensor, name: str, rows: int, embeddings: Tensor) -> None:
    n = len(embeddings)
    shape = (n,) if rows == 0 else (rows, n)
    if tensor.dtype != torch.float64 or tensor.shape != shape:
        raise ValueError(
            f"{name} must be float64 {list(shape)} to match embeddings {_shape(embeddings)}; got {tensor.dtype} "
            f"{_shape(tensor)}"
        )
    _device(tensor, name, embeddings)


def check_mined(grad: Tensor, distances: Tensor, triplets: Tensor, embeddings: Tensor) -> None:
    if triplets.dim() != 2:
        raise ValueError(f"triplets must have shape [3, T]; got {_shape(triplets)}")
    for tensor, name, dtype, leading in (
        (triplets, "triplets", torch.int64, 3),
        (distances, "distances", torch.float64, 2),
        (grad, "grad", torch.float64, 2),
    ):
        if tensor.dtype != dtype or tensor.shape != (leading, triplets.shape[1]):
            raise ValueError(
                f"{name} must be what mine_triplets returned for these embeddings, {dtype} [{leading}, T]; got "
                f"{tensor.dtype} {_shape(tensor)}"
            )
        _device(tensor, name, embeddings)


def check_references(references: Tensor | None, embeddings: Tensor) -> None:
    if references is not None:
        _references(references, embeddings)


def check_triplet_indices(triplets: Tensor, anchors: int, candidates: int) -> None:
    if triplets.device.type != "cpu" or triplets.shape[1] == 0:
        return
    first = triplets[0]
    wrong = (first < torch.cat([first.new_zeros(1), first[:-1]])) | (first >= anchors)
    if wrong.any():
        at = int(wrong.int().argmax())
        raise ValueError(
            f"triplets must hold anchors ascending from 0 and below {anchors}; got {int(first[at])} at index {at}"
        )
    _indices(triplets[1:], "triplets", f"a candidate below {candidates}", candidates, 1)


def check_parts(parts: Sequence[int], rows: int, references: int) -> None:
    """None, or the first row whose gradient is wanted and how many, and the same of references."""
    if not parts:
        return
    numbers = list(parts)
    pairs = [] if len(numbers) != 4 else [(*numbers[:2], rows), (*numbers[2:], references)]
    if pairs and all(first >= 0 and 0 <= count <= most - first for first, count, most in pairs):
        return
    raise ValueError(
        f"parts must be none, or the first row and the number of rows of {rows} and the same of {references} "
        f"references; got {numbers}"
    )


def check_pairs(pairs: Tensor, n: int) -> None:
    if pairs.device.type == "cpu":
        _indices(pairs, "pairs", f"an index below {n}", n, 0)


def _indices(indices: Tensor, name: str, what: str, limit: int, first_row: int) -> None:
    wrong = (indices < -1) | (indices >= limit)
    if wrong.any():
        row, at = divmod(int(wrong.flatten().int().argmax()), indices.shape[1])
        raise ValueError(
            f"{name} must hold -1 or {what}; got {int(indices[row, at])} in row {row + first_row} at index {at}"
        )


def check_poison(poison: Tensor, distances: Tensor) -> None:
    if poison.dtype != torch.float64 or poison.dim() != 0:
        raise ValueError(f"poison must be a float64 scalar, []; got {poison.dtype} {_shape(poison)}")
    _device(poison, "poison", distances)


def check_triplets(anchor: Tensor, positive: Tensor, negative: Tensor) -> None:
    rows = anchor, positive, negative
    must = "anchor, positive and negative must have "

    def listed(of: str) -> str:
        words = [_shape(row) if of == "shape" else str(row.dtype) for row in rows]
        return "got anchor {}, positive {}, negative {}".format(*words)

    for row in rows:
        if row.dim() != 2:
            raise ValueError(
                f"{must}shape [T, D], one row a triplet; {listed('shape')}: {advice_for_dim(row.dim(), 'T')}"
            )
    differs = [len({row.shape[axis] for row in rows}) > 1 for axis in (0, 1)]
    if any(differs):
        axes = ["the number of triplets T differs", "the number of features D differs"]
        named = ", and ".join(axis for axis, differ in zip(axes, differs, strict=True) if differ)
        raise ValueError(f"{must}one shape [T, D]; {listed('shape')}: {named}")
    if not anchor.dtype == positive.dtype == negative.dtype:
        raise ValueError(f"{must}one dtype; {listed('dtype')}")
    if anchor.dtype not in _WIDE:
        raise ValueError(f"{must}dtype float64, float32, float16 or bfloat16; got {anchor.dtype}")
    _device(positive, "positive", anchor, "anchor")
    _device(negative, "negative", anchor, "anchor")


def check_triplet_weights(weights: Tensor | None, anchor: Tensor) -> None:
    if weights is None:
        return
    if weights.dtype not in ROW_DTYPES:
        raise ValueError(f"weights must have dtype float64, float32, float16 or bfloat16; got {weights.dtype}")
    if weights.shape != anchor.shape[:1]:
        raise ValueError(
            f"weights must have shape [{len(anchor)}] to match anchor {_shape(anchor)}; got {_shape(weights)}"
        )
    _device(weights, "weights", anchor, "anchor")


def check_none_missing(missing: Tensor) -> None:
    """ValueError where an anchor of ``missing`` [N] lacks a partner; a wait for the device."""
    if missing.any():
        raise ValueError(
            f"labels must give every anchor a positive and a negative (on_missing='error'); got {int(missing.sum())} "
            f"of {len(missing)} anchors without, the first at index {int(missing.int().argmax())}"
        )


def check_code(code: int, names: Sequence[str], name: str) -> None:
    if not 0 <= code < len(names):
        raise ValueError(f"{name} must be a code from 0 to {len(names) - 1}; got {code}")


def check_distance(code: int) -> None:
    check_code(code, DISTANCES, "distance")


def check_reduction(code: int) -> None:
    check_code(code, REDUCTIONS, "reduction")


def check_on_missing(code: int) -> None:
    check_code(code, ON_MISSING, "on_missing")


def check_ranks(k: int, skip_fraction: float) -> None:
    if not 1 <= k <= _MOST_ROWS:
        raise ValueError(f"k must be at least 1 and at most 2^31 - 1; got {k}")
    if not 0 <= skip_fraction < 1:
        raise ValueError(f"skip_fraction must be at least 0 and below 1; got {skip_fraction:f}")
