"""GET /events: each committed change once, in order, without a gap, however often a reader comes back."""

import socket
import threading
from typing import Any

import pytest

from .door import Event, Events, head, new_token, seq
from .town import Town, unique
from .wire import Connection

FLOOD = 5_000  # events a reader leaves unread: more than socket buffers hold
RECEIVE_BYTES = 4_096


def numbers(events: list[Event]) -> list[int]:
    return [event.id for event in events]


def test_a_frame_is_id_kind_and_data(plain_town: Town) -> None:
    with Events(plain_town) as events:
        assert events.status == 200
        assert events.headers["content-type"].startswith("text/event-stream")
        result = plain_town.call("bead.create", beads=[{"title": "t"}])
        event = events.next()
    assert (event.id, event.kind) == (result["seq"], "created")
    assert event.data["seq"] == event.id
    assert event.data["kind"] == event.kind
    assert event.data["bead_id"] == result["beads"][0]["id"]
    assert event.data["epoch"] == plain_town.daemon["epoch"]
    assert isinstance(event.data["at_ms"], int)


def test_without_a_last_id_it_begins_now(plain_town: Town) -> None:
    plain_town.bead("before")
    with Events(plain_town) as events:
        after = plain_town.call("bead.create", beads=[{"title": "after"}])
        assert events.next().id == after["seq"]


def test_every_bead_of_one_call_has_its_event(plain_town: Town) -> None:
    with Events(plain_town) as events:
        result = plain_town.call("bead.create", beads=[{"title": str(n)} for n in range(5)])
        seen = events.take(5)
    assert numbers(seen) == list(range(result["seq"] - 4, result["seq"] + 1))
    assert [event.data["bead_id"] for event in seen] == [bead["id"] for bead in result["beads"]]


def test_from_the_beginning_without_a_gap(plain_town: Town) -> None:
    plain_town.beads(*[{"title": str(n)} for n in range(100)])
    last = seq(plain_town)
    with Events(plain_town, last_id=0) as events:
        assert numbers(events.to(last)) == list(range(1, last + 1))


def test_resuming_from_the_present_waits_for_the_next(plain_town: Town) -> None:
    with Events(plain_town, last_id=seq(plain_town)) as events:
        result = plain_town.call("bead.create", beads=[{"title": "t"}])
        assert events.next().id == result["seq"]


def test_a_reader_that_comes_and_goes_misses_and_repeats_nothing(plain_town: Town) -> None:
    """It leaves after a few events, again and again, while writers go on."""
    start = seq(plain_town)
    stop = threading.Event()

    def write() -> None:
        with plain_town.lines() as lines:
            while not stop.is_set():
                lines.call("bead.create", beads=[{"title": "t"}, {"title": "u"}])

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[int] = []
    try:
        while len(seen) < 200:
            with Events(plain_town, last_id=seen[-1] if seen else start) as events:
                seen += numbers(events.take(7))
    finally:
        stop.set()
        writer.join()
    assert seen == list(range(start + 1, start + 1 + len(seen)))


def test_several_readers_see_the_same(plain_town: Town) -> None:
    readers = [Events(plain_town) for _ in range(5)]
    result = plain_town.call("bead.create", beads=[{"title": str(n)} for n in range(20)])
    streams = [reader.take(20) for reader in readers]
    for reader in readers:
        reader.connection.close()
    assert streams[0][-1].id == result["seq"]
    assert all(stream == streams[0] for stream in streams)


@pytest.mark.parametrize("last_id", ["9223372036854775807", "1000000000", "x", "-1", "1.5", "9" * 30])
def test_an_id_ahead_of_the_ledger_or_none_at_all(plain_town: Town, last_id: str) -> None:
    with plain_town.connect() as connection:
        connection.send(head("GET", "/events", "Host: localhost", f"Last-Event-ID: {last_id}"))
        assert connection.read_head(15.0)[0] == 400


def test_one_ahead_is_ahead(plain_town: Town) -> None:
    assert plain_town.http("GET", "/events", Last_Event_ID=str(seq(plain_town) + 1)).status == 400


def test_a_read_token_suffices(plain_town: Town) -> None:
    with Events(plain_town, token=new_token(plain_town, "read")) as events:
        result = plain_town.call("bead.create", beads=[{"title": "t"}])
        assert events.next().id == result["seq"]


def test_resuming_over_a_kill_and_a_new_epoch(town: Town) -> None:
    town.bead()
    with Events(town, last_id=0) as events:
        seen = events.to(seq(town))
    first_epoch = town.daemon["epoch"]
    town.kill9()
    town.start()
    result = town.call("bead.create", beads=[{"title": "t"}])
    with Events(town, last_id=seen[-1].id) as events:
        seen += events.to(result["seq"])
    assert numbers(seen) == list(range(1, result["seq"] + 1))
    assert [event.data["epoch"] for event in seen if event.kind == "epoch"] == [first_epoch, town.daemon["epoch"]]
    assert town.daemon["epoch"] > first_epoch


def test_the_stream_ends_with_the_daemon(town: Town) -> None:
    with Events(town) as events:
        result = town.call("bead.create", beads=[{"title": "t"}])
        # Not town.stop(): that would hang up first.
        town.run("down")
        rest = list(events.rest())
    assert rest[0].id == result["seq"]
    assert town.process is not None
    assert town.process.wait(15.0) == 0


def slow_reader(town: Town) -> Connection:
    """A stream nobody reads, with as little room in its socket as the system gives."""
    connection = town.connect()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    connection.send(head("GET", "/events", "Host: localhost"))
    connection.read_head(15.0)
    return connection


