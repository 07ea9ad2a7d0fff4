"""The command line: every option once, and which defaults depend on the data set."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from examples.resnet50.device import PRECISIONS
from examples.resnet50.errors import UserError
from examples.resnet50.evaluate import MEASURES
from examples.resnet50.learner import STARTS

#: Filled in where an option is not given; ``steps`` stands where neither --steps nor --epochs is. ``evaluate_every`` is
#: in epochs: Omniglot has twice as many images to test as to train on, and to test costs nearly what an epoch does.
DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        **{"image_size": 32, "classes_per_batch": 8, "samples_per_class": 8, "steps": 150, "evaluate_every": 0},
        **{"nuisance": True, "lr": 3e-3},
    },
    "omniglot": {
        **{"image_size": 64, "classes_per_batch": 16, "samples_per_class": 4, "steps": 900, "evaluate_every": 5},
        **{"nuisance": False, "lr": 1e-3},
    },
    "mnist": {
        **{"image_size": 32, "classes_per_batch": 7, "samples_per_class": 8, "steps": 150, "evaluate_every": 1},
        **{"nuisance": False, "lr": 1e-3},
    },
    "folder": {
        **{"image_size": 128, "classes_per_batch": 8, "samples_per_class": 4, "steps": 500, "evaluate_every": 1},
        **{"nuisance": False, "lr": 1e-3},
    },
}
#: Options that may differ from machine to machine, and from process to process of a run.
OF_A_MACHINE = ("root", "device", "threads", "name", "out", "overwrite", "save_every", "resume")
#: What --resume may change; all else is taken from the checkpoint, or the run would not be the same one.
_CHANGEABLE = (*OF_A_MACHINE, "steps", "epochs", "compile", "patience")


def _number(kind: type, least: float, open_below: bool = False) -> Any:
    """Of a finite number of at least, or above, ``least``."""
    words = "an integer" if kind is int else "a finite number"

    def convert(text: str) -> Any:
        value = kind(text)
        if not math.isfinite(value) or value < least or (open_below and value == least):
            bound = "" if least == -math.inf else f" {'above' if open_below else 'of at least'} {least}"
            raise argparse.ArgumentTypeError(f"must be {words}{bound}; got {text}")
        return value

    convert.__name__ = kind.__name__  # argparse names the type in its messages
    return convert


def _option(default: Any, text: str, **how: Any) -> Any:
    """An option of argparse; for the default None, which :func:`complete` fills in, ``text`` says what it means."""
    if default is not None and default is not False:
        text += f" (default: {default})"
    return field(default=default, metadata={"help": text.replace("%", "%%"), **how})


def _int(least: int, default: int | None, letter: str, text: str) -> Any:
    return _option(default, text, type=_number(int, least), metavar=letter)


def _per_data(key: str) -> str:
    words = {True: "yes", False: "no"}
    values = {name: defaults[key] for name, defaults in DATA_DEFAULTS.items()}
    told = {name: words[value] if isinstance(value, bool) else value for name, value in values.items()}
    if len(set(values.values())) == 1:
        return f"default: {told['digits']}"
    return f"default: {', '.join(f'{name} {value}' for name, value in told.items())}"


_FLAG = argparse.BooleanOptionalAction


@dataclass(frozen=True)
class Options:
    """Each field is the option of the same name."""

    data: str = _option("digits", "data set; digits need no download", choices=tuple(DATA_DEFAULTS))
    root: str | None = _option(None, "where the files of omniglot, mnist or folder are", metavar="FOLDER")
    image_size: int = _int(16, None, "S", f"scale images to S x S; {_per_data('image_size')}")
    test_limit: int = _int(10, 4000, "M", "test images used at most")
    no_augment: bool = _option(
        False, "no random rotation, scaling, shear, shift (and mirroring of photos)", action="store_true"
    )
    nuisance: bool = _option(
        None, f"change the test images in these ways too, each once; {_per_data('nuisance')}", action=_FLAG
    )

    weights: str | None = _option(
        None, "torchvision weights (IMAGENET1K_V2) or a .pth file (default: random)", metavar="NAME|FILE"
    )
    shortcuts: str = _option(
        None,
        "where they halve a map: pooled keeps of four pixels the mean, strided one of them, as torchvision's do and "
        "its weights were trained (default: pooled, with --weights strided)",
        choices=("pooled", "strided"),
    )
    embedding_dim: int = _int(1, 128, "D", "size of an embedding")

    loss: str = _option(
        "checked",
        "fused; reference, the same in plain PyTorch; checked: fused, and in every step the reference on the same "
        "embeddings in float64 must agree; both: so too, and a second copy trains with the reference",
        choices=("fused", "reference", "checked", "both"),
    )
    start: str = _option(
        None,
        "a gentler loss for the first steps, batch-hard after them (default: batch-hard)",
        choices=STARTS,
        metavar="|".join(STARTS),
    )
    start_steps: int = _int(0, 0, "N", "how many those are")
    margin: float = _option(0.3, "margin of the hinge", type=_number(float, -math.inf), metavar="M")
    distance: str = _option(
        "euclidean", "between embeddings", choices=("euclidean", "squared_euclidean", "cosine", "inner_product")
    )
    soft_margin: bool = _option(False, "softplus in place of the hinge; --margin is then not used", action="store_true")

    classes_per_batch: int = _int(2, None, "P", f"classes in a batch; {_per_data('classes_per_batch')}")
    samples_per_class: int = _int(2, None, "K", f"images of each class; {_per_data('samples_per_class')}")
    steps: int | None = _int(1, None, "N", f"batches to train on; {_per_data('steps')}")
    epochs: int | None = _int(1, None, "N", "the same in passes over the training images")
    freeze_epochs: int = _int(0, 0, "N", "train the head alone for N epochs first")
    lr: float = _option(None, f"Adam's learning rate; {_per_data('lr')}", type=_number(float, 0, True), metavar="LR")
    fine_tune_lr: float = _option(
        None, "rate after --freeze-epochs (default: a tenth of --lr)", type=_number(float, 0, True), metavar="LR"
    )
    schedule: str = _option("cosine", "of the rate", choices=("cosine", "constant"))
    seed: int = _int(0, 0, "N", "of weights, batches and augmentation")
    threads: int | None = _int(1, None, "N", "PyTorch's threads (default: PyTorch's choice)")

    evaluate_every: int = _int(
        0, None, "N", f"evaluate after every N epochs and at the end; 0: only at the end; {_per_data('evaluate_every')}"
    )
    best_by: str = _option(
        "map_at_r",
        "the metric whose best network is kept in best.pt: map, map_at_r, r_precision, mrr or minp; hit_rate, "
        "precision, recall or map @1, @5 or @10, as hit_rate@1; cmc@1 to cmc@10; of classes that were trained on, "
        "where the test has such and others",
        choices=MEASURES,
        metavar="METRIC",
    )
    patience: int = _int(0, 0, "N", "stop after N evaluations in a row that were not better than the best; 0: never")

    device: str = _option(
        "auto",
        "where to train and evaluate, one of several as cuda:1; auto is the best there is",
        metavar="auto|cpu|cuda|mps|xpu",
    )
    precision: str = _option(
        "float32",
        "of the network, by autocast; float16 scales the loss and skips steps that overflow; float64 is that of the "
        "weights too, to compare runs",
        choices=tuple(PRECISIONS),
    )
    compile: bool = _option(
        False, "torch.compile the network for training: a slow first step, then faster ones", action=_FLAG
    )

    name: str | None = _option(
        None, "results go to OUT/NAME (default: DATA-LOSS, numbered if that is taken)", metavar="NAME"
    )
    out: str = _option("runs", "where NAME is put", metavar="FOLDER")
    overwrite: bool = _option(False, "replace the results of an earlier run called --name", action="store_true")
    save_every: int = _int(0, 200, "N", "checkpoint every N steps; 0: only at the end")
    resume: str | None = _option(
        None,
        "continue exactly; only --steps, --epochs, --patience, --device, --compile and places may be given with it",
        metavar="CHECKPOINT",
    )


#: The headings of --help, by the first option below each.
_HEADINGS = {
    **{"data": "data", "weights": "network", "loss": "loss", "classes_per_batch": "training"},
    **{"evaluate_every": "evaluation", "device": "device", "name": "output"},
}


def build_parser() -> argparse.ArgumentParser:
    """It tells of options that were given, and of no others."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.resnet50.train",
        description="Trains torchvision's ResNet-50 as an embedding network with the batch-hard triplet loss, and "
        "measures retrieval among images it was not trained on. Without options: handwritten digits, the fused loss, "
        "checked by the reference in every step.",
        argument_default=argparse.SUPPRESS,
    )
    for each in fields(Options):
        if each.name in _HEADINGS:
            place = group = parser.add_argument_group(_HEADINGS[each.name])
        if each.name == "steps":  # or epochs
            place = group.add_mutually_exclusive_group()
        place.add_argument(_flag(each.name), **each.metadata)
        if each.name == "epochs":
            place = group
    return parser


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse_options(arguments: list[str] | None) -> tuple[Options, frozenset[str]]:
    """The options, not yet completed by :func:`complete`, and the names of those that were given."""
    given = vars(build_parser().parse_args(arguments))
    return Options(**given), frozenset(given)


