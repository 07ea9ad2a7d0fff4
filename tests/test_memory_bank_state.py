"""The state of a CrossBatchMemory: state dicts, copies, moves, averages of weights, and trainers that save models."""

import copy
import importlib.util
import io
import pickle

import pytest
import torch
import torch.distributed.checkpoint
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fasttriplet import CrossBatchMemory
from tests.memory_model import Net, batch, train

NAMES = ["embeddings", "labels", "steps", "sample_ids", "groups", "counters"]


def trained(steps=5, **options):
    torch.manual_seed(0)
    model = Net(**options)
    for step in range(steps):
        train(model, step)
    return model


def enqueue(memory, step):
    x, y, sample_ids, groups = batch(step, memory.num_labels)
    memory.enqueue(x[:, : memory.dim], y, sample_ids=sample_ids, groups=groups)


def assert_same(ours, theirs):
    """Two memories: what they hold, and what they do with the next batch."""
    assert ours.state_dict().keys() == theirs.state_dict().keys() == set(NAMES)
    assert len(ours) == len(theirs) > 0 and torch.equal(ours.ages(), theirs.ages())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    ours, theirs = copy.deepcopy(ours), copy.deepcopy(theirs)
    enqueue(ours, 99)
    enqueue(theirs, 99)
    for mine, other in zip(ours.references(), theirs.references(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("num_labels", [None, 6])
def test_state_dict_copy_and_pickle(num_labels):
    memory = trained(num_labels=num_labels).memory
    stream = io.BytesIO()
    torch.save(memory.state_dict(), stream)
    stream.seek(0)
    loaded = CrossBatchMemory(memory.size, memory.dim, num_labels=num_labels)
    loaded.load_state_dict(torch.load(stream, weights_only=True))
    for twin in (loaded, copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert_same(twin, memory)
        own = memory.references().self_indices
        assert torch.equal(twin.references().self_indices, own[:0] if twin is loaded else own)


def test_a_state_is_tensors_that_the_memory_does_not_share():
    memory = trained().memory
    state, twin = memory.state_dict(), copy.deepcopy(memory)
    assert list(state) == NAMES and all(type(value) is torch.Tensor for value in state.values())
    assert not list(memory.buffers()) and not list(memory.parameters())
    before = {name: value.clone() for name, value in state.items()}
    enqueue(memory, 9)
    assert all(torch.equal(state[name], before[name]) for name in NAMES)  # a snapshot
    for value in state.values():
        value.zero_()
    twin.load_state_dict(memory.state_dict())
    for value in memory.state_dict().values():
        value.zero_()
    assert_same(twin, memory)


def refused(memory, state, match):
    """With and without ``strict``; nothing of it is taken."""
    before = memory.state_dict()
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=match):
            memory.load_state_dict(state, strict=strict)
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(size=16, dim=2), r"size mismatch for embeddings: must have shape \[8, 2\]; got \[16, 2\]"),
        (dict(size=8, dim=3), r"size mismatch for embeddings: must have shape \[8, 2\]; got \[8, 3\]"),
        (dict(size=8, dim=2, num_labels=3), r"size mismatch for labels: must have shape \[8\]; got \[8, 3\]"),
    ],
)
def test_a_state_of_another_shape_is_refused_whole(options, match):
    memory = CrossBatchMemory(8, 2)
    memory.enqueue(torch.ones(5, 2), torch.arange(5))
    refused(memory, CrossBatchMemory(**options).state_dict(), match)


@pytest.mark.parametrize("counters", [(99, 5, 1, 0, 0), (0, 99, 1, 0, 0), (-1, 5, 1, 0, 0)])
def test_counters_that_cannot_be_are_refused_whole(counters):
    memory = CrossBatchMemory(8, 2)
    memory.enqueue(torch.ones(5, 2), torch.arange(5))
    state = memory.state_dict() | {"counters": torch.tensor(counters)}
    refused(memory, state, "counters must have a place below 8 and at most as many slots in use; got")


