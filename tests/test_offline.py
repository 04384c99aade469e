"""A town whose daemon is down: what its ledger gives, takes and refuses."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gastown import offline, premises
from gastown.cli import gastown
from gastown.durable import HighWater
from gastown.model import Refused
from gastown.store import LedgerRefused, Store, Tip

NOW = "2026-01-02T03:04:05Z"


@pytest.fixture
def town(tmp_path: Path) -> Path:
    (tmp_path / "town").mkdir()
    return tmp_path / "town"


def line(bead_id: str, **more: object) -> str:
    return json.dumps({"id": bead_id, "title": "t", "priority": 2, "created_at": NOW, "updated_at": NOW, **more}) + "\n"


def take(town: Path, *lines: str, **options: bool) -> dict[str, object]:
    file = town.parent / "in.jsonl"
    file.write_text("".join(lines))
    with offline.open_ledger(town) as ledger:
        return ledger.import_file(file, **options)  # type: ignore[arg-type]  # flags only


def ids(town: Path) -> list[str]:
    return [row["id"] for row in exported(town) if "id" in row]


def exported(town: Path) -> list[dict[str, object]]:
    out = town.parent / "out.jsonl"
    with offline.open_ledger(town) as ledger:
        ledger.export_file(out)
    return [json.loads(text) for text in out.read_text().splitlines()]


def backed_up(town: Path) -> Path:
    copy = town.parent / "copy.db"
    with offline.open_ledger(town) as ledger:
        ledger.backup(copy)
    return copy


@contextlib.contextmanager
def the_store(town: Path) -> Iterator[Store]:
    with contextlib.closing(Store.open(town / ".gastown" / "ledger.db")) as store:
        yield store


def tip(town: Path) -> Tip:
    with the_store(town) as store:
        return store.tip


# ---------------------------------------------------------------- import and export


def test_a_town_that_never_ran_has_an_empty_ledger(town: Path) -> None:
    assert exported(town) == []


def test_what_was_imported_is_exported(town: Path) -> None:
    assert take(town, line("a-2"), line("a-1", extra=[1]))["created"] == 2
    assert ids(town) == ["a-1", "a-2"]
    assert exported(town)[0]["extra"] == [1]


def test_the_same_file_again_changes_nothing(town: Path) -> None:
    take(town, line("a-1"))
    before = exported(town)
    assert take(town, line("a-1"))["unchanged"] == 1
    assert exported(town) == before


def test_a_dry_run_takes_nothing_in(town: Path) -> None:
    assert take(town, line("a-1"), dry_run=True)["created"] == 1
    assert ids(town) == []


def test_a_bad_line_refuses_the_file_whole(town: Path) -> None:
    with pytest.raises(Refused) as refused:
        take(town, line("a-1"), "{oops\n")
    assert refused.value.data["line"] == 2
    assert ids(town) == []
    assert take(town, line("a-1"), "{oops\n", skip_bad=True)["created"] == 1


def test_reading_leaves_no_event(town: Path) -> None:
    take(town, line("a-1"))
    before = tip(town)
    with offline.open_ledger(town) as ledger:
        assert ledger.verify() == {"ok": True, "problems": []}
        ledger.export_file(town / "out")
        ledger.backup(town / "copy")
    assert tip(town) == before


def test_files_are_their_owners_alone(town: Path) -> None:
    take(town, line("a-1"))
    modes = {path.name: path.stat().st_mode & 0o077 for path in (town / ".gastown").iterdir()}
    assert set(modes.values()) == {0}, modes


# ---------------------------------------------------------------- refusals


def test_a_held_lock_is_75(town: Path) -> None:
    premises.own_folder(town / ".gastown")
    lock = premises.take_lock(town / ".gastown")
    try:
        with pytest.raises(premises.Refusal) as refusal, offline.open_ledger(town):
            raise AssertionError("the lock was taken twice")
        assert refusal.value.exit_code == premises.LEADERSHIP_LOST
        ended = CliRunner().invoke(gastown, ["verify", "--dir", str(town)])
        assert (ended.exit_code, "Traceback" in ended.output) == (75, False)
    finally:
        os.close(lock)


def test_the_lock_is_given_back(town: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), offline.open_ledger(town):
            raise KeyError


def test_a_ledger_behind_its_mark_is_65(town: Path) -> None:
    take(town, line("a-1"))
    with contextlib.closing(HighWater(town / ".gastown" / "high_water")) as mark:
        mark.write(tip(town)._replace(seq=10**6))
    with pytest.raises(LedgerRefused, match="acknowledged"):
        exported(town)
    assert CliRunner().invoke(gastown, ["export", "--dir", str(town)]).exit_code == 65


def test_verify_finds_a_changed_byte(town: Path) -> None:
    take(town, line("a-1", description="genuine"))
    with contextlib.closing(sqlite3.connect(town / ".gastown" / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE body SET json = CAST(replace(json, 'genuine', 'forgery') AS BLOB)")
    ended = CliRunner().invoke(gastown, ["verify", "--json", "--dir", str(town)])
    assert ended.exit_code == 65
    assert [problem["id"] for problem in json.loads(ended.stdout)["problems"]] == ["a-1"]


# ---------------------------------------------------------------- backup and restore


def test_a_backup_never_replaces_a_file(town: Path) -> None:
    take(town, line("a-1"))
    copy = backed_up(town)
    before = copy.read_bytes()
    with pytest.raises(FileExistsError):
        backed_up(town)
    assert copy.read_bytes() == before


def test_a_copy_beside_a_daemon_needs_no_lock(town: Path) -> None:
    take(town, line("a-1"))
    with offline.open_ledger(town):
        offline.copy_live(town, town.parent / "copy.db")
    other = town.parent / "other"
    other.mkdir()
    assert offline.restore(other, town.parent / "copy.db") is None
    assert ids(other) == ["a-1"]


def test_restore_brings_back_what_was_and_keeps_what_is(town: Path) -> None:
    take(town, line("a-1"))
    copy = backed_up(town)
    take(town, line("a-2"))
    kept = offline.restore(town, copy)
    assert ids(town) == ["a-1"]
    assert kept is not None
    with contextlib.closing(Store.open(kept)) as store:
        assert store.find("a-2") is not None
    assert take(town, line("a-3"))["created"] == 1
    with offline.open_ledger(town) as ledger:
        assert ledger.verify()["ok"]


@pytest.mark.parametrize(("backup", "mark"), [(7, 7), (7, 5_000_000)])
def test_restore_leaps_over_every_token_since(town: Path, backup: int, mark: int) -> None:
    take(town, json.dumps({"_schema": "gastown/1", "token_high": backup}) + "\n", line("a-1"))
    copy = backed_up(town)
    take(town, json.dumps({"_schema": "gastown/1", "token_high": mark}) + "\n")
    offline.restore(town, copy)
    assert exported(town)[0]["token_high"] == mark + (1 << 20)


def test_restore_believes_the_mark_when_the_ledger_is_gone(town: Path) -> None:
    take(town, line("a-1"))
    copy = backed_up(town)
    with contextlib.closing(HighWater(town / ".gastown" / "high_water")) as mark:
        mark.write(tip(town)._replace(token_high=9_000_000))
    (town / ".gastown" / "ledger.db").write_bytes(b"not a database at all" * 400)
    offline.restore(town, copy)
    assert exported(town)[0]["token_high"] == 9_000_000 + (1 << 20)


def test_epochs_grow_over_a_restore(town: Path) -> None:
    take(town, line("a-1"))
    copy = backed_up(town)
    for number in range(3):
        take(town, line(f"b-{number}"))
    before = tip(town).epoch
    offline.restore(town, copy)
    assert tip(town).epoch > before


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"\xff" * 8_000, b"{}\n"])
def test_a_file_that_is_no_ledger_changes_nothing(town: Path, content: bytes) -> None:
    take(town, line("a-1"))
    before, strange = tip(town), town.parent / "strange"
    strange.write_bytes(content)
    with pytest.raises(LedgerRefused):
        offline.restore(town, strange)
    assert tip(town) == before
    assert sorted(path.name for path in (town / ".gastown").iterdir() if "restor" in path.name) == []


def test_a_damaged_backup_is_refused(town: Path) -> None:
    take(town, *(line(f"a-{number}", description="x" * 500) for number in range(200)))
    copy = backed_up(town)
    raw = bytearray(copy.read_bytes())
    raw[8 * 4096 : 20 * 4096] = b"\xa5" * (12 * 4096)
    copy.write_bytes(raw)
    with pytest.raises(LedgerRefused):
        offline.restore(town, copy)
