"""The state file, read over a connection of its own: what is committed, whatever the daemon says."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_ROWS = """
SELECT stack_id, pod_spec, status, accepted, ended, deleting_since IS NOT NULL, ports_held, ttl_expires_at, desired,
  pod_uid IS NOT NULL, unassigned, spare, coalesce(template, ''), iif(serving IS NULL, NULL, generation),
  coalesce(labels ->> 'op', ''), members, ports,
  (SELECT json_group_array(node_port) FROM node_ports AS held WHERE held.stack_id = stacks.stack_id),
  (SELECT json_group_array(hostname) FROM hostnames AS held WHERE held.stack_id = stacks.stack_id)
FROM stacks WHERE """
_DONE = """
SELECT stack_id FROM (
  SELECT stack_id, 1 AS by FROM timeline WHERE kind = ? AND reason = 'batch' UNION ALL
  SELECT stack_id, -1 FROM job_items JOIN jobs USING (job_id) WHERE instr(?, action) AND state IN ('done', 'failed', 'not_found')
) GROUP BY stack_id HAVING sum(by) > 0"""


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
    members: tuple[str, ...]
    ports: frozenset[int]
    names: dict[str, str] = field(hash=False)
    """The names of its routes, and their host names."""
    held: frozenset[int]
    held_names: frozenset[str]

    @property
    def pod_name(self) -> str:
        return f"{self.stack_id}-{self.shared_pod}" if self.shared_pod else self.stack_id

    @property
    def member_pods(self) -> dict[str, str]:
        """The names of the pods of its members, by theirs."""
        return {name: f"{self.stack_id}-{name}" for name in self.members}

    @classmethod
    def read(cls, values: tuple[Any, ...]) -> Row:
        *plain, members, ports, held, held_names = values
        opened = json.loads(ports)
        decoded = (
            tuple(one["name"] for one in json.loads(members or "[]")),
            frozenset(port["node_port"] for port in opened if port["node_port"]),
            {f"{plain[0]}-{port['container_port']}": port["host"] for port in opened if "host" in port},
            frozenset(json.loads(held)),
            frozenset(json.loads(held_names)),
        )
        return cls(*(*plain, *decoded))


@dataclass(frozen=True, slots=True)
class JobRow:
    """One committed job; ``items``: the state of each by stack id; ``errors``: the codes of those that failed."""

    items: dict[str, str]
    errors: list[str]
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
        errors = self._ask("SELECT code FROM job_items WHERE job_id = ? AND state = 'failed'", job_id)
        return JobRow(items, [code for (code,) in errors], *found[0]) if found else None

    def unfinished_jobs(self) -> list[str]:
        """The ids of jobs that go on, also of those whose client got no answer."""
        return [name for (name,) in self._ask("SELECT job_id FROM jobs WHERE status NOT IN ('completed', 'failed')")]

    def done_twice(self) -> list[str]:
        """The stacks that jobs have extended or restarted more often than they counted them."""
        kinds = (("extended", "extend"), ("restart_requested", "restart renew"))
        return [stack_id for kind in kinds for (stack_id,) in self._ask(_DONE, *kind)]

    def damage(self) -> list[Any]:
        """What SQLite's own check and the foreign keys report; empty if nothing is wrong."""
        found = [*self._ask("PRAGMA integrity_check(1)"), *self._ask("PRAGMA foreign_key_check")]
        return [row for row in found if row != ("ok",)]

    def _ask(self, query: str, *values: str) -> list[Any]:
        address = self.path.absolute().as_uri() + "?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=5)) as connection:
            return connection.execute(query, values).fetchall()
