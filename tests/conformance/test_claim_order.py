"""Which bead a claim hands out first: P0, then ready_since + priority * aging, then created_at, then id."""

from collections.abc import Mapping

import pytest

from .records import jsonl, record
from .town import Town, unique, until

AGING_MS = 400


def claimed(town: Town, worker: str, rig: str) -> list[str]:
    """The ids one claim of everything in a rig hands out, in order."""
    claims = town.claim(worker, limit=100, filter={"rig": rig})
    return [claim["bead"]["id"] for claim in claims]


def ready(town: Town, rig: str, sort: str = "priority") -> list[str]:
    return [bead["id"] for bead in town.call("bead.ready", filter={"rig": rig}, sort=sort, limit=100)["beads"]]


def imported(town: Town, *records: tuple[str, Mapping[str, object]]) -> str:
    """A rig holding the imported records: they share one ready_since."""
    rig = unique("rig")
    lines = [record(f"{rig}-{name}", rig=rig, **fields) for name, fields in records]
    town.call("ledger.import", jsonl=jsonl(*lines))
    return rig


def test_a_lower_priority_number_goes_first(shared_town: Town) -> None:
    rig = imported(shared_town, *((str(p), {"priority": p}) for p in (3, 1, 4, 0, 2)))
    assert claimed(shared_town, shared_town.worker(), rig) == [f"{rig}-{p}" for p in range(5)]


def test_p0_goes_first_however_long_others_have_waited(coordinator: str) -> None:
    town = Town(coordinator, {"aging_ms": 1})
    try:
        town.start()
        old = town.bead(priority=1, rig="r")["id"]
        town.let_pass(50)
        critical = town.bead(priority=0, rig="r")["id"]
        assert claimed(town, town.worker(), "r") == [critical, old]
    finally:
        town.close()


def test_a_bead_rises_one_step_per_ageing_span(coordinator: str) -> None:
    town = Town(coordinator, {"aging_ms": AGING_MS})
    try:
        town.start()
        old = town.bead(priority=4, rig="r")["id"]
        fresh = town.bead(priority=2, rig="r")["id"]
        assert ready(town, "r") == [fresh, old]
        town.let_pass(3 * AGING_MS)
        latest = town.bead(priority=2, rig="r")["id"]
        assert ready(town, "r") == [fresh, old, latest]
        assert claimed(town, town.worker(), "r") == [fresh, old, latest]
    finally:
        town.close()


def test_a_day_is_the_default_ageing_span(plain_town: Town) -> None:
    old = plain_town.bead(priority=3)["id"]
    plain_town.let_pass(20)
    fresh = plain_town.bead(priority=2)["id"]
    order = [bead["id"] for bead in plain_town.call("bead.ready", limit=100)["beads"]]
    assert order.index(fresh) < order.index(old)


def test_the_longest_ready_goes_first_within_a_priority(shared_town: Town) -> None:
    rig = unique("rig")
    beads = []
    for _ in range(3):
        beads.append(shared_town.bead(rig=rig)["id"])
        shared_town.let_pass(3)
    assert claimed(shared_town, shared_town.worker(), rig) == beads


def test_ties_go_by_created_at_as_an_instant(shared_town: Town) -> None:
    rig = imported(
        shared_town,
        ("a", {"created_at": "2026-01-01T09:00:00Z"}),
        ("b", {"created_at": "2026-01-01T10:00:00+02:00"}),
        ("c", {"created_at": "2026-01-01T08:30:00.000000001Z"}),
        ("d", {"created_at": "2026-01-01T08:30:00Z"}),
    )
    assert claimed(shared_town, shared_town.worker(), rig) == [f"{rig}-{name}" for name in "bdca"]


def test_last_ties_go_by_id(shared_town: Town) -> None:
    rig = imported(shared_town, *((name, {}) for name in ("b", "c", "a", "a10", "a2")))
    assert claimed(shared_town, shared_town.worker(), rig) == [f"{rig}-{name}" for name in ("a", "a10", "a2", "b", "c")]


def test_bead_ready_shows_what_a_claim_hands_out_in_its_order(shared_town: Town) -> None:
    rig = imported(shared_town, *((str(n), {"priority": n % 4}) for n in range(12)))
    shown = ready(shared_town, rig)
    assert len(shown) == 12
    assert claimed(shared_town, shared_town.worker(), rig) == shown
    assert ready(shared_town, rig) == []


def test_bead_ready_oldest_goes_by_created_at_then_id(shared_town: Town) -> None:
    rig = imported(
        shared_town,
        ("b", {"created_at": "2026-01-02T00:00:00Z", "priority": 0}),
        ("a", {"created_at": "2026-01-02T00:00:00Z", "priority": 4}),
        ("c", {"created_at": "2026-01-01T00:00:00Z", "priority": 3}),
    )
    assert ready(shared_town, rig, "oldest") == [f"{rig}-{name}" for name in "cab"]


