"""What a worker is doing, judged from its contacts and leases alone.

Law: silence ends no lease; it only changes what we call the worker. First match wins.
"""

from __future__ import annotations

from ..model import Credential, Policy, Refused, Worker


def state_of(worker: Worker, leases: int, now_ms: int, policy: Policy) -> str:
    """gone, draining, stalled, working or idle. `leases`: live ones it holds."""
    silent_ms = now_ms - worker.last_seen_ms
    if worker.gone_ms is not None or silent_ms >= policy.gone_ms:
        return "gone"
    if worker.draining:
        return "draining"
    if leases and silent_ms >= policy.stalled_ms:
        return "stalled"
    return "working" if leases else "idle"


def is_forgotten(worker: Worker, now_ms: int, policy: Policy) -> bool:
    """Gone for so long that it is no longer listed."""
    gone_ms = worker.gone_ms if worker.gone_ms is not None else worker.last_seen_ms + policy.gone_ms
    return now_ms >= gone_ms + policy.forget_ms


def may_act(credential: Credential, owner: str) -> bool:
    """A worker belongs to the credential that registered it; admin acts for any."""
    return credential.scope == "admin" or credential.id == owner


def check_owner(credential: Credential, owner: str) -> None:
    if not may_act(credential, owner):
        raise Refused("forbidden", "this worker was registered with another credential", needs="admin")


def check_known(worker: Worker | None, last_seen_ms: int, now_ms: int, policy: Policy) -> Worker:
    """The registration, or the refusal that tells the agent to register again."""
    if worker is None or worker.gone_ms is not None or now_ms - last_seen_ms >= policy.gone_ms:
        raise Refused("worker_unknown", "this worker_id is not registered (any more): call worker.register")
    return worker
