"""From a connection to an ASGI application and back, for the routes where a task per request costs nothing.

Law: the door keeps every rule of the transport; this only carries one request's body in and one reply out, at the pace
of the slower side. A reply that breaks off is cut without its final chunk, so nobody takes it for whole.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gastown.door import Door

BACKLOG_BYTES_MAX: Final = 256 << 10  # of a body the page has not read yet; then the connection is not read either


class Visit:
    """One request in an ASGI application. `body` is whole, or None when it is still to be fed."""

    def __init__(self, door: Door, body: bytes | None) -> None:
        self.door = door
        self.pieces = [body] if body else []
        self.backlog = 0
        self.whole = body is not None
        self.started = False
        self.gone = False
        self._told = False
        self._chunked = False
        self._finished = False
        self._wake = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run())

    # -- what the door tells ----------------------------------------------------------------------------------------
    def feed(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self.backlog += len(piece)
        self._wake.set()

    def ended(self) -> None:
        self.whole = True
        self._wake.set()

    def drained(self) -> None:
        self._wake.set()

    def lost(self) -> None:
        self.gone = True
        self._wake.set()

    def half_closed(self) -> bool:
        """The peer sends no more but may still read; a body that is not whole yet never will be."""
        return self.whole

    def stop(self) -> None:
        """The server stops; a page is given the time it takes."""

    def overdue(self) -> None:
        """Nothing is due here."""

    # -- what the application sees ----------------------------------------------------------------------------------
    def _scope(self) -> dict[str, Any]:
        head = self.door.head
        assert head is not None
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": head.verb,
            "scheme": "http",
            "path": head.path,
            "raw_path": head.path.encode("latin-1"),
            "query_string": head.query,
            "root_path": "",
            "headers": list(head.headers),
            "client": None,
            "server": None,
        }

    async def _run(self) -> None:
        try:
            await self.door.desk.pages(self._scope(), self._receive, self._send)
        except ConnectionError:
            pass  # the peer left; the page has cleaned up behind itself
        except Exception as error:
            self.door.desk.log("page failed", why=error.__class__.__name__)
        if self.gone:
            return
        if not self.started:
            self.door.answer_page(500, b"internal error\n")
        elif self._finished:
            self.door.visit_done()
        else:
            self.door.cut()

    async def _receive(self) -> dict[str, Any]:
        while True:
            if self.gone:
                return {"type": "http.disconnect"}
            if self.pieces or (self.whole and not self._told):
                piece = b"".join(self.pieces)
                self.pieces.clear()
                self.backlog = 0
                self._told = self.whole
                self.door.read_on()
                return {"type": "http.request", "body": piece, "more_body": not self.whole}
            self._wake.clear()
            await self._wake.wait()

    async def _send(self, message: dict[str, Any]) -> None:
        if self.gone:
            raise ConnectionResetError("the peer has gone")
        if message["type"] == "http.response.start":
            self._begin(message)
            return
        piece, more = message.get("body", b""), message.get("more_body", False)
        if self._chunked:
            piece = (b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"") + (b"" if more else b"0\r\n\r\n")
        if piece:
            self.door.transport.write(piece)
        self._finished = not more
        while self.door.full and not self.gone:
            self._wake.clear()
            await self._wake.wait()

    def _begin(self, message: dict[str, Any]) -> None:
        status = message["status"]
        headers = list(message.get("headers", ()))
        self._chunked = status >= 200 and status not in (204, 304) and all(n != b"content-length" for n, _ in headers)
        if self._chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        if not self.whole:
            self.door.last = True  # what is left of the body will not be read
        if self.door.closing:
            headers.append((b"connection", b"close"))
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode()), self.door.desk.date]
        lines += [b"%b: %b\r\n" % pair for pair in headers]
        self.started = True
        self.door.transport.write(b"".join([*lines, b"\r\n"]))
