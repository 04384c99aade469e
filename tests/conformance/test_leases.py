"""A lease's life: grant, renewal, deadline, and the second chance until somebody else is granted."""

from typing import Any

import pytest

from .holding import LONG_MS, TTL_MS, beat, held, lapsed
from .town import Town, unique


def next_attempt(town: Town, bead_id: str) -> int:
    """The attempt number of the next grant."""
    attempt: int = town.lease(town.worker(), bead_id, ttl_ms=LONG_MS)["attempt"]
    return attempt


def test_a_leased_bead_is_in_progress_and_its_workers(shared_town: Town) -> None:
    name = unique("worker")
    lease = shared_town.lease(shared_town.worker(name), ttl_ms=LONG_MS)
    bead = shared_town.get(lease["bead_id"])
    assert (bead["status"], bead["assignee"]) == ("in_progress", name)
    assert shared_town.state_of(lease["bead_id"]) == "leased"


def test_tokens_grow_per_bead(shared_town: Town) -> None:
    bead = shared_town.bead()["id"]
    tokens = []
    for _ in range(4):
        lease = shared_town.lease(shared_town.worker(), bead)
        shared_town.call("work.release", **held(lease))
        tokens.append(lease["token"])
    assert tokens == sorted(set(tokens))


def test_a_grant_is_an_event_and_a_version(shared_town: Town) -> None:
    bead = shared_town.bead()
    lease = shared_town.lease(shared_town.worker(), bead["id"], ttl_ms=LONG_MS)
    granted = shared_town.history(bead["id"])[-1]
    assert granted["kind"] == "leased"
    assert granted["token"] == lease["token"]
    assert shared_town.get(bead["id"])["version"] == bead["version"] + 1


def test_a_heartbeat_renews_by_the_leases_own_ttl(shared_town: Town) -> None:
    worker = shared_town.worker()
    short, long = shared_town.lease(worker, ttl_ms=30_000), shared_town.lease(worker, ttl_ms=LONG_MS)
    shared_town.let_pass(3)
    renewed = {lease["bead_id"]: lease for lease in beat(shared_town, worker, short, long)["leases"]}
    for old in (short, long):
        new = renewed[old["bead_id"]]
        assert new["token"] == old["token"]
        assert new["expires_at_ms"] > old["expires_at_ms"]
    spread_ms = renewed[long["bead_id"]]["expires_at_ms"] - renewed[short["bead_id"]]["expires_at_ms"]
    assert spread_ms == LONG_MS - 30_000


def test_a_heartbeat_renews_only_what_it_lists(shared_town: Town) -> None:
    worker = shared_town.worker()
    listed, left_out = shared_town.lease(worker, ttl_ms=LONG_MS), shared_town.lease(worker, ttl_ms=TTL_MS)
    reply = beat(shared_town, worker, listed)
    assert [lease["bead_id"] for lease in reply["leases"]] == [listed["bead_id"]]
    shared_town.await_kind(left_out["bead_id"], "lapsed")


def test_beating_keeps_a_lease_past_its_first_deadline(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=1_000)
    for _ in range(8):
        shared_town.let_pass(150)
        beat(shared_town, worker, lease)
    assert "lapsed" not in shared_town.kinds(lease["bead_id"])
    assert shared_town.get(lease["bead_id"])["status"] == "in_progress"


