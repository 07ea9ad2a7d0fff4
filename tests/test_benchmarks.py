"""What the benchmarks compare with computes the same loss."""

import contextlib
import io
import re

import pytest
import torch
import torch.distributed as dist

import fasttriplet
from benchmarks import (
    bench_loss,
    cases,
    classes,
    compat,
    distributed,
    family,
    measure,
    one_rank,
    peak_memory,
    peers,
    portable,
    report,
    stages,
    traffic,
    triplet_margin,
    variations,
    worst_cases,
    worth,
)
from fasttriplet import engines

BUILD_INFO = fasttriplet.build_info()
# Compiled ones compile the same functions for a minute; KeOps compiles as long. Each is checked before it is timed.
EAGER = [name for name in peers.available() if "compiled" not in name and name != "KeOps"]


@pytest.mark.parametrize("name", EAGER)
def test_peers_agree_on_a_batch_without_near_ties(name):
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(96, 16, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.arange(96) // 4
    results = []
    for function in (fasttriplet.batch_hard_triplet_loss, peers.available()[name]()):
        leaf = rows.clone().requires_grad_()
        loss = function(leaf, labels)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-6, atol=1e-8)


def test_the_benchmark_runs_and_verifies(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["bench_loss", "--sizes", "32x8", "--rounds", "1"])
    bench_loss.main()
    table = capsys.readouterr().out
    assert "| 32 x 8 | all 32 anchors |" in table and "gather / mm" in table


def test_the_benchmark_of_the_family_runs_and_verifies(capsys, monkeypatch, tmp_path):
    written = tmp_path / "family.md"
    monkeypatch.setattr("sys.argv", ["family", "--sizes", "64x8", "--rounds", "1", "--out", str(written)])
    family.main()
    assert capsys.readouterr().out.strip() in written.read_text()
    assert written.read_text().count("| 64 x 8 |") == 1 + len(family.LOSSES)


def test_the_benchmark_of_the_family_notices_a_wrong_loss(monkeypatch):
    right = fasttriplet.semi_hard_triplet_loss
    monkeypatch.setattr(fasttriplet, "semi_hard_triplet_loss", lambda *a, **k: 1.0001 * right(*a, **k))
    with pytest.raises(AssertionError):
        family.verify("semi-hard", 4)


def test_the_benchmark_of_few_large_classes_runs_and_verifies(capsys, monkeypatch, tmp_path):
    def in_this_process(n, d, samples_per_class, loss_name):
        return peak_memory.added_mib(n, d, samples_per_class, loss_name=loss_name)

    written, plan = tmp_path / "classes.md", classes.QUICK
    monkeypatch.setattr("sys.argv", ["classes", "--quick", "--out", str(written)])
    monkeypatch.setattr(classes, "added_mib_of_fresh_process", in_this_process)
    classes.main()
    printed = capsys.readouterr().out
    assert printed.strip() in written.read_text()
    lines = printed.splitlines()
    (held,) = plan.held
    beside_mm = [line for line in lines if line.startswith(f"| {held.n} x {held.d} | {held.classes} | ")]
    assert len(beside_mm) == 1 + len(classes.LOSSES)
    assert re.search(r"^\| 48 x 8 \| 3 \| semi-hard \| .* within 1e\+09 \|$", printed, flags=re.MULTILINE)
    for loss, others in classes.losses_beside().items():
        for n in plan.beside:
            for count in classes.class_counts(n):
                beside = [line for line in lines if line.startswith(f"| {loss} | {n} x 8 | {count} | ")]
                assert len(beside) == max(1, len(others))
                assert all("never slower" in line or "MISSES 1 or more" in line for line in beside if others)
    assert re.search(r"^\| batch-hard \| 64 x 8 \| 2 \| \S+ within 8 \|$", printed, flags=re.MULTILINE)
    assert sum(line.count("| 64 x 8 | 2 |") for line in lines) == len(classes.LOSSES)


def test_classes_are_as_many_as_asked_for():
    for held in (*classes.FULL.held, *classes.QUICK.held, classes.FULL.memory):
        labels = cases.batch(held.n, 1, classes.samples_of(held.n, held.classes))[1]
        assert len(labels.unique()) == held.classes
        assert set(held.limits) <= set(classes.LOSSES)


