"""The ledger's events told again by a second, naive hand: which bead is whose, what is ready, what must never be.

Law: the standard library only and nothing of the coordinator's. Whatever an event does not say (a priority, a filter, a
renewal) comes from the callers' own records; what neither knows makes a check weaker, never wrong: instants are
(earliest, latest) and a bead with an unknown past is left out of the order.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

SETTLES: Final = {"completed": "closed", "failed": "open", "released": "open", "blocked": "open"}
UNASKED_TYPES: Final = frozenset(
    ("merge-request", "gate", "molecule", "message", "agent", "role", "rig", "event", "convoy")
)
ENDED: Final = frozenset(("closed", "pinned", "tombstone"))  # a blocker in one of these blocks nobody
CRITICAL: Final = 1 << 61  # P0 goes before everything
LATE_MS: Final = 2_000  # how long after its deadline a lease of a dead worker may still be seen
FOREVER_MS: Final = 1 << 60


class Broken(NamedTuple):
    """One broken promise: `rule` is a key of the table of invariants."""

    rule: str
    text: str


@dataclass(frozen=True)
class Terms:
    """The settings the town was served with."""

    aging_ms: int = 24 * 3_600_000
    backoff_ms: int = 30_000
    backoff_ms_max: int = 3_600_000
    losses_max: int = 5
    failures_max: int = 3


class Beat(NamedTuple):
    """A renewal that was acknowledged: the ledger stood at `seq`, the new deadline is `until_ms`."""

    seq: int
    until_ms: int


@dataclass
class Facts:
    """What the callers know and events do not say."""

    born: dict[str, dict[str, Any]] = field(default_factory=dict)  # bead id -> its item of bead.create
    edits: dict[int, dict[str, Any] | None] = field(default_factory=dict)  # seq of an updated -> its `set`
    filters: dict[int, dict[str, Any]] = field(default_factory=dict)  # token -> filter of the claim that got it
    beats: dict[tuple[str, int], list[Beat]] = field(default_factory=dict)  # (bead, token) -> renewals
    unsure: set[tuple[str, int]] = field(default_factory=set)  # renewals that may or may not have happened


@dataclass
class Grant:
    token: int
    worker: str
    ttl_ms: int
    until_ms: int  # no lapse may come before
    lapsed: bool = False


@dataclass
class Bead:
    id: str
    born_ms: int
    known: bool = True  # its priority, type and labels are
    timed: bool = False  # has, or had, a defer_until: then only the coordinator knows the wall clock that counts
    priority: int = 2
    kind: str = "task"
    rig: str = ""
    labels: set[str] = field(default_factory=set)
    edges: set[tuple[str, str]] = field(default_factory=set)
    status: str = "open"  # as if no lease were live
    dead: bool = False
    failures: int = 0
    losses: int = 0
    not_before_ms: int = 0
    grant: Grant | None = None
    ended_as: dict[int, str] = field(default_factory=dict)  # token -> how its grant ended
    token_high: int = 0
    closes: int = 0  # in this incarnation
    since: tuple[int, int] | None = None  # ready_since; None while not ready even in time

    def live(self) -> bool:
        return self.grant is not None and not self.grant.lapsed


class Replay:
    """Run over all events; afterwards `beads`, `broken` and the questions at the end."""

    def __init__(self, facts: Facts, terms: Terms) -> None:
        self.facts, self.terms = facts, terms
        self.beads: dict[str, Bead] = {}
        self.broken: list[Broken] = []
        self.epoch = 0
        self.at_ms = 0
        self.paused: set[str] = set()
        self.issued = 0
        self.draining: set[str] = set()
        self.versions: dict[str, list[int]] = {}  # bead -> seqs of the events that changed it
        self.holders: dict[str, list[tuple[int, int | None, str | None]]] = {}  # bead -> (since seq, token, worker)
        self.parents_of: dict[str, set[str]] = {}  # parent -> its children

    def run(self, events: Iterable[dict[str, Any]]) -> Replay:
        for number, event in enumerate(events, 1):
            if event["seq"] != number:
                self.say("I1", f"event {number} is missing: found {event['seq']}")
                break
            self._clock(event)
            if "bead_id" in event:
                self._bead_event(event)
            else:
                self._town_event(event)
        return self

    def say(self, rule: str, text: str) -> None:
        self.broken.append(Broken(rule, text))

    # ------------------------------------------------------------ the town

    def _clock(self, event: dict[str, Any]) -> None:
        seq, at_ms = event["seq"], event["at_ms"]
        if event["kind"] == "epoch":
            if event["epoch"] <= self.epoch:
                self.say("I9", f"epoch {event['epoch']} at {seq} follows epoch {self.epoch}")
            self.epoch = event["epoch"]
        elif event["epoch"] != self.epoch:
            self.say("I9", f"event {seq} was written in epoch {event['epoch']} while {self.epoch} ruled")
        if at_ms < self.at_ms:
            self.say("I14", f"town time went back from {self.at_ms} to {at_ms} at {seq}")
        self.at_ms = at_ms
        if event["kind"] == "epoch":
            self._fresh_ttls()
        elif event["kind"] not in ("lapsed", "dead_lettered"):
            self._overdue(at_ms, f"event {seq}")

    def _fresh_ttls(self) -> None:
        """After an outage nobody's deadline has passed."""
        for bead in self.beads.values():
            if bead.grant is not None and not bead.grant.lapsed:
                bead.grant.until_ms = max(bead.grant.until_ms, self.at_ms + bead.grant.ttl_ms)

    def _overdue(self, at_ms: int, where: str) -> None:
        """Leases end at their deadline, before that turn's calls."""
        for bead in self.beads.values():
            grant = bead.grant
            if grant is None or grant.lapsed or grant.until_ms > at_ms or (bead.id, grant.token) in self.facts.unsure:
                continue
            beats = self.facts.beats.get((bead.id, grant.token), ())
            if max((beat.until_ms for beat in beats), default=0) <= at_ms:
                self.say("I7", f"{bead.id} is still leased at {where}, {at_ms - grant.until_ms} ms past its deadline")

    def _town_event(self, event: dict[str, Any]) -> None:
        kind = event["kind"]
        if kind == "queue_paused":
            self.paused.add(event["rig"])
        elif kind == "queue_resumed":
            rig = event["rig"]
            self.paused = self.paused - {rig} if rig != "*" else set()
        elif kind == "worker_drained":
            self.draining.add(event["worker_id"])

    # ------------------------------------------------------------ one bead

    def _bead_event(self, event: dict[str, Any]) -> None:
        kind, bead_id, seq = event["kind"], event["bead_id"], event["seq"]
        if kind == "created":
            self._create(bead_id)
        bead = self.beads.get(bead_id)
        if bead is None:
            self.say("I1", f"{kind} at {seq} of {bead_id}, which was never created")
            return
        if kind != "salvaged":
            self.versions.setdefault(bead_id, []).append(seq)
        handler = getattr(self, f"_on_{kind}", None)
        if handler is not None:
            handler(bead, event)
        elif kind in SETTLES:
            self._settle(bead, event)
        elif kind not in ("created", "salvaged", "commented"):
            self.say("I6", f"{kind} at {seq}: no such move")
        self._hold(bead, seq)
        if kind not in ("leased", "renewed", "salvaged", "commented"):
            self._readiness()

    def _create(self, bead_id: str) -> None:
        item = self.facts.born.get(bead_id)
        if bead_id in self.beads:
            self.say("I6", f"{bead_id} was created twice")
        bead = self.beads[bead_id] = Bead(bead_id, self.at_ms, known=item is not None)
        if item is None:
            return
        bead.priority, bead.kind = item.get("priority", 2), item.get("issue_type", "task")
        bead.rig, bead.labels = item.get("rig", ""), set(item.get("labels", ()))
        bead.timed = item.get("defer_until") is not None
        bead.edges = {(edge["id"], edge.get("kind", "blocks")) for edge in item.get("depends_on", ())}
        if item.get("parent") is not None:
            bead.edges.add((item["parent"], "parent-child"))
        self._index_parents(bead)

    def _index_parents(self, bead: Bead) -> None:
        for dst, kind in bead.edges:
            if kind == "parent-child":
                self.parents_of.setdefault(dst, set()).add(bead.id)

    def _hold(self, bead: Bead, seq: int) -> None:
        token, worker = (bead.grant.token, bead.grant.worker) if bead.grant else (None, None)
        line = self.holders.setdefault(bead.id, [])
        if not line or line[-1][1:] != (token, worker):
            line.append((seq, token, worker))

    def holder_at(self, bead_id: str, seq: int) -> tuple[int | None, str | None]:
        """The latest unsettled grant when the ledger stood at `seq`: its token and worker."""
        line = self.holders.get(bead_id, [])
        at = bisect_right(line, seq, key=lambda entry: entry[0])
        return line[at - 1][1:] if at else (None, None)

    def version_at(self, bead_id: str, seq: int) -> int:
        return bisect_right(self.versions.get(bead_id, []), seq)

    # ------------------------------------------------------------ leases

    def _on_leased(self, bead: Bead, event: dict[str, Any]) -> None:
        token, takes = event["token"], event.get("takes")
        if token <= bead.token_high:
            self.say("I3", f"{bead.id} was granted token {token} after {bead.token_high}")
        if token <= self.issued:
            self.say("I3", f"token {token} was issued after {self.issued}")
        if takes is not None:
            if bead.grant is None or bead.grant.token != takes:
                self.say("I5", f"{bead.id} was passed on from token {takes}, which did not hold it")
        else:
            if bead.live():
                self.say("I4", f"{bead.id} was granted {token} while a lease was live")
            self._check_grant(bead, event)
        if bead.grant is not None:
            bead.ended_as[bead.grant.token] = "superseded"
        bead.token_high, self.issued = max(token, bead.token_high), max(token, self.issued)
        ttl_ms = event["ttl_ms"]
        bead.grant = Grant(token, event["worker_id"], ttl_ms, self.at_ms + ttl_ms)

    def _on_renewed(self, bead: Bead, event: dict[str, Any]) -> None:
        grant = self._current(bead, event)
        if grant is None:
            return
        if grant.lapsed:
            bead.losses -= 1
        grant.lapsed = False
        grant.until_ms = max(grant.until_ms, self.at_ms + grant.ttl_ms)

    def _on_lapsed(self, bead: Bead, event: dict[str, Any]) -> None:
        grant = self._current(bead, event)
        if grant is None:
            return
        if grant.lapsed:
            self.say("I6", f"{bead.id} lapsed twice under token {grant.token}")
        beats = self.facts.beats.get((bead.id, grant.token), ())
        earliest = max([beat.until_ms for beat in beats if beat.seq < event["seq"]] + [grant.until_ms])
        if self.at_ms < earliest:
            self.say("I14", f"{bead.id} lapsed at {self.at_ms}, {earliest - self.at_ms} ms before its deadline")
        bead.losses += 1
        grant.lapsed = True
        bead.since = (min(earliest, self.at_ms), self.at_ms) if self._is_free(bead) else None

    def _current(self, bead: Bead, event: dict[str, Any]) -> Grant | None:
        """The grant an event speaks for; a stale one is a broken promise."""
        grant, token = bead.grant, event.get("token")
        if grant is not None and grant.token == token:
            return grant
        rule = "I5" if token in bead.ended_as else "I3"
        how = bead.ended_as.get(token, "never granted") if token is not None else "without a token"
        self.say(rule, f"{event['kind']} of {bead.id} at {event['seq']} by token {token}, which was {how}")
        return None

    def _end(self, bead: Bead, how: str) -> None:
        if bead.grant is not None:
            bead.ended_as[bead.grant.token] = how
            bead.grant = None

    def _settle(self, bead: Bead, event: dict[str, Any]) -> None:
        kind, grant = event["kind"], self._current(bead, event)
        was_lapsed = grant is not None and grant.lapsed
        if was_lapsed:
            bead.losses -= 1
        if grant is not None:
            self._end(bead, kind)
        bead.status = SETTLES[kind]
        since, bead.since = bead.since, None
        if kind == "completed":
            self._close(bead, event)
        elif kind == "failed":
            bead.failures += 1
            back_ms = min(self.terms.backoff_ms << (bead.failures - 1), self.terms.backoff_ms_max)
            bead.not_before_ms = self.at_ms + back_ms
        elif kind == "blocked" and "on" in event:
            bead.edges |= {(target, "blocks") for target in event["on"]}
        elif kind == "blocked":
            bead.status = "blocked"
        elif was_lapsed and since is not None and self._is_free(bead):
            bead.since = (since[0], self.at_ms)  # it was ready already: either instant will do

    def _on_dead_lettered(self, bead: Bead, event: dict[str, Any]) -> None:
        spent = bead.losses >= self.terms.losses_max or bead.failures >= self.terms.failures_max
        if not spent and "failures" not in event:
            self.say("I6", f"{bead.id} was dead-lettered at {event['seq']} after {bead.losses} losses")
        self._end(bead, "dead")
        bead.status, bead.dead, bead.not_before_ms = "blocked", True, 0

    # ------------------------------------------------------------ by hand

    def _close(self, bead: Bead, event: dict[str, Any]) -> None:
        bead.closes += 1
        bead.status = "closed"
        if bead.closes > 1:
            self.say("I6", f"{bead.id} ended {bead.closes} times in one incarnation, at {event['seq']}")

    def _on_closed(self, bead: Bead, event: dict[str, Any]) -> None:
        self._end(bead, "closed")
        self._close(bead, event)

    def _on_reopened(self, bead: Bead, event: dict[str, Any]) -> None:
        if bead.status not in ("closed", "blocked"):
            self.say("I6", f"{bead.id} was reopened at {event['seq']} from {bead.status}")
        bead.status, bead.dead, bead.closes = "open", False, 0
        bead.failures = bead.losses = bead.not_before_ms = 0
        bead.since = None

    def _on_updated(self, bead: Bead, event: dict[str, Any]) -> None:
        names, values = set(event["set"]), self.facts.edits.get(event["seq"])
        if names & {"status", "assignee"} and bead.grant is not None:
            if bead.grant.lapsed and bead.since is not None:
                bead.since = (bead.since[0], self.at_ms)
            else:
                bead.since = None
            self._end(bead, "changed")
        if "status" in names and bead.status == "closed":
            self.say("I6", f"the status of closed {bead.id} was set at {event['seq']}")
        if values is None:
            bead.known = bead.known and not names & {"status", "priority", "issue_type", "rig", "labels", "defer_until"}
            return
        if "status" in names:
            bead.status, bead.not_before_ms = values["status"], 0
            bead.dead = bead.dead and bead.status == "blocked"
            bead.since = None if bead.since is not None and bead.since[0] > self.at_ms else bead.since
        bead.priority = values.get("priority", bead.priority)
        bead.kind, bead.rig = values.get("issue_type", bead.kind), values.get("rig", bead.rig) or ""
        bead.labels = set(values["labels"] or ()) if "labels" in values else bead.labels
        bead.timed = bead.timed or "defer_until" in values

    def _on_edge_added(self, bead: Bead, event: dict[str, Any]) -> None:
        bead.edges.add((event["to"], event["edge"]))
        self._index_parents(bead)

    def _on_edge_removed(self, bead: Bead, event: dict[str, Any]) -> None:
        bead.edges.discard((event["to"], event["edge"]))
        if event["edge"] == "parent-child":
            self.parents_of.get(event["to"], set()).discard(bead.id)

    # ------------------------------------------------------------ readiness

    def hindered(self, bead: Bead) -> bool:
        """Whether an edge of its own holds it."""
        for dst, kind in bead.edges:
            target = self.beads.get(dst)
            if target is None:
                continue
            if kind in ("blocks", "conditional-blocks") and target.status not in ENDED:
                return True
            if kind == "waits-for":
                children = self.parents_of.get(dst, ())
                if any(self.beads[child].status not in ENDED for child in children):
                    return True
        return False

    def held(self, bead: Bead) -> bool:
        """Whether an edge of its own or of an ancestor that has not ended holds it."""
        seen, todo = {bead.id}, [bead]
        while todo:
            here = todo.pop()
            if self.hindered(here):
                return True
            for dst, kind in here.edges:
                parent = self.beads.get(dst)
                if kind == "parent-child" and parent and dst not in seen and parent.status not in ENDED:
                    seen.add(dst)
                    todo.append(parent)
        return False

    def _is_free(self, bead: Bead) -> bool:
        return bead.status == "open" and not bead.dead and not self.held(bead)

    def _readiness(self) -> None:
        """ready_since of every bead, a live lease left out of account."""
        for bead in self.beads.values():
            if bead.status == "closed" or not self._is_free(bead):
                bead.since = None
            elif bead.since is None:
                since_ms = max(self.at_ms, bead.not_before_ms)
                bead.since = (since_ms, since_ms)

    def is_timed(self, bead: Bead) -> bool:
        """Whether the wall clock has a say in its readiness."""
        parents = [self.beads.get(dst) for dst, kind in bead.edges if kind == "parent-child"]
        return bead.timed or any(parent is not None and parent.timed for parent in parents)

    def surely_ready(self, bead: Bead, at_ms: int) -> bool:
        if bead.live() or not bead.known or bead.since is None or self.is_timed(bead):
            return False
        return bead.since[1] <= at_ms and not self._is_paused(bead)

    def _is_paused(self, bead: Bead) -> bool:
        return "*" in self.paused or bead.rig in self.paused

    # ------------------------------------------------------------ who gets what

    def _check_grant(self, bead: Bead, event: dict[str, Any]) -> None:
        where = f"{bead.id}, granted token {event['token']} at {event['seq']},"
        if event["worker_id"] in self.draining:
            self.say("I10", f"{where} went to a draining worker")
        if not bead.known:
            return
        if self._is_paused(bead):
            self.say("I10", f"{where} is paused")
        if bead.status == "open" and not bead.dead and self.held(bead):
            self.say("I11", f"{where} waits for others")
        elif bead.since is None:
            self.say("I6", f"{where} is {bead.status}")
        elif bead.since[0] > self.at_ms:
            self.say("I11", f"{where} is in its backoff for {bead.since[0] - self.at_ms} ms")
        else:
            self._check_order(bead, event, where)

    def _check_order(self, bead: Bead, event: dict[str, Any], where: str) -> None:
        asked = self.facts.filters.get(event["token"])
        if asked is None:
            return
        if not admits(asked, bead):
            self.say("I10", f"{where} does not pass the filter {asked}")
        if "convoy" in asked or self.is_timed(bead) or bead.since is None:
            return
        latest = self.order(bead, bead.since[1])
        for rival in self.beads.values():
            if rival is bead or not self.surely_ready(rival, self.at_ms) or not admits(asked, rival):
                continue
            if rival.since is not None and self.order(rival, rival.since[1]) < self.order(bead, bead.since[0]):
                self.say("I10", f"{where} goes after {rival.id}: {self.order(rival, rival.since[1])} < {latest}")

    def order(self, bead: Bead, since_ms: int) -> tuple[int, int, str]:
        score = since_ms - CRITICAL if bead.priority == 0 else since_ms + bead.priority * self.terms.aging_ms
        return score, bead.born_ms, bead.id

    # ------------------------------------------------------------ at the end

    def finish(self, end_ms: int | None, drained: bool) -> None:
        """`end_ms`: town time when the ledger was read; `drained`: somebody took all there was, faults were over."""
        if end_ms is not None:
            self._overdue(end_ms - LATE_MS, "the end")
        if drained and end_ms is not None:
            for bead in self.beads.values():
                if self.surely_ready(bead, end_ms) and bead.kind not in UNASKED_TYPES:
                    self.say("I7", f"{bead.id} is ready, and nobody is given it")

    def counts(self) -> dict[str, int]:
        """Beads by what this replay can tell: closed, leased, other."""
        found = {"closed": 0, "leased": 0, "other": 0}
        for bead in self.beads.values():
            found["closed" if bead.status == "closed" else "leased" if bead.live() else "other"] += 1
        return found


def admits(asked: dict[str, Any], bead: Bead) -> bool:
    """Whether a filter lets the bead pass, convoys left out."""
    kinds = asked.get("issue_types")
    if bead.kind not in kinds if kinds else bead.kind in UNASKED_TYPES:
        return False
    return (
        bead.labels.issuperset(asked.get("labels_all", ()))
        and (not asked.get("labels_any") or not bead.labels.isdisjoint(asked["labels_any"]))
        and asked.get("rig", bead.rig) == bead.rig
        and asked.get("bead_id", bead.id) == bead.id
    )
