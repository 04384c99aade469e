"""spec/ is the constitution: what stands there is what the code does, and what the contract fixes stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gastown import shared
from gastown.engine.coordinator import COMMANDS, READS
from gastown.methods import METHODS
from gastown.metrics import SERIES
from gastown.model import ERRORS, RULES, SCHEMA, STATES
from gastown.store import migrations

ROOT = Path(__file__).resolve().parents[1]
QUERIES = shared.text("spec", "queries.sql")
VECTORS = shared.files("spec", ".json", "vectors")

# ---------------------------------------------------------------- SQL never decides


def statements(verb: str) -> list[str]:
    plain = re.sub(r"--.*", "", QUERIES)
    return [one.strip() for one in plain.split(";") if re.match(rf"\s*{verb}\b", one)]


def test_what_sql_writes_is_a_parameter_or_a_number() -> None:
    """A state's name, or any other text, in what is written would be a decision."""
    written = [re.split(r"\bWHERE\b", one)[0] for one in statements("UPDATE")]
    written += [found for one in statements("INSERT") for found in re.findall(r"DO UPDATE SET(.*)", one, re.DOTALL)]
    written += [found for one in statements("INSERT") for found in re.findall(r"VALUES\s*(\([^)]*\))", one)]
    assert len(written) > 20
    for part in written:
        assert "'" not in part, part
        assert not re.search(r"\bCASE\b|\biif\(", part, re.IGNORECASE), part


def test_sql_knows_no_clock_and_no_chance() -> None:
    for text in (QUERIES, *(sql for _, sql in migrations())):
        found = re.search(r"CURRENT_|'now'|\b(?:random|randomblob|unixepoch|julianday|strftime)\(", text, re.IGNORECASE)
        assert found is None, found


def test_the_newest_migration_is_the_schema() -> None:
    assert max(number for number, _ in migrations()) == SCHEMA


# ---------------------------------------------------------------- the contract's tables

CODES = """
-32700 parse_error | -32600 invalid_request | -32601 method_not_found | -32602 invalid_params | -32603 internal
1001 lease_lost | 1002 not_found | 1003 conflict | 1004 request_id_reused | 1005 dependency_cycle | 1006 backpressure
1007 draining | 1008 worker_unknown | 1009 not_leader | 1010 storage_low | 1011 bad_ref | 1011 bad_path | 1012 limit
1401 unauthenticated | 1403 forbidden | 1429 rate_limited
"""
RETRYABLE = {1006, 1007, 1009, 1010, 1429, -32603}
METRICS = """
gastown_beads{state} gastown_ready_oldest_age_seconds gastown_claims_total{outcome} gastown_claim_latency_seconds
gastown_rpc_seconds{method,outcome} gastown_turn_seconds gastown_turn_commands gastown_store_read_seconds
gastown_store_write_seconds gastown_loop_lag_seconds gastown_workers{state} gastown_leases_live
gastown_lease_expiries_total gastown_body{body} gastown_backpressure
"""
LATER_METRICS = """
gastown_merge_items{state} gastown_merge_landing_seconds gastown_gate_runs_total{outcome}
gastown_handovers_total{to,outcome} gastown_shadow_records_total{outcome}
"""  # of parts that are not built yet
BEAD_EVENTS = """
created updated leased renewed lapsed completed failed released blocked closed reopened commented edge_added
edge_removed imported deleted salvaged dead_lettered
"""


def test_error_codes() -> None:
    rows = [row.split() for row in CODES.replace("\n", "|").split("|") if row.strip()]
    assert {kind: (int(code), int(code) in RETRYABLE) for code, kind in rows} == ERRORS


def test_metric_names_and_labels() -> None:
    suffix = {"counter": "_total"}
    named = {
        series.name + suffix.get(series.kind, "") + (f"{{{','.join(series.labels)}}}" if series.labels else "")
        for series in SERIES
    }
    assert set(METRICS.split()) <= named <= set(METRICS.split()) | set(LATER_METRICS.split())


# ---------------------------------------------------------------- methods

ANSWERED_ELSEWHERE = {"ledger.verify", "rpc.discover"}  # a read on a connection of its own; a constant document


def test_every_method_has_its_handler_and_every_handler_its_method() -> None:
    assert set(COMMANDS) == {name for name, method in METHODS.items() if method.mutates}
    reads = {name for name, method in METHODS.items() if not method.mutates}
    assert set(READS) == reads - ANSWERED_ELSEWHERE
    assert reads >= ANSWERED_ELSEWHERE


# ---------------------------------------------------------------- transitions and vectors


def test_transitions_name_the_states_and_events_of_the_contract() -> None:
    table = json.loads(shared.text("spec", "transitions.json"))
    assert tuple(row["state"] for row in table["bead"]["states"]) == STATES
    for noun in ("bead", "lease"):
        assert set(table[noun]["moves"]) - {"time", "neighbour"} == set(BEAD_EVENTS.split()), noun
    assert set(table["bead"]["others"]) == {"time", "neighbour"}


def test_every_bead_event_of_the_engine_is_in_the_table() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "gastown" / "engine").glob("*.py"))
    said = set(re.findall(r'turn\.(?:change|annotate|hold)\(\s*"(\w+)"', code))
    assert len(said) >= 10
    assert said <= set(BEAD_EVENTS.split())


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_are_plain_json_and_used(name: str) -> None:
    text = shared.text("spec", f"vectors/{name}")
    document = json.loads(text, parse_constant=_refuse, object_pairs_hook=_once)
    assert isinstance(document, list) or document["about"], "says what its fields mean"
    assert not re.search(r"\bNone\b|\bTrue\b|\bFalse\b", text), "words of one language"
    stem = name.removesuffix(".json")
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    reads = re.compile(rf'"(?:vectors/)?{stem}(?:\.json)?"')
    assert any("vectors" in test and reads.search(test) for test in tests), "no test reads this file"


def _refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), f"a key twice in {pairs}"
    return dict(pairs)


def test_vectors_of_the_rules_are_numbered_with_them() -> None:
    documents = [json.loads(shared.text("spec", f"vectors/{name}")) for name in VECTORS]
    numbered = [found if isinstance(found, list) else found.get("vectors", []) for found in documents]
    assert {vector["rules"] for vectors in numbered for vector in vectors} == {RULES}
