"""Failures: backoff that doubles, the budget, dead letters and the way back; and what a new attempt is told."""

import json
from typing import Any

import pytest

from .holding import LONG_MS, beat, held, lapsed
from .town import Town, unique


def fail(town: Town, lease: dict[str, Any], **params: Any) -> Any:
    return town.call("work.fail", **held(lease), **{"error": "it broke", **params})


def dead(town: Town) -> str:
    """A dead-lettered bead."""
    lease = town.lease(town.worker())
    assert fail(town, lease, retryable=False)["dead"] is True
    bead_id: str = lease["bead_id"]
    return bead_id


def again(town: Town, bead_id: str) -> dict[str, Any]:
    """The lease of the next attempt, once the backoff is over."""
    (claim,) = town.claim(town.worker(), filter={"bead_id": bead_id}, wait_ms=10_000)
    lease: dict[str, Any] = claim["lease"]
    return lease


def test_the_first_backoff_is_30_seconds(plain_town: Town) -> None:
    lease = plain_town.lease(plain_town.worker())
    reply = fail(plain_town, lease)
    event = plain_town.history(lease["bead_id"])[-1]
    assert (event["kind"], event["seq"]) == ("failed", reply["seq"])
    assert reply["retry_at_ms"] == event["at_ms"] + 30_000
    assert not reply.get("dead")


def test_a_failed_bead_is_open_and_deferred(plain_town: Town) -> None:
    lease = plain_town.lease(plain_town.worker())
    bead = fail(plain_town, lease)["bead"]
    assert bead["status"] == "open"
    assert not bead.get("assignee")
    assert not bead.get("defer_until")
    assert plain_town.state_of(lease["bead_id"]) == "deferred"
    assert plain_town.claim(plain_town.worker(), filter={"bead_id": lease["bead_id"]}) == []


def test_the_backoff_is_not_exported(plain_town: Town) -> None:
    lease = plain_town.lease(plain_town.worker())
    fail(plain_town, lease)
    exported = [json.loads(line) for line in plain_town.call("ledger.export")["jsonl"].splitlines()]
    (record,) = (row for row in exported if row.get("id") == lease["bead_id"])
    assert record["status"] == "open"
    assert not {"not_before", "not_before_ms", "defer_until", "attempt", "version"} & set(record)