def complete(options: Options) -> Options:
    """Fills in the defaults that depend on the data set or on other options."""
    values = asdict(options)
    of_data = DATA_DEFAULTS[options.data]
    defaults = {
        **of_data,
        "start": "batch-hard",
        "shortcuts": "pooled" if options.weights is None else "strided",
        "fine_tune_lr": (of_data["lr"] if options.lr is None else options.lr) / 10,
    }
    for key, default in defaults.items():
        if values[key] is None and not (key == "steps" and options.epochs is not None):
            values[key] = default
    if options.start is None and options.start_steps:
        raise UserError(f"--start must be given with --start-steps {options.start_steps}; got none")
    if options.start not in (None, "batch-hard") and not options.start_steps:
        raise UserError(f"--start-steps must be above 0 with --start {options.start}; got {options.start_steps}")
    if values["patience"] and not values["evaluate_every"]:
        raise UserError(
            f"--patience must be 0 with --evaluate-every 0, which evaluates at the end alone; got {options.patience}"
        )
    return Options(**values)


def merge_resumed(options: Options, given: frozenset[str], saved: dict[str, Any]) -> Options:
    """The options of the checkpoint, with those given that may change."""
    if set(saved) != {each.name for each in fields(Options)}:
        raise UserError(f"--resume {options.resume} must be a checkpoint of this program; its options differ")
    for name in sorted(given - set(_CHANGEABLE)):
        if getattr(options, name) != saved[name]:
            told = f"must be left out or {saved[name]!r} as in --resume; got {getattr(options, name)!r}"
            raise UserError(f"{_flag(name)} {told}")
    values = {**saved, **{name: getattr(options, name) for name in given}}
    if "steps" in given:
        values["epochs"] = None
    elif "epochs" in given:
        values["steps"] = None
    return Options(**values)
