"""The chunked transfer coding of a request body.

Law: strict and pure. Sizes are plain hexadecimal, every line ends in CRLF, extensions and trailers are bounded and
dropped; whatever is left over after the last chunk belongs to the next request and stays in the buffer.
"""

from __future__ import annotations

import re
from typing import Final

SIZE_LINE_BYTES_MAX: Final = 256  # a size and its extensions
TRAILER_BYTES_MAX: Final = 4 << 10  # they are read over and not kept
OVERHEAD_BYTES_MAX: Final = 1 << 20  # size lines of one body: a megabyte sent byte by byte is nobody's honest client
_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t -~\x80-\xff]*)?\r\n")
_TRAILER: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n")


class BadChunk(Exception):
    """The coding is broken: there is no telling where the request ends."""


class Chunks:
    """Takes a body out of a buffer as it comes. `left` is what the current chunk still lacks."""

    __slots__ = ("_in_trailer", "left", "overhead")

    def __init__(self) -> None:
        self.left = 0
        self.overhead = 0
        self._in_trailer = False

    def take(self, buffer: bytearray, body: bytearray) -> bool:
        """Moves what is there from `buffer` to `body`; True once the body is whole. Raises BadChunk."""
        while True:
            if self._in_trailer:
                return self._end(buffer)
            if self.left > 2:
                part = min(self.left - 2, len(buffer))
                body += buffer[:part]
                del buffer[:part]
                self.left -= part
            if self.left > 2:
                return False
            if self.left and not self._line_end(buffer):
                return False
            if not self._size(buffer):
                return False

    def _line_end(self, buffer: bytearray) -> bool:
        """The CRLF behind a chunk's data."""
        if not b"\r\n".startswith(bytes(buffer[:2])):
            raise BadChunk
        if len(buffer) < 2:
            return False
        del buffer[:2]
        self.left = 0
        return True

    def _size(self, buffer: bytearray) -> bool:
        line = self._line(buffer, SIZE_LINE_BYTES_MAX)
        if line is None:
            return False
        size = _SIZE.fullmatch(line)
        self.overhead += len(line)
        if size is None or self.overhead > OVERHEAD_BYTES_MAX:
            raise BadChunk
        length = int(size[1], 16)
        self._in_trailer = length == 0
        self.left = length + 2 if length else 0
        return True

    def _end(self, buffer: bytearray) -> bool:
        """Trailer lines up to the empty one."""
        while (line := self._line(buffer, TRAILER_BYTES_MAX)) is not None:
            if line == b"\r\n":
                return True
            self.overhead += len(line)
            if not _TRAILER.fullmatch(line) or self.overhead > OVERHEAD_BYTES_MAX:
                raise BadChunk
        return False

    @staticmethod
    def _line(buffer: bytearray, limit: int) -> bytes | None:
        """The next line with its CRLF, taken out; None while it is not whole."""
        end = buffer.find(b"\n", 0, limit)
        if end < 0:
            if len(buffer) >= limit:
                raise BadChunk
            return None
        line = bytes(buffer[: end + 1])
        del buffer[: end + 1]
        return line
