"""The daemon's log: one JSON object a line on standard error.

Law: at most LINES_PER_SECOND lines per cause and second, the rest is counted and told once; only values the caller
names are written, never a token, a header or raw input. Imports nothing of ours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

import orjson

LINES_PER_SECOND: Final = 10  # per cause: a flood of bad requests must not become a flood of bytes
CAUSES_MAX: Final = 256  # causes come from the code, never from input; past this they share one budget
TEXT_CHARS_MAX: Final = 300  # of one value


class Log:
    """`log("started", listen=...)` writes {"at": ..., "ev": "started", "listen": ...}; `why` is part of the cause."""

    def __init__(self, out: BinaryIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out if out is not None else sys.stderr.buffer
        self._clock = clock
        self._second = 0
        self._written: dict[tuple[str, str], int] = {}

    def __call__(self, ev: str, *, why: str = "", level: str = "info", **values: Any) -> None:
        if level != "info":
            values["level"] = level
        self.sweep()
        cause = (ev, why)
        if len(self._written) >= CAUSES_MAX and cause not in self._written:
            cause = ("other", "")
        count = self._written.get(cause, 0) + 1
        self._written[cause] = count
        if count <= LINES_PER_SECOND:
            self._write(ev, why, values)

    def sweep(self) -> None:
        """Begins a new second's budget when it is time."""
        second = int(self._clock())
        if second != self._second:
            self._second = second
            self.flush()

    def flush(self) -> None:
        """Tells how many lines of the past second were left out."""
        for (ev, why), count in self._written.items():
            if count > LINES_PER_SECOND:
                self._write(ev, why, {"left_out": count - LINES_PER_SECOND})
        self._written.clear()

    def _write(self, ev: str, why: str, values: dict[str, Any]) -> None:
        line: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "ev": ev}
        if why:
            line["why"] = why[:TEXT_CHARS_MAX]
        for key, value in values.items():
            if value is not None and value != "":
                line[key] = value[:TEXT_CHARS_MAX] if isinstance(value, str) else value
        try:
            self._out.write(orjson.dumps(line, default=str) + b"\n")
            self._out.flush()
        except (OSError, ValueError):
            pass  # a full disk or a closed terminal must not stop the town
