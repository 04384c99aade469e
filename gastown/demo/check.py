"""Whether the demo kept its promise, read off the town's events and the git repository, never off what agents said.

Law: pure; `beads` and `histories` are answers of bead.list and bead.history, `branches` maps a branch to (commit, bead,
token) as its tip says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gastown.client import Bead

History = Sequence[Mapping[str, Any]]
Branches = Mapping[str, tuple[str, str, int]]


class Trouble(NamedTuple):
    """What an agent in trouble held, and who: to be found again in the events."""

    worker: str
    bead_id: str
    token: int


class Verdict(NamedTuple):
    """`lost` and `doubled` are bead ids; `problems` says everything else that is not as promised."""

    lost: list[str]
    doubled: list[str]
    problems: list[str]


def judge(
    planned: Sequence[str],
    edges: Sequence[tuple[str, str]],
    beads: Mapping[str, Bead],
    histories: Mapping[str, History],
    branches: Branches,
) -> Verdict:
    """Every bead ended once, by the token last granted, after its blockers, and its work is in git."""
    closed = {bead_id for bead_id, bead in beads.items() if bead.get("status") == "closed"}
    lost = [bead_id for bead_id in planned if bead_id not in closed or not _ended(histories.get(bead_id, ()))]
    doubled = [bead_id for bead_id in planned if _is_doubled(histories.get(bead_id, ()))]
    problems = [
        problem
        for bead_id in planned
        if bead_id in closed and (problem := _git_problem(beads[bead_id], histories.get(bead_id, ()), branches))
    ]
    problems += _order_problems(edges, histories)
    return Verdict(lost, doubled, problems)


def _ended(history: History) -> Mapping[str, Any] | None:
    return next((event for event in history if event["kind"] == "completed"), None)


def _is_doubled(history: History) -> bool:
    """Whether the bead ended twice, was held by two at once, or ended by a token that was not its latest grant."""
    held: int | None = None
    latest = ends = 0
    for event in history:
        if event["kind"] == "leased":
            if held is not None or event["token"] <= latest:
                return True
            held = latest = event["token"]
        elif event["kind"] == "completed":
            ends += 1
            if event["token"] != latest:
                return True
            held = None
        elif event["kind"] in ("lapsed", "failed", "released", "blocked", "closed"):
            held = None
    return ends > 1


def _git_problem(bead: Bead, history: History, branches: Branches) -> str | None:
    bead_id, end = bead["id"], _ended(history)
    if end is None:
        return None  # lost, and said so
    name = f"work/{bead_id}-{end['token']}"
    if name not in branches:
        return f"{bead_id} was completed but its branch {name} is not in the repository"
    commit, told_bead, told_token = branches[name]
    if (told_bead, told_token) != (bead_id, end["token"]):
        return f"the tip of {name} is the work of {told_bead}, token {told_token}"
    if commit not in bead.get("close_reason", ""):
        return f"{bead_id} was completed with another commit than {commit} of {name}"
    return None


def _order_problems(edges: Sequence[tuple[str, str]], histories: Mapping[str, History]) -> list[str]:
    found = []
    for bead_id, blocker in edges:
        first = next((event["seq"] for event in histories.get(bead_id, ()) if event["kind"] == "leased"), None)
        end = _ended(histories.get(blocker, ()))
        if first is not None and (end is None or end["seq"] > first):
            found.append(f"{bead_id} was handed out before {blocker} was done")
    return found


def recovered(trouble: Trouble, history: History) -> str | None:
    """Why the bead of an agent in trouble was not recovered; None when it was: lapsed, granted anew, completed."""
    kinds = [(event["kind"], event.get("token")) for event in history]
    if ("lapsed", trouble.token) not in kinds:
        return f"the lease {trouble.token} of {trouble.worker} on {trouble.bead_id} never lapsed"
    end = _ended(history)
    if end is None or end["token"] <= trouble.token:
        return f"{trouble.bead_id} of {trouble.worker} was not completed by another"
    return None


def fenced(trouble: Trouble, refused: Mapping[str, Any] | None, history: History) -> str | None:
    """Why the late result was not turned away as promised; None when it was, and is kept as an event."""
    if refused is None or refused["code"] != 1001:
        return f"the stale token {trouble.token} of {trouble.worker} was not refused with 1001: {refused}"
    if not any(event["kind"] == "salvaged" and event.get("token") == trouble.token for event in history):
        return f"the late result of {trouble.worker} for {trouble.bead_id} was not kept as an event"
    return None
