"""The codec of a bead's record: JSONL line <-> narrow columns and body <-> the wire.

Law: pure. A record is read in any dialect (bd, classic bd, br) and written in the one of spelling.py.

The body is the canonical record without the keys that are columns of a bead (COLUMNS). Only `body_fields` decodes it:
another JSON reader would lose the text of numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import orjson

from gastown.model import (
    DEAD_LETTER,
    DEAD_LETTER_LABEL,
    EDGES,
    EPHEMERAL,
    FOREIGN,
    LINE_BYTES_MAX,
    PINNED,
    TEMPLATE,
    Bead,
    Edge,
    Lease,
)
from gastown.spelling import (
    ID,
    PRIORITY_DEFAULT,
    BadLine,
    body_fields,
    bounded,
    cleaned,
    comment_identity,
    decoded,
    edge_kind_spelling,
    instant_ns,
    instant_text,
    issue_type_spelling,
    rank,
)

__all__ = [
    "RECORD_BYTES_MAX",
    "BadLine",
    "Header",
    "Memory",
    "Record",
    "Shape",
    "body_fields",
    "comment_identity",
    "edge_kind_spelling",
    "export_line",
    "from_fields",
    "instant_ns",
    "instant_text",
    "issue_type_spelling",
    "parse_line",
    "reshape",
    "wire_bead",
]

COLUMNS: Final = (
    "id", "status", "priority", "issue_type", "assignee", "updated_at", "closed_at", "close_reason", "rig",
)  # fmt: skip
HIDDEN: Final = ("version", "attempt", "rig")  # ours on the wire; a body that has such a key got it from elsewhere
TOKEN_HIGH_MAX: Final = 1 << 62  # half of what a token can be: no file can use the counter up
SCHEMA_NAME: Final = "gastown/1"
RECORD_BYTES_MAX: Final = LINE_BYTES_MAX - (64 << 10)  # a body under this leaves room for its columns in one line
EPOCH_TEXT: Final = "1970-01-01T00:00:00Z"  # how bd writes a time it does not know


class Record(NamedTuple):
    """One line as read. `*_ns` are epoch nanoseconds cut to int64, `defer_ms` epoch milliseconds (rounded up)."""

    id: str
    status: str
    priority: int
    issue_type: str
    assignee: str | None
    rig: str
    created_ns: int
    updated_ns: int
    updated_text: str | None  # None where it is the spelling we write ourselves
    closed_at: str | None
    close_reason: str | None
    flags: int
    defer_ms: int | None
    labels: tuple[str, ...]
    edges: tuple[Edge, ...]
    body: bytes


class Shape(NamedTuple):
    """What the tables hold of a body."""

    body: bytes
    labels: tuple[str, ...]
    edges: tuple[Edge, ...]
    flags: int
    defer_ms: int | None


class Memory(NamedTuple):
    """A `_type: memory` line, canonical."""

    key: str
    json: bytes


class Header(NamedTuple):
    """A `_schema` line. `token_high` is 0 unless we wrote it."""

    token_high: int


# ---------------------------------------------------------------- reading


def parse_line(line: bytes) -> Record | Memory | Header:
    """One line of any dialect, without its newline. BadLine says what is wrong with it."""
    fields = decoded(line)
    if "_schema" in fields and "id" not in fields:
        return _header(fields)
    kind = fields.pop("_type", None)
    if kind == "memory":
        return _memory(fields)
    if kind is not None and kind != "issue":
        raise BadLine("_type must be issue or memory")
    try:
        return _record(fields)
    except BadLine as bad:
        name = fields.get("id")
        bad.id = name if type(name) is str and ID.fullmatch(name) else None
        raise


def _header(fields: dict[str, Any]) -> Header:
    schema = fields["_schema"]
    if type(schema) is not str or not schema.startswith("gastown/"):
        return Header(0)
    if schema != SCHEMA_NAME:
        raise BadLine("_schema is newer than gastown/1")
    high = fields.get("token_high", 0)
    if type(high) is not int or not 0 <= high <= TOKEN_HIGH_MAX:
        raise BadLine("token_high must be a whole number from 0 to 2^62")
    return Header(high)


def _memory(fields: dict[str, Any]) -> Memory:
    key = fields.get("key")
    if type(key) is not str or not key:
        raise BadLine("key must be a string and not empty")
    head = {name: fields.pop(name) for name in ("key", "value") if name in fields}
    return Memory(key, orjson.dumps({"_type": "memory", **head, **fields}))


def from_fields(fields: dict[str, Any]) -> Record:
    """A record from its keys, times as text; what a line's object would give. `fields` is not changed."""
    return _record(dict(fields))


