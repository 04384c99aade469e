"""Convoys: named groups of beads with progress."""

from typing import Any

import pytest

from .town import Town, unique


def new(town: Town, *beads: str, **params: Any) -> dict[str, Any]:
    convoy: dict[str, Any] = town.call("convoy.create", name=unique("convoy"), beads=list(beads), **params)["convoy"]
    return convoy


def got(town: Town, convoy_id: str) -> dict[str, Any]:
    convoy: dict[str, Any] = town.call("convoy.get", id=convoy_id)["convoy"]
    return convoy


def test_a_new_convoy(shared_town: Town) -> None:
    beads = [shared_town.bead(rig=unique("rig"))["id"] for _ in range(2)]
    reply = shared_town.call("convoy.create", name="release 1", beads=beads)
    convoy = reply["convoy"]
    assert set(convoy) == {"id", "name", "beads", "progress", "closed", "total", "created_at_ms"}
    assert (convoy["name"], sorted(convoy["beads"])) == ("release 1", sorted(beads))
    assert (convoy["closed"], convoy["total"]) == (0, 2)
    assert {state: n for state, n in convoy["progress"].items() if n} == {"ready": 2}
    assert got(shared_town, convoy["id"]) == convoy
    assert reply["seq"] == shared_town.seq()


def test_a_convoy_may_be_empty_and_have_a_given_id(shared_town: Town) -> None:
    name = unique("given")
    convoy = shared_town.call("convoy.create", name="empty", id=name)["convoy"]
    assert (convoy["id"], convoy["beads"], convoy["total"]) == (name, [], 0)


def test_a_taken_convoy_id_is_a_conflict(shared_town: Town) -> None:
    taken = new(shared_town)["id"]
    assert shared_town.refusal("convoy.create", name="again", id=taken).code == 1003


def test_progress_follows_the_states(shared_town: Town) -> None:
    one, two, three = (shared_town.bead()["id"] for _ in range(3))
    shared_town.call("bead.depend", **{"from": three, "to": one, "kind": "blocks"})
    convoy = new(shared_town, one, two, three)["id"]
    shared_town.lease(shared_town.worker(), one, ttl_ms=60_000)
    shared_town.call("bead.close", id=two, reason="done")
    shown = got(shared_town, convoy)
    assert {state: n for state, n in shown["progress"].items() if n} == {"leased": 1, "closed": 1, "waiting": 1}
    assert (shown["closed"], shown["total"]) == (1, 3)


def test_add_and_remove_are_idempotent(shared_town: Town) -> None:
    one, two = (shared_town.bead()["id"] for _ in range(2))
    convoy = new(shared_town, one)["id"]
    first = shared_town.call("convoy.add", id=convoy, beads=[one, two])
    assert sorted(first["convoy"]["beads"]) == sorted([one, two])
    again = shared_town.call("convoy.add", id=convoy, beads=[one, two])
    assert (again["convoy"], again["seq"]) == (first["convoy"], first["seq"])
    removed = shared_town.call("convoy.remove", id=convoy, beads=[one])
    assert removed["convoy"]["beads"] == [two]
    again = shared_town.call("convoy.remove", id=convoy, beads=[one])
    assert (again["convoy"]["beads"], again["seq"]) == ([two], removed["seq"])


@pytest.mark.parametrize("method", ["convoy.create", "convoy.add"])
def test_an_unknown_bead_refuses_the_whole_call(shared_town: Town, method: str) -> None:
    known, convoy = shared_town.bead()["id"], new(shared_town)["id"]
    params = {"name": "x"} if method == "convoy.create" else {"id": convoy}
    refused = shared_town.refusal(method, **params, beads=[known, "no-such-bead"])
    assert (refused.code, refused.data["what"], refused.data["id"]) == (1002, "bead", "no-such-bead")
    assert got(shared_town, convoy)["beads"] == []


@pytest.mark.parametrize("method", ["convoy.get", "convoy.add", "convoy.remove"])
def test_an_unknown_convoy_is_not_found(shared_town: Town, method: str) -> None:
    params = {} if method == "convoy.get" else {"beads": [shared_town.bead()["id"]]}
    refused = shared_town.refusal(method, id="no-such-convoy", **params)
    assert (refused.code, refused.data["what"], refused.data["id"]) == (1002, "convoy", "no-such-convoy")


def test_the_list_is_paged(shared_town: Town) -> None:
    mine = {new(shared_town)["id"] for _ in range(5)}
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = shared_town.call("convoy.list", limit=2, **cursor)
        assert len(page["convoys"]) <= 2
        seen += [convoy["id"] for convoy in page["convoys"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert len(seen) == len(set(seen))
    assert mine <= set(seen)


def test_a_convoy_survives_a_restart(town: Town) -> None:
    convoy = new(town, town.bead()["id"])
    town.restart()
    assert got(town, convoy["id"]) == convoy


def test_membership_leaves_lease_and_order_alone(shared_town: Town) -> None:
    lease = shared_town.lease(shared_town.worker(), ttl_ms=60_000)
    new(shared_town, lease["bead_id"])
    done = shared_town.call("work.complete", bead_id=lease["bead_id"], token=lease["token"])
    assert done["bead"]["status"] == "closed"
