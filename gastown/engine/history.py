"""A bead's past: its events, and the attempts read off them.

Law: read only. Events of a bead form a chain by `prev`, so a history is a walk from the newest back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from ..model import PREVIOUS_MAX, Event
from ..store import Store
from .turn import Turn

WALK_MAX: Final = 512  # events looked at for a claim's context; a bead with more has had its ten attempts long before
ENDS: Final = {
    "failed": "failed", "lapsed": "lapsed", "released": "released", "blocked": "blocked", "completed": "closed",
    "closed": "closed",
}  # fmt: skip


def walk(turn: Turn, n: int) -> Iterator[Event]:
    """The bead's events, newest first, this turn's included."""
    bead, lease = turn.row(n)[0], turn.lease(n)
    seq: int | None = bead.last_seq if lease is None else max(bead.last_seq, lease.last_seq)
    first_here = turn.events[0].seq if turn.events else None
    while seq is not None:
        if first_here is not None and seq >= first_here:
            event = turn.events[seq - first_here]
        else:
            row = turn.store.one("event_at", seq)
            assert row is not None
            event = Event._make(row)
        yield event
        seq = event.prev


def shown(event: Event, bead_id: str | None) -> dict[str, Any]:
    """An event as the wire shows it."""
    head: dict[str, Any] = {"seq": event.seq, "epoch": event.epoch, "at_ms": event.at_ms, "kind": event.kind}
    if bead_id is not None:
        head["bead_id"] = bead_id
    if event.worker is not None:
        head["worker_id"] = event.worker
    if event.token is not None:
        head["token"] = event.token
    return head | (orjson.loads(event.data) if event.data else {})


def history(turn: Turn, n: int) -> list[dict[str, Any]]:
    bead_id = turn.row(n)[0].id
    return [shown(event, bead_id) for event in walk(turn, n)][::-1]


def previous(turn: Turn, n: int) -> list[dict[str, Any]]:
    """Earlier attempts for a claim's context: newest first, at most PREVIOUS_MAX. Call before the new grant."""
    attempts: dict[int, dict[str, Any]] = {}
    bead = turn.row(n)[0]
    for steps, event in enumerate(walk(turn, n)):
        if steps >= WALK_MAX or len(attempts) > PREVIOUS_MAX:
            break
        if event.token is None:
            continue
        attempt = attempts.setdefault(event.token, {"token": event.token})
        data = orjson.loads(event.data) if event.data else {}
        _tell(attempt, event, data)
        if event.kind == "leased" and "takes" in data:
            attempts.setdefault(data["takes"], {"token": data["takes"]}).setdefault("outcome", "superseded")
            attempts[data["takes"]].setdefault("at_ms", event.at_ms)
    for attempt in attempts.values():
        attempt.setdefault("outcome", "closed" if bead.last_end == "closed" else "superseded")
    return [_in_order(attempt) for attempt in list(attempts.values())[:PREVIOUS_MAX] if "worker" in attempt]


def _tell(attempt: dict[str, Any], event: Event, data: dict[str, Any]) -> None:
    """Add what one event, met going back in time, says of its attempt."""
    if event.kind == "leased":
        attempt.setdefault("at_ms", event.at_ms)
        attempt.update(attempt=data["attempt"], worker=data["worker_name"])
    elif event.kind == "renewed" and "checkpoint" in data:
        attempt.setdefault("checkpoint", data["checkpoint"])
    elif event.kind == "salvaged":
        return
    else:
        outcome = data.get("outcome") or ENDS.get(event.kind)
        if outcome is not None and "outcome" not in attempt:
            attempt.update(outcome=outcome, at_ms=event.at_ms)
            notes = data.get("error") or data.get("reason") or data.get("summary")
            if notes:
                attempt["notes"] = notes
            if "branch" in data:
                attempt["branch"] = data["branch"]


def _in_order(attempt: dict[str, Any]) -> dict[str, Any]:
    keys = ("attempt", "token", "worker", "outcome", "notes", "branch", "checkpoint", "at_ms")
    return {key: attempt[key] for key in keys if key in attempt}


def page(store: Store, seq: int, limit: int) -> list[tuple[Event, str | None]]:
    """Events after `seq` with their beads' ids."""
    return [(Event._make(row[:-1]), row[-1]) for row in store.many("events_after", seq, limit)]
