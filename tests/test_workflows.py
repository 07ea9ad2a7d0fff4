"""The workflows of .github, forms for issues and CITATION.cff: linted, and held to what they promise. None is run."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fasttriplet
from build_tools import test_wheel

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (the extra named docs brings it)")

ROOT = Path(__file__).resolve().parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
JOBS = [
    pytest.param(path, name, id=f"{path.stem}-{name}")
    for path in WORKFLOWS
    for name in yaml.safe_load(path.read_text())["jobs"]
]
#: By the schemas that check-jsonschema brings with it.
SCHEMAS = [
    *[(path, "github-workflows") for path in WORKFLOWS],
    *[(path, "github-issue-forms") for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))],
    (ROOT / "CITATION.cff", "citation-file-format"),
]
SCHEMAS = [(path, "github-issue-config" if path.name == "config.yml" else schema) for path, schema in SCHEMAS]


def loaded(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def job_of(path: Path, name: str) -> dict[str, Any]:
    return loaded(path)["jobs"][name]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True)


# By linters.


@pytest.mark.parametrize(("path", "schema"), SCHEMAS, ids=[path.name for path, _ in SCHEMAS])
def test_schema(path: Path, schema: str):
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("check-jsonschema is not installed (the extra named dev)")
    result = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", path)
    assert result.returncode == 0, result.stdout + result.stderr


def zizmor() -> Path:
    """zizmor is a program in a wheel, with nothing to import."""
    found = shutil.which("zizmor", path=str(Path(sys.executable).parent)) or shutil.which("zizmor")
    if found is None:
        pytest.skip("zizmor is not installed (the extra named dev)")
    return Path(found)


def test_zizmor_finds_nothing():
    result = run(zizmor(), "--offline", "--no-progress", "--config", GITHUB / "zizmor.yml", GITHUB)
    assert result.returncode == 0, result.stdout + result.stderr


def test_zizmor_finds_what_is_wrong(tmp_path: Path):
    """That it says nothing must mean something: an action pinned to a branch, and a title run as code."""
    text = (GITHUB / "workflows" / "lint.yml").read_text()
    text = text.replace("actions/setup-python@v7.0.0", "someone/setup-python@main")
    text = text.replace("run: make lint", 'run: echo "${{ github.event.pull_request.title }}"')
    (tmp_path / "lint.yml").write_text(text)
    result = run(zizmor(), "--offline", "--no-progress", "--config", GITHUB / "zizmor.yml", tmp_path / "lint.yml")
    assert result.returncode != 0
    assert "unpinned-uses" in result.stdout and "template-injection" in result.stdout


def test_actionlint_finds_nothing():
    program = shutil.which("actionlint")
    if program is None:
        pytest.skip("actionlint is not installed, and its package on PyPI fetches a program from elsewhere")
    result = run(program, "-no-color", *WORKFLOWS)
    assert result.returncode == 0, result.stdout + result.stderr


# By what they promise.


def test_there_are_workflows():
    assert [path.stem for path in WORKFLOWS] == ["docs", "lint", "tests", "wheels"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_may_read_alone_and_gives_way_to_the_next(path: Path):
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"] == "${{ github.workflow }}-${{ github.ref }}"
    assert workflow["env"]["PIP_EXTRA_INDEX_URL"] == "${{ vars.TORCH_CPU_INDEX }}"


@pytest.mark.parametrize(("path", "name"), JOBS)
def test_job_ends_and_leaves_no_credentials(path: Path, name: str):
    job = job_of(path, name)
    assert 0 < job["timeout-minutes"] <= 240
    assert job.get("permissions", {}) == ({"contents": "write"} if name == "release" else {})
    for step in job["steps"]:
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_one_full_version(path: Path):
    pattern, pinned = r"uses: (\S+?)@(\S+)", dict[str, str]()
    for other in WORKFLOWS:
        pinned.update(re.findall(pattern, other.read_text()))
    for action, version in re.findall(pattern, path.read_text()):
        assert re.fullmatch(r"v\d+\.\d+\.\d+", version), action
        assert version == pinned[action], action


@pytest.mark.parametrize(("path", "name"), JOBS)
def test_matrix_has_what_is_asked_of_it(path: Path, name: str):
    job = job_of(path, name)
    matrix = dict(job.get("strategy", {}).get("matrix", {}))
    known = matrix.keys() - {"include"} | {key for row in matrix.get("include", []) for key in row}
    assert set(re.findall(r"matrix\.([\w-]+)", yaml.safe_dump(job))) == known


@pytest.mark.parametrize(("path", "name"), JOBS)
def test_what_a_job_calls_is_there(path: Path, name: str):
    job = job_of(path, name)
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    matrix = job.get("strategy", {}).get("matrix", {})
    called = {*matrix.get("target", []), *re.findall(r"\bmake ([a-z0-9-]+)", yaml.safe_dump(job["steps"]))}
    assert called <= targets
    for file in re.findall(r"(?<![\w/])((?:build_tools|requirements|\.github)/[\w/.-]+)", path.read_text()):
        assert (ROOT / file).is_file(), file
    needs = job.get("needs", [])
    assert {*([needs] if isinstance(needs, str) else needs)} <= loaded(path)["jobs"].keys()


def test_the_files_of_a_release_need_all_that_tries_them():
    jobs = loaded(GITHUB / "workflows" / "wheels.yml")["jobs"]
    assert set(jobs["release"]["needs"]) == jobs.keys() - {"release"}


def test_every_python_that_is_served_is_tested():
    """From requires-python up: in tests.yml, and by the wheels."""
    pythons = loaded(GITHUB / "workflows" / "tests.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    oldest = re.search(r'^requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert oldest is not None
    minors = [int(version.split(".")[1]) for version in pythons]
    assert minors == list(range(int(oldest[1]), minors[-1] + 1))
    built = loaded(GITHUB / "workflows" / "wheels.yml")["env"]["CIBW_BUILD"]
    assert built == f"cp31[{minors[0] - 10}-{minors[-1] - 10}]-manylinux_*"


def test_no_host_is_named():
    """Where packages come from is a variable of the repository."""
    for path in [*GITHUB.rglob("*.yml"), *GITHUB.rglob("*.sh"), ROOT / "build_tools" / "test_wheel.py"]:
        named = re.findall(r"https?://\S+|\b[\w-]+\.(?:org|com|io|net|dev)\b", path.read_text())
        assert not named, path


def test_shell_scripts_parse():
    for path in GITHUB.rglob("*.sh"):
        assert path.stat().st_mode & 0o111, path
        result = run("bash", "-n", path)
        assert result.returncode == 0, result.stderr


# Of the release.


def test_versions_agree():
    """Of the package, the citation and the changelog, whose newest release has the citation's date."""
    citation = loaded(ROOT / "CITATION.cff")
    released = re.search(r"^## (\d\S*) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert released is not None
    assert fasttriplet.__version__ == citation["version"] == released[1]
    assert citation["date-released"] == released[2]


def test_citation_names_the_developers_and_the_method():
    citation = loaded(ROOT / "CITATION.cff")
    assert citation["title"] == "fasttriplet" and citation["license"] == "MIT"
    (author,) = citation["authors"]
    copyright_line = re.search(r"Copyright \(c\) \d+ (.*)", (ROOT / "LICENSE").read_text())
    assert copyright_line is not None and author["name"].lower() == copyright_line[1].lower()
    (paper,) = citation["references"]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"[{paper['title']}]({paper['url']}), {paper['year']}" in readme


def test_issues_and_pull_requests_ask_what_is_installed():
    asked = [GITHUB / "ISSUE_TEMPLATE" / "bug.yml", GITHUB / "PULL_REQUEST_TEMPLATE.md"]
    assert all("`python -m fasttriplet`" in path.read_text() for path in asked)
    (field,) = (field for field in loaded(asked[0])["body"] if field["id"] == "info")
    assert field["validations"] == {"required": True}


def test_wheel_is_tried_beside_the_oldest_pytorch_and_that_of_all_tests():
    """``torch>=2.10`` of pyproject.toml, and the pin; the last is newer."""
    oldest = re.search(r'"torch>=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    pin = re.search(r"^torch==(\S+)", (ROOT / "requirements" / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert oldest is not None and pin is not None
    first, tested, newest = test_wheel.VERSIONS
    assert first.split(".")[:2] == [*oldest.groups()] and tested == pin[1]
    assert [*map(int, newest.split("."))] > [*map(int, tested.split("."))]
