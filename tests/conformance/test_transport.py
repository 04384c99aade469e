"""HTTP as it really comes: keep-alive, pipelines, pieces, slow peers, too many of them, and replies too big."""

import contextlib
import json
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .door import INFO, JSON, SPILL, ask, bearer, ended, error, head, healthy, knock, new_token, push, rpc
from .town import WITHIN_S, Town, until
from .wire import Connection, Reply, outcome

CREDENTIAL_MAX = 64  # connections of one TCP credential
CONNECTIONS_MAX = 4_096
SPARE_FDS = 512  # of this process, beside the crowd's
BODY_MAX = 1 << 20
REPLY_MAX = 4 << 20
DRIBBLE_S = 0.2  # between two bytes of a slow sender


def padded(size: int) -> bytes:
    """A valid call of exactly `size` bytes."""
    return INFO + b" " * (size - len(INFO))


# -- the three listeners -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gastown.sock", "lines.sock"])
def test_sockets_are_their_owners_alone(plain_town: Town, name: str) -> None:
    path = Path(plain_town.daemon["socket"]).with_name(name)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_admin_token_is_its_owners_alone(plain_town: Town) -> None:
    assert stat.S_IMODE((plain_town.state / "admin.token").stat().st_mode) == 0o600


def test_tcp_is_loopback(plain_town: Town) -> None:
    host, _, port = plain_town.daemon["listen"].rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


def hello(town: Town, tcp: bool) -> list[str]:
    rows = ["Host: " + (town.daemon["listen"] if tcp else "localhost"), JSON]
    return [*rows, bearer(town.admin_token)] if tcp else rows


