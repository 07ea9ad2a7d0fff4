"""The package as it is installed: names, versions, libraries, and the decisions of setup.py about CUDA."""

from __future__ import annotations

import ast
import doctest
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import fasttriplet
from build_tools import cpu, cuda, test_wheel
from fasttriplet import _library

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path(fasttriplet.__file__).resolve().parent
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
KNOWN = (75, 80, 86, 89, 90, 100, 110, 120)  # what the nvcc made up below says it knows


def run_python(*arguments: str | Path, **keywords: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, **keywords)


def pins() -> dict[str, set[str]]:
    """The versions that requirements/constraints.txt allows for each name."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w-]+)==([\w.]+)", CONSTRAINTS.read_text(), flags=re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


# The package.


def test_version_is_the_one_of_the_metadata():
    assert importlib.metadata.version("fasttriplet") == fasttriplet.__version__


def test_run_time_requirements_are_torch_and_what_it_brings():
    requirements = importlib.metadata.requires("fasttriplet")
    needed = {text for text in requirements if "extra ==" not in text}
    assert needed == {"torch>=2.10", "numpy", "typing-extensions>=4.10"}
    assert "typing-extensions>=4.10.0" in importlib.metadata.requires("torch")


def test_public_names():
    assert set(fasttriplet.__all__) == {
        "BatchAllTripletLoss",
        "BatchHardTripletLoss",
        "CrossBatchMemory",
        "EasyPositiveTripletLoss",
        "EngineWarning",
        "KHardestTripletLoss",
        "MinedTriplets",
        "PKSampler",
        "SemiHardTripletLoss",
        "TripletMarginLoss",
        "TripletStats",
        "Triplets",
        "WeightedTripletLoss",
        "__version__",
        "batch_all_triplet_loss",
        "batch_hard_triplet_loss",
        "build_info",
        "easy_positive_triplet_loss",
        "grad_cache",
        "k_hardest_triplet_loss",
        "mine_batch_hard",
        "mine_easy_positive",
        "mine_k_hardest",
        "mine_semi_hard",
        "semi_hard_triplet_loss",
        "triplet_margin_loss",
        "weighted_triplet_loss",
    }
    assert all(hasattr(fasttriplet, name) for name in fasttriplet.__all__)


def test_package_is_marked_as_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_every_folder_of_the_package_is_installed():
    """The list is written by hand: a folder that is left out is there in a checkout, and missing in a wheel."""
    listed = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert listed is not None
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "fasttriplet").rglob("__init__.py")}
    assert re.findall(r'"([\w.]+)"', listed[1]) == sorted(".".join(folder.parts) for folder in folders)


def test_docstring_maps_every_module():
    folders = [path.parent for path in PACKAGE.glob("*/__init__.py")]
    for path in (*PACKAGE.glob("*.py"), *folders):
        if path.stem not in ("__init__", "__main__"):
            assert f"fasttriplet.{path.stem}" in fasttriplet.__doc__, path.stem


def test_import_leaves_out_the_reference_and_what_only_examples_need():
    unwanted = [
        "fasttriplet.reference",
        "fasttriplet.compat",
        "matplotlib",
        "sklearn",
        "scipy",
        "torchvision",
        "PIL",
        "tqdm",
    ]
    code = (
        "import sys, torch; had = set(sys.modules); import fasttriplet; new = set(sys.modules) - had;"
        f"print(new & set({unwanted}))"
    )
    result = run_python("-c", code, cwd=ROOT)
    assert result.stdout.strip() == "set()", result.stderr


# The compiled libraries.


def test_loading_twice_is_harmless():
    _library.load_cpu()
    assert _library.load_cuda() == _library.load_cuda() == _library.cuda_absence


@pytest.fixture
def uncompiled(tmp_path: Path) -> Path:
    """A folder with the package as it is where there is no compiler."""
    shutil.copytree(PACKAGE, tmp_path / "fasttriplet", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


def import_in(folder: Path, code: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    """A file of the user's, so that the warning has a place."""
    (folder / "script.py").write_text(f"import fasttriplet\n{code}")
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("FASTTRIPLET", "PYTHONPATH"))}
    return run_python("script.py", cwd=folder, env={**outside, **environ})


