"""Every query of stackd, each with a name. Owns the SQL text; knows nothing of when it runs.

Lists of ids travel as one JSON array (``json_each``), so that a call costs the same number of statements for one id
as for ten thousand.
"""

from __future__ import annotations

STACK_COLUMNS = (
    "stack_id, namespace, pod_spec, ports, status, created_at, updated_at, ttl_expires_at, requested_cpu_milli,"
    " requested_memory_bytes, node_id, node_public_ip, status_reason, status_message, labels, accepted, ended,"
    " ports_held, deleting_since, delete_reason, pod_uid, service_uid, desired, generation"
)
JOB_COLUMNS = "job_id, status, total, deleted, not_found, failed, created_at, updated_at"
CLAIM_COLUMNS = "scope, key, fingerprint, stack_id, job_id, status, answer, created_at"

# ---- stacks
ALL_STACKS = f"SELECT {STACK_COLUMNS} FROM stacks"
FIND_STACK = f"SELECT {STACK_COLUMNS} FROM stacks WHERE stack_id = ?"
FIND_STACKS = f"SELECT {STACK_COLUMNS} FROM stacks WHERE stack_id IN (SELECT value FROM json_each(?))"
COUNT_STACKS = "SELECT count(*) FROM stacks"
INSERT_STACK = f"INSERT INTO stacks ({STACK_COLUMNS}) VALUES (?{', ?' * 23})"
UPDATE_STACK = (
    "UPDATE stacks SET ports = ?, status = ?, updated_at = ?, ttl_expires_at = ?, node_id = ?, node_public_ip = ?,"
    " status_reason = ?, status_message = ?, accepted = ?, ended = ?, ports_held = ?, deleting_since = ?,"
    " delete_reason = ?, pod_uid = ?, service_uid = ?, desired = ?, generation = ? WHERE stack_id = ?"
)
UPDATE_POD_SPEC = "UPDATE stacks SET pod_spec = ? WHERE stack_id = ?"
DELETE_STACKS = "DELETE FROM stacks WHERE stack_id IN (SELECT value FROM json_each(?)) RETURNING stack_id"

# ---- labels (``limits.stacks_per_label``)
INSERT_LABELS = "INSERT INTO stack_labels (key, value, stack_id) SELECT key, value, ? FROM json_each(?)"
LABEL_HOLDERS = (
    "SELECT s.stack_id FROM stack_labels AS l CROSS JOIN stacks AS s ON s.stack_id = l.stack_id"
    " WHERE l.key = ? AND l.value = ? AND s.stack_id <> ? AND s.deleting_since IS NULL AND s.ended = 0"
    " AND s.ttl_expires_at > ? ORDER BY s.created_at, s.stack_id LIMIT ?"
)

# ---- timelines and kept logs
INSERT_HAPPENINGS = (
    "INSERT INTO timeline (stack_id, at, kind, reason, message, by, count)"
    " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),"
    " json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'), json_extract(value, '$[6]')"
    " FROM json_each(?) WHERE true"
    " ON CONFLICT (stack_id, kind, reason, message) WHERE kind IN ('warning', 'pulling')"
    " DO UPDATE SET at = max(at, excluded.at), count = max(count, excluded.count)"
)
INSERT_DELETED = (
    "INSERT INTO timeline (stack_id, at, kind, reason, message, by, count)"
    " SELECT stack_id, ?, 'deleted', coalesce(delete_reason, ''), '', 'stackd', 1 FROM stacks"
    " WHERE accepted = 1 AND stack_id IN (SELECT value FROM json_each(?))"
)
CLOSE_TIMELINES = (
    "INSERT INTO timeline (stack_id, at, kind, reason, message, by, count)"
    " SELECT stack_id, max(at), 'deleted', '', '', 'stackd', 1 FROM timeline"
    " WHERE stack_id NOT IN (SELECT stack_id FROM stacks) GROUP BY stack_id HAVING sum(kind = 'deleted') = 0"
)
TIMELINE = "SELECT at, kind, reason, message, by, count FROM timeline WHERE stack_id = ? ORDER BY at, seq"
TRIM_TIMELINES = (
    "DELETE FROM timeline WHERE seq IN (SELECT t.seq FROM json_each(?) AS wanted CROSS JOIN timeline AS t"
    " ON t.stack_id = wanted.value AND t.seq <= (SELECT seq FROM timeline WHERE stack_id = wanted.value"
    " ORDER BY seq DESC LIMIT 1 OFFSET ?))"
)
PURGE_KEPT_LOGS = (
    "DELETE FROM kept_logs WHERE stack_id IN"
    " (SELECT stack_id FROM timeline INDEXED BY timeline_gone WHERE kind = 'deleted' AND at < ? ORDER BY at LIMIT ?)"
)
PURGE_TIMELINES = (
    "DELETE FROM timeline WHERE stack_id IN"
    " (SELECT stack_id FROM timeline INDEXED BY timeline_gone WHERE kind = 'deleted' AND at < ? ORDER BY at LIMIT ?)"
)
KEEP_LOG = (
    "INSERT INTO kept_logs (stack_id, container, at, text) VALUES (?, ?, ?, ?) ON CONFLICT (stack_id, container)"
    " DO UPDATE SET at = excluded.at, text = excluded.text"
)
KEPT_LOGS = "SELECT container, at, text FROM kept_logs WHERE stack_id = ? ORDER BY at DESC, container"

