"""The audit: who was refused, reloads, changes of API keys and takeovers, for ``GET /activity`` and the file ``log.audit``.

Owns: what counts as the same request, which is written once and then counted for a minute, so that nobody fills the disk by
repeating it; and the lines of the file, which also has the requests that changed something. It opens the file for each line,
so that a rotation only has to rename it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from msgspec import json

from stackd.clock import Clock
from stackd.errors import StoreUnavailable
from stackd.keys import ApiKey
from stackd.lifecycle.ownership import Ownership, Role
from stackd.logs import utc
from stackd.model import STACKD, AuditEntry, AuditKind, Principal
from stackd.store import Store
from stackd.tasks import set_within

log = logging.getLogger(__name__)

REFUSALS = frozenset({401, 403, 429})
"""The statuses of requests whose key was missing, wrong, too small or too busy."""

MINUTE = 60.0
GATHER_SECONDS = 0.2
"""How long entries are gathered: those of a burst are one transaction."""

MOST_REFUSALS = 100
"""How many different refusals of a minute have lines of their own; the others are only counted, by key and status."""

MOST_PENDING = 1000
LONGEST = 2000
CHANGE = "change"
"""What the lines of requests that have changed something are called; they are in the file only."""


@dataclass(slots=True)
class _Counted:
    """A request that was written, and how often it came again since."""

    entry: AuditEntry | None
    fields: dict[str, Any]
    again: int = 0


class Audit:
    """Takes entries at once, without waiting for a disk or a database."""

    def __init__(self, store: Store, ownership: Ownership, clock: Clock, file: Callable[[], str]) -> None:
        self._store, self._ownership, self._clock, self._file = store, ownership, clock, file
        self._counted: dict[Hashable, _Counted] = {}
        self._refusals = 0
        self._pending: deque[AuditEntry] = deque(maxlen=MOST_PENDING)
        self._noted = asyncio.Event()
        self._torn = False

    def note(self, kind: AuditKind, message: str, *, by: Principal = STACKD, failed: bool = False) -> None:
        """Something happened once."""
        entry = AuditEntry(kind=kind, at=self._clock.now(), message=message[:LONGEST], by=by, failed=failed)
        self._write(_Counted(entry, {"kind": kind, **_named(by), "message": entry.message, "failed": failed}))

    def request(self, *, by: Principal, status: int, client: str, origin: str, fields: dict[str, Any]) -> None:
        """A request was refused (``status`` is one of ``REFUSALS``), or changes something, also if its answer says that
        this takes longer or did not arrive. ``origin`` counts as one client."""
        refused = status in REFUSALS
        if not refused and not self._file():
            return
        what: tuple[Hashable, ...] = (by, status, *fields.values())
        if refused:
            what = (by, status, origin, fields["method"], fields["route"])
            if what not in self._counted and self._refusals >= MOST_REFUSALS:
                what, client, fields = (by, status), "several", {"method": "several", "route": "requests"}
        if (counted := self._counted.get(what)) is not None:
            counted.again += 1
            return
        if not self._counted:
            asyncio.get_running_loop().call_later(MINUTE, self.count)
        self._refusals += refused
        entry = None
        if refused:
            text = f"{status} for {fields['method']} {fields['route']}, from {client or 'a Unix socket'}"
            entry = AuditEntry(kind=AuditKind.REFUSED, at=self._clock.now(), message=text, by=by, failed=True)
        kind = AuditKind.REFUSED if refused else CHANGE
        self._counted[what] = counted = _Counted(
            entry, {"kind": kind, **_named(by), "status": status, "client": client, **fields}
        )
        self._write(counted)

    def count(self) -> None:
        """The minute is over: write how often each request came again."""
        for counted in self._counted.values():
            if counted.again:
                self._write(counted, counted.again)
        self._counted.clear()
        self._refusals = 0

    async def keys_in_force(self, keys: Iterable[ApiKey]) -> None:
        """Note how the keys differ from those that were in force last, also before a restart."""
        if self._ownership.role is not Role.OWNER:
            return
        now = sorted(key.described for key in keys)
        try:
            before = await self._store.audit.remember_keys(now)
        except StoreUnavailable as error:
            log.warning("the audit does not know the keys that were in force before: %s", error)
            return
        if before is not None and before != now:
            new, gone = [key for key in now if key not in before], [key for key in before if key not in now]
            parts = [f"{what}: {', '.join(names)}" for what, names in (("new", new), ("gone", gone)) if names]
            self.note(AuditKind.KEYS, "; ".join(parts))

    async def serve(self) -> None:
        """The service that writes entries into the state file, once this stackd owns the stacks."""
        while True:
            await set_within(self._noted, None)
            self._noted.clear()
            await asyncio.sleep(GATHER_SECONDS)
            await self.keep()

    async def keep(self) -> None:
        """Write what is pending, if this stackd owns the stacks. What the file refuses waits for the next entry."""
        while self._pending and self._ownership.role is Role.OWNER:
            some = list(islice(self._pending, MOST_PENDING))
            try:
                await self._store.audit.keep(some)
            except StoreUnavailable:
                return
            for entry in some:
                if self._pending and self._pending[0] is entry:
                    self._pending.popleft()

    def _write(self, counted: _Counted, count: int = 1) -> None:
        now = self._clock.now()
        if counted.entry is not None:
            self._pending.append(replace(counted.entry, at=now, count=count))
            self._noted.set()
        if self._file():
            self._append({"time": utc(now / 1e9), **counted.fields, "count": count})

    def _append(self, fields: dict[str, Any]) -> None:
        """Add one line to the file; what cannot be written is in the log."""
        shown = {name: value for name, value in fields.items() if value is not None}
        line = b"\n" * self._torn + json.encode(shown) + b"\n"
        try:
            descriptor = os.open(self._file(), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                written = os.write(descriptor, line)
            finally:
                os.close(descriptor)
            self._torn = written < len(line)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            log.error("the audit file of log.audit cannot be written: %s; not in it: %s", error.strerror, shown)


def _named(by: Principal) -> dict[str, str]:
    """Who it was, for a line of the file: two may have one name."""
    return {"by": by.name} | ({"principal": by.id} if by.id != by.name else {})
