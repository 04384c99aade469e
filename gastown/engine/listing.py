"""bead.list and bead.ready: what is there, in pages that stay right while the ledger moves.

Law: read only. A page is found by a keyset (the sort key and id of the last bead shown), so an unchanged bead is
neither missed nor repeated, whatever happens to others and over restarts.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import orjson

from ..model import INT64_MAX, INT64_MIN, REPLY_BYTES_MAX, Credential, Refused
from ..rules import bead as bead_rules
from .index import Entry
from .turn import Turn
from .work import Handler, parse_filter

PAGE_BYTES_MAX: Final = REPLY_BYTES_MAX - (64 << 10)  # room for the envelope
BEYOND_IDS: Final = "\U0010ffff"  # greater than any id, in bytes too
LISTS: Final = ("issue_types", "labels_all", "labels_any")


def encode_cursor(sort: str, key: int | str, bead_id: str) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([sort, key, bead_id])).decode().rstrip("=")


def decode_cursor(cursor: str | None, sort: str) -> tuple[int | str, str] | None:
    """-> (key, id) of the last bead shown. Refused: invalid_params unless it was made for this sort."""
    if cursor is None:
        return None
    try:
        made_for, key, bead_id = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, binascii.Error):
        made_for = key = bead_id = None
    sound = isinstance(bead_id, str) and type(key) is (str if sort in ("id", "-id", "convoy") else int)
    if made_for != sort or not sound:
        raise Refused("invalid_params", "this cursor does not belong to this list: start without one", field="cursor")
    return key, bead_id


# ---------------------------------------------------------------- bead.list


def listed(turn: Turn, _: Credential, params: dict[str, Any]) -> dict[str, Any]:
    sort, limit, asked = params["sort"], params["limit"], params.get("filter") or {}
    after = decode_cursor(params.get("cursor"), sort)
    turn.flush()
    beads: list[orjson.Fragment] = []
    size, last, more = 0, None, False
    for n in _numbers(turn, sort, asked, after):
        if not _shows(turn, n, asked):
            continue
        wire = turn.wire_bytes(n)
        size += len(wire)
        if len(beads) == limit or (beads and size > PAGE_BYTES_MAX):
            more = True
            break
        beads.append(orjson.Fragment(wire))
        last = n
    cursor = _cursor_of(turn, sort, last) if more and last is not None else None
    return {"beads": beads, "next_cursor": cursor}


def _cursor_of(turn: Turn, sort: str, n: int) -> str:
    bead, lease = turn.row(n)[0], turn.lease(n)
    updated_ns = bead.updated_ns if lease is None else max(bead.updated_ns, lease.updated_ns)
    keys: dict[str, int | str] = {
        "id": bead.id,
        "created": bead.created_ns,
        "updated": updated_ns,
        "priority": bead.priority,
    }
    return encode_cursor(sort, keys[sort.lstrip("-")], bead.id)


def _shows(turn: Turn, n: int, asked: dict[str, Any]) -> bool:
    """The parts of a filter that depend on a lease: state, status, assignee."""
    bead, lease = turn.row(n)[0], turn.lease(n)
    state = bead_rules.state_of(bead, lease)
    live = lease is not None and not lease.lapsed
    status = "in_progress" if live else bead.status
    assignee = lease.worker_name if lease is not None and live else bead.assignee
    if state == "tombstone" and "tombstone" not in (*(asked.get("state") or ()), *(asked.get("status") or ())):
        return False
    return (
        (not asked.get("state") or state in asked["state"])
        and (not asked.get("status") or status in asked["status"])
        and (asked.get("assignee") is None or assignee == asked["assignee"])
    )


def _numbers(turn: Turn, sort: str, asked: dict[str, Any], after: tuple[int | str, str] | None) -> Iterator[int]:
    """Row numbers in the order of the sort, by the parts of the filter that rows alone decide."""
    first: tuple[int | str, str] = (INT64_MAX, BEYOND_IDS) if sort.startswith("-") else (INT64_MIN, "")
    if sort.endswith("id"):
        first = (first[1], first[1])
    lists = [orjson.dumps(asked[key]).decode() if asked.get(key) else None for key in LISTS]
    names = (asked.get("rig"), *lists, asked.get("convoy"), asked.get("parent"))
    return (row[0] for row in turn.store.scan(f"bead_list:{sort}", *(after or first), *names))


# ---------------------------------------------------------------- bead.ready


def ready(turn: Turn, _: Credential, params: dict[str, Any]) -> dict[str, Any]:
    asked, memory = parse_filter(params.get("filter")), turn.memory
    if "*" in memory.paused:
        return {"beads": []}
    entries: Iterable[Entry] = memory.index.candidates(asked)
    if asked.bead_id is not None:
        entries = (entry for entry in entries if entry.id == asked.bead_id)
    if memory.paused:
        entries = (entry for entry in entries if entry.rig not in memory.paused)
    if params["sort"] == "oldest":
        entries = sorted(entries, key=lambda entry: (entry.created_ns, entry.id))
    elif params["sort"] == "hybrid":
        entries = sorted(entries, key=lambda entry: (turn.row(entry.n)[0].ready_ms or 0, entry.id))
    return {"beads": _within_reply(turn, islice(entries, params["limit"]))}


def _within_reply(turn: Turn, entries: Iterable[Entry]) -> list[orjson.Fragment]:
    beads: list[orjson.Fragment] = []
    size = 0
    for entry in entries:
        wire = turn.wire_bytes(entry.n)
        size += len(wire)
        if size > PAGE_BYTES_MAX:
            break
        beads.append(orjson.Fragment(wire))
    return beads


READS: Final[dict[str, Handler]] = {"bead.list": listed, "bead.ready": ready}
