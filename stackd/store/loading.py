"""From a path to everything that the store works with, and back: lock, file, pool, records. Blocking.

Owns the order of these steps. Knows nothing of the event loop.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from stackd.clock import Clock
from stackd.errors import StoreError
from stackd.model import Job, Stack
from stackd.store import failures, queries, rows
from stackd.store.ballast import Ballast
from stackd.store.lock import FileLock
from stackd.store.opening import FileSettings, open_file
from stackd.store.ports import PortPool
from stackd.store.schema import MIGRATIONS, Migration


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the file is handled; the defaults are right for the daemon.

    ``quarantine``     seconds for which a port that somebody else has is not proposed
    ``busy_timeout``   seconds to wait for another process's lock (a SQLite shell, for example)
    ``ballast_bytes``  space set aside on the disk so that deletes work while it is full; 0 for none
    ``max_pages``      a bound on the file's size, beyond which it behaves as on a full disk
    """

    quarantine: float = 600.0
    busy_timeout: float = 2.0
    ballast_bytes: int = 8 * 1024 * 1024
    max_pages: int | None = None
    migrations: tuple[Migration, ...] = MIGRATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An open file and what was in it."""

    path: Path
    lock: FileLock
    connection: sqlite3.Connection
    ports: PortPool
    ballast: Ballast
    stacks: list[Stack]
    jobs: list[Job]
    fresh: bool


def load(path: Path, *, clock: Clock, node_ports: tuple[int, int], options: Options) -> Loaded:
    """Lock, check, open, migrate and read the file; a new one if there is none. Raises ``StoreError``."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock.acquire(path, clock.now())
    except OSError as exc:
        raise StoreError(f"the state file {path} cannot be used: {exc.strerror or exc}") from exc
    try:
        return _load_locked(path, lock, clock, node_ports, options)
    except BaseException:
        lock.release()
        raise


def _load_locked(path: Path, lock: FileLock, clock: Clock, node_ports: tuple[int, int], options: Options) -> Loaded:
    ballast = Ballast(path, options.ballast_bytes)
    connection, fresh = _open(path, ballast, options)
    try:
        ports = PortPool(*node_ports, quarantine=options.quarantine, monotonic=clock.monotonic)
        ports.load(port for (port,) in connection.execute(queries.ALL_NODE_PORTS))
        stacks = [rows.stack_from_row(row) for row in connection.execute(queries.ALL_STACKS)]
        jobs = [_job(connection, row) for row in connection.execute(queries.ALL_JOBS).fetchall()]
    except sqlite3.Error as exc:
        connection.close()
        raise StoreError(f"the state file {path} cannot be read: {failures.sentence(exc)}") from exc
    if not ballast.spent:
        ballast.fill()
    return Loaded(
        path=path,
        lock=lock,
        connection=connection,
        ports=ports,
        ballast=ballast,
        stacks=stacks,
        jobs=jobs,
        fresh=fresh,
    )


def _open(path: Path, ballast: Ballast, options: Options) -> tuple[sqlite3.Connection, bool]:
    """Open; on a full disk once more with the space that was set aside, so that a restart is still possible."""
    settings = FileSettings(
        busy_timeout=options.busy_timeout, max_pages=options.max_pages, migrations=options.migrations
    )
    try:
        return open_file(path, settings)
    except sqlite3.Error:
        ballast.release()
    try:
        return open_file(path, settings)
    except sqlite3.Error as exc:
        raise StoreError(f"the state file {path} cannot be used: {failures.sentence(exc)}") from exc


def _job(connection: sqlite3.Connection, row: rows.Row) -> Job:
    return rows.job_from_row(row, connection.execute(queries.JOB_ERRORS, (row[0],)).fetchall())


def unload(loaded: Loaded) -> None:
    """Close the connection of a file that no writer has taken over, and give the lock back."""
    loaded.connection.close()
    loaded.lock.release()
