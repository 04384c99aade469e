"""How a lease ends well: complete, release, block, and the next work in the same reply."""

from typing import Any

import pytest

from .holding import LONG_MS, held
from .town import Town, unique


def test_complete_closes_the_bead(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    reply = shared_town.call("work.complete", **held(lease), result={"summary": "painted"})
    bead = reply["bead"]
    assert (bead["id"], bead["status"], bead["close_reason"]) == (lease["bead_id"], "closed", "painted")
    assert bead["closed_at"].endswith("Z")
    assert shared_town.get(lease["bead_id"]) == bead
    assert shared_town.state_of(lease["bead_id"]) == "closed"


def test_complete_is_one_event_whose_seq_is_the_replys(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    reply = shared_town.call("work.complete", **held(lease))
    last = shared_town.history(lease["bead_id"])[-1]
    assert (last["kind"], last["seq"], last["epoch"]) == ("completed", reply["seq"], reply["epoch"])


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({}, "completed"),
        ({"result": {"summary": "all done"}}, "all done"),
        ({"no_change": "was fixed already"}, "was fixed already"),
        ({"no_change": "was fixed already", "result": {"summary": "looked"}}, "was fixed already"),
    ],
)
def test_the_close_reason(shared_town: Town, params: dict[str, Any], reason: str) -> None:
    lease = shared_town.lease(shared_town.worker())
    assert shared_town.call("work.complete", **held(lease), **params)["bead"]["close_reason"] == reason


