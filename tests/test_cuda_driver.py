"""Whether the CUDA library is loaded beside a driver: stand-ins of both, in a process of its own.

The stand-ins need no CUDA, so these tests run everywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fasttriplet
from tests.shared_library import compile_shared

PACKAGE = Path(fasttriplet.__file__).resolve().parent
LIBRARY = 'const char runtime[] = "fasttriplet_cuda_runtime=13000";'
TOO_OLD = (
    "the NVIDIA driver serves CUDA 12.8 at most and the library has the runtime of CUDA 13.0: update the driver to one "
    "of CUDA 13, or build fasttriplet with a toolkit of CUDA 12 in CUDA_HOME"
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package in it, whose CUDA library is a stand-in with the runtime of CUDA 13.0."""
    ignored = shutil.ignore_patterns("_cuda.abi3.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "fasttriplet", ignore=ignored)
    compile_shared(tmp_path / "fasttriplet" / "_cuda.abi3.so", LIBRARY)
    (tmp_path / "driver").mkdir()
    return tmp_path


def make_driver(package: Path, version: int, status: int = 0) -> None:
    """The libcuda.so.1 that the package will find; ``status`` is what cuDriverGetVersion returns."""
    source = f"int cuDriverGetVersion(int *version) {{ *version = {version}; return {status}; }}"
    compile_shared(package / "driver" / "libcuda.so.1", source)


def loading(package: Path) -> dict[str, object]:
    """What comes of importing the package beside a PyTorch with CUDA."""
    code = (
        "import json, torch\n"
        "torch.version.cuda = torch.version.cuda or '13.0'\n"
        "from fasttriplet import _library\n"
        "mapped = any('_cuda.abi3.so' in line for line in open('/proc/self/maps'))\n"
        "facts = dict(absence=_library.cuda_absence, runtime=_library.cuda_runtime(), driver=_library.cuda_driver())\n"
        "print(json.dumps({**facts, 'mapped': mapped}))\n"
    )
    environ = {**os.environ, "LD_LIBRARY_PATH": str(package / "driver")}
    result = subprocess.run([sys.executable, "-c", code], cwd=package, env=environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_library_stays_out_where_the_driver_is_too_old(package: Path):
    make_driver(package, 12080)
    assert loading(package) == {"absence": TOO_OLD, "runtime": [13, 0], "driver": [12, 8], "mapped": False}


@pytest.mark.parametrize(("number", "version"), [(13000, [13, 0]), (13020, [13, 2]), (14010, [14, 1])])
def test_library_is_loaded_beside_a_driver_of_its_major_version_or_a_later_one(
    package: Path, number: int, version: list[int]
):
    make_driver(package, number)
    assert loading(package) == {"absence": None, "runtime": [13, 0], "driver": version, "mapped": True}


def test_library_of_a_later_minor_version_is_loaded(package: Path):
    compile_shared(package / "fasttriplet" / "_cuda.abi3.so", LIBRARY.replace("13000", "13030"))
    make_driver(package, 13000)
    assert loading(package) == {"absence": None, "runtime": [13, 3], "driver": [13, 0], "mapped": True}


def test_driver_that_does_not_tell_its_version_counts_as_none(package: Path):
    make_driver(package, 12080, status=34)  # the stub of a toolkit
    assert loading(package) == {"absence": None, "runtime": [13, 0], "driver": None, "mapped": True}


def test_library_is_loaded_without_a_driver(package: Path):
    (package / "driver" / "libcuda.so.1").write_bytes(b"not a library" * 9)  # hides one that may be here
    assert loading(package) == {"absence": None, "runtime": [13, 0], "driver": None, "mapped": True}


def test_library_without_a_byte_says_what_the_linker_said(package: Path):
    (package / "fasttriplet" / "_cuda.abi3.so").write_bytes(b"")
    make_driver(package, 13000)
    found = loading(package)
    assert found["runtime"] is None and found["absence"].endswith("_cuda.abi3.so: file too short")


def test_library_that_cannot_be_loaded_says_what_the_linker_said(package: Path):
    (package / "driver" / "libcuda.so.1").write_bytes(b"not a library" * 9)
    source = "void nowhere(void); void (*use)(void) = nowhere;"
    compile_shared(package / "fasttriplet" / "_cuda.abi3.so", source)
    absence = loading(package)["absence"]
    assert absence.startswith("Could not load this library: ")
    assert absence.endswith("_cuda.abi3.so: undefined symbol: nowhere")
