"""The command line: how a person, or an agent without a client of its own, asks.

Law: a verb lives in the module that VERBS names and is imported when it is called, so that `gastown next` starts fast.
Nothing here decides; what a verb prints with --json is what the town answered. Exit codes are exits.py's.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Final

import click

# Verb -> module and name, in the order of the help; a heading is a row of its own.
VERBS: Final[dict[str, dict[str, str]]] = {
    "The town": {
        "init": "setup:init",
        "serve": "daemon:serve",
        "up": "daemon:up",
        "down": "daemon:down",
        "status": "status:status",
        "logs": "daemon:logs",
        "doctor": "doctor:doctor",
        "config": "setup:config",
        "demo": "demo:demo",
        "loadtest": "gastown.loadtest.command:loadtest",
    },
    "Work": {
        "next": "work:next_",
        "beat": "work:beat",
        "done": "work:done",
        "fail": "work:fail",
        "release": "work:release",
    },
    "Beads": {
        "add": "beads:add",
        "show": "beads:show_",
        "list": "beads:list_",
        "ready": "beads:ready",
        "update": "beads:update",
        "close": "beads:close",
        "reopen": "beads:reopen",
        "retry": "beads:retry",
        "dep": "beads:dep",
        "comment": "beads:comment",
        "history": "beads:history",
        "convoy": "convoy:convoy",
    },
    "Queue": {
        "stats": "queue:stats",
        "pause": "queue:pause",
        "resume": "queue:resume",
        "worker": "queue:worker",
        "token": "token:token",
    },
    "Ledger": {
        "import": "ledger:import_",
        "export": "ledger:export",
        "verify": "ledger:verify",
        "backup": "ledger:backup",
        "restore": "ledger:restore",
    },
}
PLACES: Final = {name: place for section in VERBS.values() for name, place in section.items()}


class Verbs(click.Group):
    """The group of all verbs: looks them up late, and turns what goes wrong into one clear line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 click's signature
        return list(PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 click's signature
        if cmd_name not in PLACES:
            return None
        module, _, name = PLACES[cmd_name].partition(":")
        full = module if "." in module else f"gastown.cli.{module}"
        found: click.Command = getattr(import_module(full), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], PLACES, 1)
            hint = f"Did you mean {near[0]!r}?" if near else "`gastown --help` lists the verbs."
            raise click.UsageError(f"{error.message} {hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, verbs in VERBS.items():
            with formatter.section(section):
                found = [(name, self.get_command(ctx, name)) for name in verbs]
                formatter.write_dl([(name, command.get_short_help_str(90)) for name, command in found if command])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from .exits import explained

            clear = explained(error)
            if clear is None:
                raise
            raise clear from error


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from gastown import __version__

        click.echo(f"gastown {__version__}")
        ctx.exit()


@click.group(
    name="gastown",
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def gastown(ctx: click.Context) -> None:
    """One queue, one ledger and no double claims, for many coding agents on git repositories.

    Start with `gastown init` in a repository, then `gastown up`; an agent asks for work with `gastown next`.
    """
    if ctx.invoked_subcommand is None:
        from .status import glance

        click.echo(glance())
        click.echo()
        click.echo(ctx.get_help())


def main() -> None:
    """The entry point `gastown`; never returns."""
    sys.exit(gastown.main(prog_name="gastown"))
