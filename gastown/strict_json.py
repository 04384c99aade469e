"""JSON text to values, or a refusal: the only parser of what comes off the wire.

Law: a text that this file accepts means the same to every strict parser. No key stands twice in an object, no number
was rounded unseen, no string holds half a character, and nothing nests deeper than both bodies can read and write.

Nesting is judged before syntax: a text whose brackets go deeper than NESTING_MAX is `limit`, closed or not.
"""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any, Final

import orjson

from gastown.model import INT64_MAX, INT64_MIN, NESTING_MAX, Refused

INT_DIGITS_MAX: Final = 20  # digits of an integer worth reading: int64 has 19 and a sign; Python reads long ones in n^2
FLOAT_EXACT_MAX: Final = 2.0**63  # the fast parser turns integers past 64 bits into floats at least this large
BRACKET_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
NO_BRACKETS: Final = bytes(set(range(256)) - BRACKET_STEP.keys())


class _Rounded(Exception):
    """A float so large that it may be the remains of an integer."""


def parse(raw: bytes) -> Any:
    """The value of one JSON text. Refused: parse_error, or limit when it nests too deep.

    Integers beyond int64 come back as integers just outside it, whatever their length, so that a check of the range
    finds them; floats come back as floats, also where they are whole, and infinite where they are too large for one.
    """
    shallow = raw.count(b"{") + raw.count(b"[") <= NESTING_MAX
    if not shallow and nesting(raw) > NESTING_MAX:
        raise Refused("limit", f"nest JSON at most {NESTING_MAX} deep", limit="nesting", max=NESTING_MAX)
    try:
        tree = orjson.loads(raw)
        keys = _keys_in(tree, exact=False)
    except (orjson.JSONDecodeError, _Rounded):
        tree = _parse_exactly(raw)
        keys = _keys_in(tree, exact=True)
    if keys != raw.count(b":") and keys != outside_strings(raw).count(b":"):
        raise Refused("parse_error", "an object holds the same key twice; send each key once")
    return tree


def outside_strings(raw: bytes) -> bytes:
    """What is left of a JSON text when the contents of its strings are taken out (quotes go too)."""
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(raw.split(b'"')[::2])


def nesting(raw: bytes) -> int:
    """How deep the brackets of a text go; 1 for a flat object. Total: works on broken text too."""
    brackets = outside_strings(raw).translate(None, NO_BRACKETS)
    return max(accumulate(map(BRACKET_STEP.__getitem__, brackets)), default=0)


def _keys_in(tree: Any, exact: bool) -> int:
    """How many keys all objects of the tree hold: fewer than the text has means that one stood twice."""
    kind = type(tree)
    if kind is dict:
        keys, values = len(tree), tree.values()
    elif kind is list:
        keys, values = 0, tree
    else:
        keys, values = 0, (tree,)
    for value in values:
        kind = type(value)
        if kind is str:
            continue
        if kind is dict or (kind is list and value):
            keys += _keys_in(value, exact)
        elif kind is float and not exact and not -FLOAT_EXACT_MAX < value < FLOAT_EXACT_MAX:
            raise _Rounded
    return keys


def _parse_exactly(raw: bytes) -> Any:
    """The slow parser, for texts that the fast one refused or may have rounded."""
    try:
        tree = json.loads(raw.decode(), parse_int=_read_int, parse_constant=_refuse_constant)
        json.dumps(tree, ensure_ascii=False).encode()  # half a surrogate pair cannot be encoded
    except ValueError:
        raise Refused("parse_error", "send one strict JSON text in UTF-8") from None
    return tree


def _read_int(text: str) -> int:
    if len(text) > INT_DIGITS_MAX:
        return INT64_MIN - 1 if text[0] == "-" else INT64_MAX + 1
    return int(text)


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
