"""The line socket: one JSON text a line each way, many calls under way, replies in any order.

Law: the owner's own processes speak here (the peer's uid is ours), with scope admin. An empty line is nothing. A line
that is too long is told so and ends the connection, for its end may never come. A line without its end, cut off by the
peer's leaving, is not carried out. Like the door, a call makes no task and no future.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import Any, Final

from gastown.answers import PEEK_BYTES, Outcome, answer, could_import, grants, unit_of
from gastown.desk import BODY_WINDOW_BYTES, BODY_WINDOW_S, LINGER_S, RETRY_AFTER_S, WRITE_S, Desk
from gastown.engine import Unit
from gastown.metrics import OTHER
from gastown.model import BODY_BYTES_MAX, IMPORT_BYTES_MAX, UNIX, Credential, Refused
from gastown.peers import peer_uid
from gastown.protocol import Envelope, decode, encode_refused

UNDER_WAY_MAX: Final = 1_024  # calls of one connection; past this its next lines wait in the socket
UNSENT_BYTES_MAX: Final = 1 << 20  # a client may send all its calls before it reads the first reply
CHUNK_BYTES_MAX: Final = 64 << 10  # of one read, taken apart at once: some 1,000 calls
RESERVE_STEP_BYTES: Final = 64 << 10


def busy(why: str) -> Refused:
    """What HTTP says with 503."""
    return Refused("backpressure", why, retry_after_ms=RETRY_AFTER_S * 1000, queue_depth=0)


class Lines(asyncio.Protocol):
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.transport: Any = None
        self.buffer = bytearray()
        self.searched = 0  # bytes of the buffer known to hold no line end
        self.deadline = math.inf
        self.due_bytes = 0
        self.credential: Credential | None = None
        self.reserved = 0
        self.under_way: dict[int, tuple[Unit | None, Envelope]] = {}
        self.count = 0
        self.last = False  # nothing more is read; ends once everything is answered
        self.eof = False  # the peer sends no more
        self.lingering = False
        self.paused = False
        self.full = False
        self.going = False

    # -- connection -------------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if peer_uid(transport.get_extra_info("socket")) != self.desk.uid:
            self.last = True
            self.desk.log("reject", why="foreign uid")
            self.transport.abort()
            return
        if not self.desk.enter(self):
            self._end(busy("no place left"))

    def connection_lost(self, _: Exception | None) -> None:
        self.last = self.lingering = True
        under_way, self.under_way = self.under_way, {}
        for unit, _envelope in under_way.values():
            if unit is not None:
                self.desk.engine.hang_up(unit)
        self.desk.leave(self)

    def eof_received(self) -> bool:
        """The peer sends no more. What would be stranded is not sent to it, the rest is."""
        self.last = self.eof = True
        self.buffer.clear()
        self.deadline = math.inf
        for number, (unit, envelope) in list(self.under_way.items()):
            if unit is not None:
                self.desk.engine.hang_up(unit)
            if grants(envelope):
                del self.under_way[number]
        return bool(self.under_way) and not self.lingering

    def pause_writing(self) -> None:
        self.full = True
        self.deadline = self.desk.clock() + WRITE_S
        self.desk.stall(self)

    def resume_writing(self) -> None:
        self.full = False
        self.desk.stalled.pop(self, None)
        if self.last:
            if not self.under_way:
                self._linger()
            return
        self.deadline = math.inf
        self._go_on()

    def unsent(self) -> int:
        return int(self.transport.get_write_buffer_size())

    def cut(self) -> None:
        self.transport.abort()

    def finish(self) -> None:
        """No further line: closes once everything under way is answered."""
        self.last = True
        self.buffer.clear()
        if not self.under_way and not self.full:
            self.transport.close()

    def crowded_out(self) -> None:
        self.cut()

    def _linger(self) -> None:
        if self.lingering or self.transport.is_closing():
            return
        self.lingering = True
        self.deadline = self.desk.clock() + (WRITE_S if self.unsent() else LINGER_S)
        if self.paused:
            self.paused = False
            self.transport.resume_reading()
        if self.eof:
            self.transport.close()
        else:
            self.transport.write_eof()

    def overdue(self) -> None:
        self.deadline = math.inf
        if self.full or self.lingering:
            self.cut()
        else:
            self._end(Refused("limit", "the line comes too slowly", limit="line", max=BODY_BYTES_MAX))

    # -- reading ----------------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        if self.last:
            return
        if self.full:
            self.desk.stall(self)
        if self.buffer or self.full or self.paused or len(data) > CHUNK_BYTES_MAX:
            self.buffer += data
            self._go_on()
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            if not self.last:
                self._line(line)
        if rest and not self.last:
            self.buffer += rest
            self._go_on()
        elif self.crowded:
            self._pause()

    def _go_on(self) -> None:
        """Takes the whole lines out of the buffer, as far as their replies may go out. An answer given at once comes
        back here by way of `_answer`, hence the guard."""
        if not self.going:
            self.going = True
            try:
                self._take_lines()
            finally:
                self.going = False

    def _take_lines(self) -> None:
        while not self.last and not self.crowded:
            end = self.buffer.find(b"\n", self.searched)
            if end < 0:
                self.searched = len(self.buffer)
                break
            line = bytes(memoryview(self.buffer)[:end])
            del self.buffer[: end + 1]
            self.searched = 0
            if not self.full:
                self.deadline = math.inf
            self._line(line)
        if self.last:
            return
        if self.crowded:
            self._pause()
            return
        self._unfinished()
        if self.paused and not self.last:
            self.paused = False
            self.transport.resume_reading()

    @property
    def crowded(self) -> bool:
        """Whether this peer owes us reading before it is heard again."""
        return len(self.under_way) >= UNDER_WAY_MAX or (self.full and self.unsent() > UNSENT_BYTES_MAX)

    def _pause(self) -> None:
        if not self.paused and not self.transport.is_closing():
            self.paused = True
            self.transport.pause_reading()

    def _unfinished(self) -> None:
        """Bounds what has come of a line: its length, its memory and its time."""
        size = len(self.buffer)
        if not size:
            if self.reserved:
                self.desk.release(self)
            return
        if size > BODY_BYTES_MAX:
            refused = self._too_long(size, self.buffer)
        elif self.desk.reserve(self, -(-size // RESERVE_STEP_BYTES) * RESERVE_STEP_BYTES):
            refused = None
        else:
            refused = busy("too many large lines")
        if refused is not None:
            self._end(refused)
        elif not self.full and (self.deadline == math.inf or size >= self.due_bytes):
            self.due_bytes = size + BODY_WINDOW_BYTES
            self.deadline = self.desk.clock() + BODY_WINDOW_S

    def _too_long(self, size: int, line: bytes | bytearray) -> Refused | None:
        """Only an import may be longer, one at a time."""
        if size > IMPORT_BYTES_MAX or not could_import(bytes(line[:PEEK_BYTES])):
            limit = IMPORT_BYTES_MAX if size > IMPORT_BYTES_MAX else BODY_BYTES_MAX
            return Refused("limit", f"a line is at most {limit} bytes", limit="line", max=limit)
        if not self.desk.begin_import(self):
            return busy("another import is under way")
        return None

    def _line(self, line: bytes) -> None:
        if not line.strip(b" \t\r\n"):
            return
        if len(line) > BODY_BYTES_MAX:
            too_long = self._too_long(len(line), line)
            if too_long is not None:
                self._end(too_long)
                return
        try:
            envelope = decode(line, UNIX.scope)
        except Refused as refused:
            self.desk.metrics.rpc(OTHER, "refused", 0.0)
            self.transport.write(encode_refused(None, refused) + b"\n")
            return
        self.count += 1
        number = self.count
        unit = unit_of(envelope, UNIX, partial(self._answer, number))
        self.under_way[number] = unit, envelope
        if unit is not None:
            self.desk.engine.submit(unit)
        else:
            self._answer(number, [])

    # -- answering --------------------------------------------------------------------------------------------------
    def _answer(self, number: int, outcomes: list[Outcome]) -> bool:
        """One outcome per call of the unit; False when there is nobody to tell."""
        found = self.under_way.pop(number, None)
        if found is None or self.transport.is_closing():
            return False
        _, said = answer(found[1], outcomes)
        if said:
            self.transport.write(said + b"\n")
        if found[1].calls[0].method == "ledger.import":
            self.desk.end_import(self)
        if self.last:
            if not self.under_way:
                self._linger()
        elif self.paused and len(self.under_way) < UNDER_WAY_MAX // 2:
            self._go_on()
        return True

    def _end(self, refused: Refused) -> None:
        """The last thing said; what is under way is still answered before it closes."""
        self.desk.log("reject", why=refused.message)
        self.transport.write(encode_refused(None, refused) + b"\n")
        self.last = True
        self.buffer.clear()
        if not self.under_way:
            self._linger()
