"""The method table: every method that can be called, its scope, its parameters, its result and its refusals.

Law: one row is the whole truth of a method. The checks of the codec and the OpenRPC document are both made from it, so
neither can know a parameter that the other does not. A method that is not here does not exist; each has one scope.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from gastown import results
from gastown.model import (
    CHECKPOINT_BYTES_MAX,
    CLAIM_LIMIT_MAX,
    CREATE_MAX,
    LABEL_BYTES_MAX,
    LABELS_MAX,
    LEASES_PER_BEAT_MAX,
    LIST_LIMIT_MAX,
    NAME_BYTES_MAX,
    PROGRESS_BYTES_MAX,
    REQUEST_ID_CHARS_MAX,
    SCOPES,
    STATES,
    TITLE_CHARS_MAX,
    WAIT_MS_MAX,
)
from gastown.shapes import (
    Fields,
    Record,
    Schema,
    Shape,
    array,
    flag,
    free_json,
    given,
    instant,
    integer,
    line,
    may,
    name,
    nullable,
    one_of,
    pattern,
    record,
    text,
    utf8,
    wrong,
)

ID_BYTES_MAX: Final = 256  # of an id in a question: given ids have 128, children and imported ones may be longer
WORKER_ID_BYTES_MAX: Final = 128  # far more than the ids we make
KIND_BYTES_MAX: Final = 64  # a word: issue_type, role; the longest known is merge-request
BRANCH_BYTES_MAX: Final = 255  # a file name's length, since branches are files
COMMIT_BYTES_MAX: Final = 64  # SHA-256 in hex
REFERENCE_CHARS_MAX: Final = 1024  # external_ref is a key or a URL
PRIORITY_MAX: Final = 4  # the backlog
PRIORITY_DEFAULT: Final = 2
CAPACITY_MAX: Final = 1000  # beads a worker says it can hold at once; advice
EDGES_MAX: Final = 100  # edges of one new bead, or blockers of one work.block: a turn stays a few ms
CHOICES_MAX: Final = 64  # values of one filter field
CONVOY_BEADS_MAX: Final = 1000  # beads named in one call
ESTIMATE_MINUTES_MAX: Final = 5_256_000  # ten years
FREE_JSON_BYTES_MAX: Final = 64 << 10  # metadata, meta and usage, as a checkpoint
PAGE_DEFAULT: Final = 100

# ---------------------------------------------------------------- shapes that several methods share

GIVEN_ID = pattern(
    "[A-Za-z0-9][A-Za-z0-9._-]{0,127}", "must start with a letter or digit, then up to 127 of A-Z a-z 0-9 . _ -"
)
BEAD_ID = text(1, ID_BYTES_MAX)
WORKER_ID = text(1, WORKER_ID_BYTES_MAX)
TOKEN = integer(1)
LABEL = line(LABEL_BYTES_MAX, printable=False)  # any text, as an import may have brought
LABELS = array(LABEL, 0, LABELS_MAX)
NAME = name(NAME_BYTES_MAX)
WORD = line(KIND_BYTES_MAX)
EDGE_KIND = pattern("[a-z][a-z0-9_-]{0,63}", "must be a lower-case word such as blocks or parent-child")
STATUS = pattern("[a-z][a-z0-9_-]{0,63}", "must be a lower-case word such as open, blocked or deferred")
RIG = line(NAME_BYTES_MAX, minimum=0)
REASON = text()
SOME_LABELS = array(text(1), 1, CHOICES_MAX)  # asked for, not given: any spelling an import may have brought
SOME_KINDS = array(text(1), 1, CHOICES_MAX)
PAGE = integer(1, LIST_LIMIT_MAX)
CURSOR = nullable(text())  # a wrong one is refused where it is read
REQUEST_ID = text(1, REQUEST_ID_CHARS_MAX)
NARROWING: Fields = {
    "labels_all": given(SOME_LABELS),
    "labels_any": given(SOME_LABELS),
    "issue_types": given(SOME_KINDS),
    "rig": given(RIG),
    "convoy": given(BEAD_ID),
}
READY_FILTER = record({**NARROWING, "bead_id": given(BEAD_ID)})
LIST_FILTER = record(
    {
        **NARROWING,
        "status": given(array(text(1), 1, CHOICES_MAX)),
        "state": given(array(one_of(*STATES), 1, CHOICES_MAX)),
        "assignee": given(text(1)),
        "parent": given(BEAD_ID),
    }
)
CLAIM: Fields = {
    "worker_id": WORKER_ID,
    "limit": may(integer(1, CLAIM_LIMIT_MAX), 1),
    "wait_ms": may(integer(0, WAIT_MS_MAX), 0),
    "ttl_ms": may(integer(1)),
    "filter": may(READY_FILTER),
}
HELD: Fields = {"bead_id": BEAD_ID, "token": TOKEN}

# What a caller may say about a bead, at its birth or later.
BEAD_TEXTS = ("description", "design", "acceptance_criteria", "notes")
BEAD_TITLE = text(1, TITLE_CHARS_MAX)
BEAD_OPTIONAL: dict[str, Shape] = {
    **dict.fromkeys(BEAD_TEXTS, text()),
    "labels": LABELS,
    "assignee": line(ID_BYTES_MAX),
    "estimated_minutes": integer(0, ESTIMATE_MINUTES_MAX),
    "due_at": instant(),
    "defer_until": instant(),
    "external_ref": text(1, REFERENCE_CHARS_MAX),
    "metadata": free_json(FREE_JSON_BYTES_MAX, record_only=True),
    "rig": RIG,
}
NEW_BEAD = record(
    {
        "title": BEAD_TITLE,
        **{key: may(shape) for key, shape in BEAD_OPTIONAL.items()},
        "priority": may(integer(0, PRIORITY_MAX), PRIORITY_DEFAULT),
        "issue_type": may(WORD, "task"),
        "labels": may(LABELS, ()),
        "rig": may(RIG, ""),
        "id": may(GIVEN_ID),
        "parent": may(BEAD_ID),
        "depends_on": may(array(record({"id": BEAD_ID, "kind": may(EDGE_KIND, "blocks")}), 0, EDGES_MAX), ()),
    }
)
BEAD_SET = record(
    {
        "title": given(BEAD_TITLE),
        "priority": given(integer(0, PRIORITY_MAX)),
        "issue_type": given(WORD),
        "status": given(STATUS),
        **{key: given(nullable(shape)) for key, shape in BEAD_OPTIONAL.items()},
    }
)
BEAT = record(
    {
        **HELD,
        "progress": may(free_json(PROGRESS_BYTES_MAX, record_only=False)),
        "checkpoint": may(free_json(CHECKPOINT_BYTES_MAX, record_only=False)),
    }
)
EDGE: Fields = {"from": BEAD_ID, "to": BEAD_ID, "kind": may(EDGE_KIND, "blocks")}
CONVOY_CHANGE: Fields = {"id": BEAD_ID, "beads": array(BEAD_ID, 1, CONVOY_BEADS_MAX)}


def _merge_or_none(params: dict[str, Any]) -> None:
    if params["merge"] is not None and params["no_change"] is not None:
        raise wrong("send merge or no_change, not both", at="no_change")


def _on_or_reason(params: dict[str, Any]) -> None:
    if (params["on"] is None) == (params["reason"] is None):
        raise wrong("send exactly one of on (bead ids) and reason", at="on")


# ---------------------------------------------------------------- the table

ALWAYS: Final = (
    "invalid_request",
    "invalid_params",
    "internal",
    "limit",
    "unauthenticated",
    "forbidden",
    "rate_limited",
)
WHEN_WRITING: Final = ("request_id_reused", "backpressure", "draining", "not_leader", "storage_low")


@dataclass(frozen=True, slots=True)
class Method:
    """One row. `errors` are kinds of model.ERRORS; `batched` false means that a batch may not hold it."""

    name: str
    scope: str
    mutates: bool
    summary: str
    params: Record
    result: Schema
    errors: tuple[str, ...]
    batched: bool


METHODS: Final[dict[str, Method]] = {}


def _method(
    scope: str,
    called: str,
    params: Fields,
    result: Schema,
    summary: str,
    *errors: str,
    mutates: bool = False,
    batched: bool = True,
    also: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    refusals = ALWAYS + (WHEN_WRITING if mutates else ()) + errors
    if mutates:
        params, result = {**params, "request_id": given(REQUEST_ID)}, results.written(result)
    METHODS[called] = Method(called, scope, mutates, summary, record(params, also), result, refusals, batched)


def _reads(scope: str, called: str, params: Fields, result: Schema, summary: str, *errors: str) -> None:
    _method(scope, called, params, result, summary, *errors)


def _writes(
    scope: str,
    called: str,
    params: Fields,
    result: Schema,
    summary: str,
    *errors: str,
    also: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    _method(scope, called, params, result, summary, *errors, mutates=True, also=also)


def _workers() -> None:
    own: Fields = {"worker_id": WORKER_ID}
    _writes(
        "worker",
        "worker.register",
        {
            "name": NAME,
            "labels": may(LABELS, ()),
            "capacity": may(integer(1, CAPACITY_MAX), 1),
            "role": may(WORD, ""),
            "meta": may(free_json(FREE_JSON_BYTES_MAX, record_only=True)),
        },
        results.REGISTRATION,
        "Start as a worker. The same name again supersedes the earlier registration and takes over its leases.",
    )
    beats = may(array(BEAT, 0, LEASES_PER_BEAT_MAX), ())
    summary = "Renew the listed leases and hear what has changed."
    _writes("worker", "worker.heartbeat", {**own, "leases": beats}, results.BEATEN, summary, "worker_unknown")
    summary = "Take no more work; leases run on."
    _writes("worker", "worker.drain", own, results.ONE_WORKER, summary, "worker_unknown")
    summary = "Leave; held beads go back without spending a budget."
    _writes("worker", "worker.deregister", own, results.ONE_WORKER, summary, "worker_unknown")
    _reads("read", "worker.list", {}, results.WORKERS, "All workers with their states.")


def _work() -> None:
    lost = ("not_found", "lease_lost")
    summary = "Lease the best ready beads that pass the filter; an empty list means nothing to do yet."
    _writes("worker", "work.claim", CLAIM, results.CLAIMED, summary, "worker_unknown")
    _writes(
        "worker",
        "work.complete",
        {
            **HELD,
            "result": may(
                record(
                    {"summary": text(), "usage": may(free_json(FREE_JSON_BYTES_MAX, record_only=True))},
                )
            ),
            "merge": may(record({"branch": line(BRANCH_BYTES_MAX), "commit": line(COMMIT_BYTES_MAX)})),
            "no_change": may(text(1)),
            "claim": may(record(CLAIM)),
        },
        results.COMPLETED,
        "Close the bead of a lease; with claim the next work comes in the same reply.",
        *lost,
        "conflict",
        "worker_unknown",
        also=_merge_or_none,
    )
    fail: Fields = {**HELD, "error": text(1), "retryable": may(flag(), True)}
    summary = "Give up an attempt: the bead comes back after a growing delay, or is dead-lettered."
    _writes("worker", "work.fail", fail, results.FAILED, summary, *lost)
    release: Fields = {**HELD, "reason": may(REASON)}
    _writes("worker", "work.release", release, results.ONE_BEAD, "Hand a bead back; no attempt is spent.", *lost)
    block: Fields = {**HELD, "on": may(array(BEAD_ID, 1, EDGES_MAX)), "reason": may(text(1))}
    summary = "End the lease because the bead must wait for others, or for a person."
    _writes("worker", "work.block", block, results.ONE_BEAD, summary, *lost, "dependency_cycle", also=_on_or_reason)


def _beads() -> None:
    one: Fields = {"id": BEAD_ID}
    page: Fields = {"limit": may(PAGE, PAGE_DEFAULT)}
    born: Fields = {"beads": array(NEW_BEAD, 1, CREATE_MAX)}
    summary = "Create beads, all or none."
    _writes("worker", "bead.create", born, results.BEADS, summary, "not_found", "conflict", "dependency_cycle")
    _reads("read", "bead.get", one, results.ONE_BEAD, "One bead.", "not_found")
    orders = [sign + key for key in ("id", "created", "updated", "priority") for sign in ("", "-")]
    listed: Fields = {**page, "filter": may(LIST_FILTER), "sort": may(one_of(*orders), "id"), "cursor": may(CURSOR)}
    summary = "Beads by filter, in pages; send next_cursor back until it is null."
    _reads("read", "bead.list", listed, results.BEAD_PAGE, summary)
    ready: Fields = {
        **page,
        "filter": may(READY_FILTER),
        "sort": may(one_of("priority", "oldest", "hybrid"), "priority"),
    }
    _reads("read", "bead.ready", ready, results.BEADS, "What a claim would hand out, in its order.")
    edit: Fields = {**one, "set": BEAD_SET, "if_version": may(integer(0))}
    summary = "Set fields of a bead; null clears one, labels are replaced whole."
    _writes("worker", "bead.update", edit, results.ONE_BEAD, summary, "not_found", "conflict")
    ended: Fields = {**one, "reason": text()}
    _writes("worker", "bead.close", ended, results.ONE_BEAD, "Close a bead, held or not.", "not_found", "conflict")
    summary = "Open a closed or dead bead again, with fresh budgets."
    _writes("worker", "bead.reopen", one, results.ONE_BEAD, summary, "not_found", "conflict")
    summary = "Make a bead wait for another; an edge that is there already is ok."
    _writes("worker", "bead.depend", EDGE, results.ONE_BEAD, summary, "not_found", "dependency_cycle")
    summary = "Take an edge away; one that is not there is ok."
    _writes("worker", "bead.undepend", EDGE, results.ONE_BEAD, summary, "not_found")
    said: Fields = {**one, "text": text(1)}
    _writes("worker", "bead.comment", said, results.ONE_BEAD, "Add a comment to a bead.", "not_found")
    _reads("read", "bead.history", one, results.HISTORY, "The events of a bead in seq order.", "not_found")


def _ledger() -> None:
    _method(
        "admin",
        "ledger.import",
        {
            "jsonl": utf8(),
            "mode": may(one_of("merge", "replace_empty"), "merge"),
            "dry_run": may(flag(), False),
            "skip_bad": may(flag(), False),
        },
        results.IMPORTED,
        "Merge a JSONL ledger into this one, all or none. Larger files: POST /import.jsonl.",
        "conflict",
        mutates=True,
        batched=False,
    )
    summary = "The whole ledger as canonical JSONL text. Larger ledgers: GET /export.jsonl."
    _reads("read", "ledger.export", {"canonical": may(flag(), True)}, results.EXPORTED, summary)
    summary = "Check the hash chain and the invariants of the ledger."
    _method("admin", "ledger.verify", {}, results.VERIFIED, summary, batched=False)


def _queue() -> None:
    rig: Fields = {"rig": may(RIG)}
    _reads("read", "queue.stats", {}, results.QUEUE, "Counts by state, age of the queue, claim latency.")
    _writes("admin", "queue.pause", rig, results.PAUSED, "Hand out no work, of one rig or of all.")
    _writes("admin", "queue.resume", rig, results.PAUSED, "Hand out work again.")
    _reads("read", "scale.advice", {}, results.ADVICE, "How many workers the queue wants, and why.")


def _convoys() -> None:
    one: Fields = {"id": BEAD_ID}
    some = may(array(BEAD_ID, 0, CONVOY_BEADS_MAX), ())
    born: Fields = {"name": NAME, "beads": some, "id": may(GIVEN_ID)}
    _writes("worker", "convoy.create", born, results.ONE_CONVOY, "Name a group of beads.", "not_found", "conflict")
    _reads("read", "convoy.get", one, results.ONE_CONVOY, "A convoy with its progress.", "not_found")
    page: Fields = {"limit": may(PAGE, PAGE_DEFAULT), "cursor": may(CURSOR)}
    _reads("read", "convoy.list", page, results.CONVOYS, "Convoys in pages.")
    summary = "Add beads to a convoy; those in it already are ok."
    _writes("worker", "convoy.add", CONVOY_CHANGE, results.ONE_CONVOY, summary, "not_found")
    summary = "Take beads out of a convoy; those not in it are ok."
    _writes("worker", "convoy.remove", CONVOY_CHANGE, results.ONE_CONVOY, summary, "not_found")


def _town() -> None:
    born: Fields = {"scope": one_of(*SCOPES), "name": NAME}
    summary = "A new token; its text is shown this once."
    _writes("admin", "token.create", born, results.NEW_TOKEN, summary)
    _reads("admin", "token.list", {}, results.TOKENS, "All tokens, without their texts.")
    _writes("admin", "token.revoke", {"id": text(1, ID_BYTES_MAX)}, results.EMPTY, "End a token at once.", "not_found")
    _reads("read", "system.info", {}, results.INFO, "Which body runs, since when, on which epoch.")
    _reads("read", "rpc.discover", {}, results.DOCUMENT, "This document.")


for family in (_workers, _work, _beads, _ledger, _queue, _convoys, _town):
    family()
