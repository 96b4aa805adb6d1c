"""Opening the file: the checks that keep stackd from working on a damaged, foreign or newer one.

Owns: creation (beside, then renamed, so that a crash never leaves a half-made file), the checks, the pragmas, and
migration with a copy kept. Never makes a new file in the place of one that is there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stackd.errors import StoreError
from stackd.store import failures, schema
from stackd.store.backup import backup_file, companion, sync_folder
from stackd.store.schema import Migration

MINIMUM_SQLITE = (3, 37, 0)  # STRICT tables
_MAGIC = b"SQLite format 3\x00"
_ROLLBACK_FORMAT = 1  # byte 18 of a copy made by ``backup``; a file in use has 2 (WAL)
_ADVICE = "restore a copy made by `stackd.py backup`, or move the file away and run `stackd.py rebuild`"
_LOG_BYTES = 4 * 1024 * 1024  # the write-ahead log is kept at this size, its room on the disk already taken
_LOG_PAGES = 1000
_CHECK_LIMIT = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSettings:
    """See ``loading.Options``."""

    busy_timeout: float
    max_pages: int | None
    migrations: Sequence[Migration]


def open_file(path: Path, settings: FileSettings) -> tuple[sqlite3.Connection, bool]:
    """The write connection, and whether the file is new. Raises ``StoreError``; SQLite's own errors are translated.

    ``sqlite3.Error`` passes only for a full disk (``failures.is_full``), which the caller may be able to relieve.
    """
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: stackd needs 3.37 or newer")
    try:
        fresh = not path.exists()
        if fresh:
            _create(path, settings.migrations)
        else:
            _check_header(path)
        return _connect_checked(path, settings), fresh
    except sqlite3.Error as exc:
        if failures.is_full(exc):
            raise
        if failures.is_damage(exc):
            raise _damaged(path, str(exc)) from exc
        raise StoreError(f"the state file {path} cannot be used: {failures.sentence(exc)}") from exc
    except OSError as exc:
        raise StoreError(f"the state file {path} cannot be used: {exc.strerror or exc}") from exc


def _connect_checked(path: Path, settings: FileSettings) -> sqlite3.Connection:
    connection = _connect(path, settings.busy_timeout)
    try:
        _check_identity(connection, path)
        _check_version(connection, path, settings.migrations)
        _check_pages(connection, path)
        _set_pragmas(connection, path, settings.max_pages)
        _migrate(connection, path, settings.migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + "?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=busy_timeout, isolation_level=None, check_same_thread=False)


def _create(path: Path, migrations: Sequence[Migration]) -> None:
    for suffix in ("-wal", "-journal"):
        if companion(path, suffix).exists():
            raise StoreError(
                f"the state file {path} is missing, but its {suffix[1:]} file is there: put the state file back; or,"
                f" if it is lost, move {companion(path, suffix)} away and run `stackd.py rebuild`"
            )
    fresh = companion(path, ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        companion(fresh, suffix).unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = _connect(fresh, 0)
    try:
        schema.create(connection, migrations)
    finally:
        connection.close()
    os.rename(fresh, path)
    sync_folder(path.parent)


def _check_header(path: Path) -> None:
    """Look at the bytes before SQLite does: it would take an empty file for a new one."""
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        raise _damaged(path, "it is empty")
    if not header.startswith(_MAGIC) or len(header) < 100:
        raise _damaged(path, "it is not a SQLite file")
    if not os.access(path, os.W_OK, effective_ids=True):
        raise StoreError(f"the state file {path} is read-only for this user")
    if path.stat().st_uid == os.geteuid():
        path.chmod(0o600)
    if header[18] == _ROLLBACK_FORMAT:
        _set_foreign_log_aside(path)


def _set_foreign_log_aside(path: Path) -> None:
    """A copy was restored over a file whose log is still there; SQLite would play that log into the copy."""
    for suffix in ("-wal", "-shm"):
        log = companion(path, suffix)
        if log.exists():
            log.rename(companion(path, f"{suffix}.before-restore"))


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != schema.APPLICATION_ID:
        raise StoreError(
            f"{path} is a SQLite file of another application; stackd leaves it as it is. To go on, {_ADVICE}"
        )


def _check_version(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    version = schema.version_of(connection)
    if version > len(migrations):
        raise StoreError(
            f"the state file {path} has format {version}, and this stackd knows formats up to {len(migrations)}:"
            f" run the newer stackd that wrote it, or restore a copy made before the upgrade"
        )


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size > _CHECK_LIMIT:
        return
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise _damaged(path, str(verdict).replace("\n", " "))


def _set_pragmas(connection: sqlite3.Connection, path: Path, max_pages: int | None) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"the state file {path} is on a file system without shared memory (WAL); use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    if max_pages is not None:
        connection.execute(f"PRAGMA max_page_count = {max_pages}")


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[Migration]) -> None:
    version = schema.version_of(connection)
    if version == len(migrations):
        return
    backup_file(path, companion(path, f".v{version}-before-v{len(migrations)}.bak"), force=True)
    schema.migrate(connection, migrations)


def _damaged(path: Path, why: str) -> StoreError:
    return StoreError(f"the state file {path} is damaged ({why}): {_ADVICE}")