@pytest.mark.parametrize("loss", classes.LOSSES)
def test_a_loss_of_few_large_classes_that_is_wrong_is_not_timed(loss, monkeypatch):
    rows, labels = cases.batch(32, 8, 16)
    classes.verify(loss, rows, labels)
    name = f"{family.LOSSES[loss][0]}_triplet_loss"
    right = getattr(fasttriplet, name)
    monkeypatch.setattr(fasttriplet, name, lambda *a, **k: 1.0001 * right(*a, **k))
    with pytest.raises(AssertionError, match="not close"):
        classes.verify(loss, rows, labels)
    # Wrong at the size that is timed alone.
    monkeypatch.setattr(fasttriplet, name, lambda *a, **k: right(*a, **k) * (1.0001 if "ref_labels" in k else 1))
    with pytest.raises(AssertionError, match="not close"):
        classes.verify(loss, rows, labels)


def test_a_contender_takes_part_while_its_memory_and_time_allow():
    labels = cases.batch(1024, 1, 512)[1]
    quadratic, cubic = (portable.Original("some", peers.gather, cubic) for cubic in (False, True))
    triplets = 2 * 512 * 511 * 512
    assert classes.bytes_of_triplets(labels) == 2 * 1024**3 + 64 * triplets > classes.MEMORY_LIMIT
    assert classes.takes_part(quadratic, labels, 5.0) and not classes.takes_part(quadratic, labels, 5.1)
    assert not classes.takes_part(cubic, labels, 0)
    assert classes.takes_part(cubic, labels[:256], 2.5) and not classes.takes_part(cubic, labels[:256], 2.6)


def test_who_takes_no_part_stays_away_and_another_loss_is_not_compared():
    def half(rows, labels):
        return peers.gather(rows, labels) / 2

    others = [
        classes.Other(portable.Original("half", half), same=False),
        classes.Other(portable.Original("late", half)),
    ]
    seconds = {"half": 0.0, "late": 5.1}
    for n in (24, 48):
        first, second = classes.beside_rows("batch-hard", others, n, 8, 2, 1, seconds)
        assert second[-3:] == ["late", "not run", "not run"] and "not run" not in first
    assert classes.beside_rows("batch-hard", others[:1], 24, 8, 2, 1, {})
    with pytest.raises(AssertionError, match="batch-hard beside late: "):
        classes.beside_rows("batch-hard", others[1:], 24, 8, 2, 1, {})


def test_the_benchmark_of_the_portable_engine_runs_and_verifies(capsys, monkeypatch, tmp_path):
    def in_this_process(module, arguments, of):
        monkeypatch.setattr("sys.argv", [module, *arguments])
        with contextlib.redirect_stdout(io.StringIO()) as told:
            portable.main()
        return float(told.getvalue())

    written, usual = tmp_path / "portable.md", engines.forced
    command = ["portable", "--sizes", "32x8", "--rounds", "1", "--memory-size", "64x8", "--out", str(written)]
    monkeypatch.setattr("sys.argv", command)
    monkeypatch.setattr(portable, "told_by_fresh_process", in_this_process)
    portable.main()
    printed = capsys.readouterr().out
    assert printed.strip() in written.read_text() and engines.forced is usual
    lines = printed.splitlines()
    times, memory = ([line for line in lines if f"| {size} |" in line] for size in ("32 x 8", "64 x 8"))
    entries = portable.entries()
    assert len(times) == len(entries) and len(memory) == sum(max(1, len(entry.originals)) for entry in entries)
    for entry, row in zip(entries, times, strict=True):
        assert any(f"| {original.name} " in row for original in entry.originals) or "| none | none |" in row
    assert sum("none" in row for row in times) == 1  # all but k hardest have an original


def test_only_steps_of_ours_run_by_the_portable_engine(monkeypatch):
    seen = []

    def loss(of):
        def value(rows, labels):
            seen.append((of, engines.forced, "forward"))
            result = peers.gather(rows, labels)
            result.register_hook(lambda _: seen.append((of, engines.forced, "backward")))
            return result

        return value

    monkeypatch.setattr(engines, "forced", False)
    portable.cells(portable.Entry("some", loss("ours"), [portable.Original("other", loss("original"))]), 32, 8, 1, 4)
    assert set(seen) == {
        (of, forced, way)
        for of, forced in (("ours", True), ("ours", False), ("original", False))
        for way in ("forward", "backward")
    }
    with pytest.raises(RuntimeError, match="amid"), portable.engine(portable=True):
        raise RuntimeError("amid")
    assert engines.forced is False