@pytest.mark.parametrize("tcp", [False, True])
class TestKeepAlive:
    def test_a_connection_serves_many_requests_errors_between(self, plain_town: Town, tcp: bool) -> None:
        rows = hello(plain_town, tcp)
        with plain_town.connect(tcp) as connection:
            for body in [INFO, b"[]", INFO, b"not json", ask("no.such"), b'{"jsonrpc":"2.0","method":"x"}', INFO]:
                connection.send(rpc(*rows, body=body))
                reply = connection.read_reply()
                assert reply.status in (200, 204)
            assert outcome(reply)["pid"] == plain_town.daemon["pid"]

    def test_pipelined_requests_are_answered_in_order(self, plain_town: Town, tcp: bool) -> None:
        rows = hello(plain_town, tcp)
        with plain_town.connect(tcp) as connection:
            connection.send(b"".join(rpc(*rows, body=ask("system.info", {}, n)) for n in range(50)))
            assert [connection.read_reply().json()["id"] for _ in range(50)] == list(range(50))

    def test_a_pipelined_request_behind_a_waiting_claim_stays_in_order(self, plain_town: Town, tcp: bool) -> None:
        rows, worker = hello(plain_town, tcp), plain_town.worker()
        claim = ask("work.claim", {"worker_id": worker, "wait_ms": 1_000, "filter": {"bead_id": "no-such"}}, "waits")
        with plain_town.connect(tcp) as connection:
            connection.send(rpc(*rows, body=claim) + rpc(*rows, body=INFO))
            first, second = connection.read_reply(), connection.read_reply()
        assert first.json()["id"] == "waits"
        assert outcome(first)["claims"] == []
        assert second.json()["id"] == 1

    def test_a_request_may_come_byte_by_byte(self, plain_town: Town, tcp: bool) -> None:
        with plain_town.connect(tcp) as connection:
            for byte in rpc(*hello(plain_town, tcp), body=INFO):
                connection.send(bytes([byte]))
            assert connection.read_reply().status == 200

    def test_a_chunked_body_is_a_body(self, plain_town: Town, tcp: bool) -> None:
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (INFO[:7], INFO[7:20], INFO[20:]))
        request = head("POST", "/rpc", *hello(plain_town, tcp), "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n"
        assert outcome(plain_town.raw(request, tcp))["pid"]

    def test_connection_close_is_honoured(self, plain_town: Town, tcp: bool) -> None:
        with plain_town.connect(tcp) as connection:
            connection.send(rpc(*hello(plain_town, tcp), "Connection: close", body=INFO))
            assert connection.read_reply().status == 200
            assert ended(connection)

    def test_header_names_have_no_case(self, plain_town: Town, tcp: bool) -> None:
        rows = [row.split(":")[0].upper() + ":" + row.split(":", 1)[1] for row in hello(plain_town, tcp)]
        assert plain_town.raw(rpc(*rows, body=INFO), tcp).status == 200

    def test_a_body_of_exactly_one_mebibyte(self, plain_town: Town, tcp: bool) -> None:
        assert plain_town.raw(rpc(*hello(plain_town, tcp), body=padded(BODY_MAX)), tcp).status == 200


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_by_any_spelling(plain_town: Town, kind: str) -> None:
    assert plain_town.raw(rpc("Host: localhost", f"Content-Type: {kind}", body=INFO)).status == 200


def test_localhost_and_its_address_are_no_foreign_hosts(plain_town: Town) -> None:
    port = plain_town.daemon["listen"].rpartition(":")[2]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        rows = [f"Host: {host}", JSON, bearer(plain_town.admin_token)]
        assert plain_town.raw(rpc(*rows, body=INFO), tcp=True).status == 200


def test_the_daemons_own_origin_is_not_foreign(plain_town: Town) -> None:
    listen = plain_town.daemon["listen"]
    rows = [f"Host: {listen}", f"Origin: http://{listen}", JSON, bearer(plain_town.admin_token)]
    assert plain_town.raw(rpc(*rows, body=INFO), tcp=True).status == 200


# -- routes ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openrpc.json", "/export.jsonl"])
def test_routes_over_the_unix_socket(plain_town: Town, path: str) -> None:
    assert plain_town.http("GET", path).status == 200
    reply = plain_town.raw(head("DELETE", path, "Host: localhost"))
    assert reply.status == 405
    assert "GET" in reply.headers["allow"]


@pytest.mark.parametrize("path", ["/nope", "/rpc/", "/rpc/x", "//rpc", "/../rpc", "/%2e%2e/etc/passwd"])
def test_there_is_nothing_else(plain_town: Town, path: str) -> None:
    assert plain_town.http("GET", path).status == 404


# -- too big -----------------------------------------------------------------------------------------------------------
def test_a_long_body_is_refused_before_it_is_read(plain_town: Town) -> None:
    rows = [f"Host: {plain_town.daemon['listen']}", JSON, bearer(new_token(plain_town, "worker"))]
    with plain_town.connect(tcp=True) as connection:
        connection.send(head("POST", "/rpc", *rows, f"Content-Length: {BODY_MAX + 1}"))
        reply = connection.read_reply()
        assert reply.status == 413
        assert error(reply.json()).code == 1012
        assert reply.json()["id"] is None
        assert ended(connection)


def endless(connection: Connection, most: int) -> Reply:
    """The answer to a chunked body that goes on until `most` bytes."""
    chunk = b"%x\r\n%s\r\n" % (SPILL, b" " * SPILL)
    for _ in range(most // SPILL):
        if not push(connection, chunk):
            break
    return connection.read_reply()


@pytest.mark.parametrize(("scope", "most"), [("worker", 4 << 20), ("admin", 80 << 20)])
def test_endless_chunks_are_cut_off_at_the_limit(plain_town: Town, scope: str, most: int) -> None:
    """1 MiB for anybody, 64 MiB for an admin, who may be about to import."""
    token = new_token(plain_town, scope)
    with plain_town.connect(tcp=True) as connection:
        rows = [f"Host: {plain_town.daemon['listen']}", JSON, bearer(token)]
        connection.send(head("POST", "/rpc", *rows, "Transfer-Encoding: chunked"))
        reply = endless(connection, most)
    assert reply.status == 413
    assert error(reply.json()).code == 1012


def test_an_import_may_be_larger_and_nothing_else_may(plain_town: Town) -> None:
    bead = {"id": "big-1", "title": "t", "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}
    line = json.dumps({**bead, "status": "open", "priority": 2, "notes": "n" * (BODY_MAX // 2)})
    lines = "\n".join([line, line.replace("big-1", "big-2"), line.replace("big-1", "big-3")])
    assert plain_town.call("ledger.import", jsonl=lines)["created"] == 3
    reply = knock(plain_town, rpc("Host: localhost", JSON, body=padded(BODY_MAX + 1)))
    assert reply.status in (200, 413)
    assert error(reply.json()).code == 1012


def test_a_batch_is_no_way_around_the_body_limit(plain_town: Town) -> None:
    body = b"[" + ask("ledger.import", {"jsonl": " " * BODY_MAX}) + b"]"
    document = knock(plain_town, rpc("Host: localhost", JSON, body=body)).json()
    (entry,) = document if isinstance(document, list) else [document]
    assert error(entry).code in (1012, -32600)


def test_a_reply_stays_within_four_mebibytes(town: Town) -> None:
    """Pages stop early, an export names its route, a batch refuses the entries that would not fit."""
    for n in range(10):
        town.bead(id=f"fat-{n}", notes="n" * (BODY_MAX - 4_096))
    with town.connect() as connection:
        connection.send(rpc("Host: localhost", JSON, body=ask("bead.list", {"limit": 1_000})))
        page = connection.read_reply()
    assert len(page.body) <= REPLY_MAX
    assert outcome(page)["next_cursor"] is not None
    assert [bead["id"] for bead in town.walk("bead.list", limit=1_000)] == [f"fat-{n}" for n in range(10)]
    refused = town.refusal("ledger.export")
    assert refused.code == 1012
    assert "/export.jsonl" in refused.message + json.dumps(refused.data)
    assert len(town.http("GET", "/export.jsonl").body) > REPLY_MAX
    batch = town.post([json.loads(ask("bead.get", {"id": f"fat-{n}"}, n)) for n in range(10)])
    assert len(batch.body) <= REPLY_MAX
    entries = batch.json() if isinstance(batch.json(), list) else [batch.json()]
    assert {error(entry).code for entry in entries if "error" in entry} == {1012}


# -- too slow ----------------------------------------------------------------------------------------------------------
Feeder = Callable[[Connection, int], None]


def silence(_connection: Connection, _beat: int) -> None:
    """Says nothing more."""


def drip(data: bytes) -> Feeder:
    def feed(connection: Connection, beat: int) -> None:
        with contextlib.suppress(OSError):
            connection.send(data[(beat - 1) % len(data) :][:1])  # the first beat is 1

    return feed


def slow_peers(town: Town) -> Iterator[tuple[str, bool, bytes, Feeder, tuple[int, ...]]]:
    """Name, listener, first bytes, what follows, the answers allowed (0: closed without a word)."""
    for tcp in (False, True):
        body = head("POST", "/rpc", *hello(town, tcp), "Content-Length: 5000")
        chunk = head("POST", "/rpc", *hello(town, tcp), "Transfer-Encoding: chunked")
        yield "never a byte", tcp, b"", silence, (408, 0)
        yield "half a request line", tcp, b"POST /r", silence, (408,)
        yield "half a head", tcp, b"POST /rpc HTTP/1.1\r\nHost: ", silence, (408,)
        yield "a head that drips", tcp, b"POST /rpc HTTP/1.1\r\nX: ", drip(b"abcdefgh"), (408,)
        yield "no body", tcp, body, silence, (408,)
        yield "a body that drips", tcp, body + b"{", drip(b" "), (408,)
        yield "half a chunk", tcp, chunk + b"ff\r\n{", silence, (408,)
        yield "chunks that drip", tcp, chunk, drip(b"1\r\n \r\n"), (408,)


def test_dribble_and_silence_end_with_408(town: Town) -> None:
    """All of them at once, so that the ten seconds are waited for once; /healthz answers meanwhile."""
    peers = [(name, town.connect(tcp), first, feed, allowed) for name, tcp, first, feed, allowed in slow_peers(town)]
    for _, connection, first, _, _ in peers:
        connection.send(first)
    beat = 0

    def all_answered() -> bool:
        nonlocal beat
        beat += 1
        for _, connection, _, feed, _ in peers:
            if not connection.readable(0):
                feed(connection, beat)
        assert healthy(town)
        return peers[0][1].readable(DRIBBLE_S) and all(peer[1].readable(0) for peer in peers)

    until(all_answered)
    for name, connection, _, _, allowed in peers:
        status = 0
        with contextlib.suppress(EOFError, ConnectionError):
            status = connection.read_reply().status
        assert status in allowed, name
        assert ended(connection), name


# -- too many ----------------------------------------------------------------------------------------------------------
def crowd(town: Town, count: int, request: bytes) -> list[Connection]:
    """`count` TCP connections, each with one answered request behind it."""
    connections = [town.connect(tcp=True) for _ in range(count)]
    for connection in connections:
        connection.send(request)
    assert {connection.read_reply().status for connection in connections} == {200}
    return connections


def test_one_credential_has_64_connections(plain_town: Town) -> None:
    listen = f"Host: {plain_town.daemon['listen']}"
    request = rpc(listen, JSON, bearer(new_token(plain_town, "read")), body=INFO)
    other = rpc(listen, JSON, bearer(new_token(plain_town, "read")), body=INFO)
    connections = crowd(plain_town, CREDENTIAL_MAX, request)
    reply = plain_town.raw(request, tcp=True)
    assert reply.status == 503
    assert int(reply.headers["retry-after"]) >= 1
    assert plain_town.raw(other, tcp=True).status == 200
    assert plain_town.http("GET", "/healthz", token="").status == 200
    assert plain_town.raw(rpc("Host: localhost", JSON, body=INFO)).status == 200
    connections[0].close()
    until(lambda: plain_town.raw(request, tcp=True).status == 200)
    for connection in connections:
        connection.close()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for the crowd's file descriptors, in this process and in the daemon it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + SPARE_FDS
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"the system allows {hard} open files, {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_full_house_still_answers_healthz(coordinator: str) -> None:
    town = Town(coordinator)
    try:
        town.start()
        crowded = [town.connect() for _ in range(CONNECTIONS_MAX)]
        assert healthy(town)
        reply = town.raw(rpc("Host: localhost", JSON, body=INFO))
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) >= 1
        for connection in crowded:
            connection.close()
        until(lambda: town.raw(rpc("Host: localhost", JSON, body=INFO)).status == 200)
    finally:
        town.close()


def test_hundreds_of_half_open_and_reset_connections_leave_nothing_behind(plain_town: Town) -> None:
    for n in range(300):
        connection = plain_town.connect(tcp=n % 2 == 0)
        connection.send(b"POST /rpc HTTP/1.1\r\nContent-"[: n % 28])
        connection.close()
    assert healthy(plain_town)
    assert plain_town.call("system.info")["pid"] == plain_town.daemon["pid"]


def test_an_upgrade_is_never_made(plain_town: Town) -> None:
    for protocol in ("websocket", "h2c"):
        rows = ["Host: localhost", "Connection: Upgrade", f"Upgrade: {protocol}", "Sec-WebSocket-Version: 13"]
        assert plain_town.raw(head("GET", "/healthz", *rows), within_s=WITHIN_S).status in (200, 400, 403)
