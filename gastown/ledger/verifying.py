"""`verify`: is what the ledger shows what was committed?

Law: read only, and it trusts no derived column. The chain is walked from its first event, every bead and lease is held
against the image its last event left, every body against its sum, every derived row against a computation from scratch.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from ..model import BLOCKING_KINDS, Bead, Edge, Event, Lease
from ..record import BadLine, reshape
from ..rules import bead as bead_rules
from ..rules.bead import Around, Now
from ..store import GENESIS, Store, bead_image, chain, lease_image, sha

PROBLEMS_MAX: Final = 1_000  # a rotten file would otherwise fill the memory with complaints
Problem = dict[str, Any]


def verify(store: Store) -> dict[str, Any]:
    """-> {ok, problems: [{kind, id?, seq?, text}]}, of one snapshot."""
    store.conn.execute("BEGIN")
    try:
        problems = []
        for problem in _problems(store):
            problems.append(problem)
            if len(problems) >= PROBLEMS_MAX:
                break
    except sqlite3.DatabaseError as error:
        problems.append({"kind": "unreadable", "text": f"the database cannot be read: {error}"})
    finally:
        store.conn.execute("COMMIT")
    return {"ok": not problems, "problems": problems}


def _problems(store: Store) -> Iterator[Problem]:
    yield from _pages(store)
    newest: dict[int, int] = {}
    yield from _chain(store, newest)
    yield from _beads(store)
    yield from _leases(store)
    yield from _traces(store, newest)
    yield from _memories(store)


def _pages(store: Store) -> Iterator[Problem]:
    for (text,) in store.conn.execute("PRAGMA integrity_check(20)"):
        if text != "ok":
            yield {"kind": "page", "text": text}


# ---------------------------------------------------------------- the chain


def _chain(store: Store, newest: dict[int, int]) -> Iterator[Problem]:
    """Fills `newest` with the last event of each bead's row number."""
    events = (Event._make(row[:-1]) for row in store.scan("events_after", 0, -1))
    expected, previous = 1, GENESIS
    for last_seq, now_ms, epoch, token_high, stored in store.many("turns_all"):
        turn = []
        while expected <= last_seq:
            event = next(events, None)
            if event is None or event.seq != expected:
                yield {"kind": "gap", "seq": expected, "text": f"event {expected} is missing"}
                return
            turn.append(event)
            expected += 1
            if event.n is not None:
                newest[event.n] = event.seq
        previous = chain(previous, (last_seq, now_ms, epoch, token_high), turn)
        if previous != stored:
            yield {"kind": "chain", "seq": last_seq, "text": f"the hash of the turn that ends at {last_seq} differs"}
            previous = stored
    extra = next(events, None)
    if extra is not None:
        yield {"kind": "chain", "seq": extra.seq, "text": f"event {extra.seq} belongs to no turn"}


# ---------------------------------------------------------------- beads


class World(NamedTuple):
    """Everything readiness is computed from, read once."""

    beads: dict[str, Bead]
    edges: dict[int, list[Edge]]
    children: dict[str, list[Bead]]


def _beads(store: Store) -> Iterator[Problem]:
    labels, edges = _by_bead(store.scan("labels_all")), _by_bead(store.scan("edges_all"))
    beads: dict[str, Bead] = {}
    for row in store.scan("bead_rows_all"):
        bead, body = Bead._make(row[:-1]), row[-1]
        beads[bead.id] = bead
        yield from _bead(store, bead, body)
        yield from _shape(bead, body, labels.get(bead.n, []), edges.get(bead.n, []))
    world = World(beads, {n: [Edge._make(edge) for edge in rows] for n, rows in edges.items()}, defaultdict(list))
    for bead in beads.values():
        for edge in world.edges.get(bead.n, ()):
            if edge.kind == "parent-child" and bead.status != "tombstone":
                world.children[edge.dst].append(bead)
    pending = {row[0] for row in store.many("recheck_some", -1)}
    for bead in beads.values():
        if bead.n not in pending:
            yield from _readiness(world, bead)


