"""New bead ids: prefix, dash, 3 to 8 base-36 characters of a SHA-256, as many as the ledger's size asks for.

Law: pure. The length is the smallest at which any two of `count` ids collide with a chance of at most a quarter
(birthday bound: n = sqrt(2 * 36^length * ln(4/3))); a taken id is tried again with the next nonce, then one character
longer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

from gastown.spelling import ID

# Most ids of each length before the next length begins. 8 characters serve any number.
COUNT_MAX: Final = {3: 163, 4: 983, 5: 5_898, 6: 35_389, 7: 212_338}
LENGTH_MAX: Final = 8  # as bd
NONCES: Final = 10  # tries at one length
PREFIX_DEFAULT: Final = "bead"
PREFIX_CHARS_MAX: Final = 64  # leaves room for the hash and for children of children in an id of 128
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_NOT_PREFIX = re.compile(r"[^a-z0-9._-]+")


def length_for(count: int) -> int:
    """Characters of the next id in a ledger of `count` beads."""
    return next((length for length, most in COUNT_MAX.items() if count <= most), LENGTH_MAX)


def hashed(content: str, length: int) -> str:
    """The first 64 bits of the SHA-256 of `content`, modulo 36^length, in base 36."""
    number = int.from_bytes(sha256(content.encode()).digest()[:8], "big")
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


def mint(
    prefix: str, title: str, description: str, creator: str, now_ns: int, count: int, taken: Callable[[str], bool]
) -> str:
    """An id nobody has. `count` is the number of beads, tombstones included. LookupError if every try was taken."""
    for length in range(length_for(count), LENGTH_MAX + 1):
        for nonce in range(NONCES):
            minted = f"{prefix}-{hashed(f'{title}|{description}|{creator}|{now_ns}|{nonce}', length)}"
            if not taken(minted):
                return minted
    raise LookupError(f"no free id under the prefix {prefix}")


def child_id(parent: str, children: int, taken: Callable[[str], bool]) -> str:
    """`parent.n`, n counted on from the `children` already known. LookupError where that is too long for an id."""
    number = children + 1
    while taken(f"{parent}.{number}"):
        number += 1
    child = f"{parent}.{number}"
    if not ID.fullmatch(child):
        raise LookupError(f"an id below {parent} would be longer than 128 characters")
    return child


def prefix_of(ids: Iterable[str], folder: str) -> str:
    """What stands before the last dash of most ids (the first by text among equals), else the folder's name."""
    counts = Counter(name.rpartition("-")[0] for name in ids if "-" in name)
    if counts:
        return min(counts, key=lambda prefix: (-counts[prefix], prefix))
    return _NOT_PREFIX.sub("-", folder.lower()).strip("._-")[:PREFIX_CHARS_MAX].rstrip("._-") or PREFIX_DEFAULT
