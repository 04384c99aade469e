"""The queue and its workers: stats, pause, resume, worker list, drain and deregister."""

from __future__ import annotations

from typing import Any

import click

from .exits import NOT_FOUND, Failed
from .screen import clean, counts, instant, pairs, show, span, table
from .town import Place, json_option, town_option


@click.command()
@town_option
@json_option
def stats(place: Place, as_json: bool) -> None:
    """Counts by state, age of the queue, claim latency."""
    with place.connect() as town:
        result = town.stats()
    show(result, as_json, lambda: pairs(figures(result)))


def figures(result: dict[str, Any]) -> list[tuple[str, object]]:
    """queue.stats as names and values."""
    claim_ms = result["claim_ms"]
    latency = " · ".join(f"{name} {value} ms" for name, value in claim_ms.items()) if any(claim_ms.values()) else None
    return [
        ("beads", counts(result["beads"])),
        ("oldest", f"ready for {span(result['oldest_ready_age_ms'])}" if result["beads"].get("ready") else None),
        ("claims", latency),
        ("workers", counts(result["workers"])),
        ("pressure", "more beads ready than workers take" if result["backpressure"] else None),
    ]


RIG = click.option("--rig", metavar="NAME", help="Only this rig [default: all].")


@click.command()
@town_option
@RIG
@json_option
def pause(place: Place, rig: str | None, as_json: bool) -> None:
    """Hand out no work; what is held goes on and can be settled."""
    _hold(place, "queue.pause", rig, as_json)


@click.command()
@town_option
@RIG
@json_option
def resume(place: Place, rig: str | None, as_json: bool) -> None:
    """Hand out work again."""
    _hold(place, "queue.resume", rig, as_json)


def _hold(place: Place, method: str, rig: str | None, as_json: bool) -> None:
    with place.connect() as town:
        result = town.call(method, rig=rig)
    held = ", ".join("every rig" if name == "*" else clean(name or '""') for name in result["paused"])
    show(result, as_json, lambda: f"paused: {held or 'nothing'}")


@click.group()
def worker() -> None:
    """Workers and what they do."""


@worker.command("list")
@town_option
@json_option
def worker_list(place: Place, as_json: bool) -> None:
    """List workers with their states."""
    with place.connect() as town:
        result = town.call("worker.list")
    heads = ("name", "state", "leases", "last seen", "worker_id")
    show(result, as_json, lambda: table(heads, map(_row, result["workers"]), "no workers"))


def _row(found: dict[str, Any]) -> tuple[object, ...]:
    leases = found["leases"]
    held = leases if isinstance(leases, int) else len(leases)
    return found["name"], found["state"], held, instant(found["last_seen_ms"]), found["worker_id"]


WHO = click.argument("who", metavar="NAME|ID")


@worker.command("drain")
@town_option
@WHO
@json_option
def worker_drain(place: Place, who: str, as_json: bool) -> None:
    """Give a worker no more work; its leases run on."""
    _ask(place, "worker.drain", who, as_json)


@worker.command("deregister")
@town_option
@WHO
@json_option
def worker_deregister(place: Place, who: str, as_json: bool) -> None:
    """End a worker; what it holds goes back to the queue, no budget spent."""
    _ask(place, "worker.deregister", who, as_json)


def _ask(place: Place, method: str, who: str, as_json: bool) -> None:
    with place.connect() as town:
        workers = town.call("worker.list")["workers"]
        named = [one for one in workers if who in (one["worker_id"], one["name"]) and one["state"] != "gone"]
        if not named:
            raise Failed(NOT_FOUND, f"no worker is called {who}: see `gastown worker list`")
        result = town.call(method, worker_id=named[0]["worker_id"])
    show(result, as_json, lambda: clean(f"{result['worker']['name']} is {result['worker']['state']}"))
