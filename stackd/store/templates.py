"""The templates that the API was given: their texts, who has written each, and when.

Owns: their SQL, and that a tenant's key has only so many of them, with so much text, and so many stacks in their pools. Does
not read the texts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from stackd.codes import ErrorCode
from stackd.errors import Conflict, StoreError
from stackd.model import Principal, StoredTemplate
from stackd.store.file import open_reader
from stackd.store.transaction import Columns, Submit, Table, Transaction, operation

TEMPLATES = Columns(StoredTemplate, read={"by": Principal.parse, "tenant": bool}, write={"by": str})
ALL = f"SELECT {TEMPLATES.sql} FROM templates"
PUT = f"INSERT OR REPLACE INTO templates ({TEMPLATES.sql}) VALUES ({TEMPLATES.parameters})"
USED = (
    "SELECT count(*), coalesce(sum(length(CAST(text AS BLOB))), 0), coalesce(sum(pool), 0) FROM templates"
    " WHERE tenant = 1 AND principal = ? AND name <> ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateLimits:
    """What the templates of one tenant's key may be in all: their number, their bytes, and the stacks of their pools."""

    count: int
    bytes: int
    pool: int


def load(connection: sqlite3.Connection) -> list[StoredTemplate]:
    """All of a file."""
    return [TEMPLATES.record(row) for row in connection.execute(ALL)]


def stored_in(path: Path) -> list[StoredTemplate]:
    """All of a file that another process may have open; none if it cannot be read, or has an earlier format."""
    try:
        with closing(open_reader(path, once=True)) as reader:
            return load(reader)
    except (StoreError, OSError, sqlite3.Error):
        return []


def put(tx: Transaction, template: StoredTemplate, limits: TemplateLimits) -> None:
    """Write the template in the place of an earlier one of its name. Raises Conflict if a tenant would have too much."""
    if template.tenant:
        ((count, size, pool),) = tx.rows(USED, (template.by.id, template.name))
        size, pool = size + len(template.text.encode()), pool + template.pool
        if count >= limits.count:
            raise _full(f"the key has {count} templates already (limits.templates_per_key)")
        if size > limits.bytes:
            raise _full(f"the templates of the key would have {size} bytes; {limits.bytes} at most")
        if pool > limits.pool and template.pool:
            raise _full(f"the pools of the key would have {pool} stacks; {limits.pool} at most (limits.pool_per_key)")
    tx.run(PUT, TEMPLATES.values(template))


def _full(sentence: str) -> Conflict:
    return Conflict(sentence, code=ErrorCode.TEMPLATE_LIMIT_REACHED)


def remove(tx: Transaction, name: str) -> None:
    """Delete the template of this name."""
    tx.run("DELETE FROM templates WHERE name = ?", (name,))


class Templates(Table):
    """All of them as committed, and the operations; whoever calls these waits for one before the next."""

    def __init__(self, templates: list[StoredTemplate], submit: Submit) -> None:
        super().__init__(submit)
        self._by_name = {one.name: one for one in templates}

    _put = operation(put, grows=True)
    _remove = operation(remove)

    async def put(self, template: StoredTemplate, limits: TemplateLimits) -> None:
        """As ``put``."""
        await self._put(template, limits)
        self._by_name[template.name] = template

    async def remove(self, name: str) -> None:
        """As ``remove``."""
        await self._remove(name)
        self._by_name.pop(name, None)

    def get(self, name: str) -> StoredTemplate | None:
        """The template of this name, or None."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[StoredTemplate]:
        return iter([self._by_name[name] for name in sorted(self._by_name)])

    def __len__(self) -> int:
        return len(self._by_name)
