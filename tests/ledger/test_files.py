"""Whole files: which lines count, what refuses them, what a written file looks like."""

import io
from pathlib import Path

import pytest

from gastown.ledger.exporting import export_lines, replacing
from gastown.ledger.merging import plan_import
from gastown.ledger.reading import BadImport, Skip, lines, survey
from gastown.model import LINE_BYTES_MAX
from gastown.record import Memory, Record, parse_line

from .rows import Ledger, after


def line(name: str, updated: str = "2026-01-01T00:00:00Z", **rest: str) -> bytes:
    extra = "".join(f',"{key}":"{value}"' for key, value in rest.items())
    return f'{{"id":"{name}","title":"t","updated_at":"{updated}"{extra}}}'.encode()


def sized(size: int) -> bytes:
    head = (
        b'{"id":"gt-1","title":"t","status":"open","priority":2,"issue_type":"task","created_at":"2026-01-01T00:00:00Z"'
    )
    head += b',"updated_at":"2026-01-01T00:00:00Z","description":"'
    return head + b"x" * (size - len(head) - 2) + b'"}'


def test_lines_are_numbered_from_one_and_blank_ones_are_left_out() -> None:
    file = io.BytesIO(b"\xef\xbb\xbfone\r\n\n  \t\n{\xc2\xa0}\nlast")
    assert list(lines(file)) == [(1, b"one"), (4, b"{\xc2\xa0}"), (5, b"last")]
    assert list(lines(file)) == [(1, b"one"), (4, b"{\xc2\xa0}"), (5, b"last")]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_of_one_mebibyte_is_read(end: bytes) -> None:
    assert after(b"\xef\xbb\xbf" + sized(LINE_BYTES_MAX) + end).rows.keys() == {"gt-1"}


@pytest.mark.parametrize("extra", [1, 2, 3, 4, 5, 6, 7, LINE_BYTES_MAX, 3 * LINE_BYTES_MAX])
def test_an_over_long_line_is_refused_and_the_next_one_read(extra: int) -> None:
    text = sized(LINE_BYTES_MAX + extra) + b"\n" + line("gt-2")
    with pytest.raises(BadImport, match="line 1: longer than 1 MiB"):
        plan_import(text)
    ledger = Ledger()
    assert ledger.take(text, skip_bad=True)["skipped"] == [{"line": 1, "id": None, "why": "bad"}]
    assert ledger.rows.keys() == {"gt-2"}


def test_a_line_that_would_grow_over_a_mebibyte_is_refused() -> None:
    edges = b'{"depends_on_id":"a"},' * 30_000 + b'{"depends_on_id":"b"}'
    many = b",".join(b'{"depends_on_id":"a%d"}' % number for number in range(30_000))
    assert isinstance(parse_line(b'{"id":"gt-1","title":"t","dependencies":[%s]}' % edges), Record)
    with pytest.raises(BadImport, match="longer than 1 MiB with the keys"):
        plan_import(b'{"id":"gt-1","title":"t","dependencies":[%s]}' % many)


def test_a_bad_line_refuses_the_file_by_its_number() -> None:
    with pytest.raises(BadImport) as caught:
        plan_import(line("gt-1") + b"\n\n{broken\n" + line("gt-2"))
    assert (caught.value.line, caught.value.why) == (3, "not JSON")


def test_skipped_bad_lines_say_whose_they_are() -> None:
    ledger = Ledger()
    reply = ledger.take(b"{broken\n" + line("gt-1", status="Bad") + b"\n" + line("gt-2"), skip_bad=True)
    assert reply["skipped"] == [{"line": 1, "id": None, "why": "bad"}, {"line": 2, "id": "gt-1", "why": "bad"}]
    assert ledger.rows.keys() == {"gt-2"}


def test_a_union_merge_leaves_the_newest_line_of_each_id() -> None:
    old, new, newer = (line("gt-1", f"2026-01-0{day}T00:00:00Z", notes=str(day)) for day in (1, 2, 3))
    found = survey(io.BytesIO(b"\n".join((new, old, line("gt-2"), newer, new))), skip_bad=False)
    assert found.winners == {"gt-1": 4, "gt-2": 3}
    assert found.skipped == [Skip(2, "gt-1", "duplicate"), Skip(1, "gt-1", "duplicate"), Skip(5, "gt-1", "duplicate")]


def test_of_equally_new_lines_a_deletion_wins_then_the_later_line() -> None:
    dead, live = line("gt-1", status="tombstone"), line("gt-1", notes="n")
    assert survey(io.BytesIO(dead + b"\n" + live), skip_bad=False).winners == {"gt-1": 1}
    assert survey(io.BytesIO(live + b"\n" + live), skip_bad=False).winners == {"gt-1": 2}


def test_skipped_lines_come_in_order() -> None:
    ledger = after(line("gt-1", "2026-02-01T00:00:00Z") + b"\n" + line("gt-2", status="tombstone"))
    reply = ledger.take(b"\n".join((line("gt-3"), line("gt-1"), line("gt-2"), b"?", line("gt-3"))), skip_bad=True)
    assert [(skip["line"], skip["why"]) for skip in reply["skipped"]] == [
        (1, "duplicate"), (2, "stale"), (3, "tombstone"), (4, "bad"),
    ]  # fmt: skip
    assert reply["created"] == 1


def test_the_highest_counter_of_all_headers_counts() -> None:
    text = (
        b'{"_schema":"gastown/1","token_high":7}\n{"_schema":"beads-jsonl/1"}\n{"_schema":"gastown/1","token_high":5}'
    )
    ledger = after(text)
    assert ledger.token_high == 7
    assert ledger.give() == b'{"_schema":"gastown/1","token_high":7}\n'


def test_memories_stand_behind_the_beads_by_key_the_last_one_of_a_key() -> None:
    text = b'{"_type":"memory","key":"b","value":1}\n{"_type":"memory","key":"a"}\n'
    text += b'{"_type":"memory","key":"b","value":2.0}\n'
    assert after(text + line("gt-1")).give().splitlines()[1:] == [
        b'{"_type":"memory","key":"a"}',
        b'{"_type":"memory","key":"b","value":2.0}',
    ]


def test_an_empty_ledger_is_an_empty_file() -> None:
    assert after(b"").give() == b""
    assert after(b"\n \n").give() == b""


def test_export_refuses_beads_out_of_order() -> None:
    rows = after(line("gt-2") + b"\n" + line("gt-1")).rows.values()
    with pytest.raises(ValueError, match="gt-1 after gt-2"):
        list(export_lines(rows, [], 0))


def test_export_sorts_memories() -> None:
    memories = [Memory("b", b"2"), Memory("a", b"1")]
    assert list(export_lines([], memories, 3)) == [b'{"_schema":"gastown/1","token_high":3}\n', b"1\n", b"2\n"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "issues.jsonl"
    target.write_bytes(b"old")
    with replacing(target) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "issues.jsonl"
    target.write_bytes(b"old")

    def fail() -> None:
        with replacing(target) as file:
            file.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_file_on_disk_is_planned_like_text(tmp_path: Path) -> None:
    path = tmp_path / "issues.jsonl"
    path.write_bytes(line("gt-1") + b"\n" + line("gt-2"))
    with path.open("rb") as file:
        plan = plan_import(file)
        assert [decision.id for decision in plan.decisions(lambda _: None)] == ["gt-1", "gt-2"]
    assert plan.reply() == {"created": 2, "updated": 0, "unchanged": 0, "skipped": []}
