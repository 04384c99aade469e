"""Lines of a beads ledger, as the tools of that format write them."""

import json
from typing import Any

NEW_YEAR = "2026-01-01T00:00:00Z"


def record(bead_id: str, **fields: Any) -> dict[str, Any]:
    """One issue record with the fields that are always written; `fields` replace or add."""
    created = fields.get("created_at", NEW_YEAR)
    return {
        "id": bead_id,
        "title": f"title of {bead_id}",
        "status": "open",
        "priority": 2,
        "issue_type": "task",
        "created_at": created,
        "updated_at": created,
        **fields,
    }


def edge(source: str, target: str, kind: str = "blocks", **fields: Any) -> dict[str, Any]:
    """A dependency row on `source`: it waits for `target`."""
    return {"issue_id": source, "depends_on_id": target, "type": kind, "created_at": NEW_YEAR, **fields}


def jsonl(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(item) + "\n" for item in records)


def parsed(text: str) -> dict[str, dict[str, Any]]:
    """The records of an export by id; a header line is left out."""
    rows = [json.loads(line) for line in text.splitlines()]
    return {row["id"]: row for row in rows if "id" in row}
