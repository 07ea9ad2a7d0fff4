"""The command line, and which defaults depend on the data set."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from examples.resnet50.errors import UserError
from examples.resnet50.measures import MEASURES
from examples.resnet50.precision import PRECISIONS

DISTANCES = ("euclidean", "squared_euclidean", "cosine", "inner_product")
#: Filled in where an option is not given; ``steps`` stands where neither --steps nor --epochs is. ``evaluate_every`` is
#: in epochs: Omniglot has twice as many images to test as to train on, and to test costs nearly what an epoch does.
DATA_DEFAULTS: dict[str, dict[str, int]] = {
    "digits": {"image_size": 32, "classes_per_batch": 7, "samples_per_class": 8, "steps": 150, "evaluate_every": 1},
    "omniglot": {"image_size": 64, "classes_per_batch": 16, "samples_per_class": 4, "steps": 900, "evaluate_every": 5},
    "mnist": {"image_size": 32, "classes_per_batch": 7, "samples_per_class": 8, "steps": 150, "evaluate_every": 1},
    "folder": {"image_size": 128, "classes_per_batch": 8, "samples_per_class": 4, "steps": 500, "evaluate_every": 1},
}
#: What --resume may change; all else is taken from the checkpoint, or the run would not be the same one.
CHANGEABLE = (
    *("root", "steps", "epochs", "name", "out", "overwrite", "threads", "save_every", "resume"),
    *("device", "compile", "patience"),
)


@dataclass(frozen=True)
class Options:
    """Each field is the option of the same name."""

    data: str
    root: str | None
    image_size: int
    test_limit: int
    no_augment: bool
    weights: str | None
    embedding_dim: int
    loss: str
    margin: float
    distance: str
    soft_margin: bool
    classes_per_batch: int
    samples_per_class: int
    steps: int | None
    epochs: int | None
    freeze_epochs: int
    lr: float
    fine_tune_lr: float | None
    schedule: str
    device: str
    precision: str
    compile: bool
    seed: int
    threads: int | None
    evaluate_every: int | None
    best_by: str
    patience: int
    name: str | None
    out: str
    overwrite: bool
    save_every: int
    resume: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return asdict(self)


def _int_from(least: int) -> Any:
    def convert(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {least}; got {value}")
        return value

    convert.__name__ = "int"
    return convert


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0 and finite; got {text}")
    return value


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite; got {text}")
    return value


_positive_float.__name__ = _finite_float.__name__ = "float"  # argparse names the type in its messages


def _per_data(key: str) -> str:
    return "default: " + ", ".join(f"{name} {values[key]}" for name, values in DATA_DEFAULTS.items())


def build_parser() -> argparse.ArgumentParser:
    """The parser; without arguments it gives the demo."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.resnet50.train",
        description="Trains torchvision's ResNet-50 as an embedding network with the batch-hard triplet loss, and "
        "measures retrieval among classes it was not trained on. Without options: handwritten digits, the fused and "
        "the reference loss side by side.",
    )
    add = parser.add_argument_group("data").add_argument
    add(
        "--data", choices=tuple(DATA_DEFAULTS), default="digits", help="data set (default: digits, nothing to download)"
    )
    add("--root", metavar="FOLDER", help="where the files of omniglot, mnist or folder are")
    add("--image-size", type=_int_from(16), metavar="S", help=f"scale images to S x S; {_per_data('image_size')}")
    add("--test-limit", type=_int_from(10), default=4000, metavar="M", help="test images used at most (default: 4000)")
    add("--no-augment", action="store_true", help="no random rotation, scaling, shear, shift (and mirroring of photos)")

    add = parser.add_argument_group("network").add_argument
    add("--weights", metavar="NAME|FILE", help="torchvision weights (IMAGENET1K_V2) or a .pth file (default: random)")
    add("--embedding-dim", type=_int_from(1), default=128, metavar="D", help="size of an embedding (default: 128)")

    add = parser.add_argument_group("loss").add_argument
    add("--loss", choices=("fused", "reference", "both"), default="both", help="both trains two copies (default)")
    add("--margin", type=_finite_float, default=0.3, metavar="M", help="margin of the hinge (default: 0.3)")
    add("--distance", choices=DISTANCES, default="euclidean", help="between embeddings (default: euclidean)")
    add("--soft-margin", action="store_true", help="softplus in place of the hinge; --margin is then not used")

    training = parser.add_argument_group("training")
    add = training.add_argument
    add(
        "--classes-per-batch",
        type=_int_from(2),
        metavar="P",
        help=f"classes in a batch; {_per_data('classes_per_batch')}",
    )
    add(
        "--samples-per-class",
        type=_int_from(2),
        metavar="K",
        help=f"images of each class; {_per_data('samples_per_class')}",
    )
    length = training.add_mutually_exclusive_group()
    length.add_argument("--steps", type=_int_from(1), metavar="N", help=f"batches to train on; {_per_data('steps')}")
    length.add_argument("--epochs", type=_int_from(1), metavar="N", help="the same in passes over the training images")
    add("--freeze-epochs", type=_int_from(0), default=0, metavar="N", help="train the head alone for N epochs first")
    add("--lr", type=_positive_float, default=1e-3, metavar="LR", help="Adam's learning rate (default: 0.001)")
    add(
        "--fine-tune-lr",
        type=_positive_float,
        metavar="LR",
        help="rate after --freeze-epochs (default: a tenth of --lr)",
    )
    add(
        "--schedule",
        choices=("cosine", "constant"),
        default="cosine",
        help="of the rate (default: cosine)",
    )
    add("--seed", type=_int_from(0), default=0, metavar="N", help="of weights, batches and augmentation (default: 0)")
    add("--threads", type=_int_from(1), metavar="N", help="PyTorch's threads (default: PyTorch's choice)")

    add = parser.add_argument_group("evaluation").add_argument
    add(
        "--evaluate-every",
        type=_int_from(0),
        metavar="N",
        help="measure retrieval after every N epochs and at the end; 0: only at the end; "
        + _per_data("evaluate_every"),
    )
    add(
        "--best-by",
        choices=MEASURES,
        default="map_at_r",
        metavar="METRIC",
        help="the metric whose best network is kept in best.pt: map, map_at_r, r_precision, mrr or minp; hit_rate, "
        "precision, recall or map @1, @5 or @10, as hit_rate@1; cmc@1 to cmc@10 (default: map_at_r)",
    )
    add(
        "--patience",
        type=_int_from(0),
        default=0,
        metavar="N",
        help="stop after N evaluations in a row that were not better than the best; 0: never (default: 0)",
    )

    add = parser.add_argument_group("device").add_argument
    add(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda|mps|xpu",
        help="where to train and evaluate, one of several as cuda:1 (default: auto, the best there is)",
    )
    add(
        "--precision",
        choices=tuple(PRECISIONS),
        default="float32",
        help="of the network, by autocast; float16 scales the loss and skips steps that overflow; float64 is that of "
        "the weights too, to compare runs (default: float32)",
    )
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="torch.compile the network for training: a slow first step, then faster ones",
    )

    add = parser.add_argument_group("output").add_argument
    add("--name", metavar="NAME", help="results go to OUT/NAME (default: DATA-LOSS, numbered if that is taken)")
    add("--out", default="runs", metavar="FOLDER", help="where NAME is put (default: runs)")
    add("--overwrite", action="store_true", help="replace the results of an earlier run called --name")
    add(
        "--save-every",
        type=_int_from(0),
        default=200,
        metavar="N",
        help="checkpoint every N steps; 0: only at the end (default: 200)",
    )
    add(
        "--resume",
        metavar="CHECKPOINT",
        help="continue exactly; only --steps, --epochs, --patience, --device, --compile and places may be given with "
        "it",
    )
    return parser


