"""The processes of the demo and what they tell.

Law: every process is a child of this one and is ended by its own handle, whatever happens. What agents tell is shown
and steers the play; no verdict rests on it.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from gastown.client import Client, Unreachable

from . import plan
from .check import Trouble
from .git import environment, git, new_repository
from .screen import Screen

TTL_MS: Final = 2_000  # a lapse is seen within seconds; an agent beats after its first step
SETTINGS: Final = {"ttl_ms": TTL_MS, "ttl_ms_min": 500, "backoff_ms": 500}
START_S: Final = 20.0  # the daemon, and then the agents, on a busy machine
STOP_S: Final = 10.0
PACE_S: Final = 0.1  # between two looks while nothing is told


class Gone(Exception):
    """A process of the demo ended or answered no more; the text says which."""


class Cast:
    """The processes of the demo and what they have told."""

    def __init__(self, folder: Path, seed: int, view: Screen) -> None:
        self.folder, self.seed, self.view = folder, seed, view
        self.town, self.origin = folder / "town", folder / "origin.git"
        self.agents: dict[str, subprocess.Popen[str]] = {}
        self.daemon: subprocess.Popen[bytes] | None = None
        self.selector = selectors.DefaultSelector()
        self.registered: set[str] = set()
        self.holding: dict[str, Trouble] = {}  # "crash" and "silent" -> what was held
        self.woken = False
        self.refused: dict[str, dict[str, Any]] = {}  # agent -> its last refusal
        self.latest: dict[str, int] = {}  # bead -> token of its latest grant
        self.claim_ms: list[float] = []  # round trips of claims that found work at once, as the agents timed them

    # -- processes --------------------------------------------------------------------------------------------------
    def start_daemon(self) -> Client:
        """A town with the ledger taken over from .beads, and a client of its daemon."""
        new_repository(self.origin)
        git(self.folder, "clone", "--quiet", str(self.origin), str(self.town))
        (self.town / ".beads").mkdir()
        (self.town / ".beads" / "issues.jsonl").write_text(plan.ledger(self.seed))
        settings = "".join(f"{key} = {value}\n" for key, value in SETTINGS.items())
        (self.town / "gastown.toml").write_text(settings)
        with (self.folder / "daemon.log").open("wb") as log:
            command = [sys.executable, "-m", "gastown", "serve", "--dir", str(self.town), "--listen", "127.0.0.1:0"]
            self.daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), start_new_session=True
            )
        town = self._reached()
        with (self.town / ".beads" / "issues.jsonl").open("rb") as file:
            town.import_from(file)
        return town

    def _reached(self) -> Client:
        assert self.daemon is not None
        ends_s = time.monotonic() + START_S
        while time.monotonic() < ends_s:
            if self.daemon.poll() is not None:
                break
            try:
                return Client.open(self.town)
            except Unreachable:
                time.sleep(PACE_S / 4)
        log = (self.folder / "daemon.log").read_text(errors="replace")[-2000:]
        raise Gone(f"the daemon did not start:\n{log}")

    def start_agents(self, modes: dict[str, str]) -> None:
        (self.folder / "agents").mkdir()
        for name, mode in modes.items():
            clone = self.folder / "agents" / name
            arguments = [str(self.town), str(self.origin), str(clone), name, str(self.seed), mode]
            with (self.folder / f"{name}.log").open("wb") as log:
                agent = subprocess.Popen(
                    [sys.executable, "-m", "gastown.demo.agent", *arguments], env=environment(name),
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
                )  # fmt: skip
            self.agents[name] = agent
            self.view.agent(name, "starting")
            assert agent.stdout is not None
            self.selector.register(agent.stdout, selectors.EVENT_READ, name)

    def go(self) -> None:
        """All agents begin at once."""
        for agent in self.agents.values():
            assert agent.stdin is not None
            agent.stdin.write("go\n")
            agent.stdin.flush()

    def end(self) -> None:
        """Ends every process and waits for each; harmless when they have ended already."""
        for agent in self.agents.values():
            if agent.poll() is None:
                agent.kill()  # also ends a stopped process
            agent.wait(STOP_S)
            for pipe in (agent.stdin, agent.stdout):
                with contextlib.suppress(OSError):
                    assert pipe is not None
                    pipe.close()
        self.selector.close()
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait(STOP_S)

    # -- what agents tell -------------------------------------------------------------------------------------------
    def listen(self) -> None:
        """Takes what agents have told, waiting PACE_S at most; Gone if one ended that should not have."""
        for key, _ in self.selector.select(PACE_S):
            line = key.fileobj.readline()  # type: ignore[union-attr]  # only pipes are registered
            if line:
                self.hear(key.data, json.loads(line))
                continue
            self.selector.unregister(key.fileobj)
            if key.data != getattr(self.holding.get("crash"), "worker", None):
                log = (self.folder / f"{key.data}.log").read_text(errors="replace")[-2000:]
                raise Gone(f"{key.data} ended on its own:\n{log}")

    def hear(self, name: str, told: dict[str, Any]) -> None:
        bead, token = told.get("bead", ""), told.get("token", 0)
        hearers = {"registered": self._registered, "claimed": self._claimed, "completed": self._completed,
                  "holding": self._holding, "silent": self._silent, "refused": self._refused}  # fmt: skip
        hearers[told["event"]](name, bead, token, told)

    def _registered(self, name: str, _bead: str, _token: int, _told: dict[str, Any]) -> None:
        self.registered.add(name)
        self.view.agent(name, "registered")

    def _claimed(self, name: str, bead: str, token: int, told: dict[str, Any]) -> None:
        if told["took_ms"] is not None:
            self.claim_ms.append(told["took_ms"])
        again = f", attempt {told['attempt']}" if told["attempt"] > 1 else ""
        self.view.agent(name, "works", f"{bead} {told['title']}")
        self.view.say(f"{name} claimed {bead} (token {token}{again})")
        self.latest[bead] = max(self.latest.get(bead, 0), token)
        self._wake()

    def _completed(self, name: str, bead: str, token: int, told: dict[str, Any]) -> None:
        self.view.finished()
        self.view.agent(name, "asks for work")
        self.view.say(f"{name} completed {bead} (token {token}) with commit {told['commit'][:10]}")

    def _holding(self, name: str, bead: str, token: int, _told: dict[str, Any]) -> None:
        self.holding["crash"] = Trouble(name, bead, token)
        self.agents[name].kill()
        self.view.agent(name, "killed", f"held {bead}")
        self.view.say(f"{name} is killed with SIGKILL while it holds {bead}")

    def _silent(self, name: str, bead: str, token: int, _told: dict[str, Any]) -> None:
        self.holding["silent"] = Trouble(name, bead, token)
        self.view.agent(name, "silent", f"holds {bead}")
        self.view.say(f"{name} goes silent while it holds {bead}")
        self._wake()

    def _wake(self) -> None:
        """Lets the silent agent go on, once somebody else has its bead."""
        silent = self.holding.get("silent")
        if silent is None or self.woken or self.latest[silent.bead_id] <= silent.token:
            return
        self.woken = True
        self.view.say(f"{silent.worker} is woken: it still believes in token {silent.token}")
        self.agents[silent.worker].send_signal(signal.SIGCONT)

    def _refused(self, name: str, bead: str, token: int, told: dict[str, Any]) -> None:
        self.refused[name] = told
        self.view.agent(name, "asks for work")
        self.view.say(f"{name} is refused: {told['code']} {told['reason']}, token {token} of {bead} is stale")
