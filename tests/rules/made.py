"""Made-up beads, leases, neighbours and instants."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from gastown.model import EXCLUDED_TYPES, Bead, Lease, Policy
from gastown.rules import bead as bead_rules
from gastown.rules.bead import Around, Now

LAW = settings(deadline=None, max_examples=100)  # a busy machine is no failure
POLICY = Policy()
TIME_MAX = 1 << 53  # what both bodies and every client can hold

STATUSES = st.sampled_from(["open", "in_progress", "blocked", "closed", "tombstone", "deferred", "pinned", "review"])
TYPES = st.sampled_from(["task", "bug", "epic", *sorted(EXCLUDED_TYPES)])
ENDS = st.sampled_from([None, "completed", "closed", "failed", "released", "blocked", "changed", "dead"])
TIMES = st.one_of(st.integers(0, 100), st.integers(0, TIME_MAX))
MAYBE_TIMES = st.one_of(st.none(), TIMES)
AROUNDS = st.builds(Around, st.booleans(), st.booleans(), TIMES)
NOWS = st.builds(Now, TIMES, TIMES)
TOKENS = st.integers(1, 5)


@st.composite
def beads(draw: st.DrawFn, **columns: Any) -> Bead:
    fields: dict[str, Any] = {
        "n": 7, "id": draw(st.text("ab-.1", min_size=1, max_size=4)), "status": draw(STATUSES),
        "priority": draw(st.integers(0, 4)), "issue_type": draw(TYPES), "assignee": None, "rig": "",
        "created_ns": draw(TIMES), "updated_ns": 0, "updated_text": None, "closed_at": None, "close_reason": None,
        "flags": draw(st.integers(0, 15)), "defer_ms": draw(MAYBE_TIMES), "not_before_ms": draw(MAYBE_TIMES),
        "failures": draw(st.integers(0, 2)), "losses": draw(st.integers(0, 4)), "incarnation": 0, "version": 1,
        "last_seq": 1, "last_token": draw(st.one_of(st.none(), TOKENS)), "last_end": draw(ENDS), "body_sha": "0" * 32,
        "ended": 0, "hindered": 0, "state": "parked", "ready_ms": None, "wake_ms": None,
    }  # fmt: skip
    return Bead(**fields | columns)


@st.composite
def leases(draw: st.DrawFn) -> Lease:
    until_ms = draw(TIMES)
    return Lease(7, "w-1", "ada", draw(TOKENS), 1, 300_000, until_ms, draw(st.integers(0, 1)), 2, 0, 3)


def derived(bead: Bead, around: Around, now: Now) -> Bead:
    return bead_rules.derive(bead, around, now, now.ms)
