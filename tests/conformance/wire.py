"""Sockets and bytes: HTTP/1.1 replies and lines, read by hand so that no library smooths over what came."""

import itertools
import json
import select
import socket
import time
from types import TracebackType
from typing import Any, NamedTuple, Self

CHUNK = 65536


class RpcError(Exception):
    """A JSON-RPC error as data; `http` is the status it came with (200 on the line socket)."""

    def __init__(self, error: dict[str, Any], http: int = 200) -> None:
        super().__init__(f"{error.get('code')} {error.get('message')} {error.get('data')}")
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: dict[str, Any] = error.get("data") or {}
        self.http = http

    @property
    def kind(self) -> str:
        return str(self.data.get("kind"))


class Reply(NamedTuple):
    """One HTTP reply; header names are lower case, `body` is without transfer coding."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def unwrap(document: dict[str, Any], http: int = 200) -> Any:
    """The result of a JSON-RPC reply object; RpcError when it is an error."""
    assert document["jsonrpc"] == "2.0"
    if "error" in document:
        raise RpcError(document["error"], http)
    return document["result"]


def outcome(reply: Reply) -> Any:
    return unwrap(reply.json(), reply.status)


def post(document: object, token: str | None = None, host: str = "localhost") -> bytes:
    """A request to /rpc with one JSON document; bytes are sent as they are."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    head = f"POST /rpc HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    if token:
        head += f"Authorization: Bearer {token}\r\n"
    return head.encode() + b"\r\n" + body


class Connection:
    """A socket with a buffer and a deadline on every read."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    @classmethod
    def unix(cls, path: str) -> Self:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            raise
        return cls(sock)

    @classmethod
    def tcp(cls, host: str, port: int) -> Self:
        return cls(socket.create_connection((host, port), timeout=10))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.settimeout(10)
        self.sock.sendall(data)

    def readable(self, for_s: float) -> bool:
        """Whether bytes, or the end of the stream, arrive within `for_s` seconds."""
        return bool(self.buffer or self.sock.fileno() < 0 or self._arrives(for_s))

    def _arrives(self, within_s: float) -> bool:
        waiting = select.poll()  # select() knows no descriptor above 1,023, and a full house has more
        waiting.register(self.sock, select.POLLIN)
        return bool(waiting.poll(within_s * 1000))

    def _fill(self, deadline: float) -> bool:
        """Reads once; False at the end of the stream."""
        left = deadline - time.monotonic()
        if left <= 0 or not self._arrives(left):
            raise TimeoutError(f"nothing more came after {self.buffer[:200]!r}")
        chunk = self.sock.recv(CHUNK)
        self.buffer += chunk
        return bool(chunk)

    def read_until(self, mark: bytes, within_s: float) -> bytes:
        """The bytes up to and with `mark`; EOFError when the stream ends first."""
        deadline = time.monotonic() + within_s
        while mark not in self.buffer:
            if not self._fill(deadline):
                raise EOFError(self.buffer[:200])
        found, _, self.buffer = self.buffer.partition(mark)
        return found + mark

    def read_exactly(self, size: int, within_s: float) -> bytes:
        deadline = time.monotonic() + within_s
        while len(self.buffer) < size:
            if not self._fill(deadline):
                raise EOFError(self.buffer[:200])
        found, self.buffer = self.buffer[:size], self.buffer[size:]
        return found

    def read_to_end(self, within_s: float) -> bytes:
        """Everything until the peer closes."""
        deadline = time.monotonic() + within_s
        while self._fill(deadline):
            pass
        found, self.buffer = self.buffer, b""
        return found

    def read_head(self, within_s: float) -> tuple[int, dict[str, str]]:
        """The status and headers of one reply; the body is left unread."""
        status, *rows = self.read_until(b"\r\n\r\n", within_s).decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (row.split(":", 1) for row in rows)
        return int(status.split(" ")[1]), {name.lower(): value.strip() for name, value in pairs}

    def read_reply(self, within_s: float = 15.0) -> Reply:
        """One whole reply by content-length, chunks or end of stream."""
        status, headers = self.read_head(within_s)
        if "content-length" in headers:
            return Reply(status, headers, self.read_exactly(int(headers["content-length"]), within_s))
        if headers.get("transfer-encoding") == "chunked":
            return Reply(status, headers, self._read_chunks(within_s))
        body = b"" if status in (204, 304) else self.read_to_end(within_s)
        return Reply(status, headers, body)

    def _read_chunks(self, within_s: float) -> bytes:
        body = b""
        while True:
            size = int(self.read_until(b"\r\n", within_s).split(b";")[0], 16)
            body += self.read_exactly(size + 2, within_s)[:-2]
            if size == 0:
                return body


class Lines(Connection):
    """The line socket: many calls under way on one connection, replies in any order."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._ids = itertools.count(1)
        self._came: dict[int, dict[str, Any]] = {}

    def ask(self, method: str, /, **params: Any) -> int:
        """Sends a call; the id to collect its answer by."""
        number = next(self._ids)
        self.send_line(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode())
        return number

    def send_line(self, line: bytes) -> None:
        self.send(line + b"\n")

    def read_line(self, within_s: float = 15.0) -> Any:
        """The next JSON text, whatever it answers."""
        return json.loads(self.read_until(b"\n", within_s))

    def answer(self, number: int, within_s: float = 15.0) -> Any:
        """The result for an id; other answers that come first are kept."""
        while number not in self._came:
            document = self.read_line(within_s)
            self._came[document["id"]] = document
        return unwrap(self._came.pop(number))

    def call(self, method: str, /, **params: Any) -> Any:
        return self.answer(self.ask(method, **params))

    def park(self, method: str, /, **params: Any) -> int:
        """As `ask`, and returns once the daemon has surely taken the call in: a write behind it was answered."""
        number = self.ask(method, **params)
        self.call("queue.resume", rig="no-such-pause")
        return number
