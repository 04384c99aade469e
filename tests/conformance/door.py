"""What a careless or hostile peer says: requests built row by row, senders that survive a closed door, an event reader.

The law: nothing here knows what the answer should be; the tests say that.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from .town import WITHIN_S, Town
from .wire import Connection, Reply, RpcError

JSON = "Content-Type: application/json"
SPILL = 64 << 10  # bytes a hostile sender pushes between two looks for an answer

# Every method of the contract that this daemon serves, with its one scope.
SCOPES: dict[str, str] = {
    "worker.register": "worker", "worker.heartbeat": "worker", "worker.drain": "worker",
    "worker.deregister": "worker", "worker.list": "read",
    "work.claim": "worker", "work.complete": "worker", "work.fail": "worker",
    "work.release": "worker", "work.block": "worker",
    "bead.create": "worker", "bead.get": "read", "bead.list": "read", "bead.ready": "read",
    "bead.update": "worker", "bead.close": "worker", "bead.reopen": "worker", "bead.depend": "worker",
    "bead.undepend": "worker", "bead.comment": "worker", "bead.history": "read",
    "ledger.import": "admin", "ledger.export": "read", "ledger.verify": "admin",
    "queue.stats": "read", "queue.pause": "admin", "queue.resume": "admin",
    "convoy.create": "worker", "convoy.get": "read", "convoy.list": "read", "convoy.add": "worker",
    "convoy.remove": "worker",
    "scale.advice": "read", "system.info": "read",
    "token.create": "admin", "token.list": "admin", "token.revoke": "admin",
    "rpc.discover": "read",
}  # fmt: skip


def head(verb: str, path: str, *rows: str) -> bytes:
    """A request head of exactly these rows; no Host, no length unless given."""
    return "\r\n".join([f"{verb} {path} HTTP/1.1", *rows, "", ""]).encode()


def rpc(*rows: str, body: bytes, path: str = "/rpc") -> bytes:
    """A POST with these rows, then its length and body; no content type unless given."""
    return head("POST", path, *rows, f"Content-Length: {len(body)}") + body


def ask(method: str, params: object = None, number: object = 1) -> bytes:
    """The bytes of one call."""
    document = {"jsonrpc": "2.0", "id": number, "method": method}
    return json.dumps(document if params is None else document | {"params": params}).encode()


INFO = ask("system.info")


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


def push(connection: Connection, data: bytes) -> bool:
    """Sends until all is gone or the peer answers or closes; whether all went."""
    for start in range(0, len(data), SPILL):
        if connection.readable(0):
            return False
        try:
            connection.send(data[start : start + SPILL])
        except OSError:
            return False
    return True


def knock(town: Town, data: bytes, tcp: bool = False, within_s: float = WITHIN_S) -> Reply:
    """The reply to bytes the daemon may refuse before it has read them all."""
    with town.connect(tcp) as connection:
        push(connection, data)
        return connection.read_reply(within_s)


def ended(connection: Connection, within_s: float = WITHIN_S) -> bool:
    """Whether the peer closes, with nothing more said; a reset is a close too."""
    with contextlib.suppress(ConnectionError):
        return connection.read_to_end(within_s) == b""
    return True


def error(document: dict[str, Any]) -> RpcError:
    """The error of a reply object, its shape checked; AssertionError when it has a result."""
    assert set(document) == {"jsonrpc", "id", "error"}, document
    assert document["jsonrpc"] == "2.0"
    assert isinstance(document["error"]["message"], str)
    assert isinstance(document["error"]["data"]["kind"], str)
    assert isinstance(document["error"]["data"]["retryable"], bool)
    return RpcError(document["error"])


def seq(town: Town) -> int:
    """The ledger's present seq: a reply carries it when its call changed nothing."""
    number: int = town.call("queue.resume", rig="never-paused")["seq"]
    return number


def new_token(town: Town, scope: str, name: str = "t") -> str:
    token: str = town.call("token.create", scope=scope, name=name)["token"]
    return token


def healthy(town: Town, tcp: bool = False) -> bool:
    """Whether /healthz answers on a fresh connection, no credential shown."""
    return town.http("GET", "/healthz", token="" if tcp else None).status == 200


class Event(NamedTuple):
    id: int
    kind: str
    data: dict[str, Any]


class Events:
    """GET /events, read frame by frame through any transfer coding."""

    def __init__(self, town: Town, last_id: int | None = None, token: str | None = None) -> None:
        self.connection = town.connect(tcp=token is not None)
        rows = ["Host: " + (town.daemon["listen"] if token is not None else "localhost"), "Accept: text/event-stream"]
        rows += [] if last_id is None else [f"Last-Event-ID: {last_id}"]
        rows += [bearer(token)] if token else []
        self.connection.send(head("GET", "/events", *rows))
        self.status, self.headers = self.connection.read_head(WITHIN_S)
        self._chunked = self.headers.get("transfer-encoding") == "chunked"
        self._text = b""

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def _more(self, within_s: float) -> bytes:
        if not self._chunked:
            return self.connection.read_until(b"\n", within_s)
        size = int(self.connection.read_until(b"\r\n", within_s).split(b";")[0], 16)
        chunk = self.connection.read_exactly(size + 2, within_s)[:-2]
        if not chunk:
            raise EOFError("the stream ended")
        return chunk

    def next(self, within_s: float = WITHIN_S) -> Event:
        """The next event; comments and retry hints are passed over. EOFError at the end."""
        while True:
            self._text = self._text.replace(b"\r\n", b"\n")
            while b"\n\n" not in self._text:
                self._text = (self._text + self._more(within_s)).replace(b"\r\n", b"\n")
            frame, _, self._text = self._text.partition(b"\n\n")
            rows = [row.partition(":") for row in frame.decode().split("\n") if row and not row.startswith(":")]
            fields = {name: value.removeprefix(" ") for name, _, value in rows}
            if "data" in fields:
                return Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))

    def take(self, count: int) -> list[Event]:
        return [self.next() for _ in range(count)]

    def to(self, last: int) -> list[Event]:
        """The events up to and with seq `last`."""
        found = [self.next()]
        while found[-1].id < last:
            found.append(self.next())
        return found

    def rest(self) -> Iterator[Event]:
        """Every event until the daemon closes the stream."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                yield self.next()
