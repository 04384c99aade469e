"""Requests too long to be parsed whole: a `ledger.import` whose text is lifted out of the envelope first.

Law: the text never becomes one string, and what stands around it is parsed as strictly as any other request. Anything
else of that length is refused before it costs memory.
"""

from __future__ import annotations

import io
import re
from typing import Any, Final

import orjson

from gastown.model import BODY_BYTES_MAX, IMPORT_BYTES_MAX, LINE_BYTES_MAX, Refused
from gastown.strict_json import parse

LIFTED: Final = "the text of the import, lifted out"  # stands for it while the envelope is parsed
STRINGS_MAX: Final = 64  # of the envelope: keys and values of an import are about fifteen
ESCAPE_GROWTH: Final = 6  # bytes of \u0000 for one of the text
CHUNK_BYTES: Final = 1 << 20  # unescaped at a time
STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+', re.DOTALL)  # an open one runs to the end, tried once
NEWLINE: Final = re.compile(rb"(?<!\\)(?:\\\\)*+\\n")  # an escaped newline, not an escaped backslash before an n


def read_import(raw: bytes, admin: bool) -> Any:
    """The request, its params.jsonl as UTF-8 bytes. Refused: limit unless it is an import by an admin that fits."""
    if not admin:
        raise _too_long(BODY_BYTES_MAX)
    if len(raw) > IMPORT_BYTES_MAX:
        raise _too_long(IMPORT_BYTES_MAX)
    start, end = _longest_string(raw)
    if len(raw) - (end - start) > BODY_BYTES_MAX:
        raise _too_long(BODY_BYTES_MAX)
    tree = parse(b'%b"%b"%b' % (raw[:start], LIFTED.encode(), raw[end:]))
    params = tree.get("params") if type(tree) is dict and tree.get("method") == "ledger.import" else None
    if type(params) is not dict or params.get("jsonl") != LIFTED:
        raise _too_long(BODY_BYTES_MAX)
    params["jsonl"] = _unescape(raw, start + 1, end - 1)
    return tree


def _longest_string(raw: bytes) -> tuple[int, int]:
    """Where the longest string of a text stands, quotes included."""
    longest = (0, 0)
    for place, found in enumerate(STRING.finditer(raw)):
        if place == STRINGS_MAX:
            raise _too_long(BODY_BYTES_MAX)
        longest = max(longest, found.span(), key=lambda span: span[1] - span[0])
    return longest


def _unescape(raw: bytes, start: int, end: int) -> bytes:
    """The UTF-8 text between two quotes, some lines at a time."""
    text = io.BytesIO()
    while start < end:
        cut = _next_cut(raw, start, end)
        try:
            text.write(orjson.loads(b'"%b"' % raw[start:cut]).encode())
        except orjson.JSONDecodeError:
            raise Refused("parse_error", "send one strict JSON text in UTF-8") from None
        start = cut
    return text.getvalue()


def _next_cut(raw: bytes, start: int, end: int) -> int:
    """The end of the first line that ends a chunk's length after `start`, or the end of the text."""
    reach = start + CHUNK_BYTES + ESCAPE_GROWTH * LINE_BYTES_MAX
    newline = NEWLINE.search(raw, start + CHUNK_BYTES, min(end, reach))
    if newline is not None:
        return newline.end()
    if end <= reach:
        return end
    raise Refused("limit", f"jsonl: a line has at most {LINE_BYTES_MAX} bytes", limit="line", max=LINE_BYTES_MAX)


def _too_long(maximum: int) -> Refused:
    return Refused("limit", f"send at most {maximum} bytes in one request", limit="body", max=maximum)
