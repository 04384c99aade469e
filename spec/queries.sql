-- Every query of both bodies. `-- name: NAME :one|:many|:exec`, one line of purpose, `:name` parameters bound in order
-- of their first appearance. SQL selects rows and applies guarded writes; it never decides.

-- name: setting_get :one
-- A value of this ledger's own, such as its epoch.
SELECT value FROM coordinator WHERE key = :key;

-- name: setting_put :exec
-- Write such a value.
INSERT INTO coordinator (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- name: turn_last :one
-- The newest turn: where the chain ends.
SELECT last_seq, now_ms, epoch, token_high, hash FROM turn ORDER BY last_seq DESC LIMIT 1;

-- name: turn_add :exec
-- The row that seals a transaction.
INSERT INTO turn (last_seq, now_ms, epoch, token_high, hash) VALUES (:last_seq, :now_ms, :epoch, :token_high, :hash);

-- name: turns_all :many
-- The chain, for verify.
SELECT last_seq, now_ms, epoch, token_high, hash FROM turn ORDER BY last_seq;

-- name: turn_at :one
-- The turn that ended with an event, to compare with the high-water mark.
SELECT hash FROM turn WHERE last_seq = :last_seq;

-- name: event_add :exec
-- Append one event.
INSERT INTO event (seq, at_ms, epoch, kind, n, prev, worker, token, data, image)
VALUES (:seq, :at_ms, :epoch, :kind, :n, :prev, :worker, :token, :data, :image);

-- name: event_at :one
-- One event, a step of a bead's history.
SELECT seq, at_ms, epoch, kind, n, prev, worker, token, data, image FROM event WHERE seq = :seq;

-- name: events_after :many
-- A page of the event stream, oldest first, each with its bead's id.
SELECT e.seq, e.at_ms, e.epoch, e.kind, e.n, e.prev, e.worker, e.token, e.data, e.image, b.id
FROM event AS e LEFT JOIN bead AS b ON b.n = e.n WHERE e.seq > :seq ORDER BY e.seq LIMIT :page;

-- name: bead_by_id :one
-- The row number of a bead.
SELECT n FROM bead WHERE id = :id;

-- name: bead_row :one
-- A bead's narrow state and its body.
SELECT b.n, b.id, b.status, b.priority, b.issue_type, b.assignee, b.rig, b.created_ns, b.updated_ns, b.updated_text,
  b.closed_at, b.close_reason, b.flags, b.defer_ms, b.not_before_ms, b.failures, b.losses, b.incarnation, b.version,
  b.last_seq, b.last_token, b.last_end, b.body_sha, b.ended, b.hindered, b.state, b.ready_ms, b.wake_ms, y.json
FROM bead AS b JOIN body AS y ON y.n = b.n WHERE b.n = :n;

-- name: bead_rows_all :many
-- Every bead with its body in the order of ids, for export and verify.
SELECT b.n, b.id, b.status, b.priority, b.issue_type, b.assignee, b.rig, b.created_ns, b.updated_ns, b.updated_text,
  b.closed_at, b.close_reason, b.flags, b.defer_ms, b.not_before_ms, b.failures, b.losses, b.incarnation, b.version,
  b.last_seq, b.last_token, b.last_end, b.body_sha, b.ended, b.hindered, b.state, b.ready_ms, b.wake_ms, y.json
FROM bead AS b JOIN body AS y ON y.n = b.n ORDER BY b.id;

-- name: bead_max :one
-- The highest row number given out.
SELECT coalesce(max(n), 0) FROM bead;

-- name: bead_ids :many
-- Every id and row number, to match an import against.
SELECT id, n FROM bead;

-- name: bead_add :exec
-- A new bead.
INSERT INTO bead VALUES (:n, :id, :status, :priority, :issue_type, :assignee, :rig, :created_ns, :updated_ns,
  :updated_text, :closed_at, :close_reason, :flags, :defer_ms, :not_before_ms, :failures, :losses, :incarnation,
  :version, :last_seq, :last_token, :last_end, :body_sha, :ended, :hindered, :state, :ready_ms, :wake_ms);

-- name: bead_save :exec
-- Replace a bead's narrow state, if it is still the row the decision was made on (guard: was_seq).
UPDATE bead SET id = :id, status = :status, priority = :priority, issue_type = :issue_type, assignee = :assignee,
  rig = :rig, created_ns = :created_ns, updated_ns = :updated_ns, updated_text = :updated_text, closed_at = :closed_at,
  close_reason = :close_reason, flags = :flags, defer_ms = :defer_ms, not_before_ms = :not_before_ms,
  failures = :failures, losses = :losses, incarnation = :incarnation, version = :version, last_seq = :last_seq,
  last_token = :last_token, last_end = :last_end, body_sha = :body_sha, ended = :ended, hindered = :hindered,
  state = :state, ready_ms = :ready_ms, wake_ms = :wake_ms
WHERE n = :n AND last_seq = :was_seq;

-- name: body_put :exec
-- The record's texts.
INSERT INTO body (n, json) VALUES (:n, :json) ON CONFLICT (n) DO UPDATE SET json = excluded.json;

-- name: ready_rows :many
-- What the ready index is built from.
SELECT n, id, priority, issue_type, rig, created_ns, ready_ms FROM bead WHERE ready_ms IS NOT NULL;

-- name: wake_rows :many
-- Beads that time alone may change.
SELECT n, wake_ms FROM bead WHERE wake_ms IS NOT NULL;

-- name: state_counts :many
-- Beads by base state.
SELECT state, count(*) FROM bead GROUP BY state;

-- name: prefix_counts :many
-- Ids up to their last dash, to find the ledger's usual prefix.
SELECT rtrim(rtrim(id, '0123456789abcdefghijklmnopqrstuvwxyz.'), '-') AS prefix, count(*) AS beads
FROM bead GROUP BY prefix ORDER BY beads DESC, prefix LIMIT 1;

-- name: edges_of :many
-- What a bead waits for.
SELECT dst, kind, any_children FROM edge WHERE src = :n ORDER BY dst, kind;

-- name: edges_to :many
-- Which beads name this id, and how.
SELECT src, kind FROM edge WHERE dst = :id;

-- name: edge_add :exec
-- An edge read off a body.
INSERT INTO edge (src, dst, kind, any_children) VALUES (:src, :dst, :kind, :any_children);

-- name: edges_drop :exec
-- Before a body is saved anew.
DELETE FROM edge WHERE src = :n;

-- name: blockers :many
-- Targets of a bead's own edges that may hold it: kind, gate, target's id and whether it has ended (tombstones have).
SELECT e.kind, e.any_children, b.id, b.ended, b.status FROM edge AS e JOIN bead AS b ON b.id = e.dst WHERE e.src = :n;

-- name: children_by_ended :many
-- Of the beads whose parent is this id: which values of ended occur.
SELECT DISTINCT b.ended FROM edge AS e JOIN bead AS b ON b.n = e.src
WHERE e.dst = :id AND e.kind = 'parent-child' AND b.status <> 'tombstone';

-- name: parents :many
-- The beads that are this one's parents and still there.
SELECT b.n, b.ended, b.hindered, b.defer_ms FROM edge AS e JOIN bead AS b ON b.id = e.dst
WHERE e.src = :n AND e.kind = 'parent-child' AND b.status <> 'tombstone';

-- name: children :many
-- The beads that name this id as their parent.
SELECT src FROM edge WHERE dst = :id AND kind = 'parent-child';

-- name: recheck_add :exec
-- Leave a bead's readiness to a later turn.
INSERT OR IGNORE INTO recheck (n) VALUES (:n);

-- name: recheck_some :many
-- Readiness left over to be decided anew.
SELECT n FROM recheck ORDER BY n LIMIT :page;

-- name: recheck_drop :exec
-- It has been decided.
DELETE FROM recheck WHERE n = :n;

-- name: labels_of :many
-- A bead's labels, sorted.
SELECT label FROM label WHERE n = :n ORDER BY label;

-- name: label_add :exec
-- A label read off a body.
INSERT INTO label (n, label) VALUES (:n, :label);

-- name: labels_drop :exec
-- Forget a bead's labels before they are read anew.
DELETE FROM label WHERE n = :n;

-- name: labelled :many
-- Every bead with a label, to build a facet of the ready index.
SELECT n FROM label WHERE label = :label;

-- name: lease_put :exec
-- The one grant of a bead that is not settled.
INSERT INTO lease VALUES (:n, :worker_id, :worker_name, :token, :attempt, :ttl_ms, :until_ms, :lapsed, :version,
  :updated_ns, :last_seq)
ON CONFLICT (n) DO UPDATE SET worker_id = excluded.worker_id, worker_name = excluded.worker_name,
  token = excluded.token, attempt = excluded.attempt, ttl_ms = excluded.ttl_ms, until_ms = excluded.until_ms,
  lapsed = excluded.lapsed, version = excluded.version, updated_ns = excluded.updated_ns,
  last_seq = excluded.last_seq
WHERE excluded.token >= lease.token;

-- name: lease_renew :exec
-- A renewal that waited in memory for a commit; it makes no event.
UPDATE lease SET until_ms = :until_ms WHERE n = :n AND token = :token;

-- name: lease_drop :exec
-- End a grant; the token is the guard.
DELETE FROM lease WHERE n = :n AND token = :token;

-- name: leases_all :many
-- Every unsettled grant, lapsed ones included.
SELECT n, worker_id, worker_name, token, attempt, ttl_ms, until_ms, lapsed, version, updated_ns, last_seq FROM lease;

-- name: worker_put :exec
-- Write a registration, new or changed.
INSERT INTO worker VALUES (:id, :name, :credential, :labels, :capacity, :role, :meta, :registered_ms, :last_seen_ms,
  :draining, :gone_ms)
ON CONFLICT (id) DO UPDATE SET labels = excluded.labels, capacity = excluded.capacity, role = excluded.role,
  meta = excluded.meta, last_seen_ms = excluded.last_seen_ms, draining = excluded.draining, gone_ms = excluded.gone_ms;

-- name: worker_drop :exec
-- Forget a worker long gone.
DELETE FROM worker WHERE id = :id;

-- name: workers_all :many
-- Every registration that is remembered.
SELECT id, name, credential, labels, capacity, role, meta, registered_ms, last_seen_ms, draining, gone_ms FROM worker;

-- name: request_get :one
-- The first result of a call that is made again.
SELECT digest, reply FROM request_even WHERE key = :key UNION ALL SELECT digest, reply FROM request_odd WHERE key = :key;

-- name: request_put_even :exec
-- Keep the reply of a request_id, on days of even number.
INSERT INTO request_even (key, digest, reply) VALUES (:key, :digest, :reply)
ON CONFLICT (key) DO UPDATE SET reply = excluded.reply;

-- name: request_put_odd :exec
-- The same on days of odd number.
INSERT INTO request_odd (key, digest, reply) VALUES (:key, :digest, :reply)
ON CONFLICT (key) DO UPDATE SET reply = excluded.reply;

-- name: request_put_again_even :exec
-- The full result of a call whose claim came later than its completion.
UPDATE request_even SET reply = :reply WHERE key = :key;

-- name: request_put_again_odd :exec
-- The same on days of odd number.
UPDATE request_odd SET reply = :reply WHERE key = :key;

-- name: request_clear_even :exec
-- Drop the replies of the day before yesterday.
DELETE FROM request_even;

-- name: request_clear_odd :exec
-- The same on days of odd number.
DELETE FROM request_odd;

-- name: request_keys :many
-- Every recorded request id, as its key.
SELECT key FROM request_even UNION ALL SELECT key FROM request_odd;

-- name: request_count :one
-- How many replies are kept.
SELECT (SELECT count(*) FROM request_even) + (SELECT count(*) FROM request_odd);

-- name: salvage_get :one
-- Where the late result of a stale token is kept.
SELECT seq FROM salvage WHERE n = :n AND token = :token;

-- name: salvage_add :exec
-- Remember where; once per bead and token.
INSERT INTO salvage (n, token, seq) VALUES (:n, :token, :seq);

-- name: convoy_get :one
-- One convoy.
SELECT id, name, created_ms FROM convoy WHERE id = :id;

-- name: convoy_add :exec
-- A new convoy.
INSERT INTO convoy (id, name, created_ms) VALUES (:id, :name, :created_ms);

-- name: convoys_after :many
-- A page of convoys by id.
SELECT id, name, created_ms FROM convoy WHERE id > :id ORDER BY id LIMIT :page;

-- name: convoy_beads :many
-- The beads of a convoy with what their state is read off.
SELECT b.n, b.id, b.state, b.status FROM convoy_bead AS c JOIN bead AS b ON b.n = c.n WHERE c.convoy = :convoy
ORDER BY b.id;

-- name: convoy_members :many
-- The beads of a convoy.
SELECT n FROM convoy_bead WHERE convoy = :convoy;

-- name: convoys_of :many
-- The convoys of a bead.
SELECT convoy FROM convoy_bead WHERE n = :n ORDER BY convoy;

-- name: convoy_bead_add :exec
-- Put a bead into a convoy.
INSERT OR IGNORE INTO convoy_bead (convoy, n) VALUES (:convoy, :n);

-- name: convoy_bead_drop :exec
-- Take it out.
DELETE FROM convoy_bead WHERE convoy = :convoy AND n = :n;

-- name: pauses :many
-- Which rigs are paused.
SELECT rig FROM pause ORDER BY rig;

-- name: pause_add :exec
-- Pause a rig.
INSERT OR IGNORE INTO pause (rig) VALUES (:rig);

-- name: pause_drop :exec
-- Resume it.
DELETE FROM pause WHERE rig = :rig;

-- name: tokens_all :many
-- Every token, revoked ones included.
SELECT id, name, scope, hash, created_ms, last_used_ms, revoked FROM token ORDER BY created_ms, id;

-- name: token_add :exec
-- A new token; its secret is kept hashed.
INSERT INTO token (id, name, scope, hash, created_ms, last_used_ms, revoked)
VALUES (:id, :name, :scope, :hash, :created_ms, NULL, 0);

-- name: token_revoke :exec
-- Make a token worthless.
UPDATE token SET revoked = 1 WHERE id = :id;

-- name: token_used :exec
-- When a token was last used.
UPDATE token SET last_used_ms = :last_used_ms WHERE id = :id;

-- name: memory_put :exec
-- A memory line of an imported file.
INSERT INTO memory (key, json, seq) VALUES (:key, :json, :seq)
ON CONFLICT (key) DO UPDATE SET json = excluded.json, seq = excluded.seq;

-- name: memories :many
-- The memory lines of imported files.
SELECT key, json, seq FROM memory ORDER BY key;

-- name: bead_list :many
-- A template, expanded for each sort: {key} is its column, {beyond} > or <, {direction} ASC or DESC. A page after
-- (after_key, after_id); a NULL parameter asks nothing, lists are JSON arrays.
SELECT b.n FROM bead AS b LEFT JOIN lease AS l ON l.n = b.n
WHERE ({key}, b.id) {beyond} (:after_key, :after_id)
  AND (:rig IS NULL OR b.rig = :rig)
  AND (:issue_types IS NULL OR b.issue_type IN (SELECT value FROM json_each(:issue_types)))
  AND (:labels_all IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(:labels_all) AS want
    WHERE NOT EXISTS (SELECT 1 FROM label AS has WHERE has.n = b.n AND has.label = want.value)))
  AND (:labels_any IS NULL OR EXISTS (SELECT 1 FROM label AS has
    WHERE has.n = b.n AND has.label IN (SELECT value FROM json_each(:labels_any))))
  AND (:convoy IS NULL OR EXISTS (SELECT 1 FROM convoy_bead AS c WHERE c.n = b.n AND c.convoy = :convoy))
  AND (:parent IS NULL OR EXISTS (SELECT 1 FROM edge AS e
    WHERE e.src = b.n AND e.dst = :parent AND e.kind = 'parent-child'))
ORDER BY {key} {direction}, b.id {direction};

-- name: ready_oldest :one
-- Since when the bead that is ready longest has been so; beads under a live lease do not count.
SELECT min(b.ready_ms) FROM bead AS b LEFT JOIN lease AS l ON l.n = b.n AND l.lapsed = 0
WHERE b.state = 'ready' AND l.n IS NULL;

-- name: last_seqs :many
-- The last event that each bead's row or lease knows of, for verify.
SELECT b.n, max(b.last_seq, coalesce(l.last_seq, 0)) FROM bead AS b LEFT JOIN lease AS l ON l.n = b.n;

-- name: labels_all :many
-- Every label, for verify.
SELECT n, label FROM label ORDER BY n;

-- name: edges_all :many
-- Every edge, for verify.
SELECT src, dst, kind, any_children FROM edge ORDER BY src;