def _record(fields: dict[str, Any]) -> Record:
    bead_id = fields.get("id")
    if type(bead_id) is not str or not ID.fullmatch(bead_id):
        raise BadLine("id must match [A-Za-z0-9][A-Za-z0-9._-]{0,127}")
    undated = fields.get("created_at") in (None, "")
    if undated:
        fields["created_at"] = EPOCH_TEXT
    fields.setdefault("title", None)
    clean = cleaned(bead_id, fields)
    if undated and "updated_at" in clean:
        clean["created_at"] = clean["updated_at"]
    created = clean["created_at"]
    updated = clean.get("updated_at", created)
    columns: dict[str, Any] = {"id": bead_id, "status": "open", "priority": PRIORITY_DEFAULT, "issue_type": "task"}
    columns.update((key, clean.pop(key)) for key in COLUMNS if key in clean and (key != "rig" or _is_ours(clean)))
    columns["updated_at"] = updated
    closed_at = columns.pop("closed_at", None)
    if columns["status"] == "closed":
        columns["closed_at"] = closed_at or updated
    shape = _shape(clean)
    if len(orjson.dumps(columns)) + len(shape.body) - 1 > LINE_BYTES_MAX:
        raise BadLine("longer than 1 MiB with the keys that are always written")
    return Record(
        id=bead_id,
        status=columns["status"],
        priority=columns["priority"],
        issue_type=columns["issue_type"],
        assignee=columns.get("assignee"),
        rig=columns.get("rig", ""),
        created_ns=bounded(instant_ns(created)),
        updated_ns=bounded(instant_ns(updated)),
        updated_text=None if _is_own_spelling(updated) else updated,
        closed_at=columns.get("closed_at"),
        close_reason=columns.get("close_reason"),
        flags=shape.flags,
        defer_ms=shape.defer_ms,
        labels=shape.labels,
        edges=shape.edges,
        body=shape.body,
    )


def _is_ours(clean: dict[str, Any]) -> bool:
    """A rig that is no string belongs to somebody else."""
    return type(clean["rig"]) is str


def _is_own_spelling(instant: str) -> bool:
    """What instant_text would give for a valid instant: milliseconds, Z, within int64."""
    ns = instant_ns(instant)
    return len(instant) == 24 and instant[-1] == "Z" and ns == bounded(ns)


def _shape(clean: dict[str, Any]) -> Shape:
    labels = tuple(clean.get("labels", ()))
    flags = PINNED if "pinned" in clean else 0
    flags |= TEMPLATE if "is_template" in clean else 0
    flags |= EPHEMERAL if "ephemeral" in clean or "wisp" in clean else 0
    flags |= DEAD_LETTER if DEAD_LETTER_LABEL in labels else 0
    flags |= EDGES if "dependencies" in clean else 0
    flags |= FOREIGN if "version" in clean or "attempt" in clean or "rig" in clean else 0
    defer = clean.get("defer_until")
    defer_ms = None if defer is None else -(-instant_ns(defer) // 1_000_000)
    return Shape(orjson.dumps(clean), labels, _edge_rows(clean.get("dependencies", ())), flags, defer_ms)


def _edge_rows(edges: Iterable[dict[str, Any]]) -> tuple[Edge, ...]:
    return tuple(Edge(edge["depends_on_id"], edge["type"], _any_children(edge)) for edge in edges)


def _any_children(edge: dict[str, Any]) -> int:
    metadata = edge.get("metadata")
    gate = metadata.get("gate") if type(metadata) is dict else None
    return int(edge["type"] == "waits-for" and type(gate) is str and gate == "any-children")


def reshape(bead_id: str, body: bytes, changes: dict[str, Any]) -> Shape:
    """The body with some of its keys changed; None removes one. None of them may be a column. BadLine as parse_line."""
    fields = body_fields(body)
    fields.update(changes)
    for key, value in changes.items():
        if value is None:
            del fields[key]
    return _shape(cleaned(bead_id, fields))


# ---------------------------------------------------------------- writing


def _seen(bead: Bead, lease: Lease | None) -> tuple[dict[str, Any], int, int]:
    """The bead as the outside sees it, its row or its row under a live lease: columns, version, attempt."""
    status, assignee, version, ns = bead.status, bead.assignee, bead.version, bead.updated_ns
    attempt = bead.failures + bead.losses + 1
    text = bead.updated_text
    if lease is not None:
        version = max(version, lease.version)
        if lease.updated_ns > ns:
            ns, text = lease.updated_ns, None
        if not lease.lapsed:
            status, assignee, attempt = "in_progress", lease.worker_name, lease.attempt
    columns: dict[str, Any] = {
        "id": bead.id,
        "status": status,
        "priority": bead.priority,
        "issue_type": bead.issue_type,
        "updated_at": text if text is not None else instant_text(ns),
    }
    if assignee is not None:
        columns["assignee"] = assignee
    if bead.closed_at is not None:
        columns["closed_at"] = bead.closed_at
    if bead.close_reason is not None:
        columns["close_reason"] = bead.close_reason
    return columns, version, attempt


def export_line(bead: Bead, body: bytes, lease: Lease | None) -> bytes:
    """The canonical line, without its newline."""
    fields = body_fields(body)
    fields.update(_seen(bead, lease)[0])
    if bead.rig:
        fields["rig"] = bead.rig
    return orjson.dumps({key: fields[key] for key in sorted(fields, key=rank)})


def wire_bead(bead: Bead, body: bytes, lease: Lease | None) -> bytes:
    """The JSON object `bead` of the wire: the record with version, attempt and rig."""
    head, head["version"], head["attempt"] = _seen(bead, lease)
    head["rig"] = bead.rig
    if bead.flags & FOREIGN:
        body = orjson.dumps({key: value for key, value in body_fields(body).items() if key not in HIDDEN})
    return orjson.dumps(head)[:-1] + b"," + body[1:]
