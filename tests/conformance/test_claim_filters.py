"""What a claim may be narrowed to, how many it hands out, and what it says when there is nothing."""

from typing import Any

import pytest

from .town import Town, unique


def ids(claims: list[dict[str, Any]]) -> list[str]:
    return sorted(claim["bead"]["id"] for claim in claims)


def test_a_claim_carries_bead_lease_and_context(shared_town: Town) -> None:
    name = unique("worker")
    worker = shared_town.worker(name)
    bead = shared_town.bead("paint the fence")
    (claim,) = shared_town.claim(worker, filter={"bead_id": bead["id"]})
    assert set(claim) == {"bead", "lease", "context"}
    assert claim["bead"]["title"] == "paint the fence"
    assert claim["bead"]["status"] == "in_progress"
    assert claim["bead"]["assignee"] == name
    assert set(claim["lease"]) == {"bead_id", "worker_id", "token", "attempt", "expires_at_ms"}
    assert claim["lease"]["bead_id"] == bead["id"]
    assert claim["lease"]["worker_id"] == worker
    assert claim["lease"]["attempt"] == 1
    assert claim["context"]["previous"] == []


def test_an_ok_claim_carries_seq_and_epoch(shared_town: Town) -> None:
    bead = shared_town.bead()
    reply = shared_town.call("work.claim", worker_id=shared_town.worker(), filter={"bead_id": bead["id"]})
    assert reply["seq"] == shared_town.history(bead["id"])[-1]["seq"]
    assert reply["epoch"] == shared_town.call("system.info")["epoch"]


def test_a_bead_is_handed_out_once(shared_town: Town) -> None:
    bead = shared_town.bead()["id"]
    assert ids(shared_town.claim(shared_town.worker(), filter={"bead_id": bead})) == [bead]
    assert shared_town.claim(shared_town.worker(), filter={"bead_id": bead}) == []


def test_labels_all_needs_every_label(shared_town: Town) -> None:
    one, two = unique("label"), unique("label")
    shared_town.bead(labels=[one])
    both = shared_town.bead(labels=[two, one, "other"])["id"]
    assert ids(shared_town.claim(shared_town.worker(), limit=9, filter={"labels_all": [one, two]})) == [both]


def test_labels_any_needs_one_label(shared_town: Town) -> None:
    one, two = unique("label"), unique("label")
    wanted = [shared_town.bead(labels=[one])["id"], shared_town.bead(labels=[two])["id"]]
    shared_town.bead(labels=[unique("label")])
    assert ids(shared_town.claim(shared_town.worker(), limit=9, filter={"labels_any": [one, two]})) == sorted(wanted)


def test_filter_fields_all_hold(shared_town: Town) -> None:
    rig, label = unique("rig"), unique("label")
    shared_town.bead(rig=rig)
    shared_town.bead(labels=[label])
    shared_town.bead(rig=rig, labels=[label], issue_type="chore")
    wanted = shared_town.bead(rig=rig, labels=[label], issue_type="bug")["id"]
    wish = {"rig": rig, "labels_all": [label], "issue_types": ["bug", "feature"]}
    assert ids(shared_town.claim(shared_town.worker(), limit=9, filter=wish)) == [wanted]


def test_issue_types_narrows(shared_town: Town) -> None:
    rig = unique("rig")
    shared_town.bead(rig=rig, issue_type="bug")
    wanted = shared_town.bead(rig=rig, issue_type="chore")["id"]
    assert ids(shared_town.claim(shared_town.worker(), limit=9, filter={"rig": rig, "issue_types": ["chore"]})) == [
        wanted
    ]


@pytest.mark.parametrize(
    "kind", ["merge-request", "gate", "molecule", "message", "agent", "role", "rig", "event", "convoy"]
)
def test_excluded_types_need_to_be_named(shared_town: Town, kind: str) -> None:
    rig = unique("rig")
    bead = shared_town.bead(rig=rig, issue_type=kind)["id"]
    worker = shared_town.worker()
    assert shared_town.claim(worker, limit=9, filter={"rig": rig}) == []
    assert ids(shared_town.claim(worker, limit=9, filter={"rig": rig, "issue_types": [kind]})) == [bead]