def test_the_backoff_doubles(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    delays = []
    for _ in range(2):
        reply = fail(shared_town, lease)
        delays.append(reply["retry_at_ms"] - shared_town.history(lease["bead_id"])[-1]["at_ms"])
        lease = again(shared_town, lease["bead_id"])
    assert delays[1] == 2 * delays[0]


def test_each_failure_is_an_attempt(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    attempts = [lease["attempt"]]
    for _ in range(2):
        fail(shared_town, lease)
        lease = again(shared_town, lease["bead_id"])
        attempts.append(lease["attempt"])
    assert attempts == [1, 2, 3]


def test_the_third_failure_dead_letters(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    for _ in range(2):
        assert "retry_at_ms" in fail(shared_town, lease)
        lease = again(shared_town, lease["bead_id"])
    reply = fail(shared_town, lease)
    assert reply["dead"] is True
    assert "retry_at_ms" not in reply
    assert reply["bead"]["status"] == "blocked"
    assert reply["bead"]["labels"] == ["dead-letter"]
    assert shared_town.state_of(lease["bead_id"]) == "dead"


def test_a_failure_that_is_not_retryable_dead_letters_at_once(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    reply = fail(shared_town, lease, retryable=False)
    assert reply["dead"] is True
    assert reply["bead"]["status"] == "blocked"
    assert "dead-letter" in reply["bead"]["labels"]


def test_a_dead_bead_is_not_handed_out(shared_town: Town) -> None:
    assert shared_town.claim(shared_town.worker(), filter={"bead_id": dead(shared_town)}) == []


def test_a_dead_blocker_still_blocks(shared_town: Town) -> None:
    blocker = dead(shared_town)
    dependent = shared_town.bead(depends_on=[{"id": blocker}])["id"]
    assert shared_town.state_of(dependent) == "waiting"


def test_reopen_clears_budgets_and_the_dead_letter_label(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), shared_town.bead(labels=["kept"])["id"])
    for _ in range(2):
        fail(shared_town, lease)
        lease = again(shared_town, lease["bead_id"])
    fail(shared_town, lease)
    bead = shared_town.call("bead.reopen", id=lease["bead_id"])["bead"]
    assert (bead["status"], bead["labels"]) == ("open", ["kept"])
    fresh = shared_town.lease(shared_town.worker(), lease["bead_id"])
    assert fresh["attempt"] == 1
    assert fresh["token"] > lease["token"]
    assert "retry_at_ms" in fail(shared_town, fresh)


def test_failures_and_losses_both_count_as_attempts(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    fail(shared_town, lease)
    (claim,) = shared_town.claim(shared_town.worker(), filter={"bead_id": lease["bead_id"]}, wait_ms=10_000, ttl_ms=300)
    shared_town.await_kind(lease["bead_id"], "lapsed")
    assert again(shared_town, lease["bead_id"])["attempt"] == claim["lease"]["attempt"] + 1 == 3


def test_losses_do_not_spend_the_budget_of_failures(shared_town: Town) -> None:
    bead_id = shared_town.bead()["id"]
    for _ in range(3):
        lapsed(shared_town, shared_town.worker(), bead_id)
    assert "retry_at_ms" in fail(shared_town, again(shared_town, bead_id))


@pytest.mark.parametrize("params", [{"error": None}, {"error": 7}, {"retryable": "yes"}, {"retryable": 1}])
def test_bad_fail_params_are_refused(shared_town: Town, params: dict[str, Any]) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    assert shared_town.refusal("work.fail", **held(lease), **{"error": "x", **params}).code == -32602


def test_fail_needs_an_error(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    assert shared_town.refusal("work.fail", **held(lease)).code == -32602
    assert shared_town.get(lease["bead_id"])["status"] == "in_progress"


# -- what a new attempt is told --------------------------------------------------------------------------------------


def previous(town: Town, bead_id: str) -> list[dict[str, Any]]:
    """The earlier attempts as the next claim shows them; the claim is given back."""
    (claim,) = town.claim(town.worker(), filter={"bead_id": bead_id}, wait_ms=10_000)
    town.call("work.release", **held(claim["lease"]))
    told: list[dict[str, Any]] = claim["context"]["previous"]
    return told


def test_a_failed_attempt_is_told_with_its_error(shared_town: Town) -> None:
    name = unique("worker")
    lease = shared_town.lease(shared_town.worker(name))
    fail(shared_town, lease, error="the tests hang")
    at_ms = shared_town.history(lease["bead_id"])[-1]["at_ms"]
    (told,) = previous(shared_town, lease["bead_id"])
    expected = {"attempt": 1, "token": lease["token"], "worker": name, "outcome": "failed", "at_ms": at_ms}
    assert {key: told[key] for key in expected} == expected
    assert "the tests hang" in told["notes"]


def test_a_lapsed_attempt_is_told_with_its_last_checkpoint(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=1_000)
    beat(shared_town, worker, lease, checkpoint={"step": 1})
    beat(shared_town, worker, lease, checkpoint={"step": 2, "files": ["a", "b"]})
    shared_town.await_kind(lease["bead_id"], "lapsed")
    (told,) = previous(shared_town, lease["bead_id"])
    assert (told["outcome"], told["token"]) == ("lapsed", lease["token"])
    assert told["checkpoint"] == {"step": 2, "files": ["a", "b"]}


def test_released_and_blocked_attempts_are_told(shared_town: Town) -> None:
    bead_id, blocker = shared_town.bead()["id"], shared_town.bead()["id"]
    lease = shared_town.lease(shared_town.worker(), bead_id)
    shared_town.call("work.release", **held(lease), reason="lunch")
    lease = shared_town.lease(shared_town.worker(), bead_id)
    shared_town.call("work.block", **held(lease), on=[blocker])
    shared_town.call("bead.close", id=blocker, reason="done")
    assert [told["outcome"] for told in previous(shared_town, bead_id)] == ["blocked", "released"]


def test_a_superseded_attempt_is_told(shared_town: Town) -> None:
    name = unique("worker")
    lease = shared_town.lease(shared_town.worker(name), ttl_ms=LONG_MS)
    (passed,) = shared_town.call("worker.register", name=name)["leases"]
    shared_town.call("work.release", **held(passed))
    told = previous(shared_town, lease["bead_id"])
    assert [(item["outcome"], item["token"]) for item in told] == [
        ("released", passed["token"]),
        ("superseded", lease["token"]),
    ]


def test_a_closed_attempt_is_told_after_a_reopen(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker())
    shared_town.call("work.complete", **held(lease))
    shared_town.call("bead.reopen", id=lease["bead_id"])
    assert [told["outcome"] for told in previous(shared_town, lease["bead_id"])] == ["closed"]


def test_at_most_ten_earlier_attempts_newest_first(shared_town: Town) -> None:
    bead_id = shared_town.bead()["id"]
    tokens = []
    for _ in range(12):
        lease = shared_town.lease(shared_town.worker(), bead_id)
        shared_town.call("work.release", **held(lease))
        tokens.append(lease["token"])
    assert [told["token"] for told in previous(shared_town, bead_id)] == tokens[:1:-1]
