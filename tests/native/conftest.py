"""What the tests of the kernels share: the native module and its tiers."""

import pytest

from tests.native.module import load


@pytest.fixture(scope="session")
def native():
    """The module; it must be there: `make test` builds it."""
    return load()


def pytest_generate_tests(metafunc):
    if "tier" in metafunc.fixturenames:
        metafunc.parametrize("tier", load().tiers_to_test())
