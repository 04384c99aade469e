"""import, export, verify, backup, restore: whole ledgers, with a running daemon or without one.

Law: with a daemon these are calls to it; without one the verb takes the ledger's lock for as long as it works, so two
processes never write one ledger.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from gastown.client import Client, Imported, RpcError, Unreachable

from .exits import ERROR, LEADERSHIP_LOST, LEDGER_REFUSED, Failed
from .screen import busy, clean, note, pairs, show, table
from .town import Place, json_option, prepare, town_option

SKIPPED_SHOWN: Final = 10  # of the lines an import left out; --json has them all
WRONG_FILE: Final = ("invalid_params", "limit")  # refusals that speak of the file and not of the town


def reachable(place: Place) -> Client | None:
    """A client if a daemon runs, else None."""
    try:
        return Client.open(place.folder, patience_s=0.0)
    except Unreachable:
        return None


def answers(place: Place) -> bool:
    """Whether a daemon runs."""
    town = reachable(place)
    if town is not None:
        town.close()
    return town is not None


@contextmanager
def _private() -> Iterator[None]:
    """What is made meanwhile is its owner's alone, as the daemon makes it."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


# ---------------------------------------------------------------- import


@click.command("import")
@town_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--mode", type=click.Choice(["merge", "replace_empty"]), default="merge", show_default=True,
              help="replace_empty refuses a ledger that has beads.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would happen and change nothing.")
@click.option("--skip-bad", is_flag=True, help="Leave out lines that are no records instead of refusing the file.")
@json_option
def import_(place: Place, file: str, mode: str, dry_run: bool, skip_bad: bool, as_json: bool) -> None:
    """Merge a JSONL ledger into this one, all or nothing. FILE '-' is standard input."""
    prepare(place.folder)
    with _as_path(file) as path:
        result = take(place, path, mode, dry_run, skip_bad)
    show(result._asdict(), as_json, lambda: summary(result))


@contextmanager
def _as_path(file: str) -> Iterator[Path]:
    if file != "-":
        yield Path(file)
        return
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        yield Path(spool.name)


def take(place: Place, path: Path, mode: str = "merge", dry_run: bool = False, skip_bad: bool = False) -> Imported:
    """Imports a file, by the daemon or without one; Failed (exit 65) names the line of a bad file."""
    from gastown.model import Refused

    try:
        with busy(f"importing {path.name}"):
            return _take(place, path, mode, dry_run, skip_bad)
    except (RpcError, Refused) as error:
        if error.kind not in WRONG_FILE:
            raise
        line, why = error.data.get("line"), error.data.get("why") or error.message
        raise Failed(LEDGER_REFUSED, f"{path}{f':{line}' if line else ''}: {why}; nothing was imported") from None


def _take(place: Place, path: Path, mode: str, dry_run: bool, skip_bad: bool) -> Imported:
    town = reachable(place)
    if town is not None:
        with town, path.open("rb") as file:
            return town.import_from(file, mode, dry_run, skip_bad)
    from gastown import offline

    with _private(), offline.open_ledger(place.folder) as ledger:
        result = ledger.import_file(path, skip_bad=skip_bad, dry_run=dry_run, mode=mode)
    return Imported(result["created"], result["updated"], result["unchanged"], result["skipped"])


def summary(result: Imported) -> str:
    """The counts of an import, and the first lines it left out."""
    skipped = result.skipped
    counts = pairs([(name, len(skipped) if name == "skipped" else getattr(result, name)) for name in result._fields])
    lines = [(row["line"], row.get("id") or "-", row["why"]) for row in skipped[:SKIPPED_SHOWN]]
    more = f"\n(and {len(skipped) - SKIPPED_SHOWN} more: --json)" if len(skipped) > SKIPPED_SHOWN else ""
    return counts + ("\n\n" + table(("line", "id", "why"), lines, "") + more if lines else "")


# ---------------------------------------------------------------- export


@click.command()
@town_option
@click.argument("file", type=click.Path(dir_okay=False), required=False)
def export(place: Place, file: str | None) -> None:
    """Write the canonical JSONL to FILE (replaced whole), or to standard output."""
    _there(place)
    if file is None:
        with tempfile.TemporaryDirectory(prefix="gastown-") as folder:
            whole = Path(folder) / "export.jsonl"
            give(place, whole)
            with whole.open("rb") as source:
                shutil.copyfileobj(source, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return
    target = Path(file)
    fresh = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        give(place, fresh)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)


def give(place: Place, path: Path) -> None:
    """Writes the whole export to `path`, by the daemon or without one."""
    town = reachable(place)
    with busy("exporting"):
        if town is not None:
            with town, path.open("wb") as out:
                town.export_to(out)
            return
        from gastown import offline

        with _private(), offline.open_ledger(place.folder) as ledger:
            ledger.export_file(path)


def _there(place: Place) -> None:
    if not place.exists:
        raise Failed(ERROR, f"{place.folder} is no town: `gastown init` makes one")


# ---------------------------------------------------------------- verify, backup, restore


@click.command()
@town_option
@json_option
def verify(place: Place, as_json: bool) -> None:
    """Check the hash chain and the invariants of the ledger. Exit code 65 when something is wrong."""
    _there(place)
    result = _verified(place)
    rows = [(one["kind"], one.get("id", ""), one.get("seq", ""), one["text"]) for one in result["problems"]]
    show(result, as_json, lambda: table(("kind", "id", "seq", "problem"), rows, "the ledger is sound"))
    if not result["ok"]:
        raise click.exceptions.Exit(LEDGER_REFUSED)


def _verified(place: Place) -> dict[str, Any]:
    town = reachable(place)
    with busy("verifying"):
        if town is not None:
            with town:
                return town.call("ledger.verify")
        from gastown import offline

        with _private(), offline.open_ledger(place.folder) as ledger:
            result: dict[str, Any] = ledger.verify()
    return result


@click.command()
@town_option
@click.argument("file", type=click.Path(dir_okay=False))
def backup(place: Place, file: str) -> None:
    """Write a consistent copy of the ledger to FILE, which must not exist."""
    _there(place)
    target = Path(file).absolute()
    if target.exists():
        raise Failed(ERROR, f"{target} exists: a backup never replaces a file")
    from gastown import offline

    with busy("copying the ledger"):
        if answers(place):
            offline.copy_live(place.folder, target)
        else:
            with _private(), offline.open_ledger(place.folder) as ledger:
                ledger.backup(target)
    note(f"{clean(target)} holds the ledger")


@click.command()
@town_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask before the present ledger is set aside.")
def restore(place: Place, file: str, yes: bool) -> None:
    """Put a backup in the ledger's place; the daemon must be down. The present ledger is kept beside it.

    Fencing tokens leap ahead, so that no token of the time since the backup is ever good again.
    """
    if answers(place):
        raise Failed(LEADERSHIP_LOST, f"a daemon serves {place.folder}: `gastown down` first")
    prepare(place.folder)
    if sys.stdin.isatty() and not yes:
        click.confirm(f"put {file} in the place of the ledger of {place.folder}?", abort=True, err=True)
    from gastown import offline

    with _private(), busy("restoring"):
        kept = offline.restore(place.folder, Path(file).absolute())
    note(f"restored{f'; the ledger that was there is {clean(kept)}' if kept else ''}")
