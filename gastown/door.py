"""One HTTP/1.1 connection: from bytes to a decided call and back.

Law: one request at a time a connection, so replies are in order and a connection owes at most one answer; what is
pipelined waits in a bounded buffer. Every refusal of the transport is told, logged and ends the connection. A call
makes no task and no future: bytes -> judged head -> protocol -> engine.submit -> deliver -> one write. A head met
before is found by its bytes (head.py) and its request skips the parser; nothing else differs.
"""

from __future__ import annotations

import asyncio
import math
from http import HTTPStatus
from typing import Any, Final

from gastown.answers import PEEK_BYTES, Outcome, answer, could_import, grants, refusal, unit_of
from gastown.bridge import BACKLOG_BYTES_MAX, Visit
from gastown.chunks import BadChunk, Chunks
from gastown.desk import (
    BODY_WINDOW_BYTES,
    BODY_WINDOW_S,
    HEAD_S,
    IDLE_S,
    LINGER_S,
    RETRY_AFTER_S,
    SMALL_BODY_BYTES,
    WRITE_S,
    Desk,
)
from gastown.engine import Unit
from gastown.events import Feed, open_feed
from gastown.head import CHUNKED, END, Fault, Head, Names, beginning, read
from gastown.metrics import OTHER
from gastown.model import BODY_BYTES_MAX, IMPORT_BYTES_MAX, SCOPES, UNIX, Credential, Refused
from gastown.peers import peer_uid
from gastown.protocol import Envelope, decode, encode_refused

PIPELINED_BYTES_MAX: Final = 64 << 10  # taken in behind an unanswered request before reading pauses
HEADS_KEPT_MAX: Final = 1024  # judged heads a listener remembers; a fleet of one client library needs a handful
KEPT_HEAD_BYTES_MAX: Final = 1 << 10  # an agent sends the same head again and again; longer ones are read each time
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
PLAIN: Final = "text/plain; charset=utf-8"
ALIVE: Final = b'{"status":"ok"}'
MILD: Final = (401, 403, 404, 429)  # faults of a request that leave no doubt where it ends
NO_PLACE: Final = Fault(503, "no place left", retry_after_s=RETRY_AFTER_S)


# Where a connection is in its request, in this order; plain integers because every call compares them.
HEAD: Final = 0  # between requests or inside a head
BODY: Final = 1
BUSY: Final = 2  # an answer is awaited from the engine or a page
UPLOAD: Final = 3  # a page reads the body as it comes
LINGER: Final = 4  # the last reply is out; what still comes is thrown away
CLOSED: Final = 5


