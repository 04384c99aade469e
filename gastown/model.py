"""What there is: beads, leases, workers, refusals and limits.

Law: plain data only. Nothing here decides, stores, waits or prints, and nothing of ours is imported.
Every instant is an integer with its unit last in its name; town time (`*_ms`) is Unix epoch milliseconds of the ledger
clock.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

# ---------------------------------------------------------------- numbers that change behaviour

RULES: Final = (
    1  # raised with every change of what a rule answers; never reused, so that old traces replay under old rules
)
SCHEMA: Final = 1  # number of the newest file in migrations/

# ---------------------------------------------------------------- limits (unit in the name, reason beside it)

BODY_BYTES_MAX: Final = 1 << 20  # one request; a bead with a long description is some 50 KB
IMPORT_BYTES_MAX: Final = 64 << 20  # ledger.import in one call; larger files go through POST /import.jsonl
REPLY_BYTES_MAX: Final = 4 << 20  # what a small client can be expected to hold
LINE_BYTES_MAX: Final = 1 << 20  # one JSONL line; the longest real one seen is 53 KB
NESTING_MAX: Final = 64  # JSON depth both bodies can read and write
BATCH_MAX: Final = 100  # entries of a JSON-RPC batch: one turn stays a few ms
CLAIM_LIMIT_MAX: Final = 100  # claims of one call, for the same reason
LEASES_PER_BEAT_MAX: Final = 100  # leases one heartbeat renews: one turn again
CREATE_MAX: Final = 100  # beads of one bead.create
LIST_LIMIT_MAX: Final = 1000  # rows of a page; some 400 KB of ordinary beads
WAIT_MS_MAX: Final = 45_000  # below the 60 s idle timeout of common proxies
REQUEST_ID_CHARS_MAX: Final = 64  # a UUID or a hash fits
NAME_BYTES_MAX: Final = 128  # worker, token and convoy names
TITLE_CHARS_MAX: Final = 500  # as bd
LABELS_MAX: Final = 64  # labels of one bead or worker
LABEL_BYTES_MAX: Final = 256  # it is a key of an index
CHECKPOINT_BYTES_MAX: Final = 64 << 10  # each is an event, kept for ever
PROGRESS_BYTES_MAX: Final = 1 << 10  # lives in memory
SALVAGE_BYTES_MAX: Final = 64 << 10  # a late result, kept as an event
PREVIOUS_MAX: Final = 10  # earlier attempts shown with a claim
RETRY_AFTER_MS_MIN: Final = 1_000  # asking more often than this is what wait_ms is for
RETRY_AFTER_MS_MAX: Final = 45_000  # as WAIT_MS_MAX
SLEEP_MS_MAX: Final = 30_000  # a pending deadline is looked at least this often: the wall clock may step
TURN_COMMANDS_MAX: Final = 256  # one transaction; past this the P99 of everybody grows
TICK_MAX: Final = 256  # deadlines and rechecks handled in one turn
REQUEST_TTL_MS: Final = 24 * 3_600_000  # how long a replay is promised
INT64_MAX: Final = (1 << 63) - 1  # integers of the wire and of SQLite
INT64_MIN: Final = -(1 << 63)  # the same

# ---------------------------------------------------------------- refusals


class ErrorKind(NamedTuple):
    code: int  # JSON-RPC error code
    retryable: bool


ERRORS: Final[dict[str, ErrorKind]] = {
    "parse_error": ErrorKind(-32700, False),
    "invalid_request": ErrorKind(-32600, False),
    "method_not_found": ErrorKind(-32601, False),
    "invalid_params": ErrorKind(-32602, False),
    "internal": ErrorKind(-32603, True),
    "lease_lost": ErrorKind(1001, False),
    "not_found": ErrorKind(1002, False),
    "conflict": ErrorKind(1003, False),
    "request_id_reused": ErrorKind(1004, False),
    "dependency_cycle": ErrorKind(1005, False),
    "backpressure": ErrorKind(1006, True),
    "draining": ErrorKind(1007, True),
    "worker_unknown": ErrorKind(1008, False),
    "not_leader": ErrorKind(1009, True),
    "storage_low": ErrorKind(1010, True),
    "bad_ref": ErrorKind(1011, False),
    "bad_path": ErrorKind(1011, False),
    "limit": ErrorKind(1012, False),
    "unauthenticated": ErrorKind(1401, False),
    "forbidden": ErrorKind(1403, False),
    "rate_limited": ErrorKind(1429, True),
}


class Refused(Exception):
    """A definite no, as data: `kind` is a key of ERRORS, `message` is for the caller, `data` what wire.md names."""

    def __init__(self, kind: str, message: str, **data: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.data = data

    def __repr__(self) -> str:
        return f"Refused({self.kind!r}, {self.message!r}, {self.data!r})"


class Credential(NamedTuple):
    """Who calls. The unix sockets are one credential, id "unix", scope "admin"."""

    id: str
    scope: str
    name: str


SCOPES: Final[dict[str, int]] = {"read": 0, "worker": 1, "admin": 2}
UNIX: Final = Credential("unix", "admin", "unix socket")

# ---------------------------------------------------------------- the bead

# Derived states, first match wins; the table is spec/transitions.json, the rule is rules/bead.py.
STATES: Final = (
    "tombstone", "closed", "leased", "merging", "dead", "parked", "held", "blocked", "waiting", "deferred", "ready",
)  # fmt: skip

# bits of Bead.flags, read off the record's body whenever it is saved
PINNED: Final = 1
TEMPLATE: Final = 2
EPHEMERAL: Final = 4
DEAD_LETTER: Final = 8  # carries the label dead-letter
FOREIGN: Final = (
    16  # the imported record has keys of its own called version, attempt or rig-like names we hide on the wire
)

EDGES: Final = 32  # waits for something, or is somebody's child

DEAD_LETTER_LABEL: Final = "dead-letter"
EXCLUDED_TYPES: Final = frozenset(
    ("merge-request", "gate", "molecule", "message", "agent", "role", "rig", "event", "convoy")
)
BLOCKING_KINDS: Final = frozenset(("blocks", "conditional-blocks"))
CYCLE_KINDS: Final = frozenset(("blocks", "conditional-blocks", "waits-for", "parent-child"))


class Bead(NamedTuple):
    """The narrow state of a bead: exactly the columns of table `bead`, in order. Texts live in its body."""

    n: int  # row number, never shown
    id: str
    status: str
    priority: int  # 0 critical .. 4
    issue_type: str
    assignee: str | None
    rig: str
    created_ns: int
    updated_ns: int
    updated_text: str | None  # imported spelling of updated_at; None once we wrote it ourselves
    closed_at: str | None  # RFC 3339
    close_reason: str | None
    flags: int
    defer_ms: int | None  # defer_until as a wall-clock instant
    not_before_ms: int | None  # end of the backoff, town time
    failures: int
    losses: int
    incarnation: int
    version: int
    last_seq: int  # seq of the event that wrote this row
    last_token: int | None  # the latest grant
    last_end: (
        str | None
    )  # how that grant ended: completed, closed, failed, released, blocked, changed; None while unsettled
    body_sha: str  # SHA-256 of the body, first 32 hex digits
    # derived: rewritten without an event whenever readiness is decided anew
    ended: int  # closed, pinned or tombstone: blocks nobody
    hindered: int  # an edge of its own holds it
    state: str  # one of STATES, as if no lease were live
    ready_ms: int | None  # ready_since
    wake_ms: int | None  # when time alone may change the state


DERIVED_FROM: Final = Bead._fields.index("ended")  # columns from here on are not part of the event's image


class Edge(NamedTuple):
    """One dependency of a bead: it waits for `dst` (a bead id that need not exist)."""

    dst: str
    kind: str
    any_children: int = 0  # waits-for with metadata {"gate": "any-children"}


class Lease(NamedTuple):
    """The latest unsettled grant of a bead: exactly the columns of table `lease`, in order."""

    n: int
    worker_id: str
    worker_name: str
    token: int
    attempt: int
    ttl_ms: int
    until_ms: int
    lapsed: int  # 1 after the deadline: the bead is claimable, the token still good until somebody else is granted
    version: int  # the bead's version as of the grant or the last checkpoint
    updated_ns: int
    last_seq: int


class Worker(NamedTuple):
    """A registration: the columns of table `worker`, in order. `last_seen_ms` lives in memory between writes."""

    id: str
    name: str
    credential: str
    labels: str  # JSON array
    capacity: int
    role: str
    meta: str  # JSON
    registered_ms: int
    last_seen_ms: int
    draining: int
    gone_ms: int | None


class Policy(NamedTuple):
    """Settings that rules obey. Defaults are the contract's; tests and towns may shorten them."""

    aging_ms: int = 24 * 3_600_000
    ttl_ms: int = 300_000
    ttl_ms_min: int = 10_000
    ttl_ms_max: int = 24 * 3_600_000
    failures_max: int = 3
    losses_max: int = 5
    backoff_ms: int = 30_000
    backoff_ms_max: int = 3_600_000
    stalled_ms: int = 600_000
    gone_ms: int = 24 * 3_600_000
    forget_ms: int = 24 * 3_600_000
    workers_min: int = 4
    workers_max: int = 30
    queue_depth_target: int = 10
    queue_depth_max: int = 100
    scale_cooldown_ms: int = 60_000


class Event(NamedTuple):
    """One committed change: the columns of table `event`, in order. `data` is JSON text, image the state after."""

    seq: int
    at_ms: int
    epoch: int
    kind: str
    n: int | None
    prev: int | None  # the bead's previous event
    worker: str | None
    token: int | None
    data: str | None
    image: str | None


BEAT_FRACTION: Final = 5  # a worker beats every ttl/5: four may be lost before the deadline
