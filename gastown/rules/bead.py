"""What state a bead is in, when it is ready, and which moves people and agents may make with it.

Law: every derived state and every change of status is decided here. Nothing here knows clock, store or wire.
States partition all beads: `state_of` is total and its first matching line wins, as in spec/transitions.json.
Readiness: a bead is ready when it is open, not parked, no edge holds it and no instant of its own or its parent's is
ahead.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..model import DEAD_LETTER, EPHEMERAL, EXCLUDED_TYPES, PINNED, TEMPLATE, Bead, Lease, Refused

ENDED: Final = frozenset(("closed", "pinned", "tombstone"))  # a blocker in one of these blocks nobody
PLAIN: Final = frozenset(("open", "in_progress", "blocked", "closed", "tombstone"))  # any other status parks the bead
SETTABLE_NOT: Final = frozenset(("closed", "in_progress", "tombstone"))  # reached by close and claim, never by update


class Around(NamedTuple):
    """What a bead's neighbours say about it."""

    hindered: bool = False  # an edge of its own holds it
    held_above: bool = False  # an ancestor that has not ended is hindered
    parent_defer_ms: int = 0  # latest defer_until of its direct parents, wall clock


class Now(NamedTuple):
    """One instant of a turn: town time, and the wall clock that only defer_until looks at."""

    ms: int
    wall_ms: int


def is_parked(bead: Bead) -> bool:
    """Whether something other than its type keeps the bead out of dispatch."""
    return bead.status not in PLAIN or bool(bead.flags & (PINNED | TEMPLATE | EPHEMERAL))


def base_state(bead: Bead, waiting: bool, ahead: bool) -> str:
    """The bead's state as if no lease were live; first match wins."""
    if bead.status in ("tombstone", "closed"):
        return bead.status
    if bead.status == "blocked" and bead.flags & DEAD_LETTER:
        return "dead"
    if is_parked(bead) or bead.issue_type in EXCLUDED_TYPES:
        return "parked"
    if bead.status == "in_progress":
        return "held"
    if bead.status == "blocked":
        return "blocked"
    if waiting:
        return "waiting"
    return "deferred" if ahead else "ready"


def state_of(bead: Bead, lease: Lease | None) -> str:
    """The state the world sees: `leased` while a lease is live, else the stored base state."""
    if lease is not None and not lease.lapsed and bead.status not in ("tombstone", "closed"):
        return "leased"
    return bead.state


def derive(bead: Bead, around: Around, now: Now, since_ms: int) -> Bead:
    """Decide the derived columns anew. `since_ms` becomes ready_since if the bead was not ready before."""
    hindered = int(around.hindered)
    if bead.status in ("tombstone", "closed"):
        return bead._replace(ended=1, hindered=hindered, state=bead.status, ready_ms=None, wake_ms=None)
    waiting = around.hindered or around.held_above
    defer_ms = max(bead.defer_ms or 0, around.parent_defer_ms)
    backoff_ms = bead.not_before_ms or 0
    deferred, backing_off = defer_ms > now.wall_ms, backoff_ms > now.ms
    state = base_state(bead, waiting, deferred or backing_off)
    claimable = state == "ready" or (
        # a bead of an excluded type is parked, yet a claim that names its type may have it
        state == "parked"
        and bead.status == "open"
        and not is_parked(bead)
        and not waiting
        and not deferred
        and not backing_off
    )
    ready_ms = (since_ms if bead.ready_ms is None else bead.ready_ms) if claimable else None
    wake_ms = defer_ms if deferred else backoff_ms if backing_off else None
    return bead._replace(
        ended=int(bead.status in ENDED),
        hindered=hindered,
        state=state,
        ready_ms=ready_ms,
        wake_ms=wake_ms,
    )


def allowed_moves(state: str) -> list[str]:
    """Methods that would be legal in `state`, for the data of a conflict."""
    moves = {
        "tombstone": [],
        "closed": ["bead.reopen", "bead.comment"],
        "dead": ["bead.reopen", "bead.update", "bead.close", "bead.comment"],
        "blocked": ["bead.reopen", "bead.update", "bead.close", "bead.comment"],
    }
    return moves.get(state, ["bead.update", "bead.close", "bead.comment"])


def conflict(state: str, message: str) -> Refused:
    return Refused("conflict", message, state=state, allowed=allowed_moves(state))


def close(bead: Bead, state: str, reason: str | None, closed_at: str) -> Bead:
    """Close by hand. Refused (conflict) when it has ended already."""
    if state in ("closed", "tombstone"):
        raise conflict(state, f"the bead is {state} already")
    return bead._replace(status="closed", closed_at=closed_at, close_reason=reason)


def reopen(bead: Bead, state: str) -> Bead:
    """A new incarnation: budgets, backoff and the dead-letter label are cleared by the caller's new body."""
    if state not in ("closed", "dead", "blocked") and bead.status != "blocked":  # a parked bead may be blocked too
        raise conflict(state, "only a closed, blocked or dead-lettered bead can be reopened")
    return bead._replace(
        status="open",
        assignee=None,
        closed_at=None,
        close_reason=None,
        failures=0,
        losses=0,
        not_before_ms=None,
        incarnation=bead.incarnation + 1,
        flags=bead.flags & ~DEAD_LETTER,
    )


def check_status(status: str, state: str) -> None:
    """Refuse (conflict) a status that only a claim, a close or a tombstone may give."""
    if status in SETTABLE_NOT:
        way = {"closed": "bead.close", "in_progress": "work.claim"}.get(status)
        raise Refused(
            "conflict", f"status {status} cannot be set by bead.update", state=state, allowed=[way] if way else []
        )
    if state in ("closed", "tombstone"):
        raise conflict(state, f"the bead is {state}; its status cannot be set")


def check_version(bead_version: int, wanted: int | None, state: str) -> None:
    if wanted is not None and wanted != bead_version:
        refused = conflict(state, f"the bead is at version {bead_version}, not {wanted}: read it again")
        refused.data["version"] = bead_version
        raise refused
