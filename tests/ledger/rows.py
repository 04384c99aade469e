"""Rows made from records, and what a ledger holds after an import: enough to ask the pure parts for a round trip."""

from hashlib import sha256
from typing import Any

from gastown.ledger.exporting import export_lines
from gastown.ledger.merging import ImportPlan, LocalBead, plan_import
from gastown.model import Bead, Lease
from gastown.record import Memory, Record

Rows = dict[str, LocalBead]


def row_of(record: Record, n: int = 1, **columns: Any) -> Bead:
    """A fresh row of the record; `columns` override."""
    fields = {key: value for key, value in record._asdict().items() if key in Bead._fields}
    derived = {"ended": 0, "hindered": 0, "state": "ready", "ready_ms": None, "wake_ms": None}
    counters = {"not_before_ms": None, "failures": 0, "losses": 0, "incarnation": 1, "version": 1, "last_seq": 1}
    ends = {"last_token": None, "last_end": None, "body_sha": sha256(record.body).digest()}
    return Bead(**{"n": n, **fields, **counters, **ends, **derived, **columns})


def lease_of(n: int = 1, **columns: Any) -> Lease:
    lease = Lease(
        n=n, worker_id="w1", worker_name="nux", token=7, attempt=2, ttl_ms=300_000, until_ms=0, lapsed=0,
        version=5, updated_ns=1_772_323_200_500_000_000, last_seq=9,
    )  # fmt: skip
    return lease._replace(**columns)


class Ledger:
    """Rows, memories and the token counter, as imports leave them."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.memories: dict[str, Memory] = {}
        self.token_high = 0

    def take(self, text: bytes, skip_bad: bool = False) -> dict[str, Any]:
        plan: ImportPlan = plan_import(text, skip_bad)
        for decision in plan.decisions(self.rows.get):
            if decision.record is not None:
                lease = None if decision.local is None else decision.local.lease
                row = row_of(decision.record, len(self.rows) + 1)
                self.rows[decision.id] = LocalBead(row, decision.record.body, lease)
        self.memories |= {memory.key: memory for memory in plan.memories}
        self.token_high = max(self.token_high, plan.token_high)
        return plan.reply()

    def give(self) -> bytes:
        rows = [self.rows[name] for name in sorted(self.rows)]
        return b"".join(export_lines(rows, self.memories.values(), self.token_high))


def after(text: bytes) -> Ledger:
    ledger = Ledger()
    ledger.take(text)
    return ledger
