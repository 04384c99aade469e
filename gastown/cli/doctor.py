"""doctor: what could go wrong on this machine and in this ledger, and what to do about it.

Law: a look and nothing else; no check changes anything. Each check is one function that returns its findings.
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import orjson

from gastown.client import RpcError, Unreachable
from gastown.config import Config, ConfigError

from .daemon import daemon_json, locked
from .exits import ERROR, Failed
from .ledger import answers, give, reachable
from .screen import clean, show, span, table
from .town import Place, json_option, town_option

PYTHON_MIN: Final = (3, 11)  # as in pyproject.toml
WAL_RACE_FIXED: Final = (3, 51, 3)  # before it, two connections that write or checkpoint at once can corrupt a WAL
CLOCK_AHEAD_MS: Final = 60_000  # the town's clock never goes back; so far ahead of the wall means the wall was set back
EDGES_SHOWN: Final = 5  # examples of each kind of finding
CYCLES_MAX: Final = 20  # shown; a rotten graph has very many
CYCLE_KINDS: Final = ("blocks", "conditional-blocks", "waits-for", "parent-child")
OK, WARN, FAIL = "ok", "warn", "fail"


class Finding(NamedTuple):
    """`state` is ok, warn or fail; `todo` says what to do, if anything."""

    check: str
    state: str
    text: str
    todo: str = ""


# ---------------------------------------------------------------- this machine


def python(_: Place) -> Iterator[Finding]:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < PYTHON_MIN:
        yield Finding("python", FAIL, found, f"use Python {'.'.join(map(str, PYTHON_MIN))} or newer")
    else:
        yield Finding("python", OK, found)


def sqlite(_: Place) -> Iterator[Finding]:
    why = "one connection of one process writes and checkpoints, under the ledger's lock"
    if sqlite3.sqlite_version_info >= WAL_RACE_FIXED:
        yield Finding("sqlite", OK, f"{sqlite3.sqlite_version}; {why}")
    else:
        text = (
            f"{sqlite3.sqlite_version} has the race of two writers that can corrupt a WAL; it cannot happen here: {why}"
        )
        yield Finding("sqlite", OK, text)


def filesystem(place: Place) -> Iterator[Finding]:
    from gastown.filesystem import kind, refusal

    found = kind(place.folder)
    wrong = refusal(place.folder, found)
    yield Finding(
        "filesystem", FAIL if wrong else OK, wrong or found or "kind unknown", "move the town" if wrong else ""
    )


def disk(place: Place) -> Iterator[Finding]:
    free = shutil.disk_usage(place.state if place.exists else place.folder).free
    try:
        low = place.config({}).storage_low_bytes
    except ConfigError:
        return  # told by its own check
    text = f"{free >> 20} MiB free"
    if free < low:
        yield Finding("disk", FAIL, f"{text}: creates are refused", "free some space")
    else:
        yield Finding("disk", OK, text)


def clock(place: Place) -> Iterator[Finding]:
    if not hasattr(time, "CLOCK_BOOTTIME") and sys.platform != "darwin":
        yield Finding("clock", WARN, "this system has no boot clock: leases stand still while it sleeps")
        return
    with_town = reachable(place)
    if with_town is None:
        yield Finding("clock", OK, "leases run on the boot clock, whatever the wall clock does")
        return
    with with_town as town:
        seen = [worker["last_seen_ms"] for worker in town.call("worker.list")["workers"] if worker["last_seen_ms"]]
    ahead_ms = max(seen, default=0) - int(time.time() * 1000)
    if ahead_ms > CLOCK_AHEAD_MS:
        text = f"the town's clock is {span(ahead_ms)} ahead of the wall clock, which was set back"
        yield Finding("clock", WARN, text, "nothing: leases are not affected, only shown times")
    else:
        yield Finding("clock", OK, "leases run on the boot clock, whatever the wall clock does")


# ---------------------------------------------------------------- this town


def settings(place: Place) -> Iterator[Finding]:
    try:
        loaded = place.config({})
    except ConfigError as error:
        yield Finding("settings", FAIL, str(error), "correct that line")
        return
    changed = sum(source != "default" for source in loaded.sources.values())
    yield Finding("settings", OK, f"{changed} of {len(loaded.sources)} are not at their default")
    yield from _port(place, loaded)


def _port(place: Place, loaded: Config) -> Iterator[Finding]:
    told = daemon_json(place)
    if told is not None and answers(place):
        wanted = loaded.listen.rpartition(":")[2]
        if wanted not in ("0", str(told["listen"]).rpartition(":")[2]):
            text = f"TCP is at {told['listen']}, not at {loaded.listen}, which was taken or given differently"
            yield Finding("port", WARN, text, "clients read the address from .gastown/daemon.json")
        else:
            yield Finding("port", OK, f"TCP is at {told['listen']}")
        return
    host, _, port = loaded.listen.rpartition(":")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
            yield Finding("port", OK, f"{loaded.listen} is free")
        except OSError:
            yield Finding("port", WARN, f"{loaded.listen} is taken by another program", "another one will be used")


def permissions(place: Place) -> Iterator[Finding]:
    if not place.exists:
        yield Finding("town", WARN, f"{place.folder} is no town", "gastown init")
        return
    token = place.state / "admin.token"
    wanted = {place.state: 0o700, token: 0o600}  # a private folder keeps the rest; a token is checked by itself
    wrong = [(path, _mode(path)) for path in wanted if _mode(path) & 0o077]
    for path, mode in wrong:
        yield Finding("permissions", FAIL, f"{path} is open to others ({mode:o})", f"chmod {wanted[path]:o} {path}")
    if not wrong:
        yield Finding("permissions", OK, f"{place.state} is yours alone")
    if (place.state / "ledger.db").exists() and not token.exists():
        yield Finding(
            "token", WARN, f"{token} is gone", "make another: gastown token create --scope admin --name admin"
        )


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.lstat().st_mode)
    except FileNotFoundError:
        return 0


def daemon(place: Place) -> Iterator[Finding]:
    if not place.exists:
        return
    told, held, town = daemon_json(place), locked(place), reachable(place)
    if town is not None:
        with town:
            info = town.info()
        yield Finding("daemon", OK, f"up {span(info['uptime_ms'])}, pid {info['pid']}, epoch {info['epoch']}")
    elif held:
        who = f"pid {told['pid']}, says daemon.json" if told else "somebody"
        text = f"the ledger is locked by {who}, but no daemon answers"
        yield Finding("daemon", FAIL, text, "see gastown logs, then gastown down")
    elif told is not None:
        yield Finding("daemon", WARN, f"down; pid {told['pid']} left its files behind", "gastown up")
    else:
        yield Finding("daemon", OK, "down")


# ---------------------------------------------------------------- this ledger


def ledger(place: Place) -> Iterator[Finding]:
    if not (place.state / "ledger.db").exists():
        return
    try:
        records = list(_records(place))
    except (RpcError, Unreachable, Failed, OSError, ImportError) as error:
        yield Finding("ledger", WARN, f"not looked at: {error}", "gastown up")
        return
    live = {one["id"]: one for one in records if one.get("status") != "tombstone"}
    edges = [(one["id"], edge) for one in live.values() for edge in one.get("dependencies", [])]
    yield Finding("ledger", OK, f"{len(live)} beads, {len(edges)} edges")
    dangling = [f"{src} -> {edge['depends_on_id']}" for src, edge in edges if edge["depends_on_id"] not in live]
    yield _counted(
        "edges", dangling, "edges to beads that are not here; they hold nothing back", "nothing, or dep remove"
    )
    cycles = [" -> ".join(cycle) for cycle in _cycles(live, edges)]
    yield _counted("cycles", cycles, "circles of beads that wait for each other", "gastown dep remove A B")
    dead = [one["id"] for one in live.values() if "dead-letter" in one.get("labels", []) and one["status"] == "blocked"]
    yield _counted("dead letters", dead, "beads gave up", "gastown history ID, then gastown retry ID")


def _records(place: Place) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="gastown-") as folder:
        whole = Path(folder) / "export.jsonl"
        give(place, whole)
        with whole.open("rb") as lines:
            for line in lines:
                one = orjson.loads(line)
                if "id" in one and "_schema" not in one:
                    yield one


def _counted(check: str, found: list[str], what: str, todo: str) -> Finding:
    if not found:
        return Finding(check, OK, "none")
    shown = ", ".join(found[:EDGES_SHOWN]) + (" ..." if len(found) > EDGES_SHOWN else "")
    return Finding(check, WARN, f"{len(found)} {what}: {shown}", todo)


def _cycles(live: dict[str, Any], edges: list[tuple[str, dict[str, Any]]]) -> list[list[str]]:
    """Up to CYCLES_MAX circles of open beads; each edge is in one of them at most."""
    from graphlib import CycleError, TopologicalSorter

    waits: dict[str, set[str]] = {}
    for src, edge in edges:
        dst = edge["depends_on_id"]
        if edge["type"] in CYCLE_KINDS and dst in live and live[src]["status"] != "closed" != live[dst]["status"]:
            waits.setdefault(src, set()).add(dst)
    found: list[list[str]] = []
    while len(found) < CYCLES_MAX:
        try:
            TopologicalSorter(waits).prepare()
            break
        except CycleError as error:
            circle = error.args[1][::-1]  # each waits for the next
            found.append(circle)
            waits[circle[0]].discard(circle[1])
    return found


# ---------------------------------------------------------------- the verb

CHECKS: Final[tuple[Callable[[Place], Iterator[Finding]], ...]] = (
    python, sqlite, filesystem, disk, clock, settings, permissions, daemon, ledger,
)  # fmt: skip


@click.command()
@town_option
@json_option
def doctor(place: Place, as_json: bool) -> None:
    """Check machine, town and ledger. Exit code 1 when a check fails."""
    findings = [finding for check in CHECKS for finding in check(place)]
    findings += _strange_variables()
    result = {"ok": all(found.state != FAIL for found in findings), "checks": [found._asdict() for found in findings]}
    rows = [(found.state, found.check, f"{clean(found.text)}{f'  ({found.todo})' if found.todo else ''}")
            for found in findings]  # fmt: skip
    show(result, as_json, lambda: table(("state", "check", "finding"), rows, ""))
    if not result["ok"]:
        raise click.exceptions.Exit(ERROR)


def _strange_variables() -> Iterator[Finding]:
    from gastown.config import ENV_PREFIX, SETTINGS

    known = {ENV_PREFIX + key.upper() for key in SETTINGS} | {"GASTOWN_WORKER", "GASTOWN_DIR"}
    strange = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)
    if strange:
        yield Finding(
            "environment", WARN, f"no setting is called {', '.join(strange)}", "gastown config lists the keys"
        )
