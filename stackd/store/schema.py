"""The file's format: identity, version, tables, and the conversion of files of an earlier format.

Owns: ``APPLICATION_ID``, ``FORMAT``, the DDL, and the rule that a file is converted in one transaction, after a copy was
made. A change of the schema is a new format, which ``convert`` reaches from the earlier ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from stackd.model import Principal

APPLICATION_ID = 0x73746B64  # "stkd"
FORMAT = 12
OLDEST = 4
"""The oldest format that ``convert`` reads."""

HOSTNAMES = """
CREATE TABLE hostnames (
    hostname TEXT NOT NULL PRIMARY KEY,
    stack_id TEXT NOT NULL REFERENCES stacks (stack_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX hostnames_stack ON hostnames (stack_id);
"""
JOBS = """
CREATE TABLE jobs (
    job_id TEXT NOT NULL PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed')), total INTEGER NOT NULL,
    done INTEGER NOT NULL, not_found INTEGER NOT NULL, failed INTEGER NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, by TEXT NOT NULL DEFAULT 'stackd',
    action TEXT NOT NULL DEFAULT 'delete', ttl INTEGER NOT NULL DEFAULT 0, labels TEXT NOT NULL DEFAULT '{}',
    items INTEGER NOT NULL DEFAULT 0, template TEXT, common TEXT NOT NULL DEFAULT '{}', outcome TEXT,
    CHECK (done + not_found + failed <= total)
) STRICT;
"""
JOB_ITEMS = """
CREATE TABLE job_items (
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE, seq INTEGER NOT NULL, stack_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'started', 'done', 'not_found', 'failed')), error TEXT,
    PRIMARY KEY (job_id, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_items_open ON job_items (job_id, seq) WHERE state IN ('pending', 'started');
CREATE INDEX job_items_errors ON job_items (job_id, seq) WHERE error IS NOT NULL;
"""
JOB_INDEXES = """
CREATE UNIQUE INDEX job_items_stack ON job_items (stack_id, job_id);
CREATE INDEX jobs_by ON jobs (by, created_at, items);
"""
JOB_CODES = "ALTER TABLE job_items ADD COLUMN code TEXT;"
SHARED_AND_ENV = """
ALTER TABLE stacks ADD COLUMN serving INTEGER;
ALTER TABLE stacks ADD COLUMN env TEXT;
CREATE UNIQUE INDEX stacks_shared ON stacks (template) WHERE serving IS NOT NULL AND deleting_since IS NULL;
"""
TEMPLATES = """
CREATE TABLE templates (
    name TEXT NOT NULL PRIMARY KEY, text TEXT NOT NULL, by TEXT NOT NULL,
    tenant INTEGER NOT NULL CHECK (tenant IN (0, 1)), at INTEGER NOT NULL, pool INTEGER NOT NULL
) STRICT;
"""
JOB_WANTED = "ALTER TABLE job_items ADD COLUMN wanted TEXT;"
CLAIMANT = "substr(scope, 1, instr(scope, ' ') - 1)"
"""The API key of a claim, as its scope names it."""

IDEMPOTENCY = f"""
CREATE TABLE idempotency (
    scope TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL, stack_id TEXT, job_id TEXT,
    status INTEGER, created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT;
CREATE INDEX idempotency_stack ON idempotency (stack_id) WHERE stack_id IS NOT NULL;
CREATE INDEX idempotency_age ON idempotency (created_at);
CREATE INDEX idempotency_claimant ON idempotency ({CLAIMANT}, created_at);
"""
REMOVED_LABELS = """
CREATE TABLE removed_labels (
    key TEXT NOT NULL, value TEXT NOT NULL,
    stack_id TEXT NOT NULL REFERENCES removed_stacks (stack_id) ON DELETE CASCADE, PRIMARY KEY (key, value, stack_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX removed_labels_stack ON removed_labels (stack_id);
"""
LINKS = """
CREATE TABLE links (
    link_id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, labels TEXT NOT NULL, templates TEXT NOT NULL,
    stacks INTEGER NOT NULL, total INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    by TEXT NOT NULL, revoked INTEGER NOT NULL CHECK (revoked IN (0, 1))
) STRICT, WITHOUT ROWID;
CREATE INDEX links_by ON links (by, expires_at);
"""
EXTENSIONS = "ALTER TABLE stacks ADD COLUMN extensions INTEGER NOT NULL DEFAULT 0;"
TIMELINE_ACCEPTED = "CREATE INDEX timeline_accepted ON timeline (by, at) WHERE kind = 'accepted';"
PRINCIPALS = "".join(
    f"ALTER TABLE {table} ADD COLUMN principal TEXT AS (substr(by, 1, instr(by || ' ', ' ') - 1)) VIRTUAL;"
    for table in ("timeline", "jobs", "links", "templates")
)
"""The id of who it was: ``by`` has the name, too (``model.Principal``)."""

BY_PRINCIPAL = """
DROP INDEX timeline_accepted;
CREATE INDEX timeline_accepted ON timeline (principal, at) WHERE kind = 'accepted';
DROP INDEX jobs_by;
CREATE INDEX jobs_by ON jobs (principal, created_at, items);
DROP INDEX links_by;
CREATE INDEX links_by ON links (principal, expires_at);
"""
REQUESTED = (
    "kind IN ('accepted', 'extended', 'stop_requested', 'start_requested', 'restart_requested', 'delete_requested')"
    " AND reason NOT IN ('batch', 'expired', 'undo', 'pool')"
)
"""The lines of a timeline that are requests of clients, but for those that a job has carried out."""

TIMELINE_REQUESTED = f"CREATE INDEX timeline_requested ON timeline (at) WHERE {REQUESTED};"

SCHEMA = f"""
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
{SHARED_AND_ENV}
CREATE INDEX stacks_unassigned ON stacks (unassigned) WHERE unassigned = 1;

CREATE TABLE node_ports (
    node_port INTEGER NOT NULL PRIMARY KEY CHECK (node_port BETWEEN 1 AND 65535),
    stack_id TEXT NOT NULL REFERENCES stacks (stack_id) ON DELETE CASCADE
) STRICT;
CREATE INDEX node_ports_stack ON node_ports (stack_id);
{HOSTNAMES}
CREATE TABLE stack_labels (
    key TEXT NOT NULL, value TEXT NOT NULL, stack_id TEXT NOT NULL REFERENCES stacks (stack_id) ON DELETE CASCADE,
    PRIMARY KEY (key, value, stack_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX stack_labels_stack ON stack_labels (stack_id);

CREATE TABLE removed_stacks (
    stack_id TEXT NOT NULL PRIMARY KEY, removed_at INTEGER NOT NULL, labels TEXT NOT NULL DEFAULT '{{}}'
) STRICT, WITHOUT ROWID;
CREATE INDEX removed_stacks_age ON removed_stacks (removed_at);
{REMOVED_LABELS}
{JOBS}
{JOB_ITEMS}
{JOB_INDEXES}
{JOB_CODES}
{JOB_WANTED}
{IDEMPOTENCY}
CREATE TABLE timeline (
    seq INTEGER PRIMARY KEY, stack_id TEXT NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
    reason TEXT NOT NULL, message TEXT NOT NULL, by TEXT NOT NULL, count INTEGER NOT NULL
) STRICT;
CREATE INDEX timeline_stack ON timeline (stack_id);
CREATE INDEX timeline_gone ON timeline (at) WHERE kind = 'deleted';
CREATE UNIQUE INDEX timeline_said ON timeline (stack_id, kind, reason, message) WHERE kind IN ('warning', 'pulling');
{TIMELINE_REQUESTED}
{TIMELINE_ACCEPTED}
{TEMPLATES}
{LINKS}
{EXTENSIONS}
CREATE TABLE kept_logs (
    stack_id TEXT NOT NULL, container TEXT NOT NULL, at INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (stack_id, container)
) STRICT;

CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
{PRINCIPALS}
{BY_PRINCIPAL}
"""

# From 4: the label limits ignore letter case. From 5: a stack of a pool that a client may have been given is a client's.
# From 6: jobs do more than delete, the requests of clients are found by their time, and ports can have names.
TO_7 = f"""
UPDATE OR REPLACE stack_labels SET key = lower(key), value = lower(value);
UPDATE stacks SET unassigned = 0 WHERE unassigned = 1 AND digest IS NULL;
ALTER TABLE jobs RENAME COLUMN deleted TO done;
ALTER TABLE jobs ADD COLUMN action TEXT NOT NULL DEFAULT 'delete'
    CHECK (action IN ('extend', 'restart', 'stop', 'start', 'delete'));
ALTER TABLE jobs ADD COLUMN ttl INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN labels TEXT NOT NULL DEFAULT '{{}}';
CREATE TEMPORARY TABLE earlier AS SELECT * FROM job_items;
DROP TABLE job_items;
{JOB_ITEMS}
INSERT INTO job_items SELECT job_id, seq, stack_id, iif(state = 'deleted', 'done', state), error FROM earlier;
DROP TABLE earlier;
{TIMELINE_REQUESTED}
ALTER TABLE removed_stacks ADD COLUMN labels TEXT NOT NULL DEFAULT '{{}}';
{HOSTNAMES}
"""


# From 7: a claim has no answer, which holds a whole pod spec; jobs and labels of removed stacks are found by their index.
TO_8 = f"""
ALTER TABLE jobs ADD COLUMN items INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET items = (SELECT count(*) FROM job_items WHERE job_items.job_id = jobs.job_id);
DROP INDEX IF EXISTS job_items_stack;
{JOB_INDEXES}
CREATE TEMPORARY TABLE earlier AS SELECT * FROM idempotency;
DROP TABLE idempotency;
{IDEMPOTENCY}
INSERT INTO idempotency SELECT scope, key, fingerprint,
    iif(stack_id IS NULL AND job_id IS NULL AND json_valid(CAST(answer AS TEXT)), CAST(answer AS TEXT) ->> 'stack_id', stack_id),
    job_id, status, created_at FROM earlier;
DROP TABLE earlier;
{REMOVED_LABELS}
INSERT OR IGNORE INTO removed_labels SELECT lower(own.key), lower(own.value), removed_stacks.stack_id
    FROM removed_stacks CROSS JOIN json_each(labels) AS own;
{TIMELINE_ACCEPTED}
"""


# From 9: stacks are shared, the API can be given templates, and a create values of its own; players have links, and extend
# their stacks so many times.
TO_10 = f"""
{SHARED_AND_ENV}
{TEMPLATES}
{LINKS}
{EXTENSIONS}
"""

# From 10: jobs create stacks, and say what came of them. The items go first: they refer to the jobs.
_KEPT_OF_JOBS = "job_id, status, total, done, not_found, failed, created_at, updated_at, by, action, ttl, labels, items"
TO_11 = f"""
CREATE TEMPORARY TABLE earlier_items AS SELECT * FROM job_items;
CREATE TEMPORARY TABLE earlier AS SELECT * FROM jobs;
DROP TABLE job_items;
DROP TABLE jobs;
{JOBS}
{JOB_ITEMS}
{JOB_INDEXES}
{JOB_CODES}
{JOB_WANTED}
INSERT INTO jobs ({_KEPT_OF_JOBS}) SELECT {_KEPT_OF_JOBS} FROM earlier;
UPDATE jobs SET outcome = '{{"until":0,"statuses":{{}},"reasons":[],"final":true}}'
    WHERE status IN ('completed', 'failed');
INSERT INTO job_items (job_id, seq, stack_id, state, error, code)
    SELECT job_id, seq, stack_id, state, error, code FROM earlier_items;
DROP TABLE earlier;
DROP TABLE earlier_items;
"""

# From 11: a name says no more who it was. What a key of a name has done is that of the configured one, or else nobody's.
TO_12 = (
    "".join(
        f"UPDATE {table} SET by = coalesce((SELECT id FROM temp.known WHERE name = by), 'name:' || hex(by)) || ' ' || by"
        " WHERE by NOT IN ('', 'anonymous', 'stackd', 'cluster');"
        for table in ("timeline", "jobs", "links", "templates")
    )
    + f"UPDATE idempotency SET scope = (SELECT id FROM temp.known WHERE quoted = {CLAIMANT}) || substr(scope, instr(scope, ' '))"
    f" WHERE {CLAIMANT} IN (SELECT quoted FROM temp.known);" + PRINCIPALS + BY_PRINCIPAL
)


def pragma(connection: sqlite3.Connection, name: str) -> Any:
    """The value of a pragma that has one row, such as ``user_version``, the file's format."""
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def create(connection: sqlite3.Connection) -> None:
    """Turn a new, empty file into a state file."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    _run(connection, SCHEMA)


def convert(connection: sqlite3.Connection, version: int, keys: Iterable[Principal] = ()) -> None:
    """Bring a file of this earlier format to the current one; ``keys`` are those that are configured. If this raises, the
    connection must be closed."""
    connection.execute("CREATE TEMPORARY TABLE known (name TEXT PRIMARY KEY, quoted TEXT, id TEXT)")
    known = [(key.name, quote(key.name, safe=""), key.id) for key in keys]
    connection.executemany("INSERT OR IGNORE INTO known VALUES (?, ?, ?)", known)
    steps = {
        7: TO_7,
        8: TO_8,
        9: JOB_CODES,
        10: TO_10,
        11: TO_11,
        12: TO_12,
    }  # from 8: each failure of a job has a code
    _run(connection, "".join(step for reached, step in steps.items() if reached > version))


def _run(connection: sqlite3.Connection, statements: str) -> None:
    connection.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {FORMAT}; COMMIT;")
