"""Sums, images and the chain of turns: vectors for another body, and what `verify` finds when a byte changed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gastown import shared
from gastown.model import DERIVED_FROM, Bead, Event, Lease
from gastown.store import GENESIS, Store, bead_image, chain, lease_image

from .bench import Bench

VECTORS = json.loads(shared.text("spec", "vectors/chain.json"))
DERIVED = {"ended": 0, "hindered": 0, "state": "ready", "ready_ms": 1, "wake_ms": None}


@pytest.mark.parametrize("vector", VECTORS["beads"], ids=lambda vector: vector["name"])
def test_image_of_a_bead(vector: dict[str, Any]) -> None:
    assert bead_image(Bead(**vector["columns"], **DERIVED)) == vector["image"]


@pytest.mark.parametrize("vector", VECTORS["leases"], ids=lambda vector: vector["name"])
def test_image_of_a_lease(vector: dict[str, Any]) -> None:
    assert lease_image(Lease(**vector["columns"])) == vector["image"]


def test_the_columns_of_an_image_are_those_of_the_row() -> None:
    assert list(Bead._fields[:DERIVED_FROM]) == VECTORS["bead_columns"]
    assert [name for name in Lease._fields if name not in ("until_ms", "lapsed")] == VECTORS["lease_columns"]


def test_every_column_that_is_vouched_for_changes_the_image() -> None:
    bead = Bead(**VECTORS["beads"][0]["columns"], **DERIVED)
    for name in VECTORS["bead_columns"]:
        assert bead_image(bead._replace(**{name: "changed"})) != bead_image(bead), name
    lease = Lease(**VECTORS["leases"][0]["columns"])
    for name in VECTORS["lease_columns"]:
        assert lease_image(lease._replace(**{name: "changed"})) != lease_image(lease), name


def test_the_chain_of_turns() -> None:
    previous = GENESIS
    for turn in VECTORS["turns"]:
        events = [Event(*event) for event in turn["events"]]
        tip = (events[-1].seq, turn["now_ms"], turn["epoch"], turn["token_high"])
        assert chain(previous, tip, events) == turn["hash"]
        previous = turn["hash"]


def test_a_ledger_chains_its_turns_as_the_vectors_do() -> None:
    store = Store.open(":memory:")  # type: ignore[arg-type]  # SQLite's own name for a database in memory
    for turn in VECTORS["turns"]:
        store.conn.execute("BEGIN IMMEDIATE")
        events = [Event(*event) for event in turn["events"]]
        store.tip = store.seal(events, turn["now_ms"], turn["token_high"])
        store.commit()
        assert store.tip.hash == turn["hash"]
    stored = [tuple(row[:-1]) for row in store.many("events_after", 0, -1)]
    assert stored == [tuple(event) for turn in VECTORS["turns"] for event in turn["events"]]
    assert [row[-1] for row in store.many("turns_all")] == [turn["hash"] for turn in VECTORS["turns"]]
    store.close()


# ---------------------------------------------------------------- verify


@pytest.fixture
def lived() -> Bench:
    """A ledger in which every kind of row that `verify` looks at stands."""
    bench = Bench()
    worker = bench.worker()
    bench.ok("bead.create", beads=[{"id": "gt-1", "title": "a", "labels": ["red"]}, {"id": "gt-2", "title": "b"}])
    bench.ok("bead.depend", **{"from": "gt-2", "to": "gt-1", "kind": "blocks"})
    memory = '{"_type":"memory","key":"k","value":"v"}'
    bench.ok("ledger.import", jsonl=memory)
    assert len(bench.ok("work.claim", worker_id=worker)["claims"]) == 1
    assert bench.problems() == []
    return bench


TAMPERED = {
    "an event's text": "UPDATE event SET data = replace(data, 'ada', 'eve') WHERE kind = 'worker_registered'",
    "an event's instant": "UPDATE event SET at_ms = at_ms + 1 WHERE seq = 2",
    "an event's token": "UPDATE event SET token = token + 1 WHERE kind = 'leased'",
    "an event's bead": "UPDATE event SET n = 2 WHERE kind = 'leased'",
    "an event's predecessor": "UPDATE event SET prev = 1 WHERE kind = 'leased'",
    "a lost event": "DELETE FROM event WHERE seq = 3",
    "the newest event lost": "DELETE FROM event WHERE seq = (SELECT max(seq) FROM event)",
    "an event added": "INSERT INTO event SELECT seq + 1, at_ms, epoch, kind, n, seq, worker, token, data, image"
    " FROM event ORDER BY seq DESC LIMIT 1",
    "a turn's hash": "UPDATE turn SET hash = replace(hash, substr(hash, 1, 1), 'x') WHERE last_seq = 2",
    "a turn's instant": "UPDATE turn SET now_ms = now_ms + 1 WHERE last_seq = 2",
    "a turn's tokens": "UPDATE turn SET token_high = token_high + 1 WHERE last_seq = 2",
    "a turn's epoch": "UPDATE turn SET epoch = 2 WHERE last_seq = 2",
    "a lost turn": "DELETE FROM turn WHERE last_seq = 2",
    "a bead's priority": "UPDATE bead SET priority = 0 WHERE id = 'gt-1'",
    "a bead's status": "UPDATE bead SET status = 'closed' WHERE id = 'gt-2'",
    "a bead's failures": "UPDATE bead SET failures = 1 WHERE id = 'gt-2'",
    "a bead's version": "UPDATE bead SET version = version + 1 WHERE id = 'gt-2'",
    "a bead's place in the queue": "UPDATE bead SET state = 'ready', ready_ms = 1 WHERE id = 'gt-2'",
    "a bead's hindrance": "UPDATE bead SET hindered = 0 WHERE id = 'gt-2'",
    "a bead's end": "UPDATE bead SET ended = 1 WHERE id = 'gt-1'",
    "a record's text": "UPDATE body SET json = CAST(replace(CAST(json AS TEXT), '\"a\"', '\"z\"') AS BLOB) WHERE n = 1",
    "a record's sum": "UPDATE bead SET body_sha = replace(body_sha, substr(body_sha, 1, 1), 'x') WHERE id = 'gt-1'",
    "a label lost": "DELETE FROM label",
    "a label added": "INSERT INTO label VALUES (2, 'blue')",
    "an edge lost": "DELETE FROM edge",
    "an edge bent": "UPDATE edge SET kind = 'related'",
    "a lease's holder": "UPDATE lease SET worker_name = 'eve'",
    "a lease lost": "DELETE FROM lease",
    "a lease's token": "UPDATE lease SET token = token + 1",
    "a memory": "UPDATE memory SET json = CAST('{}' AS BLOB)",
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_verify_finds_what_was_changed_behind_its_back(lived: Bench, change: str) -> None:
    assert lived.store.conn.execute(change).rowcount >= 1
    assert lived.problems() != []
    lived.close()
