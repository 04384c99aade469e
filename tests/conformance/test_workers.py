"""Workers: registering, registering again, draining, leaving, and what the list says of them."""

from typing import Any

import pytest

from .holding import LONG_MS, beat, held, lapsed
from .town import Town, unique
from .wire import RpcError


def listed(town: Town, worker_id: str) -> dict[str, Any]:
    workers: list[dict[str, Any]] = town.call("worker.list")["workers"]
    (found,) = (worker for worker in workers if worker["worker_id"] == worker_id)
    return found


def test_registering_tells_how_often_to_beat(plain_town: Town) -> None:
    reply = plain_town.call("worker.register", name=unique("worker"))
    assert reply["worker_id"]
    assert (reply["lease_ttl_ms"], reply["heartbeat_every_ms"]) == (300_000, 60_000)
    assert reply["leases"] == []
    assert reply["epoch"] == plain_town.call("system.info")["epoch"]


def test_the_list_shows_what_was_registered(shared_town: Town) -> None:
    name = unique("worker")
    worker = shared_town.worker(name, labels=["python", "gpu"], capacity=3, role="polecat", meta={"host": "h1"})
    shown = listed(shared_town, worker)
    assert {"worker_id", "name", "state", "role", "labels", "capacity", "leases", "last_seen_ms"} <= set(shown)
    assert (shown["name"], shown["role"], shown["capacity"]) == (name, "polecat", 3)
    assert sorted(shown["labels"]) == ["gpu", "python"]


def test_capacity_is_one_by_default(shared_town: Town) -> None:
    assert listed(shared_town, shared_town.worker())["capacity"] == 1


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({}, -32602),
        ({"name": ""}, -32602),
        ({"name": 7}, -32602),
        ({"name": "x" * 10_000}, 1012),
        ({"name": "w", "capacity": 0}, -32602),
        ({"name": "w", "capacity": 1.5}, -32602),
        ({"name": "w", "labels": "x"}, -32602),
        ({"name": "w", "surprise": 1}, -32602),
    ],
)
def test_bad_registrations_are_refused(shared_town: Town, params: dict[str, Any], code: int) -> None:
    assert shared_town.refusal("worker.register", **params).code == code


def test_a_worker_without_leases_is_idle_and_with_one_working(shared_town: Town) -> None:
    worker = shared_town.worker()
    assert listed(shared_town, worker)["state"] == "idle"
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    assert listed(shared_town, worker)["state"] == "working"
    shared_town.call("work.complete", **held(lease))
    assert listed(shared_town, worker)["state"] == "idle"


def test_contact_moves_last_seen(shared_town: Town) -> None:
    worker = shared_town.worker()
    before = listed(shared_town, worker)["last_seen_ms"]
    shared_town.let_pass(5)
    shared_town.call("worker.heartbeat", worker_id=worker)
    assert listed(shared_town, worker)["last_seen_ms"] > before


# -- registering again -----------------------------------------------------------------------------------------------


def test_the_same_name_again_is_a_new_worker_id(shared_town: Town) -> None:
    name = unique("worker")
    assert shared_town.worker(name) != shared_town.worker(name)


@pytest.mark.parametrize("method", ["worker.heartbeat", "worker.drain", "worker.deregister", "work.claim"])
def test_the_superseded_worker_id_is_refused(shared_town: Town, method: str) -> None:
    name = unique("worker")
    old = shared_town.worker(name)
    shared_town.worker(name)
    refused = shared_town.refusal(method, worker_id=old)
    assert (refused.code, refused.kind) == (1008, "worker_unknown")


def test_leases_pass_to_the_new_registration(shared_town: Town) -> None:
    name = unique("worker")
    old = shared_town.worker(name)
    leases = [shared_town.lease(old, ttl_ms=LONG_MS) for _ in range(2)]
    shared_town.let_pass(3)
    reply = shared_town.call("worker.register", name=name)
    passed = {lease["bead_id"]: lease for lease in reply["leases"]}
    assert set(passed) == {lease["bead_id"] for lease in leases}
    for lease in leases:
        new = passed[lease["bead_id"]]
        assert new["token"] > lease["token"]
        assert new["attempt"] == lease["attempt"]
        assert new["worker_id"] == reply["worker_id"]
        assert new["expires_at_ms"] > lease["expires_at_ms"]
        assert shared_town.refusal("work.complete", **held(lease)).data["reason"] == "superseded"
        assert shared_town.call("work.complete", **held(new))["bead"]["status"] == "closed"


def test_a_lapsed_lease_passes_too(shared_town: Town) -> None:
    name = unique("worker")
    lease = lapsed(shared_town, shared_town.worker(name))
    (passed,) = shared_town.call("worker.register", name=name)["leases"]
    assert (passed["bead_id"], passed["attempt"]) == (lease["bead_id"], lease["attempt"])
    assert shared_town.call("work.complete", **held(passed))["bead"]["status"] == "closed"


def test_a_lapsed_lease_granted_to_another_does_not_pass(shared_town: Town) -> None:
    name = unique("worker")
    lease = lapsed(shared_town, shared_town.worker(name))
    shared_town.lease(shared_town.worker(), lease["bead_id"], ttl_ms=LONG_MS)
    assert shared_town.call("worker.register", name=name)["leases"] == []


def test_settled_leases_do_not_pass(shared_town: Town) -> None:
    name = unique("worker")
    worker = shared_town.worker(name)
    shared_town.call("work.complete", **held(shared_town.lease(worker)))
    shared_town.call("work.release", **held(shared_town.lease(worker)))
    assert shared_town.call("worker.register", name=name)["leases"] == []


