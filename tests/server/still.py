"""An engine that keeps what it is asked until the test answers, a clock that stands still, peers that speak bytes."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

import orjson

from gastown.desk import Desk, Limits
from gastown.door import Door
from gastown.head import Names
from gastown.lines import Lines
from gastown.logs import Log
from gastown.metrics import Metrics
from gastown.model import Credential
from gastown.pages import Pages

WITHIN_S = 10.0  # the longest a condition that must come true may take
TOKENS = {scope: Credential(f"id-{scope}", scope, scope) for scope in ("read", "worker", "admin")}
READ = b'{"jsonrpc":"2.0","id":1,"method":"system.info","params":{}}'
CLAIM = b'{"jsonrpc":"2.0","id":2,"method":"work.claim","params":{"worker_id":"w","wait_ms":45000}}'


class Told(NamedTuple):
    """An event as the engine streams it."""

    seq: int
    kind: str
    data: bytes


def told(seq: int) -> Told:
    return Told(seq, "created", b'{"seq":%d}' % seq)


class StillEngine:
    """Conforms to the engine's interface; decides nothing."""

    def __init__(self) -> None:
        self.units: list[Any] = []
        self.gone: list[Any] = []
        self.table: list[Told] = []
        self.readers: dict[int, Callable[[list[Any]], None]] = {}
        self.epoch = 1
        self.imported = b""
        self.stopped = False
        self.before_page: Callable[[], None] = lambda: None

    @property
    def seq(self) -> int:
        return len(self.table)

    def submit(self, unit: Any) -> None:
        self.units.append(unit)

    def hang_up(self, unit: Any) -> None:
        self.gone.append(unit)

    def authenticate(self, token: str) -> Credential | None:
        return TOKENS.get(token)

    def answer(self, index: int = 0, **result: Any) -> bool:
        """Answers the oldest unit, or the one at `index`."""
        unit = self.units.pop(index)
        delivered: bool = unit.deliver([dict(result) for _ in unit.calls])
        return delivered

    def subscribe(self, callback: Callable[[list[Any]], None]) -> int:
        self.readers[len(self.readers) + 1] = callback
        return len(self.readers)

    def unsubscribe(self, key: int) -> None:
        del self.readers[key]

    def commit(self, count: int = 1) -> None:
        """Events that happen now, told to every reader."""
        fresh = [told(self.seq + n + 1) for n in range(count)]
        self.table += fresh
        for reader in list(self.readers.values()):
            reader(fresh)

    async def events_since(self, seq: int, limit: int) -> list[Told]:
        page = self.table[seq : seq + limit]
        await asyncio.to_thread(lambda: None)  # a real page comes from another thread
        self.before_page()
        return page

    async def import_file(self, file: Any, **options: Any) -> dict[str, Any]:
        self.imported = file.read()
        return {"created": self.imported.count(b"\n"), **options}

    async def export_file(self, path: Path) -> None:
        path.write_bytes(b'{"id":"a"}\n')

    async def stop(self) -> None:
        self.stopped = True
        while self.units:
            self.answer(claims=[])


class House:
    """A desk with an HTTP door on a unix socket and on TCP, and a line socket, as long as the `async with` lasts."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder = folder
        self.engine = StillEngine()
        self.now_s = 1_000.0
        self.out = io.BytesIO()
        self.desk = Desk(
            self.engine,  # type: ignore[arg-type]  # it has what a desk asks for
            Metrics(), Log(self.out), lambda: self.now_s, limits or Limits(),
        )  # fmt: skip
        self.desk.pages = Pages(self.engine, self.desk.metrics, folder).app()  # type: ignore[arg-type]  # as above
        self.names = self.tcp_names = Names()
        self.peers: list[Peer] = []

    async def __aenter__(self) -> Self:
        running = asyncio.get_running_loop()
        self.servers = [
            await running.create_unix_server(lambda: Door(self.desk, self.names), str(self.folder / "http")),
            await running.create_unix_server(lambda: Lines(self.desk), str(self.folder / "lines")),
        ]
        tcp = await running.create_server(lambda: Door(self.desk, self.tcp_names), "127.0.0.1", 0)
        self.port = tcp.sockets[0].getsockname()[1]
        self.tcp_names = Names("127.0.0.1", self.port)
        self.servers.append(tcp)
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self.servers:
            server.close()
        for peer in self.peers:
            peer.hang_up()
            with contextlib.suppress(OSError):
                await peer.writer.wait_closed()
        for connection in list(self.desk.connections):
            connection.cut()
        await until(lambda: not self.desk.connections)

    def pass_time(self, seconds: float) -> None:
        """Lets the clock jump and looks at every deadline."""
        self.now_s += seconds
        self.desk.sweep()

    @property
    def log(self) -> str:
        return self.out.getvalue().decode()

    async def http(self) -> Peer:
        return self._keep(*await asyncio.open_unix_connection(str(self.folder / "http")))

    async def tcp(self) -> Peer:
        return self._keep(*await asyncio.open_connection("127.0.0.1", self.port))

    async def lines(self) -> Peer:
        return self._keep(*await asyncio.open_unix_connection(str(self.folder / "lines")))

    def _keep(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Peer:
        self.peers.append(Peer(reader, writer))
        return self.peers[-1]

    async def units(self, count: int = 1) -> list[Any]:
        """What the engine was asked, once there are `count` units."""
        await until(lambda: len(self.engine.units) >= count)
        return self.engine.units


class Peer:
    """The other end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WITHIN_S)).decode()
        status, *rows = raw.rstrip("\r\n").split("\r\n")
        return int(status.split(" ")[1]), {name.lower(): value for name, value in (row.split(": ", 1) for row in rows)}

    async def reply(self) -> tuple[int, Any]:
        """Status and body of one reply with a length; JSON bodies decoded."""
        status, headers = await self.head()
        body = await asyncio.wait_for(self.reader.readexactly(int(headers.get("content-length", 0))), WITHIN_S)
        return status, orjson.loads(body) if headers.get("content-type") == "application/json" else body

    async def line(self) -> Any:
        return orjson.loads(await asyncio.wait_for(self.reader.readuntil(b"\n"), WITHIN_S))

    async def rest(self) -> bytes:
        """Everything until the daemon closes."""
        return await asyncio.wait_for(self.reader.read(), WITHIN_S)

    def hang_up(self) -> None:
        self.writer.transport.abort()


def post(body: bytes = READ, *rows: str, path: str = "/rpc", host: str = "localhost") -> bytes:
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", *rows]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def get(path: str, *rows: str, host: str = "localhost") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *rows, "", ""]).encode()


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop run until the condition holds."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0)
