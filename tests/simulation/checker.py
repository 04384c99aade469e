"""Is this history one that the promises allow?

A history is one record a call, as its caller saw it: client, op, args, t_inv and t_ret (seconds of one
monotonic clock), outcome (ok, fail: a definite error, info: may or may not have happened), epoch, seq, bead,
token, and the result of an ok or the error of a fail.

The ledger is {"events": every event as the wire shows it, "export": JSONL text, "again": the same exported by a
ledger that imported it, "end_ms": town time at its end, "drained": whether somebody took all there was once the
faults were over}; the last three may be missing.

Law: the standard library only and nothing of the coordinator's. A rule is red only when it is sure, and goes by
the name of its invariant.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from .replay import Beat, Broken, Facts, Replay, Terms, admits

Record = dict[str, Any]
READING: Final = frozenset(
    ("bead.get", "bead.list", "bead.ready", "bead.history", "queue.stats", "worker.list", "convoy.get", "system.info")
)
SETTLING: Final = {
    "work.complete": "completed", "work.fail": "failed", "work.release": "released", "work.block": "blocked",
}  # fmt: skip
ONE_EVENT: Final = {"bead.close": "closed", "bead.reopen": "reopened", "bead.comment": "commented"}
TRANSIENT: Final = frozenset(("draining", "backpressure", "storage_low", "rate_limited", "not_leader", "internal"))
HOLDING: Final = frozenset(("blocks", "conditional-blocks", "parent-child"))
CLOCK_STEP_S: Final = 0.001  # the town counts whole milliseconds
OUR_RELEASES: Final = ("worker deregistered", "the grant could not be delivered")  # nobody called work.release
CLAIMS: Final = frozenset(("work.claim", "work.complete"))


@dataclass
class Case:
    """A history made ready for questions."""

    history: list[Record]
    events: list[dict[str, Any]]
    export: str
    exported: dict[str, dict[str, Any]] = field(default_factory=dict)
    grants: dict[int, Record] = field(default_factory=dict)  # token -> the ok'd call that got it
    tries: dict[str, list[Record]] = field(default_factory=dict)  # request_id -> its attempts, as they began
    replay: Replay = field(default_factory=lambda: Replay(Facts(), Terms()))

    def oks(self, *ops: str) -> Iterator[Record]:
        return (r for r in self.history if r["outcome"] == "ok" and (not ops or r["op"] in ops))

    def writes(self) -> Iterator[Record]:
        return (r for r in self.history if r["outcome"] == "ok" and r["op"] not in READING)

    def event(self, seq: int) -> dict[str, Any]:
        return self.events[seq - 1] if 1 <= seq <= len(self.events) else {}

    def first_try(self, record: Record) -> Record:
        """The first attempt of this call."""
        request_id = record["args"].get("request_id")
        return record if request_id is None else self.tries[request_id][0]

    def is_first(self, record: Record) -> bool:
        """Whether this was the first attempt: a later one may be answered from the past."""
        return self.first_try(record) is record


def check(history: list[Record], ledger: dict[str, Any], terms: Terms | None = None) -> list[Broken]:
    """Every broken promise, at most a few a rule; none for a good history."""
    case = Case(sorted(history, key=lambda record: record["t_inv"]), ledger["events"], ledger["export"])
    _index(case)
    facts = _facts(case)
    case.replay = Replay(facts, terms or Terms()).run(case.events)
    case.replay.finish(ledger.get("end_ms"), ledger.get("drained", False))
    broken = list(case.replay.broken)
    for rule in RULES:
        broken += rule(case)
    broken += _exports(case, ledger.get("again"))
    return broken


def _index(case: Case) -> None:
    for line in case.export.splitlines():
        fields = json.loads(line)
        if "_schema" not in fields and fields.get("_type") != "memory":
            case.exported[fields["id"]] = fields
    tries: dict[str, list[Record]] = defaultdict(list)
    for record in case.history:
        request_id = record["args"].get("request_id")
        if request_id is not None:
            tries[request_id].append(record)
        if record["outcome"] == "ok":
            for claim in record["result"].get("claims", ()):
                case.grants.setdefault(claim["lease"]["token"], record)
    case.tries = dict(tries)


# ---------------------------------------------------------------- what the callers know


def _facts(case: Case) -> Facts:
    facts = Facts(_born(case), _edits(case), _filters(case))
    for record in case.history:
        if record["op"] != "worker.heartbeat":
            continue
        if record["outcome"] == "info":
            facts.unsure |= {(beat["bead_id"], beat["token"]) for beat in record["args"].get("leases", ())}
        elif record["outcome"] == "ok":
            for lease in record["result"]["leases"]:
                beat = Beat(record["seq"], lease["expires_at_ms"])
                facts.beats.setdefault((lease["bead_id"], lease["token"]), []).append(beat)
    return facts


def _born(case: Case) -> dict[str, dict[str, Any]]:
    """The item of bead.create that each bead came from; titles are told apart by the callers."""
    by_title, born = {}, {}
    for record in case.history:
        if record["op"] == "bead.create":
            by_title.update({item["title"]: item for item in record["args"]["beads"]})
            if record["outcome"] == "ok":
                made = zip(record["result"]["beads"], record["args"]["beads"], strict=True)
                born.update({bead["id"]: item for bead, item in made})
    for bead_id, fields in case.exported.items():
        if fields["title"] in by_title:
            born.setdefault(bead_id, by_title[fields["title"]])
    return born


def _edits(case: Case) -> dict[int, dict[str, Any] | None]:
    """The `set` behind each updated event, where it can be told."""
    asked: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in case.history:
        if record["op"] == "bead.update" and record["outcome"] != "fail":
            asked[record["args"]["id"], json.dumps(sorted(record["args"]["set"]))].append(record)
    edits: dict[int, dict[str, Any] | None] = {}
    for event in case.events:
        if event["kind"] == "updated":
            about = asked[event["bead_id"], json.dumps(event["set"])]
            told = [r for r in about if r["seq"] == event["seq"]] or [r for r in about if r["outcome"] == "info"]
            values = {json.dumps(r["args"]["set"], sort_keys=True): r["args"]["set"] for r in told}
            edits[event["seq"]] = next(iter(values.values())) if len(values) == 1 else None
    return edits


def _asked(record: Record) -> dict[str, Any] | None:
    """The claim inside a record: its own or a completion's."""
    if record["op"] == "work.claim":
        return dict(record["args"])
    claim: dict[str, Any] | None = record["args"].get("claim") if record["op"] == "work.complete" else None
    return claim


