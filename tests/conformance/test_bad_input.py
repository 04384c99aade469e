"""Bad input: a clear error, nothing lost, one log line. One row for each thing a caller can get wrong at this door.

Timers and crowds are in test_transport, credentials in test_auth, process faults in test_process, JSON in test_jsonrpc.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil  # type: ignore[import-untyped]  # it ships no annotations
import pytest

from .door import INFO, JSON, ask, bearer, ended, error, head, healthy, knock, new_token, push, rpc, seq
from .town import Town, unique, until
from .wire import Reply, RpcError

HOST = "Host: localhost"
RSS_MAX = 256 << 20  # bytes a daemon may grow to under any input
FLOOD = 128 << 20  # bytes of one import line without an end
LEAKS = ["Traceback", 'File "', "SELECT ", "INSERT ", "sqlite", ".py", "/tmp", "gt-"]


def clean(text: str) -> None:
    """No stack, SQL or path in what a caller is told."""
    assert not [leak for leak in LEAKS if leak in text], text


# -- transport: the status says it -------------------------------------------------------------------------------------
class Row(NamedTuple):
    name: str
    status: int
    request: bytes


def unix_rows() -> Iterator[Row]:
    def post(name: str, status: int, *rows: str, body: bytes = INFO, path: str = "/rpc") -> Row:
        return Row(name, status, rpc(*rows, body=body, path=path))

    size = f"Content-Length: {len(INFO)}"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", ""):
        yield post(f"content type {kind!r}", 415, HOST, f"Content-Type: {kind}")
    yield post("no content type", 415, HOST)
    for coding in ("gzip", "zstd", "br", "deflate", "gzip, gzip"):
        yield post(f"encoding {coding}", 415, HOST, JSON, f"Content-Encoding: {coding}")
    for verb in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        yield Row(f"{verb} /rpc", 405, head(verb, "/rpc", HOST, JSON))
    for verb in ("POST", "PUT", "DELETE"):
        yield Row(f"{verb} /metrics", 405, head(verb, "/metrics", HOST, JSON, "Content-Length: 0"))
    for origin in ("https://evil.example", "null", "http://localhost.evil", "http://127.0.0.1:1", "file://"):
        yield post(f"origin {origin}", 403, HOST, JSON, f"Origin: {origin}")
    for verb in ("GET", "DELETE", "OPTIONS"):
        yield Row(f"{verb} of a foreign page", 403, head(verb, "/healthz", HOST, "Origin: https://evil.example"))
    yield post("a cross-site fetch", 403, HOST, JSON, "Sec-Fetch-Site: cross-site")
    yield post("token in the URL", 400, HOST, JSON, path="/rpc?token=abcdef")
    yield Row("token in the URL of metrics", 400, head("GET", "/metrics?token=abcdef", HOST))
    yield post("no host", 400, JSON)
    yield post("two hosts", 400, HOST, HOST, JSON)
    yield post("two hosts that differ", 400, HOST, "Host: evil.example", JSON)
    yield Row("two lengths", 400, head("POST", "/rpc", HOST, JSON, size, "Content-Length: 1") + INFO)
    yield Row("the same length twice", 400, head("POST", "/rpc", HOST, JSON, size, size) + INFO)
    yield Row("a list of lengths", 400, head("POST", "/rpc", HOST, JSON, f"{size}, {len(INFO)}") + INFO)
    for length in ("-1", "+5", "0x10", "1e3", "ten", "", "9" * 30):
        yield Row(f"length {length!r}", 400, head("POST", "/rpc", HOST, JSON, f"Content-Length: {length}") + INFO)
    chunked = "Transfer-Encoding: chunked"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(INFO), INFO)
    yield Row("length and chunks", 400, head("POST", "/rpc", HOST, JSON, size, chunked) + chunks)
    yield Row("chunks and length", 400, head("POST", "/rpc", HOST, JSON, chunked, size) + chunks)
    yield Row("chunked twice", 400, head("POST", "/rpc", HOST, JSON, chunked, chunked) + chunks)
    yield Row("chunks not last", 400, head("POST", "/rpc", HOST, JSON, "Transfer-Encoding: chunked, gzip") + chunks)
    yield Row("a chunk size that is none", 400, head("POST", "/rpc", HOST, JSON, chunked) + b"zz\r\n{}\r\n0\r\n\r\n")
    yield Row("a negative chunk", 400, head("POST", "/rpc", HOST, JSON, chunked) + b"-1\r\n{}\r\n0\r\n\r\n")
    yield Row("a huge chunk size", 400, head("POST", "/rpc", HOST, JSON, chunked) + b"f" * 17 + b"\r\n{}\r\n")
    yield Row("bare LF", 400, rpc(HOST, JSON, body=INFO).replace(b"\r\n", b"\n"))
    yield Row("one bare LF", 400, b"POST /rpc HTTP/1.1\r\n" + HOST.encode() + b"\n" + rpc(JSON, body=INFO)[20:])
    yield Row("bare CR", 400, rpc(HOST, "X: a\rb", JSON, body=INFO))
    yield Row("a folded header", 400, rpc(HOST, "X: a\r\n b", JSON, body=INFO))
    yield Row("space before the colon", 400, rpc("Host : localhost", JSON, body=INFO))
    yield Row("a header without a name", 400, rpc(HOST, ": x", JSON, body=INFO))
    yield Row("a header without a colon", 400, rpc(HOST, "x", JSON, body=INFO))
    yield Row("NUL in a header", 400, rpc(HOST, "X: a\0b", JSON, body=INFO))
    yield Row("HTTP/0.9", 400, b"GET /healthz\r\n\r\n")
    yield Row("a verb that is none", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    yield Row("JSON without HTTP", 400, INFO + b"\r\n\r\n")
    yield Row("a version that is none", 400, rpc(HOST, JSON, body=INFO).replace(b"HTTP/1.1", b"HTTP/x.y"))
    yield post("one huge header", 431, HOST, JSON, "X: " + "a" * (1 << 20))
    yield post("a flood of headers", 431, HOST, JSON, *[f"X-{n}: y" for n in range(10_000)])
    yield Row("a huge path", 431, head("GET", "/" + "a" * (1 << 20), HOST))


UNIX_ROWS = list(unix_rows())


@pytest.mark.parametrize("row", UNIX_ROWS, ids=[row.name for row in UNIX_ROWS])
def test_the_transport_refuses(plain_town: Town, row: Row) -> None:
    before = seq(plain_town)
    reply = knock(plain_town, row.request)
    allowed = {row.status} | ({400, 414} if row.name == "a huge path" else set())
    allowed |= {413} if row.name in ("length '" + "9" * 30 + "'", "a huge chunk size") else set()
    assert reply.status in allowed, reply
    assert not [name for name in reply.headers if name.startswith("access-control-")]
    clean(reply.body.decode())
    assert seq(plain_town) == before
    assert healthy(plain_town)


WELL_FRAMED = {"no host", "two hosts", "two hosts that differ", "token in the URL", "token in the URL of metrics"}
UNSURE = [row for row in UNIX_ROWS if row.status in (400, 431) and row.name not in WELL_FRAMED]


@pytest.mark.parametrize("row", UNSURE, ids=[row.name for row in UNSURE])
def test_after_bad_framing_nothing_more_is_read(plain_town: Town, row: Row) -> None:
    """What follows a request of unsure length might be a smuggled one: it must never be answered."""
    with plain_town.connect() as connection:
        push(connection, row.request + rpc(HOST, JSON, body=ask("system.info", {}, "smuggled")))
        assert connection.read_reply().status >= 400
        assert ended(connection)


def allow_names_post(reply: Reply) -> bool:
    return "POST" in reply.headers["allow"]


def test_405_names_what_is_allowed(plain_town: Town) -> None:
    assert allow_names_post(plain_town.raw(head("GET", "/rpc", HOST)))


FOREIGN = ["evil.example", "localhost.evil", "127.0.0.1.nip.io", "0.0.0.0", "10.0.0.1:7717", "evil.example:80", "[::2]"]


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("path", ["/rpc", "/healthz", "/metrics", "/events"])
def test_a_foreign_host_is_misdirected(plain_town: Town, host: str, path: str) -> None:
    """DNS rebinding: before the token is looked at, so with and without one."""
    for rows in ([], [bearer(plain_town.admin_token)]):
        request = rpc(f"Host: {host}", JSON, *rows, body=INFO) if path == "/rpc" else head(
            "GET", path, f"Host: {host}", *rows
        )  # fmt: skip
        assert plain_town.raw(request, tcp=True).status == 421


def test_an_absolute_target_is_a_host_too(plain_town: Town) -> None:
    rows = [f"Host: {plain_town.daemon['listen']}", JSON, bearer(plain_town.admin_token)]
    reply = plain_town.raw(rpc(*rows, body=INFO, path="http://evil.example/rpc"), tcp=True)
    assert reply.status in (400, 421)


@pytest.mark.parametrize(
    ("status", "rows"),
    [(415, ["Content-Type: text/plain"]), (403, [JSON, "Origin: https://evil.example"])],
)
def test_transport_comes_before_the_credential(plain_town: Town, status: int, rows: list[str]) -> None:
    request = rpc(f"Host: {plain_town.daemon['listen']}", *rows, body=INFO)
    assert plain_town.raw(request, tcp=True).status == status


# -- calls: the code says it -------------------------------------------------------------------------------------------
SQL = ["'; DROP TABLE bead; --", '" OR 1=1 --', "x' UNION SELECT * FROM token --", "%", "_", "\\", "\x00", "?1", ":id"]


@pytest.mark.parametrize("text", SQL)
def test_sql_is_only_text(plain_town: Town, text: str) -> None:
    fields: dict[str, Any] = {
        "title": text,
        "description": text,
        "external_ref": text,
        "notes": text,
        "metadata": {"k": text},
    }
    bead = plain_town.bead(**fields, issue_type="task")
    assert {name: plain_town.get(bead["id"])[name] for name in fields} == fields
    assert plain_town.refusal("bead.get", id=text).code in (1002, -32602)
    assert plain_town.refusal("bead.list", sort=text).code == -32602
    assert plain_town.refusal("bead.list", cursor=text).code == -32602
    assert plain_town.refusal("bead.create", beads=[{"title": "t", "id": text}]).code == -32602
    assert plain_town.call("bead.list", filter={"assignee": text})["beads"] == []
    assert plain_town.call("bead.list", filter={"labels_all": ["no" + text.replace("\x00", "")]})["beads"] == []
    plain_town.call("bead.comment", id=bead["id"], text=text)
    assert plain_town.get(bead["id"])["comments"][0]["text"] == text


BAD_NAMES = ["", "a\nb", "a\r\nb", "\x1b[31mred", "../up", "../../etc/passwd", "a/../b", "a\x00b", "a\tb", "..", "\x7f"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("method", ["worker.register", "token.create"])
def test_a_name_that_would_harm_a_terminal_or_a_folder(plain_town: Town, method: str, name: str) -> None:
    refused = plain_town.refusal(method, name=name, **({"scope": "read"} if method == "token.create" else {}))
    assert (refused.code, refused.data["field"]) == (-32602, "name")
    assert "\x1b" not in refused.message
    assert "\n" not in refused.message


def test_a_name_of_ten_kilobytes(plain_town: Town) -> None:
    refused = plain_town.refusal("worker.register", name="n" * 10_240)
    assert refused.code == 1012
    assert len(refused.message) < 1_000


@pytest.mark.parametrize("name", ["agent-7", "a", "user@host", "Crew.1_x"])
def test_names_people_use(plain_town: Town, name: str) -> None:
    assert plain_town.call("worker.register", name=name)["worker_id"]


BAD_TTLS: list[tuple[Any, int]] = [
    (0, -32602), (-1, -32602), (10**18, 1012), (1e18, -32602), ("10", -32602), (True, -32602), (None, -32602),
]  # fmt: skip


@pytest.mark.parametrize(("ttl_ms", "code"), BAD_TTLS)
def test_a_ttl_out_of_bounds(plain_town: Town, ttl_ms: Any, code: int) -> None:
    bead_id = plain_town.bead()["id"]
    claim = {"worker_id": plain_town.worker(), "ttl_ms": ttl_ms, "filter": {"bead_id": bead_id}}
    assert plain_town.refusal("work.claim", **claim).code == code
    assert plain_town.state_of(bead_id) == "ready"


def wrong_tokens(town: Town, stale: int) -> dict[str, tuple[Any, int]]:
    foreign = town.lease(town.worker())["token"]
    return {
        "stale": (stale, 1001), "foreign": (foreign, 1001), "future": (foreign + 1_000, 1001), "far": (2**63 - 1, 1001),
        "zero": (0, -32602), "negative": (-5, -32602), "beyond": (2**63, -32602), "text": ("1", -32602),
    }  # fmt: skip


SETTLES: list[tuple[str, dict[str, Any]]] = [
    ("work.complete", {}), ("work.fail", {"error": "e"}), ("work.release", {}), ("work.block", {"reason": "r"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "more"), SETTLES)
def test_a_token_that_is_not_the_latest_grants(plain_town: Town, method: str, more: dict[str, Any]) -> None:
    worker, bead_id = plain_town.worker(), plain_town.bead()["id"]
    stale = plain_town.lease(worker, bead_id)["token"]
    plain_town.call("work.release", bead_id=bead_id, token=stale)
    held = plain_town.lease(worker, bead_id)["token"]
    before = plain_town.get(bead_id)
    for name, (token, code) in wrong_tokens(plain_town, stale).items():
        refused = plain_town.refusal(method, bead_id=bead_id, token=token, **more)
        assert refused.code == code, name
        if code == 1001:
            assert refused.data["current_token"] == held, name
            assert (refused.data["token"], refused.data["action"]) == (token, "stop"), name
    assert plain_town.get(bead_id) == before
    assert plain_town.call("work.complete", bead_id=bead_id, token=held)["bead"]["status"] == "closed"


# -- imports -----------------------------------------------------------------------------------------------------------
def record(bead_id: str, **fields: Any) -> str:
    at = "2026-01-01T00:00:00Z"
    return json.dumps({"id": bead_id, "title": "t", "status": "open", "priority": 2, "created_at": at,
                       "updated_at": at, **fields})  # fmt: skip


def importing(town: Town, jsonl: str, **params: Any) -> Callable[[], RpcError]:
    return lambda: town.refusal("ledger.import", jsonl=jsonl, **params)


BAD_LINES = ["{", "7", '"x"', "[]", "null", "{}", '{"id":"a"} x', '{"id":"a","id":"b"}', '{"id":7,"title":"t"}', "\x00"]


@pytest.mark.parametrize("line", BAD_LINES)
def test_one_bad_line_refuses_the_whole_import(plain_town: Town, line: str) -> None:
    bead_id, before = unique("import"), seq(plain_town)
    refused = importing(plain_town, f"{record(bead_id)}\n{line}\n{record(unique('import'))}\n")()
    assert (refused.code, refused.data["line"]) == (-32602, 2)
    assert refused.data["why"]
    clean(refused.message + refused.data["why"])
    assert plain_town.refusal("bead.get", id=bead_id).code == 1002
    assert seq(plain_town) == before


def test_skip_bad_lists_what_it_passed_over(plain_town: Town) -> None:
    bead_id = unique("import")
    result = plain_town.call("ledger.import", jsonl=f"{{\n{record(bead_id)}\n", skip_bad=True)
    assert (result["created"], [skipped["line"] for skipped in result["skipped"]]) == (1, [1])
    assert "bad" in result["skipped"][0]["why"]


def test_an_older_file_never_overwrites_a_newer_bead(plain_town: Town) -> None:
    bead = plain_town.bead("fresh")
    result = plain_town.call("ledger.import", jsonl=record(bead["id"], title="stale"))
    assert [(skipped["id"], skipped["why"]) for skipped in result["skipped"]] == [(bead["id"], "stale")]
    assert plain_town.get(bead["id"])["title"] == "fresh"


def test_unknown_keys_are_kept(plain_town: Town) -> None:
    bead_id = unique("import")
    foreign = {"x_team": {"a": [1, 2.50, None]}, "zz": "é"}
    plain_town.call("ledger.import", jsonl=record(bead_id, **foreign))
    exported = plain_town.http("GET", "/export.jsonl").body.decode().splitlines()
    (line,) = [json.loads(line) for line in exported if f'"{bead_id}"' in line]
    assert {key: line[key] for key in foreign} == foreign


def test_replacing_asks_for_an_empty_ledger(plain_town: Town) -> None:
    plain_town.bead()
    assert importing(plain_town, record(unique("import")), mode="replace_empty")().code == 1003


def test_a_dry_run_changes_nothing(plain_town: Town) -> None:
    bead_id, before = unique("import"), seq(plain_town)
    assert plain_town.call("ledger.import", jsonl=record(bead_id), dry_run=True)["created"] == 1
    assert plain_town.refusal("bead.get", id=bead_id).code == 1002
    assert seq(plain_town) == before


def test_an_import_line_without_an_end(plain_town: Town) -> None:
    """Cut off at the length of a line, not held in memory until it ends."""
    before = seq(plain_town)
    with plain_town.connect() as connection:
        connection.send(head("POST", "/import.jsonl", HOST, f"Content-Length: {5 << 30}"))
        push(connection, record(unique("import")).encode() + b'\n{"id":"' + b"a" * FLOOD)
        reply = connection.read_reply()
    assert 400 <= reply.status < 500 or error(reply.json()).code in (1012, -32602)
    clean(reply.body.decode())
    assert psutil.Process(plain_town.daemon["pid"]).memory_info().rss < RSS_MAX
    assert seq(plain_town) == before
    assert healthy(plain_town)


def test_a_cut_import_changes_nothing(plain_town: Town) -> None:
    bead_id, before = unique("import"), seq(plain_town)
    with plain_town.connect() as connection:
        line = record(bead_id).encode() + b"\n"
        connection.send(head("POST", "/import.jsonl", HOST, f"Content-Length: {2 * len(line)}") + line)
    assert plain_town.refusal("bead.get", id=bead_id).code == 1002
    assert seq(plain_town) == before


# -- what is said and what is written down -----------------------------------------------------------------------------
def logs(town: Town) -> str:
    """All the daemon has written, wherever it writes."""
    kept = town.state / "daemon.log"
    return town.log.read_text() + (kept.read_text() if kept.exists() else "")


def refused_loudly(town: Town, marker: str) -> Iterator[str]:
    """The text of many refusals whose input carries `marker`."""
    for body in (
        b'{"' + marker.encode(), ask(marker, {}), ask("bead.get", {"id": marker}), ask("bead.get", {marker: 1}),
        ask("worker.register", {"name": f"{marker}\n"}), ask("bead.list", {"cursor": marker}),
        ask("work.complete", {"bead_id": marker, "token": 1, "result": {"summary": marker}}),
        ask("ledger.import", {"jsonl": '{"' + marker}), ask("bead.get", {"id": 7}, {"id": marker}),
    ):  # fmt: skip
        yield knock(town, rpc(HOST, JSON, body=body)).body.decode()
    yield knock(town, rpc(HOST, JSON, body=INFO, path=f"/rpc?token={marker}")).body.decode()
    rows = [f"Host: {town.daemon['listen']}", JSON, bearer(marker)]
    yield knock(town, rpc(*rows, body=INFO), tcp=True).body.decode()


def test_secrets_stay_out_of_logs_and_metrics(town: Town) -> None:
    marker = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
    before = len(logs(town))
    said = list(refused_loudly(town, marker))
    for text in said:
        clean(text)
    bead = town.bead(marker, description=marker, labels=["ghp-label"])
    token = town.lease(town.worker(), bead["id"])["token"]
    town.call("work.fail", bead_id=bead["id"], token=token, error=marker)
    until(lambda: len(logs(town)) > before)
    assert marker not in logs(town)
    assert town.admin_token not in logs(town)
    assert marker not in town.http("GET", "/metrics").body.decode()


def test_every_log_line_is_json(town: Town) -> None:
    before = len(logs(town))
    list(refused_loudly(town, "raw-input"))
    until(lambda: len(logs(town)) > before)
    assert all(isinstance(json.loads(line), dict) for line in logs(town).splitlines())


def test_a_flood_of_refusals_is_no_flood_of_lines(town: Town) -> None:
    """At most ten lines a second for one cause; the rest are counted."""
    list(refused_loudly(town, "warm"))
    before = len(logs(town).splitlines())
    with town.connect() as connection:
        connection.send(b"".join(rpc(HOST, JSON, body=b"{") for _ in range(2_000)))
        assert {error(connection.read_reply().json()).code for _ in range(2_000)} == {-32700}
    assert len(logs(town).splitlines()) - before < 500


def test_weaker_and_missing_credentials(plain_town: Town) -> None:
    body = ask("ledger.verify")
    listen = f"Host: {plain_town.daemon['listen']}"
    worker = new_token(plain_town, "worker")
    expected = [([], 401, 1401), ([bearer("wrong")], 401, 1401), ([bearer(worker)], 403, 1403)]
    for rows, status, code in expected:
        reply = plain_town.raw(rpc(listen, JSON, *rows, body=body), tcp=True)
        assert (reply.status, error(reply.json()).code) == (status, code)


def test_the_daemon_is_whole_after_all_this(plain_town: Town) -> None:
    assert plain_town.call("ledger.verify") == {"ok": True, "problems": []}
    assert Path(plain_town.daemon["socket"]).exists()
    assert psutil.Process(plain_town.daemon["pid"]).memory_info().rss < RSS_MAX
