"""What is counted, and how it is shown to Prometheus.

Law: counting is integer and float arithmetic in plain lists and dicts, done on the event loop's thread, so that it
costs nothing worth measuring; everything else happens when somebody scrapes. Labels come from closed sets: no bead,
worker, branch or name a caller chose ever becomes one. Imports nothing of ours.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

CONTENT_KIND: Final = "text/plain; version=0.0.4; charset=utf-8"
METHODS_MAX: Final = 72  # distinct `method` labels: with 3 outcomes of 6 buckets a scrape stays under 2,000 series
OTHER: Final = "other"  # the label of every method that is not in the method table
OUTCOMES: Final = ("ok", "refused", "failed")

# Upper bounds in seconds. A call over HTTP answers in about 1 ms on a good disk; six buckets, +Inf included.
RPC_BOUNDS: Final = (0.001, 0.005, 0.025, 0.1, 1.0)
CLAIM_BOUNDS: Final = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
TURN_BOUNDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 1.0)
COMMAND_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # commands of a turn; 256 is its ceiling
READ_BOUNDS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.025, 0.1)
WRITE_BOUNDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 1.0)
LAG_BOUNDS: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0)


class Histogram:
    """Counts per bucket and a sum; `observe` is one bisect and two additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as the exposition format wants them."""
        rows: list[tuple[str, float]] = []
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            rows.append(("+Inf" if bound == float("inf") else str(float(bound)), running))
        return rows


class Series(NamedTuple):
    """One metric name as documented: its kind, labels and meaning."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


SERIES: Final = (
    Series("gastown_beads", "gauge", ("state",), "Beads in each state; the states partition the ledger."),
    Series("gastown_ready_oldest_age_seconds", "gauge", (), "How long the oldest ready bead has been ready."),
    Series("gastown_claims", "counter", ("outcome",), "Answered claims: granted, empty or refused."),
    Series("gastown_claim_latency_seconds", "histogram", (), "From the arrival of a claim to its grant."),
    Series("gastown_rpc_seconds", "histogram", ("method", "outcome"), "Time to answer: ok, refused or failed."),
    Series("gastown_turn_seconds", "histogram", (), "Length of a turn, its commit included."),
    Series("gastown_turn_commands", "histogram", (), "Commands decided in one turn."),
    Series("gastown_store_read_seconds", "histogram", (), "Reading rows of the ledger."),
    Series("gastown_store_write_seconds", "histogram", (), "Writing a turn's rows and committing them."),
    Series("gastown_loop_lag_seconds", "histogram", (), "How late the event loop woke up, sampled once a second."),
    Series("gastown_workers", "gauge", ("state",), "Workers in each state."),
    Series("gastown_leases_live", "gauge", (), "Leases before their deadline."),
    Series("gastown_lease_expiries", "counter", (), "Leases that reached their deadline."),
    Series("gastown_body", "gauge", ("body",), "1 for the body that answers."),
    Series("gastown_backpressure", "gauge", (), "1 while more beads are ready than the queue's upper mark."),
)  # fmt: skip
_BY_NAME: Final = {series.name: series for series in SERIES}


