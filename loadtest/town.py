"""A coordinator to put load on: a scratch town started for the purpose, or one that is already running.

Everything here speaks the wire contract through the line socket and knows nothing else of the coordinator.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import psutil

BODIES = {"python": [sys.executable, "-m", "gastown", "serve"]}
START_S = 60.0  # a million beads are indexed at start
STOP_S = 30.0  # the contract gives a graceful stop 10 s
POLL_S = 0.01
CALL_S = 300.0  # verify of a long ledger is one call
BATCH = 100  # entries of a batch, and beads of a create: the contract's most
SEED_WINDOW = 4  # creates in flight at once
LABELS = 10
TOKEN_CONNECTIONS = 50  # connections shared by one TCP token; the contract's default limit is 64
DESCRIPTION = (
    "The wheel of the lower mill has run for two seasons and sings at speed. Take it out, press the new bearing in, "
    "write down the play before and after, and leave the old one on the bench for whoever asks. Oil is in the shed."
)


class TownFault(Exception):
    """The daemon did not start, stop or answer as the contract says."""


class RpcError(Exception):
    """A refusal: its code and data."""

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']}")
        self.code: int = error["code"]
        self.data: Mapping[str, Any] = error.get("data") or {}


class Caller:
    """A blocking connection to a line socket."""

    def __init__(self, path: str, timeout_s: float = CALL_S) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(path)
        self.replies = self.socket.makefile("rb")
        self.serial = itertools.count(1)

    def close(self) -> None:
        self.replies.close()
        self.socket.close()

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, method: str, **params: Any) -> int:
        """Sends a call without awaiting its reply; returns its id."""
        number = next(self.serial)
        self.socket.sendall(orjson.dumps(envelope(number, method, params)) + b"\n")
        return number

    def receive(self) -> Any:
        """The next reply, whichever call it answers; an error is left inside."""
        line = self.replies.readline()
        if not line:
            raise TownFault("the daemon hung up")
        return orjson.loads(line)

    def call(self, method: str, **params: Any) -> Any:
        """The result of one call; raises RpcError."""
        self.send(method, **params)
        return result_of(self.receive())

    def batch(self, method: str, calls: Sequence[Mapping[str, Any]]) -> list[Any]:
        """The results of one batch, in order; raises the first RpcError."""
        self.socket.sendall(orjson.dumps([envelope(next(self.serial), method, params) for params in calls]) + b"\n")
        replies = sorted(self.receive(), key=lambda reply: reply["id"])
        return [result_of(reply) for reply in replies]


def envelope(number: int, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def result_of(reply: Mapping[str, Any]) -> Any:
    if "error" in reply:
        raise RpcError(reply["error"])
    return reply["result"]


class Town:
    """A running daemon; `process` is None when it was started by somebody else."""

    def __init__(self, directory: Path, body: str = "python", environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.command = BODIES[body]
        self.environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.daemon: dict[str, Any] = {}
        self.evidence = False  # a scratch town that is evidence of a fault is left in place

    @property
    def state(self) -> Path:
        return self.directory / ".gastown"

    @property
    def daemon_file(self) -> Path:
        return self.state / "daemon.json"

    def attach(self) -> "Town":
        try:
            self.daemon = json.loads(self.daemon_file.read_bytes())
        except OSError as absent:
            raise TownFault(f"no daemon runs in {self.directory}: {absent.strerror}") from absent
        return self

    def start(self) -> float:
        """Starts the daemon; the seconds until it was ready."""
        before = self._daemon_bytes()
        began = time.monotonic()
        log = self.directory / "serve.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*self.command, "--dir", str(self.directory), "--listen", "127.0.0.1:0"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
            )
        while self._daemon_bytes() in {b"", before}:
            if self.process.poll() is not None or time.monotonic() - began > START_S:
                raise TownFault(f"the daemon did not start: {log.read_text()[-2000:]}")
            time.sleep(POLL_S)
        self.attach()
        return time.monotonic() - began

    def _daemon_bytes(self) -> bytes:
        with contextlib.suppress(FileNotFoundError):
            return self.daemon_file.read_bytes()
        return b""

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Signals the daemon and awaits its end; SIGKILL where it does not come."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.daemon.get("pid", self.process.pid), number)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise TownFault(f"the daemon ignored {number.name} for {STOP_S:.0f} s") from None
        finally:
            self.process = None

    @property
    def lines(self) -> str:
        return str(Path(self.daemon["socket"]).with_name("lines.sock"))

    def target(self, transport: str) -> tuple[str, str]:
        """(target, dialect) of a transport: http (unix socket), tcp (HTTP), lines."""
        if transport == "lines":
            return f"unix:{self.lines}", "lines"
        if transport == "tcp":
            return f"tcp:{self.daemon['listen']}", "http"
        return f"unix:{self.daemon['socket']}", "http"

    def caller(self, timeout_s: float = CALL_S) -> Caller:
        return Caller(self.lines, timeout_s)

    def processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.daemon["pid"])
        return [parent, *parent.children(recursive=True)]


@contextlib.contextmanager
def scratch(body: str = "python", environment: Mapping[str, str] | None = None) -> Iterator[Town]:
    """A town in a folder of its own, gone afterwards unless it became evidence."""
    home = Path(tempfile.mkdtemp(prefix="gastown-load-"))
    directory = home / "mill"
    directory.mkdir()
    town = Town(directory, body, environment)
    try:
        town.start()
        yield town
    finally:
        with contextlib.suppress(TownFault):
            town.stop()
        if not town.evidence:
            shutil.rmtree(home, ignore_errors=True)


def bead(index: int, labels: Sequence[str] = ()) -> dict[str, Any]:
    """Params of one bead of about 300 bytes, with one of ten labels."""
    title = f"Replace bearing {index} of the lower mill"
    area = [f"area-{index % LABELS}"]
    return {"title": title, "description": DESCRIPTION, "priority": index % 5, "labels": [*area, *labels]}


def seed(
    town: Town,
    count: int,
    labels: Sequence[str] = (),
    rare_every: int = 0,
    first: int = 0,
    history: Path | None = None,
) -> list[str]:
    """Creates `count` beads and returns their ids; each `rare_every`-th also has the label `rare`."""
    ids: list[str] = []
    started: dict[int, tuple[int, int]] = {}
    with town.caller() as caller, contextlib.ExitStack() as files:
        out = files.enter_context(history.open("ab")) if history else None
        for start in range(first, first + count, BATCH):
            numbers = range(start, min(start + BATCH, first + count))
            beads = [bead(n, [*labels, *(["rare"] if rare_every and n % rare_every == 0 else [])]) for n in numbers]
            started[caller.send("bead.create", beads=beads)] = (time.monotonic_ns(), len(beads))
            if len(started) >= SEED_WINDOW:
                ids += _created(caller, started, out)
        while started:
            ids += _created(caller, started, out)
    return ids


def _created(caller: Caller, started: dict[int, tuple[int, int]], out: Any) -> list[str]:
    reply = caller.receive()
    invoked_ns, count = started.pop(reply["id"])
    result = result_of(reply)
    ids = [made["id"] for made in result["beads"]]
    if out is not None:
        entry = {"client": "seeder", "op": "bead.create", "args": {"count": count}, "t_inv": invoked_ns}
        entry |= {"t_ret": time.monotonic_ns(), "outcome": "ok", "epoch": result["epoch"], "seq": result["seq"]}
        out.write(orjson.dumps(entry | {"beads": ids}) + b"\n")
    return ids


@contextlib.contextmanager
def tokens(town: Town, transport: str, workers: int, run: str) -> Iterator[str | None]:
    """A file of enough worker tokens for a fleet over TCP (None for the unix sockets), revoked afterwards."""
    if transport != "tcp":
        yield None
        return
    count = -(-workers // TOKEN_CONNECTIONS)
    with town.caller() as caller, tempfile.NamedTemporaryFile("w", prefix="gastown-tokens-") as file:
        made = [caller.call("token.create", scope="worker", name=f"{run}-{n}") for n in range(count)]
        file.write("\n".join(token["token"] for token in made) + "\n")
        file.flush()
        yield file.name
    with contextlib.suppress(OSError, TownFault, RpcError), town.caller() as caller:
        for token in made:
            caller.call("token.revoke", id=token["id"])