def _by_bead(rows: Iterable[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for n, *rest in rows:
        found[n].append(tuple(rest))
    return found


def _bead(store: Store, bead: Bead, body: bytes) -> Iterator[Problem]:
    if sha(body) != bead.body_sha:
        yield {"kind": "body", "id": bead.id, "text": "the record's text differs from its sum"}
    row = store.one("event_at", bead.last_seq)
    if row is None or Event._make(row).image != bead_image(bead):
        yield {"kind": "row", "id": bead.id, "seq": bead.last_seq, "text": "the row differs from its last event"}


def _shape(bead: Bead, body: bytes, labels: list[tuple[Any, ...]], edges: list[tuple[Any, ...]]) -> Iterator[Problem]:
    try:
        shape = reshape(bead.id, body, {})
    except (BadLine, ValueError) as error:
        yield {"kind": "body", "id": bead.id, "text": f"the record cannot be read: {error}"}
        return
    stored = (sorted(label for (label,) in labels), sorted(edges))
    if stored != (sorted(shape.labels), sorted(tuple(edge) for edge in shape.edges)):
        yield {"kind": "index", "id": bead.id, "text": "its labels or edges differ from the record"}


def hinders(world: World, bead: Bead) -> bool:
    """From scratch: whether an edge of its own holds the bead."""
    for edge in world.edges.get(bead.n, ()):
        target = world.beads.get(edge.dst)
        if target is None or target.status == "tombstone":
            continue
        if edge.kind in BLOCKING_KINDS and target.status not in bead_rules.ENDED:
            return True
        if edge.kind == "waits-for":
            ended = [child.status in bead_rules.ENDED for child in world.children.get(edge.dst, ())]
            if ended and (not any(ended) if edge.any_children else not all(ended)):
                return True
    return False


def held_above(world: World, bead: Bead) -> bool:
    """From scratch: whether an ancestor that has not ended is hindered."""
    seen, todo = {bead.id}, [bead]
    while todo:
        for edge in world.edges.get(todo.pop().n, ()):
            parent = world.beads.get(edge.dst) if edge.kind == "parent-child" else None
            if parent is None or parent.id in seen or parent.status in bead_rules.ENDED:
                continue
            if hinders(world, parent):
                return True
            seen.add(parent.id)
            todo.append(parent)
    return False


def _readiness(world: World, bead: Bead) -> Iterator[Problem]:
    above = bead.status not in ("closed", "tombstone") and held_above(world, bead)
    around = Around(hinders(world, bead), above)
    # time is left out: a bead is deferred here exactly while its wake_ms says so
    still = Now(0, (1 << 62) if bead.wake_ms is None else (bead.defer_ms or 0) - 1)
    expected = bead_rules.derive(bead._replace(not_before_ms=bead.wake_ms), around, still, 0)
    if (expected.ended, expected.hindered) != (bead.ended, bead.hindered) or expected.state != bead.state:
        yield {
            "kind": "readiness",
            "id": bead.id,
            "text": f"stored as {bead.state}, computed from scratch as {expected.state}",
        }


# ---------------------------------------------------------------- the rest


def _leases(store: Store) -> Iterator[Problem]:
    tip = store.one("turn_last")
    for row in store.many("leases_all"):
        lease = Lease._make(row)
        event = store.one("event_at", lease.last_seq)
        if event is None or Event._make(event).image != lease_image(lease):
            yield {"kind": "lease", "seq": lease.last_seq, "text": f"lease {lease.token} differs from its last event"}
        if tip is None or lease.token > tip[3]:
            yield {"kind": "lease", "seq": lease.last_seq, "text": f"token {lease.token} was never issued"}


def _traces(store: Store, newest: dict[int, int]) -> Iterator[Problem]:
    """The last event of each bead stands in its row or in its lease: a row that was taken away is missed here."""
    rows = dict(store.many("last_seqs"))
    for n in sorted(newest.keys() | rows.keys()):
        if newest.get(n) != rows.get(n):
            text = f"the last event of bead {n} is {newest.get(n)}, its rows know of {rows.get(n)}"
            yield {"kind": "trace", "seq": newest.get(n, rows.get(n)), "text": text}


def _memories(store: Store) -> Iterator[Problem]:
    for key, json, seq in store.many("memories"):
        row = store.one("event_at", seq)
        if row is None or sha(json) not in (Event._make(row).data or ""):
            yield {"kind": "memory", "seq": seq, "text": f"memory {key} differs from its event"}
