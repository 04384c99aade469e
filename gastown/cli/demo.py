"""The verb `demo`; what it does is gastown.demo's."""

from __future__ import annotations

import click


@click.command()
@click.option("--agents", type=click.IntRange(3, 8), default=5, show_default=True, help="How many agent processes.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the work's lengths and order.")
@click.option("--keep", type=click.Path(file_okay=False), metavar="DIR", help="Work in DIR and leave it behind.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end.")
def demo(agents: int, seed: int, keep: str | None, as_json: bool) -> None:
    """Five real agents against a real daemon in a scratch repository, with a crash and a silence, in under 20 s."""
    from gastown.demo.show import run

    raise click.exceptions.Exit(run(agents, seed, keep, as_json))
