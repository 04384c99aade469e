"""A small typed client of a town: what an agent, the command line and the demo speak with.

    with Client.open("path/to/repository") as town:
        town.register("agent-7")
        for grant in town.claims(wait_ms=30_000):
            ...
            town.complete(grant.lease, summary="done")

Law: one call at a time, and a call that was lost on the way is asked again until `patience_s` is over. That is safe,
because every mutating call carries a request_id, so a town that did it already answers as it did the first time. A
refusal is an RpcError, a town that cannot be reached is Unreachable; whether a call sent to it happened is unknown.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, NamedTuple, TypedDict

import orjson

from .channel import Address, Channel, Lost

STATE_FOLDER: Final = ".gastown"
DAEMON_FILE: Final = "daemon.json"
PATIENCE_S: Final = 10.0  # a crashed daemon that is started again serves within 3 s
REPLY_S: Final = 30.0  # for an answer, beside the call's own wait_ms; a slow disk may hold a commit that long
STREAM_S: Final = 120.0  # between two parts of an export, and for the commit of an import
PAUSE_S: Final = 0.05  # before the first retry; doubles
PAUSE_MAX_S: Final = 1.0  # a daemon that is back is noticed this soon
LIST_LIMIT: Final = 1000  # of a page, the most there is
WAIT_MS: Final = 30_000  # of one long poll in `claims`
TOKEN_PORT: Final = 7717

# Methods that take no request_id: they change nothing.
READS: Final = frozenset((
    "worker.list", "bead.get", "bead.list", "bead.ready", "bead.history", "ledger.export", "ledger.verify",
    "queue.stats", "scale.advice", "convoy.get", "convoy.list", "token.list", "system.info", "rpc.discover",
))  # fmt: skip
# Refusals that pass: busy, stopping, not the leader yet, too many calls, or a commit that failed.
PASSING: Final = frozenset((1006, 1007, 1009, 1429, -32603))

Filter = dict[str, Any]  # labels_all, labels_any, issue_types, rig, convoy, bead_id


class RpcError(Exception):
    """A call the town refused: JSON-RPC `code` (or minus the HTTP status), `kind` and `data` as the contract says."""

    def __init__(self, code: int, kind: str, message: str, data: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind
        self.message = message
        self.data = data

    @property
    def retryable(self) -> bool:
        return bool(self.data.get("retryable"))


class Unreachable(ConnectionError):
    """No town answers there. If a call was on its way, whether it was carried out is unknown."""


class Bead(TypedDict, total=False):
    """A bead's record; keys nobody here knows are kept as well."""

    id: str
    title: str
    status: str
    priority: int
    issue_type: str
    assignee: str
    description: str
    labels: list[str]
    dependencies: list[dict[str, Any]]
    comments: list[dict[str, Any]]
    created_at: str
    updated_at: str
    closed_at: str
    close_reason: str
    rig: str
    version: int
    attempt: int


class Lease(NamedTuple):
    """The right to work on a bead until `expires_at_ms` (Unix epoch); `token` is what settles it."""

    bead_id: str
    worker_id: str
    token: int
    attempt: int
    expires_at_ms: int


class Grant(NamedTuple):
    """One claim: the bead, its lease and earlier attempts, newest first."""

    bead: Bead
    lease: Lease
    previous: list[dict[str, Any]]


class Registration(NamedTuple):
    worker_id: str
    heartbeat_every_ms: int
    lease_ttl_ms: int
    leases: list[Lease]


class Beat(NamedTuple):
    """The answer to a heartbeat: what is still held, what is lost and why, and what the town asks for."""

    leases: list[Lease]
    lost: list[dict[str, Any]]
    directives: list[dict[str, Any]]


class Imported(NamedTuple):
    created: int
    updated: int
    unchanged: int
    skipped: list[dict[str, Any]]


