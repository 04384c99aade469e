"""What the command line remembers of a worker between two calls: its worker_id and the leases it holds.

Law: one file a worker name, `.gastown/workers/NAME.json`, 0600, changed only under its lock and replaced whole, so two
agents that share a name cannot tear it. A token is kept from the grant until the lease is settled or lost.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import orjson

from gastown.client import Lease

ENV: Final = "GASTOWN_WORKER"
NAME_BYTES_MAX: Final = 128  # of a worker's name on the wire; with the suffix it is still a file's name


def worker_name(given: str | None) -> str:
    """--worker, else $GASTOWN_WORKER, else user@host. UsageError for a name that cannot be a file's."""
    name = os.environ.get(ENV) if given is None else given
    if name is None:
        name = f"{getpass.getuser()}@{socket.gethostname()}"
    bad = (
        not name or not name.isprintable() or "/" in name or name.startswith(".") or len(name.encode()) > NAME_BYTES_MAX
    )
    if bad:
        raise click.UsageError(f"the worker name {name!r} cannot be used: 1 to {NAME_BYTES_MAX} printable bytes, no '/'"
                               " and no '.' in front")  # fmt: skip
    return name


class WorkerMemory:
    """The file of one worker name. `worker_id` and `leases` are as of the last read or change."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.path = folder / f"{name}.json"
        self.worker_id = ""
        self.leases: dict[str, Lease] = {}
        folder.mkdir(mode=0o700, exist_ok=True)
        self.read()

    def read(self) -> None:
        try:
            kept: dict[str, Any] = orjson.loads(self.path.read_bytes())
            self.worker_id = kept["worker_id"]
            self.leases = {bead_id: Lease(bead_id, self.worker_id, *row) for bead_id, row in kept["leases"].items()}
        except (FileNotFoundError, orjson.JSONDecodeError, KeyError, TypeError):
            self.worker_id, self.leases = "", {}  # nothing usable: registering again brings the leases back

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Under the lock: reads anew, lets the caller change `worker_id` and `leases`, writes."""
        with self._locked():
            self.read()
            yield
            self._write()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.path.with_name(f".{self.path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self) -> None:
        leases = {bead_id: [lease.token, lease.attempt, lease.expires_at_ms] for bead_id, lease in self.leases.items()}
        fresh = self.path.with_name(f".{self.path.name}.new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(orjson.dumps({"worker": self.name, "worker_id": self.worker_id, "leases": leases}) + b"\n")
        fresh.replace(self.path)

    def keep(self, *leases: Lease) -> None:
        if leases:
            with self.changing():
                self.leases |= {lease.bead_id: lease for lease in leases}

    def forget(self, *gone: Lease) -> None:
        """Drops leases, unless a newer grant of the same bead has taken their place meanwhile."""
        with self.changing():
            for lease in gone:
                kept = self.leases.get(lease.bead_id)
                if kept is not None and kept.token <= lease.token:
                    del self.leases[lease.bead_id]