def test_a_portable_engine_that_is_wrong_is_not_timed():
    rows, labels = cases.batch(32, 8, 4)
    entry = next(entry for entry in portable.entries() if entry.name == "4 hardest")
    portable.verify(entry, rows, labels)
    for wrong, message in (
        (lambda x: 1e-3 * x.sum(), "portable beside the kernel: .*, and its original"),
        (lambda x: 1e-3 * (x - x.detach()).sum(), "portable beside the kernel: the gradients differ by"),
    ):
        other = entry._replace(ours=lambda x, y, _w=wrong: entry.ours(x, y) + engines.forced * _w(x))
        with pytest.raises(AssertionError, match=message):
            portable.verify(other, rows, labels)
    original = portable.Original("half", lambda rows, labels: entry.ours(rows, labels) / 2)
    with pytest.raises(AssertionError, match="4 hardest beside half: "):
        portable.verify(entry._replace(originals=[original]), rows, labels)
    assert not portable.taking_part(entry._replace(originals=[original._replace(cubic=True)]), 513)


@pytest.mark.parametrize("more", [[], ["--swap", "--dtype", "float64"]])
def test_the_benchmark_of_explicit_triplets_runs_and_verifies(more, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["triplet_margin", "--sizes", "16x8", "--rounds", "1", *more])
    triplet_margin.main()
    assert re.search(r"^\| 16 x 8 \| \S+ \(.* to .*\) \|", capsys.readouterr().out, flags=re.MULTILINE)


def test_explicit_triplets_that_are_wrong_are_not_timed(monkeypatch):
    rows = triplet_margin.triplets(16, 8, torch.float64)
    triplet_margin.verify(rows, margin=1.0, swap=True)
    right = fasttriplet.triplet_margin_loss
    for wrong in (lambda x: 1e-3 * x.sum(), lambda x: 1e-3 * (x - x.detach()).sum()):
        monkeypatch.setattr(fasttriplet, "triplet_margin_loss", lambda x, *a, _w=wrong, **k: right(x, *a, **k) + _w(x))
        with pytest.raises(AssertionError, match="not close"):
            triplet_margin.verify(rows, margin=1.0, swap=True)


def test_a_peer_that_computes_something_else_is_not_timed():
    rows, labels = cases.batch(32, 8, 4)
    cases.verify_peer("gather", peers.gather, rows, labels)
    with pytest.raises(AssertionError, match="half computes"):
        cases.verify_peer("half", lambda rows, labels: peers.gather(rows, labels) / 2, rows, labels)


def test_every_stage_is_timed():
    found = stages.microseconds(*cases.batch(64, 16, 4), rounds=5)
    parts = [found[name] for name in (*stages.STAGES, "backward")]
    assert min(parts) > 0  # every stage has run and was timed
    assert max(parts) < found["whole"] < 1e6
    assert 1 <= found["survivors"] <= 64


@pytest.mark.slow
def test_the_report_goes_through_its_motions(tmp_path, monkeypatch):
    monkeypatch.setattr(fasttriplet, "build_info", lambda: BUILD_INFO | {"tiers_available": "portable"})
    report.Report(tmp_path, quick=True).run()
    text = (tmp_path / "cpu.md").read_text()
    titles = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)
    assert titles == [
        *("Beside others", "Instruction sets", "Variations", "Small batches", "Growth with N"),
        *("Batches that are hard for a screen", "Where the time goes"),
    ]
    assert "| 256 x 16 | all 256 anchors |" in text and "times the input's" in text
    assert re.search(r"\| 64 per class \| \d+\.\d\d \(", text) and "| one class | " in text
    pictures = re.findall(r"\]\((\w+\.png)\)", text)
    assert sorted(pictures) == ["cpu_memory.png", "cpu_small.png", "cpu_time.png"]
    for picture in pictures:
        assert (tmp_path / picture).stat().st_size > 10_000


def test_limits_are_judged_by_the_median():
    spread = measure.Spread(0.5, 0.2, 0.9)
    assert measure.against(spread, 0.5) == "0.50 (0.20 to 0.90) within 0.5"
    assert measure.against(spread, 0.35) == "0.50 (0.20 to 0.90) MISSES 0.35"


