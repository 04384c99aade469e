"""A load test as a table for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

CEILING_NEAR = 0.7  # above this share of its own ceiling the fleet itself may be what is measured


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"


def print_run(found: dict[str, Any], console: Console | None = None) -> None:
    """`found` is the JSON form of a result."""
    console = console or Console()
    table = Table(title=f"{found['workers']} agents over {found['transport']}", show_header=True)
    for column in ("call", "count", "P50", "P95", "P99", "max"):
        table.add_column(column, justify="left" if column == "call" else "right")
    for name in ("claim", "settle"):
        row = found[name]
        times = [milliseconds(row[key]) for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")]
        table.add_row("complete" if name == "settle" else name, str(row["count"]), *times)
    console.print(table)
    console.print(
        f"{found['pairs_per_s']:,.0f} claim + complete pairs/s, durable, in {found['elapsed_s']:.2f} s "
        f"({found['generator']} generator, {found['cpu_share']:.0%} of a core)"
    )
    _print_ceiling(found, console)
    troubles = {name: found[name] for name in ("unknown", "reconnects", "gave_up", "lost") if found[name]}
    if troubles or found["refused"]:
        console.print(f"on the way: {troubles} refused: {found['refused']}")
    _print_check(found["check"], console)


def _print_ceiling(found: dict[str, Any], console: Console) -> None:
    if "ceiling" not in found:
        return
    ceiling = found["ceiling"]["pairs_per_s"]
    share = found["pairs_per_s"] / ceiling if ceiling else 0.0
    note = "; the generator may be the bottleneck" if share > CEILING_NEAR else ""
    console.print(
        f"the same fleet against a fixed reply: {ceiling:,.0f} pairs/s, the run is at {share:.0%} of it{note}"
    )


def _print_check(check: dict[str, Any], console: Console) -> None:
    lost = check["missing"] + check["unfinished"]
    doubled = check["doubled"] + check["acknowledged_twice"]
    once = f"{check['completed_once']} of {check['beads']} completed once"
    console.print(f"ledger: {once}, {lost} lost, {doubled} doubled")
    if not check["sound"]:
        console.print({name: value for name, value in check.items() if value}, style="red")
