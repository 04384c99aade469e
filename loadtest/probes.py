"""What a rate does not show: wake-up, memory, parked polls, the turn's own times, response time at half the peak."""

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from . import generator
from .framing import Framing
from .plan import Plan
from .town import Caller, Town, scratch, seed

WAKE_SAMPLES = 200
SETTLE_S = 1.5  # until a fleet's connections are at work, before memory is read
CPU_WINDOW_S = 5.0
PARK_MS = 45_000  # the longest poll of the contract
PARKED = 3_000
PAGE_BYTES = 1 << 20


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)]


def wake_up(samples: int) -> dict[str, float]:
    """From sending `bead.close` of a blocker to the reply of the claim that waited for its dependent, milliseconds."""
    times: list[float] = []
    with scratch() as town, town.caller() as boss, town.caller() as agent:
        worker = agent.call("worker.register", name="waiter")["worker_id"]
        for number in range(samples):
            times.append(_one_wake_up(boss, agent, worker, number))
    return {"samples": samples, "p50_ms": percentile(times, 50), "p95_ms": percentile(times, 95), "max_ms": max(times)}


def _one_wake_up(boss: Caller, agent: Caller, worker: str, number: int) -> float:
    blocker, dependent = f"wake-{number}-a", f"wake-{number}-b"
    items = [
        {"title": "blocker", "id": blocker},
        {"title": "dependent", "id": dependent, "depends_on": [{"id": blocker}]},
    ]
    boss.call("bead.create", beads=items)
    wanted = {"bead_id": dependent}
    agent.send("work.claim", worker_id=worker, wait_ms=10_000, filter=wanted)
    boss.call("bead.ready", limit=1)  # a turn later than the claim's, so that it is waiting
    began_ns = time.monotonic_ns()
    boss.send("bead.close", id=blocker, reason="done")
    reply = agent.receive()
    took_ms = (time.monotonic_ns() - began_ns) / 1e6
    boss.receive()
    lease = reply["result"]["claims"][0]["lease"]
    agent.call("work.complete", bead_id=lease["bead_id"], token=lease["token"])
    return took_ms


def memory_mb(processes: list[psutil.Process]) -> dict[str, float]:
    """RSS of the daemon's own process and PSS of it with its children, in MB (2^20 bytes)."""
    rss = processes[0].memory_info().rss
    pss = sum(process.memory_full_info().pss for process in processes)
    return {"rss_mb": rss / PAGE_BYTES, "pss_mb": pss / PAGE_BYTES}


@contextmanager
def fleet(town: Town, **options: Any) -> Iterator[None]:
    """A fleet at work on the line socket while the block runs."""
    target, dialect = town.target("lines")
    process = generator.start(Plan(target, dialect, again=True, **options))
    try:
        yield
    finally:
        generator.finish(process)


def memory() -> dict[str, Any]:
    """Idle; 100 workers on 10,000 beads; 1,000 workers on 100,000 beads."""
    found: dict[str, Any] = {}
    with scratch() as town:
        found["idle"] = memory_mb(town.processes())
        for workers, beads in ((100, 10_000), (1000, 100_000)):
            seed(town, beads, first=beads)
            with fleet(town, workers=workers, seconds=SETTLE_S * 2, run=f"memory-{workers}"):
                time.sleep(SETTLE_S)
                found[f"{workers} workers, {beads:,} beads"] = memory_mb(town.processes())
    return found


def cpu_share(town: Town, window_s: float) -> float:
    """Share of one core the daemon uses, over `window_s` seconds."""
    before = [process.cpu_times() for process in town.processes()]
    time.sleep(window_s)
    after = [process.cpu_times() for process in town.processes()]
    used: float = sum(b.user + b.system - a.user - a.system for a, b in zip(before, after, strict=True))
    return used / window_s


