"""One spelling per value: how every key of a bead's record is written, whatever dialect it came in.

Law: pure. Known keys stand in bd's order, unknown ones behind them as they came; arrays are sorted, empty values left
out; times and numbers keep the text they were, strings only the escapes JSON needs. What cannot be read without
guessing is a BadLine, never a silent loss. The first wrong key in that order is the one named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

import orjson

from gastown.model import INT64_MAX, INT64_MIN, LINE_BYTES_MAX, NESTING_MAX

# ---------------------------------------------------------------- names

# Key order of a line, as bd writes it; keys of a deletion stand where classic bd had them; `rig` is ours, so last.
ORDER: Final = (
    "id", "title", "description", "design", "acceptance_criteria", "notes", "spec_id", "status", "priority",
    "issue_type", "assignee", "owner", "estimated_minutes", "created_at", "created_by", "updated_at", "started_at",
    "closed_at", "close_reason", "closed_by_session", "due_at", "defer_until", "external_ref", "source_system",
    "metadata", "compaction_level", "compacted_at", "compacted_at_commit", "original_size", "labels", "dependencies",
    "comments", "deleted_at", "deleted_by", "delete_reason", "original_type", "sender", "ephemeral", "wisp",
    "no_history", "wisp_type", "storage_class", "pinned", "is_template", "bonded_from", "await_type", "await_id",
    "timeout", "waiters", "source_formula", "source_location", "mol_type", "work_type", "event_kind", "actor",
    "target", "payload", "wisp_plane", "rig",
)  # fmt: skip
EDGE_ORDER: Final = (
    "issue_id", "depends_on_id", "type", "created_at", "created_by", "metadata", "thread_id", "id",
)  # fmt: skip
COMMENT_ORDER: Final = ("id", "issue_id", "author", "text", "created_at")

TEXTS: Final = (
    "description", "design", "acceptance_criteria", "notes", "spec_id", "assignee", "owner", "created_by",
    "close_reason", "closed_by_session", "external_ref", "source_system",
)  # fmt: skip
TIMES: Final = (
    "created_at", "updated_at", "started_at", "closed_at", "due_at", "defer_until", "compacted_at", "deleted_at",
)  # fmt: skip
FLAGS: Final = ("pinned", "is_template", "ephemeral", "wisp", "no_history", "wisp_plane")
# Derived by their writer, or the leases of another coordinator: read and forgotten.
FORGOTTEN: Final = (
    "dependency_count", "dependent_count", "comment_count", "is_blocked",
    "lease_expires_at", "heartbeat_at", "lease_granted_node",
)  # fmt: skip

ISSUE_ALIASES: Final = {"enhancement": "feature", "feat": "feature", "mr": "merge-request"}
EDGE_ALIASES: Final = {"blocked-by": "blocks"}
EDGE_KINDS: Final = frozenset((
    "blocks", "parent-child", "conditional-blocks", "waits-for", "related", "discovered-from", "replies-to",
    "relates-to", "duplicates", "supersedes", "authored-by", "assigned-to", "approved-by", "attests", "tracks",
    "until", "caused-by", "validates", "delegated-from",
))  # fmt: skip

PRIORITY_MAX: Final = 4  # 0 is critical, as bd
PRIORITY_DEFAULT: Final = 2
METADATA_DEPTH: Final = 3  # brackets open around the metadata of an edge

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_STATUS = re.compile(r"[a-z][a-z0-9_-]{0,127}")
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,256}")  # ids of foreign beads, edge kinds, issue types: shown on terminals
_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d)T([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?(?:Z|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
)
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class BadLine(Exception):
    """One line that cannot be a record. `why` is for the user; `id` is the line's bead where it could be read."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.id: str | None = None


# ---------------------------------------------------------------- instants


@lru_cache(maxsize=1024)
def _day(text: str) -> int:
    """Days from 1970-01-01 to `text` (YYYY-MM-DD). ValueError where the calendar has no such day."""
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:])
    shift = 400 if year == 0 else 0  # the calendar repeats every 400 years = 146,097 days; datetime has no year 0
    return datetime(year + shift, month, day).toordinal() - 719_163 - (146_097 if shift else 0)


@lru_cache(maxsize=1024)  # the times of one record are read twice and are often the same
def instant_ns(text: str) -> int:
    """Epoch nanoseconds of an RFC 3339 text with 0 to 9 fraction digits, any size. ValueError if it is none."""
    parts = _INSTANT.fullmatch(text)
    if parts is None:
        raise ValueError(f"no RFC 3339 instant: {text[:40]!r}")
    date, hour, minute, second, fraction, sign, hours, minutes = parts.groups()
    seconds = _day(date) * 86_400 + int(hour) * 3600 + int(minute) * 60 + int(second)
    if sign is not None:
        offset = int(hours) * 3600 + int(minutes) * 60
        seconds += -offset if sign == "+" else offset
    return seconds * 1_000_000_000 + (int(fraction.ljust(9, "0")) if fraction is not None else 0)


