"""Pure rules: what may happen to beads, leases and workers. No clock, no I/O.

`decide(given, when, now) -> then` is the same rules over plain JSON: the form of a test vector, of a trace and of a
question to another body.
given: policy, bead, beads, lease, worker, credential, around, labels, convoys, load, as the kind needs; objects hold
every field of their struct. when: kind and its arguments. now: town time in ms; `given.wall_ms` is now where left out.
then: the bead's changed columns under `bead`; under `lease` its changed columns, all of a new one, or null where it is
over; else what the kind answers. Nothing changed is {}; a refusal is {"refused": kind, ..its data}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from ..model import Bead, Credential, Lease, Policy, Refused, Worker
from . import bead as bead_rules
from . import dispatch, scale
from . import lease as lease_rules
from . import worker as worker_rules
from .bead import Around, Now
from .dispatch import Filter

Json = dict[str, Any]
Row = TypeVar("Row", Bead, Lease)


class Scene(NamedTuple):
    """One question: what is given and what happens, at one instant."""

    given: Json
    when: Json
    now: Now

    @property
    def policy(self) -> Policy:
        return Policy(**self.given["policy"])

    @property
    def bead(self) -> Bead:
        return Bead(**self.given["bead"])

    @property
    def lease(self) -> Lease | None:
        return Lease(**self.given["lease"]) if self.given.get("lease") else None

    @property
    def worker(self) -> Worker | None:
        return Worker(**self.given["worker"]) if self.given["worker"] else None

    @property
    def held(self) -> tuple[Bead, Lease]:
        """The bead and the lease that the token of `when` rules. Refused: lease_lost."""
        return self.bead, lease_rules.check_token(self.bead, self.lease, self.when["token"])

    @property
    def state(self) -> str:
        return bead_rules.state_of(self.bead, self.lease)

    def then(self, bead: Bead, lease: Lease | None) -> Json:
        """What of the bead and its lease is not as given."""
        said: Json = {}
        if changed := changes(self.bead, bead):
            said["bead"] = changed
        held = self.lease
        if lease is None or held is None or lease.token != held.token:
            if lease != held:
                said["lease"] = None if lease is None else lease._asdict()
        elif changed := changes(held, lease):
            said["lease"] = changed
        return said


def changes(before: Row, after: Row) -> Json:
    pairs = zip(before._fields, before, after, strict=True)
    return {name: new for name, old, new in pairs if new != old}


# ---------------------------------------------------------------- bead


def derive(scene: Scene) -> Json:
    around = Around(**scene.given["around"])
    return scene.then(bead_rules.derive(scene.bead, around, scene.now, scene.when["since_ms"]), scene.lease)


def close(scene: Scene) -> Json:
    when, lease = scene.when, scene.lease
    done = bead_rules.close(scene.bead, scene.state, when["reason"], when["closed_at"])
    return scene.then(done if lease is None else lease_rules.end_by_others(done, lease, "closed"), None)


def reopen(scene: Scene) -> Json:
    return scene.then(bead_rules.reopen(scene.bead, scene.state), scene.lease)


def set_status(scene: Scene) -> Json:
    """Whether an update may set this status."""
    bead_rules.check_status(scene.when["status"], scene.state)
    return {}


def if_version(scene: Scene) -> Json:
    """Whether an update made for this version may go on."""
    version = lease_rules.version_of(scene.bead, scene.lease)
    bead_rules.check_version(version, scene.when["if_version"], scene.state)
    return {}


# ---------------------------------------------------------------- lease


def claim(scene: Scene) -> Json:
    """A bead that is not claimable is left alone: nothing to do is no refusal."""
    bead, lease, when = scene.bead, scene.lease, scene.when
    ttl_ms = lease_rules.check_ttl(when["ttl_ms"], scene.policy)
    if bead.ready_ms is None or (lease is not None and not lease.lapsed):
        return {}
    who = when["worker_id"], when["worker_name"]
    return scene.then(bead, lease_rules.grant(bead, lease, *who, when["token"], ttl_ms, scene.now.ms))


def pass_on(scene: Scene) -> Json:
    bead, lease, when = scene.bead, scene.lease, scene.when
    if lease is None:
        return {}
    if lease.lapsed:
        bead = lease_rules.revive(bead)
    who = when["worker_id"], when["worker_name"]
    return scene.then(bead, lease_rules.pass_on(bead, lease, *who, when["token"], scene.now.ms))


def deadline(scene: Scene) -> Json:
    lease = scene.lease
    if lease is None or not lease_rules.is_due(lease, scene.now.ms):
        return {}
    return scene.then(*lease_rules.lapse(scene.bead, lease, scene.policy))


def heartbeat(scene: Scene) -> Json:
    bead, lease = scene.held
    return scene.then(lease_rules.revive(bead) if lease.lapsed else bead, lease_rules.renew(lease, scene.now.ms))


def complete(scene: Scene) -> Json:
    when = scene.when
    return scene.then(lease_rules.complete(*scene.held, when["reason"], when["closed_at"]), None)


def fail(scene: Scene) -> Json:
    failed, dead = lease_rules.fail(*scene.held, scene.when["retryable"], scene.now.ms, scene.policy)
    return scene.then(failed, None) | ({"dead": True} if dead else {})


def release(scene: Scene) -> Json:
    return scene.then(lease_rules.release(*scene.held), None)


def block(scene: Scene) -> Json:
    return scene.then(lease_rules.block(*scene.held, scene.when["by_edges"]), None)


def change(scene: Scene) -> Json:
    """Somebody set status or assignee, or an import did: whoever holds the bead has lost it."""
    bead, lease = scene.bead, scene.lease
    return {} if lease is None else scene.then(lease_rules.end_by_others(bead, lease, "changed"), None)


# ---------------------------------------------------------------- worker


def look(scene: Scene) -> Json:
    """What a registration is called now, and whether it is still listed."""
    worker, policy, now_ms = Worker(**scene.given["worker"]), scene.policy, scene.now.ms
    state = worker_rules.state_of(worker, scene.when["leases"], now_ms, policy)
    return {"state": state, "forgotten": worker_rules.is_forgotten(worker, now_ms, policy)}


def contact(scene: Scene) -> Json:
    """Whether a call in this worker's name is taken."""
    if (worker := scene.worker) is not None:
        worker_rules.check_owner(Credential(**scene.given["credential"]), worker.credential)
    worker_rules.check_known(worker, worker.last_seen_ms if worker else 0, scene.now.ms, scene.policy)
    return {}