def parse_options(arguments: list[str] | None) -> tuple[Options, frozenset[str]]:
    """The options, not yet completed by :func:`complete`, and the names of those that were given."""
    parser = build_parser()
    values = vars(parser.parse_args(arguments))
    silent = build_parser()
    for action in silent._actions:
        action.default = argparse.SUPPRESS
    return Options(**values), frozenset(vars(silent.parse_args(arguments)))


def complete(options: Options) -> Options:
    """Fills in the defaults that depend on the data set."""
    values = options.to_dict()
    for key, default in DATA_DEFAULTS[options.data].items():
        if values[key] is None and not (key == "steps" and options.epochs is not None):
            values[key] = default
    if values["fine_tune_lr"] is None:
        values["fine_tune_lr"] = options.lr / 10
    if values["patience"] and not values["evaluate_every"]:
        raise UserError(
            f"--patience must be 0 with --evaluate-every 0, which evaluates at the end alone; got {options.patience}"
        )
    return Options(**values)


def merge_resumed(options: Options, given: frozenset[str], saved: dict[str, Any]) -> Options:
    """The options of the checkpoint, with those given that may change."""
    known = {field.name for field in fields(Options)}
    if set(saved) != known:
        raise UserError(f"--resume {options.resume} must be a checkpoint of this program; its options differ")
    for name in sorted(given - set(CHANGEABLE)):
        if getattr(options, name) != saved[name]:
            flag = "--" + name.replace("_", "-")
            raise UserError(
                f"{flag} must be left out or {saved[name]!r} as in --resume; got {getattr(options, name)!r}"
            )
    values = dict(saved)
    values.update({name: getattr(options, name) for name in given})
    if "steps" in given:
        values["epochs"] = None
    elif "epochs" in given:
        values["steps"] = None
    return Options(**values)
