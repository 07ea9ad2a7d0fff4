"""The drop-in for pytorch-metric-learning in one graph: ``torch.compile(fullgraph=True)`` and ``torch.export``."""

import pytest
import torch

from fasttriplet.compat import pml
from tests.compat.batches import BATCHES


@pytest.mark.parametrize(
    "options",
    [{}, {"smooth_loss": True}, {"swap": True, "reducer": "none"}, {"reducer": "mean"}, {"margin": torch.tensor(0.1)}],
)
def test_one_graph_of_miner_and_loss(options):
    """Mined by data: how many triplets there are is not known where the graph is made."""
    torch.compiler.reset()
    rows, labels = BATCHES["random"]
    miner, loss = pml.TripletMarginMiner(type_of_triplets="semihard"), pml.TripletMarginLoss(**options)

    def both(rows, labels):
        return loss(rows, labels, miner(rows, labels)), loss(rows, labels)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for ids in (labels, labels.flip(0), torch.arange(24)):
        leaves = [rows.clone().requires_grad_() for _ in range(2)]
        values, counts = [], []
        for function, leaf in zip((both, compiled), leaves, strict=True):
            mined, every = function(leaf, ids)
            (mined.sum() + every.sum()).backward()
            values.append((mined, every))
            counts.append(miner.num_triplets)
        for eager, traced in zip(*values, strict=True):
            torch.testing.assert_close(traced, eager)
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad)
        assert counts[0] == counts[1] and (counts[0] > 0) == (len(ids.unique()) < 24)


def test_one_graph_of_batch_hard():
    torch.compiler.reset()
    rows, labels = BATCHES["random"]
    miner = pml.BatchHardMiner()
    compiled = torch.compile(miner, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(rows, labels), miner(rows, labels)))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("options", [{}, {"smooth_loss": True, "reducer": "mean"}])
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects")
def test_export_of_miner_and_loss(strict, options):
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.miner, self.loss = pml.TripletMarginMiner(), pml.TripletMarginLoss(**options)

        def forward(self, rows, labels):
            return self.loss(rows, labels, self.miner(rows, labels)), self.loss(rows, labels)

    rows, labels = BATCHES["random"]
    module = Both()
    exported = torch.export.export(module, (rows, labels), strict=strict).module()
    for ids in (labels, labels.flip(0)):
        for eager, traced in zip(module(rows, ids), exported(rows, ids), strict=True):
            torch.testing.assert_close(traced, eager)


@pytest.mark.parametrize("margin", [0.3, torch.tensor([0.3])])
def test_one_graph_of_pairs(margin):
    """Joined in the graph, where the length of neither part is known."""
    torch.compiler.reset()
    rows, labels = BATCHES["random"]
    miner, loss = pml.TripletMarginMiner(margin), pml.TripletMarginLoss(margin)

    def both(rows, labels):
        anchors, positives, negatives = miner(rows, labels)
        return loss(rows, labels, (anchors, positives, anchors[:9], negatives[:9]))

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(rows, labels), both(rows, labels))
    assert both(rows, labels) > 0
