"""RetrievalCallback in real runs of a small module by Lightning's trainers."""

import doctest
import importlib
import runpy
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fasttriplet.retrieval import RetrievalEvaluator, retrieval_metrics
from tests.compat.lightnings import module_or_skip

LIBRARIES = ("lightning.pytorch", "pytorch_lightning")
module_or_skip("lightning.pytorch")
compat = importlib.import_module("fasttriplet.compat.lightning")  # which imports it
RetrievalCallback = compat.RetrievalCallback


def rows(seed, n=24):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator), torch.randint(0, 4, (n,), generator=generator)


def loader(seed, n=24):
    return DataLoader(TensorDataset(*rows(seed, n), torch.arange(n)), batch_size=10)


def module_of(library, gives="dict"):
    """A LightningModule that embeds by a linear layer; ``gives`` is what its steps return."""

    class Module(library.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Linear(6, 3)

        def forward(self, x):
            return self.layer(x)

        def training_step(self, batch, batch_idx):
            return self(batch[0]).square().mean()

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            told = {"embeddings": self(batch[0]), "labels": batch[1], "sample_ids": batch[2], "loss": torch.zeros(())}
            return {"dict": told, "nothing": None, "half": {"embeddings": told["embeddings"]}}[gives]

        test_step = validation_step

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Module()


def trainer_of(library, callbacks, folder, **options):
    told = {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    told |= {"enable_model_summary": False, "enable_checkpointing": False, "default_root_dir": str(folder)}
    return library.Trainer(callbacks=callbacks, **(told | options))


def expected(module, seed, **told):
    x, labels = rows(seed)
    with torch.no_grad():
        return retrieval_metrics(module(x), labels, **told)


def logged(trainer):
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def named(metrics, prefix, behind=""):
    found = metrics.as_dict()
    return {
        f"{prefix}/{name}{behind}": torch.tensor(value).item()  # as float32, which loggers are given
        for name, value in found.items()
        if not name.startswith("cmc@")
    }


def test_the_example():
    failed, attempted = doctest.testmod(compat)
    assert (failed, attempted > 2) == (0, True)


@pytest.mark.parametrize("name", LIBRARIES)
def test_fit_validate_and_test(name, tmp_path):
    library = module_or_skip(name)
    module, callback = module_of(library), RetrievalCallback()
    best = library.callbacks.ModelCheckpoint(tmp_path, monitor="val/map_at_r", mode="max")
    trainer = trainer_of(library, [callback, best], tmp_path, enable_checkpointing=True)
    trainer.fit(module, loader(0), loader(1))  # a sanity check comes first, of two batches
    assert isinstance(callback, library.Callback)
    assert logged(trainer) == named(expected(module, 1), "val")
    assert callback.results["val", 0].map == expected(module, 1).map
    assert best.best_model_score.item() >= torch.tensor(callback.results["val", 0].map_at_r.item()).item()
    (found,) = trainer.test(module, loader(2), verbose=False)
    assert found == named(expected(module, 2), "test") and found["test/queries"] == 24
    (found,) = trainer.validate(module, loader(3), verbose=False)
    assert found == named(expected(module, 3), "val")


def test_an_evaluator_of_ones_own_and_some_metrics(tmp_path):
    library = module_or_skip("lightning.pytorch")
    module = module_of(library, gives="nothing")
    callback = RetrievalCallback(
        lambda module, batch: {"embeddings": module(batch[0]).double(), "labels": batch[1]},
        metrics=("map@2", "cmc@3"),
        evaluator=RetrievalEvaluator(at=(2,), distance="cosine", device="cpu"),
    )
    trainer = trainer_of(library, callback, tmp_path)
    trainer.fit(module, loader(0), loader(1))
    x, labels = rows(1)
    with torch.no_grad():
        found = retrieval_metrics(module(x).double(), labels, at=(2,), distance="cosine").as_dict()
    assert logged(trainer) == {f"val/{each}": torch.tensor(found[each]).item() for each in ("map@2", "cmc@3")}
    assert len(callback.evaluator) == 0 and callback.results["val", 0].at == (2,)


def test_several_loaders(tmp_path):
    library = module_or_skip("lightning.pytorch")
    module, callback = module_of(library), RetrievalCallback()
    trainer = trainer_of(library, callback, tmp_path)
    trainer.fit(module, loader(0), [loader(1), loader(2)])
    parts = [named(expected(module, seed), "val", f"/loader_{seed - 1}") for seed in (1, 2)]
    assert logged(trainer) == parts[0] | parts[1]
    assert list(callback.results) == [("val", 0), ("val", 1)]


@pytest.mark.parametrize("gallery", [0, 1])
def test_a_loader_that_is_the_gallery(gallery, tmp_path):
    library = module_or_skip("lightning.pytorch")

    def embed(module, batch):
        return {"embeddings": module(batch[0]), "labels": batch[1]}

    module, callback = module_of(library), RetrievalCallback(embed, gallery=gallery)
    trainer = trainer_of(library, callback, tmp_path)
    trainer.validate(module, [loader(1), loader(2)], verbose=False)
    (x, labels), (y, ref_labels) = rows(2 - gallery), rows(1 + gallery)
    with torch.no_grad():
        found = retrieval_metrics(module(x), labels, ref_embeddings=module(y), ref_labels=ref_labels)
    assert logged(trainer) == named(found, "val")
    with pytest.raises(ValueError, match="gallery must be the index of one of several loaders, with rows; got"):
        trainer_of(library, callback, tmp_path).validate(module, loader(1), verbose=False)


@pytest.mark.parametrize(
    ("gives", "error", "message"),
    [
        ("nothing", TypeError, r"validation_step must give a dict with 'embeddings' and 'labels'; got NoneType"),
        ("half", ValueError, r"validation_step must give a dict .* got none for labels, but 'embeddings'"),
    ],
)
def test_a_step_that_does_not_give_what_is_needed(gives, error, message, tmp_path):
    library = module_or_skip("lightning.pytorch")
    trainer = trainer_of(library, RetrievalCallback(), tmp_path)
    with pytest.raises(error, match=message):  # in the sanity check, before the first epoch
        trainer.fit(module_of(library, gives), loader(0), loader(1))
    assert trainer.global_step == 0


def test_a_sanity_check_leaves_no_result(tmp_path):
    library = module_or_skip("lightning.pytorch")
    callback = RetrievalCallback()
    trainer = trainer_of(library, callback, tmp_path, check_val_every_n_epoch=5)
    trainer.fit(module_of(library), loader(0), loader(1))
    assert trainer.global_step > 0 and callback.results == {} and logged(trainer) == {}


def test_an_epoch_that_broke_off_leaves_no_rows(tmp_path):
    library = module_or_skip("lightning.pytorch")
    module, batches = module_of(library), []

    def embed(module, batch):
        batches.append(batch)
        if len(batches) == 2:
            raise RuntimeError("breaks off")
        return {"embeddings": module(batch[0]), "labels": batch[1]}

    callback = RetrievalCallback(embed)
    with pytest.raises(RuntimeError, match="breaks off"):
        trainer_of(library, callback, tmp_path).validate(module, loader(1), verbose=False)
    (found,) = trainer_of(library, callback, tmp_path).validate(module, loader(1), verbose=False)
    assert found == named(expected(module, 1), "val")


def test_wrong_options():
    with pytest.raises(ValueError, match="metrics must be among hit_rate@1"):
        RetrievalCallback(metrics=("ndcg",))
    with pytest.raises(ValueError, match="gallery must be the index of a loader, 0 or more, or None; got -1"):
        RetrievalCallback(gallery=-1)
    with pytest.raises(TypeError, match="prog_bar must be a bool"):
        RetrievalCallback(prog_bar=1)


def test_one_library_is_enough_and_without_any_it_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_lightning", None)
    callback = runpy.run_path(compat.__file__)["RetrievalCallback"]
    assert issubclass(callback, module_or_skip("lightning.pytorch").Callback)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(
        ImportError, match=r"fasttriplet\.compat\.lightning needs lightning or .* \(pip install lightning"
    ):
        runpy.run_path(compat.__file__)
