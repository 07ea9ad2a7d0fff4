"""Runs a script of ``examples/`` as a user does, in a process and a folder of its own, with small settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
_SECONDS = 240  # a script that hangs says so; each takes a tenth of it


def run_script(name: str, *arguments: str, folder: Path) -> str:
    """What ``python examples/NAME *arguments`` prints, run in ``folder``, of one thread; fails where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=_SECONDS)
    assert ended.returncode == 0, f"{name} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout
