"""One connection to a town and the bytes on it: HTTP/1.1 on a unix socket or TCP, or one JSON text a line.

Law: a channel asks one thing at a time and never retries. Whatever goes wrong on the way is `Lost`: whether the call
was carried out is then unknown, and only its caller knows whether asking again is safe. Imports nothing of ours.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

CONNECT_S: Final = 5.0  # a socket on this machine answers in well under a millisecond
CHUNK_BYTES: Final = 64 << 10  # read or sent at a time
HEAD_BYTES_MAX: Final = 64 << 10  # of a reply's head; the town's own have some 200


class Lost(ConnectionError):
    """The connection could not be made or ended before the whole reply came. `sent` is false if nothing was asked."""

    def __init__(self, message: str, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Address(NamedTuple):
    """Where a town listens: a socket's path, or a host and port. `lines` says that the path is the line socket."""

    path: str = ""
    host: str = ""
    port: int = 0
    token: str | None = None
    lines: bool = False

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class Reply(NamedTuple):
    """The head of an HTTP reply; names of headers are in lower case."""

    status: int
    headers: dict[str, str]


def dial(address: Address, timeout_s: float = CONNECT_S) -> socket.socket:
    """A connected socket; Lost if nobody listens there."""
    unix = bool(address.path)
    made = socket.socket(socket.AF_UNIX if unix else socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    try:
        made.settimeout(timeout_s)
        made.connect(address.path if unix else (address.host, address.port))
        if not unix:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        made.close()
        raise Lost(f"nobody answers at {address}: {error.strerror or error}", sent=False) from None
    return made


class Channel:
    """A connection, made when it is first needed and again after it was lost. Not for several threads at once."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._deadline = 0.0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def connect(self) -> None:
        """Makes the connection unless there is one; Lost if it cannot be made."""
        if self._socket is None:
            self._socket = dial(self.address)

    def ask(self, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """One JSON-RPC text to the town and its reply, with the HTTP status (200 on the line socket)."""
        if self.address.lines:
            return 200, self._ask_line(body, timeout_s)
        reply, parts = self.request("POST", "/rpc", timeout_s, body, {"Content-Type": "application/json"})
        return reply.status, b"".join(parts)

    def request(
        self,
        verb: str,
        path: str,
        timeout_s: float,
        body: bytes | BinaryIO = b"",
        headers: dict[str, str] | None = None,
    ) -> tuple[Reply, Iterator[bytes]]:
        """One HTTP request. The reply's body comes as it arrives and must be read to its end before the next request;
        `timeout_s` is for the head and then anew for each part. Raises Lost, also while the body is read."""
        self._begin(timeout_s)
        length = len(body) if isinstance(body, bytes) else os.fstat(body.fileno()).st_size
        self._send(self._head(verb, path, length, headers or {}) + (body if isinstance(body, bytes) else b""))
        if not isinstance(body, bytes):
            while part := body.read(CHUNK_BYTES):
                self._deadline = time.monotonic() + timeout_s
                if not self._send(part, perhaps=True):
                    break  # refused before it was all sent: the reply says why
        reply = self._read_head()
        return reply, self._body(reply, timeout_s)

    # -- bytes ------------------------------------------------------------------------------------------------------
    def _head(self, verb: str, path: str, length: int, headers: dict[str, str]) -> bytes:
        address = self.address
        host = f"[{address.host}]" if ":" in address.host else address.host
        rows = [f"{verb} {path} HTTP/1.1", f"Host: {f'{host}:{address.port}' if host else 'localhost'}"]
        if verb == "POST":
            rows.append(f"Content-Length: {length}")
        if address.token:
            rows.append(f"Authorization: Bearer {address.token}")
        rows += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*rows, "", ""]).encode("latin-1")

    def _begin(self, timeout_s: float) -> None:
        self.connect()
        self._deadline = time.monotonic() + timeout_s

    def _send(self, data: bytes, perhaps: bool = False) -> bool:
        assert self._socket is not None
        try:
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
            self._socket.sendall(data)
        except OSError as error:
            if perhaps and isinstance(error, (BrokenPipeError, ConnectionResetError)):
                return False
            self._lose(f"while asking: {error.strerror or error}")
        return True

    def _receive(self) -> bytes:
        """Some more bytes; empty at the end of the stream."""
        assert self._socket is not None
        try:
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
            return self._socket.recv(CHUNK_BYTES)
        except TimeoutError:
            self._lose("no answer in time")
        except OSError as error:
            self._lose(str(error.strerror or error))
        return b""

    def _more(self) -> None:
        part = self._receive()
        if not part:
            self._lose("the town hung up before it answered")
        self._buffer += part

    def _lose(self, why: str) -> None:
        self.close()
        raise Lost(f"{self.address}: {why}")

    def _until(self, mark: bytes, maximum: int) -> bytes:
        """What comes before `mark`, which is taken away as well."""
        while mark not in self._buffer:
            if len(self._buffer) > maximum:
                self._lose("the answer makes no sense")
            self._more()
        taken, _, self._buffer = self._buffer.partition(mark)
        return taken

    def _ask_line(self, body: bytes, timeout_s: float) -> bytes:
        self._begin(timeout_s)
        self._send(body + b"\n")
        parts = [self._buffer]
        while b"\n" not in parts[-1]:
            part = self._receive()
            if not part:
                self._lose("the town hung up before it answered")
            parts.append(part)
        line, _, self._buffer = b"".join(parts).partition(b"\n")
        return line

    def _read_head(self) -> Reply:
        while True:
            first, *rows = self._until(b"\r\n\r\n", HEAD_BYTES_MAX).decode("latin-1").split("\r\n")
            words = first.split(" ", 2)
            if len(words) < 2 or not words[1].isdigit():
                self._lose("the answer is not HTTP")
            if int(words[1]) != 100:
                break
        pairs = (row.partition(":") for row in rows)
        return Reply(int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs})

    def _body(self, reply: Reply, timeout_s: float) -> Iterator[bytes]:
        """The parts of a body; a connection that will not be kept alive is closed after it."""
        if reply.headers.get("transfer-encoding", "").lower() == "chunked":
            yield from self._chunks(timeout_s)
        elif "content-length" in reply.headers:
            yield from self._exactly(self._number(reply.headers["content-length"], 10), timeout_s)
        elif reply.status not in (204, 304):
            yield from self._to_the_end(timeout_s)
        if reply.headers.get("connection", "").lower() == "close":
            self.close()

    def _exactly(self, length: int, timeout_s: float) -> Iterator[bytes]:
        while length:
            if not self._buffer:
                self._deadline = time.monotonic() + timeout_s
                self._more()
            part, self._buffer = self._buffer[:length], self._buffer[length:]
            length -= len(part)
            yield part

    def _chunks(self, timeout_s: float) -> Iterator[bytes]:
        while True:
            self._deadline = time.monotonic() + timeout_s
            size = self._number(self._until(b"\r\n", HEAD_BYTES_MAX).partition(b";")[0].decode("latin-1"), 16)
            yield from self._exactly(size, timeout_s)
            ended = not self._until(b"\r\n", HEAD_BYTES_MAX)
            if not size:
                while not ended:  # trailers
                    ended = not self._until(b"\r\n", HEAD_BYTES_MAX)
                return

    def _number(self, digits: str, base: int) -> int:
        try:
            return int(digits, base)
        except ValueError:
            self._lose("the answer is not HTTP")
        return 0

    def _to_the_end(self, timeout_s: float) -> Iterator[bytes]:
        part, self._buffer = self._buffer or self._receive(), b""
        while part:
            yield part
            self._deadline = time.monotonic() + timeout_s
            part = self._receive()
        self.close()
