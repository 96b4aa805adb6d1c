"""The last good text of each template of the cluster, who has written it, and when: for a start while Kubernetes does not
answer.

Owns: their SQL. Does not read the texts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from stackd.errors import StoreError
from stackd.model import Principal, StoredTemplate
from stackd.store.file import open_reader
from stackd.store.transaction import Columns, Submit, Table, Transaction, operation

TEMPLATES = Columns(StoredTemplate, read={"by": Principal.parse, "tenant": bool}, write={"by": str})
ALL = f"SELECT {TEMPLATES.sql} FROM templates"
PUT = f"INSERT OR REPLACE INTO templates ({TEMPLATES.sql}) VALUES ({TEMPLATES.parameters})"


def load(connection: sqlite3.Connection) -> list[StoredTemplate]:
    return [TEMPLATES.record(row) for row in connection.execute(ALL)]


def stored_in(path: Path) -> list[StoredTemplate]:
    """All of a file that another process may have open; none if it cannot be read, or has an earlier format."""
    try:
        with closing(open_reader(path, once=True)) as reader:
            return load(reader)
    except (StoreError, OSError, sqlite3.Error):
        return []


def save(tx: Transaction, template: StoredTemplate) -> None:
    tx.run(PUT, TEMPLATES.values(template))


def remove(tx: Transaction, name: str) -> None:
    tx.run("DELETE FROM templates WHERE name = ?", (name,))


class Templates(Table):
    """All of them as committed, and the operations; whoever calls these waits for one before the next."""

    def __init__(self, templates: list[StoredTemplate], submit: Submit) -> None:
        super().__init__(submit)
        self._by_name = {template.name: template for template in templates}

    _save = operation(save, grows=True)
    _remove = operation(remove)

    async def save(self, template: StoredTemplate) -> None:
        await self._save(template)
        self._by_name[template.name] = template

    async def remove(self, name: str) -> None:
        await self._remove(name)
        self._by_name.pop(name, None)

    def get(self, name: str) -> StoredTemplate | None:
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[StoredTemplate]:
        return iter([self._by_name[name] for name in sorted(self._by_name)])

    def __len__(self) -> int:
        return len(self._by_name)
