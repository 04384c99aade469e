"""The demo as a play: a scratch repository, a daemon, the agents, a murder, a silence, and the verdict.

Law: everything lives in one folder, which is removed at the end. The verdict is check.py's, from events and git.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gastown.client import Client, Unreachable

from . import check, plan
from .cast import START_S, Cast, Gone
from .check import Trouble
from .git import git
from .screen import closing, screen

REMOVE_S: Final = 5.0  # for what is left of an agent to let go of its folder
PLAY_S: Final = 90.0  # the whole work; a usual run takes 5


def run(agents: int, seed: int, keep: str | None, as_json: bool) -> int:
    """Plays the demo; the exit code: 0 when nothing was lost or doubled and both agents in trouble were recovered."""
    if shutil.which("git") is None:
        print("gastown: the demo needs git", file=sys.stderr)
        return 1
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with _folder(keep) as folder:
            result = _play(folder, agents, seed, as_json)
    except (Gone, Unreachable, RuntimeError) as error:
        print(f"gastown: the demo failed: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    print(json.dumps(result, indent=2) if as_json else f"\n{closing(result)}\n")
    return 0 if result["ok"] else 1


@contextlib.contextmanager
def _folder(keep: str | None) -> Iterator[Path]:
    if keep is None:
        scratch = Path(tempfile.mkdtemp(prefix="gastown-demo-")).resolve()
        try:
            yield scratch
        finally:
            _remove(scratch)
        return
    kept = Path(keep).resolve()
    kept.mkdir(parents=True, exist_ok=True)
    if any(kept.iterdir()):
        raise RuntimeError(f"{kept} is not empty")
    yield kept


def _remove(folder: Path) -> None:
    """The git of an agent that was ended may write for a moment yet: try until the folder is gone."""
    ends_s = time.monotonic() + REMOVE_S
    while folder.exists() and time.monotonic() < ends_s:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.01)


def _play(folder: Path, agents: int, seed: int, as_json: bool) -> dict[str, Any]:
    began_s = time.monotonic()
    total = len(plan.titles())
    with screen(total, as_json) as view:
        cast = Cast(folder, seed, view)
        try:
            with cast.start_daemon() as town:
                view.say(f"a daemon serves {total} beads, {len(plan.edges())} of them wait for another")
                modes = {f"agent-{n + 1}": "steady" for n in range(agents)}
                modes |= {"agent-2": "crash", "agent-3": "silent"}
                _work(cast, town, modes, total)
                return _result(cast, town, agents, began_s)
        finally:
            cast.end()


def _work(cast: Cast, town: Client, modes: dict[str, str], total: int) -> None:
    """Until every bead is closed and the silent agent has had its refusal."""
    cast.start_agents(modes)
    ends_s = time.monotonic() + START_S
    while len(cast.registered) < len(modes):
        cast.listen()
        if time.monotonic() > ends_s:
            raise Gone("the agents did not register in time")
    cast.go()
    ends_s = time.monotonic() + PLAY_S
    while time.monotonic() < ends_s:
        cast.listen()
        silent = cast.holding.get("silent")
        if silent is not None and silent.worker in cast.refused and town.stats()["beads"].get("closed") == total:
            return
    cast.view.say("time is over")


def _result(cast: Cast, town: Client, agents: int, began_s: float) -> dict[str, Any]:
    """What happened, from the ledger and the repository."""
    planned = [plan.bead_id(number) for number in range(len(plan.titles()))]
    edges = [(plan.bead_id(bead), plan.bead_id(blocker)) for bead, blocker in plan.edges()]
    beads = {bead["id"]: bead for bead in town.beads()}
    histories = {bead_id: town.history(bead_id) for bead_id in beads}
    branches = _branches(cast.origin)
    verdict = check.judge(planned, edges, beads, histories, branches)
    killed, silent = (cast.holding.get(key) for key in ("crash", "silent"))
    problems = verdict.problems + _trouble(killed, silent, cast.refused, histories)
    verified = bool(town.call("ledger.verify")["ok"])
    leased = [event for history in histories.values() for event in history if event["kind"] == "leased"]
    return {
        "ok": verified and not (verdict.lost or verdict.doubled or problems),
        "beads": len(planned),
        "completed": len(planned) - len(verdict.lost),
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "problems": problems,
        "verified": verified,
        "agents": agents,
        "claims": len(leased),
        "claim_ms": {f"p{percent}": _percentile(cast.claim_ms, percent) for percent in (50, 95, 99)},
        "branches": len(branches),
        "commits": int(git(cast.origin, "rev-list", "--count", "--branches=work/*", "^main")),
        "killed": _told(killed, histories),
        "silent": _told(silent, histories, cast.refused),
        "seconds": round(time.monotonic() - began_s, 2),
    }


def _percentile(values: list[float], percent: int) -> float | None:
    """The nearest rank: the smallest value that `percent` of all do not exceed."""
    return sorted(values)[max(0, -(-percent * len(values) // 100) - 1)] if values else None


def _branches(origin: Path) -> dict[str, tuple[str, str, int]]:
    """Branch -> commit, and the bead and token that the commit's trailers name."""
    wanted = "%(refname:lstrip=2)%00%(objectname)%00%(trailers:only,separator=%x2C)"
    found = {}
    for line in git(origin, "for-each-ref", f"--format={wanted}", "refs/heads/work").splitlines():
        name, commit, text = line.split("\0")
        trailers = dict(trailer.split(": ", 1) for trailer in text.split(","))
        found[name] = (commit, trailers["Bead"], int(trailers["Token"]))
    return found


def _trouble(
    killed: Trouble | None, silent: Trouble | None, refused: dict[str, Any], histories: dict[str, Any]
) -> list[str]:
    if killed is None or silent is None:
        return ["an agent found no work to get into trouble with"]
    found = [check.recovered(one, histories[one.bead_id]) for one in (killed, silent)]
    found.append(check.fenced(silent, refused.get(silent.worker), histories[silent.bead_id]))
    return [problem for problem in found if problem]


def _told(trouble: Trouble | None, histories: dict[str, Any], refused: dict[str, Any] | None = None) -> str:
    """One line on an agent in trouble, from the bead's events."""
    if trouble is None:
        return "never got into trouble"
    history = histories[trouble.bead_id]
    end = next((event for event in history if event["kind"] == "completed"), None)
    text = f"{trouble.worker} held {trouble.bead_id} with token {trouble.token}; the lease lapsed"
    text += f", token {end['token']} completed it" if end else ", nobody completed it"
    said = (refused or {}).get(trouble.worker)
    return f"{text}; its late result was refused with {said['code']}" if said else text
