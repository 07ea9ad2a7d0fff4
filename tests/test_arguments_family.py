"""The family's own arguments with wrong types, shapes, devices, dtypes and values; and its modules."""

import inspect
from fractions import Fraction

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import fasttriplet
from fasttriplet import _library, engines
from fasttriplet.arguments import ForwardArguments, LossArguments, ModuleOptions, Pairing
from tests.family import LOSSES, MODULES, NAMES
from tests.test_arguments import EMBEDDINGS, LABELS, OPTION_ERRORS, TENSOR_ERRORS

REFERENCES = dict(ref_embeddings=torch.zeros(5, 4), ref_labels=torch.arange(5))
MULTI_HOT = torch.ones(8, 3, dtype=torch.bool)
MINERS = NAMES[:4]
PAIRING_ERRORS = [
    (
        dict(ref_embeddings=REFERENCES["ref_embeddings"]),
        ValueError,
        "must be given together; got ref_embeddings and no",
    ),
    (dict(ref_labels=LABELS), ValueError, "must be given together; got ref_labels and no ref_embeddings"),
    (dict(self_indices=LABELS), ValueError, "self_indices must come with ref_embeddings"),
    (dict(ref_groups=LABELS), ValueError, "ref_groups must come with ref_embeddings"),
    (
        dict(groups=LABELS, **REFERENCES),
        ValueError,
        "groups and ref_groups must be given together .* got groups and no",
    ),
    (dict(ref_groups=torch.arange(5), **REFERENCES), ValueError, "got ref_groups and no groups"),
    (dict(ref_embeddings=[[0.0]], ref_labels=LABELS), TypeError, r"ref_embeddings must be a torch\.Tensor; got list"),
    (dict(groups=[0] * 8), TypeError, r"groups must be a torch\.Tensor; got list"),
    (dict(groups=LABELS.to_sparse()), ValueError, "groups must be a dense tensor"),
    (dict(groups=LABELS.to("meta")), ValueError, "groups must be on the device of embeddings, cpu; got groups on meta"),
    (dict(groups=LABELS.float()), ValueError, "groups must have an integer dtype or bool; got torch.float32"),
    (dict(groups=LABELS[:7]), ValueError, r"groups must have shape \[8\] to match embeddings \[8, 4\]; got \[7\]"),
    (dict(REFERENCES, ref_embeddings=torch.zeros(5, 3)), ValueError, r"ref_embeddings must have shape \[M, 4\]"),
    (
        dict(REFERENCES, ref_labels=torch.arange(4)),
        ValueError,
        r"ref_labels must be .* \[5\], .*; got torch.int64 \[4\]",
    ),
    (
        dict(REFERENCES, ref_labels=torch.arange(5)[:, None]),
        ValueError,
        r"ref_labels must be .* pass ref_labels.squeeze\(1\)",
    ),
    (
        dict(REFERENCES, ref_labels=MULTI_HOT[:5]),
        ValueError,
        "ref_labels must have the form of labels",
    ),
    (dict(REFERENCES, self_indices=LABELS + 2), ValueError, "self_indices must hold -1 or an index below 5; got 5"),
    (dict(ignore_index="0"), TypeError, "ignore_index must be an int or None; got str"),
    (dict(ignore_index=True), TypeError, "ignore_index must be an int or None; got bool"),
    (dict(ignore_index=2**63), ValueError, "ignore_index must be a number that int64 holds; got 9223372036854775808"),
    (dict(labels=MULTI_HOT, ignore_index=0), ValueError, "ignore_index must be None where labels are multi-hot"),
    (
        dict(REFERENCES, labels=MULTI_HOT, ref_labels=torch.ones(5, 4, dtype=torch.bool)),
        ValueError,
        r"ref_labels must have the form of labels, \[8, 3\]; got \[5, 4\]",
    ),
    (dict(ref_sample_ids=LABELS), ValueError, "ref_sample_ids must come with ref_embeddings"),
    (dict(sample_ids=LABELS, **REFERENCES), ValueError, "got sample_ids and no ref_sample_ids"),
    (dict(sample_ids=LABELS[:, None]), ValueError, r"sample_ids must have shape \[8\] .*; got \[8, 1\]"),
    (dict(sample_ids=torch.ones(8)), ValueError, "sample_ids must have an integer dtype; got torch.float32"),
    (dict(ref_mask=LABELS > 0), ValueError, "ref_mask must come with ref_embeddings"),
    (dict(REFERENCES, ref_mask=torch.ones(5)), ValueError, "ref_mask must have dtype torch.bool; got torch.float32"),
    (dict(REFERENCES, ref_mask=LABELS > 0), ValueError, r"ref_mask must have shape \[5\] .*; got \[8\]"),
    (dict(groups_exclude="negatives"), ValueError, "groups_exclude must be one of pairs, positives; got 'negatives'"),
    (dict(groups_exclude=True), TypeError, "groups_exclude must be a str, one of pairs, positives; got bool"),
    (dict(groups_exclude=None), TypeError, "groups_exclude must be a str, one of pairs, positives; got NoneType"),
    (
        dict(groups_exclude="positives"),
        ValueError,
        "groups must be given where groups_exclude is 'positives', .* got no groups",
    ),
    (dict(ignore_index=False), TypeError, "ignore_index must be an int or None; got bool"),
    (dict(groups=False), TypeError, r"groups must be a torch\.Tensor; got bool"),
    (dict(REFERENCES, ref_mask=False), TypeError, r"ref_mask must be a torch\.Tensor; got bool"),
    (dict(sample_ids=LABELS > 0), ValueError, "sample_ids must have an integer dtype; got torch.bool"),
    (dict(REFERENCES, self_indices=LABELS > 0), ValueError, "self_indices must have an integer dtype; got torch.bool"),
    (
        dict(REFERENCES, ref_embeddings=torch.zeros(5, 4).to(torch.float8_e4m3fn)),
        ValueError,
        "ref_embeddings must have dtype float64, float32, float16 or bfloat16; got torch.float8_e4m3fn",
    ),
    (
        dict(REFERENCES, ref_embeddings=torch.zeros(5, 4, 2, 2)),
        ValueError,
        r"ref_embeddings must have shape \[M, 4\] .* got \[5, 4, 2, 2\]: pool or flatten .* \[M, C, H, W\]",
    ),
    (dict(group=LABELS), TypeError, r"\(\) got an unexpected keyword argument 'group'"),
]
LOSS_ERRORS = [
    (dict(weights=[1.0] * 8), TypeError, r"weights must be a torch\.Tensor; got list"),
    (dict(weights=LABELS), ValueError, "weights must have dtype float64, .*; got torch.int64"),
    (dict(weights=torch.ones(7)), ValueError, r"weights must have shape \[8\] to match embeddings \[8, 4\]; got \[7\]"),
    (dict(weights=torch.ones(8, 1)), ValueError, r"weights must have shape \[8\] .* got \[8, 1\]"),
    (
        dict(weights=torch.ones(8, device="meta")),
        ValueError,
        "weights must be on the device of embeddings, cpu; got meta",
    ),
    (dict(return_stats=1), TypeError, "return_stats must be a bool; got int"),
    (dict(return_stats=None), TypeError, "return_stats must be a bool; got NoneType"),
]
OWN_ERRORS = [
    ("semi_hard", dict(within_margin=1), TypeError, "within_margin must be a bool; got int"),
    ("semi_hard", dict(otherwise="nearest"), ValueError, "otherwise must be one of farthest, skip; got 'nearest'"),
    ("easy_positive", dict(otherwise=None), TypeError, "otherwise must be a str, one of farthest, skip; got NoneType"),
    ("easy_positive", dict(negatives="easy"), ValueError, "negatives must be one of hardest, semi_hard; got 'easy'"),
    ("k_hardest", dict(k=0), ValueError, "k must be at least 1 and at most 2.31 - 1; got 0"),
    ("k_hardest", dict(k=2**62), ValueError, "k must be at least 1 and at most 2.31 - 1; got 4611686018427387904"),
    ("k_hardest", dict(k=1.5), TypeError, "k must be an int; got float"),
    ("k_hardest", dict(k=True), TypeError, "k must be an int; got bool"),
    ("k_hardest", dict(kth_only=1), TypeError, "kth_only must be a bool; got int"),
    ("k_hardest", dict(skip_fraction=1.0), ValueError, "skip_fraction must be at least 0 and below 1; got 1.0"),
    ("k_hardest", dict(skip_fraction=10**400), ValueError, "skip_fraction must be at least 0 and below 1; got 1000"),
    ("k_hardest", dict(skip_fraction=Fraction(10**30 - 1, 10**30)), ValueError, "skip_fraction must be .* below 1"),
    ("k_hardest", dict(skip_fraction=-0.1), ValueError, "skip_fraction must be at least 0 and below 1; got -0.1"),
    ("k_hardest", dict(skip_fraction=float("nan")), ValueError, "skip_fraction must be .*; got nan"),
    ("k_hardest", dict(skip_fraction="0"), TypeError, "skip_fraction must be a real number; got str"),
]


