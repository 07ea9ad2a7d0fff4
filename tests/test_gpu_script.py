"""benchmarks/gpu.sh, the check on a GPU in two halves, walked through without one; and what is carried to it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import answers, products
from tests import engine

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
CPU = torch.device("cpu")
CUDA = torch.device("cuda")
ANSWERS = [f"answers_{kind}" for kind in products.PRODUCTS]


def check(*arguments, root=ROOT, python=sys.executable, out=None, tools=None):
    environment = os.environ | {"PYTHON": str(python), "OUT": str(out)}
    if tools is not None:
        environment["PATH"] = f"{tools}:{environment['PATH']}"
    script = root / SCRIPT.relative_to(ROOT)
    return subprocess.run([script, *arguments], capture_output=True, text=True, env=environment)


def stub(path, cases):
    """A Python whose every step passes at once but for ``cases``, lines of the shell's ``case``."""
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}\nesac\nexit 0\n')
    path.chmod(0o755)
    return path


def verdicts(output):
    """Of the last lines: the verdict on every step."""
    found = re.findall(r"^(passed|FAILED|left out) +([\w-]+) ", output, flags=re.MULTILINE)
    return {step: verdict for verdict, step in found}


SECOND = (
    *("suite", "timings", "capture_first", "memcheck", "racecheck", "amx", "wgmma_beside", "wgmma-pair_beside"),
    *("reduce_overhead", "ncu", "compiled_peer"),
)


@pytest.fixture
def no_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: benchmarks/gpu.sh is the check itself")


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu")
def test_the_first_half_without_a_gpu(tmp_path):
    run = check("first", "--device", "cpu", out=tmp_path)
    assert run.returncode == 0, run.stdout
    assert verdicts(run.stdout) == dict.fromkeys(("gate", *ANSWERS, "cuda_tests", "kernels"), "passed")
    assert run.stdout.splitlines()[-1] == "first half: 7 passed, 0 FAILED, 0 left out"
    assert run.stdout == (tmp_path / "gpu.log").read_text()
    if "avx2" in Path("/proc/cpuinfo").read_text():
        assert re.search(r"^tier +avx2$", run.stdout, flags=re.MULTILINE)  # the oracle, not the machine's best
    assert run.stdout.count(": as the CPU") == 4 * 4 * len(answers.TRIAL)
    for kind in products.PRODUCTS:
        assert run.stdout.count(f"\n{products.share(kind, CPU)}\n") == 1
    table = (tmp_path / "gpu-trial_kernels.md").read_text()
    assert "## 128 x 128, a CPU" in table and "| `batch_hard_loss` | 1 |" in table


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu")
def test_the_second_half_without_a_gpu(tmp_path):
    run = check("second", "--device", "cpu", out=tmp_path)
    assert run.returncode == 0, run.stdout
    found = verdicts(run.stdout)
    assert [found.pop(step) for step in ("gate", "suite", "timings")] == ["passed"] * 3
    assert found.pop("amx") == ("passed" if "amx_tile" in Path("/proc/cpuinfo").read_text() else "left out")
    assert found == dict.fromkeys(set(SECOND) - {"suite", "timings", "amx"}, "left out")
    assert "fasttriplet's engine: shim" in run.stdout
    assert "| 128 x 128 | all 128 anchors |" in (tmp_path / "gpu-trial.md").read_text()
    assert (tmp_path / "gpu-trial_time.png").stat().st_size > 10_000


def test_a_step_that_fails_is_named_and_leaves_the_others(tmp_path):
    cases = "*gpu.answers*tensor*) exit 1 ;;\n*gpu.answers*wgmma-pair*) ;;\n*gpu.answers*wgmma*) exit 77 ;;"
    python = stub(tmp_path / "python", cases)
    run = check("first", "--device", "cpu", python=python, out=tmp_path)
    assert run.returncode == 1
    found = verdicts(run.stdout)
    assert found.pop("answers_tensor") == "FAILED" and found.pop("answers_wgmma") == "left out"
    assert found == dict.fromkeys(("gate", "answers_float", "answers_wgmma-pair", "kernels", "cuda_tests"), "passed")
    assert run.stdout.splitlines()[-1] == "first half: 5 passed, 1 FAILED, 1 left out"
    assert "answers_tensor     exit status 1 after" in run.stdout


@pytest.mark.parametrize(("half", "steps"), [("first", (*ANSWERS, "cuda_tests", "kernels")), ("second", SECOND)])
@pytest.mark.parametrize("capability", ["9.0", "8.0"])
def test_what_is_run_on_a_gpu(tmp_path, half, steps, capability):
    """In which order and by which tools, all of them stubs here."""
    python = stub(tmp_path / "python", "")
    for tool in ("compute-sanitizer", "ncu", "nvidia-smi"):
        answer = capability if tool == "nvidia-smi" else f"{tool} $*"
        (tmp_path / tool).write_text(f'#!/bin/sh\necho "{answer}"\n')
        (tmp_path / tool).chmod(0o755)
    run = check(half, python=python, out=tmp_path / "out", tools=tmp_path)
    assert run.returncode == 0
    found = verdicts(run.stdout)
    assert list(found) == ["gate", *steps]
    amx = "amx_tile" in Path("/proc/cpuinfo").read_text()
    hopper = capability == "9.0"
    needs = (("amx", amx), ("wgmma_beside", hopper), ("wgmma-pair_beside", hopper))
    expected = {step for step, there in needs if not there}
    assert {step for step, verdict in found.items() if verdict != "passed"} == expected & set(steps)
    if half == "second":
        for tool, kernels_followed in (("memcheck", "fasttriplet"), ("racecheck", "ScreenPairs")):
            options = f"--tool {tool} --kernel-name kns={kernels_followed} --error-exitcode"
            assert f"compute-sanitizer {options}" in run.stdout
        assert "--kernel-name-base demangled --kernel-name regex:ScreenPairs" in run.stdout


