"""A whitened PCA as the head of a frozen ResNet, and its training from there on.

nn.Linear can do what scikit-learn's PCA does: for features [N, D] and d components Linear(D, d) has weight [d, D], as
``components_`` has, and bias [d], which is ``-mean_ @ weight.T``. Whitening divides each row of the weight by the
standard deviation of its component. Printed is retrieval, by cosine, among images that neither the PCA nor the training
saw, of the features, their PCA, the whitened PCA, and the head after training. Needs scikit-learn and torchvision.

    python examples/pca_head.py
"""

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fasttriplet import PKSampler, SemiHardTripletLoss
from fasttriplet.retrieval import retrieval_metrics

try:
    from torchvision.models.resnet import BasicBlock, resnet18
except RuntimeError:  # PyPI's torchvision beside a PyTorch without CUDA: two operators, not needed here, are undeclared
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision.models.resnet import BasicBlock, resnet18

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--components", type=int, default=64)
args = parser.parse_args()
torch.manual_seed(0)

digits, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
images = F.interpolate(digits.float().view(-1, 1, 8, 8) / 16, size=32, mode="bilinear").expand(-1, 3, -1, -1)
train, test = slice(0, 1200), slice(1200, None)

encoder = resnet18()  # random weights, for nothing is downloaded; weights="IMAGENET1K_V1" where it may be
encoder.fc = nn.Identity()
with torch.no_grad():  # deep random blocks are chaos: damp them, and take the statistics of batch norm of some images
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
        elif isinstance(module, BasicBlock):
            module.bn2.weight.fill_(0.2)
    encoder.train()(images[:256])
    features = torch.cat([encoder.eval()(chunk) for chunk in images.split(256)])  # [N, D]


def report(name, embeddings):
    found = retrieval_metrics(embeddings[test], labels[test], at=(1,), distance="cosine")
    numbers = embeddings.shape[1]
    print(f"{name:<9} {numbers:>3} numbers: hit rate at 1 {found.hit_rate.item():.3f}, MAP@R {found.map_at_r:.3f}")


report("features", features)
pca = PCA(args.components).fit(features[train].numpy())
projected = torch.as_tensor(pca.transform(features.numpy()), dtype=torch.float32)  # [N, d]
report("PCA", projected)

deviations = torch.as_tensor(pca.explained_variance_, dtype=torch.float32).sqrt()  # [d]
head = nn.Linear(features.shape[1], args.components)
with torch.no_grad():
    head.weight.copy_(torch.as_tensor(pca.components_) / deviations[:, None])
    head.bias.copy_(-head.weight @ torch.as_tensor(pca.mean_, dtype=torch.float32))
    whitened = head(features)
report("whitened", whitened)
print(f"          differs from scikit-learn's by at most {(whitened - projected / deviations).abs().max():.0e}")

batches = PKSampler(labels[train], classes_per_batch=10, samples_per_class=12, batches_per_epoch=args.steps)
loss_fn = SemiHardTripletLoss(margin=0.2, distance="cosine")
optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
for x, y in DataLoader(TensorDataset(features[train], labels[train]), batch_sampler=batches):
    loss = loss_fn(head(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
report("trained", head(features).detach())
