"""Run by test_pml_distributed.py in two processes: the library's DistributedTripletMarginLossMNIST, made small.

Each step's losses, with the drop-in and with the original, from the same weights and data.
"""

import sys

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from fasttriplet.compat import pml


def train(loss, miner, rank):
    """The script's loop: losses of five steps, and the weights after them."""
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(8, 6))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    told = []
    for step in range(5):
        generator = torch.Generator().manual_seed(2 * step + rank)
        data, target = torch.randn(16, 8, generator=generator), torch.randint(0, 4, (16,), generator=generator)
        optimizer.zero_grad()
        output = model(data)
        value = loss(output, target, miner(output, target) if miner else None)
        told.append(value.item())
        value.backward()
        optimizer.step()
    return torch.tensor(told), model.module.weight.detach()


def main(rank, store):
    from pytorch_metric_learning import losses, miners
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper, DistributedMinerWrapper

    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    for efficient in (True, False):
        for of_ours, of_original in (
            (None, None),
            (miners.MultiSimilarityMiner, miners.MultiSimilarityMiner),
            (pml.BatchHardMiner, miners.BatchHardMiner),
            (pml.TripletMarginMiner, miners.TripletMarginMiner),
        ):
            results = []
            for kind, miner in ((pml.TripletMarginLoss, of_ours), (losses.TripletMarginLoss, of_original)):
                wrapped = miner and DistributedMinerWrapper(miner(), efficient=efficient)
                results.append(train(DistributedLossWrapper(kind(0.2), efficient=efficient), wrapped, rank))
            for ours, original in zip(*results, strict=True):
                torch.testing.assert_close(ours, original, rtol=1e-4, atol=1e-5)
            assert results[0][0].gt(0).any()
    print("done")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
