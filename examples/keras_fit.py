"""The loss in Keras 3 on its PyTorch backend: ``model.compile(loss=...)``, ``model.fit``, and retrieval after it.

fasttriplet.compat.keras has the losses of TensorFlow Addons, which take labels and embeddings. PKSampler makes batches
with enough images of each class, in a DataLoader that ``fit`` takes as it is. The data are scikit-learn's handwritten
digits, turned and shifted at random, so that comparing pixels does not do; the images of the test took no part in
training. Needs keras and scikit-learn; takes a minute on a CPU.

    python examples/keras_fit.py
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported

import keras
import torch
from keras import layers
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from fasttriplet import PKSampler
from fasttriplet.compat.keras import TripletSemiHardLoss
from fasttriplet.retrieval import retrieval_metrics

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=24)
args = parser.parse_args()
keras.utils.set_random_seed(0)

images, labels = (torch.as_tensor(x) for x in load_digits(return_X_y=True))
images = images.float().view(-1, 8, 8, 1) / 16  # channels last, as Keras has them
train, test = slice(0, 1200), slice(1200, None)
turn, shift = layers.RandomRotation(0.1, fill_mode="constant"), layers.RandomTranslation(0.2, 0.2, fill_mode="constant")
warp = keras.Sequential([layers.ZeroPadding2D(4), turn, shift])  # to [N, 16, 16, 1]
train_images, train_labels = warp(images[train].repeat(8, 1, 1, 1), training=True).cpu(), labels[train].repeat(8)
test_images, test_labels = warp(images[test], training=True).cpu(), labels[test]
sampler = PKSampler(train_labels, classes_per_batch=10, samples_per_class=8, batches_per_epoch=25)
batches = DataLoader(TensorDataset(train_images, train_labels), batch_sampler=sampler)

model = keras.Sequential([keras.Input((16, 16, 1))])
for filters, pool in ((16, layers.MaxPooling2D(2)), (32, layers.MaxPooling2D(2)), (64, layers.GlobalMaxPooling2D())):
    for layer in (layers.Conv2D(filters, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(), pool):
        model.add(layer)
model.add(layers.Dense(32))
model.compile(optimizer=keras.optimizers.Adam(2e-3), loss=TripletSemiHardLoss(margin=0.3))


def evaluate(name, embeddings):
    found = retrieval_metrics(torch.as_tensor(embeddings), test_labels)
    print(f"{name:9}  nearest of the same class {found.hit_rate[0]:.3f}, MAP@R {found.map_at_r:.3f}, in test")


evaluate("pixels", test_images.flatten(1))
evaluate("untrained", model.predict(test_images, verbose=0))
losses = model.fit(batches, epochs=args.epochs, shuffle=False, verbose=0).history["loss"]  # the sampler shuffles
print(f"loss in epoch 1 {losses[0]:.3f}, in epoch {len(losses)} {losses[-1]:.3f}")
evaluate("trained", model.predict(test_images, verbose=0))
