"""Which modules' docstrings are not run because what they import is not installed, or has no example."""

import importlib.util

_without_keras = [] if importlib.util.find_spec("keras") else ["fasttriplet/compat/keras.py"]
#: Importing them imports their originals, which may not be there: tests/compat runs their examples.
_ON_ORIGINALS = (
    *("lightning", "torchmetrics"),
    *(f"sentence_transformers/{name}" for name in ("evaluation", "label_retrieval", "retrieval")),
)
collect_ignore = [*_without_keras, *(f"fasttriplet/compat/{name}.py" for name in _ON_ORIGINALS)]


def pytest_report_header() -> str | None:
    return f"not run, since Keras is not installed: {', '.join(_without_keras)}" if _without_keras else None
