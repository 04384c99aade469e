"""One turn: a single `now`, many commands, one transaction.

Law: `change` is the only way an event comes to be, and an event the only way a version grows. Derived columns
(readiness) may be rewritten without an event by `ripple`. Rows are cached and written together; graph questions see
them flushed first.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, Final

import orjson

from .. import record
from ..model import (
    BLOCKING_KINDS,
    DEAD_LETTER_LABEL,
    EDGES,
    TICK_MAX,
    Bead,
    Event,
    Lease,
    Refused,
)
from ..rules import bead as bead_rules
from ..rules import lease as lease_rules
from ..rules.bead import Around, Now
from ..store import Store, Tip, bead_image, lease_image, sha
from .memory import Memory, Waiting

MISSING: Final = object()


class Turn:
    def __init__(self, memory: Memory, store: Store, now: Now, epoch: int, token_high: int) -> None:
        self.memory, self.store, self.now, self.epoch = memory, store, now, epoch
        self.seq = store.tip.seq
        self.token_high = token_high
        self.now_ns = now.ms * 1_000_000
        self.now_text = record.instant_text(self.now_ns)
        self.events: list[Event] = []
        self.replays: dict[bytes, tuple[bytes, bytes]] = {}  # key of the request_id -> digest, reply
        self.lapses = 0
        self.dismissed: list[tuple[Waiting, Refused | None]] = []
        self._was: dict[int, int] = {}  # bead -> last_seq of its row in the ledger
        self._leases: dict[int, int | None] = {}  # bead -> token in the ledger before this turn
        self._ripples: dict[int, bool] = {}  # bead -> whether its own edges must be looked at

    # ------------------------------------------------------------ rows

    def row(self, n: int) -> tuple[Bead, bytes]:
        """The bead and its body as of this moment of the turn."""
        found = self.memory.rows.get(n)
        if found is None:
            found = self.store.load(n)
            self.memory.rows.put(*found)
        return found

    def find(self, bead_id: str) -> int | None:
        """The row number of an id."""
        n = self.memory.rows.numbers.get(bead_id)
        return self.store.find(bead_id) if n is None else n

    def lease(self, n: int) -> Lease | None:
        return self.memory.leases.get(n)

    def state(self, n: int) -> str:
        return bead_rules.state_of(self.row(n)[0], self.lease(n))

    def wire(self, n: int) -> orjson.Fragment:
        """The bead as a reply shows it."""
        return orjson.Fragment(self.wire_bytes(n))

    def wire_bytes(self, n: int) -> bytes:
        bead, body = self.row(n)
        return record.wire_bead(bead, body, self.lease(n))

    def version(self, n: int) -> int:
        return lease_rules.version_of(self.row(n)[0], self.lease(n))

    # ------------------------------------------------------------ events

    def note(self, kind: str, data: dict[str, Any], worker: str | None = None) -> int:
        """An event of something that is not a bead; its id stands in `data`."""
        self.seq += 1
        text = orjson.dumps(data).decode()
        self.events.append(Event(self.seq, self.now.ms, self.epoch, kind, None, None, worker, None, text, None))
        return self.seq

    def create(self, fresh: record.Record, kind: str = "created", data: dict[str, Any] | None = None) -> int:
        """A new bead from a record; its readiness is decided by the ripple that follows. -> row number."""
        memory = self.memory
        memory.bead_max += 1
        memory.on_undo(self._unnumber)
        self.seq += 1
        bead = Bead(
            memory.bead_max, fresh.id, fresh.status, fresh.priority, fresh.issue_type, fresh.assignee, fresh.rig,
            fresh.created_ns, fresh.updated_ns, fresh.updated_text, fresh.closed_at, fresh.close_reason, fresh.flags,
            fresh.defer_ms, None, 0, 0, 0, 1, self.seq, None, None, sha(fresh.body), 0, 0, "parked", None, None,
        )  # fmt: skip
        bead = bead_rules.derive(bead, Around(), self.now, self.now.ms)
        self.store.run("bead_add", *bead)
        self.store.add_body(bead.n, fresh.body, fresh.labels, fresh.edges)
        memory.rows.put(bead, fresh.body)
        memory.count(None, bead.state)
        memory.place(bead, None)
        self._event(kind, bead, None, None, None, data)
        if fresh.edges:
            self._affect(bead.n, True)
        self._touch(bead)
        return bead.n

    def _unnumber(self) -> None:
        self.memory.bead_max -= 1

    def change(
        self,
        kind: str,
        bead: Bead,
        lease: Any = MISSING,
        shape: record.Shape | None = None,
        worker: str | None = None,
        token: int | None = None,
        data: dict[str, Any] | None = None,
        since_ms: int | None = None,
        updated: record.Record | None = None,
    ) -> Bead:
        """Make `bead` (built on `row(bead.n)`) the bead's row, with one event. `lease`: what its lease becomes.

        `shape` replaces its body; `updated` keeps an imported updated_at; `since_ms` is ready_since if it
        becomes ready.
        """
        old, body = self.row(bead.n)
        old_lease = self.lease(bead.n)
        new_lease: Lease | None = old_lease if lease is MISSING else lease
        prev, version, updated_ns = old.last_seq, old.version, old.updated_ns
        if old_lease is not None:
            prev, version = max(prev, old_lease.last_seq), max(version, old_lease.version)
            updated_ns = max(updated_ns, old_lease.updated_ns)
        self.seq += 1
        if shape is not None:
            body = shape.body
            bead = bead._replace(flags=shape.flags, defer_ms=shape.defer_ms, body_sha=sha(body))
            self.store.replace_body(bead.n, body, shape.labels, shape.edges)
        bead = bead._replace(
            version=version + 1,
            last_seq=self.seq,
            updated_ns=updated.updated_ns if updated else max(updated_ns, self.now_ns),
            updated_text=updated.updated_text if updated else None,
        )
        bead = bead_rules.derive(bead, self._around(bead), self.now, self.now.ms if since_ms is None else since_ms)
        self._put(old, bead, body, old_lease, new_lease, shape is not None)
        self._event(kind, bead, prev, worker, token, data)
        if bead.ended != old.ended or (bead.status != old.status and "tombstone" in (bead.status, old.status)):
            self._touch(bead)
        elif bead.defer_ms != old.defer_ms:
            for child in self._children(bead):
                self._affect(child, False)
        return bead

    def hold(self, kind: str, lease: Lease, bead: Bead, data: dict[str, Any] | None) -> None:
        """An event that lives in the lease row alone: a grant, or a renewal with a checkpoint."""
        old = self.lease(bead.n)
        prev = bead.last_seq if old is None else max(bead.last_seq, old.last_seq)
        self.seq += 1
        if lease.last_seq != self.seq:
            lease = lease._replace(last_seq=self.seq)
        before = bead_rules.state_of(bead, old)
        self._set_lease(bead.n, old, lease)
        self.memory.count(before, bead_rules.state_of(bead, lease))
        self.memory.place(bead, lease)
        text = orjson.dumps(data).decode() if data else None
        self.events.append(
            Event(
                self.seq, self.now.ms, self.epoch, kind, bead.n, prev, lease.worker_id, lease.token, text,
                lease_image(lease),
            )
        )  # fmt: skip

    def _set_lease(self, n: int, old: Lease | None, lease: Lease | None) -> None:
        self._leases.setdefault(n, old.token if old else None)
        self.memory.set_lease(n, lease)

    def _put(
        self, old: Bead, bead: Bead, body: bytes, old_lease: Lease | None, lease: Lease | None, relabelled: bool = False
    ) -> None:
        memory = self.memory
        self._was.setdefault(bead.n, old.last_seq)
        if lease is not old_lease:
            self._set_lease(bead.n, old_lease, lease)
        memory.rows.put(bead, body)
        memory.count(bead_rules.state_of(old, old_lease), bead_rules.state_of(bead, lease))
        memory.place(bead, lease, relabelled)

    def _event(
        self,
        kind: str,
        bead: Bead,
        prev: int | None,
        worker: str | None,
        token: int | None,
        data: dict[str, Any] | None,
    ) -> None:
        text = orjson.dumps(data).decode() if data else None
        self.events.append(
            Event(
                self.seq, self.now.ms, self.epoch, kind, bead.n, prev, worker, token, text, bead_image(bead)
            )
        )  # fmt: skip

    def annotate(self, kind: str, n: int, token: int | None, data: dict[str, Any], counts: bool = False) -> int:
        """An event beside the bead's own course; its version grows only if the event `counts` as a change."""
        old, body = self.row(n)
        lease = self.lease(n)
        prev = old.last_seq if lease is None else max(old.last_seq, lease.last_seq)
        self.seq += 1
        bead = old._replace(last_seq=self.seq, version=self.version(n) + 1 if counts else old.version)
        self._put(old, bead, body, lease, lease)
        self._event(kind, bead, prev, None, token, data)
        return self.seq

    def revive(self, bead: Bead, lease: Lease, data: dict[str, Any] | None = None) -> Bead:
        """A lapsed holder is back before anybody else was granted: in progress again, its loss taken back."""
        back = lease_rules.renew(lease, self.now.ms)
        worker = lease.worker_id
        return self.change("renewed", lease_rules.revive(bead), back, worker=worker, token=lease.token, data=data)

    def renew(self, n: int, lease: Lease) -> None:
        """A plain renewal: no event, no commit of its own; written with a later one."""
        self.memory.on_undo(self.memory.leases.__setitem__, n, self.memory.leases[n])
        self.memory.leases[n] = lease
        self.memory.renewed.setdefault(n, self.now.ms)

    def supersede(self, worker_id: str) -> None:
        """Waiting claims of a registration that has ended are told to register again."""
        gone = Refused("worker_unknown", "this worker_id was superseded or deregistered: call worker.register")
        self.dismissed += [(waiting, gone) for waiting in self._waiting_of(worker_id)]

    def dismiss(self, worker_id: str) -> None:
        """Waiting claims of a draining worker are answered with nothing."""
        self.dismissed += [(waiting, None) for waiting in self._waiting_of(worker_id)]

    def _waiting_of(self, worker_id: str) -> list[Waiting]:
        line = self.memory.line
        return [w for w in line.all() if w.worker_id == worker_id] if worker_id in line.by_worker else []

    def ended(self, ok: bool) -> None:
        """A grant came to its end: what the town's health is judged by."""
        self.memory.ends.append((self.now.ms, ok))

    def dead_letter(self, bead: Bead) -> record.Shape:
        """The bead's body with the label that says so."""
        body = self.row(bead.n)[1]
        labels = record.body_fields(body).get("labels", [])
        return record.reshape(bead.id, body, {"labels": sorted({*labels, DEAD_LETTER_LABEL})})

    # ------------------------------------------------------------ readiness

    def _around(self, bead: Bead) -> Around:
        if bead.status in ("closed", "tombstone"):
            return Around(bool(bead.hindered))
        if not bead.flags & EDGES:
            return Around(bool(bead.hindered))
        held_above, defer_ms = self._above(bead.n)
        return Around(bool(bead.hindered), held_above, defer_ms)

    def _above(self, n: int) -> tuple[bool, int]:
        """-> (an ancestor that has not ended is hindered, latest defer_until of direct parents)."""
        parents = self.store.many("parents", n)
        if not parents:
            return False, 0
        self.flush()
        parents = self.store.many("parents", n)
        defer_ms = max((defer or 0 for *_, defer in parents), default=0)
        seen, todo, held = {n}, parents, False
        while todo and not held:
            above, ended, hindered, _ = todo.pop()
            if above in seen or ended:
                continue
            seen.add(above)
            held = bool(hindered)
            todo += self.store.many("parents", above)
        return held, defer_ms

    def claim_ms(self) -> dict[str, float]:
        """Percentiles of how long claims took, for queue.stats."""
        return self.memory.claim_ms()

    def _hindered(self, n: int) -> bool:
        """Whether an edge of its own holds the bead. Asks the ledger; flush first."""
        for kind, any_children, target, ended, status in self.store.many("blockers", n):
            if kind in BLOCKING_KINDS and not ended:
                return True
            if kind == "waits-for" and status != "tombstone":
                occurring = {row[0] for row in self.store.many("children_by_ended", target)}
                if (occurring and 1 not in occurring) if any_children else 0 in occurring:
                    return True
        return False

    def _touch(self, bead: Bead) -> None:
        """The bead came, went or ended: whoever names it decides its readiness anew."""
        for src, kind in self.store.many("edges_to", bead.id):
            if kind in BLOCKING_KINDS or kind == "waits-for":
                self._affect(src, True)
            elif kind == "parent-child":
                self._affect(src, False)
                self._below(self.row(src)[0])
        if bead.flags & EDGES:
            self.touch_waiters_on_parents(bead.n)

    def _affect(self, n: int, direct: bool) -> None:
        self._ripples[n] = self._ripples.get(n, False) or direct

    def _children(self, bead: Bead) -> list[int]:
        return [row[0] for row in self.store.many("children", bead.id)]

    def _below(self, bead: Bead) -> None:
        """Every descendant: what holds an ancestor holds them."""
        todo, seen = self._children(bead), {bead.n}
        while todo:
            n = todo.pop()
            if n not in seen:
                seen.add(n)
                self._affect(n, False)
                todo += self._children(self.row(n)[0])

    def touch_waiters_on_parents(self, n: int) -> None:
        for dst, kind, _ in self.store.many("edges_of", n):
            if kind == "parent-child":
                self.touch_waiters_on(dst)

    def touch_waiters_on(self, target: str) -> None:
        for src, kind in self.store.many("edges_to", target):
            if kind == "waits-for":
                self._affect(src, True)

    def touch_edges(self, n: int, parents: bool) -> None:
        """The bead's own edges changed; with its `parents` the ancestors of all below it did."""
        self._affect(n, True)
        if parents:
            self._below(self.row(n)[0])

    def recheck_some(self) -> bool:
        """Take up readiness that an earlier turn left over; -> whether there was any."""
        left = self.store.many("recheck_some", TICK_MAX // 2)
        for (n,) in left:
            self.store.run("recheck_drop", n)
            self._affect(n, True)
        self.ripple()
        return bool(left)

    def ripple(self, at_most: int = TICK_MAX) -> None:
        """Decide readiness anew where this command's changes reach; what is too much waits in table recheck."""
        while self._ripples and at_most:
            n, direct = self._ripples.popitem()
            at_most -= 1
            self.flush_and_trim()
            self._recheck(n, direct)
        if self._ripples:
            self.store.run_each("recheck_add", [(n,) for n in self._ripples])
            self._ripples.clear()
            self.memory.recheck = True

    def _recheck(self, n: int, direct: bool) -> None:
        old, body = self.row(n)
        bead = old._replace(hindered=int(self._hindered(n))) if direct else old
        bead = bead_rules.derive(bead, self._around(bead), self.now, self.now.ms)
        if bead == old:
            return
        lease = self.lease(n)
        self._put(old, bead, body, lease, lease)
        if bead.hindered != old.hindered:
            self._below(bead)

    def wake(self, n: int) -> None:
        """A timer of the bead came due: it, and its children, may be ready since the instant they waited for."""
        for one in (n, *self._children(self.row(n)[0])):
            old, body = self.row(one)
            # the row's own instant, not the timer's: that may be one of an earlier backoff
            since_ms = max(old.wake_ms or 0, old.not_before_ms or 0) or self.now.ms
            bead = bead_rules.derive(old, self._around(old), self.now, min(since_ms, self.now.ms))
            if bead != old:
                lease = self.lease(one)
                self._put(old, bead, body, lease, lease)

    # ------------------------------------------------------------ writing

    def flush_and_trim(self) -> None:
        """Written rows need not stay in memory."""
        self.flush()
        self.memory.rows.trim()

    def flush(self) -> None:
        """Write the changed rows, so that questions to the ledger see them."""
        if self._was:
            rows = [(was, self.row(n)[0]) for n, was in self._was.items()]
            self._was.clear()
            self.store.save_beads(rows)

    def _renewed(self) -> list[Lease]:
        """Renewals that waited for a commit, a bounded number."""
        numbers = list(islice(self.memory.renewed, TICK_MAX))
        for n in numbers:
            self.memory.take_renewed(n)
        return [self.memory.leases[n] for n in numbers if n not in self._leases and n in self.memory.leases]

    def save(self) -> Tip | None:
        """Write everything; -> the new tip, or None if no event came to be."""
        self.flush()
        puts, drops = [], []
        for n, before in self._leases.items():
            lease = self.memory.leases.get(n)
            if lease is not None:
                puts.append(lease)
            elif before is not None:
                drops.append((n, before))
        renewed = [(lease.until_ms, lease.n, lease.token) for lease in self._renewed()]
        if renewed:
            self.store.run_each("lease_renew", renewed)
        if puts:
            self.store.run_each("lease_put", puts)
        if drops:
            self.store.run_each("lease_drop", drops)
        self._leases.clear()
        if not self.events:
            return None
        return self.store.seal(self.events, self.now.ms, self.token_high)
