"""The demo: its judge must see every planted fault, and the play must end well and leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conformance.town import until

from gastown.demo import check, plan
from gastown.demo.check import Trouble

WITHIN_S = 120.0  # the play has 90 of its own


def event(kind: str, seq: int, token: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "seq": seq} | ({} if token is None else {"token": token})


def sound() -> dict[str, Any]:
    """Two beads; the second waits for the first, which was lost once."""
    return {
        "planned": ["a", "b"],
        "edges": [("b", "a")],
        "beads": {
            "a": {"id": "a", "status": "closed", "close_reason": "c0ffee on work/a-2"},
            "b": {"id": "b", "status": "closed", "close_reason": "beef on work/b-3"},
        },
        "histories": {
            "a": [event("leased", 1, 1), event("lapsed", 2, 1), event("leased", 3, 2), event("completed", 4, 2)],
            "b": [event("leased", 5, 3), event("completed", 6, 3), event("salvaged", 7, 1)],
        },
        "branches": {"work/a-1": ("dead", "a", 1), "work/a-2": ("c0ffee", "a", 2), "work/b-3": ("beef", "b", 3)},
    }


def test_a_sound_end_is_found_sound() -> None:
    assert check.judge(**sound()) == ([], [], [])


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(found: dict[str, Any]) -> None:
        *way, last = path.split("/")
        for key in way:
            found = found[key]
        if value is None:
            del found[last]
        else:
            found[last] = value

    return apply


LEASED_TWICE = [event("leased", 1, 1), event("leased", 3, 2), event("completed", 4, 2)]
ENDED_TWICE = [event("leased", 1, 1), event("completed", 2, 1), event("leased", 3, 2), event("completed", 4, 2)]
STALE_END = [event("leased", 1, 1), event("lapsed", 2, 1), event("leased", 3, 2), event("completed", 4, 1)]
TOKEN_BACK = [event("leased", 1, 2), event("lapsed", 2, 2), event("leased", 3, 2), event("completed", 4, 2)]


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        ("lost", change("beads/a/status", "open")),
        ("lost", change("beads/a", None)),
        ("lost", change("histories/a", [event("leased", 1, 1)])),
        ("doubled", change("histories/a", LEASED_TWICE)),
        ("doubled", change("histories/a", ENDED_TWICE)),
        ("doubled", change("histories/a", STALE_END)),
        ("doubled", change("histories/a", TOKEN_BACK)),
        ("problems", change("histories/b", [event("leased", 2, 3), event("completed", 6, 3)])),
        ("problems", lambda found: found["branches"].pop("work/b-3")),
        ("problems", lambda found: found["branches"].update({"work/b-3": ("beef", "a", 3)})),
        ("problems", lambda found: found["branches"].update({"work/b-3": ("feed", "b", 3)})),
    ],
)
def test_a_planted_fault_is_seen(field: str, fault: Callable[[dict[str, Any]], Any]) -> None:
    found = sound()
    fault(found)
    assert getattr(check.judge(**found), field)


def test_whether_an_agent_in_trouble_was_recovered() -> None:
    trouble, history = Trouble("w", "a", 1), sound()["histories"]["a"]
    assert check.recovered(trouble, history) is None
    assert check.recovered(trouble, history[:3]) is not None
    assert check.recovered(trouble, [history[0], *history[2:]]) is not None
    refused = {"code": 1001}
    assert check.fenced(trouble, refused, [*history, event("salvaged", 5, 1)]) is None
    assert check.fenced(trouble, refused, history) is not None
    assert check.fenced(trouble, None, [*history, event("salvaged", 5, 1)]) is not None
    assert check.fenced(trouble, {"code": 1003}, [*history, event("salvaged", 5, 1)]) is not None


def test_the_same_seed_is_the_same_ledger() -> None:
    assert plan.ledger(7) == plan.ledger(7) != plan.ledger(8)
    rows = [json.loads(line) for line in plan.ledger(1).splitlines()]
    assert len(rows) == len({row["title"] for row in rows}) == len(plan.titles())
    assert sum(len(row["dependencies"]) for row in rows) == len(plan.edges())


def demo(*arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "gastown", "demo", *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def test_the_play_ends_well(tmp_path: Path) -> None:
    with demo("--json", "--keep", str(tmp_path / "kept"), "--seed", "3") as running:
        out, err = running.communicate(timeout=WITHIN_S)
    assert running.returncode == 0, err
    told = json.loads(out)
    assert (told["ok"], told["lost"], told["doubled"], told["problems"]) == (True, [], [], [])
    assert told["completed"] == told["beads"] == len(plan.titles())
    assert told["claims"] >= told["beads"] + 2, "two beads were granted again"
    assert "1001" in told["silent"]
    assert told["claim_ms"]["p50"] <= told["claim_ms"]["p99"]
    assert (tmp_path / "kept" / "town" / ".gastown" / "ledger.db").exists()
    assert b"SIGKILL" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_play_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    # a shell without job control starts us deaf to SIGINT, and a child would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with demo(env={**os.environ, "TMPDIR": str(tmp_path)}) as running:
        children = until(lambda: found if len(found := psutil.Process(running.pid).children()) >= 6 else None, 30.0)
        running.send_signal(number)
        running.communicate(timeout=30)
    assert running.returncode not in (0, None)
    until(lambda: not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_empty_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep me")
    with demo("--keep", str(tmp_path)) as running:
        _, err = running.communicate(timeout=WITHIN_S)
    assert running.returncode == 1
    assert b"not empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