def _filters(case: Case) -> dict[int, dict[str, Any]]:
    """The filter that each grant was made for, where it can be told."""
    open_claims: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for record in case.history:
        claim = _asked(record)
        if claim is not None and record["outcome"] == "info":
            asked = claim.get("filter") or {}
            open_claims[claim["worker_id"]][json.dumps(asked, sort_keys=True)] = asked
    filters = {}
    for event in case.events:
        if event["kind"] == "leased":
            claim = _asked(case.grants[event["token"]]) if event["token"] in case.grants else None
            candidates = open_claims[event["worker_id"]]
            if claim is not None:
                filters[event["token"]] = claim.get("filter") or {}
            elif len(candidates) == 1:
                filters[event["token"]] = next(iter(candidates.values()))
    return filters


# ---------------------------------------------------------------- I1: acknowledged is for ever


def _acknowledged(case: Case) -> Iterator[Broken]:
    """Every ok of a mutating call stands in the ledger, in its epoch."""
    for record in case.writes():
        event = case.event(record["seq"])
        where = f"{record['op']} of {record['client']} was acknowledged at {record['seq']}"
        if not event:
            yield Broken("I1", f"{where}, beyond the ledger's end")
            continue
        if event["epoch"] != record["epoch"]:
            yield Broken("I1", f"{where} in epoch {record['epoch']}; that event is of epoch {event['epoch']}")
        op, args = record["op"], record["args"]
        if op in ONE_EVENT and (event["kind"], event.get("bead_id")) != (ONE_EVENT[op], args["id"]):
            yield Broken("I1", f"{where}; that event is {event['kind']} of {event.get('bead_id')}")
        elif op == "bead.comment" and event["text"] != args["text"]:
            yield Broken("I1", f"{where}; the comment there is another")


def _settled(case: Case) -> Iterator[Broken]:
    """An ok'd end of a grant is in the ledger, under its own token; an ok'd grant too."""
    ends: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    grants: dict[tuple[str, int], int] = {}
    for event in case.events:
        if event["kind"] in SETTLING.values() and "token" in event:
            ends[event["kind"], event["bead_id"], event["token"]].append(event["seq"])
        elif event["kind"] == "leased":
            grants[event["bead_id"], event["token"]] = event["seq"]
    for record in case.oks(*SETTLING):
        bead, token = record["args"]["bead_id"], record["args"]["token"]
        if not ends[SETTLING[record["op"]], bead, token]:
            yield Broken("I1", f"{record['op']} of {bead} by token {token} was acknowledged and is not in the ledger")
    for record in case.oks(*CLAIMS):
        for claim in record["result"].get("claims", ()):
            bead, token = claim["lease"]["bead_id"], claim["lease"]["token"]
            seq = grants.get((bead, token))
            if seq is None:
                yield Broken("I1", f"the grant of {bead} with token {token} was acknowledged and is not in the ledger")
            elif claim["bead"]["version"] != case.replay.version_at(bead, seq):
                yield Broken("I1", f"{bead} was granted at version {claim['bead']['version']}, see {seq}")