@lru_cache(maxsize=1024)
def _second_text(seconds: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()[:19]


@lru_cache(maxsize=256)  # a turn has one instant, and many beads show it
def instant_text(ns: int) -> str:
    """The spelling we write: UTC, milliseconds (rounded down), Z. `ns` must be an int64."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second_text(seconds)}.{rest // 1_000_000:03d}Z"


def bounded(ns: int) -> int:
    """Cut to int64: the years 1677 to 2262, as columns hold them."""
    return min(max(ns, INT64_MIN), INT64_MAX)


# ---------------------------------------------------------------- JSON that keeps the text of numbers


def _whole(text: str) -> Any:
    """An int where it is one of 64 bits and would be written the same; else its text."""
    if len(text) < 19 and text != "-0":
        return int(text)
    if len(text) < 21 and INT64_MIN <= int(text) <= INT64_MAX and text != "-0":
        return int(text)
    return orjson.Fragment(text)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BadLine("a key stands twice in one object")
    return fields


def _constant(_: str) -> Any:
    raise BadLine("not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_int=_whole, parse_float=orjson.Fragment, parse_constant=_constant
)


def _deep(line: bytes, depth_max: int = NESTING_MAX) -> bool:
    """More than `depth_max` brackets open at once. Few lines have so many brackets at all."""
    if line.count(b"{") + line.count(b"[") <= depth_max:
        return False
    depth = 0
    for bracket in _STRINGS.sub(b"", line).translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > depth_max:
            return True
    return False


def decoded(line: bytes) -> dict[str, Any]:
    """The object of one line. Numbers that Python would write otherwise are orjson.Fragment."""
    if len(line) > LINE_BYTES_MAX:
        raise BadLine("longer than 1 MiB")
    if _deep(line):
        raise BadLine("nested more than 64 deep")
    try:
        fields = _DECODER.decode(line.decode())
        if b"\\u" in line:
            orjson.dumps(fields)
    except UnicodeDecodeError:
        raise BadLine("not UTF-8") from None
    except json.JSONDecodeError:
        raise BadLine("a git conflict marker" if _is_conflict(line) else "not JSON") from None
    except TypeError:
        raise BadLine("half of a surrogate pair") from None
    if type(fields) is not dict:
        raise BadLine("not a JSON object")
    return fields


def _is_conflict(line: bytes) -> bool:
    return line.startswith((b"<<<<<<< ", b">>>>>>> ", b"||||||| ")) or line.rstrip() == b"======="


def body_fields(body: bytes) -> dict[str, Any]:
    """The keys of a body. Numbers that Python would spell otherwise are orjson.Fragment."""
    fields: dict[str, Any] = _DECODER.decode(body.decode())
    return fields


# ---------------------------------------------------------------- one spelling per value


class _Rank(dict[str, int]):
    def __missing__(self, key: str) -> int:
        return len(self)


_RANK = _Rank({key: at for at, key in enumerate(ORDER)})
_EDGE_RANK = _Rank({key: at for at, key in enumerate(EDGE_ORDER)})
_COMMENT_RANK = _Rank({key: at for at, key in enumerate(COMMENT_ORDER)})
rank = _RANK.__getitem__
_KNOWN: Final = frozenset((*ORDER, *FORGOTTEN))
_EMPTY: Final[tuple[Any, ...]] = ("", 0, [], {})


def issue_type_spelling(text: str) -> str:
    return ISSUE_ALIASES.get(text, text)


def edge_kind_spelling(text: str) -> str:
    """`parent_child` is parent-child and `blocked-by` is blocks; a kind nobody knows stays as it is."""
    dashed = text.replace("_", "-")
    return dashed if dashed in EDGE_KINDS else EDGE_ALIASES.get(dashed, text)


def _forgotten(_key: str, _value: Any) -> None:
    return None


def _opaque(_key: str, value: Any) -> Any:
    return None if value is None or value is False or value in _EMPTY else value


def _text(key: str, value: Any) -> str | None:
    if value is None or type(value) is str:
        return value or None
    raise BadLine(f"{key} must be a string")


def _time(key: str, value: Any) -> str | None:
    if not _text(key, value):
        return None
    try:
        instant_ns(value)
    except ValueError:
        raise BadLine(f"{key} must be an RFC 3339 time") from None
    return str(value)


def _flag(key: str, value: Any) -> bool | None:
    if value is None or type(value) is bool:
        return value or None
    raise BadLine(f"{key} must be true or false")


def _minutes(key: str, value: Any) -> int | None:
    if value is None or (type(value) is int and value >= 0):
        return value  # 0 is an estimate, not an absence
    raise BadLine(f"{key} must be a whole number from 0")


def _title(key: str, value: Any) -> str:
    if type(value) is str and value:
        return value
    raise BadLine(f"{key} must be a string and not empty")


def _status(key: str, value: Any) -> str:
    if not _text(key, value):
        return "open"
    if _STATUS.fullmatch(value):
        return str(value)
    raise BadLine(f"{key} must match [a-z][a-z0-9_-]*")


def _priority(key: str, value: Any) -> int:
    if value is None:
        return PRIORITY_DEFAULT
    if type(value) is int and 0 <= value <= PRIORITY_MAX:
        return value
    raise BadLine(f"{key} must be a whole number from 0 to 4")


def _issue_type(key: str, value: Any) -> str:
    if not _text(key, value):
        return "task"
    if _NAME.fullmatch(value):
        return issue_type_spelling(value)
    raise BadLine(f"{key} must have no control characters and at most 256 characters")


def _rig(_key: str, value: Any) -> Any:
    return None if value is None or value == "" else value


def _metadata(_key: str, value: Any) -> Any:
    """An object given as the text of an object is that object; an empty one is left out."""
    if type(value) is str and value.lstrip()[:1] == "{":
        text = value.encode()
        try:
            return value if _deep(text, NESTING_MAX - METADATA_DEPTH) else decoded(text) or None
        except BadLine:
            return value
    return _opaque("", value)


def _labels(key: str, value: Any) -> list[str] | None:
    if value is None:
        return None
    if type(value) is not list or any(type(label) is not str for label in value):
        raise BadLine(f"{key} must be an array of strings")
    return sorted({label for label in value if label}) or None


def _edge(bead_id: str, edge: Any) -> dict[str, Any]:
    """The record that holds an edge owns it, whatever issue_id says: tools that rename beads forget that key."""
    if type(edge) is not dict:
        raise BadLine("dependencies must be an array of objects")
    clean: dict[str, Any] = {"issue_id": bead_id}
    for key in ("depends_on_id", "type"):
        name = edge.get(key) or ("blocks" if key == "type" else "")
        if type(name) is not str or not _NAME.fullmatch(name):
            raise BadLine(f"dependencies.{key} must be 1 to 256 characters, none of them a control character")
        clean[key] = edge_kind_spelling(name) if key == "type" else name
    for key in sorted((key for key in edge if key not in clean), key=_EDGE_RANK.__getitem__):
        value = edge[key]
        if key == "metadata":
            value = _metadata(key, value)
        elif key in _EDGE_RANK:
            value = _opaque(key, value)
        if value is not None or key not in _EDGE_RANK:
            clean[key] = value
    return clean


def _edges(bead_id: str, value: Any) -> list[dict[str, Any]] | None:
    """Sorted; of two with one target and kind the first stays."""
    if value is None:
        return None
    if type(value) is not list:
        raise BadLine("dependencies must be an array of objects")
    kept: dict[tuple[str, str], dict[str, Any]] = {}
    for edge in value:
        clean = _edge(bead_id, edge)
        kept.setdefault((clean["depends_on_id"], clean["type"]), clean)
    return [kept[key] for key in sorted(kept)] or None


def _comments(key: str, value: Any) -> list[dict[str, Any]] | None:
    """By instant, then by id: integers by size, strings by text, then the rest; at last by their JSON. Each once."""
    if value is None:
        return None
    if type(value) is not list or any(type(comment) is not dict for comment in value):
        raise BadLine(f"{key} must be an array of objects")
    kept: dict[tuple[int, int, int, str, bytes], dict[str, Any]] = {}
    for comment in value:
        clean = {name: comment[name] for name in sorted(comment, key=_COMMENT_RANK.__getitem__)}
        kept[_comment_place(_time("comments.created_at", clean.get("created_at")), clean)] = clean
    return [kept[place] for place in sorted(kept)] or None


def _comment_place(at: str | None, comment: dict[str, Any]) -> tuple[int, int, int, str, bytes]:
    ns = INT64_MIN if at is None else bounded(instant_ns(at))
    name = comment.get("id")
    text = orjson.dumps(comment)
    if type(name) is int:
        return ns, 0, name, "", text
    return (ns, 1, 0, name, text) if type(name) is str else (ns, 2, 0, "", text)


def comment_identity(comment: dict[str, Any]) -> tuple[Any, ...]:
    """Two comments are one if they share a text id. Integer ids collide between clones: there the content decides."""
    name = comment.get("id")
    if type(name) is str and name:
        return (name,)
    at = _time("comments.created_at", comment.get("created_at"))
    content = {key: comment[key] for key in comment if key not in ("issue_id", "created_at")}
    return (None if at is None else instant_ns(at), orjson.dumps(content, option=orjson.OPT_SORT_KEYS))


_SHAPES: Final[dict[str, Callable[[str, Any], Any]]] = {
    **dict.fromkeys(ORDER, _opaque),
    **dict.fromkeys(TEXTS, _text),
    **dict.fromkeys(TIMES, _time),
    **dict.fromkeys(FLAGS, _flag),
    **dict.fromkeys(FORGOTTEN, _forgotten),
    "title": _title,
    "status": _status,
    "priority": _priority,
    "issue_type": _issue_type,
    "estimated_minutes": _minutes,
    "metadata": _metadata,
    "labels": _labels,
    "comments": _comments,
    "rig": _rig,
}


def cleaned(bead_id: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Every key in its place, every value in its one spelling."""
    clean: dict[str, Any] = {}
    for key in sorted(fields, key=rank):
        value = fields[key]
        shape = _SHAPES.get(key)
        if key == "dependencies":
            value = _edges(bead_id, value)
        elif shape is not None:
            value = shape(key, value)
        if value is not None or key not in _KNOWN:
            clean[key] = value
    return clean
