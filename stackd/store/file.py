"""Creates, checks, opens, converts and copies the state file; and the files beside it.

Owns: creation (under another name, then renamed, so that a crash never leaves a partial file), the checks that keep
stackd from using a damaged, foreign or newer file, the pragmas, and the conversion of an earlier format, which keeps a
copy. Never creates a new file in the place of an existing one. Owns backups: a consistent copy, whether or not the daemon
runs, as one self-contained file (no write-ahead log) of mode 0600, complete or absent.

Owns the ``.lock`` file: one process per state file; its content says which. It is kept when the lock is released (removing
it would race with the next holder). Only the kernel's lock counts, so a killed process leaves no stale lock. Owns the
``.reserve`` file, so that a full disk stops creates but not deletes: it holds space while the disk has room. When a commit
finds the disk full, the file is truncated, and deletes and outcomes use its space.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import socket
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from stackd.clock import NANOSECONDS, boot_id, from_nanoseconds
from stackd.errors import StoreError, StoreUnavailable
from stackd.files import create_private
from stackd.model import Principal
from stackd.store import identity, meta, rows, schema
from stackd.store.identity import FileIdentity
from stackd.store.transaction import is_damage, is_full, sentence

logger = logging.getLogger(__name__)

BUSY_SECONDS = 2.0
"""How long a write waits for another process's lock (a SQLite shell, for example)."""

RESERVED_BYTES = 8 * 1024 * 1024
"""Space reserved on the disk so that deletes work while the disk is full."""

LEAST_BYTES = 256 * 1024  # two rows with the longest pod specs, in the log and in the file

