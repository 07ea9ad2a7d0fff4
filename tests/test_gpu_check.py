"""The check on a GPU, benchmarks/gpu.sh and its steps, tried without one."""

import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from benchmarks import cases, measure
from benchmarks.gpu import LEFT_OUT, aims, answers, gate, kernels, products, small_run, tiers, timings
from fasttriplet import _library
from tests import engine

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
CPU = torch.device("cpu")
CUDA = torch.device("cuda")


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
    found = re.findall(r"^(passed|FAILED|left out) +(\w+) ", output, flags=re.MULTILINE)
    return {step: verdict for verdict, step in found}


def spread(value):
    return measure.Spread(value, value, value)


@pytest.fixture
def no_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU: benchmarks/gpu.sh is the check itself")


@pytest.fixture
def imagined_gpu(monkeypatch):
    """What the reports ask of a device that is not there."""
    for module in (timings, kernels):
        monkeypatch.setattr(module, "name_of", lambda device: "Imagined GPU")
        monkeypatch.setattr(module, "slug", lambda device: "imagined-gpu")
        monkeypatch.setattr(module, "describe", lambda device: "Imagined.")


# The script.


@pytest.mark.slow
@pytest.mark.usefixtures("no_gpu")
def test_the_first_half_without_a_gpu(tmp_path):
    run = check("first", "--device", "cpu", out=tmp_path)
    assert run.returncode == 0, run.stdout
    steps = ("gate", "answers_float", "answers_tensor", "answers_wgmma", "kernels", "cuda_tests")
    assert verdicts(run.stdout) == dict.fromkeys(steps, "passed")
    assert run.stdout.splitlines()[-1] == "first half: 6 passed, 0 FAILED, 0 left out"
    assert run.stdout == (tmp_path / "gpu.log").read_text()
    if "avx2" in Path("/proc/cpuinfo").read_text():
        assert re.search(r"^tier +avx2$", run.stdout, flags=re.MULTILINE)  # the oracle, not the machine's best
    assert run.stdout.count(": as the CPU") == 3 * 4 * len(answers.TRIAL)
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
    needs_gpu = ("memcheck", "racecheck", "capture_first", "wgmma_beside", "reduce_overhead", "ncu", "compiled_peer")
    assert found == dict.fromkeys(needs_gpu, "left out")
    assert "fasttriplet's engine: shim" in run.stdout
    assert "| 128 x 128 | all 128 anchors |" in (tmp_path / "gpu-trial.md").read_text()
    assert (tmp_path / "gpu-trial_time.png").stat().st_size > 10_000


def test_a_step_that_fails_is_named_and_leaves_the_others(tmp_path):
    python = stub(tmp_path / "python", "*gpu.answers*tensor*) exit 1 ;;\n*gpu.answers*wgmma*) exit 77 ;;")
    run = check("first", "--device", "cpu", python=python, out=tmp_path)
    assert run.returncode == 1
    found = verdicts(run.stdout)
    assert found.pop("answers_tensor") == "FAILED" and found.pop("answers_wgmma") == "left out"
    assert found == dict.fromkeys(("gate", "answers_float", "kernels", "cuda_tests"), "passed")
    assert run.stdout.splitlines()[-1] == "first half: 4 passed, 1 FAILED, 1 left out"
    assert "answers_tensor   exit status 1 after" in run.stdout


@pytest.mark.parametrize(
    ("half", "steps"),
    [
        ("first", ["answers_float", "answers_tensor", "answers_wgmma", "kernels", "cuda_tests"]),
        (
            "second",
            [
                *("suite", "timings", "memcheck", "racecheck", "amx", "capture_first", "wgmma_beside"),
                *("reduce_overhead", "ncu", "compiled_peer"),
            ],
        ),
    ],
)
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
    expected = {step for step, there in (("amx", amx), ("wgmma_beside", capability == "9.0")) if not there}
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
    assert set(found.values()) == {"left out"} and "kernels          no time was left" in run.stdout
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
        (["first", "--seconds", "soon"], "--seconds must be a positive integer; got 'soon'"),
    ],
)
def test_the_script_names_what_is_wrong(tmp_path, arguments, message):
    run = check(*arguments, out=tmp_path)
    assert run.returncode == 64 and message in run.stderr and not run.stdout


def test_what_runs_alone_is_marked_so():
    named = re.findall(r"^ +alone \w+ \d+ (\w+)$", SCRIPT.read_text(), flags=re.MULTILINE)
    source = (ROOT / "tests" / "test_cuda.py").read_text()
    marked = re.findall(r"@pytest.mark.alone\ndef (\w+)", source)
    assert sorted(named) == sorted(marked) and len(marked) == 3


def test_every_file_of_the_suite_is_there():
    assert [name for name in engine.SUITE if not (ROOT / "tests" / name).is_file()] == []


