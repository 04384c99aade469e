"""Beads after their creation: update, close, reopen, edges, comments, versions and history."""

from typing import Any

import pytest

from .test_bead_create import EVERYTHING
from .town import Town, unique


def updated(town: Town, bead_id: str, **fields: Any) -> dict[str, Any]:
    bead: dict[str, Any] = town.call("bead.update", id=bead_id, set=fields)["bead"]
    return bead


@pytest.mark.parametrize("field", sorted(EVERYTHING))
def test_a_field_may_be_set(shared_town: Town, field: str) -> None:
    bead = shared_town.bead()
    value = sorted(EVERYTHING[field]) if field == "labels" else EVERYTHING[field]
    after = updated(shared_town, bead["id"], **{field: EVERYTHING[field]})
    assert after[field] == value
    assert after["version"] == bead["version"] + 1
    assert shared_town.get(bead["id"]) == after


@pytest.mark.parametrize("field", ["description", "notes", "assignee", "due_at", "external_ref", "metadata", "labels"])
def test_null_clears_a_field(shared_town: Town, field: str) -> None:
    bead = shared_town.bead(**EVERYTHING)
    assert not updated(shared_town, bead["id"], **{field: None}).get(field)


def test_labels_are_replaced_whole(shared_town: Town) -> None:
    bead = shared_town.bead(labels=["a", "b"])
    assert updated(shared_town, bead["id"], labels=["c", "b"])["labels"] == ["b", "c"]


@pytest.mark.parametrize(
    ("status", "state"),
    [("open", "ready"), ("blocked", "blocked"), ("deferred", "parked"), ("pinned", "parked"), ("hooked", "parked"),
     ("in_review", "parked")],
)  # fmt: skip
def test_a_status_may_be_set(shared_town: Town, status: str, state: str) -> None:
    bead = shared_town.bead()["id"]
    assert updated(shared_town, bead, status=status)["status"] == status
    assert shared_town.state_of(bead) == state


@pytest.mark.parametrize("status", ["closed", "in_progress"])
def test_some_statuses_are_not_for_update(shared_town: Town, status: str) -> None:
    bead = shared_town.bead()
    refused = shared_town.refusal("bead.update", id=bead["id"], set={"status": status})
    assert (refused.code, refused.kind, refused.data["state"]) == (1003, "conflict", "ready")
    assert isinstance(refused.data["allowed"], list)
    assert shared_town.get(bead["id"]) == bead


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "other"},
        {"depends_on": []},
        {"parent": "x"},
        {"version": 9},
        {"surprise": 1},
        {"title": 5},
        {"priority": -1},
        {"status": "Not A Status"},
        {"labels": "a"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_bad_updates_are_refused(shared_town: Town, fields: dict[str, Any]) -> None:
    bead = shared_town.bead()
    refused = shared_town.refusal("bead.update", id=bead["id"], set=fields)
    assert refused.code == -32602
    assert "field" in refused.data
    assert shared_town.get(bead["id"]) == bead


def test_if_version_guards_an_update(shared_town: Town) -> None:
    bead = shared_town.bead()
    after = shared_town.call("bead.update", id=bead["id"], set={"title": "mine"}, if_version=bead["version"])["bead"]
    refused = shared_town.refusal("bead.update", id=bead["id"], set={"title": "theirs"}, if_version=bead["version"])
    assert (refused.code, refused.data["version"], refused.data["state"]) == (1003, after["version"], "ready")
    assert "allowed" in refused.data
    assert shared_town.get(bead["id"])["title"] == "mine"


def test_of_two_writers_with_one_version_one_wins(shared_town: Town) -> None:
    bead = shared_town.bead()
    pending = [
        shared_town.ask("bead.update", id=bead["id"], set={"title": f"title {n}"}, if_version=bead["version"])
        for n in range(4)
    ]
    replies = [item.connection.read_reply().json() for item in pending]
    assert sorted("error" in reply for reply in replies) == [False, True, True, True]
    assert shared_town.get(bead["id"])["version"] == bead["version"] + 1


def test_parallel_writes_do_not_vanish(shared_town: Town) -> None:
    bead = shared_town.bead()["id"]
    pending = [shared_town.ask("bead.comment", id=bead, text=f"comment {n}") for n in range(30)]
    for item in pending:
        item.answer()
    texts = {comment["text"] for comment in shared_town.get(bead)["comments"]}
    assert texts == {f"comment {n}" for n in range(30)}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("bead.get", {}),
        ("bead.update", {"set": {"title": "t"}}),
        ("bead.close", {"reason": "x"}),
        ("bead.reopen", {}),
        ("bead.comment", {"text": "x"}),
        ("bead.history", {}),
    ],
)
def test_an_unknown_bead_is_not_found(shared_town: Town, method: str, params: dict[str, Any]) -> None:
    refused = shared_town.refusal(method, id="no-such-bead", **params)
    assert (refused.code, refused.kind, refused.data["retryable"]) == (1002, "not_found", False)
    assert (refused.data["what"], refused.data["id"]) == ("bead", "no-such-bead")


