"""Space set aside on the disk, so that a full disk stops creates but not deletes.

Owns the ``.reserve`` file. While the disk has room it is filled with nothing; when a commit finds the disk full, it is
emptied, and what gets smaller (deletes, outcomes) uses its room. It knows nothing of SQLite.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


class Ballast:
    """A file of ``size`` bytes beside the state file ``path``; 0 means none."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path.with_name(path.name + ".reserve")
        self._size = size
        self.spent = False

    def fill(self) -> bool:
        """Set the space aside (again). False, and still ``spent``, if the disk has no room for it."""
        if self._size and not self._allocate():
            self._empty()
            self.spent = True
            return False
        self.spent = False
        return True

    def release(self) -> None:
        """Give the space to whoever needs it now."""
        self.spent = True
        self._empty()

    def _allocate(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            return _refused(exc)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        except OSError as exc:
            return _refused(exc)
        finally:
            os.close(descriptor)
        return True

    def _empty(self) -> None:
        try:
            os.truncate(self._path, 0)
        except FileNotFoundError:
            return
        except OSError as exc:
            _refused(exc)


def _refused(exc: OSError) -> bool:
    """False where the disk is full or read-only; anything else is a fault of its own."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
        return False
    raise exc
