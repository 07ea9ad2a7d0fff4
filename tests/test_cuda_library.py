"""The CUDA library as nvcc made it: no spills in the screens, and operators that show it where there is no GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fasttriplet

LIBRARY = Path(fasttriplet.__file__).resolve().parent / "_cuda.abi3.so"
REPORT = Path(__file__).resolve().parents[1] / "build" / "editable" / "cuda" / "register.o.ptxas"

pytestmark = pytest.mark.skipif(not LIBRARY.is_file(), reason="the CUDA library was not built: no nvcc, or not wanted")


def build_facts() -> dict[str, str]:
    """What the library says of itself, from a process that loads it beside whatever PyTorch there is."""
    code = (
        "import ctypes, os, sys, fasttriplet, torch\n"
        "ctypes.CDLL(sys.argv[1], os.RTLD_LAZY)\n"
        "print(torch.ops.fasttriplet._cuda_build_info())\n"
        "for name in ('mine_batch_hard', 'batch_hard_loss', '_batch_hard_loss_backward'):\n"
        "    print(name, torch._C._dispatch_has_kernel_for_dispatch_key('fasttriplet::' + name, 'CUDA'), sep='=')\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(LIBRARY)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return dict(line.split("=", 1) for line in result.stdout.splitlines())


def test_operators_have_cuda_kernels():
    facts = build_facts()
    assert facts["mine_batch_hard"] == facts["batch_hard_loss"] == facts["_batch_hard_loss_backward"] == "True"


def spills(kernel: str) -> dict[str, list[int]]:
    """Bytes of stack, spilled stores and loads of a kernel's instances, by architecture, as ptxas reported them."""
    if not REPORT.is_file():
        pytest.skip(f"the compiler's report {REPORT} is kept by editable installations only")
    architectures = re.findall(r"sm_\w+", build_facts()["cuda_architectures"])
    found: dict[str, list[int]] = {}
    for name, architecture, text in re.findall(
        r"Compiling entry function '(\S+)' for '(sm_\w+)'(.*?)Compile time", REPORT.read_text(), flags=re.DOTALL
    ):
        if kernel in name:
            counts = [int(count) for count in re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", text)]
            assert len(counts) == 3, text
            found.setdefault(architecture, []).append(sum(counts))
    assert sorted(found) == sorted(architectures)
    return found


def test_the_screens_keep_to_registers():
    """A spill would cost every product a trip to memory: ptxas must report none, on any architecture."""
    found = spills("ScreenPairs")
    assert all(bytes_ == [0, 0, 0, 0] for bytes_ in found.values()), found  # one for each kind of tile


@pytest.mark.parametrize(
    "kernel", ["SettleCandidates", "ScanExactly", "GatherGradient", "IndexEdges", "SurveyRows", "RankKeys"]
)
def test_what_is_loaded_ahead_stays_in_registers(kernel):
    found = spills(kernel)
    assert not any(sum(bytes_) for bytes_ in found.values()), found
