"""A user's code under mypy --strict and basedpyright's strict mode, beside the package as a wheel installs it.

consumer.py must have no error. In wrong.py each line that ends in `# wrong`, and no other, must have one.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

import fasttriplet
from tests.typing import consumer

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".mypy_cache" / "consumer"
PACKAGE = Path(fasttriplet.__file__).resolve().parent


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's files, and an environment in it that has the package.

    An editable install is found by Python alone, and mypy takes what lies below the folder of a file for its sources.
    """
    folder = tmp_path_factory.mktemp("project")
    venv.create(folder / "env", symlinks=True, with_pip=False)
    (site,) = (folder / "env").glob("[Ll]ib/**/site-packages")
    shutil.copytree(PACKAGE, site / "fasttriplet", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (site / "rest.pth").write_text(f"{Path(torch.__file__).resolve().parents[1]}\n")
    for name in ("consumer.py", "wrong.py"):
        shutil.copy(HERE / name, folder)
    # That nothing becomes of an expression would be told of `mined.anchors` whether or not there is such an attribute.
    settings = {"typeCheckingMode": "strict", "reportUnusedExpression": "none"}
    (folder / "pyrightconfig.json").write_text(json.dumps({**settings, "include": ["consumer.py", "wrong.py"]}))
    return folder


def python_of(project: Path) -> Path:
    return project / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"


def check_lines(errors: dict[str, dict[int, str]]) -> None:
    """``errors``: by file and line, as the checker says them."""
    assert not errors.get("consumer.py"), errors["consumer.py"]
    lines = (HERE / "wrong.py").read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("  # wrong")}
    assert len(wrong) > 40
    found = errors.get("wrong.py", {})
    missed = [lines[number - 1].strip() for number in sorted(wrong - found.keys())]
    assert not missed, "these should be errors, and are not: " + "\n".join(missed)
    surplus = [found[number] for number in sorted(found.keys() - wrong)]
    assert not surplus, surplus


def test_the_consumer_runs():
    """So that what checkers are told of it is true."""
    consumer.main()


@pytest.mark.slow
def test_mypy(project: Path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed (the extra named dev)")
    command = [sys.executable, "-m", "mypy", "--strict", "--untyped-calls-exclude=torch", "--no-error-summary"]
    command += ["--cache-dir", str(CACHE), "--python-executable", str(python_of(project)), "consumer.py", "wrong.py"]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    errors: dict[str, dict[int, str]] = {}
    for line in result.stdout.splitlines():
        said = re.fullmatch(r"([\w./]+):(\d+): (error: .*)", line)
        if said is not None:
            errors.setdefault(said[1], {})[int(said[2])] = line
    check_lines(errors)


@pytest.mark.slow
def test_basedpyright(project: Path):
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed (the extra named dev)")
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", str(python_of(project))]
    result = subprocess.run([*command, "--level", "error"], cwd=project, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    errors: dict[str, dict[int, str]] = {}
    for said in json.loads(result.stdout)["generalDiagnostics"]:
        line = said["range"]["start"]["line"] + 1
        text = f"{Path(said['file']).name}:{line}: {said['message']} ({said.get('rule')})"
        errors.setdefault(Path(said["file"]).name, {})[line] = text
    check_lines(errors)
