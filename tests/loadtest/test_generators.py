"""Each generator drains a queue, keeps a true history and brings interrupted calls to an end."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gastown.loadtest import generator
from gastown.loadtest.check import read_settled
from gastown.loadtest.generator import GeneratorFault
from gastown.loadtest.plan import Outcome, Plan

from .small_queue import Refusal, SmallQueue

BEADS = 40


def drain(queue: SmallQueue, python: bool, dialect: str = "lines", **options: Any) -> tuple[Outcome, list[Any]]:
    """Runs three workers until nothing is left; the outcome and the acknowledged completions."""
    settled = queue.folder / "settled"
    plan = Plan(queue.target(dialect), dialect, workers=3, settled=str(settled))
    outcome = generator.run(replace(plan, **options), python)
    return outcome, read_settled(settled)


def history(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("dialect", ["http", "lines"])
@pytest.mark.parametrize("nested", [False, True])
def test_every_bead_is_completed_once(tmp_path: Path, python: bool, dialect: str, nested: bool) -> None:
    with SmallQueue(tmp_path, BEADS) as queue:
        outcome, told = drain(queue, python, dialect, nested=nested)
    assert {bead: [token] for bead, token in told} == queue.ends
    assert len(queue.ends) == outcome.granted == outcome.settled == outcome.settle.total == BEADS
    assert outcome.empty == 3
    assert outcome.refused == {}
    assert not queue.live


def test_a_budget_ends_the_run_with_nothing_held(tmp_path: Path, python: bool) -> None:
    with SmallQueue(tmp_path, BEADS) as queue:
        outcome, _ = drain(queue, python, pairs=10)
    assert outcome.granted == outcome.settled == 10
    assert len(queue.ready) == BEADS - 10
    assert not queue.live


def test_lost_replies_are_asked_for_again_with_the_same_id(tmp_path: Path, python: bool) -> None:
    log = tmp_path / "history"
    with SmallQueue(tmp_path, BEADS) as queue:
        queue.drop = lambda number: number > 3 and number % 10 == 0
        outcome, told = drain(queue, python, retry_seconds=30.0, history=str(log))
    assert sorted(bead for bead, _ in told) == sorted(queue.ends)
    assert all(len(tokens) == 1 for tokens in queue.ends.values())
    assert outcome.unknown == outcome.reconnects > 0
    infos = [entry for entry in history(log) if entry["outcome"] == "info"]
    assert len(infos) == outcome.unknown
    for lost in infos:
        same = [e for e in history(log) if e["args"]["request_id"] == lost["args"]["request_id"]]
        assert [e["outcome"] for e in same][-1] == "ok"


def test_a_daemon_on_another_port_is_found_again(tmp_path: Path, python: bool) -> None:
    with SmallQueue(tmp_path, BEADS) as queue:
        daemon = tmp_path / "daemon.json"
        daemon.write_text(json.dumps({"listen": f"127.0.0.1:{queue.port}"}))
        outcome, _ = drain(queue, python, "http", target="tcp:127.0.0.1:1", daemon_file=str(daemon))
    assert outcome.settled == BEADS


def test_a_unix_socket_is_not_traded_for_a_port(tmp_path: Path, python: bool) -> None:
    with SmallQueue(tmp_path, BEADS) as queue:
        daemon = tmp_path / "daemon.json"
        daemon.write_text(json.dumps({"listen": f"127.0.0.1:{queue.port}"}))
        queue.drop = lambda number: number % 10 == 0
        outcome, _ = drain(queue, python, retry_seconds=30.0, daemon_file=str(daemon))
    assert outcome.settled == BEADS
    assert outcome.reconnects > 0


def test_a_lost_reply_without_a_retry_window_ends_its_worker(tmp_path: Path, python: bool) -> None:
    with SmallQueue(tmp_path, BEADS) as queue:
        queue.drop = lambda number: number == 4
        outcome, told = drain(queue, python)
    assert outcome.gave_up == outcome.unknown == 1
    assert len(told) >= BEADS - 1


def test_a_draining_server_is_asked_again_and_a_lost_lease_is_left_alone(tmp_path: Path, python: bool) -> None:
    def refuse(number: int, method: str) -> Refusal | None:
        if number == 5:
            return Refusal(1007, retry_after_ms=1)
        return Refusal(1001, action="stop") if number > 20 and method == "work.complete" and number < 24 else None

    with SmallQueue(tmp_path, BEADS) as queue:
        queue.refuse = refuse
        outcome, told = drain(queue, python, retry_seconds=30.0)
    assert outcome.refused["1007"] == 1
    assert outcome.lost == outcome.refused["1001"] == len(queue.live) > 0
    assert len(told) == len(queue.ends) == BEADS - outcome.lost


def test_an_unknown_worker_registers_again(tmp_path: Path, python: bool) -> None:
    with SmallQueue(tmp_path, BEADS) as queue:
        queue.refuse = only_once(1008, "work.claim")
        outcome, told = drain(queue, python)
    assert outcome.refused == {"1008": 1}
    assert len(told) == BEADS


def only_once(code: int, method: str) -> Any:
    refused: list[int] = []

    def refuse(number: int, asked: str) -> Refusal | None:
        if asked != method or refused:
            return None
        refused.append(number)
        return Refusal(code)

    return refuse


def test_a_refusal_nobody_expects_is_a_fault(tmp_path: Path, python: bool) -> None:
    with SmallQueue(tmp_path, BEADS) as queue:
        queue.refuse = only_once(-32602, "work.complete")
        with pytest.raises(GeneratorFault, match="-32602"):
            drain(queue, python)


def test_the_history_has_one_line_a_call(tmp_path: Path, python: bool) -> None:
    log = tmp_path / "history"
    with SmallQueue(tmp_path, BEADS) as queue:
        outcome, _ = drain(queue, python, history=str(log))
    entries = history(log)
    assert len(entries) == 3 + outcome.granted + outcome.empty + outcome.settled
    assert {entry["op"] for entry in entries} == {"worker.register", "work.claim", "work.complete"}
    assert sorted(entry["seq"] for entry in entries) == list(range(1, len(entries) + 1))
    completed = [entry for entry in entries if entry["op"] == "work.complete"]
    assert {entry["bead"]: [entry["token"]] for entry in completed} == queue.ends
    for entry in entries:
        assert 0 < entry["t_inv"] <= entry["t_ret"]
        assert entry["epoch"] == 1


def test_released_beads_come_back(tmp_path: Path, python: bool) -> None:
    with SmallQueue(tmp_path, 2) as queue:
        outcome, _ = drain(queue, python, ending="release", pairs=30, again=True)
    assert outcome.settled == 30
    assert len(queue.ready) == 2
    assert not queue.ends


def test_the_ceiling_is_measured_against_a_fixed_reply(tmp_path: Path, python: bool) -> None:
    for dialect in ("http", "lines"):
        with generator.static_server(dialect, tmp_path, python) as target:
            outcome = generator.run(Plan(target, dialect, workers=2, pairs=50), python)
        assert outcome.settled == 50


def test_the_python_fleet_says_what_it_cannot_do() -> None:
    with pytest.raises(GeneratorFault, match="closed loop"):
        generator.run(Plan("unix:x", "redis"), python=True)
