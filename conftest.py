"""Which modules' docstrings are not run because what they import is not installed, or has no example."""

import importlib.util

_without_keras = [] if importlib.util.find_spec("keras") else ["fasttriplet/compat/keras.py"]
#: Importing it imports sentence-transformers, and it has no example: tests/compat has.
collect_ignore = [*_without_keras, "fasttriplet/compat/sentence_transformers/evaluation.py"]


def pytest_report_header() -> str | None:
    return f"not run, since Keras is not installed: {', '.join(_without_keras)}" if _without_keras else None
