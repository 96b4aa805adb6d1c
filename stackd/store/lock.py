"""One process per file: an advisory lock beside it, whose content says who holds it.

Owns the ``.lock`` file. The file stays when the lock is given back (removing it would race with the next holder);
only the kernel's lock counts, so a killed process never leaves a stale one.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from stackd.clock import NANOSECONDS
from stackd.errors import StoreError


class FileLock:
    """The exclusive right to a state file, from ``acquire`` until ``release`` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @classmethod
    def acquire(cls, path: Path, now: int) -> FileLock:
        """Lock ``path``'s companion. Raises ``StoreError`` that names the holder if another process has it."""
        descriptor = os.open(lock_path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
        """Give the lock back; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def lock_path(path: Path) -> Path:
    """Where the lock of the state file ``path`` is."""
    return path.with_name(path.name + ".lock")


def _write_holder(descriptor: int, now: int) -> None:
    since = datetime.fromtimestamp(now // NANOSECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as exc:
        # A full disk must not keep the daemon from starting: the lock is the kernel's, the text only a courtesy.
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
