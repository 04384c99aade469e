"""What a line does to the bead that is here: every decision of an import is made in this file.

Law: pure, and deciding twice changes nothing. `updated_at` is compared at whole seconds, since writers cut it there.
Newer replaces; a tie keeps the local columns and adds the labels, edges and comments it lacks; older is stale. A leased
bead is its holder's: only those three are added. A tombstone ends a live bead when it is newer and nobody holds the
bead, and is for ever.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from gastown.ledger.reading import Skip, lines, survey
from gastown.model import Bead, Lease
from gastown.record import Memory, Record, body_fields, comment_identity, parse_line, reshape

SECOND_NS: Final = 1_000_000_000
MERGED: Final = ("labels", "dependencies", "comments")  # arrays of the body that grow on a tie


class LocalBead(NamedTuple):
    """The bead that is here, before the import."""

    bead: Bead
    body: bytes
    lease: Lease | None  # its latest unsettled grant


class Decision(NamedTuple):
    """What to do about one line. With `record`, store it (in row `local.bead.n`, or a new one for created).

    kind: created, updated (replace all), merged (labels, edges, comments added, all else as before), deleted (replace
    all by the tombstone), unchanged, skipped. With `why` the line is listed as skipped, even if something was merged.
    """

    kind: str
    line: int
    id: str
    record: Record | None = None
    local: LocalBead | None = None
    why: str | None = None


def decide_line(local: LocalBead | None, incoming: Record, line: int = 0) -> Decision:
    """The law above, for one record."""

    def decided(kind: str, record: Record | None = None, why: str | None = None) -> Decision:
        return Decision(kind, line, incoming.id, record, local, why)

    if local is None:
        return decided("created", incoming)
    ours, theirs = _updated_ns(local) // SECOND_NS, incoming.updated_ns // SECOND_NS
    if local.bead.status == "tombstone" and incoming.status != "tombstone":
        return decided("skipped", why="tombstone")
    if local.lease is not None and not local.lease.lapsed:
        if ours == theirs and _same(local, local.lease, incoming):
            return decided("unchanged")
        merged = None if incoming.status == "tombstone" else _merged(local, incoming)
        return decided("merged" if merged else "skipped", merged, "leased")
    if theirs < ours:
        return decided("skipped", why="stale")
    if theirs > ours:
        deletes = incoming.status == "tombstone" and local.bead.status != "tombstone"
        return decided("deleted" if deletes else "updated", incoming)
    if incoming.status == "tombstone":
        return decided("unchanged") if local.bead.status == "tombstone" else decided("skipped", why="stale")
    merged = _merged(local, incoming)
    return decided("merged", merged) if merged else decided("unchanged")


def _updated_ns(local: LocalBead) -> int:
    return local.bead.updated_ns if local.lease is None else max(local.bead.updated_ns, local.lease.updated_ns)


def _same(local: LocalBead, lease: Lease, incoming: Record) -> bool:
    """The line says what an export of the leased bead would say: nothing of it is held back."""
    bead = local.bead
    seen = ("in_progress", lease.worker_name, bead.priority, bead.issue_type, bead.rig, bead.close_reason, local.body)
    return seen == (
        incoming.status,
        incoming.assignee,
        incoming.priority,
        incoming.issue_type,
        incoming.rig,
        incoming.close_reason,
        incoming.body,
    )


def _merged(local: LocalBead, incoming: Record) -> Record | None:
    """The local bead with the labels, edges and comments it lacked; None if it lacked none."""
    if incoming.body == local.body:
        return None
    mine, theirs = body_fields(local.body), body_fields(incoming.body)
    known = {comment_identity(comment) for comment in mine.get("comments", ())}
    theirs["comments"] = [one for one in theirs.get("comments", ()) if comment_identity(one) not in known]
    grown: dict[str, Any] = {key: [*mine.get(key, ()), *theirs[key]] for key in MERGED if theirs.get(key)}
    bead = local.bead
    shape = reshape(bead.id, local.body, grown)
    if shape.body == local.body:
        return None
    return Record(
        id=bead.id,
        status=bead.status,
        priority=bead.priority,
        issue_type=bead.issue_type,
        assignee=bead.assignee,
        rig=bead.rig,
        created_ns=bead.created_ns,
        updated_ns=bead.updated_ns,
        updated_text=bead.updated_text,
        closed_at=bead.closed_at,
        close_reason=bead.close_reason,
        **shape._asdict(),
    )


class ImportPlan:
    """One file against one ledger. Read `decisions` to its end, then the tallies stand.

    Raises BadImport when made, with nothing decided. Holds an id a bead, never the records.
    """

    def __init__(self, file: BinaryIO, skip_bad: bool = False) -> None:
        found = survey(file, skip_bad)
        self._file = file
        self._wanted = frozenset(found.winners.values())
        self.memories: list[Memory] = found.memories
        self.token_high = found.token_high
        self.skipped: list[Skip] = found.skipped
        self.created = 0
        self.updated = 0
        self.unchanged = 0

    def decisions(self, lookup: Callable[[str], LocalBead | None]) -> Iterator[Decision]:
        """One decision a bead of the file, in file order; each may be applied before the next is asked for."""
        for number, line in lines(self._file):
            record = parse_line(line) if number in self._wanted else None
            if isinstance(record, Record):
                decision = decide_line(lookup(record.id), record, number)
                self._tally(decision)
                yield decision

    def _tally(self, decision: Decision) -> None:
        if decision.why is not None:
            self.skipped.append(Skip(decision.line, decision.id, decision.why))
        elif decision.kind == "created":
            self.created += 1
        elif decision.kind == "unchanged":
            self.unchanged += 1
        else:
            self.updated += 1

    def reply(self) -> dict[str, Any]:
        """The result of ledger.import."""
        skipped = [skip._asdict() for skip in sorted(self.skipped, key=lambda skip: skip.line)]
        return {"created": self.created, "updated": self.updated, "unchanged": self.unchanged, "skipped": skipped}


def plan_import(source: bytes | BinaryIO, skip_bad: bool = False) -> ImportPlan:
    """An import of text in memory or of a seekable file. BadImport names the first bad line."""
    return ImportPlan(io.BytesIO(source) if isinstance(source, bytes) else source, skip_bad)
