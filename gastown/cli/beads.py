"""Beads by hand: add, show, list, ready, update, close, reopen, retry, dep, comment, history.

Law: each verb is one method of the town; --json prints its result as it came.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import click

from gastown.client import Bead

from .screen import clean, clean_text, instant, pairs, show, table
from .town import F, Place, json_option, town_option
from .work import filter_options, narrowing

LIST_DEFAULT: Final = 100  # beads shown unless asked for more
STATES: Final = ("ready", "leased", "merging", "held", "blocked", "waiting", "deferred", "dead", "parked", "closed",
                 "tombstone")  # fmt: skip
BEAD_FIELDS: Final = ("description", "design", "acceptance_criteria", "notes")


def completed(ctx: click.Context, _param: click.Parameter, start: str) -> list[str]:
    """Ids of beads that begin with `start`, for the shell; none when no daemon answers."""
    from gastown.client import RpcError, Unreachable

    from .exits import Failed

    try:
        place = ctx.params.get("place") or Place(None)
        with place.connect(patience_s=0.0) as town:
            return [bead["id"] for bead in town.beads({"state": [*STATES[:-2]]}) if bead["id"].startswith(start)]
    except (Failed, RpcError, Unreachable, OSError):
        return []


def bead_argument(name: str = "bead_id", **more: Any) -> Callable[[F], F]:
    """A bead's id, or several, that the shell can complete."""
    return click.argument(name, metavar=more.pop("metavar", "BEAD"), shell_complete=completed, **more)


def row(bead: Bead) -> tuple[object, ...]:
    marks = "".join(f" [{label}]" for label in bead.get("labels", []))
    who = f" @{bead['assignee']}" if bead.get("assignee") else ""
    return bead["id"], f"P{bead['priority']}", bead.get("status", "open"), bead.get("issue_type", "task"), (
        bead["title"] + marks + who
    )  # fmt: skip


def rows(found: list[Bead], empty: str) -> str:
    return table(("id", "pri", "status", "type", "title"), map(row, found), empty)


# ---------------------------------------------------------------- reading


@click.command("show")
@town_option
@bead_argument()
@json_option
def show_(place: Place, bead_id: str, as_json: bool) -> None:
    """Show one bead."""
    with place.connect() as town:
        result = town.call("bead.get", id=bead_id)
    show(result, as_json, lambda: _whole(result["bead"]))


def _whole(bead: Bead) -> str:
    record: dict[str, Any] = dict(bead)
    edges = [f"{edge['type']} {edge['depends_on_id']}" for edge in bead.get("dependencies", [])]
    head = [
        ("id", bead["id"]),
        ("title", bead["title"]),
        ("status", f"{bead.get('status', 'open')}  P{bead['priority']}  {bead.get('issue_type', '')}"),
        ("assignee", bead.get("assignee")),
        ("labels", ", ".join(bead.get("labels", []))),
        ("rig", bead.get("rig")),
        ("waits for", ", ".join(edges)),
        ("deferred", record.get("defer_until")),
        ("created", bead.get("created_at")),
        ("updated", f"{bead.get('updated_at')}  version {bead.get('version')}"),
        ("closed", f"{bead['closed_at']}  {bead.get('close_reason', '')}" if bead.get("closed_at") else None),
    ]
    texts = [f"{key}:\n{clean_text(record[key])}" for key in BEAD_FIELDS if record.get(key)]
    said = [
        f"{clean(comment.get('author', ''))} {comment.get('created_at', '')}:\n{clean_text(comment.get('text', ''))}"
        for comment in bead.get("comments", [])
    ]
    return "\n\n".join([pairs(head), *texts, *said])


