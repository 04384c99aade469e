"""The engine: calls queue, turns run on the loop's thread, and what may block on the disk runs on the writer thread.

Law: one turn at a time. While the writer thread works (COMMIT, checkpoint, an import) no turn starts, and the loop goes
on reading and answering what needs no turn. A reply goes out after its commit, never before. Deadlines drive the timer;
there is no polling interval.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO, Final

import aiosqlite
import orjson

from ..durable import Ballast, HighWater, wal_damage
from ..ledger import verifying
from ..metrics import Metrics
from ..model import RETRY_AFTER_MS_MIN, TURN_COMMANDS_MAX, UNIX, Credential, Event, Policy, Refused
from ..store import QUERIES, EpochLost, LedgerRefused, Store, is_storage_fault, open_reader
from . import history, imports, transfer
from .clock import Clock
from .coordinator import COMMANDS, REQUESTS_MAX, Coordinator, Decided, Outcome, Unit, broken
from .town import oldest_ready_age_ms, secret_hash, token_create, worker_counts

log = logging.getLogger("gastown.engine")

INBOX_MAX: Final = 8_192  # units waiting for a turn; beyond it mutating calls are told to come back
INLINE_COMMIT_S: Final = 0.0005  # a lone call on a disk this fast commits without a trip to the writer thread
CHECKPOINT_PAGES: Final = 1_000  # pages written between checkpoints, by estimate
PAGES_PER_COMMIT, PAGES_PER_ROW = 6, 1  # of that estimate
WAL_PAGES_MAX: Final = 16_384  # 64 MiB: a reader that keeps the log from being reset beyond this is cut off
HOUSEKEEPING_MS: Final = 1_000  # how often the mark is synced and the disk's room looked at, while anything happens
STORAGE_LOW_BYTES: Final = 64 << 20
LAG_MS: Final = 1_000  # how often the loop's lag is measured
EVENTS_PAGE_MAX: Final = 1_000  # read at once for a reader that resumes: a few 100 KB
VERIFY: Final = "ledger.verify"
HEAVY: Final = frozenset(("ledger.import",))  # decided on the writer thread, since it may take seconds


class Fatal(Exception):
    """The process must end with this exit code: 75 lost leadership, 78 storage fault."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StreamEvent:
    """An event as /events sends it."""

    __slots__ = ("data", "kind", "seq")

    def __init__(self, event: Event, bead_id: str | None) -> None:
        self.seq, self.kind = event.seq, event.kind
        self.data = orjson.dumps(history.shown(event, bead_id))