def test_the_gate_shows_why_the_cuda_library_is_absent(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Imagined GPU")
    monkeypatch.setattr(_library, "cuda_absence", "undefined symbol: nothing_has_this")
    monkeypatch.setattr("sys.argv", ["gate"])
    assert gate.main() == gate.NOT_LOADED
    told = capsys.readouterr().out
    assert "Imagined GPU" in told and "CUDA library is not loaded: undefined symbol: nothing_has_this" in told


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


# Its steps.


def test_the_gate_tells_causes():
    try:
        try:
            raise OSError("undefined symbol: x")
        except OSError as error:
            raise ImportError("cannot be loaded") from error
    except ImportError as error:
        assert gate.sentences(error) == "ImportError: cannot be loaded\nOSError: undefined symbol: x"


def test_answers_that_are_wrong_are_told():
    rows, labels = answers.Case(20, 3).batch()
    right = answers.answer(torch.ops.fasttriplet, rows, labels, 0)
    assert answers.differences(right, right) == []
    other = right.negatives.clone()
    other[7] = 3 if other[7] != 3 else 4
    told = answers.differences(right._replace(negatives=other), right)
    assert told == [
        f"1 of 20 negatives differ, the first at anchor 7: {other[7]} where the CPU has {right.negatives[7]}"
    ]
    for field, by in (("distances", 1e-15), ("loss", 1e-5), ("gradient", 1e-6)):
        wrong = right._replace(**{field: getattr(right, field) + by})
        assert re.fullmatch(rf".*{field} differs? by up to \S+", *answers.differences(wrong, right))
    lost = right.gradient.clone()
    lost[3] = torch.nan
    assert len(answers.differences(right._replace(gradient=lost), right)) == 1


def test_answers_that_are_wrong_end_the_step_in_an_error(monkeypatch, capsys):
    monkeypatch.setattr(answers, "TRIAL", (answers.Case(20, 3),))
    shim = types.SimpleNamespace(
        mine_batch_hard=torch.ops.fasttriplet.mine_batch_hard,
        batch_hard_loss=torch.ops.fasttriplet.batch_hard_loss,
        _batch_hard_loss_backward=lambda *a: 2 * torch.ops.fasttriplet._batch_hard_loss_backward(*a),
    )
    monkeypatch.setattr(engine, "ShimEngine", lambda: shim)
    monkeypatch.setattr("sys.argv", ["answers", "float", "--device", "cpu"])
    assert answers.main() == 1
    assert capsys.readouterr().out.count("FAILED: the gradient differs by up to") == 4


def test_products_that_a_gpu_lacks_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for kind in ("tensor", "wgmma"):
        monkeypatch.setattr("sys.argv", ["answers", kind])
        assert answers.main() == LEFT_OUT
    assert "tensor needs compute capability 8.0 or later, not compute capability 7.5" in capsys.readouterr().out
    assert products.lacking("float", CUDA) == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for built_for, expected in (("sm_80,sm_90a", ""), ("sm_90", "wgmma needs a library built for sm_90a, not sm_90")):
        monkeypatch.setattr(products.fasttriplet, "build_info", lambda b=built_for: {"cuda_architectures": b})
        assert products.lacking("wgmma", CUDA) == expected


def test_products_are_forced_for_a_while(monkeypatch):
    for before in ("tensor", None):
        monkeypatch.delenv("FASTTRIPLET_CUDA_PRODUCTS", raising=False)
        if before is not None:
            monkeypatch.setenv("FASTTRIPLET_CUDA_PRODUCTS", before)
        with products.forced("wgmma"):
            assert engine.ShimEngine._products(10) == "wgmma"
        assert os.environ.get("FASTTRIPLET_CUDA_PRODUCTS") == before
    assert [engine.ShimEngine._products(n) for n in (4096, 4097)] == ["small-tensor", "large-tensor"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "void fasttriplet::cuda::run<fasttriplet::cuda::ScreenPairs<fasttriplet::cuda::TensorTile<128, 64, 2> > >"
            "(fasttriplet::cuda::ScreenPairs<fasttriplet::cuda::TensorTile<128, 64, 2> >)",
            "ScreenPairs<TensorTile<128, 64, 2>>",
        ),
        (
            "void fasttriplet::cuda::run<fasttriplet::cuda::ScanExactly<fasttriplet::Difference, float>>"
            "(fasttriplet::cuda::ScanExactly<fasttriplet::Difference, float>)",
            "ScanExactly<Difference, float>",
        ),
        (
            "void at::native::(anonymous namespace)::fill<4, at::native::FillFunctor<float> >(int, float*)",
            "at::native::fill<4, at::native::FillFunctor<float>>",
        ),
        ("Memset (Device)", "Memset"),
        ("x" * 100, "x" * 67 + "..."),
    ],
)
def test_kernels_have_short_names(name, expected):
    assert kernels.short(name) == expected