@pytest.mark.parametrize(
    "wrong",
    [lambda rows: 1e-3 * rows.sum(), lambda rows: 1e-3 * (rows - rows.detach()).sum()],
    ids=["loss", "gradient alone"],
)
def test_a_wrong_loss_or_gradient_is_not_timed(monkeypatch, wrong):
    rows, labels = cases.batch(32, 8, 4)
    cases.verify(rows, labels, "euclidean")
    right = fasttriplet.batch_hard_triplet_loss
    monkeypatch.setattr(fasttriplet, "batch_hard_triplet_loss", lambda *a, **k: right(*a, **k) + wrong(a[0]))
    with pytest.raises(AssertionError, match="not close"):
        cases.verify(rows, labels, "euclidean")


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (bench_loss, ["--rounds", "0"], "--rounds: a count must be positive; got '0'"),
        (bench_loss, ["--sizes", "12"], "--sizes: a size must be NxD, two integers; got '12'"),
        (bench_loss, ["--distance", "cosine", "--peers", "gather"], "--peers compute euclidean distances"),
        (
            bench_loss,
            ["--memory", "--dtype", "float64"],
            "--memory is of euclidean float32 only; got euclidean float64",
        ),
        (peak_memory, ["8x0"], "NxD: a size must be positive; got '8x0'"),
        (peak_memory, ["8x8", "--contender", "x"], "--contender: invalid choice: 'x'"),
        (
            peak_memory,
            ["8x8", "--contender", "gather", "--loss", "weighted"],
            "--loss: the contender gather computes batch-hard alone; got 'weighted'",
        ),
        (classes, ["--rounds", "0"], "--rounds: a count must be positive; got '0'"),
        (distributed, ["--sizes", "9x4"], "--sizes: N must be a multiple of every number of ranks; got 9 for 2"),
        (
            portable,
            ["--peak-of", "x", "portable"],
            "--peak-of: LOSS must be one of batch-hard beside gather, batch-hard,",
        ),
        (portable, ["--peak-of", "4 hardest", "x"], "--peak-of: CONTENDER must be one of portable; got 'x'"),
        (stages, ["x"], "NxD: a size must be NxD, two integers; got 'x'"),
        (variations, ["64x8", "--rounds", "0"], "--rounds: a count must be positive; got '0'"),
        (worst_cases, ["x"], "NxD: a size must be NxD, two integers; got 'x'"),
    ],
)
def test_command_lines_name_what_is_wrong(module, arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [module.__name__, *arguments])
    with pytest.raises(SystemExit):
        module.main()
    assert message in capsys.readouterr().err


def test_variations_run_in_turn_and_leave_the_threads_alone(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["variations", "64x8", "--rounds", "2"])
    threads = torch.get_num_threads()
    seen = []
    assert variations.with_threads(1, lambda: seen.append(torch.get_num_threads()))() is None
    assert seen == [1] and torch.get_num_threads() == threads
    variations.main()
    table = capsys.readouterr().out
    assert "| plain | 1.00 (1.00 to 1.00) |" in table
    for name in (*variations.LIMITS, "squared_euclidean", "float16", "bfloat16"):
        assert f"| {name} |" in table


def test_variations_are_held_to_their_limits(monkeypatch):
    for threads, verdict in ((2, " MISSES 1.8 or more"), (4, "(1.00 to 2.00)")):  # what two threads gain is known
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert variations.judged("one thread", measure.Spread(1.79, 1, 2)).endswith(verdict)
        assert variations.judged("one thread", measure.Spread(1.8, 1, 2)).endswith(verdict.replace("MISSES", "within"))
    assert variations.judged("cosine", measure.Spread(1.2, 1, 2)).endswith(" within 1.2")
    assert variations.judged("cosine", measure.Spread(1.21, 1, 2)).endswith(" MISSES 1.2")
    assert variations.judged("plain", measure.Spread(1, 1, 1)) == "1.00 (1.00 to 1.00)"


def test_turns_and_spreads():
    calls = []
    timings = measure.in_turn(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, repeats=2, fewer_rounds={"b": 1}
    )
    assert "".join(calls) == "aabb" + "aabb" + "aa" + "aa"
    assert len(timings["a"].seconds) == 3 and len(timings["b"].seconds) == 1
    ratio = measure.Timing([2.0, 6.0]).ratio(measure.Timing([1.0, 2.0, 1.0]))
    assert ratio == (2.5, 2.0, 3.0) and str(ratio) == "2.50 (2.00 to 3.00)"


