"""What became of the beads of a run, asked from the ledger itself and held against what the fleet was told."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .town import BATCH, Caller, Town

PAGE = 1000  # beads a page: the contract's most
SHOWN = 10  # offenders named in a report


@dataclass
class Verdict:
    """Ids by what is wrong with them; a run is sound when all lists are empty and the ledger verifies."""

    beads: int
    completed_once: int = 0
    missing: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    acknowledged_twice: list[str] = field(default_factory=list)
    unacknowledged_token: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        lists = (self.missing, self.unfinished, self.doubled, self.acknowledged_twice, self.unacknowledged_token)
        return not any(lists) and not self.problems and self.completed_once == self.beads

    def as_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"beads": self.beads, "completed_once": self.completed_once, "sound": self.sound}
        for name in ("missing", "unfinished", "doubled", "acknowledged_twice", "unacknowledged_token", "problems"):
            offenders = getattr(self, name)
            found[name] = len(offenders)
            if offenders:
                found[f"{name}_first"] = offenders[:SHOWN]
        return found


def read_settled(path: Path) -> list[tuple[str, int]]:
    """The (bead, token) pairs whose completion the fleet saw acknowledged."""
    words = (line.split() for line in path.read_text().splitlines())
    return [(bead, int(token)) for bead, token in words]


def judge(
    ids: Sequence[str],
    statuses: dict[str, str],
    ends: dict[str, list[int]],
    settled: Iterable[tuple[str, int]],
) -> Verdict:
    """`statuses`: bead -> status in the ledger; `ends`: bead -> tokens of its completed events."""
    verdict = Verdict(len(ids))
    for bead in ids:
        if bead not in statuses:
            verdict.missing.append(bead)
        elif statuses[bead] != "closed" or not ends.get(bead):
            verdict.unfinished.append(bead)
        elif len(ends[bead]) > 1:
            verdict.doubled.append(bead)
        else:
            verdict.completed_once += 1
    told = list(settled)
    verdict.acknowledged_twice = [bead for bead, times in Counter(bead for bead, _ in told).items() if times > 1]
    verdict.unacknowledged_token = [bead for bead, token in told if token not in ends.get(bead, [])]
    return verdict


def check(town: Town, ids: Sequence[str], label: str | None, settled: Path) -> Verdict:
    """Reads the ledger back: `bead.list`, `bead.history` of every bead of the run, `ledger.verify`."""
    with town.caller() as caller:
        verdict = judge(ids, _statuses(caller, label), _ends(caller, ids), read_settled(settled))
        report = caller.call("ledger.verify")
    verdict.problems = [problem["text"] for problem in report["problems"]]
    if not report["ok"] and not verdict.problems:
        verdict.problems = ["the ledger does not verify"]
    return verdict


def _statuses(caller: Caller, label: str | None) -> dict[str, str]:
    statuses: dict[str, str] = {}
    params: dict[str, Any] = {"limit": PAGE}
    if label is not None:
        params["filter"] = {"labels_all": [label]}
    while True:
        page = caller.call("bead.list", **params)
        statuses |= {bead["id"]: bead["status"] for bead in page["beads"]}
        if page["next_cursor"] is None:
            return statuses
        params["cursor"] = page["next_cursor"]


def _ends(caller: Caller, ids: Sequence[str]) -> dict[str, list[int]]:
    ends: dict[str, list[int]] = {}
    for start in range(0, len(ids), BATCH):
        some = ids[start : start + BATCH]
        histories = caller.batch("bead.history", [{"id": bead} for bead in some])
        for bead, history in zip(some, histories, strict=True):
            completed = (event for event in history["events"] if event["kind"] == "completed")
            ends[bead] = [event.get("token", 0) for event in completed]
    return ends
