"""What the engine keeps in memory: caches of ledger rows, and what only the living know (contacts, waiting claims).

Law: caches change through a turn alone and can be taken back by `undo`; a rebuild from the ledger gives the same.
Contacts and waiting claims are not ledger facts: they survive a failed turn.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ..model import SCOPES, Bead, Credential, Lease, Policy, Worker
from ..rules import bead as bead_rules
from ..rules import dispatch, scale
from ..rules.dispatch import Filter
from ..store import Store
from .index import Entry, Facet, ReadyIndex

ROWS_BYTES_MAX: Final = 8 << 20  # bodies kept for beads lately read; a lease's own completes without a read
TIMERS_SEEN: Final = 16  # timers looked at for retry_after_ms
CLAIMS_KEPT: Final = 1_000  # latencies that queue.stats' percentiles are taken of
ROW_OVERHEAD_BYTES: Final = 1_500  # about what a row costs beside its body


class Rows:
    """Rows lately read, oldest dropped first."""

    def __init__(self) -> None:
        self._rows: OrderedDict[int, tuple[Bead, bytes]] = OrderedDict()
        self._bytes = 0
        self.numbers: dict[str, int] = {}  # id -> row number, of the rows here
        self.get = self._rows.get

    def put(self, bead: Bead, body: bytes) -> None:
        old = self._rows.get(bead.n)
        self._rows[bead.n] = (bead, body)
        if old is None:
            self.numbers[bead.id] = bead.n
            self._bytes += len(body) + ROW_OVERHEAD_BYTES
        elif old[1] is not body:
            self._bytes += len(body) - len(old[1])

    def drop(self, n: int) -> None:
        bead, body = self._rows.pop(n)
        del self.numbers[bead.id]
        self._bytes -= len(body) + ROW_OVERHEAD_BYTES

    def trim(self) -> None:
        while self._bytes > ROWS_BYTES_MAX:
            self.drop(next(iter(self._rows)))

    def clear(self) -> None:
        self._rows.clear()
        self.numbers.clear()
        self._bytes = 0


@dataclass(slots=True, eq=False)
class Waiting:
    """A parked claim: everything that is needed to serve it later."""

    no: int  # place in line
    unit: Any
    credential: Credential
    worker_id: str
    asked: Filter
    limit: int
    ttl_ms: int
    until_ms: int
    began_s: float
    base: dict[str, Any] = field(default_factory=dict)  # what a completion before it has answered already
    key: bytes | None = None  # of its request_id
    digest: bytes | None = None


class Line:
    """Waiting claims, one queue per distinct filter, each in the order they began."""

    def __init__(self) -> None:
        self.by_filter: dict[Filter, OrderedDict[int, Waiting]] = {}
        self.by_unit: dict[int, Waiting] = {}
        self.by_key: dict[bytes, Waiting] = {}
        self.by_worker: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.by_unit)

    def add(self, waiting: Waiting) -> None:
        queue = self.by_filter.setdefault(waiting.asked, OrderedDict())
        back = bool(queue) and next(reversed(queue)) > waiting.no
        queue[waiting.no] = waiting
        if back:  # it was in line before: a repeated call, or a turn that failed
            self.by_filter[waiting.asked] = OrderedDict(sorted(queue.items()))
        self.by_unit[id(waiting.unit)] = waiting
        self.by_worker[waiting.worker_id] += 1
        if waiting.key is not None:
            self.by_key[waiting.key] = waiting

    def remove(self, waiting: Waiting) -> None:
        queue = self.by_filter[waiting.asked]
        del queue[waiting.no]
        if not queue:
            del self.by_filter[waiting.asked]
        del self.by_unit[id(waiting.unit)]
        self.by_worker[waiting.worker_id] -= 1
        if not self.by_worker[waiting.worker_id]:
            del self.by_worker[waiting.worker_id]
        if waiting.key is not None:
            del self.by_key[waiting.key]

    def holds(self, waiting: Waiting) -> bool:
        return self.by_unit.get(id(waiting.unit)) is waiting

    def heads(self) -> list[Waiting]:
        """The oldest of each filter, oldest first."""
        return sorted((next(iter(queue.values())) for queue in self.by_filter.values()), key=lambda w: w.no)

    def all(self) -> list[Waiting]:
        return sorted(self.by_unit.values(), key=lambda w: w.no)


class Due(NamedTuple):
    """A timer: `kind` is lease, bead, wall (a bead's, on the wall clock) or claim (`n` is then its place in line)."""

    at_ms: int
    kind: str
    n: int


class Memory:
    def __init__(self, store: Store, policy: Policy) -> None:
        self.store, self.policy = store, policy
        self.rows = Rows()
        self.index = ReadyIndex(self._members_of, self._facets_of)
        self.leases: dict[int, Lease] = {}
        self.held: dict[str, set[int]] = {}  # worker_id -> beads of its unsettled grants
        self.workers: dict[str, Worker] = {}
        self.seen_ms: dict[str, int] = {}  # worker_id -> last contact
        self.names: dict[str, str] = {}  # name -> worker_id of its newest registration
        self.counts: Counter[str] = Counter()  # beads by state
        self.paused: set[str] = set()
        self.line = Line()
        self.directives: dict[str, list[dict[str, Any]]] = {}  # worker_id -> losses its next beat reports
        self.renewed: dict[int, int] = {}  # bead -> town time of a renewal not yet written
        self.ends: deque[tuple[int, bool]] = deque(maxlen=scale.ENDS_WINDOW)
        self.advice: tuple[int, int] | None = None  # (when it changed, what it says)
        self.bead_max = 0
        self.prefix: str | None = None  # of minted ids, once it was looked up; an import may change it
        self.started_ms = 0
        self.recheck = False  # table recheck holds work
        self.tokens: dict[bytes, Credential] = {}  # SHA-256 of the secret -> who it is
        self.tokens_used: dict[str, int] = {}  # token id -> last use not yet written
        self.claims_s: deque[float] = deque(maxlen=CLAIMS_KEPT)
        self.timers: list[Due] = []
        self.wall_timers: list[Due] = []
        self.claim_timers: list[Due] = []
        self._undo: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    # ------------------------------------------------------------ from the ledger

    def rebuild(self) -> None:
        """Read every cache anew from the ledger."""
        one, many = self.store.one, self.store.many
        self.rows.clear()
        self.leases = {row[0]: Lease._make(row) for row in many("leases_all")}
        self.held = {}
        for lease in self.leases.values():
            self.held.setdefault(lease.worker_id, set()).add(lease.n)
        self.workers = {row[0]: Worker._make(row) for row in many("workers_all")}
        for worker in self.workers.values():
            self.seen_ms.setdefault(worker.id, worker.last_seen_ms)
        self.names = {worker.name: worker.id for worker in self.workers.values() if worker.gone_ms is None}
        self.paused = {row[0] for row in many("pauses")}
        self.bead_max = (one("bead_max") or (0,))[0]
        self.counts = Counter(dict(many("state_counts")))
        for lease in self.leases.values():
            bead, _ = self.store.load(lease.n)
            self.counts[bead.state] -= 1
            self.counts[bead_rules.state_of(bead, lease)] += 1
        self.tokens = {row[3]: Credential(row[0], row[2], row[1]) for row in many("tokens_all") if not row[6]}
        self.recheck = bool(many("recheck_some", 1))
        self.index.fill(self._ready_entries())
        self.timers = [Due(lease.until_ms, "lease", lease.n) for lease in self.leases.values() if not lease.lapsed]
        wakes = [(wake_ms, n) for n, wake_ms in many("wake_rows")]
        self.timers += [Due(at_ms, "bead", n) for at_ms, n in wakes]
        self.wall_timers = [Due(at_ms, "wall", n) for at_ms, n in wakes]
        heapq.heapify(self.timers)
        heapq.heapify(self.wall_timers)

    def _ready_entries(self) -> Iterable[Entry]:
        score = dispatch.score
        for n, bead_id, priority, issue_type, rig, created_ns, ready_ms in self.store.scan("ready_rows"):
            lease = self.leases.get(n)
            if lease is None or lease.lapsed:
                yield Entry(score(ready_ms, priority, self.policy), created_ns, bead_id, n, issue_type, rig)

    def _members_of(self, facet: Facet) -> Iterable[int]:
        query = "labelled" if facet.kind == "label" else "convoy_members"
        return [row[0] for row in self.store.scan(query, facet.value)]

    def _facets_of(self, n: int) -> Iterable[Facet]:
        labels = [Facet("label", row[0]) for row in self.store.scan("labels_of", n)]
        return labels + [Facet("convoy", row[0]) for row in self.store.scan("convoys_of", n)]

    # ------------------------------------------------------------ changes within a turn

    def undo(self) -> None:
        while self._undo:
            inverse, arguments = self._undo.pop()
            inverse(*arguments)
        self._drop_unborn()
        self.index.undo()
        self.rows.clear()

    def _drop_unborn(self) -> None:
        """Timers of beads whose birth was undone must never fire."""
        for heap in (self.timers, self.wall_timers):
            heap[:] = [due for due in heap if due.n <= self.bead_max]
            heapq.heapify(heap)

    def settle(self) -> None:
        """The turn was committed (or changed nothing): what it did stays."""
        self._undo.clear()
        self.index.settle()
        self.rows.trim()

    def on_undo(self, inverse: Callable[..., Any], *arguments: Any) -> None:
        self._undo.append((inverse, arguments))

    def count(self, before: str | None, after: str | None) -> None:
        if before == after:
            return
        counts = self.counts
        if before is not None:
            counts[before] -= 1
        if after is not None:
            counts[after] += 1
        self._undo.append((self._uncount, (before, after)))

    def _uncount(self, before: str | None, after: str | None) -> None:
        if before is not None:
            self.counts[before] += 1
        if after is not None:
            self.counts[after] -= 1

    def set_lease(self, n: int, lease: Lease | None) -> None:
        old = self.leases.get(n)
        if lease is None and n in self.renewed:
            self.take_renewed(n)
        self._set_lease(n, old, lease)
        self._undo.append((self._set_lease, (n, lease, old)))
        if lease is not None and not lease.lapsed:
            heapq.heappush(self.timers, Due(lease.until_ms, "lease", n))

    def _set_lease(self, n: int, old: Lease | None, new: Lease | None) -> None:
        if old is not None:
            self.held[old.worker_id].discard(n)
        if new is None:
            self.leases.pop(n, None)
            self.renewed.pop(n, None)
        else:
            self.leases[n] = new
            self.held.setdefault(new.worker_id, set()).add(n)

    def pop_timer(self, heap: list[Due]) -> Due:
        """The earliest timer; it is there again if the turn fails."""
        due = heapq.heappop(heap)
        self._undo.append((heapq.heappush, (heap, due)))
        return due

    def take_renewed(self, n: int) -> None:
        """The renewal is being written; if the turn fails it waits on."""
        self._undo.append((self.renewed.setdefault, (n, self.renewed.pop(n))))

    def set_worker(self, worker: Worker | None, old: Worker | None) -> None:
        """`old` gives way to `worker`; one of them may be None."""
        self._set_worker(worker, old)
        self._undo.append((self._set_worker, (old, worker)))

    def _set_worker(self, new: Worker | None, old: Worker | None) -> None:
        if new is None:
            assert old is not None
            self.workers.pop(old.id, None)
            if self.names.get(old.name) == old.id:
                del self.names[old.name]
            return
        self.workers[new.id] = new
        if new.gone_ms is None:
            self.names[new.name] = new.id
        elif self.names.get(new.name) == new.id:
            del self.names[new.name]

    def add_token(self, digest: bytes, credential: Credential) -> None:
        self.tokens[digest] = credential
        self._undo.append((self.tokens.pop, (digest,)))

    def drop_token(self, digest: bytes) -> None:
        credential = self.tokens.pop(digest)
        self._undo.append((self.tokens.__setitem__, (digest, credential)))

    def forget_convoy(self, convoy_id: str) -> None:
        """Its beads changed: the facet is built anew, now and again if the turn fails."""
        facet = Facet("convoy", convoy_id)
        self.index.forget(facet)
        self._undo.append((self.index.forget, (facet,)))

    def place(self, bead: Bead, lease: Lease | None, relabelled: bool = False) -> None:
        """Put the bead where it belongs in the ready index, and its timer. `relabelled`: its labels may be others."""
        if bead.ready_ms is None or (lease is not None and not lease.lapsed):
            entry = None
        else:
            score, created_ns, bead_id = dispatch.order_key(bead, self.policy)
            entry = Entry(score, created_ns, bead_id, bead.n, bead.issue_type, bead.rig)
        self.index.place(bead.n, entry, relabelled)
        if bead.wake_ms is not None:
            if bead.wake_ms == bead.not_before_ms:  # a deferral may end at the same number: then both clocks are asked
                heapq.heappush(self.timers, Due(bead.wake_ms, "bead", bead.n))
            heapq.heappush(self.wall_timers, Due(bead.wake_ms, "wall", bead.n))

    # ------------------------------------------------------------ questions

    def claim_ms(self) -> dict[str, float]:
        """P50, P95 and P99 of the latest claims that found work, in milliseconds."""
        ranked = sorted(self.claims_s)
        at = {f"p{p}": ranked[min(len(ranked) - 1, len(ranked) * p // 100)] if ranked else 0.0 for p in (50, 95, 99)}
        return {key: round(seconds * 1000, 3) for key, seconds in at.items()}

    def live_leases(self) -> int:
        return self.counts["leased"]

    def is_paused(self, rig: str) -> bool:
        return "*" in self.paused or rig in self.paused

    def next_ready_ms(self, wall_now_ms: int, now_ms: int, fits: Callable[[int], bool]) -> int | None:
        """When time may next make a bead claimable that `fits`: a deadline, the end of a backoff or of a deferral.

        Looks at the first few timers; past those the next one's time stands in, which is early, never late.
        """
        found = []
        for heap, shift_ms in ((self.timers, 0), (self.wall_timers, now_ms - wall_now_ms)):
            self._drop_stale(heap)
            hit = heap[0] if heap and fits(heap[0].n) else None
            if heap and hit is None:
                near = heapq.nsmallest(TIMERS_SEEN, heap)
                hit = next((due for due in near if fits(due.n)), near[-1] if len(near) == TIMERS_SEEN else None)
            if hit is not None:
                found.append(hit.at_ms + shift_ms)
        return min(found, default=None)

    def _drop_stale(self, heap: list[Due]) -> None:
        """Timers are not taken back when what they watch is gone or was renewed: mend those at the top."""
        while heap:
            due = heap[0]
            lease = self.leases.get(due.n)
            if due.kind != "lease":
                if lease is None or lease.lapsed:
                    return
            elif lease is not None and not lease.lapsed:
                if lease.until_ms <= due.at_ms:
                    return
                heapq.heappush(heap, Due(lease.until_ms, "lease", due.n))
            self.pop_timer(heap)

    def next_due_ms(self, wall_now_ms: int, now_ms: int) -> int | None:
        """The town time of the next timer of either clock."""
        due = [heap[0].at_ms for heap in (self.timers, self.claim_timers) if heap]
        if self.wall_timers:
            due.append(now_ms + max(0, self.wall_timers[0].at_ms - wall_now_ms))
        return min(due, default=None)


def scope_at_least(credential: Credential, scope: str) -> bool:
    return SCOPES[credential.scope] >= SCOPES[scope]