def test_an_average_of_states_is_refused():
    """Of labels and places there is none."""
    memory = trained().memory
    states = trained(1).memory.state_dict(), trained(2).memory.state_dict()
    average = {name: (states[0][name].double() + states[1][name].double()) / 2 for name in NAMES}
    refused(memory, average, "dtype mismatch for labels: must be torch.int64; got torch.float64")


def test_strict_loading():
    memory, state = trained().memory, trained(3).memory.state_dict()
    before = memory.state_dict()
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "labels"'):
        memory.load_state_dict({name: value for name, value in state.items() if name != "labels"})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "other"'):
        copy.deepcopy(memory).load_state_dict({**state, "other": torch.zeros(1)})
    missing, unexpected = memory.load_state_dict({"other": torch.zeros(1)}, strict=False)
    assert missing == NAMES and unexpected == ["other"]
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())

    model, without = trained(), {name: value for name, value in trained().state_dict().items() if "memory" not in name}
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"memory.embeddings\""):
        model.load_state_dict(without)
    del model.memory
    with pytest.raises(RuntimeError, match=r"Unexpected key\(s\) in state_dict: \"memory.embeddings\""):
        model.load_state_dict(trained().state_dict())


class Named(CrossBatchMemory):
    """With something of its own, which is loaded as usual."""

    def __init__(self):
        super().__init__(4, 2)
        self.scale = torch.nn.Linear(1, 1)
        self.register_buffer("seen", torch.zeros(2))


def test_a_subclass_has_more_state():
    memory, other = Named(), Named()
    memory.enqueue(torch.ones(3, 2), torch.arange(3))
    memory.seen += 1
    assert other.load_state_dict(memory.state_dict()) == ([], [])
    assert torch.equal(other.seen, memory.seen) and torch.equal(other.scale.weight, memory.scale.weight)
    assert torch.equal(other.references().ref_labels, memory.references().ref_labels)
    assert memory.double().scale.weight.dtype == torch.float64


def test_a_narrower_dtype_leaves_out_what_it_cannot_hold():
    wide, narrow = CrossBatchMemory(4, 2), CrossBatchMemory(4, 2, dtype=torch.float16)
    wide.enqueue(torch.tensor([[1.0, 2.0], [1e5, 0.0], [3.0, 4.0]]), torch.arange(3))
    narrow.load_state_dict(wide.state_dict())
    assert narrow.references().ref_mask.tolist() == [True, False, True]
    assert narrow.references().ref_embeddings.dtype == torch.float16


def test_dtype_stays_and_device_follows():
    model = trained().double()
    assert model.layer.weight.dtype == torch.float64
    assert model.memory.references().ref_embeddings.dtype == torch.float32
    assert model.half().memory.references().ref_embeddings.dtype == torch.float32
    for value in model.to("meta").memory.references():
        assert value.is_meta
    with pytest.raises(ValueError, match="embeddings must be on the memory's device, meta; got cpu"):
        model.memory.enqueue(torch.zeros(2, 4), torch.zeros(2).long())
    with torch.device("meta"):
        model = Net()
    with pytest.raises(NotImplementedError, match="to_empty"):
        model.to("cpu")
    model.to_empty(device="cpu")
    assert len(model.memory) == 0 and model.memory.references().ref_embeddings.device.type == "cpu"
    assert all(value.isfinite().all() for value in model.memory.state_dict().values())


def test_a_model_made_on_meta_takes_its_state():
    with torch.device("meta"):
        model = Net()
    source = trained()
    model.load_state_dict(source.state_dict(), assign=True)
    assert_same(model.memory, source.memory)


# Averages of weights, which are of the weights alone.