# ---- node ports held (invariant 2: the primary key)
ALL_NODE_PORTS = "SELECT node_port FROM node_ports"
INSERT_NODE_PORT = "INSERT INTO node_ports (node_port, stack_id) VALUES (?, ?)"
DELETE_NODE_PORT = "DELETE FROM node_ports WHERE node_port = ? AND stack_id = ?"
DELETE_NODE_PORTS_OF = "DELETE FROM node_ports WHERE stack_id IN (SELECT value FROM json_each(?)) RETURNING node_port"

# ---- batch-delete jobs
ALL_JOBS = f"SELECT {JOB_COLUMNS} FROM jobs"
FIND_JOB = f"SELECT {JOB_COLUMNS} FROM jobs WHERE job_id = ?"
JOB_ASKER = "SELECT by FROM jobs WHERE job_id = ?"
INSERT_JOB = f"INSERT INTO jobs ({JOB_COLUMNS}, by) VALUES (?, ?, ?, 0, 0, 0, ?, ?, ?)"
INSERT_JOB_ITEMS = (
    "INSERT INTO job_items (job_id, seq, stack_id, state) SELECT ?, key, value, 'pending' FROM json_each(?)"
)
# By its index, or the finished items of a long job would be walked through again for each batch.
OPEN_ITEMS = (
    "SELECT stack_id FROM job_items INDEXED BY job_items_open"
    " WHERE job_id = ? AND state IN ('pending', 'started') ORDER BY seq LIMIT ?"
)
OPEN_ITEMS_AMONG = (
    "SELECT i.stack_id, i.state FROM json_each(?) AS wanted"
    " CROSS JOIN job_items AS i ON i.job_id = ? AND i.stack_id = wanted.value"
    " WHERE i.state IN ('pending', 'started') ORDER BY i.seq"
)
START_ITEMS = "UPDATE job_items SET state = 'started' WHERE job_id = ? AND stack_id IN (SELECT value FROM json_each(?))"
FINISH_ITEM = "UPDATE job_items SET state = ?, error = ? WHERE job_id = ? AND stack_id = ?"
JOB_ERRORS = (
    "SELECT stack_id, error FROM job_items INDEXED BY job_items_errors"
    " WHERE job_id = ? AND error IS NOT NULL ORDER BY seq"
)
COUNT_OUTCOMES = (
    "UPDATE jobs SET deleted = deleted + :deleted, not_found = not_found + :not_found, failed = failed + :failed,"
    " updated_at = max(updated_at, :now), status = CASE"
    " WHEN deleted + not_found + failed + :deleted + :not_found + :failed < total THEN 'running'"
    " WHEN failed + :failed = total THEN 'failed' ELSE 'completed' END"
    f" WHERE job_id = :job_id RETURNING {JOB_COLUMNS}"
)
PURGE_JOBS = (
    "DELETE FROM jobs WHERE job_id IN (SELECT job_id FROM jobs WHERE status IN ('completed', 'failed')"
    " AND updated_at < ? LIMIT ?) RETURNING job_id"
)

# ---- idempotency
INSERT_CLAIM = f"INSERT INTO idempotency ({CLAIM_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
FIND_CLAIM = f"SELECT {CLAIM_COLUMNS} FROM idempotency WHERE scope = ? AND key = ?"
UNANSWERED_CLAIM = "SELECT 1 FROM idempotency WHERE stack_id = ? AND answer IS NULL"
ANSWER_CLAIM = "UPDATE idempotency SET status = ?, answer = ? WHERE stack_id = ? AND answer IS NULL"
DROP_UNANSWERED_CLAIMS = "DELETE FROM idempotency WHERE stack_id IN (SELECT value FROM json_each(?)) AND answer IS NULL"
PURGE_CLAIMS = (
    "DELETE FROM idempotency WHERE rowid IN (SELECT rowid FROM idempotency WHERE created_at < ? LIMIT ?)"
    " RETURNING rowid"
)

# ---- meta
GET_META = "SELECT value FROM meta WHERE key = ?"
SET_META = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
DELETE_META = "DELETE FROM meta WHERE key = ?"

# ---- control
BEGIN_READ = "BEGIN"
BEGIN_WRITE = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"
SYNC_EACH_COMMIT = "PRAGMA synchronous = FULL"
SYNC_LATER = "PRAGMA synchronous = NORMAL"
SAVEPOINT = "SAVEPOINT operation"
RELEASE = "RELEASE operation"
ROLLBACK_TO = "ROLLBACK TO operation"
SAVEPOINT_ADOPT = "SAVEPOINT adoption"
RELEASE_ADOPT = "RELEASE adoption"
ROLLBACK_TO_ADOPT = "ROLLBACK TO adoption"
CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE)"