def test_a_plain_renewal_is_no_event(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    before = shared_town.seq()
    reply = beat(shared_town, worker, lease, progress="half way")
    assert reply["seq"] == before
    assert shared_town.kinds(lease["bead_id"]) == ["created", "leased"]


def test_a_checkpoint_is_an_event(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    version = shared_town.get(lease["bead_id"])["version"]
    reply = beat(shared_town, worker, lease, checkpoint={"step": 2})
    last = shared_town.history(lease["bead_id"])[-1]
    assert (last["kind"], last["seq"]) == ("renewed", reply["seq"])
    assert shared_town.get(lease["bead_id"])["version"] == version + 1


def test_a_heartbeat_carries_seq_and_epoch(shared_town: Town) -> None:
    reply = shared_town.call("worker.heartbeat", worker_id=shared_town.worker())
    assert (reply["leases"], reply["lost"], reply["directives"]) == ([], [], [])
    assert reply["seq"] == shared_town.seq()
    assert reply["epoch"] == shared_town.call("system.info")["epoch"]


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"checkpoint": "x" * 65_537}, 1012),
        ({"progress": "x" * 1_025}, 1012),
        ({"surprise": 1}, -32602),
        ({"token": 0}, -32602),
        ({"token": -1}, -32602),
        ({"token": 1.5}, -32602),
    ],
)
def test_bad_heartbeats_are_refused(shared_town: Town, extra: dict[str, Any], code: int) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    leases = [{**held(lease), **extra}]
    assert shared_town.refusal("worker.heartbeat", worker_id=worker, leases=leases).code == code


def test_a_heartbeat_takes_100_leases(shared_town: Town) -> None:
    worker, rig = shared_town.worker(), unique("rig")
    shared_town.beads(*({"title": "t", "rig": rig} for _ in range(100)))
    claims = shared_town.claim(worker, limit=100, ttl_ms=LONG_MS, filter={"rig": rig})
    leases = [claim["lease"] for claim in claims]
    assert len(beat(shared_town, worker, *leases)["leases"]) == 100
    too_many = [held(lease) for lease in [*leases, leases[0]]]
    assert shared_town.refusal("worker.heartbeat", worker_id=worker, leases=too_many).code == 1012