MINIMUM_SQLITE = (3, 38, 0)  # STRICT tables, and the operator ->>
_MAGIC = b"SQLite format 3\x00"
_HEADER_BYTES = 100
ROLLBACK_FORMAT = 1
"""Byte 18 of the header of a backup made here; a file in use has 2 (WAL)."""
_ADOPTS = "the next start adopts the stacks from the cluster"
_ADVICE = f"restore a copy made by `stackd backup`, or move the file and its -wal away: {_ADOPTS}"
_LOG_BYTES = 4 * 1024 * 1024  # the write-ahead log keeps this size, so that its disk space stays allocated
_LOG_PAGES = 1000
_CHECK_LIMIT = 256 * 1024 * 1024
FULL = "the disk is full"
_NOT_TEXT = "its schema is not UTF-8"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OURS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into a ``StoreError``: ``what`` and the reason."""
    try:
        yield
    except sqlite3.Error as exc:
        raise StoreError(f"{what}: {sentence(exc)}") from exc
    except UnicodeDecodeError as exc:  # SQLite's message repeats bytes of a schema
        raise StoreError(f"{what}: {_NOT_TEXT}") from exc
    except OSError as exc:
        raise StoreError(f"{what}: {exc.strerror or exc}") from exc


def damaged(path: Path, why: str) -> StoreError:
    return StoreError(f"the state file {path} is damaged ({why}): {_ADVICE}")


def companion(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def follow_links(path: Path) -> Path:
    """The real path of the file. Raises ``StoreError`` for a broken link.

    A new file in the place of the link would hide the real one (on a volume that is not mounted, for example).
    """
    for place in (path, *path.parents):
        if place.is_symlink() and not place.exists():
            what = f"the state file {path} is" if place == path else f"{place}, above the state file {path.name}, is"
            raise StoreError(
                f"{what} a link to {os.readlink(place)}, which is not there: mount what it is on, or remove the link"
            )
    return Path(os.path.realpath(path))


# ---- opening


def open_file(path: Path, ballast: Ballast, keys: Iterable[Principal] = ()) -> sqlite3.Connection:
    """Open the write connection; ``keys`` are the configured ones. Raises ``StoreError``.

    On a full disk, frees the reserved space and tries again, so that a restart is still possible.
    """
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: stackd needs 3.38 or newer")
    with plain_errors(f"the state file {path} cannot be used"):
        try:
            return _open_checked(path, keys)
        except UnicodeDecodeError as exc:
            raise damaged(path, _NOT_TEXT) from exc
        except sqlite3.Error as exc:
            if is_damage(exc):
                raise damaged(path, str(exc)) from exc
            if not is_full(exc):
                raise
        ballast.release()
        return _open_checked(path, keys)


def _open_checked(path: Path, keys: Iterable[Principal]) -> sqlite3.Connection:
    if path.exists():
        _check_header(path)
    else:
        _create(path)
    connection = _connect(path, BUSY_SECONDS)
    try:
        _check_content(connection, path)
        _set_pragmas(connection, path)
        version = schema.pragma(connection, "user_version")
        if version != schema.FORMAT:
            backup_file(path, companion(path, f".v{version}-before-v{schema.FORMAT}.bak"), force=True)
            schema.convert(connection, version, keys)
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
                f" if it is lost, move {companion(path, suffix)} away: {_ADOPTS}"
            )
    fresh = companion(path, ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        companion(fresh, suffix).unlink(missing_ok=True)
    os.close(create_private(fresh))
    with closing(_connect(fresh, 0)) as connection:
        schema.create(connection)
    os.rename(fresh, path)
    _sync(path.parent)


def _check_header(path: Path) -> None:
    """Check the header before SQLite opens the file: SQLite would accept an empty file as a new one."""
    if not (header := _header(path)):
        raise damaged(path, "it is empty")
    if not header.startswith(_MAGIC) or len(header) < _HEADER_BYTES:
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


def _check_content(connection: sqlite3.Connection, path: Path) -> None:
    if schema.pragma(connection, "application_id") != schema.APPLICATION_ID:
        raise StoreError(
            f"{path} is a SQLite file of another application; stackd leaves it as it is. To go on, {_ADVICE}"
        )
    version = schema.pragma(connection, "user_version")
    if version > schema.FORMAT:
        raise StoreError(
            f"the state file {path} has format {version}, and this stackd knows formats up to {schema.FORMAT}: "
            "run the newer stackd that wrote it, or restore a copy made before the upgrade"
        )
    if version < schema.OLDEST:
        raise StoreError(
            f"the state file {path} has format {version}, which only a build before 1.0.0 wrote; this stackd reads formats "
            f"from {schema.OLDEST} on. Move the file and its -wal away: {_ADOPTS}"
        )
    if path.stat().st_size <= _CHECK_LIMIT and (verdict := _damage(connection)):
        raise damaged(path, verdict)


def _damage(connection: sqlite3.Connection) -> str:
    """What SQLite's quick check has found; empty if nothing is wrong."""
    verdict = schema.pragma(connection, "quick_check(1)")
    return "" if verdict == "ok" else str(verdict).replace("\n", " ")


def _set_pragmas(connection: sqlite3.Connection, path: Path) -> None:
    if schema.pragma(connection, "journal_mode = WAL") != "wal":
        raise StoreError(f"the state file {path} is on a file system without shared memory (WAL); use a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")


# ---- reading and copying a file that another process may have open


def require_own_file(path: str, *, namespace: str, instance: str) -> None:
    """As ``FileIdentity.require_own`` for a file that another process may have open. Ignores an unreadable file."""
    try:
        if not Path(path).exists():
            return
        with closing(open_reader(Path(path), once=True)) as reader:
            own = FileIdentity.from_meta(dict(reader.execute(identity.ALL_META).fetchall()))
            (stacks,) = reader.execute(rows.COUNT_STACKS).fetchone()
    except (StoreError, OSError, sqlite3.Error, UnicodeDecodeError):
        return
    own.require_own(path, stacks, namespace=namespace, instance=instance)


def open_reader(path: Path, *, once: bool = False) -> sqlite3.Connection:
    """A read-only connection, which takes no lock that disturbs a running daemon. Raises ``StoreError``.

    SQLite makes a log beside a file that has none. ``once``, for a single read, keeps it from that: the user who reads, such
    as root, may be another one than the daemon's.
    """
    how = "mode=ro&immutable=1" if once and not companion(path, "-wal").exists() else "mode=ro"
    reader = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=5.0, check_same_thread=False)
    try:
        if schema.pragma(reader, "application_id") != schema.APPLICATION_ID:
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
    with (
        plain_errors(f"{source} cannot be copied to {target}"),
        TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder,  # nobody else can enter it
    ):
        partial = Path(folder) / target.name
        _copy(source, partial)
        _put_in_place(partial, target, force)


