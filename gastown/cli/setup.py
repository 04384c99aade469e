"""init makes a town, config shows what it obeys."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Final

import click

from gastown.config import FILE, SETTINGS, Config

from .ledger import summary, take
from .screen import show, table
from .town import Place, json_option, prepare, settings_option, town_option

BEADS_FILE: Final = Path(".beads") / "issues.jsonl"
IMPORTED_MARK: Final = "beads-imported"  # a file in .gastown: .beads/issues.jsonl has been taken over
LIMIT: Final = re.compile(r"^([A-Z][A-Z0-9_]+): Final = .*?(?:  # (.*))?$", re.MULTILINE)
UNITS: Final = {"BYTES": "bytes", "MS": "ms", "CHARS": "characters"}


# ---------------------------------------------------------------- init


@click.command()
@town_option
def init(place: Place) -> None:
    """Make a town here: in the repository's root, or in --dir. Running it again changes nothing.

    Takes over .beads/issues.jsonl once, if there is one; that file itself is never written.
    """
    root = place.root()
    there = Place(str(root))
    is_new = not there.exists
    state = prepare(root)
    settings = root / FILE
    if not settings.exists():
        settings.write_text(template(there.config({})))
    click.echo(f"{'a town is now' if is_new else 'a town is already'} at {root}")
    mark, beads = state / IMPORTED_MARK, root / BEADS_FILE
    if beads.is_file() and not mark.exists():
        result = take(there, beads)
        mark.write_text(f"{BEADS_FILE}\n")
        click.echo(f"imported {BEADS_FILE}:\n{summary(result)}")
    if is_new:
        click.echo("next: `gastown up` starts the daemon, `gastown next` asks for work")


def template(config: Config) -> str:
    """gastown.toml with every key as a comment."""
    rows = ["# Settings of this town. A flag or GASTOWN_KEY in the environment goes first; see `gastown config`.\n"]
    for key, setting in SETTINGS.items():
        value = config.value(key)
        shown = f'"{value}"' if isinstance(value, str) else value
        rows.append(f"\n# {setting.reason} ({setting.unit})\n# {key} = {shown}\n")
    return "".join(rows)


# ---------------------------------------------------------------- config


@click.command()
@town_option
@settings_option
@click.option("--limits", is_flag=True, help="The fixed limits too.")
@json_option
def config(place: Place, settings: dict[str, str | None], limits: bool, as_json: bool) -> None:
    """Show every setting: its value, where it comes from, its unit and reason."""
    loaded = place.config(settings)
    rows: list[dict[str, Any]] = [
        {"key": key, "value": loaded.value(key), "source": loaded.sources[key], "unit": one.unit, "reason": one.reason}
        for key, one in SETTINGS.items()
    ]
    rows += fixed_limits() if limits or as_json else []
    cells = [(row["key"], row["value"], row["unit"], row["source"], row["reason"]) for row in rows]
    show({"settings": rows}, as_json, lambda: table(("key", "value", "unit", "source", "reason"), cells, ""))


def fixed_limits() -> list[dict[str, Any]]:
    """The limits of model.py, which no setting changes, with the reasons that stand beside them."""
    from gastown import model

    found = []
    for name, reason in LIMIT.findall(inspect.getsource(model)):
        value = getattr(model, name)
        if isinstance(value, int) and ("_MAX" in name or "_MS" in name):
            unit = next((unit for part, unit in UNITS.items() if part in name.split("_")), "count")
            row = {"key": name.lower(), "value": value, "source": "fixed", "unit": unit, "reason": reason}
            found.append(row)
    return found
