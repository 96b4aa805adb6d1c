"""The fields that a log record may carry beside its message."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Final

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request for which the present task works; empty outside of requests."""

FIELDS: Final = ("stack_id", "job_id", "request_id", "key_name", "method", "route", "status", "duration_ms", "client")


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields of a record that are set, by name."""
    found = {name: value for name in FIELDS if (value := getattr(record, name, None)) not in (None, "")}
    if "request_id" not in found and (request_id := REQUEST_ID.get()):
        found["request_id"] = request_id
    return found
