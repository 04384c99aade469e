"""Which generator runs a plan: the compiled one where it is built, else a fleet of Python processes; same outcome."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .plan import JSON_DIALECTS, Outcome, Plan

CRATE = Path(__file__).resolve().parent.parent / "coordinator-rs"
BUILT = CRATE / "target" / "release" / "load-test"
FLEET_PROCESSES_MAX = 2  # more would take the cores the server needs
BUILD_S = 900  # a cold build of the crate on two cores takes under two minutes
RUN_S = 900  # a run longer than this hangs


class GeneratorFault(Exception):
    """The generator itself failed: no number of this run can be used."""


def compiled() -> Path | None:
    """The compiled generator: $GASTOWN_LOAD_TEST, or the one cargo built in this checkout."""
    named = os.environ.get("GASTOWN_LOAD_TEST")
    path = Path(named) if named else BUILT
    return path if path.is_file() and os.access(path, os.X_OK) else None


def build() -> Path:
    """Builds the compiled generator; raises GeneratorFault with cargo's words."""
    try:
        command = ["cargo", "build", "--release", "--locked", "--quiet", "--bin", "load-test"]
        done = subprocess.run(command, cwd=CRATE, capture_output=True, text=True, timeout=BUILD_S, check=False)
    except FileNotFoundError as absent:
        missing = "cargo" if CRATE.is_dir() else f"the crate at {CRATE}"
        raise GeneratorFault(f"the compiled generator cannot be built here: {missing} is missing") from absent
    if done.returncode:
        raise GeneratorFault(f"cargo build failed:\n{done.stderr[-2000:]}")
    return BUILT


def run(plan: Plan, python: bool = False) -> Outcome:
    """Runs the plan to its end. `python`: use the Python fleet even where the compiled one is built."""
    binary = None if python else compiled()
    if binary is None:
        return run_fleet(plan)
    return _finish(_spawn([str(binary), "run", *plan.arguments()]))


def start(plan: Plan) -> "subprocess.Popen[str]":
    """Starts the compiled generator and returns once its workers are registered; `finish` awaits its end."""
    binary = compiled()
    if binary is None:
        raise GeneratorFault("this needs the compiled generator")
    process = _spawn([str(binary), "run", *replace(plan, announce=True).arguments()])
    assert process.stderr is not None
    line = process.stderr.readline()
    if line.strip() != "started":
        raise GeneratorFault(line + process.communicate(timeout=RUN_S)[1])
    return process


def finish(process: "subprocess.Popen[str]") -> Outcome:
    """The outcome of a generator begun with `start`."""
    return _finish(process)


def _spawn(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def _reaped(command: list[str]) -> "Iterator[subprocess.Popen[str]]":
    """A process that is gone, pipes and all, when the block ends."""
    with _spawn(command) as process:
        try:
            yield process
        finally:
            process.kill()


def _finish(process: "subprocess.Popen[str]") -> Outcome:
    with process:
        try:
            said, complaint = process.communicate(timeout=RUN_S)
        finally:
            process.kill()
    if process.returncode:
        raise GeneratorFault(complaint.strip()[-2000:])
    return Outcome.read(json.loads(said))


def run_fleet(plan: Plan) -> Outcome:
    """Runs the plan with Python processes that start together."""
    if plan.dialect not in JSON_DIALECTS or plan.rate is not None:
        raise GeneratorFault(f"the Python fleet speaks {' and '.join(JSON_DIALECTS)} in a closed loop only")
    count = max(1, min(FLEET_PROCESSES_MAX, os.cpu_count() or 1, plan.workers))
    shares = [share(plan, index, count) for index in range(count)]
    command = [sys.executable, "-m", "gastown.loadtest.fleet"]
    with contextlib.ExitStack() as reaped:
        processes = [reaped.enter_context(_reaped(command)) for _ in shares]
        for process, part in zip(processes, shares, strict=True):
            assert process.stdin is not None
            process.stdin.write(json.dumps(part.changed()) + "\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise GeneratorFault(process.communicate(timeout=RUN_S)[1].strip()[-2000:])
        outcomes = _together(processes)
    _join_files(plan, shares)
    return outcomes


def share(plan: Plan, index: int, count: int) -> Plan:
    """The part of a plan that process `index` of `count` runs, with files of its own."""
    workers = plan.workers // count + (index < plan.workers % count)
    pairs = None if plan.pairs is None else plan.pairs // count + (index < plan.pairs % count)
    part = replace(plan, workers=workers, pairs=pairs, run=f"{plan.run}-{index}")
    return replace(
        part,
        history=plan.history and f"{plan.history}.part{index}",
        settled=plan.settled and f"{plan.settled}.part{index}",
    )


def _together(processes: "list[subprocess.Popen[str]]") -> Outcome:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return combined([_finish(process) for process in processes])


def combined(parts: list[Outcome]) -> Outcome:
    """Counts added, latencies merged, the longest part's time."""
    whole = Outcome("python", 0, 0.0, 0.0)
    for part in parts:
        whole.elapsed_s = max(whole.elapsed_s, part.elapsed_s)
        whole.cpu_s += part.cpu_s
        for name in ("workers", "granted", "settled", "empty", "unknown", "reconnects", "gave_up", "lost"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
        for code, times in part.refused.items():
            whole.refused[code] = whole.refused.get(code, 0) + times
    whole.claim = type(whole.claim).merged(part.claim for part in parts)
    whole.settle = type(whole.settle).merged(part.settle for part in parts)
    return whole


def _join_files(plan: Plan, shares: list[Plan]) -> None:
    for name in ("history", "settled"):
        whole = getattr(plan, name)
        if whole is None:
            continue
        with open(whole, "ab") as out:
            for part in shares:
                path = Path(getattr(part, name))
                out.write(path.read_bytes())
                path.unlink()


@contextlib.contextmanager
def static_server(dialect: str, directory: Path, python: bool = False) -> Iterator[str]:
    """A server with one fixed reply; yields its target. What a fleet reaches against it is the fleet's own ceiling."""
    target = f"unix:{directory / f'static-{dialect}.sock'}"
    binary = None if python else compiled()
    here = [sys.executable, "-m", "gastown.loadtest.static"]
    command = [str(binary), "static", "--dialect", dialect, "--listen", target] if binary else [*here, dialect, target]
    try:
        with _reaped(command) as process:
            assert process.stdout is not None
            said = process.stdout.readline().strip()
            if not said:
                raise GeneratorFault(process.communicate(timeout=RUN_S)[1].strip())
            yield said
    finally:
        Path(target.removeprefix("unix:")).unlink(missing_ok=True)
