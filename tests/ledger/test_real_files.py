"""Real ledgers of other projects: every line is read, written once and read again to the same bytes."""

import json
from pathlib import Path
from typing import Any

import pytest

from gastown.record import BadLine, Record, parse_line
from gastown.spelling import FORGOTTEN

from .rows import Ledger, after

DATA = Path(__file__).parents[3] / "shared" / "data"
FILES = {"gastown-6065.jsonl": (6065, 3038), "beads-2523.jsonl": (2523, 345), "br-513.jsonl": (513, 1)}
EMPTY: tuple[Any, ...] = ("", 0, False, None, [], {})


@pytest.fixture(params=FILES)
def text(request: pytest.FixtureRequest) -> bytes:
    path: Path = DATA / request.param
    if not path.exists():
        pytest.skip(f"no real ledgers: {path} is missing")
    return path.read_bytes()


def normal(record: dict[str, Any]) -> dict[str, Any]:
    """What the file says, without what is known to be cleaned."""
    kept = {key: value for key, value in record.items() if key not in FORGOTTEN and value not in EMPTY}
    kept |= {"priority": record["priority"]}
    if "estimated_minutes" in record:
        kept["estimated_minutes"] = record["estimated_minutes"]
    if record["status"] != "closed":
        kept.pop("closed_at", None)
    edges = [edge | {"type": edge["type"].replace("_", "-")} for edge in record.get("dependencies", ())]
    if edges:
        kept["dependencies"] = sorted(edges, key=lambda edge: (edge["depends_on_id"], edge["type"]))
    return kept


def test_nothing_is_lost(text: bytes) -> None:
    ledger = Ledger()
    reply = ledger.take(text)
    said = {record["id"]: normal(record) for record in map(json.loads, text.splitlines())}
    assert (reply["created"], reply["skipped"]) == (len(said), [])
    back = {record["id"]: record for record in map(json.loads, ledger.give().splitlines())}
    assert back == said


def test_a_second_export_is_byte_equal(text: bytes) -> None:
    once = after(text).give()
    assert after(once).give() == once
    assert [json.loads(line)["id"] for line in once.splitlines()] == sorted(
        json.loads(one)["id"] for one in text.splitlines()
    )


def test_importing_again_changes_nothing(text: bytes) -> None:
    ledger = after(text)
    before = ledger.give()
    count = len(text.splitlines())
    assert ledger.take(text) == {"created": 0, "updated": 0, "unchanged": count, "skipped": []}
    assert ledger.take(before)["unchanged"] == count
    assert ledger.give() == before


@pytest.mark.parametrize(("file", "counts"), FILES.items())
def test_counts(file: str, counts: tuple[int, int]) -> None:
    path = DATA / file
    if not path.exists():
        pytest.skip(f"no real ledgers: {path} is missing")
    records = [parse_line(line) for line in path.read_bytes().splitlines()]
    statuses = [record.status for record in records if isinstance(record, Record)]
    assert (len(statuses), statuses.count("tombstone")) == counts


def test_a_cut_line_is_named(text: bytes) -> None:
    lines = text.splitlines()
    for number in range(0, len(lines), 97):
        with pytest.raises(BadLine):
            parse_line(lines[number][:-2])
