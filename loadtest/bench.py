"""`python -m gastown.loadtest.bench`: the coordinator beside its peers, in one run of bounded length."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console
from rich.markdown import Markdown

from gastown import __version__

from . import cells, curve, document, generator, probes, slowdisk, turn
from .peers import SYSTEMS, System, install
from .targets import Found

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
LEDGERS = ROOT.parent / "shared" / "data"
REAL = "gastown-6065.jsonl"
SECTIONS = ("cells", "slow", "probes", "curve")
FULL_MINUTES, QUICK_MINUTES = 15.0, 1.5
CURVE_S, QUICK_CURVE_S = 240.0, 5.0
VARIANTS: dict[str, dict[str, object]] = {
    "complete-and-claim in one call": {"nested": True},
    "with request ids": {"request_ids": True},
}

Say = Callable[[str], None]


@dataclass
class Bench:
    """One run: its options, its deadline and what it has found so far."""

    quick: bool
    rounds: int
    sections: tuple[str, ...]
    ledgers: Path
    deadline: float
    systems: list[type[System]]
    say: Say
    plain: cells.Table = field(default_factory=cells.Table)
    slow: cells.Table = field(default_factory=cells.Table)
    probes: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def measure(self) -> cells.Measure:
        if self.quick:
            return cells.Measure(workers=(1, 100), pairs=2_000, seconds=0.4, backlog=1_000)
        return cells.Measure(variants=VARIANTS)

    def rounds_of(self, table: cells.Table, measure: cells.Measure, reserve_s: float) -> None:
        """Rounds until there are enough, or the next would leave less than `reserve_s` before the deadline."""
        for _ in range(self.rounds):
            longest = max((one.seconds for one in table.rounds), default=0.0)
            if table.rounds and time.monotonic() + longest + reserve_s > self.deadline:
                self.say(f"stopping after {len(table.rounds)} rounds: the time is up")
                return
            cells.run_round(table, self.systems, measure, self.say)

    def run_cells(self) -> None:
        self.rounds_of(self.plain, self.measure, 0.0 if self.quick else 240.0)

    def run_slow(self) -> None:
        with tempfile.TemporaryDirectory(prefix="gastown-shim-") as folder:
            Path(folder).chmod(0o755)
            shim = slowdisk.build_shim(Path(folder))
            if shim is None:
                self.faults["1 ms disk"] = "there is no C compiler for the slowed sync"
                return
            short = 500 if self.quick else 2_000
            measure = cells.Measure(
                workers=(100,), pairs=5 * short, seconds=0.5 if self.quick else 1.0, backlog=short,
                environment={"LD_PRELOAD": str(shim)},
            )  # fmt: skip
            self.rounds_of(self.slow, measure, 0.0 if self.quick else 180.0)

    def attempt(self, name: str, measure: Callable[[], Any]) -> None:
        """One probe; a fault is noted and the run goes on."""
        try:
            self.probes[name] = measure()
            self.say(f"{name}: {json.dumps(self.probes[name])}")
        except (*cells.FAULTS, subprocess.SubprocessError) as fault:
            self.faults[name] = str(fault)
            self.say(f"{name}: {fault}")

    def run_probes(self) -> None:
        pairs = 2_000 if self.quick else 20_000
        self.attempt("bare_turn", lambda: {f"W={w}": turn.measure(w, pairs) for w in (1, 30, 100, 300)})
        self.attempt("wake_up", lambda: probes.wake_up(30 if self.quick else probes.WAKE_SAMPLES))
        self.attempt("turn_times", lambda: probes.turn_times(pairs))
        if not self.quick:
            self.attempt("memory", probes.memory)
            self.attempt("parked", lambda: probes.parked(probes.PARKED))
            self.attempt("half_peak", lambda: probes.half_peak(self.peak(), 1000, 3.0))
        real = self.ledgers / REAL
        if real.is_file():
            self.attempt("import", lambda: curve.import_s(real, 1 if self.quick else 5))
        else:
            self.faults["import"] = f"there is no {REAL}; --ledgers names its folder"

    def peak(self) -> float:
        """Our best median over HTTP on the unix socket, measured now if the cells were left out."""
        medians = [self.plain.median(cells.cell_key("gastown", "http", w)) for w in (30, 100, 300)]
        return max((rate for rate in medians if rate is not None), default=1_000.0)

    def run_curve(self) -> None:
        budget_s = min(QUICK_CURVE_S if self.quick else CURVE_S, max(0.0, self.deadline - time.monotonic()))
        self.attempt("curve", lambda: curve.curve(budget_s, self.say))

    def run(self) -> None:
        for section in self.sections:
            getattr(self, f"run_{section}")()

    @property
    def found(self) -> Found:
        return Found(self.plain, self.slow, self.probes)


def about(bench: Bench) -> dict[str, Any]:
    """Machine and versions."""
    memory = psutil.virtual_memory().total / 2**30
    names = [line.partition(":")[2].strip() for line in read_lines("/proc/cpuinfo") if line.startswith("model name")]
    facts: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{os.cpu_count()} x {names[0] if names else platform.processor()}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "gastown": f"{__version__} {revision()}",
        "generator": "compiled" if generator.compiled() else "Python fleet",
    }
    return facts | {system.name: system.version() for system in bench.systems if system.version()}


def read_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def revision() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def chosen(names: tuple[str, ...], say: Say) -> tuple[list[type[System]], dict[str, str]]:
    """The systems to measure, and why the others are not."""
    missing: dict[str, str] = {}
    systems: list[type[System]] = []
    for system in SYSTEMS:
        if names and not any(system.name.lower().startswith(name.lower()) for name in names):
            continue
        why = system.missing()
        if why is None and generator.compiled() is None and system.name not in {"gastown", "Starlette + aiosqlite"}:
            why = "its protocol needs the compiled generator (cargo)"
        if why:
            missing[system.name] = why
            say(f"{system.name}: {why}")
        else:
            systems.append(system)
    return systems, missing


def prepare_generator(say: Say) -> None:
    """Builds the compiled generator where cargo is; without it the Python fleet does what it can."""
    if generator.compiled() is None:
        try:
            say("building the generator")
            generator.build()
        except generator.GeneratorFault as fault:
            say(f"{fault}; the Python fleet is used, and only gastown and the naive build are measured")


@click.command()
@click.option("--quick", is_flag=True, help="About a minute: two widths, few pairs, no page is written.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of the cells. Default: 5, quick 2.")
@click.option(
    "--minutes", type=click.FloatRange(0.1), help="No new round starts after so long. Default: 15, quick 1.5."
)
@click.option("--section", "sections", multiple=True, type=click.Choice(SECTIONS), help="Only these parts; repeatable.")
@click.option("--system", "names", multiple=True, help="Only systems whose name starts so; repeatable.")
@click.option("--install", "install_missing", is_flag=True, help="Install missing peers with apt-get (as root).")
@click.option("--ledgers", type=click.Path(path_type=Path), default=LEDGERS, help=f"Folder of {REAL}, for the import.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Also write all samples.")
@click.option("--page/--no-page", default=None, help=f"Write docs/{PAGE.name}. Default: only a whole, full run does.")
def main(
    quick: bool,
    rounds: int | None,
    minutes: float | None,
    sections: tuple[str, ...],
    names: tuple[str, ...],
    install_missing: bool,
    ledgers: Path,
    json_file: Path | None,
    page: bool | None,
) -> None:
    """Measure gastown beside beanstalkd, Redis, PostgreSQL and a naive build, all durable, in interleaved rounds.

    Prints the tables and, after a whole run, writes docs/benchmarks.md. Nothing is asserted: a missed target is shown.
    """
    console = Console()
    notes = Console(stderr=True, highlight=False)
    prepare_generator(notes.print)
    if install_missing:
        for note in install(SYSTEMS):
            notes.print(note)
    systems, missing = chosen(names, notes.print)
    limit_s = (minutes or (QUICK_MINUTES if quick else FULL_MINUTES)) * 60
    bench = Bench(
        quick,
        rounds or (2 if quick else 5),
        sections or SECTIONS,
        ledgers,
        time.monotonic() + limit_s,
        systems,
        notes.print,
    )
    ceilings = cells.ceilings(bench.measure.workers, 0.3 if quick else 1.0)
    bench.run()
    facts = {"about": about(bench), **asdict(bench.measure), "missing": missing | bench.faults}
    text = document.page(bench.found, facts, ceilings)
    console.print(Markdown(text))
    if json_file:
        json_file.write_text(json.dumps(as_json(bench, facts, ceilings), indent=1) + "\n")
    if page if page is not None else not (quick or sections or names):
        PAGE.write_text(text)


def as_json(bench: Bench, facts: Mapping[str, Any], ceilings: Mapping[str, Any]) -> dict[str, Any]:
    tables = {"plain": bench.plain.as_dict(), "slow": bench.slow.as_dict()}
    return {"facts": facts, "ceilings": ceilings, "probes": bench.probes} | tables


if __name__ == "__main__":
    sys.exit(main())
