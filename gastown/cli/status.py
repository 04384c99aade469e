"""status: the town at a glance.

Law: it also works when no daemon runs: then it says so and exits 69. Problems are listed with what to do.
"""

from __future__ import annotations

from typing import Any, Final

import click

from gastown.client import Client, RpcError, Unreachable

from .exits import UNREACHABLE, Failed
from .queue import figures
from .screen import pairs, show, span
from .town import Place, json_option, town_option

GLANCE_S: Final = 2.0  # patience of a look


def look(place: Place) -> dict[str, Any]:
    """What there is to say: always `town`, `daemon` ("up" or "down") and `problems`; the rest when it is up."""
    told: dict[str, Any] = {"town": str(place.folder), "daemon": "down", "problems": []}
    if not place.exists:
        told["problems"].append("no town here: gastown init")
        return told
    try:
        with place.connect(patience_s=GLANCE_S) as town:
            _ask(place, town, told)
    except (Unreachable, Failed) as error:
        told["daemon"] = "down"
        told["problems"].append(f"{error}: gastown up")
    return told


def _ask(place: Place, town: Client, told: dict[str, Any]) -> None:
    import orjson

    info = town.info()
    told |= {"daemon": "up", "system": info, "queue": town.stats(), "workers": town.call("worker.list")["workers"]}
    told["advice"] = town.call("scale.advice")
    try:
        told["listen"] = orjson.loads((place.state / "daemon.json").read_bytes())["listen"]
    except (OSError, ValueError, KeyError):
        told["problems"].append("daemon.json is gone: gastown down, then gastown up")
    told["problems"] += _problems(told)


def _problems(told: dict[str, Any]) -> list[str]:
    beads, advice = told["queue"]["beads"], told["advice"]
    stalled = [worker["name"] for worker in told["workers"] if worker["state"] == "stalled"]
    found = [
        (beads.get("dead"), f"{beads.get('dead')} dead letters: gastown list --state dead, then gastown retry"),
        (beads.get("held"), f"{beads.get('held')} in progress without a lease here: gastown list --state held"),
        (stalled, f"silent workers that hold a lease: {', '.join(stalled)}"),
        (
            told["queue"]["backpressure"],
            f"more is ready than workers take: {advice['recommended_workers']} are advised",
        ),
        (advice["health"] != "healthy", f"health is {advice['health']}: {advice['reason']}"),
    ]
    return [text for is_so, text in found if is_so]


def words(told: dict[str, Any]) -> str:
    """The look for a person."""
    rows: list[tuple[str, object]] = [("town", told["town"]), ("daemon", _daemon(told))]
    rows += figures(told["queue"]) if "queue" in told else []
    rows += [("problem", problem) for problem in told["problems"]]
    return pairs(rows)


def _daemon(told: dict[str, Any]) -> str:
    if told["daemon"] == "down":
        return "down"
    info = told["system"]
    facts = [f"up {span(info['uptime_ms'])}", f"pid {info['pid']}", f"{info['body']} {info['version']}",
             f"epoch {info['epoch']}", told.get("listen", "")]  # fmt: skip
    return " · ".join(filter(None, facts))


def glance() -> str:
    """The look for bare `gastown`: whatever is wrong, it is said and never raised."""
    try:
        return words(look(Place(None)))
    except (RpcError, OSError) as error:
        return f"daemon  in trouble: {error}"


@click.command()
@town_option
@json_option
def status(place: Place, as_json: bool) -> None:
    """The town at a glance. Exit code 69 when no daemon runs."""
    told = look(place)
    show(told, as_json, lambda: words(told))
    if told["daemon"] == "down":
        raise click.exceptions.Exit(UNREACHABLE)