def test_kernels_are_added_up_by_name():
    found = kernels.profiled(cases.step(fused_twice, *cases.batch(32, 8, 4)), CPU)
    assert {kernel.name: kernel.launches for kernel in found} == {
        "batch_hard_loss": 2,
        "_batch_hard_loss_backward": 2,
    }
    assert found[0].microseconds >= found[1].microseconds > 0
    with pytest.raises(RuntimeError, match="saw no kernel"):
        kernels.profiled(lambda: None, CPU)


def fused_twice(rows, labels):
    return sum(timings.fasttriplet.batch_hard_triplet_loss(rows, labels) for _ in range(2))


@pytest.mark.usefixtures("imagined_gpu")
@pytest.mark.parametrize("distrust", ["no such unit", ""])
def test_kernels_are_reported_by_size_and_wgmma_is_not_judged(tmp_path, monkeypatch, capsys, distrust):
    done = []

    def timed(n, d, device):
        wgmma = os.environ.get("FASTTRIPLET_CUDA_PRODUCTS") == "wgmma"
        done.append(("timed", n))
        return kernels.Section(n, d, {"fasttriplet": spread(1.0 if wgmma else 9.0)}, "fine_round 0")

    def profiled(run, device):
        done.append("profiled")
        return kernels.Kernel("ScreenPairs", 1, 30.0), kernels.Kernel("Memset", 3, 10.0)

    monkeypatch.setattr(kernels, "timed", timed)
    monkeypatch.setattr(kernels, "profiled", profiled)
    monkeypatch.setattr(kernels, "batch", lambda *_: cases.batch(8, 2, 2))
    monkeypatch.setattr(products, "distrust", lambda *_: distrust)
    monkeypatch.setattr("sys.argv", ["kernels", "--sizes", "64x8", "65536x512", "--output", str(tmp_path)])
    assert kernels.main() == 0
    assert done[:4] == [("timed", 64), ("timed", 65536), "profiled", "profiled"]
    assert done[4:] == ([] if distrust else [("timed", 65536), "profiled"])
    text = (tmp_path / "imagined-gpu_kernels.md").read_text()
    assert "65536 x 512, fasttriplet: 9 ms (9 ms to 9 ms), MISSES the bar of 8 ms" in text
    assert "| `ScreenPairs` | 1 | 30.0 | 75.0 % |\n| `Memset` | 3 | 10.0 | 25.0 % |" in text
    assert "4 launches a step, 40.0 us in kernels." in text
    assert ("## 65536 x 512 by wgmma, Imagined GPU" in text) == (not distrust)
    assert ("wgmma is left out: no such unit" in capsys.readouterr().out) == bool(distrust)


def test_counters_of_the_screen_are_shown_whatever_they_are(monkeypatch):
    rows = torch.empty(4, 2, device="meta")
    monkeypatch.setattr(torch.ops.fasttriplet, "_cuda_mine_counters", lambda *a: "fine_round=1\nnew=7\n", raising=False)
    assert kernels.counters(rows, rows) == "fine_round 1, new 7"
    assert kernels.counters(torch.empty(4, 2), rows) == "not counted without a GPU"
    monkeypatch.setattr(torch.ops.fasttriplet, "_cuda_mine_counters", None)
    assert kernels.counters(rows, rows) == "this library does not count what its screen leaves open"


def test_aims_are_judged_on_every_line():
    measured = {
        (256, 128): {aims.GRAPH: measure.Spread(0.0501, 0.049, 0.06)},
        (256, 2048): {aims.GRAPH: spread(0.06)},
        (65536, 512): {"fasttriplet": spread(8.1)},
        (1048576, 128): {"fasttriplet": spread(551.0)},
    }
    assert aims.judged("GPU", measured) == [
        "- GPU, 256 x 128, fasttriplet in a graph: 50.1 us (49 us to 60 us), within the bar of 65 us, misses the goal "
        "of 50 us",
        "- GPU, 256 x 2048, fasttriplet in a graph: 60 us (60 us to 60 us), within the goal of 60 us",
        "- GPU, 8192 x 128, fasttriplet in a graph: not measured",
        "- GPU, 65536 x 512, fasttriplet: 8.1 ms (8.1 ms to 8.1 ms), MISSES the bar of 8 ms and the goal of 5 ms",
        "- GPU, 1048576 x 128, fasttriplet: 0.551 s (0.551 s to 0.551 s), MISSES the bar of 0.55 s and the goal of "
        "0.5 s",
    ]


def row(n, d, *_):
    return timings.Row(n, d, "all", {"fasttriplet": spread(1.0), "mm": spread(2.0)}, None)


