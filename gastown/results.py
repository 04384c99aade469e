"""What methods answer, as JSON Schema: the half of the OpenRPC document that callers read and no check uses.

Law: objects may grow, so none forbids further members; a member that is always there is `required`.
"""

from __future__ import annotations

from typing import Any, Final

from gastown.model import STATES

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
INT: Final[Schema] = {"type": "integer"}
FLAG: Final[Schema] = {"type": "boolean"}
MS: Final[Schema] = {"type": "integer", "description": "milliseconds; an instant counts from the Unix epoch"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}


def listed(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def optional(schema: Schema) -> Schema:
    return {"oneOf": [schema, {"type": "null"}]}


def shown(required: Schema, **perhaps: Schema) -> Schema:
    """An object that always has the first members and may have the others."""
    schema: Schema = {"type": "object", "properties": {**required, **perhaps}}
    return schema | ({"required": sorted(required)} if required else {})


def part(of: str) -> Schema:
    return {"$ref": f"#/components/schemas/{of}"}


def written(result: Schema) -> Schema:
    """A mutating method's result: where the change stands in the ledger, and whether this is a replay."""
    properties = result.get("properties", {}) | {"seq": INT, "epoch": INT, "replayed": FLAG}
    required = sorted({*result.get("required", ()), "seq", "epoch"})
    return {"type": "object", "properties": properties, "required": required}


COUNTS: Final[Schema] = {"type": "object", "additionalProperties": INT}
_EDGE = shown({"issue_id": TEXT, "depends_on_id": TEXT, "type": TEXT})
_COMMENT = shown({"id": {"type": ["string", "integer"]}, "text": TEXT}, author=TEXT, created_at=TIME)
_PREVIOUS_OUTCOMES = ["failed", "lapsed", "released", "blocked", "superseded", "closed"]
_PREVIOUS = shown(
    {
        "attempt": INT,
        "token": INT,
        "worker": TEXT,
        "outcome": {"type": "string", "enum": _PREVIOUS_OUTCOMES},
        "at_ms": MS,
    },
    notes=TEXT,
    branch=TEXT,
    checkpoint={},
)

SCHEMAS: Final[dict[str, Schema]] = {
    "bead": shown(
        {
            "id": TEXT,
            "title": TEXT,
            "priority": {"type": "integer", "minimum": 0, "maximum": 4},
            "created_at": TIME,
            "updated_at": TIME,
            "version": INT,
            "attempt": INT,
            "rig": TEXT,
        },
        status=TEXT,
        issue_type=TEXT,
        assignee=TEXT,
        description=TEXT,
        labels=listed(TEXT),
        dependencies=listed(_EDGE),
        comments=listed(_COMMENT),
        closed_at=TIME,
        close_reason=TEXT,
        defer_until=TIME,
        metadata={},
    ),
    "lease": shown({"bead_id": TEXT, "worker_id": TEXT, "token": INT, "attempt": INT, "expires_at_ms": MS}),
    "claim": shown(
        {"bead": part("bead"), "lease": part("lease"), "context": shown({"previous": listed(_PREVIOUS)})},
    ),
    "worker": shown(
        {
            "worker_id": TEXT,
            "name": TEXT,
            "state": {"type": "string", "enum": ["idle", "working", "stalled", "draining", "gone"]},
            "role": TEXT,
            "labels": listed(TEXT),
            "capacity": INT,
            "leases": {},
            "last_seen_ms": MS,
        }
    ),
    "convoy": shown(
        {
            "id": TEXT,
            "name": TEXT,
            "beads": listed(TEXT),
            "progress": COUNTS,
            "closed": INT,
            "total": INT,
            "created_at_ms": MS,
        }
    ),
    "event": shown({"seq": INT, "epoch": INT, "at_ms": MS, "kind": TEXT}, bead_id=TEXT),
    "state": {"type": "string", "enum": list(STATES)},
    "token": shown(
        {
            "id": TEXT,
            "name": TEXT,
            "scope": {"type": "string", "enum": ["read", "worker", "admin"]},
            "created_at_ms": MS,
            "last_used_ms": optional(MS),
            "revoked": FLAG,
        }
    ),
}

EMPTY: Final = shown({})
ONE_BEAD: Final = shown({"bead": part("bead")})
BEADS: Final = shown({"beads": listed(part("bead"))})
BEAD_PAGE: Final = shown({"beads": listed(part("bead")), "next_cursor": optional(TEXT)})
HISTORY: Final = shown({"events": listed(part("event"))})
REGISTRATION: Final = shown(
    {"worker_id": TEXT, "heartbeat_every_ms": MS, "lease_ttl_ms": MS, "leases": listed(part("lease"))}
)
BEATEN: Final = shown(
    {
        "leases": listed(part("lease")),
        "lost": listed(shown({"bead_id": TEXT, "token": INT, "reason": TEXT})),
        "directives": listed(shown({"kind": {"type": "string", "enum": ["cancel", "pause", "drain"]}}, bead_id=TEXT)),
    }
)
ONE_WORKER: Final = shown({"worker": part("worker")})
WORKERS: Final = shown({"workers": listed(part("worker"))})
CLAIMED: Final = shown({"claims": listed(part("claim"))}, retry_after_ms=MS)
COMPLETED: Final = shown({"bead": part("bead")}, merge_id=TEXT, claims=listed(part("claim")), retry_after_ms=MS)
FAILED: Final = shown({"bead": part("bead")}, retry_at_ms=MS, dead={"const": True})
IMPORTED: Final = shown(
    {
        "created": INT,
        "updated": INT,
        "unchanged": INT,
        "skipped": listed(shown({"line": INT, "id": optional(TEXT), "why": TEXT})),
    }
)
EXPORTED: Final = shown({"jsonl": TEXT})
VERIFIED: Final = shown(
    {"ok": FLAG, "problems": listed(shown({"kind": TEXT, "text": TEXT}, id=TEXT, seq=INT))},
)
QUEUE: Final = shown(
    {
        "beads": COUNTS,
        "oldest_ready_age_ms": MS,
        "claim_ms": shown({key: {"type": "number"} for key in ("p50", "p95", "p99")}),
        "backpressure": FLAG,
        "workers": COUNTS,
    }
)
PAUSED: Final = shown({"paused": listed(TEXT)})
ADVICE: Final = shown(
    {
        "recommended_workers": INT,
        "reason": TEXT,
        "backpressure": FLAG,
        "health": {"type": "string", "enum": ["healthy", "degraded", "unhealthy"]},
    }
)
ONE_CONVOY: Final = shown({"convoy": part("convoy")})
CONVOYS: Final = shown({"convoys": listed(part("convoy")), "next_cursor": optional(TEXT)})
NEW_TOKEN: Final = shown({"id": TEXT, "token": TEXT})
TOKENS: Final = shown({"tokens": listed(part("token"))})
INFO: Final = shown(
    {
        "version": TEXT,
        "body": {"type": "string", "enum": ["python", "hybrid", "rust"]},
        "epoch": INT,
        "rules": INT,
        "schema": INT,
        "uptime_ms": MS,
        "pid": INT,
    }
)
DOCUMENT: Final = shown({"openrpc": TEXT, "info": {"type": "object"}, "methods": listed({"type": "object"})})
