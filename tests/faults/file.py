"""The state file, read over a connection of its own: what is committed, whatever the daemon says. And the disk under it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROWS = """
SELECT stack_id, pod_spec, status, accepted, ended, deleting_since IS NOT NULL, ports_held, ttl_expires_at, desired,
  pod_uid IS NOT NULL, unassigned, spare, template, iif(serving IS NULL, NULL, generation), labels ->> 'op', ports,
  (SELECT json_group_array(node_port) FROM node_ports AS held WHERE held.stack_id = stacks.stack_id),
  (SELECT json_group_array(hostname) FROM hostnames AS held WHERE held.stack_id = stacks.stack_id)
FROM stacks WHERE """
_DONE = """
SELECT stack_id FROM (
  SELECT stack_id, 1 AS by FROM timeline WHERE kind = ? AND reason = 'batch' UNION ALL
  SELECT stack_id, -1 FROM job_items JOIN jobs USING (job_id) WHERE instr(?, action) AND state IN ('done', 'failed', 'not_found')
) GROUP BY stack_id HAVING sum(by) > 0"""
SIZE = "16m"
"""Enough for the store's reserve (8 MiB), its WAL (4 MiB) and some rows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One committed row; ``held`` and ``held_names`` are what the tables of ports and names have for it."""

    stack_id: str
    pod_spec: str
    status: str
    accepted: bool
    ended: bool
    deleting: bool
    ports_held: bool
    ttl_expires_at: int
    desired: str
    has_pod_uid: bool
    unassigned: bool
    spare: bool
    template: str
    shared_pod: int | None
    """Of a shared stack: the number of its pod."""
    marker: str
    ports: frozenset[int]
    names: dict[str, str] = field(hash=False)
    """The names of its routes, and their host names."""
    held: frozenset[int]
    held_names: frozenset[str]

    @property
    def pod_name(self) -> str:
        return f"{self.stack_id}-{self.shared_pod}" if self.shared_pod else self.stack_id

    @classmethod
    def read(cls, values: tuple[Any, ...]) -> Row:
        stack_id, spec, status, *flags, ports, held, held_names = values
        opened = json.loads(ports)
        (
            accepted,
            ended,
            deleting,
            ports_held,
            expires,
            desired,
            has_pod_uid,
            unassigned,
            spare,
            template,
            shared_pod,
            marker,
        ) = flags
        return cls(
            stack_id, spec, status, bool(accepted), bool(ended), bool(deleting), bool(ports_held), expires, desired,
            bool(has_pod_uid), bool(unassigned), bool(spare), template or "", shared_pod, marker or "",
            frozenset(port["node_port"] for port in opened if port["node_port"]),
            {f"{stack_id}-{port['container_port']}": port["host"] for port in opened if "host" in port},
            frozenset(json.loads(held)), frozenset(json.loads(held_names)),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobRow:
    """One committed job; ``items``: the state of each by stack id; ``errors``: the codes and errors of those that failed."""

    items: dict[str, str]
    errors: list[tuple[str, str]]
    status: str
    total: int
    done: int
    not_found: int
    failed: int


class StateFile:
    """Reads committed state; each read has its own connection: an open one would change the recovery after a crash."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remember_as_removed(self, stack_id: str) -> None:
        """Write into the file that it has once deleted this stack."""
        with closing(sqlite3.connect(self.path, timeout=5.0)) as connection, connection:
            connection.execute("INSERT INTO removed_stacks (stack_id, removed_at) VALUES (?, 1)", (stack_id,))

    def has_removed(self, stack_id: str) -> bool:
        return bool(self._ask("SELECT 1 FROM removed_stacks WHERE stack_id = ?", stack_id))

    def row(self, stack_id: str) -> Row | None:
        found = self._ask(f"{_ROWS} stack_id = ?", stack_id) if self.path.exists() else []
        return Row.read(found[0]) if found else None

    def rows(self) -> dict[str, Row]:
        return {values[0]: Row.read(values) for values in self._ask(f"{_ROWS} true")}

    def marked(self, marker: str) -> list[Row]:
        return [Row.read(values) for values in self._ask(f"{_ROWS} instr(pod_spec, ?) > 0", marker)]

    def holders(self) -> list[str]:
        return [holder for (holder,) in self._ask("SELECT stack_id FROM node_ports")]

    def job(self, job_id: str) -> JobRow | None:
        found = self._ask("SELECT status, total, done, not_found, failed FROM jobs WHERE job_id = ?", job_id)
        items = dict(self._ask("SELECT stack_id, state FROM job_items WHERE job_id = ?", job_id))
        errors = self._ask("SELECT code, error FROM job_items WHERE job_id = ? AND state = 'failed'", job_id)
        return JobRow(items, errors, *found[0]) if found else None

    def done_twice(self) -> list[str]:
        """The stacks that jobs have extended or restarted more often than they counted them."""
        kinds = (("extended", "extend"), ("restart_requested", "restart renew"))
        return [stack_id for kind in kinds for (stack_id,) in self._ask(_DONE, *kind)]

    @property
    def incomplete(self) -> bool:
        """Whether the file may lack stacks that the cluster has: it is new, or does not exist yet."""
        return not self.path.exists() or bool(self._ask("SELECT 1 FROM meta WHERE key = 'incomplete'"))

    def sequence(self) -> int:
        """How many commits have changed which stacks are wanted."""
        return sum(int(value) for (value,) in self._ask("SELECT value FROM meta WHERE key = 'sequence'"))

    def damage(self) -> str:
        """What SQLite's own check and the foreign keys report; empty if nothing is wrong."""
        ((verdict,),) = self._ask("PRAGMA integrity_check(1)")
        orphans = self._ask("PRAGMA foreign_key_check")
        return "" if verdict == "ok" and not orphans else f"{verdict} {orphans}"

    def _ask(self, query: str, *values: str) -> list[Any]:
        address = self.path.absolute().as_uri() + "?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=5)) as connection:
            return connection.execute(query, values).fetchall()


# ---- the disk under the state file and its faults: full, failing, locked by somebody else


@dataclass(slots=True, kw_only=True)
class Disk:
    """``folder`` contains the state file; ``small``: it is a file system of its own that can be filled.

    ``ever_failed``: there was a fault; ``failed_lately``: there was one since it was last set to ``failing``.
    """

    folder: Path
    small: bool
    ever_failed: bool = False
    failed_lately: bool = False
    _shell: sqlite3.Connection | None = None
    _faults: set[object] = field(default_factory=set)
    _last_end: float = 0.0

    @property
    def failing(self) -> bool:
        return bool(self._faults)

    def failed_since(self, moment: float) -> bool:
        """Whether there was any fault at that time (monotonic seconds) or since."""
        return self.failing or self._last_end >= moment

    @classmethod
    @contextmanager
    def make(cls, folder: Path, *, small: bool) -> Iterator[Disk]:
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
        self._begin("full")
        with (self.folder / "filler").open("ab", buffering=0) as filler:
            for size in (256 * 1024, 4096):
                with suppress(OSError):
                    while True:
                        filler.write(b"\0" * size)

    def empty(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)
        self._end("full")

    def limit_writes(self, pid: int, *, fail: bool) -> None:
        """Let all file writes of that process fail, or succeed again."""
        (self._begin if fail else self._end)(pid)
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0 if fail else hard, hard))

    def lock(self, path: Path) -> None:
        """Take the file's write lock, as a SQLite shell with an open transaction does."""
        if self._shell is None and path.exists():
            self._begin("locked")
            shell = sqlite3.connect(path, timeout=5, isolation_level=None)
            shell.execute("BEGIN IMMEDIATE")
            self._shell = shell

    def unlock(self) -> None:
        if self._shell is not None:
            self._shell.execute("ROLLBACK")
            self._shell.close()
            self._shell = None
            self._end("locked")

    def _begin(self, what: object) -> None:
        self._faults.add(what)
        self.ever_failed = self.failed_lately = True

    def _end(self, what: object) -> None:
        self._faults.discard(what)
        self._last_end = time.monotonic()


def _mount(target: Path) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None or shutil.which("umount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(target)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
