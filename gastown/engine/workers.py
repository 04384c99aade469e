"""worker.*: registrations, beats and what a beat tells back.

Law: a beat renews exactly the leases it lists, each by its own ttl. Plain renewals live in memory and ride on a later
commit; a checkpoint is an event and commits before its ok.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from ..model import BEAT_FRACTION, Credential, Lease, Policy, Worker
from ..rules import lease as lease_rules
from ..rules import worker as worker_rules
from .turn import Turn
from .work import Handler, contact, give_back, grant_data, shown_lease


def register(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    memory = turn.memory
    old = memory.workers.get(memory.names.get(params["name"], ""))
    if old is not None:
        worker_rules.check_owner(credential, old.credential)
    seq = turn.note("worker_registered", {"name": params["name"], "worker_id": f"w-{turn.seq + 1}"})
    now_ms = turn.now.ms
    worker = Worker(
        f"w-{seq}", params["name"], credential.id, orjson.dumps(list(params["labels"])).decode(), params["capacity"],
        params["role"], orjson.dumps(params.get("meta")).decode(), now_ms, now_ms, 0, None,
    )  # fmt: skip
    if old is not None:
        _put(turn, old._replace(gone_ms=now_ms), old)
        turn.supersede(old.id)
    _put(turn, worker, None)
    memory.seen_ms[worker.id] = now_ms
    numbers = sorted(memory.held.get(old.id, ())) if old is not None else []
    for n in numbers:
        _pass_on(turn, n, worker)
    turn.ripple()
    return {
        "worker_id": worker.id,
        "heartbeat_every_ms": memory.policy.ttl_ms // BEAT_FRACTION,
        "lease_ttl_ms": memory.policy.ttl_ms,
        "leases": [show_lease(turn, n) for n in numbers],
    }


def show_lease(turn: Turn, n: int) -> dict[str, Any]:
    lease = turn.lease(n)
    assert lease is not None
    return shown_lease(turn.row(n)[0].id, lease)


def _put(turn: Turn, worker: Worker, old: Worker | None) -> None:
    turn.store.run("worker_put", *worker._replace(last_seen_ms=turn.memory.seen_ms.get(worker.id, worker.last_seen_ms)))
    turn.memory.set_worker(worker, old)


def _pass_on(turn: Turn, n: int, worker: Worker) -> None:
    """A restarted worker takes over an unsettled lease of its earlier self: new token, fresh ttl, same attempt."""
    bead, old = turn.row(n)[0], turn.lease(n)
    assert old is not None
    if old.lapsed:
        bead = turn.revive(bead, old)
    turn.token_high += 1
    held = turn.lease(n) or old
    lease = lease_rules.pass_on(bead, held, worker.id, worker.name, turn.token_high, turn.now.ms)
    turn.hold("leased", lease, bead, grant_data(lease, takes=old.token))


def heartbeat(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    worker = contact(turn, credential, params["worker_id"])
    told = turn.memory.directives.pop(worker.id, [])
    if told:
        turn.memory.on_undo(lambda: turn.memory.directives.__setitem__(worker.id, told))
    lost = list(told)
    leases = []
    for beat in params["leases"]:
        n = turn.find(beat["bead_id"])
        lease = turn.lease(n) if n is not None else None
        if n is not None and lease is not None and lease.token == beat["token"] and lease.worker_id == worker.id:
            _renew(turn, n, lease, beat)
            leases.append(show_lease(turn, n))
        else:
            lost.append(_loss(turn, n, lease, beat))
    turn.ripple()
    return {"leases": leases, "lost": _once(lost), "directives": directives(turn, worker, told)}


def _renew(turn: Turn, n: int, lease: Lease, beat: dict[str, Any]) -> None:
    bead = turn.row(n)[0]
    data = {"checkpoint": beat["checkpoint"]} if beat.get("checkpoint") is not None else None
    if lease.lapsed:
        bead = turn.revive(bead, lease, data)
    renewed = lease_rules.renew(turn.lease(n) or lease, turn.now.ms)
    if data is not None and not lease.lapsed:
        turn.hold("renewed", renewed._replace(version=turn.version(n) + 1), bead, data)
    else:
        turn.renew(n, renewed)


def _loss(turn: Turn, n: int | None, lease: Lease | None, beat: dict[str, Any]) -> dict[str, Any]:
    reason = "superseded"
    same_token = lease is not None and lease.token == beat["token"]
    if n is not None and not same_token:
        reason = lease_rules.lost_reason(turn.row(n)[0], lease, beat["token"])
    return {"bead_id": beat["bead_id"], "token": beat["token"], "reason": reason}


def _once(lost: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({(loss["bead_id"], loss["token"]): loss for loss in lost}.values())


def directives(turn: Turn, worker: Worker, told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the worker should do: cancel once per loss, pause and drain while they hold."""
    said: list[dict[str, Any]] = [{"kind": "cancel", "bead_id": loss["bead_id"]} for loss in told]
    if turn.memory.paused:
        said.append({"kind": "pause"})
    if worker.draining:
        said.append({"kind": "drain"})
    return said


