"""The work of the demo: a small made-up project as a beads ledger, two chains, a diamond and single pieces.

Law: the same seed gives the same ledger.
"""

from __future__ import annotations

import json
import random
from typing import Final

PREFIX: Final = "demo"
AT: Final = "2026-01-01T09:00:00Z"  # any instant: the order of claims does not depend on it here

# A chain is worked one after the other.
CHAINS: Final = (
    ("Read the configuration file", "Check every key of it", "Name the line of a mistake", "Write the settings page",
     "Warn about old keys"),
    ("Draw the login form", "Hash the passwords", "Lock an account after ten tries", "Mail a reset link",
     "Test the whole login"),
)  # fmt: skip
# The first opens the two in the middle, both open the last.
DIAMOND: Final = ("Choose the database schema", "Write the queries", "Write the migrations", "Measure the slow query")
SINGLES: Final = (
    "Fix the typo on the front page", "Sort the imports", "Update the licence year", "Add a favicon",
    "Speed up the tests", "Translate the error texts", "Remove the dead code", "Explain the release steps",
    "Pin the dependencies", "Make the buttons reachable by keyboard",
)  # fmt: skip


def edges() -> list[tuple[int, int]]:
    """(bead, blocker) by number; numbers run through the chains, the diamond and the singles."""
    found, start = [], 0
    for chain in CHAINS:
        found += [(n, n - 1) for n in range(start + 1, start + len(chain))]
        start += len(chain)
    top, left, right, bottom = range(start, start + 4)
    return [*found, (left, top), (right, top), (bottom, left), (bottom, right)]


def titles() -> list[str]:
    return [title for chain in CHAINS for title in chain] + [*DIAMOND, *SINGLES]


def bead_id(number: int) -> str:
    return f"{PREFIX}-{number + 1:02}"


def ledger(seed: int) -> str:
    """The JSONL of .beads/issues.jsonl."""
    chance = random.Random(seed)
    blockers: dict[int, list[int]] = {}
    for bead, blocker in edges():
        blockers.setdefault(bead, []).append(blocker)
    lines = []
    for number, title in enumerate(titles()):
        own = bead_id(number)
        record = {
            "id": own, "title": title, "status": "open", "priority": chance.randint(0, 4), "issue_type": "task",
            "created_at": AT, "updated_at": AT,
            "dependencies": [
                {"issue_id": own, "depends_on_id": bead_id(blocker), "type": "blocks", "created_at": AT}
                for blocker in blockers.get(number, [])
            ],
        }  # fmt: skip
        lines.append(json.dumps(record))
    return "\n".join(lines) + "\n"