def test_a_bead_id_filter_does_not_admit_an_excluded_type(shared_town: Town) -> None:
    bead = shared_town.bead(issue_type="gate")["id"]
    assert shared_town.claim(shared_town.worker(), filter={"bead_id": bead}) == []


def test_convoy_narrows(shared_town: Town) -> None:
    rig = unique("rig")
    inside, outside = (shared_town.bead(rig=rig)["id"] for _ in range(2))
    convoy = shared_town.call("convoy.create", name="inside", beads=[inside])["convoy"]["id"]
    assert ids(shared_town.claim(shared_town.worker(), limit=9, filter={"rig": rig, "convoy": convoy})) == [inside]
    assert ids(shared_town.claim(shared_town.worker(), limit=9, filter={"rig": rig})) == [outside]


@pytest.mark.parametrize("bead_id", ["no-such-bead", "x" * 128])
def test_an_unknown_bead_id_is_nothing_to_do(shared_town: Town, bead_id: str) -> None:
    assert shared_town.claim(shared_town.worker(), filter={"bead_id": bead_id}) == []


def test_a_bead_id_that_is_not_ready_is_nothing_to_do(shared_town: Town) -> None:
    blocker = shared_town.bead()["id"]
    bead = shared_town.bead(depends_on=[{"id": blocker}])["id"]
    assert shared_town.claim(shared_town.worker(), filter={"bead_id": bead}) == []


def test_a_filter_never_skips_to_a_bead_of_another_rig(shared_town: Town) -> None:
    shared_town.bead(rig=unique("rig"))
    assert shared_town.claim(shared_town.worker(), filter={"rig": unique("rig")}) == []


def test_limit_bounds_the_claims_of_a_call(shared_town: Town) -> None:
    rig = unique("rig")
    shared_town.beads(*({"title": "t", "rig": rig} for _ in range(5)))
    worker = shared_town.worker()
    assert len(shared_town.claim(worker, filter={"rig": rig})) == 1
    assert len(shared_town.claim(worker, limit=3, filter={"rig": rig})) == 3
    assert len(shared_town.claim(worker, limit=3, filter={"rig": rig})) == 1


def test_the_tokens_of_one_call_differ(shared_town: Town) -> None:
    rig = unique("rig")
    shared_town.beads(*({"title": "t", "rig": rig} for _ in range(4)))
    claims = shared_town.claim(shared_town.worker(), limit=4, filter={"rig": rig})
    assert len({claim["lease"]["token"] for claim in claims}) == 4


def test_capacity_and_labels_are_advice(shared_town: Town) -> None:
    rig = unique("rig")
    shared_town.beads(*({"title": "t", "rig": rig, "labels": ["python"]} for _ in range(3)))
    worker = shared_town.worker(capacity=1, labels=["rust"])
    assert len(shared_town.claim(worker, limit=3, filter={"rig": rig})) == 3


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"limit": 0}, -32602),
        ({"limit": -1}, -32602),
        ({"limit": 1.0}, -32602),
        ({"limit": True}, -32602),
        ({"limit": "1"}, -32602),
        ({"limit": 101}, 1012),
        ({"wait_ms": -1}, -32602),
        ({"wait_ms": 45_001}, 1012),
        ({"ttl_ms": 0}, -32602),
        ({"ttl_ms": 9_999}, -32602),
        ({"ttl_ms": 86_400_001}, 1012),
        ({"ttl_ms": 2**63}, -32602),
        ({"ttl_ms": "10000"}, -32602),
        ({"filter": {"labels_all": []}}, -32602),
        ({"filter": {"labels_any": []}}, -32602),
        ({"filter": {"issue_types": []}}, -32602),
        ({"filter": {"label": ["x"]}}, -32602),
        ({"filter": {"labels_all": "x"}}, -32602),
        ({"filter": []}, -32602),
        ({"surprise": 1}, -32602),
    ],
)
def test_bad_claim_params_are_refused(plain_town: Town, params: dict[str, Any], code: int) -> None:
    bead = plain_town.bead()["id"]
    refused = plain_town.refusal("work.claim", **{"worker_id": plain_town.worker(), **params})
    assert refused.code == code
    assert refused.data["retryable"] is False
    assert plain_town.get(bead)["status"] == "open"


