"""The state file, read over a connection of its own: what is committed, whatever the daemon says."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
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
