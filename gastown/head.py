"""The head of an HTTP request: what its bytes alone decide.

Law: pure. `read` looks at the bytes of one head and at the names a listener answers to, nothing else, so equal bytes
get an equal judgement for ever, and a judged head may be kept and found again by its bytes. Credentials, places and
sizes that depend on who asks are the door's business. llhttp (httptools) parses, strictly; what it lets pass is refused
here.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import httptools

from gastown.model import IMPORT_BYTES_MAX

HEAD_BYTES_MAX: Final = 16 << 10  # request line and headers; a browser with cookies sends some 2 KiB
HEADER_LINES_MAX: Final = 64  # browsers send about 20
FORM_BYTES_MAX: Final = 16 << 10  # a login code
END: Final = b"\r\n\r\n"
CHUNKED: Final = -1  # Head.length of a body that tells its size as it comes

# Headers that mean nothing good when they come twice.
SINGLE: Final = frozenset(
    (
        b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"authorization",
        b"origin", b"sec-fetch-site", b"expect", b"last-event-id",
    )
)  # fmt: skip
TOKEN_KEYS: Final = frozenset(("token", "access_token"))  # a credential in a URL ends up in logs and histories
LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")
_VERB: Final = re.compile(rb"[A-Z][A-Z-]{0,19} /[!-~]* HTTP/1\.[01]\r\n")


class Route(NamedTuple):
    """One address: its only verb, and the scope it needs (None: no credential)."""

    verb: str
    scope: str | None


ROUTES: Final[dict[str, Route]] = {
    "/rpc": Route("POST", "read"),  # each method has a scope of its own
    "/events": Route("GET", "read"),
    "/healthz": Route("GET", None),
    "/readyz": Route("GET", "read"),
    "/metrics": Route("GET", "read"),
    "/openrpc.json": Route("GET", "read"),
    "/export.jsonl": Route("GET", "read"),
    "/import.jsonl": Route("POST", "admin"),
    "/": Route("GET", None),
    "/login": Route("POST", None),
}


class Fault(NamedTuple):
    """Why a request is turned away before anybody decided on it. With a `kind` the reply is a JSON-RPC error."""

    status: int
    why: str  # one word or two for the log, and the reply's text
    kind: str = ""
    retry_after_s: int = 0
    allow: str = ""
    limit: str = ""  # of kind "limit": which, and how much
    limit_max: int = 0
    needs: str = ""  # of kind "forbidden": the scope


class Head(NamedTuple):
    """A judged head. With a `fault` only `verb` and the fault mean anything."""

    verb: str
    path: str
    query: bytes
    length: int  # bytes of the body, or CHUNKED
    authorization: bytes | None
    keep_alive: bool
    expects: bool  # the client waits for 100 Continue
    headers: tuple[tuple[bytes, bytes], ...]  # names in lower case
    route: Route | None  # None: no such address
    fault: Fault | None = None


class Names:
    """Who a listener is: the Hosts and Origins that are its own.

    On TCP: localhost, 127.0.0.1, [::1] and the bound address, with the bound port or none. On the unix socket no
    browser can come along, so a name without dots and any loopback name pass (`http://town/rpc`), and every Origin is
    foreign.
    """

    def __init__(self, host: str | None = None, port: int = 0) -> None:
        self.unix = host is None
        hosts = {*LOOPBACK_NAMES, *([f"[{host}]" if ":" in host else host] if host else [])}
        self.hosts = frozenset(name.encode() for name in hosts) | frozenset(f"{name}:{port}".encode() for name in hosts)
        self.origins = frozenset(f"http://{name}:{port}".encode() for name in hosts) if host else frozenset()
        self.heads: dict[bytes, Head] = {}  # judged heads of /rpc by their bytes

    def own(self, host: bytes) -> bool:
        host = host.lower()
        if not self.unix:
            return host in self.hosts
        name = re.sub(rb":[0-9]{1,5}\Z", b"", host)
        return name in self.hosts or bool(re.fullmatch(rb"[a-z0-9_-]+", name))


class _Reader:
    """What llhttp hears."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.complete = True


def beginning(raw: bytes) -> Fault | None:
    """The fault that can already be seen in the unfinished head `raw`, if any."""
    if len(raw) > HEAD_BYTES_MAX:
        return Fault(431, "head too long")
    if raw.count(b"\n") > HEADER_LINES_MAX + 1:
        return Fault(431, "too many headers")
    if raw.startswith(b"\n"):
        return Fault(400, "bad framing")  # llhttp forgives it
    try:
        httptools.HttpRequestParser(_Reader()).feed_data(raw)
    except httptools.HttpParserError as error:
        return _misframed(raw, error)
    return None


def read(raw: bytes, names: Names) -> Head:
    """The judgement on one whole head, its final empty line included."""
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    if len(raw) > HEAD_BYTES_MAX:
        return _turned_away("", Fault(431, "head too long"))
    if raw.startswith(b"\n"):
        return _turned_away("", Fault(400, "bad framing"))
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # the wish is ignored, as HTTP allows; CONNECT fails below by its target
    except httptools.HttpParserError as error:
        return _turned_away("", _misframed(raw, error))
    if not reader.complete:
        return _turned_away("", Fault(400, "bad framing"))
    if len(reader.headers) > HEADER_LINES_MAX:
        return _turned_away("", Fault(431, "too many headers"))
    verb = parser.get_method().decode("ascii")
    return _judge(verb, parser.get_http_version(), reader, names)


