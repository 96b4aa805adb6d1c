"""The state file of a cluster: a snapshot, followed by every change, one per line.

An incomplete last line (after a kill) is ignored on reading. The file is written without fsync: it survives the end of
the process at any moment, but not that of the machine. While the disk is full, the cluster works from memory; the file
ends at the last complete change, and is rewritten as soon as there is room. Does not know how objects behave.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from stackd.embedded.resources import ALL
from stackd.embedded.store import ObjectChange, ObjectStore, Record
from stackd.files import create_private

_RESERVE = 10_000
"""How many revisions are reserved ahead, because not all of them are written to the file (events are not)."""
log = logging.getLogger(__name__)

_BY_NAME = {resource.qualified: resource for resource in ALL}


class Journal:
    """Keeps a store in a file. One process at a time.

    The file is rewritten when it is `slack` bytes larger than four snapshots.
    """

    def __init__(self, path: Path, store: ObjectStore, *, slack: int = 64 * 1024 * 1024) -> None:
        self._path = path
        self._slack = slack
        self._store = store
        self._reserved = 0
        self._file = -1
        self._limit = 0
        self._end = 0
        self._behind = False

    def load(self) -> bool:
        """Fill the empty store from the file; returns False if there is none. Calls no observers."""
        if not self._path.exists():
            return False
        for entry in _entries(self._path):
            self._reserved = max(self._reserved, entry.get("reserved", 0))
            if "resource" in entry:
                self._apply(entry)
        self._store.revision = max(self._reserved, self._store.revision)
        self._store.forget_history()
        return True

    def open(self) -> None:
        """Replace the file by a fresh snapshot, and keep it up to date from now on."""
        self._rewrite()
        self._store.observe(self.note)

    def note(self, change: ObjectChange) -> None:
        """Append a change. If the file cannot be written, rewrite it as soon as it can."""
        if self._behind:
            with suppress(OSError):
                self._rewrite()
                self._behind = False
                log.warning("%s is up to date again", self._path)
            return
        try:
            self._append(change)
        except OSError as error:
            self._behind = True
            log.error("%s cannot be written, and is out of date until it can be: %s", self._path, error.strerror)
            with suppress(OSError):
                os.ftruncate(self._file, self._end)

    def _append(self, change: ObjectChange) -> None:
        lines = []
        if change.after.revision > self._reserved:
            self._reserved = change.after.revision + _RESERVE
            lines.append(orjson.dumps({"reserved": self._reserved}))
        if change.after.resource.persistent:
            lines.append(_line(change.after, deleted=change.type == "DELETED"))
        if lines:
            self._end += _write(self._file, b"\n".join(lines) + b"\n")
            if self._end > self._limit:
                self._rewrite()

    def close(self) -> None:
        """Close the file; there are no pending writes."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _apply(self, entry: dict[str, Any]) -> None:
        resource = _BY_NAME.get(entry["resource"])
        if resource is None:
            return
        record = Record(resource, (entry["key"][0], entry["key"][1]), entry["object"], entry["revision"])
        collection = self._store.of(resource)
        self._store.revision = max(self._store.revision, record.revision)
        if entry["deleted"]:
            if record.key in collection.records:
                collection.drop(record)
        else:
            collection.put(record)

    def _rewrite(self) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._reserved = max(self._reserved, self._store.revision + _RESERVE)
        fresh.unlink(missing_ok=True)
        file = create_private(fresh)
        try:
            end = _write(file, orjson.dumps({"reserved": self._reserved}) + b"\n")
            for resource in ALL:
                if resource.persistent:
                    records = self._store.of(resource).records.values()
                    end += _write(file, b"".join(_line(record) + b"\n" for record in records))
            os.replace(fresh, self._path)
        except OSError:
            os.close(file)
            fresh.unlink(missing_ok=True)  # it takes room on the full disk
            raise
        self.close()
        self._file, self._end, self._limit = file, end, 4 * end + self._slack


def _line(record: Record, *, deleted: bool = False) -> bytes:
    head = {
        "resource": record.resource.qualified,
        "key": record.key,
        "revision": record.revision,
        "deleted": deleted,
    }
    return orjson.dumps(head)[:-1] + b',"object":' + (b"null" if deleted else record.body()) + b"}"


def _write(file: int, data: bytes) -> int:
    """Write all data; returns its length."""
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    return len(data)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            entry: dict[str, Any] = orjson.loads(line)
            yield entry