RULES = dict(groups_exclude="positives", ignore_index=3, return_stats=True)


def loss(name):
    return getattr(fasttriplet, f"{name}_triplet_loss")


def call(function, **arguments):
    return function(**{"embeddings": EMBEDDINGS, "labels": LABELS, **arguments})


@pytest.mark.parametrize("number", range(len(PAIRING_ERRORS)))
def test_pairing(number):
    arguments, error, match = PAIRING_ERRORS[number]
    functions = [loss(name) for name in NAMES] + [getattr(fasttriplet, f"mine_{name}") for name in MINERS]
    for function in functions:
        with pytest.raises(error, match=match):
            call(function, **arguments)


@pytest.mark.parametrize("number", range(len(LOSS_ERRORS)))
def test_weights_and_statistics(number):
    arguments, error, match = LOSS_ERRORS[number]
    for name in NAMES:
        with pytest.raises(error, match=match):
            call(loss(name), **arguments)


@pytest.mark.parametrize("number", range(len(OWN_ERRORS)))
def test_own_options(number):
    name, arguments, error, match = OWN_ERRORS[number]
    for function in (loss(name), getattr(fasttriplet, f"mine_{name}")):
        with pytest.raises(error, match=match):
            call(function, **arguments)
    with pytest.raises(error, match=match):
        getattr(fasttriplet, MODULES[name])(**arguments)


