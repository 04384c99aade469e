"""What verbs print: one JSON document for programs, aligned columns for people.

Law: every text that came from outside passes `clean`, so no title can paint or command a terminal.
"""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
CONTROL_IN_TEXT: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
BUSY_S: Final = 2.0  # what is over sooner needs no progress
UNITS: Final = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"))


def clean(text: object) -> str:
    """One line without control characters or direction marks."""
    return CONTROL.sub(" ", str(text))


def clean_text(text: object) -> str:
    """Several lines without control characters."""
    return CONTROL_IN_TEXT.sub(" ", str(text))


def show(result: Any, as_json: bool, human: Callable[[], str]) -> None:
    """Prints the result: as JSON, or in words when there are any."""
    if as_json:
        import orjson

        click.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
        return
    words = human()
    if words:
        click.echo(words)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> str:
    """Columns of equal width; the last one is cut at the edge of a terminal. `empty` is said when there are no rows."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if not cells:
        return empty
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)][:-1]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = []
    for row in [[head.upper() for head in heads], *cells]:
        start = "".join(f"{cell:<{width}}  " for cell, width in zip(row, widths, strict=False))
        lines.append(_cut(start + row[-1], edge).rstrip())
    return "\n".join(lines)


def _cut(line: str, edge: int | None) -> str:
    return line if edge is None or len(line) <= edge else line[: edge - 1] + "…"


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values, one a line; rows without a value are left out."""
    kept = [(name, clean(value)) for name, value in rows if value not in (None, "", [])]
    width = max((len(name) for name, _ in kept), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in kept)


def span(ms: int | float) -> str:
    """A length of time in its two largest units: 90000 -> "1m30s"."""
    if ms < 1000:
        return f"{ms:.0f}ms"
    left, parts = int(ms), []
    for size, unit in UNITS:
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
        if len(parts) == 2:
            break
    return "".join(parts)


def instant(ms: int | None) -> str:
    """A Unix epoch instant in UTC to the second; "-" for none."""
    if ms is None:
        return "-"
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"


def counts(numbers: dict[str, int]) -> str:
    """ "12 ready · 3 leased"; "none" when all are zero."""
    return " · ".join(f"{number} {name}" for name, number in numbers.items() if number) or "none"


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Shows on a terminal's standard error that something goes on, once it takes longer than BUSY_S."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    spinner = threading.Thread(target=_spin, args=(what, ended), daemon=True)
    spinner.start()
    try:
        yield
    finally:
        ended.set()
        spinner.join()


def _spin(what: str, ended: threading.Event) -> None:
    if ended.wait(BUSY_S):
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(what)
        ended.wait()


def note(text: str) -> None:
    """A word on standard error that is no result."""
    click.echo(text, err=True)
