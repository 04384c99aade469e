"""next, beat, done, fail, release: a worker's day, one process a call.

Law: `next` writes a grant's token to the worker's memory before it prints it; the other verbs take their token from
there. A worker registers only when its memory has no worker_id, or the town no longer knows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from gastown.client import Client, Grant, Lease, RpcError, grants

from .exits import LEASE_LOST, NOTHING, Failed
from .screen import clean, clean_text, note, pairs, show
from .town import F, Place, json_option, town_option
from .worker_memory import WorkerMemory, worker_name

R = TypeVar("R")

POLL_MS_MAX: Final = 45_000  # the longest one claim may wait
BEAT_MAX: Final = 100  # leases of one heartbeat


def worker_option(verb: F) -> F:
    """--worker, given to the verb as `worker`."""
    text = "Who works [default: $GASTOWN_WORKER, else user@host]."
    return click.option("--worker", metavar="NAME", help=text)(verb)


class Desk:
    """A worker at the town: its memory and a connection."""

    def __init__(self, place: Place, worker: str | None) -> None:
        name = worker_name(worker)
        self.town: Client = place.connect()
        self.memory = WorkerMemory(place.state / "workers", name)

    def as_worker(self, call: Callable[[str], R]) -> R:
        """`call` with a worker_id the town knows: the remembered one, or that of a new registration."""
        known = self.memory.worker_id or self._register("")
        try:
            return call(known)
        except RpcError as error:
            if error.kind != "worker_unknown":
                raise
        return call(self._register(known))

    def _register(self, refused: str) -> str:
        """Registers, unless another process of this name has done so since `refused` was tried."""
        memory = self.memory
        with memory.changing():
            if not memory.worker_id or memory.worker_id == refused:
                fresh = self.town.register(memory.name)
                memory.worker_id = fresh.worker_id
                memory.leases = {lease.bead_id: lease for lease in fresh.leases}
        return memory.worker_id

    def lease(self, bead_id: str | None, token: int | None) -> Lease:
        """The lease a settling verb means: of `bead_id`, or the only one held."""
        held = self.memory.leases
        if token is not None:
            if bead_id is None:
                raise click.UsageError("--token needs the bead's id")
            return Lease(bead_id, "", token, 0, 0)
        if bead_id is None and len(held) == 1:
            return next(iter(held.values()))
        if bead_id is None and held:
            raise click.UsageError(f"{self.memory.name} holds several leases, name one: {', '.join(sorted(held))}")
        if bead_id is None or bead_id not in held:
            raise Failed(LEASE_LOST, f"{self.memory.name} holds no lease on {bead_id or 'any bead'}")
        return held[bead_id]

    def settle(self, lease: Lease, call: Callable[[Lease], dict[str, Any]]) -> dict[str, Any]:
        """Ends a lease; it is forgotten when it ended, or was lost before."""
        try:
            result = call(lease)
        except RpcError as error:
            if error.kind in ("lease_lost", "not_found"):
                self.memory.forget(lease)
            raise
        self.memory.forget(lease)
        return result


# ---------------------------------------------------------------- next


def narrowing(
    labels: tuple[str, ...], any_labels: tuple[str, ...], kinds: tuple[str, ...], **one: str | None
) -> dict[str, Any] | None:
    """The filter of a claim; None when it narrows nothing."""
    many = {"labels_all": list(labels), "labels_any": list(any_labels), "issue_types": list(kinds)}
    found = {key: values for key, values in many.items() if values}
    return found | {key: value for key, value in one.items() if value is not None} or None


def filter_options(verb: F) -> F:
    """Which ready beads: given to the verb as `labels`, `any_labels`, `kinds`, `rig` and `convoy`."""
    for option in (
        click.option("--convoy", metavar="ID", help="Only beads of this convoy."),
        click.option("--rig", metavar="NAME", help="Only beads of this rig."),
        click.option("--type", "kinds", multiple=True, metavar="TYPE", help="Only this issue type; repeatable."),
        click.option("--any-label", "any_labels", multiple=True, metavar="L", help="With one of these; repeatable."),
        click.option("--label", "-l", "labels", multiple=True, metavar="L", help="With all of these; repeatable."),
    ):
        verb = option(verb)
    return verb


@click.command("next")
@town_option
@worker_option
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=0.0, metavar="S", help="Wait up to S seconds.")
@click.option("--limit", type=click.IntRange(1, 100), default=1, show_default=True, help="Claim up to this many.")
@click.option("--bead", "bead_id", metavar="ID", help="Claim this bead or nothing.")
@click.option("--ttl", "ttl_s", type=click.FloatRange(0), metavar="S", help="Lease length in seconds.")
@filter_options
@json_option
def next_(
    place: Place, worker: str | None, wait_s: float, limit: int, bead_id: str | None, ttl_s: float | None,
    labels: tuple[str, ...], any_labels: tuple[str, ...], kinds: tuple[str, ...], rig: str | None, convoy: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Claim the most important ready bead and show it. Exit code 3 when there is nothing to do."""
    desk = Desk(place, worker)
    asked = {
        "limit": limit,
        "filter": narrowing(labels, any_labels, kinds, rig=rig, convoy=convoy, bead_id=bead_id),
        "ttl_ms": None if ttl_s is None else round(ttl_s * 1000),
    }
    result = _claim(desk, asked, wait_s)
    _hand_over(desk, result, as_json)


