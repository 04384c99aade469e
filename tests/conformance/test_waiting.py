"""Claims that wait: what wakes them, in which order they are served, and how they end."""

import datetime
import json
import os
import signal
from collections.abc import Callable

import pytest

from .records import jsonl, record
from .town import Town, unique, until

WAIT_MS = 20_000  # longer than any wake-up here may take


def claimed_id(answer: dict[str, list[dict[str, dict[str, str]]]]) -> str:
    (claim,) = answer["claims"]
    return claim["bead"]["id"]


def test_a_wait_without_work_ends_empty(shared_town: Town) -> None:
    reply = shared_town.call("work.claim", worker_id=shared_town.worker(), wait_ms=30, filter={"rig": unique("rig")})
    assert reply["claims"] == []
    assert reply["retry_after_ms"] >= 1_000


def test_work_at_hand_is_not_waited_for(shared_town: Town) -> None:
    bead = shared_town.bead()["id"]
    pending = shared_town.ask(
        "work.claim", worker_id=shared_town.worker(), wait_ms=45_000, limit=5, filter={"bead_id": bead}
    )
    assert claimed_id(pending.answer()) == bead


def created(town: Town, rig: str) -> str:
    bead: str = town.bead(rig=rig)["id"]
    return bead


def unblocked(town: Town, rig: str) -> str:
    blocker = town.bead()["id"]
    bead: str = town.bead(rig=rig, depends_on=[{"id": blocker}])["id"]
    town.call("bead.close", id=blocker, reason="done")
    return bead


def undepended(town: Town, rig: str) -> str:
    blocker = town.bead()["id"]
    bead: str = town.bead(rig=rig, depends_on=[{"id": blocker}])["id"]
    town.call("bead.undepend", **{"from": bead, "to": blocker, "kind": "blocks"})
    return bead


def completed_blocker(town: Town, rig: str) -> str:
    blocker = town.bead()["id"]
    bead: str = town.bead(rig=rig, depends_on=[{"id": blocker}])["id"]
    lease = town.lease(town.worker(), blocker)
    town.call("work.complete", bead_id=blocker, token=lease["token"])
    return bead


def reopened(town: Town, rig: str) -> str:
    bead: str = town.bead(rig=rig, defer_until="2999-01-01T00:00:00Z")["id"]
    town.call("bead.close", id=bead, reason="x")
    town.call("bead.update", id=bead, set={"defer_until": None})
    town.call("bead.reopen", id=bead)
    return bead


def moved_in(town: Town, rig: str) -> str:
    bead: str = town.bead()["id"]
    town.call("bead.update", id=bead, set={"rig": rig})
    return bead


def imported(town: Town, rig: str) -> str:
    bead = unique("in")
    town.call("ledger.import", jsonl=jsonl(record(bead, rig=rig)))
    return bead


def undeferred(town: Town, rig: str) -> str:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(milliseconds=400)
    bead: str = town.bead(rig=rig, defer_until=soon.isoformat(timespec="milliseconds").replace("+00:00", "Z"))["id"]
    return bead


def resumed(town: Town, rig: str) -> str:
    town.call("queue.pause", rig=rig)
    bead: str = town.bead(rig=rig)["id"]
    town.call("queue.resume", rig=rig)
    return bead


@pytest.mark.parametrize(
    "wake",
    [created, unblocked, undepended, completed_blocker, reopened, moved_in, imported, undeferred, resumed],
    ids=lambda wake: wake.__name__,
)
def test_a_bead_that_becomes_ready_wakes_a_waiting_claim(shared_town: Town, wake: Callable[[Town, str], str]) -> None:
    rig = unique("rig")
    lines = shared_town.lines()
    parked = lines.park("work.claim", worker_id=shared_town.worker(), wait_ms=WAIT_MS, filter={"rig": rig})
    bead = wake(shared_town, rig)
    assert claimed_id(lines.answer(parked)) == bead


@pytest.mark.parametrize("ending", ["released", "lapsed", "failed", "deregistered"])
def test_the_end_of_a_lease_wakes_a_waiting_claim(shared_town: Town, ending: str) -> None:
    holder = shared_town.worker()
    lease = shared_town.lease(holder, ttl_ms=300 if ending == "lapsed" else 60_000)
    lines = shared_town.lines()
    wish = {"bead_id": lease["bead_id"]}
    parked = lines.park("work.claim", worker_id=shared_town.worker(), wait_ms=WAIT_MS, filter=wish)
    held = {"bead_id": lease["bead_id"], "token": lease["token"]}
    if ending == "released":
        shared_town.call("work.release", **held)
    elif ending == "failed":
        shared_town.call("work.fail", **held, error="no")
    elif ending == "deregistered":
        shared_town.call("worker.deregister", worker_id=holder)
    assert claimed_id(lines.answer(parked)) == lease["bead_id"]


def test_a_new_label_wakes_the_claim_that_asks_for_it(shared_town: Town) -> None:
    label = unique("label")
    bead = shared_town.bead(rig=unique("rig"))["id"]
    lines = shared_town.lines()
    parked = lines.park("work.claim", worker_id=shared_town.worker(), wait_ms=WAIT_MS, filter={"labels_any": [label]})
    shared_town.call("bead.update", id=bead, set={"labels": [label]})
    assert claimed_id(lines.answer(parked)) == bead


def test_joining_a_convoy_wakes_the_claim_that_asks_for_it(shared_town: Town) -> None:
    convoy = shared_town.call("convoy.create", name="late joiner")["convoy"]["id"]
    bead = shared_town.bead(rig=unique("rig"))["id"]
    lines = shared_town.lines()
    parked = lines.park("work.claim", worker_id=shared_town.worker(), wait_ms=WAIT_MS, filter={"convoy": convoy})
    shared_town.call("convoy.add", id=convoy, beads=[bead])
    assert claimed_id(lines.answer(parked)) == bead


