"""Train a network so that images of the same class lie close together, and measure it on images it never saw.

Batches of P classes with K images each, a small ResNet, batch-hard triplet loss, retrieval metrics before and after, on
scikit-learn's handwritten digits, turned, scaled and shifted at random, so that comparing pixels does not do. Needs
scikit-learn.

    python examples/quickstart.py
"""

import argparse
import math

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fasttriplet import BatchHardTripletLoss, PKSampler
from fasttriplet.retrieval import retrieval_metrics

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
steps = parser.parse_args().steps
torch.manual_seed(0)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def warp(images):
    """Every image [N, 1, 8, 8] turned, scaled and shifted in its own way, as [N, 1, 16, 16]."""
    n = len(images)
    angle, scale = (torch.rand(n) - 0.5) * math.pi / 2, 0.9 + 0.6 * torch.rand(n)
    cos, sin, (dx, dy) = scale * angle.cos(), scale * angle.sin(), 0.6 * torch.rand(2, n) - 0.3
    theta = torch.stack([cos, -sin, dx, sin, cos, dy], dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 1, 16, 16], align_corners=False)
    return F.grid_sample(images, grid.to(images), align_corners=False)


class Block(nn.Module):  # the residual block of ResNet-18
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        first, second = nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.body = nn.Sequential(first, nn.BatchNorm2d(outputs), nn.ReLU(), second, nn.BatchNorm2d(outputs))
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        return F.relu(self.body(x) + self.skip(x))


@torch.no_grad()
def evaluate(embed, images, labels):
    """Each image ranks all others by distance: the share whose nearest is of its class, and MAP@R."""
    found = retrieval_metrics(embed(images), labels, at=(1,), distance="cosine")
    return f"nearest of the same class {found.hit_rate.item():.3f}, MAP@R {found.map_at_r:.3f}"


pixels, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
images = pixels.float().view(-1, 1, 8, 8) / 16
train, test = slice(0, 1200), slice(1200, None)
batches = PKSampler(labels[train], classes_per_batch=8, samples_per_class=8, batches_per_epoch=steps)
loader = DataLoader(TensorDataset(images[train], labels[train]), batch_sampler=batches)
test_images, test_labels = warp(images[test]).to(device), labels[test].to(device)

blocks = [Block(16, 32, 1), Block(32, 64, 2), Block(64, 128, 2)]
head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 64), nn.BatchNorm1d(64)]
model = nn.Sequential(nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(), *blocks, *head).to(device)
# The last batch norm keeps embeddings from starting as one point, where training lingers; so does SemiHardTripletLoss.
loss_fn = BatchHardTripletLoss(margin=0.3, distance="cosine")
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
print("pixels:   ", evaluate(nn.Flatten(), test_images, test_labels))
print("untrained:", evaluate(model.eval(), test_images, test_labels))
model.train()
for step, (x, y) in enumerate(loader, 1):
    loss = loss_fn(model(warp(x).to(device)), y.to(device))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
print("trained:  ", evaluate(model.eval(), test_images, test_labels))
