"""Builds ``fasttriplet/_C.abi3.so`` (FASTTRIPLET_CPU) and ``fasttriplet/_cuda.abi3.so`` (FASTTRIPLET_CUDA).

Neither is a Python module: they are loaded with ``torch.ops.load_library`` and register operators. They use LibTorch's
stable ABI only and no symbol of Python, so one wheel serves every later PyTorch and Python. Without a C++ compiler the
package is one of Python alone. Everything else about it is in ``pyproject.toml``.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch
from setuptools import Extension, setup
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError, SetupError
from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a PEP 517 front end does not
from build_tools import cpu, cuda  # noqa: E402

try:  # where the virtual environment that has ninja is not activated
    import ninja

    os.environ["PATH"] = os.pathsep.join((ninja.BIN_DIR, os.environ.get("PATH", os.defpath)))
except ImportError:
    pass

TORCH_TARGET = ("TORCH_TARGET_VERSION", "0x020a000000000000ULL")  # 2.10, the oldest PyTorch that can load the result
COMPILE_FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # a fused multiply-add in one instruction set and not in another would part their results
    "-Wall",
    "-Wextra",
    "-Wno-psabi",  # vectors are passed between inlined functions only, so how a call would pass them does not matter
]
# As system headers they give no warnings; as two words nvcc understands them too.
TORCH_INCLUDES = [word for folder in include_paths() for word in ("-isystem", folder)]


def sources(folder: str, suffix: str) -> list[str]:
    """Paths of the sources below ``folder``, relative to this file and in a fixed order, tests left out."""
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(f"*{suffix}"))
    return [path for path in found if not path.endswith(f"_test{suffix}")]


def library(name: str, files: list[str]) -> Extension:
    return Extension(
        f"fasttriplet.{name}",
        files,
        include_dirs=[str(ROOT / "csrc")],  # absolute: ninja compiles in another folder
        library_dirs=library_paths(),
        libraries=["torch_cpu"],  # not torch_python: that would tie the library to one version of Python
        define_macros=[TORCH_TARGET],
        extra_compile_args=[*COMPILE_FLAGS, *TORCH_INCLUDES],
        extra_link_args=["-Wl,-z,defs"] if sys.platform == "linux" else [],  # nothing undefined but what PyTorch has
        language="c++",
        py_limited_api=True,
    )


CPU = library("_C", [path for path in sources("csrc", ".cpp") if not path.startswith("csrc/cuda/")])
CUDA = library("_cuda", [*sources("csrc/cuda", ".cu"), "csrc/check.cpp"])


class BuildLibraries(BuildExtension):
    """PyTorch's builder for the CPU library; nvcc by hand for the CUDA library."""

    def run(self) -> None:
        try:
            self.cuda_plan = cuda.plan(os.environ)
        except (ValueError, FileNotFoundError) as error:
            raise SetupError(str(error)) from None
        print(f"fasttriplet: {self.cuda_plan.message}", file=sys.stderr)
        if self.cuda_plan.nvcc is not None:
            warning = cuda.mismatch(self.cuda_plan.nvcc, torch.__version__, torch.version.cuda)
            if warning is not None:
                print(f"fasttriplet: warning: {warning}", file=sys.stderr)
        else:
            self.extensions = [CPU]
            # One of an earlier build must neither slip into a wheel nor stay in place.
            Path(self.get_ext_fullpath(CUDA.name)).unlink(missing_ok=True)
        super().run()

    def build_extensions(self) -> None:
        if self.editable_mode:  # the default is a folder that is thrown away: nothing would be reused
            self.build_temp = str(ROOT / "build" / "editable")
        everything, self.extensions = self.extensions, [CPU]
        try:
            super().build_extensions()
        except RuntimeError as error:
            raise CompileError("the CPU library did not build, see above") from error
        finally:
            self.extensions = everything
        if CUDA in everything:
            self.build_cuda()

    def build_cuda(self) -> None:
        try:
            cuda.build(
                self.cuda_plan,
                sources=CUDA.sources,
                output=Path(self.get_ext_fullpath(CUDA.name)),
                work=Path(self.build_temp).absolute() / "cuda",
                compile_flags=[*(f"-I{folder}" for folder in CUDA.include_dirs), *TORCH_INCLUDES],
                library_dirs=CUDA.library_dirs,
                defines=[TORCH_TARGET],
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError("the CUDA library did not build, see above; FASTTRIPLET_CUDA=0 leaves it out") from error


class BuildPython(build_py):
    """Says that nothing is compiled."""

    def run(self) -> None:
        print(f"fasttriplet: {PLAN.message}", file=sys.stderr)
        if self.editable_mode:  # those of an earlier build must not stay in place
            for path in (ROOT / "fasttriplet").glob("*.so"):
                path.unlink()
        super().run()


try:
    PLAN = cpu.plan(os.environ)
except (ValueError, FileNotFoundError) as error:
    sys.exit(f"error: {error}")

if PLAN.build:
    setup(
        ext_modules=[CPU, CUDA],
        cmdclass={"build_ext": BuildLibraries},
        options={"bdist_wheel": {"py_limited_api": "cp310"}},
    )
else:
    setup(cmdclass={"build_py": BuildPython})