@pytest.mark.parametrize(("checkout", "advice"), [(True, "source checkout"), (False, "there is a C++ compiler")])
def test_missing_library_says_how_to_build_it(uncompiled: Path, checkout: bool, advice: str):
    if checkout:
        (uncompiled / "setup.py").touch()
    result = import_in(uncompiled)
    assert result.returncode == 0, result.stderr
    (first, place) = result.stderr.strip().splitlines()
    assert first.startswith(f"{uncompiled / 'script.py'}:1: EngineWarning: fasttriplet runs by its portable engine")
    assert place.strip() == "import fasttriplet"
    assert advice in first and "pip install ." in first and "FASTTRIPLET_FALLBACK=silent" in first


def test_missing_library_is_an_import_error_where_that_is_wanted(uncompiled: Path):
    result = import_in(uncompiled, FASTTRIPLET_FALLBACK="error")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fasttriplet runs by its portable engine")
    assert "_C.abi3.so is not there" in last and last.endswith("FASTTRIPLET_FALLBACK=error forbids it")


@pytest.mark.parametrize("variable", [{"FASTTRIPLET_FALLBACK": "silent"}, {"FASTTRIPLET_ENGINE": "portable"}])
def test_missing_library_is_not_told_where_nobody_wants_to_know(uncompiled: Path, variable: dict[str, str]):
    result = import_in(uncompiled, **variable)
    assert (result.returncode, result.stderr) == (0, "")


def test_library_that_cannot_be_loaded_is_told_in_the_linkers_words(uncompiled: Path):
    (uncompiled / "fasttriplet" / "_C.abi3.so").write_text("not a library")
    result = import_in(uncompiled)
    assert result.returncode == 0, result.stderr
    assert "EngineWarning" in result.stderr and "file too short" in result.stderr


WITHOUT_LIBRARIES = """
import warnings
import torch

warnings.simplefilter("error")  # what is to be said has been said
rows, labels = torch.randn(12, 3, requires_grad=True), torch.arange(12) % 3
for name in fasttriplet.__all__:
    function, before = getattr(fasttriplet, name), rows.grad
    if name.endswith("_triplet_loss"):
        function(rows, labels).backward()
        function(rows, labels, ref_embeddings=rows.detach(), ref_labels=labels, weights=torch.ones(12)).backward()
    elif name.startswith("mine_"):
        assert (function(rows, labels).negatives >= 0).all()
fasttriplet.triplet_margin_loss(rows, rows.roll(1, 0), rows.roll(2, 0)).backward()
info = fasttriplet.build_info()
print(bool(rows.grad.isfinite().all()), info["cpu_library"], info["tier"])
"""


def test_without_libraries_everything_works(uncompiled: Path):
    result = import_in(uncompiled, WITHOUT_LIBRARIES)
    assert result.stdout == "True False None\n", result.stderr
    table = run_python("-m", "fasttriplet", cwd=uncompiled)
    assert table.returncode == 0
    assert re.search(r"^batch_all +portable \[1\]", table.stdout, re.MULTILINE)
    assert "[1] the compiled library is missing" in table.stdout


def test_library_uses_nothing_of_python_but_the_stable_abi():
    pytest.importorskip("abi3audit")
    result = run_python("-m", "abi3audit", "--strict", "--report", PACKAGE / "_C.abi3.so")
    assert result.returncode == 0, result.stdout + result.stderr


# Requirements.


def test_every_requirement_is_pinned():
    packaging = pytest.importorskip("packaging.requirements")
    for text in importlib.metadata.requires("fasttriplet"):
        assert packaging.Requirement(text).name in pins(), text


def test_pre_commit_has_the_pinned_versions():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    used = re.findall(r"additional_dependencies: \[([\w-]+)==([\w.]+)\]", text)
    assert used
    for name, version in used:
        assert version in pins()[name], name


# The decision about the CPU library.


def test_the_cpu_library_is_built_where_there_is_a_compiler(tmp_path: Path):
    program = tmp_path / "my-c++"
    program.touch(mode=0o755)
    assert cpu.plan({"PATH": str(tmp_path), "CXX": "my-c++ -pthread"}) == cpu.Plan(True, "")
    plan = cpu.plan({"PATH": str(tmp_path), "CXX": "another"})
    assert not plan.build and plan.message.endswith("no C++ compiler was found in CXX or PATH")
    assert "\n" not in plan.message


def test_cpu_switch():
    assert cpu.requested({}) == cpu.requested({"FASTTRIPLET_CPU": " "}) == "auto"
    plan = cpu.plan({"FASTTRIPLET_CPU": "0", "PATH": os.environ["PATH"]})
    assert not plan.build and plan.message.endswith("by its portable engine, in plain PyTorch: FASTTRIPLET_CPU=0")
    with pytest.raises(ValueError, match="FASTTRIPLET_CPU must be auto, 0 or 1; got 'no'"):
        cpu.plan({"FASTTRIPLET_CPU": "no"})


