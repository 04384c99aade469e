"""Who listens: the daemon's sockets, from the first connection to the last reply.

Law: the server is given its sockets and its stop signal, so a test binds port 0 and stops when it likes. On the signal
it takes no more connections, has the engine answer whoever waits, lets every reply under way go out, and is done in
bounded time whatever the peers do.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from gastown.desk import LIMITS, SWEEP_S, Desk, Limits
from gastown.door import Door
from gastown.engine import Engine
from gastown.head import Names
from gastown.lines import Lines
from gastown.logs import Log
from gastown.metrics import Metrics
from gastown.pages import Pages

BACKLOG: Final = 1_024  # connections the system holds until they are taken; a fleet starts at once
ENGINE_STOP_S: Final = 5.0  # for queued calls; with STOP_S within the 10 s a stop may take
SETTLE_S: Final = 0.05  # what was sent before the signal is taken in before the stop begins
STOP_S: Final = 3.0  # for replies to go out, and requests that were half sent to be told 1007


class Listener(NamedTuple):
    """A bound socket and what is spoken on it."""

    sock: socket.socket
    lines: bool = False  # newline-delimited JSON-RPC instead of HTTP; unix only


class Server:
    """Serves `engine`, which is started, and stopped but not closed by `run`. `folder` is for files on their way."""

    def __init__(self, engine: Engine, metrics: Metrics, log: Log, folder: Path, limits: Limits = LIMITS) -> None:
        self.engine, self.metrics, self.log, self.limits = engine, metrics, log, limits
        self._pages = Pages(engine, metrics, folder)

    async def run(
        self, listeners: Sequence[Listener], shutdown: asyncio.Event, ready: Callable[[], None] = lambda: None
    ) -> None:
        """Until `shutdown` is set; `ready` is called once connections are taken."""
        running = asyncio.get_running_loop()
        desk = Desk(self.engine, self.metrics, self.log, running.time, self.limits)
        desk.pages = self._pages.app()
        servers = [await self._listen(desk, listener) for listener in listeners]
        sweep = Sweep(desk, running)
        try:
            ready()
            await shutdown.wait()
            await asyncio.sleep(SETTLE_S)
        finally:
            for server in servers:
                server.close()
            await self._stop(desk)
            sweep.stop()

    async def _listen(self, desk: Desk, listener: Listener) -> asyncio.AbstractServer:
        running = asyncio.get_running_loop()
        sock = listener.sock
        if sock.family == socket.AF_UNIX:
            names = Names()

            def answer() -> asyncio.Protocol:
                return Lines(desk) if listener.lines else Door(desk, names)

            return await running.create_unix_server(answer, sock=sock, backlog=BACKLOG)
        host, port = sock.getsockname()[:2]
        tcp_names = Names(host, port)
        return await running.create_server(lambda: Door(desk, tcp_names), sock=sock, backlog=BACKLOG)

    async def _stop(self, desk: Desk) -> None:
        desk.stopping = self._pages.stopping = True
        try:
            await asyncio.wait_for(self.engine.stop(), ENGINE_STOP_S)
        except TimeoutError:
            self.log("stop is slow", why="the engine is busy")
        desk.empty.clear()
        for connection in list(desk.connections):
            connection.finish()
        if desk.connections:
            try:
                await asyncio.wait_for(desk.empty.wait(), STOP_S)
            except TimeoutError:
                self.log("connections cut", count=len(desk.connections))
        for connection in list(desk.connections):
            connection.cut()


class Sweep:
    """Looks at the connections' deadlines every SWEEP_S: a timer a connection would cost more than it saves."""

    def __init__(self, desk: Desk, running: asyncio.AbstractEventLoop) -> None:
        self.desk = desk
        self.running = running
        self.timer = running.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self.timer = self.running.call_later(SWEEP_S, self._sweep)
        self.desk.sweep()

    def stop(self) -> None:
        self.timer.cancel()