class Metrics(Collector):
    """Every number of the daemon.

    `gauges` is asked at each scrape for what the ledger holds: {"beads": {state: n}, "workers": {state: n},
    "leases_live": n, "ready_oldest_age": seconds, "backpressure": bool}; a missing key reads as 0.
    """

    def __init__(self, body: str = "python") -> None:
        self.body = body
        self.methods: frozenset[str] | None = None  # the method table; None: the first METHODS_MAX names that come
        self.gauges: Callable[[], Mapping[str, Any]] | None = None
        self._rpc: dict[tuple[str, str], Histogram] = {}
        self._seen: set[str] = set()
        self._claims: dict[str, int] = {}
        self._expired = 0
        self._claim_latency = Histogram(CLAIM_BOUNDS)
        self._turn = Histogram(TURN_BOUNDS)
        self._commands = Histogram(COMMAND_BOUNDS)
        self._read = Histogram(READ_BOUNDS)
        self._write = Histogram(WRITE_BOUNDS)
        self._lag = Histogram(LAG_BOUNDS)
        self.claim_latency = self._claim_latency.observe  # (seconds)
        self.store_read = self._read.observe  # (seconds)
        self.store_write = self._write.observe  # (seconds)
        self.lag = self._lag.observe  # (seconds)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._registry.register(process_collector())

    # -- counting ---------------------------------------------------------------------------------------------------
    def rpc(self, method: str, outcome: str, seconds: float) -> None:
        """One call answered; a `method` outside the method table counts as "other"."""
        histogram = self._rpc.get((method, outcome))
        if histogram is None:
            histogram = self._first(method, outcome)
        histogram.observe(seconds)

    def _first(self, method: str, outcome: str) -> Histogram:
        room = len(self._seen) < METHODS_MAX
        known = method in self._seen or (room if self.methods is None else method in self.methods)
        method = method if known else OTHER
        self._seen.add(method)
        return self._rpc.setdefault((method, outcome), Histogram(RPC_BOUNDS))

    def claim(self, outcome: str) -> None:
        self._claims[outcome] = self._claims.get(outcome, 0) + 1

    def turn(self, seconds: float, commands: int) -> None:
        self._turn.observe(seconds)
        self._commands.observe(commands)

    def expired(self, leases: int) -> None:
        self._expired += leases

    # -- showing ----------------------------------------------------------------------------------------------------
    def render(self) -> bytes:
        """The exposition text, CONTENT_KIND."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """The names alone, so that registering does not ask for gauges."""
        return [_family(series) for series in SERIES]

    def collect(self) -> Iterator[Metric]:
        gauges: Mapping[str, Any] = self.gauges() if self.gauges is not None else {}
        yield _labelled("gastown_beads", gauges.get("beads", {}))
        yield _plain("gastown_ready_oldest_age_seconds", gauges.get("ready_oldest_age", 0))
        yield _labelled("gastown_claims", self._claims)
        yield _histograms("gastown_rpc_seconds", self._rpc)
        yield _histograms("gastown_claim_latency_seconds", {(): self._claim_latency})
        yield _histograms("gastown_turn_seconds", {(): self._turn})
        yield _histograms("gastown_turn_commands", {(): self._commands})
        yield _histograms("gastown_store_read_seconds", {(): self._read})
        yield _histograms("gastown_store_write_seconds", {(): self._write})
        yield _histograms("gastown_loop_lag_seconds", {(): self._lag})
        yield _labelled("gastown_workers", gauges.get("workers", {}))
        yield _plain("gastown_leases_live", gauges.get("leases_live", 0))
        yield _plain("gastown_lease_expiries", self._expired)
        yield _labelled("gastown_body", {self.body: 1})
        yield _plain("gastown_backpressure", gauges.get("backpressure", 0))


_FAMILIES: Final = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily, "histogram": HistogramMetricFamily}


def _family(series: Series) -> Any:
    return _FAMILIES[series.kind](series.name, series.text, labels=series.labels)


def _labelled(name: str, values: Mapping[str, float]) -> Metric:
    family: Metric = _family(_BY_NAME[name])
    for label, value in values.items():
        family.add_metric([label], float(value))  # type: ignore[attr-defined]  # each family has its own add_metric
    return family


def _plain(name: str, value: float | None) -> Metric:
    family: Metric = _family(_BY_NAME[name])
    family.add_metric([], float(value or 0))  # type: ignore[attr-defined]  # as above
    return family


def _histograms(name: str, by_labels: Mapping[Any, Histogram]) -> Metric:
    family = _family(_BY_NAME[name])
    for labels, histogram in by_labels.items():
        family.add_metric(labels, buckets=histogram.buckets(), sum_value=histogram.total)
    result: Metric = family
    return result


# ---------------------------------------------------------------- the process


class PsutilCollector(Collector):
    """process_* where there is no /proc to read."""

    def collect(self) -> Iterator[Metric]:
        import psutil

        process = psutil.Process()
        times = process.cpu_times()
        yield CounterMetricFamily(
            "process_cpu_seconds", "User and system CPU time spent in seconds.", times.user + times.system
        )
        yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory size.", process.memory_info().rss)
        yield GaugeMetricFamily("process_start_time_seconds", "Start time since the epoch.", process.create_time())
        yield GaugeMetricFamily("process_open_fds", "Number of open file descriptors.", process.num_fds())


def process_collector() -> Collector:
    return ProcessCollector(registry=None) if sys.platform == "linux" else PsutilCollector()


# ---------------------------------------------------------------- the page about it


def document() -> str:
    """docs/metrics.md."""
    rows = [
        f"| `{row.name}{'_total' if row.kind == 'counter' else ''}` | {row.kind} | "
        f"{', '.join(f'`{label}`' for label in row.labels) or '-'} | {row.text} |"
        for row in SERIES
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            "Made by `python -m gastown.metrics`; a test compares it. `GET /metrics` needs scope `read` over TCP.",
            "A series appears with its first use; no label ever holds a bead, worker or branch.",
            "",
            "| name | kind | labels | meaning |",
            "|---|---|---|---|",
            *rows,
            "| `process_*` | gauge, counter | - | CPU, memory, file descriptors and start time of the daemon. |",
            "",
        ]
    )


if __name__ == "__main__":
    sys.stdout.write(document())