def test_passing_spends_no_budget(shared_town: Town) -> None:
    name = unique("worker")
    lease = shared_town.lease(shared_town.worker(name), ttl_ms=LONG_MS)
    for _ in range(6):
        (passed,) = shared_town.call("worker.register", name=name)["leases"]
        assert passed["attempt"] == lease["attempt"] == 1


# -- draining and leaving --------------------------------------------------------------------------------------------


def test_a_draining_worker_gets_no_work(shared_town: Town) -> None:
    worker, bead = shared_town.worker(), shared_town.bead()["id"]
    assert shared_town.call("worker.drain", worker_id=worker)["worker"]["state"] == "draining"
    assert shared_town.claim(worker, filter={"bead_id": bead}) == []
    assert shared_town.get(bead)["status"] == "open"
    assert listed(shared_town, worker)["state"] == "draining"


def test_a_draining_worker_does_not_wait(shared_town: Town) -> None:
    worker = shared_town.worker()
    shared_town.call("worker.drain", worker_id=worker)
    assert shared_town.claim(worker, wait_ms=45_000, filter={"rig": unique("rig")}) == []


def test_the_leases_of_a_draining_worker_run_on(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    shared_town.call("worker.drain", worker_id=worker)
    reply = beat(shared_town, worker, lease)
    assert len(reply["leases"]) == 1
    assert shared_town.call("work.complete", **held(lease))["bead"]["status"] == "closed"


def test_every_beat_of_a_draining_worker_carries_drain(shared_town: Town) -> None:
    worker = shared_town.worker()
    shared_town.call("worker.drain", worker_id=worker)
    for _ in range(2):
        directives = shared_town.call("worker.heartbeat", worker_id=worker)["directives"]
        assert [directive["kind"] for directive in directives] == ["drain"]


def test_deregistering_releases_the_leases_without_spending_a_budget(shared_town: Town) -> None:
    worker = shared_town.worker()
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    assert shared_town.call("worker.deregister", worker_id=worker)["worker"]["state"] == "gone"
    bead = shared_town.get(lease["bead_id"])
    assert bead["status"] == "open"
    assert not bead.get("assignee")
    assert shared_town.lease(shared_town.worker(), lease["bead_id"])["attempt"] == 1


@pytest.mark.parametrize("method", ["worker.heartbeat", "worker.drain", "worker.deregister", "work.claim"])
def test_a_worker_that_left_is_unknown(shared_town: Town, method: str) -> None:
    worker = shared_town.worker()
    shared_town.call("worker.deregister", worker_id=worker)
    assert shared_town.refusal(method, worker_id=worker).code == 1008


@pytest.mark.parametrize("method", ["worker.heartbeat", "worker.drain", "worker.deregister"])
def test_an_unknown_worker_is_1008(shared_town: Town, method: str) -> None:
    assert shared_town.refusal(method, worker_id="nobody").code == 1008


def test_a_worker_that_left_may_come_back(shared_town: Town) -> None:
    name = unique("worker")
    shared_town.call("worker.deregister", worker_id=shared_town.worker(name))
    assert shared_town.lease(shared_town.worker(name))


# -- who may act for a worker ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_tokens(shared_town: Town) -> tuple[str, str]:
    """Two credentials of scope worker."""
    one, two = (shared_town.call("token.create", scope="worker", name=unique("t"))["token"] for _ in range(2))
    return one, two


def test_a_name_belongs_to_the_credential_that_registered_it(shared_town: Town, two_tokens: tuple[str, str]) -> None:
    name = unique("worker")
    shared_town.call_as(two_tokens[0], "worker.register", name=name)
    with pytest.raises(RpcError) as refused:
        shared_town.call_as(two_tokens[1], "worker.register", name=name)
    assert (refused.value.code, refused.value.http) == (1403, 403)


@pytest.mark.parametrize("method", ["worker.heartbeat", "worker.drain", "worker.deregister", "work.claim"])
def test_another_credential_may_not_act_for_a_worker(
    shared_town: Town, two_tokens: tuple[str, str], method: str
) -> None:
    worker = shared_town.call_as(two_tokens[0], "worker.register", name=unique("worker"))["worker_id"]
    with pytest.raises(RpcError) as refused:
        shared_town.call_as(two_tokens[1], method, worker_id=worker)
    assert refused.value.code == 1403
    shared_town.call_as(two_tokens[0], method, worker_id=worker)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("work.complete", {}),
        ("work.fail", {"error": "x"}),
        ("work.release", {}),
        ("work.block", {"reason": "x"}),
    ],
)
def test_another_credential_may_not_settle_a_lease(
    shared_town: Town, two_tokens: tuple[str, str], method: str, params: dict[str, Any]
) -> None:
    worker = shared_town.call_as(two_tokens[0], "worker.register", name=unique("worker"))["worker_id"]
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    with pytest.raises(RpcError) as refused:
        shared_town.call_as(two_tokens[1], method, **held(lease), **params)
    assert refused.value.code == 1403
    shared_town.call_as(two_tokens[0], method, **held(lease), **params)


def test_admin_may_act_for_any_worker(shared_town: Town, two_tokens: tuple[str, str]) -> None:
    name = unique("worker")
    worker = shared_town.call_as(two_tokens[0], "worker.register", name=name)["worker_id"]
    lease = shared_town.lease(worker, ttl_ms=LONG_MS)
    reply = shared_town.call_as(shared_town.admin_token, "work.complete", **held(lease))
    assert reply["bead"]["status"] == "closed"
    assert shared_town.call_as(shared_town.admin_token, "worker.register", name=name)["worker_id"] != worker
