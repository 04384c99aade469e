"""Stale tokens change nothing, say why, and leave a late result where history shows it."""

from typing import Any

import pytest

from .holding import LONG_MS, TTL_MS, beat, held, lapsed
from .town import Town, unique

SETTLES = {
    "work.complete": {},
    "work.fail": {"error": "late"},
    "work.release": {},
    "work.block": {"reason": "late"},
}


def superseded(town: Town) -> tuple[dict[str, Any], dict[str, Any]]:
    """A stale lease and the one that took its bead."""
    stale = lapsed(town, town.worker())
    return stale, town.lease(town.worker(), stale["bead_id"], ttl_ms=LONG_MS)


@pytest.mark.parametrize("method", SETTLES)
def test_a_superseded_token_is_refused_and_changes_nothing(shared_town: Town, method: str) -> None:
    stale, live = superseded(shared_town)
    before = shared_town.get(stale["bead_id"])
    refused = shared_town.refusal(method, **held(stale), **SETTLES[method])
    assert (refused.code, refused.kind, refused.http) == (1001, "lease_lost", 200)
    expected = {
        "token": stale["token"],
        "current_token": live["token"],
        "state": "leased",
        "reason": "superseded",
        "action": "stop",
        "retryable": False,
    }
    assert {key: refused.data[key] for key in expected} == expected
    after = shared_town.get(stale["bead_id"])
    assert (after["status"], after["assignee"]) == (before["status"], before["assignee"])
    assert shared_town.call("work.complete", **held(live))["bead"]["status"] == "closed"


@pytest.mark.parametrize("method", SETTLES)
def test_a_token_settles_once(shared_town: Town, method: str) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    shared_town.call("work.complete", **held(lease))
    refused = shared_town.refusal(method, **held(lease), **SETTLES[method])
    assert (refused.code, refused.data["reason"], refused.data["state"]) == (1001, "closed", "closed")
    assert refused.data["current_token"] is None


