"""work.*: claim and the ways a claim ends.

Law: a handler checks everything before it changes anything; a refusal leaves the ledger as it was, but for the event
that keeps a late result. Claims that find nothing and may wait are answered with a Park.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import orjson

from .. import record
from ..model import EXCLUDED_TYPES, SALVAGE_BYTES_MAX, Bead, Credential, Edge, Lease, Refused, Worker
from ..rules import bead as bead_rules
from ..rules import dispatch
from ..rules import lease as lease_rules
from ..rules import worker as worker_rules
from ..rules.dispatch import Filter
from . import graph, history
from .turn import Turn

Handler = Callable[[Turn, Credential, dict[str, Any]], Any]


@dataclass(slots=True)
class Park:
    """A claim that found nothing and will wait: what it asked, and what to answer besides."""

    worker_id: str
    asked: Filter
    limit: int
    ttl_ms: int
    wait_ms: int
    base: dict[str, Any] = field(default_factory=dict)


# ---------------------------------------------------------------- finding


def find(turn: Turn, bead_id: str) -> int:
    """The row number; not_found where there is no such bead (a tombstone is none)."""
    n = turn.find(bead_id)
    if n is None or turn.row(n)[0].status == "tombstone":
        raise Refused("not_found", f"no bead {bead_id[:64]!a}", what="bead", id=bead_id)
    return n


def contact(turn: Turn, credential: Credential, worker_id: str) -> Worker:
    """The registration this call is made for; the call counts as contact. Refused: worker_unknown, forbidden."""
    memory = turn.memory
    now_ms = turn.now.ms
    worker = memory.workers.get(worker_id)
    seen_ms = now_ms if worker_id in memory.line.by_worker else memory.seen_ms.get(worker_id, 0)
    if worker is not None:
        worker_rules.check_owner(credential, worker.credential)
    worker = worker_rules.check_known(worker, seen_ms, now_ms, memory.policy)
    memory.seen_ms[worker_id] = now_ms
    return worker


def holding(turn: Turn, credential: Credential, params: dict[str, Any]) -> tuple[Bead, Lease]:
    """The bead and its lease, if the token is its latest grant. Refused: not_found, lease_lost, forbidden."""
    n = find(turn, params["bead_id"])
    bead = turn.row(n)[0]
    lease = lease_rules.check_token(bead, turn.lease(n), params["token"])
    owner = turn.memory.workers.get(lease.worker_id)
    if owner is not None:
        worker_rules.check_owner(credential, owner.credential)
        turn.memory.seen_ms[owner.id] = turn.now.ms
    return bead, lease


def salvaging(turn: Turn, credential: Credential, params: dict[str, Any], late: dict[str, Any]) -> tuple[Bead, Lease]:
    """As `holding`; a stale token's result is kept as an event and its id told with the refusal."""
    try:
        return holding(turn, credential, params)
    except Refused as refused:
        if refused.kind == "lease_lost" and 1 <= params["token"] <= turn.token_high:
            refused.data["salvage_id"] = _salvage(turn, params, late)
        raise


