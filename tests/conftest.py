"""The engine that the tests run on."""

from tests import engine

_replaced = engine.select()


def pytest_report_header() -> str:
    return f"fasttriplet's engine: {engine.ENGINE}"
