"""One run of a fleet as data: what to drive, with how many workers, until when; and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .histogram import Histogram

JSON_DIALECTS = ("http", "lines")  # what the Python fleet speaks too; the compiled one also speaks the peers' protocols


@dataclass(frozen=True)
class Plan:
    """Field by field the options of `load-test run`. `target` is unix:PATH or tcp:HOST:PORT."""

    target: str
    dialect: str
    workers: int = 1
    pairs: int | None = None
    seconds: float | None = None
    rate: float | None = None
    nested: bool = False
    ending: str = "complete"
    wait_ms: int = 0
    filter: str | None = None
    again: bool = False
    request_ids: bool = False
    retry_seconds: float = 0.0
    timeout_ms: int = 60_000
    run: str = "load"
    tokens: str | None = None
    daemon_file: str | None = None
    history: str | None = None
    settled: str | None = None
    announce: bool = False

    def arguments(self) -> list[str]:
        """As command line of the compiled generator; defaults are left out."""
        words: list[str] = []
        for name, value in self.changed().items():
            words.append("--" + name.replace("_", "-"))
            if value is not True:
                words.append(str(value))
        return words

    def changed(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        pairs = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return {name: value for name, value, default in pairs if value != default}


@dataclass
class Outcome:
    """Counts and latencies of a run. `unknown`: calls whose reply was lost; `lost`: grants that were superseded."""

    generator: str
    workers: int
    elapsed_s: float
    cpu_s: float
    granted: int = 0
    settled: int = 0
    empty: int = 0
    unknown: int = 0
    reconnects: int = 0
    gave_up: int = 0
    lost: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    claim: Histogram = field(default_factory=Histogram)
    settle: Histogram = field(default_factory=Histogram)

    @classmethod
    def read(cls, report: Mapping[str, Any]) -> "Outcome":
        """From the JSON line a generator prints."""
        plain = {key: value for key, value in report.items() if not key.endswith("_us")}
        return cls(**plain, claim=Histogram.read(report["claim_us"]), settle=Histogram.read(report["settle_us"]))

    @property
    def rate(self) -> float:
        """Settled grants a second."""
        return self.settled / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def cpu_share(self) -> float:
        """Share of one core the generator used; near 1.0 it may be the bottleneck itself."""
        return self.cpu_s / self.elapsed_s if self.elapsed_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"claim", "settle"}}
        latencies = {"claim": self.claim.summary(), "settle": self.settle.summary()}
        return plain | latencies | {"pairs_per_s": self.rate, "cpu_share": self.cpu_share}
