"""What must hold of the rules for every bead, lease and worker there can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gastown.model import EXCLUDED_TYPES, INT64_MAX, INT64_MIN, STATES, Bead, Lease, Policy, Refused, Worker
from gastown.rules import KINDS, decide, dispatch, scale
from gastown.rules import bead as bead_rules
from gastown.rules import lease as lease_rules
from gastown.rules import worker as worker_rules
from gastown.rules.bead import Around, Now

from .diagram import page, transitions
from .made import AROUNDS, LAW, NOWS, POLICY, TIMES, TOKENS, beads, derived, leases
from .test_rule_vectors import leaves

TABLES = transitions()
SETTLES = ("heartbeat", "complete", "fail", "release", "block")


# ---------------------------------------------------------------- states

OUT_OF_DISPATCH = 7  # the flags pinned, template and ephemeral


def conditions(bead: Bead, lease: Lease | None, around: Around, now: Now) -> dict[str, bool]:
    """Each state's condition, as the table words it."""
    ahead = max(bead.defer_ms or 0, around.parent_defer_ms) > now.wall_ms or (bead.not_before_ms or 0) > now.ms
    custom = bead.status not in ("open", "in_progress", "blocked")
    return {
        "tombstone": bead.status == "tombstone",
        "closed": bead.status == "closed",
        "leased": lease is not None and not lease.lapsed,
        "merging": False,
        "dead": bead.status == "blocked" and bool(bead.flags & 8),
        "parked": bool(bead.flags & OUT_OF_DISPATCH) or bead.issue_type in EXCLUDED_TYPES or custom,
        "held": bead.status == "in_progress",
        "blocked": bead.status == "blocked",
        "waiting": around.hindered or around.held_above,
        "deferred": ahead,
        "ready": True,
    }


@LAW
@given(beads(), st.one_of(st.none(), leases()), AROUNDS, NOWS)
def test_a_bead_is_in_the_first_state_whose_condition_holds(
    bead: Bead, lease: Lease | None, around: Around, now: Now
) -> None:
    expected = next(state for state, holds in conditions(bead, lease, around, now).items() if holds)
    assert bead_rules.state_of(derived(bead, around, now), lease) == expected


def test_the_table_and_the_model_name_the_same_states_in_the_same_order() -> None:
    named = tuple(conditions(ONE, None, Around(), Now(0, 0)))
    assert named == STATES == tuple(row["state"] for row in TABLES["bead"]["states"])


@LAW
@given(beads(), AROUNDS, NOWS, TIMES)
def test_deciding_readiness_twice_changes_nothing(bead: Bead, around: Around, now: Now, since_ms: int) -> None:
    once = bead_rules.derive(bead, around, now, since_ms)
    assert bead_rules.derive(once, around, now, since_ms + 1) == once


@LAW
@given(beads(), AROUNDS, NOWS)
def test_time_alone_changes_a_state_only_when_it_said_it_would(bead: Bead, around: Around, now: Now) -> None:
    """Nothing is forgotten: a bead that is deferred has an instant to wake at, and then it is ready or has another."""
    before = derived(bead, around, now)
    if before.wake_ms is None:
        later = derived(before, around, Now(now.ms + (1 << 54), now.wall_ms + (1 << 54)))
        assert later == before
    else:
        assert before.wake_ms > min(now.ms, now.wall_ms)
    assert before.state != "deferred" or before.wake_ms is not None


@LAW
@given(beads(), AROUNDS, NOWS)
def test_what_is_ready_can_be_claimed_and_what_is_held_back_cannot(bead: Bead, around: Around, now: Now) -> None:
    after = derived(bead, around, now)
    assert after.ready_ms is not None or after.state != "ready"
    assert after.ready_ms is None or after.state in ("ready", "parked")


# ---------------------------------------------------------------- order


READY = beads(status="open", ready_ms=None)