@pytest.mark.usefixtures("imagined_gpu")
@pytest.mark.parametrize(("distrust", "wrong"), [("no such unit", ""), ("", "it hung"), ("", "")])
def test_aims_come_first_and_wgmma_loses_no_timings(tmp_path, monkeypatch, capsys, distrust, wrong):
    order = []

    def by_wgmma(n, d, device):
        order.append("wgmma")
        if wrong:
            raise RuntimeError(wrong)
        return {"fasttriplet": spread(1.0), timings.WGMMA: spread(0.5)}

    monkeypatch.setattr(timings, "measure", lambda *a: order.append(a[:2]) or row(*a))
    monkeypatch.setattr(timings, "by_wgmma", by_wgmma)
    monkeypatch.setattr(products, "distrust", lambda *_: distrust)
    report = timings.Report(tmp_path, CUDA, "")
    timings.run(report, [(1024, 128), (65536, 512), (64, 8), (256, 128)], (), float("inf"))
    assert order == [(65536, 512), (256, 128), *(["wgmma"] if not distrust else []), (1024, 128), (64, 8)]
    text = (tmp_path / "imagined-gpu.md").read_text()
    assert text.count("| Imagined GPU |") == 4 and "- Imagined GPU, 65536 x 512, fasttriplet: 1 ms" in text
    assert ("wgmma is not timed: no such unit." in text) == bool(distrust)
    assert ("FAILED: 65536 x 512 by wgmma: it hung" in text) == bool(wrong)
    timed = "fasttriplet wgmma ms" in text, "wgmma took 0.500 of the default's time at 65536 x 512" in text
    assert timed == (not distrust and not wrong,) * 2


def test_a_size_that_fails_is_told_and_leaves_the_others(tmp_path, monkeypatch):
    def measure(n, d, *_):
        if n == 256:
            raise RuntimeError("out of memory")
        return row(n, d)

    monkeypatch.setattr(timings, "measure", measure)
    command = ["timings", "--device", "cpu", "--sizes", "256x128", "64x8", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", command)
    assert timings.main() == 1
    text = (tmp_path / "gpu-trial.md").read_text()
    assert "FAILED: 256 x 128: out of memory." in text and "| 64 x 8 |" in text


def test_timings_leave_out_what_does_not_fit_the_time(tmp_path, monkeypatch):
    command = ["timings", "--device", "cpu", "--sizes", "32x128", "64x128", "--output", str(tmp_path), "--peers"]
    monkeypatch.setattr("sys.argv", command)
    reached = []
    monkeypatch.setattr(timings, "measure", lambda *a: reached.append(a) or row(*a))
    clock = iter([0.0, 1.0, 1000.0])
    monkeypatch.setattr(timings, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    assert timings.main() == 0 and len(reached) == 1
    assert "Left out for lack of time: 64 x 128." in (tmp_path / "gpu-trial.md").read_text()


def test_a_product_in_chunks_of_rows(monkeypatch):
    monkeypatch.setattr(timings, "CHUNK_ENTRIES", 5 * 64)
    run, factor = timings.product(torch.randn(64, 3), torch.float32, False)
    run()
    assert factor == 64 / 20  # 13 chunks of 5 rows, 4 of them timed


@pytest.mark.parametrize("tool", small_run.PLANS)
def test_the_small_run_for_a_sanitizer(tool, monkeypatch, capsys):
    monkeypatch.setattr(small_run, "distrust", lambda kind, device: "too old" if kind == "wgmma" else "")
    small_run.run(tool, CPU)
    told = capsys.readouterr().out
    plan = small_run.PLANS[tool]
    assert told.count(": ran") == 2 * len(plan.shapes) * len(plan.distances)
    assert ("wgmma is left out: too old" in told) == (tool == "memcheck")


@pytest.mark.slow
def test_two_tiers_are_compared_bit_for_bit(monkeypatch, capsys):
    monkeypatch.setattr(tiers, "TRIAL", answers.TRIAL[:1])
    answers_of = tiers.answers_of

    def tampered(tier, folder, small):
        found = answers_of("portable", folder, small)[:4]
        if tier == "other":
            found[2] = found[2]._replace(loss=found[2].loss.nextafter(torch.tensor(9.0)))
        return found

    monkeypatch.setattr(tiers, "answers_of", tampered)
    assert tiers.compare("portable", "portable", True) == 0
    assert tiers.compare("portable", "other", True) == 1
    assert "portable and other, 64 x 8 float32, cosine: FAILED: loss differ" in capsys.readouterr().out


def test_a_tier_that_is_not_there_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tiers", "mmx", "portable"])
    assert tiers.main() == LEFT_OUT and "this processor has no mmx, only" in capsys.readouterr().out
