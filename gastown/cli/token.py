"""Tokens for callers that come over TCP: create, list, revoke."""

from __future__ import annotations

import click

from .screen import instant, note, show, table
from .town import Place, json_option, town_option


@click.group()
def token() -> None:
    """Tokens for callers over TCP; the unix sockets need none."""


@token.command("create")
@town_option
@click.option("--scope", type=click.Choice(["read", "worker", "admin"]), default="worker", show_default=True)
@click.option("--name", required=True, help="Who will use it.")
@json_option
def create(place: Place, scope: str, name: str, as_json: bool) -> None:
    """Make a token and print it; it is shown this once."""
    with place.connect() as town:
        result = town.call("token.create", scope=scope, name=name)
    if not as_json:
        note(f"token {result['id']} of scope {scope}; keep it safe, it is not shown again:")
    show(result, as_json, lambda: str(result["token"]))


@token.command("list")
@town_option
@json_option
def list_(place: Place, as_json: bool) -> None:
    """List tokens, without their texts."""
    with place.connect() as town:
        result = town.call("token.list")
    rows = [
        (one["id"], one["scope"], "revoked" if one["revoked"] else "good", instant(one["last_used_ms"]), one["name"])
        for one in result["tokens"]
    ]
    show(result, as_json, lambda: table(("id", "scope", "state", "last used", "name"), rows, "no tokens"))


@token.command("revoke")
@town_option
@click.argument("token_id", metavar="ID")
@json_option
def revoke(place: Place, token_id: str, as_json: bool) -> None:
    """End a token at once."""
    with place.connect() as town:
        result = town.call("token.revoke", id=token_id)
    show(result, as_json, lambda: f"{token_id} is revoked")
