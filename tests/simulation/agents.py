"""Who calls: workers that claim and settle, freeze and come back; planners that make, tangle and close beads.

Law: every choice comes from one seeded generator. An agent knows what its replies told it, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

from gastown.model import UNIX, Credential

from .checker import READING

Ask = tuple[str, dict[str, Any]]  # method, params
LABELS: Final = ("red", "blue", "slow")
RIGS: Final = ("", "", "r1", "r2")
KINDS: Final = ("task", "task", "bug", "gate")
BEADS_MAX: Final = 40  # of one world: the checker looks at every pair
WITH_ID: Final = 0.75  # share of the calls that carry a request_id
DONE: Final = ("work.complete", "work.fail", "work.release", "work.block")


@dataclass
class Known:
    """What callers tell each other: ids and tokens that are or were."""

    beads: list[str] = field(default_factory=list)
    edges: list[tuple[str, str, str]] = field(default_factory=list)
    tokens: list[tuple[str, int]] = field(default_factory=list)
    convoys: list[str] = field(default_factory=list)
    serial: int = 0

    def word(self, prefix: str) -> str:
        self.serial += 1
        return f"{prefix}{self.serial}"


class Agent:
    """One caller with at most one request under way."""

    def __init__(self, name: str, known: Known, rng: Random, credential: Credential = UNIX) -> None:
        self.name, self.known, self.rng, self.credential = name, known, rng, credential
        self.again: list[list[Ask]] = []  # to be asked once more, word for word
        self.dead = False
        self.wall_ms = 0

    def asks(self, wall_ms: int) -> list[Ask]:
        """The next request: one call or a batch."""
        if self.again:
            if self.rng.random() < 0.9:
                return self.again.pop()
            self.again.clear()
        self.wall_ms = wall_ms
        calls = [self.choose()]
        if self.rng.random() < 0.1:
            calls.append(self.choose())
        return [self._marked(*call) for call in calls]

    def _marked(self, method: str, params: dict[str, Any]) -> Ask:
        if method not in READING and self.rng.random() < WITH_ID:
            params = params | {"request_id": self.known.word("q")}
        return method, params

    def choose(self) -> Ask:
        raise NotImplementedError

    def hear(self, record: dict[str, Any]) -> None:
        """An outcome of a call: ok, fail or info."""

    def lost(self, calls: list[Ask]) -> None:
        """No reply came: ask again what may be asked again."""
        if all("request_id" in params for _, params in calls) and self.rng.random() < 0.85:
            self.again.append(calls)

    def pick(self, share: float) -> bool:
        return self.rng.random() < share


class Worker(Agent):
    def __init__(self, name: str, known: Known, rng: Random, credential: Credential = UNIX) -> None:
        super().__init__(name, known, rng, credential)
        self.worker_id: str | None = None
        self.held: dict[str, int] = {}
        self.stale: list[tuple[str, int]] = []

    def choose(self) -> Ask:
        if self.worker_id is None or self.pick(0.015):
            return "worker.register", {"name": self.name, "labels": ["x"]}
        if self.pick(0.01):
            return self.rng.choice(("worker.drain", "worker.deregister")), {"worker_id": self.worker_id}
        if self.pick(0.06) and (self.stale or self.known.tokens):
            return self._settle(*self.rng.choice(self.stale or self.known.tokens))
        if self.held and self.pick(0.7):
            return self._beat() if self.pick(0.3) else self._settle(*self.rng.choice(list(self.held.items())))
        return "work.claim", self._claim()

    def _claim(self) -> dict[str, Any]:
        params: dict[str, Any] = {"worker_id": self.worker_id, "limit": self.rng.choice((1, 1, 1, 2, 5))}
        if self.pick(0.6):
            params["wait_ms"] = self.rng.choice((500, 5_000, 45_000))
        if self.pick(0.6):
            params["ttl_ms"] = self.rng.choice((10_000, 12_345, 60_000, 600_000))
        asked = self._filter()
        if asked:
            params["filter"] = asked
        return params

    def _filter(self) -> dict[str, Any]:
        known = self.known
        choices: list[dict[str, Any]] = [
            {}, {}, {}, {"labels_all": ["red"]}, {"labels_any": ["red", "blue"]}, {"issue_types": ["bug", "gate"]},
            {"rig": self.rng.choice(RIGS)}, {"labels_all": ["red", "slow"], "rig": ""},
        ]  # fmt: skip
        if known.beads:
            choices.append({"bead_id": self.rng.choice(known.beads)})
        if known.convoys:
            choices.append({"convoy": self.rng.choice(known.convoys)})
        return self.rng.choice(choices)

    def _beat(self) -> Ask:
        beats: list[dict[str, Any]] = [{"bead_id": bead, "token": token} for bead, token in self.held.items()]
        if self.stale and self.pick(0.3):
            bead, token = self.rng.choice(self.stale)
            beats.append({"bead_id": bead, "token": token})
        for beat in beats:
            if self.pick(0.2):
                beat["checkpoint"] = {"step": self.known.serial}
        return "worker.heartbeat", {"worker_id": self.worker_id, "leases": beats}

    def _settle(self, bead: str, token: int) -> Ask:
        params: dict[str, Any] = {"bead_id": bead, "token": token}
        roll = self.rng.random()
        if roll < 0.6:
            params["result"] = {"summary": self.known.word("done ")}
            if self.worker_id is not None and self.pick(0.5):
                params["claim"] = self._claim()
            return "work.complete", params
        if roll < 0.75:
            return "work.fail", params | {"error": "no", "retryable": self.pick(0.9)}
        if roll < 0.9:
            return "work.release", params
        if self.known.beads and self.pick(0.7):
            return "work.block", params | {"on": [self.rng.choice(self.known.beads)]}
        return "work.block", params | {"reason": "a person must look"}

    def hear(self, record: dict[str, Any]) -> None:
        op, args = record["op"], record["args"]
        if record["outcome"] == "fail":
            self._hear_no(op, args, record["error"]["kind"])
        elif record["outcome"] == "ok":
            self._hear_yes(op, args, record["result"])

    def _hear_no(self, op: str, args: dict[str, Any], kind: str) -> None:
        if kind == "worker_unknown":
            self.worker_id = None
        if op in DONE and kind in ("lease_lost", "not_found"):
            self.held.pop(args["bead_id"], None)

    def _hear_yes(self, op: str, args: dict[str, Any], result: dict[str, Any]) -> None:
        if op == "worker.register":
            self.stale += self.held.items()
            self.worker_id = result["worker_id"]
            self.held = {lease["bead_id"]: lease["token"] for lease in result["leases"]}
        elif op == "worker.deregister":
            self.stale += self.held.items()
            self.worker_id = None
        elif op in DONE:
            if self.held.get(args["bead_id"]) == args["token"]:
                del self.held[args["bead_id"]]
            self.stale = [*self.stale[-5:], (args["bead_id"], args["token"])]
        for loss in result.get("lost", ()):
            if self.held.get(loss["bead_id"]) == loss["token"]:
                del self.held[loss["bead_id"]]
                self.stale.append((loss["bead_id"], loss["token"]))
        for claim in result.get("claims", ()):
            lease = claim["lease"]
            self.held[lease["bead_id"]] = lease["token"]
            self.known.tokens = [*self.known.tokens[-20:], (lease["bead_id"], lease["token"])]


class Planner(Agent):
    def choose(self) -> Ask:
        known, rng = self.known, self.rng
        if not known.beads or (self.pick(0.3) and len(known.beads) < BEADS_MAX):
            return "bead.create", {"beads": [self._item() for _ in range(rng.choice((1, 1, 2, 4)))]}
        bead = rng.choice(known.beads)
        ways = (self._tangle, self._tangle, self._edit, self._edit, self._end, self._town, self._look, self._look)
        return rng.choice(ways)(bead)

    def _item(self) -> dict[str, Any]:
        known, rng = self.known, self.rng
        item: dict[str, Any] = {"title": known.word("bead "), "priority": rng.randrange(5)}
        item |= {"issue_type": rng.choice(KINDS), "rig": rng.choice(RIGS)}
        item["labels"] = [label for label in LABELS if self.pick(0.4)]
        if known.beads and self.pick(0.3):
            kind = "waits-for" if self.pick(0.15) else "blocks"
            item["depends_on"] = [{"id": rng.choice(known.beads), "kind": kind}]
        if known.beads and self.pick(0.15):
            item["parent"] = rng.choice(known.beads)
        elif self.pick(0.5):
            item["id"] = known.word("hill-x")
        if self.pick(0.06):
            at = datetime.fromtimestamp((self.wall_ms + rng.randrange(600_000)) / 1000, UTC)
            item["defer_until"] = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return item

    def _tangle(self, bead: str) -> Ask:
        if self.known.edges and self.pick(0.4):
            src, dst, kind = self.rng.choice(self.known.edges)
            return "bead.undepend", {"from": src, "to": dst, "kind": kind}
        kind = self.rng.choice(("blocks", "blocks", "blocks", "parent-child", "waits-for", "related"))
        edge = (bead, self.rng.choice(self.known.beads), kind)
        self.known.edges = [*self.known.edges[-30:], edge]
        return "bead.depend", {"from": edge[0], "to": edge[1], "kind": kind}

    def _edit(self, bead: str) -> Ask:
        if self.pick(0.2):
            return "bead.comment", {"id": bead, "text": self.known.word("said ")}
        choices: list[dict[str, Any]] = [
            {"priority": self.rng.randrange(5)},
            {"priority": self.rng.randrange(5), "labels": [label for label in LABELS if self.pick(0.4)]},
            {"labels": [label for label in LABELS if self.pick(0.4)]},
            {"labels": None},
            {"status": self.rng.choice(("open", "open", "blocked", "deferred", "pinned"))},
            {"assignee": self.rng.choice(("ann", None))},
            {"rig": self.rng.choice(RIGS)},
            {"notes": self.known.word("note ")},
        ]
        params: dict[str, Any] = {"id": bead, "set": self.rng.choice(choices)}
        return "bead.update", params | ({"if_version": self.rng.randrange(1, 6)} if self.pick(0.1) else {})

    def _end(self, bead: str) -> Ask:
        if self.pick(0.6):
            return "bead.reopen", {"id": bead}
        return "bead.close", {"id": bead, "reason": "by hand"}

    def _town(self, bead: str) -> Ask:
        if self.pick(0.5):
            rig = {"rig": self.rng.choice(("r1", "r2"))} if self.pick(0.8) else {}
            return self.rng.choice(("queue.pause", "queue.resume", "queue.resume")), rig
        if not self.known.convoys or self.pick(0.1):
            return "convoy.create", {"name": "c", "beads": [bead]}
        convoy = {"id": self.rng.choice(self.known.convoys), "beads": [bead]}
        return self.rng.choice(("convoy.add", "convoy.add", "convoy.remove")), convoy

    def _look(self, bead: str) -> Ask:
        looks: list[Ask] = [
            ("bead.get", {"id": bead}), ("bead.ready", {"limit": 5}), ("queue.stats", {}), ("worker.list", {}),
            ("bead.list", {"limit": 7, "sort": self.rng.choice(("id", "-updated"))}), ("bead.history", {"id": bead}),
        ]  # fmt: skip
        return self.rng.choice(looks)

    def hear(self, record: dict[str, Any]) -> None:
        if record["outcome"] == "ok" and record["op"] == "bead.create":
            self.known.beads += [b["id"] for b in record["result"]["beads"] if b["id"] not in self.known.beads]
        if record["outcome"] == "ok" and record["op"] == "convoy.create":
            self.known.convoys.append(record["result"]["convoy"]["id"])
