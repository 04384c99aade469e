"""queue.*, convoy.*, token.*, scale.advice, system.info: the town as a whole.

Law: as in work.py, handlers check before they change. Figures are derived from rows and live leases, never kept apart.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections import Counter
from typing import Any, Final

from .. import __version__
from ..model import RULES, SCHEMA, STATES, Credential, Refused
from ..rules import scale
from . import workers
from .listing import decode_cursor, encode_cursor
from .turn import Turn
from .work import Handler, find

SECRET_BYTES: Final = 32  # 256 bits
ALL_RIGS: Final = "*"
WORKER_STATES: Final = ("idle", "working", "stalled", "draining", "gone")


# ---------------------------------------------------------------- queue


def pause(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    return _hold(turn, credential, params["rig"], True)


def resume(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    """Without a rig everything goes on, whatever was held."""
    return _hold(turn, credential, params["rig"], False)


def _hold(turn: Turn, credential: Credential, rig: str | None, held: bool) -> dict[str, Any]:
    memory = turn.memory
    before = set(memory.paused)
    after = before | {rig or ALL_RIGS} if held else (before - {rig} if rig else set())
    if after != before:
        turn.note("queue_paused" if held else "queue_resumed", {"rig": rig or ALL_RIGS, "by": credential.name})
        for name in after - before:
            turn.store.run("pause_add", name)
        for name in before - after:
            turn.store.run("pause_drop", name)
        memory.paused = after
        memory.on_undo(lambda: setattr(memory, "paused", before))
        memory.index.changes += 1  # waiting claims look again
    return {"paused": sorted(after)}


def worker_counts(turn: Turn) -> Counter[str]:
    policy = turn.memory.policy
    return Counter(workers.state_of(turn, worker, policy) for worker in turn.memory.workers.values())


def oldest_ready_age_ms(turn: Turn) -> int:
    """Age of the bead that has been ready longest; 0 when none is."""
    oldest = turn.store.one("ready_oldest")
    return max(0, turn.now.ms - oldest[0]) if oldest and oldest[0] is not None else 0


def stats(turn: Turn, _: Credential, __: dict[str, Any]) -> dict[str, Any]:
    turn.flush()
    states = worker_counts(turn)
    counts = {state: turn.memory.counts[state] for state in STATES}
    return {
        "beads": counts,
        "oldest_ready_age_ms": oldest_ready_age_ms(turn),
        "claim_ms": turn.claim_ms(),
        "backpressure": counts["ready"] > turn.memory.policy.queue_depth_max,
        "workers": {state: states[state] for state in WORKER_STATES},
    }


def advice(turn: Turn, _: Credential, __: dict[str, Any]) -> dict[str, Any]:
    memory, now_ms = turn.memory, turn.now.ms
    states = worker_counts(turn)
    recent = [ok for at_ms, ok in memory.ends if now_ms - at_ms < scale.ENDS_WINDOW_MS]
    changed_ms, advised = memory.advice or (None, None)
    load = scale.Load(
        memory.counts["ready"], memory.counts["leased"], states.total() - states["gone"], states["stalled"],
        len(recent), sum(recent), changed_ms, advised,
    )  # fmt: skip
    said = scale.advise(load, now_ms, memory.policy)
    if said.recommended_workers != advised:
        memory.advice = (now_ms, said.recommended_workers)
    return said._asdict()


# ---------------------------------------------------------------- convoys


def _convoy(turn: Turn, convoy_id: str) -> dict[str, Any]:
    row = turn.store.one("convoy_get", convoy_id)
    if row is None:
        raise Refused("not_found", "no such convoy", what="convoy", id=convoy_id)
    turn.flush()
    beads = turn.store.many("convoy_beads", convoy_id)
    progress = Counter(turn.state(n) for n, *_ in beads)
    return {
        "id": row[0],
        "name": row[1],
        "beads": [bead_id for _, bead_id, *_ in beads],
        "progress": dict(sorted(progress.items())),
        "closed": progress["closed"],
        "total": len(beads),
        "created_at_ms": row[2],
    }


def convoy_create(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    convoy_id = params.get("id") or f"cv-{turn.seq + 1}"
    numbers = [find(turn, bead_id) for bead_id in params.get("beads") or ()]
    if turn.store.one("convoy_get", convoy_id) is not None:
        raise Refused("conflict", "a convoy has this id already", state="exists", allowed=["convoy.add"])
    turn.note("convoy_created", {"convoy_id": convoy_id, "name": params["name"], "by": credential.name})
    turn.store.run("convoy_add", convoy_id, params["name"], turn.now.ms)
    _join(turn, convoy_id, numbers, "convoy_bead_add")
    return {"convoy": _convoy(turn, convoy_id)}


def _join(turn: Turn, convoy_id: str, numbers: list[int], query: str) -> None:
    turn.store.run_each(query, [(convoy_id, n) for n in numbers])
    turn.memory.forget_convoy(convoy_id)


def _change_convoy(turn: Turn, params: dict[str, Any], query: str, kind: str) -> dict[str, Any]:
    convoy_id = params["id"]
    inside = set(_convoy(turn, convoy_id)["beads"])
    wanted = list(dict.fromkeys(params["beads"]))
    numbers = [find(turn, bead_id) for bead_id in wanted]
    joins = kind == "convoy_added"
    moved = [(bead_id, n) for bead_id, n in zip(wanted, numbers, strict=True) if (bead_id not in inside) == joins]
    if moved:
        turn.note(kind, {"convoy_id": convoy_id, "beads": [bead_id for bead_id, _ in moved]})
        _join(turn, convoy_id, [n for _, n in moved], query)
    return {"convoy": _convoy(turn, convoy_id)}


def convoy_add(turn: Turn, _: Credential, params: dict[str, Any]) -> dict[str, Any]:
    return _change_convoy(turn, params, "convoy_bead_add", "convoy_added")


def convoy_remove(turn: Turn, _: Credential, params: dict[str, Any]) -> dict[str, Any]:
    return _change_convoy(turn, params, "convoy_bead_drop", "convoy_removed")


def convoy_get(turn: Turn, _: Credential, params: dict[str, Any]) -> dict[str, Any]:
    return {"convoy": _convoy(turn, params["id"])}


def convoy_list(turn: Turn, _: Credential, params: dict[str, Any]) -> dict[str, Any]:
    after = decode_cursor(params.get("cursor"), "convoy")
    rows = turn.store.many("convoys_after", after[1] if after else "", params["limit"] + 1)
    shown = rows[: params["limit"]]
    cursor = encode_cursor("convoy", shown[-1][0], shown[-1][0]) if len(rows) > len(shown) else None
    return {"convoys": [_convoy(turn, row[0]) for row in shown], "next_cursor": cursor}


# ---------------------------------------------------------------- tokens


def secret_hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def new_secret() -> str:
    return "gst_" + base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).decode().rstrip("=")


def token_create(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    token_id, secret = f"t-{turn.seq + 1}", new_secret()
    scope, name = params["scope"], params["name"]
    turn.note("token_created", {"token_id": token_id, "name": name, "scope": scope, "by": credential.name})
    turn.store.run("token_add", token_id, name, scope, secret_hash(secret), turn.now.ms)
    turn.memory.add_token(secret_hash(secret), Credential(token_id, scope, name))
    return {"id": token_id, "token": secret}


def token_list(turn: Turn, _: Credential, __: dict[str, Any]) -> dict[str, Any]:
    used = turn.memory.tokens_used
    return {
        "tokens": [
            {
                "id": token_id,
                "name": name,
                "scope": scope,
                "created_at_ms": created_ms,
                "last_used_ms": used.get(token_id, used_ms),
                "revoked": bool(revoked),
            }
            for token_id, name, scope, _hash, created_ms, used_ms, revoked in turn.store.many("tokens_all")
        ]
    }


def token_revoke(turn: Turn, credential: Credential, params: dict[str, Any]) -> dict[str, Any]:
    row = next((row for row in turn.store.many("tokens_all") if row[0] == params["id"]), None)
    if row is None:
        raise Refused("not_found", "no such token", what="token", id=params["id"])
    if not row[6]:
        turn.note("token_revoked", {"token_id": row[0], "by": credential.name})
        turn.store.run("token_revoke", row[0])
        turn.memory.drop_token(row[3])
    return {}


# ---------------------------------------------------------------- the system


def info(turn: Turn, _: Credential, __: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": __version__,
        "body": "python",
        "epoch": turn.epoch,
        "rules": RULES,
        "schema": SCHEMA,
        "uptime_ms": turn.now.ms - turn.memory.started_ms,
        "pid": os.getpid(),
    }


COMMANDS: Final[dict[str, Handler]] = {
    "queue.pause": pause,
    "queue.resume": resume,
    "convoy.create": convoy_create,
    "convoy.add": convoy_add,
    "convoy.remove": convoy_remove,
    "token.create": token_create,
    "token.revoke": token_revoke,
}
READS: Final[dict[str, Handler]] = {
    "queue.stats": stats,
    "scale.advice": advice,
    "convoy.get": convoy_get,
    "convoy.list": convoy_list,
    "token.list": token_list,
    "system.info": info,
}
