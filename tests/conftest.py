"""The engine that the tests run on, tests/engine.py: the CPU's own unless another is asked for."""

import os
from pathlib import Path

collect_ignore = []
if os.environ.get("FASTTRIPLET_TEST_ENGINE", "cpu") != "cpu":
    from tests import engine

    _replaced = engine.select()
    everything = [path.name for path in Path(__file__).parent.iterdir()]
    collect_ignore = [name for name in everything if not engine.runs(name)]


def pytest_report_header() -> str:
    return f"fasttriplet's engine: {os.environ.get('FASTTRIPLET_TEST_ENGINE', 'cpu')}"
