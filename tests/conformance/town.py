"""A real daemon in a folder of its own, and the bytes to speak to it.

The law of this harness: it knows the wire and the command line, nothing else. It imports no code of the coordinator,
and a body is only a command in BODIES.
"""

import contextlib
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .wire import Connection, Lines, Reply, RpcError, outcome, post

T = TypeVar("T")

# The command that serves a town, one a body; `--dir` and `--listen` follow.
BODIES: dict[str, list[str]] = {
    "python": [sys.executable, "-m", "gastown", "serve"],
}
COMMAND_LINE = [sys.executable, "-m", "gastown"]

# What a patient test shortens, as gastown.toml of the towns that ask for it. Every key is a documented setting.
SETTINGS: dict[str, int] = {
    "ttl_ms_min": 200,
    "backoff_ms": 200,
    "backoff_ms_max": 800,
}

START_S = 15.0  # a loaded two-core machine starts a daemon in under 3 s
STOP_S = 15.0  # the contract gives SIGTERM 10 s
WITHIN_S = 15.0  # the longest a condition that must come true may take on a busy machine
POLL_S = 0.01
TAIL = 2000  # characters of the log shown with a failed start
STATES = [
    "ready", "leased", "closed", "waiting", "deferred", "blocked", "dead", "held", "parked", "merging", "tombstone",
]  # fmt: skip
FOLDER = "hill"  # the town's folder; minted ids take it as their prefix

_serial = itertools.count(1)


def unique(word: str = "x") -> str:
    """A name no other test of this run has used."""
    return f"{word}-{next(_serial)}"


def until(condition: Callable[[], T | None], within_s: float = WITHIN_S) -> T:
    """The first truthy value of `condition`, polled; AssertionError after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "the awaited condition never came true"
        select.select([], [], [], POLL_S)


class Pending:
    """A call under way on a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def answer(self, within_s: float = WITHIN_S) -> Any:
        """The result; raises RpcError on a refusal and TimeoutError when nothing came."""
        with self.connection:
            return outcome(self.connection.read_reply(within_s))

    def silent(self, for_s: float = 0.0) -> bool:
        """Whether nothing has been answered yet."""
        return not self.connection.readable(for_s)

    def hang_up(self) -> None:
        self.connection.close()


