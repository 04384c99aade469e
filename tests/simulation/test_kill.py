"""kill -9 under load: real callers on a real daemon that dies in the middle of it, again and again.

Law: the callers know the wire and nothing else. Every call is recorded with the times of one monotonic clock; a call
whose reply never came is asked again with its request_id until the answer is definite. Then the history is judged.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any, Final

import pytest
from conformance.door import Events
from conformance.town import SETTINGS, Town, until
from conformance.wire import Connection, RpcError, outcome, post

from .checker import READING, Record, check
from .replay import Terms

KILLS: Final = 5
WORKERS: Final = 8
BEADS: Final = 400
CHUNK: Final = 10  # beads of one bead.create
TTL_MS: Final = 2_000  # so short that a dead worker's beads come back within the test
WAIT_MS: Final = 300
CALLS_BEFORE_A_KILL: Final = (60, 250)  # answered calls between a start and the next kill
REPLY_S: Final = 20.0  # longer than any answer of a daemon that lives
DONE_S: Final = 90.0  # for everything, on a busy machine


class Gone(Exception):
    """The test is over; a caller that still waits may go."""


class Load:
    """What all callers share: the town, its history, and when to stop."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.path: str = town.daemon["socket"]
        self.history: list[Record] = []
        self.closed: set[str] = set()
        self.over = threading.Event()
        self.faults: list[BaseException] = []

    def wait_for_answers(self, count: int) -> None:
        """Returns once `count` more calls came to their end, or there is nothing left to wait for."""
        goal = len(self.history) + count
        until(lambda: self.faults or len(self.history) >= goal or len(self.closed) == BEADS, DONE_S)


