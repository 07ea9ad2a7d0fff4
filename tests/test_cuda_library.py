"""The CUDA library as nvcc made it: it loads beside libtorch_cuda, has its kernels, and the screens spill nothing."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fasttriplet
from fasttriplet import _library
from tests.shared_library import compile_shared

LIBRARY = Path(fasttriplet.__file__).resolve().parent / "_cuda.abi3.so"
BUILD = Path(__file__).resolve().parents[1] / "build"
#: All that the library takes from libtorch_cuda: the rest of PyTorch's symbols are in the CPU build too.
LIBTORCH_CUDA = "int aoti_torch_get_current_cuda_stream(int device, void **stream) { return 1; }"

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the CUDA library was not built: no nvcc, or not wanted")


def needed(path: Path) -> list[str]:
    """The libraries that a 64-bit little-endian ELF file asks the linker for (DT_NEEDED)."""
    data = path.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01"
    (table,), (size, count) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<HH", data, 54)
    # Program headers: type, flags, offset in the file, address, (physical) address, size in the file.
    segments = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
    (dynamic,) = (data[offset : offset + length] for kind, _, offset, _, _, length in segments if kind == 2)
    entries = list(struct.iter_unpack("<qQ", dynamic))
    (names,) = (value for tag, value in entries if tag == 5)  # the address of the strings
    (start,) = (
        offset + names - address
        for kind, _, offset, address, _, length in segments
        if kind == 1 and address <= names < address + length
    )
    offsets = (start + value for tag, value in entries if tag == 1)
    return [data[offset : data.index(b"\0", offset)].decode() for offset in offsets]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the library says of itself once it is loaded, all its symbols resolved, in a process of its own.

    Beside a CPU PyTorch, stand-ins of libtorch.so and libtorch_cuda.so make up for what a CUDA build has.
    """
    code = (
        "import ctypes, sys\n"
        "for path in sys.argv[1:]: ctypes.CDLL(path)\n"  # before PyTorch's own libtorch.so, which has the same name
        "import torch\n"
        "torch.version.cuda = torch.version.cuda or '13.0'\n"
        "import fasttriplet\n"
        "from fasttriplet import _library\n"
        "assert _library.cuda_absence is None, _library.cuda_absence\n"
        "print(torch.ops.fasttriplet._cuda_build_info())\n"
        "try: torch.ops.fasttriplet._cuda_test_tensor_cores(0, 'tensor')\n"
        "except RuntimeError as error: print('error', error, sep='=')\n"
        "try: torch.ops.fasttriplet._cuda_tensor_core_share(0, 'float')\n"
        "except ValueError as error: print('refused', error, sep='=')\n"
        "for name in ('mine_batch_hard', 'batch_hard_loss', '_batch_hard_loss_backward'):\n"
        "    print(name, torch._C._dispatch_has_kernel_for_dispatch_key('fasttriplet::' + name, 'CUDA'), sep='=')\n"
    )
    stand_ins, environ = [], dict(os.environ)
    if torch.version.cuda is None:
        folder = tmp_path_factory.mktemp("pytorch")
        compile_shared(folder / "libtorch_cuda.so", LIBTORCH_CUDA)
        links = [f"-L{folder}", "-Wl,--no-as-needed", "-ltorch_cuda", "-Wl,-rpath,$ORIGIN"]
        compile_shared(folder / "libtorch.so", "", *links)
        stand_ins.append(folder / "libtorch.so")
        (folder / "libcuda.so.1").write_bytes(b"not a library" * 9)  # hides a driver that may be here
        environ["LD_LIBRARY_PATH"] = str(folder)
    command = [sys.executable, "-c", code, *map(str, stand_ins)]
    result = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return dict(line.split("=", 1) for line in result.stdout.splitlines())


def test_library_asks_for_libtorch():
    """In a CUDA PyTorch libtorch_cuda.so is found through libtorch.so alone."""
    assert {"libtorch.so", "libtorch_cpu.so"} <= set(needed(LIBRARY))


def test_operators_have_cuda_kernels(facts: dict[str, str]):
    assert facts["mine_batch_hard"] == facts["batch_hard_loss"] == facts["_batch_hard_loss_backward"] == "True"


@pytest.mark.skipif(torch.version.cuda is not None, reason="a driver may be here, and none can be taken away")
def test_call_without_a_driver_says_so(facts: dict[str, str]):
    assert facts["error"] == "fasttriplet: CUDA kernels need an NVIDIA driver, and none was found"


def test_products_without_tensor_cores_are_refused_by_name(facts: dict[str, str]):
    assert facts["refused"] == "products must be tensor, wgmma or wgmma-pair; got 'float'"


def test_runtime_inside_is_of_the_toolkit(facts: dict[str, str]):
    """Read from the file, since it must be known before the library is loaded."""
    major = int(facts["nvcc"].split(".")[0])
    assert _library.cuda_runtime() is not None
    assert _library.cuda_runtime()[0] == major


def report(facts: dict[str, str]) -> str:
    """What ptxas said of the kernels: of the latest build in the sources for the library's architectures."""
    architectures = set(re.findall(r"sm_\w+", facts["cuda_architectures"]))
    reports = sorted(BUILD.glob("*/cuda/register.o.ptxas"), key=lambda path: path.stat().st_mtime, reverse=True)
    if not reports:
        pytest.skip(f"the compiler's report is kept in {BUILD} by builds in the sources only")
    for folder in (path.parent for path in reports):
        text = "".join(path.read_text() for path in sorted(folder.glob("register*.o.ptxas")))
        if set(re.findall(r"Compiling entry function '\S+' for '(sm_\w+)'", text)) == architectures:
            return text
    raise AssertionError(f"none of {reports} is of a library for {architectures}")


def spills(kernel: str, facts: dict[str, str]) -> dict[str, list[int]]:
    """Bytes of stack, spilled stores and loads of a kernel's instances, by architecture, as ptxas reported them."""
    found: dict[str, list[int]] = {}
    for name, architecture, text in re.findall(
        r"Compiling entry function '(\S+)' for '(sm_\w+)'(.*?)Compile time", report(facts), flags=re.DOTALL
    ):
        if kernel in name:
            counts = [int(count) for count in re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", text)]
            assert len(counts) == 3, text
            found.setdefault(architecture, []).append(sum(counts))
    assert sorted(found) == sorted(re.findall(r"sm_\w+", facts["cuda_architectures"]))
    return found


def test_the_screens_keep_to_registers(facts: dict[str, str]):
    """A spill would cost every product a trip to memory: ptxas must report none, on any architecture."""
    found = spills("ScreenPairs", facts)
    # One for each kind of tile, for every pair and for those that samples and groups allow.
    assert all(bytes_ == [0] * 10 for bytes_ in found.values()), found


def test_products_by_wgmma_run_beside_each_other(facts: dict[str, str]):
    """ptxas makes them wait for each other where something else touches their sums in between, and says so."""
    serialized = re.findall(r"are serialized due to .* in the function '(\S+)'", report(facts))
    assert not [name for name in serialized if "ScreenPairs" in name], serialized


@pytest.mark.parametrize(
    "kernel",
    [
        *("SettleCandidates", "ScanExactly", "GatherGradient", "IndexEdges", "SurveyRows", "RankKeys"),
        *("LossOfTriplets", "GradientOfTriplets"),
    ],
)
def test_what_is_loaded_ahead_stays_in_registers(kernel: str, facts: dict[str, str]):
    found = spills(kernel, facts)
    assert not any(sum(bytes_) for bytes_ in found.values()), found
