"""The one that decides: runs a turn of many calls against ledger and memory, synchronously.

Law: nothing awaits while state changes. `run` leaves its transaction open with everything written; whoever called it
commits (on any one thread) and then says `committed` or `abort`. A reply is used only after `committed`.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from ..model import RETRY_AFTER_MS_MIN, SLEEP_MS_MAX, TICK_MAX, UNIX, Credential, Event, Policy, Refused
from ..rules import lease as lease_rules
from ..rules import worker as worker_rules
from ..rules.bead import Now
from ..store import Store, Tip, is_storage_fault
from . import beads, imports, listing, town, transfer, work, workers
from .memory import Due, Memory, Waiting
from .replays import SeenKeys
from .turn import Turn
from .work import Handler, Park

DAY_MS: Final = 24 * 3_600_000
REQUESTS_MAX: Final = 1_000_000  # replays kept; about 2 KB each at worst
COMMANDS: Final[dict[str, Handler]] = {
    **work.COMMANDS, **beads.COMMANDS, **workers.COMMANDS, **town.COMMANDS, **imports.COMMANDS,
}  # fmt: skip
READS: Final[dict[str, Handler]] = {
    **beads.READS, **listing.READS, **workers.READS, **town.READS, **transfer.READS,
}  # fmt: skip
CREATES: Final = frozenset(("bead.create", "convoy.create", "ledger.import", "token.create"))  # refused on a full disk
Outcome = dict[str, Any] | Refused


@dataclass(slots=True, eq=False)
class Unit:
    """What came together: a call or a batch. `deliver` gets an outcome a call, after the commit, on the loop."""

    calls: Sequence[Any]
    credential: Credential
    batch: bool
    deliver: Callable[[list[Outcome]], bool]
    began_s: float = 0.0
    parked: bool = False  # its claim waited for work


@dataclass(slots=True)
class Decided:
    """A turn that has been written but not committed."""

    replies: list[tuple[Unit, list[Outcome]]] = field(default_factory=list)
    tip: Tip | None = None
    dirty: bool = False
    events: list[Event] = field(default_factory=list)
    token_high: int = 0
    lapses: int = 0
    rows: int = 0


class Coordinator:
    def __init__(self, store: Store, policy: Policy, requests_max: int = REQUESTS_MAX) -> None:
        self.store, self.policy = store, policy
        self.memory = Memory(store, policy)
        self.epoch = 0
        self.token_high = store.tip.token_high
        self.draining = False
        self.storage_low = False
        self.requests_max = requests_max
        self._requests = 0
        self._seen_keys = SeenKeys()
        self._day = 0
        self._line_no = 0
        self._seen_changes = -1

    # ------------------------------------------------------------ life

    def start(self, now: Now, boot: dict[str, Any]) -> Decided:
        """Take the ledger: epoch + 1 in one event, a fresh ttl for every live lease. `boot`: clock settings to keep."""
        last = self.store.setting("epoch") or 0
        self.store.conn.execute("BEGIN IMMEDIATE")
        self.epoch = last + 1
        for key, value in {"epoch": self.epoch, **boot}.items():
            self.store.run("setting_put", key, value)
        self.memory.rebuild()
        self.memory.started_ms = now.ms
        self.memory.seen_ms = dict.fromkeys(self.memory.workers, now.ms)
        self._requests = (self.store.one("request_count") or (0,))[0]
        self._seen_keys = SeenKeys(row[0] for row in self.store.scan("request_keys"))
        self._day = now.ms // DAY_MS
        turn = self.turn(now)
        self.refresh_leases(now)
        turn.note("epoch", {"body": "python"})
        return self.finish(turn, Decided(dirty=True))

    def refresh_leases(self, now: Now) -> None:
        """After an outage of ours, or a sleep of the machine, nobody's deadline may have passed meanwhile."""
        for n, lease in self.memory.leases.items():
            if not lease.lapsed:
                self.memory.leases[n] = lease_rules.renew(lease, now.ms)
                self.memory.renewed.setdefault(n, now.ms)

    def turn(self, now: Now) -> Turn:
        return Turn(self.memory, self.store, now, self.epoch, self.token_high)

    # ------------------------------------------------------------ a turn

    def run(self, units: Sequence[Unit], now: Now) -> Decided:
        """Decide all that is due, and every unit in order. A unit that breaks is answered alone with `internal`."""
        try:
            return self._run(units, now)
        except Exception as error:
            self.abort()
            if len(units) <= 1 or is_storage_fault(error):
                raise
        done = Decided()
        for unit in units:
            self._alone(unit, now, done)
        return done

    def _alone(self, unit: Unit, now: Now, done: Decided) -> None:
        """One unit in a transaction of its own, committed here: the way to find the one that broke a turn."""
        try:
            decided = self._run([unit], now)
            self.store.commit()
            self.committed(decided)
        except Exception as error:
            self.abort()
            if is_storage_fault(error):
                raise
            decided = Decided([(unit, [broken() for _ in unit.calls])])
        done.replies += decided.replies
        done.events = [*done.events, *decided.events]

    def _run(self, units: Sequence[Unit], now: Now) -> Decided:
        changes = self.store.conn.total_changes
        turn = self.turn(now)
        done = Decided()
        if self._due(now) or any(call.method in COMMANDS for unit in units for call in unit.calls):
            self.store.begin(self.epoch)
            self._tick(turn, done)
        for unit in units:
            self._unit(turn, unit, done)
        self._dismiss(turn, done)
        self._serve_waiting(turn, done)
        done = self.finish(turn, done)
        done.dirty = self.store.conn.total_changes != changes
        done.rows = self.store.conn.total_changes - changes
        if not done.dirty:
            self.store.rollback()
            self.committed(done)
        return done

    def finish(self, turn: Turn, done: Decided) -> Decided:
        query = "request_put_odd" if self._day % 2 else "request_put_even"
        if turn.replays:
            self.store.run_each(query, [(key, *kept) for key, kept in turn.replays.items()])
        done.tip = turn.save()
        done.token_high = turn.token_high
        done.events = turn.events
        done.lapses = turn.lapses
        return done

    def id_of(self, n: int | None) -> str | None:
        """The id of a bead by its row number, after the commit."""
        if n is None:
            return None
        row = self.memory.rows.get(n) or self.store.load(n)
        return row[0].id

    def committed(self, done: Decided) -> None:
        """The transaction is on the disk: its replies may go out."""
        if done.tip is not None:
            self.store.tip = done.tip
            self.token_high = done.token_high
        self.memory.settle()

    def abort(self) -> None:
        """The transaction is undone, in the ledger and in memory."""
        self.store.rollback()
        self.memory.undo()

    # ------------------------------------------------------------ calls

    def _unit(self, turn: Turn, unit: Unit, done: Decided) -> None:
        if not unit.batch:
            outcome = self._call(turn, unit, unit.calls[0], done)
            if outcome is not None:
                done.replies.append((unit, [outcome]))
            return
        outcomes = [self._call(turn, unit, call, done) for call in unit.calls]
        done.replies.append((unit, [outcome for outcome in outcomes if outcome is not None]))

    def _call(self, turn: Turn, unit: Unit, call: Any, done: Decided) -> Outcome | None:
        """The outcome of one call, None while it waits."""
        if call.refused is not None:
            refused: Refused = call.refused
            return refused
        try:
            if call.method in COMMANDS:
                return self._command(turn, unit, call, done)
            return dict(READS[call.method](turn, unit.credential, call.params))
        except Refused as refused:
            return refused

    def _command(self, turn: Turn, unit: Unit, call: Any, done: Decided) -> Outcome | None:
        key = request_key(unit.credential, call.request_id) if call.request_id is not None else None
        if key is not None:
            if (twin := self.memory.line.by_key.get(key)) is not None:
                return self._take_place(turn, twin, unit, call)
            kept = turn.replays.get(key)
            if kept is None and self._seen_keys.may_hold(key):
                kept = self.store.one("request_get", key)
            if kept is not None:
                return replayed(kept, call.digest)
        self._check_open(call.method, key)
        before = turn.seq
        result = COMMANDS[call.method](turn, unit.credential, call.params)
        if isinstance(result, Park):
            result = self._seek(turn, result, done)
        if isinstance(result, Park):
            if turn.seq > before and key is not None:
                self._remember(turn, key, call.digest, result.base | work.nothing(turn, result.asked))
            self._park(turn, result, unit, key, call.digest)
            return None
        sealed = seal(turn, result)
        if key is not None and turn.seq > before:
            self._remember(turn, key, call.digest, sealed)
        return sealed

    def _seek(self, turn: Turn, park: Park, done: Decided) -> dict[str, Any] | Park:
        """What a claim finds now, after those who wait: whoever came before goes before."""
        self._dismiss(turn, done)
        self._serve_waiting(turn, done)
        return work.serve(turn, park)

    def _check_open(self, method: str, key: bytes | None) -> None:
        if self.draining:
            raise Refused("draining", "the coordinator is stopping: try again", retry_after_ms=RETRY_AFTER_MS_MIN)
        if key is not None and self._requests >= self.requests_max:
            raise Refused(
                "backpressure", "the table of request ids is full: try again later",
                retry_after_ms=RETRY_AFTER_MS_MIN * 10, queue_depth=self._requests,
            )  # fmt: skip
        if self.storage_low and method in CREATES:
            raise Refused("storage_low", "the disk is nearly full: nothing new is taken, completions still are")

    def _remember(self, turn: Turn, key: bytes, digest: bytes, result: dict[str, Any]) -> None:
        if "seq" not in result:
            result = seal(turn, result)
        if key not in turn.replays:
            self._count_requests(self._requests + 1)
            self._seen_keys.add(key)
        turn.replays[key] = (digest, orjson.dumps(result))

    def _count_requests(self, kept: int) -> None:
        self.memory.on_undo(setattr, self, "_requests", self._requests)
        self._requests = kept

    # ------------------------------------------------------------ waiting claims

    def _park(self, turn: Turn, park: Park, unit: Unit, key: bytes | None, digest: bytes | None) -> None:
        self._line_no += 1
        waiting = Waiting(
            self._line_no, unit, unit.credential, park.worker_id, park.asked, park.limit, park.ttl_ms,
            turn.now.ms + park.wait_ms, unit.began_s, park.base, key, digest,
        )  # fmt: skip
        self._enter(waiting)

    def _enter(self, waiting: Waiting) -> None:
        line = self.memory.line
        waiting.unit.parked = True
        line.add(waiting)
        self.memory.on_undo(lambda: line.remove(waiting) if line.holds(waiting) else None)
        heapq.heappush(self.memory.claim_timers, Due(waiting.until_ms, "claim", waiting.no))
        self._seen_changes = -1

    def _leave(self, waiting: Waiting) -> None:
        line = self.memory.line
        line.remove(waiting)
        self.memory.on_undo(lambda: line.add(waiting))

    def _take_place(self, turn: Turn, twin: Waiting, unit: Unit, call: Any) -> Outcome | None:
        """The same call again while the first waits: it takes the first's place, and the first is answered nothing."""
        if twin.digest != call.digest:
            return reused()
        wanted = call.params.get("claim") or call.params
        self._leave(twin)
        turn.dismissed.append((twin, None))
        self._enter(
            Waiting(
                twin.no, unit, unit.credential, twin.worker_id, twin.asked, twin.limit, twin.ttl_ms,
                turn.now.ms + wanted["wait_ms"], unit.began_s, twin.base, twin.key, twin.digest,
            )
        )  # fmt: skip
        return None

    def _dismiss(self, turn: Turn, done: Decided) -> None:
        """Answer waiting claims whose worker ended, drains, or whose twin took their place."""
        for waiting, refused in turn.dismissed:
            if self.memory.line.holds(waiting):
                self._leave(waiting)
            answer: Outcome = (
                refused if refused is not None else seal(turn, waiting.base | work.nothing(turn, waiting.asked))
            )
            done.replies.append((waiting.unit, [answer]))
        turn.dismissed.clear()

    def _serve_waiting(self, turn: Turn, done: Decided) -> None:
        """Hand what is ready to whoever waits longest for it."""
        memory = self.memory
        if self._seen_changes == memory.index.changes or not len(memory.line):
            return
        served = True
        while served and len(memory.line) and len(memory.index.entries):
            served = any(self._serve_one(turn, waiting, done) for waiting in memory.line.heads())
        self._seen_changes = memory.index.changes

    def _serve_one(self, turn: Turn, waiting: Waiting, done: Decided) -> bool:
        if not work.pick(turn, waiting.asked, 1):
            return False
        if not self.store.conn.in_transaction:
            self.store.begin(self.epoch)
        numbers = work.pick(turn, waiting.asked, waiting.limit)
        worker = self.memory.workers[waiting.worker_id]
        claims = [work.grant(turn, worker, n, waiting.ttl_ms) for n in numbers]
        self._leave(waiting)
        self.memory.seen_ms[worker.id] = turn.now.ms
        result = seal(turn, waiting.base | {"claims": claims})
        if waiting.key is not None and waiting.digest is not None:
            self._replace_reply(turn, waiting.key, waiting.digest, result)
        done.replies.append((waiting.unit, [result]))
        return True

    def _replace_reply(self, turn: Turn, key: bytes, digest: bytes, result: dict[str, Any]) -> None:
        """A completion's reply was kept without its claim: now it is whole, wherever it was kept."""
        text = orjson.dumps(result)
        for query in ("request_put_again_even", "request_put_again_odd"):
            if self.store.run(query, text, key):
                turn.replays.pop(key, None)
                return
        self._remember(turn, key, digest, result)

    def hang_up(self, unit: Unit) -> None:
        """The peer of a waiting claim is gone."""
        waiting = self.memory.line.by_unit.get(id(unit))
        if waiting is not None:
            self.memory.line.remove(waiting)

    def drain(self, now: Now) -> list[tuple[Unit, list[Outcome]]]:
        """Stop: no more writes; every waiting claim is answered with nothing."""
        self.draining = True
        turn = self.turn(now)
        waiting = self.memory.line.all()
        for one in waiting:
            self.memory.line.remove(one)
        return [(one.unit, [seal(turn, one.base | work.nothing(turn, one.asked))]) for one in waiting]

    def give_back(self, unit: Unit, outcomes: list[Outcome]) -> Unit | None:
        """The unit that releases grants nobody received; None where a request_id keeps them for the retry."""
        if any(call.request_id is not None for call in unit.calls):
            return None
        claims = [claim for outcome in outcomes if isinstance(outcome, dict) for claim in outcome.get("claims", ())]
        leases = [claim["lease"] for claim in claims]
        calls = [Undelivered({"bead_id": lease["bead_id"], "token": lease["token"]}) for lease in leases]
        return Unit(calls, UNIX, True, lambda _: True) if calls else None

    # ------------------------------------------------------------ deadlines

    def _due(self, now: Now) -> bool:
        memory = self.memory
        return bool(
            any(heap and heap[0].at_ms <= now.ms for heap in (memory.timers, memory.claim_timers))
            or (memory.wall_timers and memory.wall_timers[0].at_ms <= now.wall_ms)
            or memory.recheck
            or now.ms // DAY_MS != self._day
            or self._renewals_due(now)
        )

    def _renewals_due(self, now: Now) -> bool:
        oldest = next(iter(self.memory.renewed.values()), None)
        return oldest is not None and now.ms - oldest >= self.policy.ttl_ms_min // 2

    def _tick(self, turn: Turn, done: Decided) -> None:
        """Do what is due: lapses, wake-ups, waiting claims whose time is over, left-over rechecks, old replays."""
        memory, now = self.memory, turn.now
        heaps = ((memory.timers, now.ms), (memory.wall_timers, now.wall_ms), (memory.claim_timers, now.ms))
        for heap, at_ms in heaps:
            for _ in range(TICK_MAX):
                if not heap or heap[0].at_ms > at_ms:
                    break
                self._fire(turn, memory.pop_timer(heap), done)
        turn.ripple()
        if memory.recheck:
            memory.recheck = turn.recheck_some()
        if now.ms // DAY_MS != self._day:
            self._next_day(now)

    def _fire(self, turn: Turn, due: Due, done: Decided) -> None:
        if due.kind == "lease":
            self._lapse(turn, due.n)
        elif due.kind == "claim":
            for waiting in self.memory.line.all():
                if waiting.no == due.n and waiting.until_ms <= turn.now.ms:
                    self._leave(waiting)
                    self.memory.seen_ms[waiting.worker_id] = turn.now.ms
                    done.replies.append((waiting.unit, [seal(turn, waiting.base | work.nothing(turn, waiting.asked))]))
        else:
            turn.wake(due.n)

    def _lapse(self, turn: Turn, n: int) -> None:
        lease = self.memory.leases.get(n)
        if lease is None or lease.lapsed:
            return
        if not lease_rules.is_due(lease, turn.now.ms):
            heapq.heappush(self.memory.timers, Due(lease.until_ms, "lease", n))
            return
        bead = turn.row(n)[0]
        lapsed, left = lease_rules.lapse(bead, lease, self.policy)
        shape = turn.dead_letter(bead) if left is None else None
        turn.change(
            "lapsed",
            lapsed,
            left,
            shape,
            lease.worker_id,
            lease.token,
            data={"losses": lapsed.losses},
            since_ms=lease.until_ms,
        )
        turn.lapses += 1
        turn.ended(False)
        if left is None:
            turn.annotate("dead_lettered", n, None, {"losses": lapsed.losses}, counts=True)
            beads.tell(turn, lease, bead.id, "changed")

    def _next_day(self, now: Now) -> None:
        """Replays older than a day are dropped whole: the table of today was last filled two days ago."""
        self.memory.on_undo(setattr, self, "_day", self._day)
        self._day = now.ms // DAY_MS
        self._seen_keys = SeenKeys(row[0] for row in self.store.scan("request_keys"))  # undone, it must know them all
        self.store.run("request_clear_odd" if self._day % 2 else "request_clear_even")
        self._count_requests((self.store.one("request_count") or (0,))[0])
        for worker in list(self.memory.workers.values()):
            seen = worker._replace(last_seen_ms=self.memory.seen_ms.get(worker.id, worker.last_seen_ms))
            if worker_rules.is_forgotten(seen, now.ms, self.policy):
                self.store.run("worker_drop", worker.id)
                self.memory.set_worker(None, worker)

    def sleep_ms(self, now: Now) -> int | None:
        """How long until something is due; None while nothing is pending."""
        if self.memory.recheck:
            return 0
        due_ms = self.memory.next_due_ms(now.wall_ms, now.ms)
        oldest = next(iter(self.memory.renewed.values()), None)
        if oldest is not None:
            flush_ms = oldest + self.policy.ttl_ms_min // 2
            due_ms = flush_ms if due_ms is None else min(due_ms, flush_ms)
        return None if due_ms is None else max(0, min(due_ms - now.ms, SLEEP_MS_MAX))


class Undelivered:
    """A release that the engine asks for itself."""

    __slots__ = ("params",)
    method, refused, request_id, digest = "work.release", None, None, None

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params | {"reason": "the grant could not be delivered"}


def request_key(credential: Credential, request_id: str) -> bytes:
    return hashlib.sha256(f"{credential.id}\0{request_id}".encode()).digest()[:16]


def replayed(kept: tuple[Any, ...], digest: bytes) -> Outcome:
    """The first result again, or the refusal of another call under the same id."""
    if kept[0] != digest:
        return reused()
    result: dict[str, Any] = orjson.loads(kept[1])
    return result | {"replayed": True}


def reused() -> Refused:
    return Refused(
        "request_id_reused", "this request_id was used with another method or other params: choose a new one"
    )


def broken() -> Refused:
    return Refused("internal", "the coordinator failed on this call; whether it took effect is unknown: retry it")


def seal(turn: Turn, result: dict[str, Any]) -> dict[str, Any]:
    """The marks of every mutating ok."""
    result["seq"] = turn.seq
    result["epoch"] = turn.epoch
    return result
