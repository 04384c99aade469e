"""What can be said: JSON-RPC 2.0 in and out.

Law: bytes become calls that the engine may take at their word, or refusals; outcomes become bytes. Nothing here knows
the state of the town. A fault of one entry stays with that entry; a fault of the whole text is raised as Refused.

Order of judgement: size and nesting, parse, envelope, method, scope, params. What a later stage would say is not said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gastown.import_body import read_import
from gastown.methods import METHODS, Method
from gastown.model import (
    BATCH_MAX,
    BODY_BYTES_MAX,
    ERRORS,
    INT64_MAX,
    INT64_MIN,
    REPLY_BYTES_MAX,
    SCOPES,
    Refused,
)
from gastown.shapes import Fault, short
from gastown.strict_json import parse

ENVELOPE: Final = frozenset(("jsonrpc", "id", "method", "params"))
DIGEST_BYTES: Final = 16  # a chance of 2^-64 that two of 2^32 remembered calls look alike
NO_PARAMS: Final[dict[str, Any]] = {}
NOT_SENT: Final = object()
CONTAINERS: Final = frozenset((dict, list))


@dataclass(slots=True)
class Call:
    """One entry of a request.

    `params` are checked, with defaults filled in and without request_id; in a filter and in bead.update's set only what
    was sent is there. `digest` says whether two calls with one request_id are the same call. `refused` says that the
    call is not to be done; a notification is then dropped.
    """

    id: str | int | None
    notify: bool
    method: str
    params: dict[str, Any]
    request_id: str | None = None
    digest: bytes | None = None
    refused: Refused | None = None


@dataclass(slots=True)
class Envelope:
    """The calls of one text, in order."""

    batch: bool
    calls: list[Call]

    @property
    def silent(self) -> bool:
        """Whether nothing is to be answered (HTTP 204): every call is a notification."""
        return all(call.notify for call in self.calls)


def decode(raw: bytes, scope: str) -> Envelope:
    """The calls in one text, sent by a credential of `scope`. Refused: parse_error, invalid_request, limit."""
    rank = SCOPES.get(scope, -1)  # deny by default
    tree = parse(raw) if len(raw) <= BODY_BYTES_MAX else read_import(raw, scope == "admin")
    if type(tree) is dict:
        return Envelope(False, [_decode_call(tree, rank, False)])
    if type(tree) is not list:
        raise Refused("invalid_request", "send a request object or an array of them")
    if not tree:
        raise Refused("invalid_request", "a batch needs at least one request")
    if len(tree) > BATCH_MAX:
        raise Refused("limit", f"send at most {BATCH_MAX} requests in a batch", limit="batch", max=BATCH_MAX)
    return Envelope(True, [_decode_call(entry, rank, True) for entry in tree])


def _decode_call(entry: Any, rank: int, batch: bool) -> Call:
    if type(entry) is not dict:
        return _no_call(None, "a request is an object")
    ident = entry.get("id", NOT_SENT)
    if type(ident) is int:
        known = INT64_MIN <= ident <= INT64_MAX
    else:
        known = type(ident) is str or ident is None or ident is NOT_SENT
    if not known:
        return _no_call(None, "id must be a string, a 64-bit integer or null")
    called = entry.get("method")
    params = entry.get("params", NO_PARAMS)
    sound = entry.get("jsonrpc") == "2.0" and type(params) in CONTAINERS and ENVELOPE.issuperset(entry)
    if type(called) is not str or not sound:
        return _no_call(None if ident is NOT_SENT else ident, 'send "jsonrpc":"2.0", method, params (an object) and id')
    notify = ident is NOT_SENT
    call = Call(None if notify else ident, notify, called, NO_PARAMS)
    try:
        _fill(call, params, rank, batch)
    except Refused as refused:
        call.refused = refused
    except Fault as fault:
        call.refused = fault.refused()
    return call


def _no_call(ident: Any, advice: str) -> Call:
    """What is no request is answered even without an id: nobody can tell that it was a notification."""
    return Call(ident, False, "", NO_PARAMS, refused=Refused("invalid_request", advice))


def _fill(call: Call, params: Any, rank: int, batch: bool) -> None:
    method = METHODS.get(call.method)
    if method is None:
        raise Refused("method_not_found", f"no method {short(call.method)}; rpc.discover lists all")
    if batch and not method.batched:
        raise Refused("invalid_request", f"send {method.name} alone, not in a batch")
    if rank < SCOPES[method.scope]:
        raise Refused("forbidden", f"{method.name} needs a token of scope {method.scope}", needs=method.scope)
    if type(params) is list:
        raise Refused("invalid_params", "params: send an object, by name", field="params")
    checked = method.params.check(params)
    if "request_id" in checked:
        call.request_id = checked.pop("request_id")
        del params["request_id"]
        call.digest = _digest(method.name, params)
    call.params = checked
    if batch or call.notify:
        _never_wait(call, method)


def _digest(called: str, params: dict[str, Any]) -> bytes:
    """Equal for equal params, however spelled. Params begin with "{", which no name holds."""
    if called == "ledger.import":
        jsonl = params["jsonl"]
        params = params | {"jsonl": hashlib.sha256(jsonl if type(jsonl) is bytes else jsonl.encode()).hexdigest()}
    said = orjson.dumps(params, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(called.encode() + said).digest()[:DIGEST_BYTES]


def _never_wait(call: Call, method: Method) -> None:
    """In a batch nothing waits; to a notification nothing can be granted, since nobody would hear the token."""
    if method.name == "work.claim":
        if call.notify:
            raise Refused("invalid_request", "a claim needs an id: nobody hears what a notification is granted")
        call.params["wait_ms"] = 0
    elif method.name == "work.complete" and call.params["claim"] is not None:
        call.params["claim"] = None if call.notify else call.params["claim"] | {"wait_ms": 0}


def encode_ok(ident: str | int | None, result: Any, called: str | None = None) -> bytes:
    """One answer. Over REPLY_BYTES_MAX it becomes a `limit` error, unless `called` names a method that writes.

    A definite error would deny the change that was made.
    """
    said = orjson.dumps({"jsonrpc": "2.0", "result": result, "id": ident})
    if len(said) <= REPLY_BYTES_MAX:
        return said
    method = METHODS.get(called or "")
    return said if method is not None and method.mutates else _too_long(ident, called)


def _too_long(ident: str | int | None, called: str | None) -> bytes:
    advice = "GET /export.jsonl instead" if called == "ledger.export" else "ask for less: a smaller limit or a filter"
    message = f"the reply would be over {REPLY_BYTES_MAX} bytes; {advice}"
    return encode_refused(ident, Refused("limit", message, limit="reply", max=REPLY_BYTES_MAX))


def encode_refused(ident: str | int | None, refused: Refused) -> bytes:
    """One error, always with kind and retryable."""
    code, retryable = ERRORS[refused.kind]
    data = {"kind": refused.kind, "retryable": retryable, **refused.data}
    error = {"code": code, "message": refused.message, "data": data}
    return orjson.dumps({"jsonrpc": "2.0", "error": error, "id": ident})


def encode_batch(replies: list[bytes]) -> bytes:
    return b"[" + b",".join(replies) + b"]"


def encode_reply(envelope: Envelope, outcomes: Sequence[dict[str, Any] | Refused]) -> bytes:
    """The reply to a text, given one outcome for each of its calls; empty when nothing is to be said.

    A batch keeps within REPLY_BYTES_MAX by refusing the reads that no longer fit; changes are always told.
    """
    replies: list[bytes] = []
    total = 1
    for call, outcome in zip(envelope.calls, outcomes, strict=True):
        if call.notify:
            continue
        refused = call.refused or (outcome if isinstance(outcome, Refused) else None)
        said = encode_refused(call.id, refused) if refused else encode_ok(call.id, outcome, call.method)
        if envelope.batch and not refused and total + len(said) >= REPLY_BYTES_MAX and not METHODS[call.method].mutates:
            said = _too_long(call.id, call.method)
        total += len(said) + 1
        replies.append(said)
    if not envelope.batch:
        return replies[0] if replies else b""
    return encode_batch(replies) if replies else b""
