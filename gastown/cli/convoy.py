"""Convoys: named groups of beads with their progress."""

from __future__ import annotations

from typing import Any

import click

from .beads import bead_argument
from .screen import clean, counts, instant, pairs, show, table
from .town import Place, json_option, town_option

BEADS = bead_argument("bead_ids", nargs=-1, required=True, metavar="BEAD...")
ID = click.argument("convoy_id", metavar="CONVOY")


@click.group()
def convoy() -> None:
    """Named groups of beads, with progress."""


def _told(result: dict[str, Any], as_json: bool) -> None:
    found = result["convoy"]
    facts = [
        ("convoy", f"{found['id']}  {found['name']}"),
        ("progress", f"{found['closed']} of {found['total']} closed · {counts(found['progress'])}"),
        ("created", instant(found["created_at_ms"])),
        ("beads", ", ".join(found["beads"])),
    ]
    show(result, as_json, lambda: pairs(facts))


@convoy.command("create")
@town_option
@click.argument("name")
@bead_argument("bead_ids", nargs=-1, metavar="[BEAD]...")
@click.option("--id", "convoy_id", metavar="ID", help="A given id; else one is made.")
@json_option
def create(place: Place, name: str, bead_ids: tuple[str, ...], convoy_id: str | None, as_json: bool) -> None:
    """Name a group of beads."""
    with place.connect() as town:
        result = town.call("convoy.create", name=name, beads=list(bead_ids) or None, id=convoy_id)
    _told(result, as_json)


@convoy.command("show")
@town_option
@ID
@json_option
def show_(place: Place, convoy_id: str, as_json: bool) -> None:
    """Show a convoy and its progress."""
    with place.connect() as town:
        _told(town.call("convoy.get", id=convoy_id), as_json)


@convoy.command("list")
@town_option
@json_option
def list_(place: Place, as_json: bool) -> None:
    """List convoys."""
    found: list[dict[str, Any]] = []
    cursor = None
    with place.connect() as town:
        while not found or cursor is not None:
            page = town.call("convoy.list", limit=1000, cursor=cursor)
            found += page["convoys"]
            cursor = page["next_cursor"]
            if not page["convoys"]:
                break
    lines = [(one["id"], f"{one['closed']}/{one['total']}", clean(one["name"])) for one in found]
    show({"convoys": found}, as_json, lambda: table(("id", "closed", "name"), lines, "no convoys"))


@convoy.command("add")
@town_option
@ID
@BEADS
@json_option
def add(place: Place, convoy_id: str, bead_ids: tuple[str, ...], as_json: bool) -> None:
    """Add beads to a convoy."""
    with place.connect() as town:
        _told(town.call("convoy.add", id=convoy_id, beads=list(bead_ids)), as_json)


@convoy.command("remove")
@town_option
@ID
@BEADS
@json_option
def remove(place: Place, convoy_id: str, bead_ids: tuple[str, ...], as_json: bool) -> None:
    """Take beads out of a convoy."""
    with place.connect() as town:
        _told(town.call("convoy.remove", id=convoy_id, beads=list(bead_ids)), as_json)
