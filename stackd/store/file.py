"""Creates, checks, opens, converts, summarizes and copies the state file.

Owns: creation (under another name, then renamed, so that a crash never leaves a partial file), the checks that keep
stackd from using a damaged, foreign or newer file, the pragmas, and the conversion of an earlier format, which keeps a
copy. Never creates a new file in the place of an existing one. Owns, too, backups: a consistent copy, whether or not
the daemon runs, as one self-contained file (no write-ahead log) of mode 0600, complete or absent. To restore one: stop
stackd, copy it to ``state.path``, start stackd.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from stackd.errors import StoreError
from stackd.files import create_private
from stackd.store import failures, identity, rows, schema
from stackd.store.companions import companion, sync_folder
from stackd.store.identity import FileIdentity

logger = logging.getLogger(__name__)

MINIMUM_SQLITE = (3, 37, 0)  # STRICT tables
_MAGIC = b"SQLite format 3\x00"
_ADVICE = "restore a copy made by `stackd backup`, or move the file away and run `stackd rebuild`"
_LOG_BYTES = 4 * 1024 * 1024  # the write-ahead log keeps this size, so that its disk space stays allocated
_LOG_PAGES = 1000
_CHECK_LIMIT = 256 * 1024 * 1024
ROLLBACK_FORMAT = 1
"""Byte 18 of the header of a backup made here; a file in use has 2 (WAL)."""
_HEADER_BYTES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How the file is handled; the defaults are right for the daemon.

    ``busy_timeout``   seconds to wait for another process's lock (a SQLite shell, for example)
    ``ballast_bytes``  space reserved on the disk so that deletes work while the disk is full; 0 for none
    ``max_pages``      the largest size of the file; beyond it, the file behaves as on a full disk
    """

    busy_timeout: float = 2.0
    ballast_bytes: int = 8 * 1024 * 1024
    max_pages: int | None = None


def follow_links(path: Path) -> Path:
    """The real path of the file. Raises ``StoreError`` for a broken link.

    A new file in the place of the link would hide the real one (on a volume that is not mounted, for example).
    """
    for one in (path, *path.parents):
        if one.is_symlink() and not one.exists():
            what = f"the state file {path} is" if one == path else f"{one}, above the state file {path.name}, is"
            raise StoreError(
                f"{what} a link to {os.readlink(one)}, which is not there: mount what it is on, or remove the link"
            )
    return Path(os.path.realpath(path))


def open_file(path: Path, options: StoreOptions) -> sqlite3.Connection:
    """Open the write connection. Raises ``StoreError``, also for SQLite's own errors.

    Only the ``sqlite3.Error`` of a full disk (``failures.is_full``) is passed on, because the caller may free space.
    """
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: stackd needs 3.37 or newer")
    try:
        if path.exists():
            _check_header(path)
        else:
            _create(path)
        return _connect_checked(path, options)
    except sqlite3.Error as exc:
        if failures.is_full(exc):
            raise
        if failures.is_damage(exc):
            raise damaged(path, str(exc)) from exc
        raise StoreError(f"the state file {path} cannot be used: {failures.sentence(exc)}") from exc
    except OSError as exc:
        raise StoreError(f"the state file {path} cannot be used: {exc.strerror or exc}") from exc


