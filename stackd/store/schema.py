"""The file's format: identity, version, tables, and the conversion of files of an earlier format.

Owns: ``APPLICATION_ID``, ``FORMAT``, the DDL, and the rule that a file is converted in one transaction, after a copy was
made. A change of the tables is a new format: it is made in ``SCHEMA``, and ``STEPS`` gets the step from the format before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from stackd.model import Principal

APPLICATION_ID = 0x73746B64  # "stkd"
FORMAT = 12

# The API key of a claim, as its scope names it.
CLAIMANT = "substr(scope, 1, instr(scope, ' ') - 1)"

# The lines of a timeline that are requests of clients, but for those that a job has carried out.
REQUESTED = (
    "kind IN ('accepted', 'extended', 'labelled', 'stop_requested', 'start_requested', 'restart_requested',"
    " 'delete_requested')"
    " AND reason NOT IN ('batch', 'expired', 'undo', 'pool')"
)

# A column with the id of who it was: ``by`` has the name, too (``model.Principal``).
PRINCIPAL = "principal TEXT AS (substr(by, 1, instr(by || ' ', ' ') - 1)) VIRTUAL"

TEMPLATE_SOURCE = "source TEXT NOT NULL DEFAULT 'api' CHECK (source IN ('api', 'cluster'))"

# The digest of a link's short code, and what only the link's token has otherwise.
LINK_CODE = "code TEXT NOT NULL DEFAULT ''"
LINK_PLAYER = "player_name TEXT NOT NULL DEFAULT ''"
LINK_AMONG = "among TEXT NOT NULL DEFAULT '{}'"
LINKS_CODE = "CREATE UNIQUE INDEX links_code ON links (code) WHERE code <> '';"

BY_PRINCIPAL = f"""
CREATE INDEX timeline_requested ON timeline (at) WHERE {REQUESTED};
CREATE INDEX timeline_accepted ON timeline (principal, at) WHERE kind = 'accepted';
CREATE INDEX jobs_by ON jobs (principal, created_at, items);
CREATE INDEX links_by ON links (principal, expires_at);
"""

# Digests of the values that were generated for removed stacks, or that a renewal has replaced, by which a value is found that
# somebody has handed in.
REMOVED_VALUES = """
CREATE TABLE removed_values (
    digest TEXT NOT NULL, name TEXT NOT NULL, stack_id TEXT NOT NULL, PRIMARY KEY (digest, stack_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX removed_values_stack ON removed_values (stack_id);
"""

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
    unassigned INTEGER NOT NULL DEFAULT 0 CHECK (unassigned IN (0, 1)), digest TEXT, serving INTEGER, env TEXT,
    extensions INTEGER NOT NULL DEFAULT 0, offer TEXT, spare INTEGER NOT NULL DEFAULT 0, members TEXT,
    relabelled INTEGER NOT NULL DEFAULT 0,
    CHECK ((deleting_since IS NULL) = (delete_reason IS NULL))
) STRICT;
CREATE UNIQUE INDEX stacks_shared ON stacks (template) WHERE serving IS NOT NULL AND deleting_since IS NULL;
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
    stack_id TEXT NOT NULL PRIMARY KEY, removed_at INTEGER NOT NULL, labels TEXT NOT NULL DEFAULT '{{}}'
) STRICT, WITHOUT ROWID;
CREATE INDEX removed_stacks_age ON removed_stacks (removed_at);

CREATE TABLE removed_labels (
    key TEXT NOT NULL, value TEXT NOT NULL,
    stack_id TEXT NOT NULL REFERENCES removed_stacks (stack_id) ON DELETE CASCADE, PRIMARY KEY (key, value, stack_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX removed_labels_stack ON removed_labels (stack_id);

{REMOVED_VALUES}
CREATE TABLE jobs (
    job_id TEXT NOT NULL PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed')), total INTEGER NOT NULL,
    done INTEGER NOT NULL, not_found INTEGER NOT NULL, failed INTEGER NOT NULL,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, by TEXT NOT NULL DEFAULT 'stackd',
    action TEXT NOT NULL DEFAULT 'delete', ttl INTEGER NOT NULL DEFAULT 0, labels TEXT NOT NULL DEFAULT '{{}}',
    items INTEGER NOT NULL DEFAULT 0, template TEXT, common TEXT NOT NULL DEFAULT '{{}}', outcome TEXT, {PRINCIPAL},
    CHECK (done + not_found + failed <= total)
) STRICT;

CREATE TABLE job_items (
    job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE, seq INTEGER NOT NULL, stack_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'started', 'done', 'not_found', 'failed')), error TEXT, code TEXT,
    wanted TEXT,
    PRIMARY KEY (job_id, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_items_open ON job_items (job_id, seq) WHERE state IN ('pending', 'started');
CREATE INDEX job_items_errors ON job_items (job_id, seq) WHERE error IS NOT NULL;
CREATE UNIQUE INDEX job_items_stack ON job_items (stack_id, job_id);

CREATE TABLE idempotency (
    scope TEXT NOT NULL, key TEXT NOT NULL, fingerprint BLOB NOT NULL, stack_id TEXT, job_id TEXT,
    status INTEGER, created_at INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT;
CREATE INDEX idempotency_stack ON idempotency (stack_id) WHERE stack_id IS NOT NULL;
CREATE INDEX idempotency_age ON idempotency (created_at);
CREATE INDEX idempotency_claimant ON idempotency ({CLAIMANT}, created_at);

CREATE TABLE timeline (
    seq INTEGER PRIMARY KEY, stack_id TEXT NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL,
    reason TEXT NOT NULL, message TEXT NOT NULL, by TEXT NOT NULL, count INTEGER NOT NULL, {PRINCIPAL}
) STRICT;
CREATE INDEX timeline_stack ON timeline (stack_id);
CREATE INDEX timeline_gone ON timeline (at) WHERE kind = 'deleted';
CREATE UNIQUE INDEX timeline_said ON timeline (stack_id, kind, reason, message) WHERE kind IN ('warning', 'pulling');

CREATE TABLE templates (
    name TEXT NOT NULL PRIMARY KEY, text TEXT NOT NULL, by TEXT NOT NULL,
    tenant INTEGER NOT NULL CHECK (tenant IN (0, 1)), at INTEGER NOT NULL, pool INTEGER NOT NULL, {PRINCIPAL},
    {TEMPLATE_SOURCE}
) STRICT;

CREATE TABLE links (
    link_id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, labels TEXT NOT NULL, templates TEXT NOT NULL,
    stacks INTEGER NOT NULL, total INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    by TEXT NOT NULL, revoked INTEGER NOT NULL CHECK (revoked IN (0, 1)), {PRINCIPAL},
    opened_at INTEGER, seen_at INTEGER, {LINK_CODE}, {LINK_AMONG}, {LINK_PLAYER}
) STRICT, WITHOUT ROWID;
{LINKS_CODE}

CREATE TABLE kept_logs (
    stack_id TEXT NOT NULL, container TEXT NOT NULL, at INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (stack_id, container)
) STRICT;

CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
{BY_PRINCIPAL}
"""

# From 11: a name says no more who it was. What a key of a name has done is that of the configured one, or else nobody's.
TO_12 = (
    "".join(
        f"UPDATE {table} SET by = coalesce((SELECT id FROM temp.known WHERE name = by), 'name:' || hex(by)) || ' ' || by"
        " WHERE by NOT IN ('', 'anonymous', 'stackd', 'cluster');"
        f"ALTER TABLE {table} ADD COLUMN {PRINCIPAL};"
        for table in ("timeline", "jobs", "links", "templates")
    )
    + f"UPDATE idempotency SET scope = (SELECT id FROM temp.known WHERE quoted = {CLAIMANT}) || substr(scope, instr(scope, ' '))"
    f" WHERE {CLAIMANT} IN (SELECT quoted FROM temp.known);"
    "DROP INDEX timeline_requested; DROP INDEX timeline_accepted; DROP INDEX jobs_by; DROP INDEX links_by;"
    + BY_PRINCIPAL
    + f"ALTER TABLE templates ADD COLUMN {TEMPLATE_SOURCE}; ALTER TABLE stacks ADD COLUMN offer TEXT;"
    "ALTER TABLE stacks ADD COLUMN spare INTEGER NOT NULL DEFAULT 0; ALTER TABLE stacks ADD COLUMN members TEXT;"
    "ALTER TABLE links ADD COLUMN opened_at INTEGER; ALTER TABLE links ADD COLUMN seen_at INTEGER;"
    "ALTER TABLE stacks ADD COLUMN relabelled INTEGER NOT NULL DEFAULT 0;"
    f"ALTER TABLE links ADD COLUMN {LINK_CODE}; ALTER TABLE links ADD COLUMN {LINK_AMONG}; {LINKS_CODE}"
    f"ALTER TABLE links ADD COLUMN {LINK_PLAYER};" + REMOVED_VALUES
)

# The formats that the steps lead to, each from the one before; 1.0.0 wrote format 11.
STEPS = {12: TO_12}
OLDEST = min(STEPS) - 1


def pragma(connection: sqlite3.Connection, name: str) -> Any:
    """The value of a pragma that has one row, such as ``user_version``, the file's format."""
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def create(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    _run(connection, SCHEMA)


def convert(connection: sqlite3.Connection, version: int, keys: Iterable[Principal] = ()) -> None:
    """Bring a file of this earlier format to the current one; ``keys`` are those that are configured. If this raises, the
    connection must be closed."""
    connection.execute("CREATE TEMPORARY TABLE known (name TEXT PRIMARY KEY, quoted TEXT, id TEXT)")
    known = [(key.name, quote(key.name, safe=""), key.id) for key in keys]
    connection.executemany("INSERT OR IGNORE INTO known VALUES (?, ?, ?)", known)
    _run(connection, "".join(step for reached, step in sorted(STEPS.items()) if reached > version))


def _run(connection: sqlite3.Connection, statements: str) -> None:
    connection.executescript(f"BEGIN IMMEDIATE; {statements} PRAGMA user_version = {FORMAT}; COMMIT;")
