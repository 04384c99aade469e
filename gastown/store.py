"""What is remembered: one SQLite ledger, one connection that writes.

Law: every statement stands in spec/queries.sql and is looked up only here and by name. A write transaction is opened by
`begin`, which checks the epoch inside it, and sealed by `save`, which chains its events. Nothing here decides.

The chain: hash = SHA-256(previous hash + JSON of [last_seq, now_ms, epoch, token_high, [event rows]]), its first 32
hex digits. JSON of integers, null and strings in compact form is one text in both bodies (held by vectors).
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from . import shared
from .model import DERIVED_FROM, SCHEMA, Bead, Edge, Event, Lease

APPLICATION_ID: Final = 0x67617374  # "gast": says whose file this is
PAGE_BYTES: Final = 4096
CACHE_KIB: Final = 8192  # page cache of the writer; state rows are narrow
BUSY_MS: Final = 5_000
CHECKPOINT_PAGES: Final = 1_000  # between turns, by the writer alone: small and often keeps the P99 low
GENESIS: Final = "0" * 32
CONNECTION_SETTINGS: Final = (
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA busy_timeout = {BUSY_MS}",
    f"PRAGMA cache_size = -{CACHE_KIB}",
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA temp_store = MEMORY",
)


class LedgerRefused(Exception):
    """This file cannot be served: not ours, newer than this program, or damaged. Exit code 65."""


class EpochLost(Exception):
    """Another coordinator took the ledger. Exit code 75."""


class Guarded(Exception):
    """A row was not the one the decision was made on: a bug; the transaction must be rolled back."""


def is_storage_fault(error: Exception) -> bool:
    """Whether the disk or the file failed, not the statement: anything but SQLITE_ERROR and constraint violations."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return code is not None and code & 0xFF not in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT)
    return isinstance(error, OSError)


class Tip(NamedTuple):
    """Where the chain ends."""

    seq: int = 0
    now_ms: int = 0
    epoch: int = 0
    token_high: int = 0
    hash: str = GENESIS


def _parse_queries(text: str) -> dict[str, str]:
    """-> name: SQL with numbered parameters in order of first appearance, so that a tuple binds."""
    queries = {}
    for chunk in re.split(r"^-- name: ", text, flags=re.MULTILINE)[1:]:
        head, _, rest = chunk.partition("\n")
        sql = "\n".join(line for line in rest.splitlines() if not line.startswith("--")).strip().rstrip(";")
        names = list(dict.fromkeys(re.findall(r":([a-z_]+)", sql)))
        for number, name in enumerate(names, 1):
            sql = re.sub(rf":{name}\b", f"?{number}", sql)
        queries[head.split()[0]] = sql
    return queries


SORT_KEYS: Final = {  # of bead.list
    "id": "b.id",
    "created": "b.created_ns",
    "updated": "max(b.updated_ns, coalesce(l.updated_ns, 0))",
    "priority": "b.priority",
}


def _expand_list(queries: dict[str, str]) -> dict[str, str]:
    """bead_list:SORT for every sort, `-` reversed."""
    template = queries.pop("bead_list")
    for sort, key in SORT_KEYS.items():
        for sign, beyond, direction in (("", ">", "ASC"), ("-", "<", "DESC")):
            queries[f"bead_list:{sign}{sort}"] = template.format(key=key, beyond=beyond, direction=direction)
    return queries


QUERIES: Final = _expand_list(_parse_queries(shared.text("spec", "queries.sql")))


def sha(data: bytes) -> str:
    """SHA-256, the first 32 hex digits."""
    return hashlib.sha256(data).hexdigest()[:32]


def bead_image(bead: Bead) -> str:
    """What an event vouches for: the bead's columns before the derived ones."""
    return sha(orjson.dumps(bead[:DERIVED_FROM]))


def lease_image(lease: Lease) -> str:
    """The same for a grant, without until_ms and lapsed: a renewal makes no event and a lapse is the bead's."""
    return sha(orjson.dumps((*lease[:6], *lease[8:])))


def chain(previous: str, tip: tuple[int, int, int, int], events: Sequence[Event]) -> str:
    return sha(previous.encode() + orjson.dumps([*tip, [tuple(event) for event in events]]))


