"""How many workers the queue could use, and how healthy the town is.

Law: integers only; shares are in permille. The ratio compared with 2.0 and 0.5 is (ready + leased) per live worker.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..model import Policy

HEALTHY_PERMILLE: Final = 800
DEGRADED_PERMILLE: Final = 500
DEGRADED_STALLED_MAX: Final = 2  # workers; more is unhealthy
ENDS_WINDOW: Final = 100  # how many of the latest ends count towards success
ENDS_WINDOW_MS: Final = 3_600_000  # and how old they may be


class Load(NamedTuple):
    ready: int
    leased: int
    workers: int  # live ones
    stalled: int
    ends: int  # of the window
    ends_ok: int
    changed_ms: int | None  # when the advice last changed
    advised: int | None  # what it said then


class Advice(NamedTuple):
    recommended_workers: int
    reason: str
    backpressure: bool
    health: str


def success_permille(ends: int, ends_ok: int) -> int:
    return 1000 if ends == 0 else ends_ok * 1000 // ends


def health(permille: int, stalled: int) -> str:
    if permille >= HEALTHY_PERMILLE and stalled == 0:
        return "healthy"
    if permille >= DEGRADED_PERMILLE and stalled <= DEGRADED_STALLED_MAX:
        return "degraded"
    return "unhealthy"


def wanted(load: Load, policy: Policy) -> tuple[int, str]:
    """-> (workers, why), before the cooldown."""
    work, workers = load.ready + load.leased, max(1, load.workers)
    half = max(policy.workers_min, min(policy.workers_max, (work + 1) // 2))
    if work > 2 * workers or load.ready > policy.queue_depth_target * load.workers:
        return half, f"{work} items for {load.workers} workers: scale up"
    if 2 * work < workers:
        return half, f"{work} items for {load.workers} workers: scale down"
    return max(policy.workers_min, min(policy.workers_max, load.workers)), "the load fits the workers: hold"


def advise(load: Load, now_ms: int, policy: Policy) -> Advice:
    """The advice of this instant; within the cooldown it repeats what it said last."""
    workers, reason = wanted(load, policy)
    cooling = load.changed_ms is not None and now_ms - load.changed_ms < policy.scale_cooldown_ms
    if cooling and load.advised is not None and workers != load.advised:
        workers, reason = load.advised, f"cooling down; then: {reason}"
    permille = success_permille(load.ends, load.ends_ok)
    return Advice(workers, reason, load.ready > policy.queue_depth_max, health(permille, load.stalled))
