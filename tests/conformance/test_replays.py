"""request_id: a retry returns the first result, whatever happened in between."""

from typing import Any

import pytest

from .holding import LONG_MS, TTL_MS, held
from .town import Town, unique
from .wire import post, unwrap


def twice(town: Town, method: str, **params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same call with the same new request_id, two times."""
    request_id = unique("request")
    first = town.call(method, request_id=request_id, **params)
    return first, town.call(method, request_id=request_id, **params)


def is_replay(first: dict[str, Any], again: dict[str, Any]) -> bool:
    """Whether `again` is the first result, marked as a replay."""
    assert "replayed" not in first or first["replayed"] is False
    unmarked = {key: value for key, value in first.items() if key != "replayed"}
    return again == {**unmarked, "replayed": True}


def test_a_create_is_replayed(shared_town: Town) -> None:
    rig = unique("rig")
    first, again = twice(shared_town, "bead.create", beads=[{"title": "once", "rig": rig}])
    assert is_replay(first, again)
    assert len(shared_town.call("bead.list", filter={"rig": rig})["beads"]) == 1


def test_a_replay_shows_the_first_result_though_the_bead_has_changed(shared_town: Town) -> None:
    params = {"request_id": unique("request"), "beads": [{"title": "first title"}]}
    first = shared_town.call("bead.create", **params)
    shared_town.call("bead.update", id=first["beads"][0]["id"], set={"title": "second title"})
    assert is_replay(first, shared_town.call("bead.create", **params))


def test_a_claim_is_replayed_with_the_same_grants(shared_town: Town) -> None:
    rig = unique("rig")
    shared_town.beads(*({"title": "t", "rig": rig} for _ in range(5)))
    first, again = twice(shared_town, "work.claim", worker_id=shared_town.worker(), limit=2, filter={"rig": rig})
    assert len(first["claims"]) == 2
    assert is_replay(first, again)


def test_a_claim_is_replayed_after_its_bead_was_completed(shared_town: Town) -> None:
    params = {
        "request_id": unique("request"),
        "worker_id": shared_town.worker(),
        "filter": {"bead_id": shared_town.bead()["id"]},
    }
    first = shared_town.call("work.claim", **params)
    shared_town.call("work.complete", **held(first["claims"][0]["lease"]))
    assert is_replay(first, shared_town.call("work.claim", **params))


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("work.complete", {"result": {"summary": "done"}}),
        ("work.fail", {"error": "no"}),
        ("work.fail", {"error": "no", "retryable": False}),
        ("work.release", {}),
        ("work.block", {"reason": "needs a person"}),
    ],
)
def test_a_settle_is_replayed_though_its_token_is_spent(shared_town: Town, method: str, params: dict[str, Any]) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=LONG_MS)
    first, again = twice(shared_town, method, **held(lease), **params)
    assert is_replay(first, again)


def test_a_complete_is_replayed_with_its_next_claims(shared_town: Town) -> None:
    worker, rig = shared_town.worker(), unique("rig")
    shared_town.beads(*({"title": "t", "rig": rig} for _ in range(3)))
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    wish = {"worker_id": worker, "limit": 2, "filter": {"rig": rig}}
    first, again = twice(shared_town, "work.complete", **held(lease), claim=wish)
    assert len(first["claims"]) == 2
    assert is_replay(first, again)


def test_register_comment_edges_and_convoys_are_replayed(shared_town: Town) -> None:
    one, two = shared_town.bead()["id"], shared_town.bead()["id"]
    edge = {"from": one, "to": two, "kind": "blocks"}
    for method, params in [
        ("worker.register", {"name": unique("worker")}),
        ("bead.comment", {"id": one, "text": "once"}),
        ("bead.depend", edge),
        ("bead.undepend", edge),
        ("bead.update", {"id": one, "set": {"title": "once"}}),
        ("bead.close", {"id": one, "reason": "once"}),
        ("bead.reopen", {"id": one}),
        ("convoy.create", {"name": "once", "beads": [one]}),
        ("token.create", {"scope": "read", "name": unique("token")}),
    ]:
        first, again = twice(shared_town, method, **params)
        assert is_replay(first, again), method
    assert len(shared_town.get(one)["comments"]) == 1


@pytest.mark.parametrize("change", [{"beads": [{"title": "b"}]}, {"beads": [{"title": "a", "priority": 1}]}])
def test_the_same_id_with_other_params_is_refused(shared_town: Town, change: dict[str, Any]) -> None:
    request_id = unique("request")
    shared_town.call("bead.create", request_id=request_id, beads=[{"title": "a"}])
    refused = shared_town.refusal("bead.create", request_id=request_id, **change)
    assert (refused.code, refused.kind, refused.data["retryable"]) == (1004, "request_id_reused", False)


def test_the_same_id_for_another_method_is_refused(shared_town: Town) -> None:
    request_id, bead = unique("request"), shared_town.bead()["id"]
    shared_town.call("bead.close", request_id=request_id, id=bead, reason="x")
    assert shared_town.refusal("bead.reopen", request_id=request_id, id=bead).code == 1004


def test_params_are_equal_after_decoding(shared_town: Town) -> None:
    request_id = unique("request")
    spellings = [
        f'{{"request_id": "{request_id}", "beads": [{{"title": "caf\\u00e9", "priority": 1}}]}}',
        f'{{"beads":[{{"priority":1,"title":"café"}}],"request_id":"{request_id}"}}',
    ]
    results = []
    for spelling in spellings:
        request = f'{{"jsonrpc": "2.0", "id": 1, "method": "bead.create", "params": {spelling}}}'
        results.append(unwrap(shared_town.raw(post(request.encode())).json()))
    assert is_replay(*results)


def test_a_refusal_is_not_recorded(shared_town: Town) -> None:
    request_id = unique("request")
    assert shared_town.refusal("bead.close", request_id=request_id, id="no-such-bead", reason="x").code == 1002
    assert shared_town.call("bead.create", request_id=request_id, beads=[{"title": "t"}])["beads"]


def test_an_ok_that_changed_nothing_is_not_recorded(shared_town: Town) -> None:
    request_id, rig = unique("request"), unique("rig")
    params = {"request_id": request_id, "worker_id": shared_town.worker(), "filter": {"rig": rig}}
    assert shared_town.call("work.claim", **params)["claims"] == []
    bead = shared_town.bead(rig=rig)["id"]
    reply = shared_town.call("work.claim", **params)
    assert [claim["bead"]["id"] for claim in reply["claims"]] == [bead]
    assert not reply.get("replayed")


@pytest.mark.parametrize(
    ("method", "params"),
    [("bead.get", {"id": "x"}), ("bead.list", {}), ("queue.stats", {}), ("system.info", {}), ("worker.list", {})],
)
def test_a_read_takes_no_request_id(shared_town: Town, method: str, params: dict[str, Any]) -> None:
    assert shared_town.refusal(method, request_id="r", **params).code == -32602


@pytest.mark.parametrize(("request_id", "code"), [("x" * 65, 1012), (7, -32602), (True, -32602), ({}, -32602)])
def test_bad_request_ids_are_refused(shared_town: Town, request_id: object, code: int) -> None:
    assert shared_town.refusal("bead.create", request_id=request_id, beads=[{"title": "t"}]).code == code


def test_64_characters_are_a_request_id(shared_town: Town) -> None:
    request_id = unique("x").ljust(64, "é")
    params = {"request_id": request_id, "beads": [{"title": "t"}]}
    first = shared_town.call("bead.create", **params)
    assert is_replay(first, shared_town.call("bead.create", **params))


def test_a_superseded_workers_claim_is_still_replayed(shared_town: Town) -> None:
    name = unique("worker")
    params = {
        "request_id": unique("request"),
        "worker_id": shared_town.worker(name),
        "filter": {"bead_id": shared_town.bead()["id"]},
    }
    first = shared_town.call("work.claim", **params)
    shared_town.worker(name)
    assert is_replay(first, shared_town.call("work.claim", **params))


def test_a_draining_workers_claim_is_still_replayed(shared_town: Town) -> None:
    worker = shared_town.worker()
    params = {
        "request_id": unique("request"),
        "worker_id": worker,
        "filter": {"bead_id": shared_town.bead()["id"]},
    }
    first = shared_town.call("work.claim", **params)
    shared_town.call("worker.drain", worker_id=worker)
    assert is_replay(first, shared_town.call("work.claim", **params))


def test_credentials_do_not_share_request_ids(shared_town: Town) -> None:
    request_id = unique("request")
    tokens = [shared_town.call("token.create", scope="worker", name=unique("t"))["token"] for _ in range(2)]
    results = [
        shared_town.call_as(token, "bead.create", request_id=request_id, beads=[{"title": f"title {n}"}])
        for n, token in enumerate(tokens)
    ]
    assert [result["beads"][0]["title"] for result in results] == ["title 0", "title 1"]


def test_the_unix_sockets_are_one_credential(shared_town: Town) -> None:
    params = {"request_id": unique("request"), "beads": [{"title": "t"}]}
    first = shared_town.call("bead.create", **params)
    assert is_replay(first, shared_town.lines().call("bead.create", **params))


def test_a_twin_of_a_waiting_claim_takes_its_place(shared_town: Town) -> None:
    rig = unique("rig")
    params = {
        "request_id": unique("request"),
        "worker_id": shared_town.worker(),
        "filter": {"rig": rig},
        "wait_ms": 20_000,
    }
    lines = shared_town.lines()
    first = lines.park("work.claim", **params)
    second = lines.park("work.claim", **params)
    assert lines.answer(first)["claims"] == []
    bead = shared_town.bead(rig=rig)["id"]
    assert [claim["bead"]["id"] for claim in lines.answer(second)["claims"]] == [bead]


def test_twins_at_the_same_time_take_effect_once(shared_town: Town) -> None:
    rig = unique("rig")
    params = {"request_id": unique("request"), "beads": [{"title": "once", "rig": rig}]}
    pending = [shared_town.ask("bead.create", **params) for _ in range(8)]
    results = [item.answer() for item in pending]
    assert len({result["beads"][0]["id"] for result in results}) == 1
    assert sum(bool(result.get("replayed")) for result in results) == 7


def test_twins_in_one_batch_take_effect_once(shared_town: Town) -> None:
    params = {"request_id": unique("request"), "beads": [{"title": "once"}]}
    first, again = (entry["result"] for entry in shared_town.batch(("bead.create", params), ("bead.create", params)))
    assert is_replay(first, again)


def test_a_grant_with_a_request_id_is_kept_for_its_asker_after_a_hang_up(shared_town: Town) -> None:
    rig = unique("rig")
    params = {"request_id": unique("request"), "worker_id": shared_town.worker(), "filter": {"rig": rig}}
    bead = shared_town.bead(rig=rig)["id"]
    gone = shared_town.ask("work.claim", **params, ttl_ms=LONG_MS)
    shared_town.await_kind(bead, "leased")
    gone.hang_up()
    reply = shared_town.call("work.claim", **params, ttl_ms=LONG_MS)
    assert reply["replayed"] is True
    assert [claim["bead"]["id"] for claim in reply["claims"]] == [bead]


def test_replays_survive_kill_9(town: Town) -> None:
    params = {"request_id": "over-the-crash", "beads": [{"title": "once"}]}
    first = town.call("bead.create", **params)
    claim = {"request_id": "claim", "worker_id": town.worker(), "ttl_ms": LONG_MS}
    granted = town.call("work.claim", **claim)
    town.kill9()
    town.start()
    assert is_replay(first, town.call("bead.create", **params))
    assert is_replay(granted, town.call("work.claim", **claim))
    assert town.call("system.info")["epoch"] > first["epoch"]
    assert town.refusal("bead.create", request_id="over-the-crash", beads=[{"title": "other"}]).code == 1004


def test_a_replayed_claim_shows_the_first_lease_after_its_deadline(shared_town: Town) -> None:
    params = {
        "request_id": unique("request"),
        "worker_id": shared_town.worker(),
        "filter": {"bead_id": shared_town.bead()["id"]},
        "ttl_ms": TTL_MS,
    }
    first = shared_town.call("work.claim", **params)
    shared_town.await_kind(first["claims"][0]["bead"]["id"], "lapsed")
    assert is_replay(first, shared_town.call("work.claim", **params))
