"""Cells of a comparison: every system and transport at every number of workers, visited in interleaved rounds.

In each round each system starts fresh, so no round inherits the history of another, and the order of the systems
turns by one, so that none always follows the same neighbour.
"""

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil

from . import generator, slowdisk
from .peers import PeerFault, System
from .plan import JSON_DIALECTS, Outcome, Plan
from .town import RpcError, TownFault

FAULTS = (generator.GeneratorFault, PeerFault, TownFault, RpcError, OSError)


@dataclass(frozen=True)
class Measure:
    """How long each cell is watched: until `pairs` or `seconds`, whichever comes first."""

    workers: tuple[int, ...] = (1, 30, 100, 300)
    pairs: int = 10_000
    seconds: float = 1.0
    backlog: int = 10_000
    environment: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, object]] = field(default_factory=dict)  # name -> changes of gastown's plan


@dataclass(frozen=True)
class Sample:
    """One visit of a cell."""

    round: int
    rate: float
    claim_p50_ms: float | None
    claim_p95_ms: float | None
    claim_p99_ms: float | None
    cpu_share: float


@dataclass
class Round:
    """The circumstances of a round: sync time of the disk before each system, CPU of others in shares of a core."""

    sync_us: dict[str, float] = field(default_factory=dict)
    foreign_cpu: float = 0.0
    seconds: float = 0.0


@dataclass
class Table:
    """`cells`: (system, door, workers) as text -> samples; `faults`: what could not be measured and why."""

    cells: dict[str, list[Sample]] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def rates(self, key: str) -> list[float]:
        return [sample.rate for sample in self.cells.get(key, [])]

    def median(self, key: str, name: str = "rate") -> float | None:
        values = [getattr(sample, name) for sample in self.cells.get(key, [])]
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else None

    def ratios(self, ours: str, theirs: str) -> list[float]:
        """Our rate over theirs, round by round, so that both met the same disk."""
        peers = {sample.round: sample.rate for sample in self.cells.get(theirs, [])}
        samples = self.cells.get(ours, [])
        return [s.rate / peers[s.round] for s in samples if peers.get(s.round)]


def cell_key(system: str, door: str, workers: int) -> str:
    return f"{system} | {door} | {workers}"


def spent_cpu_s() -> float:
    """CPU seconds of this process and of all its children that have ended."""
    return sum(os.times()[:4])


def busy_cpu_s() -> float:
    """CPU seconds of the whole machine, idle and waiting left out."""
    times = psutil.cpu_times()
    return float(sum(times[:3]) + sum(getattr(times, name, 0.0) for name in ("irq", "softirq")))


def run_round(table: Table, systems: Sequence[type[System]], measure: Measure, say: Callable[[str], None]) -> None:
    """One visit of every cell."""
    number = len(table.rounds)
    here = Round()
    began, spent, busy = os.times().elapsed, spent_cpu_s(), busy_cpu_s()
    turn = number % len(systems)
    for system in [*systems[turn:], *systems[:turn]]:
        if system.name in table.faults and not any(key.startswith(f"{system.name} |") for key in table.cells):
            continue  # it has never worked here
        try:
            visit(table, here, number, system, measure, say)
        except FAULTS as fault:
            table.faults[system.name] = str(fault).strip() or type(fault).__name__
            say(f"{system.name}: {table.faults[system.name]}")
    here.seconds = os.times().elapsed - began
    here.foreign_cpu = max(0.0, (busy_cpu_s() - busy) - (spent_cpu_s() - spent)) / here.seconds
    table.rounds.append(here)


def visit(
    table: Table, here: Round, number: int, kind: type[System], measure: Measure, say: Callable[[str], None]
) -> None:
    """Starts one system and measures all its cells."""
    home = Path(tempfile.mkdtemp(prefix="gastown-bench-"))
    home.chmod(0o755)
    system = kind(home, measure.environment)
    try:
        here.sync_us[kind.name] = slowdisk.calibrate(home, measure.environment)
        system.start()
        for door in kind.doors:
            for workers in measure.workers:
                sample = measure_cell(system, door, workers, measure, number)
                table.cells.setdefault(cell_key(kind.name, door, workers), []).append(sample)
                say(f"round {number + 1}  {kind.name} {door} W={workers}: {sample.rate:,.0f} pairs/s")
        if kind.name == "gastown":
            visit_variants(table, system, measure, number)
    finally:
        system.stop()
        shutil.rmtree(home, ignore_errors=True)


def visit_variants(table: Table, system: System, measure: Measure, number: int) -> None:
    """Cells that only the coordinator has, at a hundred workers over the line socket."""
    for name, changes in measure.variants.items():
        sample = measure_cell(system, "lines", 100, measure, number, changes)
        table.cells.setdefault(cell_key(f"gastown, {name}", "lines", 100), []).append(sample)


def measure_cell(
    system: System,
    door: str,
    workers: int,
    measure: Measure,
    number: int,
    changes: Mapping[str, object] | None = None,
) -> Sample:
    system.top_up(measure.backlog + measure.pairs)
    plan = replace(system.plan(door, workers), pairs=measure.pairs, seconds=measure.seconds)
    outcome = generator.run(replace(plan, **(changes or {})))  # type: ignore[arg-type]  # names of Plan  # fields of a plan
    system.remaining -= outcome.granted
    return sample_of(outcome, number)


def sample_of(outcome: Outcome, number: int) -> Sample:
    p50, p95, p99 = (outcome.claim.percentile_ms(percent) for percent in (50, 95, 99))
    return Sample(number, outcome.rate, p50, p95, p99, outcome.cpu_share)


def ceilings(workers: Sequence[int], seconds: float) -> dict[str, dict[str, float]]:
    """What the generator itself reaches against a fixed reply: pairs a second and its CPU share."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="gastown-bench-") as folder:
        for dialect in JSON_DIALECTS:
            with generator.static_server(dialect, Path(folder)) as target:
                for count in workers:
                    outcome = generator.run(Plan(target, dialect, count, seconds=seconds))
                    found[f"{dialect} | {count}"] = {"rate": outcome.rate, "cpu_share": outcome.cpu_share}
    return found
