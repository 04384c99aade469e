"""The chunked coding: whole however it is cut, refused where it is broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gastown.chunks import OVERHEAD_BYTES_MAX, BadChunk, Chunks

NEXT = b"POST /rpc HTTP/1.1\r\n"


def coded(parts: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def taken(pieces: list[bytes]) -> tuple[bool, bytes, bytes]:
    """Whether it ended, the body, and what is left for the next request."""
    chunks, buffer, body, done = Chunks(), bytearray(), bytearray(), False
    for piece in pieces:
        buffer += piece
        if not done:
            done = chunks.take(buffer, body)
    return done, bytes(body), bytes(buffer)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(1, 9), max_size=200))
def test_a_body_is_the_same_however_it_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    raw, pieces = coded(parts) + NEXT, []
    for cut in cuts:
        pieces.append(raw[:cut])
        raw = raw[cut:]
    assert taken([*pieces, raw]) == (True, b"".join(parts), NEXT)


def test_extensions_and_trailers_are_dropped() -> None:
    assert taken([b"2;a=b\r\nhi\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n"]) == (True, b"hi", b"")


def test_a_body_without_its_end_is_not_whole() -> None:
    assert taken([b"5\r\nhel"]) == (False, b"hel", b"")
    assert taken([b"5\r\nhello\r\n0\r\n"])[0] is False


@pytest.mark.parametrize(
    "raw",
    [
        b"zz\r\n", b"\r\n", b"-1\r\n", b"+1\r\n", b"0x1\r\n", b"1\n", b"123456789\r\n", b"2\r\nhi!\r\n",
        b"2\r\nhi\n0\r\n", b"1" * 300, b"0\r\nno colon\r\n\r\n", b"0\r\n folded: x\r\n\r\n",
        b"0\r\n" + b"X: " + b"a" * 5000,
    ],
)  # fmt: skip
def test_broken_coding(raw: bytes) -> None:
    with pytest.raises(BadChunk):
        taken([raw])


def test_more_coding_than_body_is_refused() -> None:
    with pytest.raises(BadChunk):
        taken([b"1\r\na\r\n" * OVERHEAD_BYTES_MAX])
