"""A real town for the verbs: a folder, a daemon in it, and the command line run in that folder."""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
from conformance.town import SETTINGS, Town

from gastown.cli.daemon import daemon_json
from gastown.cli.town import Place


@pytest.fixture
def town() -> Iterator[Town]:
    """A fresh daemon with short leases, for one test."""
    fresh = Town(settings=SETTINGS)
    try:
        yield fresh.start()
    finally:
        fresh.close()


@pytest.fixture
def bare() -> Iterator[Town]:
    """A folder nobody serves yet; a daemon started there by `up` is ended with it."""
    folder = Town()
    try:
        yield folder
    finally:
        told = daemon_json(Place(str(folder.dir)))
        with suppress(ProcessLookupError):
            if folder.process is None and told is not None and told["pid"] > 1 and told["pid"] != os.getpid():
                os.kill(told["pid"], signal.SIGKILL)
        folder.close()
