"""After any course of commands: memory is what the ledger says, readiness is what a computation from scratch says,
every move is in the table, and a turn that failed has left no trace."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gastown import shared
from gastown.engine.coordinator import Unit
from gastown.engine.memory import Memory
from gastown.engine.work import parse_filter
from gastown.model import Bead, Lease, Policy
from gastown.rules import bead as bead_rules
from gastown.rules import dispatch

from .bench import Bench
from .courses import Course

LAW = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(0, 1 << 32)
STEPS = 25


def caches(memory: Memory) -> dict[str, Any]:
    """What must equal a rebuild."""
    return {
        "entries": memory.index.entries,
        "order": list(memory.index.order),
        "counts": {state: beads for state, beads in memory.counts.items() if beads},
        "leases": memory.leases,
        "held": {worker: beads for worker, beads in memory.held.items() if beads},
        "workers": {worker.id: worker._replace(last_seen_ms=0) for worker in memory.workers.values()},
        "names": memory.names,
        "paused": memory.paused,
        "bead_max": memory.bead_max,
        "tokens": memory.tokens,
    }


def rebuilt(bench: Bench) -> Memory:
    """Memory made of the ledger anew, and of the renewals that wait for a commit."""
    fresh, kept = Memory(bench.store, bench.policy), bench.coordinator.memory
    fresh.rebuild()
    for n in kept.renewed:
        fresh.leases[n] = fresh.leases[n]._replace(until_ms=kept.leases[n].until_ms)
    return fresh


def assert_rebuilt(bench: Bench) -> None:
    kept, fresh = caches(bench.coordinator.memory), caches(rebuilt(bench))
    for name, value in fresh.items():
        assert kept[name] == value, name
    memory = bench.coordinator.memory
    for n, (bead, body) in memory.rows._rows.items():
        assert bench.store.load(n) == (bead, body)
    for facet, part in memory.index.parts.items():
        members = set(memory._members_of(facet)) if facet.kind in ("label", "convoy") else None
        inside = [
            entry
            for entry in sorted(memory.index.entries.values())
            if (getattr(entry, facet.kind) == facet.value if members is None else entry.n in members)
        ]
        assert list(part.order) == inside, facet
        assert part.members == {entry.n for entry in inside}


def assert_timed(bench: Bench) -> None:
    """No limbo: whatever waits for an instant has a timer no later than it."""
    memory = bench.coordinator.memory
    for lease in memory.leases.values():
        due = [timer.at_ms for timer in memory.timers if timer.kind == "lease" and timer.n == lease.n]
        assert lease.lapsed or min(due, default=1 << 62) <= lease.until_ms
    for n, wake_ms in bench.store.many("wake_rows"):
        lease = memory.leases.get(n)
        on_wall = bench.store.load(n)[0].not_before_ms != wake_ms
        found = [timer.at_ms for timer in (memory.wall_timers if on_wall else memory.timers) if timer.n == n]
        assert min(found, default=1 << 62) <= wake_ms or (lease is not None and not lease.lapsed)
    for waiting in memory.line.all():
        assert any(due.n == waiting.no and due.at_ms <= waiting.until_ms for due in memory.claim_timers)


def assert_sound(bench: Bench) -> None:
    assert bench.problems() == []
    assert_rebuilt(bench)
    assert_timed(bench)
    for row in bench.store.many("bead_rows_all"):
        bead = Bead._make(row[:-1])
        assert (bead.ready_ms is not None) == claimable(bead)
        assert bead.ready_ms is None or bead.ready_ms <= bench.ms + bench.wall_ahead_ms


def claimable(bead: Bead) -> bool:
    """Ready, or parked by its type alone with nothing else against it."""
    return bead.state == "ready" or (
        bead.state == "parked"
        and bead.status == "open"
        and not bead_rules.is_parked(bead)
        and bead_rules.base_state(bead._replace(issue_type="task"), bool(bead.hindered), False) == "ready"
        and bead.ready_ms is not None
    )


@LAW
@given(SEEDS)
def test_memory_and_readiness_are_what_the_ledger_says(seed: int) -> None:
    bench = Bench()
    course = Course(bench, seed)
    for _ in range(STEPS):
        course.step()
        assert_sound(bench)
    bench.close()


@LAW
@given(SEEDS)
def test_a_failed_turn_leaves_no_trace(seed: int) -> None:
    bench = Bench()
    course = Course(bench, seed)
    for _ in range(STEPS):
        course.step()
        before, line = caches(rebuilt(bench)), [waiting.no for waiting in bench.coordinator.memory.line.all()]
        if course.fault():
            assert caches(bench.coordinator.memory) == before
            assert [waiting.no for waiting in bench.coordinator.memory.line.all()] == line
        assert_timed(bench)
    bench.wait(0)
    assert_sound(bench)
    bench.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_ledger_that_is_opened_again_says_the_same(seed: int, tmp_path: Any) -> None:
    bench = Bench(path=tmp_path / "ledger.db")
    course = Course(bench, seed)
    for _ in range(STEPS):
        course.step()
    bench.wait(Policy().ttl_ms)  # renewals are written with a later commit
    before = caches(bench.coordinator.memory)
    bench.close()
    again = Bench(path=tmp_path / "ledger.db", ms=bench.ms)
    after = caches(again.coordinator.memory)
    live = {n for n, lease in before["leases"].items() if not lease.lapsed}
    assert {n: lease._replace(until_ms=0) for n, lease in after.pop("leases").items()} == {
        n: lease._replace(until_ms=0) for n, lease in before.pop("leases").items()
    }
    assert after == before
    memory = again.coordinator.memory
    assert all(memory.leases[n].until_ms == again.ms + memory.leases[n].ttl_ms for n in live), "a fresh ttl each"
    again.close()


@LAW
@given(SEEDS)
def test_a_claim_gets_what_a_look_at_every_ready_bead_would_give(seed: int) -> None:
    """Facets only speed a filter up."""
    bench = Bench()
    course = Course(bench, seed)
    memory = bench.coordinator.memory
    for _ in range(STEPS):
        course.step()
        asked = parse_filter(course.filter())
        rows = {n: bench.store.load(n)[0] for n in memory.index.entries}
        expected = [
            n
            for n, bead in sorted(rows.items(), key=lambda row: dispatch.order_key(row[1], bench.policy))
            if dispatch.admits(asked, bead, column(bench, "labels_of", n), column(bench, "convoys_of", n))
        ]
        assert [e.n for e in memory.index.candidates(asked) if asked.bead_id in (None, e.id)] == expected
    bench.close()


def column(bench: Bench, query: str, n: int) -> frozenset[str]:
    return frozenset(row[0] for row in bench.store.many(query, n))


# ---------------------------------------------------------------- moves

TABLES = json.loads(shared.text("spec", "transitions.json"))


def reached(noun: str, start: str, kinds: list[str]) -> set[str]:
    """The states that these events may lead to by the table, with time and neighbours acting in between."""
    moves, states = TABLES[noun]["moves"], widened(noun, {start})
    for kind in kinds:
        states = widened(noun, {end for state in states for end in moves[kind].get(state, ())})
    return states


def widened(noun: str, states: set[str]) -> set[str]:
    free = [TABLES[noun]["moves"][name] for name in ("time", "neighbour")]
    more = {end for moves in free for state in states for end in moves.get(state, ())}
    return states if more <= states else widened(noun, states | more)


def lease_state(lease: Lease | None) -> str:
    return "none" if lease is None else "lapsed" if lease.lapsed else "live"


class Watched(Bench):
    """Holds every turn against the tables of states."""

    def turn(self, *units: Unit) -> list[list[Any]]:
        memory, seq = self.coordinator.memory, self.store.tip.seq
        states, leases = self.states(), dict(memory.leases)
        outcomes = super().turn(*units)
        for n, after in self.states().items():
            kinds = [event.kind for event in self.events(seq) if event.n == n]
            assert after in reached("bead", states.get(n, "new"), kinds), (states.get(n), kinds, after)
            before, left = lease_state(leases.get(n)), lease_state(memory.leases.get(n))
            assert left in reached("lease", before, kinds), (before, kinds, left)
        return outcomes


@LAW
@given(SEEDS)
def test_every_move_is_in_the_table(seed: int) -> None:
    bench = Watched()
    course = Course(bench, seed)
    for _ in range(STEPS):
        course.step()
    bench.close()
