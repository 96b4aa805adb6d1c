"""The files beside the state file: its lock, the space reserved for a full disk, and SQLite's log.

Owns: the ``.lock`` file, whose content says who holds it: one process per state file. It is kept when the lock is
released (removing it would race with the next holder). Only the kernel's lock counts, so a killed process leaves no
stale lock.

Owns: the ``.reserve`` file, so that a full disk stops creates but not deletes. While the disk has room, the file
reserves space. When a commit finds the disk full, the file is truncated, and deletes and outcomes use its space.

Owns: the check that the path still leads to the open files, and that nobody else writes to them. Whatever is written
to a removed file or log is lost at the next start. A log that is written back into a file that was copied over damages
the data. So no such write may be acknowledged. Does not know SQL.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import socket
from pathlib import Path

from stackd.clock import NANOSECONDS, boot_id, from_nanoseconds
from stackd.errors import StoreError

FULL = "the disk is full"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_DISKS = (*_NO_ROOM, errno.EROFS, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EIO)
"""A full, read-only or failing disk, and files of others."""

_OURS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class FileLock:
    """The exclusive right to a state file, from ``acquire`` until ``release`` or the end of the process.

    Whoever holds the lock with ``lock_id`` knows that its previous holder has released it or ended.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        self.lock_id = _lock_id(descriptor, boot_id())

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
        _write_holder(descriptor, now)
        return cls(descriptor)

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _write_holder(descriptor: int, now: int) -> None:
    since = from_nanoseconds(now - now % NANOSECONDS)
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as exc:
        # A full disk must not keep the daemon from starting. Only the kernel's lock counts, the text is for people.
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _lock_id(descriptor: int, boot: str) -> str:
    """The id of this lock: the same for all its successive holders until the machine reboots; unique to this machine.

    A copy of the state file, here or on another machine, has another lock. If the boot id is unknown, each process gets
    an id of its own.
    """
    if not boot:
        return secrets.token_hex(8)
    status = os.fstat(descriptor)
    return hashlib.blake2s(f"{boot}:{status.st_dev}:{status.st_ino}".encode(), digest_size=8).hexdigest()


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


class Ballast:
    """A file of ``size`` bytes beside the state file ``path``; 0 means none."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = companion(path, ".reserve")
        self._size = size
        self.spent = False
        self.why = FULL
        """Why the space could not be reserved, once it is ``spent``."""

    def fill(self) -> bool:
        """Reserve the space (again). Returns False, and stays ``spent``, if that is not possible."""
        try:
            if self._size:
                self._allocate()
        except OSError as exc:
            if exc.errno not in _OF_DISKS:
                raise
            self.why = FULL if exc.errno in _NO_ROOM else f"{self._path}: {exc.strerror}"
            self._empty()
            self.spent = True
        else:
            self.spent = False
        return not self.spent

    def release(self) -> None:
        """Free the space for writes that must succeed now."""
        self.spent = True
        self.why = FULL
        self._empty()

    def _allocate(self) -> None:
        descriptor = self._opened()
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        finally:
            os.close(descriptor)

    def _opened(self) -> int:
        """The file's descriptor. A link, or a file that belongs to another user, is replaced: the folder is ours."""
        try:
            return os.open(self._path, _OURS, 0o600)
        except OSError as exc:
            if exc.errno not in (errno.EACCES, errno.EPERM, errno.ELOOP):
                raise
        self._path.unlink()
        return os.open(self._path, _OURS, 0o600)

    def _empty(self) -> None:
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW))
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno not in _OF_DISKS:
                raise


class ReplacedError(Exception):
    """The path leads to another file than the open one, or somebody else has written to the file."""


class OpenFiles:
    """The state file and its write-ahead log as this process last left them; created while they are open."""

    def __init__(self, path: Path) -> None:
        self._path, self._log = str(path), str(companion(path, "-wal"))
        self._inode = path.stat().st_ino
        self._log_inode: int | None = None
        self._written: tuple[int, int] = (0, 0)
        self.remember()

    def remember(self, status: os.stat_result | None = None) -> None:
        """Remember the current state of both files, after this process has written to them, or may have.

        ``status`` is the file's, if it was read since.
        """
        if (status := status or _status(self._path)) is not None:
            self._written = (status.st_size, status.st_mtime_ns)
        if self._log_inode is None and (log := _status(self._log)) is not None:
            self._log_inode = log.st_ino

    @property
    def untouched(self) -> bool:
        """Whether nobody else has replaced the state file or written to it."""
        status = _status(self._path)
        return status is not None and self._is_ours(status) and self._is_as_left(status)

    def require_untouched(self) -> None:
        """Raise ReplacedError unless the file is as this process left it; to be called before each write."""
        if not self._is_as_left(self.require_in_place()):
            raise ReplacedError(f"something else has written to the state file {self._path} while stackd was running")

    def require_in_place(self) -> os.stat_result:
        """The file's status. Raises ReplacedError unless file and log are still the open ones, with any content."""
        status = _status(self._path)
        if status is None or not self._is_ours(status):
            raise ReplacedError(f"the state file {self._path} was removed or replaced while stackd was running")
        log = _status(self._log)
        if self._log_inode is not None and (log is None or log.st_ino != self._log_inode):
            raise ReplacedError(
                f"{self._log}, a part of the state file, was removed or replaced while stackd was running"
            )
        return status

    def _is_as_left(self, status: os.stat_result) -> bool:
        return self._written == (status.st_size, status.st_mtime_ns)

    def _is_ours(self, status: os.stat_result) -> bool:
        return status.st_ino == self._inode


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def companion(path: Path, suffix: str) -> Path:
    """The file beside ``path`` with ``suffix`` added to its name."""
    return path.with_name(path.name + suffix)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
