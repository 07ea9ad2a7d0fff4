"""The Python blocks of README.md and docs/ run as they stand, a page's in order in one namespace.

A block of ``text`` that follows directly, but for its title, is what the block above prints. Whole numbers and words
must be the same; a number with decimals may be off by three units of its last place, since training and PyTorch's own
sums differ a little from machine to machine.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import fasttriplet
from examples.resnet50.vision import load_torchvision
from tests import engine

ROOT = Path(__file__).resolve().parents[1]
PAGES = {str(path.relative_to(ROOT)): path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
FENCE = re.compile(r"^([ ]*)```[ ]?(\w*)(.*?)\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"(-?\d+\.\d+|-?\d+)")
os.environ.setdefault("KERAS_BACKEND", "torch")  # as a page does, but before it is tried whether Keras is there
ALWAYS_THERE = {"torch", "numpy", "fasttriplet", *sys.stdlib_module_names}


class Block(NamedTuple):
    line: int
    code: str
    prints: str | None


def blocks(text: str) -> list[Block]:
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        language, content = match[2], textwrap.dedent(match[4])
        line = text.count("\n", 0, match.start(4)) + 1
        if language == "python":
            found.append(Block(line, content, None))
        elif language == "text" and found and not text[end : match.start()].strip():
            found[-1] = found[-1]._replace(prints=content)
        end = match.end()
    return found


def absent(code: str) -> str | None:
    """Why an optional library that the block imports cannot be used here."""
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] in ALWAYS_THERE:
                continue
            try:
                if importlib.util.find_spec("torchvision") is not None:
                    load_torchvision()  # also where its compiled operators do not load; others import it
                importlib.import_module(name)
            except Exception as error:  # keras.py of the drop-ins, for one, raises RuntimeError on another backend
                return f"{name} cannot be imported: {type(error).__name__}: {error}"
    return None


def assigned(code: str) -> set[str]:
    """Names that the block makes at its top level."""
    tree = ast.parse(code)
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    stored |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imported = [alias for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    return stored | {(alias.asname or alias.name).split(".")[0] for alias in imported}


def assert_prints(printed: str, stated: str, where: str) -> None:
    ours, theirs = NUMBER.split(printed.rstrip()), NUMBER.split(stated.rstrip())
    message = f"{where} prints\n{printed}\nwhere the page says\n{stated}"
    assert len(ours) == len(theirs), message
    for number, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
        if number % 2 == 0 or "." not in its:
            assert mine == its, message
        else:
            decimals = len(its.split(".")[1])
            assert "." in mine and abs(float(mine) - float(its)) < 3.5 * 10**-decimals, message


@pytest.fixture
def one_thread():
    """Batches are small, and threads that wait for a busy core cost more than they bring; pages may change defaults."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras, of its own arrays
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("page", [page for page, path in PAGES.items() if blocks(path.read_text())])
def test_page(page, subtests):
    if engine.ENGINE == "shim" and page != "README.md":
        pytest.skip("pages train, for which the device's shim is too slow")
    namespace: dict[str, object] = {"__name__": "page"}
    lost: set[str] = set()  # what blocks that were left out would have made
    for block in blocks(PAGES[page].read_text()):
        where = f"{page}, line {block.line}"
        reason = absent(block.code)
        used = {node.id for node in ast.walk(ast.parse(block.code)) if isinstance(node, ast.Name)}
        if reason is None and used & lost:
            reason = f"needs {', '.join(sorted(used & lost))} of a block that was left out"
        if reason is not None:
            lost |= assigned(block.code)
            with subtests.test(line=block.line):
                pytest.skip(f"{where}: {reason}")
            continue
        lost -= assigned(block.code)
        code = compile("\n" * (block.line - 1) + block.code, str(PAGES[page]), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(code, namespace)
        if block.prints is not None:
            assert_prints(output.getvalue(), block.prints, where)


def test_blocks_are_found():
    assert len(blocks(PAGES["README.md"].read_text())) >= 2
    text = 'Text\n\n```python\nprint(1)\n```\n\n```text title="Output"\n1\n```\n\n    ```python\n    x = 2\n    ```\n'
    assert blocks(text) == [Block(4, "print(1)\n", "1\n"), Block(12, "x = 2\n", None)]


def test_outputs_are_compared():
    assert_prints("loss 0.52 of 12\n", "loss 0.50 of 12", "here")
    for other in ("loss 0.56 of 12", "loss 0.52 of 13", "lost 0.52 of 12", "loss 0.52"):
        with pytest.raises(AssertionError):
            assert_prints("loss 0.52 of 12\n", other, "here")


def test_every_public_name_is_in_the_api_reference():
    text = "\n".join(path.read_text() for page, path in PAGES.items() if page.startswith("docs/api"))
    documented = set(re.findall(r"^::: fasttriplet\.(\w+)$", text, flags=re.MULTILINE))
    missing = [name for name in fasttriplet.__all__ if not name.startswith("__") and name not in documented]
    assert not missing
    of_retrieval = set(re.findall(r"^::: fasttriplet\.retrieval\.(\w+)$", text, flags=re.MULTILINE))
    assert of_retrieval == set(fasttriplet.retrieval.__all__)


def test_site_builds_and_fetches_nothing(tmp_path):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed (the extra named docs)")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    made = sorted(tmp_path.rglob("*.html"))
    assert len(made) >= len(PAGES) - 1
    for path in made:
        text = path.read_text()
        assert not re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"?(?:https?:)?//[^>]*>", text), path
        assert not re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect)[^>]*href=\"?(?:https?:)?//[^>]*>", text), (
            path
        )
        text = re.sub(r'<span class="sd">.*?</span>', "", text, flags=re.DOTALL)  # docstrings in shown sources
        assert ":func:" not in text and ":class:" not in text and "``" not in text, path
    losses = re.sub(r"<[^>]+>", "", (tmp_path / "api" / "losses.html").read_text())
    assert "Unpack" not in losses
    assert losses.count("groups_exclude") >= 3 * 6  # in signature and table of each function, and in its module's


