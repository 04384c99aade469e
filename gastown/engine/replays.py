"""Which request ids were seen: a Bloom filter, so that a new one costs no question to the ledger.

Law: it may say yes to an id that was never recorded (the ledger then says no), never no to one that was.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

BITS: Final = 1 << 24  # 2 MiB: at a million ids one new id in 450 costs a question
_PLACES: Final = struct.Struct("<4I")  # of a key, which is a hash already


class SeenKeys:
    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._bits = bytearray(BITS >> 3)
        for key in keys:
            self.add(key)

    def add(self, key: bytes) -> None:
        bits = self._bits
        for place in _PLACES.unpack(key):
            bits[(place & BITS - 1) >> 3] |= 1 << (place & 7)

    def may_hold(self, key: bytes) -> bool:
        bits = self._bits
        return all(bits[(place & BITS - 1) >> 3] >> (place & 7) & 1 for place in _PLACES.unpack(key))
