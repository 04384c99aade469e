"""The queue as a whole: pause and resume, stats, advice on scale, and what the daemon says of itself."""

from collections.abc import Iterator
from typing import Any

import pytest

from .holding import LONG_MS, beat, held
from .town import STATES, Town, unique


@pytest.fixture
def paused(shared_town: Town) -> Iterator[Town]:
    """The shared town with its whole queue paused."""
    shared_town.call("queue.pause")
    yield shared_town
    shared_town.call("queue.resume")


def test_pause_and_resume_say_what_is_paused(town: Town) -> None:
    assert town.call("queue.pause")["paused"] == ["*"]
    assert town.call("queue.resume")["paused"] == []
    assert town.call("queue.pause", rig="b")["paused"] == ["b"]
    assert sorted(town.call("queue.pause", rig="a")["paused"]) == ["a", "b"]
    assert town.call("queue.resume", rig="b")["paused"] == ["a"]


def test_a_pause_is_an_event_once(town: Town) -> None:
    first = town.call("queue.pause")
    assert town.call("queue.pause")["seq"] == first["seq"]


def test_a_paused_queue_hands_out_nothing(paused: Town) -> None:
    bead = paused.bead()["id"]
    assert paused.claim(paused.worker(), filter={"bead_id": bead}) == []
    assert paused.get(bead)["status"] == "open"


def test_ready_omits_what_is_paused(paused: Town) -> None:
    paused.bead()
    assert paused.call("bead.ready")["beads"] == []


def test_a_paused_bead_keeps_its_state(paused: Town) -> None:
    assert paused.state_of(paused.bead()["id"]) == "ready"