def test_at_the_deadline_the_bead_is_open_again(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    bead = shared_town.get(lease["bead_id"])
    assert bead["status"] == "open"
    assert not bead.get("assignee")
    assert shared_town.state_of(lease["bead_id"]) == "ready"


def test_a_lapse_is_one_event_at_or_after_the_deadline(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    assert shared_town.kinds(lease["bead_id"]) == ["created", "leased", "lapsed"]
    assert shared_town.history(lease["bead_id"])[-1]["at_ms"] >= lease["expires_at_ms"]


def test_a_lapse_spends_a_loss(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    assert next_attempt(shared_town, lease["bead_id"]) == 2


def test_a_lapsed_bead_is_granted_to_another_with_a_higher_token(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    other = shared_town.lease(shared_town.worker(), lease["bead_id"], ttl_ms=LONG_MS)
    assert other["token"] > lease["token"]


def test_a_lapsed_lease_may_be_renewed(shared_town: Town) -> None:
    name = unique("worker")
    worker = shared_town.worker(name)
    lease = shared_town.lease(worker, ttl_ms=1_000)
    at_ms = shared_town.await_kind(lease["bead_id"], "lapsed")["at_ms"]
    (renewed,) = beat(shared_town, worker, lease)["leases"]
    assert renewed["token"] == lease["token"]
    assert renewed["expires_at_ms"] >= at_ms + 1_000
    bead = shared_town.get(lease["bead_id"])
    assert (bead["status"], bead["assignee"]) == ("in_progress", name)
    assert shared_town.claim(shared_town.worker(), filter={"bead_id": lease["bead_id"]}) == []


def test_renewing_a_lapsed_lease_takes_the_loss_back(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=1_000)
    shared_town.await_kind(lease["bead_id"], "lapsed")
    beat(shared_town, worker, lease)
    shared_town.call("work.release", **held(lease))
    assert next_attempt(shared_town, lease["bead_id"]) == 1


def test_releasing_a_lapsed_lease_takes_the_loss_back(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    shared_town.call("work.release", **held(lease))
    assert next_attempt(shared_town, lease["bead_id"]) == 1


def test_failing_a_lapsed_lease_takes_the_loss_back(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    shared_town.call("work.fail", **held(lease), error="no")
    (claim,) = shared_town.claim(shared_town.worker(), filter={"bead_id": lease["bead_id"]}, wait_ms=10_000)
    assert claim["lease"]["attempt"] == 2


def test_blocking_a_lapsed_lease_takes_the_loss_back(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    blocker = shared_town.bead()["id"]
    shared_town.call("work.block", **held(lease), on=[blocker])
    shared_town.call("bead.close", id=blocker, reason="done")
    assert next_attempt(shared_town, lease["bead_id"]) == 1


def test_a_lapsed_lease_may_complete(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    assert shared_town.call("work.complete", **held(lease))["bead"]["status"] == "closed"


def test_a_lapsed_lease_may_complete_only_once(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    shared_town.call("work.complete", **held(lease))
    assert shared_town.refusal("work.complete", **held(lease)).data["reason"] == "closed"


def test_an_edit_leaves_a_lapsed_token_good(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = lapsed(shared_town, worker)
    shared_town.call("bead.update", id=lease["bead_id"], set={"title": "other", "priority": 0})
    assert len(beat(shared_town, worker, lease)["leases"]) == 1


@pytest.mark.parametrize("change", [{"status": "blocked"}, {"status": "deferred"}, {"assignee": "ann"}])
def test_a_change_of_status_or_assignee_ends_a_lapsed_token(shared_town: Town, change: dict[str, str]) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    shared_town.call("bead.update", id=lease["bead_id"], set=change)
    assert shared_town.refusal("work.complete", **held(lease)).data["reason"] == "changed"


def test_a_close_ends_a_lapsed_token(shared_town: Town) -> None:
    lease = lapsed(shared_town, shared_town.worker())
    shared_town.call("bead.close", id=lease["bead_id"], reason="moot")
    assert shared_town.refusal("work.complete", **held(lease)).data["reason"] == "closed"


def test_the_fifth_loss_dead_letters_and_ends_the_token(shared_town: Town) -> None:
    worker, bead_id = shared_town.worker(), shared_town.bead()["id"]
    for attempt in range(1, 6):
        lease = lapsed(shared_town, worker, bead_id) if attempt < 5 else None
        if lease:
            assert lease["attempt"] == attempt
    last = shared_town.lease(worker, bead_id, ttl_ms=TTL_MS)
    assert last["attempt"] == 5
    shared_town.await_kind(bead_id, "dead_lettered")
    bead = shared_town.get(bead_id)
    assert bead["status"] == "blocked"
    assert "dead-letter" in bead["labels"]
    assert shared_town.state_of(bead_id) == "dead"
    assert shared_town.refusal("work.complete", **held(last)).data["reason"] == "changed"


def test_reopening_a_dead_bead_clears_its_losses(shared_town: Town) -> None:
    worker, bead_id = shared_town.worker(), shared_town.bead()["id"]
    tokens = [shared_town.lease(worker, bead_id, ttl_ms=TTL_MS, wait_ms=10_000)["token"] for _ in range(5)]
    shared_town.await_kind(bead_id, "dead_lettered")
    bead = shared_town.call("bead.reopen", id=bead_id)["bead"]
    assert bead["status"] == "open"
    assert "dead-letter" not in bead.get("labels", [])
    lease = shared_town.lease(worker, bead_id)
    assert lease["attempt"] == 1
    assert lease["token"] > max(tokens)


@pytest.mark.parametrize(
    "edit",
    [
        {"title": "other"},
        {"priority": 0},
        {"labels": ["x"]},
        {"description": "more"},
        {"defer_until": "2999-01-01T00:00:00Z"},
        {"metadata": {"k": 1}},
    ],
    ids=lambda edit: next(iter(edit)),
)
def test_an_edit_leaves_the_lease_alone(shared_town: Town, edit: dict[str, Any]) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    shared_town.call("bead.update", id=lease["bead_id"], set=edit)
    assert len(beat(shared_town, worker, lease)["leases"]) == 1
    assert shared_town.call("work.complete", **held(lease))["bead"]["status"] == "closed"


def test_edges_and_comments_leave_the_lease_alone(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    blocker = shared_town.bead()["id"]
    shared_town.call("bead.depend", **{"from": lease["bead_id"], "to": blocker, "kind": "blocks"})
    shared_town.call("bead.comment", id=lease["bead_id"], text="still on it")
    assert len(beat(shared_town, worker, lease)["leases"]) == 1
    assert shared_town.get(lease["bead_id"])["status"] == "in_progress"
