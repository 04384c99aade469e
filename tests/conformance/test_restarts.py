"""Stops, crashes and starts: what was acknowledged stays, epochs and tokens grow, the events have no gaps."""

import time
from typing import Any

import pytest

from .door import Events
from .holding import LONG_MS, beat, held
from .town import Town, unique, until


def stop_hard(town: Town) -> None:
    town.kill9()
    town.start()


def stop_soft(town: Town) -> None:
    assert town.stop() == 0
    town.start()


both_stops = pytest.mark.parametrize("stop", [stop_soft, stop_hard], ids=["term", "kill"])


def all_events(town: Town, until_seq: int) -> list[dict[str, Any]]:
    """Every event from the first to `until_seq`, as /events streams them."""
    with Events(town, last_id=0) as stream:
        return [event.data for event in stream.to(until_seq)]


def busy(town: Town) -> None:
    """A little of everything."""
    worker = town.worker()
    one, two = town.bead()["id"], town.bead()["id"]
    town.call("bead.depend", **{"from": one, "to": two, "kind": "blocks"})
    town.call("bead.comment", id=one, text="x")
    town.call("work.complete", **held(town.lease(worker, two)))
    town.call("work.fail", **held(town.lease(worker, one)), error="x")
    town.lease(worker, ttl_ms=300)
    town.call("convoy.create", name="c", beads=[one])
    town.call("queue.pause", rig="r")
    town.call("token.create", scope="read", name=unique("t"))
    assert town.refusal("work.complete", bead_id=two, token=1).data["salvage_id"]


@both_stops
def test_seq_has_no_gaps_over_a_restart(town: Town, stop: Any) -> None:
    busy(town)
    stop(town)
    busy(town)
    events = all_events(town, town.seq())
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    epochs = [event["epoch"] for event in events]
    assert epochs == sorted(epochs)
    for event in events:
        assert isinstance(event["at_ms"], int)
        assert event["kind"]
    instants = [event["at_ms"] for event in events]
    assert instants == sorted(instants)


@both_stops
def test_each_start_bumps_the_epoch_with_one_event(town: Town, stop: Any) -> None:
    epoch, before = town.daemon["epoch"], town.seq()
    stop(town)
    assert town.daemon["epoch"] > epoch
    assert town.call("system.info")["epoch"] == town.daemon["epoch"]
    assert town.seq() == before + 1
    assert all_events(town, before + 1)[-1]["kind"] == "epoch"


@both_stops
def test_what_was_acknowledged_is_there(town: Town, stop: Any) -> None:
    worker = town.worker()
    done, failed = town.bead("done")["id"], town.bead("failed")["id"]
    town.call("work.complete", **held(town.lease(worker, done)), result={"summary": "painted"})
    town.call("work.fail", **held(town.lease(worker, failed)), error="x", retryable=False)
    leased = town.lease(worker, ttl_ms=LONG_MS)["bead_id"]
    before = {bead_id: (town.get(bead_id), town.history(bead_id)) for bead_id in (done, failed, leased)}
    text = town.call("ledger.export")["jsonl"]
    stop(town)
    assert {bead_id: (town.get(bead_id), town.history(bead_id)) for bead_id in before} == before
    assert [town.state_of(bead_id) for bead_id in before] == ["closed", "dead", "leased"]
    assert town.call("ledger.export")["jsonl"] == text
    assert town.call("ledger.verify")["ok"] is True


@both_stops
def test_a_lease_lives_through_a_restart(town: Town, stop: Any) -> None:
    worker = town.worker()
    lease = town.lease(worker, ttl_ms=LONG_MS)
    stop(town)
    assert town.claim(town.worker()) == []
    assert len(beat(town, worker, lease)["leases"]) == 1
    assert town.call("work.complete", **held(lease))["bead"]["status"] == "closed"


@both_stops
def test_an_outage_gives_a_fresh_ttl(town: Town, stop: Any) -> None:
    lease = town.lease(town.worker(), ttl_ms=2_000)
    out_of_time = time.monotonic() + 2
    if stop is stop_hard:
        town.kill9()
    else:
        town.stop()
    until(lambda: time.monotonic() > out_of_time)
    town.start()
    assert "lapsed" not in town.kinds(lease["bead_id"])
    assert town.get(lease["bead_id"])["status"] == "in_progress"
    assert town.await_kind(lease["bead_id"], "lapsed")["at_ms"] >= lease["expires_at_ms"]


