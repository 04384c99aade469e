"""A turn as a whole: what becomes of the others when one call breaks, the disk fills, or another coordinator came."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from gastown.engine import coordinator
from gastown.engine.coordinator import Unit
from gastown.model import Policy, Refused
from gastown.store import EpochLost, Guarded, LedgerRefused, Store, is_storage_fault, open_reader

from .bench import Bench, full_disk


@pytest.fixture
def bench() -> Bench:
    return Bench(Policy(ttl_ms_min=1_000, ttl_ms=10_000))


def make(bench: Bench, *names: str) -> None:
    bench.ok("bead.create", beads=[{"id": name, "title": "t"} for name in names])


def lease_of(claimed: dict[str, Any]) -> dict[str, Any]:
    lease = claimed["claims"][0]["lease"]
    return {"bead_id": lease["bead_id"], "token": lease["token"]}


# ---------------------------------------------------------------- one breaks


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """bead.comment writes its event and then breaks, as a bug would."""
    comment = coordinator.COMMANDS["bead.comment"]

    def breaks(*asked: Any) -> Any:
        comment(*asked)
        raise RuntimeError("a bug")

    monkeypatch.setitem(coordinator.COMMANDS, "bead.comment", breaks)


@pytest.mark.usefixtures("broken")
def test_a_call_that_breaks_its_turn_is_answered_alone(bench: Bench) -> None:
    worker = bench.worker()
    make(bench, "b-1", "b-2", "b-3")
    first = lease_of(bench.ok("work.claim", worker_id=worker))
    bench.ms += 10_000  # the lease lapses in the very turn that breaks
    seq = bench.store.tip.seq
    close, breaks, claim = bench.turn(
        bench.unit(("bead.close", {"id": "b-3", "reason": "r"})),
        bench.unit(("bead.comment", {"id": "b-2", "text": "x"})),
        bench.unit(("work.claim", {"worker_id": worker})),
    )
    assert close[0]["bead"]["status"] == "closed"
    assert isinstance(breaks[0], Refused)
    assert breaks[0].kind == "internal"
    assert claim[0]["claims"][0]["bead"]["id"] in ("b-1", "b-2")
    kinds = [event.kind for event in bench.events(seq)]
    assert sorted(kinds) == ["closed", "lapsed", "leased"]
    assert bench.problems() == []
    assert bench.ok("bead.get", id=first["bead_id"])["bead"]["status"] in ("open", "in_progress")
    bench.close()


@pytest.mark.usefixtures("broken")
def test_a_call_that_breaks_its_own_turn_is_raised_with_nothing_changed(bench: Bench) -> None:
    make(bench, "b-1")
    seq = bench.store.tip.seq
    with pytest.raises(RuntimeError, match="a bug"):
        bench.call("bead.comment", id="b-1", text="x")
    assert bench.events(seq) == []
    assert not bench.store.conn.in_transaction
    assert bench.ok("bead.get", id="b-1")["bead"]["version"] == 1
    bench.close()


# ---------------------------------------------------------------- the disk


@pytest.mark.parametrize("place", ["seal", "commit"])
def test_a_deadline_that_failed_with_its_turn_is_met_by_the_next(bench: Bench, place: str) -> None:
    worker = bench.worker()
    make(bench, "b-1")
    bench.ok("work.claim", worker_id=worker)
    bench.ms += 10_000
    assert bench.failing(place=place)
    assert bench.coordinator.sleep_ms(bench.now) == 0
    bench.turn()
    assert bench.ok("bead.get", id="b-1")["bead"]["status"] == "open"
    bench.close()


@pytest.mark.parametrize("place", ["seal", "commit"])
def test_a_renewal_that_failed_with_its_commit_is_written_later(bench: Bench, place: str) -> None:
    worker = bench.worker()
    make(bench, "b-1", "b-2")
    lease = lease_of(bench.ok("work.claim", worker_id=worker))
    bench.ms += 1
    bench.ok("worker.heartbeat", worker_id=worker, leases=[lease])
    assert bench.failing(bench.unit(("bead.close", {"id": "b-2", "reason": "r"})), place=place)
    bench.wait(1_000)
    (row,) = bench.store.many("leases_all")
    assert row[6] == bench.ms - 1_000 + 10_000, "until_ms in the ledger"
    bench.close()


@pytest.mark.parametrize("place", ["seal", "commit"])
def test_request_ids_of_a_failed_turn_take_no_room(bench: Bench, place: str) -> None:
    make(bench, "b-1", "b-2")
    bench.coordinator.requests_max = 1
    for _ in range(3):
        assert bench.failing(bench.unit(("bead.close", {"id": "b-1", "reason": "r", "request_id": "q"})), place=place)
    assert bench.ok("bead.close", id="b-1", reason="r", request_id="q")["bead"]["status"] == "closed"
    full = bench.call("bead.close", id="b-2", reason="r", request_id="q2")
    assert isinstance(full, Refused)
    assert full.kind == "backpressure"
    assert bench.ok("bead.close", id="b-1", reason="r", request_id="q")["replayed"] is True
    bench.close()


@pytest.mark.parametrize("place", ["seal", "commit"])
def test_the_day_turns_again_after_a_turn_that_failed(bench: Bench, place: str) -> None:
    """Replays of two days ago make room, even if the first turn of the day failed."""
    make(bench, "b-1", "b-2")
    bench.ok("bead.comment", id="b-1", text="x", request_id="q")
    bench.coordinator.requests_max = 1
    bench.wait(86_400_000)
    bench.ms += 86_400_000
    assert bench.failing(bench.unit(("bead.close", {"id": "b-1", "reason": "r"})), place=place)
    assert bench.ok("bead.close", id="b-2", reason="r", request_id="q2")["bead"]["status"] == "closed"
    bench.close()


def test_what_is_the_disks_fault_and_what_is_a_bug() -> None:
    assert is_storage_fault(full_disk())
    assert is_storage_fault(OSError())
    assert not is_storage_fault(ValueError())
    assert not is_storage_fault(Guarded())
    conn = sqlite3.connect(":memory:")
    for bug in ("SELECT nonsense", "CREATE TABLE t (a INTEGER PRIMARY KEY); INSERT INTO t VALUES (1), (1)"):
        with pytest.raises(sqlite3.Error) as raised:
            conn.executescript(bug)
        assert not is_storage_fault(raised.value)
    conn.close()


# ---------------------------------------------------------------- rows and epochs


def test_a_row_that_is_not_the_one_decided_on_is_never_written(bench: Bench) -> None:
    make(bench, "b-1")
    bead, _ = bench.store.load(1)
    bench.store.begin(bench.coordinator.epoch)
    with pytest.raises(Guarded):
        bench.store.save_beads([(bead.last_seq + 1, bead._replace(priority=0))])
    bench.store.rollback()
    assert bench.store.load(1)[0] == bead
    bench.store.begin(bench.coordinator.epoch)
    bench.store.save_beads([(bead.last_seq, bead._replace(priority=0))])
    bench.store.commit()
    assert bench.store.load(1)[0].priority == 0
    bench.close()


def test_an_older_grant_never_replaces_a_newer_one(bench: Bench) -> None:
    worker = bench.worker()
    make(bench, "b-1")
    bench.ok("work.claim", worker_id=worker)
    (row,) = bench.store.many("leases_all")
    bench.store.run("lease_put", *row[:3], row[3] - 1, *row[4:])
    assert bench.store.many("leases_all") == [row]
    bench.close()


def test_a_coordinator_whose_ledger_was_taken_writes_nothing(tmp_path: Path) -> None:
    old = Bench(path=tmp_path / "ledger.db")
    new = Bench(path=tmp_path / "ledger.db")
    with pytest.raises(EpochLost):
        make(old, "b-1")
    assert not old.store.conn.in_transaction
    make(new, "b-1")
    assert new.coordinator.epoch == old.coordinator.epoch + 1
    old.close()
    new.close()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    Store.open(tmp_path / "ledger.db").close()
    reader = open_reader(tmp_path / "ledger.db")
    with pytest.raises(sqlite3.OperationalError, match=r"readonly|query_only"):
        reader.execute("DELETE FROM bead")
    reader.close()


def test_a_ledger_that_cannot_be_opened_says_so_in_our_words(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    with pytest.raises(LedgerRefused):
        Store.open(tmp_path / "ledger.db")


# ---------------------------------------------------------------- the line


def waiting(bench: Bench, request_id: str, worker: str) -> Unit:
    unit = bench.unit(("work.claim", {"worker_id": worker, "wait_ms": 45_000, "request_id": request_id}))
    assert bench.turn(unit) == [[]]
    return unit


def served(bench: Bench) -> list[tuple[Unit, int]]:
    """Which claims were answered since, and with how many beads."""
    found = [(unit, len(outcomes[0]["claims"])) for unit, outcomes in bench.answers if "claims" in outcomes[0]]
    bench.answers.clear()
    return found


def test_a_repeated_claim_keeps_its_place_in_line(bench: Bench) -> None:
    worker = bench.worker()
    bench.answers.clear()
    first, second = waiting(bench, "q1", worker), waiting(bench, "q2", worker)
    again = waiting(bench, "q1", worker)
    assert served(bench) == [(first, 0)]
    for expected in (again, second):
        make(bench, f"b-{expected.calls[0].request_id}")
        assert served(bench) == [(expected, 1)]
    bench.close()


def test_a_failed_turn_keeps_the_line_as_it_was(bench: Bench) -> None:
    worker = bench.worker()
    first, second = waiting(bench, "q1", worker), waiting(bench, "q2", worker)
    assert bench.failing(bench.unit(("bead.create", {"beads": [{"title": "t"}]})), place="commit")
    for expected in (first, second):
        make(bench, f"b-{expected.calls[0].request_id}")
        assert served(bench) == [(expected, 1)]
    bench.close()


def test_a_waiting_claim_ends_in_time_even_if_the_turn_that_was_to_end_it_failed(bench: Bench) -> None:
    worker = bench.worker()
    make(bench, "b-1")
    bench.ok("work.claim", worker_id=worker)
    unit = waiting(bench, "q", worker)
    bench.answers.clear()
    bench.ms += 10_000
    bench.ok("worker.heartbeat", worker_id=worker)
    bench.ms += 45_000
    assert bench.failing(
        bench.unit(("bead.create", {"beads": [{"id": "b-2", "title": "t", "issue_type": "gate"}]})), place="commit"
    )
    bench.turn()
    assert unit in [answered for answered, _ in bench.answers]
    bench.close()


# ---------------------------------------------------------------- what earlier attempts came to


def outcomes(bench: Bench, worker: str) -> list[tuple[int, str]]:
    """Token and outcome of the earlier attempts that the next grant is told of."""
    (claim,) = bench.ok("work.claim", worker_id=worker)["claims"]
    return [(attempt["token"], attempt["outcome"]) for attempt in claim["context"]["previous"]]


def test_an_attempt_that_somebody_else_closed_stays_closed(bench: Bench) -> None:
    worker = bench.worker()
    make(bench, "b-1")
    assert outcomes(bench, worker) == []
    bench.ok("bead.close", id="b-1", reason="not needed")
    bench.ok("bead.reopen", id="b-1")
    assert outcomes(bench, worker) == [(1, "closed")]
    bench.ok("work.release", bead_id="b-1", token=2)
    assert outcomes(bench, worker) == [(2, "released"), (1, "closed")]
    bench.wait(10_000)
    assert outcomes(bench, worker) == [(3, "lapsed"), (2, "released"), (1, "closed")]
    bench.close()
