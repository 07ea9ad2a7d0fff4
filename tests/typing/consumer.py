"""The public names as a user's code has them, with the types that it counts on; test_typing.py checks and runs it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import assert_type

import fasttriplet
from fasttriplet import (
    BatchAllTripletLoss,
    BatchHardTripletLoss,
    CrossBatchMemory,
    EasyPositiveTripletLoss,
    KHardestTripletLoss,
    MinedTriplets,
    PKSampler,
    SemiHardTripletLoss,
    TripletMarginLoss,
    Triplets,
    TripletStats,
    WeightedTripletLoss,
)
from fasttriplet.compat import fastreid, pml, tfa, torchreid
from fasttriplet.retrieval import (
    HardNegatives,
    MiningReport,
    Neighbours,
    NeighboursWithin,
    RetrievalEvaluator,
    RetrievalMetrics,
    VerificationMetrics,
    mine_hard_negatives,
    nearest,
    rerank_k_reciprocal,
    retrieval_metrics,
    verification_metrics,
    within,
)


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(24, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(), torch.arange(24) // 4


def losses() -> None:
    x, y = batch()
    assert_type(fasttriplet.batch_hard_triplet_loss(x, y, margin=0.2, distance="cosine"), Tensor)
    assert_type(fasttriplet.semi_hard_triplet_loss(x, y, within_margin=True), Tensor)
    assert_type(fasttriplet.easy_positive_triplet_loss(x, y, negatives="semi_hard"), Tensor)
    assert_type(fasttriplet.k_hardest_triplet_loss(x, y, k=2), Tensor)
    assert_type(fasttriplet.batch_all_triplet_loss(x, y, weights=torch.ones(24)), Tensor)
    assert_type(fasttriplet.weighted_triplet_loss(x, y, groups=torch.arange(24) % 2), Tensor)
    assert_type(fasttriplet.triplet_margin_loss(x, x.roll(1, 0), x.roll(2, 0), swap=True), Tensor)
    loss = fasttriplet.batch_hard_triplet_loss(x, y, ref_embeddings=x.detach(), ref_labels=y, ignore_index=0)
    loss.backward()  # pyright: ignore[reportUnknownMemberType]  # PyTorch's own


def statistics() -> None:
    x, y = batch()
    loss, stats = fasttriplet.batch_hard_triplet_loss(x, y, return_stats=True)
    assert_type(loss, Tensor)
    assert_type(stats, TripletStats)
    assert_type(stats.active_fraction, Tensor)
    assert_type(fasttriplet.semi_hard_triplet_loss(x, y, return_stats=True)[1], TripletStats)
    assert_type(fasttriplet.easy_positive_triplet_loss(x, y, return_stats=True)[1], TripletStats)
    assert_type(fasttriplet.k_hardest_triplet_loss(x, y, k=2, return_stats=True)[1], TripletStats)
    assert_type(fasttriplet.batch_all_triplet_loss(x, y, return_stats=True)[1], TripletStats)
    assert_type(fasttriplet.weighted_triplet_loss(x, y, return_stats=True)[1], TripletStats)
    _, more = BatchHardTripletLoss(return_stats=True)(x, y)
    assert isinstance(more, TripletStats)


def modules() -> None:
    x, y = batch()
    made = (
        BatchHardTripletLoss(margin=0.2),
        SemiHardTripletLoss(otherwise="skip"),
        EasyPositiveTripletLoss(soft_margin=True),
        KHardestTripletLoss(k=3, skip_fraction=0.1),
        BatchAllTripletLoss(reduction="sum"),
        WeightedTripletLoss(distance="squared_euclidean"),
    )
    for module in made:
        value = module(x, y, sample_ids=torch.arange(24))  # with return_stats=True it would be a pair: of any type
        assert isinstance(value, Tensor)
        module.margin = 0.5 * module.margin
        assert_type(module.margin, float)
        assert_type(module.reduction, str)
    assert_type(made[3].k, int)
    triplets = TripletMarginLoss(margin=0.2, mining_margin=None)
    assert_type(triplets(x, x.roll(1, 0), x.roll(2, 0)), Tensor)


def miners() -> None:
    x, y = batch()
    mined = fasttriplet.mine_batch_hard(x, y, distance="cosine")
    assert_type(mined, MinedTriplets)
    assert_type(mined.triplets(), tuple[Tensor, Tensor, Tensor])
    assert_type(fasttriplet.mine_semi_hard(x, y), Triplets)
    assert_type(fasttriplet.mine_easy_positive(x, y), Triplets)
    hardest = fasttriplet.mine_k_hardest(x, y, k=2)
    assert_type(hardest, Triplets)
    anchors, positives, negatives = hardest.triplets()
    assert_type(anchors, Tensor)
    assert_type(positives, Tensor)
    assert_type(negatives, Tensor)


def training() -> None:
    x, y = batch()
    sampler = PKSampler(y, classes_per_batch=3, samples_per_class=2, batches_per_epoch=2, seed=1)
    assert_type(next(iter(sampler)), list[int])
    assert_type(len(sampler), int)
    assert_type(sampler.batch_size, int)
    assert_type(sampler.state_dict(), dict[str, int])
    sampler.set_epoch(1)
    model, loss = nn.Linear(8, 4), BatchHardTripletLoss()
    memory = CrossBatchMemory(size=64, dim=4)
    for rows, labels in DataLoader(TensorDataset(x.detach(), y), batch_sampler=sampler):
        embeddings = model(rows)
        memory.enqueue(embeddings, labels)
        references = memory.references()
        assert_type(references.ref_embeddings, Tensor)
        assert_type(references.ref_groups, Tensor | None)
        past = references._asdict()
        # A dict of any values may have a return_stats: of no type that pyright's strict mode would trust.
        value = fasttriplet.semi_hard_triplet_loss(embeddings, labels, **past)  # pyright: ignore[reportUnknownVariableType]
        value.backward()  # pyright: ignore[reportUnknownMemberType]
    assert_type(len(memory), int)
    assert_type(memory.ages(), Tensor)
    assert_type(fasttriplet.grad_cache(model, loss, x.detach(), y, chunk_size=8), Tensor)
    bound = partial(fasttriplet.semi_hard_triplet_loss, margin=0.1)
    assert_type(bound(model(x), y), Tensor)
    assert_type(fasttriplet.grad_cache(model, bound, x.detach(), y, chunk_size=8), Tensor)


def compiling() -> None:
    x, y = batch()
    compiled = torch.compile(fasttriplet.batch_hard_triplet_loss, backend="eager")  # pyright: ignore[reportUnknownMemberType]
    assert_type(compiled(x, y, margin=0.1), Tensor)


def retrieval() -> None:
    x, y = batch()
    rows = x.detach()
    found = nearest(rows, k=3)
    assert_type(found, Neighbours)
    assert_type(found.distances, Tensor)
    assert_type(nearest(rows.numpy(), rows, k=2, distance="cosine").indices, Tensor)
    assert_type(within(rows, rows, 1.0), NeighboursWithin)
    metrics = retrieval_metrics(rows, y, at=(1, 3))
    assert_type(metrics, RetrievalMetrics)
    assert_type(metrics.map_at_r, Tensor)
    assert_type(metrics.as_dict(), dict[str, float])
    evaluator = RetrievalEvaluator(at=[1, 2])
    evaluator.update(rows, y)
    assert_type(evaluator.compute(), RetrievalMetrics)
    assert_type(verification_metrics(rows, y), VerificationMetrics)
    hard = mine_hard_negatives(rows, y, num_negatives=2)
    assert_type(hard, HardNegatives)
    assert_type(hard.report, MiningReport)
    assert_type(rerank_k_reciprocal(rows, k=3), Neighbours)


def drop_ins() -> None:
    x, y = batch()
    assert_type(fastreid.triplet_loss(x, y, 0.3, norm_feat=False, hard_mining=True), Tensor)
    assert_type(tfa.triplet_semihard_loss(y, x), Tensor)
    modules: list[nn.Module] = [tfa.TripletHardLoss(), torchreid.TripletLoss(margin=0.3), pml.TripletMarginLoss()]
    assert isinstance(modules[0](y, x), Tensor)
    assert all(isinstance(module(x, y), Tensor) for module in modules[1:])


def information() -> None:
    assert_type(fasttriplet.__version__, str)
    assert_type(fasttriplet.build_info(), dict[str, str | int | bool | None])
    warning: type[Warning] = fasttriplet.EngineWarning
    assert issubclass(warning, UserWarning)


def main() -> None:
    losses()
    statistics()
    modules()
    miners()
    training()
    compiling()
    retrieval()
    drop_ins()
    information()


if __name__ == "__main__":
    main()