class Store:
    """The connection that writes. Not safe for threads running at once; the engine hands it from one to the other."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn
        self.tip = Tip(*(self.one("turn_last") or ()))

    # ------------------------------------------------------------ opening

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open and migrate. Raises LedgerRefused for a newer or foreign file (nothing is written then)."""
        conn = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            _check_owner(conn)
            for setting in CONNECTION_SETTINGS:
                conn.execute(setting)
            if conn.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal" and str(path) != ":memory:":
                raise LedgerRefused("this file system cannot hold a WAL database: move .gastown to a local disk")
            _migrate(conn)
            return cls(conn)
        except sqlite3.DatabaseError as error:
            conn.close()
            raise LedgerRefused(f"the ledger cannot be read: {error}") from error
        except LedgerRefused:
            conn.close()
            raise

    def close(self) -> None:
        self.conn.close()

    # ------------------------------------------------------------ reading

    def one(self, name: str, *parameters: Any) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self.conn.execute(QUERIES[name], parameters).fetchone()
        return row

    def many(self, name: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.conn.execute(QUERIES[name], parameters).fetchall()

    def scan(self, name: str, *parameters: Any) -> Iterable[tuple[Any, ...]]:
        return self.conn.execute(QUERIES[name], parameters)

    def setting(self, key: str) -> Any:
        row = self.one("setting_get", key)
        return None if row is None else row[0]

    def find(self, bead_id: str) -> int | None:
        row = self.one("bead_by_id", bead_id)
        return None if row is None else int(row[0])

    def load(self, n: int) -> tuple[Bead, bytes]:
        """A bead's row and body; n must exist."""
        row = self.one("bead_row", n)
        assert row is not None
        return Bead._make(row[:-1]), row[-1]

    # ------------------------------------------------------------ writing

    def begin(self, epoch: int) -> None:
        """Open the write transaction; EpochLost when another coordinator has bumped the epoch since."""
        self.conn.execute("BEGIN IMMEDIATE")
        if self.setting("epoch") != epoch:
            self.rollback()
            raise EpochLost

    def run(self, name: str, *parameters: Any) -> int:
        return self.conn.execute(QUERIES[name], parameters).rowcount

    def run_each(self, name: str, rows: Iterable[Sequence[Any]]) -> int:
        return self.conn.executemany(QUERIES[name], rows).rowcount

    def save_beads(self, rows: Sequence[tuple[int, Bead]]) -> None:
        """Write rows as (last_seq the decision was made on, new row); Guarded unless each was still there."""
        if rows and self.run_each("bead_save", [(*b[1:], b.n, was) for was, b in rows]) != len(rows):
            raise Guarded("a bead's row changed under a decision")

    def add_body(self, n: int, body: bytes, labels: Sequence[str], edges: Sequence[Edge]) -> None:
        """Write a body and what is read off it."""
        self.run("body_put", n, body)
        if labels:
            self.run_each("label_add", [(n, label) for label in labels])
        if edges:
            self.run_each("edge_add", [(n, *edge) for edge in edges])

    def replace_body(self, n: int, body: bytes, labels: Sequence[str], edges: Sequence[Edge]) -> None:
        self.run("labels_drop", n)
        self.run("edges_drop", n)
        self.add_body(n, body, labels, edges)

    def seal(self, events: Sequence[Event], now_ms: int, token_high: int) -> Tip:
        """Append the events and the turn's row; the caller commits. The new tip counts once it has."""
        last = events[-1]
        digest = chain(self.tip.hash, (last.seq, now_ms, last.epoch, token_high), events)
        tip = Tip(last.seq, now_ms, last.epoch, token_high, digest)
        self.run_each("event_add", events)
        self.run("turn_add", *tip)
        return tip

    def commit(self) -> None:
        if self.conn.in_transaction:
            self.conn.execute("COMMIT")

    def rollback(self) -> None:
        if self.conn.in_transaction:
            self.conn.execute("ROLLBACK")

    def checkpoint(self, truncate: bool = False) -> int:
        """Copy the WAL back; -> pages it still holds. Only the one writer ever calls this."""
        mode = "TRUNCATE" if truncate else "PASSIVE"
        _busy, pages, moved = self.conn.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        return int(pages - moved)


def _check_owner(conn: sqlite3.Connection) -> None:
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    owner = conn.execute("PRAGMA application_id").fetchone()[0]
    tables = conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and owner != APPLICATION_ID:
        raise LedgerRefused("this database is not a gastown ledger")
    if version > SCHEMA:
        raise LedgerRefused(f"the ledger has schema {version}, this program knows {SCHEMA}: install a newer gastown")


def migrations() -> list[tuple[int, str]]:
    """-> (number, SQL) of every migration in order."""
    return [(int(name[:4]), shared.text("migrations", name)) for name in shared.files("migrations", ".sql")]


def _migrate(conn: sqlite3.Connection) -> None:
    have = conn.execute("PRAGMA user_version").fetchone()[0]
    for number, sql in migrations():
        if number > have:
            conn.executescript(
                f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA application_id = {APPLICATION_ID};\n"
                f"PRAGMA user_version = {number};\nCOMMIT;"
            )


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read: it never writes, locks out or checkpoints the writer."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    conn = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    conn.execute("PRAGMA query_only = ON")
    return conn
