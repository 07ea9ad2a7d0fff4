"""Where the results of a run go, without overwriting those of another by accident."""

from __future__ import annotations

from pathlib import Path

from examples.resnet50.errors import UserError
from examples.resnet50.options import Options

#: What a run writes.
WRITTEN = (
    *("loss.png", "embeddings.png", "retrieval.png", "worst_queries.png", "distances.png"),
    *("metrics.csv", "evaluations.csv", "best.pt", "checkpoint.pt", "events.out.tfevents.*"),
)


def _holds_a_run(folder: Path) -> bool:
    return any(path for pattern in WRITTEN for path in folder.glob(pattern))


def run_folder(options: Options) -> Path:
    """Makes and returns the folder: that of the checkpoint for ``--resume``, ``OUT/NAME``, or a free name."""
    if options.name is not None:
        folder = Path(options.out) / options.name
        if _holds_a_run(folder) and options.resume is None:
            if not options.overwrite:
                raise UserError(f"--name must be new, or --overwrite given; {folder} already holds a run")
            for pattern in WRITTEN:
                for path in folder.glob(pattern):
                    path.unlink()
    elif options.resume is not None:
        folder = Path(options.resume).parent
    else:
        base = f"{options.data}-{options.loss}"
        candidates = (Path(options.out) / (base if n == 1 else f"{base}-{n}") for n in range(1, 10**6))
        folder = next(folder for folder in candidates if not _holds_a_run(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out and --name must give a folder that can be made; {folder}: {error.strerror}") from error
    return folder