def _connect_checked(path: Path, options: StoreOptions) -> sqlite3.Connection:
    connection = _connect(path, options.busy_timeout)
    try:
        _check_identity(connection, path)
        _check_version(connection, path)
        _check_pages(connection, path)
        _set_pragmas(connection, path, options.max_pages)
        _convert(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    uri = path.absolute().as_uri() + "?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=busy_timeout, isolation_level=None, check_same_thread=False)


def _create(path: Path) -> None:
    for suffix in ("-wal", "-journal"):
        if companion(path, suffix).exists():
            raise StoreError(
                f"the state file {path} is missing, but its {suffix[1:]} file is there: put the state file back; or,"
                f" if it is lost, move {companion(path, suffix)} away and run `stackd rebuild`"
            )
    fresh = companion(path, ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        companion(fresh, suffix).unlink(missing_ok=True)
    os.close(create_private(fresh))
    connection = _connect(fresh, 0)
    try:
        schema.create(connection)
    finally:
        connection.close()
    os.rename(fresh, path)
    sync_folder(path.parent)


def _check_header(path: Path) -> None:
    """Check the header before SQLite opens the file: SQLite would accept an empty file as a new one."""
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        raise damaged(path, "it is empty")
    if not header.startswith(_MAGIC) or len(header) < 100:
        raise damaged(path, "it is not a SQLite file")
    if not os.access(path, os.W_OK, effective_ids=True):
        raise StoreError(f"the state file {path} is read-only for this user")
    if path.stat().st_uid == os.geteuid():
        path.chmod(0o600)
    if header[18] == ROLLBACK_FORMAT:
        _set_foreign_log_aside(path)


def _set_foreign_log_aside(path: Path) -> None:
    """Rename the log of an earlier file over which a backup was restored: SQLite would replay it into the backup."""
    for suffix in ("-wal", "-shm"):
        log = companion(path, suffix)
        if log.exists():
            aside = companion(path, f"{suffix}.before-restore")
            log.rename(aside)
            logger.warning(
                "%s is a copy that replaced the state file; the log of the earlier file is now %s", path, aside.name
            )


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    if not schema.is_ours(connection):
        raise StoreError(
            f"{path} is a SQLite file of another application; stackd leaves it as it is. To go on, {_ADVICE}"
        )


def _check_version(connection: sqlite3.Connection, path: Path) -> None:
    version = schema.version_of(connection)
    if version > schema.FORMAT:
        raise StoreError(
            f"the state file {path} has format {version}, and this stackd knows formats up to {schema.FORMAT}:"
            f" run the newer stackd that wrote it, or restore a copy made before the upgrade"
        )
    if version < schema.OLDEST:
        raise StoreError(
            f"the state file {path} has format {version}, and this stackd converts formats from {schema.OLDEST} on:"
            f" {_ADVICE}"
        )


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size > _CHECK_LIMIT:
        return
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise damaged(path, str(verdict).replace("\n", " "))


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


def _convert(connection: sqlite3.Connection, path: Path) -> None:
    version = schema.version_of(connection)
    if version != schema.FORMAT:
        backup_file(path, companion(path, f".v{version}-before-v{schema.FORMAT}.bak"), force=True)
        schema.convert(connection)


def damaged(path: Path, why: str) -> StoreError:
    """The error for a damaged file; its message says what to do."""
    return StoreError(f"the state file {path} is damaged ({why}): {_ADVICE}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSummary:
    """The identity and the number of stacks of a state file, which another process may have open."""

    identity: FileIdentity
    stacks: int


def read_summary(path: Path) -> FileSummary | None:
    """The file's summary; None if there is no file. Blocking; takes no lock that disturbs a running daemon.

    Raises ``StoreError`` if the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        reader = _reader(path)
        try:
            return _summary(reader)
        finally:
            reader.close()
    except sqlite3.Error as exc:
        raise StoreError(f"the state file {path} cannot be read: {failures.sentence(exc)}") from exc


def require_own_file(path: str, *, namespace: str, instance: str) -> None:
    """As ``FileIdentity.require_own`` for a file that another process may have open. Ignores an unreadable file."""
    try:
        summary = read_summary(Path(path))
    except (StoreError, OSError):
        return
    if summary is not None:
        summary.identity.require_own(path, summary.stacks, namespace=namespace, instance=instance)


def _summary(reader: sqlite3.Connection) -> FileSummary:
    values = dict(reader.execute(identity.ALL_META).fetchall())
    (stacks,) = reader.execute(rows.COUNT_STACKS).fetchone()
    return FileSummary(identity=FileIdentity.from_meta(values), stacks=stacks)


def _reader(path: Path) -> sqlite3.Connection:
    """A read-only connection, which takes no lock that disturbs a running daemon. Raises ``StoreError``."""
    reader = sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True, timeout=5.0)
    try:
        if not schema.is_ours(reader):
            raise StoreError(f"{path} is not a state file of stackd")
    except BaseException:
        reader.close()
        raise
    return reader


def backup_file(source: Path, target: Path, *, force: bool = False) -> None:
    """Copy the current state file ``source``. Blocking; takes no lock that disturbs a running daemon.

    Replaces an earlier backup at ``target`` atomically. Raises ``StoreError`` if another file is there (unless
    ``force``), or if either file cannot be used.
    """
    if not source.exists():
        raise StoreError(f"there is no state file {source}")
    if target.exists():
        if target.samefile(source):
            raise StoreError(f"{target} exists already, and is the state itself; name another file")
        if not (force or _is_backup(target)):
            raise StoreError(
                f"{target} exists already, and is no backup of stackd; it is left as it is (--force replaces it)"
            )
        force = True
    try:
        with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:  # nobody else can enter it
            partial = Path(folder) / target.name
            _copy(source, partial)
            _put_in_place(partial, target, force)
    except FileExistsError as exc:
        raise StoreError(f"{target} exists already; it is left as it is") from exc
    except sqlite3.Error as exc:
        raise StoreError(f"{source} cannot be copied to {target}: {failures.sentence(exc)}") from exc
    except OSError as exc:
        raise StoreError(f"{source} cannot be copied to {target}: {exc.strerror or exc}") from exc


def _is_backup(path: Path) -> bool:
    """Whether the file is a backup made here, which no stackd has opened since."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError:
        return False
    application_id = int.from_bytes(header[68:72], "big")
    return len(header) == _HEADER_BYTES and header[18] == ROLLBACK_FORMAT and application_id == schema.APPLICATION_ID


def _copy(source: Path, partial: Path) -> None:
    reader = _reader(source)
    try:
        os.close(create_private(partial))
        writer = sqlite3.connect(partial, isolation_level=None)
        try:
            reader.backup(writer)  # all pages in one step, so the copy is one snapshot
            writer.execute("PRAGMA journal_mode = DELETE")
            identity.mark_copy(writer)
            _check(writer, source)
        finally:
            writer.close()
    finally:
        reader.close()


def _check(copy: sqlite3.Connection, source: Path) -> None:
    (verdict,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreError(f"{source} is damaged ({verdict}); no copy was made")


def _put_in_place(partial: Path, target: Path, force: bool) -> None:
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if force:
        os.replace(partial, target)
    else:
        os.link(partial, target)  # unlike a rename, this fails if the target has appeared meanwhile
    sync_folder(target.parent)