def test_an_unknown_bead_id_is_waited_for(shared_town: Town) -> None:
    bead = unique("to-come")
    lines = shared_town.lines()
    parked = lines.park("work.claim", worker_id=shared_town.worker(), wait_ms=WAIT_MS, filter={"bead_id": bead})
    shared_town.bead(id=bead)
    assert claimed_id(lines.answer(parked)) == bead


def test_a_waiting_claim_returns_as_soon_as_one_bead_is_there(shared_town: Town) -> None:
    rig = unique("rig")
    lines = shared_town.lines()
    parked = lines.park("work.claim", worker_id=shared_town.worker(), limit=10, wait_ms=WAIT_MS, filter={"rig": rig})
    bead = shared_town.bead(rig=rig)["id"]
    assert claimed_id(lines.answer(parked)) == bead


def test_waiting_claims_are_served_in_the_order_they_began(shared_town: Town) -> None:
    rig = unique("rig")
    lines = shared_town.lines()
    parked = [
        lines.park("work.claim", worker_id=shared_town.worker(), wait_ms=WAIT_MS, filter={"rig": rig}) for _ in range(3)
    ]
    beads = [shared_town.bead(rig=rig)["id"] for _ in range(3)]
    assert [claimed_id(lines.answer(number)) for number in parked] == beads


def test_a_bead_goes_to_the_earliest_claim_whose_filter_passes(shared_town: Town) -> None:
    rig = unique("rig")
    lines = shared_town.lines()

    def park(**wish: object) -> int:
        return lines.park("work.claim", worker_id=shared_town.worker(), wait_ms=WAIT_MS, filter={"rig": rig, **wish})

    picky, open_to_all, picky_too = park(labels_all=["hard"]), park(), park(labels_all=["hard"])
    plain = shared_town.bead(rig=rig)["id"]
    assert claimed_id(lines.answer(open_to_all)) == plain
    hard = shared_town.bead(rig=rig, labels=["hard"])["id"]
    assert claimed_id(lines.answer(picky)) == hard
    second = shared_town.bead(rig=rig, labels=["hard"])["id"]
    assert claimed_id(lines.answer(picky_too)) == second


def test_a_hang_up_cancels_a_waiting_claim(shared_town: Town) -> None:
    rig = unique("rig")
    lines = shared_town.lines()
    lines.park("work.claim", worker_id=shared_town.worker(), wait_ms=WAIT_MS, filter={"rig": rig})
    lines.close()
    bead = shared_town.bead(rig=rig)["id"]
    (claim,) = shared_town.claim(shared_town.worker(), wait_ms=WAIT_MS, filter={"rig": rig})
    assert (claim["bead"]["id"], claim["lease"]["attempt"]) == (bead, 1)


def test_a_hang_up_over_http_cancels_a_waiting_claim(shared_town: Town) -> None:
    rig = unique("rig")
    gone = shared_town.ask("work.claim", worker_id=shared_town.worker(), wait_ms=WAIT_MS, filter={"rig": rig})
    assert gone.silent(0.1)
    gone.hang_up()
    bead = shared_town.bead(rig=rig)["id"]
    (claim,) = shared_town.claim(shared_town.worker(), wait_ms=WAIT_MS, filter={"rig": rig})
    assert (claim["bead"]["id"], claim["lease"]["attempt"]) == (bead, 1)


def test_a_claim_as_a_notification_is_ignored(shared_town: Town) -> None:
    bead = shared_town.bead()["id"]
    wish = {"worker_id": shared_town.worker(), "filter": {"bead_id": bead}}
    lines = shared_town.lines()
    lines.send_line(json.dumps({"jsonrpc": "2.0", "method": "work.claim", "params": wish}).encode())
    lines.call("queue.resume", rig="behind it")
    assert shared_town.kinds(bead) == ["created"]


def test_other_notifications_take_effect(shared_town: Town) -> None:
    bead = shared_town.bead()["id"]
    lines = shared_town.lines()
    note = {"jsonrpc": "2.0", "method": "bead.comment", "params": {"id": bead, "text": "by the way"}}
    lines.send_line(json.dumps(note).encode())
    until(lambda: shared_town.kinds(bead) == ["created", "commented"])


def test_registering_again_ends_the_old_ids_waiting_claim(shared_town: Town) -> None:
    name = unique("worker")
    lines = shared_town.lines()
    parked = lines.park("work.claim", worker_id=shared_town.worker(name), wait_ms=WAIT_MS, filter={"rig": unique()})
    shared_town.worker(name)
    with pytest.raises(Exception, match="1008"):
        lines.answer(parked)


def test_a_batch_does_not_wait(shared_town: Town) -> None:
    wish = {"worker_id": shared_town.worker(), "wait_ms": 45_000, "filter": {"rig": unique("rig")}}
    (entry,) = shared_town.batch(("work.claim", wish))
    assert entry["result"]["claims"] == []


def test_stopping_answers_waiting_claims(town: Town) -> None:
    waiting = town.lines()
    parked = waiting.park("work.claim", worker_id=town.worker(), wait_ms=45_000)
    over_http = town.ask("work.claim", worker_id=town.worker(), wait_ms=45_000)
    assert over_http.silent(0.1)
    assert town.process is not None
    os.kill(town.daemon["pid"], signal.SIGTERM)
    for reply in (waiting.answer(parked), over_http.answer()):
        assert reply["claims"] == []
        assert reply["retry_after_ms"] >= 1_000
    assert town.process.wait(15) == 0
