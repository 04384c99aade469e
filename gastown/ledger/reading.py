"""Reading a JSONL file: which lines count.

Law: nothing is applied before every line was read. The file is read twice, by lines, and never held: the first reading
(here) finds bad lines and picks the newest of several lines with one id; the second (merging.py) decides the winners.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from gastown.model import LINE_BYTES_MAX
from gastown.record import BadLine, Header, Memory, Record, parse_line

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"  # some editors put one before the first line
SLACK_BYTES: Final = 5  # the mark, a carriage return and the newline are not the line's


class BadImport(Exception):
    """A line that refuses the whole file. `line` counts from 1."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line = line
        self.why = why


class Skip(NamedTuple):
    """A line that was not applied. `why`: stale, tombstone, bad, duplicate or leased; `id` is None where unreadable."""

    line: int
    id: str | None
    why: str


class Survey(NamedTuple):
    """What the first reading found."""

    winners: dict[str, int]  # bead id -> its line
    skipped: list[Skip]
    memories: list[Memory]  # one a key, the last of the file
    token_high: int


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Line numbers and lines, without newline, blank ones left out. An over-long line comes cut, yet still too long."""
    file.seek(0)
    number = 0
    while line := file.readline(LINE_BYTES_MAX + SLACK_BYTES):
        number += 1
        rest = line
        while rest and not rest.endswith(b"\n"):  # the end of the file, or of an over-long line
            rest = file.readline(LINE_BYTES_MAX)
        if number == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        if line.strip():
            yield number, line.removesuffix(b"\n").removesuffix(b"\r")


class _Best(NamedTuple):
    """Orders the lines of one id: newest first of all, then a deletion, then the later line."""

    updated_ns: int
    deleted: bool
    line: int


def survey(file: BinaryIO, skip_bad: bool) -> Survey:
    """Read every line once. BadImport at the first bad one unless `skip_bad`."""
    best: dict[str, _Best] = {}
    skipped: list[Skip] = []
    memories: dict[str, Memory] = {}
    token_high = 0
    for number, line in lines(file):
        try:
            found = parse_line(line)
        except BadLine as bad:
            if not skip_bad:
                raise BadImport(number, bad.why) from None
            skipped.append(Skip(number, bad.id, "bad"))
            continue
        if isinstance(found, Record):
            loser = _keep(best, found, number)
            if loser:
                skipped.append(Skip(loser, found.id, "duplicate"))
        elif isinstance(found, Header):
            token_high = max(token_high, found.token_high)
        else:
            memories[found.key] = found
    return Survey({name: one.line for name, one in best.items()}, skipped, list(memories.values()), token_high)


def _keep(best: dict[str, _Best], record: Record, number: int) -> int:
    """Keep the better line of an id; the number of the line that lost, or 0."""
    mine = _Best(record.updated_ns, record.status == "tombstone", number)
    other = best.get(record.id)
    if other is not None and other > mine:
        return number
    best[record.id] = mine
    return 0 if other is None else other.line
