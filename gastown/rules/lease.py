"""Who holds a bead, until when, and how a hold ends.

Law: every grant, renewal, lapse and settlement is decided here. A token is good while it is the bead's latest grant
and unsettled; the deadline only permits reassignment. A function that refuses has changed nothing.
"""

from __future__ import annotations

from typing import Final

from ..model import Bead, Lease, Policy, Refused
from .bead import state_of

# how the last grant ended -> the reason a late caller is told
REASONS: Final = {
    "completed": "closed", "closed": "closed",
    "released": "released", "failed": "released",
    "blocked": "changed", "changed": "changed", "dead": "changed",
}  # fmt: skip


def lost_reason(bead: Bead, lease: Lease | None, token: int) -> str:
    """Why `token` no longer rules the bead: superseded, released, closed or changed."""
    if lease is not None:
        return "superseded"
    if bead.status in ("closed", "tombstone"):
        return "closed"
    if token == bead.last_token and bead.last_end is not None:
        return REASONS[bead.last_end]
    return "superseded"


def lost(bead: Bead, lease: Lease | None, token: int) -> Refused:
    """The refusal of a stale token. It never names a way to take the work back from its holder."""
    reason = lost_reason(bead, lease, token)
    return Refused(
        "lease_lost",
        "this token no longer holds the bead: stop working on it",
        token=token,
        current_token=lease.token if lease else None,
        state=state_of(bead, lease),
        reason=reason,
        action="stop",
    )


def attempt_of(bead: Bead) -> int:
    return bead.failures + bead.losses + 1


def version_of(bead: Bead, lease: Lease | None) -> int:
    """What the world sees: a grant or a checkpoint lives in the lease row alone."""
    return bead.version if lease is None else max(bead.version, lease.version)


def check_token(bead: Bead, lease: Lease | None, token: int) -> Lease:
    """The bead's unsettled grant, if the token is its. Refused (lease_lost) otherwise."""
    if lease is None or lease.token != token:
        raise lost(bead, lease, token)
    return lease


def grant(
    bead: Bead, lapsed: Lease | None, worker_id: str, worker_name: str, token: int, ttl_ms: int, now_ms: int
) -> Lease:
    """A lease on a claimable bead, whose row stays as it is; `lapsed` is the grant it supersedes."""
    return Lease(
        bead.n, worker_id, worker_name, token, attempt_of(bead), ttl_ms, now_ms + ttl_ms,
        0, version_of(bead, lapsed) + 1, now_ms * 1_000_000, 0,
    )  # fmt: skip


def pass_on(bead: Bead, old: Lease, worker_id: str, worker_name: str, token: int, now_ms: int) -> Lease:
    """The same worker, registered anew, goes on with its grant: new token, fresh ttl, same attempt."""
    return grant(bead, old, worker_id, worker_name, token, old.ttl_ms, now_ms)._replace(attempt=old.attempt)


def is_due(lease: Lease, now_ms: int) -> bool:
    return not lease.lapsed and now_ms >= lease.until_ms


def lapse(bead: Bead, lease: Lease, policy: Policy) -> tuple[Bead, Lease | None]:
    """The deadline passed: open again, one loss spent. None for the lease means the budget is spent: dead-letter."""
    losses = bead.losses + 1
    bead = bead._replace(status="open", assignee=None, losses=losses, ready_ms=None, last_token=lease.token)
    if losses >= policy.losses_max:
        return bead._replace(status="blocked", last_end="dead"), None
    return bead, lease._replace(lapsed=1)


def renew(lease: Lease, now_ms: int) -> Lease:
    return lease._replace(until_ms=now_ms + lease.ttl_ms, lapsed=0)


def revive(bead: Bead) -> Bead:
    """A lapsed holder came back before anybody else: its loss is taken back."""
    return bead._replace(losses=max(0, bead.losses - 1))


def settled(
    bead: Bead,
    lease: Lease,
    end: str,
    status: str,
    assignee: str | None = None,
    closed_at: str | None = None,
    close_reason: str | None = None,
    failures: int | None = None,
    not_before_ms: int | None = None,
) -> Bead:
    """The grant is over by its own holder; a loss that had lapsed is taken back. ready_since starts anew."""
    return bead._replace(
        losses=max(0, bead.losses - 1) if lease.lapsed else bead.losses,
        failures=bead.failures if failures is None else failures,
        last_token=lease.token,
        last_end=end,
        ready_ms=None,
        status=status,
        assignee=assignee,
        closed_at=closed_at,
        close_reason=bead.close_reason if close_reason is None else close_reason,
        not_before_ms=not_before_ms,
    )


def complete(bead: Bead, lease: Lease, reason: str, closed_at: str) -> Bead:
    return settled(bead, lease, "completed", "closed", lease.worker_name, closed_at, reason)


def release(bead: Bead, lease: Lease) -> Bead:
    return settled(bead, lease, "released", "open")


def backoff_ms(failures: int, policy: Policy) -> int:
    """min(base * 2^(failures-1), cap); the exponent is capped so that both bodies compute the same integer."""
    return min(policy.backoff_ms << min(failures - 1, 30), policy.backoff_ms_max)


def fail(bead: Bead, lease: Lease, retryable: bool, now_ms: int, policy: Policy) -> tuple[Bead, bool]:
    """-> the bead, and whether it is dead-lettered now."""
    failures = bead.failures + 1
    if not retryable or failures >= policy.failures_max:
        return settled(bead, lease, "failed", "blocked", failures=failures), True
    retry_at_ms = now_ms + backoff_ms(failures, policy)
    return settled(bead, lease, "failed", "open")._replace(failures=failures, not_before_ms=retry_at_ms), False


def block(bead: Bead, lease: Lease, by_edges: bool) -> Bead:
    """by_edges: stays open and waits; else status blocked until somebody updates or reopens it."""
    return settled(bead, lease, "blocked", "open" if by_edges else "blocked")


def end_by_others(bead: Bead, lease: Lease, end: str) -> Bead:
    """Somebody else closed or changed the bead under its holder. `end`: closed or changed. No loss is taken back."""
    return bead._replace(last_token=lease.token, last_end=end, ready_ms=None)


def check_ttl(ttl_ms: int | None, policy: Policy) -> int:
    """The ttl asked for, or the default. Refused: invalid_params below the minimum, limit above the maximum."""
    if ttl_ms is None:
        return policy.ttl_ms
    if ttl_ms < policy.ttl_ms_min:
        raise Refused("invalid_params", f"ttl_ms must be at least {policy.ttl_ms_min}", field="ttl_ms")
    if ttl_ms > policy.ttl_ms_max:
        raise Refused("limit", f"ttl_ms may be at most {policy.ttl_ms_max}", limit="ttl_ms", max=policy.ttl_ms_max)
    return ttl_ms
