"""A checker that never went red proves nothing: each bug planted here must turn the rule of its promise red.

Law: a plant is a patch made here alone, never a branch in the product. It breaks one thing, as a tired engineer would.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from gastown.engine import imports, work
from gastown.engine.coordinator import Coordinator, Decided, Unit
from gastown.engine.index import ReadyIndex
from gastown.engine.memory import Memory
from gastown.engine.turn import MISSING, Turn
from gastown.ledger import merging
from gastown.rules import bead as bead_rules
from gastown.rules import dispatch
from gastown.rules import lease as lease_rules
from gastown.rules.bead import Now
from gastown.store import Store

from .checker import check
from .world import World

SEEDS_MAX = 40  # worlds in which a planted bug must have shown itself; most show in the first three
Patch = pytest.MonkeyPatch


def acknowledge_before_the_commit(patch: Patch) -> None:
    ended = World.end_turn

    def end_turn(world: World, decided: Decided, units: list[Unit]) -> None:
        world.deliver(decided)
        decided.replies = []
        ended(world, decided, units)

    patch.setattr(World, "end_turn", end_turn)


def drop_an_event(patch: Patch) -> None:
    written = Turn._event

    def event(turn: Turn, kind: str, *rest: Any) -> None:
        if kind != "commented":
            written(turn, kind, *rest)

    patch.setattr(Turn, "_event", event)


def number_events_anew_after_a_drop(patch: Patch) -> None:
    written = Turn._event

    def event(turn: Turn, kind: str, *rest: Any) -> None:
        if kind == "updated":
            turn.seq -= 1
        else:
            written(turn, kind, *rest)

    patch.setattr(Turn, "_event", event)


def lose_the_request_record(patch: Patch) -> None:
    patch.setattr(Coordinator, "_remember", lambda *_: None)


def forget_whose_token_it_is(patch: Patch) -> None:
    """Whoever names a leased bead may settle it."""

    def holding(turn: Turn, _: Any, params: dict[str, Any]) -> Any:
        n = work.find(turn, params["bead_id"])
        bead, lease = turn.row(n)[0], turn.lease(n)
        if lease is None:
            raise lease_rules.lost(bead, lease, params["token"])
        return bead, lease

    patch.setattr(work, "holding", holding)


def reuse_tokens_after_a_restart(patch: Patch) -> None:
    started = Coordinator.start

    def start(coordinator: Coordinator, now: Now, boot: dict[str, Any]) -> Decided:
        decided = started(coordinator, now, boot)
        decided.token_high = max(0, decided.token_high - 3)
        return decided

    patch.setattr(Coordinator, "start", start)


def hand_a_leased_bead_out_again(patch: Patch) -> None:
    placed = Memory.place
    patch.setattr(Memory, "place", lambda memory, bead, _lease, *rest: placed(memory, bead, None, *rest))


def keep_the_lease_after_a_release(patch: Patch) -> None:
    changed = Turn.change

    def change(turn: Turn, kind: str, bead: Any, lease: Any = MISSING, *rest: Any, **more: Any) -> Any:
        return changed(turn, kind, bead, MISSING if kind == "released" else lease, *rest, **more)

    patch.setattr(Turn, "change", change)


def close_what_is_closed(patch: Patch) -> None:
    closed = bead_rules.close
    patch.setattr(bead_rules, "close", lambda bead, _state, *rest: closed(bead, "ready", *rest))


def let_no_lease_lapse(patch: Patch) -> None:
    patch.setattr(Coordinator, "_lapse", lambda *_: None)


def lose_a_timer_with_a_failed_turn(patch: Patch) -> None:
    patch.setattr(Memory, "pop_timer", lambda _memory, heap: heapq.heappop(heap))


def forget_the_epoch_check(patch: Patch) -> None:
    patch.setattr(Store, "begin", lambda store, _epoch: store.conn.execute("BEGIN IMMEDIATE"))


def newest_first(patch: Patch) -> None:
    patch.setattr(dispatch, "score", lambda ready_ms, _priority, _policy: -ready_ms)


def first_come_after_who_is_here(patch: Patch) -> None:
    """A new claim is served before those who wait."""
    patch.setattr(Coordinator, "_seek", lambda _coordinator, turn, park, _done: work.serve(turn, park))


def keep_a_bead_under_its_old_labels(patch: Patch) -> None:
    placed = ReadyIndex.place
    patch.setattr(ReadyIndex, "place", lambda index, n, entry, _relabelled=False: placed(index, n, entry))


def claim_what_is_blocked(patch: Patch) -> None:
    patch.setattr(Turn, "_hindered", lambda _turn, _n: False)


def skip_the_backoff(patch: Patch) -> None:
    patch.setattr(lease_rules, "backoff_ms", lambda _failures, _policy: 0)


def import_without_the_mark(patch: Patch) -> None:
    planned = merging.plan_import

    def plan_import(source: Any, skip_bad: bool) -> Any:
        plan = planned(source, skip_bad)
        plan.token_high = 0
        return plan

    patch.setattr(imports, "plan_import", plan_import)


def lapse_at_the_first_deadline(patch: Patch) -> None:
    """Renewals are not looked at when the timer of the grant fires."""
    patch.setattr(lease_rules, "is_due", lambda lease, _now_ms: not lease.lapsed)


def live_by_the_wall_clock(patch: Patch) -> None:
    ran = Coordinator.run
    patch.setattr(
        Coordinator, "run", lambda coordinator, units, now: ran(coordinator, units, Now(now.wall_ms, now.wall_ms))
    )


def leave_the_index_after_a_failed_turn(patch: Patch) -> None:
    patch.setattr(ReadyIndex, "undo", lambda index: index.journal.clear())


def leave_a_label_out(patch: Patch) -> None:
    added = Store.add_body

    def add_body(store: Store, n: int, body: bytes, labels: Iterable[str], edges: Any) -> None:
        added(store, n, body, sorted(labels)[:1], edges)

    patch.setattr(Store, "add_body", add_body)


PLANTED: list[tuple[str, Callable[[Patch], None]]] = [
    ("I1", acknowledge_before_the_commit),
    ("I1", drop_an_event),
    ("I1", number_events_anew_after_a_drop),
    ("I2", lose_the_request_record),
    ("I3", reuse_tokens_after_a_restart),
    ("I1", forget_whose_token_it_is),
    ("I4", hand_a_leased_bead_out_again),
    ("I5", keep_the_lease_after_a_release),
    ("I6", close_what_is_closed),
    ("I7", let_no_lease_lapse),
    ("I7", lose_a_timer_with_a_failed_turn),
    ("I9", forget_the_epoch_check),
    ("I10", newest_first),
    ("I10", first_come_after_who_is_here),
    ("memory", keep_a_bead_under_its_old_labels),
    ("I11", claim_what_is_blocked),
    ("I11", skip_the_backoff),
    ("I12", import_without_the_mark),
    ("I14", lapse_at_the_first_deadline),
    ("I14", live_by_the_wall_clock),
    ("memory", leave_the_index_after_a_failed_turn),
    ("verify", leave_a_label_out),
]


def found_in(seed: int) -> set[str]:
    """The red rules of this world: the checker's, `verify`, and `memory` where caches differ from a rebuild."""
    report = World(seed).run()
    return {rule for rule, _ in check(report.history, report.ledger, report.terms)} | {
        fault.split(":")[0] for fault in report.faults
    }


@pytest.mark.parametrize(("rule", "plant"), PLANTED, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_planted_bug_is_found(rule: str, plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert any(rule in found_in(seed) for seed in range(SEEDS_MAX)), f"no world of {SEEDS_MAX} broke {rule}"
