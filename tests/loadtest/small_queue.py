"""A queue just large enough for a fleet: registers, grants, completes, remembers request ids, and can cut connections.

It runs in a thread of the test, so a test can look into it and can make it misbehave between two calls.
"""

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from gastown.loadtest.framing import Framing, http_reply

START_S = 10.0


class Refusal(Exception):
    def __init__(self, code: int, **data: Any) -> None:
        super().__init__(str(code))
        self.error = {"code": code, "message": "no", "data": data}


class SmallQueue:
    """Hands out `b-0` to `b-(count-1)` once each; `ends` is bead -> tokens it was completed with."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.ready = deque(f"b-{index}" for index in range(count))
        self.live: dict[str, int] = {}
        self.ends: dict[str, list[int]] = {}
        self.replies: dict[str, dict[str, Any]] = {}
        self.refuse: Callable[[int, str], Refusal | None] = lambda _number, _method: None
        self.drop: Callable[[int], bool] = lambda _number: False
        self.calls = itertools.count(1)
        self.tokens = itertools.count(100)
        self.workers: dict[str, str] = {}
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.listening = threading.Event()
        self.transports: set[asyncio.Transport] = set()

    def target(self, dialect: str) -> str:
        return f"unix:{self.folder / f'{dialect}.sock'}"

    def __enter__(self) -> "SmallQueue":
        self.thread.start()
        assert self.listening.wait(START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.running.call_soon_threadsafe(self.ended.set)
        self.thread.join(START_S)

    async def _serve(self) -> None:
        self.running, self.ended = asyncio.get_running_loop(), asyncio.Event()
        http = await self.running.create_unix_server(lambda: Peer(self, "http"), self.folder / "http.sock")
        lines = await self.running.create_unix_server(lambda: Peer(self, "lines"), self.folder / "lines.sock")
        tcp = await self.running.create_server(lambda: Peer(self, "http"), "127.0.0.1", 0)
        self.port: int = tcp.sockets[0].getsockname()[1]
        self.listening.set()
        await self.ended.wait()
        http.close()
        lines.close()
        tcp.close()
        for transport in list(self.transports):
            transport.abort()

    def answer(self, call: dict[str, Any], number: int) -> dict[str, Any]:
        head = {"jsonrpc": "2.0", "id": call["id"]}
        params = dict(call["params"])
        key = params.pop("request_id", None)
        try:
            refusal = self.refuse(number, call["method"])
            if refusal is not None:
                raise refusal
            if key not in self.replies or key is None:
                self.replies[key] = self.act(call["method"], params) | {"seq": number, "epoch": 1}
            return head | {"result": self.replies[key]}
        except Refusal as refused:
            return head | {"error": refused.error}

    def act(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "worker.register":
            self.workers[params["name"]] = f"id-{params['name']}"
            return {"worker_id": f"id-{params['name']}", "leases": []}
        if method == "work.claim":
            return self.grant(params)
        if self.live.get(params["bead_id"]) != params["token"]:
            raise Refusal(1001, action="stop")
        del self.live[params["bead_id"]]
        if method == "work.release":
            self.ready.append(params["bead_id"])
            return {"bead": {}}
        self.ends.setdefault(params["bead_id"], []).append(params["token"])
        return {"bead": {"id": params["bead_id"]}} | (self.grant(params["claim"]) if "claim" in params else {})

    def grant(self, params: dict[str, Any]) -> dict[str, Any]:
        assert params["worker_id"] in self.workers.values()
        if not self.ready:
            return {"claims": [], "retry_after_ms": 1}
        bead, token = self.ready.popleft(), next(self.tokens)
        self.live[bead] = token
        lease = {"bead_id": bead, "worker_id": params["worker_id"], "token": token}
        return {"claims": [{"bead": {"id": bead, "title": 'say "lease":{"token":1}'}, "lease": lease}]}


class Peer(asyncio.Protocol):
    def __init__(self, queue: SmallQueue, dialect: str) -> None:
        self.queue, self.framing = queue, Framing(dialect)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.queue.transports.add(transport)

    def connection_lost(self, _: Exception | None) -> None:
        self.queue.transports.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.framing.feed(data)
        while (body := self.framing.take()) is not None:
            number = next(self.queue.calls)
            reply = orjson.dumps(self.queue.answer(orjson.loads(body), number))
            if self.queue.drop(number):  # done, but the reply is lost
                self.transport.abort()
                return
            self.transport.write(http_reply(reply) if self.framing.http else reply + b"\n")
