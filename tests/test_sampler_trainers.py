"""PKSampler under Lightning and Accelerate, and in two processes."""

from __future__ import annotations

import functools
import importlib
import itertools
import logging
import os
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.compat.lightnings import module_or_skip
from tests.distributed.ranks import run, whole_results
from tests.sampled import LABELS, Rows, epoch_of, made


def module_of(lightning, loader, sampler):
    """A LightningModule that keeps the batches it was given, and the sampler's state in its checkpoints."""

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(1, 1), []

        def train_dataloader(self):
            return loader

        def training_step(self, batch, batch_idx):
            self.seen.append((self.current_epoch, batch.tolist()))
            return self.layer(batch[:, None].float()).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

        def on_save_checkpoint(self, checkpoint):
            checkpoint["sampler"] = sampler.state_dict()

        def on_load_checkpoint(self, checkpoint):
            sampler.load_state_dict(checkpoint["sampler"])

    return Module()


def fitted(lightning, sampler, folder, ckpt_path=None, **options):
    """(epoch, batch) of all steps."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    module = module_of(lightning, DataLoader(Rows(), batch_sampler=sampler), sampler)
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of workers, and that the loader itself has no state
        lightning.Trainer(**silent, default_root_dir=folder, **options).fit(module, ckpt_path=ckpt_path)
    return module.seen


def test_lightning_goes_on_in_the_midst_of_an_epoch(tmp_path):
    lightning = module_or_skip("lightning.pytorch")
    whole = fitted(lightning, made(), tmp_path, max_epochs=3, enable_checkpointing=False)
    length = len(made())
    assert whole == [(epoch, batch.tolist()) for epoch in range(3) for batch in epoch_of(made(), epoch)]
    for step in (length + 2, 2 * length):
        keep = lightning.callbacks.ModelCheckpoint(tmp_path, filename=f"{step}", every_n_train_steps=step)
        fitted(lightning, made(), tmp_path, max_steps=step + 1, callbacks=[keep])
        rest = fitted(lightning, made(seed=1), tmp_path, max_epochs=3, ckpt_path=tmp_path / f"{step}.ckpt")
        assert rest == whole[step:]


def test_lightning_says_what_it_needs():
    """It does of a batch sampler without drop_last alone. And it finds where to tell the epoch."""
    module_or_skip("lightning.pytorch")
    for name in ("pytorch", "fabric"):
        utilities = importlib.import_module(f"lightning.{name}.utilities.data")
        loader = DataLoader(Rows(), batch_sampler=made())
        with pytest.raises(TypeError, match=r"use_distributed_sampler=False"):
            utilities._update_dataloader(loader, loader.sampler)
    utilities._set_sampler_epoch(loader, 3)
    assert loader.batch_sampler.epoch == 3


def dealt_out(sampler, process, processes=2, **options):
    """The loader that Accelerate's prepare makes in one of the processes."""
    from accelerate.data_loader import prepare_data_loader

    loader = DataLoader(Rows(), batch_sampler=sampler)
    return prepare_data_loader(loader, num_processes=processes, process_index=process, put_on_device=False, **options)


def test_accelerate_deals_the_batches_out():
    pytest.importorskip("accelerate")
    whole = [epoch_of(made(num_replicas=1, rank=0), epoch) for epoch in range(2)]
    length = len(whole[0])
    loaders = [dealt_out(made(num_replicas=1, rank=0), process) for process in range(2)]
    for epoch in range(2):
        parts = [[each.tolist() for each in loader] for loader in loaders]
        expected = [*whole[epoch], *whole[epoch][: length % 2]]  # whole batches, the first again to make them even
        np.testing.assert_array_equal(list(itertools.chain(*zip(*parts, strict=True))), expected)
    told = dealt_out(made(num_replicas=1, rank=0), 1)
    told.set_epoch(1)
    np.testing.assert_array_equal(torch.stack(list(told)), whole[1][1::2][: len(told)])
    # By the default each would have a half of its own rank's batches, as the class says.
    own = epoch_of(made(2, num_replicas=2, rank=1))
    np.testing.assert_array_equal(
        torch.stack(list(dealt_out(made(2, num_replicas=2, rank=1), 1)))[: len(own) // 2], own[1::2]
    )


def test_accelerate_skips_the_first_batches():
    accelerate = pytest.importorskip("accelerate")
    whole = epoch_of(made(num_replicas=1, rank=0), 1)
    for processes in (1, 2):
        sampler = made(num_replicas=1, rank=0)
        loader = dealt_out(sampler, 0, processes)
        loader.set_epoch(1)
        skipping = accelerate.skip_first_batches(loader, 2)
        sampler.set_epoch(1)
        first = next(iter(skipping))
        np.testing.assert_array_equal(first, whole[2 * processes])


# Two processes


def as_process(rank):
    """What launchers say."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "NODE_RANK": "0"}  # not used: a group is there


def by_itself(rank, group):
    """The default of num_replicas and rank."""
    sampler = made()
    return len(sampler), [epoch_of(sampler, epoch).tolist() for epoch in range(2)]


def by_lightning(rank, group):
    lightning = module_or_skip("lightning.pytorch")
    as_process(rank)
    options = {"devices": 2, "strategy": "ddp", "max_epochs": 2, "enable_checkpointing": False}
    try:
        fitted(lightning, made(), None, **options)
    except TypeError as error:
        refused = str(error)
    seen = fitted(lightning, made(), None, use_distributed_sampler=False, **options)
    return refused, [[batch for of, batch in seen if of == epoch] for epoch in range(2)]


def by_accelerate(rank, group):
    import accelerate

    as_process(rank)
    loader = accelerate.Accelerator(cpu=True).prepare(DataLoader(Rows(), batch_sampler=made(num_replicas=1, rank=0)))
    return [[batch.tolist() for batch in loader] for _ in range(2)]


@functools.cache
def by_two_processes():
    cases = {"itself": by_itself, "lightning": by_lightning, "accelerate": by_accelerate}
    for name in ("lightning", "accelerate"):
        if importlib.util.find_spec(name) is None:
            cases.pop(name)
    return run(2, cases)


@pytest.mark.slow
def test_two_processes():
    expected = [[epoch_of(made(num_replicas=2, rank=rank), epoch).tolist() for epoch in range(2)] for rank in range(2)]
    found = whole_results(by_two_processes()["itself"])
    assert found == [(len(LABELS) // 18, each) for each in expected]


@pytest.mark.slow
def test_lightning_in_two_processes():
    if "lightning" not in by_two_processes():
        pytest.skip("lightning is not installed")
    found = whole_results(by_two_processes()["lightning"])
    for rank, (refused, epochs) in enumerate(found):
        assert "use_distributed_sampler=False" in refused
        assert epochs == [epoch_of(made(num_replicas=2, rank=rank), epoch).tolist() for epoch in range(2)]


@pytest.mark.slow
def test_accelerate_in_two_processes():
    if "accelerate" not in by_two_processes():
        pytest.skip("accelerate is not installed")
    parts = whole_results(by_two_processes()["accelerate"])
    for epoch in range(2):
        whole = epoch_of(made(num_replicas=1, rank=0), epoch).tolist()
        dealt = list(itertools.chain(*zip(*(part[epoch] for part in parts), strict=True)))
        assert dealt == whole + whole[: len(whole) % 2]