def _versions(case: Case) -> Iterator[Broken]:
    """A write shows the bead as of its own seq; a later call never shows an older bead than an earlier one did."""
    shown: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for record in case.oks():
        for bead in _beads_of(record):
            shown[bead["id"]].append((record["t_ret"], bead["version"]))
    for bead_id, seen in shown.items():
        shown[bead_id] = _rising(sorted(seen))
    for record in case.oks():
        if not case.is_first(record):
            continue
        for bead in _beads_of(record):
            at = bisect_left(shown[bead["id"]], (record["t_inv"], -1)) - 1
            if at >= 0 and shown[bead["id"]][at][1] > bead["version"]:
                yield Broken(
                    "I1", f"{record['op']} showed {bead['id']} at version {bead['version']}, known to be newer"
                )
        one = record["result"].get("bead")
        if one is not None and record["op"] not in READING and not record["args"].get("claim"):
            version = case.replay.version_at(one["id"], record["seq"])
            if version != one["version"]:
                text = f"{record['op']} at {record['seq']} left {one['id']} at version {one['version']}"
                yield Broken("I1", f"{text}, the ledger's events count {version}")


def _beads_of(record: Record) -> list[dict[str, Any]]:
    result = record["result"]
    found = [result["bead"]] if "bead" in result else [b for b in result.get("beads", ()) if isinstance(b, dict)]
    return found + [claim["bead"] for claim in result.get("claims", ())]


def _rising(seen: list[tuple[float, int]]) -> list[tuple[float, int]]:
    highest, rising = 0, []
    for t_ret, version in seen:
        highest = max(highest, version)
        rising.append((t_ret, highest))
    return rising


def _vanished(case: Case) -> Iterator[Broken]:
    """What a call has made is found by every later one, and is exported in the end as the events left it."""
    born: dict[str, float] = {}
    for record in case.oks("bead.create"):
        for bead in record["result"]["beads"]:
            born[bead["id"]] = min(record["t_ret"], born.get(bead["id"], record["t_ret"]))
            if bead["id"] not in case.exported:
                yield Broken("I1", f"{bead['id']} was created and is not in the ledger")
    for record in case.history:
        lost = record["outcome"] == "fail" and record["error"]["kind"] == "not_found" and record["error"].get("id")
        if lost and born.get(lost, record["t_inv"]) < record["t_inv"]:
            yield Broken("I1", f"{record['op']} did not find {lost}, which was created before")
    for bead in case.replay.beads.values():
        status = case.exported.get(bead.id, {}).get("status")
        expected = "in_progress" if bead.live() else bead.status
        if status != expected and (bead.known or "closed" in (status, expected)):
            yield Broken("I1", f"{bead.id} is exported as {status}, its events leave it {expected}")


# ---------------------------------------------------------------- I2: at most once


def _replays(case: Case) -> Iterator[Broken]:
    """Attempts of one call have one effect and one answer."""
    for request_id, tries in case.tries.items():
        done = [r for r in tries if r["outcome"] == "ok" and _took(r)]
        answers = {json.dumps(_answer(r), sort_keys=True) for r in done}
        if len(answers) > 1:
            yield Broken("I2", f"request_id {request_id} of {tries[0]['op']} was answered in {len(answers)} ways")
        first = min((r["t_ret"] for r in done), default=None)
        for record in tries:
            refused = record["outcome"] == "fail" and record["error"]["kind"] not in TRANSIENT
            if first is not None and refused and record["t_inv"] > first:
                yield Broken("I2", f"request_id {request_id} was done, then refused: {record['error']['kind']}")


def _took(record: Record) -> bool:
    """Whether this ok surely changed something: only such a result is kept."""
    if record["op"] == "work.claim":
        return bool(record["result"]["claims"])
    settles = record["op"] in SETTLING or record["op"] in ONE_EVENT
    return settles or record["op"] in ("bead.create", "worker.register")


def _answer(record: Record) -> dict[str, Any]:
    """What every replay must repeat: of a completion that still waited for work, only the completion."""
    result = {key: value for key, value in record["result"].items() if key != "replayed"}
    if "claims" in result and record["op"] == "work.complete":
        result = {"bead": result["bead"]}
    return result


