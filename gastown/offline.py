"""The ledger of a town whose daemon is down: import, export, verify, backup, restore by a process of their own.

Law: the ledger's lock is held for as long as this works, so two processes never write one ledger (Refusal 75). What is
written goes through the engine, as in the daemon; what only reads leaves no event. A file that cannot be served is
LedgerRefused (65), before anything is changed.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import orjson

from . import config, peers, premises
from .durable import HighWater, wal_damage
from .engine import Engine, transfer
from .engine.core import Fatal
from .ledger import verifying
from .model import INT64_MAX, Policy
from .record import SCHEMA_NAME
from .store import APPLICATION_ID, LedgerRefused, Store, open_reader

STATE_FOLDER: Final = ".gastown"
LEDGER: Final = "ledger.db"
MARK: Final = "high_water"
TOKEN_LEAP: Final = 1 << 20  # tokens a restore skips: more than a mark that was not written yet can be behind


class Ledger:
    """What may be done with the locked ledger of the town in `folder`."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder, self.state = folder, state

    def import_file(
        self, path: Path, mode: str = "merge", dry_run: bool = False, skip_bad: bool = False
    ) -> dict[str, Any]:
        """-> the result of ledger.import. Refused for a bad line (`line`, `why`) or replace_empty on beads."""
        with path.open("rb") as file:
            return asyncio.run(_import(self.folder, self.state, file, mode, dry_run, skip_bad))

    def export_file(self, path: Path) -> None:
        """Write the canonical JSONL to `path`."""
        with _reading(self.state) as store, path.open("wb") as file:
            file.writelines(transfer.lines(store, store.tip.token_high))

    def verify(self) -> dict[str, Any]:
        """-> {ok, problems} as ledger.verify."""
        with _reading(self.state) as store:
            return verifying.verify(store)

    def backup(self, target: Path) -> None:
        """A consistent copy in one file; FileExistsError when `target` is there."""
        with _reading(self.state) as store:
            _copy(store.conn, target)


@contextmanager
def open_ledger(town: Path) -> Iterator[Ledger]:
    """The ledger of the town in folder `town`, locked. Refusal: 75 when a daemon or another verb has it, 77, 78."""
    with _locked(town) as state:
        yield Ledger(town, state)


def copy_live(town: Path, target: Path) -> None:
    """A consistent copy beside the running daemon, by a connection that cannot write. FileExistsError as `backup`."""
    with closing(open_reader(town / STATE_FOLDER / LEDGER)) as conn:
        _copy(conn, target)


def restore(town: Path, file: Path) -> Path | None:
    """Put the backup `file` in the ledger's place; -> where the ledger that was there is kept, None if there was none.

    Tokens leap to max(backup, high-water mark) + TOKEN_LEAP and the epoch past both ledgers', so nothing granted since
    the backup is ever good again. LedgerRefused for a file that is no sound ledger; then nothing is changed.
    """
    with _locked(town) as state, tempfile.TemporaryDirectory(prefix="restore-", dir=state) as scratch:
        fresh = Path(scratch)
        _take_backup(file, fresh / LEDGER)
        was = _high(state)
        with closing(Store.open(fresh / LEDGER)) as store:
            tokens = min(max(store.tip.token_high, was.token_high) + TOKEN_LEAP, INT64_MAX)
            store.run("setting_put", "epoch", max(store.setting("epoch") or 0, was.epoch))
        header = orjson.dumps({"_schema": SCHEMA_NAME, "token_high": tokens}) + b"\n"
        asyncio.run(_import(town, fresh, BytesIO(header), "merge", False, False))
        return _swap(fresh, state)


# ---------------------------------------------------------------- the lock, and opening


@contextmanager
def _locked(town: Path) -> Iterator[Path]:
    state = town.absolute() / STATE_FOLDER
    premises.own_folder(state)
    lock = premises.take_lock(state)
    umask = os.umask(0o077)
    try:
        yield state
    finally:
        os.umask(umask)
        os.close(lock)


