"""A town in one thread: the real coordinator and a real ledger under simulated callers, clock, network and
crashes.

Law: one seed, one history. Time passes only where `World` says so, every choice comes from its generator, and
nothing is mocked between the bytes of a request and the bytes of its reply. What the callers saw goes to the
checker.
"""

from __future__ import annotations

import sqlite3
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import orjson

from gastown.engine import history as histories
from gastown.engine import transfer
from gastown.engine.coordinator import Coordinator, Decided, Outcome, Unit
from gastown.engine.memory import Memory
from gastown.ledger import verifying
from gastown.model import UNIX, Credential, Policy, Refused
from gastown.protocol import Envelope, decode, encode_reply
from gastown.rules.bead import Now
from gastown.rules.dispatch import Filter
from gastown.store import EpochLost, Guarded, Store

from .agents import Agent, Ask, Known, Planner, Worker
from .checker import READING, TRANSIENT
from .replay import Terms

BASE_MS: Final = 1_750_000_000_000
STEPS: Final = 250
WORKERS, PLANNERS = 5, 2
TURN_MAX: Final = 8  # units of one turn
TTL_LONGEST_MS: Final = 600_000  # what a caller asks for; the default is shorter
YEARS_MS: Final = 10 * 365 * 86_400_000
LOOK_EVERY: Final = 40  # steps between two looks at the caches
CALM_ROUNDS: Final = 40  # claims of a hundred beads each, after the faults


@dataclass(eq=False)
class Sent:
    """A request under way."""

    agent: Agent
    calls: list[Ask]
    records: list[dict[str, Any]]
    unit: Unit | None = None
    twice: bool = False  # two copies are under way
    closed: bool = False  # the caller has its answer, or gave up


@dataclass
class Report:
    """What a run leaves: the callers' history, the ledger at the end, and what no caller could see."""

    history: list[dict[str, Any]]
    ledger: dict[str, Any]
    terms: Terms
    faults: list[str] = field(default_factory=list)