def _claim(desk: Desk, asked: dict[str, Any], wait_s: float) -> dict[str, Any]:
    """One claim, or several long polls one after the other until `wait_s` is over."""
    ends_s = time.monotonic() + wait_s
    while True:
        wait_ms = min(POLL_MS_MAX, max(0, round((ends_s - time.monotonic()) * 1000)))
        began_s = time.monotonic()
        result = desk.as_worker(
            lambda worker_id, wait_ms=wait_ms: desk.town.call(  # type: ignore[misc]  # a default binds this round's value
                "work.claim", worker_id=worker_id, wait_ms=wait_ms, **asked
            )
        )
        left_s = ends_s - time.monotonic()
        if result["claims"] or left_s <= 0:
            return result
        if time.monotonic() - began_s < wait_ms / 2000:  # it would not wait: paused, draining or stopping
            time.sleep(min(left_s, result.get("retry_after_ms", 1000) / 1000))


def _hand_over(desk: Desk, result: dict[str, Any], as_json: bool) -> None:
    found = grants(result)
    desk.memory.keep(*(grant.lease for grant in found))
    show(result, as_json, lambda: "\n\n".join(described(grant) for grant in found))
    if not found:
        if not as_json:
            note("nothing to claim")
        raise click.exceptions.Exit(NOTHING)


def described(grant: Grant) -> str:
    """A grant for a person: what to do, what was tried before, how to settle it."""
    bead, lease = grant.bead, grant.lease
    rows = [
        ("bead", f"{bead['id']}  {bead['title']}"),
        ("priority", f"P{bead['priority']}  {bead.get('issue_type', '')}"),
        ("labels", ", ".join(bead.get("labels", []))),
        ("rig", bead.get("rig")),
        ("lease", f"token {lease.token}, attempt {lease.attempt}, beat before {_clock(lease.expires_at_ms)}"),
    ]
    texts = [
        clean_text(text)
        for key in ("description", "design", "acceptance_criteria", "notes")
        if isinstance(text := bead.get(key), str) and text
    ]
    earlier = [
        f"earlier attempt {was['attempt']} by {clean(was['worker'])}: {was['outcome']}"
        + (f", {clean(was['notes'])}" if was.get("notes") else "")
        for was in grant.previous
    ]
    return "\n\n".join(part for part in (pairs(rows), *texts, "\n".join(earlier)) if part)


def _clock(ms: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(ms / 1000))


# ---------------------------------------------------------------- beat


