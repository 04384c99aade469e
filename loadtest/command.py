"""`gastown loadtest`: one fleet against one coordinator, and the truth about every bead of the run."""

import contextlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from . import generator
from .check import Verdict, check
from .generator import GeneratorFault
from .plan import Outcome, Plan
from .report import print_run
from .town import BODIES, RpcError, Town, TownFault, scratch, seed, tokens

CEILING_S = 1.0  # long enough for a hundred thousand replies


@dataclass(frozen=True)
class Request:
    """The command line of one load test."""

    agents: int
    issues: int
    transport: str
    nested: bool
    retry_seconds: float
    history: Path | None
    python: bool
    ceiling: bool


@dataclass(frozen=True)
class Result:
    request: Request
    outcome: Outcome
    verdict: Verdict
    ceiling: Outcome | None

    def as_dict(self) -> dict[str, Any]:
        found = {"transport": self.request.transport, "nested": self.request.nested, **self.outcome.as_dict()}
        if self.ceiling is not None:
            found["ceiling"] = {"pairs_per_s": self.ceiling.rate, "cpu_share": self.ceiling.cpu_share}
        return found | {"check": self.verdict.as_dict()}


def run(town: Town, request: Request, attached: bool) -> Result:
    """Seeds the beads, drains them with the fleet, reads the ledger back."""
    name = f"load-{secrets.token_hex(4)}"
    ids = seed(town, request.issues, [name] if attached else [], history=request.history)
    with tempfile.TemporaryDirectory(prefix="gastown-load-") as folder:
        settled = Path(folder) / "settled"
        outcome = drive(town, request, name, attached, settled)
        town.attach()
        verdict = check(town, ids, name if attached else None, settled)
        if not verdict.sound and not attached:
            town.evidence = True
            shutil.copy(settled, town.directory / "settled")
        ceiling = measure_ceiling(request, Path(folder)) if request.ceiling else None
    return Result(request, outcome, verdict, ceiling)


def drive(town: Town, request: Request, name: str, attached: bool, settled: Path) -> Outcome:
    target, dialect = town.target(request.transport)
    with tokens(town, request.transport, request.agents, name) as token_file:
        plan = Plan(
            target,
            dialect,
            workers=request.agents,
            nested=request.nested,
            filter=json.dumps({"labels_all": [name]}) if attached else None,
            request_ids=True,
            retry_seconds=request.retry_seconds,
            run=name,
            tokens=token_file,
            daemon_file=str(town.daemon_file),
            history=str(request.history) if request.history else None,
            settled=str(settled),
        )
        return generator.run(plan, request.python)


def measure_ceiling(request: Request, folder: Path) -> Outcome:
    """What the same fleet reaches against a server that knows one reply."""
    dialect = "lines" if request.transport == "lines" else "http"
    with generator.static_server(dialect, folder, request.python) as target:
        return generator.run(Plan(target, dialect, workers=request.agents, seconds=CEILING_S), request.python)


@contextlib.contextmanager
def town_of(attach: Path | None, body: str) -> Iterator[Town]:
    if attach is not None:
        yield Town(attach, body).attach()
        return
    with scratch(body) as town:
        yield town


def choice(*names: str) -> click.Choice[str]:
    return click.Choice(names)


@click.command()
@click.option(
    "--agents", default=30, show_default=True, type=click.IntRange(1, 4000), help="Workers, one connection each."
)
@click.option("--issues", default=3000, show_default=True, type=click.IntRange(1), help="Beads to create and complete.")
@click.option(
    "--transport",
    default="http",
    show_default=True,
    type=choice("http", "tcp", "lines"),
    help="HTTP on the unix socket, HTTP over TCP with tokens, or the line socket.",
)
@click.option("--nested", is_flag=True, help="Complete and claim the next bead in one call.")
@click.option(
    "--attach",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Use the running daemon of this town; only beads of the test are claimed, and they stay there, "
    "closed. Default: a scratch town.",
)
@click.option(
    "--retry-seconds",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Keep a call alive over restarts of the daemon for so long, with the same request_id.",
)
@click.option(
    "--history",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Append one JSON line a call: client, op, args, t_inv, t_ret, outcome, epoch, seq, bead, token.",
)
@click.option("--python", is_flag=True, help="Use the Python fleet even where the compiled generator is built.")
@click.option("--build", is_flag=True, help="Build the compiled generator with cargo first.")
@click.option(
    "--ceiling/--no-ceiling",
    default=True,
    show_default=True,
    help="Also measure the fleet against a server with one fixed reply.",
)
@click.option("--body", default="python", show_default=True, type=choice(*BODIES), help="Body of a scratch town.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def loadtest(attach: Path | None, build: bool, body: str, as_json: bool, **options: Any) -> None:
    """Put real load on a coordinator and check that no bead was lost or done twice.

    Creates --issues beads, lets --agents workers claim and complete them over real connections as fast as the
    coordinator answers, then reads the ledger back: every bead must have been completed exactly once.

    \b
    gastown loadtest --agents 100 --issues 20000
    gastown loadtest --attach . --transport lines --nested
    gastown loadtest --attach . --retry-seconds 60 --history calls.jsonl   # and kill -9 the daemon meanwhile

    The exit code is 0 when every bead was completed once, 1 when not, 69 when no daemon answers.
    """
    request = Request(**options)
    try:
        if build:
            generator.build()
        with town_of(attach, body) as town:
            result = run(town, request, attach is not None)
    except (GeneratorFault, RpcError) as fault:
        raise click.ClickException(str(fault)) from fault
    except (TownFault, OSError) as fault:
        click.echo(f"Error: {fault}", err=True)
        raise SystemExit(69) from fault
    if as_json:
        click.echo(json.dumps(result.as_dict()))
    else:
        print_run(result.as_dict())
    if not result.verdict.sound:
        click.echo(f"Error: beads were lost or done twice; the ledger is in {town.directory}", err=True)
        raise SystemExit(1)
