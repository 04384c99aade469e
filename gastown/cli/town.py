"""Which town a verb speaks of, and the options all verbs share.

Law: --dir D or GASTOWN_DIR is taken as it is; otherwise the town is the nearest folder upward that has a .gastown of
the same user. A verb that needs the daemon and finds no town says so with the code for "unreachable".
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from .exits import CONFIGURATION, UNREACHABLE, Failed

if TYPE_CHECKING:
    from gastown.client import Client
    from gastown.config import Config

F = TypeVar("F", bound=Callable[..., Any])

STATE_FOLDER: Final = ".gastown"
IGNORE: Final = "*\n"  # the folder ignores itself, so that no ledger is committed by mistake


class Place:
    """Where a town is, or would be."""

    def __init__(self, given: str | None) -> None:
        self.given = Path(given).absolute() if given else None

    @property
    def folder(self) -> Path:
        """The town's folder: the given one, the nearest town upward, else here."""
        return self.given or _upward(STATE_FOLDER) or Path.cwd()

    @property
    def state(self) -> Path:
        return self.folder / STATE_FOLDER

    @property
    def exists(self) -> bool:
        return self.state.is_dir()

    def root(self) -> Path:
        """Where a new town belongs: the given folder, a town upward, the repository's root, else here."""
        return self.given or _upward(STATE_FOLDER) or _upward(".git") or Path.cwd()

    def connect(self, patience_s: float | None = None) -> Client:
        """A client of the running daemon; Unreachable or Failed (both exit 69) if there is none."""
        from gastown.client import PATIENCE_S, Client

        if not self.exists:
            raise Failed(UNREACHABLE, f"{self.folder} is no town: `gastown init` makes one, `gastown up` starts it")
        return Client.open(self.folder, patience_s=PATIENCE_S if patience_s is None else patience_s)

    def config(self, flags: dict[str, str | None]) -> Config:
        """The settings in force here; ConfigError (exit 78) if one is wrong."""
        from gastown.config import load
        from gastown.model import Policy

        return load(self.folder, Policy()._asdict(), flags)


def _upward(name: str) -> Path | None:
    """The nearest folder from here up that holds `name` and belongs to this user."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        try:
            if (folder / name).stat().st_uid == os.getuid():
                return folder
        except OSError:
            continue
    return None


def prepare(folder: Path) -> Path:
    """Makes the town's .gastown (0700, ignored by git) unless it is there, and returns it. Failed on a filesystem that
    cannot hold a ledger."""
    from gastown.filesystem import refusal

    state = folder / STATE_FOLDER
    wrong = refusal(folder)
    if wrong:
        raise Failed(CONFIGURATION, wrong)
    state.mkdir(mode=0o700, exist_ok=True)
    ignore = state / ".gitignore"
    if not ignore.exists():
        ignore.write_text(IGNORE)
    return state


def town_option(verb: F) -> F:
    """--dir, given to the verb as `place`."""
    return click.option(
        "--dir",
        "place",
        metavar="D",
        envvar="GASTOWN_DIR",
        callback=lambda _ctx, _param, value: Place(value),
        help="The town's folder [default: the nearest with a .gastown, from here upward].",
    )(verb)


def json_option(verb: F) -> F:
    """--json, given to the verb as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(verb)


def settings_option(verb: F) -> F:
    """--set KEY=VALUE, given to the verb as `settings`."""
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        callback=_settings,
        help="A setting for this run; `gastown config` lists the keys.",
    )(verb)


def _settings(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE")
        found[key] = value
    return found
