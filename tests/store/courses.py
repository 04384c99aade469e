"""Random courses of a small town: every command, over a few beads, with tokens that are and that were."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

from gastown.engine.coordinator import Unit
from gastown.model import Refused

from .bench import Bench

IDS = [f"b-{letter}" for letter in "abcdefgh"]
LABELS = ["red", "blue", "dead-letter"]
TYPES = ["task", "task", "bug", "gate", "epic"]
KINDS = ["blocks", "blocks", "parent-child", "parent-child", "waits-for", "related", "conditional-blocks"]
STATUSES = ["open", "open", "blocked", "deferred", "pinned", "review"]
RIGS = ["", "core"]
STEPS_MS = [*[0] * 8, 1, 1, 1_000, 1_000, 10_000, 20_000, 30_000, 60_000, 300_000, 3_600_000]
DAY_MS = 86_400_000
Ask = tuple[str, dict[str, Any]]


class Course:
    """One seeded course. `ask` chooses a call; `heard` learns its outcome."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.rng = bench, Random(seed)
        self.workers: list[str] = []
        self.tokens: list[tuple[str, int]] = []
        self.serial = 0
        self.lost = False  # a registration is gone: the next call makes a new one
        self.choices: list[Callable[[], Ask]] = [
            *[self.claim] * 6, *[self.settle] * 6, *[self.beat] * 3, *[self.depend] * 3, *[self.update] * 2,
            self.create, self.close, self.reopen, self.reopen, self.comment, self.undepend, self.convoy, self.load,
            self.rig, self.leave,
        ]  # fmt: skip
        for name in ("ada", "bob"):
            self.workers.append(bench.worker(name))
        bench.ok("bead.create", beads=[{"id": bead_id, "title": "t", "labels": ["red"]} for bead_id in IDS[:5]])

    def ask(self) -> Ask:
        choice, self.lost = (self.register if self.lost else self.rng.choice(self.choices)), False
        method, params = choice()
        if self.rng.random() < 0.3 and method != "bead.ready":
            self.serial += 1
            params["request_id"] = f"r{self.serial - self.rng.choice([0, 0, 1])}"
        return method, params

    def heard(self, outcome: Any) -> None:
        if isinstance(outcome, Refused) and outcome.kind == "worker_unknown":
            self.lost = True
        if outcome is None or isinstance(outcome, Refused):
            return
        if "worker_id" in outcome:
            self.workers = [*self.workers[-1:], outcome["worker_id"]]
        leases = [claim["lease"] for claim in outcome.get("claims", ())] + outcome.get("leases", [])
        self.tokens = [*self.tokens, *((lease["bead_id"], lease["token"]) for lease in leases)][-6:]

    # ------------------------------------------------------------ what happens

    def some(self, found: list[Any], most: int) -> list[Any]:
        return self.rng.sample(found, self.rng.randint(0, most))

    def instant(self) -> str:
        ahead_ms = self.rng.choice([-1_000, 1_000, 60_000, 4_000_000])
        at = datetime.fromtimestamp((self.bench.now.wall_ms + ahead_ms) / 1000, UTC)
        return at.strftime("%Y-%m-%dT%H:%M:%SZ")

    def create(self) -> Ask:
        beads = []
        for bead_id in self.rng.sample(IDS, self.rng.randint(1, 3)):
            bead: dict[str, Any] = {
                "id": bead_id, "title": "t", "priority": self.rng.randint(0, 4), "labels": self.some(LABELS, 2),
                "issue_type": self.rng.choice(TYPES), "rig": self.rng.choice(RIGS),
            }  # fmt: skip
            if self.rng.random() < 0.4:
                bead["depends_on"] = [{"id": self.rng.choice(IDS), "kind": self.rng.choice(KINDS)}]
            if self.rng.random() < 0.2:
                bead["defer_until"] = self.instant()
            beads.append(bead)
        return "bead.create", {"beads": beads}

    def filter(self) -> dict[str, Any]:
        asked: dict[str, Any] = {}
        if self.rng.random() < 0.3:
            asked["labels_any"] = self.rng.sample(LABELS, self.rng.randint(1, 2))
        if self.rng.random() < 0.3:
            asked["labels_all"] = [self.rng.choice(LABELS)]
        if self.rng.random() < 0.3:
            asked["issue_types"] = self.rng.sample(sorted(set(TYPES)), self.rng.randint(1, 3))
        if self.rng.random() < 0.2:
            asked["rig"] = self.rng.choice(RIGS)
        if self.rng.random() < 0.2:
            asked["convoy"] = "cv-1"
        if self.rng.random() < 0.1:
            asked["bead_id"] = self.rng.choice(IDS)
        return asked

    def claim(self) -> Ask:
        params: dict[str, Any] = {"worker_id": self.rng.choice(self.workers), "limit": self.rng.randint(1, 3)}
        if self.rng.random() < 0.3:
            params["filter"] = self.filter()
        if self.rng.random() < 0.5:
            params["ttl_ms"] = self.rng.choice([10_000, 60_000])
        if self.rng.random() < 0.3:
            params["wait_ms"] = self.rng.choice([1_000, 45_000])
        return "work.claim", params

    def token(self) -> dict[str, Any]:
        bead_id, token = self.rng.choice(self.tokens or [("b-a", 1)])
        return {"bead_id": bead_id, "token": token}

    def beat(self) -> Ask:
        lease = self.token() | self.rng.choice([{}, {}, {"checkpoint": {"at": self.rng.randint(0, 9)}}])
        return "worker.heartbeat", {"worker_id": self.rng.choice(self.workers), "leases": [lease]}

    def settle(self) -> Ask:
        kind = self.rng.choice(["complete", "complete", "fail", "release", "block"])
        more: dict[str, Any] = {}
        if kind == "fail":
            more = {"error": "e", "retryable": self.rng.random() < 0.8}
        elif kind == "block":
            more = self.rng.choice([{"reason": "r"}, {"on": [self.rng.choice(IDS)]}])
        elif kind == "complete" and self.rng.random() < 0.3:
            more = {"claim": self.claim()[1]}
        return f"work.{kind}", self.token() | more

    def update(self) -> Ask:
        wanted = {
            "status": self.rng.choice(STATUSES), "assignee": self.rng.choice(["eve", None]), "title": "new",
            "priority": self.rng.randint(0, 4), "labels": self.some(LABELS, 2), "defer_until": self.instant(),
            "issue_type": self.rng.choice(TYPES), "rig": self.rng.choice(RIGS),
        }  # fmt: skip
        chosen = self.rng.sample(sorted(wanted), self.rng.randint(1, 2))
        return "bead.update", {"id": self.rng.choice(IDS), "set": {name: wanted[name] for name in chosen}}

    def close(self) -> Ask:
        return "bead.close", {"id": self.rng.choice(IDS), "reason": "r"}

    def reopen(self) -> Ask:
        return "bead.reopen", {"id": self.rng.choice(IDS)}

    def comment(self) -> Ask:
        return "bead.comment", {"id": self.rng.choice(IDS), "text": "c"}

    def edge(self) -> dict[str, Any]:
        return {"from": self.rng.choice(IDS), "to": self.rng.choice(IDS), "kind": self.rng.choice(KINDS)}

    def depend(self) -> Ask:
        return "bead.depend", self.edge()

    def undepend(self) -> Ask:
        return "bead.undepend", self.edge()

    def convoy(self) -> Ask:
        verb = self.rng.choice(["create", "add", "remove"])
        more = {"name": "c"} if verb == "create" else {}
        return f"convoy.{verb}", {"id": "cv-1", "beads": self.rng.sample(IDS, 2)} | more

    def load(self) -> Ask:
        lines = []
        for bead_id in self.rng.sample(IDS, 2):
            status = self.rng.choice(["open", "open", "closed", "in_progress", "blocked", "tombstone"])
            edge = {"issue_id": bead_id, "depends_on_id": self.rng.choice(IDS), "type": self.rng.choice(KINDS)}
            lines.append(
                f'{{"id":"{bead_id}","title":"i","status":"{status}","priority":1,"created_at":"2026-01-01T00:00:00Z",'
                f'"updated_at":"{self.instant()}","labels":["red"],"dependencies":['
                f'{{"issue_id":"{bead_id}","depends_on_id":"{edge["depends_on_id"]}","type":"{edge["type"]}"}}]}}'
            )
        return "ledger.import", {"jsonl": "\n".join(lines)}

    def rig(self) -> Ask:
        more = self.rng.choice([{}, {"rig": "core"}])
        return self.rng.choice(["queue.pause", *["queue.resume"] * 3]), dict(more)

    def leave(self) -> Ask:
        if self.rng.random() < 0.5:
            return self.register()
        return self.rng.choice(["worker.drain", "worker.deregister"]), {"worker_id": self.rng.choice(self.workers)}

    def register(self) -> Ask:
        return "worker.register", {"name": self.rng.choice(["ada", "bob"])}

    # ------------------------------------------------------------ how it goes

    def units(self) -> list[Unit]:
        """What one turn brings: a few requests, now and then a batch."""
        many = self.rng.choice([1, 1, 1, 2, 4])
        return [self.bench.unit(*self.asks()) for _ in range(many)]

    def asks(self) -> list[Ask]:
        if self.rng.random() < 0.8:
            return [self.ask()]
        return [one for one in (self.ask() for _ in range(3)) if one[0] != "ledger.import"] or [self.beat()]

    def time(self) -> int:
        return DAY_MS if self.rng.random() < 0.01 else self.rng.choice(STEPS_MS)

    def step(self) -> None:
        """Some time, then a turn."""
        self.bench.wait(self.time())
        for outcomes in self.bench.turn(*self.units()):
            for outcome in outcomes:
                self.heard(outcome)

    def fault(self) -> bool:
        """Some time, then a turn that fails, its deadlines included; False if there was nothing to write."""
        self.bench.ms += self.time()
        return self.bench.failing(*self.units(), place=self.rng.choice(["seal", "commit"]))