class World:
    def __init__(self, seed: int, steps: int = STEPS, path: Path | None = None) -> None:
        self.rng = Random(seed)
        self.steps, self.half_way = steps, seed % 4 == 0
        self.path = path or Path(":memory:")
        self.us, self.wall_off_ms = 0, 0
        self.policy = Policy(aging_ms=self.rng.choice((Policy().aging_ms, 60_000)))
        self.known = Known()
        self.history: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.inbox: list[Unit] = []
        self.open: dict[int, Sent] = {}  # id of a unit -> its request
        self.calm = False
        self.full_until_us = 0
        self.zombie: Coordinator | None = None
        self.resting: dict[str, int] = {}  # agent -> when it thaws
        self.agents: list[Agent] = [self._worker(n) for n in range(WORKERS)]
        self.agents += [Planner(f"planner-{n}", self.known, self.rng) for n in range(PLANNERS)]
        self.coordinator = self._open()

    def _open(self) -> Coordinator:
        """A daemon on the ledger's file. No power is cut here, so nothing need reach the disk."""
        store = Store.open(self.path)
        store.conn.execute("PRAGMA synchronous = OFF")
        return self._serve(store)

    def _worker(self, n: int) -> Worker:
        own = Credential(f"t-{n}", "worker", f"agent-{n}")
        return Worker(f"worker-{n}", self.known, self.rng, own if n % 2 else UNIX)

    def _serve(self, store: Store) -> Coordinator:
        coordinator = Coordinator(store, self.policy)
        decided = coordinator.start(self.now(), {"folder": "hill"})
        store.commit()
        coordinator.committed(decided)
        return coordinator

    # ------------------------------------------------------------ time

    def now(self) -> Now:
        ms = BASE_MS + self.us // 1000
        return Now(ms, ms + self.wall_off_ms)

    def moment(self) -> float:
        """Seconds of the callers' clock; no two are equal."""
        self.us += 1
        return self.us / 1e6

    def pass_time(self) -> None:
        roll, rng = self.rng.random(), self.rng
        if roll < 0.55:
            self.us += rng.randrange(1, 300) * 1000
        elif roll < 0.85:
            due_ms = self.coordinator.sleep_ms(self.now())
            self.us += max(0, (due_ms or 0) + rng.choice((-1, 0, 0, 1, 700))) * 1000
        elif roll < 0.97:
            self.us += rng.randrange(60_000) * 1000
        elif roll < 0.998:
            self.us += rng.randrange(TTL_LONGEST_MS * 4) * 1000
        else:
            self.us += 86_400_000 * 1000
        if self.pick(0.05):
            self.wall_off_ms = rng.choice((0, 1_000, -1_000, 3_600_000, -86_400_000, YEARS_MS, -YEARS_MS))

    def pick(self, share: float) -> bool:
        return self.rng.random() < share

    # ------------------------------------------------------------ callers

    def ask(self, agent: Agent, calls: list[Ask]) -> Sent:
        records = [self._record(agent, method, params) for method, params in calls]
        sent = Sent(agent, calls, records)
        t_inv = self.moment()
        for record in records:
            record["t_inv"] = t_inv
        self.history += records
        self.arrive(sent)
        kept = all("request_id" in params and "worker_id" not in str(params) for _, params in calls)
        if kept and self.pick(0.05):
            sent.twice = True  # the network, or an impatient proxy; not a claim, whose `[]` is not kept for the twin
            self.arrive(sent)
        return sent

    def _record(self, agent: Agent, method: str, params: dict[str, Any]) -> dict[str, Any]:
        bead = params.get("bead_id") or params.get("id") or params.get("from")
        return {
            "client": agent.name, "op": method, "args": params, "t_inv": 0.0, "t_ret": 0.0, "outcome": "info",
            "epoch": None, "seq": None, "bead": bead, "token": params.get("token"),
        }  # fmt: skip

    def arrive(self, sent: Sent) -> None:
        """The bytes reach the door and become a unit."""
        said = [
            {"jsonrpc": "2.0", "id": n, "method": method, "params": params}
            for n, (method, params) in enumerate(sent.calls)
        ]
        credential = sent.agent.credential
        envelope = decode(orjson.dumps(said if len(said) > 1 else said[0]), credential.scope)
        unit = Unit(envelope.calls, credential, envelope.batch, lambda outcomes: self.reply(sent, envelope, outcomes))
        sent.unit = unit
        self.open[id(unit)] = sent
        self.inbox.append(unit)

    def reply(self, sent: Sent, envelope: Envelope, outcomes: list[Outcome]) -> bool:
        """What the coordinator says after its commit; -> whether the peer was there, as far as it knows."""
        if sent.closed:
            return self.pick(0.3)
        if not self.calm and self.pick(0.05):
            self.give_up(sent)
            return self.pick(0.5)
        text = orjson.loads(encode_reply(envelope, outcomes))
        self.close(sent, text if envelope.batch else [text])
        return True

    def close(self, sent: Sent, replies: list[dict[str, Any]]) -> None:
        sent.closed = True
        t_ret = self.moment()
        for record, said in zip(sent.records, replies, strict=True):
            record["t_ret"] = t_ret
            if "result" in said:
                result = said["result"]
                record |= {"outcome": "ok", "result": result, "seq": result.get("seq"), "epoch": result.get("epoch")}
            elif sent.twice and said["error"]["data"]["kind"] in TRANSIENT:
                continue  # the other copy may still happen
            elif said["error"]["data"]["kind"] == "internal":
                self.faults.append(f"{record['op']} was answered internal")
            else:
                record |= {"outcome": "fail", "error": said["error"]["data"]}
            sent.agent.hear(record)

    def give_up(self, sent: Sent) -> None:
        """The caller will never know."""
        if not sent.closed:
            sent.closed = True
            t_ret = self.moment()
            for record in sent.records:
                record["t_ret"] = t_ret
            sent.agent.lost(sent.calls)

    def idle(self) -> list[Agent]:
        busy = {id(sent.agent) for sent in self.open.values() if not sent.closed}
        return [
            agent for agent in self.agents
            if id(agent) not in busy and not agent.dead and self.resting.get(agent.name, 0) <= self.us
        ]  # fmt: skip

    def impatience(self) -> None:
        """Somebody hangs up on a call under way; the coordinator may notice."""
        waiting = [(key, sent) for key, sent in self.open.items() if not sent.closed]
        if waiting:
            key, sent = self.rng.choice(waiting)
            self.give_up(sent)
            if self.pick(0.5) and sent.unit is not None and id(sent.unit) == key:
                self.coordinator.hang_up(sent.unit)

    # ------------------------------------------------------------ turns

    def turn(self, at_most: int) -> None:
        units, self.inbox = self.inbox[:at_most], self.inbox[at_most:]
        stamp = self.moment()
        for unit in units:
            for record in self.open[id(unit)].records if id(unit) in self.open else ():
                record.setdefault("t_turn", stamp)
        self.coordinator.storage_low = self.us < self.full_until_us
        try:
            decided = self.coordinator.run(units, self.now())
        except Exception:
            self.faults.append(traceback.format_exc())
            self.deliver(Decided([(unit, [Refused("internal", "broken") for _ in unit.calls]) for unit in units]))
            return
        if decided.dirty:
            self.end_turn(decided, units)
        else:
            self.deliver(decided)

    def end_turn(self, decided: Decided, units: list[Unit]) -> None:
        """Commit and answer; or the process dies on this or that side of the commit, or the disk is full."""
        fate = 1.0 if self.calm else self.rng.random()
        if fate < 0.02:
            self.crash()
        elif fate < 0.04:
            self.coordinator.store.commit()
            self.crash()
        elif fate < (0.2 if decided.lapses else 0.07):
            self.full(units)
        else:
            self.commit(decided)

    def commit(self, decided: Decided) -> None:
        self.coordinator.store.commit()
        self.coordinator.committed(decided)
        self.deliver(decided)

    def deliver(self, decided: Decided) -> None:
        for unit, outcomes in decided.replies:
            self.open.pop(id(unit), None) if self.open.get(id(unit), None) is not None else None
            if not unit.deliver(outcomes):
                back = self.coordinator.give_back(unit, outcomes)
                if back is not None:
                    self.inbox.append(back)

    def full(self, units: list[Unit]) -> None:
        """The disk is full: a definite no to all, and nothing may stick in memory."""
        self.coordinator.abort()
        self.faults += memory_faults(self.coordinator)
        self.full_until_us = self.us + self.rng.randrange(20_000_000)
        refused = Refused("storage_low", "the disk is full: nothing was changed")
        self.deliver(Decided([(unit, [refused for _ in unit.calls]) for unit in units]))

    # ------------------------------------------------------------ ends of the daemon

    def crash(self) -> None:
        """kill -9: an open transaction is gone, every call under way is unanswered; another daemon starts."""
        old, self.zombie = self.coordinator, None
        old.store.rollback()
        for sent in list(self.open.values()):
            self.give_up(sent)
        self.open.clear()
        self.inbox.clear()
        self.us += self.rng.choice((0, 50_000, 3_000_000, 700_000_000))
        if self.path.name == ":memory:":
            self.coordinator = self._serve(Store(old.store.conn))
        else:
            self.coordinator = self._open()
        if self.pick(0.7):
            self.zombie = old
        elif self.path.name != ":memory:":
            old.store.close()

    def stop(self) -> None:
        """SIGTERM: waiting claims are answered, later writes refused, then the next daemon starts."""
        self.deliver(Decided(self.coordinator.drain(self.now())))
        self.turn(len(self.inbox))
        self.crash()

    def haunt(self) -> None:
        """The daemon before this one wakes up and takes a call as if nothing had been."""
        zombie, idle = self.zombie, self.idle()
        if zombie is None or not idle:
            return
        agent = self.rng.choice(idle)
        calls = [call for call in agent.asks(self.now().wall_ms) if call[0] not in READING and self.pick(0.5)]
        sent = self.ask(agent, calls or [("queue.resume", {"rig": "none such"})])
        unit = self.inbox.pop()
        try:
            decided = zombie.run([unit], self.now())
            if decided.dirty:
                zombie.store.commit()
            zombie.committed(decided)
            for done, outcomes in decided.replies:
                self.open.pop(id(done), None)
                done.deliver(outcomes)
        except (EpochLost, sqlite3.Error, Guarded):
            zombie.store.rollback()
        self.open.pop(id(unit), None)
        self.give_up(sent)

    # ------------------------------------------------------------ the run

    def ask_someone(self, idle: list[Agent]) -> None:
        agent = self.rng.choice(idle)
        self.ask(agent, agent.asks(self.now().wall_ms))

    def step(self) -> None:
        roll, idle = self.rng.random(), self.idle()
        if roll < 0.5 and idle:
            self.ask_someone(idle)
        elif roll < 0.8:
            self.turn(self.rng.randrange(1, TURN_MAX + 1))
        elif roll < 0.95:
            self.pass_time()
            if self.pick(0.7):
                self.turn(0)
        elif roll < 0.965:
            self.impatience()
        elif roll < 0.975:
            self.haunt()
        elif roll < 0.985:
            self.rest()
        elif roll < 0.99:
            self.crash()
        elif roll < 0.992:
            self.stop()

    def rest(self) -> None:
        """A worker freezes with its leases, for a while or for good."""
        agent = self.rng.choice(self.agents[:WORKERS])
        self.resting[agent.name] = self.us + self.rng.randrange(30, 900) * 1_000_000
        agent.dead = agent.dead or (self.pick(0.1) and sum(a.dead for a in self.agents) < 2)

    def run(self) -> Report:
        for number in range(self.steps):
            self.step()
            if number % LOOK_EVERY == 0:
                self.faults += memory_faults(self.coordinator)
            if self.half_way and number == self.steps // 2:
                self.faults += self.round_trip()[2]
        self.settle()
        return self.report()

    def settle(self) -> None:
        """The faults are over: nobody calls, all leases run out, then one worker takes and completes what there is."""
        self.calm = True
        self.full_until_us = 0
        for sent in list(self.open.values()):
            self.give_up(sent)
        while self.inbox:
            self.turn(TURN_MAX)
        for _ in range(4):
            self.us += (TTL_LONGEST_MS // 4 + 600) * 1000
            self.turn(0)
        hand = Worker("hand", self.known, self.rng)
        self.say(hand, "queue.resume", {})
        self.say(hand, "worker.register", {"name": "hand"})
        for _ in range(CALM_ROUNDS):
            claims = self.say(hand, "work.claim", {"worker_id": hand.worker_id, "limit": 100})["claims"]
            self.us += 0 if claims else self.policy.backoff_ms_max * 1000
            for claim in claims:
                lease = claim["lease"]
                self.say(hand, "work.complete", {"bead_id": lease["bead_id"], "token": lease["token"]})
            if not claims and not self.coordinator.memory.index.entries:
                break

    def say(self, agent: Agent, method: str, params: dict[str, Any]) -> dict[str, Any]:
        sent = self.ask(agent, [(method, params)])
        while self.inbox:
            self.turn(TURN_MAX)
        result: dict[str, Any] = sent.records[0].get("result", {"claims": []})
        return result

    def report(self) -> Report:
        store = self.coordinator.store
        self.faults += [f"verify: {problem}" for problem in verifying.verify(store)["problems"]]
        self.faults += memory_faults(self.coordinator)
        export, again, faults = self.round_trip()
        events = [histories.shown(event, bead_id) for event, bead_id in histories.page(store, 0, -1)]
        ledger = {"events": events, "export": export, "again": again, "end_ms": self.now().ms, "drained": True}
        terms = Terms(self.policy.aging_ms, self.policy.backoff_ms, self.policy.backoff_ms_max)
        history = orjson.loads(orjson.dumps(self.history))
        return Report(history, ledger, terms, self.faults + faults)

    def round_trip(self) -> tuple[str, str, list[str]]:
        """-> (export, export of a ledger that imported it, faults)."""
        ours = self.coordinator
        export = b"".join(transfer.lines(ours.store, ours.token_high)).decode()
        other = self._serve(Store.open(Path(":memory:")))
        said = {"jsonrpc": "2.0", "id": 1, "method": "ledger.import", "params": {"jsonl": export}}
        unit = Unit(decode(orjson.dumps(said), "admin").calls, UNIX, False, lambda _: True)
        decided = other.run([unit], self.now())
        other.store.commit()
        other.committed(decided)
        again = b"".join(transfer.lines(other.store, other.token_high)).decode()
        faults = [f"import: {decided.replies[0][1][0]!r}"] if isinstance(decided.replies[0][1][0], Refused) else []
        faults += [f"verify of the import: {problem}" for problem in verifying.verify(other.store)["problems"]]
        faults += ["export, import and export differ"] if again != export else []
        other.store.close()
        return export, again, faults


def memory_faults(coordinator: Coordinator) -> list[str]:
    """Where the caches differ from what a rebuild from the ledger gives."""
    ours, fresh = coordinator.memory, Memory(coordinator.store, coordinator.policy)
    fresh.rebuild()
    late = ours.renewed.keys()  # renewals that wait for a commit
    pairs: dict[str, tuple[Any, Any]] = {
        "ready": (ours.index.entries, fresh.index.entries),
        "order": (list(ours.index.order), list(fresh.index.order)),
        "counts": (+Counter(ours.counts), +Counter(fresh.counts)),
        "leases": ({n: lease._replace(until_ms=0) for n, lease in ours.leases.items()},
                   {n: lease._replace(until_ms=0) for n, lease in fresh.leases.items()}),
        "deadlines": ({n: lease.until_ms for n, lease in ours.leases.items() if n not in late},
                      {n: lease.until_ms for n, lease in fresh.leases.items() if n not in late}),
        "held": ({w: n for w, n in ours.held.items() if n}, {w: n for w, n in fresh.held.items() if n}),
        "workers": ({w.id: w._replace(last_seen_ms=0) for w in ours.workers.values()},
                    {w.id: w._replace(last_seen_ms=0) for w in fresh.workers.values()}),
        "names": (ours.names, fresh.names),
        "paused": (ours.paused, fresh.paused),
        "bead_max": (ours.bead_max, fresh.bead_max),
        "recheck": (ours.recheck, fresh.recheck),
    }  # fmt: skip
    for facet in list(ours.index.parts):
        one = (facet.value,)
        asked = {
            "label": Filter(labels_all=one), "issue_type": Filter(issue_types=one),
            "rig": Filter(rig=facet.value), "convoy": Filter(convoy=facet.value),
        }[facet.kind]  # fmt: skip
        pairs[str(facet)] = (list(ours.index.candidates(asked)), list(fresh.index.candidates(asked)))
    due = {due.n for due in ours.timers if due.kind == "lease"}
    unwatched = [lease.token for n, lease in ours.leases.items() if not lease.lapsed and n not in due]
    found = [
        f"memory: {what} is {mine!r}, a rebuild gives {theirs!r}"[:600]
        for what, (mine, theirs) in pairs.items()
        if mine != theirs
    ]
    return found + ([f"memory: no timer watches the tokens {unwatched}"] if unwatched else [])