def test_the_benchmark_of_several_processes_runs_and_verifies(capsys, monkeypatch, tmp_path):
    written, plan = tmp_path / "distributed.md", distributed.QUICK
    monkeypatch.setattr("sys.argv", ["distributed", "--quick", "--out", str(written)])
    distributed.main()
    printed = capsys.readouterr().out
    assert printed.strip() in written.read_text()
    ((n, d),), (ranks,) = plan.sizes, plan.ranks
    for loss in one_rank.LOSSES:
        of_loss = [line for line in printed.splitlines() if line.startswith(f"| {n} x {d} | {loss} | {ranks} | ")]
        times, travels, *back = of_loss
        assert re.search(r"\| \S+ \(.* to .*\) \|", times) and len(back) == (loss in one_rank.DENSE)
        collectives = {"batch-hard": "3 + 0", "semi-hard": "4 + 0", "batch-all": "3 + 1", "weighted": "3 + 1"}
        assert f"| {ranks} | {collectives[loss]} | " in travels
    beside = f"\n| {n} x {d} | {ranks} | " in printed
    assert beside == peers.installed("pytorch_metric_learning")


def test_several_processes_that_are_wrong_are_not_timed():
    rows, labels = cases.batch(16, 4, 4)
    value, gradient = compat.result_of(peers.gather, rows, labels)
    exact = one_rank.Contender(peers.gather, None, same_everywhere=True)
    near = one_rank.Contender(peers.gather, (1e-4, 1e-4))

    def by_rank(first=0.0, second=0.0, pull=0.0, factor=1.0):
        parts = (2 * gradient + pull).chunk(2)
        return [(factor * (value + apart), part) for apart, part in zip((first, second), parts, strict=True)]

    for contender in (exact, near, near._replace(times_ranks=True)):
        factor = 2.0 if contender.times_ranks else 1.0
        one_rank.check("some", contender, by_rank(factor=factor), (value, gradient))
        for wrong in ({"first": 1e-3}, {"second": 1e-3}, {"pull": 1e-2}):
            with pytest.raises(AssertionError, match=r"^some: "):
                one_rank.check("some", contender, by_rank(**wrong, factor=factor), (value, gradient))
    for wrong in ({"first": 1e-12, "second": 1e-12}, {"second": 1e-12}, {"pull": 1e-6}):
        one_rank.check("some", near, by_rank(**wrong), (value, gradient))
        with pytest.raises(AssertionError, match=r"^some: "):
            one_rank.check("some", exact, by_rank(**wrong), (value, gradient))


