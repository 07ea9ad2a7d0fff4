"""What ``examples/distributed.py`` prints, in two processes and in one: loss and gradient of the whole batch."""

import os
import re
import subprocess
import sys

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from fasttriplet import PKSampler, reference
from tests.scripts.running import EXAMPLES, run_script

_NUMBER = r"(\d[\d.e+-]*)"
_STEP = rf"^step (\d+): loss {_NUMBER}, in one process {_NUMBER}, same bits: (\w+)\n"
_GRADIENT = rf"  gradient of norm {_NUMBER}, in one process {_NUMBER}, off by {_NUMBER} of it$"


def torchrun(*arguments: str, folder: os.PathLike[str]) -> str:
    """What two processes print; none of them outlives the test."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*command, str(EXAMPLES / "distributed.py"), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun ends its processes, by force after half a minute
            process.wait(timeout=60)
    assert process.returncode == 0, f"{output}\n{errors}"
    return output


def first_loss(ranks: int) -> float:
    """Of the script's first step, by the specification, with the batches of all ranks in one."""
    digits, labels = (torch.as_tensor(array) for array in load_digits(return_X_y=True))
    torch.manual_seed(0)
    images = digits.float() / 16 * (0.1 + 0.9 * torch.rand(len(digits), 1))
    network = nn.Sequential(nn.Linear(64, 256), nn.LayerNorm(256), nn.ReLU(), nn.Linear(256, 64))
    batch = []
    for rank in range(ranks):
        batch += next(iter(PKSampler(labels[:900], 5, 8, batches_per_epoch=20, num_replicas=ranks, rank=rank)))
    assert len(batch) == 40 * ranks and len(labels[batch].unique()) == 5 * ranks
    embeddings = network(images[batch]).double()
    return reference.batch_hard_triplet_loss(embeddings, labels[batch], soft_margin=True).item()


@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_and_gradient_are_those_of_one_process(tmp_path, ranks):
    if ranks == 2:
        printed = torchrun("--steps", "20", folder=tmp_path)
    else:
        printed = run_script("distributed.py", "--steps", "20", folder=tmp_path)
    hint = "one process; start two by: torchrun --nproc-per-node=2 examples/distributed.py\n"
    assert printed.count(hint) == (ranks == 1)
    steps = re.findall(_STEP + _GRADIENT, printed, re.MULTILINE)
    assert [step for step, *_ in steps] == ["1", "20"], printed  # once, whatever the number of processes
    for _, loss, expected, same, gradient, its, difference in steps:
        assert same == "True" and loss == expected
        assert float(gradient) == pytest.approx(float(its), rel=1e-5) and float(difference) < 1e-5
    assert float(steps[0][1]) == pytest.approx(first_loss(ranks), rel=1e-5)
    assert float(steps[1][1]) < 0.7 * float(steps[0][1])
    found = dict(
        re.findall(r"^(\w+) +nearest of the same class [01]\.\d{3}, MAP@R ([01]\.\d{3}), in test$", printed, re.M)
    )
    assert list(found) == ["pixels", "trained"] and float(found["trained"]) > float(found["pixels"]) + 0.15
