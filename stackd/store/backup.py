"""A consistent copy of the file, while the daemon runs or not, from within it or from another process.

Owns the copy's form: one self-contained file (no write-ahead log) of mode 0600, complete or not there at all.
To restore one: stop stackd, copy it to ``state.path``, start stackd.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from stackd.errors import StoreError
from stackd.store import failures, schema


def backup_file(source: Path, target: Path, *, force: bool = False) -> None:
    """Copy the state file ``source`` as of now. Blocking; takes no lock that a running daemon would notice.

    Raises ``StoreError`` if ``target`` exists (unless ``force``), or if either cannot be used.
    """
    if not source.exists():
        raise StoreError(f"there is no state file {source}")
    if target.exists() and (not force or target.samefile(source)):
        raise StoreError(f"{target} exists already; it is left as it is")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        _copy(source, partial)
        _put_in_place(partial, target, force)
    except FileExistsError as exc:
        raise StoreError(f"{target} exists already; it is left as it is") from exc
    except sqlite3.Error as exc:
        raise StoreError(f"{source} cannot be copied to {target}: {failures.sentence(exc)}") from exc
    except OSError as exc:
        raise StoreError(f"{source} cannot be copied to {target}: {exc.strerror or exc}") from exc
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            companion(partial, suffix).unlink(missing_ok=True)


def companion(path: Path, suffix: str) -> Path:
    """The file beside ``path`` with ``suffix`` added to its name."""
    return path.with_name(path.name + suffix)


def sync_folder(folder: Path) -> None:
    """Make a rename within ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Path, partial: Path) -> None:
    reader = sqlite3.connect(source.absolute().as_uri() + "?mode=ro", uri=True, timeout=5.0)
    try:
        (application_id,) = reader.execute("PRAGMA application_id").fetchone()
        if application_id != schema.APPLICATION_ID:
            raise StoreError(f"{source} is not a state file of stackd")
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600))
        writer = sqlite3.connect(partial, isolation_level=None)
        try:
            reader.backup(writer)  # all pages in one step: one snapshot, however much is written meanwhile
            writer.execute("PRAGMA journal_mode = DELETE")
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
        os.link(partial, target)  # unlike a rename, fails if the target has appeared meanwhile
    sync_folder(target.parent)