def _is_backup(path: Path) -> bool:
    """Whether the file is a backup made here, which no stackd has opened since."""
    try:
        header = _header(path)
    except OSError:
        return False
    ours = header[68:72] == schema.APPLICATION_ID.to_bytes(4, "big")
    return ours and len(header) == _HEADER_BYTES and header[18] == ROLLBACK_FORMAT


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)


def _copy(source: Path, partial: Path) -> None:
    with closing(open_reader(source)) as reader:
        os.close(create_private(partial))
        with closing(sqlite3.connect(partial, isolation_level=None)) as writer:
            reader.backup(writer)  # all pages in one step, so the copy is one snapshot
            writer.execute("PRAGMA journal_mode = DELETE")
            meta.mark_copy(writer)
            if verdict := _damage(writer):
                raise StoreError(f"{source} is damaged ({verdict}); no copy was made")


def _put_in_place(partial: Path, target: Path, force: bool) -> None:
    _sync(partial)
    if force:
        os.replace(partial, target)
    else:
        os.link(partial, target)  # unlike a rename, this fails if the target has appeared meanwhile
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Make the content of a file, or a rename in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- the lock and the reserved space


class FileLock:
    """The exclusive right to a state file, from ``acquire`` until ``release`` or the end of the process.

    Whoever holds the lock with ``lock_id`` knows that its previous holder has released it or ended.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        self.lock_id = _lock_id(os.fstat(descriptor), boot_id())

    @classmethod
    def acquire(cls, path: Path, now: int) -> FileLock:
        """Lock ``path``'s companion. Raises ``StoreError`` that names the holder if another process has it."""
        descriptor = os.open(companion(path, ".lock"), _OURS, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = _holder(descriptor)
            os.close(descriptor)
            if exc.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise StoreError(f"the state file {path} is held by {holder}; stop it first") from exc
        since = from_nanoseconds(now - now % NANOSECONDS)
        own = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with suppress(OSError):  # the text is for people: a full disk must not keep the daemon from starting
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(own).encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock_id(file: os.stat_result, boot: str) -> str:
    """The id of this lock: the same for all its successive holders until the machine reboots; unique to this machine.

    A copy of the state file, here or on another machine, has another lock. If the boot id is unknown, each process gets
    an id of its own.
    """
    text = f"{boot}:{file.st_dev}:{file.st_ino}" if boot else secrets.token_hex(8)
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


class Ballast:
    """The reserved space: a file beside the state file ``path``. Once it is ``spent``, ``why`` says why it cannot be had."""

    def __init__(self, path: Path) -> None:
        self._path = companion(path, ".reserve")
        self.spent = False
        self.why = FULL

    def fill(self) -> bool:
        """Reserve the space (again). Returns False, and stays ``spent``, if that is not possible."""
        try:
            descriptor = self._opened()
            try:
                os.posix_fallocate(descriptor, 0, RESERVED_BYTES)
            finally:
                os.close(descriptor)
        except OSError as exc:
            self.release(FULL if exc.errno in _NO_ROOM else f"{self._path}: {exc.strerror}")
        else:
            self.spent = False
        return not self.spent

    def require_room(self) -> None:
        """Raise ``StoreUnavailable`` if the disk is full: SQLite overwrites its log for a while before it notices."""
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < LEAST_BYTES:
            raise StoreUnavailable(f"the state file cannot be written now: {FULL}")

    def release(self, why: str = FULL) -> None:
        """Free the space for writes that must succeed now."""
        self.spent, self.why = True, why
        with suppress(OSError):  # a file that cannot be opened has reserved nothing
            os.close(os.open(self._path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW))

    def _opened(self) -> int:
        """The file's descriptor. A link, or a file that belongs to another user, is replaced: the folder is ours."""
        try:
            return os.open(self._path, _OURS, 0o600)
        except OSError as exc:
            if exc.errno not in (errno.EACCES, errno.EPERM, errno.ELOOP):
                raise
        self._path.unlink()
        return os.open(self._path, _OURS, 0o600)