class Town:
    """One folder with one daemon in it; `call` goes over the unix socket."""

    def __init__(self, body: str = "python", settings: Mapping[str, int] | None = None) -> None:
        self.command = BODIES[body]
        self.home = Path(tempfile.mkdtemp(prefix="gt-"))
        self.dir = self.home / FOLDER
        self.dir.mkdir()
        self.log = self.home / "serve.log"
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("GASTOWN_")}
        self.env |= {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home)}
        self.process: subprocess.Popen[bytes] | None = None
        self.daemon: dict[str, Any] = {}
        self._connection: Connection | None = None
        self._opened: list[Connection] = []
        if settings:
            rows = [f"{key} = {value}\n" for key, value in settings.items()]
            (self.dir / "gastown.toml").write_text("".join(rows))

    # -- process ----------------------------------------------------------------------------------------------------
    @property
    def state(self) -> Path:
        """The folder the daemon keeps for itself."""
        return self.dir / ".gastown"

    def start(self, *flags: str) -> "Town":
        """Starts the daemon and returns once `.gastown/daemon.json` is this daemon's."""
        before = self._daemon_text()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "--dir", str(self.dir), "--listen", "127.0.0.1:0", *flags],
                cwd=self.dir, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        text = until(lambda: self._changed(before) if self._alive() else None, START_S)
        self.daemon = json.loads(text)
        return self

    def _daemon_text(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return (self.state / "daemon.json").read_text()
        return ""

    def _changed(self, before: str) -> str | None:
        text = self._daemon_text()
        return text if text != before else None

    def _alive(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"serve exited {code}: {self.log.read_text()[-TAIL:]}"
        return True

    def signal_and_wait(self, number: signal.Signals) -> int:
        """Signals the pid of daemon.json; the exit code of `serve` (negative: the signal that ended it)."""
        assert self.process is not None
        self._hang_up()
        os.kill(self.daemon["pid"], number)
        return self.process.wait(STOP_S)

    def stop(self) -> int:
        return self.signal_and_wait(signal.SIGTERM)

    def kill9(self) -> int:
        return self.signal_and_wait(signal.SIGKILL)

    def restart(self) -> "Town":
        self.stop()
        return self.start()

    def _hang_up(self) -> None:
        for connection in self._opened:
            connection.close()
        self._opened.clear()
        self._connection = None

    def close(self) -> None:
        """Ends the daemon, whatever state it is in, and removes the folder."""
        self._hang_up()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_S)
        shutil.rmtree(self.home, ignore_errors=True)

    def run(self, *arguments: str, stdin: bytes = b"", within_s: float = 30.0) -> subprocess.CompletedProcess[bytes]:
        """The command line, run in the town's folder."""
        return subprocess.run(
            [*COMMAND_LINE, *arguments],
            cwd=self.dir, env=self.env, input=stdin, capture_output=True, timeout=within_s, check=False,
        )  # fmt: skip

    # -- wire -------------------------------------------------------------------------------------------------------
    def connect(self, tcp: bool = False) -> Connection:
        """A fresh HTTP connection: the unix socket, or TCP."""
        if tcp:
            host, _, port = self.daemon["listen"].rpartition(":")
            return self._keep(Connection.tcp(host, int(port)))
        return self._keep(Connection.unix(self.daemon["socket"]))

    def lines(self) -> Lines:
        """A fresh connection to the line socket."""
        lines = Lines.unix(str(Path(self.daemon["socket"]).with_name("lines.sock")))
        self._keep(lines)
        return lines

    def _keep(self, connection: Connection) -> Connection:
        self._opened.append(connection)
        return connection

    @property
    def admin_token(self) -> str:
        return (self.state / "admin.token").read_text().strip()

    def raw(self, request: bytes, tcp: bool = False, within_s: float = WITHIN_S) -> Reply:
        """One reply to exactly these bytes on a fresh connection."""
        with self.connect(tcp) as connection:
            connection.send(request)
            return connection.read_reply(within_s)

    def http(self, verb: str, path: str, body: bytes = b"", token: str | None = None, **headers: str) -> Reply:
        """One request on a fresh connection: TCP when a token is given ("" for none), else the unix socket."""
        tcp = token is not None
        lines = [f"{verb} {path} HTTP/1.1", f"Host: {self.daemon['listen'] if tcp else 'localhost'}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if body or verb == "POST":
            lines.append(f"Content-Length: {len(body)}")
        return self.raw("\r\n".join([*lines, "", ""]).encode() + body, tcp)

    def post(self, document: object, token: str | None = None) -> Reply:
        """One JSON document to /rpc, over TCP with `token` when one is given."""
        with self.connect(tcp=token is not None) as connection:
            connection.send(post(document, token=token, host=self.daemon["listen"] if token else "localhost"))
            return connection.read_reply(WITHIN_S)

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of one call on the town's kept-alive connection; RpcError on a refusal."""
        connection = self._connection
        if connection is None or connection.readable(0):
            connection = self._connection = self.connect()
        connection.send(post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        return outcome(connection.read_reply(WITHIN_S))

    def call_as(self, token: str, method: str, /, **params: Any) -> Any:
        """As `call`, over TCP with a bearer token."""
        return outcome(self.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, token))

    def batch(self, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """The reply's entries, in its order; ids are 0, 1, 2 ..."""
        entries = [
            {"jsonrpc": "2.0", "id": n, "method": method, "params": params} for n, (method, params) in enumerate(calls)
        ]
        reply: list[dict[str, Any]] = json.loads(self.post(entries).body)
        return reply

    def ask(self, method: str, /, **params: Any) -> Pending:
        """Sends a call on a connection of its own and does not wait for its answer."""
        connection = self.connect()
        connection.send(post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        return Pending(connection)

    def refusal(self, method: str, /, **params: Any) -> RpcError:
        """The error a call must be refused with."""
        try:
            result = self.call(method, **params)
        except RpcError as refused:
            return refused
        raise AssertionError(f"{method} was not refused: {result}")

    # -- sentences tests say often -----------------------------------------------------------------------------------
    def worker(self, name: str | None = None, **params: Any) -> str:
        """The worker_id of a newly registered worker."""
        worker_id: str = self.call("worker.register", name=name or unique("worker"), **params)["worker_id"]
        return worker_id

    def bead(self, title: str = "a bead", **fields: Any) -> dict[str, Any]:
        """One new bead."""
        return self.beads({"title": title, **fields})[0]

    def beads(self, *items: dict[str, Any]) -> list[dict[str, Any]]:
        created: list[dict[str, Any]] = self.call("bead.create", beads=list(items))["beads"]
        return created

    def get(self, bead_id: str) -> dict[str, Any]:
        bead: dict[str, Any] = self.call("bead.get", id=bead_id)["bead"]
        return bead

    def claim(self, worker_id: str, **params: Any) -> list[dict[str, Any]]:
        """The claims of one work.claim."""
        claims: list[dict[str, Any]] = self.call("work.claim", worker_id=worker_id, **params)["claims"]
        return claims

    def lease(self, worker_id: str, bead_id: str | None = None, **params: Any) -> dict[str, Any]:
        """The lease of the one bead claimed: that bead, or a new one."""
        bead_id = bead_id or self.bead()["id"]
        (claim,) = self.claim(worker_id, filter={"bead_id": bead_id}, **params)
        lease: dict[str, Any] = claim["lease"]
        return lease

    def let_pass(self, span_ms: int) -> None:
        """Returns once the daemon's own clock has moved on by `span_ms`."""
        start_ms = self.call("system.info")["uptime_ms"]
        until(lambda: self.call("system.info")["uptime_ms"] >= start_ms + span_ms)

    def seq(self) -> int:
        """The ledger's current seq: a write that changes nothing reports it."""
        seq: int = self.call("queue.resume", rig="no-such-pause")["seq"]
        return seq

    def await_kind(self, bead_id: str, kind: str) -> dict[str, Any]:
        """The bead's latest event of a kind, once there is one."""
        return until(lambda: next((event for event in reversed(self.history(bead_id)) if event["kind"] == kind), None))

    def state_of(self, bead_id: str) -> str:
        """The derived state, as refusals and lists name it: asked by filter, the wire has no field for it."""
        for state in STATES:
            if any(bead["id"] == bead_id for bead in self.walk("bead.list", filter={"state": [state]}, limit=1000)):
                return state
        raise AssertionError(f"{bead_id} is in no state")

    def walk(self, method: str, **params: Any) -> Iterator[dict[str, Any]]:
        """Every bead of a paged list."""
        cursor: str | None = None
        while True:
            page = self.call(method, **params, **({"cursor": cursor} if cursor else {}))
            yield from page["beads"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def history(self, bead_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.call("bead.history", id=bead_id)["events"]
        return events

    def kinds(self, bead_id: str) -> list[str]:
        """The kinds of a bead's events, oldest first."""
        return [event["kind"] for event in self.history(bead_id)]
