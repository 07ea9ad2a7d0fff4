"""One start of processes for each number of ranks, with the work of all test modules here that were collected."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import pytest

from tests.distributed.ranks import run


@pytest.fixture(scope="session")
def found(request: pytest.FixtureRequest) -> Callable[[int], dict[str, list[Any]]]:
    """found(ranks): by name what every rank found of what the modules' ``work(ranks)`` asks for."""
    modules: dict[str, ModuleType] = {}
    for item in request.session.items:
        module = getattr(item, "module", None)
        if module is not None and module.__name__.startswith("tests.distributed."):
            modules[module.__name__] = module

    @cache
    def of(ranks: int) -> dict[str, list[Any]]:
        asked: dict[str, Any] = {}
        for module in modules.values():
            for name, work in getattr(module, "work", lambda ranks: {})(ranks).items():
                assert name not in asked, name
                asked[name] = work
        return run(ranks, asked)

    return of