def test_bead_ready_hybrid_goes_by_ready_since_then_id(shared_town: Town) -> None:
    rig = imported(shared_town, ("b", {"priority": 1}), ("a", {"priority": 4, "created_at": "2026-01-05T00:00:00Z"}))
    shared_town.let_pass(3)
    late = shared_town.bead(rig=rig, priority=0)["id"]
    assert ready(shared_town, rig, "hybrid") == [f"{rig}-a", f"{rig}-b", late]


@pytest.mark.parametrize("edit", [{"priority": 1}, {"labels": ["edited"]}, {"title": "other"}])
def test_an_edit_keeps_ready_since(shared_town: Town, edit: dict[str, object]) -> None:
    rig = unique("rig")
    first = shared_town.bead(rig=rig)["id"]
    shared_town.let_pass(3)
    second = shared_town.bead(rig=rig)["id"]
    shared_town.call("bead.update", id=first, set=edit)
    assert ready(shared_town, rig, "hybrid") == [first, second]


def test_a_priority_edit_there_and_back_changes_nothing_in_the_order(shared_town: Town) -> None:
    rig = unique("rig")
    first = shared_town.bead(rig=rig)["id"]
    shared_town.let_pass(3)
    second = shared_town.bead(rig=rig)["id"]
    shared_town.call("bead.update", id=second, set={"priority": 1})
    assert ready(shared_town, rig) == [second, first]
    shared_town.call("bead.update", id=second, set={"priority": 2})
    assert ready(shared_town, rig) == [first, second]


def test_reimport_keeps_ready_since(shared_town: Town) -> None:
    rig = imported(shared_town, ("a", {}))
    shared_town.let_pass(3)
    later = shared_town.bead(rig=rig)["id"]
    shared_town.call("ledger.import", jsonl=jsonl(record(f"{rig}-a", rig=rig, updated_at="2026-02-01T00:00:00Z")))
    assert ready(shared_town, rig) == [f"{rig}-a", later]


def test_a_pause_keeps_ready_since(shared_town: Town) -> None:
    rig = unique("rig")
    first = shared_town.bead(rig=rig)["id"]
    shared_town.call("queue.pause", rig=rig)
    shared_town.let_pass(3)
    second = shared_town.bead(rig=rig)["id"]
    shared_town.call("queue.resume", rig=rig)
    assert ready(shared_town, rig) == [first, second]


def test_a_release_sets_ready_since_anew(shared_town: Town) -> None:
    rig = unique("rig")
    first, second = (shared_town.bead(rig=rig)["id"] for _ in range(2))
    lease = shared_town.lease(shared_town.worker(), first)
    shared_town.let_pass(3)
    shared_town.call("work.release", bead_id=first, token=lease["token"])
    assert ready(shared_town, rig) == [second, first]


def test_a_lapse_sets_ready_since_to_the_deadline(shared_town: Town) -> None:
    rig = unique("rig")
    first = shared_town.bead(rig=rig)["id"]
    shared_town.lease(shared_town.worker(), first, ttl_ms=300)
    shared_town.let_pass(3)
    second = shared_town.bead(rig=rig)["id"]
    shared_town.await_kind(first, "lapsed")
    shared_town.let_pass(3)
    third = shared_town.bead(rig=rig)["id"]
    assert ready(shared_town, rig) == [second, first, third]


def test_the_blockers_close_sets_ready_since(shared_town: Town) -> None:
    rig = unique("rig")
    blocker = shared_town.bead()["id"]
    waiting = shared_town.bead(rig=rig, depends_on=[{"id": blocker}])["id"]
    shared_town.let_pass(3)
    early = shared_town.bead(rig=rig)["id"]
    shared_town.let_pass(3)
    shared_town.call("bead.close", id=blocker, reason="done")
    assert ready(shared_town, rig) == [early, waiting]


def test_the_end_of_a_backoff_sets_ready_since(shared_town: Town) -> None:
    rig = unique("rig")
    first = shared_town.bead(rig=rig)["id"]
    lease = shared_town.lease(shared_town.worker(), first)
    shared_town.call("work.fail", bead_id=first, token=lease["token"], error="no")
    second = shared_town.bead(rig=rig)["id"]
    until(lambda: len(ready(shared_town, rig)) == 2)
    shared_town.let_pass(3)
    third = shared_town.bead(rig=rig)["id"]
    assert ready(shared_town, rig) == [second, first, third]