def test_what_travels_is_counted_and_held_to_the_formulas(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        rank = one_rank.Rank(dist.group.WORLD, 16, 4)
        for loss in one_rank.LOSSES:
            contender = one_rank.contenders(loss, rank, False)[one_rank.OURS]
            with traffic.counted() as counter:
                found = one_rank.traffic_of(contender, rank, counter)
            one_rank.check_traffic(loss, rank, found)
            more = found[0]._replace(sent=1), found[1]
            with pytest.raises(AssertionError, match=f"{loss}, forward: .*, and by the formula"):
                one_rank.check_traffic(loss, rank, more)
        with traffic.counted() as counter, pytest.raises(NotImplementedError, match="broadcast is not counted here"):
            dist.broadcast(torch.ones(1), 0)
        assert counter.taken() == (0, 0, 0)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("loss", one_rank.LOSSES)
def test_formulas_of_what_travels_are_those_that_are_shown(loss):
    for ranks, n, d, pairs in ((2, 1024, 128, 3072), (4, 16, 8, 48)):
        for found, shown in zip(
            traffic.expected(loss, ranks, n, d, pairs), (traffic.FORMULAS, traffic.FORMULAS_BACK), strict=True
        ):
            terms = re.sub(r"(?<=[\dD)]) (?=[(nTD])", " * ", shown[loss])
            assert found.sent == found.received == (ranks - 1) * eval(terms, {"n": n, "D": d, "T": pairs})


def test_the_benchmark_beside_an_encoder_runs_and_verifies(capsys, monkeypatch, tmp_path):
    def in_this_process(n, d, samples_per_class, contender):
        return peak_memory.added_mib(n, d, samples_per_class, contender)

    written, plan = tmp_path / "worth.md", worth.QUICK
    monkeypatch.setattr("sys.argv", ["worth", "--quick", "--out", str(written)])
    monkeypatch.setattr(worth, "added_mib_of_fresh_process", in_this_process)
    worth.main()
    printed = capsys.readouterr().out
    assert printed.strip() in written.read_text() and "**A quick run" in printed
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", printed, flags=re.DOTALL | re.MULTILINE))
    rows = {title: [line for line in text.splitlines() if line.startswith("| ")] for title, text in sections.items()}
    assert {title: len(lines) - 1 for title, lines in rows.items()} == {
        "The loss by itself": len(plan.sizes) * len(plan.dims),
        "Within a training step": len(plan.steps),
        "Against a memory": len(plan.memories),
        "Memory": len(plan.peaks),
        "Far from the origin": len(worth.OFFSETS),
    }
    assert all(line.count("|") == lines[0].count("|") for lines in rows.values() for line in lines)
    for line in rows["Within a training step"][1:]:
        assert line.count(" %; saved ") == len(worth.losses()) - 1
    for line in rows["Far from the origin"][1:]:
        ours, *others = map(float, line.split("|")[2:-1])
        assert ours <= 1e-6
    assert min(others) > 1e-3  # of the last offset, where float32 products have no digits left


def test_a_share_of_a_step_is_that_of_its_time():
    seconds = {"encoder": [2.0, 2.0], worth.OURS: [0.5, 0.5], "slow": [2.0, 2.0], "quick": [0.0, 0.0]}
    cells = worth.step_cells({name: measure.Timing(values) for name, values in seconds.items()})
    assert cells[1:] == ["500.0 ms, 20 %", "2000.0 ms, 50 %; saved 38 %", "0.00 ms, below 0.01 %; saved -25 %"]


def test_every_loss_of_a_step_is_taken_of_its_embeddings_and_trains_nothing_else():
    seen = []

    def loss(of):
        def value(rows, labels):
            seen.append((of, rows.detach().clone()))
            result = of * peers.gather(rows, labels)
            result.register_hook(lambda _: seen.append((of, rows.detach().clone())))
            return result

        return value

    def weight_after(contenders):
        network = worth.network_of(worth.HEAD._replace(inputs=(6,)), 4)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
        inputs, labels = torch.randn(16, 6, generator=torch.Generator().manual_seed(1)), torch.arange(16) // 4
        seconds = worth.seconds_of_step(network, optimizer, inputs, labels, contenders)
        assert set(seconds) == {"encoder", *contenders} and min(seconds.values()) > 0
        return network.weight.detach()

    both = weight_after({"three": loss(3.0), "one": loss(1.0)})
    assert [of for of, _ in seen] == [3.0, 3.0, 1.0, 1.0]
    assert all(torch.equal(rows, seen[0][1]) for _, rows in seen)
    assert torch.equal(both, weight_after({"one": loss(1.0)}))  # one step by the last one's gradient


def test_an_encoder_that_takes_too_long_is_not_run(monkeypatch):
    run = []

    def steps(encoder, n, plan, left):
        run.append((encoder, n))
        return {name: measure.Timing([2.0 * n]) for name in ("encoder", *worth.losses())}

    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(worth, "steps", steps)
    monkeypatch.setattr(worth.time, "perf_counter", lambda: next(clock))
    small, large = worth.RESNET18, worth.RESNET50
    plan = worth.QUICK._replace(steps=((small, 4), (large, 8), (small, 8), (large, 4)), seconds=30)
    lines = [line for line in worth.step_lines(plan) if line.startswith("| ResNet")]
    assert run == [(small, 4), (large, 8), (large, 4)]  # 16 s are more than the 10 that are left
    assert ["not run" in line for line in lines] == [False, False, True, False]


def test_others_that_are_wrong_are_not_timed_beside_an_encoder(monkeypatch):
    monkeypatch.setattr(worth, "masks_of_references", lambda rows, *_: rows.sum())
    with pytest.raises(AssertionError, match="masks computes"):
        list(worth.memory_bank_lines(worth.QUICK))
    known = worth.peers.available()
    monkeypatch.setattr(worth.peers, "available", lambda: known | {"gather": lambda: lambda *a: 2 * peers.gather(*a)})
    with pytest.raises(AssertionError, match="gather computes"):
        list(worth.loss_lines(worth.QUICK))
    right = fasttriplet.batch_hard_triplet_loss
    monkeypatch.setattr(fasttriplet, "batch_hard_triplet_loss", lambda *a, **k: 1.0001 * right(*a, **k))
    for lines in (worth.loss_lines, worth.memory_bank_lines):
        with pytest.raises(AssertionError, match="not close"):
            list(lines(worth.QUICK))
    with pytest.raises(AssertionError, match="at 0 fasttriplet computes"):
        list(worth.offset_lines())
