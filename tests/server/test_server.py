"""The server from its first connection to its last."""

import asyncio
import io
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gastown import peers
from gastown.logs import Log
from gastown.metrics import Metrics
from gastown.premises import bind_tcp, bind_unix
from gastown.server import Listener, Server

from .still import CLAIM, READ, WITHIN_S, Peer, StillEngine, get, post, until


class Running:
    """A server on a free port and two sockets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = StillEngine()
        self.shutdown, self.ready = asyncio.Event(), asyncio.Event()
        tcp, _ = bind_tcp("127.0.0.1:0", explicit=True)
        self.port = tcp.getsockname()[1]
        listeners = [
            Listener(tcp), Listener(bind_unix(folder / "http")), Listener(bind_unix(folder / "lines"), lines=True),
        ]  # fmt: skip
        server = Server(self.engine, Metrics(), Log(io.BytesIO()), folder)  # type: ignore[arg-type]  # a stand-in with what is asked of it
        self.task = asyncio.create_task(server.run(listeners, self.shutdown, self.ready.set))
        self.peers: list[Peer] = []

    async def http(self) -> Peer:
        self.peers.append(Peer(*await asyncio.open_unix_connection(str(self.folder / "http"))))
        return self.peers[-1]

    async def lines(self) -> Peer:
        self.peers.append(Peer(*await asyncio.open_unix_connection(str(self.folder / "lines"))))
        return self.peers[-1]

    async def stop(self) -> None:
        self.shutdown.set()
        await asyncio.wait_for(self.task, WITHIN_S)


@pytest.fixture
async def running(folder: Path) -> AsyncIterator[Running]:
    served = Running(folder)
    await served.ready.wait()
    yield served
    await served.stop()
    for peer in served.peers:
        peer.hang_up()


async def test_a_stop_answers_whoever_waits_and_closes(running: Running) -> None:
    claim, line, idle = await running.http(), await running.lines(), await running.http()
    claim.send(post(CLAIM))
    line.send(CLAIM + b"\n")
    idle.send(get("/healthz"))
    assert (await idle.reply())[0] == 200
    await until(lambda: len(running.engine.units) == 2)
    await running.stop()
    assert running.engine.stopped
    status, headers = await claim.head()
    assert (status, headers["connection"]) == (200, "close")
    assert b'"claims":[]' in await claim.rest()
    assert (await line.line())["result"] == {"claims": []}
    assert [await line.rest(), await idle.rest()] == [b"", b""]


async def test_after_a_stop_nobody_listens(running: Running) -> None:
    await running.stop()
    for place in (running.folder / "http", running.folder / "lines"):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_unix_connection(str(place))
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", running.port)


async def test_readiness_ends_with_the_stop_and_liveness_does_not(running: Running) -> None:
    peer = await running.http()
    peer.send(get("/readyz"))
    assert await peer.reply() == (200, {"ready": True, "epoch": 1, "seq": 0})
    running.shutdown.set()
    late = await running.http()  # what came before the stop is taken in
    late.send(get("/healthz"))
    assert (await late.reply())[0] == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else to knock")
async def test_a_stranger_is_not_heard(running: Running) -> None:
    running.folder.chmod(0o755)
    (running.folder / "http").chmod(0o666)

    def knock() -> bytes:
        """As another user, in a child process: the answer, or why there is none."""
        code = (
            "import os,socket,sys;os.setuid(65534);s=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1]);"
            "s.sendall(sys.argv[2].encode());print(s.recv(100))"
        )
        import subprocess
        import sys

        request = post(READ).decode()
        child = [sys.executable, "-c", code, str(running.folder / "http"), request]
        return subprocess.run(child, capture_output=True, timeout=WITHIN_S, check=False).stdout

    assert b"HTTP" not in await asyncio.to_thread(knock)
    assert running.engine.units == []


def test_the_peer_of_a_socket_pair_is_ours() -> None:
    one, two = socket.socketpair()
    with one, two:
        assert peers.peer_uid(one) == os.geteuid()
    with socket.socket() as tcp:
        assert peers.peer_uid(tcp) != os.geteuid() or not peers.LINUX


def test_the_boot_clock_runs_no_slower_than_the_waking_one() -> None:
    asleep_ms = peers.boot_ms() - peers.awake_ms()
    assert asleep_ms >= -1
    assert peers.boot_id() == peers.boot_id() != ""