def drain(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    worker = contact(turn, credential, params["worker_id"])
    if not worker.draining:
        turn.note("worker_drained", {"name": worker.name, "worker_id": worker.id}, worker.id)
        _put(turn, worker._replace(draining=1), worker)
        turn.dismiss(worker.id)
    return {"worker": shown(turn, turn.memory.workers[worker.id])}


def deregister(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    worker = contact(turn, credential, params["worker_id"])
    for n in sorted(turn.memory.held.get(worker.id, ())):
        lease = turn.lease(n)
        assert lease is not None
        give_back(turn, turn.row(n)[0], lease, "worker deregistered")
    turn.note("worker_deregistered", {"name": worker.name, "worker_id": worker.id}, worker.id)
    gone = worker._replace(gone_ms=turn.now.ms)
    _put(turn, gone, worker)
    turn.supersede(worker.id)
    turn.ripple()
    return {"worker": shown(turn, gone)}


def live_leases(turn: Turn, worker_id: str) -> list[Lease]:
    held = (turn.memory.leases[n] for n in sorted(turn.memory.held.get(worker_id, ())))
    return [lease for lease in held if not lease.lapsed]


def seen(turn: Turn, worker: Worker) -> Worker:
    """The worker with its last contact; a parked claim is continuous contact."""
    memory = turn.memory
    parked = worker.id in memory.line.by_worker
    return worker._replace(last_seen_ms=turn.now.ms if parked else memory.seen_ms.get(worker.id, worker.last_seen_ms))


def state_of(turn: Turn, worker: Worker, policy: Policy) -> str:
    return worker_rules.state_of(seen(turn, worker), len(live_leases(turn, worker.id)), turn.now.ms, policy)


def shown(turn: Turn, worker: Worker) -> dict[str, Any]:
    worker = seen(turn, worker)
    return {
        "worker_id": worker.id,
        "name": worker.name,
        "state": state_of(turn, worker, turn.memory.policy),
        "role": worker.role,
        "labels": orjson.loads(worker.labels),
        "capacity": worker.capacity,
        "leases": [show_lease(turn, lease.n) for lease in live_leases(turn, worker.id)],
        "last_seen_ms": worker.last_seen_ms,
    }


def listed(turn: Turn, _: Credential, __: dict[str, Any]) -> dict[str, Any]:
    workers = sorted(turn.memory.workers.values(), key=lambda worker: (worker.name, worker.registered_ms, worker.id))
    policy = turn.memory.policy
    shown_ones = [w for w in workers if not worker_rules.is_forgotten(seen(turn, w), turn.now.ms, policy)]
    return {"workers": [shown(turn, worker) for worker in shown_ones]}


COMMANDS: Final[dict[str, Handler]] = {
    "worker.register": register,
    "worker.heartbeat": heartbeat,
    "worker.drain": drain,
    "worker.deregister": deregister,
}
READS: Final[dict[str, Handler]] = {"worker.list": listed}
