"""Heads: the verdict on bytes, the same however they come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gastown.head import CHUNKED, HEADER_LINES_MAX, ROUTES, Names, beginning, read

TCP = Names("127.0.0.1", 7717)
UNIX = Names()
HOST = "Host: localhost:7717"
JSON = "Content-Type: application/json"


def head(first: str, *rows: str) -> bytes:
    return "\r\n".join([first, *rows, "", ""]).encode("latin-1")


def rpc(*rows: str) -> bytes:
    return head("POST /rpc HTTP/1.1", HOST, JSON, *rows)


def status(raw: bytes, names: Names = TCP) -> int:
    fault = read(raw, names).fault
    return fault.status if fault else 200


def test_a_plain_call() -> None:
    found = read(rpc("Content-Length: 12", "Authorization: Bearer x"), TCP)
    assert found.fault is None
    assert (found.verb, found.path, found.length, found.authorization) == ("POST", "/rpc", 12, b"Bearer x")
    assert (found.keep_alive, found.expects, found.route) == (True, False, ROUTES["/rpc"])


@pytest.mark.parametrize(
    ("row", "length", "keep_alive", "expects"),
    [
        ("Transfer-Encoding: chunked", CHUNKED, True, False),
        ("Connection: close", 0, False, False),
        ("Expect: 100-continue", 0, True, True),
        ("Connection: upgrade\r\nUpgrade: h2c", 0, True, False),
    ],
)
def test_what_a_row_means(row: str, length: int, keep_alive: bool, expects: bool) -> None:
    found = read(rpc(row), TCP)
    assert (found.fault, found.length, found.keep_alive, found.expects) == (None, length, keep_alive, expects)


FAULTS: list[tuple[int, bytes]] = [
    (400, rpc("Content-Length: 1", "Content-Length: 1")),
    (400, rpc("Content-Length: 1", "Transfer-Encoding: chunked")),
    (400, rpc("Transfer-Encoding: identity")),
    (400, rpc("Transfer-Encoding: chunked, chunked")),
    (400, rpc("Content-Length: -1")),
    (400, rpc("Content-Length: 1 1")),
    (400, rpc("X: a\r\n b")),
    (400, rpc("X: a\nY: b")),
    (400, rpc("X : a")),
    (400, rpc(HOST)),
    (400, rpc("Authorization: a", "Authorization: b")),
    (400, rpc("Origin: http://localhost:7717", "Origin: http://localhost:7717")),
    (400, head("POST /rpc HTTP/1.1", JSON)),
    (400, head("POST /rpc HTTP/1.1", "Host:", JSON)),
    (400, head("POST /rpc HTTP/2.0", HOST, JSON)),
    (400, head("POST /rpc HTTP/1.0", HOST, JSON, "Transfer-Encoding: chunked")),
    (400, head("GET /healthz")),
    (400, head("GET http://evil.example/healthz HTTP/1.1", HOST)),
    (400, head("GET * HTTP/1.1", HOST)),
    (400, head("CONNECT localhost:7717 HTTP/1.1", HOST)),
    (400, head("GET /metrics?TOKEN=x HTTP/1.1", HOST)),
    (400, head("GET /metrics?a=1&access%5Ftoken=x HTTP/1.1", HOST)),
    (400, head("GET /metrics HTTP/1.1", HOST, "Content-Length: 1")),
    (403, rpc("Origin: null")),
    (403, rpc("Origin: http://localhost:3000")),
    (403, rpc("Origin: https://localhost:7717")),
    (403, rpc("Sec-Fetch-Site: cross-site")),
    (403, rpc("Sec-Fetch-Site: same-site")),
    (405, head("GET /rpc HTTP/1.1", HOST)),
    (405, head("HEAD /healthz HTTP/1.1", HOST)),
    (405, head("BREW /rpc HTTP/1.1", HOST)),
    (413, rpc("Content-Length: 67108865")),
    (413, rpc("Content-Length: 99999999999999999999999999")),
    (413, head("POST /login HTTP/1.1", HOST, "Content-Length: 16385")),
    (415, head("POST /rpc HTTP/1.1", HOST)),
    (415, head("POST /rpc HTTP/1.1", HOST, "Content-Type: application/json; charset=latin-1")),
    (415, rpc("Content-Encoding: gzip")),
    (417, rpc("Expect: tea")),
    (421, head("POST /rpc HTTP/1.1", "Host: evil.example", JSON)),
    (421, head("POST /rpc HTTP/1.1", "Host: localhost:7718", JSON)),
    (421, head("POST /rpc HTTP/1.1", "Host: 127.0.0.1.nip.io:7717", JSON)),
    (431, rpc(*[f"X-{n}: y" for n in range(HEADER_LINES_MAX)])),
    (431, rpc("X: " + "a" * 16_384)),
]


@pytest.mark.parametrize(("expected", "raw"), FAULTS)
def test_a_faulty_head(expected: int, raw: bytes) -> None:
    assert status(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        rpc("Origin: http://localhost:7717"),
        rpc("Origin: http://127.0.0.1:7717", "Sec-Fetch-Site: same-origin"),
        rpc("Sec-Fetch-Site: none", "Content-Encoding: identity"),
        head("GET http://localhost:7717/healthz HTTP/1.1", HOST),
        head("GET /healthz?why=liveness HTTP/1.1", "Host: LOCALHOST"),
        head("GET /healthz HTTP/1.1", "Host: [::1]:7717"),
        head("GET /nope HTTP/1.1", HOST),
        rpc(*[f"X-{n}: y" for n in range(HEADER_LINES_MAX - 2)]),
    ],
)
def test_a_sound_head(raw: bytes) -> None:
    assert status(raw) == 200


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost", True), ("town", True), ("localhost:80", True), ("[::1]", True), ("127.0.0.1:9", True),
     ("evil.example", False), ("10.0.0.1", False), ("a b", False)],
)  # fmt: skip
def test_hosts_of_the_unix_socket(host: str, own: bool) -> None:
    assert (status(head("GET /healthz HTTP/1.1", f"Host: {host}"), UNIX) == 200) is own


def test_every_origin_is_foreign_on_the_unix_socket() -> None:
    assert status(head("GET /healthz HTTP/1.1", "Host: localhost", "Origin: http://localhost"), UNIX) == 403


def test_a_sound_head_has_no_fault_at_any_of_its_beginnings() -> None:
    raw = rpc("Content-Length: 2")
    assert [beginning(raw[:size]) for size in range(1, len(raw))] == [None] * (len(raw) - 1)


@pytest.mark.parametrize("raw", [b"POST /rpc HTTP/1.1\nHost", b"\x16\x03\x01\x02", b'{"jsonrpc"', b"A" * 17_000, b"\n"])
def test_a_hopeless_beginning_is_not_waited_for(raw: bytes) -> None:
    assert beginning(raw) is not None


@given(st.binary(max_size=200))
def test_any_bytes_get_a_verdict(noise: bytes) -> None:
    raw = noise + b"\r\n\r\n"
    assert read(raw, TCP) == read(raw, TCP)
    assert status(raw) != 200, "200 bytes of chance are no request"
    beginning(noise)
