"""The wheel as a stranger has it: installed into empty environments beside several versions of PyTorch, and tried.

`make test-wheel` builds it and does that. Of an environment that has the package already, one line does the trying,
as the workflow that builds wheels asks for:

    python -I build_tools/test_wheel.py --installed

What is tried is what the wheel itself holds: the import, `python -m fasttriplet`, the Python blocks of README.md, which
is the wheel's long description, and every example in a docstring. What needs a library that is not installed is left
out, and the line that says so names the library.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import doctest
import importlib
import importlib.metadata
import importlib.util
import io
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "test-wheel"
#: The oldest PyTorch that the wheel serves, the one that all other tests run with, and the newest tried.
VERSIONS = ("2.10.0", "2.13.0", "2.14.1")
#: GB of disk. A CUDA build of PyTorch with what it needs takes 8, and its wheels half of that until it is installed.
FREE = 16.0
#: What lies among the modules and is none: a program, and libraries of operators.
NO_MODULES = ("fasttriplet.__main__", "fasttriplet._C", "fasttriplet._cuda")
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


# Of an environment that has the package.


class Absent(Exception):
    """A library is not installed that the package does not ask for."""


def try_installed() -> int:
    """Prints a line for each check; 1 where one failed, else 0."""
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for name, check in checks():
        try:
            outcome, said = "passed", check()
        except Absent as error:
            outcome, said = "skipped", str(error)
        except Exception:
            outcome, said = "failed", traceback.format_exc()
        counts[outcome] += 1
        if said or outcome != "passed":
            print(f"{outcome}  {name}: {said.strip()}", flush=True)
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] or not counts["passed"] else 0


def checks() -> Iterator[tuple[str, Callable[[], str]]]:
    """Names and functions that raise, or return what is worth a line."""
    yield "import", check_import
    yield "python -m fasttriplet", check_main
    yield "README.md", check_readme
    import fasttriplet

    names = [found.name for found in pkgutil.walk_packages(fasttriplet.__path__, "fasttriplet.", onerror=ignore)]
    for name in ("fasttriplet", *names):
        if name in NO_MODULES:
            continue
        try:
            module = import_module(name)
        except Exception as error:
            yield name, raising(error)
            continue
        # Names that a module has from elsewhere are left out by the finder itself.
        for example in doctest.DocTestFinder().find(module):
            if example.examples:
                yield example.name, lambda example=example, module=module: check_docstring(example, module)


def check_import() -> str:
    import fasttriplet

    place = Path(fasttriplet.__file__)
    assert place.is_relative_to(sys.prefix), f"{place} is not in the environment {sys.prefix}"
    version = importlib.metadata.version("fasttriplet")
    assert version.split("+")[0] == fasttriplet.__version__, (version, fasttriplet.__version__)
    info = fasttriplet.build_info()
    assert info["cpu_library"] is not of_python_alone(), info["cpu_library_absence"]
    cuda = re.search(r"\+cu(\d+)$", version)  # the runtime in the library is read, loaded or not
    assert cuda is None or str(info["cuda_runtime"]).split(".")[0] == cuda[1], (version, info["cuda_runtime"])
    return ", ".join(f"{name} {info[name]}" for name in ("fasttriplet", "torch", "python", "tier"))


def of_python_alone() -> bool:
    """Whether the wheel that was installed is the one without libraries."""
    text = importlib.metadata.distribution("fasttriplet").read_text("WHEEL")
    assert text is not None
    return "Root-Is-Purelib: true" in text


def check_main() -> str:
    result = subprocess.run([sys.executable, "-I", "-m", "fasttriplet"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^batch_all +\w", result.stdout, flags=re.MULTILINE), result.stdout
    return ""


def check_readme() -> str:
    """The blocks in order in one namespace."""
    text = importlib.metadata.metadata("fasttriplet").get_payload()
    found = BLOCK.findall(text)
    assert len(found) >= 2, f"the long description has {len(found)} Python blocks"
    namespace: dict[str, object] = {"__name__": "readme"}
    with contextlib.redirect_stdout(io.StringIO()):
        for code in found:
            exec(compile(code, "README.md", "exec"), namespace)
    return f"{len(found)} blocks"


def check_docstring(example: doctest.DocTest, module: ModuleType) -> str:
    for name in imported("".join(part.source for part in example.examples)):
        if importlib.util.find_spec(name) is None and name in optional():
            raise Absent(f"{name} is not installed")
    report = io.StringIO()
    result = doctest.DocTestRunner(verbose=False).run(example, out=report.write)
    assert not result.failed, report.getvalue()
    return ""


def imported(code: str) -> set[str]:
    """Top-level names of what the code imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:  # a module of compat says what it needs, as "(pip install torchmetrics)"
        needed = re.search(r"needs? (.*?\(pip install ([\w-]+)\))", str(error))
        if needed is None:
            raise
        library = needed[2].replace("-", "_")
        if library not in optional() or importlib.util.find_spec(library) is not None:
            raise
        raise Absent(f"it needs {needed[1]}") from None