@click.command("list")
@town_option
@click.option("--status", multiple=True, help="Only this status; repeatable.")
@click.option("--state", multiple=True, type=click.Choice(STATES), help="Only this derived state; repeatable.")
@click.option("--assignee", metavar="NAME")
@click.option("--parent", metavar="ID", help="Only children of this bead.")
@filter_options
@click.option(
    "--sort",
    type=click.Choice([sign + key for key in ("id", "created", "updated", "priority") for sign in ("", "-")]),
    help="Order; '-' reverses.",
)
@click.option("--limit", type=click.IntRange(1), default=LIST_DEFAULT, show_default=True, help="At most this many.")
@click.option("--all", "everything", is_flag=True, help="However many there are.")
@json_option
def list_(
    place: Place, status: tuple[str, ...], state: tuple[str, ...], assignee: str | None, parent: str | None,
    labels: tuple[str, ...], any_labels: tuple[str, ...], kinds: tuple[str, ...], rig: str | None, convoy: str | None,
    sort: str | None, limit: int, everything: bool, as_json: bool,
) -> None:  # fmt: skip
    """List beads."""
    wanted: dict[str, Any] = {
        "status": list(status), "state": list(state), "assignee": assignee, "parent": parent, "rig": rig,
        "labels_all": list(labels), "labels_any": list(any_labels), "issue_types": list(kinds), "convoy": convoy,
    }  # fmt: skip
    narrowed = {key: value for key, value in wanted.items() if value not in (None, [])}
    with place.connect() as town:
        found = list(islice(town.beads(narrowed or None, sort), None if everything else limit + 1))
    cut = not everything and len(found) > limit
    found = found[:limit] if cut else found
    show(
        {"beads": found, "more": cut},
        as_json,
        lambda: rows(found, "no beads") + (f"\n(the first {limit}; --all shows the rest)" if cut else ""),
    )


@click.command()
@town_option
@filter_options
@click.option("--sort", type=click.Choice(["priority", "oldest", "hybrid"]), help="Order [default: as claims go].")
@click.option("--limit", type=click.IntRange(1, 1000), default=LIST_DEFAULT, show_default=True)
@json_option
def ready(
    place: Place, labels: tuple[str, ...], any_labels: tuple[str, ...], kinds: tuple[str, ...], rig: str | None,
    convoy: str | None, sort: str | None, limit: int, as_json: bool,
) -> None:  # fmt: skip
    """List what a claim would hand out, in its order."""
    narrowed = narrowing(labels, any_labels, kinds, rig=rig, convoy=convoy)
    with place.connect() as town:
        result = town.call("bead.ready", limit=limit, filter=narrowed, sort=sort)
    show(result, as_json, lambda: rows(result["beads"], "nothing is ready"))


@click.command()
@town_option
@bead_argument()
@json_option
def history(place: Place, bead_id: str, as_json: bool) -> None:
    """Show what happened to a bead, oldest first."""
    with place.connect() as town:
        result = town.call("bead.history", id=bead_id)
    show(result, as_json, lambda: table(("seq", "at", "kind", "what"), map(_event, result["events"]), "no events"))


def _event(event: dict[str, Any]) -> tuple[object, ...]:
    head = ("seq", "epoch", "at_ms", "kind", "bead_id")
    more = " ".join(f"{key}={value}" for key, value in event.items() if key not in head)
    return event["seq"], instant(event["at_ms"]), event["kind"], more


# ---------------------------------------------------------------- writing


@click.command()
@town_option
@click.argument("title")
@click.option("--description", "-d", help="What is to be done; '-' reads it from standard input.")
@click.option("--design", help="How.")
@click.option("--acceptance", "acceptance_criteria", help="When it is done.")
@click.option("--notes")
@click.option("--priority", "-p", type=click.IntRange(0, 4), default=2, show_default=True, help="0 is critical.")
@click.option("--type", "-t", "issue_type", default="task", show_default=True)
@click.option("--label", "-l", "labels", multiple=True, help="Repeatable.")
@click.option("--parent", metavar="ID", help="The bead this is a part of.")
@click.option("--needs", multiple=True, metavar="ID", help="A bead to wait for; repeatable.")
@click.option("--assignee", metavar="NAME")
@click.option("--defer", "defer_until", metavar="TIME", help="Not before this RFC 3339 time.")
@click.option("--rig", metavar="NAME")
@click.option("--id", metavar="ID", help="A given id; else one is minted.")
@json_option
def add(place: Place, needs: tuple[str, ...], labels: tuple[str, ...], as_json: bool, **fields: Any) -> None:
    """Add a bead; prints its id."""
    if fields["description"] == "-":
        fields["description"] = sys.stdin.read()
    bead: dict[str, Any] = {key: value for key, value in fields.items() if value is not None}
    bead["labels"] = list(labels)
    bead["depends_on"] = [{"id": needed} for needed in needs]
    with place.connect() as town:
        result = town.call("bead.create", beads=[bead])
    show(result, as_json, lambda: "\n".join(clean(f"{made['id']}  {made['title']}") for made in result["beads"]))


