"""Leases as their holders see them."""

from typing import Any

from .town import Town, until

TTL_MS = 300  # short, yet long enough for a few calls on a busy machine
LONG_MS = 60_000


def held(lease: dict[str, Any]) -> dict[str, Any]:
    return {"bead_id": lease["bead_id"], "token": lease["token"]}


def beat(town: Town, worker: str, *leases: dict[str, Any], **extra: Any) -> Any:
    """A heartbeat for these leases; `extra` goes with each."""
    return town.call("worker.heartbeat", worker_id=worker, leases=[{**held(lease), **extra} for lease in leases])


def lapsed(town: Town, worker: str, bead_id: str | None = None) -> dict[str, Any]:
    """A lease whose deadline has passed and which nobody was granted since."""
    lease = town.lease(worker, bead_id, ttl_ms=TTL_MS)
    until(lambda: any(e["kind"] == "lapsed" and e["token"] == lease["token"] for e in town.history(lease["bead_id"])))
    return lease