def test_after_a_release_the_reason_is_released(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    shared_town.call("work.release", **held(lease))
    refused = shared_town.refusal("work.complete", **held(lease))
    assert (refused.data["reason"], refused.data["state"], refused.data["current_token"]) == ("released", "ready", None)


def test_after_a_failure_the_reason_is_released(plain_town: Town) -> None:
    lease = plain_town.lease(plain_town.worker())
    plain_town.call("work.fail", **held(lease), error="no")
    refused = plain_town.refusal("work.complete", **held(lease))
    assert (refused.data["reason"], refused.data["state"]) == ("released", "deferred")


def test_after_a_deregistration_the_reason_is_released(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    shared_town.call("worker.deregister", worker_id=worker)
    assert shared_town.refusal("work.complete", **held(lease)).data["reason"] == "released"


def test_after_a_block_the_reason_is_changed(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    shared_town.call("work.block", **held(lease), reason="needs a person")
    refused = shared_town.refusal("work.complete", **held(lease))
    assert (refused.data["reason"], refused.data["state"]) == ("changed", "blocked")


def test_after_an_update_of_the_status_the_reason_is_changed(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    shared_town.call("bead.update", id=lease["bead_id"], set={"status": "deferred"})
    refused = shared_town.refusal("work.complete", **held(lease))
    assert (refused.data["reason"], refused.data["state"]) == ("changed", "parked")


def test_after_somebody_closed_the_bead_the_reason_is_closed(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    shared_town.call("bead.close", id=lease["bead_id"], reason="moot")
    assert shared_town.refusal("work.complete", **held(lease)).data["reason"] == "closed"


def test_after_a_dead_letter_the_reason_is_released(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    shared_town.call("work.fail", **held(lease), error="hopeless", retryable=False)
    refused = shared_town.refusal("work.complete", **held(lease))
    assert refused.data["state"] == "dead"
    assert refused.data["reason"] in ("released", "changed")  # ended by fail, and by dead letter: the page names both


def test_after_registering_again_the_reason_is_superseded(shared_town: Town) -> None:
    name = unique("worker")
    lease = shared_town.lease(shared_town.worker(name), ttl_ms=LONG_MS)
    (passed,) = shared_town.call("worker.register", name=name)["leases"]
    refused = shared_town.refusal("work.complete", **held(lease))
    assert (refused.data["reason"], refused.data["current_token"]) == ("superseded", passed["token"])


@pytest.mark.parametrize("ahead", [1, 1_000_000, 2**62])
def test_a_token_never_issued_is_superseded(shared_town: Town, ahead: int) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    refused = shared_town.refusal("work.complete", bead_id=lease["bead_id"], token=lease["token"] + ahead)
    assert (refused.code, refused.data["reason"]) == (1001, "superseded")
    assert refused.data["current_token"] == lease["token"]
    assert shared_town.get(lease["bead_id"])["status"] == "in_progress"


def test_a_token_on_a_bead_never_granted_is_superseded(shared_town: Town) -> None:
    refused = shared_town.refusal("work.complete", bead_id=shared_town.bead()["id"], token=1)
    assert (refused.data["reason"], refused.data["current_token"]) == ("superseded", None)


def test_a_lapsed_lease_is_still_the_current_token(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    refused = shared_town.refusal("work.complete", bead_id=lease["bead_id"], token=lease["token"] + 1)
    assert (refused.data["current_token"], refused.data["state"]) == (lease["token"], "ready")


@pytest.mark.parametrize("token", [0, -1, -(2**63), 2**63, 1.0, True, "1", None])
@pytest.mark.parametrize("method", SETTLES)
def test_what_is_no_token_is_invalid(shared_town: Town, method: str, token: object) -> None:
    refused = shared_town.refusal(method, bead_id="any", token=token, **SETTLES[method])
    assert (refused.code, refused.data["field"]) == (-32602, "token")


@pytest.mark.parametrize("method", SETTLES)
def test_an_unknown_bead_is_not_found(shared_town: Town, method: str) -> None:
    refused = shared_town.refusal(method, bead_id="no-such-bead", token=1, **SETTLES[method])
    assert (refused.code, refused.data["what"], refused.data["id"]) == (1002, "bead", "no-such-bead")


def test_the_message_names_no_command_that_takes_the_work(shared_town: Town) -> None:
    stale, _ = superseded(shared_town)
    for method, params in SETTLES.items():
        message = shared_town.refusal(method, **held(stale), **params).message.lower()
        assert not any(word in message for word in ("work.", "bead.", "worker.", "gastown", "--", "reopen", "force"))


@pytest.mark.parametrize("method", ["work.complete", "work.fail"])
def test_a_late_result_is_kept_as_an_event_and_never_applied(shared_town: Town, method: str) -> None:
    stale, _ = superseded(shared_town)
    version = shared_town.get(stale["bead_id"])["version"]
    late = {"result": {"summary": "late but good"}} if method == "work.complete" else {"error": "late but good"}
    refused = shared_town.refusal(method, **held(stale), **late)
    assert refused.data["salvage_id"]
    kept = shared_town.history(stale["bead_id"])[-1]
    assert kept["kind"] == "salvaged"
    assert "late but good" in str(kept)
    assert str(refused.data["salvage_id"]) in str(kept)
    assert shared_town.get(stale["bead_id"])["version"] == version
    assert shared_town.get(stale["bead_id"])["status"] == "in_progress"


def test_a_repeated_late_result_is_kept_once(shared_town: Town) -> None:
    stale, _ = superseded(shared_town)
    first = shared_town.refusal("work.complete", **held(stale), result={"summary": "one"})
    again = shared_town.refusal("work.complete", **held(stale), result={"summary": "two"})
    failed = shared_town.refusal("work.fail", **held(stale), error="three")
    assert first.data["salvage_id"] == again.data["salvage_id"] == failed.data["salvage_id"]
    assert shared_town.kinds(stale["bead_id"]).count("salvaged") == 1


@pytest.mark.parametrize("method", ["work.release", "work.block"])
def test_only_results_are_salvaged(shared_town: Town, method: str) -> None:
    stale, _ = superseded(shared_town)
    before = shared_town.seq()
    refused = shared_town.refusal(method, **held(stale), **SETTLES[method])
    assert refused.data.get("salvage_id") is None
    assert shared_town.seq() == before


# -- what the holder hears -------------------------------------------------------------------------------------------


def test_a_superseded_lease_is_lost_on_the_next_beat(shared_town: Town) -> None:
    worker = shared_town.worker()
    stale = lapsed(shared_town, worker)
    shared_town.lease(shared_town.worker(), stale["bead_id"], ttl_ms=LONG_MS)
    reply = beat(shared_town, worker, stale)
    assert reply["leases"] == []
    assert reply["lost"] == [{**held(stale), "reason": "superseded"}]


@pytest.mark.parametrize("ending", ["release", "complete", "block"])
def test_a_settled_lease_is_lost_with_its_reason(shared_town: Town, ending: str) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    params = {"reason": "x"} if ending == "block" else {}
    shared_town.call(f"work.{ending}", **held(lease), **params)
    reason = {"release": "released", "complete": "closed", "block": "changed"}[ending]
    assert beat(shared_town, worker, lease)["lost"] == [{**held(lease), "reason": reason}]


@pytest.mark.parametrize(
    ("method", "params", "reason"),
    [
        ("bead.close", {"reason": "moot"}, "closed"),
        ("bead.update", {"set": {"status": "blocked"}}, "changed"),
        ("bead.update", {"set": {"status": "open"}}, "changed"),
        ("bead.update", {"set": {"assignee": "ann"}}, "changed"),
        ("bead.update", {"set": {"assignee": None}}, "changed"),
    ],
)
def test_the_holders_next_beat_lists_the_loss_with_one_cancel(
    shared_town: Town, method: str, params: dict[str, Any], reason: str
) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    shared_town.call(method, id=lease["bead_id"], **params)
    reply = beat(shared_town, worker, lease)
    assert reply["leases"] == []
    assert reply["lost"] == [{**held(lease), "reason": reason}]
    assert reply["directives"] == [{"kind": "cancel", "bead_id": lease["bead_id"]}]
    assert beat(shared_town, worker, lease)["directives"] == []


def test_a_bare_beat_hears_of_the_loss_too(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    shared_town.call("bead.close", id=lease["bead_id"], reason="moot")
    reply = beat(shared_town, worker)
    assert reply["lost"] == [{**held(lease), "reason": "closed"}]
    assert reply["directives"] == [{"kind": "cancel", "bead_id": lease["bead_id"]}]


def test_a_lease_of_another_worker_is_lost_to_the_beater_alone(shared_town: Town) -> None:
    owner, other = shared_town.worker(), shared_town.worker()
    lease = shared_town.lease(owner, ttl_ms=LONG_MS)
    reply = beat(shared_town, other, lease)
    assert reply["leases"] == []
    assert reply["lost"] == [{**held(lease), "reason": "superseded"}]
    assert len(beat(shared_town, owner, lease)["leases"]) == 1


def test_an_unknown_bead_in_a_beat_is_lost(shared_town: Town) -> None:
    worker = shared_town.worker()
    stranger = {"bead_id": "no-such-bead", "token": 7}
    assert beat(shared_town, worker, stranger)["lost"] == [{**stranger, "reason": "superseded"}]


def test_one_beat_renews_some_and_loses_others(shared_town: Town) -> None:
    worker = shared_town.worker()
    kept, gone = shared_town.lease(worker, ttl_ms=LONG_MS), shared_town.lease(worker, ttl_ms=LONG_MS)
    shared_town.call("bead.close", id=gone["bead_id"], reason="moot")
    reply = beat(shared_town, worker, kept, gone)
    assert [lease["bead_id"] for lease in reply["leases"]] == [kept["bead_id"]]
    assert [lost["bead_id"] for lost in reply["lost"]] == [gone["bead_id"]]


def test_a_zombie_cannot_redo_work_that_was_finished_by_another(shared_town: Town) -> None:
    zombie = shared_town.lease(shared_town.worker(), ttl_ms=TTL_MS)
    shared_town.await_kind(zombie["bead_id"], "lapsed")
    rescuer = shared_town.lease(shared_town.worker(), zombie["bead_id"], ttl_ms=LONG_MS)
    shared_town.call("work.complete", **held(rescuer), result={"summary": "by the rescuer"})
    refused = shared_town.refusal("work.complete", **held(zombie), result={"summary": "by the zombie"})
    assert refused.code == 1001
    assert shared_town.get(zombie["bead_id"])["close_reason"] == "by the rescuer"
    assert shared_town.kinds(zombie["bead_id"]).count("completed") == 1