def parked(count: int) -> dict[str, float]:
    """Thousands of claims waiting for work that never comes: what they cost while nothing happens."""
    with scratch() as town:
        idle = cpu_share(town, CPU_WINDOW_S / 2)
        with fleet(town, workers=count, wait_ms=PARK_MS, seconds=SETTLE_S * 2 + CPU_WINDOW_S, run="park"):
            time.sleep(SETTLE_S * 2)
            share = cpu_share(town, CPU_WINDOW_S - SETTLE_S)
            found = memory_mb(town.processes())
    return {"polls": count, "cpu_share": share, "idle_cpu_share": idle} | found


def half_peak(peak: float, connections: int, seconds: float) -> dict[str, Any]:
    """Open loop at half the measured peak: response times from the intended start, over HTTP on the unix socket."""
    with scratch() as town:
        rate = peak / 2
        seed(town, int(rate * seconds * 1.2))
        target, dialect = town.target("http")
        outcome = generator.run(Plan(target, dialect, connections, seconds=seconds, rate=rate, again=True))
    return {"connections": connections, "rate": rate, "reached": outcome.rate, "claim": outcome.claim.summary()}


@dataclass(frozen=True)
class Buckets:
    """A Prometheus histogram: cumulative counts by upper bound in seconds, sum and count."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    total_s: float

    def since(self, earlier: "Buckets | None") -> "Buckets":
        if earlier is None:
            return self
        counts = tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        return Buckets(self.bounds, counts, self.total_s - earlier.total_s)

    def quantile_ms(self, share: float) -> float:
        """Interpolated within its bucket, as Prometheus does."""
        wanted, lower, below = self.counts[-1] * share, 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= wanted and count > below:
                inside = (
                    lower if bound == float("inf") else lower + (bound - lower) * (wanted - below) / (count - below)
                )
                return inside * 1000
            lower, below = bound, count
        return 0.0

    @property
    def mean_ms(self) -> float:
        return self.total_s / self.counts[-1] * 1000 if self.counts and self.counts[-1] else 0.0


def read_buckets(text: str, name: str) -> Buckets | None:
    """One histogram without labels from an exposition."""
    bounds, counts, total = [], [], 0.0
    for line in text.splitlines():
        if line.startswith(f'{name}_bucket{{le="'):
            bound, _, count = line.partition('le="')[2].partition('"} ')
            bounds.append(float(bound.replace("+Inf", "inf")))
            counts.append(float(count.split()[0]))
        elif line.startswith(f"{name}_sum "):
            total = float(line.split()[1])
    return Buckets(tuple(bounds), tuple(counts), total) if bounds else None


def scrape(town: Town) -> str:
    framing = Framing("http")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(town.daemon["socket"])
        peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while (body := framing.take()) is None:
            piece = peer.recv(65536)
            if not piece:
                raise OSError("no metrics")
            framing.feed(piece)
    return body.decode()


TURN_METRICS = ("gastown_turn_seconds", "gastown_store_read_seconds", "gastown_store_write_seconds")


def turn_times(pairs: int) -> dict[str, Any]:
    """The daemon's own histograms over a run of 100 workers on HTTP: P95 and mean of turns, reads and commits."""
    with scratch() as town:
        seed(town, pairs)
        before = scrape(town)
        target, dialect = town.target("http")
        generator.run(Plan(target, dialect, 100, pairs=pairs))
        after = scrape(town)
    found: dict[str, Any] = {}
    for name in TURN_METRICS:
        now = read_buckets(after, name)
        delta = now.since(read_buckets(before, name)) if now else None
        if delta and delta.counts[-1]:  # a histogram nobody fed is no measurement
            found[name] = {"p95_ms": delta.quantile_ms(0.95), "mean_ms": delta.mean_ms, "count": delta.counts[-1]}
    return found


def rounds_of(measure: Callable[[], float], rounds: int) -> dict[str, float]:
    """Median, least and most of several measurements of one figure."""
    values = [measure() for _ in range(rounds)]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
