"""A coordinator on a ledger of its own, driven call by call: a clock that is told the time, a disk that can fill."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from gastown import protocol
from gastown.engine.coordinator import Coordinator, Decided, Unit
from gastown.ledger import verifying
from gastown.model import UNIX, Credential, Event, Policy, Refused
from gastown.rules.bead import Now
from gastown.store import Store

START_MS = 1_772_000_000_000


def full_disk() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


@dataclass
class Bench:
    """One town without a server. `now` is moved by `wait`; the wall clock runs `wall_ahead_ms` ahead of town time."""

    policy: Policy = field(default_factory=Policy)
    path: Path | str = ":memory:"
    wall_ahead_ms: int = 5_000
    ms: int = START_MS
    answers: list[tuple[Unit, list[Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store.open(Path(self.path) if self.path != ":memory:" else self.path)  # type: ignore[arg-type]  # SQLite's own name for a database in memory
        self.coordinator = Coordinator(self.store, self.policy)
        decided = self.coordinator.start(self.now, {})
        self.store.commit()
        self._settle(decided)

    @property
    def now(self) -> Now:
        return Now(self.ms, self.ms + self.wall_ahead_ms)

    def close(self) -> None:
        self.store.close()

    # ------------------------------------------------------------ turns

    def unit(self, *asked: tuple[str, dict[str, Any]], credential: Credential = UNIX) -> Unit:
        """A request of one call, or a batch of several."""
        calls = [{"jsonrpc": "2.0", "id": i, "method": m, "params": p} for i, (m, p) in enumerate(asked)]
        text = orjson.dumps(calls if len(calls) > 1 else calls[0])
        envelope = protocol.decode(text, credential.scope)
        return Unit(envelope.calls, credential, envelope.batch, lambda _: True)

    def turn(self, *units: Unit) -> list[list[Any]]:
        """One turn with its commit; -> the outcomes of these units, [] for one that waits."""
        decided = self.coordinator.run(list(units), self.now)
        self.store.commit()
        self._settle(decided)
        found = {id(unit): outcomes for unit, outcomes in decided.replies}
        return [[plain(one) for one in found.get(id(unit), [])] for unit in units]

    def _settle(self, decided: Decided) -> None:
        self.coordinator.committed(decided)
        self.answers += decided.replies

    def failing(self, *units: Unit, place: str) -> bool:
        """A turn on a full disk: it fails when sealed, or when committed. False: it had nothing to write."""
        if place == "seal":
            self.store.seal = _refuse  # type: ignore[method-assign]  # the planted fault
        try:
            self.coordinator.run(list(units), self.now)
        except sqlite3.OperationalError:
            return True
        finally:
            if place == "seal":
                del self.store.seal
        if not self.store.conn.in_transaction:
            return False
        self.coordinator.abort()
        return True

    def call(self, method: str, **params: Any) -> Any:
        """The result, or the Refused, of one call in a turn of its own; None while it waits."""
        (outcomes,) = self.turn(self.unit((method, params)))
        return outcomes[0] if outcomes else None

    def ok(self, method: str, **params: Any) -> Any:
        result = self.call(method, **params)
        assert not isinstance(result, Refused), result
        return result

    def wait(self, ms: int) -> None:
        """Time passes, and what is due is done."""
        self.ms += ms
        for _ in range(100):
            self.turn()
            if self.coordinator.sleep_ms(self.now) != 0:
                return
        raise AssertionError("a turn is due for ever")

    # ------------------------------------------------------------ questions

    def events(self, after: int = 0) -> list[Event]:
        return [Event._make(row[:-1]) for row in self.store.many("events_after", after, -1)]

    def states(self) -> dict[int, str]:
        """Every bead's state by its row number."""
        turn = self.coordinator.turn(self.now)
        return {n: turn.state(n) for _, n in self.store.many("bead_ids")}

    def problems(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = verifying.verify(self.store)["problems"]
        return found

    def worker(self, name: str = "ada") -> str:
        return str(self.ok("worker.register", name=name)["worker_id"])


def _refuse(*_: Any) -> Any:
    raise full_disk()


def plain(outcome: Any) -> Any:
    """An outcome as a client would read it."""
    return outcome if isinstance(outcome, Refused) else orjson.loads(orjson.dumps(outcome))