# ---------------------------------------------------------------- dispatch and scale


def order(scene: Scene) -> Json:
    """Ready beads as they are handed out, with their scores."""
    policy = scene.policy
    keys = sorted(dispatch.order_key(Bead(**bead), policy) for bead in scene.given["beads"])
    return {"order": [[score, bead_id] for score, _, bead_id in keys]}


def admits(scene: Scene) -> Json:
    given, asked = scene.given, {**scene.when["filter"]}
    lists = {key: tuple(value) for key, value in asked.items() if isinstance(value, list)}
    labels, convoys = frozenset(given["labels"]), frozenset(given["convoys"])
    return {"admits": dispatch.admits(Filter(**asked | lists), scene.bead, labels, convoys)}


KINDS: Final[dict[str, Callable[[Scene], Json]]] = {
    "derive": derive,
    "state": lambda scene: {"state": scene.state},
    "close": close,
    "reopen": reopen,
    "set_status": set_status,
    "if_version": if_version,
    "claim": claim,
    "pass_on": pass_on,
    "deadline": deadline,
    "heartbeat": heartbeat,
    "complete": complete,
    "fail": fail,
    "release": release,
    "block": block,
    "change": change,
    "look": look,
    "contact": contact,
    "order": order,
    "admits": admits,
    "retry_after": lambda s: {"retry_after_ms": dispatch.retry_after_ms(s.when["next_due_ms"], s.now.ms)},
    "advise": lambda s: scale.advise(scale.Load(**s.given["load"]), s.now.ms, s.policy)._asdict(),
}


def decide(given: Json, when: Json, now: int) -> Json:
    """The law on top of this package. `given` and `when` are well formed; an unknown kind is refused."""
    rule = KINDS.get(when["kind"])
    if rule is None:
        return {"refused": "invalid_params", "field": "kind"}
    try:
        return rule(Scene(given, when, Now(now, given.get("wall_ms", now))))
    except Refused as refused:
        return {"refused": refused.kind, **refused.data}
