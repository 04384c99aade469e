"""The schema: what a fresh file gets, what an older one becomes with its rows kept, and which files are refused."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gastown.model import SCHEMA, Bead, Event, Lease, Worker
from gastown.store import APPLICATION_ID, QUERIES, LedgerRefused, Store, _parse_queries, migrations

# A row of every table, as of each schema: add to it with every migration that adds a table.
ROWS: dict[int, dict[str, str]] = {
    1: {
        "coordinator": "'epoch', 1",
        "bead": "1, 'gt-1', 'open', 2, 'task', NULL, '', 5, 5, NULL, NULL, NULL, 0, NULL, NULL, 0, 0, 0, 1, 1, NULL,"
        " NULL, 'sum', 0, 0, 'ready', 7, NULL",
        "body": "1, CAST('{}' AS BLOB)",
        "edge": "1, 'gt-2', 'blocks', 0",
        "label": "1, 'red'",
        "lease": "1, 'w-1', 'ada', 1, 1, 10, 20, 0, 2, 5, 2",
        "event": "1, 5, 1, 'created', 1, NULL, NULL, NULL, NULL, 'sum'",
        "turn": "1, 5, 1, 0, 'hash'",
        "recheck": "1",
        "worker": "'w-1', 'ada', 'unix', '[]', 1, '', 'null', 5, 5, 0, NULL",
        "request_even": "x'01', x'02', x'03'",
        "request_odd": "x'01', x'02', x'03'",
        "salvage": "1, 1, 1",
        "convoy": "'cv-1', 'c', 5",
        "convoy_bead": "'cv-1', 1",
        "pause": "'core'",
        "token": "'t-1', 'n', 'admin', x'01', 5, NULL, 0",
        "memory": "'k', CAST('{}' AS BLOB), 1",
    }
}
OLDER = range(1, SCHEMA + 1)


def shape(conn: sqlite3.Connection) -> list[tuple[str, ...]]:
    return conn.execute("SELECT kind, name, tbl_name, sql FROM (SELECT type AS kind, * FROM sqlite_schema)").fetchall()


def tables(conn: sqlite3.Connection) -> set[str]:
    rows = conn.execute("SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE TABLE%'")
    return {name for (name,) in rows if not name.startswith("sqlite_")}


def made(path: Path, schema: int) -> None:
    """A ledger of that schema with a row in every table."""
    conn = sqlite3.connect(path, isolation_level=None)
    for number, sql in migrations():
        if number <= schema:
            conn.executescript(sql)
    for upto in range(1, schema + 1):
        for table, values in ROWS.get(upto, {}).items():
            conn.execute(f"INSERT INTO {table} VALUES ({values})")
    conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    conn.execute(f"PRAGMA user_version = {schema}")
    conn.close()


# ---------------------------------------------------------------- what a file becomes


def test_migrations_are_numbered_from_one_without_a_gap() -> None:
    assert [number for number, _ in migrations()] == list(range(1, SCHEMA + 1))
    for _, sql in migrations():
        assert not [line for line in sql.splitlines() if line.startswith(("BEGIN", "COMMIT", "PRAGMA"))]


def test_a_fresh_file_has_the_schema_that_the_migrations_add_up_to(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "ledger.db")
    summed = sqlite3.connect(":memory:")
    for _, sql in migrations():
        summed.executescript(sql)
    assert shape(store.conn) == shape(summed)
    assert store.conn.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    assert store.conn.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    store.close()
    summed.close()


def test_every_table_is_strict_and_has_a_sample_row(tmp_path: Path) -> None:
    made(tmp_path / "ledger.db", SCHEMA)
    conn = sqlite3.connect(tmp_path / "ledger.db")
    assert {name for sample in ROWS.values() for name in sample} == tables(conn)
    for name, strict in conn.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'"):
        assert strict or name.startswith("sqlite_"), name
    conn.close()


@pytest.mark.parametrize("schema", OLDER)
def test_an_older_ledger_keeps_its_rows(tmp_path: Path, schema: int) -> None:
    path = tmp_path / "ledger.db"
    made(path, schema)
    store = Store.open(path)
    assert store.conn.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    for table in tables(store.conn):
        assert store.conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 1, table
    assert store.load(1)[0].id == "gt-1"
    store.close()


def test_opening_again_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    Store.open(path).close()
    before = path.read_bytes()
    again = Store.open(path)
    assert again.conn.total_changes == 0
    again.close()
    assert path.read_bytes() == before


@pytest.mark.parametrize("struct", [("bead", Bead), ("lease", Lease), ("event", Event), ("worker", Worker)], ids=str)
def test_structs_are_their_tables_columns_in_order(tmp_path: Path, struct: tuple[str, type[Bead]]) -> None:
    store = Store.open(tmp_path / "ledger.db")
    table, fields = struct[0], struct[1]._fields
    assert tuple(row[1] for row in store.conn.execute(f"PRAGMA table_info({table})")) == fields
    store.close()


# ---------------------------------------------------------------- what is refused


def refused(path: Path, why: str) -> None:
    before, around = path.read_bytes(), sorted(path.parent.iterdir())
    with pytest.raises(LedgerRefused, match=why):
        Store.open(path)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == around


def test_a_newer_ledger_is_refused_with_nothing_written(tmp_path: Path) -> None:
    made(tmp_path / "ledger.db", SCHEMA)
    conn = sqlite3.connect(tmp_path / "ledger.db")
    conn.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    conn.close()
    refused(tmp_path / "ledger.db", f"schema {SCHEMA + 1}.*newer gastown")


def test_somebody_elses_database_is_refused_with_nothing_written(tmp_path: Path) -> None:
    conn = sqlite3.connect(tmp_path / "ledger.db")
    conn.execute("CREATE TABLE issues (id TEXT)")
    conn.close()
    refused(tmp_path / "ledger.db", "not a gastown ledger")


def test_a_file_that_is_no_database_is_refused_with_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database at all, but a text of some length\n" * 100)
    refused(tmp_path / "ledger.db", "cannot be read")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises((LedgerRefused, sqlite3.OperationalError)):
        Store.open(tmp_path / "nowhere" / "ledger.db")


# ---------------------------------------------------------------- queries


def test_every_query_is_understood_by_the_schema(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "ledger.db")
    for name, sql in QUERIES.items():
        parameters = [None] * max((int(n) for n in numbers(sql)), default=0)
        store.conn.execute(f"EXPLAIN {sql}", parameters).fetchall()
        assert ":" not in sql.replace("::", ""), f"{name} has a parameter left"
    store.close()


def numbers(sql: str) -> list[str]:
    return [word[1:] for word in sql.replace("(", " ").replace(")", " ").replace(",", " ").split() if word[:1] == "?"]


def test_parameters_are_numbered_in_the_order_they_appear() -> None:
    text = "-- name: x :one\n-- Why.\nSELECT :b, :a, :b FROM t WHERE a=:a_b;\n-- name: y :exec\nDELETE FROM t;\n"
    assert _parse_queries(text) == {"x": "SELECT ?1, ?2, ?1 FROM t WHERE a=?3", "y": "DELETE FROM t"}