@pytest.mark.parametrize("number", range(len(OPTION_ERRORS)))
def test_common_options(number):
    option, value, error, match = OPTION_ERRORS[number]
    for name in NAMES[1:]:
        with pytest.raises(error, match=match):
            call(loss(name), **{option: value})
        with pytest.raises(error, match=match):
            getattr(fasttriplet, MODULES[name])(**{option: value})


@pytest.mark.parametrize("number", range(len(TENSOR_ERRORS)))
def test_embeddings_and_labels(number):
    option, value, error, match = TENSOR_ERRORS[number]
    for name in NAMES[1:]:
        with pytest.raises(error, match=match):
            call(loss(name), **{option: value})


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_every_device_is_taken(monkeypatch, device):
    monkeypatch.setattr(engines, "fallback", "silent")
    monkeypatch.setattr(_library, "cuda_absence", None)
    with FakeTensorMode(shape_env=ShapeEnv()):  # semi-hard mining makes as many as there are
        rows, labels = torch.empty(4, 2, device=device), torch.zeros(4, dtype=torch.int64, device=device)
        for name in NAMES:
            # Fake tensors cannot be sliced beside a PyTorch without their device; those on mps are on the CPU then.
            if name != "weighted" or device == "mps":
                value = loss(name)(rows, labels, groups=labels)
                assert value.shape == () and value.device.type == device
            if device == "mps":
                weights = torch.empty(4, device=device)
                value, stats = loss(name)(rows, labels, groups=labels, weights=weights, return_stats=True)
                assert value.shape == () and {each.device.type for each in (value, *stats)} == {device}
        for name in MINERS:
            mined = getattr(fasttriplet, f"mine_{name}")(rows, labels, groups=labels)
            assert {each.device.type for each in mined} == {device}


