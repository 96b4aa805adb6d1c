"""Records as text for people at a terminal, and as JSON for collectors; and which fields a record may carry.

A record is one line, followed by the indented lines of a trace: whatever a client's text contains, it cannot begin a
line that looks like a record.
"""

from __future__ import annotations

import json
import logging
import time
from contextvars import ContextVar
from functools import lru_cache
from typing import Final

import orjson

from stackd.printable import printable, printable_json

INDENT = "    "
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request for which the present task works; empty outside of requests."""
FIELDS: Final = ("stack_id", "job_id", "request_id", "key_name", "method", "route", "status", "duration_ms", "client")


class TextFormatter(logging.Formatter):
    """``2026-02-10T02:02:26.535Z INFO message``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, and the lines of its trace, indented."""
        first, *trace = lines_of(record)
        return "\n".join([f"{utc(record.created)} {record.levelname:<7} {first}", *trace])


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        fields: dict[str, object] = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= fields_of(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        try:
            return printable_json(orjson.dumps(fields, default=str).decode())
        except TypeError:  # half a surrogate pair, as in a file name: orjson refuses it, JSON can express it
            return json.dumps(fields, default=str)


def lines_of(record: logging.LogRecord) -> list[str]:
    """The message on one line, and the indented lines of the trace."""
    lines = [printable(record.getMessage())]
    if record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
        lines += [INDENT + printable(line) for line in trace.split("\n")]
    return lines


def utc(seconds: float) -> str:
    """``2026-02-10T02:02:26.535Z``."""
    return f"{_second(int(seconds))}.{int(seconds * 1000) % 1000:03d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    """Cached, because many records are of the same second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields of a record that are set, by name."""
    given = vars(record)
    found = {name: value for name in FIELDS if (value := given.get(name)) not in (None, "")}
    if "request_id" not in found and (request_id := REQUEST_ID.get()):
        found["request_id"] = request_id
    return found
