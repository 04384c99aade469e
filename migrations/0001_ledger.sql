-- Changing the schema: forward only.
--   1. Add migrations/NNNN_name.sql; never edit a file that has been released.
--   2. It runs inside one transaction that also sets user_version = NNNN; no COMMIT, no PRAGMA in it.
--   3. Raise SCHEMA in gastown/model.py (and its twin in the Rust body) to NNNN.
--   4. New columns need a default; new tables are STRICT. No state is decided in SQL.
--   5. tests/store/test_migrations.py upgrades a ledger with rows of every table from each older schema: add rows there.
-- A newer user_version than SCHEMA is refused at the door with nothing written.

-- What this ledger is and who last served it: ledger_id, prefix, epoch, body, ledger_ms, boot_ms, boot_id.
CREATE TABLE coordinator (
  key   TEXT PRIMARY KEY,
  value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- Narrow state, one row a bead; columns as model.Bead. Derived columns (ended ..) change without an event.
CREATE TABLE bead (
  n             INTEGER PRIMARY KEY,
  id            TEXT NOT NULL UNIQUE,
  status        TEXT NOT NULL,
  priority      INTEGER NOT NULL,
  issue_type    TEXT NOT NULL,
  assignee      TEXT,
  rig           TEXT NOT NULL,
  created_ns    INTEGER NOT NULL,
  updated_ns    INTEGER NOT NULL,
  updated_text  TEXT,
  closed_at     TEXT,
  close_reason  TEXT,
  flags         INTEGER NOT NULL,
  defer_ms      INTEGER,
  not_before_ms INTEGER,
  failures      INTEGER NOT NULL,
  losses        INTEGER NOT NULL,
  incarnation   INTEGER NOT NULL,
  version       INTEGER NOT NULL,
  last_seq      INTEGER NOT NULL,
  last_token    INTEGER,
  last_end      TEXT,
  body_sha      TEXT NOT NULL,
  ended         INTEGER NOT NULL,
  hindered      INTEGER NOT NULL,
  state         TEXT NOT NULL,
  ready_ms      INTEGER,
  wake_ms       INTEGER
) STRICT;
CREATE INDEX bead_wake ON bead (wake_ms) WHERE wake_ms IS NOT NULL;

-- The record's JSON without the keys that bead has as columns: opaque to the rules.
CREATE TABLE body (
  n    INTEGER PRIMARY KEY REFERENCES bead (n),
  json BLOB NOT NULL
) STRICT;

-- Read off the body whenever it is saved; src waits for dst, which need not exist.
CREATE TABLE edge (
  src          INTEGER NOT NULL REFERENCES bead (n),
  dst          TEXT NOT NULL,
  kind         TEXT NOT NULL,
  any_children INTEGER NOT NULL,
  PRIMARY KEY (src, dst, kind)
) STRICT, WITHOUT ROWID;
CREATE INDEX edge_dst ON edge (dst, kind, src);

CREATE TABLE label (
  n     INTEGER NOT NULL REFERENCES bead (n),
  label TEXT NOT NULL,
  PRIMARY KEY (n, label)
) STRICT, WITHOUT ROWID;
CREATE INDEX label_label ON label (label, n);

-- The latest unsettled grant; the key is the one-holder law. Columns as model.Lease.
CREATE TABLE lease (
  n           INTEGER PRIMARY KEY REFERENCES bead (n),
  worker_id   TEXT NOT NULL,
  worker_name TEXT NOT NULL,
  token       INTEGER NOT NULL UNIQUE,
  attempt     INTEGER NOT NULL,
  ttl_ms      INTEGER NOT NULL,
  until_ms    INTEGER NOT NULL,
  lapsed      INTEGER NOT NULL,
  version     INTEGER NOT NULL,
  updated_ns  INTEGER NOT NULL,
  last_seq    INTEGER NOT NULL
) STRICT;

-- Append only. prev is the bead's previous event, so a bead's history is a walk and needs no index.
CREATE TABLE event (
  seq    INTEGER PRIMARY KEY,
  at_ms  INTEGER NOT NULL,
  epoch  INTEGER NOT NULL,
  kind   TEXT NOT NULL,
  n      INTEGER,
  prev   INTEGER,
  worker TEXT,
  token  INTEGER,
  data   TEXT,
  image  TEXT
) STRICT;

-- One row a transaction: hash = SHA-256(previous hash, the turn's events), see store.chain.
CREATE TABLE turn (
  last_seq   INTEGER PRIMARY KEY,
  now_ms     INTEGER NOT NULL,
  epoch      INTEGER NOT NULL,
  token_high INTEGER NOT NULL,
  hash       TEXT NOT NULL
) STRICT;

-- Readiness to be decided anew, left over from a turn that had too many.
CREATE TABLE recheck (
  n INTEGER PRIMARY KEY REFERENCES bead (n)
) STRICT;

CREATE TABLE worker (
  id            TEXT PRIMARY KEY,
  name          TEXT NOT NULL,
  credential    TEXT NOT NULL,
  labels        TEXT NOT NULL,
  capacity      INTEGER NOT NULL,
  role          TEXT NOT NULL,
  meta          TEXT NOT NULL,
  registered_ms INTEGER NOT NULL,
  last_seen_ms  INTEGER NOT NULL,
  draining      INTEGER NOT NULL,
  gone_ms       INTEGER
) STRICT, WITHOUT ROWID;

-- Replays: key = SHA-256(credential, request_id) cut to 16 bytes. Two tables take turns by day, the older is emptied whole.
CREATE TABLE request_even (
  key    BLOB PRIMARY KEY,
  digest BLOB NOT NULL,
  reply  BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE request_odd (
  key    BLOB PRIMARY KEY,
  digest BLOB NOT NULL,
  reply  BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE salvage (
  n     INTEGER NOT NULL,
  token INTEGER NOT NULL,
  seq   INTEGER NOT NULL,
  PRIMARY KEY (n, token)
) STRICT, WITHOUT ROWID;

CREATE TABLE convoy (
  id         TEXT PRIMARY KEY,
  name       TEXT NOT NULL,
  created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE convoy_bead (
  convoy TEXT NOT NULL REFERENCES convoy (id),
  n      INTEGER NOT NULL REFERENCES bead (n),
  PRIMARY KEY (convoy, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX convoy_bead_n ON convoy_bead (n);

CREATE TABLE pause (
  rig TEXT PRIMARY KEY -- "*" holds every rig
) STRICT, WITHOUT ROWID;

CREATE TABLE token (
  id           TEXT PRIMARY KEY,
  name         TEXT NOT NULL,
  scope        TEXT NOT NULL,
  hash         BLOB NOT NULL UNIQUE,
  created_ms   INTEGER NOT NULL,
  last_used_ms INTEGER,
  revoked      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `_type: memory` lines of imported files, kept and written back.
CREATE TABLE memory (
  key  TEXT PRIMARY KEY,
  json BLOB NOT NULL,
  seq  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
