"""Train in several processes with one batch: DistributedDataParallel, and a loss that mines in the rows of all.

PKSampler gives each process other classes. With ``process_group`` loss and gradient are those of one process that has
the whole batch: in the first and the last step the script prints both. It uses NCCL where each process has a GPU, else
gloo on the CPU. The data are scikit-learn's digits, each made darker by chance. Takes half a minute.

    torchrun --nproc-per-node=2 examples/distributed.py
"""

import argparse
import gc
import os

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from fasttriplet import BatchHardTripletLoss, PKSampler
from fasttriplet.retrieval import RetrievalEvaluator


def gathered(rows):
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.detach())
    return torch.cat(parts)  # of all processes, in rank order


def compare(step, network, x, y, embeddings, loss):
    """Prints loss and gradient of all processes beside those of one process that has the whole batch."""
    one_process, labels = BatchHardTripletLoss(soft_margin=True), gathered(y)  # without a process group
    expected = one_process(gathered(embeddings), labels)
    alone = torch.autograd.grad(one_process(network(gathered(x)), labels), network.parameters())
    alone, together = (torch.cat([g.flatten() for g in gs]) for gs in (alone, [p.grad for p in network.parameters()]))
    if dist.get_rank() == 0:
        print(f"step {step}: loss {loss:.9g}, in one process {expected:.9g}, same bits: {torch.equal(loss, expected)}")
        off = (together - alone).norm() / alone.norm()
        print(f"  gradient of norm {together.norm():.6g}, in one process {alone.norm():.6g}, off by {off:.0e} of it")


def main(steps, device):
    torch.manual_seed(0)
    rank, group = dist.get_rank(), dist.group.WORLD
    digits, labels = (torch.as_tensor(x, device=device) for x in load_digits(return_X_y=True))
    images = digits.float() / 16 * (0.1 + 0.9 * torch.rand(len(digits), 1).to(device))
    train, test = slice(900), slice(900 + rank, None, dist.get_world_size())  # each embeds its part
    sampler = PKSampler(labels[train], classes_per_batch=5, samples_per_class=8, batches_per_epoch=steps)
    network = nn.Sequential(nn.Linear(64, 256), nn.LayerNorm(256), nn.ReLU(), nn.Linear(256, 64)).to(device)
    model = DistributedDataParallel(network)
    loss_fn = BatchHardTripletLoss(soft_margin=True, process_group=group)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step, (x, y) in enumerate(DataLoader(TensorDataset(images[train], labels[train]), batch_sampler=sampler), 1):
        optimizer.zero_grad()
        loss = loss_fn(embeddings := model(x), y)
        loss.backward()
        if step in (1, steps):
            compare(step, network, x, y, embeddings, loss)
        optimizer.step()
    for name, embed in (("pixels ", nn.Identity()), ("trained", network)):
        evaluator = RetrievalEvaluator(at=(1,), process_group=group)
        evaluator.update(embed(images[test]).detach(), labels[test])
        found = evaluator.compute()
        if rank == 0:
            print(f"{name}  nearest of the same class {found.hit_rate[0]:.3f}, MAP@R {found.map_at_r:.3f}, in test")


parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
steps = parser.parse_args().steps
if "RANK" not in os.environ:
    print("one process; start two by: torchrun --nproc-per-node=2 examples/distributed.py")
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
cuda = torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
main(steps, device)
gc.collect()  # a DistributedDataParallel that outlives its group may wait for it for ever
dist.destroy_process_group()
