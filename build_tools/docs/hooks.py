"""What MkDocs adds to the site from elsewhere in the repository, as it is there: version, measurements, examples.

- ``benchmarks/results/``: its pages and plots are pages and plots of ``performance/``. On any page
  ``<!-- results: FILE # HEADING -->`` gives way to what stands below that heading of the file.
- ``examples/NAME.py``: a page of its docstring, its source, and ``examples/output/NAME.txt`` with the pictures
  ``NAME*.png`` beside it. A script without an output is a warning, which ``mkdocs build --strict`` fails by.
  ``<!-- scripts -->`` gives way to the table of all.
- ``examples/resnet50/README.md`` with its pictures.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import fasttriplet

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
EXAMPLES = ROOT / "examples"
SECTION = "Examples"  # of the navigation
FIRST = "quickstart"  # of the scripts; the others by name
MEASURED = re.compile(r"<!-- results: (\S+) # (.+?) -->")
SCRIPTS = "<!-- scripts -->"
#: What a match counts in a search: a name is looked for where it is described. By folder or page; elsewhere 1.
BOOSTS = {"api/losses.md": 4, "api/miners.md": 4, "api/retrieval.md": 4, "api/reference.md": 0.2, "performance/": 0.2}
#: Spaces that end no line of a table's cell: "8192 x 128", "0.2 to 0.3", "4.8 ms", "3 %".
KEPT = re.compile(r"(?<=\d) (?:(?:x|to) (?=[\d-])|(?=ms\b|%))")

log = get_plugin_logger("hooks")


class Script(NamedTuple):
    """A file of ``examples/``; ``command`` is how its docstring runs it."""

    path: Path
    text: str
    command: str

    @classmethod
    def of(cls, path: Path) -> Script:
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        found = re.search(rf"(?:python|torchrun)\b[^`\n]*?examples/{path.name}(?: --?[\w-]+(?:[ =][\w./]+)?)*", text)
        if found is None:
            raise PluginError(f"the docstring of {path} must say how to run it: examples/{path.name}")
        return cls(path, text.replace("``", "`"), found[0])

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def shows(self) -> str:
        """The first sentence of the docstring."""
        return re.split(r"(?<=[.!?])\s|\n\n", self.text)[0].replace("\n", " ")

    @property
    def output(self) -> Path:
        return self.path.parent / "output" / f"{self.name}.txt"

    @property
    def pictures(self) -> list[Path]:
        return [path for path in pictures() if re.fullmatch(rf"{self.name}(_.*)?", path.stem)]


def scripts() -> list[Script]:
    paths = (path for path in EXAMPLES.glob("*.py") if path.name != "__init__.py")
    return [Script.of(path) for path in sorted(paths, key=lambda path: (path.stem != FIRST, path.stem))]


def pictures() -> list[Path]:
    return sorted((EXAMPLES / "output").glob("*.png"))


def page_of(script: Script) -> str:
    parts = [f"---\nhide: [toc]\n---\n\n# {script.path.name}", script.text]
    parts.append(f'````python title="examples/{script.path.name}"\n{script.path.read_text()}````')
    if script.output.exists():
        parts.append(f'## What it prints\n\n````text title="{script.command}"\n{script.output.read_text()}````')
    else:
        log.warning(f"examples/{script.path.name} has no examples/output/{script.output.name}: what it prints")
    parts += [f"![{path.stem.replace('_', ' ')}](output/{path.name}){{.picture}}" for path in script.pictures]
    return "\n\n".join(parts) + "\n"


def table_of_scripts() -> str:
    rows = [f"| [`{each.path.name}`]({each.name}.md) | {each.shows} | `{each.command}` |" for each in scripts()]
    return "\n".join(["| Script | Shows | Run |", "|---|---|---|", *rows])


def measured(file: str, heading: str) -> str:
    """What stands below a heading of a file of ``benchmarks/results/``, up to the next of its kind."""
    text = (RESULTS / file).read_text()
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    if found is None:
        raise PluginError(f"benchmarks/results/{file} has no heading {heading!r}")
    return found[1].strip()


def with_kept_spaces(row: str) -> str:
    return KEPT.sub(lambda match: match[0].replace(" ", "\u00a0"), row)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.site_name = f"fasttriplet {fasttriplet.__version__}"
    config.copyright = f"fasttriplet {fasttriplet.__version__}, MIT licence"
    if config.nav is not None:
        (section,) = (entry[SECTION] for entry in config.nav if SECTION in entry)
        section[1:1] = [{each.path.name: f"examples/{each.name}.md"} for each in scripts()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    found = {f"performance/{path.name}": path for kind in ("*.md", "*.png") for path in sorted(RESULTS.glob(kind))}
    found |= {f"examples/output/{path.name}": path for path in pictures()}
    large = EXAMPLES / "resnet50"
    found |= {f"examples/resnet50/{path.name}": path for path in [large / "README.md", *sorted(large.glob("*.png"))]}
    for uri, path in found.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    shown = []
    for script in scripts():
        files.append(File.generated(config, f"examples/{script.name}.md", content=page_of(script)))
        shown += script.pictures
    for path in set(pictures()) - set(shown):
        log.warning(f"examples/output/{path.name} is of no script: it must be named after one")
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    for place, boost in BOOSTS.items():
        if page.file.src_uri.startswith(place):
            page.meta.setdefault("search", {"boost": boost})
    if SCRIPTS in markdown:
        markdown = markdown.replace(SCRIPTS, table_of_scripts())
    markdown = MEASURED.sub(lambda match: measured(match[1], match[2]), markdown)
    return re.sub(r"^\|.*$", lambda row: with_kept_spaces(row[0]), markdown, flags=re.MULTILINE)
