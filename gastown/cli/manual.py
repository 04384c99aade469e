"""docs/cli.md, made from the verbs themselves: `python -m gastown.cli.manual > docs/cli.md`.

Law: the page says nothing that the code does not; a test holds the checked-in page against this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from gastown.config import SETTINGS
from gastown.model import Policy

from . import VERBS, exits, gastown

HEAD: Final = """\
# Command line

Made from the program by `python -m gastown.cli.manual > docs/cli.md`; do not edit.

Every verb takes `--dir D` (or `$GASTOWN_DIR`): the town's folder. Without it the town is the nearest folder with a
`.gastown`, from here upward. `--json` prints one JSON document: what the town answered.

A worker is named by `--worker`, else `$GASTOWN_WORKER`, else user@host; its id and tokens are kept in
`.gastown/workers/NAME.json`, so `beat`, `done`, `fail` and `release` need no token.

## Exit codes

| code | meaning |
|---|---|
"""
CODES: Final = (
    (exits.OK, "done"),
    (exits.ERROR, "refused, or something is wrong: the message says what"),
    (exits.USAGE, "wrong usage"),
    (exits.NOTHING, "nothing to claim"),
    (exits.LEASE_LOST, "the lease is lost: stop working on that bead"),
    (exits.NOT_FOUND, "no such bead, convoy, worker or token"),
    (exits.LEDGER_REFUSED, "a file or a ledger that cannot be taken"),
    (exits.UNREACHABLE, "no daemon answers"),
    (exits.LEADERSHIP_LOST, "another process has the ledger"),
    (exits.PERMISSION, "permissions"),
    (exits.CONFIGURATION, "a wrong setting, or storage that cannot be used"),
)
COMPLETION: Final = """
## Completion

The shell can complete verbs, options and the ids of open beads:

    bash   eval "$(_GASTOWN_COMPLETE=bash_source gastown)"      in ~/.bashrc
    zsh    eval "$(_GASTOWN_COMPLETE=zsh_source gastown)"       in ~/.zshrc
    fish   _GASTOWN_COMPLETE=fish_source gastown | source       in ~/.config/fish/config.fish
"""
SETTINGS_HEAD: Final = """
## Settings

A flag `--set KEY=VALUE` goes before `GASTOWN_KEY` in the environment, that before `KEY = VALUE` in the town's
`gastown.toml`, that before the default. A key nobody knows and a value out of range stop the command with code 78.

| key | default | unit | meaning |
|---|---|---|---|
"""
SHARED: Final = ("place", "as_json")  # options every verb explains alike


def render() -> str:
    """The whole page."""
    rows = [f"| {code} | {meaning} |" for code, meaning in CODES]
    parts = [HEAD + "\n".join(rows) + "\n", COMPLETION]
    parts.append(SETTINGS_HEAD + "".join(_settings()))
    context = click.Context(gastown, info_name="gastown")
    for section, verbs in VERBS.items():
        parts.append(f"\n## {section}\n")
        for name in verbs:
            command = gastown.get_command(context, name)
            assert command is not None
            parts += _described(command, f"gastown {name}")
    return "".join(parts)


def _settings() -> Iterator[str]:
    defaults = Policy()._asdict()
    for key, setting in SETTINGS.items():
        default = defaults[key] if setting.default is None else setting.default or "(empty)"
        yield f"| `{key}` | {default} | {setting.unit} | {setting.reason} |\n"


def _described(command: click.Command, called: str) -> Iterator[str]:
    words = " ".join(part for part in _usage(command) if part)
    yield f"\n### {called}\n\n    {called} {words}".rstrip() + "\n\n"
    yield "\n".join(line.strip() for line in (command.help or "").strip().splitlines()) + "\n"
    rows = [row for row in map(_option, command.params) if row]
    if rows:
        yield "\n| option | meaning |\n|---|---|\n" + "\n".join(rows) + "\n"
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            yield from _described(part, f"{called} {name}")


def _usage(command: click.Command) -> Iterator[str]:
    """The arguments, and whether there are options."""
    if isinstance(command, click.Group):
        yield "VERB"
        return
    if any(isinstance(param, click.Option) for param in command.params):
        yield "[OPTIONS]"
    context = click.Context(command)
    for param in command.params:
        if isinstance(param, click.Argument):
            yield param.make_metavar(context)


def _option(param: click.Parameter) -> str | None:
    if not isinstance(param, click.Option) or param.name in SHARED or param.hidden:
        return None
    record = param.get_help_record(click.Context(click.Command("gastown")))
    assert record is not None
    names, meaning = (text.replace("|", "\\|").strip() for text in record)
    return f"| `{names}` | {' '.join(meaning.split())} |"


if __name__ == "__main__":
    click.echo(render(), nl=False)