class Caller:
    """One client with one connection."""

    def __init__(self, load: Load, name: str, rng: Random) -> None:
        self.load, self.name, self.rng = load, name, rng
        self.connection: Connection | None = None
        self.serial = 0

    def call(self, op: str, /, **args: Any) -> Record:
        """The record of a definite answer, asked for until there is one."""
        if op not in READING:
            self.serial += 1
            args["request_id"] = f"{self.name}-{self.serial}"
        while (record := self._try(op, args))["outcome"] == "info":
            pass
        return record

    def _try(self, op: str, args: dict[str, Any]) -> Record:
        connection = self._connected()
        record: Record = {
            "client": self.name, "op": op, "args": args, "t_inv": time.monotonic(), "t_ret": 0.0, "outcome": "info",
            "epoch": None, "seq": None, "bead": args.get("bead_id") or args.get("id"), "token": args.get("token"),
        }  # fmt: skip
        try:
            connection.send(post({"jsonrpc": "2.0", "id": 1, "method": op, "params": args}))
            result = outcome(connection.read_reply(REPLY_S))
            record |= {"outcome": "ok", "result": result, "seq": result.get("seq"), "epoch": result.get("epoch")}
        except RpcError as refused:
            record |= {"outcome": "fail", "error": refused.data}
        except (OSError, EOFError):
            self.hang_up()
        record["t_ret"] = time.monotonic()
        self.load.history.append(record)
        return record

    def _connected(self) -> Connection:
        if self.connection is None:
            self.connection = until(self._connect, DONE_S)
        return self.connection

    def _connect(self) -> Connection | None:
        if self.load.over.is_set():
            raise Gone
        with contextlib.suppress(OSError):
            return Connection.unix(self.load.path)
        return None

    def hang_up(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Planner(Caller):
    def work(self) -> None:
        for start in range(0, BEADS, CHUNK):
            self.call("bead.create", beads=[self._item(number) for number in range(start, start + CHUNK)])
            bead = f"k-{self.rng.randrange(start + CHUNK)}"
            self.call("bead.comment", id=bead, text=f"seen after {start}")
            self.call("bead.update", id=bead, set={"priority": self.rng.randrange(5)})
            self.call("bead.get", id=bead)

    def _item(self, number: int) -> dict[str, Any]:
        item: dict[str, Any] = {"id": f"k-{number}", "title": f"bead {number}", "priority": self.rng.randrange(5)}
        item["labels"] = ["red"] if self.rng.random() < 0.3 else []
        if number and self.rng.random() < 0.2:
            item["depends_on"] = [{"id": f"k-{self.rng.randrange(number)}"}]
        return item


class Worker(Caller):
    """Claims and completes until all is closed; `freezes` after so many grants until others have done its work."""

    def __init__(self, load: Load, name: str, rng: Random, freezes: int | None = None) -> None:
        super().__init__(load, name, rng)
        self.freezes, self.grants = freezes, 0
        self.held: list[tuple[str, int]] = []

    def work(self) -> None:
        self.worker_id = self.call("worker.register", name=self.name)["result"]["worker_id"]
        while len(self.load.closed) < BEADS:
            self._take(self.call("work.claim", **self._claim()))
            while self.held:
                if self.freezes is not None and self.grants >= self.freezes:
                    self._freeze()
                self._serve(*self.held.pop())

    def _freeze(self) -> None:
        self.freezes = None
        until(lambda: all(bead in self.load.closed for bead, _ in self.held) or self.load.over.is_set(), DONE_S)

    def _claim(self) -> dict[str, Any]:
        asked = {"filter": {"labels_all": ["red"]}} if self.rng.random() < 0.2 else {}
        limit = self.rng.choice((1, 1, 2, 3))
        return {"worker_id": self.worker_id, "limit": limit, "wait_ms": WAIT_MS, "ttl_ms": TTL_MS, **asked}

    def _take(self, record: Record) -> None:
        for claim in record.get("result", {}).get("claims", ()):
            self.held.append((claim["lease"]["bead_id"], claim["lease"]["token"]))
            self.grants += 1

    def _serve(self, bead: str, token: int) -> None:
        lease = {"bead_id": bead, "token": token}
        roll = self.rng.random()
        if roll < 0.3:
            beat = lease | ({"checkpoint": {"half": True}} if roll < 0.1 else {})
            self.call("worker.heartbeat", worker_id=self.worker_id, leases=[beat])
        if roll > 0.97:
            self.call("work.release", **lease)
        elif roll > 0.95:
            self.call("work.fail", **lease, error="not today")
        else:
            claim = {"claim": self._claim() | {"wait_ms": 0}} if self.rng.random() < 0.5 else {}
            record = self.call("work.complete", **lease, **claim)
            if record["outcome"] == "ok":
                self.load.closed.add(bead)
            self._take(record)


@pytest.fixture
def town() -> Iterator[Town]:
    # failures are not what is tried here: no bead may run out of its budgets
    killed = Town("python", {**SETTINGS, "failures_max": 1000, "losses_max": 1000})
    try:
        yield killed.start()
    finally:
        killed.close()


def start(load: Load, rng: Random) -> list[threading.Thread]:
    callers: list[Planner | Worker] = [Planner(load, "planner", Random(rng.random()))]
    for number in range(WORKERS):
        callers.append(Worker(load, f"worker-{number}", Random(rng.random()), freezes=15 if number < 2 else None))

    def run(caller: Planner | Worker) -> None:
        try:
            caller.work()
        except Gone:
            pass
        except BaseException as fault:
            load.faults.append(fault)
        finally:
            caller.hang_up()

    threads = [threading.Thread(target=run, args=(caller,), name=caller.name) for caller in callers]
    for thread in threads:
        thread.start()
    return threads


def kill_again_and_again(load: Load, rng: Random) -> list[float]:
    """-> seconds from each kill to serving again."""
    took_s = []
    for _ in range(KILLS):
        load.wait_for_answers(rng.randint(*CALLS_BEFORE_A_KILL))
        began = time.monotonic()
        load.town.kill9()
        load.town.start()
        took_s.append(time.monotonic() - began)
    return took_s


def ledger_of(town: Town) -> dict[str, Any]:
    town.worker("last")  # its event tells what time it is in the town
    with Events(town, last_id=0) as stream:
        events = [event.data for event in stream.to(town.seq())]
    export = town.call("ledger.export")["jsonl"]
    return {"events": events, "export": export, "end_ms": events[-1]["at_ms"], "drained": True}


def test_nothing_is_lost_or_done_twice(town: Town, record_property: Any) -> None:
    rng = Random(137)
    load = Load(town)
    threads = start(load, rng)
    try:
        took_s = kill_again_and_again(load, rng)
        for thread in threads:
            thread.join(DONE_S)
    finally:
        load.over.set()
    assert load.faults == []
    assert not [thread.name for thread in threads if thread.is_alive()]
    record_property("serving_again_s", took_s)
    print(f"served again after {[round(took, 2) for took in took_s]} s, {len(load.history)} calls")
    ledger = ledger_of(town)
    terms = Terms(backoff_ms=SETTINGS["backoff_ms"], backoff_ms_max=SETTINGS["backoff_ms_max"], failures_max=1000)
    assert check(load.history, ledger, terms) == []
    ends = Counter(event["bead_id"] for event in ledger["events"] if event["kind"] == "completed")
    assert ends == {f"k-{number}": 1 for number in range(BEADS)}
    assert town.call("ledger.verify") == {"ok": True, "problems": []}
    states = town.call("queue.stats")["beads"]
    assert (states["closed"], sum(states.values())) == (BEADS, BEADS)
    # and that was no idle stroll: replies were lost, and zombies were turned away
    assert {record["outcome"] for record in load.history} == {"ok", "fail", "info"}
