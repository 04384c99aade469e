"""bead.*: what people and planners do with beads, held or not.

Law: as in work.py, a handler checks everything first. Setting status or assignee, closing and importing end a lease;
any other edit leaves it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .. import record
from ..ledger import minting
from ..model import DEAD_LETTER_LABEL, Bead, Credential, Edge, Lease, Refused
from ..rules import bead as bead_rules
from ..rules import lease as lease_rules
from . import graph, history
from .turn import Turn
from .work import Handler, find, new_edge

COLUMN_FIELDS: Final = ("priority", "issue_type", "status", "assignee", "rig")  # of `set`, the rest is the body's


def tell_holder(turn: Turn, bead: Bead, reason: str) -> None:
    lease = turn.lease(bead.n)
    if lease is not None:
        tell(turn, lease, bead.id, reason)


def tell(turn: Turn, lease: Lease, bead_id: str, reason: str) -> None:
    """The holder of an ended lease hears of it with its next beat."""
    losses = turn.memory.directives.setdefault(lease.worker_id, [])
    losses.append({"bead_id": bead_id, "token": lease.token, "reason": reason})
    turn.memory.on_undo(losses.pop)


# ---------------------------------------------------------------- create


class Birth:
    """Checks the items of one bead.create and mints their ids, before any is written."""

    def __init__(self, turn: Turn, by: str) -> None:
        self.turn, self.by = turn, by
        self.taken: set[str] = set()
        self.born: dict[str, int] = {}  # children of a parent, those of this call included

    def children(self, parent: str) -> int:
        return self.born.get(parent) or len(self.turn.store.many("children", parent))

    def free(self, mint: Callable[[], str]) -> str:
        try:
            return mint()
        except LookupError as none_left:
            raise Refused("conflict", str(none_left), state="ready", allowed=[]) from None

    def is_taken(self, bead_id: str) -> bool:
        return bead_id in self.taken or self.turn.store.find(bead_id) is not None

    def identify(self, item: dict[str, Any]) -> str:
        given = item.get("id")
        if given is not None:
            if self.is_taken(given):
                n = self.turn.store.find(given)
                state = self.turn.state(n) if n is not None else "ready"
                raise Refused("conflict", f"the id {given} is taken", state=state, allowed=[])
            bead_id = given
        elif item.get("parent") is not None:
            self.born[item["parent"]] = self.children(item["parent"]) + 1
            bead_id = self.free(lambda: minting.child_id(item["parent"], self.born[item["parent"]] - 1, self.is_taken))
        else:
            bead_id = self.mint(item)
        self.taken.add(bead_id)
        return str(bead_id)

    def mint(self, item: dict[str, Any]) -> str:
        turn = self.turn
        description = item.get("description") or ""
        count = turn.memory.bead_max + len(self.taken)
        start, title = prefix(turn), item["title"]
        at_ns = turn.now_ns + count  # beads of one title, made in one millisecond, differ
        return self.free(lambda: minting.mint(start, title, description, self.by, at_ns, count, taken=self.is_taken))

    def edges(self, item: dict[str, Any], given: set[str]) -> list[Edge]:
        """The edges of an item; not_found when a target is neither in the ledger nor in this call."""
        edges = [Edge(edge["id"], edge["kind"]) for edge in item.get("depends_on") or ()]
        if item.get("parent") is not None:
            edges.append(Edge(item["parent"], "parent-child"))
        for edge in edges:
            if edge.dst not in given:
                find(self.turn, edge.dst)
        return list(dict.fromkeys(edges))


def prefix(turn: Turn) -> str:
    """What minted ids begin with: the setting, else the ledger's most frequent, else the folder's name."""
    if turn.memory.prefix is None:
        row = turn.store.one("prefix_counts")
        frequent = str(row[0]) if row and row[0] else minting.prefix_of((), str(turn.store.setting("folder") or ""))
        turn.memory.prefix = str(turn.store.setting("prefix") or frequent)
    return turn.memory.prefix


def create(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    by = credential.name
    items = params["beads"]
    birth = Birth(turn, by)
    given = {item["id"] for item in items if item.get("id") is not None}
    edges = [birth.edges(item, given) for item in items]
    ids = [birth.identify(item) for item in items]
    graph.refuse_cycle(turn, dict(zip(ids, edges, strict=True)))
    fresh = [_record(turn, *born, by) for born in zip(ids, items, edges, strict=True)]
    numbers = [turn.create(one) for one in fresh]
    turn.ripple()
    return {"beads": [turn.wire(n) for n in numbers]}


def _record(turn: Turn, bead_id: str, item: dict[str, Any], edges: list[Edge], by: str) -> record.Record:
    skip = ("depends_on", "parent")
    fields = {key: value for key, value in item.items() if value not in (None, (), "") and key not in skip}
    fields |= {"id": bead_id, "created_at": turn.now_text, "updated_at": turn.now_text, "created_by": by}
    fields["priority"] = item["priority"]
    if edges:
        fields["dependencies"] = [new_edge(turn, bead_id, edge, by) for edge in edges]
    return _read(fields)


def _read(fields: dict[str, Any]) -> record.Record:
    try:
        return record.from_fields(fields)
    except record.BadLine as bad:
        raise Refused("invalid_params", bad.why, field="beads") from None


# ---------------------------------------------------------------- change


def update(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    n = find(turn, params["id"])
    bead, body = turn.row(n)
    bead_rules.check_version(turn.version(n), params.get("if_version"), turn.state(n))
    wanted = params["set"]
    columns = {key: wanted[key] for key in COLUMN_FIELDS if key in wanted}
    texts = {key: value for key, value in wanted.items() if key not in COLUMN_FIELDS}
    if "status" in columns:
        bead_rules.check_status(columns["status"], turn.state(n))
        columns["not_before_ms"] = None
    if columns.get("rig", "") is None:
        columns["rig"] = ""
    if "issue_type" in columns:
        columns["issue_type"] = record.issue_type_spelling(columns["issue_type"])
    edited = bead._replace(**columns)
    shape = _reshape(bead, body, texts) if texts else None
    lease = turn.lease(n)
    ends = lease is not None and ("status" in wanted or "assignee" in wanted)
    if not ends and edited == bead and (shape is None or shape.body == body):
        return {"bead": turn.wire(n)}
    if lease is not None and ends:
        tell_holder(turn, bead, "changed")
        edited = lease_rules.end_by_others(edited, lease, "changed")
        lease = None
    turn.change("updated", edited, lease, shape, data={"set": sorted(wanted), "by": credential.name})
    turn.ripple()
    return {"bead": turn.wire(n)}


def _reshape(bead: Bead, body: bytes, changes: dict[str, Any]) -> record.Shape:
    try:
        shape = record.reshape(bead.id, body, changes)
    except record.BadLine as bad:
        raise Refused("invalid_params", bad.why, field="set") from None
    if len(shape.body) > record.RECORD_BYTES_MAX:
        raise Refused("limit", "the bead would be too large to export", limit="record", max=record.RECORD_BYTES_MAX)
    return shape


def close(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    n = find(turn, params["id"])
    bead, lease = turn.row(n)[0], turn.lease(n)
    done = bead_rules.close(bead, turn.state(n), params["reason"], turn.now_text)
    whose: dict[str, Any] = {}
    if lease is not None:
        tell_holder(turn, bead, "closed")
        done = lease_rules.end_by_others(done, lease, "closed")
        whose = {"worker": lease.worker_id, "token": lease.token}
    turn.change("closed", done, None, data={"reason": params["reason"], "by": credential.name}, **whose)
    turn.ripple()
    return {"bead": turn.wire(n)}


def reopen(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    n = find(turn, params["id"])
    bead, body = turn.row(n)
    opened = bead_rules.reopen(bead, turn.state(n))
    labels = [label for label in record.body_fields(body).get("labels", []) if label != DEAD_LETTER_LABEL]
    shape = record.reshape(bead.id, body, {"labels": labels or None})
    turn.change("reopened", opened, shape=shape, data={"by": credential.name})
    turn.ripple()
    return {"bead": turn.wire(n)}


def comment(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    n = find(turn, params["id"])
    bead, body = turn.row(n)
    comments = record.body_fields(body).get("comments", [])
    said = {
        "id": f"c-{turn.seq + 1}",
        "issue_id": bead.id,
        "author": credential.name,
        "text": params["text"],
        "created_at": turn.now_text,
    }
    shape = _reshape(bead, body, {"comments": [*comments, said]})
    turn.change("commented", bead, shape=shape, data={"text": params["text"], "by": credential.name})
    return {"bead": turn.wire(n)}


# ---------------------------------------------------------------- edges


def depend(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    n, _ = find(turn, params["from"]), find(turn, params["to"])
    bead, body = turn.row(n)
    edge = Edge(params["to"], record.edge_kind_spelling(params["kind"]))
    dependencies = record.body_fields(body).get("dependencies", [])
    if not any((old["depends_on_id"], old["type"]) == edge[:2] for old in dependencies):
        graph.refuse_cycle(turn, {bead.id: [edge]})
        fresh = new_edge(turn, bead.id, edge, credential.name)
        shape = record.reshape(bead.id, body, {"dependencies": [*dependencies, fresh]})
        _change_edges(turn, "edge_added", bead, shape, edge)
    return {"bead": turn.wire(n)}


def undepend(turn: Turn, _: Credential, params: dict[str, Any]) -> dict[str, Any]:
    n = find(turn, params["from"])
    bead, body = turn.row(n)
    edge = Edge(params["to"], record.edge_kind_spelling(params["kind"]))
    dependencies = record.body_fields(body).get("dependencies", [])
    left = [old for old in dependencies if (old["depends_on_id"], old["type"]) != edge[:2]]
    if len(left) != len(dependencies):
        shape = record.reshape(bead.id, body, {"dependencies": left or None})
        _change_edges(turn, "edge_removed", bead, shape, edge)
    return {"bead": turn.wire(n)}


def _change_edges(turn: Turn, kind: str, bead: Bead, shape: record.Shape, edge: Edge) -> None:
    turn.change(kind, bead, shape=shape, data={"to": edge.dst, "edge": edge.kind})
    turn.touch_edges(bead.n, parents=edge.kind == "parent-child")
    if edge.kind == "parent-child":
        turn.touch_waiters_on(edge.dst)
    turn.ripple()


# ---------------------------------------------------------------- read


def get(turn: Turn, _: Credential, params: dict[str, Any]) -> dict[str, Any]:
    return {"bead": turn.wire(find(turn, params["id"]))}


def past(turn: Turn, _: Credential, params: dict[str, Any]) -> dict[str, Any]:
    n = turn.store.find(params["id"])
    if n is None:
        raise Refused("not_found", "no such bead", what="bead", id=params["id"])
    return {"events": history.history(turn, n)}


COMMANDS: Final[dict[str, Handler]] = {
    "bead.create": create,
    "bead.update": update,
    "bead.close": close,
    "bead.reopen": reopen,
    "bead.comment": comment,
    "bead.depend": depend,
    "bead.undepend": undepend,
}
READS: Final[dict[str, Handler]] = {"bead.get": get, "bead.history": past}
