"""The loss and the retrieval metrics in PyTorch Lightning: a module, a callback, the best checkpoint, early stopping.

PKSampler makes the batches, SemiHardTripletLoss trains, and after each epoch RetrievalCallback logs how well validation
images find others of their class. ModelCheckpoint keeps the best epoch by that, EarlyStopping ends the run, and the
best epoch is tested on images that took no part. The data are scikit-learn's digits, each put at a random place of a
larger image, where comparing pixels does not do. Needs lightning and scikit-learn; takes half a minute on a CPU.

    python examples/lightning_module.py
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

try:
    import torchvision  # noqa: F401  Lightning imports it where it is installed
except (ImportError, RuntimeError):  # not there, or of another build than PyTorch: then this declares what it lacks
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from fasttriplet import PKSampler, SemiHardTripletLoss
from fasttriplet.compat.lightning import RetrievalCallback
from fasttriplet.retrieval import retrieval_metrics

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=40, help="at most")
parser.add_argument("--out", default="checkpoints", help="folder of the best epoch's checkpoint")
args = parser.parse_args()


class Embedder(L.LightningModule):
    def __init__(self):
        super().__init__()
        conv = [[nn.Conv2d(i, o, 3, 1, 1), nn.BatchNorm2d(o), nn.ReLU()] for i, o in ((1, 16), (16, 32), (32, 64))]
        blocks = [*conv[0], nn.MaxPool2d(2), *conv[1], nn.MaxPool2d(2), *conv[2], nn.AdaptiveMaxPool2d(1)]
        self.network = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 32))
        self.loss = SemiHardTripletLoss(margin=0.3)

    def forward(self, images):
        return self.network(images)

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        return {"embeddings": self(batch[0]), "labels": batch[1]}  # RetrievalCallback collects them

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


L.seed_everything(0, verbose=False)
digits, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
images = torch.zeros(len(digits), 1, 20, 20)
for image, digit, (row, column) in zip(images, digits / 16, torch.randint(13, (len(digits), 2)), strict=True):
    image[0, row : row + 8, column : column + 8] = digit.view(8, 8)
train, val, test = (TensorDataset(images[r], labels[r]) for r in (slice(900), slice(900, 1300), slice(1300, None)))
sampler = PKSampler(labels[:900], classes_per_batch=10, samples_per_class=8, batches_per_epoch=20)

best = ModelCheckpoint(args.out, "best", monitor="val/map_at_r", mode="max", enable_version_counter=False)
stop = EarlyStopping("val/map_at_r", mode="max", patience=4)
options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
trainer = L.Trainer(max_epochs=args.epochs, callbacks=[RetrievalCallback(), best, stop], **options)
module, test_loader = Embedder(), DataLoader(test, batch_size=100)
(untrained,) = trainer.test(module, test_loader, verbose=False)
trainer.fit(module, DataLoader(train, batch_sampler=sampler), DataLoader(val, batch_size=100))
(trained,) = trainer.test(module, test_loader, ckpt_path="best", verbose=False)
print(f"{args.out}/best.ckpt: best of {trainer.current_epoch} epochs, MAP@R {best.best_model_score:.3f} in validation")
pixels = retrieval_metrics(test.tensors[0].flatten(1), labels[1300:]).as_dict()
for name, found, stage in (("pixels", pixels, ""), ("untrained", untrained, "test/"), ("trained", trained, "test/")):
    hit_rate, map_at_r = found[f"{stage}hit_rate@1"], found[f"{stage}map_at_r"]
    print(f"{name:9}  nearest of the same class {hit_rate:.3f}, MAP@R {map_at_r:.3f}, in test")
