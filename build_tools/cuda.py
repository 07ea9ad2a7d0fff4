"""Decides whether the CUDA library is built, for which architectures, and drives nvcc by hand.

``torch.utils.cpp_extension.CUDAExtension`` refuses to work beside a CPU-only PyTorch, but the stable ABI needs nothing
from PyTorch that a CPU build lacks: its headers, and one symbol that a CUDA PyTorch provides when the library is
loaded. So nvcc is called directly, through a small ninja file (parallel, and a changed header recompiles), and the
host's compiler links.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Without TORCH_CUDA_ARCH_LIST: Turing to Blackwell, those that the nvcc at hand knows, and PTX of the newest for the
#: hardware to come.
DEFAULT_ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
#: Of these the code is for that very GPU, with instructions that its successors lack: 9.0's products of four warps.
SPECIFIC = {90: "a"}
#: nvcc before this lacks C++17 features that PyTorch's headers use.
OLDEST_NVCC = (12, 0)

_NVCC_FLAGS = (
    "-std=c++17",
    "-O3",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall",
    "--threads=0",  # the architectures of a file side by side
    "-fmad=false",  # exact scores have the CPU's bits; what should be fused says so
    "--expt-relaxed-constexpr",
    "-DUSE_CUDA",  # declares the stream functions of the stable ABI
)
# What only a CUDA PyTorch has stays undefined until it is loaded, and libtorch alone brings that, so it must be named
# although nothing of it is used here. nvcc would put all its -Xlinker flags before every -l: --as-needed would hold for
# libtorch too and drop it. The CUDA runtime is linked in, so no version of it is asked for.
_LINK_FLAGS = (
    "-Wl,--no-as-needed",
    "-ltorch",
    "-ltorch_cpu",
    "-Wl,--as-needed",
    "-lcudart_static",
    "-lrt",
    "-ldl",
    "-lpthread",
)


@dataclass(frozen=True)
class Nvcc:
    """An nvcc that runs: where it is, its version, and the architectures it knows, as 75 for sm_75.

    ``runtime`` is the folder of its toolkit's libcudart_static.a, None where the toolkit lacks it.
    """

    path: Path
    version: tuple[int, int]
    architectures: tuple[int, ...]
    runtime: Path | None


@dataclass(frozen=True)
class Architecture:
    """One target: ``number`` 90 and ``suffix`` "a" are sm_90a; with ``ptx`` its PTX is kept as well."""

    number: int
    suffix: str = ""
    ptx: bool = False

    def __str__(self) -> str:
        return f"sm_{self.number}{self.suffix}" + ("+PTX" if self.ptx else "")

    def flags(self) -> list[str]:
        name = f"{self.number}{self.suffix}"
        flags = [f"-gencode=arch=compute_{name},code=sm_{name}"]
        # PTX is for the hardware to come, which one GPU's own instructions (the suffix) would exclude.
        return [*flags, f"-gencode=arch=compute_{self.number},code=compute_{self.number}"] if self.ptx else flags


@dataclass(frozen=True)
class Plan:
    """What to do about the CUDA library: build it with ``nvcc``, or leave it out where that is None, and why."""

    nvcc: Nvcc | None
    architectures: tuple[Architecture, ...]
    message: str


def requested(environ: Mapping[str, str]) -> str:
    """The value of FASTTRIPLET_CUDA, "auto", "0" or "1"; "auto" where it is not set."""
    value = environ.get("FASTTRIPLET_CUDA", "").strip() or "auto"
    if value not in ("auto", "0", "1"):
        raise ValueError(f"FASTTRIPLET_CUDA must be auto, 0 or 1; got {value!r}")
    return value


def find_nvcc(environ: Mapping[str, str]) -> Nvcc | None:
    """The nvcc of CUDA_HOME or CUDA_PATH, else the one on PATH, else the usual place; None where none runs."""
    homes = [environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)]
    candidates = [str(Path(home, "bin", "nvcc")) for home in homes]
    candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
    for candidate in candidates:
        path = shutil.which(candidate, path=environ.get("PATH", os.defpath))
        if path is None:
            continue
        try:
            version = re.search(r"release (\d+)\.(\d+)", _output(path, "--version"))
            known = re.findall(r"compute_(\d+)\b", _output(path, "--list-gpu-arch"))
        except (OSError, subprocess.CalledProcessError):
            continue
        if version:
            numbers = tuple(sorted(map(int, known)))
            return Nvcc(Path(path), (int(version[1]), int(version[2])), numbers, _runtime_folder(path))
    return None


def _runtime_folder(nvcc: str) -> Path | None:
    """Where the toolkit has libcudart_static.a. nvcc is asked, since it may be a link to it or a script elsewhere."""
    said = subprocess.run([nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    folders = re.findall(r'"-L([^"]+)"', "".join(re.findall(r"^#\$ LIBRARIES=.*", said, flags=re.MULTILINE)))
    for top in re.findall(r"^#\$ TOP=(.+)", said, flags=re.MULTILINE):
        folders += [f"{top}/lib64", f"{top}/lib"]  # the latter in the wheels of NVIDIA, whose nvcc names the former
    found = (Path(folder).resolve() for folder in folders if Path(folder, "libcudart_static.a").is_file())
    return next(found, None)


def architectures(environ: Mapping[str, str], nvcc: Nvcc) -> tuple[Architecture, ...]:
    """What TORCH_CUDA_ARCH_LIST names ("8.0;9.0+PTX", parted by ; , or spaces), else the default ones nvcc knows."""
    value = environ.get("TORCH_CUDA_ARCH_LIST", "")
    words = [word for word in re.split(r"[;,\s]+", value) if word]
    if not words:
        numbers = [number for number in DEFAULT_ARCHITECTURES if number in nvcc.architectures]
        return tuple(Architecture(number, SPECIFIC.get(number, ""), ptx=number == numbers[-1]) for number in numbers)
    found: dict[tuple[int, str], bool] = {}
    for word in words:
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", word, flags=re.IGNORECASE)
        if match is None:
            raise ValueError(
                f"TORCH_CUDA_ARCH_LIST must name compute capabilities such as 8.0;9.0+PTX; got {word!r} in {value!r}"
            )
        number = int(match[1] + match[2])
        if number not in nvcc.architectures:
            known = ", ".join(f"{n // 10}.{n % 10}" for n in nvcc.architectures)
            raise ValueError(
                f"TORCH_CUDA_ARCH_LIST must name compute capabilities that {nvcc.path} knows ({known}); got {word!r}"
            )
        key = (number, match[3].lower())
        found[key] = found.get(key, False) or bool(match[4])
    return tuple(Architecture(number, suffix, found[number, suffix]) for number, suffix in sorted(found))


def plan(environ: Mapping[str, str]) -> Plan:
    """Build or not; raises ValueError for a wrong setting and FileNotFoundError where nvcc is demanded but missing."""
    wish = requested(environ)
    if wish == "0":
        return Plan(None, (), "the CUDA library is left out: FASTTRIPLET_CUDA=0")
    nvcc = find_nvcc(environ)
    if nvcc is None:
        lack = "no nvcc was found in CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda"
    elif nvcc.version < OLDEST_NVCC:
        lack = f"{nvcc.path} is of CUDA {_dotted(nvcc.version)}, and {_dotted(OLDEST_NVCC)} or later is needed"
    elif nvcc.runtime is None:
        lack = f"the toolkit of {nvcc.path} has no libcudart_static.a"
    else:
        chosen = architectures(environ, nvcc)
        if chosen:
            names = " ".join(map(str, chosen))
            return Plan(nvcc, chosen, f"building the CUDA library with nvcc {_dotted(nvcc.version)} for {names}")
        lack = f"{nvcc.path} knows none of the default architectures; name some in TORCH_CUDA_ARCH_LIST"
    if wish == "1":
        raise FileNotFoundError(f"FASTTRIPLET_CUDA=1 asks for the CUDA library, but {lack}")
    return Plan(None, (), f"the CUDA library is left out: {lack}")


def mismatch(nvcc: Nvcc, torch_version: str, torch_cuda: str | None) -> str | None:
    """A warning where the toolkit and PyTorch are of two major versions of CUDA, else None.

    A PyTorch of CUDA 12 runs on drivers that refuse a runtime of CUDA 13.
    """
    if torch_cuda is None or int(torch_cuda.split(".")[0]) == nvcc.version[0]:
        return None
    return (
        f"the CUDA library will have the runtime of CUDA {_dotted(nvcc.version)} and PyTorch {torch_version} has that "
        f"of CUDA {torch_cuda}: the library will load only where the driver serves CUDA {nvcc.version[0]} too; "
        "CUDA_HOME names another toolkit"
    )


def build(
    plan: Plan,
    *,
    sources: Sequence[str],
    output: Path,
    work: Path,
    compile_flags: Sequence[str],
    library_dirs: Sequence[str],
    defines: Sequence[tuple[str, str]],
) -> None:
    """Compiles ``sources`` and links them to ``output``; ``work`` keeps the objects for the next time."""
    assert plan.nvcc is not None and plan.nvcc.runtime is not None
    work.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    defines = [
        *defines,
        ("FASTTRIPLET_NVCC", f'\\"{_dotted(plan.nvcc.version)}\\"'),
        ("FASTTRIPLET_CUDA_ARCHITECTURES", '\\"' + ",".join(map(str, plan.architectures)) + '\\"'),
    ]
    targets = [flag for target in plan.architectures for flag in target.flags()]
    compile_flags = [*_NVCC_FLAGS, *targets, *compile_flags, *(f"-D{name}={value}" for name, value in defines)]
    link_flags = ["-shared", *(f"-L{folder}" for folder in (*library_dirs, plan.nvcc.runtime)), *_LINK_FLAGS]
    script = work / "cuda.ninja"
    script.write_text(_ninja(plan.nvcc.path, compile_flags, link_flags, sources, output.absolute()))
    jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
    subprocess.run(["ninja", "-C", str(work), "-f", script.name, *jobs], check=True)


def _ninja(
    nvcc: Path, compile_flags: Sequence[str], link_flags: Sequence[str], sources: Sequence[str], output: Path
) -> str:
    """Ninja's description of the build; ninja runs it where the objects are to lie, so all else is absolute."""
    objects = [Path(source).with_suffix(".o").name for source in sources]
    lines = [
        "ninja_required_version = 1.3",
        f"nvcc = {nvcc}",
        f"cxx = {os.environ.get('CXX') or 'c++'}",
        "rule compile",
        # ptxas' report of registers and spills, a page a kernel, is kept beside the object and shown where it fails.
        "  command = $nvcc -MD -MF $out.d "
        + _shell(compile_flags)
        + " -Xptxas=-v -c $in -o $out > $out.ptxas 2>&1 || { cat $out.ptxas; false; }",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  command = $cxx $in -o $out " + _shell(link_flags),
    ]
    for source, target in zip(sources, objects, strict=True):
        lines.append(f"build {target}: compile {_escaped(os.path.abspath(source))}")
    lines.append(f"build {_escaped(str(output))}: link {' '.join(objects)}")
    return "\n".join(lines) + "\n"


def _shell(flags: Sequence[str]) -> str:
    """Flags for a ninja command line: spaces quoted for the shell, dollars doubled for ninja."""
    return " ".join(f"'{flag}'" if " " in flag else flag for flag in flags).replace("$", "$$")


def _escaped(path: str) -> str:
    return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