def test_merge_and_no_change_exclude_each_other(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    branch = {"branch": "work/1", "commit": "0" * 40}
    refused = shared_town.refusal("work.complete", **held(lease), merge=branch, no_change="none")
    assert refused.code == -32602
    assert shared_town.get(lease["bead_id"])["status"] == "in_progress"


def test_merge_without_a_merge_queue_is_a_conflict(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    refused = shared_town.refusal("work.complete", **held(lease), merge={"branch": "work/1", "commit": "0" * 40})
    assert (refused.code, refused.kind, refused.data["allowed"]) == (1003, "conflict", ["no_change"])
    assert refused.data["state"] == "leased"
    assert shared_town.call("work.complete", **held(lease))["bead"]["status"] == "closed"


def test_open_blockers_added_meanwhile_do_not_hinder(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    blocker = shared_town.bead()["id"]
    shared_town.call("bead.depend", **{"from": lease["bead_id"], "to": blocker, "kind": "blocks"})
    assert shared_town.call("work.complete", **held(lease))["bead"]["status"] == "closed"


@pytest.mark.parametrize("params", [{"surprise": 1}, {"result": "text"}, {"result": {"surprise": 1}}, {"merge": {}}])
def test_bad_complete_params_are_refused(shared_town: Town, params: dict[str, Any]) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    assert shared_town.refusal("work.complete", **held(lease), **params).code == -32602
    assert shared_town.get(lease["bead_id"])["status"] == "in_progress"


# -- the next work in the same reply ---------------------------------------------------------------------------------


def test_complete_brings_the_next_work(shared_town: Town) -> None:
    worker, rig = shared_town.worker(), unique("rig")
    lease = shared_town.lease(worker)
    following = shared_town.bead(rig=rig)["id"]
    reply = shared_town.call("work.complete", **held(lease), claim={"worker_id": worker, "filter": {"rig": rig}})
    assert reply["bead"]["status"] == "closed"
    assert [claim["bead"]["id"] for claim in reply["claims"]] == [following]
    assert reply["claims"][0]["lease"]["worker_id"] == worker


def test_complete_brings_the_dependent_it_made_ready(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker)
    dependent = shared_town.bead(depends_on=[{"id": lease["bead_id"]}])["id"]
    wish = {"worker_id": worker, "filter": {"bead_id": dependent}}
    reply = shared_town.call("work.complete", **held(lease), claim=wish)
    assert [claim["bead"]["id"] for claim in reply["claims"]] == [dependent]


def test_no_next_work_is_an_empty_list(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker)
    wish = {"worker_id": worker, "filter": {"rig": unique("rig")}}
    reply = shared_town.call("work.complete", **held(lease), claim=wish)
    assert (reply["bead"]["status"], reply["claims"]) == ("closed", [])


def test_the_completion_commits_before_the_next_work_is_waited_for(shared_town: Town) -> None:
    worker, rig = shared_town.worker(), unique("rig")
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    wish = {"worker_id": worker, "filter": {"rig": rig}, "wait_ms": 20_000}
    pending = shared_town.ask("work.complete", **held(lease), claim=wish)
    shared_town.await_kind(lease["bead_id"], "completed")
    assert pending.silent(0.05)
    following = shared_town.bead(rig=rig)["id"]
    reply = pending.answer()
    assert reply["bead"]["id"] == lease["bead_id"]
    assert [claim["bead"]["id"] for claim in reply["claims"]] == [following]


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        ({"request_id": "r1"}, -32602),
        ({"limit": 0}, -32602),
        ({"limit": 101}, 1012),
        ({"wait_ms": 45_001}, 1012),
        ({"filter": {"labels_all": []}}, -32602),
        ({"surprise": 1}, -32602),
        ({"worker_id": "nobody"}, 1008),
    ],
)
def test_a_bad_next_claim_refuses_the_whole_call(shared_town: Town, claim: dict[str, Any], code: int) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    assert shared_town.refusal("work.complete", **held(lease), claim={"worker_id": worker, **claim}).code == code
    assert shared_town.get(lease["bead_id"])["status"] == "in_progress"


def test_a_stale_completion_brings_no_next_work(shared_town: Town) -> None:
    worker, rig = shared_town.worker(), unique("rig")
    lease = shared_town.lease(worker)
    shared_town.call("work.complete", **held(lease))
    waiting = shared_town.bead(rig=rig)["id"]
    wish = {"worker_id": worker, "filter": {"rig": rig}}
    assert shared_town.refusal("work.complete", **held(lease), claim=wish).code == 1001
    assert shared_town.get(waiting)["status"] == "open"


# -- release and block -----------------------------------------------------------------------------------------------


def test_release_gives_the_bead_back_without_spending_an_attempt(shared_town: Town) -> None:
    bead_id = shared_town.bead()["id"]
    for _ in range(7):
        lease = shared_town.lease(shared_town.worker(), bead_id)
        assert lease["attempt"] == 1
        bead = shared_town.call("work.release", **held(lease), reason="not mine")["bead"]
        assert bead["status"] == "open"
        assert not bead.get("assignee")
    assert shared_town.state_of(bead_id) == "ready"


def test_block_on_beads_waits_for_all_of_them(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    blockers = [shared_town.bead()["id"] for _ in range(2)]
    bead = shared_town.call("work.block", **held(lease), on=blockers)["bead"]
    assert bead["status"] == "open"
    assert not bead.get("assignee")
    edges = {(row["depends_on_id"], row["type"]) for row in bead["dependencies"]}
    assert edges == {(blocker, "blocks") for blocker in blockers}
    assert shared_town.state_of(lease["bead_id"]) == "waiting"
    shared_town.call("bead.close", id=blockers[0], reason="done")
    assert shared_town.state_of(lease["bead_id"]) == "waiting"
    shared_town.call("bead.close", id=blockers[1], reason="done")
    assert shared_town.lease(shared_town.worker(), lease["bead_id"])["attempt"] == 1


def test_block_for_a_reason_holds_until_an_update(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    bead = shared_town.call("work.block", **held(lease), reason="needs a person")["bead"]
    assert bead["status"] == "blocked"
    assert shared_town.state_of(lease["bead_id"]) == "blocked"
    assert shared_town.claim(shared_town.worker(), filter={"bead_id": lease["bead_id"]}) == []
    shared_town.call("bead.update", id=lease["bead_id"], set={"status": "open"})
    assert shared_town.lease(shared_town.worker(), lease["bead_id"])["attempt"] == 1


def test_block_for_a_reason_holds_until_a_reopen(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    shared_town.call("work.block", **held(lease), reason="needs a person")
    assert shared_town.call("bead.reopen", id=lease["bead_id"])["bead"]["status"] == "open"


@pytest.mark.parametrize("params", [{}, {"on": ["x"], "reason": "y"}, {"on": []}, {"on": "x"}, {"on": [1]}])
def test_block_takes_exactly_one_of_on_and_reason(shared_town: Town, params: dict[str, Any]) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    assert shared_town.refusal("work.block", **held(lease), **params).code == -32602
    assert shared_town.get(lease["bead_id"])["status"] == "in_progress"


def test_block_on_an_unknown_bead_is_not_found(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    known = shared_town.bead()["id"]
    refused = shared_town.refusal("work.block", **held(lease), on=[known, "no-such-bead"])
    assert (refused.code, refused.data["id"]) == (1002, "no-such-bead")
    assert not shared_town.get(lease["bead_id"]).get("dependencies")


def test_block_on_a_dependent_is_a_cycle(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    dependent = shared_town.bead(depends_on=[{"id": lease["bead_id"]}])["id"]
    refused = shared_town.refusal("work.block", **held(lease), on=[dependent])
    assert (refused.code, refused.kind) == (1005, "dependency_cycle")
    assert refused.data["path"] == [lease["bead_id"], dependent, lease["bead_id"]]
    assert shared_town.get(lease["bead_id"])["status"] == "in_progress"
