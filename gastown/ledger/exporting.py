"""Writing the ledger as JSONL: the same beads give the same bytes.

Law: a header where a token was ever granted, beads by id, memories by key behind them, each line canonical. A file is
replaced whole or not at all.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import orjson

from gastown.model import Bead, Lease
from gastown.record import SCHEMA_NAME, Memory, export_line


def export_lines(
    beads: Iterable[tuple[Bead, bytes, Lease | None]], memories: Iterable[Memory], token_high: int
) -> Iterator[bytes]:
    """Lines with their newline. `beads` must come sorted by id (ValueError if not) and `memories` in any order."""
    if token_high > 0:
        yield orjson.dumps({"_schema": SCHEMA_NAME, "token_high": token_high}) + b"\n"
    last = ""
    for bead, body, lease in beads:
        if bead.id <= last:
            raise ValueError(f"bead {bead.id} after {last}")
        last = bead.id
        yield export_line(bead, body, lease) + b"\n"
    for memory in sorted(memories):
        yield memory.json + b"\n"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well, durably; else `path` is as it was.

    A link is followed and stays a link. OSError as usual.
    """
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(draft, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
