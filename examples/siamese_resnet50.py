"""Explicit triplets with one ResNet-50 for anchor, positive and negative, as in Keras's siamese network walk-through.

Squared Euclidean distances, and of each batch only the triplets inside the margin count. First the head is trained on
the frozen backbone, then layer4 with it. Printed is how many triplets of images never trained on are ranked right, the
anchor nearer to its positive than to its negative. Random weights unless --weights says others; scikit-learn's digits.

    python examples/siamese_resnet50.py [--weights IMAGENET1K_V2]
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from fasttriplet import TripletMarginLoss

try:
    from torchvision.models import resnet50
except RuntimeError:  # PyPI's torchvision beside a PyTorch without CUDA: two operators, not needed here, are undeclared
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision.models import resnet50

parser = argparse.ArgumentParser()
parser.add_argument("--weights", help="a name of weights that torchvision knows and downloads")
parser.add_argument("--steps", type=int, default=60, help="of each of the two stages")
args = parser.parse_args()
torch.manual_seed(0)

digits, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
images = F.interpolate(digits.float().view(-1, 1, 8, 8) / 16, size=64, mode="bilinear").expand(-1, 3, -1, -1)
images = (images - 0.45) / 0.225  # about what ImageNet's weights expect
train, test = torch.arange(1200), torch.arange(1200, len(labels))


def draw_triplets(rows, n):
    """Indices [3, n] of triplets among ``rows``: an anchor, another image of its class, and an image of another."""
    same = (labels[rows, None] == labels[rows]).float()
    anchor = torch.randint(len(rows), (n,))
    positive = (same.clone().fill_diagonal_(0))[anchor].multinomial(1).squeeze(1)
    negative = (1 - same)[anchor].multinomial(1).squeeze(1)
    return rows[torch.stack([anchor, positive, negative])]


@torch.no_grad()
def ranked_right():
    model.eval()
    rows = torch.cat([F.normalize(model(chunk)) for chunk in maps.split(256)])
    anchor, positive, negative = rows[held_out]
    right = (anchor - positive).square().sum(1) < (anchor - negative).square().sum(1)
    return f"{right.float().mean():.1%} of {len(right)} triplets ranked right"


net = resnet50(weights=args.weights, zero_init_residual=args.weights is None)  # so that random blocks do no harm
frozen = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
backbone = nn.Sequential(net.layer4, net.avgpool, nn.Flatten())
head = nn.Sequential(nn.Linear(2048, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))
model, held_out = nn.Sequential(backbone, head), draw_triplets(test, 5000)
with torch.no_grad():
    if args.weights is None:  # then batch norm has yet to see images
        backbone.train()(frozen.train()(images[train[:256]]))
    # Never trained and without augmentation, these layers need to see each image only once.
    maps = torch.cat([frozen.eval()(chunk) for chunk in images.split(256)])

loss_fn = TripletMarginLoss(margin=0.5, distance="squared_euclidean", mining_margin=0.5)
print("before:                  ", ranked_right())
backbone.requires_grad_(False)
for name, part, lr in (("head", head, 1e-3), ("layer4 and head", backbone, 1e-4)):
    part.requires_grad_(True)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=lr)
    for _ in range(args.steps):
        head.train()  # not the backbone: its statistics of batch norm stay as they are
        loss = loss_fn(*F.normalize(model(maps[draw_triplets(train, 32).flatten()])).chunk(3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{name + ' trained:':<25}", ranked_right(), f"(last loss {loss:.3f})")