def find(where: str | Path, token: str | None = None, lines: bool = False) -> Address:
    """The address of a town: its folder (or that folder's .gastown), unix:PATH, or http://HOST:PORT with a token.

    Raises Unreachable when the folder has no running daemon's daemon.json."""
    text = str(where)
    if text.startswith("http://"):
        from urllib.parse import urlsplit

        parts = urlsplit(text)
        return Address(host=parts.hostname or "127.0.0.1", port=parts.port or TOKEN_PORT, token=token)
    if text.startswith("unix:"):
        return Address(path=text.removeprefix("unix:"), token=token, lines=lines)
    folder = Path(where)
    folder = folder if folder.name == STATE_FOLDER else folder / STATE_FOLDER
    try:
        daemon = orjson.loads((folder / DAEMON_FILE).read_bytes())
        socket = Path(daemon["socket"])
    except FileNotFoundError:
        raise Unreachable(f"no daemon runs for {folder.parent}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreachable(f"{folder / DAEMON_FILE} cannot be read: {error}") from None
    return Address(path=str(socket.with_name("lines.sock") if lines else socket), token=token, lines=lines)


class Client:
    """A connection to one town. Every method may raise RpcError and Unreachable."""

    def __init__(self, locate: Callable[[], Address], patience_s: float = PATIENCE_S) -> None:
        self._locate = locate
        self._channel = Channel(locate())
        self._serial = 0
        self.patience_s = patience_s
        self.worker_id = ""
        self.name = ""
        self._labels: Sequence[str] = ()

    @classmethod
    def open(
        cls, where: str | Path, token: str | None = None, lines: bool = False, patience_s: float = PATIENCE_S
    ) -> Client:
        """Connects at once; Unreachable if nobody listens there now. `lines`: over the line socket, a little faster."""
        client = cls(lambda: find(where, token, lines), patience_s)
        try:
            client._channel.connect()
        except Lost as error:
            raise Unreachable(str(error)) from None
        return client

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # -- calling ----------------------------------------------------------------------------------------------------
    def call(self, method: str, /, **params: Any) -> dict[str, Any]:
        """The result of any method. A parameter that is None is left out; a mutating call gets a request_id."""
        params = {key: value for key, value in params.items() if value is not None}
        if method not in READS and not _repeatable(method, params):
            params.setdefault("request_id", os.urandom(16).hex())
        self._serial += 1
        body = orjson.dumps({"jsonrpc": "2.0", "id": self._serial, "method": method, "params": params})
        waits_ms = params.get("wait_ms") or (params.get("claim") or {}).get("wait_ms") or 0
        return self._ask(body, REPLY_S + waits_ms / 1000)

    def _ask(self, body: bytes, timeout_s: float) -> dict[str, Any]:
        gives_up = time.monotonic() + self.patience_s
        pause_s = PAUSE_S
        while True:
            try:
                return self._outcome(*self._channel.ask(body, timeout_s))
            except Lost as error:
                if time.monotonic() + pause_s > gives_up:
                    raise Unreachable(str(error)) from None
            except RpcError as error:
                pause_s = max(pause_s, error.data.get("retry_after_ms", 0) / 1000)
                if error.code not in PASSING and error.code != -503:
                    raise
                if time.monotonic() + pause_s > gives_up:
                    raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
            self._look_again()

    def _look_again(self) -> None:
        """A daemon that was started again may listen elsewhere."""
        try:
            address = self._locate()
        except Unreachable:
            return  # not there yet; the old place is as good as any
        if address != self._channel.address:
            self._channel.close()
            self._channel.address = address

    def _outcome(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            reply = orjson.loads(body)
            answer = reply.get("error") or reply["result"]
        except (ValueError, KeyError, AttributeError, TypeError):
            raise _http_error(status, body) from None
        if "error" not in reply and isinstance(answer, dict):
            return answer
        data = answer.get("data") or {}
        raise RpcError(answer.get("code", -status), data.get("kind", "internal"), answer.get("message", ""), data)

    # -- workers ----------------------------------------------------------------------------------------------------
    def register(self, name: str, labels: Sequence[str] = (), **more: Any) -> Registration:
        """Starts as a worker; the same name again takes over its leases. `more`: capacity, role, meta."""
        result = self.call("worker.register", name=name, labels=list(labels) or None, **more)
        self.name, self._labels, self.worker_id = name, labels, result["worker_id"]
        leases = [_lease(lease) for lease in result["leases"]]
        return Registration(result["worker_id"], result["heartbeat_every_ms"], result["lease_ttl_ms"], leases)

    def beat(self, *leases: Lease, **said: Any) -> Beat:
        """Renews these leases. `progress` and `checkpoint` are said of each."""
        rows = [{"bead_id": lease.bead_id, "token": lease.token, **said} for lease in leases]
        result = self.call("worker.heartbeat", worker_id=self.worker_id, leases=rows)
        return Beat([_lease(lease) for lease in result["leases"]], result["lost"], result["directives"])

    def deregister(self) -> None:
        """Leaves; what is held goes back to the queue, no budget spent."""
        self.call("worker.deregister", worker_id=self.worker_id)

    # -- work -------------------------------------------------------------------------------------------------------
    def claim(
        self, limit: int = 1, wait_ms: int = 0, filter: Filter | None = None, ttl_ms: int | None = None
    ) -> list[Grant]:
        """Up to `limit` beads; empty when none is ready within `wait_ms` (at most 45,000)."""
        return grants(self._claim(limit, wait_ms, filter, ttl_ms))

    def _claim(self, limit: int, wait_ms: int, filter: Filter | None, ttl_ms: int | None) -> dict[str, Any]:
        asked = {"worker_id": self.worker_id, "limit": limit, "wait_ms": wait_ms, "filter": filter, "ttl_ms": ttl_ms}
        return self.call("work.claim", **asked)

    def claims(
        self, wait_ms: int = WAIT_MS, filter: Filter | None = None, ttl_ms: int | None = None
    ) -> Iterator[Grant]:
        """Work for ever, one grant at a time; registers again when the town has forgotten this worker.

        With `wait_ms` 0 it ends when nothing is ready."""
        while True:
            asked_s = time.monotonic()
            try:
                result = self._claim(1, wait_ms, filter, ttl_ms)
            except RpcError as error:
                if error.kind != "worker_unknown" or not self.name:
                    raise
                self.register(self.name, self._labels)
                continue
            yield from grants(result)
            if result["claims"]:
                continue
            if not wait_ms:
                return
            if time.monotonic() - asked_s < wait_ms / 2000:  # it would not wait: paused, drained or stopping
                time.sleep(result.get("retry_after_ms", 1000) / 1000)

    def complete(
        self, lease: Lease, summary: str | None = None, no_change: str | None = None, **more: Any
    ) -> dict[str, Any]:
        """Closes the bead. `more`: merge={"branch", "commit"}, claim={params of work.claim}, usage={...}."""
        usage = more.pop("usage", None)
        result = None if summary is None else {"summary": summary} | ({"usage": usage} if usage else {})
        return self.call("work.complete", **_held(lease), result=result, no_change=no_change, **more)

    def fail(self, lease: Lease, error: str, retryable: bool = True) -> dict[str, Any]:
        """Gives up this attempt -> bead, and retry_at_ms or dead."""
        return self.call("work.fail", **_held(lease), error=error, retryable=retryable)

    def release(self, lease: Lease, reason: str | None = None) -> Bead:
        """Hands the bead back, no budget spent."""
        return _bead(self.call("work.release", **_held(lease), reason=reason))

    def block(self, lease: Lease, on: Sequence[str] | None = None, reason: str | None = None) -> Bead:
        """Ends the lease because the bead waits for others (`on`) or for a person (`reason`)."""
        return _bead(self.call("work.block", **_held(lease), on=list(on) if on else None, reason=reason))

    # -- beads ------------------------------------------------------------------------------------------------------
    def create(self, *beads: dict[str, Any]) -> list[Bead]:
        """New beads, all or none; each at least {"title": ...}."""
        created: list[Bead] = self.call("bead.create", beads=list(beads))["beads"]
        return created

    def get(self, bead_id: str) -> Bead:
        return _bead(self.call("bead.get", id=bead_id))

    def beads(self, filter: Filter | None = None, sort: str | None = None) -> Iterator[Bead]:
        """Every bead that passes, page by page."""
        cursor: str | None = None
        while True:
            page = self.call("bead.list", filter=filter, sort=sort, limit=LIST_LIMIT, cursor=cursor)
            yield from page["beads"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def ready(self, limit: int = 100, filter: Filter | None = None, sort: str | None = None) -> list[Bead]:
        """What a claim would hand out, in its order."""
        found: list[Bead] = self.call("bead.ready", limit=limit, filter=filter, sort=sort)["beads"]
        return found

    def history(self, bead_id: str) -> list[dict[str, Any]]:
        """The bead's events, oldest first."""
        events: list[dict[str, Any]] = self.call("bead.history", id=bead_id)["events"]
        return events

    def stats(self) -> dict[str, Any]:
        return self.call("queue.stats")

    def info(self) -> dict[str, Any]:
        return self.call("system.info")

    # -- whole ledgers ----------------------------------------------------------------------------------------------
    def fetch(self, path: str) -> bytes:
        """The body of a GET, such as /metrics or /readyz; RpcError unless the status is 200."""
        return b"".join(self._stream(path))

    def export_to(self, out: BinaryIO) -> int:
        """Writes the canonical JSONL and returns its bytes; Unreachable when it was cut short."""
        written = 0
        for part in self._stream("/export.jsonl"):
            out.write(part)
            written += len(part)
        return written

    def _stream(self, path: str) -> Iterator[bytes]:
        try:
            reply, parts = self._channel.request("GET", path, STREAM_S)
            if reply.status != 200:
                raise _http_error(reply.status, b"".join(parts))
            yield from parts
        except Lost as error:
            raise Unreachable(str(error)) from None

    def import_from(
        self, file: BinaryIO, mode: str = "merge", dry_run: bool = False, skip_bad: bool = False
    ) -> Imported:
        """Merges a JSONL file, all or nothing. Not asked again when it is lost: import it again, that changes nothing
        that is there already."""
        from urllib.parse import urlencode

        query = urlencode({"mode": mode, "dry_run": json.dumps(dry_run), "skip_bad": json.dumps(skip_bad)})
        try:
            reply, parts = self._channel.request("POST", f"/import.jsonl?{query}", STREAM_S, file)
            body = b"".join(parts)
        except Lost as error:
            raise Unreachable(str(error)) from None
        result = self._outcome(reply.status, body)
        return Imported(result["created"], result["updated"], result["unchanged"], result["skipped"])


def grants(result: dict[str, Any]) -> list[Grant]:
    """The claims of a result, of work.claim or of work.complete."""
    return [
        Grant(claim["bead"], _lease(claim["lease"]), claim["context"]["previous"]) for claim in result.get("claims", ())
    ]


def _lease(row: dict[str, Any]) -> Lease:
    return Lease(row["bead_id"], row["worker_id"], row["token"], row["attempt"], row["expires_at_ms"])


def _held(lease: Lease) -> dict[str, Any]:
    return {"bead_id": lease.bead_id, "token": lease.token}


def _bead(result: dict[str, Any]) -> Bead:
    bead: Bead = result["bead"]
    return bead


def _repeatable(method: str, params: dict[str, Any]) -> bool:
    """A plain beat twice is a beat: it needs no record of its own in the ledger."""
    return method == "worker.heartbeat" and not any("checkpoint" in lease for lease in params.get("leases", ()))


def _http_error(status: int, body: bytes) -> RpcError:
    """What a reply means that is no JSON-RPC result: its error if it carries one, else its status."""
    try:
        error = orjson.loads(body)["error"]
        data = error["data"]
        return RpcError(error["code"], data["kind"], error["message"], data)
    except (ValueError, KeyError, TypeError):
        text = body[:200].decode("utf-8", "replace").strip()
        return RpcError(-status, "http", f"HTTP {status} {text}".strip(), {"retryable": status == 503})
