"""The rare routes, as a Starlette application behind the door: readiness, metrics, the interface document, JSONL files.

Law: the door has judged transport, credential and scope before anything here runs. What touches the disk runs in a
thread; a file on its way in or out rests in the town's own folder and is gone afterwards.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from gastown.answers import document
from gastown.engine import Engine
from gastown.metrics import CONTENT_KIND, Metrics
from gastown.model import LINE_BYTES_MAX, Refused
from gastown.protocol import encode_ok, encode_refused

PIECE_BYTES: Final = 256 << 10  # read or written at once
ROOM_BYTES: Final = 128 << 20  # a spooled import leaves at least this on the disk: the ledger needs it more
ROOM_CHECK_BYTES: Final = 16 << 20  # how often that is looked at
# HTTP status of an import that was refused; of anything else 400
STATUS_OF_KIND: Final = {
    "conflict": 409, "limit": 413, "storage_low": 507, "draining": 503, "backpressure": 503, "internal": 500,
}  # fmt: skip
NDJSON: Final = "application/x-ndjson"
SAFE: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
PAGE_SAFE: Final = SAFE | {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
FRONT: Final = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>gastown</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:3em auto;padding:0 1em}</style>
<h1>gastown</h1>
<p>A coordinator for many coding agents: one queue, one ledger, no double claims.</p>
<p>Agents speak JSON-RPC 2.0 to <code>POST /rpc</code>; <code>GET /openrpc.json</code> lists the methods.
Every address but this page and <code>/healthz</code> wants <code>Authorization: Bearer</code> with a token from
<code>gastown token create</code>. People ask <code>gastown status</code>.</p>
</html>
"""


class Pages:
    """The handlers. `ready` says whether calls are taken; `folder` is where files rest on their way."""

    def __init__(self, engine: Engine, metrics: Metrics, folder: Path) -> None:
        self.engine = engine
        self.metrics = metrics
        self.folder = folder
        self.stopping = False

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", self.front),
                Route("/readyz", self.readyz),
                Route("/metrics", self.scrape),
                Route("/openrpc.json", self.openrpc),
                Route("/export.jsonl", self.export),
                Route("/import.jsonl", self.take_import, methods=["POST"]),
                Route("/login", self.login, methods=["POST"]),
            ]
        )

    async def front(self, _: Request) -> Response:
        return Response(FRONT, media_type="text/html", headers=PAGE_SAFE)

    async def login(self, _: Request) -> Response:
        """There is no dashboard yet, so no code can be right."""
        return PlainTextResponse("no dashboard to log in to\n", 404, headers=SAFE)

    async def readyz(self, _: Request) -> Response:
        said = {"ready": not self.stopping, "epoch": self.engine.epoch, "seq": self.engine.seq}
        return JSONResponse(said, 503 if self.stopping else 200, headers=SAFE)

    async def scrape(self, _: Request) -> Response:
        return Response(self.metrics.render(), headers=SAFE | {"Content-Type": CONTENT_KIND})

    async def openrpc(self, _: Request) -> Response:
        return Response(document(), media_type="application/json", headers=SAFE)

    async def export(self, _: Request) -> Response:
        """The canonical export: written to a file first, so that a slow reader pins nothing in the ledger."""
        handle, name = tempfile.mkstemp(".jsonl", "export-", self.folder)
        os.close(handle)
        path = Path(name)
        try:
            await self.engine.export_file(path)
            file = path.open("rb")
        finally:
            path.unlink()
        return StreamingResponse(pieces(file), media_type=NDJSON, headers=SAFE)

    async def take_import(self, request: Request) -> Response:
        """A JSONL file of any size as one transaction. Query: mode, dry_run, skip_bad as in ledger.import."""
        try:
            options = import_options(request)
        except ValueError as error:
            refused = Refused("invalid_params", f"{error}: mode is merge or replace_empty, flags are true or false",
                              field=str(error))  # fmt: skip
            return _refused(refused, 400)
        with tempfile.TemporaryFile(dir=self.folder, prefix="import-") as file:
            try:
                await spool(request, file, self.folder)
                result = await self.engine.import_file(file, **options)
            except Refused as refused:
                return _refused(refused, STATUS_OF_KIND.get(refused.kind, 400))
        return Response(encode_ok(None, result), media_type="application/json", headers=SAFE)


def import_options(request: Request) -> dict[str, Any]:
    """The query as parameters; ValueError names the one that is wrong."""
    options: dict[str, Any] = {}
    for key, value in request.query_params.multi_items():
        allowed = {"mode": ("merge", "replace_empty"), "dry_run": ("true", "false"), "skip_bad": ("true", "false")}
        if value not in allowed.get(key, ()) or key in options:
            raise ValueError(key[:32])
        options[key] = value if key == "mode" else value == "true"
    return options


async def spool(request: Request, file: BinaryIO, folder: Path) -> None:
    """Writes the body to `file` and rewinds it. Refused: limit for a line without an end, storage_low."""
    unchecked, line, lines = ROOM_CHECK_BYTES, 0, 0
    try:
        async for piece in request.stream():
            unchecked += len(piece)
            if unchecked >= ROOM_CHECK_BYTES:
                unchecked = 0
                if shutil.disk_usage(folder).free < ROOM_BYTES:
                    raise Refused("storage_low", "the disk has no room for this file")
            end = piece.rfind(b"\n")
            line = line + len(piece) if end < 0 else len(piece) - end - 1
            lines += piece.count(b"\n")
            if line > LINE_BYTES_MAX:
                message = f"line {lines + 1} is over {LINE_BYTES_MAX} bytes"
                raise Refused("limit", message, limit="line", max=LINE_BYTES_MAX, line=lines + 1)
            if piece:
                await asyncio.to_thread(file.write, piece)
    except ClientDisconnect:
        raise ConnectionResetError("the peer left in the middle of its file") from None
    await asyncio.to_thread(file.seek, 0)


async def pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
            yield piece


def _refused(refused: Refused, status: int) -> Response:
    said = encode_refused(None, refused)
    return Response(said, status, media_type="application/json", headers=SAFE)