def optional() -> set[str]:
    """Names to import of what the package's extras ask for; all else it must do without, or bring."""
    requirements = importlib.metadata.requires("fasttriplet") or []
    extras = [re.split(r"[^\w.-]", text)[0] for text in requirements if "extra ==" in text]
    return {name.lower().replace("-", "_") for name in extras}


def ignore(name: str) -> None:
    """A folder that cannot be imported is told of when its turn comes."""


def raising(error: Exception) -> Callable[[], str]:
    def check() -> str:
        raise error

    return check


# Of a checkout.


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--installed", action="store_true", help="try the package of this very environment, no more")
    parser.add_argument("--wheel", type=Path, help="the wheel to try; by default one is built, without CUDA")
    parser.add_argument("--torch", nargs="+", default=VERSIONS, metavar="VERSION", help=f"default: {VERSIONS}")
    parser.add_argument("--free", type=float, default=FREE, metavar="GB", help=f"disk to ask for, default: {FREE:g}")
    parser.add_argument("--keep", action="store_true", help="leave environments that passed, and go on with them")
    parser.add_argument("--cache", action="store_true", help="let pip keep what it downloads")
    arguments = parser.parse_args()
    if arguments.installed:
        return try_installed()
    wheel = arguments.wheel.resolve() if arguments.wheel else build()
    failed = [version for version in arguments.torch if not try_beside(version, wheel, arguments)]
    for version in arguments.torch:
        print(f"{'failed' if version in failed else 'passed'}  {wheel.name} beside PyTorch {version}")
    print(f"{len(arguments.torch) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


def build() -> Path:
    """The wheel made of the source distribution, as from an index that has no wheel for this machine."""
    folder = WORK / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, env={**os.environ, "FASTTRIPLET_CUDA": "0"})
    (wheel,) = folder.glob("*.whl")
    return wheel


def try_beside(version: str, wheel: Path, arguments: argparse.Namespace) -> bool:
    """Whether all went well in an environment with that PyTorch; one that failed is left to look at."""
    folder = WORK / version
    print(f"PyTorch {version}: {wheel.name} in {folder}", flush=True)
    python = folder / "bin" / "python"
    quiet = ["--disable-pip-version-check", "install", "--quiet", *([] if arguments.cache else ["--no-cache-dir"])]
    if not (arguments.keep and python.exists()):
        shutil.rmtree(folder, ignore_errors=True)
        WORK.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(WORK).free / 1e9
        if free < arguments.free:
            print(f"{arguments.free:g} GB of disk must be free for a CUDA build of PyTorch; {free:.0f} GB are")
            return False
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        if subprocess.run([python, "-m", "pip", *quiet, f"torch=={version}"]).returncode:
            return False
    # With what it needs, and then once more by force: pip takes another build of an installed version for the same.
    install = [[str(wheel)], ["--no-deps", "--force-reinstall", str(wheel)]]
    if any(subprocess.run([python, "-m", "pip", *quiet, *words]).returncode for words in install):
        return False
    # In another folder, and isolated: nothing of the checkout may be found in place of the wheel.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("FASTTRIPLET", "PYTHON"))}
    if subprocess.run([python, "-I", __file__, "--installed"], cwd=folder, env=outside).returncode:
        return False
    if not arguments.keep:
        shutil.rmtree(folder)
    return True


if __name__ == "__main__":
    sys.exit(main())