class Engine:
    """Owns the ledger in `folder` (a town's .gastown directory) from `start` to `stop`.

    Raises LedgerRefused from `start`. `on_fatal(Fatal)` is called when it cannot go on; the process must exit then.
    """

    def __init__(
        self,
        folder: Path,
        policy: Policy | None = None,
        metrics: Metrics | None = None,
        requests_max: int = REQUESTS_MAX,
        storage_low_bytes: int = STORAGE_LOW_BYTES,
        prefix: str | None = None,
    ) -> None:
        self.folder, self.path = folder, folder / "ledger.db"
        self.policy = policy or Policy()
        self.metrics = metrics or Metrics()
        self.on_fatal: Callable[[Fatal], None] = _raise
        self._requests_max, self._storage_low_bytes, self._prefix = requests_max, storage_low_bytes, prefix
        self._inbox: deque[Unit] = deque()
        self._busy = False
        self._scheduled = False
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._subscribers: dict[int, Callable[[list[StreamEvent]], None]] = {}
        self._subscriptions = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._commit_s = 1.0
        self._turn_began_s = 0.0
        self._pages = 0
        self._housekeeping_due = 0.0
        self._readers: set[sqlite3.Connection] = set()
        self._oldest: tuple[float, float] = (0.0, 0.0)

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Open, check, take the ledger with a new epoch, start the writer thread."""
        self._loop = asyncio.get_running_loop()
        self.ballast = Ballast(self.folder / "ballast")
        self._make_room()
        damage = wal_damage(self.path.with_name("ledger.db-wal"))
        if damage:
            raise LedgerRefused(damage)
        self.store = Store.open(self.path)
        self.mark = HighWater(self.folder / "high_water")
        self.mark.check(self.store)
        self.clock = self._clock()
        self.coordinator = Coordinator(self.store, self.policy, self._requests_max)
        now = self.clock.now()
        decided = self.coordinator.start(now, self._boot_settings(now.ms))
        self.store.commit()
        self._settle(decided)
        self._events = await aiosqlite.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)
        self.metrics.gauges = self.gauges
        self.ballast.load()
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()
        self._lag_at = self._loop.time() + LAG_MS / 1000
        self._lag_timer = self._loop.call_at(self._lag_at, self._measure_lag)
        self._arm()

    def _clock(self) -> Clock:
        setting = self.store.setting
        stored = max(setting("ledger_ms") or 0, self.store.tip.now_ms)
        if setting("boot_id") is None:
            return Clock(0, None, None)
        since = setting("ledger_ms")
        clock = Clock(since, setting("boot_ms"), setting("boot_id"))
        clock.start_ms = max(clock.start_ms, stored)
        return clock

    def _boot_settings(self, now_ms: int) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "ledger_ms": now_ms,
            "boot_ms": self.clock.start_boot_ms,
            "boot_id": self.clock.boot_id,
            "body": "python",
            "folder": self.folder.resolve().parent.name,
        }
        if self.store.setting("ledger_id") is None:
            settings["ledger_id"] = os.urandom(16).hex()
        if self._prefix:
            settings["prefix"] = self._prefix
        return settings

    async def stop(self) -> None:
        """Answer waiting claims, refuse new writes, finish what is queued, close the ledger. Idempotent."""
        if self.coordinator.draining:
            return
        while self._busy:
            await asyncio.sleep(0)  # the writer's answer is a callback of this loop
        for unit, outcomes in self.coordinator.drain(self.clock.now()):
            self._deliver(unit, outcomes)
        while self._inbox or self._busy:
            self._pump()
            await asyncio.sleep(0)

    async def close(self) -> None:
        """After `stop`, once the last reads were answered."""
        for timer in (self._timer, self._lag_timer):
            if timer is not None:
                timer.cancel()
        while self._busy:
            await asyncio.sleep(0)
        await self._events.close()
        self._jobs.put(None)
        self._thread.join()
        self._flush_usage()
        self.mark.sync()
        self.store.checkpoint()
        self.store.close()
        self.mark.close()

    @property
    def epoch(self) -> int:
        return self.coordinator.epoch

    @property
    def seq(self) -> int:
        return self.store.tip.seq

    # ------------------------------------------------------------ calls

    def submit(self, unit: Unit) -> None:
        """Queue a unit; its deliver is called once, after the commit of the turn that answers it."""
        unit.began_s = time.perf_counter()
        if len(self._inbox) >= INBOX_MAX and any(call.method in COMMANDS for call in unit.calls):
            data = {"retry_after_ms": RETRY_AFTER_MS_MIN, "queue_depth": len(self._inbox)}
            self._deliver(unit, [Refused("backpressure", "too many calls are waiting", **data) for _ in unit.calls])
            return
        self._inbox.append(unit)
        self._schedule()

    def hang_up(self, unit: Unit) -> None:
        """The peer is gone: its waiting claim is cancelled."""
        self.coordinator.hang_up(unit)

    def authenticate(self, token: str) -> Credential | None:
        """Whose token this is; None for an unknown or revoked one."""
        credential = self.coordinator.memory.tokens.get(secret_hash(token))
        if credential is not None:
            self.coordinator.memory.tokens_used[credential.id] = self.clock.now().ms
        return credential

    def _schedule(self) -> None:
        if not self._scheduled and not self._busy:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    # ------------------------------------------------------------ the turn

    def _pump(self) -> None:
        self._scheduled = False
        if self._busy:
            return
        units = [self._inbox.popleft() for _ in range(min(len(self._inbox), TURN_COMMANDS_MAX))]
        special = next((i for i, unit in enumerate(units) if _is_special(unit)), None)
        if special is not None:
            self._inbox.extendleft(reversed(units[special + 1 :]))
            heavy, units = units[special], units[:special]
            if units:
                self._inbox.appendleft(heavy)
            else:
                self._special(heavy)
                return
        self._turn(units)

    def _turn(self, units: list[Unit]) -> None:
        began = self._turn_began_s = time.perf_counter()
        if self.clock.slept():
            self.coordinator.refresh_leases(self.clock.now())
        try:
            decided = self.coordinator.run(units, self.clock.now())
        except EpochLost:
            self._fatal(75, "another coordinator took this ledger")
            return
        except Exception as error:
            if is_storage_fault(error):
                self._failed(units, error)
                return
            log.exception("a call broke its turn", extra={"ev": "broken_turn"})
            for unit in units:
                self._deliver(unit, [broken() for _ in unit.calls])
            self._again()
            return
        decided_s = time.perf_counter() - began
        self.metrics.turn(decided_s, len(units))
        if not decided.dirty:
            self._answer(decided)
            self._again()
        elif len(units) <= 1 and self._commit_s < INLINE_COMMIT_S:
            self._finish(decided, units, _attempt(self._commit))
        else:
            self._on_writer(lambda: _attempt(self._commit), lambda error: self._finish(decided, units, error))

    def _commit(self) -> None:
        began = time.perf_counter()
        self.store.commit()
        took_s = time.perf_counter() - began
        self._commit_s += (took_s - self._commit_s) / 8
        self.metrics.store_write(took_s)

    def _finish(self, decided: Decided, units: list[Unit], error: Exception | None) -> None:
        if error is not None:
            self.coordinator.abort()
            self._failed(units, error)
            return
        self._settle(decided)
        self._answer(decided)
        self._housekeep()
        self._again()

    def _settle(self, decided: Decided) -> None:
        """The commit happened: memory, mark and event readers follow."""
        self.coordinator.committed(decided)
        if decided.tip is not None:
            self.mark.write(decided.tip)
        self._pages += PAGES_PER_COMMIT + decided.rows * PAGES_PER_ROW
        if decided.events and self._subscribers:
            stream = [StreamEvent(event, self.coordinator.id_of(event.n)) for event in decided.events]
            for callback in list(self._subscribers.values()):
                callback(stream)
        if decided.lapses:
            self.metrics.expired(decided.lapses)

    def _answer(self, decided: Decided) -> None:
        for unit, outcomes in decided.replies:
            self._deliver(unit, outcomes)

    def _deliver(self, unit: Unit, outcomes: list[Outcome]) -> None:
        began_s = self._turn_began_s if unit.parked else unit.began_s  # waiting for work is no latency of ours
        took_s = time.perf_counter() - began_s
        for call, outcome in zip(unit.calls, outcomes, strict=False):
            self._measure(call.method, outcome, took_s)
        if not unit.deliver(outcomes):
            back = self.coordinator.give_back(unit, outcomes)
            if back is not None:
                self._inbox.append(back)
                self._schedule()

    def _measure(self, method: str, outcome: Outcome, took_s: float) -> None:
        metrics = self.metrics
        if isinstance(outcome, Refused):
            metrics.rpc(method, "failed" if outcome.kind == "internal" else "refused", took_s)
            if method == "work.claim":
                metrics.claim("refused")
            return
        metrics.rpc(method, "ok", took_s)
        if "claims" in outcome:
            granted = bool(outcome["claims"])
            metrics.claim("granted" if granted else "empty")
            if granted:
                metrics.claim_latency(took_s)
                self.coordinator.memory.claims_s.append(took_s)

    def _again(self) -> None:
        if self._inbox:
            self._schedule()
        else:
            self._arm()

    # ------------------------------------------------------------ failure

    def _failed(self, units: list[Unit], error: Exception) -> None:
        """Nothing of this turn is in the ledger, or we cannot know: then the process ends."""
        full = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL
        full = full or (isinstance(error, OSError) and error.errno == errno.ENOSPC)
        if not full or self.store.conn.in_transaction:
            self._fatal(78, f"the disk failed: {error}")
            return
        log.error("the disk is full", extra={"ev": "disk_full"})
        self.coordinator.storage_low = True
        if self.ballast.drop():
            self._inbox.extendleft(reversed(units))
        else:
            for unit in units:
                message = "the disk is full: nothing was changed"
                self._deliver(unit, [Refused("storage_low", message) for _ in unit.calls])
        self._again()

    def _fatal(self, exit_code: int, message: str) -> None:
        self._busy = True  # no further turn
        log.critical(message, extra={"ev": "fatal"})
        self.on_fatal(Fatal(exit_code, message))

    # ------------------------------------------------------------ timer and housekeeping

    def _arm(self) -> None:
        """Sleep until the next deadline."""
        sleep_ms = self.coordinator.sleep_ms(self.clock.now())
        if sleep_ms is None:
            return
        at = self._loop.time() + sleep_ms / 1000
        if self._timer is not None and not self._timer.cancelled() and self._loop.time() < self._timer_at <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._schedule()

    def _housekeep(self) -> None:
        now = self._loop.time()
        checkpoint = self._pages >= CHECKPOINT_PAGES
        if checkpoint or now >= self._housekeeping_due:
            self._housekeeping_due = now + HOUSEKEEPING_MS / 1000
            self._on_writer(lambda: self._keep(checkpoint), lambda _: self._again())

    def _keep(self, checkpoint: bool) -> None:
        """On the writer thread, between turns."""
        self.mark.sync()
        self.coordinator.storage_low = self.ballast.free_bytes() < self._storage_low_bytes
        self._flush_usage()
        if checkpoint:
            self._pages = 0
            if self.store.checkpoint() > WAL_PAGES_MAX:
                for reader in list(self._readers):
                    reader.interrupt()

    def _flush_usage(self) -> None:
        """When tokens were last used: told by token.list, promised to nobody."""
        used, self.coordinator.memory.tokens_used = self.coordinator.memory.tokens_used, {}
        if used:
            self.store.run_each("token_used", [(at_ms, token_id) for token_id, at_ms in used.items()])

    def _make_room(self) -> None:
        if self.folder.exists() and self.ballast.free_bytes() < self._storage_low_bytes:
            self.ballast.drop()

    def _measure_lag(self) -> None:
        now = self._loop.time()
        self.metrics.lag(max(0.0, now - self._lag_at))
        self._lag_at = now + LAG_MS / 1000
        self._lag_timer = self._loop.call_at(self._lag_at, self._measure_lag)

    def gauges(self) -> dict[str, Any]:
        """What the ledger holds, for a scrape."""
        memory, now = self.coordinator.memory, self.clock.now()
        if time.monotonic() >= self._oldest[0]:
            turn = self.coordinator.turn(now)
            self._oldest = (time.monotonic() + HOUSEKEEPING_MS / 1000, oldest_ready_age_ms(turn) / 1000)
        return {
            "beads": {state: beads for state, beads in memory.counts.items() if beads},
            "workers": dict(worker_counts(self.coordinator.turn(now))),
            "leases_live": memory.live_leases(),
            "ready_oldest_age": self._oldest[1],
            "backpressure": memory.counts["ready"] > self.policy.queue_depth_max,
        }

    # ------------------------------------------------------------ the writer thread

    def _write(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _on_writer(self, job: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run `job` on the writer thread; no turn starts until `then(its result)` has run on the loop."""
        self._busy = True

        def done(result: Any, error: Exception | None) -> None:
            self._busy = False
            if error is not None:
                self._fatal(78, f"the disk failed: {error}")
            else:
                then(result)

        def run() -> None:
            result, error = None, None
            try:
                result = job()
            except Exception as raised:
                error = raised
            self._loop.call_soon_threadsafe(done, result, error)

        self._jobs.put(run)

    # ------------------------------------------------------------ imports, exports, checks

    def _special(self, unit: Unit) -> None:
        call = unit.calls[0]
        if call.method == VERIFY:
            task = self._loop.create_task(self._verify(unit))
            task.add_done_callback(lambda done: done.exception())
            self._again()
            return
        self._on_writer(lambda: self._run_import(unit), lambda decided: self._finish(decided, [unit], None))

    def _run_import(self, unit: Unit) -> Decided:
        """A whole import turn, committed here."""
        try:
            decided = self.coordinator.run([unit], self.clock.now())
            self.store.commit()
            return decided
        except imports.DryRun as dry:
            tip = self.store.tip
            result = dry.result | {"seq": tip.seq, "epoch": self.coordinator.epoch}
            return Decided([(unit, [result])])
        except Exception:
            self.coordinator.abort()
            log.exception("an import failed", extra={"ev": "import_failed"})
            return Decided([(unit, [broken()])])

    async def _verify(self, unit: Unit) -> None:
        try:
            outcome: Outcome = await self.verify()
        except sqlite3.Error as error:
            log.error("verify failed: %s", error, extra={"ev": "verify_failed"})
            outcome = broken()
        self._deliver(unit, [outcome])

    async def verify(self) -> dict[str, Any]:
        """-> {ok, problems}; reads a snapshot of its own."""
        return await asyncio.to_thread(self._with_reader, verifying.verify)

    async def export_file(self, path: Path) -> None:
        """Write the canonical export of one snapshot to `path`."""
        await asyncio.to_thread(self._with_reader, lambda store: _export(store, path))

    async def backup(self, path: Path) -> None:
        """A consistent copy as of now (VACUUM INTO)."""
        await asyncio.to_thread(self._with_reader, lambda store: store.conn.execute("VACUUM INTO ?", (str(path),)))

    def _with_reader(self, work: Callable[[Store], Any]) -> Any:
        conn = open_reader(self.path)
        self._readers.add(conn)
        try:
            return work(Store(conn))
        finally:
            self._readers.discard(conn)
            conn.close()

    async def import_file(
        self, file: BinaryIO, mode: str = "merge", dry_run: bool = False, skip_bad: bool = False
    ) -> dict[str, Any]:
        """Import a seekable file as one transaction; -> the result of ledger.import. Raises Refused."""
        answer: asyncio.Future[Outcome] = self._loop.create_future()

        def deliver(outcomes: list[Outcome]) -> bool:
            if not answer.done():
                answer.set_result(outcomes[0])
            return True

        params = {"jsonl": file, "mode": mode, "dry_run": dry_run, "skip_bad": skip_bad}
        self.submit(Unit([_Import(params)], UNIX, False, deliver))
        outcome = await answer
        if isinstance(outcome, Refused):
            raise outcome
        return outcome

    # ------------------------------------------------------------ events

    def subscribe(self, callback: Callable[[list[StreamEvent]], None]) -> int:
        """`callback` is called on the loop with the events of each commit."""
        self._subscriptions += 1
        self._subscribers[self._subscriptions] = callback
        return self._subscriptions

    def unsubscribe(self, key: int) -> None:
        self._subscribers.pop(key, None)

    async def events_since(self, seq: int, limit: int = EVENTS_PAGE_MAX) -> list[StreamEvent]:
        """Committed events after `seq`, oldest first."""
        # In one step: a cursor left open between two would hold its snapshot for whoever asks next.
        rows = await self._events.execute_fetchall(QUERIES["events_after"], (seq, limit))
        return [StreamEvent(Event._make(row[:-1]), row[-1]) for row in rows]

    # ------------------------------------------------------------ tokens

    def mint_admin(self) -> str | None:
        """The secret of a first admin token, stored; None where the ledger has one already."""
        if any(row[2] == "admin" and not row[6] for row in self.store.many("tokens_all")):
            return None
        self.store.begin(self.coordinator.epoch)
        turn = self.coordinator.turn(self.clock.now())
        made = token_create(turn, UNIX, {"name": "admin", "scope": "admin"})
        decided = self.coordinator.finish(turn, Decided(dirty=True))
        self.store.commit()
        self._settle(decided)
        return str(made["token"])


class _Import:
    """An import that came as a file."""

    __slots__ = ("params",)
    method, refused, request_id, digest = "ledger.import", None, None, None

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params


def _is_special(unit: Unit) -> bool:
    call = unit.calls[0]
    return not unit.batch and call.refused is None and (call.method == VERIFY or call.method in HEAVY)


def _export(store: Store, path: Path) -> None:
    store.conn.execute("BEGIN")
    tip = store.one("turn_last")
    with open(path, "wb") as file:
        file.writelines(transfer.lines(store, tip[3] if tip else 0))
    store.conn.execute("COMMIT")


def _attempt(job: Callable[[], None]) -> Exception | None:
    try:
        job()
    except Exception as error:
        return error
    return None


def _raise(fatal: Fatal) -> None:
    raise fatal
