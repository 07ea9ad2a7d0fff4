"""Wrong uses of the public names: every line that ends in `# wrong`, and no other, is an error to type checkers.

Nothing here is ever run.
"""
# ruff: noqa: B018

from __future__ import annotations

import torch
from torch import Tensor

import fasttriplet
from fasttriplet import BatchHardTripletLoss, CrossBatchMemory, KHardestTripletLoss, PKSampler, TripletMarginLoss
from fasttriplet.retrieval import RetrievalEvaluator, nearest, retrieval_metrics


def losses(x: Tensor, y: Tensor) -> None:
    fasttriplet.batch_hard_triplet_loss(x)  # wrong
    fasttriplet.batch_hard_triplet_loss(x, [0, 0, 1, 1])  # wrong
    fasttriplet.batch_hard_triplet_loss(x, y, 0.3)  # wrong
    fasttriplet.batch_hard_triplet_loss(x, y, margin="0.3")  # wrong
    fasttriplet.batch_hard_triplet_loss(x, y, marginal=0.3)  # wrong
    fasttriplet.batch_hard_triplet_loss(x, y, groups=[0, 1])  # wrong
    fasttriplet.batch_hard_triplet_loss(x, y, return_stats="yes")  # wrong
    fasttriplet.batch_hard_triplet_loss(x, y).bakward()  # wrong
    fasttriplet.batch_hard_triplet_loss(x, y, return_stats=True).sum()  # wrong
    fasttriplet.semi_hard_triplet_loss(x, y, return_stats=True)[1].active  # wrong
    fasttriplet.semi_hard_triplet_loss(x, y, k=2)  # wrong
    fasttriplet.easy_positive_triplet_loss(x, y, negatives=1)  # wrong
    fasttriplet.k_hardest_triplet_loss(x, y, k=2.5)  # wrong
    fasttriplet.batch_all_triplet_loss(x, y, weights=0.5)  # wrong
    fasttriplet.weighted_triplet_loss(x, y, distance=None)  # wrong
    fasttriplet.triplet_margin_loss(x, x)  # wrong
    number: float = fasttriplet.triplet_margin_loss(x, x, x)  # wrong
    print(number)


def modules(x: Tensor, y: Tensor) -> None:
    BatchHardTripletLoss(0.3)  # wrong
    BatchHardTripletLoss(margins=0.3)  # wrong
    BatchHardTripletLoss(return_stats=1.5)  # wrong
    KHardestTripletLoss(k="4")  # wrong
    loss = BatchHardTripletLoss()
    loss(x)  # wrong
    loss(x, [0, 0, 1, 1])  # wrong
    loss(x, y, margin=0.3)  # wrong
    loss.margin = "0.3"  # wrong
    loss.distance.shape  # wrong
    TripletMarginLoss()(x, x)  # wrong
    TripletMarginLoss()(x, x, x).bakward()  # wrong


def miners(x: Tensor, y: Tensor) -> None:
    fasttriplet.mine_batch_hard(x, y, margin=0.3)  # wrong
    fasttriplet.mine_batch_hard(x, y).anchors  # wrong
    fasttriplet.mine_semi_hard(x, y, weights=torch.ones(4))  # wrong
    fasttriplet.mine_k_hardest(x, y, k="2")  # wrong
    anchors, positives = fasttriplet.mine_easy_positive(x, y).triplets()  # wrong
    print(anchors, positives)


def training(x: Tensor, y: Tensor) -> None:
    PKSampler(y)  # wrong
    PKSampler(y, 4, 4, seed="0")  # wrong
    PKSampler(y, 4, 4).state_dict()["epoch"].upper()  # wrong
    CrossBatchMemory(64)  # wrong
    CrossBatchMemory(64, 8).enqueue(x)  # wrong
    CrossBatchMemory(64, 8).references().ref_weights  # wrong
    fasttriplet.grad_cache(torch.nn.Linear(8, 4), BatchHardTripletLoss(), x, y)  # wrong
    fasttriplet.grad_cache("model", BatchHardTripletLoss(), x, y, chunk_size=8)  # wrong


def retrieval(x: Tensor, y: Tensor) -> None:
    nearest(x, k="5")  # wrong
    nearest(x).labels  # wrong
    retrieval_metrics(x)  # wrong
    retrieval_metrics(x, y, at=1)  # wrong
    retrieval_metrics(x, y).recall_at_1  # wrong
    RetrievalEvaluator(k=5)  # wrong
    RetrievalEvaluator().update(x)  # wrong


def information() -> None:
    fasttriplet.build_info()["threads"] + 1  # wrong
    fasttriplet.batch_harder_triplet_loss  # wrong