def test_keywords_only():
    for name in NAMES:
        for function in (loss(name), getattr(fasttriplet, f"mine_{name}", loss(name))):
            kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
            assert kinds[:2] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
            assert set(kinds[2:]) == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_the_module_is_the_function(number):
    name, chosen = LOSSES[number]
    generator = torch.Generator().manual_seed(0)
    rows, references = torch.randn(20, 3, generator=generator), torch.randn(15, 3, generator=generator)
    labels, ref_labels = torch.arange(20) % 4, torch.arange(15) % 4
    options = dict(margin=0.7, distance="cosine", soft_margin=number % 2 == 0, reduction="sum", on_missing="zero")
    module = getattr(fasttriplet, MODULES[name])(**options, **chosen, **RULES)
    batch = dict(
        ref_embeddings=references,
        ref_labels=ref_labels,
        self_indices=torch.arange(20) % 16 - 1,
        groups=labels // 2 * 3,
        ref_groups=ref_labels,
        sample_ids=torch.arange(20) % 7,
        ref_sample_ids=torch.arange(15) - 1,
        ref_mask=torch.arange(15) != 4,
        weights=torch.rand(20, generator=generator),
    )
    expected, stats = loss(name)(rows, labels, **options, **chosen, **batch, **RULES)
    found, found_stats = module(rows, labels, **batch)
    assert torch.equal(found, expected)
    assert torch.equal(found_stats.negative_counts, stats.negative_counts)
    assert "groups_exclude='positives', ignore_index=3, return_stats=True" in repr(module)
    default = getattr(fasttriplet, MODULES[name])()
    assert torch.equal(default(rows, labels), loss(name)(rows, labels)) and not default.state_dict()
    defaults = {n: p.default for n, p in inspect.signature(loss(name)).parameters.items()}
    for option, parameter in inspect.signature(type(default)).parameters.items():
        assert parameter.default == defaults[option], option


def shared_parameters(function):
    return {name: p for name, p in inspect.signature(function).parameters.items() if name in SHARED}


DEFAULTS = {"groups_exclude": "pairs", "return_stats": False, "ref_sharded": False, "gradient_scale": "mean"}
SHARED = LossArguments.__annotations__.keys()


@pytest.mark.parametrize("name", NAMES)
def test_what_all_take_is_written_out(name):
    """Signature, defaults and docstring of each are as if its arguments had been written out."""
    module = getattr(fasttriplet, MODULES[name])
    takes = [(loss(name), LossArguments), (module.forward, ForwardArguments), (module.__init__, ModuleOptions)]
    if name in MINERS:
        takes.append((getattr(fasttriplet, f"mine_{name}"), Pairing))
    for function, arguments in takes:
        parameters = shared_parameters(function)
        assert list(parameters) == list(arguments.__annotations__)
        assert not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
        for argument, parameter in parameters.items():
            assert parameter.default == DEFAULTS.get(argument), argument
            if function is not module.__init__:
                assert f"\n    {argument}: " in inspect.getdoc(function)
        assert "\n    **" not in (inspect.getdoc(function) or "")


@pytest.mark.parametrize("name", NAMES)
def test_what_says_nothing_is_as_if_not_given(name):
    every = {argument: p.default for argument, p in shared_parameters(loss(name)).items()}
    assert torch.equal(call(loss(name), **every), call(loss(name)))


def test_modules_refuse_what_is_unknown_or_belongs_elsewhere():
    module = fasttriplet.BatchHardTripletLoss(groups_exclude="positives")
    with pytest.raises(TypeError, match="unexpected keyword argument 'group'"):
        module(EMBEDDINGS, LABELS, group=LABELS)
    with pytest.raises(TypeError, match="'groups_exclude', which is given at construction"):
        module(EMBEDDINGS, LABELS, groups_exclude="pairs")
    with pytest.raises(TypeError, match=r"BatchHardTripletLoss\(\) got an unexpected keyword argument 'weights'"):
        fasttriplet.BatchHardTripletLoss(weights=None)