def _salvage(turn: Turn, params: dict[str, Any], late: dict[str, Any]) -> str:
    n = find(turn, params["bead_id"])
    kept = turn.store.one("salvage_get", n, params["token"])
    if kept is not None:
        return f"s-{kept[0]}"
    if len(orjson.dumps(late)) > SALVAGE_BYTES_MAX:
        late = {"cut": True, "result": orjson.dumps(late)[: SALVAGE_BYTES_MAX // 2].decode("utf-8", "ignore")}
    seq = turn.annotate("salvaged", n, params["token"], {"salvage_id": f"s-{turn.seq + 1}", **late})
    turn.store.run("salvage_add", n, params["token"], seq)
    return f"s-{seq}"


# ---------------------------------------------------------------- claiming


ANY: Final = Filter()


def parse_filter(asked: dict[str, Any] | None) -> Filter:
    if not asked:
        return ANY
    return Filter(
        tuple(sorted(set(asked.get("labels_all") or ()))),
        tuple(sorted(set(asked.get("labels_any") or ()))),
        tuple(sorted(set(asked.get("issue_types") or ()))),
        asked.get("rig"),
        asked.get("convoy"),
        asked.get("bead_id"),
    )


def pick(turn: Turn, asked: Filter, limit: int) -> list[int]:
    """The first ready beads in order that the filter admits, paused rigs left out."""
    memory = turn.memory
    if "*" in memory.paused:
        return []
    if limit == 1 and asked is ANY and not memory.paused:
        head = memory.index.first()
        return [] if head is None else [head.n]
    if asked.bead_id is not None:
        return _pick_one(turn, asked)
    candidates = memory.index.candidates(asked)
    if memory.paused:
        candidates = (entry for entry in candidates if entry.rig not in memory.paused)
    return [entry.n for entry in islice(candidates, limit)]


def _pick_one(turn: Turn, asked: Filter) -> list[int]:
    n = turn.store.find(asked.bead_id or "")
    if n is None or n not in turn.memory.index.entries:
        return []
    return [n] if _admits(turn, asked, n) and not turn.memory.is_paused(turn.row(n)[0].rig) else []


def _admits(turn: Turn, asked: Filter, n: int) -> bool:
    bead = turn.row(n)[0]
    if asked == ANY:
        return bead.issue_type not in EXCLUDED_TYPES
    labels = frozenset(row[0] for row in turn.store.many("labels_of", n))
    convoys = frozenset(row[0] for row in turn.store.many("convoys_of", n))
    return dispatch.admits(asked, bead, labels, convoys)


def grant(turn: Turn, worker: Worker, n: int, ttl_ms: int) -> dict[str, Any]:
    """Lease one ready bead; -> an entry of `claims`."""
    bead = turn.row(n)[0]
    lapsed = turn.lease(n)
    before = history.previous(turn, n) if bead.last_token is not None or lapsed is not None else []
    turn.token_high += 1
    lease = lease_rules.grant(bead, lapsed, worker.id, worker.name, turn.token_high, ttl_ms, turn.now.ms)
    turn.hold("leased", lease, bead, grant_data(lease))
    return {"bead": turn.wire(n), "lease": shown_lease(bead.id, lease), "context": {"previous": before}}


def grant_data(lease: Lease, **more: Any) -> dict[str, Any]:
    """What a `leased` event remembers."""
    return {"attempt": lease.attempt, "worker_name": lease.worker_name, "ttl_ms": lease.ttl_ms, **more}


def shown_lease(bead_id: str, lease: Lease) -> dict[str, Any]:
    return {
        "bead_id": bead_id,
        "worker_id": lease.worker_id,
        "token": lease.token,
        "attempt": lease.attempt,
        "expires_at_ms": lease.until_ms,
    }


def ready_to_claim(turn: Turn, credential: Credential, params: dict[str, Any]) -> Park:
    """Check a claim's parameters. Refused: worker_unknown, forbidden, invalid_params, limit."""
    worker = contact(turn, credential, params["worker_id"])
    ttl_ms = lease_rules.check_ttl(params.get("ttl_ms"), turn.memory.policy)
    return Park(worker.id, parse_filter(params.get("filter")), params["limit"], ttl_ms, params["wait_ms"])


def serve(turn: Turn, park: Park) -> dict[str, Any] | Park:
    """The grants of this instant, or the park itself when there are none and it may wait."""
    worker = turn.memory.workers[park.worker_id]
    numbers = [] if worker.draining else pick(turn, park.asked, park.limit)
    if numbers:
        return park.base | {"claims": [grant(turn, worker, n, park.ttl_ms) for n in numbers]}
    if park.wait_ms and not worker.draining:
        return park
    return park.base | nothing(turn, park.asked)


def nothing(turn: Turn, asked: Filter) -> dict[str, Any]:
    """An empty answer, and when the next bead this filter admits may become claimable."""
    due_ms = turn.memory.next_ready_ms(turn.now.wall_ms, turn.now.ms, lambda n: _admits(turn, asked, n))
    return {"claims": [], "retry_after_ms": dispatch.retry_after_ms(due_ms, turn.now.ms)}


def claim(turn: Turn, credential: Credential, params: dict[str, Any]) -> Any:
    return ready_to_claim(turn, credential, params)


# ---------------------------------------------------------------- settling


def complete(turn: Turn, credential: Credential, params: dict[str, Any]) -> Any:
    wanted = params.get("claim")
    park = ready_to_claim(turn, credential, wanted) if wanted is not None else None
    said = params.get("result") or {}
    late = {"method": "work.complete", **said}
    if params.get("no_change"):
        late["reason"] = params["no_change"]
    bead, lease = salvaging(turn, credential, params, late)
    if params.get("merge") is not None:
        raise Refused(
            "conflict", "no merge queue serves this rig: complete without merge, with no_change if nothing changed",
            state=bead_rules.state_of(bead, lease), allowed=["no_change"],
        )  # fmt: skip
    reason = params.get("no_change") or said.get("summary") or "completed"
    done = lease_rules.complete(bead, lease, reason, turn.now_text)
    turn.change("completed", done, None, worker=lease.worker_id, token=lease.token, data={**said, "reason": reason})
    turn.ended(True)
    turn.ripple()
    result = {"bead": turn.wire(bead.n)}
    if park is None:
        return result
    park.base = result
    return park


def fail(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    late = {"method": "work.fail", "error": params["error"]}
    bead, lease = salvaging(turn, credential, params, late)
    policy = turn.memory.policy
    failed, dead = lease_rules.fail(bead, lease, params["retryable"], turn.now.ms, policy)
    data = {"error": params["error"], "retryable": params["retryable"]}
    shape = turn.dead_letter(bead) if dead else None
    turn.change("failed", failed, None, shape, worker=lease.worker_id, token=lease.token, data=data)
    if dead:
        turn.annotate("dead_lettered", bead.n, None, {"failures": failed.failures}, counts=True)
    turn.ended(False)
    turn.ripple()
    tail = {"dead": True} if dead else {"retry_at_ms": failed.not_before_ms}
    return {"bead": turn.wire(bead.n), **tail}


def release(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    bead, lease = holding(turn, credential, params)
    give_back(turn, bead, lease, params.get("reason"))
    turn.ripple()
    return {"bead": turn.wire(bead.n)}


def give_back(turn: Turn, bead: Bead, lease: Lease, reason: str | None) -> None:
    """End a lease without spending a budget; the bead is ready since now."""
    data = {"reason": reason} if reason else None
    turn.change(
        "released", lease_rules.release(bead, lease), None, worker=lease.worker_id, token=lease.token, data=data
    )


def block(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    bead, lease = holding(turn, credential, params)
    targets = list(dict.fromkeys(params.get("on") or ()))
    for target in targets:
        find(turn, target)
    edges = [Edge(target, "blocks") for target in targets]
    graph.refuse_cycle(turn, {bead.id: edges})
    shape = _with_edges(turn, bead, edges, lease.worker_name) if edges else None
    data = {"on": targets} if targets else {"reason": params["reason"]}
    blocked = lease_rules.block(bead, lease, by_edges=bool(targets))
    turn.change("blocked", blocked, None, shape, worker=lease.worker_id, token=lease.token, data=data)
    turn.touch_edges(bead.n, parents=False)
    turn.ripple()
    return {"bead": turn.wire(bead.n)}


def _with_edges(turn: Turn, bead: Bead, edges: list[Edge], by: str) -> record.Shape:
    body = turn.row(bead.n)[1]
    dependencies = record.body_fields(body).get("dependencies", [])
    have = {(edge["depends_on_id"], edge["type"]) for edge in dependencies}
    fresh = [new_edge(turn, bead.id, edge, by) for edge in edges if (edge.dst, edge.kind) not in have]
    return record.reshape(bead.id, body, {"dependencies": dependencies + fresh})


def new_edge(turn: Turn, bead_id: str, edge: Edge, by: str | None) -> dict[str, Any]:
    """A dependency as the record holds it."""
    made = {"issue_id": bead_id, "depends_on_id": edge.dst, "type": edge.kind, "created_at": turn.now_text}
    return made | ({"created_by": by} if by else {})


COMMANDS: Final[dict[str, Handler]] = {
    "work.claim": claim,
    "work.complete": complete,
    "work.fail": fail,
    "work.release": release,
    "work.block": block,
}
