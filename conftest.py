"""Which modules' docstrings are not run because what they import is not installed."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("keras") else ["fasttriplet/compat/keras.py"]


def pytest_report_header() -> str | None:
    return f"not run, since Keras is not installed: {', '.join(collect_ignore)}" if collect_ignore else None
