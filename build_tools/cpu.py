"""Decides whether the CPU library is built: not where there is no C++ compiler. The package then works without it."""

from __future__ import annotations

import os
import shlex
import shutil
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Whether the compiled libraries are built, and a line that says why not; empty where they are."""

    build: bool
    message: str


def requested(environ: Mapping[str, str]) -> str:
    """The value of FASTTRIPLET_CPU, "auto", "0" or "1"; "auto" where it is not set."""
    value = environ.get("FASTTRIPLET_CPU", "").strip() or "auto"
    if value not in ("auto", "0", "1"):
        raise ValueError(f"FASTTRIPLET_CPU must be auto, 0 or 1; got {value!r}")
    return value


def compiler(environ: Mapping[str, str]) -> str | None:
    """The C++ compiler that setuptools would call, of CXX or of Python's own build, or else a usual one; None: none."""
    given = environ.get("CXX") or sysconfig.get_config_var("CXX") or ""
    programs = [*shlex.split(given)[:1], *(["c++", "g++", "clang++", "cl"] if not environ.get("CXX") else [])]
    path = environ.get("PATH", os.defpath)
    return next((found for program in programs if (found := shutil.which(program, path=path))), None)


def plan(environ: Mapping[str, str]) -> Plan:
    """Build or not; raises ValueError for a wrong setting and FileNotFoundError where a compiler is demanded."""
    wish = requested(environ)
    if wish == "0":
        lack = "FASTTRIPLET_CPU=0"
    elif compiler(environ) is not None:
        return Plan(True, "")
    else:
        lack = "no C++ compiler was found in CXX or PATH"
        if wish == "1":
            raise FileNotFoundError(f"FASTTRIPLET_CPU=1 asks for the CPU library, but {lack}")
    if environ.get("FASTTRIPLET_CUDA", "").strip() == "1":
        raise FileNotFoundError(
            f"FASTTRIPLET_CUDA=1 asks for the CUDA library, which is linked by a C++ compiler: {lack}"
        )
    return Plan(False, f"nothing is compiled, and the package works by its portable engine, in plain PyTorch: {lack}")
