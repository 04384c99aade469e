"""What must hold of any ledger: nothing is lost, one spelling, and importing twice changes nothing."""

import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gastown.record import COLUMNS, Record, body_fields, export_line, from_fields, parse_line, reshape, wire_bead
from gastown.spelling import FORGOTTEN, ORDER

from .made import FILES, IDS, INSTANT, LAW, meaning, records
from .rows import Ledger, after, lease_of, row_of


def record_of(line: bytes) -> Record:
    record = parse_line(line)
    assert isinstance(record, Record)
    return record


@LAW
@given(FILES)
def test_export_import_export_gives_the_same_bytes(text: bytes) -> None:
    exported = after(text).give()
    assert after(exported).give() == exported


@LAW
@given(FILES)
def test_importing_again_changes_nothing(text: bytes) -> None:
    ledger = Ledger()
    first = ledger.take(text)
    exported = ledger.give()
    again = ledger.take(text)
    assert (again["created"], again["updated"], again["unchanged"]) == (0, 0, first["created"])
    assert {skip["why"] for skip in again["skipped"]} <= {"duplicate"}
    assert ledger.take(exported)["unchanged"] == first["created"]
    assert ledger.give() == exported


@LAW
@given(FILES)
def test_every_line_of_an_import_is_accounted_for(text: bytes) -> None:
    reply = after(text).take(text)
    beads = sum(b'"id"' in line and b'"title"' in line for line in text.splitlines())
    assert reply["created"] + reply["updated"] + reply["unchanged"] + len(reply["skipped"]) == beads


@LAW
@given(st.lists(records(), max_size=4).map(b"\n".join), st.lists(records(), max_size=4).map(b"\n".join))
def test_a_second_file_settles_after_one_import(first: bytes, second: bytes) -> None:
    ledger = after(first)
    ledger.take(second)
    settled = ledger.give()
    reply = ledger.take(second)
    assert (reply["created"], reply["updated"]) == (0, 0)
    assert ledger.give() == settled


@LAW
@given(records())
def test_values_are_kept(line: bytes) -> None:
    record = record_of(line)
    said, back = meaning(line), meaning(export_line(row_of(record), record.body, None))
    cleaned = {"dependencies", "comments", "labels", "metadata", "issue_type", "status", "closed_at", "rig", "_type"}
    for key, value in said.items():
        if key in FORGOTTEN:
            assert key not in back
        elif key not in ORDER or (value not in (None, "", False, ("number", "0")) and key not in cleaned):
            assert key in cleaned or back[key] == value
    assert {"id", "title", "status", "priority", "issue_type", "created_at", "updated_at"} <= back.keys()
    said_comments = [comment | {"created_at": 0} for comment in said.get("comments", ())]
    assert all(comment | {"created_at": 0} in said_comments for comment in back.get("comments", ()))
    assert all(comment in back.get("comments", ()) for comment in said.get("comments", ()))
    assert back.get("labels", []) == sorted({label for label in said.get("labels", ()) if label})


@LAW
@given(records())
def test_keys_stand_in_order(line: bytes) -> None:
    record = record_of(line)
    keys = list(json.loads(export_line(row_of(record), record.body, None)))
    known = [key for key in keys if key in ORDER]
    assert known == sorted(known, key=ORDER.index)
    assert keys[: len(known)] == known
    unknown = [key for key in json.loads(line) if key in keys and key not in ORDER]
    assert keys[len(known) :] == unknown


@LAW
@given(records())
def test_columns_and_body_share_no_key(line: bytes) -> None:
    record = record_of(line)
    fields = body_fields(record.body)
    assert not fields.keys() & set(COLUMNS) - {"rig"}
    assert tuple(fields.get("labels", ())) == record.labels
    edges = [(edge["depends_on_id"], edge["type"]) for edge in fields.get("dependencies", ())]
    assert edges == sorted(set(edges)) == [(edge.dst, edge.kind) for edge in record.edges]


@LAW
@given(records())
def test_reshaping_without_changes_changes_nothing(line: bytes) -> None:
    record = record_of(line)
    shape = reshape(record.id, record.body, {})
    assert shape == (record.body, record.labels, record.edges, record.flags, record.defer_ms)


@LAW
@given(records(), records())
def test_reshaping_gives_what_the_whole_record_would(line: bytes, other: bytes) -> None:
    record, fields = record_of(line), body_fields(record_of(other).body)
    keys = ("title", "description", "labels", "dependencies", "comments", "defer_until", "metadata", "pinned")
    changes: dict[str, Any] = {key: fields.get(key) for key in keys}
    shape = reshape(record.id, record.body, changes)
    whole = from_fields(body_fields(record.body) | changes | {"id": record.id})
    assert (shape.body, shape.labels, shape.edges) == (whole.body, whole.labels, whole.edges)
    assert (shape.flags, shape.defer_ms) == (whole.flags, whole.defer_ms)


@LAW
@given(records(), st.booleans(), st.booleans())
def test_the_wire_shows_the_record_and_our_three_keys(line: bytes, leased: bool, lapsed: bool) -> None:
    record = record_of(line)
    row, lease = row_of(record, failures=1), lease_of(lapsed=int(lapsed)) if leased else None
    shown = meaning(wire_bead(row, record.body, lease))
    exported = meaning(export_line(row, record.body, lease))
    assert shown.pop("version") == ("number", "5" if leased else "1")
    assert shown.pop("attempt") == ("number", "2")
    assert shown.pop("rig") == record.rig
    assert shown == {key: value for key, value in exported.items() if key not in ("version", "attempt", "rig")}


@LAW
@given(st.lists(INSTANT, min_size=2, max_size=5, unique=True))
def test_of_one_id_the_newest_line_wins(times: list[str]) -> None:
    lines = [json.dumps({"id": "gt-1", "title": time, "created_at": time, "updated_at": time}) for time in times]
    ledger = Ledger()
    reply = ledger.take("\n".join(lines).encode())
    rows = [record_of(line.encode()) for line in lines]
    newest = max(rows, key=lambda record: record.updated_ns)
    assert ledger.rows["gt-1"].bead.updated_ns == newest.updated_ns
    assert [skip["why"] for skip in reply["skipped"]] == ["duplicate"] * (len(times) - 1)


@LAW
@given(st.binary(max_size=60))
def test_any_bytes_are_a_line_or_a_named_fault(noise: bytes) -> None:
    ledger = Ledger()
    reply = ledger.take(noise, skip_bad=True)
    assert {skip["why"] for skip in reply["skipped"]} <= {"bad", "duplicate"}


@LAW
@given(records(IDS), st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_damaged_line_is_read_or_refused(line: bytes, at: int, damage: bytes) -> None:
    ledger = Ledger()
    ledger.take(line[:at] + damage + line[at + 1 :], skip_bad=True)
    text = ledger.give()
    assert after(text).give() == text
    assert io.BytesIO(text).readlines() == text.splitlines(keepends=True)
