"""`gastown serve`: the daemon as a process, from taking the ledger's lock to leaving the folder tidy.

Law: one process a town, by an OS lock that its death gives back. Every way out has an exit code: 0 stopped, 65 the
ledger was refused, 75 somebody else has it, 77 permissions, 78 configuration or storage. Nothing is announced
(daemon.json) before calls are answered.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import orjson

from gastown import __version__, peers, premises
from gastown.config import Config
from gastown.desk import Limits
from gastown.engine import Engine
from gastown.engine.core import Fatal
from gastown.logs import Log
from gastown.methods import METHODS
from gastown.metrics import Metrics
from gastown.model import Policy
from gastown.premises import LEDGER_REFUSED, Refusal
from gastown.server import Listener, Server
from gastown.store import EpochLost, LedgerRefused

STATE_FOLDER: Final = ".gastown"
BODY: Final = "python"
STOP_S: Final = 9.5  # from the signal to the end, whatever hangs: a stop takes at most 10 s
FILES_MAX: Final = 65_536  # open files asked of the system; 4,096 connections and room for the rest
GC_THRESHOLDS: Final = (50_000, 20, 100)  # calls make few cycles; a full collection walks the whole ready index


def run(town: Path, config: Config, log: Log | None = None) -> int:
    """Serves the town in the folder `town` until a signal; the exit code."""
    log = log or Log()
    os.umask(0o077)
    log("starting", pid=os.getpid(), version=__version__, town=str(town))
    try:
        code = Process(town, config, log).run()
    except Refusal as refusal:
        log("refused to start", level="error", why=str(refusal), exit_code=refusal.exit_code)
        code = refusal.exit_code
    log.flush()
    return code


class Process:
    """What is held while the daemon runs."""

    def __init__(self, town: Path, config: Config, log: Log) -> None:
        self.state = town.absolute() / STATE_FOLDER
        self.config = config
        self.log = log
        self.metrics = Metrics(BODY)
        self.metrics.methods = frozenset(METHODS)
        self.sockets: list[Path] = []
        self.exit_code = 0

    def run(self) -> int:
        premises.own_folder(self.state)
        lock = premises.take_lock(self.state)
        try:
            premises.check_admin_token(self.state)
            listeners = self._listeners()
            peers.raise_file_limit(FILES_MAX)
            with asyncio.Runner(loop_factory=new_event_loop()) as runner:
                runner.run(self._serve(listeners))
        except (LedgerRefused, EpochLost, OSError) as error:
            raise _refusal(error) from None
        finally:
            premises.tidy(self.state, self.sockets)
            os.close(lock)
        return self.exit_code

    def _listeners(self) -> list[Listener]:
        """TCP first: a port that is taken must leave no trace."""
        tcp, moved = premises.bind_tcp(self.config.listen, self.config.listen_explicit)
        if moved:
            self.log("port taken", wanted=self.config.listen, listen=premises.address(tcp))
        folder = premises.socket_folder(self.state)
        if folder != self.state:
            premises.private_folder(folder)
        listeners = [Listener(tcp)]
        for name, lines in ((premises.HTTP_SOCKET, False), (premises.LINES_SOCKET, True)):
            listeners.append(Listener(premises.bind_unix(folder / name), lines))
            self.sockets.append(folder / name)
        return listeners

    async def _serve(self, listeners: list[Listener]) -> None:
        running, shutdown = asyncio.get_running_loop(), asyncio.Event()
        running.set_exception_handler(self._unexpected)
        route_logging(self.log)
        engine = Engine(
            self.state, Policy(**self.config.policy), self.metrics, self.config.requests_max,
            self.config.storage_low_bytes, self.config.prefix or None,
        )  # fmt: skip
        engine.on_fatal = self._fatal
        await engine.start()
        try:
            self._first_token(engine)
            self._on_signals(running, shutdown)
            limits = Limits(self.config.connections_max, self.config.connections_per_credential)
            server = Server(engine, self.metrics, self.log, self.state, limits)
            await server.run(listeners, shutdown, lambda: self._ready(engine, listeners))
        finally:
            await engine.stop()
            await engine.close()
        self.log("stopped")

    def _first_token(self, engine: Engine) -> None:
        """The first admin token is told once, in a file for its owner."""
        secret = engine.mint_admin()
        if secret is not None:
            premises.write_private(self.state / premises.ADMIN_TOKEN, secret.encode() + b"\n")
        elif not (self.state / premises.ADMIN_TOKEN).exists():
            self.log("no admin.token", level="warning", why="make one: gastown token create --scope admin")

    def _ready(self, engine: Engine, listeners: list[Listener]) -> None:
        told = {
            "listen": premises.address(listeners[0].sock),
            "socket": str(self.sockets[0]),
            "lines": str(self.sockets[1]),
            "pid": os.getpid(),
            "body": BODY,
            "epoch": engine.epoch,
            "version": __version__,
        }
        gc.collect()
        gc.freeze()  # what start-up made stays: the collector need not look at it again
        gc.set_threshold(*GC_THRESHOLDS)
        premises.write_private(self.state / premises.DAEMON, orjson.dumps(told) + b"\n")
        self.log("ready", listen=told["listen"], socket=told["socket"], epoch=engine.epoch)

    # -- the end ----------------------------------------------------------------------------------------------------
    def _on_signals(self, running: asyncio.AbstractEventLoop, shutdown: asyncio.Event) -> None:
        def stop(number: signal.Signals) -> None:
            if shutdown.is_set():
                self._leave(1)  # asked twice
            self.log("stopping", why=number.name)
            shutdown.set()
            hurry = threading.Timer(STOP_S, self._leave, (0,))
            hurry.daemon = True
            hurry.start()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            running.add_signal_handler(number, stop, number)

    def _leave(self, code: int) -> None:
        """Ends now. What was acknowledged is in the ledger; the rest may or may not be, as after a crash."""
        self.log("left at once", level="warning", exit_code=code)
        premises.tidy(self.state, self.sockets)
        os._exit(code)

    def _fatal(self, fatal: Fatal) -> None:
        self.log("cannot go on", level="error", why=str(fatal), exit_code=fatal.exit_code)
        self._leave(fatal.exit_code)

    def _unexpected(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.log("unexpected", level="error", why=type(error).__name__ if error else "", line=where(error))


def new_event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, LedgerRefused):
        return Refusal(LEDGER_REFUSED, str(error))
    if isinstance(error, EpochLost):
        return Refusal(premises.LEADERSHIP_LOST, "another coordinator took this ledger")
    code = premises.PERMISSION if isinstance(error, PermissionError) else premises.CONFIGURATION
    return Refusal(code, str(error))


# ---------------------------------------------------------------- the standard library's log


def where(error: BaseException | None) -> str:
    """File and line that raised; the text of an error may hold input, its place does not."""
    trace = error.__traceback__ if error is not None else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""


class _Handler(logging.Handler):
    """Records of `logging` as lines of our log: their event, never their exception's text."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        told = str(getattr(record, "ev", record.name))
        raised = type(error).__name__ if error is not None else None
        self.log(told, level=record.levelname.lower(), why=record.getMessage(), raised=raised, line=where(error))


def route_logging(log: Log) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Handler(log)]
    root.setLevel(logging.INFO)
