"""How the demo looks: a live table in a terminal, plain lines without one, and the closing table.

Law: shows what it is told and decides nothing.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

TOLD_LINES: Final = 8  # of what happened, below the table
BAR_CHARS: Final = 40


class Screen:
    """Plain lines on `out`: one for each thing that happens."""

    def __init__(self, out: TextIO, total: int) -> None:
        self.out, self.total = out, total
        self.began_s = time.monotonic()
        self.done = 0
        self.agents: dict[str, tuple[str, str]] = {}

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began_s:5.1f}s  {text}", file=self.out, flush=True)

    def agent(self, name: str, state: str, work: str = "") -> None:
        self.agents[name] = (state, work)

    def finished(self) -> None:
        self.done += 1


class LiveScreen(Screen):
    """A table of agents, a bar and the last lines, redrawn in place."""

    def __init__(self, out: TextIO, total: int) -> None:
        super().__init__(out, total)
        from rich.console import Console
        from rich.live import Live

        self.told: deque[str] = deque(maxlen=TOLD_LINES)
        self.live = Live(console=Console(file=out), get_renderable=self.picture, refresh_per_second=10)

    def __enter__(self) -> Screen:
        self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        self.told.append(f"{time.monotonic() - self.began_s:5.1f}s  {text}")

    def picture(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table("agent", "state", "work", expand=True)
        for name, (state, work) in self.agents.items():
            table.add_row(name, state, Text(work, overflow="ellipsis", no_wrap=True))
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(self.total, self.done, width=BAR_CHARS), f"{self.done} of {self.total} beads closed")
        return Group(table, bar, Text("\n".join(self.told)))


def screen(total: int, as_json: bool) -> Screen:
    """A live one where standard output is a terminal; with --json nothing but the document goes there."""
    if as_json:
        return Screen(sys.stderr, total)
    return LiveScreen(sys.stdout, total) if sys.stdout.isatty() else Screen(sys.stdout, total)


def closing(result: dict[str, Any]) -> str:
    """The last word: counts, times and what became of the two agents in trouble."""
    claim = result["claim_ms"]
    rows = [
        ("beads", f"{result['completed']} of {result['beads']} completed, {result['commits']} commits on"
                  f" {result['branches']} branches"),
        ("claims", f"{result['claims']} by {result['agents']} agents, P50 {claim['p50']} ms, P95 {claim['p95']} ms,"
                   f" P99 {claim['p99']} ms"),
        ("killed", result["killed"]),
        ("silent", result["silent"]),
        ("verify", "hash chain and invariants sound" if result["verified"] else "the ledger is not sound"),
        ("took", f"{result['seconds']:.1f} s"),
        ("result", f"{len(result['lost'])} lost, {len(result['doubled'])} doubled"
                   " (from the event table and the git repository)"),
        *(("problem", problem) for problem in result["problems"]),
    ]  # fmt: skip
    return "\n".join(f"  {name:<8} {text}" for name, text in rows)
