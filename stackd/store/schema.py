"""The file's format: identity, version, and the migrations that lead from each version to the next.

Owns: ``APPLICATION_ID``, the DDL, and the rule that a file is migrated in one transaction, after a copy was made.
A released migration is never edited; a change of the schema is a new migration at the end of ``MIGRATIONS``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stackd.errors import StoreError

APPLICATION_ID = 0x73746B64  # "stkd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step to the next version: statements, then an optional function for what SQL cannot express."""

    name: str
    statements: tuple[str, ...] = ()
    then: Callable[[sqlite3.Connection], None] | None = None


FIRST = Migration(
    name="stacks, node ports, jobs, idempotency",
    statements=(
        """CREATE TABLE stacks (
            stack_id TEXT NOT NULL PRIMARY KEY,
            namespace TEXT NOT NULL,
            pod_spec TEXT NOT NULL,
            ports TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('creating', 'running', 'stopped', 'failed', 'node_deleted')),
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL,
            ttl_expires_at INTEGER NOT NULL,
            requested_cpu_milli INTEGER NOT NULL,
            requested_memory_bytes INTEGER NOT NULL,
            node_id TEXT,
            node_public_ip TEXT,
            status_reason TEXT NOT NULL,
            status_message TEXT NOT NULL,
            labels TEXT NOT NULL,
            accepted INTEGER NOT NULL CHECK (accepted IN (0, 1)),
            ended INTEGER NOT NULL CHECK (ended IN (0, 1)),
            ports_held INTEGER NOT NULL CHECK (ports_held IN (0, 1)),
            deleting_since INTEGER,
            delete_reason TEXT,
            pod_uid TEXT,
            service_uid TEXT,
            CHECK ((deleting_since IS NULL) = (delete_reason IS NULL))
        ) STRICT""",
        """CREATE TABLE node_ports (
            node_port INTEGER NOT NULL PRIMARY KEY CHECK (node_port BETWEEN 1 AND 65535),
            stack_id TEXT NOT NULL REFERENCES stacks (stack_id) ON DELETE CASCADE
        ) STRICT""",
        "CREATE INDEX node_ports_stack ON node_ports (stack_id)",
        """CREATE TABLE jobs (
            job_id TEXT NOT NULL PRIMARY KEY,
            status TEXT NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed')),
            total INTEGER NOT NULL,
            deleted INTEGER NOT NULL,
            not_found INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            created_at INTEGER NOT NULL,
            updated_at INTEGER NOT NULL,
            CHECK (deleted + not_found + failed <= total)
        ) STRICT""",
        """CREATE TABLE job_items (
            job_id TEXT NOT NULL REFERENCES jobs (job_id) ON DELETE CASCADE,
            seq INTEGER NOT NULL,
            stack_id TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('pending', 'started', 'deleted', 'not_found', 'failed')),
            error TEXT,
            PRIMARY KEY (job_id, seq)
        ) STRICT, WITHOUT ROWID""",
        "CREATE UNIQUE INDEX job_items_stack ON job_items (job_id, stack_id)",
        "CREATE INDEX job_items_open ON job_items (job_id, seq) WHERE state IN ('pending', 'started')",
        "CREATE INDEX job_items_errors ON job_items (job_id, seq) WHERE error IS NOT NULL",
        """CREATE TABLE idempotency (
            scope TEXT NOT NULL,
            key TEXT NOT NULL,
            fingerprint BLOB NOT NULL,
            stack_id TEXT,
            job_id TEXT,
            status INTEGER,
            answer BLOB,
            created_at INTEGER NOT NULL,
            PRIMARY KEY (scope, key),
            CHECK ((status IS NULL) = (answer IS NULL))
        ) STRICT""",
        "CREATE INDEX idempotency_unanswered ON idempotency (stack_id) WHERE answer IS NULL",
        "CREATE INDEX idempotency_age ON idempotency (created_at)",
        "CREATE TABLE meta (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
    ),
)

