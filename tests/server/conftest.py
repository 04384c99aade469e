"""A house for each test: sockets in a folder of its own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from .still import House


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a socket's may have 100 bytes."""
    with TemporaryDirectory(prefix="gt-") as name:
        yield Path(name)


@pytest.fixture
async def house(folder: Path) -> AsyncIterator[House]:
    async with House(folder) as served:
        yield served
