"""The state file, read over a connection of its own: what is committed, whatever the daemon says."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One committed row; ``ports`` are the ports in the row, ``held`` those that the table of ports has for it.

    ``names`` are the names in the row, by the names of their routes, ``held_names`` those of the table of names.
    """

    stack_id: str
    pod_spec: str
    status: str
    accepted: bool
    ended: bool
    deleting: bool
    ports_held: bool
    ttl_expires_at: int
    ports: frozenset[int]
    held: frozenset[int]
    names: Mapping[str, str]
    held_names: frozenset[str]
    desired: str
    has_pod_uid: bool
    unassigned: bool
    template: str
    digest: str

    @property
    def stopped(self) -> bool:
        """Whether the desired state is stopped."""
        return self.desired == "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One committed job; ``items`` by stack id."""

    status: str
    total: int
    done: int
    not_found: int
    failed: int
    items: dict[str, str]


class StateFile:
    """Reads committed state; each read has its own connection: an open one would change the recovery after a crash."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remember_as_removed(self, stack_id: str) -> None:
        """Write into the file that it has once deleted this stack."""
        with closing(sqlite3.connect(self.path, timeout=5.0)) as connection, connection:
            connection.execute("INSERT INTO removed_stacks (stack_id, removed_at) VALUES (?, 1)", (stack_id,))

    def row(self, stack_id: str) -> Row | None:
        """The row of one stack, or None; None also if there is no file."""
        if not self.path.exists():
            return None
        with self._open() as connection:
            return next(iter(_rows(connection, "WHERE stack_id = ?", (stack_id,))), None)

    def rows(self) -> dict[str, Row]:
        """All rows, by stack id."""
        with self._open() as connection:
            return {row.stack_id: row for row in _rows(connection, "", ())}

    def marked(self, marker: str) -> list[Row]:
        """The rows whose pod spec contains the marker."""
        with self._open() as connection:
            return list(_rows(connection, "WHERE instr(pod_spec, ?) > 0", (marker,)))

    def holders(self) -> dict[int, str]:
        """The stack that holds each node port."""
        with self._open() as connection:
            return dict(connection.execute("SELECT node_port, stack_id FROM node_ports"))

    def job(self, job_id: str) -> JobRow | None:
        """One job with its items."""
        with self._open() as connection:
            query = "SELECT status, total, done, not_found, failed FROM jobs WHERE job_id = ?"
            found = connection.execute(query, (job_id,)).fetchone()
            if found is None:
                return None
            items = dict(connection.execute("SELECT stack_id, state FROM job_items WHERE job_id = ?", (job_id,)))
            status, total, done, not_found, failed = found
            return JobRow(status=status, total=total, done=done, not_found=not_found, failed=failed, items=items)

    def done_twice(self) -> list[str]:
        """The stacks that jobs have extended or restarted more often than they counted them."""
        query = (
            "SELECT stack_id FROM (SELECT stack_id, 1 AS by FROM timeline WHERE kind = ? AND reason = 'batch' UNION ALL"
            " SELECT stack_id, -1 FROM job_items JOIN jobs USING (job_id) WHERE action = ? AND state IN ('done', 'failed'))"
            " GROUP BY stack_id HAVING sum(by) > 0"
        )
        with self._open() as connection:
            kinds = (("extended", "extend"), ("restart_requested", "restart"))
            return [stack_id for kind in kinds for (stack_id,) in connection.execute(query, kind)]

    @property
    def incomplete(self) -> bool:
        """Whether the file may lack stacks that the cluster has: it is new, or does not exist yet."""
        if not self.path.exists():
            return True
        with self._open() as connection:
            return connection.execute("SELECT 1 FROM meta WHERE key = 'incomplete'").fetchone() is not None

    def sequence(self) -> int:
        """How many commits have changed which stacks are wanted."""
        with self._open() as connection:
            found = connection.execute("SELECT value FROM meta WHERE key = 'sequence'").fetchone()
            return int(found[0]) if found is not None else 0

    def damage(self) -> str:
        """What SQLite's own check and the foreign keys report; empty if nothing is wrong."""
        with self._open() as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            loose = connection.execute("PRAGMA foreign_key_check").fetchall()
        return "" if verdict == "ok" and not loose else f"{verdict} {loose}"

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.path.absolute().as_uri() + "?mode=ro", uri=True, timeout=5)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()


def _rows(connection: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> Iterator[Row]:
    query = (
        "SELECT stack_id, pod_spec, status, accepted, ended, deleting_since, ports_held, ttl_expires_at, ports,"
        " desired, pod_uid, unassigned, template, digest,"
        " (SELECT json_group_array(node_port) FROM node_ports AS held WHERE held.stack_id = stacks.stack_id),"
        " (SELECT json_group_array(hostname) FROM hostnames AS held WHERE held.stack_id = stacks.stack_id)"
        f" FROM stacks {where}"
    )
    for found in connection.execute(query, values):
        stack_id, spec, status, accepted, ended, deleting, held, ttl, ports, *others = found
        desired, pod_uid, free, template, digest, table, names = others
        yield Row(
            stack_id=stack_id,
            pod_spec=spec,
            status=status,
            accepted=bool(accepted),
            ended=bool(ended),
            deleting=deleting is not None,
            ports_held=bool(held),
            ttl_expires_at=ttl,
            ports=frozenset(port["node_port"] for port in json.loads(ports) if port["node_port"]),
            held=frozenset(json.loads(table)),
            names={
                f"{stack_id}-{port['container_port']}": port["host"] for port in json.loads(ports) if "host" in port
            },
            held_names=frozenset(json.loads(names)),
            desired=desired,
            has_pod_uid=pod_uid is not None,
            unassigned=bool(free),
            template=template or "",
            digest=digest or "",
        )


# ---- the disk under the state file and its troubles: full, failing, locked by somebody else


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