@LAW
@given(st.lists(READY, max_size=6, unique_by=lambda bead: bead.id), st.lists(TIMES, min_size=6, max_size=6), TIMES)
def test_the_order_is_total_and_stays_while_beads_are_ready(found: list[Bead], since: list[int], later: int) -> None:
    plain = [b._replace(issue_type="task", flags=0, defer_ms=None, not_before_ms=None) for b in found]
    ready = [bead_rules.derive(b, Around(), Now(0, 0), ms) for b, ms in zip(plain, since, strict=False)]
    keys = [dispatch.order_key(bead, POLICY) for bead in ready]
    assert len(set(keys)) == len(keys)
    aged = [bead_rules.derive(bead, Around(), Now(later, later), later) for bead in ready]
    assert [dispatch.order_key(bead, POLICY) for bead in aged] == keys
    urgent = [bead.priority == 0 for bead in sorted(ready, key=lambda bead: dispatch.order_key(bead, POLICY))]
    assert urgent == sorted(urgent, reverse=True)


@LAW
@given(TIMES, st.integers(1, 3))
def test_a_bead_rises_one_step_for_each_aging_ms_it_waited(ready_ms: int, priority: int) -> None:
    waited = ready_ms + POLICY.aging_ms
    assert dispatch.score(ready_ms, priority + 1, POLICY) == dispatch.score(waited, priority, POLICY)


# ---------------------------------------------------------------- moves


def lease_state(lease: Lease | None) -> str:
    return "none" if lease is None else "lapsed" if lease.lapsed else "live"


def assert_legal(noun: str, event: str, before: str, after: str) -> None:
    assert after in TABLES[noun]["moves"][event].get(before, ()), f"{noun}: {event} led from {before} to {after}"


EVENTS = {
    "heartbeat": "renewed", "complete": "completed", "fail": "failed", "release": "released", "block": "blocked",
    "deadline": "lapsed", "claim": "leased", "pass_on": "leased", "close": "closed", "change": "updated",
    "reopen": "reopened",
}  # fmt: skip
OPEN = beads(status="open")