@click.command()
@town_option
@worker_option
@click.argument("bead_ids", nargs=-1, metavar="[BEAD]...")
@click.option("--progress", metavar="TEXT", help="A word on how far it is; kept in memory only.")
@click.option("--checkpoint", metavar="JSON", help="What a later attempt should know; kept in the ledger.")
@json_option
def beat(
    place: Place, worker: str | None, bead_ids: tuple[str, ...], progress: str | None, checkpoint: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Renew leases: the named ones, else all. Exit code 4 when one of them is lost."""
    desk = Desk(place, worker)
    said: dict[str, Any] = {"progress": progress, "checkpoint": _json(checkpoint)}
    said = {key: value for key, value in said.items() if value is not None}

    def renew(worker_id: str) -> dict[str, Any]:
        leases = [desk.lease(bead_id, None) for bead_id in bead_ids] if bead_ids else [*desk.memory.leases.values()]
        return _beat_all(desk.town, worker_id, leases, said)

    result = desk.as_worker(renew)
    lost = [Lease(row["bead_id"], "", row["token"], 0, 0) for row in result["lost"]]
    if lost:
        desk.memory.forget(*lost)
    desk.memory.keep(*(Lease(**lease) for lease in result["leases"]))
    show(result, as_json, lambda: _beaten(result))
    if lost:
        raise click.exceptions.Exit(LEASE_LOST)


def _json(text: str | None) -> Any:
    import orjson

    try:
        return None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.UsageError(f"--checkpoint is not JSON: {error}") from None


def _beat_all(town: Client, worker_id: str, leases: list[Lease], said: dict[str, Any]) -> dict[str, Any]:
    """Heartbeats of up to BEAT_MAX leases, put together."""
    whole: dict[str, Any] = {"leases": [], "lost": [], "directives": []}
    for start in range(0, max(1, len(leases)), BEAT_MAX):
        rows = [{"bead_id": lease.bead_id, "token": lease.token, **said} for lease in leases[start : start + BEAT_MAX]]
        part = town.call("worker.heartbeat", worker_id=worker_id, leases=rows)
        for key in whole:
            whole[key] += part[key]
    return whole


def _beaten(result: dict[str, Any]) -> str:
    lines = [f"{lease['bead_id']} held until {_clock(lease['expires_at_ms'])}" for lease in result["leases"]]
    lines += [f"{row['bead_id']} lost: {row['reason']}; stop working on it" for row in result["lost"]]
    lines += [f"the town asks: {row['kind']} {row.get('bead_id', '')}".rstrip() for row in result["directives"]]
    return "\n".join(map(clean, lines)) or "no leases held"


# ---------------------------------------------------------------- done, fail, release


def settling_options(verb: F) -> F:
    """What the three settling verbs share."""
    for option in (
        json_option,
        click.option("--token", type=click.IntRange(1), help="The lease's token, if another process claimed it."),
        click.argument("bead_id", required=False, metavar="[BEAD]"),
        worker_option,
        town_option,
    ):
        verb = option(verb)
    return verb


@click.command()
@settling_options
@click.option("--summary", "-m", metavar="TEXT", help="What was done; becomes the close reason.")
@click.option("--no-change", metavar="REASON", help="Nothing had to be changed, and why.")
@click.option("--branch", help="The branch to land, where a merge queue serves the rig; needs --commit.")
@click.option("--commit", help="The commit at the tip of --branch.")
@click.option("--next", "and_next", is_flag=True, help="Claim the next bead in the same call.")
def done(
    place: Place, worker: str | None, bead_id: str | None, token: int | None, summary: str | None,
    no_change: str | None, branch: str | None, commit: str | None, and_next: bool, as_json: bool,
) -> None:  # fmt: skip
    """Complete a bead: the one held, or BEAD."""
    if (branch is None) != (commit is None):
        raise click.UsageError("--branch and --commit come together")
    desk = Desk(place, worker)
    lease = desk.lease(bead_id, token)
    more: dict[str, Any] = {"merge": {"branch": branch, "commit": commit}} if branch else {}
    if and_next:
        more["claim"] = {"worker_id": lease.worker_id or desk.memory.worker_id}
    result = desk.settle(lease, lambda held: desk.town.complete(held, summary, no_change, **more))
    found = grants(result)
    desk.memory.keep(*(grant.lease for grant in found))
    show(result, as_json, lambda: "\n\n".join([f"{clean(lease.bead_id)} done", *map(described, found)]))


@click.command()
@settling_options
@click.option("--error", "-m", metavar="TEXT", default="failed", show_default=True, help="What went wrong.")
@click.option("--final", is_flag=True, help="Do not try again: a dead letter at once.")
def fail(
    place: Place, worker: str | None, bead_id: str | None, token: int | None, error: str, final: bool, as_json: bool
) -> None:
    """Give up an attempt: the bead comes back after a growing delay, or becomes a dead letter."""
    desk = Desk(place, worker)
    lease = desk.lease(bead_id, token)
    result = desk.settle(lease, lambda held: desk.town.fail(held, error, retryable=not final))
    again = "is a dead letter now" if result.get("dead") else f"comes back at {_clock(result.get('retry_at_ms', 0))}"
    show(result, as_json, lambda: f"{clean(lease.bead_id)} {again}")


@click.command()
@settling_options
@click.option("--reason", "-m", metavar="TEXT", help="Why it is handed back.")
def release(
    place: Place, worker: str | None, bead_id: str | None, token: int | None, reason: str | None, as_json: bool
) -> None:
    """Hand a bead back; no attempt is spent."""
    desk = Desk(place, worker)
    lease = desk.lease(bead_id, token)
    result = desk.settle(lease, lambda held: {"bead": desk.town.release(held, reason)})
    show(result, as_json, lambda: f"{clean(lease.bead_id)} released")
