"""How the cost of a claim, the start and the memory grow with the ledger, from a thousand beads to a million."""

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import generator
from .plan import Plan
from .probes import memory_mb
from .town import Town, TownFault, scratch, seed

SIZES = (1_000, 10_000, 100_000, 1_000_000)
RARE_EVERY = 1_000  # one ready bead in a thousand has the label
ROUNDS = 5
PAIRS, SECONDS = 1_000, 1.0  # of one measurement
FILTERS = {"no filter": None, "a label one in a thousand has": '{"labels_all":["rare"]}'}


def curve(budget_s: float, say: Callable[[str], None], sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """Claim P50, daemon CPU a pair and memory at each size that fits the time budget; at the largest also the start.

    All sizes stand side by side and are visited in rounds, so that a busy minute falls on all of them alike.
    """
    found: dict[str, Any] = {}
    began = time.monotonic()
    made, created_s = 0, 0.0
    with contextlib.ExitStack() as stack:
        towns: dict[int, Town] = {}
        for size in sizes:
            expected_s = size * created_s / made if made else 0.0
            if expected_s > budget_s - (time.monotonic() - began):
                found["skipped"] = f"{size:,} beads and more: creating them would take {expected_s:,.0f} s"
                break
            towns[size] = stack.enter_context(scratch())
            started = time.monotonic()
            seed(towns[size], size, rare_every=RARE_EVERY)
            made, created_s = made + size, created_s + time.monotonic() - started
            say(f"{size:,} beads are there")
        found |= measure_sizes(towns)
        found["created_per_s"] = made / created_s
        largest = max(towns)
        found["start"] = {"beads": largest, "seconds": restart_s(towns[largest])}
    return found


def restart_s(town: Town) -> float:
    town.stop()
    return town.start()


def measure_sizes(towns: Mapping[int, Town]) -> dict[str, Any]:
    """Claim and release with one worker: every claim searches the whole queue again."""
    rounds = [
        {name: {size: one(town, text) for size, town in towns.items()} for name, text in FILTERS.items()}
        for _ in range(ROUNDS)
    ]
    sizes = {str(size): {"memory": memory_mb(town.processes())} for size, town in towns.items()}
    growth: dict[str, list[float]] = {}
    for name in FILTERS:
        for size in towns:
            latencies, cpu = zip(*(samples[name][size] for samples in rounds), strict=True)
            sizes[str(size)][name] = {
                "claim_p50_ms": statistics.median(latencies),
                "cpu_us_a_pair": statistics.median(cpu),
            }
        smallest, largest = min(towns), max(towns)
        growth[name] = [samples[name][largest][1] / samples[name][smallest][1] for samples in rounds]
    return {"sizes": sizes, "growth": growth}


def one(town: Town, text: str | None) -> tuple[float, float]:
    """(claim P50 in ms, daemon CPU in us a pair) of one short run."""
    target, dialect = town.target("lines")
    before = cpu_s(town)
    plan = Plan(target, dialect, 1, pairs=PAIRS, seconds=SECONDS, ending="release", filter=text, run="curve")
    outcome = generator.run(plan)
    median = outcome.claim.percentile_ms(50)
    if median is None or not outcome.settled:
        raise TownFault("a claim found nothing although every bead is ready")
    return median, (cpu_s(town) - before) / outcome.settled * 1e6


def cpu_s(town: Town) -> float:
    times = [process.cpu_times() for process in town.processes()]
    return float(sum(t.user + t.system for t in times))


def import_s(file: Path, rounds: int) -> dict[str, float]:
    """Seconds of `gastown import FILE` into a running empty town, command and all; of that, the command's own start."""
    times: list[float] = []
    for _ in range(rounds):
        with scratch() as town:
            times.append(command_s(["import", str(file)], town.directory))
    bare = command_s(["--version"], file.parent)
    return {"median": statistics.median(times), "min": min(times), "max": max(times), "command_start": bare}


def command_s(words: list[str], folder: Path) -> float:
    began = time.monotonic()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GASTOWN_")}
    command = [sys.executable, "-m", "gastown", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TownFault(f"gastown {' '.join(words)} ended {done.returncode}: {done.stderr[-500:]}")
    return time.monotonic() - began
