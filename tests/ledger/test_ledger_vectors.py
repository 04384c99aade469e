"""The files of spec/vectors that speak of the ledger, run against this body. Another body runs the same files."""

import json
from pathlib import Path
from typing import Any

import pytest

from gastown.ledger.merging import LocalBead, decide_line
from gastown.ledger.minting import child_id, length_for, mint, prefix_of
from gastown.record import (
    BadLine,
    Header,
    Memory,
    Record,
    export_line,
    instant_ns,
    instant_text,
    parse_line,
    wire_bead,
)

from .rows import lease_of, row_of

VECTORS = Path(__file__).parents[2] / "spec" / "vectors"
RECORD = json.loads((VECTORS / "record.json").read_bytes())
IMPORT = json.loads((VECTORS / "import.json").read_bytes())
IDS = json.loads((VECTORS / "ids.json").read_bytes())

LINES = {case["name"]: case for case in RECORD["lines"]}
VIEWS = {case["name"]: case for case in RECORD["views"]}
DECISIONS = {case["name"]: case for case in IMPORT["decisions"]}


def line_of(case: dict[str, Any]) -> bytes:
    return bytes.fromhex(case["line_hex"]) if "line_hex" in case else case["line"].encode()


def record_of(text: str) -> Record:
    record = parse_line(text.encode())
    assert isinstance(record, Record)
    return record


def test_no_name_stands_twice() -> None:
    assert len(LINES) == len(RECORD["lines"])
    assert len(VIEWS) == len(RECORD["views"])
    assert len(DECISIONS) == len(IMPORT["decisions"])


@pytest.mark.parametrize("name", [name for name, case in LINES.items() if "bad" in case])
def test_bad_line(name: str) -> None:
    with pytest.raises(BadLine) as caught:
        parse_line(line_of(LINES[name]))
    assert (caught.value.why, caught.value.id) == (LINES[name]["bad"], LINES[name]["id"])


@pytest.mark.parametrize("name", [name for name, case in LINES.items() if "record" in case])
def test_record(name: str) -> None:
    case = LINES[name]
    record = parse_line(line_of(case))
    assert isinstance(record, Record)
    shown = record._asdict() | {"body": record.body.decode()}
    shown |= {"labels": list(record.labels), "edges": [list(edge) for edge in record.edges]}
    assert shown == case["record"]
    canonical = export_line(row_of(record), record.body, None)
    assert canonical.decode() == case["canonical"]
    assert parse_line(canonical) == record


@pytest.mark.parametrize("name", [name for name, case in LINES.items() if "memory" in case or "token_high" in case])
def test_other_line(name: str) -> None:
    case = LINES[name]
    found = parse_line(line_of(case))
    if "memory" in case:
        assert isinstance(found, Memory)
        assert {"key": found.key, "json": found.json.decode()} == case["memory"]
        assert parse_line(found.json) == found
    else:
        assert found == Header(case["token_high"])


@pytest.mark.parametrize("case", RECORD["instants"], ids=lambda case: repr(case["text"]))
def test_instant(case: dict[str, Any]) -> None:
    if "bad" in case:
        with pytest.raises(ValueError, match=r"RFC 3339|day|month"):
            instant_ns(case["text"])
    else:
        assert instant_ns(case["text"]) == int(case["ns"])


@pytest.mark.parametrize("case", RECORD["instant_texts"], ids=lambda case: case["ns"])
def test_instant_text(case: dict[str, str]) -> None:
    assert instant_text(int(case["ns"])) == case["text"]
    assert instant_ns(case["text"]) == int(case["ns"]) // 1_000_000 * 1_000_000


@pytest.mark.parametrize("name", VIEWS)
def test_view(name: str) -> None:
    case = VIEWS[name]
    record = record_of(case["line"])
    row = row_of(record, **case["row"])
    lease = None if case["lease"] is None else lease_of(**case["lease"])
    assert wire_bead(row, record.body, lease).decode() == case["wire"]
    assert export_line(row, record.body, lease).decode() == case["export"]


@pytest.mark.parametrize("name", DECISIONS)
def test_decision(name: str) -> None:
    case = DECISIONS[name]
    local = None
    if case["local"] is not None:
        record = record_of(case["local"])
        lease = None if case["lease"] is None else lease_of(**case["lease"])
        local = LocalBead(row_of(record), record.body, lease)
    decision = decide_line(local, record_of(case["incoming"]))
    stored = decision.record
    line = None if stored is None else export_line(row_of(stored), stored.body, None).decode()
    assert (decision.kind, decision.why, line) == (case["kind"], case["why"], case["stored"])


@pytest.mark.parametrize("case", IDS["lengths"], ids=lambda case: str(case["count"]))
def test_length(case: dict[str, int]) -> None:
    assert length_for(case["count"]) == case["length"]


@pytest.mark.parametrize("case", IDS["mints"], ids=lambda case: case["id"])
def test_mint(case: dict[str, Any]) -> None:
    asked: list[str] = []

    def taken(name: str) -> bool:
        asked.append(name)
        return name in case["taken"]

    content = (case["title"], case["description"], case["creator"], case["now_ns"], case["count"])
    assert mint(case["prefix"], *content, taken) == case["id"]
    assert asked == [*case["taken"], case["id"]]


def test_mint_gives_up() -> None:
    case, asked = IDS["exhausted"], []

    def taken(name: str) -> bool:
        asked.append(name)
        return True

    with pytest.raises(LookupError, match="no free id"):
        mint(case["prefix"], "t", "", "", 0, case["count"], taken)
    assert len(asked) == case["tries"]


@pytest.mark.parametrize("case", IDS["children"], ids=lambda case: str(case["id"]))
def test_child(case: dict[str, Any]) -> None:
    taken = case["taken"].__contains__
    if case["id"] is None:
        with pytest.raises(LookupError, match="128"):
            child_id(case["parent"], case["children"], taken)
    else:
        assert child_id(case["parent"], case["children"], taken) == case["id"]


@pytest.mark.parametrize("case", IDS["prefixes"], ids=lambda case: case["prefix"])
def test_prefix(case: dict[str, Any]) -> None:
    assert prefix_of(case["ids"], case["folder"]) == case["prefix"]
