"""A static-reply server in Python, for the fleet's ceiling where nothing is compiled: one grant, whatever was asked."""

import asyncio
import os
import sys
import threading
from typing import cast

import uvloop

from .framing import Framing, http_reply

REPLY = (
    b'{"jsonrpc":"2.0","id":1,"result":{"worker_id":"w-1","claims":[{"bead":{"id":"bead-0001","title":"Bearing",'
    b'"description":"' + b"It sings at speed; press the new one in and write down the play. " * 3 + b'","priority":2,'
    b'"labels":["area-3"]},"lease":{"bead_id":"bead-0001","worker_id":"w-1","token":17,"attempt":1,"expires_at_ms":1}}],'
    b'"seq":99,"epoch":1}}'
)


class Static(asyncio.Protocol):
    """Answers each complete request with the same bytes."""

    def __init__(self, dialect: str) -> None:
        self.framing = Framing(dialect)
        self.reply = http_reply(REPLY) if dialect == "http" else REPLY + b"\n"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.framing.feed(data)
        while self.framing.take() is not None:
            self.transport.write(self.reply)


async def serve(dialect: str, target: str) -> None:
    """Listens on unix:PATH until the process is ended."""
    server = await asyncio.get_running_loop().create_unix_server(lambda: Static(dialect), target.removeprefix("unix:"))
    print(target, flush=True)
    await server.serve_forever()


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    uvloop.run(serve(sys.argv[1], sys.argv[2]))
