"""In which order ready beads are handed out, and to whom.

Law: the order of any two ready beads is decided here and is fixed while both stay ready, so it can be an index.
P0 first; the others by ready_since + priority * aging_ms, so that a bead rises one step per aging_ms waited; ties by
created_at, then id.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..model import EXCLUDED_TYPES, RETRY_AFTER_MS_MAX, RETRY_AFTER_MS_MIN, Bead, Policy

CRITICAL_LEAD: Final = 1 << 61  # puts every P0 before every other bead and keeps P0s in their own order


class Filter(NamedTuple):
    """What a claim asks for; every field narrows, None asks nothing. Hashable: waiting claims queue by filter."""

    labels_all: tuple[str, ...] = ()
    labels_any: tuple[str, ...] = ()
    issue_types: tuple[str, ...] = ()
    rig: str | None = None
    convoy: str | None = None
    bead_id: str | None = None


def score(ready_ms: int, priority: int, policy: Policy) -> int:
    if priority == 0:
        return ready_ms - CRITICAL_LEAD
    return ready_ms + priority * policy.aging_ms


def order_key(bead: Bead, policy: Policy) -> tuple[int, int, str]:
    """Sort key of a ready bead (ready_ms must be set)."""
    assert bead.ready_ms is not None
    return score(bead.ready_ms, bead.priority, policy), bead.created_ns, bead.id


def admits(asked: Filter, bead: Bead, labels: frozenset[str], convoys: frozenset[str]) -> bool:
    """Whether a claim with this filter may have this ready bead. Naming a type also admits excluded ones."""
    if asked.issue_types:
        if bead.issue_type not in asked.issue_types:
            return False
    elif bead.issue_type in EXCLUDED_TYPES:
        return False
    return (
        labels.issuperset(asked.labels_all)
        and (not asked.labels_any or not labels.isdisjoint(asked.labels_any))
        and (asked.rig is None or bead.rig == asked.rig)
        and (asked.convoy is None or asked.convoy in convoys)
        and (asked.bead_id is None or bead.id == asked.bead_id)
    )


def retry_after_ms(next_due_ms: int | None, now_ms: int) -> int:
    """Time to the next known deadline, within the bounds a client can rely on."""
    if next_due_ms is None:
        return RETRY_AFTER_MS_MAX
    return min(max(next_due_ms - now_ms, RETRY_AFTER_MS_MIN), RETRY_AFTER_MS_MAX)