def test_libraries_that_are_demanded_need_a_compiler(tmp_path: Path):
    nothing = {"PATH": str(tmp_path), "CXX": "nothing"}
    with pytest.raises(FileNotFoundError, match="FASTTRIPLET_CPU=1 asks for the CPU library, but no C"):
        cpu.plan({**nothing, "FASTTRIPLET_CPU": "1"})
    with pytest.raises(FileNotFoundError, match="FASTTRIPLET_CUDA=1 asks for the CUDA library, which is linked by"):
        cpu.plan({**nothing, "FASTTRIPLET_CUDA": "1"})


def test_wheel_without_a_compiler_is_of_python_alone(tmp_path: Path):
    if importlib.util.find_spec("wheel") is None:
        pytest.skip("wheel is not installed")
    source = tmp_path / "source"
    shutil.copytree(PACKAGE, source / "fasttriplet", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (source / "fasttriplet" / "_C.abi3.so").touch()  # of an earlier build
    shutil.copytree(ROOT / "build_tools", source / "build_tools", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    environ = {**os.environ, "FASTTRIPLET_CPU": "0"}
    result = run_python("setup.py", "bdist_wheel", "--dist-dir", tmp_path, cwd=source, env=environ)
    assert result.returncode == 0, result.stdout + result.stderr
    said = [line for line in result.stderr.splitlines() if line.startswith("fasttriplet: ")]
    assert said == [f"fasttriplet: {cpu.plan(environ).message}"]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"fasttriplet-{fasttriplet.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {f"fasttriplet/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}
    assert names == modules | {"fasttriplet/py.typed"}


# The decisions about CUDA.


def make_nvcc(
    home: Path,
    *,
    release: str = "13.0",
    known: Sequence[int] = KNOWN,
    runtime: str | None = "lib64",
    says: str = "lib64",
) -> dict[str, str]:
    """Writes an nvcc that answers what setup.py asks; returns the environment in which it is the only one.

    The static runtime lies in the folder ``runtime``, and nvcc says that it links what is in the folder ``says``.
    """
    program = home / "bin" / "nvcc"
    program.parent.mkdir(parents=True)
    listing = "\n".join(f"compute_{number}" for number in known)
    dryrun = f'#$ TOP={home}/bin/..\n#$ LIBRARIES=  "-L{home}/bin/../{says}/stubs" "-L{home}/bin/../{says}"'
    program.write_text(
        f"#!/bin/sh\ncase $1 in --version) echo 'release {release}, V1';; --dryrun) echo '{dryrun}' >&2;;"
        f" *) echo '{listing}';; esac\n"
    )
    program.chmod(0o755)
    if runtime is not None:
        (home / runtime).mkdir(parents=True)
        (home / runtime / "libcudart_static.a").touch()
    return {"CUDA_HOME": str(home), "PATH": os.environ["PATH"]}


@pytest.fixture
def no_nvcc(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)


def test_cuda_switch_defaults_to_auto():
    assert cuda.requested({}) == cuda.requested({"FASTTRIPLET_CUDA": ""}) == "auto"


@pytest.mark.parametrize("value", ["2", "yes", "AUTO", "true"])
def test_cuda_switch_refuses_other_values(value: str):
    with pytest.raises(ValueError, match=f"FASTTRIPLET_CUDA must be auto, 0 or 1; got '{value}'"):
        cuda.plan({"FASTTRIPLET_CUDA": value})


def test_cuda_0_leaves_it_out(tmp_path: Path):
    plan = cuda.plan({**make_nvcc(tmp_path), "FASTTRIPLET_CUDA": "0"})
    assert plan.nvcc is None
    assert plan.message == "the CUDA library is left out: FASTTRIPLET_CUDA=0"


def test_cuda_1_without_nvcc_is_an_error(no_nvcc: None):
    with pytest.raises(FileNotFoundError, match="FASTTRIPLET_CUDA=1 asks for the CUDA library, but no nvcc was found"):
        cuda.plan({"FASTTRIPLET_CUDA": "1"})


def test_cuda_auto_without_nvcc_says_so_in_one_line(no_nvcc: None):
    plan = cuda.plan({})
    assert plan.nvcc is None
    assert plan.message.startswith("the CUDA library is left out: no nvcc was found")
    assert "\n" not in plan.message


def test_cuda_auto_with_nvcc_builds(tmp_path: Path):
    plan = cuda.plan(make_nvcc(tmp_path))
    assert plan.nvcc == cuda.Nvcc(tmp_path / "bin" / "nvcc", (13, 0), KNOWN, (tmp_path / "lib64").resolve())
    assert plan.message.endswith("with nvcc 13.0 for sm_75 sm_80 sm_86 sm_89 sm_90a sm_100 sm_120+PTX")


def test_cuda_of_an_old_nvcc_is_left_out(tmp_path: Path):
    environ = make_nvcc(tmp_path, release="11.8")
    assert "11.8, and 12.0 or later is needed" in cuda.plan(environ).message
    with pytest.raises(FileNotFoundError, match=r"12\.0 or later is needed"):
        cuda.plan({**environ, "FASTTRIPLET_CUDA": "1"})


@pytest.mark.parametrize(
    ("runtime", "says"),
    [
        pytest.param("lib64", "lib64", id="installer of NVIDIA"),
        pytest.param("targets/x86_64-linux/lib", "targets/x86_64-linux/lib", id="conda"),
        pytest.param("lib", "lib64", id="wheels of NVIDIA"),
    ],
)
def test_static_runtime_is_found_where_packagers_put_it(tmp_path: Path, runtime: str, says: str):
    plan = cuda.plan(make_nvcc(tmp_path, runtime=runtime, says=says))
    assert plan.nvcc.runtime == (tmp_path / runtime).resolve()


def test_toolkit_without_a_static_runtime_is_left_out(tmp_path: Path):
    environ = make_nvcc(tmp_path, runtime=None)
    assert cuda.plan(environ).message.endswith("bin/nvcc has no libcudart_static.a")
    with pytest.raises(FileNotFoundError, match=r"has no libcudart_static\.a"):
        cuda.plan({**environ, "FASTTRIPLET_CUDA": "1"})


@pytest.mark.parametrize("torch_cuda", [None, "13.0", "13.2"])
def test_no_warning_beside_a_pytorch_of_the_same_major_cuda(tmp_path: Path, torch_cuda: str | None):
    assert cuda.mismatch(cuda.plan(make_nvcc(tmp_path)).nvcc, "2.10.0", torch_cuda) is None


def test_toolkit_of_another_major_cuda_than_pytorchs_is_a_warning(tmp_path: Path):
    warning = cuda.mismatch(cuda.plan(make_nvcc(tmp_path)).nvcc, "2.10.0+cu128", "12.8")
    assert warning.startswith(
        "the CUDA library will have the runtime of CUDA 13.0 and PyTorch 2.10.0+cu128 has that of CUDA 12.8"
    )
    assert "CUDA_HOME" in warning


def test_default_architectures_are_those_nvcc_knows(tmp_path: Path):
    plan = cuda.plan(make_nvcc(tmp_path, known=(70, 75, 80, 86)))
    assert plan.architectures == (cuda.Architecture(75), cuda.Architecture(80), cuda.Architecture(86, ptx=True))


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("8.0", "sm_80"),
        ("8.0;9.0+PTX", "sm_80 sm_90+PTX"),
        ("9.0+PTX 8.0", "sm_80 sm_90+PTX"),
        ("8.0, 9.0a", "sm_80 sm_90a"),
        ("8.0;8.0+PTX", "sm_80+PTX"),
        (" ; ", "sm_75 sm_80 sm_86 sm_89 sm_90a sm_100 sm_120+PTX"),
    ],
)
def test_architecture_list(tmp_path: Path, value: str, names: str):
    plan = cuda.plan({**make_nvcc(tmp_path), "TORCH_CUDA_ARCH_LIST": value})
    assert " ".join(map(str, plan.architectures)) == names


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Ampere", "must name compute capabilities such as 8.0;9.0[+]PTX; got 'Ampere'"),
        ("8.0;sm_90", "got 'sm_90' in '8.0;sm_90'"),
        ("7.0", r"that .*nvcc knows \(7.5, 8.0, .*\); got '7.0'"),
    ],
)
def test_wrong_architecture_list_is_an_error(tmp_path: Path, value: str, message: str):
    with pytest.raises(ValueError, match=f"TORCH_CUDA_ARCH_LIST .*{message}"):
        cuda.plan({**make_nvcc(tmp_path), "TORCH_CUDA_ARCH_LIST": value})


