"""Latency buckets: exact microseconds below 128, then 64 buckets to each doubling, so a percentile is within 1.6 %.

The compiled generator numbers its buckets the same way (`tally.rs`); only here are they read.
"""

from collections.abc import Iterable, Mapping

EXACT = 128  # buckets of one microsecond
STEPS = 64  # buckets a doubling


def bucket(us: int) -> int:
    """The bucket of a latency in whole microseconds."""
    if us < EXACT:
        return us
    doubling = us.bit_length() - 7  # 128..255 is the first
    return EXACT + (doubling - 1) * STEPS + (us >> doubling) - STEPS


def upper_us(index: int) -> int:
    """The largest latency a bucket holds, in microseconds."""
    if index < EXACT:
        return index
    doubling, step = divmod(index - EXACT, STEPS)
    return ((step + STEPS + 1) << (doubling + 1)) - 1


class Histogram:
    """Counts by bucket; merges, and answers percentiles in milliseconds."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    @classmethod
    def read(cls, sparse: Mapping[str, int]) -> "Histogram":
        """From the JSON form: bucket number as text -> count."""
        return cls({int(index): count for index, count in sparse.items()})

    @classmethod
    def merged(cls, parts: Iterable["Histogram"]) -> "Histogram":
        whole = cls()
        for part in parts:
            for index, count in part.counts.items():
                whole.counts[index] = whole.counts.get(index, 0) + count
        return whole

    def record(self, ns: int) -> None:
        index = bucket(ns // 1000)
        self.counts[index] = self.counts.get(index, 0) + 1

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def percentile_ms(self, percent: float) -> float | None:
        """The latency that `percent` of all calls did not exceed; None without calls."""
        wanted = self.total * percent / 100
        seen = 0
        for index in sorted(self.counts):
            seen += self.counts[index]
            if seen >= wanted:
                return upper_us(index) / 1000
        return None

    def summary(self) -> dict[str, float | int | None]:
        return {
            "count": self.total,
            "p50_ms": self.percentile_ms(50),
            "p95_ms": self.percentile_ms(95),
            "p99_ms": self.percentile_ms(99),
            "max_ms": self.percentile_ms(100),
        }

    def sparse(self) -> dict[str, int]:
        return {str(index): count for index, count in sorted(self.counts.items())}