class Door(asyncio.Protocol):
    """`names` says which listener it came through; `desk` is shared by all."""

    def __init__(self, desk: Desk, names: Names) -> None:
        self.desk = desk
        self.names = names
        self.transport: Any = None
        self.buffer = bytearray()
        self.phase = HEAD
        self.deadline = desk.clock() + HEAD_S
        self.credential: Credential | None = None  # whose TCP place this is
        self.reserved = 0
        self.spare = False
        self.trusting = False  # a call without a credential is the owner's
        self.head: Head | None = None
        self.who = UNIX  # of the request under way
        self.envelope: Envelope | None = None
        self.unit: Unit | None = None
        self.visit: Visit | Feed | None = None
        self.body = bytearray()
        self.chunks: Chunks | None = None
        self.left = 0  # bytes of an upload that have not come
        self.received = 0  # bytes of the body under way, and
        self.due_bytes = 0  # how many there must be at the deadline
        self.begun = True  # a head is expected soon, not merely some day
        self.last = False  # no request after this one
        self.eof = False  # the peer sends no more
        self.paused = False  # we do not read
        self.full = False  # the peer does not read
        self.pumping = False

    # -- connection -------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self.names.unix and peer_uid(transport.get_extra_info("socket")) != self.desk.uid:
            self.phase = CLOSED
            self.desk.log("reject", why="foreign uid")
            self.transport.abort()
            return
        self.spare = not self.desk.enter(self)
        self.trusting = self.names.unix and not self.spare

    def connection_lost(self, _: Exception | None) -> None:
        self.phase = CLOSED
        self._hang_up()
        if self.visit is not None:
            self.visit.lost()
            self.visit = None
        self.desk.leave(self)

    def _hang_up(self) -> None:
        unit, self.unit, self.envelope = self.unit, None, None
        if unit is not None:
            self.desk.engine.hang_up(unit)

    def eof_received(self) -> bool:
        """The peer sends no more. It may have died or only be done: what can be stranded is not sent to it."""
        self.eof = True
        if self.phase == BUSY and self.unit is not None:
            if self.envelope is not None and grants(self.envelope):
                self._hang_up()
                return False
            self.desk.engine.hang_up(self.unit)
            return True
        if self.visit is not None:
            return bool(self.visit.half_closed())
        return False

    def pause_writing(self) -> None:
        self.full = True
        if self.phase in (HEAD, LINGER) or self.visit is not None:
            self.deadline = self.desk.clock() + WRITE_S
        self.desk.stall(self)

    def resume_writing(self) -> None:
        self.full = False
        self.desk.stalled.pop(self, None)
        if self.phase == HEAD:
            self.deadline = self.desk.clock() + IDLE_S
        if self.visit is not None:
            self.deadline = math.inf
            self.visit.drained()
        self._pump()

    def unsent(self) -> int:
        return int(self.transport.get_write_buffer_size())

    def cut(self) -> None:
        self.transport.abort()

    def crowded_out(self) -> None:
        """Somebody newer needs this spare place."""
        self.desk.spares.pop(self, None)
        if self.phase == HEAD:
            self._refuse(NO_PLACE)
        else:
            self.cut()

    def finish(self) -> None:
        """No further request: closes now when idle, else with the reply under way."""
        self.last = True
        if self.phase == HEAD and not self.buffer and not self.full:
            self.begun = False
            self._close()
        elif self.visit is not None:
            self.visit.stop()

    def _close(self) -> None:
        """Closes behind the last reply. Input nobody read would reset it on its way, so then we wait for the peer."""
        if self.phase >= LINGER:
            return
        unread = bool(self.buffer) or self.begun or self.phase in (BODY, UPLOAD)
        self.phase = LINGER
        self.deadline = self.desk.clock() + (WRITE_S if self.unsent() else LINGER_S)
        self.buffer.clear()
        self.body = bytearray()
        if not unread or self.eof:
            self.transport.close()
        elif not self.transport.is_closing():
            self._resume()
            self.transport.write_eof()

    def overdue(self) -> None:
        """The deadline passed."""
        self.deadline = math.inf
        if self.full or self.phase == LINGER:
            self.cut()
        elif self.phase == HEAD and not self.begun:
            self._close()
        elif self.phase == BUSY:
            if self.visit is not None:
                self.visit.overdue()
        elif self.visit is not None and self.visit.started:
            self.cut()
        else:
            self._refuse(Fault(408, "too slow"))

    # -- reading ----------------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        if self.phase == HEAD and not self.buffer and not self.full:
            end = data.find(END) + len(END)
            head = self.names.heads.get(data[:end])
            if head is not None and len(data) == end + head.length:
                self.begun = False
                if self.trusting and head.authorization is None and head.length <= SMALL_BODY_BYTES:
                    self.head, self.who = head, UNIX  # what `_admit` would find, without asking
                    self._call(data[end:])
                elif self._admit(head, head.length):
                    self._call(data[end:])
                return
        if self.phase >= LINGER:
            return
        self.received += len(data)
        self.buffer += data
        self._pump()
        if len(self.buffer) > PIPELINED_BYTES_MAX and not self.paused and self.phase != BODY:
            self.paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self.paused:
            self.paused = False
            self.transport.resume_reading()

    def _pump(self) -> None:
        """Goes as far as the buffer reaches. Replies come back here by way of `_next`, hence the guard."""
        if self.pumping:
            return
        self.pumping = True
        try:
            while not self.full and self._step():
                pass
        finally:
            self.pumping = False

    def _step(self) -> bool:
        """One step; False when it needs more bytes or an answer."""
        if self.phase == HEAD:
            return bool(self.buffer) and self._take_head()
        if self.phase == BODY:
            return self._take_body()
        if self.phase == UPLOAD:
            return self._pass_body()
        return False

    def _take_head(self) -> bool:
        while self.buffer.startswith(b"\r\n"):
            del self.buffer[:2]  # some clients end a body with a line end it does not have
        end = self.buffer.find(END)
        if not self.begun and self.buffer:
            self.begun = True
            self.deadline = self.desk.clock() + HEAD_S
        if end < 0:
            fault = beginning(bytes(self.buffer)) if self.buffer else None
            if fault is not None:
                self._refuse(fault)
            return False
        raw = bytes(self.buffer[: end + len(END)])
        del self.buffer[: end + len(END)]
        head = self.names.heads.get(raw) or read(raw, self.names)
        if self._admit(head, len(self.buffer)):
            self._keep(raw, head)
            self._expect_body(head)
        return True

    def _keep(self, raw: bytes, head: Head) -> None:
        """Remembers the head of a plain call."""
        plain = head.path == "/rpc" and head.keep_alive and not head.expects and 0 <= head.length <= BODY_BYTES_MAX
        if plain and len(raw) <= KEPT_HEAD_BYTES_MAX:
            if len(self.names.heads) >= HEADS_KEPT_MAX:
                self.names.heads.clear()
            self.names.heads[raw] = head

    # -- admission --------------------------------------------------------------------------------------------------
    def _admit(self, head: Head, here: int) -> bool:
        """Whether the request may go on; `here` is how many bytes of its body have come."""
        self.head = head
        fault = head.fault or self._objection(head)
        if fault is None:
            return True
        # The request is sound and all there: only its sender or its address is wrong, and the next may be better.
        harmless = head.fault is None and fault.status in MILD and 0 <= head.length <= here
        if harmless:
            del self.buffer[: head.length]
        self._refuse(fault, last=not harmless)
        return False

    def _objection(self, head: Head) -> Fault | None:
        """What speaks against this request now, whatever its bytes."""
        desk, route = self.desk, head.route
        if self.spare and head.path != "/healthz":
            return NO_PLACE
        if route is not None and route.scope is None:
            return None
        who = desk.credential(head.authorization, self.names.unix)
        if isinstance(who, Fault):
            return who._replace(needs=route.scope or "" if route else "")
        if not self.names.unix and not desk.bind(self, who):
            return Fault(503, "too many connections of this token", retry_after_s=RETRY_AFTER_S)
        self.who = who
        if route is None:
            return Fault(404, "no such address")
        if SCOPES[who.scope] < SCOPES[route.scope or "admin"]:
            return Fault(403, "the token's scope is too small", kind="forbidden", needs=route.scope or "")
        return self._room(head.length) if head.path == "/rpc" else None

    def _room(self, length: int) -> Fault | None:
        """A place for a body of `length` bytes, or of as many so far."""
        if length <= BODY_BYTES_MAX:
            if self.desk.reserve(self, length):
                return None
            return Fault(503, "too many large bodies", retry_after_s=RETRY_AFTER_S)
        limit = IMPORT_BYTES_MAX if self.who.scope == "admin" else BODY_BYTES_MAX
        if length > limit:
            return Fault(413, "body too large", kind="limit", limit="body", limit_max=limit)
        if not self.desk.begin_import(self):
            return Fault(503, "another import is under way", retry_after_s=RETRY_AFTER_S)
        return None

    # -- body -------------------------------------------------------------------------------------------------------
    def _expect_body(self, head: Head) -> None:
        self.phase = BODY
        self.begun = False
        self.received = len(self.buffer)
        self.due_bytes = self.received + BODY_WINDOW_BYTES
        self.deadline = self.desk.clock() + BODY_WINDOW_S
        self.chunks = Chunks() if head.length == CHUNKED else None
        if head.expects and not self.buffer:
            self.transport.write(CONTINUE)
        if head.path == "/import.jsonl":
            self.left = head.length
            self._upload()

    def _still_coming(self) -> bool:
        """Opens the next window once this one brought enough. Always False: more bytes are needed."""
        if self.received >= self.due_bytes:
            self.due_bytes = self.received + BODY_WINDOW_BYTES
            self.deadline = self.desk.clock() + BODY_WINDOW_S
        return False

    def _take_body(self) -> bool:
        assert self.head is not None
        if self.chunks is not None:
            return self._take_chunks(self.chunks)
        length = self.head.length
        if length > BODY_BYTES_MAX and not self._import_likely(self.buffer):
            return False
        if len(self.buffer) < length:
            return self._still_coming()
        if len(self.buffer) == length:
            body, self.buffer = bytes(self.buffer), bytearray()
        else:
            body = bytes(memoryview(self.buffer)[:length])
            del self.buffer[:length]
        self._act(body)
        return True

    def _take_chunks(self, chunks: Chunks) -> bool:
        try:
            done = chunks.take(self.buffer, self.body)
        except BadChunk:
            self._refuse(Fault(400, "bad chunk"))
            return False
        size = len(self.body)
        fault = self._room(size + max(0, chunks.left - 2))
        if fault is not None:
            self._refuse(fault)
            return False
        if size > BODY_BYTES_MAX and not self._import_likely(self.body):
            return False
        if not done:
            return self._still_coming()
        body, self.body = bytes(self.body), bytearray()
        self._act(body)
        return True

    def _import_likely(self, body: bytearray) -> bool:
        if len(body) < PEEK_BYTES or could_import(bytes(body[:PEEK_BYTES])):
            return True
        self._refuse(Fault(413, "body too large", kind="limit", limit="body", limit_max=BODY_BYTES_MAX))
        return False

    # -- acting -----------------------------------------------------------------------------------------------------
    def _act(self, body: bytes) -> None:
        assert self.head is not None
        path = self.head.path
        self.phase = BUSY
        self.deadline = math.inf
        if path == "/rpc":
            self._call(body)
        elif path == "/healthz":
            self._reply(200, ALIVE)
        elif path == "/events":
            self._stream()
        else:
            self.visit = Visit(self, body)

    def _call(self, raw: bytes) -> None:
        try:
            envelope = decode(raw, self.who.scope)
        except Refused as refused:
            self.desk.metrics.rpc(OTHER, "refused", 0.0)
            over = refused.kind == "limit" and len(raw) > BODY_BYTES_MAX
            self._reply(413 if over else 200, encode_refused(None, refused))
            return
        self.phase = BUSY
        self.deadline = math.inf
        self.envelope = envelope
        self.unit = unit = unit_of(envelope, self.who, self.deliver)
        if unit is not None:
            self.desk.engine.submit(unit)
        else:
            self.deliver([])

    def deliver(self, outcomes: list[Outcome]) -> bool:
        """One outcome per call of the unit; False when there is nobody to tell."""
        envelope, self.envelope, self.unit = self.envelope, None, None
        if envelope is None or self.transport.is_closing():
            return False
        status, said = answer(envelope, outcomes)
        if status != 200 or not said or self.closing:
            self._reply(status if said else 204, said)
            return True
        self.transport.write(b"%b%d\r\n\r\n%b" % (self.desk.head_ok, len(said), said))
        self._go_on()
        return True

    @property
    def closing(self) -> bool:
        """Whether the reply under way is the last."""
        if self.eof and not self.buffer:
            return True
        return self.last or self.spare or self.desk.stopping or self.head is None or not self.head.keep_alive

    def _next(self) -> None:
        """The request is answered; on with the next one, if there is to be one."""
        if self.closing:
            self._close()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self.reserved:
            self.desk.release(self)
        if self.desk.importing is self:
            self.desk.end_import(self)
        self.phase = HEAD
        self.begun = False
        self.deadline = self.desk.clock() + (WRITE_S if self.full else IDLE_S)
        if self.paused:
            self._resume()
        if self.buffer:
            self._pump()
            if self.eof and self.phase <= BODY and not self.pumping:
                self._close()

    # -- answering --------------------------------------------------------------------------------------------------
    def _reply(self, status: int, body: bytes, kind: str = "application/json", extra: bytes = b"") -> None:
        """A whole reply, then the next request."""
        parts = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode()), self.desk.date, extra]
        if status != 204:
            parts.append(b"Content-Type: %b\r\nContent-Length: %d\r\n" % (kind.encode(), len(body)))
        if self.closing:
            parts.append(b"Connection: close\r\n")
        parts.append(b"\r\n")
        if self.head is None or self.head.verb != "HEAD":
            parts.append(body)
        self.transport.write(b"".join(parts))
        self._next()

    def _refuse(self, fault: Fault, last: bool = True) -> None:
        """A fault ends the connection: where the next request would begin may be anybody's guess."""
        self.desk.log("reject", why=fault.why, status=fault.status)
        extra = b""
        if fault.status == 401:
            extra += b'WWW-Authenticate: Bearer realm="gastown"\r\n'
        if fault.retry_after_s:
            extra += b"Retry-After: %d\r\n" % fault.retry_after_s
        if fault.allow:
            extra += b"Allow: %b\r\n" % fault.allow.encode()
        self.last = self.last or last
        if self.visit is not None:
            self.visit.lost()
            self.visit = None
        if fault.kind:
            self._reply(fault.status, refusal(fault), extra=extra)
        else:
            self._reply(fault.status, fault.why.encode() + b"\n", PLAIN, extra)

    def _stream(self) -> None:
        assert self.head is not None
        feed = open_feed(self, self.head)
        if isinstance(feed, str):
            self._refuse(Fault(400, feed))
        else:
            self.visit = feed

    # -- pages ------------------------------------------------------------------------------------------------------
    def _upload(self) -> None:
        """The page reads this body as it comes."""
        if not self.desk.begin_import(self):
            self._refuse(Fault(503, "another import is under way", retry_after_s=RETRY_AFTER_S))
            return
        self.phase = UPLOAD
        self.visit = Visit(self, None)

    def _pass_body(self) -> bool:
        """Hands the page what came. False: more bytes are needed, or the page must read first."""
        visit, piece = self.visit, bytearray()
        if visit is None:
            return False
        try:
            done = self._take_piece(piece)
        except BadChunk:
            self._refuse(Fault(400, "bad chunk"))
            return False
        if piece:
            visit.feed(bytes(piece))
        if done:
            self.phase = BUSY
            self.deadline = math.inf
            visit.ended()
        elif visit.backlog > BACKLOG_BYTES_MAX and not self.paused:
            self.paused = True
            self.deadline = math.inf  # it is the page's turn
            self.transport.pause_reading()
        else:
            self._still_coming()
        return False

    def _take_piece(self, piece: bytearray) -> bool:
        if self.chunks is not None:
            return self.chunks.take(self.buffer, piece)
        piece += self.buffer[: self.left]
        del self.buffer[: self.left]
        self.left -= len(piece)
        return self.left == 0

    def read_on(self) -> None:
        """The page has read what there was."""
        if self.phase == UPLOAD and self.paused:
            self.due_bytes = self.received + BODY_WINDOW_BYTES
            self.deadline = self.desk.clock() + BODY_WINDOW_S
            self._resume()

    def answer_page(self, status: int, body: bytes) -> None:
        """A whole reply instead of the page's own."""
        self.visit = None
        self.last = self.last or self.phase == UPLOAD
        self._reply(status, body, PLAIN)

    def visit_done(self) -> None:
        """The page's reply is out."""
        self.visit = None
        self.last = self.last or self.phase == UPLOAD
        self._next()