@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_model(use_buffers):
    """The average keeps the memory that it was copied with, and what it saves is loaded as that."""
    model = trained(2)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
    was = copy.deepcopy(model.memory)
    for step in range(2, 6):
        train(model, step)
        averaged.update_parameters(model)
    assert_same(averaged.module.memory, was)
    loaded = Net()
    loaded.load_state_dict(averaged.module.state_dict())
    assert_same(loaded.memory, was)


@pytest.mark.parametrize("blend", [lambda old, new: new, lambda old, new: 0.9 * old + 0.1 * new])
@pytest.mark.parametrize("enqueued", [0, 2])
def test_averages_over_the_values_of_state_dicts(blend, enqueued):
    """The idiom of hand-written averages and of target networks: each model keeps a memory of its own."""
    model = trained(enqueued)
    average, was = copy.deepcopy(model), copy.deepcopy(model.memory)
    for step in range(2, 6):
        train(model, step)
        with torch.no_grad():
            for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
                old.copy_(blend(old, new))
    assert not torch.equal(average.layer.weight, trained(enqueued).layer.weight)
    assert len(average.memory) == len(was)
    before = was.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in average.memory.state_dict().items())


# Formats and trainers.


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    for model in (trained(), Net()):
        safetensors.save_model(model, tmp_path / "model.safetensors")
        loaded = Net()
        assert safetensors.load_model(loaded, tmp_path / "model.safetensors") == (set(), [])
        assert torch.equal(loaded.layer.weight, model.layer.weight)
        if len(model.memory):
            assert_same(loaded.memory, model.memory)
    safetensors.save_file(trained().state_dict(), tmp_path / "state.safetensors")
    loaded.load_state_dict(safetensors.load_file(tmp_path / "state.safetensors"))
    assert_same(loaded.memory, trained().memory)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
def test_distributed_checkpoint(tmp_path):
    model = trained()
    for name, value in model.memory.state_dict().items():  # it looks for the attribute of each name
        assert torch.equal(getattr(model.memory, name), value)
    state = get_model_state_dict(model)
    torch.distributed.checkpoint.save(state, checkpoint_id=tmp_path, no_dist=True)
    loaded = Net()
    read = get_model_state_dict(loaded)
    torch.distributed.checkpoint.load(read, checkpoint_id=tmp_path, no_dist=True)
    assert len(loaded.memory) == 0  # a state is a copy
    assert set_model_state_dict(loaded, read) == ([], [])
    assert_same(loaded.memory, model.memory)


def test_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = accelerator.prepare(trained())
    accelerator.save_model(model, tmp_path / "model")
    loaded = Net()
    accelerate.load_checkpoint_in_model(loaded, tmp_path / "model")
    assert_same(loaded.memory, model.memory)
    accelerator.save_state(tmp_path / "state")
    was = copy.deepcopy(model.memory)
    train(model, 7)
    accelerator.load_state(tmp_path / "state")
    assert_same(model.memory, was)


def test_trainer_of_transformers(tmp_path):
    """Training that is cut after four steps and goes on from its checkpoint ends as the one that is not."""
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs accelerate")
    pytest.importorskip("transformers")
    if importlib.util.find_spec("torchvision"):  # transformers imports it, and it may not load beside this PyTorch
        from examples.resnet50.vision import load_torchvision

        load_torchvision()
    from transformers import Trainer, TrainingArguments

    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return 64

        def __getitem__(self, number):
            generator = torch.Generator().manual_seed(number)
            return {
                "x": torch.randn(6, generator=generator),
                "y": number % 4,
                "sample_ids": number,
                "groups": number // 9,
            }

    def trainer(folder):
        torch.manual_seed(0)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / folder),
            max_steps=8,
            save_steps=4,
            per_device_train_batch_size=8,
            learning_rate=0.1,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        return Trainer(Net(), arguments, train_dataset=Samples())

    whole = trainer("whole")
    whole.train()
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)
    assert len(whole.model.memory) == Net().memory.size
    assert_same(resumed.model.memory, whole.model.memory)