@st.composite
def asked(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    arguments: dict[str, st.SearchStrategy[Any]] = {
        "token": TOKENS, "reason": st.just("r"), "closed_at": st.just("2026-01-02T03:04:05Z"),
        "retryable": st.booleans(), "by_edges": st.booleans(), "worker_id": st.just("w-2"),
        "worker_name": st.just("bob"), "ttl_ms": st.one_of(st.none(), st.integers(0, 90_000_000)),
    }  # fmt: skip
    wanted = {
        "heartbeat": "token", "complete": "token reason closed_at", "fail": "token retryable", "release": "token",
        "block": "token by_edges", "claim": "worker_id worker_name token ttl_ms",
        "pass_on": "worker_id worker_name token", "close": "reason closed_at",
    }  # fmt: skip
    return {"kind": kind} | {name: draw(arguments[name]) for name in wanted.get(kind, "").split()}


def told(given: dict[str, Any], then: dict[str, Any]) -> tuple[Bead, Lease | None]:
    """Bead and lease after `then`."""
    bead = Bead(**given["bead"] | then.get("bead", {}))
    lease = given["lease"]
    if "lease" in then:
        lease = None if then["lease"] is None else (lease or {}) | then["lease"]
    return bead, None if lease is None else Lease(**lease)


@LAW
@given(st.data(), st.sampled_from(sorted(EVENTS)), st.one_of(st.none(), leases()), AROUNDS, NOWS)
def test_every_move_is_in_the_table(
    data: st.DataObject, kind: str, lease: Lease | None, around: Around, now: Now
) -> None:
    bead = derived(data.draw(beads() if lease is None else OPEN), around, now)
    given_ = {"policy": POLICY._asdict(), "bead": bead._asdict(), "lease": lease and lease._asdict()}
    then = decide(given_, data.draw(asked(kind)), now.ms)
    if not ({"bead", "lease"} & set(then)):
        return
    after, left = told(given_, then)
    if left is None and after.status == "blocked" and (then.get("dead") or after.last_end == "dead"):
        after = after._replace(flags=after.flags | 8)  # the label comes with the body
    after = derived(after, around, now)
    assert_legal("lease", EVENTS[kind], lease_state(lease), lease_state(left))
    assert_legal("bead", EVENTS[kind], bead_rules.state_of(bead, lease), bead_rules.state_of(after, left))


@LAW
@given(st.data(), st.sampled_from(SETTLES), OPEN, st.one_of(st.none(), leases()), NOWS)
def test_a_stale_token_is_told_why_and_nothing_else_happens(
    data: st.DataObject, kind: str, bead: Bead, lease: Lease | None, now: Now
) -> None:
    when = data.draw(asked(kind))
    given_ = {"policy": POLICY._asdict(), "bead": bead._asdict(), "lease": lease and lease._asdict()}
    then = decide(given_, when, now.ms)
    stale = lease is None or lease.token != when["token"]
    assert ("refused" in then) == stale
    if stale:
        assert then["refused"] == "lease_lost"
        assert then["reason"] in ("superseded", "released", "closed", "changed")
        assert then["current_token"] == (lease and lease.token)
        assert set(then) == {"refused", "token", "current_token", "state", "reason", "action"}


# ---------------------------------------------------------------- budgets


@LAW
@given(st.lists(st.sampled_from(["fail", "lapse", "release", "late beat", "late release", "late fail"]), max_size=25))
def test_two_budgets_and_nothing_else_ends_a_bead(course: list[str]) -> None:
    bead = derived(ONE, Around(), Now(0, 0))
    failures = losses = 0
    for token, step in enumerate(course, 1):
        lease = lease_rules.grant(bead, None, "w-1", "ada", token, 60_000, 0)
        assert lease.attempt == failures + losses + 1
        if step == "lapse" or step.startswith("late"):
            bead, left = lease_rules.lapse(bead, lease, POLICY)
            losses += 1
            assert (left is None) == (losses >= POLICY.losses_max)
            if left is None:
                break
            lease = left
        if step.startswith("late"):
            losses -= 1
        if step.endswith("fail"):
            bead, dead = lease_rules.fail(bead, lease, True, 0, POLICY)
            failures += 1
            assert dead == (failures >= POLICY.failures_max)
            if dead:
                break
        elif step.endswith("release"):
            bead = lease_rules.release(bead, lease)
        elif step == "late beat":
            bead = lease_rules.release(lease_rules.revive(bead), lease_rules.renew(lease, 0))
    assert (bead.failures, bead.losses) == (failures, losses)


ONE = Bead(
    7, "gt-1", "open", 2, "task", None, "", 0, 0, None, None, None, 0, None, None, 0, 0, 0, 1, 1, None, None, "0" * 32,
    0, 0, "parked", None, None,
)  # fmt: skip


@LAW
@given(st.integers(1, 1000), st.integers(0, 30 * 86_400_000), st.integers(0, 30 * 86_400_000))
def test_a_backoff_grows_to_its_cap_and_no_further(failures: int, base: int, cap: int) -> None:
    policy = Policy(backoff_ms=base, backoff_ms_max=cap)
    here, next_one = (lease_rules.backoff_ms(count, policy) for count in (failures, failures + 1))
    assert here <= next_one <= max(here * 2, here)
    assert here == min(base << min(failures - 1, 30), cap) <= cap
    assert base << 30 <= INT64_MAX


# ---------------------------------------------------------------- workers


def worker_state(worker: Worker, held: int, now_ms: int) -> str:
    return worker_rules.state_of(worker, held, now_ms, POLICY)


@LAW
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["contact", "silence", "granted", "ended", "worker_drained", "worker_deregistered"]),
            st.sampled_from([1, POLICY.stalled_ms - 1, POLICY.stalled_ms, POLICY.gone_ms]),
        ),
        max_size=12,
    )
)
def test_every_move_of_a_worker_is_in_the_table(course: list[tuple[str, int]]) -> None:
    worker, held, now_ms = Worker("w-1", "ada", "t-1", "[]", 1, "", "null", 0, 0, 0, None), 0, 0
    state = worker_state(worker, held, now_ms)
    assert_legal("worker", "worker_registered", "new", state)
    for event, step_ms in course:
        if event == "silence":
            now_ms += step_ms
        elif event == "ended":
            held = max(0, held - 1)
        else:
            try:
                worker_rules.check_known(worker, worker.last_seen_ms, now_ms, POLICY)
            except Refused:
                assert state == "gone"
                continue
            if event == "granted" and worker.draining:
                continue  # it is given nothing
            held += event == "granted"
            worker = worker._replace(last_seen_ms=now_ms)
            if event == "worker_drained":
                worker = worker._replace(draining=1)
            elif event == "worker_deregistered":
                worker, held = worker._replace(gone_ms=now_ms), 0
        before, state = state, worker_state(worker, held, now_ms)
        assert_legal("worker", event, before, state)


