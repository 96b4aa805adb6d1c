PRAGMA application_id = 1937009508;
CREATE TABLE stacks (
    stack_id TEXT NOT NULL PRIMARY KEY, namespace TEXT NOT NULL, pod_spec TEXT NOT NULL, ports TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('creating', 'running', 'stopped', 'failed', 'node_deleted')),
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, ttl_expires_at INTEGER NOT NULL,
    requested_cpu_milli INTEGER NOT NULL, requested_memory_bytes INTEGER NOT NULL,
    node_id TEXT, node_public_ip TEXT, status_reason TEXT NOT NULL, status_message TEXT NOT NULL, labels TEXT NOT NULL,
    accepted INTEGER NOT NULL CHECK (accepted IN (0, 1)),
    ended INTEGER NOT NULL CHECK (ended IN (0, 1)),
    ports_held INTEGER NOT NULL CHECK (ports_held IN (0, 1)),
    deleting_since INTEGER, delete_reason TEXT, pod_uid TEXT, service_uid TEXT,
    desired TEXT NOT NULL DEFAULT 'running' CHECK (desired IN ('running', 'stopped')),
    generation INTEGER NOT NULL DEFAULT 0, template TEXT, generated TEXT,
    unassigned INTEGER NOT NULL DEFAULT 0 CHECK (unassigned IN (0, 1)), digest TEXT,
    CHECK ((deleting_since IS NULL) = (delete_reason IS NULL))
) STRICT;
CREATE INDEX stacks_unassigned ON stacks (unassigned) WHERE unassigned = 1;
CREATE TABLE node_ports (
    node_port INTEGER NOT NULL PRIMARY KEY CHECK (node_port BETWEEN 1 AND 65535),
    stack_id TEXT NOT NULL REFERENCES stacks (stack_id) ON DELETE CASCADE
) STRICT;
CREATE INDEX node_ports_stack ON node_ports (stack_id);
CREATE TABLE hostnames (
    hostname TEXT NOT NULL PRIMARY KEY,
    stack_id TEXT NOT NULL REFERENCES stacks (stack_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX hostnames_stack ON hostnames (stack_id);
CREATE TABLE stack_labels (
    key TEXT NOT NULL, value TEXT NOT NULL, stack_id TEXT NOT NULL REFERENCES stacks (stack_id) ON DELETE CASCADE,
    PRIMARY KEY (key, value, stack_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX stack_labels_stack ON stack_labels (stack_id);
CREATE TABLE removed_stacks (
    stack_id TEXT NOT NULL PRIMARY KEY, removed_at INTEGER NOT NULL, labels TEXT NOT NULL DEFAULT '{}'
) STRICT, WITHOUT ROWID;
CREATE INDEX removed_stacks_age ON removed_stacks (removed_at);
CREATE TABLE jobs (
    job_id TEXT NOT NULL PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed')), total INTEGER NOT NULL,
    done INTEGER NOT NULL, not_found INTEGER NOT NULL, failed INTEGER NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, by TEXT NOT NULL DEFAULT 'stackd',
    action TEXT NOT NULL DEFAULT 'delete' CHECK (action IN ('extend', 'restart', 'stop', 'start', 'delete')),
    ttl INTEGER NOT NULL DEFAULT 0, labels TEXT NOT NULL DEFAULT '{}',
    CHECK (done + not_found + failed <= total)
) STRICT;
CREATE TABLE job_items (
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE, seq INTEGER NOT NULL, stack_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'started', 'done', 'not_found', 'failed')), error TEXT,
    PRIMARY KEY (job_id, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX job_items_stack ON job_items (job_id, stack_id);
CREATE INDEX job_items_open ON job_items (job_id, seq) WHERE state IN ('pending', 'started');
CREATE INDEX job_items_errors ON job_items (job_id, seq) WHERE error IS NOT NULL;
CREATE TABLE idempotency (
    scope TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL, stack_id TEXT, job_id TEXT,
    status INTEGER, answer BLOB, created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, key),
    CHECK ((status IS NULL) = (answer IS NULL))
) STRICT;
CREATE INDEX idempotency_unanswered ON idempotency (stack_id) WHERE answer IS NULL;
CREATE INDEX idempotency_age ON idempotency (created_at);
CREATE TABLE timeline (
    seq INTEGER PRIMARY KEY, stack_id TEXT NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
    reason TEXT NOT NULL, message TEXT NOT NULL, by TEXT NOT NULL, count INTEGER NOT NULL
) STRICT;
CREATE INDEX timeline_stack ON timeline (stack_id);
CREATE INDEX timeline_gone ON timeline (at) WHERE kind = 'deleted';
CREATE UNIQUE INDEX timeline_said ON timeline (stack_id, kind, reason, message) WHERE kind IN ('warning', 'pulling');
CREATE INDEX timeline_requested ON timeline (at) WHERE kind IN ('accepted', 'extended', 'stop_requested', 'start_requested', 'restart_requested', 'delete_requested') AND reason NOT IN ('batch', 'expired', 'undo', 'pool');
CREATE TABLE kept_logs (
    stack_id TEXT NOT NULL, container TEXT NOT NULL, at INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (stack_id, container)
) STRICT;
CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA user_version = 7;