def test_close_and_reopen(shared_town: Town) -> None:
    bead_id = shared_town.bead()["id"]
    closed = shared_town.call("bead.close", id=bead_id, reason="no longer wanted")["bead"]
    assert (closed["status"], closed["close_reason"]) == ("closed", "no longer wanted")
    assert closed["closed_at"]
    reopened = shared_town.call("bead.reopen", id=bead_id)["bead"]
    assert reopened["status"] == "open"
    assert not reopened.get("closed_at")
    assert shared_town.kinds(bead_id) == ["created", "closed", "reopened"]
    assert shared_town.state_of(bead_id) == "ready"


def test_closing_a_closed_bead_is_a_conflict(shared_town: Town) -> None:
    bead = shared_town.bead()["id"]
    shared_town.call("bead.close", id=bead, reason="x")
    refused = shared_town.refusal("bead.close", id=bead, reason="x")
    assert (refused.code, refused.data["state"]) == (1003, "closed")
    assert "bead.reopen" in refused.data["allowed"]


def test_reopening_an_open_bead_is_a_conflict(shared_town: Town) -> None:
    refused = shared_town.refusal("bead.reopen", id=shared_town.bead()["id"])
    assert (refused.code, refused.data["state"]) == (1003, "ready")


def test_a_reopened_blocker_blocks_again(shared_town: Town) -> None:
    blocker = shared_town.bead()["id"]
    bead = shared_town.bead(depends_on=[{"id": blocker}])["id"]
    shared_town.call("bead.close", id=blocker, reason="done")
    assert shared_town.state_of(bead) == "ready"
    shared_town.call("bead.reopen", id=blocker)
    assert shared_town.state_of(bead) == "waiting"


def test_a_comment_is_kept(shared_town: Town) -> None:
    bead = shared_town.bead()
    after = shared_town.call("bead.comment", id=bead["id"], text="see the log")["bead"]
    assert [comment["text"] for comment in after["comments"]] == ["see the log"]
    assert after["version"] == bead["version"] + 1
    assert shared_town.kinds(bead["id"]) == ["created", "commented"]


def test_depend_and_undepend(shared_town: Town) -> None:
    bead, blocker = shared_town.bead()["id"], shared_town.bead()["id"]
    edge = {"from": bead, "to": blocker, "kind": "blocks"}
    after = shared_town.call("bead.depend", **edge)["bead"]
    assert [(row["depends_on_id"], row["type"]) for row in after["dependencies"]] == [(blocker, "blocks")]
    assert shared_town.state_of(bead) == "waiting"
    assert not shared_town.call("bead.undepend", **edge)["bead"].get("dependencies")
    assert shared_town.state_of(bead) == "ready"
    assert shared_town.kinds(bead) == ["created", "edge_added", "edge_removed"]


def test_depend_existing_and_undepend_missing_are_ok_without_an_event(shared_town: Town) -> None:
    bead, blocker = shared_town.bead()["id"], shared_town.bead()["id"]
    edge = {"from": bead, "to": blocker, "kind": "blocks"}
    before = shared_town.seq()
    assert shared_town.call("bead.undepend", **edge)["seq"] == before
    first = shared_town.call("bead.depend", **edge)
    assert first["seq"] == before + 1
    again = shared_town.call("bead.depend", **edge)
    assert again["seq"] == before + 1
    assert again["bead"]["version"] == first["bead"]["version"]


@pytest.mark.parametrize("end", ["from", "to"])
def test_an_edge_needs_both_beads(shared_town: Town, end: str) -> None:
    bead = shared_town.bead()["id"]
    edge = {"from": bead, "to": bead, "kind": "blocks", end: "no-such-bead"}
    refused = shared_town.refusal("bead.depend", **edge)
    assert (refused.code, refused.data["id"]) == (1002, "no-such-bead")


def test_versions_grow_by_one_with_each_event(shared_town: Town) -> None:
    bead = shared_town.bead()["id"]
    shared_town.call("bead.comment", id=bead, text="x")
    updated(shared_town, bead, priority=0)
    shared_town.call("bead.close", id=bead, reason="x")
    assert shared_town.get(bead)["version"] == len(shared_town.history(bead)) == 4


def test_an_update_that_changes_nothing_is_no_event(shared_town: Town) -> None:
    bead = shared_town.bead("the same")
    before = shared_town.seq()
    reply = shared_town.call("bead.update", id=bead["id"], set={"title": "the same"})
    assert (reply["seq"], reply["bead"]) == (before, bead)


def test_updated_at_never_goes_back(shared_town: Town) -> None:
    bead = shared_town.bead()
    seen = [bead["updated_at"]]
    for n in range(5):
        seen.append(updated(shared_town, bead["id"], title=f"title {n}")["updated_at"])
    assert seen == sorted(seen)


def test_history_is_in_seq_order_and_names_the_bead(shared_town: Town) -> None:
    bead = shared_town.bead()["id"]
    updated(shared_town, bead, title=unique("title"))
    shared_town.bead()
    shared_town.call("bead.close", id=bead, reason="x")
    events = shared_town.history(bead)
    assert [event["kind"] for event in events] == ["created", "updated", "closed"]
    seqs = [event["seq"] for event in events]
    assert seqs == sorted(set(seqs))
    for event in events:
        assert event["bead_id"] == bead
        assert {"seq", "epoch", "at_ms", "kind"} <= set(event)
