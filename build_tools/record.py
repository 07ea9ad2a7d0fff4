"""Records what the scripts of ``examples/`` print and draw: ``python -m build_tools.record [NAME ...]``.

Each is run by the command in its docstring, in a folder of its own, one after the other. Its output goes to
``examples/output/NAME.txt``, pictures it made to ``examples/output/NAME.png`` and ``NAME_*.png``, which is where
``build_tools/docs/hooks.py`` takes them from. Of one that fails what was recorded stays.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from build_tools.docs.hooks import Script, scripts

#: By the first word of a command, the program of this environment.
_PROGRAMS = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}


def record(script: Script) -> None:
    """Keeps the script's standard output, and the pictures that it left in its folder."""
    program, *words = shlex.split(script.command)
    words = [str(script.path) if word == f"examples/{script.path.name}" else word for word in words]
    with tempfile.TemporaryDirectory() as folder:
        command = [*_PROGRAMS[program], *words]
        ended = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True)
        script.output.parent.mkdir(exist_ok=True)
        script.output.write_text(ended.stdout)
        for old in script.pictures:
            old.unlink()
        for picture in sorted(Path(folder).rglob("*.png")):
            suffix = "" if picture.stem == script.name else f"_{picture.stem}"
            shutil.copyfile(picture, script.output.with_name(f"{script.name}{suffix}.png"))


def main() -> None:
    known = {script.name: script for script in scripts()}
    for name in sys.argv[1:] or known:
        if name not in known:
            sys.exit(f"NAME must be one of {', '.join(known)}; got {name}")
        started = time.monotonic()
        record(known[name])
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