def test_a_limit_error_names_limit_and_max(plain_town: Town) -> None:
    refused = plain_town.refusal("work.claim", worker_id=plain_town.worker(), wait_ms=45_001)
    assert (refused.kind, refused.data["max"]) == ("limit", 45_000)
    assert refused.data["limit"]


@pytest.mark.parametrize("ttl_ms", [10_000, 86_400_000])
def test_the_bounds_of_a_ttl_are_inside(plain_town: Town, ttl_ms: int) -> None:
    lease = plain_town.lease(plain_town.worker(), ttl_ms=ttl_ms)
    granted = plain_town.history(lease["bead_id"])[-1]
    assert lease["expires_at_ms"] == granted["at_ms"] + ttl_ms


def test_a_lease_lasts_five_minutes_by_default(plain_town: Town) -> None:
    lease = plain_town.lease(plain_town.worker())
    assert lease["expires_at_ms"] == plain_town.history(lease["bead_id"])[-1]["at_ms"] + 300_000


def test_an_unknown_worker_is_told_to_register(shared_town: Town) -> None:
    refused = shared_town.refusal("work.claim", worker_id="nobody")
    assert (refused.code, refused.kind, refused.data["retryable"]) == (1008, "worker_unknown", False)


def test_nothing_to_do_says_when_to_come_again(plain_town: Town) -> None:
    reply = plain_town.call("work.claim", worker_id=plain_town.worker(), filter={"rig": unique("rig")})
    assert reply["claims"] == []
    assert 1_000 <= reply["retry_after_ms"] <= 45_000


def test_claims_come_without_retry_after(plain_town: Town) -> None:
    bead = plain_town.bead()["id"]
    reply = plain_town.call("work.claim", worker_id=plain_town.worker(), filter={"bead_id": bead})
    assert len(reply["claims"]) == 1
    assert "retry_after_ms" not in reply


def test_retry_after_is_the_time_to_the_end_of_a_backoff(plain_town: Town) -> None:
    lease = plain_town.lease(plain_town.worker())
    plain_town.call("work.fail", bead_id=lease["bead_id"], token=lease["token"], error="no")
    wish = {"bead_id": lease["bead_id"]}
    reply = plain_town.call("work.claim", worker_id=plain_town.worker(), filter=wish)
    assert 20_000 < reply["retry_after_ms"] <= 30_000


def test_retry_after_is_the_time_to_a_lease_deadline(plain_town: Town) -> None:
    lease = plain_town.lease(plain_town.worker(), ttl_ms=10_000)
    wish = {"bead_id": lease["bead_id"]}
    reply = plain_town.call("work.claim", worker_id=plain_town.worker(), filter=wish)
    assert 1_000 <= reply["retry_after_ms"] <= 10_000


def test_retry_after_is_at_least_a_second(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=300)
    wish = {"bead_id": lease["bead_id"]}
    reply = shared_town.call("work.claim", worker_id=shared_town.worker(), filter=wish)
    assert reply["claims"] or reply["retry_after_ms"] == 1_000


def test_retry_after_is_capped(plain_town: Town) -> None:
    bead = plain_town.bead(defer_until="2999-01-01T00:00:00Z")["id"]
    reply = plain_town.call("work.claim", worker_id=plain_town.worker(), filter={"bead_id": bead})
    assert reply["claims"] == []
    assert reply["retry_after_ms"] == 45_000
