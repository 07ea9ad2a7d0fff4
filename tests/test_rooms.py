"""The rooms of the sources: who includes whom, and the maps of them in CONTRIBUTING.md and the package's docstring."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fasttriplet

ROOT = Path(__file__).resolve().parent.parent
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

# An include, or a macro that names the file for one.
INCLUDE = re.compile(r'^\s*#\s*(?:include|define\s+\w+)\s+(?:"([^"]+\.\w+)"|<([^>]+)>)', re.MULTILINE)
CPU_ROOMS = ["threads", "kernels", "isa", "rows", "triplets", "screen", "scan", "dense", "neighbours", "ops"]
# What csrc/cuda has of PyTorch; elsewhere a room knows it whole or not at all.
CUDA_WITH_PYTORCH = {
    *("cuda/info.cu", "cuda/operators.cuh"),
    *("cuda/register.cu", "cuda/register_triplet_margin.cu", "cuda/register_triplets.cu"),
}


def room_of(name: str) -> str:
    """The room of a file of csrc: its folder, or what the map calls the files that lie in none."""
    path = Path(name)
    if path.parent != Path():
        return path.parent.as_posix()
    return "check.*" if path.stem == "check" else name


def map_rows() -> dict[str, str]:
    """What the map says that a room of csrc includes."""
    rows = re.findall(r"^\| `csrc/([^`]+)` \|.*\| ([^|]*) \|$", CONTRIBUTING, re.MULTILINE)
    assert len({room for room, _ in rows}) == len(rows)
    return {room.rstrip("/"): cell for room, cell in rows if room != "cpu/"}


def allowed_rooms(cell: str) -> set[str]:
    names = re.findall(r"`([^`]+)`", cell.split(", never")[0])
    whole = {"check.h": "check.*"} | {name: f"cpu/{name}" for name in CPU_ROOMS}
    return {whole.get(name, name) for name in names}


def included(csrc: Path) -> dict[str, set[str]]:
    """By file of csrc what it includes: a file of csrc by its path there, all else in angle brackets."""
    result = {}
    for path in sorted(csrc.rglob("*.*")):
        names = [own or outer for own, outer in INCLUDE.findall(path.read_text())]
        result[path.relative_to(csrc).as_posix()] = {name if (csrc / name).is_file() else f"<{name}>" for name in names}
    return result


def wrong_includes(csrc: Path) -> list[str]:
    """Includes that the map does not allow, a line each."""
    rows = map_rows()
    wrong = []
    for file, names in included(csrc).items():
        room = room_of(file)
        cell = rows.get(room, "")
        for name in sorted(names):
            if not name.startswith("<"):
                allowed = room_of(name) in allowed_rooms(cell) | {room}
            elif name.startswith("<torch/"):
                allowed = file in CUDA_WITH_PYTORCH if room == "cuda" else "PyTorch" in cell
            elif "standard library alone" in cell:
                allowed = re.fullmatch(r"<[a-z]+>", name) is not None or file == "cpu/threads/denormals.h"
            else:
                allowed = room == "cuda" or not re.match("<cu[db]", name)
            if not allowed:
                wrong.append(f"{file} includes {name}")
    return wrong


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """What is left when what points at nothing is taken off again and again: circles, and what leads to them."""
    left = dict(arrows)
    while ends := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in ends:
            del left[name]
    return sorted(left)


def test_includes_are_those_of_the_map() -> None:
    assert wrong_includes(ROOT / "csrc") == []


def test_every_room_is_in_the_map_with_what_it_includes() -> None:
    arrows: dict[str, set[str]] = {}
    for file, names in included(ROOT / "csrc").items():
        rooms = {room_of(name) for name in names if not name.startswith("<")}
        arrows.setdefault(room_of(file), set()).update(rooms - {room_of(file)})
    assert arrows == {room: allowed_rooms(cell) for room, cell in map_rows().items()}
    assert circles(arrows) == []


def test_a_room_of_the_cpu_includes_only_rooms_above_it_in_the_map() -> None:
    rooms = [room for room in map_rows() if room.startswith("cpu/")]
    assert rooms == [f"cpu/{name}" for name in CPU_ROOMS]
    for place, room in enumerate(rooms):
        below = allowed_rooms(map_rows()[room]) & set(rooms[place:])
        assert not below, f"{room} includes {sorted(below)}"


def test_files_that_know_pytorch() -> None:
    # By whatever way: a kernel that included check.h would be compiled with PyTorch's headers too.
    arrows = included(ROOT / "csrc")
    knowing = {file for file, names in arrows.items() if any(name.startswith("<torch/") for name in names)}
    while more := {file for file, names in arrows.items() if names & knowing} - knowing:
        knowing |= more
    assert {file for file in knowing if room_of(file) not in ("ops.cpp", "check.*", "tensors.h", "cpu/ops")} == (
        CUDA_WITH_PYTORCH
    )


def test_includes_are_whole_paths_without_circles() -> None:
    arrows = included(ROOT / "csrc")
    assert circles(arrows) == []
    for path in (ROOT / "csrc").rglob("*.*"):
        for own, _ in INCLUDE.findall(path.read_text()):
            # device_shim.h is the device of tests/native/cuda, which stands in for a GPU.
            assert own in ("", "device_shim.h") or (ROOT / "csrc" / own).is_file(), f"{path}: {own}"


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("cpu/rows/batch.h", '#include "cpu/scan/scan.h"'),
        ("cpu/screen/mine.cpp", '#include "cpu/isa/isa.h"'),
        ("cpu/isa/tier_amx.cpp", '#define FT_TILE "cpu/rows/prepare.h"'),
        ("cpu/dense/weighted.cpp", '#include "check.h"'),
        ("cpu/scan/scan.cpp", "#include <torch/csrc/stable/tensor.h>"),
        ("cuda/engine.cuh", "#include <torch/csrc/stable/tensor.h>"),
        ("cuda/score.cuh", '#include "cpu/kernels/tier.h"'),
        ("cpu/screen/screen.h", "#include <cuda_runtime.h>"),
        ("core/loss.h", '#include "check.h"'),
        ("core/loss.h", "#include <immintrin.h>"),
        ("check.h", '#include "tensors.h"'),
        ("ops.cpp", '#include "core/options.h"'),
    ],
)
def test_a_wrong_include_is_found(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    path = tmp_path / "csrc" / file
    path.write_text(f"{line}\n{path.read_text()}")
    name = line.split(maxsplit=1 if "include" in line else 2)[-1].strip('"')
    assert f"{file} includes {name}" in wrong_includes(tmp_path / "csrc")


def named_paths() -> Iterator[tuple[str, str]]:
    """Paths that texts and comments name, with where."""
    tops = "benchmarks|build_tools|csrc|docs|examples|fasttriplet|requirements|tests"
    for name in re.findall(rf"`((?:{tops})/[^` ]*)`", CONTRIBUTING):
        yield "CONTRIBUTING.md", name
    source = re.compile(r"(?<![\w/.])(?:csrc/)?((?:core|cpu|cuda)/[\w/*-]+\.(?:h|cpp|cuh|cu))\b")
    for folder in ("benchmarks", "build_tools", "csrc", "docs", "fasttriplet", "tests"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".h", ".cpp", ".cu", ".cuh", ".py", ".md", ".sh"):
                for name in source.findall(path.read_text()):
                    of_tests = (ROOT / "tests" / "native" / name).is_file()  # their includes have two roots
                    yield path.relative_to(ROOT).as_posix(), f"tests/native/{name}" if of_tests else f"csrc/{name}"


def test_named_paths_exist() -> None:
    named = sorted(set(named_paths()))
    assert len(named) > 100
    missing = [f"{where}: {name}" for where, name in named if not any(ROOT.glob(name.replace("NAME", "*")))]
    assert missing == []


def test_every_module_is_in_the_packages_map() -> None:
    package = ROOT / "fasttriplet"
    modules = {path.stem for path in package.glob("*.py")} - {"__init__", "__main__"}
    folders = {path.parent.relative_to(package).as_posix().replace("/", ".") for path in package.rglob("*.py")} - {"."}
    named = re.findall(r":mod:`fasttriplet\.([\w.]+)`|``fasttriplet\.(\w+)``", fasttriplet.__doc__ or "")
    assert {public or private for public, private in named} == modules | folders


def imported(package: Path) -> dict[str, set[str]]:
    """By room of the package, a module or a folder, which rooms it imports, wherever in the code it does."""
    arrows: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        room = path.relative_to(package).with_suffix("").parts[0]
        if room in ("__init__", "__main__"):  # the face, which hands all of it on
            continue
        names = []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports by dots"
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
        found = re.findall(r"^fasttriplet\.(\w+)", "\n".join(names), re.MULTILINE)
        arrows.setdefault(room, set()).update(set(found) - {room})
    return arrows


def test_rooms_of_the_package_import_one_way() -> None:
    arrows = imported(ROOT / "fasttriplet")
    assert set().union(*arrows.values()) <= arrows.keys()
    assert circles(arrows) == []
    assert {"functional"} <= arrows["losses"] and {"autograd"} <= arrows["functional"]
    for room, targets in arrows.items():
        assert not targets & {"reference", "compat"}, room
    assert arrows["reference"] == set()


def test_a_circle_of_imports_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "fasttriplet", tmp_path / "fasttriplet", ignore=shutil.ignore_patterns("*.so"))
    path = tmp_path / "fasttriplet" / "check.py"
    path.write_text(
        path.read_text() + "\n\ndef late() -> None:\n    from fasttriplet.losses import BatchHardTripletLoss\n"
    )
    assert {"check", "losses"} <= set(circles(imported(tmp_path / "fasttriplet")))
