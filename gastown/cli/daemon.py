"""serve, up, down, logs: the daemon as a process.

Law: only a process that is proven to be this town's daemon is ever signalled: the pid of daemon.json, which must have
the town's ledger lock open while somebody holds that lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .exits import CONFIGURATION, ERROR, LEADERSHIP_LOST, UNREACHABLE, Failed
from .screen import show
from .town import F, Place, json_option, prepare, settings_option, town_option

if TYPE_CHECKING:
    import psutil

START_S: Final = 30.0  # a crashed daemon with a large ledger and a slow disk; a usual start takes under a second
STOP_S: Final = 20.0  # the daemon itself stops within 10 s
POLL_S: Final = 0.02  # between two looks for a file that appears
LOG_LINES: Final = 20  # shown with a failed start, and by `logs` unless asked for more
TAIL_BYTES: Final = 256 << 10  # of the log read from its end
BODIES: Final = ("python",)


def listen_option(verb: F) -> F:
    """--listen, given to the verb as `listen`."""
    return click.option("--listen", metavar="A", help="host:port for TCP; port 0 takes a free one.")(verb)


def timeout_option(usual_s: float) -> Callable[[F], F]:
    """--timeout, given to the verb as `timeout_s`."""
    kind, text = click.FloatRange(0), "Seconds to wait at most."
    return click.option("--timeout", "timeout_s", type=kind, default=usual_s, show_default=True, metavar="S", help=text)


@click.command()
@town_option
@listen_option
@click.option("--body", metavar="B", default="python", show_default=True, help=f"Which body: {', '.join(BODIES)}.")
@settings_option
def serve(place: Place, listen: str | None, body: str, settings: dict[str, str | None]) -> None:
    """Run the daemon in the foreground, for the town in D (default: here)."""
    if body not in BODIES:
        raise Failed(CONFIGURATION, f"no body is called {body}: this installation has {', '.join(BODIES)}")
    config = place.config({"listen": listen, **settings})
    prepare(place.folder)
    from gastown.serve import run

    raise click.exceptions.Exit(run(place.folder, config))


# ---------------------------------------------------------------- up


@click.command()
@town_option
@listen_option
@settings_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    default=START_S,
    show_default=True,
    metavar="S",
    help="Seconds to wait for it.",
)
@json_option
def up(place: Place, listen: str | None, settings: dict[str, str | None], timeout_s: float, as_json: bool) -> None:
    """Start the daemon in the background; returns when it is ready. Does nothing when one runs already."""
    running = ready(place)
    if running is None:
        place.config({"listen": listen, **settings})  # a wrong setting is told here and not in a log
        flags = ["--listen", listen] if listen else []
        flags += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        running = _start(place, flags, timeout_s)
    told = running
    show(told, as_json, lambda: f"up · pid {told['pid']} · {told['listen']} · {told['socket']}")


def ready(place: Place) -> dict[str, Any] | None:
    """daemon.json if its daemon answers that it is ready, else None."""
    from gastown.client import Client, RpcError, Unreachable

    try:
        with Client.open(place.folder, patience_s=0.0) as town:
            town.fetch("/readyz")
        return daemon_json(place)
    except (Unreachable, RpcError):
        return None


def daemon_json(place: Place) -> dict[str, Any] | None:
    import orjson

    try:
        told: dict[str, Any] = orjson.loads((place.state / "daemon.json").read_bytes())
        return told if isinstance(told.get("pid"), int) else None
    except (OSError, orjson.JSONDecodeError, AttributeError):
        return None


def _start(place: Place, flags: list[str], timeout_s: float) -> dict[str, Any]:
    log = prepare(place.folder) / "daemon.log"
    log_start = log.stat().st_size if log.exists() else 0
    with open(log, "ab", opener=lambda path, how: os.open(path, how, 0o600)) as out:
        command = [sys.executable, "-m", "gastown", "serve", "--dir", str(place.folder), *flags]
        child = subprocess.Popen(
            command, cwd=place.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    ends_s = time.monotonic() + timeout_s
    while time.monotonic() < ends_s:
        running = ready(place)
        if running is not None:
            return running
        code = child.poll()
        if code is not None and code != LEADERSHIP_LOST:  # 75: another one started meanwhile; wait for that one
            raise Failed(
                code if code > 0 else ERROR, _failed(log, log_start, f"the daemon ended with exit code {code}")
            )
        time.sleep(POLL_S)
    raise Failed(UNREACHABLE, _failed(log, log_start, f"the daemon was not ready within {timeout_s:g} s"))


def _failed(log: Path, start: int, what: str) -> str:
    lines = _tail(log, LOG_LINES, start)
    return "\n".join([f"{what}; the end of {log}:", *lines]) if lines else f"{what} and wrote no log"


# ---------------------------------------------------------------- down


@click.command()
@town_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    default=STOP_S,
    show_default=True,
    metavar="S",
    help="Seconds to wait for its end.",
)
def down(place: Place, timeout_s: float) -> None:
    """Stop the daemon; returns when it has ended. Does nothing when none runs."""
    if not locked(place):
        click.echo("down already" if place.exists else f"{place.folder} is no town: nothing runs")
        return
    process = _proven(place)
    process.terminate()
    ends_s = time.monotonic() + timeout_s
    while not _ended(process):
        if time.monotonic() > ends_s:
            raise Failed(ERROR, f"pid {process.pid} has not ended within {timeout_s:g} s: see `gastown logs`")
        time.sleep(POLL_S)
    click.echo("down")


def _ended(process: psutil.Process) -> bool:
    """A process whose parent has not looked after it yet has ended too."""
    import psutil

    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def locked(place: Place) -> bool:
    """Whether some process holds the town's ledger lock. Never blocks, never keeps the lock."""
    try:
        descriptor = os.open(place.state / "ledger.lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _proven(place: Place) -> psutil.Process:
    """The daemon's process; Failed unless it has this town's lock file open."""
    import psutil

    told = daemon_json(place)
    if told is None:
        raise Failed(
            ERROR, f"the ledger of {place.folder} is in use, but by no daemon: is an import or backup running?"
        )
    try:
        process = psutil.Process(told["pid"])
        lock = os.path.realpath(place.state / "ledger.lock")
        if any(os.path.realpath(file.path) == lock for file in process.open_files()):
            return process
    except psutil.Error:
        pass
    raise Failed(ERROR, f"pid {told['pid']} of daemon.json is not this town's daemon: nothing was signalled")


# ---------------------------------------------------------------- logs


@click.command()
@town_option
@click.option("--lines", "-n", type=click.IntRange(1), default=LOG_LINES, show_default=True)
@click.option("--follow", "-f", is_flag=True, help="Go on until interrupted.")
def logs(place: Place, lines: int, follow: bool) -> None:
    """Show the daemon's log; one JSON object a line."""
    log = place.state / "daemon.log"
    if not log.exists():
        raise Failed(ERROR, f"{log} is not there: a daemon started with `gastown up` writes it")
    for line in _tail(log, lines, 0):
        click.echo(line)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            for line in _followed(log):
                click.echo(line, nl=False)


def _tail(log: Path, count: int, start: int) -> list[str]:
    """The last `count` lines after byte `start`, of at most TAIL_BYTES."""
    with contextlib.suppress(FileNotFoundError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - TAIL_BYTES))
        return file.read().decode("utf-8", "replace").splitlines()[-count:]
    return []


def _followed(log: Path) -> Iterator[str]:
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(0, os.SEEK_END)
        while True:
            line = file.readline()
            if line:
                yield line
            else:
                time.sleep(10 * POLL_S)
