"""The log: JSON lines that cannot flood."""

import io
from typing import Any

import orjson

from gastown.logs import LINES_PER_SECOND, TEXT_CHARS_MAX, Log


class Written:
    def __init__(self) -> None:
        self.out = io.BytesIO()
        self.now_s = 5.0
        self.log = Log(self.out, lambda: self.now_s)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.out.getvalue().splitlines()]


def test_a_line_is_one_object() -> None:
    written = Written()
    written.log("ready", why="a\nb", listen="127.0.0.1:1", nothing=None)
    (line,) = written.lines
    assert line.pop("at").endswith("+00:00")
    assert line == {"ev": "ready", "why": "a\nb", "listen": "127.0.0.1:1"}


def test_a_cause_has_ten_lines_a_second_and_the_rest_is_counted() -> None:
    written = Written()
    for _ in range(100):
        written.log("reject", why="too slow")
    written.log("reject", why="another cause")
    assert len(written.lines) == LINES_PER_SECOND + 1
    written.now_s += 1
    written.log.sweep()
    assert written.lines[-1]["left_out"] == 100 - LINES_PER_SECOND
    written.log("reject", why="too slow")
    assert written.lines[-1].get("left_out") is None


def test_a_long_value_is_cut() -> None:
    written = Written()
    written.log("odd", why="w" * 5_000, text="x" * 5_000)
    assert len(written.lines[0]["text"]) == len(written.lines[0]["why"]) == TEXT_CHARS_MAX


def test_a_closed_output_stops_nothing() -> None:
    written = Written()
    written.out.close()
    written.log("ready")