def test_architecture_flags():
    assert cuda.Architecture(90, "a", ptx=True).flags() == [
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=compute_90",
    ]


# What is distributed.


@pytest.mark.slow
def test_source_distribution_and_wheel(tmp_path: Path):
    for name in ("build", "setuptools", "wheel", "ninja", "abi3audit", "packaging"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    from packaging.utils import parse_wheel_filename

    skipped = shutil.ignore_patterns(
        ".git", ".venv*", "build", "dist", "runs", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".hypothesis"
    )
    shutil.copytree(ROOT, tmp_path / "source", ignore=skipped)
    nvcc = cuda.find_nvcc(os.environ)
    environ = dict(os.environ, FASTTRIPLET_CUDA="0")
    if nvcc is not None and nvcc.version >= cuda.OLDEST_NVCC:
        newest = nvcc.architectures[-1]
        environ.update(FASTTRIPLET_CUDA="1", TORCH_CUDA_ARCH_LIST=f"{newest // 10}.{newest % 10}")
    # Makes the source distribution, and the wheel from what is in that.
    command = ["-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path / "source"]
    result = run_python(*command, cwd=tmp_path, env=environ)
    assert result.returncode == 0, result.stdout + result.stderr

    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    left_out = {"LICENSE", "CHANGELOG.md", "CMakeLists.txt", "Makefile", ".ci/run", "build_tools/cuda.py"} - packed
    assert not left_out
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*.*")}
    assert sources <= packed

    (wheel,) = (tmp_path / "dist").glob("*.whl")
    _, version, _, tags = parse_wheel_filename(wheel.name)
    assert str(version) == fasttriplet.__version__
    assert {(tag.interpreter, tag.abi) for tag in tags} == {("cp310", "abi3")}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        archive.extractall(tmp_path / "installed")
    libraries = {"fasttriplet/_C.abi3.so"}
    if environ["FASTTRIPLET_CUDA"] == "1":
        libraries.add("fasttriplet/_cuda.abi3.so")
    modules = {f"fasttriplet/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}
    assert names == libraries | modules | {"fasttriplet/py.typed"}

    audit = run_python("-m", "abi3audit", "--strict", "--report", wheel)
    assert audit.returncode == 0, audit.stdout + audit.stderr

    # Resolved when used, so that a library of CUDA code can be tried where there is none.
    code = (
        "import ctypes, os, sys, torch\n"
        "for path in sys.argv[1:]: ctypes.CDLL(path, os.RTLD_LAZY)\n"
        "print(torch.ops.fasttriplet._build_info())\n"
        "if len(sys.argv) > 2: print(torch.ops.fasttriplet._cuda_build_info())\n"
    )
    loaded = run_python("-c", code, *(tmp_path / "installed" / name for name in sorted(libraries)), cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    assert "tier=" in loaded.stdout
    assert ("cuda_architectures=" in loaded.stdout) == (len(libraries) == 2)


def test_sources_use_no_syntax_newer_than_python_3_10():
    for path in [ROOT / "setup.py", *PACKAGE.rglob("*.py"), *(ROOT / "build_tools").glob("*.py")]:
        ast.parse(path.read_text(), filename=str(path), feature_version=(3, 10))


# What `make test-wheel` tells apart.


def tried(code: str) -> str:
    return test_wheel.check_docstring(doctest.DocTestParser().get_doctest(code, {}, "example", None, 0), fasttriplet)


def test_examples_that_fail_fail_the_wheel():
    assert tried(">>> 1 + 1\n2\n") == ""
    with pytest.raises(AssertionError, match="Expected:"):
        tried(">>> 1 + 1\n3\n")


def test_only_what_extras_ask_for_may_be_absent(monkeypatch: pytest.MonkeyPatch):
    assert {"torchmetrics", "lightning", "keras", "sentence_transformers"} <= test_wheel.optional()
    assert not {"torch", "numpy", "typing_extensions"} & test_wheel.optional()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(test_wheel.Absent, match="torchmetrics is not installed"):
        tried(">>> from torchmetrics import Metric\n")
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        tried(">>> import no_such_library\n")


def test_modules_that_need_an_absent_library_say_which(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)  # importing it is an ImportError
    monkeypatch.delitem(sys.modules, "fasttriplet.compat.torchmetrics", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ImportError, match="pip install torchmetrics"):  # it is there, and does not work
        test_wheel.import_module("fasttriplet.compat.torchmetrics")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(test_wheel.Absent, match=r"it needs torchmetrics 1\.2 or later"):
        test_wheel.import_module("fasttriplet.compat.torchmetrics")


def test_wheel_is_tried_by_every_block_of_the_readme():
    text = (ROOT / "README.md").read_text()
    assert len(test_wheel.BLOCK.findall(text)) == text.count("```python") >= 2
