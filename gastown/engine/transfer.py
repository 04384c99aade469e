"""ledger.*: JSONL in and out, inside the engine's transactions.

Law: an import is one turn with one instant; a bad line refuses it whole. Decisions are ledger/merging.py's, this file
only carries them out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

from .. import record
from ..ledger import exporting
from ..ledger.merging import Decision, ImportPlan, LocalBead
from ..model import REPLY_BYTES_MAX, Bead, Credential, Lease, Refused
from ..rules import lease as lease_rules
from ..store import Store, sha
from . import beads
from .turn import Turn
from .work import Handler

ROWS_AT_ONCE: Final = 256  # rows of an import held in memory between two writes: a large file must not fill it
EXPORT_BYTES_MAX: Final = REPLY_BYTES_MAX - (64 << 10)  # room for the envelope


# ---------------------------------------------------------------- in


def carry_out(turn: Turn, plan: ImportPlan) -> dict[str, Any]:
    """Apply every decision of the plan; -> the result of ledger.import."""

    def lookup(bead_id: str) -> LocalBead | None:
        n = turn.store.find(bead_id)
        return None if n is None else LocalBead(*turn.row(n), turn.lease(n))

    for number, decision in enumerate(plan.decisions(lookup)):
        if decision.record is not None:
            _apply(turn, decision, decision.record)
        if number % ROWS_AT_ONCE == 0:
            turn.flush_and_trim()
    turn.ripple(sys.maxsize)
    turn.memory.prefix = None
    for memory in plan.memories:
        _remember(turn, memory)
    if plan.token_high > turn.token_high:
        turn.note("imported", {"token_high": plan.token_high})
        turn.token_high = plan.token_high
    return plan.reply()


def _apply(turn: Turn, decision: Decision, fresh: record.Record) -> None:
    if decision.local is None:
        turn.create(fresh, "imported")
        return
    old, lease = decision.local.bead, decision.local.lease
    shape = record.Shape(fresh.body, fresh.labels, fresh.edges, fresh.flags, fresh.defer_ms)
    bead = old._replace(
        status=fresh.status, priority=fresh.priority, issue_type=fresh.issue_type, assignee=fresh.assignee,
        rig=fresh.rig, created_ns=fresh.created_ns, closed_at=fresh.closed_at, close_reason=fresh.close_reason,
    )  # fmt: skip
    if lease is not None and (bead.status, bead.assignee) != (old.status, old.assignee):
        beads.tell(turn, lease, old.id, "changed")
        bead, lease = lease_rules.end_by_others(bead, lease, "changed"), None
    if old.status == "closed" and bead.status != "closed":
        bead = bead._replace(incarnation=old.incarnation + 1, failures=0, losses=0, not_before_ms=None)
    kind = "deleted" if decision.kind == "deleted" else "imported"
    turn.touch_waiters_on_parents(bead.n)  # those it leaves, if its edges change
    turn.change(kind, bead, lease, shape, updated=fresh)
    turn.touch_edges(bead.n, parents=True)
    turn.touch_waiters_on_parents(bead.n)


def _remember(turn: Turn, memory: record.Memory) -> None:
    known = {key: json for key, json, _ in turn.store.many("memories")}
    if known.get(memory.key) != memory.json:
        seq = turn.note("imported", {"memory": memory.key, "sha": sha(memory.json)})
        turn.store.run("memory_put", memory.key, memory.json, seq)


# ---------------------------------------------------------------- out


def rows(store: Store) -> Iterator[tuple[Bead, bytes, Lease | None]]:
    """Every bead with its body and lease, by id."""
    leases = {row[0]: Lease._make(row) for row in store.many("leases_all")}
    for row in store.scan("bead_rows_all"):
        yield Bead._make(row[:-1]), row[-1], leases.get(row[0])


def lines(store: Store, token_high: int) -> Iterator[bytes]:
    """The canonical export, line by line."""
    memories = [record.Memory(key, json) for key, json, _ in store.many("memories")]
    return exporting.export_lines(rows(store), memories, token_high)


def export(turn: Turn, _: Credential, __: dict[str, Any]) -> dict[str, Any]:
    turn.flush()
    text = bytearray()
    for line in lines(turn.store, turn.token_high):
        text += line
        if len(text) > EXPORT_BYTES_MAX:
            raise Refused(
                "limit", "the ledger is larger than a reply: use GET /export.jsonl", limit="reply", max=REPLY_BYTES_MAX
            )
    return {"jsonl": text.decode()}


READS: Final[dict[str, Handler]] = {"ledger.export": export}