def _misframed(raw: bytes, error: Exception) -> Fault:
    if isinstance(error, httptools.HttpParserInvalidMethodError) and _VERB.match(raw):
        return Fault(405, "unknown verb", allow="GET, POST")
    if "Content-Length overflow" in str(error):
        return _too_large(IMPORT_BYTES_MAX)
    return Fault(400, "bad framing")


def _too_large(limit: int) -> Fault:
    return Fault(413, "body too large", kind="limit", limit="body", limit_max=limit)


def _turned_away(verb: str, fault: Fault) -> Head:
    return Head(verb, "", b"", 0, None, False, False, (), None, fault)


def _judge(verb: str, version: str, reader: _Reader, names: Names) -> Head:
    headers = dict(reader.headers)
    path, query, fault = _target(reader.target, headers.get(b"host", b""))
    route = ROUTES.get(path)
    fault = (
        _framing(version, reader.headers, headers)
        or fault
        or _stranger(headers, names)
        or _address(verb, route, query)
        or _content(path, headers)
        or _size(verb, path, headers)
    )
    if fault is not None:
        return _turned_away(verb, fault)
    return Head(
        verb,
        path,
        query,
        CHUNKED if b"transfer-encoding" in headers else int(headers.get(b"content-length", b"0")),
        headers.get(b"authorization"),
        _keeps_alive(version, reader.headers),
        b"expect" in headers,
        tuple(reader.headers),
        route,
    )


def _keeps_alive(version: str, pairs: list[tuple[bytes, bytes]]) -> bool:
    said = b",".join(value for name, value in pairs if name == b"connection").lower()
    wishes = {part.strip() for part in said.split(b",")}
    return b"close" not in wishes and (version == "1.1" or b"keep-alive" in wishes)


def _framing(version: str, pairs: list[tuple[bytes, bytes]], headers: dict[bytes, bytes]) -> Fault | None:
    if version not in ("1.1", "1.0"):
        return Fault(400, "unknown version")
    if len(pairs) != len(headers) and any(sum(name == one for name, _ in pairs) > 1 for one in SINGLE):
        return Fault(400, "duplicate header")
    if not headers.get(b"host"):
        return Fault(400, "no host")
    coding = headers.get(b"transfer-encoding")
    if coding is not None and (version == "1.0" or coding.lower() != b"chunked" or b"content-length" in headers):
        return Fault(400, "bad transfer-encoding")
    length = headers.get(b"content-length")
    if length is not None and not re.fullmatch(rb"[0-9]+", length):
        return Fault(400, "bad content-length")
    return None


def _target(target: bytes, host: bytes) -> tuple[str, bytes, Fault | None]:
    """Path and query of the request target; the absolute form only when it names the Host."""
    if target[:7].lower() == b"http://":
        authority, slash, rest = target[7:].partition(b"/")
        if authority.lower() != host.lower():
            return "", b"", Fault(400, "two hosts")
        target = b"/" + rest if slash else b"/"
    if not target.startswith(b"/") or b"#" in target:
        return "", b"", Fault(400, "bad target")
    path, _, query = target.partition(b"?")
    return path.decode("latin-1"), query, None


def _stranger(headers: dict[bytes, bytes], names: Names) -> Fault | None:
    """DNS rebinding and requests other sites make a browser send."""
    if not names.own(headers[b"host"]):
        return Fault(421, "foreign host")
    origin = headers.get(b"origin")
    if origin is not None and origin.lower() not in names.origins:
        return Fault(403, "foreign origin")
    if headers.get(b"sec-fetch-site", b"none").lower() not in (b"none", b"same-origin"):
        return Fault(403, "cross-site fetch")
    return None


def _address(verb: str, route: Route | None, query: bytes) -> Fault | None:
    if query and any(key.lower() in TOKEN_KEYS for key, _ in parse_qsl(query.decode("latin-1"), True)):
        return Fault(400, "token in the URL")
    if route is not None and verb != route.verb:
        return Fault(405, "wrong verb", allow=route.verb)
    return None


def _content(path: str, headers: dict[bytes, bytes]) -> Fault | None:
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return Fault(415, "compressed body")
    if path == "/rpc" and not _is_json(headers.get(b"content-type", b"")):
        return Fault(415, "not application/json")
    if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
        return Fault(417, "unknown expectation")
    return None


def _is_json(value: bytes) -> bool:
    """application/json, with nothing but charset=utf-8 beside it."""
    kind, _, parameters = value.lower().partition(b";")
    if kind.strip() != b"application/json":
        return False
    given = [part.strip().replace(b'"', b"") for part in parameters.split(b";") if part.strip()]
    return all(part in (b"charset=utf-8", b"charset=utf8") for part in given)


def _size(verb: str, path: str, headers: dict[bytes, bytes]) -> Fault | None:
    length = headers.get(b"content-length", b"0")
    if verb != "POST":
        return Fault(400, "unexpected body") if int(length) or b"transfer-encoding" in headers else None
    if path == "/rpc" and int(length) > IMPORT_BYTES_MAX:
        return _too_large(IMPORT_BYTES_MAX)
    if path not in ("/rpc", "/import.jsonl") and (int(length) > FORM_BYTES_MAX or b"transfer-encoding" in headers):
        return _too_large(FORM_BYTES_MAX)
    return None
