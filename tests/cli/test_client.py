"""The client against a small town that says what the test wrote: framing, retries, refusals."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gastown.client import READS, Client, Lease, RpcError, Unreachable, find
from gastown.methods import METHODS

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Call = dict[str, Any]
Answer = Callable[[Call], bytes | None]  # None: hang up without a word


class Cut(bytes):
    """What is sent before the town hangs up."""


def http(body: bytes, status: str = "200 OK", head: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


def ok(call: Call, **result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}).encode()


def refusal(call: Call, code: int, kind: str, **data: Any) -> bytes:
    error = {"code": code, "message": kind, "data": {"kind": kind, "retryable": False, **data}}
    return json.dumps({"jsonrpc": "2.0", "id": call["id"], "error": error}).encode()


class Script:
    """A listener that answers the n-th request with the n-th answer and keeps what it was asked."""

    def __init__(self, path: Path, lines: bool = False) -> None:
        self.path, self.lines = path, lines
        self.answers: list[Answer] = []
        self.calls: list[Call] = []
        self.heads: list[bytes] = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)

    def __call__(self, *answers: Answer) -> "Script":
        self.answers += answers
        self.thread.start()
        return self

    def serve(self) -> None:
        while self.answers:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                while self.answers and self.one(connection, stream):
                    pass

    def one(self, connection: socket.socket, stream: Any) -> bool:
        body = self.read(stream)
        if body is None:
            return False
        self.calls.append(json.loads(body) if body.startswith(b'{"jsonrpc"') else {"id": None})
        answer = self.answers.pop(0)(self.calls[-1])
        if answer is not None:
            connection.sendall(answer + (b"\n" if self.lines else b""))
        return answer is not None and not isinstance(answer, Cut)

    def read(self, stream: Any) -> bytes | None:
        if self.lines:
            return stream.readline() or None
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return None
            head += line
        self.heads.append(head)
        sizes = [int(row.split(b":")[1]) for row in head.split(b"\r\n") if row.lower().startswith(b"content-length")]
        return stream.read(sizes[0]) if sizes else b""

    def open(self, **more: Any) -> Client:
        return Client.open(f"unix:{self.path}", lines=self.lines, **more)

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    made = Script(tmp_path / "s")
    yield made
    made.close()


def result(**values: Any) -> Answer:
    return lambda call: http(ok(call, **values))


def refuse(code: int, kind: str, **data: Any) -> Answer:
    return lambda call: http(refusal(call, code, kind, **data))


def test_the_client_knows_which_methods_only_read() -> None:
    assert {name for name, method in METHODS.items() if not method.mutates} == READS


def test_a_call_and_its_result(script: Script) -> None:
    with script(result(beads=[{"id": "a"}], seq=1)).open(token="secret") as town:
        assert town.create({"title": "t"}) == [{"id": "a"}]
    (call,) = script.calls
    assert (call["jsonrpc"], call["method"]) == ("2.0", "bead.create")
    assert call["params"]["beads"] == [{"title": "t"}]
    assert len(call["params"]["request_id"]) == 32
    assert b"Authorization: Bearer secret\r\n" in script.heads[0]
    assert b"Host: localhost\r\n" in script.heads[0]


def test_a_read_carries_no_request_id_and_none_is_left_out(script: Script) -> None:
    with script(result(beads=[])).open() as town:
        town.ready(limit=5)
    assert script.calls[0]["params"] == {"limit": 5}


def test_a_reply_in_chunks_and_after_a_100(script: Script) -> None:
    def chunked(call: Call) -> bytes:
        body = ok(call, pid=7)
        parts = b"".join(b"%x;note=1\r\n%b\r\n" % (len(part), part) for part in (body[:3], body[3:]))
        return (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
        )

    with script(chunked, result(pid=8)).open() as town:
        assert town.info()["pid"] == 7
        assert town.info()["pid"] == 8, "the connection is kept"


def test_a_lost_reply_is_asked_for_again_with_the_same_request_id(script: Script) -> None:
    answers: list[Answer] = [lambda _: None, lambda call: Cut(http(ok(call, beads=[]))[:-5])]
    with script(*answers, result(beads=[{"id": "a"}])).open() as town:
        assert town.create({"title": "t"}) == [{"id": "a"}]
    assert len(script.calls) == 3
    assert len({call["params"]["request_id"] for call in script.calls}) == 1


def test_a_refusal_that_passes_is_asked_again_and_others_are_not(script: Script) -> None:
    busy = refuse(1006, "backpressure", retryable=True, retry_after_ms=1)
    with script(busy, refuse(1002, "not_found", what="bead", id="a")).open() as town, pytest.raises(RpcError) as told:
        town.get("a")
    assert (told.value.code, told.value.kind, told.value.data["id"]) == (1002, "not_found", "a")
    assert len(script.calls) == 2


def test_patience_ends(script: Script) -> None:
    with script(*[lambda _: None] * 50).open(patience_s=0.2) as town, pytest.raises(Unreachable):
        town.info()
    assert 2 <= len(script.calls) < 50


def test_a_refusal_by_status_keeps_its_kind(script: Script) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {
        "code": 1401, "message": "no", "data": {"kind": "unauthenticated", "retryable": False}}}).encode()  # fmt: skip
    with script(lambda _: http(body, "401 Unauthorized")).open() as town, pytest.raises(RpcError) as told:
        town.info()
    assert told.value.kind == "unauthenticated"


def test_a_reply_that_is_no_json_is_its_status(script: Script) -> None:
    with script(lambda _: http(b"<html>", "405 Method Not Allowed")).open() as town, pytest.raises(RpcError) as told:
        town.info()
    assert (told.value.code, told.value.kind) == (-405, "http")


def test_a_reply_that_is_no_http(script: Script) -> None:
    with script(lambda _: b"SSH-2.0\r\n\r\n").open(patience_s=0.0) as town, pytest.raises(Unreachable):
        town.info()


def test_an_export_that_is_cut_is_no_export(script: Script, tmp_path: Path) -> None:
    script(lambda _: Cut(CHUNKED + b"3\r\n{}\n\r\n"))
    with script.open() as town, (tmp_path / "out").open("wb") as out, pytest.raises(Unreachable):
        town.export_to(out)


def test_an_import_sends_the_file_and_its_parameters(script: Script, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"{}" * 100_000)
    told = {"created": 1, "updated": 0, "unchanged": 0, "skipped": []}
    with script(result(**told)).open() as town, (tmp_path / "in.jsonl").open("rb") as file:
        assert town.import_from(file, dry_run=True)._asdict() == told
    assert script.heads[0].startswith(b"POST /import.jsonl?mode=merge&dry_run=true&skip_bad=false HTTP/1.1\r\n")
    assert b"Content-Length: 200000\r\n" in script.heads[0]


def test_the_line_socket(tmp_path: Path) -> None:
    script = Script(tmp_path / "lines.sock", lines=True)
    answers: list[Answer] = [lambda call: ok(call, pid=7), lambda _: None, lambda call: ok(call, pid=8)]
    with script(*answers).open() as town:
        assert town.info()["pid"] == 7
        assert town.info()["pid"] == 8
    script.close()


GRANT = {"bead": {"id": "a", "title": "t"}, "context": {"previous": []},
         "lease": {"bead_id": "a", "worker_id": "w", "token": 5, "attempt": 1, "expires_at_ms": 9}}  # fmt: skip


def test_claims_register_again_when_the_town_forgot_the_worker(script: Script) -> None:
    fresh = {"worker_id": "w-2", "heartbeat_every_ms": 1, "lease_ttl_ms": 5, "leases": []}
    answers = [
        result(**fresh),
        refuse(1008, "worker_unknown"),
        result(**fresh | {"worker_id": "w-3"}),
        result(claims=[GRANT]),
    ]
    with script(*answers, result(claims=[])).open() as town:
        town.register("agent")
        (grant,) = town.claims(wait_ms=0)
    assert grant.lease == Lease("a", "w", 5, 1, 9)
    assert [call["params"].get("worker_id") for call in script.calls] == [None, "w-2", None, "w-3", "w-3"]


def test_a_plain_beat_needs_no_request_id_and_a_checkpoint_does(script: Script) -> None:
    beaten = {"leases": [], "lost": [], "directives": []}
    with script(result(**beaten), result(**beaten)).open() as town:
        town.beat(Lease("a", "w", 5, 1, 9))
        town.beat(Lease("a", "w", 5, 1, 9), checkpoint={"step": 1})
    assert ["request_id" in call["params"] for call in script.calls] == [False, True]
    assert script.calls[1]["params"]["leases"] == [{"bead_id": "a", "token": 5, "checkpoint": {"step": 1}}]


def test_pages_are_walked_to_the_end(script: Script) -> None:
    pages = [result(beads=[{"id": "a"}], next_cursor="c"), result(beads=[{"id": "b"}], next_cursor=None)]
    with script(*pages).open() as town:
        assert [bead["id"] for bead in town.beads({"status": ["open"]})] == ["a", "b"]
    assert script.calls[1]["params"]["cursor"] == "c"


def test_where_a_town_is(tmp_path: Path) -> None:
    state = tmp_path / ".gastown"
    state.mkdir()
    with pytest.raises(Unreachable, match="no daemon runs"):
        find(tmp_path)
    (state / "daemon.json").write_text('{"socket": "/run/x/gastown.sock"}')
    assert find(tmp_path) == find(state)
    assert find(str(tmp_path)).path == "/run/x/gastown.sock"
    assert find(tmp_path, lines=True).path == "/run/x/lines.sock"
    remote = find("http://[::1]:7000", token="t")
    assert (remote.host, remote.port, remote.token) == ("::1", 7000, "t")
    (state / "daemon.json").write_text("{")
    with pytest.raises(Unreachable, match="cannot be read"):
        find(tmp_path)


def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        Client.open(f"unix:{tmp_path / 'nothing'}")
