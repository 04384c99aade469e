"""Simulated worlds: whatever callers, clock, network and crashes do, the promises hold. A failure names its seed."""

from __future__ import annotations

import json
from pathlib import Path

from .checker import check
from .world import Report, World

ON_DISK_EVERY = 10  # most worlds live in memory; these have a file, and zombies with connections of their own


def run(seed: int, folder: Path) -> Report:
    return World(seed, path=folder / "ledger.db" if seed % ON_DISK_EVERY == 0 else None).run()


def test_the_promises_hold(seed: int, tmp_path: Path) -> None:
    report = run(seed, tmp_path)
    told = [f"{rule}: {text}" for rule, text in check(report.history, report.ledger, report.terms)]
    assert told + report.faults == [], (
        f"run it again: pytest tests/simulation/test_world.py --first-seed {seed} --seeds 1"
    )


def test_a_seed_is_one_history() -> None:
    once, again = (json.dumps(vars(World(7).run()), default=vars) for _ in range(2))
    assert once == again


def test_worlds_are_not_empty() -> None:
    """A world where little happens proves little."""
    reports = [World(seed).run() for seed in range(12)]
    done = {(record["op"], record["outcome"]) for report in reports for record in report.history}
    kinds = {event["kind"] for report in reports for event in report.ledger["events"]}
    refused = {r["error"]["kind"] for report in reports for r in report.history if r["outcome"] == "fail"}
    assert {(op, "info") for op in ("work.claim", "work.complete", "bead.create")} <= done
    assert {"leased", "lapsed", "renewed", "completed", "failed", "released", "blocked", "closed", "reopened"} <= kinds
    assert {"salvaged", "updated", "edge_added", "edge_removed", "epoch", "queue_paused", "commented"} <= kinds
    assert {"lease_lost", "conflict", "worker_unknown", "storage_low", "draining", "dependency_cycle"} <= refused
    assert any(record["result"].get("replayed") for r in reports for record in r.history if record["outcome"] == "ok")
    assert sum(len(report.history) for report in reports) > 12 * 150
