"""Records what the scripts of ``examples/`` print and draw: ``python -m build_tools.record [NAME ...]``.

Each runs with its own settings in a folder of its own, one after the other, and is told as it is. Its output goes to
``examples/output/NAME.txt``, pictures it made to ``examples/output/NAME*.png``. One that fails is not recorded.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
OUTPUT = EXAMPLES / "output"
#: How a script is started that is more than one process.
_LAUNCHED = {"distributed": ["-m", "torch.distributed.run", "--nproc-per-node=2"]}


def record(name: str) -> None:
    """Runs ``examples/NAME.py`` and keeps its standard output, with the pictures that it left in its folder."""
    script = EXAMPLES / f"{name}.py"
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        command = [sys.executable, *_LAUNCHED.get(name, []), str(script)]
        ended = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
        OUTPUT.mkdir(exist_ok=True)
        (OUTPUT / f"{name}.txt").write_text(ended.stdout)
        for old in OUTPUT.glob(f"{name}*.png"):
            old.unlink()
        for picture in sorted(Path(folder).rglob("*.png")):
            suffix = "" if picture.stem == name else f"_{picture.stem}"
            shutil.copyfile(picture, OUTPUT / f"{name}{suffix}.png")
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or sorted(path.stem for path in EXAMPLES.glob("[!_]*.py")):
        record(chosen)
