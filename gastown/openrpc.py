"""The OpenRPC document, made from the method table: `python -m gastown.openrpc > spec/openrpc.json`.

Law: the same table gives the same bytes. After a release the document may only grow.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, Final

import orjson

from gastown.methods import METHODS, Method
from gastown.model import ERRORS
from gastown.results import SCHEMAS
from gastown.shapes import REQUIRED, Field, Schema, with_default

OPENRPC_VERSION: Final = "1.3.2"
CONTRACT_VERSION: Final = "1.0.0"  # of the wire contract, not of this program

# What error.data holds besides kind and retryable, and what to do about it.
ERROR_DATA: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "parse_error": ("Not one strict JSON text in UTF-8.", ()),
    "invalid_request": ("Not a JSON-RPC 2.0 request, or not allowed in this place.", ()),
    "method_not_found": ("No such method.", ()),
    "invalid_params": ("A field is missing, unknown, of the wrong kind or below its minimum.", ("field",)),
    "internal": ("Unknown outcome: retry with the same request_id.", ()),
    "lease_lost": (
        "The token is not the bead's latest grant: stop.",
        ("token", "current_token", "state", "reason", "action", "salvage_id"),
    ),
    "not_found": ("No such thing.", ("what", "id")),
    "conflict": ("The state does not allow it.", ("state", "allowed", "version")),
    "request_id_reused": ("The request_id was used for another call.", ()),
    "dependency_cycle": ("The edge would close a cycle.", ("path",)),
    "backpressure": ("Too much waits already: retry later.", ("retry_after_ms", "queue_depth")),
    "draining": ("Shutting down or handing over: retry later.", ("retry_after_ms",)),
    "worker_unknown": ("Register again.", ()),
    "not_leader": ("Another coordinator leads.", ("leader",)),
    "storage_low": ("The disk is nearly full: creates are refused, completes accepted.", ()),
    "bad_ref": ("Not a branch or commit that can be used.", ("field",)),
    "bad_path": ("Not a path that can be used.", ("field",)),
    "limit": ("Well formed, but above a stated maximum.", ("limit", "max")),
    "unauthenticated": ("No valid token.", ("needs",)),
    "forbidden": ("The token's scope, or its owner, does not allow it.", ("needs",)),
    "rate_limited": ("Too many requests: retry later.", ()),
}


@cache
def openrpc() -> dict[str, Any]:
    """The document, as rpc.discover and /openrpc.json show it. Shared: not to be changed."""
    return {
        "openrpc": OPENRPC_VERSION,
        "info": {
            "title": "gastown",
            "version": CONTRACT_VERSION,
            "description": "A coordinator for many coding agents: one queue, one ledger, no double claims.",
        },
        "methods": [_described(method) for _, method in sorted(METHODS.items())],
        "components": {"schemas": SCHEMAS, "errors": {kind: _error(kind) for kind in sorted(ERRORS)}},
    }


def document() -> bytes:
    """The bytes of spec/openrpc.json."""
    return orjson.dumps(openrpc(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _described(method: Method) -> dict[str, Any]:
    required_first = sorted(method.params.fields.items(), key=lambda member: member[1].default is not REQUIRED)
    return {
        "name": method.name,
        "summary": method.summary,
        "paramStructure": "by-name",
        "params": [_param(key, member) for key, member in required_first],
        "result": {"name": "result", "schema": method.result},
        "errors": [{"$ref": f"#/components/errors/{kind}"} for kind in method.errors],
        "x-scope": method.scope,
        "x-mutates": method.mutates,
        "x-batch": method.batched,
    }


def _param(key: str, member: Field) -> dict[str, Any]:
    return {"name": key, "required": member.default is REQUIRED, "schema": with_default(member)}


def _error(kind: str) -> dict[str, Any]:
    code, retryable = ERRORS[kind]
    meaning, members = ERROR_DATA[kind]
    properties: dict[str, Schema] = {"kind": {"const": kind}, "retryable": {"const": retryable}}
    schema = {
        "type": "object",
        "properties": properties | {member: {} for member in members},
        "required": ["kind", "retryable"],
    }
    return {"code": code, "message": meaning, "data": schema}


if __name__ == "__main__":
    sys.stdout.buffer.write(document())
