"""GET /events: the ledger's events as they are committed, as server-sent events.

Law: no gap and no repeat, whatever the engine tells and when: an event that is not the next one sends us to the table.
A reader that names its last event is brought up to date from there, in pages, while what is committed meanwhile waits
in a bounded list; when that overflows the table is asked again. A reader too
far behind is closed and resumes by Last-Event-ID.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from gastown.model import INT64_MAX

if TYPE_CHECKING:
    from gastown.door import Door
    from gastown.engine.core import StreamEvent

PAGE_EVENTS: Final = 500  # read from the table at once
WAITING_EVENTS_MAX: Final = 2_000  # committed during a replay, before the table is asked again
BEHIND_BYTES_MAX: Final = 1 << 20  # unsent to one reader; then it is closed
HEARTBEAT_S: Final = 15.0  # a comment, so that proxies and dead peers are noticed


def last_event_id(headers: tuple[tuple[bytes, bytes], ...]) -> int | None:
    """The seq after which to go on; None: from now. ValueError when it is no seq."""
    for name, value in headers:
        if name == b"last-event-id" and value:
            if not value.isdigit() or len(value) > 19 or int(value) > INT64_MAX:
                raise ValueError
            return int(value)
    return None


def framed(event: StreamEvent) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.kind.encode(), event.data)


class Feed:
    """One reader. It stands in for a page's Visit: the door tells it the same things."""

    started = True  # a fault after the start has no other answer than to close
    backlog = 0  # a GET has no body to feed

    def __init__(self, door: Door, after: int | None) -> None:
        self.door = door
        self.engine = door.desk.engine
        self.gone = False
        self.replaying = False
        self.sent = self.engine.seq if after is None else after
        self.waiting: list[StreamEvent] = []
        self.overflowed = False
        self._wake = asyncio.Event()
        self._open()
        self.key = self.engine.subscribe(self.live)
        self.task: asyncio.Task[None] | None = None
        if self.sent < self.engine.seq:
            self._catch_up()

    def _open(self) -> None:
        door = self.door
        door.last = True
        door.transport.write(
            b"HTTP/1.1 200 OK\r\n%bContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
            b"X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n:\n\n" % door.desk.date
        )
        door.deadline = door.desk.clock() + HEARTBEAT_S

    # -- what the engine tells --------------------------------------------------------------------------------------
    def live(self, events: list[StreamEvent]) -> None:
        """What a commit brought, in order."""
        if self.gone:
            return
        if not self.replaying and events[0].seq > self.sent + 1:
            self._catch_up()  # a turn under way while we subscribed was told to nobody
        if not self.replaying:
            self._write(events)
        elif len(self.waiting) + len(events) > WAITING_EVENTS_MAX:
            self.waiting.clear()
            self.overflowed = True
        else:
            self.waiting += events

    def _write(self, events: list[StreamEvent]) -> None:
        fresh = [framed(event) for event in events if event.seq > self.sent]
        if not fresh:
            return
        self.sent = events[-1].seq
        self.door.transport.write(b"".join(fresh))
        if self.door.unsent() > BEHIND_BYTES_MAX:
            self.door.desk.log("reader closed", why="too far behind")
            self.door.cut()

    def _catch_up(self) -> None:
        self.replaying = True
        self.task = asyncio.get_running_loop().create_task(self._replay())

    async def _replay(self) -> None:
        try:
            while not self.gone:
                self.overflowed = False
                page = await self.engine.events_since(self.sent, PAGE_EVENTS)
                if self.gone:
                    return
                self._write(page)
                if len(page) < PAGE_EVENTS and not self.overflowed:
                    break
                while self.door.full and not self.gone:
                    self._wake.clear()
                    await self._wake.wait()
        except Exception as error:
            self.door.desk.log("replay failed", why=error.__class__.__name__)
            self.door.cut()
            return
        self.replaying = False
        self._write(self.waiting)
        self.waiting = []

    # -- what the door tells ----------------------------------------------------------------------------------------
    def overdue(self) -> None:
        if not self.replaying and self.sent < self.engine.seq:
            self._catch_up()
        self.door.transport.write(b":\n\n")
        self.door.deadline = self.door.desk.clock() + HEARTBEAT_S

    def drained(self) -> None:
        self.door.deadline = self.door.desk.clock() + HEARTBEAT_S
        self._wake.set()

    def lost(self) -> None:
        if not self.gone:
            self.gone = True
            self.engine.unsubscribe(self.key)
            self._wake.set()

    def feed(self, piece: bytes) -> None:
        """Never called: a GET has no body."""

    def ended(self) -> None:
        """Never called: a GET has no body."""

    def half_closed(self) -> bool:
        return False

    def stop(self) -> None:
        self.lost()
        self.door.visit_done()


def open_feed(door: Door, head: Any) -> Feed | str:
    """A feed for this request, or what is wrong with its Last-Event-ID."""
    try:
        after = last_event_id(head.headers)
    except ValueError:
        return "Last-Event-ID is not a seq"
    if after is not None and after > door.desk.engine.seq:
        return "Last-Event-ID is ahead of the ledger"
    return Feed(door, after)