def _effects(case: Case) -> Iterator[Broken]:
    """Nothing happened twice, and nothing that was refused or that nobody asked for."""
    titles: dict[str, int] = defaultdict(int)
    for fields in case.exported.values():
        titles[fields["title"]] += 1
    yield from (Broken("I2", f"{n} beads came of one item {title!r}") for title, n in titles.items() if n > 1)
    texts: dict[str, int] = defaultdict(int)
    ends: dict[tuple[Any, ...], int] = defaultdict(int)
    for event in case.events:
        if event["kind"] == "commented":
            texts[event["text"]] += 1
        elif event["kind"] in SETTLING.values() and event.get("reason") not in OUR_RELEASES:
            ends[event["kind"], event["bead_id"], event.get("token")] += 1
    yield from (Broken("I2", f"{n} comments came of one {text!r}") for text, n in texts.items() if n > 1)
    asked: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for record in case.history:
        if record["op"] in SETTLING:
            args = record["args"]
            asked[SETTLING[record["op"]], args["bead_id"], args["token"]].add(record["outcome"])
    for key, outcomes in asked.items():
        if ends[key] and outcomes == {"fail"}:
            yield Broken("I2", f"{key[0]} of {key[1]} by token {key[2]} was refused and happened")


def _unasked(case: Case) -> Iterator[Broken]:
    """A worker is granted no more than its claims could bring."""
    spare: dict[str, int] = defaultdict(int)
    for record in case.history:
        claim = _asked(record)
        if claim is not None and record["outcome"] == "info":
            spare[claim["worker_id"]] += claim.get("limit", 1)
    for event in case.events:
        if event["kind"] == "leased" and "takes" not in event and event["token"] not in case.grants:
            spare[event["worker_id"]] -= 1
            if spare[event["worker_id"]] < 0:
                yield Broken("I2", f"{event['worker_id']} was granted {event['bead_id']}, which it did not ask for")


# ---------------------------------------------------------------- I3, I5: tokens


def _tokens(case: Case) -> Iterator[Broken]:
    """A token is told to one caller, renews only while it holds, and is not refused while it does."""
    owners: dict[int, tuple[str, str]] = {}
    for record in case.oks(*CLAIMS, "worker.register"):
        leases = [claim["lease"] for claim in record["result"].get("claims", ())] or record["result"].get("leases", ())
        for lease in leases:
            told = (lease["bead_id"], lease["worker_id"])
            if owners.setdefault(lease["token"], told) != told:
                yield Broken("I3", f"token {lease['token']} was given for {owners[lease['token']]} and {told}")
    for record in case.oks("worker.heartbeat"):
        for lease in record["result"]["leases"]:
            token, worker = case.replay.holder_at(lease["bead_id"], record["seq"])
            if (token, worker) != (lease["token"], record["args"]["worker_id"]):
                text = f"{lease['bead_id']} was renewed for token {lease['token']} at {record['seq']}"
                yield Broken("I3", f"{text}, while {token} of {worker} held it")
    for record in case.history:
        if record["outcome"] == "fail" and record["error"]["kind"] == "lease_lost":
            yield from _wrongly_refused(case, record)


def _wrongly_refused(case: Case, record: Record) -> Iterator[Broken]:
    bead, token = case.replay.beads.get(record["args"]["bead_id"]), record["args"]["token"]
    granted = case.grants.get(token)
    if bead is None or bead.grant is None or bead.grant.token != token or granted is None:
        return
    if granted["t_ret"] < record["t_inv"]:
        yield Broken("I5", f"{record['op']} of {bead.id} was refused though token {token} holds it to this day")


# ---------------------------------------------------------------- I9, I14: epochs and time


def _order_of_time(case: Case) -> Iterator[Broken]:
    """Who asks later is answered from the same or a later epoch and seq."""
    answered = sorted((r["t_ret"], r["epoch"], r["seq"]) for r in case.writes())
    times = [t_ret for t_ret, _, _ in answered]
    highest, marks = (0, 0), []
    for _, epoch, seq in answered:
        highest = (max(highest[0], epoch), max(highest[1], seq))
        marks.append(highest)
    for record in case.writes():
        at = bisect_left(times, record["t_inv"]) - 1
        if at < 0 or not case.is_first(record):
            continue
        epoch, seq = marks[at]
        if record["epoch"] < epoch:
            yield Broken("I9", f"{record['op']} was answered in epoch {record['epoch']} after {epoch} had begun")
        if record["seq"] < seq:
            yield Broken("I1", f"{record['op']} was answered at {record['seq']} after {seq} was acknowledged")