HISTORY = Migration(
    name="stops and restarts, label limits, timelines, kept logs",
    statements=(
        "ALTER TABLE stacks ADD COLUMN desired TEXT NOT NULL DEFAULT 'running' CHECK (desired IN ('running', 'stopped'))",
        "ALTER TABLE stacks ADD COLUMN generation INTEGER NOT NULL DEFAULT 0",
        """CREATE TABLE stack_labels (
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            stack_id TEXT NOT NULL REFERENCES stacks (stack_id) ON DELETE CASCADE,
            PRIMARY KEY (key, value, stack_id)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX stack_labels_stack ON stack_labels (stack_id)",
        """INSERT INTO stack_labels (key, value, stack_id)
            SELECT label.key, label.value, stack_id FROM stacks, json_each(stacks.labels) AS label""",
        """CREATE TABLE timeline (
            seq INTEGER PRIMARY KEY,
            stack_id TEXT NOT NULL,
            at INTEGER NOT NULL,
            kind TEXT NOT NULL,
            reason TEXT NOT NULL,
            message TEXT NOT NULL,
            by TEXT NOT NULL,
            count INTEGER NOT NULL
        ) STRICT""",
        "ALTER TABLE jobs ADD COLUMN by TEXT NOT NULL DEFAULT 'stackd'",
        "CREATE INDEX timeline_stack ON timeline (stack_id)",
        "CREATE INDEX timeline_gone ON timeline (at) WHERE kind = 'deleted'",
        """CREATE UNIQUE INDEX timeline_said ON timeline (stack_id, kind, reason, message)
            WHERE kind IN ('warning', 'pulling')""",
        """CREATE TABLE kept_logs (
            stack_id TEXT NOT NULL,
            container TEXT NOT NULL,
            at INTEGER NOT NULL,
            text TEXT NOT NULL,
            PRIMARY KEY (stack_id, container)
        ) STRICT""",
    ),
)

OWNERSHIP = Migration(
    name="removed stacks, the namespace of the file",
    statements=(
        """CREATE TABLE removed_stacks (
            stack_id TEXT NOT NULL PRIMARY KEY,
            removed_at INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX removed_stacks_age ON removed_stacks (removed_at)",
        """INSERT INTO meta (key, value)
            SELECT 'namespace', low FROM (SELECT min(namespace) AS low, max(namespace) AS high FROM stacks)
            WHERE low = high""",
    ),
)

TEMPLATES = Migration(
    name="the template of a stack, its generated values, pools",
    statements=(
        "ALTER TABLE stacks ADD COLUMN template TEXT",
        "ALTER TABLE stacks ADD COLUMN generated TEXT",
        "ALTER TABLE stacks ADD COLUMN unassigned INTEGER NOT NULL DEFAULT 0 CHECK (unassigned IN (0, 1))",
        "ALTER TABLE stacks ADD COLUMN digest TEXT",
        "CREATE INDEX stacks_unassigned ON stacks (unassigned) WHERE unassigned = 1",
    ),
)

FOLDED_LABELS = Migration(
    name="the label limits ignore letter case",
    statements=("UPDATE OR REPLACE stack_labels SET key = lower(key), value = lower(value)",),
)

MAYBE_GIVEN = Migration(
    name="stacks of pools that a client may have been given are clients'",
    statements=("UPDATE stacks SET unassigned = 0 WHERE unassigned = 1 AND digest IS NULL",),
)

MIGRATIONS: tuple[Migration, ...] = (FIRST, HISTORY, OWNERSHIP, TEMPLATES, FOLDED_LABELS, MAYBE_GIVEN)


def is_ours(connection: sqlite3.Connection) -> bool:
    """Whether the file is a state file of stackd."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    return bool(application_id == APPLICATION_ID)


def version_of(connection: sqlite3.Connection) -> int:
    """The file's format version (``user_version``)."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def create(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Turn a new, empty file into a state file of the latest version."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    migrate(connection, migrations)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Bring the file to the latest version, all steps in one transaction. Raises ``StoreError``."""
    connection.execute("PRAGMA foreign_keys = OFF")  # tables may be rebuilt; all keys are checked before the commit
    connection.execute("BEGIN IMMEDIATE")
    try:
        for migration in migrations[version_of(connection) :]:
            for statement in migration.statements:
                connection.execute(statement)
            if migration.then is not None:
                migration.then(connection)
        if connection.execute("PRAGMA foreign_key_check").fetchone() is not None:
            raise StoreError("the migration would leave rows that refer to nothing; the file is unchanged")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.execute("PRAGMA foreign_keys = ON")
