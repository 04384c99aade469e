"""scale.advice as the town's own figures make it: which ends count, and for how long an advice stands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gastown.rules.scale import ENDS_WINDOW, ENDS_WINDOW_MS

from .bench import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def ends(bench: Bench, worker: str, beads: int, method: str, **more: str) -> None:
    """So many grants that end this way."""
    for _ in range(beads):
        bead_id = bench.ok("bead.create", beads=[{"title": "t"}])["beads"][0]["id"]
        (claim,) = bench.ok("work.claim", worker_id=worker, filter={"bead_id": bead_id})["claims"]
        bench.ok(method, bead_id=bead_id, token=claim["lease"]["token"], **more)


def health(bench: Bench) -> str:
    return str(bench.ok("scale.advice")["health"])


def test_only_the_latest_hundred_ends_count(bench: Bench) -> None:
    worker = bench.worker()
    assert health(bench) == "healthy"
    ends(bench, worker, 1, "work.fail", error="e")
    assert health(bench) == "unhealthy"
    ends(bench, worker, 1, "work.complete")
    assert health(bench) == "degraded"
    ends(bench, worker, 3, "work.complete")
    assert health(bench) == "healthy", "800 permille"
    ends(bench, worker, 21, "work.fail", error="e")
    ends(bench, worker, 79, "work.complete")
    assert health(bench) == "degraded", "790 permille of the latest hundred"
    ends(bench, worker, 1, "work.complete")
    assert ENDS_WINDOW == 100
    assert health(bench) == "healthy", "the oldest failure of the hundred has left the window"


def test_only_the_ends_of_the_last_hour_count(bench: Bench) -> None:
    ends(bench, bench.worker(), 1, "work.fail", error="e")
    bench.wait(ENDS_WINDOW_MS - 1)
    assert health(bench) == "unhealthy"
    bench.wait(1)
    assert health(bench) == "healthy"


def test_a_release_is_neither_success_nor_failure(bench: Bench) -> None:
    ends(bench, bench.worker(), 3, "work.release")
    assert health(bench) == "healthy"


def test_an_advice_stands_for_a_minute(bench: Bench) -> None:
    bench.worker()
    assert bench.ok("scale.advice")["recommended_workers"] == 4
    bench.ok("bead.create", beads=[{"title": "t"} for _ in range(20)])
    assert bench.ok("scale.advice")["recommended_workers"] == 4
    bench.wait(59_999)
    assert bench.ok("scale.advice")["recommended_workers"] == 4
    bench.wait(1)
    assert bench.ok("scale.advice")["recommended_workers"] == 10
