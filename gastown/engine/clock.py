"""Town time: the stored ledger clock, advanced by the boot clock. Leases, ageing and backoff know no other.

Law: it never goes back and never sees a step of the wall clock. `wall_ms` is for defer_until alone.
"""

from __future__ import annotations

import time
from typing import Final

from .. import peers
from ..rules.bead import Now

SUSPEND_MS: Final = 5_000  # boot clock ahead of the running clock by more than this: the machine slept


class Clock:
    """Advance from (ledger_ms, boot_ms, boot_id) as stored; a new boot continues at max(stored, wall)."""

    def __init__(self, ledger_ms: int, boot_ms: int | None, boot_id: str | None) -> None:
        self.boot_id = peers.boot_id()
        here = peers.boot_ms()
        if boot_id == self.boot_id and boot_ms is not None and here >= boot_ms:
            self.start_ms = ledger_ms + here - boot_ms
        else:
            self.start_ms = max(ledger_ms, self.wall_ms())
        self.start_boot_ms = here
        self._asleep_ms = peers.boot_ms() - peers.awake_ms()

    @staticmethod
    def wall_ms() -> int:
        return time.time_ns() // 1_000_000

    def now(self) -> Now:
        return Now(self.start_ms + peers.boot_ms() - self.start_boot_ms, self.wall_ms())

    def slept(self) -> bool:
        """Whether the machine was suspended since the last call."""
        asleep_ms = peers.boot_ms() - peers.awake_ms()
        grown, self._asleep_ms = asleep_ms - self._asleep_ms, asleep_ms
        return grown > SUSPEND_MS