@contextmanager
def _reading(state: Path) -> Iterator[Store]:
    """The store of a ledger that passes the checks of a start."""
    damage = wal_damage(state / f"{LEDGER}-wal")
    if damage:
        raise LedgerRefused(damage)
    with closing(Store.open(state / LEDGER)) as store, closing(HighWater(state / MARK)) as mark:
        mark.check(store)
        try:
            yield store
        except sqlite3.DatabaseError as error:
            raise LedgerRefused(f"the ledger cannot be read: {error}") from error


async def _import(town: Path, state: Path, file: BinaryIO, mode: str, dry_run: bool, skip_bad: bool) -> dict[str, Any]:
    settings = config.load(town, Policy()._asdict())
    engine = Engine(state, Policy(**settings.policy), prefix=settings.prefix or None)
    engine.on_fatal = _leave
    await engine.start()
    try:
        return await engine.import_file(file, mode, dry_run, skip_bad)
    finally:
        await engine.stop()
        await engine.close()


def _leave(fatal: Fatal) -> None:
    """The disk failed under a commit: whether it took effect is unknown, and only the next start can tell."""
    sys.stderr.write(f"Error: {fatal}\n")
    sys.stderr.flush()
    os._exit(fatal.exit_code)


# ---------------------------------------------------------------- copies


def _copy(source: sqlite3.Connection, target: Path) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    draft = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        _copy_to(source, draft)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        raise


def _copy_to(source: sqlite3.Connection, target: Path) -> None:
    """One step of the backup API, so the copy is one snapshot; its journal mode lets it be read from anywhere."""
    draft = os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        with closing(sqlite3.connect(target, isolation_level=None)) as copy:
            source.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode = DELETE")
        peers.full_sync(draft)
    finally:
        os.close(draft)


def _take_backup(file: Path, target: Path) -> None:
    """Copies a backup; LedgerRefused unless it is a ledger of ours and its pages are sound."""
    try:
        with closing(open_reader(file)) as conn:
            if conn.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise LedgerRefused(f"{file} is not a gastown ledger")
            found = conn.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise LedgerRefused(f"{file} is damaged: {found}")
            _copy_to(conn, target)
    except sqlite3.DatabaseError as error:
        raise LedgerRefused(f"{file} cannot be read as a ledger: {error}") from error


# ---------------------------------------------------------------- restoring


class High(NamedTuple):
    """The highest token and epoch the present ledger is known to have given."""

    token_high: int = 0
    epoch: int = 0


def _high(state: Path) -> High:
    """As far as it can be told: the present ledger may be the very damage that is being repaired."""
    token_high, epoch = 0, 0
    with closing(HighWater(state / MARK)) as mark:
        token_high = int((mark.read() or {}).get("token_high", 0))
    if (state / LEDGER).exists():
        with suppress(sqlite3.DatabaseError), closing(open_reader(state / LEDGER)) as conn:
            present = Store(conn)
            token_high, epoch = max(token_high, present.tip.token_high), present.setting("epoch") or 0
    return High(token_high, epoch)


def _swap(fresh: Path, state: Path) -> Path | None:
    """The new ledger and its mark take their places. Cut anywhere, the next start either finds the old ledger whole or
    refuses (the mark is replaced last), and the old one is kept with its log."""
    kept = _keep(state)
    for rest in ("-wal", "-shm"):  # an old log beside a new database would be applied to it
        (state / f"{LEDGER}{rest}").unlink(missing_ok=True)
    for name in (LEDGER, MARK):
        (fresh / name).replace(state / name)
    folder = os.open(state, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return kept


def _keep(state: Path) -> Path | None:
    if not (state / LEDGER).exists():
        return None
    number = 1
    while (kept := state / f"ledger-before-restore-{number}.db").exists():
        number += 1
    for rest in ("-wal", ""):
        with suppress(FileNotFoundError):
            os.link(state / f"{LEDGER}{rest}", f"{kept}{rest}")
    return kept