@pytest.mark.slow
def test_a_step_that_hangs_is_stopped_and_the_half_keeps_its_time(tmp_path):
    python = stub(tmp_path / "python", "*gpu.answers*float*) exec sleep 100 ;;")
    run = check("first", "--device", "cpu", "--seconds", "16", python=python, out=tmp_path)
    assert run.returncode == 1
    found = verdicts(run.stdout)
    assert found.pop("gate") == "passed" and found.pop("answers_float") == "FAILED"
    assert set(found.values()) == {"left out"} and "kernels            no time was left" in run.stdout
    assert int(re.search(r"== first half: (\d+) s of 16", run.stdout)[1]) <= 16
    assert re.search(r"answers_float +stopped after \d+ s", run.stdout)


def test_nothing_is_run_where_nothing_loads(tmp_path):
    """The linker's own sentence is shown, which PyTorch's error has as its cause."""
    for folder in ("benchmarks", "fasttriplet"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.so", "results"))
    source = tmp_path / "library.c"
    source.write_text("void nothing_has_this(void);\nvoid call(void) { nothing_has_this(); }\n")
    library = tmp_path / "fasttriplet" / "_C.abi3.so"
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    run = check("first", "--device", "cpu", root=tmp_path, out=tmp_path / "out")
    assert run.returncode == 2
    assert f"{library}: undefined symbol: nothing_has_this" in run.stdout
    assert run.stdout.splitlines()[-1] == "first half: the gate FAILED, nothing else was run"
    assert "answers_float" not in run.stdout


def test_a_python_without_pytorch_is_told_of_in_one_sentence(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without what is installed
    python.chmod(0o755)
    run = check("first", "--device", "cpu", out=tmp_path, python=python)
    assert run.returncode == 2 and "Traceback" not in run.stdout
    assert "cannot import PyTorch (No module named 'torch'); name a Python that can in PYTHON\n" in run.stdout


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("half", ["first", "second"])
def test_without_a_gpu_nothing_is_run(tmp_path, half):
    run = check(half, out=tmp_path)
    assert run.returncode == 3
    assert run.stdout.splitlines()[-1] == "no GPU here: nothing was run, and nothing is claimed about a GPU"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the half must be first or second; got nothing"),
        (["third"], "an argument must be first, second, --device, --build or --seconds; got 'third'"),
        (["first", "--device"], "--device must be cuda or cpu; got nothing"),
        (["first", "--device", "tpu"], "--device must be cuda or cpu; got 'tpu'"),
        (["first", "--device", "cpu", "--build"], "--build must come with a GPU"),
        (["first", "--seconds", "soon"], "--seconds must be an integer of at least 16; got 'soon'"),
        (["first", "--seconds", "15"], "--seconds must be an integer of at least 16; got '15'"),
    ],
)
def test_the_script_names_what_is_wrong(tmp_path, arguments, message):
    run = check(*arguments, out=tmp_path)
    assert run.returncode == 64 and message in run.stderr and not run.stdout


def test_what_runs_alone_is_marked_so():
    named = re.findall(r'^ +alone [\w-]+ \d+ "?(\w+)(?:\[(.*)\]")?$', SCRIPT.read_text(), flags=re.MULTILINE)
    source = (ROOT / "tests" / "test_cuda.py").read_text()
    marked = re.findall(r"@pytest.mark.alone\n(?:@pytest.mark.parametrize.*\n)?def (\w+)", source)
    assert sorted({name for name, _ in named}) == sorted(marked) and len(marked) == 3
    assert tuple(kind for name, kind in named if name == "test_wgmma_gives_the_same") == products.HOPPER


def test_every_file_of_the_suite_is_there():
    assert [name for name in engine.SUITE if not (ROOT / "tests" / name).is_file()] == []


# What is carried to a machine with a GPU.


def bundle(*libraries):
    return subprocess.run([ROOT / "build_tools" / "bundle.sh", *libraries], capture_output=True, text=True)


def test_a_bundle_is_small_and_needs_libtorch(tmp_path):
    source = tmp_path / "library.c"
    source.write_text("void nothing(void) {}\n")
    libtorch, with_it, without = (tmp_path / name for name in ("libtorch.so", "with.so", "without.so"))
    link = ["cc", "-shared", "-fPIC", source, "-o"]
    subprocess.run([*link, libtorch], check=True)
    subprocess.run([*link, with_it, f"-L{tmp_path}", "-Wl,--no-as-needed", "-ltorch"], check=True)
    subprocess.run([*link, without], check=True)
    run = bundle(without, with_it)
    assert run.returncode == 0 and "needs libtorch.so" in run.stdout
    run = bundle(with_it, without)
    assert run.returncode == 1 and f"{without} must need libtorch.so; it needs" in run.stderr
    large = tmp_path / "large.so"
    with large.open("wb") as file:
        file.truncate(64 * 2**20)
    run = bundle(large, with_it)
    assert run.returncode == 1 and "together must be at most 67108864 bytes; got 671" in run.stderr