def test_every_public_name_is_in_the_table_of_the_api():
    text = PAGES["docs/api/index.md"].read_text()
    table = text[text.index("## Names") : text.index("## Arguments in common")]
    named = set(re.findall(r"\[`(\w+)`\]\[fasttriplet\.(\w+)\]", table))
    assert all(shown == target for shown, target in named)
    assert {shown for shown, _ in named} == {name for name in fasttriplet.__all__ if not name.startswith("__")}
    assert all(f"`{name}`" in table for name in fasttriplet.retrieval.__all__ if name[0].islower())


SCRIPTS = sorted(path for path in (ROOT / "examples").glob("*.py") if path.name != "__init__.py")


@pytest.fixture
def site():
    """What MkDocs is to build, with what the hooks add: the configuration, and the files by their place."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed (the extra named docs)")
    from mkdocs.config import load_config
    from mkdocs.structure.files import get_files

    config = load_config(str(ROOT / "mkdocs.yml"))
    config = config.plugins.on_config(config)
    files = config.plugins.on_files(get_files(config), config=config)
    return config, {file.src_uri: file for file in files}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_short_and_has_its_output(script):
    assert len(script.read_text().splitlines()) <= 80
    output = ROOT / "examples" / "output" / f"{script.stem}.txt"
    assert output.is_file() and output.read_text().strip(), f"{output} must have what {script.name} prints"


def test_every_script_is_in_the_navigation_and_the_index(site):
    from build_tools.docs import hooks

    config, files = site
    (section,) = (entry["Examples"] for entry in config.nav if "Examples" in entry)
    assert section[0] == "examples/index.md"
    assert {script.name: f"examples/{script.stem}.md" for script in SCRIPTS}.items() <= {
        title: place for entry in section[1:] for title, place in entry.items()
    }.items()
    table = hooks.table_of_scripts()
    assert table.count("\n") == len(SCRIPTS) + 1
    for script in SCRIPTS:
        page = files[f"examples/{script.stem}.md"].content_string
        assert script.read_text().rstrip() in page
        assert (ROOT / "examples" / "output" / f"{script.stem}.txt").read_text().rstrip() in page
        (row,) = (row for row in table.splitlines() if f"({script.stem}.md)" in row)
        assert re.search(rf"`(python|torchrun) [^`]*examples/{script.name}[^`]*` \|$", row), row
    for picture in (ROOT / "examples" / "output").glob("*.png"):
        assert f"examples/output/{picture.name}" in files
    assert "# ResNet-50" in files["examples/resnet50/README.md"].content_string


def test_a_script_without_output_fails_a_strict_build(site, tmp_path, monkeypatch, caplog):
    from build_tools.docs import hooks

    (tmp_path / "output").mkdir()
    (tmp_path / "resnet50").mkdir()
    script = tmp_path / "some.py"
    script.write_text('"""Shows ``this``. Run: `python examples/some.py --steps 9` now."""\nprint(1)\n')
    monkeypatch.setattr(hooks, "EXAMPLES", tmp_path)
    assert [(each.shows, each.command) for each in hooks.scripts()] == [
        ("Shows `this`.", "python examples/some.py --steps 9")
    ]
    hooks.page_of(hooks.Script.of(script))
    (warning,) = caplog.records
    assert "some.py has no examples/output/some.txt" in warning.message
    assert warning.levelname == "WARNING" and warning.name.startswith("mkdocs.")  # those are what strict counts
    caplog.clear()
    (tmp_path / "output" / "some.txt").write_text("printed\n")
    (tmp_path / "output" / "some_more.png").write_bytes(b"")
    page = hooks.page_of(hooks.Script.of(script))
    assert "printed\n" in page and "![some more](output/some_more.png)" in page and not caplog.records
    script.write_text('"""Shows nothing."""\n')
    with pytest.raises(Exception, match="must say how to run it"):
        hooks.scripts()


def test_a_script_is_recorded_by_the_command_of_its_page(site, tmp_path, monkeypatch):
    from build_tools import record
    from build_tools.docs import hooks

    monkeypatch.setattr(hooks, "EXAMPLES", tmp_path)
    script, output = tmp_path / "some.py", tmp_path / "output"
    told = '"""Run: `python examples/some.py --steps 9` now."""\nimport pathlib, sys\n'
    script.write_text(
        told + "print(*sys.argv[1:])\nfor name in ('some', 'more'): pathlib.Path(f'{name}.png').touch()\n"
    )
    monkeypatch.setattr("sys.argv", ["record"])
    record.main()
    assert (output / "some.txt").read_text() == "--steps 9\n"
    assert sorted(path.name for path in output.glob("*.png")) == ["some.png", "some_more.png"]
    script.write_text(told + "print('anew')\n")
    (output / "something.png").touch()  # another script's
    record.main()
    assert (output / "some.txt").read_text() == "anew\n"
    assert [path.name for path in output.glob("*.png")] == ["something.png"]
    script.write_text(told + "print('half'); sys.exit(3)\n")
    with pytest.raises(subprocess.CalledProcessError):
        record.main()
    assert (output / "some.txt").read_text() == "anew\n"
    monkeypatch.setattr("sys.argv", ["record", "other"])
    with pytest.raises(SystemExit, match="NAME must be one of some; got other"):
        record.main()


@pytest.mark.parametrize("page", ["README.md", "docs/performance/index.md"])
def test_figures_beside_others_are_the_measured_ones(page):
    def rows(text):
        table = re.search(r"^\| N x D \|.*?(?=\n\n|\Z)", text, flags=re.DOTALL | re.MULTILINE)[0]
        names, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
        return {cells[0]: dict(zip(names, cells, strict=True)) for cells in lines}

    measured = rows((ROOT / "benchmarks" / "results" / "cpu.md").read_text())
    shown = rows(PAGES[page].read_text())
    assert len(shown) == 4
    for shape, cells in shown.items():
        assert cells.pop("N x D") == shape
        for name, cell in cells.items():
            found = measured[shape][f"{name} / mm"].split(" (")[0]
            assert cell == found or float(cell) == round(float(found), len(cell.partition(".")[2])), (shape, name)


def test_the_site_names_the_version(site):
    config, _ = site
    assert fasttriplet.__version__ in config.site_name and fasttriplet.__version__ in config.copyright


def test_measured_tables_are_taken_from_the_results(site, tmp_path, monkeypatch):
    from build_tools.docs import hooks

    marks = [match for path in PAGES.values() for match in hooks.MEASURED.findall(path.read_text())]
    assert len(marks) >= 5
    for file, heading in marks:
        assert "\n| " in hooks.measured(file, heading)
    monkeypatch.setattr(hooks, "RESULTS", tmp_path)
    (tmp_path / "some.md").write_text("# Title\n\n## One\n\n| 1 |\n\n## Two\n\n| 2 |\n")
    assert hooks.measured("some.md", "One") == "| 1 |" and hooks.measured("some.md", "Two") == "| 2 |"
    with pytest.raises(Exception, match="has no heading 'Three'"):
        hooks.measured("some.md", "Three")
