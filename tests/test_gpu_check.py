"""The steps of the check on a GPU, benchmarks/gpu/: what they tell, and what one that fails leaves to the others."""

import math
import os
import re
import signal
import time
import types
from pathlib import Path

import pytest
import torch

from benchmarks import cases, measure
from benchmarks.gpu import LEFT_OUT, aims, answers, apart, beside, gate, kernels, products, small_run, tiers, timings
from fasttriplet import _library
from tests import engine

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def spread(value):
    return measure.Spread(value, value, value)


class Here:
    """Calls in this process, where a test has put in what they are to find; `begun` counts the processes."""

    begun = 0

    def __init__(self, seconds):
        self.end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __call__(self, function, *arguments):
        return function(*arguments)

    def end(self):
        Here.begun += 1


@pytest.fixture
def imagined_gpu(monkeypatch):
    """What the reports ask of a device that is not there."""
    for module in (timings, kernels):
        monkeypatch.setattr(module, "name_of", lambda device: "Imagined GPU")
        monkeypatch.setattr(module, "slug", lambda device: "imagined-gpu")
        monkeypatch.setattr(module, "describe", lambda device: "Imagined.")


def test_the_gate_shows_why_the_cuda_library_is_absent(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Imagined GPU")
    monkeypatch.setattr(_library, "cuda_absence", "undefined symbol: nothing_has_this")
    monkeypatch.setattr("sys.argv", ["gate"])
    assert gate.main() == gate.NOT_LOADED
    told = capsys.readouterr().out
    assert "Imagined GPU" in told and "CUDA library is not loaded: undefined symbol: nothing_has_this" in told


def test_the_gate_asks_nothing_of_tensor_cores(monkeypatch):
    """What they break would end the check before anything is told."""
    seen = []
    loss = timings.fasttriplet.batch_hard_triplet_loss
    monkeypatch.setattr(
        "fasttriplet.batch_hard_triplet_loss",
        lambda *a: seen.append(os.environ.get("FASTTRIPLET_CUDA_PRODUCTS")) or loss(*a),
    )
    gate.serve("cpu")
    assert seen == ["float"]


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


def test_answers_tell_how_exact_tensor_cores_are_and_need_their_test(monkeypatch, capsys):
    operators = torch.ops.fasttriplet
    asked = []
    monkeypatch.setattr(products, "lacking", lambda *_: "")
    monkeypatch.setattr(operators, "_cuda_test_tensor_cores", lambda *a: asked.append(a) or "wood", raising=False)
    monkeypatch.setattr(operators, "_cuda_tensor_core_share", lambda *a: asked.append(a) or 0.25, raising=False)
    monkeypatch.setattr("sys.argv", ["answers", "wgmma-pair", "--device", "cuda:0"])
    assert answers.main() == 1 and asked == [(0, "wgmma-pair")] * 2
    told = capsys.readouterr().out
    assert "wgmma-pair: the largest error of a tensor core's product is 0.2500 of what the bound allows" in told
    assert "wgmma-pair is not trusted: wood" in told

    def refuse(*_):
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(operators, "_cuda_test_tensor_cores", lambda *a: "")
    monkeypatch.setattr(operators, "_cuda_tensor_core_share", refuse)
    assert answers.main() == 1 and "is not trusted: illegal instruction" in capsys.readouterr().out
    monkeypatch.setattr(operators, "_cuda_test_tensor_cores", refuse)
    assert products.distrust("tensor", torch.device("cuda:0")).endswith("tensor cores ended in illegal instruction")


def test_a_call_in_a_process_apart_loses_nothing_here(monkeypatch):
    with apart.Apart(60) as call:
        assert call(math.sqrt, 4.0) == 2
        first = call(os.getpid)
        assert first != os.getpid() and call(os.getpid) == first
        with pytest.raises(RuntimeError, match=r"^ValueError: .*domain"):
            call(math.sqrt, -1.0)
        assert call(os.getpid) != first  # what failed may have broken its process
        with pytest.raises(RuntimeError, match=r"^its process ended with status 3$"):
            call(os._exit, 3)
        assert call(math.sqrt, 9.0) == 3
        call.seconds = 0.2
        with pytest.raises(RuntimeError, match=r"^no end within 0\.2 s$"):
            call(time.sleep, 100)
        call.seconds = 60
        second = call(os.getpid)
        call.end()
        assert call(os.getpid) != second
        third = call(os.getpid)
        os.kill(third, signal.SIGKILL)  # between two calls
        call._process.join()
        with pytest.raises(RuntimeError, match=r"^its process ended with status -9$"):
            call(os.getpid)
        assert call(os.getpid) != third


def test_the_fastest_kind_is_named():
    assert beside.fastest(4, 2, {"wgmma": 1.25, "wgmma-pair": 0.5}) == (
        "Fastest at 4 x 2: wgmma-pair; beside the default, wgmma took 1.250 of its time, wgmma-pair took 0.500 of its "
        "time."
    )
    assert beside.fastest(4, 2, {"wgmma": 1.25}) == (
        "Fastest at 4 x 2: the default; beside the default, wgmma took 1.250 of its time, wgmma-pair was not measured."
    )


def test_kinds_are_timed_in_turn_with_the_default():
    seen = []
    times = beside.in_turn("wgmma-pair", lambda: seen.append(os.environ.get("FASTTRIPLET_CUDA_PRODUCTS")), CPU)
    assert list(times) == ["fasttriplet", "fasttriplet wgmma-pair"]
    assert set(seen) == {None, "wgmma-pair"}
    for module in (kernels, timings):
        found = module.timed_by("wgmma", 64, 8, CPU)
        assert list(found if module is timings else found.milliseconds) == ["fasttriplet", "fasttriplet wgmma"]


def test_products_that_a_gpu_lacks_are_left_out(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    for kind in ("tensor", *products.HOPPER):
        monkeypatch.setattr("sys.argv", ["answers", kind])
        assert answers.main() == LEFT_OUT
    told = capsys.readouterr().out
    assert "tensor needs compute capability 8.0 or later, not compute capability 7.5" in told
    for kind in products.HOPPER:
        assert f"\n{kind} needs compute capability 9.0, not compute capability 7.5" in told
    assert products.lacking("float", CUDA) == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for built_for, expected in (("sm_80,sm_90a", ""), ("sm_90", "wgmma needs a library built for sm_90a, not sm_90")):
        monkeypatch.setattr(products.fasttriplet, "build_info", lambda b=built_for: {"cuda_architectures": b})
        assert products.lacking("wgmma", CUDA) == expected
        assert products.lacking("wgmma-pair", CUDA) == expected.replace("wgmma", "wgmma-pair")


def test_products_are_forced_for_a_while(monkeypatch):
    for before in ("tensor", None):
        monkeypatch.delenv("FASTTRIPLET_CUDA_PRODUCTS", raising=False)
        if before is not None:
            monkeypatch.setenv("FASTTRIPLET_CUDA_PRODUCTS", before)
        for kind in products.HOPPER:
            with products.forced(kind):
                assert engine.ShimEngine._products(10) == kind
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


def times_by(kind, default, its):
    return {"fasttriplet": spread(default), beside.contender(kind): spread(its)}


@pytest.mark.usefixtures("imagined_gpu")
@pytest.mark.parametrize("distrusted", [(), ("wgmma",), products.HOPPER])
@pytest.mark.parametrize("wrong", [(), ("wgmma",), ("wgmma-pair",)])
def test_kernels_are_reported_by_size_and_kind_and_no_kind_loses_another(
    tmp_path, monkeypatch, capsys, distrusted, wrong
):
    done = []

    def timed(n, d, device):
        done.append(("timed", n))
        return kernels.Section(n, d, {"fasttriplet": spread(9.0)}, "fine_round 0")

    def timed_by(kind, n, d, device):
        done.append((kind, n))
        if kind in wrong:
            raise RuntimeError("it hung")
        return kernels.Section(n, d, times_by(kind, 2.0, 1.0 if kind == "wgmma" else 0.5), "fine_round 1")

    def profiled(run, device):
        done.append("profiled")
        return kernels.Kernel("ScreenPairs", 1, 30.0), kernels.Kernel("Memset", 3, 10.0)

    monkeypatch.setattr(kernels, "Apart", Here)
    monkeypatch.setattr(kernels, "timed", timed)
    monkeypatch.setattr(kernels, "timed_by", timed_by)
    monkeypatch.setattr(kernels, "profiled", profiled)
    monkeypatch.setattr(kernels, "batch", lambda *_: cases.batch(8, 2, 2))
    monkeypatch.setattr(products, "distrust", lambda kind, _: "no such unit" if kind in distrusted else "")
    sizes = ["64x8", "65536x512", "131072x128"]
    monkeypatch.setattr("sys.argv", ["kernels", "--sizes", *sizes, "--output", str(tmp_path)])
    asked = [kind for kind in products.HOPPER if kind not in distrusted]
    failing = [kind for kind in asked if kind in wrong]
    assert kernels.main() == (1 if failing else 0)
    assert done[:6] == [("timed", 64), ("timed", 65536), ("timed", 131072)] + 3 * ["profiled"]
    compared = [(kind, n) for kind in asked for n in (65536, 131072) if kind not in wrong or n == 65536]
    assert done[6:] == compared + 2 * (len(asked) - len(failing)) * ["profiled"]
    text = (tmp_path / "imagined-gpu_kernels.md").read_text()
    assert "65536 x 512, fasttriplet: 9 ms (9 ms to 9 ms), MISSES the bar of 8 ms" in text
    assert "| `ScreenPairs` | 1 | 30.0 | 75.0 % |\n| `Memset` | 3 | 10.0 | 25.0 % |" in text
    assert "4 launches a step, 40.0 us in kernels." in text
    told = capsys.readouterr().out
    for kind in products.HOPPER:
        measured = kind in asked and kind not in wrong
        assert (f"## 131072 x 128 by {kind}, Imagined GPU" in text) == measured
        assert (f"FAILED: 65536 x 512 by {kind}: it hung." in text) == (kind in failing)
        assert (f"{kind} is left out: no such unit" in told) == (kind in distrusted)
    measured = [kind for kind in asked if kind not in wrong]
    for output in (text, told):
        assert output.count("Fastest at ") == (2 if measured else 0)
        assert not measured or f"Fastest at 65536 x 512: {measured[-1]}; beside" in output


@pytest.mark.usefixtures("imagined_gpu")
def test_kernels_of_a_size_that_fails_leave_the_others(tmp_path, monkeypatch):
    timed = kernels.timed

    def fail_at_16(n, *arguments):
        if n == 16:
            raise RuntimeError("no capture")
        return timed(n, *arguments)

    def fail_at_24(run, device):
        profiles.append(run)
        if len(profiles) == 2:
            raise RuntimeError("saw no kernel")
        return (kernels.Kernel("ScreenPairs", 1, 30.0),)

    profiles = []
    monkeypatch.setattr(kernels, "timed", fail_at_16)
    monkeypatch.setattr(kernels, "profiled", fail_at_24)
    arguments = ["--device", "cpu", "--sizes", "8x2", "16x2", "24x2", "32x2", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["kernels", *arguments])
    assert kernels.main() == 1
    text = (tmp_path / "imagined-gpu_kernels.md").read_text()
    assert "FAILED: 16 x 2: no capture; the profile of 24 x 2: saw no kernel." in text
    assert len(profiles) == 3 and text.count("| `ScreenPairs` |") == 2 and "## 24 x 2, Imagined GPU" in text


def test_counters_of_the_screen_are_shown_whatever_they_are(monkeypatch):
    rows = torch.empty(4, 2, device="meta")
    monkeypatch.setattr(torch.ops.fasttriplet, "_cuda_mine_counters", lambda *a: "fine_round=1\nnew=7\n", raising=False)
    assert kernels.counters(rows, rows) == "fine_round 1, new 7"
    assert kernels.counters(torch.empty(4, 2), rows) == "not counted without a GPU"
    monkeypatch.setattr(torch.ops.fasttriplet, "_cuda_mine_counters", None)
    assert kernels.counters(rows, rows) == "this library does not count what its screen leaves open"


def test_what_is_expected_of_a_gpu_is_what_is_judged():
    page = (ROOT / "docs" / "performance" / "gpu.md").read_text()
    rows = re.findall(r"^\| (\d+ x \d+)(, in a graph)? \| ([\d.]+ \w+) \| ([\d.]+ \w+) \|", page, flags=re.MULTILINE)
    assert rows == [
        (cases.shape_name(aim.n, aim.d), ", in a graph" * (aim.contender == aims.GRAPH), *map(aims.shown, aim[3:]))
        for aim in aims.AIMS
    ]


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
@pytest.mark.parametrize(
    ("distrusted", "wrong"),
    [(products.HOPPER, ()), (("wgmma",), ()), ((), ("wgmma",)), ((), ("wgmma-pair",)), ((), ())],
)
def test_aims_come_first_and_no_kind_loses_timings(tmp_path, monkeypatch, distrusted, wrong):
    order = []

    def timed_by(kind, n, d, device):
        order.append((kind, n))
        if kind in wrong:
            raise RuntimeError("it hung")
        return times_by(kind, 1.0, 0.5 if kind == "wgmma" else 0.75)

    monkeypatch.setattr(timings, "Apart", Here)
    monkeypatch.setattr(timings, "measure", lambda *a: order.append(a[:2]) or row(*a))
    monkeypatch.setattr(timings, "timed_by", timed_by)
    monkeypatch.setattr(products, "distrust", lambda kind, _: "no such unit" if kind in distrusted else "")
    monkeypatch.setattr(Here, "begun", 0)
    report = timings.Report(tmp_path, CUDA, "")
    sizes = [(1024, 128), (65536, 512), (64, 8), (256, 128), (1048576, 128)]
    timings.run(report, sizes, (), float("inf"))
    assert Here.begun == 1 + len(distrusted)  # a test that failed may have broken its process
    asked = [kind for kind in products.HOPPER if kind not in distrusted]
    by_kind = [(kind, n) for kind in asked for n in (65536, 1048576) if kind not in wrong or n == 65536]
    assert order == [(65536, 512), (256, 128), (1048576, 128), *by_kind, (1024, 128), (64, 8)]
    text = (tmp_path / "imagined-gpu.md").read_text()
    assert text.count("| Imagined GPU |") == 5 and "- Imagined GPU, 65536 x 512, fasttriplet: 1 ms" in text
    measured = [kind for kind in asked if kind not in wrong]
    for kind in products.HOPPER:
        assert (f"{kind} is left out: no such unit" in text) == (kind in distrusted)
        assert (f"FAILED: 65536 x 512 by {kind}: it hung" in text) == (kind in asked and kind in wrong)
        assert (f"| fasttriplet {kind} ms |" in text) == (kind in measured)
    assert text.count("Fastest at ") == (2 if measured else 0)
    assert not measured or f"Fastest at 65536 x 512: {measured[0]}; beside" in text


@pytest.mark.usefixtures("imagined_gpu")
def test_kinds_are_left_out_where_the_time_has_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(timings, "Apart", Here)
    monkeypatch.setattr(timings, "measure", row)
    monkeypatch.setattr(products, "distrust", lambda *_: "")
    clock = iter([0.0, 1.0, 1.0])
    monkeypatch.setattr(timings, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    report = timings.Report(tmp_path, CUDA, "")
    timings.run(report, [(65536, 512)], (), 0.5)
    assert report.left_out == ["65536 x 512 by wgmma", "65536 x 512 by wgmma-pair"] and not report.failed


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
    monkeypatch.setattr(small_run, "distrust", lambda kind, device: "too old" if kind in products.HOPPER else "")
    small_run.run(tool, CPU)
    told = capsys.readouterr().out
    plan = small_run.PLANS[tool]
    assert told.count(": ran") == 2 * len(plan.shapes) * len(plan.distances)
    for kind in products.HOPPER:
        assert (f"{kind} is left out: too old" in told) == (tool == "memcheck")


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
