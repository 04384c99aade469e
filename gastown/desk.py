"""What all connections share: places, credentials, memory, and the engine behind them.

Law: every bound that adds up over connections is kept here and nowhere else, on the event loop's thread. A connection
takes (`enter`, `bind`, `reserve`, `begin_import`) and gives back when it ends (`leave`), whatever ended it.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, Final, NamedTuple, Protocol

from gastown.engine import Engine
from gastown.head import Fault
from gastown.logs import Log
from gastown.metrics import Metrics
from gastown.model import UNIX, Credential

SPARE_PLACES: Final = 16  # beside the others, for /healthz: a flood of connections must not look like a dead daemon
WRONG_TOKENS_MAX: Final = 20  # a minute; then 429 for wrong ones, while right ones go on working
WRONG_TOKENS_S: Final = 60.0
RETRY_AFTER_S: Final = 5  # told with 503
SMALL_BODY_BYTES: Final = 16 << 10  # below this a body needs no reservation: 4,096 of them are 64 MiB
BODIES_BYTES_MAX: Final = 64 << 20  # all larger bodies under way, the one import beside them
STALLED_BYTES_MAX: Final = 64 << 20  # replies nobody reads; past this the oldest reader is cut off
SWEEP_S: Final = 1.0  # how often deadlines of connections are looked at
TOKEN_CHARS_MAX: Final = 256  # of a bearer token; ours have 43

# Times a peer has, seconds; the sweep adds at most SWEEP_S, so that 408 comes within 10.
HEAD_S: Final = 8.0  # for a whole head, from the connection's or the request's first instant
BODY_WINDOW_S: Final = 8.0  # a body must bring BODY_WINDOW_BYTES in each
BODY_WINDOW_BYTES: Final = 8 << 10  # 1 KiB/s
IDLE_S: Final = 75.0  # a kept-alive connection between requests; proxies use 60
WRITE_S: Final = 30.0  # for a peer that stopped reading its reply
LINGER_S: Final = 2.0  # for the last reply to arrive before unread input resets the connection


class Limits(NamedTuple):
    connections: int = 4_096
    connections_per_credential: int = 64  # over TCP


LIMITS: Final = Limits()


class Connection(Protocol):
    """What the desk knows of a connection."""

    deadline: float  # loop time at which `overdue` is called; inf while nothing is due
    credential: Credential | None
    reserved: int

    def overdue(self) -> None: ...
    def unsent(self) -> int: ...
    def cut(self) -> None: ...
    def finish(self) -> None: ...
    def crowded_out(self) -> None: ...


class Desk:
    """One per server. `clock` is the loop's, in seconds; `pages` the ASGI application of the rare routes."""

    def __init__(
        self, engine: Engine, metrics: Metrics, log: Log, clock: Callable[[], float], limits: Limits = LIMITS
    ) -> None:
        self.uid = os.geteuid()
        self.clock = clock
        self.engine = engine
        self.metrics = metrics
        self.log = log
        self.limits = limits
        self.stopping = False
        self.connections: set[Connection] = set()
        self.spares: dict[Connection, None] = {}
        self.empty = asyncio.Event()  # set whenever the last connection leaves
        self.stalled: dict[Connection, None] = {}
        self.pages: Any = None
        self._by_credential: dict[str, int] = {}
        self._wrong: deque[float] = deque()
        self._reserved = 0
        self.importing: Connection | None = None
        self.refresh_date()

    def refresh_date(self) -> None:
        """The reply head that nearly every call gets, with this second's Date."""
        date = formatdate(usegmt=True).encode()
        self.date = b"Date: " + date + b"\r\n"
        self.head_ok = b"HTTP/1.1 200 OK\r\n" + self.date + b"Content-Type: application/json\r\nContent-Length: "

    # -- places -----------------------------------------------------------------------------------------------------
    def enter(self, connection: Connection) -> bool:
        """Takes a place; False when only a spare one is left, good for /healthz. It must `leave`, whatever it got.

        When the spare places are taken too, the one that has had its the longest gives way: whoever connects and asks
        at once is answered, however many connect and stay silent.
        """
        self.connections.add(connection)
        if len(self.connections) - len(self.spares) <= self.limits.connections:
            return True
        self.spares[connection] = None
        if len(self.spares) > SPARE_PLACES:
            next(iter(self.spares)).crowded_out()
        return False

    def leave(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.spares.pop(connection, None)
        if not self.connections:
            self.empty.set()
        self.stalled.pop(connection, None)
        self.unbind(connection)
        self.release(connection)
        self.end_import(connection)

    def bind(self, connection: Connection, credential: Credential) -> bool:
        """Counts a TCP connection for its credential; False when that has all its places taken."""
        if connection.credential is not None and connection.credential.id == credential.id:
            return True
        taken = self._by_credential.get(credential.id, 0)
        if taken >= self.limits.connections_per_credential:
            return False
        self.unbind(connection)
        self._by_credential[credential.id] = taken + 1
        connection.credential = credential
        return True

    def unbind(self, connection: Connection) -> None:
        if connection.credential is None:
            return
        left = self._by_credential[connection.credential.id] - 1
        if left:
            self._by_credential[connection.credential.id] = left
        else:
            del self._by_credential[connection.credential.id]
        connection.credential = None

    # -- credentials ------------------------------------------------------------------------------------------------
    def credential(self, authorization: bytes | None, unix: bool) -> Credential | Fault:
        """Who asks. On a unix socket without a header it is the owner; with one, that token's holder."""
        if authorization is None:
            return UNIX if unix else Fault(401, "no credential", kind="unauthenticated")
        scheme, _, token = authorization.partition(b" ")
        token = token.strip(b" ")
        found = None
        if scheme.lower() == b"bearer" and 0 < len(token) <= TOKEN_CHARS_MAX and token.isascii():
            found = self.engine.authenticate(token.decode("ascii"))
        return found or self._wrong_token(unix)

    def _wrong_token(self, unix: bool) -> Fault:
        wrong = Fault(401, "wrong token", kind="unauthenticated")
        if unix:
            return wrong
        now = self.clock()
        while self._wrong and self._wrong[0] <= now - WRONG_TOKENS_S:
            self._wrong.popleft()
        if len(self._wrong) < WRONG_TOKENS_MAX:
            self._wrong.append(now)
            return wrong
        wait_s = int(self._wrong[0] + WRONG_TOKENS_S - now) + 1
        return Fault(429, "too many wrong tokens", kind="rate_limited", retry_after_s=wait_s)

    # -- memory -----------------------------------------------------------------------------------------------------
    def reserve(self, connection: Connection, size: int) -> bool:
        """Room for a body of `size` bytes in all; False when others have taken it."""
        wanted = size if size > SMALL_BODY_BYTES else 0
        if self._reserved - connection.reserved + wanted > BODIES_BYTES_MAX:
            return False
        self._reserved += wanted - connection.reserved
        connection.reserved = wanted
        return True

    def release(self, connection: Connection) -> None:
        self._reserved -= connection.reserved
        connection.reserved = 0

    def begin_import(self, connection: Connection) -> bool:
        """The one place for a body over the ordinary limit."""
        if self.importing is not None and self.importing is not connection:
            return False
        self.importing = connection
        return True

    def end_import(self, connection: Connection) -> None:
        if self.importing is connection:
            self.importing = None

    def stall(self, connection: Connection) -> None:
        """A peer reads too slowly; past the common bound the one that has done so longest is cut off."""
        self.stalled[connection] = None
        unsent = sum(one.unsent() for one in self.stalled)
        while unsent > STALLED_BYTES_MAX and self.stalled:
            oldest = next(iter(self.stalled))
            del self.stalled[oldest]
            unsent -= oldest.unsent()
            self.log("reject", why="replies not read")
            oldest.cut()

    # -- time -------------------------------------------------------------------------------------------------------
    def sweep(self) -> None:
        """Calls every connection whose deadline has passed."""
        now = self.clock()
        self.refresh_date()
        for connection in [one for one in self.connections if one.deadline <= now]:
            connection.overdue()
        self.log.sweep()
