"""What the coordinator is held to: each target as a figure of the results, a must and a want."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .cells import Table, cell_key

OURS, BEANSTALKD, REDIS = "gastown", "beanstalkd -f0", "Redis, appendfsync always"
POSTGRES, NAIVE = "PostgreSQL SKIP LOCKED", "Starlette + aiosqlite"
W = 100  # workers of a comparison unless a row says otherwise

Figure = Callable[["Found"], list[float]]


@dataclass(frozen=True)
class Found:
    """All results: the tables of the plain and the slowed disk, and the probes by name."""

    plain: Table
    slow: Table
    probes: Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """`unit` "x" is a ratio where more is better; any other unit is a figure where less is better."""

    what: str
    figure: Figure
    must: float
    want: float | None
    unit: str = "x"

    @property
    def more_is_better(self) -> bool:
        return self.unit in {"x", "polls"}

    def verdict(self, value: float) -> str:
        if self.want is not None and self.reaches(value, self.want):
            return "want met"
        if self.reaches(value, self.must):
            return "met" if self.want is None else "must met"
        return "missed"

    def reaches(self, value: float, limit: float) -> bool:
        return value >= limit if self.more_is_better else value <= limit


def ratio(door: str, peer: str, peer_door: str, workers: int = W, slow: bool = False) -> Figure:
    """Our rate over the peer's, in rounds that met both."""

    def figure(found: Found) -> list[float]:
        table = found.slow if slow else found.plain
        return table.ratios(cell_key(OURS, door, workers), cell_key(peer, peer_door, workers))

    return figure


def against_best(found: Found) -> list[float]:
    """Our rate at W=100 over PostgreSQL's at whichever W served it best."""
    counts = sorted({int(key.rsplit(" ", 1)[1]) for key in found.plain.cells if key.startswith(POSTGRES)})
    medians = {count: found.plain.median(cell_key(POSTGRES, "unix", count)) or 0.0 for count in counts}
    if not medians:
        return []
    best = max(medians, key=lambda count: medians[count])
    return found.plain.ratios(cell_key(OURS, "http", W), cell_key(POSTGRES, "unix", best))


def claim_p99(workers: int) -> Figure:
    def figure(found: Found) -> list[float]:
        samples = found.plain.cells.get(cell_key(OURS, "http", workers), [])
        return [sample.claim_p99_ms for sample in samples if sample.claim_p99_ms is not None]

    return figure


def probe(*path: str) -> Figure:
    """A single figure of a probe; nothing where the probe did not run."""

    def figure(found: Found) -> list[float]:
        value: Any = found.probes
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return [float(value)] if value is not None else []

    return figure


def growth(name: str) -> Figure:
    """Daemon CPU of a claim + release with a million beads over a thousand, round by round."""

    def figure(found: Found) -> list[float]:
        curve = found.probes.get("curve") or {}
        whole = {"1000", "1000000"} <= set(curve.get("sizes", {}))
        return list(curve["growth"][name]) if whole else []

    return figure


def start_at_million(found: Found) -> list[float]:
    start = (found.probes.get("curve") or {}).get("start", {})
    return [start["seconds"]] if start.get("beads") == 1_000_000 else []


def parked_cpu(found: Found) -> list[float]:
    parked = found.probes.get("parked")
    return [parked["cpu_share"] * 100] if parked else []


TARGETS = [
    Target("HTTP against beanstalkd -f0 (TCP both)", ratio("tcp", BEANSTALKD, "tcp"), 0.6, 1.0),
    Target("HTTP against Redis always (TCP both)", ratio("tcp", REDIS, "tcp"), 0.4, 0.7),
    Target("line socket against beanstalkd -f0 (unix both)", ratio("lines", BEANSTALKD, "unix"), 1.0, 1.7),
    Target("line socket against Redis always (unix both)", ratio("lines", REDIS, "unix"), 0.6, 1.0),
    Target("W=1, HTTP against Redis always (TCP both)", ratio("tcp", REDIS, "tcp", 1), 0.3, 0.6),
    Target("W=1, line socket against Redis always (unix both)", ratio("lines", REDIS, "unix", 1), 0.3, 0.6),
    Target("HTTP against PostgreSQL at its best W (unix both)", against_best, 1.0, 1.5),
    Target("1 ms disk, HTTP against beanstalkd -f0 (TCP both)", ratio("tcp", BEANSTALKD, "tcp", slow=True), 9, 15),
    Target("1 ms disk, HTTP against Redis always (TCP both)", ratio("tcp", REDIS, "tcp", slow=True), 0.4, 0.7),
    Target("HTTP against Starlette + aiosqlite (unix both)", ratio("http", NAIVE, "unix"), 5, 10),
    Target("claim P99 at W=100, HTTP", claim_p99(100), 25, 8, "ms"),
    Target("claim P99 at W=300, HTTP", claim_p99(300), 55, 15, "ms"),
    Target("claim P99 at 1,000 connections, half of peak", probe("half_peak", "claim", "p99_ms"), 50, None, "ms"),
    Target("turn P95 at 100 workers", probe("turn_times", "gastown_turn_seconds", "p95_ms"), 10, None, "ms"),
    Target("store read, mean", probe("turn_times", "gastown_store_read_seconds", "mean_ms"), 5, None, "ms"),
    Target("store write, mean", probe("turn_times", "gastown_store_write_seconds", "mean_ms"), 10, None, "ms"),
    Target("wake-up P95", probe("wake_up", "p95_ms"), 20, None, "ms"),
    Target("RSS idle", probe("memory", "idle", "rss_mb"), 45, None, "MB"),
    Target("RSS, 100 workers", probe("memory", "100 workers, 10,000 beads", "rss_mb"), 60, None, "MB"),
    Target(
        "RSS, 1,000 workers, 100,000 beads", probe("memory", "1000 workers, 100,000 beads", "rss_mb"), 150, None, "MB"
    ),
    Target("parked long-polls", probe("parked", "polls"), 3000, None, "polls"),
    Target("idle CPU with them", parked_cpu, 2, None, "% of a core"),
    Target("claim cost, a million beads over a thousand, no filter", growth("no filter"), 1.5, None, "x more"),
    Target("the same, a label one in a thousand has", growth("a label one in a thousand has"), 1.5, None, "x more"),
    Target("start with 1,000,000 beads", start_at_million, 5, None, "s"),
    Target("import of 6,065 real lines", probe("import", "median"), 2, None, "s"),
]


def rows(found: Found) -> list[tuple[Target, float | None, float, float, str]]:
    """(target, median, least, most, verdict) of each target; without a figure the verdict is "not measured"."""
    judged: list[tuple[Target, float | None, float, float, str]] = []
    for target in TARGETS:
        values = target.figure(found)
        if not values:
            judged.append((target, None, 0.0, 0.0, "not measured"))
            continue
        median = statistics.median(values)
        word = target.verdict(median)
        if len({target.reaches(value, target.must) for value in values}) > 1:
            word += ", not in every round"
        judged.append((target, median, min(values), max(values), word))
    return judged