def test_settling_works_while_paused(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    shared_town.call("queue.pause")
    try:
        reply = beat(shared_town, worker, lease)
        assert len(reply["leases"]) == 1
        assert [directive["kind"] for directive in reply["directives"]] == ["pause"]
        assert [directive["kind"] for directive in beat(shared_town, worker, lease)["directives"]] == ["pause"]
        assert shared_town.call("work.complete", **held(lease))["bead"]["status"] == "closed"
    finally:
        shared_town.call("queue.resume")
    assert shared_town.call("worker.heartbeat", worker_id=worker)["directives"] == []


def test_waiting_claims_go_on_waiting_through_a_pause(shared_town: Town) -> None:
    rig = unique("rig")
    lines = shared_town.lines()
    parked = lines.park("work.claim", worker_id=shared_town.worker(), wait_ms=20_000, filter={"rig": rig})
    shared_town.call("queue.pause")
    bead = shared_town.bead(rig=rig)["id"]
    assert shared_town.kinds(bead) == ["created"]
    shared_town.call("queue.resume")
    assert [claim["bead"]["id"] for claim in lines.answer(parked)["claims"]] == [bead]


def test_a_rigs_pause_holds_that_rig_alone(shared_town: Town) -> None:
    held_back, free = unique("rig"), unique("rig")
    stuck, bead = shared_town.bead(rig=held_back)["id"], shared_town.bead(rig=free)["id"]
    shared_town.call("queue.pause", rig=held_back)
    worker = shared_town.worker()
    assert shared_town.claim(worker, filter={"bead_id": stuck}) == []
    assert [claim["bead"]["id"] for claim in shared_town.claim(worker, filter={"rig": free})] == [bead]
    shared_town.call("queue.resume", rig=held_back)
    assert [claim["bead"]["id"] for claim in shared_town.claim(worker, filter={"rig": held_back})] == [stuck]


def test_a_pause_survives_kill_9(town: Town) -> None:
    bead = town.bead()["id"]
    town.call("queue.pause")
    town.kill9()
    town.start()
    assert town.claim(town.worker(), filter={"bead_id": bead}) == []
    town.call("queue.resume")
    assert len(town.claim(town.worker(), filter={"bead_id": bead})) == 1


# -- stats -----------------------------------------------------------------------------------------------------------


def test_stats_count_every_bead_in_one_state(town: Town) -> None:
    for _ in range(3):
        town.bead()
    blocked, dead, done = (town.bead()["id"] for _ in range(3))
    town.bead(depends_on=[{"id": blocked}])
    town.bead(defer_until="2999-01-01T00:00:00Z")
    town.call("bead.update", id=blocked, set={"status": "blocked"})
    town.call("bead.close", id=done, reason="x")
    worker = town.worker()
    town.call("work.fail", **held(town.lease(worker, dead)), error="x", retryable=False)
    town.lease(worker, ttl_ms=LONG_MS)
    counts = {state: n for state, n in town.call("queue.stats")["beads"].items() if n}
    assert counts == {"ready": 3, "blocked": 1, "waiting": 1, "deferred": 1, "closed": 1, "dead": 1, "leased": 1}


def test_stats_have_the_contracts_fields(shared_town: Town) -> None:
    shared_town.lease(shared_town.worker())
    stats = shared_town.call("queue.stats")
    assert set(stats["beads"]) <= set(STATES)
    assert set(stats["claim_ms"]) == {"p50", "p95", "p99"}
    assert isinstance(stats["backpressure"], bool)
    assert set(stats["workers"]) <= {"idle", "working", "stalled", "draining", "gone"}
    assert "oldest_ready_age_ms" in stats


def test_stats_count_workers_by_state(town: Town) -> None:
    town.worker()
    busy, draining = town.worker(), town.worker()
    town.lease(busy, ttl_ms=LONG_MS)
    town.call("worker.drain", worker_id=draining)
    workers = town.call("queue.stats")["workers"]
    assert {state: n for state, n in workers.items() if n} == {"idle": 1, "working": 1, "draining": 1}


def test_the_oldest_ready_bead_ages(town: Town) -> None:
    bead = town.bead()["id"]
    town.let_pass(30)
    assert town.call("queue.stats")["oldest_ready_age_ms"] >= 25
    town.call("bead.close", id=bead, reason="x")
    assert not town.call("queue.stats")["oldest_ready_age_ms"]


# -- scale.advice ----------------------------------------------------------------------------------------------------


def advice(town: Town) -> dict[str, Any]:
    reply: dict[str, Any] = town.call("scale.advice")
    assert isinstance(reply["reason"], str)
    assert reply["reason"]
    return reply


def test_an_empty_town_wants_the_least_workers(town: Town) -> None:
    assert advice(town)["recommended_workers"] == 4
    assert (advice(town)["backpressure"], advice(town)["health"]) == (False, "healthy")


@pytest.mark.parametrize(
    ("ready", "recommended", "backpressure"), [(9, 5, False), (50, 25, False), (100, 30, False), (101, 30, True)]
)
def test_much_work_wants_more_workers(town: Town, ready: int, recommended: int, backpressure: bool) -> None:
    town.worker()
    for count in (min(ready, 100), ready - 100):
        if count > 0:
            town.beads(*({"title": "t"} for _ in range(count)))
    reply = advice(town)
    assert (reply["recommended_workers"], reply["backpressure"]) == (recommended, backpressure)


def test_advice_changes_at_most_once_a_minute(town: Town) -> None:
    town.beads(*({"title": "t"} for _ in range(40)))
    first = advice(town)["recommended_workers"]
    town.beads(*({"title": "t"} for _ in range(20)))
    assert advice(town)["recommended_workers"] == first == 20


def test_health_follows_the_share_of_success(town: Town) -> None:
    worker = town.worker()
    assert advice(town)["health"] == "healthy"
    town.call("work.fail", **held(town.lease(worker)), error="x", retryable=False)
    healths = [advice(town)["health"]]
    for _ in range(4):
        town.call("work.complete", **held(town.lease(worker)))
        healths.append(advice(town)["health"])
    assert healths == ["unhealthy", "degraded", "degraded", "degraded", "healthy"]


# -- the daemon itself -----------------------------------------------------------------------------------------------


def test_system_info(shared_town: Town) -> None:
    info = shared_town.call("system.info")
    assert {"version", "body", "epoch", "rules", "schema", "uptime_ms", "pid"} <= set(info)
    assert info["body"] in ("python", "hybrid", "rust")
    for key in ("version", "body", "epoch", "pid"):
        assert info[key] == shared_town.daemon[key]
    assert info["uptime_ms"] >= 0


METHODS = """
worker.register worker.heartbeat worker.drain worker.deregister worker.list
work.claim work.complete work.fail work.release work.block
bead.create bead.get bead.list bead.ready bead.update bead.close bead.reopen bead.depend bead.undepend bead.comment
bead.history ledger.import ledger.export ledger.verify queue.stats queue.pause queue.resume
convoy.create convoy.get convoy.list convoy.add convoy.remove scale.advice system.info
token.create token.list token.revoke rpc.discover
""".split()  # noqa: SIM905 as a table


def test_the_document_names_every_method_and_no_other(shared_town: Town) -> None:
    document = shared_town.call("rpc.discover")
    named = {method["name"] for method in document["methods"]}
    assert set(METHODS) <= named
    for method in sorted(named):
        assert shared_town.batch((method, {"no-such-param": 1}))[0]["error"]["code"] != -32601, method


def test_a_method_that_is_not_named_is_not_found(shared_town: Town) -> None:
    named = {method["name"] for method in shared_town.call("rpc.discover")["methods"]}
    later = {"merge.submit", "merge.list", "rig.add", "rig.list", "system.handover", "system.profile"}
    for method in sorted(later - named):
        assert shared_town.refusal(method).code == -32601
