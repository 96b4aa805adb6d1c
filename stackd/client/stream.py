"""Server-sent events, from lines to ``Event``. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from stackd.client.attempts import Request
from stackd.client.records import Event

LAST_EVENT_ID = "Last-Event-ID"
QUIET_SECONDS = 60.0
"""A stream sends something at least every 15 s; after this long without any data it is dead."""

AGAIN_SECONDS = 1.0
LONGEST_LINE = 16 << 20


@dataclass(slots=True)
class EventReader:
    """Reads one connection after the other; ``last`` is the id of the last event."""

    last: str = ""
    _lines: list[bytes] = field(default_factory=list)

    def line(self, line: bytes) -> Event | None:
        """The event that this line completes, or None."""
        if text := line.rstrip(b"\r\n"):
            self._lines.append(text)
            return None
        event, self._lines = _event(self._lines), []
        if event is not None and event.id:
            self.last = event.id
        return event

    def restarted(self) -> None:
        """Drop an incomplete event after a connection has ended."""
        self._lines = []


def request_of(path: str, query: tuple[tuple[str, str], ...], last: str) -> Request:
    """The request that opens the stream after the event with the id ``last``."""
    headers = {LAST_EVENT_ID: last} if last else {}
    return Request(method="GET", path=path, query=query, headers=headers, seconds=QUIET_SECONDS, repeatable=True)


def _event(lines: list[bytes]) -> Event | None:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        fields[name] = fields[name] + b"\n" + value if name == b"data" and name in fields else value
    if b"data" not in fields:
        return None
    kind: Any = fields.get(b"event", b"message").decode()
    data = json.loads(fields[b"data"] or b"null")
    return Event(kind=kind, id=fields.get(b"id", b"").decode(), data=data)
