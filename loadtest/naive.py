"""The build one writes first: Starlette, aiosqlite, one commit a request. It speaks enough of the wire to be measured.

Durable like the coordinator (WAL, synchronous=FULL), and nothing more: no leases that end, no replays, no events.
`python -m gastown.loadtest.naive SOCKET DATABASE` serves with uvicorn where it is installed, else with the small ASGI
server below, which is faster than uvicorn and so flatters this build.
"""

import asyncio
import contextlib
import importlib.util
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import aiosqlite
import httptools
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS bead(
  id INTEGER PRIMARY KEY, priority INTEGER, status TEXT, title TEXT, description TEXT, label TEXT,
  worker TEXT, token INTEGER DEFAULT 0, expires_at REAL);
CREATE INDEX IF NOT EXISTS bead_open ON bead(priority, id) WHERE status = 'open';
"""
CLAIM = """
UPDATE bead SET status = 'in_progress', worker = ?, token = token + 1, expires_at = ?
WHERE id = (SELECT id FROM bead WHERE status = 'open' ORDER BY priority, id LIMIT 1)
RETURNING id, token, title, description, priority, label, expires_at"""
COMPLETE = "UPDATE bead SET status = 'closed' WHERE id = ? AND token = ? AND status = 'in_progress'"
CREATE = "INSERT INTO bead(priority, status, title, description, label) VALUES (?, 'open', ?, ?, ?)"
TTL_S = 300  # gastown's default lease


class Naive:
    """One connection, one lock, one commit a request."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with aiosqlite.connect(self.database) as self.connection:
            await self.connection.executescript(SCHEMA)
            yield

    async def rpc(self, request: Request) -> JSONResponse:
        call = await request.json()
        act = {
            "worker.register": self.register,
            "work.claim": self.claim,
            "work.complete": self.complete,
            "bead.create": self.create,
        }[call["method"]]
        async with self.lock:
            result = await act(call["params"])
            await self.connection.commit()
        return JSONResponse({"jsonrpc": "2.0", "id": call["id"], "result": result})

    async def register(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"worker_id": params["name"], "leases": []}

    async def claim(self, params: dict[str, Any]) -> dict[str, Any]:
        cursor = await self.connection.execute(CLAIM, (params["worker_id"], time.time() + TTL_S))
        row = await cursor.fetchone()
        if row is None:
            return {"claims": []}
        bead = {"id": str(row[0]), "title": row[2], "description": row[3], "priority": row[4], "labels": [row[5]]}
        return {"claims": [{"bead": bead, "lease": {"bead_id": str(row[0]), "token": row[1], "expires_at": row[6]}}]}

    async def complete(self, params: dict[str, Any]) -> dict[str, Any]:
        cursor = await self.connection.execute(COMPLETE, (int(params["bead_id"]), params["token"]))
        return {"bead": {"id": params["bead_id"], "status": "closed"}, "settled": cursor.rowcount}

    async def create(self, params: dict[str, Any]) -> dict[str, Any]:
        beads = params["beads"]
        rows = [(bead["priority"], bead["title"], bead["description"], bead["labels"][0]) for bead in beads]
        await self.connection.executemany(CREATE, rows)
        return {"beads": len(rows)}


class Asgi(asyncio.Protocol):
    """HTTP/1.1 keep-alive in front of an ASGI application, requests one after the other."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self.application = application
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.task = asyncio.get_running_loop().create_task(self.answer(self.body))
        self.body = b""

    async def answer(self, body: bytes) -> None:
        scope = {"type": "http", "method": "POST", "path": "/rpc", "headers": [], "query_string": b"", "root_path": ""}
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.application(scope, receive, send)
        head = b"".join(b"%b: %b\r\n" % pair for pair in sent[0]["headers"])
        self.transport.write(b"HTTP/1.1 %d OK\r\n%b\r\n%b" % (sent[0]["status"], head, sent[1]["body"]))


async def serve(naive: Naive, application: Starlette, path: str) -> None:
    """Serves without uvicorn until the process is ended."""
    async with naive.lifespan(application):
        server = await asyncio.get_running_loop().create_unix_server(lambda: Asgi(application), path)
        await server.serve_forever()


def has_uvicorn() -> bool:
    return importlib.util.find_spec("uvicorn") is not None


def main(path: str, database: str) -> None:
    naive = Naive(database)
    routes = [Route("/rpc", naive.rpc, methods=["POST"])]
    if has_uvicorn():
        import uvicorn  # type: ignore[import-not-found,unused-ignore]  # not one of our requirements

        application = Starlette(routes=routes, lifespan=naive.lifespan)
        uvicorn.run(application, uds=path, log_level="warning", access_log=False)
    else:
        uvloop.run(serve(naive, Starlette(routes=routes), path))


if __name__ == "__main__":
    main(*sys.argv[1:3])
