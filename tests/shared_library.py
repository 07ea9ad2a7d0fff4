"""Shared libraries that tests compile, as stand-ins of what a machine with a GPU has."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest


def compile_shared(output: Path, source: str, *flags: str) -> None:
    """Compiles ``source``, C, into ``output``; skips the test where there is no compiler."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"needs a C compiler, and there is no {compiler[0]}")
    command = [*compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(output), f"-Wl,-soname,{output.name}"]
    subprocess.run([*command, *flags], input=source, text=True, check=True)
