"""What stands beside the database so that a lost or cut ledger is noticed, and so that a full disk can be survived.

Law: nothing here opens the database. The high-water mark `{seq, hash, token_high}` is written after each commit and
synced once a second and on stop: start-up refuses a ledger that ends before it, or differs at it (exit 65). What stays
undetectable: commits of the last second before a power cut that the disk dropped together with the mark.
"""

from __future__ import annotations

import os
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

import orjson

from .store import LedgerRefused, Store, Tip

MARK_BYTES: Final = 160  # fixed length, so that a rewrite never changes the file's size
BALLAST_BYTES: Final = 32 << 20  # freed on a full disk: enough to complete and restart
BALLAST_ROOM_BYTES: Final = 1 << 30  # no ballast where less than this is free
WAL_HEADER: Final = struct.Struct(">IIIIIIII")
FRAME_HEADER: Final = struct.Struct(">IIIIII")
WAL_MAGIC: Final = (0x377F0682, 0x377F0683)
SUM_LITTLE, SUM_BIG = struct.Struct("<II"), struct.Struct(">II")


class HighWater:
    """The mark's file, kept open."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._unsynced = False

    def read(self) -> dict[str, int | str] | None:
        """The mark, or None where there is none yet or it was torn."""
        with suppress(orjson.JSONDecodeError):
            mark = orjson.loads(os.pread(self._fd, MARK_BYTES, 0))
            return mark if isinstance(mark, dict) else None
        return None

    def write(self, tip: Tip) -> None:
        text = orjson.dumps({"seq": tip.seq, "hash": tip.hash, "token_high": tip.token_high})
        os.pwrite(self._fd, text.ljust(MARK_BYTES - 1) + b"\n", 0)
        self._unsynced = True

    def sync(self) -> None:
        if self._unsynced:
            os.fdatasync(self._fd)
            self._unsynced = False

    def close(self) -> None:
        self.sync()
        os.close(self._fd)

    def check(self, store: Store) -> None:
        """LedgerRefused if the ledger is behind the mark or is another one."""
        mark = self.read()
        if mark is None or not mark.get("seq"):
            return
        seq = int(mark["seq"])
        if store.tip.seq < seq:
            raise LedgerRefused(
                f"the ledger ends at event {store.tip.seq}, but event {seq} was acknowledged: restore it"
            )
        row = store.one("turn_at", seq)
        if row is None or row[0] != mark["hash"]:
            raise LedgerRefused(f"the ledger differs from what was acknowledged at event {seq}: restore it")


# ---------------------------------------------------------------- a damaged write-ahead log


def wal_damage(wal: Path) -> str | None:
    """Why the WAL must not be opened, or None. A torn commit at its end is a crash, two beyond it damage."""
    try:
        data = wal.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < WAL_HEADER.size:
        return None
    magic, _, page_bytes, _, salt1, salt2, sum1, sum2 = WAL_HEADER.unpack_from(data)
    if magic not in WAL_MAGIC:
        return "the header of the write-ahead log is damaged"
    words = SUM_BIG if magic & 1 else SUM_LITTLE
    if _checksum(words, data[:24], 0, 0) != (sum1, sum2):
        return "the header of the write-ahead log is damaged"
    return _frames_damage(data, words, page_bytes, (salt1, salt2), (sum1, sum2))


def _frames_damage(
    data: bytes, words: struct.Struct, page_bytes: int, salt: tuple[int, int], sums: tuple[int, int]
) -> str | None:
    size = FRAME_HEADER.size + page_bytes
    bad_at, commits_beyond = None, 0
    for at in range(WAL_HEADER.size, len(data) - size + 1, size):
        _, commit, salt1, salt2, sum1, sum2 = FRAME_HEADER.unpack_from(data, at)
        if bad_at is None:
            if (salt1, salt2) == salt:
                sums = _checksum(words, data[at : at + 8] + data[at + FRAME_HEADER.size : at + size], *sums)
            if (salt1, salt2) != salt or sums != (sum1, sum2):
                bad_at = at
        if bad_at is not None and commit and (salt1, salt2) == salt:
            commits_beyond += 1
    if commits_beyond >= 2:
        return f"the write-ahead log is damaged at byte {bad_at}: {commits_beyond} commits lie beyond it"
    return None


def _checksum(words: struct.Struct, data: bytes, s0: int, s1: int) -> tuple[int, int]:
    """SQLite's WAL checksum (file format, section 4.2)."""
    for x0, x1 in words.iter_unpack(data):
        s0 = (s0 + x0 + s1) & 0xFFFFFFFF
        s1 = (s1 + x1 + s0) & 0xFFFFFFFF
    return s0, s1


# ---------------------------------------------------------------- room on the disk


class Ballast:
    """A file that is deleted when the disk is full, and made anew once there is room again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path.parent).free

    def load(self) -> None:
        if self.path.exists() or self.free_bytes() < BALLAST_ROOM_BYTES:
            return
        with suppress(OSError), open(self.path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES) if hasattr(os, "posix_fallocate") else file.truncate(0)

    def drop(self) -> bool:
        """-> whether there was any to drop."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        return True