@click.command()
@town_option
@bead_argument()
@click.option("--title")
@click.option("--description", "-d")
@click.option("--design")
@click.option("--acceptance", "acceptance_criteria")
@click.option("--notes")
@click.option("--priority", "-p", type=click.IntRange(0, 4))
@click.option("--type", "-t", "issue_type")
@click.option("--status", "-s", help="open, blocked, deferred, pinned, hooked or one of your own.")
@click.option("--assignee", metavar="NAME")
@click.option("--label", "-l", "labels", multiple=True, help="Replaces all labels; repeatable.")
@click.option("--defer", "defer_until", metavar="TIME", help="Not before this RFC 3339 time.")
@click.option("--rig", metavar="NAME")
@click.option("--clear", multiple=True, metavar="FIELD", help="Take a field away, such as assignee; repeatable.")
@click.option("--if-version", type=click.IntRange(0), help="Only if the bead still has this version.")
@json_option
def update(
    place: Place, bead_id: str, labels: tuple[str, ...], clear: tuple[str, ...], if_version: int | None,
    as_json: bool, **fields: Any,
) -> None:  # fmt: skip
    """Change fields of a bead."""
    changed = {key: value for key, value in fields.items() if value is not None}
    changed |= {"labels": list(labels)} if labels else {}
    changed |= dict.fromkeys(clear)
    if not changed:
        raise click.UsageError("nothing to change: name a field, such as --priority 1")
    with place.connect() as town:
        result = town.call("bead.update", id=bead_id, set=changed, if_version=if_version)
    show(result, as_json, lambda: rows([result["bead"]], ""))


@click.command()
@town_option
@bead_argument("bead_ids", nargs=-1, required=True, metavar="BEAD...")
@click.option("--reason", "-m", default="closed by hand", show_default=True)
@json_option
def close(place: Place, bead_ids: tuple[str, ...], reason: str, as_json: bool) -> None:
    """Close beads, held or not."""
    with place.connect() as town:
        closed = [town.call("bead.close", id=bead_id, reason=reason)["bead"] for bead_id in bead_ids]
    show({"beads": closed}, as_json, lambda: rows(closed, ""))


@click.command()
@town_option
@bead_argument()
@json_option
def reopen(place: Place, bead_id: str, as_json: bool) -> None:
    """Open a closed or dead bead again, with fresh budgets."""
    _reopen(place, bead_id, as_json)


@click.command()
@town_option
@bead_argument()
@json_option
def retry(place: Place, bead_id: str, as_json: bool) -> None:
    """Bring a dead letter back, with fresh budgets (as reopen)."""
    _reopen(place, bead_id, as_json)


def _reopen(place: Place, bead_id: str, as_json: bool) -> None:
    with place.connect() as town:
        result = town.call("bead.reopen", id=bead_id)
    show(result, as_json, lambda: rows([result["bead"]], ""))


@click.command()
@town_option
@bead_argument()
@click.argument("text")
@json_option
def comment(place: Place, bead_id: str, text: str, as_json: bool) -> None:
    """Add a comment to a bead; TEXT '-' reads standard input."""
    said = sys.stdin.read() if text == "-" else text
    with place.connect() as town:
        result = town.call("bead.comment", id=bead_id, text=said)
    show(result, as_json, lambda: clean(f"{bead_id} has {len(result['bead'].get('comments', []))} comments"))


@click.group()
def dep() -> None:
    """Make beads wait for each other."""


def _edge(place: Place, method: str, waiting: str, needed: str, kind: str, as_json: bool) -> None:
    with place.connect() as town:
        result = town.call(method, **{"from": waiting, "to": needed, "kind": kind})
    show(result, as_json, lambda: _whole(result["bead"]))


KIND = click.option("--kind", default="blocks", show_default=True, help="blocks, parent-child, waits-for, related ...")


@dep.command("add")
@town_option
@bead_argument("waiting", metavar="BEAD")
@bead_argument("needed", metavar="NEEDS")
@KIND
@json_option
def dep_add(place: Place, waiting: str, needed: str, kind: str, as_json: bool) -> None:
    """BEAD waits for NEEDS."""
    _edge(place, "bead.depend", waiting, needed, kind, as_json)


@dep.command("remove")
@town_option
@bead_argument("waiting", metavar="BEAD")
@bead_argument("needed", metavar="NEEDS")
@KIND
@json_option
def dep_remove(place: Place, waiting: str, needed: str, kind: str, as_json: bool) -> None:
    """BEAD waits for NEEDS no longer."""
    _edge(place, "bead.undepend", waiting, needed, kind, as_json)
