"""Diagrams of spec/transitions.json as a page: `python -m tests.rules.diagram > docs/states.md`."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from typing import Any

from gastown import shared

HEAD = """# States

Made from `spec/transitions.json` by `python -m tests.rules.diagram`; a test compares it. The first state of a list
whose condition holds is the one. Drawn are moves from one state to another, without edits that lead almost anywhere.
"""


def transitions() -> dict[str, Any]:
    """-> {bead, lease, worker}: states, shown, others, moves."""
    return {
        noun: table for noun, table in json.loads(shared.text("spec", "transitions.json")).items() if noun != "about"
    }


def drawn(table: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """(from, to) -> the events that lead there, of those that are shown."""
    arrows = defaultdict(list)
    for event in table["shown"]:
        for start, ends in table["moves"][event].items():
            for end in ends:
                if start != end:
                    arrows[start, end].append(event.removeprefix("worker_"))
    return arrows


def diagram(table: dict[str, Any]) -> list[str]:
    names = {"new": "[*]"}
    arrows = drawn(table).items()
    lines = [f"    {names.get(start, start)} --> {end} : {', '.join(events)}" for (start, end), events in arrows]
    return ["```mermaid", "stateDiagram-v2", "    direction LR", *lines, "```"]


def section(noun: str, table: dict[str, Any]) -> list[str]:
    rows = [f"| {number} | `{row['state']}` | {row['when']} |" for number, row in enumerate(table["states"], 1)]
    notes = [f"- *{event}*: {meaning}" for event, meaning in table["others"].items()]
    states = ["", "| | state | when |", "|---|---|---|", *rows, ""]
    return [f"## {noun.capitalize()}", *states, *diagram(table), "", *notes, *([""] if notes else [])]


def page() -> str:
    """The whole of docs/states.md."""
    sections = [line for noun, table in transitions().items() for line in section(noun, table)]
    return "\n".join([HEAD, *sections]).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
