"""The checker is red for every kind of broken promise and for nothing else: a true history, spoiled in one place."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .checker import Record, check
from .replay import Broken

START_MS = 1_000_000
TTL_MS = 10_000
BACKOFF_MS = 30_000


class Story:
    """A history and the ledger it left, told event by event."""

    def __init__(self) -> None:
        self.t, self.at_ms, self.epoch = 0.0, START_MS, 1
        self.events: list[dict[str, Any]] = []
        self.history: list[Record] = []
        self.status: dict[str, str] = {}
        self.titles: dict[str, str] = {}
        self.mark = 0
        self.again: str | None = None
        self.drained = True
        self.event("epoch", body="python")

    # ------------------------------------------------------------ telling

    def event(self, kind: str, bead: str | None = None, **more: Any) -> None:
        head = {"seq": len(self.events) + 1, "epoch": self.epoch, "at_ms": self.at_ms, "kind": kind}
        self.events.append(head | ({"bead_id": bead} if bead else {}) | more)
        self.mark = max(self.mark, more.get("token", 0) if kind == "leased" else 0)

    def call(self, client: str, op: str, args: dict[str, Any], outcome: str = "ok", **more: Any) -> Record:
        """A call that is answered now; its events come before it."""
        self.t += 0.002
        record: Record = {
            "client": client, "op": op, "args": args, "t_inv": self.t - 0.001, "t_ret": self.t, "outcome": outcome,
            "epoch": self.epoch if outcome == "ok" else None, "seq": len(self.events) if outcome == "ok" else None,
            "bead": args.get("bead_id") or args.get("id"), "token": args.get("token"),
        } | more  # fmt: skip
        self.history.append(record)
        return record

    def wait(self, ms: int) -> None:
        self.at_ms += ms
        self.t += ms / 1000

    def shown(self, bead: str) -> dict[str, Any]:
        return {"id": bead, "version": sum(e.get("bead_id") == bead and e["kind"] != "salvaged" for e in self.events)}

    # ------------------------------------------------------------ sentences

    def create(self, bead: str, **item: Any) -> Record:
        item = {"title": f"about {bead}", "priority": 2, **item}
        self.event("created", bead)
        self.status[bead], self.titles[bead] = "open", item["title"]
        return self.call("planner", "bead.create", {"beads": [item]}, result={"beads": [self.shown(bead)]})

    def register(self, worker: str) -> Record:
        self.event("worker_registered", name=worker, worker_id=worker)
        return self.call(worker, "worker.register", {"name": worker}, result={"worker_id": worker, "leases": []})

    def grant(self, worker: str, bead: str, token: int) -> dict[str, Any]:
        self.event("leased", bead, worker_id=worker, token=token, attempt=1, worker_name=worker, ttl_ms=TTL_MS)
        self.status[bead] = "in_progress"
        lease = {"bead_id": bead, "worker_id": worker, "token": token, "expires_at_ms": self.at_ms + TTL_MS}
        return {"bead": self.shown(bead), "lease": lease}

    def claim(self, worker: str, bead: str, token: int, **args: Any) -> Record:
        claims = [self.grant(worker, bead, token)]
        return self.call(worker, "work.claim", {"worker_id": worker, **args}, result={"claims": claims})

    def settle(self, worker: str, op: str, bead: str, token: int, **args: Any) -> Record:
        kind = {"complete": "completed", "fail": "failed", "release": "released"}[op]
        self.event(kind, bead, worker_id=worker, token=token)
        self.status[bead] = "closed" if op == "complete" else "open"
        args = {"bead_id": bead, "token": token, **args}
        return self.call(worker, f"work.{op}", args, result={"bead": self.shown(bead)})

    def beat(self, worker: str, bead: str, token: int) -> Record:
        lease = {"bead_id": bead, "token": token, "expires_at_ms": self.at_ms + TTL_MS}
        args = {"worker_id": worker, "leases": [{"bead_id": bead, "token": token}]}
        return self.call(worker, "worker.heartbeat", args, result={"leases": [lease], "lost": []})

    def lapse(self, worker: str, bead: str, token: int) -> None:
        self.event("lapsed", bead, worker_id=worker, token=token, losses=1)
        self.status[bead] = "open"

    def restart(self) -> None:
        self.epoch += 1
        self.event("epoch", body="python")

    def verdict(self) -> list[Broken]:
        lines = [{"_schema": "gastown/1", "token_high": self.mark}] if self.mark else []
        lines += [{"id": b, "title": self.titles[b], "status": self.status[b]} for b in sorted(self.status)]
        export = "".join(json.dumps(line) + "\n" for line in lines)
        again = export if self.again is None else self.again
        ledger = {
            "events": self.events,
            "export": export,
            "again": again,
            "end_ms": self.at_ms,
            "drained": self.drained,
        }
        return check(self.history, ledger)


def told() -> Story:
    """A little of everything that is allowed."""
    story = Story()
    story.register("ann")
    story.register("bob")
    story.create("a", priority=1)
    story.create("b", depends_on=[{"id": "a"}])
    story.create("c", priority=3)
    story.claim("ann", "a", 1, request_id="q1")
    story.claim("bob", "c", 2)
    story.call("bob", "work.claim", {"worker_id": "bob"}, result={"claims": []})
    story.wait(TTL_MS - 1)
    story.beat("ann", "a", 1)
    story.wait(1)
    story.lapse("bob", "c", 2)
    story.restart()
    story.wait(TTL_MS - 1)
    story.settle("ann", "complete", "a", 1, request_id="q2")
    story.claim("ann", "b", 3)
    story.settle("ann", "fail", "b", 3)
    stale = {"kind": "lease_lost", "token": 2, "current_token": None}
    story.claim("ann", "c", 4)
    story.call("bob", "work.complete", {"bead_id": "c", "token": 2}, "fail", error=stale)
    story.event("commented", "c", text="nearly")
    story.call("planner", "bead.comment", {"id": "c", "text": "nearly"}, result={"bead": story.shown("c")})
    story.settle("ann", "complete", "c", 4)
    story.wait(BACKOFF_MS)
    story.claim("ann", "b", 5)
    story.settle("ann", "complete", "b", 5)
    return story


def test_a_true_history_is_clean() -> None:
    assert told().verdict() == []


def test_lost_replies_and_retries_are_clean() -> None:
    story = told()
    story.create("d")
    args = {"worker_id": "bob", "request_id": "q9"}
    claims = [story.grant("bob", "d", 6)]
    story.call("bob", "work.claim", args, "info")
    story.call("bob", "work.claim", args, result={"claims": claims, "replayed": True})
    story.settle("bob", "complete", "d", 6)
    assert story.verdict() == []


# ---------------------------------------------------------------- spoiled in one place


def an_acknowledged_event_is_gone(story: Story) -> None:
    story.call("planner", "bead.comment", {"id": "b", "text": "x"}, result={"bead": story.shown("b")}, seq=99)


def an_acknowledged_comment_is_not_there(story: Story) -> None:
    story.call("planner", "bead.comment", {"id": "b", "text": "x"}, result={"bead": story.shown("b")})


def an_event_is_missing(story: Story) -> None:
    del story.events[7]


def an_acknowledged_end_is_gone(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.call("ann", "work.complete", {"bead_id": "d", "token": 6}, result={"bead": story.shown("d")})


def an_acknowledged_grant_is_gone(story: Story) -> None:
    claims = [story.grant("ann", "b", 6)]
    story.events.pop()
    story.status["b"] = "closed"
    story.call("ann", "work.claim", {"worker_id": "ann"}, result={"claims": claims})


def a_change_was_not_written(story: Story) -> None:
    bead = story.shown("b")
    story.call("planner", "bead.update", {"id": "b", "set": {}}, result={"bead": bead | {"version": 99}})


def a_read_shows_the_past(story: Story) -> None:
    story.call("planner", "bead.get", {"id": "b"}, seq=None, result={"bead": {"id": "b", "version": 1}})


def a_bead_vanished(story: Story) -> None:
    del story.status["b"]


def a_bead_is_not_found(story: Story) -> None:
    story.call("planner", "bead.get", {"id": "a"}, "fail", error={"kind": "not_found", "what": "bead", "id": "a"})


def a_status_is_exported_wrongly(story: Story) -> None:
    story.status["b"] = "open"


def a_later_call_is_answered_from_before(story: Story) -> None:
    story.call("ann", "worker.heartbeat", {"worker_id": "ann"}, seq=5, epoch=1, result={"leases": [], "lost": []})


def a_retry_has_another_answer(story: Story) -> None:
    story.create("d")
    story.create("e")
    story.claim("ann", "d", 6, request_id="q7")
    story.claim("ann", "e", 7, request_id="q7")
    story.settle("ann", "complete", "d", 6)
    story.settle("ann", "complete", "e", 7)


def a_retry_of_what_was_done_is_refused(story: Story) -> None:
    args = {"bead_id": "a", "token": 1, "request_id": "q2"}
    story.call("ann", "work.complete", args, "fail", error={"kind": "lease_lost", "token": 1})


def one_item_became_two_beads(story: Story) -> None:
    story.event("created", "b2")
    story.status["b2"], story.titles["b2"] = "open", "about b"
    story.drained = False


def one_comment_came_twice(story: Story) -> None:
    story.event("commented", "c", text="nearly")


def a_refused_end_happened(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.settle("ann", "complete", "d", 6)
    story.history[-1] |= {"outcome": "fail", "error": {"kind": "conflict"}, "seq": None, "epoch": None}


def a_grant_nobody_asked_for(story: Story) -> None:
    story.create("d")
    story.grant("ann", "d", 6)


def a_token_comes_again(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 5)
    story.settle("ann", "complete", "d", 5)


def a_stale_token_renews(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.beat("bob", "c", 2)
    story.settle("ann", "complete", "d", 6)


def a_token_never_granted_settles(story: Story) -> None:
    story.create("d")
    story.settle("ann", "complete", "d", 77)


def two_hold_one_bead(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.claim("bob", "d", 7)
    story.settle("bob", "complete", "d", 7)


def a_token_settles_twice(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.settle("ann", "release", "d", 6)
    story.settle("ann", "release", "d", 6)
    story.drained = False


def a_token_settles_after_the_next_grant(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.wait(TTL_MS)
    story.lapse("ann", "d", 6)
    story.claim("bob", "d", 7)
    story.settle("ann", "complete", "d", 6)


def the_holder_is_refused(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    error = {"kind": "lease_lost", "token": 6, "current_token": 6}
    story.call("ann", "work.complete", {"bead_id": "d", "token": 6}, "fail", error=error)


def a_bead_ends_twice(story: Story) -> None:
    story.event("closed", "c")


def an_unknown_move(story: Story) -> None:
    story.event("melted", "c")


def a_closed_bead_is_granted(story: Story) -> None:
    story.claim("ann", "c", 6)
    story.settle("ann", "complete", "c", 6)


def a_lease_outlives_its_deadline(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.wait(TTL_MS + 1)
    story.register("cat")


def a_dead_worker_keeps_its_bead(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.wait(TTL_MS + 2_001)


def nobody_is_given_what_is_ready(story: Story) -> None:
    story.create("d")


def an_epoch_comes_again(story: Story) -> None:
    story.epoch -= 1
    story.restart()


def a_leader_of_before_writes(story: Story) -> None:
    story.epoch -= 1
    story.event("commented", "c", text="from the grave")
    story.epoch += 1


def a_leader_of_before_answers(story: Story) -> None:
    story.call("ann", "worker.heartbeat", {"worker_id": "ann"}, epoch=1, result={"leases": [], "lost": []})


def the_lesser_bead_goes_first(story: Story) -> None:
    story.create("d", priority=1)
    story.create("e", priority=2)
    story.claim("ann", "e", 6)
    story.settle("ann", "complete", "e", 6)
    story.drained = False


def a_filter_is_not_heeded(story: Story) -> None:
    story.create("d", labels=["blue"])
    story.claim("ann", "d", 6, filter={"labels_all": ["red"]})
    story.settle("ann", "complete", "d", 6)


def a_paused_rig_hands_out(story: Story) -> None:
    story.create("d", rig="r")
    story.event("queue_paused", rig="r")
    story.claim("ann", "d", 6)
    story.settle("ann", "complete", "d", 6)


def who_waited_longer_is_passed_over(story: Story) -> None:
    t_turn = story.t
    story.create("d")
    story.claim("bob", "d", 6, wait_ms=5_000)["t_turn"] = t_turn + 1
    story.settle("bob", "complete", "d", 6)
    story.create("e")
    story.claim("ann", "e", 7, wait_ms=5_000)["t_turn"] = t_turn
    story.settle("ann", "complete", "e", 7)


def a_blocked_bead_is_granted(story: Story) -> None:
    story.create("d")
    story.create("e", depends_on=[{"id": "d"}])
    story.claim("ann", "e", 6)
    story.settle("ann", "complete", "e", 6)
    story.drained = False


def a_bead_is_granted_in_its_backoff(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.settle("ann", "fail", "d", 6)
    story.wait(BACKOFF_MS - 1)
    story.claim("ann", "d", 7)
    story.settle("ann", "complete", "d", 7)


def a_child_of_a_blocked_bead_is_granted(story: Story) -> None:
    story.create("d")
    story.create("e", depends_on=[{"id": "d"}])
    story.create("e.1", parent="e")
    story.claim("ann", "e.1", 6)
    story.settle("ann", "complete", "e.1", 6)
    story.drained = False


def a_loop_was_let_in(story: Story) -> None:
    story.create("d", depends_on=[{"id": "b"}])
    story.event("edge_added", "b", to="d", edge="blocks")


def the_second_export_differs(story: Story) -> None:
    story.again = "{}\n"


def the_mark_of_the_tokens_is_low(story: Story) -> None:
    story.mark = 2


def a_lease_lapses_early(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.wait(TTL_MS - 1)
    story.lapse("ann", "d", 6)
    story.drained = False


def a_renewed_lease_lapses_at_its_first_deadline(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.wait(TTL_MS // 2)
    story.beat("ann", "d", 6)
    story.wait(TTL_MS // 2)
    story.lapse("ann", "d", 6)
    story.drained = False


def town_time_goes_back(story: Story) -> None:
    story.at_ms -= 1
    story.register("cat")


def a_wall_clock_step_ends_a_lease(story: Story) -> None:
    story.create("d")
    story.claim("ann", "d", 6)
    story.at_ms += 3_600_000  # and no time has passed for the callers
    story.lapse("ann", "d", 6)
    story.register("cat")
    story.drained = False


SPOILED: list[tuple[str, Callable[[Story], None]]] = [
    ("I1", an_acknowledged_event_is_gone),
    ("I1", an_acknowledged_comment_is_not_there),
    ("I1", an_event_is_missing),
    ("I1", an_acknowledged_end_is_gone),
    ("I1", an_acknowledged_grant_is_gone),
    ("I1", a_change_was_not_written),
    ("I1", a_read_shows_the_past),
    ("I1", a_bead_vanished),
    ("I1", a_bead_is_not_found),
    ("I1", a_status_is_exported_wrongly),
    ("I1", a_later_call_is_answered_from_before),
    ("I2", a_retry_has_another_answer),
    ("I2", a_retry_of_what_was_done_is_refused),
    ("I2", one_item_became_two_beads),
    ("I2", one_comment_came_twice),
    ("I2", a_refused_end_happened),
    ("I2", a_grant_nobody_asked_for),
    ("I3", a_token_comes_again),
    ("I3", a_stale_token_renews),
    ("I3", a_token_never_granted_settles),
    ("I4", two_hold_one_bead),
    ("I5", a_token_settles_twice),
    ("I5", a_token_settles_after_the_next_grant),
    ("I5", the_holder_is_refused),
    ("I6", a_bead_ends_twice),
    ("I6", an_unknown_move),
    ("I6", a_closed_bead_is_granted),
    ("I7", a_lease_outlives_its_deadline),
    ("I7", a_dead_worker_keeps_its_bead),
    ("I7", nobody_is_given_what_is_ready),
    ("I9", an_epoch_comes_again),
    ("I9", a_leader_of_before_writes),
    ("I9", a_leader_of_before_answers),
    ("I10", the_lesser_bead_goes_first),
    ("I10", a_filter_is_not_heeded),
    ("I10", a_paused_rig_hands_out),
    ("I10", who_waited_longer_is_passed_over),
    ("I11", a_blocked_bead_is_granted),
    ("I11", a_bead_is_granted_in_its_backoff),
    ("I11", a_child_of_a_blocked_bead_is_granted),
    ("I11", a_loop_was_let_in),
    ("I12", the_second_export_differs),
    ("I12", the_mark_of_the_tokens_is_low),
    ("I14", a_lease_lapses_early),
    ("I14", a_renewed_lease_lapses_at_its_first_deadline),
    ("I14", town_time_goes_back),
    ("I14", a_wall_clock_step_ends_a_lease),
]


@pytest.mark.parametrize(("rule", "spoil"), SPOILED, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_broken_promise_is_found(rule: str, spoil: Callable[[Story], None]) -> None:
    story = told()
    spoil(story)
    found = story.verdict()
    assert rule in {broken.rule for broken in found}, found


def test_every_spoiled_history_is_told() -> None:
    here = {name for name, value in globals().items() if getattr(value, "__annotations__", {}).get("story") == "Story"}
    assert here == {spoil.__name__ for _, spoil in SPOILED}