def test_states_of_workers_are_listed_as_they_are_decided() -> None:
    assert [row["state"] for row in TABLES["worker"]["states"]] == ["gone", "draining", "stalled", "working", "idle"]


# ---------------------------------------------------------------- decide


@LAW
@given(st.data(), st.sampled_from(sorted(KINDS)), st.one_of(st.none(), leases()), AROUNDS, NOWS)
def test_decide_answers_anything_well_formed_with_64_bit_integers(
    data: st.DataObject, kind: str, lease: Lease | None, around: Around, now: Now
) -> None:
    bead = data.draw(beads(ready_ms=data.draw(TIMES)))
    small = st.integers(0, 1000)
    given_ = {
        "policy": POLICY._asdict(), "bead": bead._asdict(), "beads": [bead._asdict()],
        "lease": lease and lease._asdict(), "around": around._asdict(), "wall_ms": now.wall_ms,
        "worker": {**WORKER, "last_seen_ms": data.draw(TIMES), "draining": data.draw(st.integers(0, 1))},
        "credential": {"id": data.draw(st.sampled_from(["t-1", "t-2"])), "scope": "worker", "name": "n"},
        "labels": data.draw(st.lists(st.sampled_from("abc"))), "convoys": ["cv-1"],
        "load": {name: data.draw(small) for name in scale.Load._fields},
    }  # fmt: skip
    when = data.draw(asked(kind)) | {
        "since_ms": data.draw(TIMES), "status": data.draw(st.text(max_size=3)), "if_version": data.draw(small),
        "leases": data.draw(st.integers(0, 2)), "next_due_ms": data.draw(st.one_of(st.none(), TIMES)),
        "filter": data.draw(st.sampled_from([{}, {"labels_all": ["a"], "rig": ""}, {"issue_types": ["gate"]}])),
    }  # fmt: skip
    then = decide(given_, when, now.ms)
    assert json.loads(json.dumps(then)) == then
    for leaf in leaves(then):
        assert not isinstance(leaf, float)
        assert not isinstance(leaf, int) or INT64_MIN <= leaf <= INT64_MAX


WORKER = Worker("w-1", "ada", "t-1", "[]", 1, "", "null", 0, 0, 0, None)._asdict()


# ---------------------------------------------------------------- the page


def test_the_checked_in_page_is_the_generated_one() -> None:
    checked_in = Path(__file__).resolve().parents[2] / "docs" / "states.md"
    assert checked_in.read_text(encoding="utf-8") == page(), "run: python -m tests.rules.diagram > docs/states.md"


@pytest.mark.parametrize("noun", TABLES)
def test_the_table_names_only_its_own_states_and_reaches_them_all(noun: str) -> None:
    table = TABLES[noun]
    states = {row["state"] for row in table["states"]}
    starts = {start for moves in table["moves"].values() for start in moves}
    ends = {end for moves in table["moves"].values() for found in moves.values() for end in found}
    assert starts <= states | {"new"}
    assert ends <= states
    assert states - ends <= {"merging"}, "a state that nothing leads to"
    assert set(table["shown"]) <= set(table["moves"])
    assert all(
        found == sorted(set(found), key=found.index) and found for m in table["moves"].values() for found in m.values()
    )