def test_a_reader_that_does_not_read_harms_nobody_and_resumes(plain_town: Town) -> None:
    start = seq(plain_town)
    lazy = slow_reader(plain_town)
    with Events(plain_town) as eager:
        for _ in range(FLOOD // 100):
            plain_town.beads(*[{"title": "t" * 200}] * 100)
        last = seq(plain_town)
        assert numbers(eager.to(last)) == list(range(start + 1, last + 1))
    lazy.close()
    with Events(plain_town, last_id=start) as again:
        assert numbers(again.to(last)) == list(range(start + 1, last + 1))


# -- kinds -------------------------------------------------------------------------------------------------------------
class Story:
    """One of everything that can happen, and the kind each call must leave behind."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.worker = town.worker()

    def held(self, **fields: Any) -> tuple[str, int]:
        bead_id: str = self.town.bead(**fields)["id"]
        return bead_id, self.town.lease(self.worker, bead_id)["token"]

    def settle(self, method: str, **more: Any) -> None:
        bead_id, token = self.held()
        self.town.call(method, bead_id=bead_id, token=token, **more)

    def created(self) -> None:
        self.town.bead()

    def updated(self) -> None:
        self.town.call("bead.update", id=self.town.bead()["id"], set={"title": "u"})

    def leased(self) -> None:
        self.held()

    def renewed(self) -> None:
        bead_id, token = self.held()
        leases = [{"bead_id": bead_id, "token": token, "checkpoint": {"step": 1}}]
        self.town.call("worker.heartbeat", worker_id=self.worker, leases=leases)

    def completed(self) -> None:
        self.settle("work.complete")

    def failed(self) -> None:
        self.settle("work.fail", error="e")

    def dead_lettered(self) -> None:
        self.settle("work.fail", error="e", retryable=False)

    def released(self) -> None:
        self.settle("work.release")

    def blocked(self) -> None:
        self.settle("work.block", reason="r")

    def closed(self) -> None:
        self.town.call("bead.close", id=self.town.bead()["id"], reason="r")

    def reopened(self) -> None:
        bead_id = self.town.bead()["id"]
        self.town.call("bead.close", id=bead_id, reason="r")
        self.town.call("bead.reopen", id=bead_id)

    def commented(self) -> None:
        self.town.call("bead.comment", id=self.town.bead()["id"], text="c")

    def edge_added(self) -> None:
        one, two = self.town.beads({"title": "1"}, {"title": "2"})
        self.edge = {"from": one["id"], "to": two["id"], "kind": "blocks"}
        self.town.call("bead.depend", **self.edge)

    def edge_removed(self) -> None:
        self.edge_added()
        self.town.call("bead.undepend", **self.edge)

    def imported(self) -> None:
        at = '"created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z"'
        jsonl = f'{{"id":"{unique("imported")}","title":"t","status":"open","priority":2,{at}}}'
        self.town.call("ledger.import", jsonl=jsonl)

    def salvaged(self) -> None:
        bead_id, token = self.held()
        self.town.call("bead.close", id=bead_id, reason="r")
        self.town.refusal("work.complete", bead_id=bead_id, token=token, result={"summary": "late"})

    def worker_(self) -> None:
        self.town.worker()

    def convoy_(self) -> None:
        self.town.call("convoy.create", name="c")

    def token_(self) -> None:
        self.town.call("token.create", scope="read", name="n")

    def queue_(self) -> None:
        self.town.call("queue.pause", rig="nobody-here")
        self.town.call("queue.resume", rig="nobody-here")


KINDS = [name for name in vars(Story) if not name.startswith("_") and name not in ("held", "settle")]
ALL_KINDS = {
    "created", "updated", "leased", "renewed", "lapsed", "completed", "failed", "released", "blocked", "closed",
    "reopened", "commented", "edge_added", "edge_removed", "imported", "deleted", "salvaged", "dead_lettered", "epoch",
}  # fmt: skip
FAMILIES = ("worker_", "convoy_", "token_", "queue_")


@pytest.mark.parametrize("kind", KINDS)
def test_each_change_has_its_kind(plain_town: Town, kind: str) -> None:
    story = Story(plain_town)
    start = seq(plain_town)
    getattr(story, kind)()
    last = seq(plain_town)
    with Events(plain_town, last_id=start) as events:
        seen = events.to(last)
    kinds = [event.kind for event in seen]
    assert [name for name in kinds if name == kind or (kind.endswith("_") and name.startswith(kind))]
    assert not [name for name in kinds if name not in ALL_KINDS and not name.startswith(FAMILIES)]
    assert all(event.data["kind"] == event.kind and event.data["seq"] == event.id for event in seen)


def test_history_and_stream_agree(plain_town: Town) -> None:
    start, bead_id = seq(plain_town), plain_town.bead()["id"]
    plain_town.call("bead.update", id=bead_id, set={"priority": 0})
    plain_town.call("bead.close", id=bead_id, reason="r")
    with Events(plain_town, last_id=start) as events:
        seen = [event for event in events.to(seq(plain_town)) if event.data.get("bead_id") == bead_id]
    history = plain_town.history(bead_id)
    assert [(event["seq"], event["kind"]) for event in history] == [(event.id, event.kind) for event in seen]


def test_a_call_that_changes_nothing_makes_no_event(plain_town: Town) -> None:
    one, two = plain_town.beads({"title": "1"}, {"title": "2"})
    edge = {"from": one["id"], "to": two["id"], "kind": "blocks"}
    plain_town.call("bead.depend", **edge)
    before = seq(plain_town)
    assert plain_town.call("bead.depend", **edge)["seq"] == before
    plain_town.call("bead.undepend", **edge)
    before = seq(plain_town)
    assert plain_town.call("bead.undepend", **edge)["seq"] == before
    plain_town.refusal("bead.get", id="no-such")
    plain_town.call("bead.list")
    assert seq(plain_town) == before