@both_stops
def test_tokens_grow_over_a_restart(town: Town, stop: Any) -> None:
    bead = town.bead()["id"]
    tokens = []
    for _ in range(3):
        lease = town.lease(town.worker(), bead)
        town.call("work.release", **held(lease))
        tokens.append(lease["token"])
        stop(town)
        assert town.refusal("work.complete", **held(lease)).data["reason"] == "released"
    assert tokens == sorted(set(tokens))


def test_a_lapsed_lease_is_still_good_after_a_restart(town: Town) -> None:
    worker = town.worker()
    lease = town.lease(worker, ttl_ms=300)
    town.await_kind(lease["bead_id"], "lapsed")
    stop_hard(town)
    assert town.call("work.complete", **held(lease))["bead"]["status"] == "closed"


def test_a_checkpoint_survives_kill_9(town: Town) -> None:
    worker = town.worker()
    lease = town.lease(worker, ttl_ms=LONG_MS)
    beat(town, worker, lease, checkpoint={"step": 7})
    stop_hard(town)
    town.call("work.release", **held(lease))
    (claim,) = town.claim(town.worker(), filter={"bead_id": lease["bead_id"]})
    assert claim["context"]["previous"][0]["checkpoint"] == {"step": 7}


def test_budgets_and_backoff_survive_kill_9(town: Town) -> None:
    lease = town.lease(town.worker())
    town.call("work.fail", **held(lease), error="x")
    stop_hard(town)
    (claim,) = town.claim(town.worker(), wait_ms=10_000)
    assert claim["lease"]["attempt"] == 2


def test_the_order_survives_a_restart(town: Town) -> None:
    for priority in (3, 1, 2, 0, 1):
        town.bead(priority=priority)
        town.let_pass(2)
    before = [bead["id"] for bead in town.call("bead.ready")["beads"]]
    stop_hard(town)
    assert [bead["id"] for bead in town.call("bead.ready")["beads"]] == before


def test_a_deferral_that_ended_during_an_outage_is_noticed(town: Town) -> None:
    soon = time.time() + 1.0
    instant = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(soon + 1)) + "Z"
    bead = town.bead(defer_until=instant)["id"]
    town.kill9()
    until(lambda: time.time() > soon + 1)
    town.start()
    assert [claim["bead"]["id"] for claim in town.claim(town.worker(), wait_ms=10_000)] == [bead]


def test_workers_and_their_ids_survive_a_restart(town: Town) -> None:
    worker = town.worker("steady")
    stop_hard(town)
    assert town.call("worker.heartbeat", worker_id=worker)["lost"] == []
    town.worker("steady")
    assert town.refusal("worker.heartbeat", worker_id=worker).code == 1008


def test_a_reply_that_changed_nothing_carries_the_current_seq(town: Town) -> None:
    town.bead()
    before = town.seq()
    assert town.call("work.claim", worker_id=town.worker(), filter={"rig": "none"})["seq"] == town.seq()
    assert town.seq() == before + 1  # the registration


def test_the_entries_of_a_batch_run_in_order_and_see_each_other(town: Town) -> None:
    worker = town.worker()
    create = ("bead.create", {"beads": [{"title": "t", "id": "in-batch"}]})
    reply = town.batch(
        ("bead.get", {"id": "in-batch"}),
        create,
        ("bead.get", {"id": "in-batch"}),
        ("work.claim", {"worker_id": worker}),
        create,
        ("bead.get", {"id": "in-batch"}),
    )
    assert [entry["id"] for entry in reply] == list(range(6))
    assert reply[0]["error"]["code"] == 1002
    assert reply[2]["result"]["bead"]["status"] == "open"
    assert reply[3]["result"]["claims"][0]["bead"]["id"] == "in-batch"
    assert reply[4]["error"]["code"] == 1003
    assert reply[5]["result"]["bead"]["status"] == "in_progress"
