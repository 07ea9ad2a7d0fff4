"""The Python snippets of README.md run as they stand."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.DOTALL | re.MULTILINE)


def test_there_are_snippets():
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet(number):
    exec(compile(SNIPPETS[number], f"README.md snippet {number}", "exec"), {"__name__": "readme"})


def test_every_public_name_is_in_the_table():
    import fasttriplet

    text = README.read_text()
    missing = [name for name in fasttriplet.__all__ if not name.startswith("__") and f"`{name}" not in text]
    assert not missing