def _lapses(case: Case) -> Iterator[Broken]:
    """No lease ends before its ttl has passed on the callers' own clock, whatever the wall clock did."""
    known_by = sorted((r["seq"], r["t_ret"]) for r in case.writes())
    seqs, earliest = [seq for seq, _ in known_by], [t_ret for _, t_ret in known_by]
    for at in range(len(earliest) - 2, -1, -1):
        earliest[at] = min(earliest[at], earliest[at + 1])
    ttls = {event["token"]: event["ttl_ms"] for event in case.events if event["kind"] == "leased"}
    for event in case.events:
        granted = case.grants.get(event.get("token", -1))
        at = bisect_left(seqs, event["seq"])
        if event["kind"] != "lapsed" or granted is None or at == len(seqs):
            continue
        t_inv, ttl_ms = case.first_try(granted)["t_inv"], ttls.get(event["token"], 0)
        if earliest[at] < t_inv + ttl_ms / 1000 - CLOCK_STEP_S:
            held_ms = round((earliest[at] - t_inv) * 1000)
            yield Broken("I14", f"{event['bead_id']} lapsed within {held_ms} ms of its claim, its ttl is {ttl_ms}")


# ---------------------------------------------------------------- I10: the line of waiting claims


def _line(case: Case) -> Iterator[Broken]:
    """A bead goes to the earliest waiting claim whose filter passes. Needs `t_turn`: when a call was taken up."""
    told = [r for r in case.oks(*CLAIMS) if "t_turn" in r and _asked(r) is not None and case.is_first(r)]
    waiting = [r for r in told if (_asked(r) or {}).get("wait_ms")]
    granted = {event["token"]: event for event in case.events if event["kind"] == "leased"}
    edited = {event["bead_id"] for event in case.events if event["kind"] == "updated"}
    drained = {r["args"]["worker_id"] for r in case.history if r["op"] == "worker.drain"}
    for record in told:
        for claim in record["result"]["claims"]:
            event = granted.get(claim["lease"]["token"])
            bead = case.replay.beads.get(claim["lease"]["bead_id"])
            if event is None or bead is None or not bead.known or bead.id in edited:
                continue
            for earlier in waiting:
                asked = (_asked(earlier) or {}).get("filter") or {}
                if _was_waiting(earlier, record, event, drained) and admits(asked, bead):
                    text = f"{bead.id} went to {record['client']} at {event['seq']}"
                    yield Broken("I10", f"{text}, before {earlier['client']}, who waited longer")


def _was_waiting(earlier: Record, record: Record, event: dict[str, Any], drained: set[str]) -> bool:
    """Whether `earlier` was in line before `record` was taken up, and still after it was served."""
    asked = _asked(earlier) or {}
    return (
        earlier["t_turn"] < record["t_turn"]
        and earlier["epoch"] == event["epoch"]
        and earlier["seq"] > event["seq"]
        and "convoy" not in (asked.get("filter") or {})
        and asked["worker_id"] not in drained
    )


# ---------------------------------------------------------------- I11, I12: the end


def _loops(case: Case) -> Iterator[Broken]:
    """No cycle was let in."""
    beads = case.replay.beads
    edges = {bead.id: [dst for dst, kind in bead.edges if kind in HOLDING] for bead in beads.values()}
    state: dict[str, int] = {}
    for start, targets_of in edges.items():
        todo = [(start, iter(targets_of))] if start not in state else []
        state.setdefault(start, 1)
        while todo:
            here, targets = todo[-1]
            target = next(targets, None)
            if target is None:
                state[here] = 2
                todo.pop()
            elif state.get(target) == 1:
                yield Broken("I11", f"the edge {here} -> {target} closes a loop")
            elif target not in state and target in edges:
                state[target] = 1
                todo.append((target, iter(edges[target])))


def _exports(case: Case, again: str | None) -> Iterator[Broken]:
    """An import of the export exports the same bytes, the mark of the tokens included."""
    if again is not None and again != case.export:
        ours, theirs = case.export.splitlines(), again.splitlines()
        at = next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(theirs))
        yield Broken("I12", f"line {at + 1} differs after export, import and export")
    if case.replay.issued:
        head = json.loads(case.export.splitlines()[0]) if case.export else {}
        if head.get("token_high", 0) < case.replay.issued:
            yield Broken("I12", f"the export's mark is {head.get('token_high')}, token {case.replay.issued} was issued")


RULES: Final[tuple[Callable[[Case], Iterator[Broken]], ...]] = (
    _acknowledged, _settled, _versions, _vanished, _replays, _effects, _unasked, _tokens, _order_of_time, _lapses,
    _line, _loops,
)  # fmt: skip
