"""Towns for the tests: a fresh one, one a module, and one a module with every setting at its default."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .town import BODIES, SETTINGS, Town

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--body", default="python", choices=sorted(BODIES), help="which body the daemon runs")


@pytest.fixture(scope="session")
def coordinator(pytestconfig: pytest.Config) -> str:
    # The option is unknown when pytest starts from the root and meets this file late: then the default holds.
    return str(pytestconfig.getoption("--body", default="python"))


@pytest.fixture
def town(coordinator: str) -> Iterator[Town]:
    """A fresh daemon with short leases and backoff, for one test."""
    with_short_times = Town(coordinator, SETTINGS)
    try:
        yield with_short_times.start()
    finally:
        with_short_times.close()


@pytest.fixture(scope="module")
def shared_town(coordinator: str) -> Iterator[Town]:
    """A daemon with short leases and backoff, for tests that keep to their own beads."""
    shared = Town(coordinator, SETTINGS)
    try:
        yield shared.start()
    finally:
        shared.close()


@pytest.fixture(scope="module")
def plain_town(coordinator: str) -> Iterator[Town]:
    """A daemon with the contract's own numbers, for tests that keep to their own beads."""
    plain = Town(coordinator)
    try:
        yield plain.start()
    finally:
        plain.close()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real ledgers."""
    if not DATA.is_dir():
        pytest.skip(f"the real ledgers are not at {DATA}")
    return DATA
