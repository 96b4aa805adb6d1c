"""The disk under the state file and its troubles: full, failing, locked by somebody else.

Owns: the small file system (where root may mount one), and whether there is or was trouble with it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SIZE = "16m"
"""Enough for the store's reserve (8 MiB), its WAL (4 MiB) and some rows."""


@dataclass(slots=True, kw_only=True)
class Disk:
    """``folder`` contains the state file; ``small``: it is a file system of its own that can be filled."""

    folder: Path
    small: bool
    was_in_trouble: bool = False
    trouble_seen: bool = False
    _lock: sqlite3.Connection | None = None
    _troubles: set[object] = field(default_factory=set)
    """The troubles at the moment; there may be several at once."""

    _last_over: float = 0.0

    @property
    def in_trouble(self) -> bool:
        """Whether there is any trouble now."""
        return bool(self._troubles)

    def was_in_trouble_since(self, moment: float) -> bool:
        """Whether there was any trouble at that time (monotonic seconds) or since."""
        return self.in_trouble or self._last_over >= moment

    @classmethod
    @contextmanager
    def make(cls, folder: Path, *, small: bool) -> Iterator[Disk]:
        """A folder for the state file."""
        target = folder / "state"
        target.mkdir()
        mounted = small and _mount(target)
        disk = cls(folder=target, small=mounted)
        try:
            yield disk
        finally:
            disk.unlock()
            if mounted:
                subprocess.run(["umount", "-l", str(target)], check=True)

    def fill(self) -> None:
        """Fill the disk to its last byte."""
        self._trouble("full")
        with (self.folder / "filler").open("ab", buffering=0) as filler:
            for size in (256 * 1024, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        filler.write(b"\0" * size)

    def empty(self) -> None:
        """Make room again."""
        (self.folder / "filler").unlink(missing_ok=True)
        self._over("full")

    def fail_writes(self, pid: int) -> None:
        """Let all file writes of that process fail."""
        self._trouble(pid)
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))

    def mend(self, pid: int) -> None:
        """Let writes of that process succeed again."""
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        self._over(pid)

    def lock(self, path: Path) -> None:
        """Take the file's write lock, as a SQLite shell with an open transaction does."""
        if self._lock is not None or not path.exists():
            return
        self._trouble("locked")
        connection = sqlite3.connect(path, timeout=5, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        self._lock = connection

    def unlock(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.execute("ROLLBACK")
            self._lock.close()
            self._lock = None
            self._over("locked")

    def watch_from_now_on(self) -> None:
        """Reset ``trouble_seen``: from now on it says whether there is or was trouble, even if that is over."""
        self.trouble_seen = self.in_trouble

    def _over(self, what: object) -> None:
        self._troubles.discard(what)
        self._last_over = time.monotonic()

    def _trouble(self, what: object) -> None:
        self._troubles.add(what)
        self.was_in_trouble = self.trouble_seen = True


def _mount(target: Path) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None or shutil.which("umount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(target)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
