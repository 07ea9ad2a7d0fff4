"""The family's reference against loops that follow the definitions word by word, and small examples by hand."""

import math

import pytest
import torch

from fasttriplet import reference
from tests.inputs import DISTANCES, ON_MISSING, PAIRINGS, REDUCTIONS, pair_up
from tests.test_reference import distance_by_definition

LINE = torch.tensor([[0.0], [1.0], [3.0], [7.0], [8.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1, 1, 0])


def matrices_by_definition(embeddings, labels, distance, **pairing):
    """Distances, and which pairs are positive and negative, as lists of lists."""
    references = pairing.get("ref_embeddings", embeddings)
    ref_labels = pairing.get("ref_labels", labels).tolist()
    groups, ignored = pairing.get("groups"), pairing.get("ignore_index")
    ref_groups = pairing.get("ref_groups", groups)
    samples, mask = pairing.get("sample_ids"), pairing.get("ref_mask")
    ref_samples = pairing.get("ref_sample_ids", samples)
    if "ref_embeddings" not in pairing:
        own = list(range(len(labels)))
    else:
        own = pairing["self_indices"].tolist() if "self_indices" in pairing else [-1] * len(labels)
    d, kind = [], []
    for a, label in enumerate(labels.tolist()):
        d.append([distance_by_definition(embeddings[a], row, distance) for row in references])
        kind.append([])
        for i, other in enumerate(ref_labels):
            one_group = groups is not None and bool(groups[a] == ref_groups[i])
            apart = own[a] == i or (one_group and pairing.get("groups_exclude", "pairs") == "pairs")
            apart = apart or (samples is not None and samples[a] != -1 and bool(samples[a] == ref_samples[i]))
            apart = apart or (mask is not None and not mask[i])
            if ignored is not None:
                apart = apart or label == ignored or other == ignored
            if isinstance(label, list):
                same = any(mine and theirs for mine, theirs in zip(label, other, strict=True))
            else:
                same = label == other
            apart = apart or (one_group and same)
            kind[-1].append(None if apart else same)
    return d, kind


def first(indices, key):
    """The index of the smallest key, the lowest of equal ones; -1 of nothing."""
    return min(indices, key=lambda i: (key(i), i), default=-1)


def triplets_by_definition(miner, d, kind, options):
    otherwise = options.get("otherwise", "farthest")
    found = []
    for a, row in enumerate(d):
        positives = [i for i, same in enumerate(kind[a]) if same is True]
        negatives = [i for i, same in enumerate(kind[a]) if same is False]

        def beyond(threshold, width=math.inf):
            inside = [i for i in negatives if threshold < row[i] < threshold + width]  # noqa: B023
            if inside or otherwise == "skip":
                return first(inside, lambda i: row[i])  # noqa: B023
            return first(negatives, lambda i: -row[i])  # noqa: B023

        near = first(positives, lambda i: row[i])  # noqa: B023
        far = first(positives, lambda i: -row[i])  # noqa: B023
        if miner == "batch_hard":
            found.append((a, far, first(negatives, lambda i: row[i])))  # noqa: B023
        elif miner == "semi_hard":
            width = options["margin"] if options.get("within_margin") else math.inf
            found += [(a, p, beyond(row[p], width)) for p in positives]
        elif miner == "easy_positive":
            if options.get("negatives") == "semi_hard":
                hardest = first(negatives, lambda i: row[i])  # noqa: B023
                found.append((a, near, hardest if near < 0 else beyond(row[near])))
            else:
                found.append((a, near, first(negatives, lambda i: row[i])))  # noqa: B023
        else:
            ordered = sorted(negatives, key=lambda i: (row[i], i))[
                math.floor(options["skip_fraction"] * len(negatives)) :
            ]
            k = options["k"] if options["kth_only"] else min(options["k"], len(row))  # no more than candidates
            taken = (ordered + [-1] * k)[:k]
            found += [(a, far, n) for n in (taken[-1:] if options["kth_only"] else taken)]
    return found


def reduce_by_definition(losses, sizes, actives, weights, reduction):
    """Of (loss, how many count, how many are active) by row, with a weight each."""
    losses = [w * loss for w, loss in zip(weights, losses, strict=True)]
    if reduction == "none":
        return losses
    number = {"sum": None, "mean": sizes, "mean_nonzero": actives}[reduction]
    if number is None:
        return sum(losses)
    number = sum(w * size for w, size in zip(weights, number, strict=True))
    return sum(losses) / number if number else 0.0


def hinge(difference, options):
    return math.log1p(math.exp(difference)) if options["soft_margin"] else max(difference + options["margin"], 0.0)


def mined_loss_by_definition(triplets, d, weights, options):
    losses, counted = [], []
    for a, p, n in triplets:
        counts = n >= 0 and (p >= 0 or options["on_missing"] == "zero")
        counted.append(int(counts))
        losses.append(hinge((d[a][p] if p >= 0 else 0.0) - d[a][n], options) if counts else 0.0)
    weights = [weights[a] for a, _, _ in triplets]
    return reduce_by_definition(losses, counted, [int(loss > 0) for loss in losses], weights, options["reduction"])


def dense_loss_by_definition(name, d, kind, weights, options):
    losses, counted, actives = [], [], []
    for a, row in enumerate(d):
        positives = [x for x, same in zip(row, kind[a], strict=True) if same is True]
        negatives = [x for x, same in zip(row, kind[a], strict=True) if same is False]
        if name == "batch_all":
            each = [hinge(p - n, options) for p in positives for n in negatives]
        else:
            far = sum(x * math.exp(x) for x in positives) / sum(map(math.exp, positives)) if positives else 0.0
            near = [math.exp(-x) for x in negatives]
            each = []
            if negatives and (positives or options["on_missing"] == "zero"):
                mean = sum(x * w for x, w in zip(negatives, near, strict=True)) / sum(near)
                each = [hinge(far - mean, options)]
        losses.append(sum(each))
        counted.append(len(each))
        actives.append(sum(loss > 0 for loss in each))
    return reduce_by_definition(losses, counted, actives, weights, options["reduction"])


MINED = [
    ("batch_hard", {}),
    *(("semi_hard", dict(within_margin=w, otherwise=o)) for w in (False, True) for o in reference.OTHERWISE),
    *(("easy_positive", dict(negatives=n, otherwise=o)) for n in ("hardest", "semi_hard") for o in reference.OTHERWISE),
    *(("k_hardest", dict(k=k, kth_only=o, skip_fraction=f)) for k, f in ((1, 0.0), (3, 0.4)) for o in (False, True)),
]
BATCHES = [(1, 1), (2, 1), (2, 2), (9, 1), (14, 4), (11, 11)]


def batches(sizes=BATCHES):
    generator = torch.Generator().manual_seed(0)
    for n, classes in sizes:
        embeddings = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        embeddings[n // 2 :] = (2 * embeddings[n // 2 :]).round()
        yield embeddings, torch.randint(0, classes, (n,), generator=generator)


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize(("name", "chosen"), MINED)
def test_miners(name, chosen, pairing):
    for embeddings, classes in batches():
        labels, arguments = pair_up(pairing, embeddings, classes)
        for distance in DISTANCES[1:2] if name == "k_hardest" else ("squared_euclidean", "inner_product"):  # exact ties
            rows = (4 * embeddings).round()
            if "ref_embeddings" in arguments:
                arguments["ref_embeddings"] = (4 * arguments["ref_embeddings"]).round()
            d, kind = matrices_by_definition(rows, labels, distance, **arguments)
            options = dict(chosen, margin=0.5) if name == "semi_hard" else chosen
            mined = getattr(reference, f"mine_{name}")(rows, labels, distance=distance, **options, **arguments)
            expected = triplets_by_definition(name, d, kind, options)
            if name != "batch_hard":
                assert mined.anchors.tolist() == [a for a, _, _ in expected]
            assert mined.positives.tolist() == [p for _, p, _ in expected]
            assert mined.negatives.tolist() == [n for _, _, n in expected]
            for distances, chosen_ones in ((mined.positive_distances, 1), (mined.negative_distances, 2)):
                of = [d[t[0]][t[chosen_ones]] if t[chosen_ones] >= 0 else math.nan for t in expected]
                torch.testing.assert_close(
                    distances, torch.tensor(of, dtype=torch.float64), rtol=1e-12, atol=1e-12, equal_nan=True
                )


@pytest.mark.parametrize("pairing", PAIRINGS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("soft_margin", [False, True])
@pytest.mark.parametrize("on_missing", ON_MISSING[:2])
def test_losses(distance, soft_margin, on_missing, pairing):
    for embeddings, classes in batches([(2, 1), (11, 4)]):
        labels, arguments = pair_up(pairing, embeddings, classes)
        weights = torch.arange(len(labels), dtype=torch.float64) % 3
        d, kind = matrices_by_definition(embeddings, labels, distance, **arguments)
        if distance == "cosine":  # a tie is decided by rounding, which differs from that of the definition
            candidates = arguments.get("ref_embeddings", embeddings)
            d = reference.pairwise_distances(embeddings, distance, candidates).tolist()
        for reduction in REDUCTIONS:
            options = dict(margin=0.4, soft_margin=soft_margin, on_missing=on_missing, reduction=reduction)
            for weighted in (None, weights) if reduction == "mean" else (weights,):
                each = [1.0] * len(labels) if weighted is None else weights.tolist()
                arguments["weights"] = weighted
                for name, chosen in MINED:
                    function = getattr(reference, f"{name}_triplet_loss")
                    loss = function(embeddings, labels, distance=distance, **options, **chosen, **arguments)
                    triplets = triplets_by_definition(name, d, kind, {**chosen, **options})
                    expected = mined_loss_by_definition(triplets, d, each, options)
                    torch.testing.assert_close(
                        loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11
                    )
                for name in ("batch_all", "weighted"):
                    function = getattr(reference, f"{name}_triplet_loss")
                    loss = function(embeddings, labels, distance=distance, **options, **arguments)
                    expected = dense_loss_by_definition(name, d, kind, each, options)
                    torch.testing.assert_close(
                        loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-11
                    )


def test_semi_hard_by_hand():
    """On a line at 0, 1, 3, 7, 8, labels 0 0 1 1 0: the pairs of anchor 0 are with 1 and 8, negatives at 3 and 7."""
    mined = reference.mine_semi_hard(LINE, LABELS)
    assert mined.anchors.tolist() == [0, 0, 1, 1, 2, 3, 4, 4]
    assert mined.positives.tolist() == [1, 4, 0, 4, 3, 2, 0, 1]
    # 0-1: 3 at 3; 0-8: none beyond 8, the farthest at 7. 1-0: 3 at 2; 1-8: none, the farthest. 3-7 (4): 8 at 5.
    # 7-3 (4): 1 at 6. 8-0 and 8-1: none beyond, the farthest is 3.
    assert mined.negatives.tolist() == [2, 3, 2, 3, 4, 1, 2, 2]
    skipping = reference.mine_semi_hard(LINE, LABELS, otherwise="skip")
    assert skipping.negatives.tolist() == [2, -1, 2, -1, 4, 1, -1, -1]
    inside = reference.mine_semi_hard(LINE, LABELS, otherwise="skip", within_margin=True, margin=1.5)
    assert inside.negatives.tolist() == [-1, -1, 2, -1, 4, -1, -1, -1]
    losses = reference.semi_hard_triplet_loss(LINE, LABELS, margin=1.5, reduction="none")
    assert losses.tolist() == [0.0, 2.5, 0.5, 2.5, 0.5, 0.0, 4.5, 3.5]


def test_k_hardest_by_hand():
    mined = reference.mine_k_hardest(LINE, LABELS, k=2)
    assert mined.positives.tolist() == [4, 4, 4, 4, 3, 3, 2, 2, 0, 0]
    assert mined.negatives.tolist() == [2, 3, 2, 3, 1, 0, 4, 1, 3, 2]
    second = reference.mine_k_hardest(LINE, LABELS, k=2, kth_only=True)
    assert second.negatives.tolist() == [3, 3, 0, 1, 2]
    later = reference.mine_k_hardest(LINE, LABELS, k=2, skip_fraction=0.5)  # of 2 negatives 1 is left, of 3 two
    assert later.negatives.tolist() == [3, -1, 3, -1, 0, 4, 1, 0, 2, -1]


def test_easy_positive_by_hand():
    mined = reference.mine_easy_positive(LINE, LABELS)
    assert mined.positives.tolist() == [1, 0, 3, 2, 1] and mined.negatives.tolist() == [2, 2, 1, 4, 3]
    beyond = reference.mine_easy_positive(LINE, LABELS, negatives="semi_hard")
    assert beyond.negatives.tolist() == [2, 2, 4, 1, 2]
    alone = reference.mine_easy_positive(LINE, torch.tensor([0, 0, 1, 1, 2]), negatives="semi_hard")
    assert alone.positives[4] == -1 and alone.negatives[4] == 3


def test_statistics_by_hand():
    loss, stats = reference.k_hardest_triplet_loss(LINE, torch.tensor([0, 0, 0, 1, 1]), k=1, return_stats=True)
    # Farthest positives at 3, 2, 3, 1, 1; nearest negatives at 7, 6, 4 (all row 3), 4, 5 (row 2): nothing is active.
    assert loss == 0 and stats.active_fraction == 0
    assert stats.negative_counts.tolist() == [0, 0, 2, 3, 0]
    assert stats.mean_positive_distance == 2 and stats.mean_negative_distance == pytest.approx(26 / 5)
    assert stats.missing_positive == 0 and stats.missing_negative == 0
    assert stats.collapse == pytest.approx(26 / 5 / (123 / 5) ** 0.5)
    _, stats = reference.batch_all_triplet_loss(LINE, torch.tensor([0, 0, 0, 1, 2]), margin=4.0, return_stats=True)
    assert stats.missing_positive == 2 and stats.missing_negative == 0
    # Of the 12 triplets those with d_an < d_ap + 4: anchors 0 and 1 with positive 2 and negative 3 have 7 < 7 and
    # 6 < 6, not active; anchor 2 has 4 and 5 against 3 + 4 and 2 + 4: four.
    assert stats.active_fraction == pytest.approx(4 / 12) and stats.negative_counts.tolist() == [0, 0, 0, 2, 2]


@pytest.mark.parametrize("seed", range(5))
def test_formulas_of_sentence_transformers(seed):
    """Where semantics coincide: every anchor has a positive and a negative, and no two distances tie."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(24, 6, generator=generator, dtype=torch.float64)
    labels = torch.arange(24) // 4
    d = torch.cdist(rows, rows)
    positive = (labels[:, None] == labels) & ~torch.eye(24, dtype=torch.bool)
    # BatchSemiHardTripletLoss: the smallest negative distance above d(a, p), else the largest negative distance;
    # the mean over all ordered positive pairs.
    tiled = d[:, None].expand(-1, 24, -1)  # [a, p, n]
    negative = (labels[:, None] != labels)[:, None]
    outside = torch.where(negative & (tiled > d[..., None]), tiled, torch.inf).amin(2)
    inside = torch.where(negative, tiled, -torch.inf).amax(2)
    semi_hard = torch.where(outside.isfinite(), outside, inside)
    expected = (d - semi_hard + 5.0).clamp_min(0)[positive].mean()
    torch.testing.assert_close(reference.semi_hard_triplet_loss(rows, labels, margin=5.0), expected)
    # BatchAllTripletLoss: the sum over all triplets divided by the number of those above zero.
    each = (d[:, :, None] - d[:, None] + 0.2) * (positive[:, :, None] & negative)
    expected = each.clamp_min(0).sum() / (each > 1e-16).sum()
    torch.testing.assert_close(reference.batch_all_triplet_loss(rows, labels, margin=0.2), expected)


def test_formula_of_fast_reid():
    """Its weighted sampling: softmax over positives by distance, over negatives by minus distance, then softplus."""
    rows = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(20) // 4
    d = torch.cdist(rows, rows)
    positive = ((labels[:, None] == labels) & ~torch.eye(20, dtype=torch.bool)).double()
    negative = (labels[:, None] != labels).double()

    def weights(distances, mask):
        highest = (distances * mask).amax(1, keepdim=True)
        exponential = torch.exp(distances - highest) * mask
        return exponential / (exponential.sum(1, keepdim=True) + 1e-6)

    ap = (d * positive * weights(d * positive, positive)).sum(1)
    an = (d * negative * weights(-d * negative, negative)).sum(1)
    expected = torch.nn.functional.softplus(ap - an).mean()
    loss = reference.weighted_triplet_loss(rows, labels, soft_margin=True)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)  # 1e-6 in its denominator


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("name", ["semi_hard", "easy_positive", "k_hardest", "batch_all", "weighted"])
def test_derivatives(name, distance):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(5, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    references = torch.randn(4, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    labels, ref_labels = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 2])
    function = getattr(reference, f"{name}_triplet_loss")
    options = dict(distance=distance, soft_margin=True)

    def loss(x, y):
        return function(x, labels, ref_embeddings=y, ref_labels=ref_labels, **options)

    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(loss, (rows, references))
        assert check(lambda x: function(x, labels, **options), (rows,))


LOSSES = ("batch_hard", "semi_hard", "easy_positive", "k_hardest", "batch_all", "weighted")


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_row_that_is_not_finite(name, pairing):
    embeddings = torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    embeddings[7, 1] = torch.inf
    labels, arguments = pair_up(pairing, embeddings, torch.arange(30) // 3)
    function = getattr(reference, f"{name}_triplet_loss")
    for reduction in REDUCTIONS:
        rows = embeddings.clone().requires_grad_()
        loss = function(rows, labels, reduction=reduction, **arguments)
        assert loss.isnan().any() if reduction == "none" else loss.isnan()
        loss.sum().backward()
        ignored = torch.zeros(30, dtype=torch.bool)
        if "ignore_index" in arguments:
            ignored = labels == arguments["ignore_index"]
        assert rows.grad[~ignored].isnan().all()


@pytest.mark.parametrize("name", LOSSES)
def test_an_ignored_row_may_hold_anything(name):
    embeddings = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) // 4
    function = getattr(reference, f"{name}_triplet_loss")
    expected = function(embeddings[:8], labels[:8])
    embeddings[8:] = torch.nan
    rows = embeddings.requires_grad_()
    loss = function(rows, labels, ignore_index=2)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert rows.grad[:8].any() and not rows.grad[8:].any()


@pytest.mark.parametrize("name", LOSSES)
def test_error_on_missing(name):
    function = getattr(reference, f"{name}_triplet_loss")
    with pytest.raises(ValueError, match="1 anchors miss a positive or a negative, first 2"):
        function(torch.zeros(3, 1), torch.tensor([0, 0, 1]), on_missing="error", ignore_index=5)
    function(torch.zeros(5, 1), torch.tensor([0, 0, 5, 1, 1]), on_missing="error", ignore_index=5)


def test_misspelt_names_are_refused():
    for name in ("otherwise", "negatives"):
        with pytest.raises(ValueError, match=f"{name} must be one of .*; got 'bogus'"):
            reference.mine_easy_positive(LINE, LABELS, **{name: "bogus"})


@pytest.mark.parametrize(
    "labels", [torch.arange(12)[:, None], torch.ones(12, 3).long(), torch.ones(12), torch.arange(11)]
)
def test_other_forms_of_labels_are_refused(labels):
    """They would broadcast to pairs that nobody meant."""
    rows = torch.randn(12, 4, dtype=torch.float64)
    for name in LOSSES:
        with pytest.raises(ValueError, match=r"labels must be integers or bool \[12\], one class a row, .*; got"):
            getattr(reference, f"{name}_triplet_loss")(rows, labels)
        with pytest.raises(ValueError, match=r"ref_labels must be integers or bool \[12\]"):
            getattr(reference, f"{name}_triplet_loss")(rows, torch.arange(12), ref_embeddings=rows, ref_labels=labels)
    with pytest.raises(ValueError, match=r"embeddings must have shape \[N, D\]; got \[12, 4, 1\]"):
        reference.mine_batch_hard(rows[..., None], torch.arange(12))
