"""What MkDocs adds to the site from elsewhere in the repository: the measured tables and plots, as they are there."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for path in sorted([*RESULTS.glob("*.md"), *RESULTS.glob("*.png")]):
        files.append(File.generated(config, f"performance/{path.name}", abs_src_path=str(path)))
    return files
