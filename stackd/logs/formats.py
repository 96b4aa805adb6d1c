"""Records as text for people at a terminal, as JSON for collectors, and in the journal's native protocol; and which fields
a record may carry.

As text, a record is one line, followed by the indented lines of a trace: whatever a client's text contains, it cannot begin
a line that looks like a record. In the journal, a record is one datagram with its fields. A send never waits: if the journal
does not accept it, or it is too large, the record goes to standard error, which the journal reads too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Final, TextIO

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


SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = "stackd"
SEND_BUFFER: Final = 8 << 20


def is_journal(environ: Mapping[str, str], stream: TextIO) -> bool:
    """Whether the stream leads to the journal, as the service manager says in ``JOURNAL_STREAM``."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(stat.st_dev), str(stat.st_ino))


def priority(level: int) -> int:
    """The syslog priority of a level."""
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def encode(fields: Mapping[str, str]) -> bytes:
    """Fields in the native form: ``NAME=value``, or with an explicit length if the value has line breaks."""
    return b"".join(_encoded(fields))


def _encoded(fields: Mapping[str, str]) -> Iterator[bytes]:
    for name, value in fields.items():
        raw = value.encode("utf-8", "backslashreplace")
        if b"\n" in raw:
            yield name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
        else:
            yield name.encode() + b"=" + raw + b"\n"


def _say(record: logging.LogRecord) -> None:
    """Write to standard error, where a line may start with its priority ``<N>``: no text may begin a line itself."""
    text = "".join(f"<{priority(record.levelno)}>{line}\n" for line in lines_of(record))
    with contextlib.suppress(OSError, ValueError):  # there is nowhere left to report to
        sys.stderr.write(text)


class JournalHandler(logging.Handler):
    """Sends records to the journal at ``address``."""

    def __init__(self, address: str = SOCKET) -> None:
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            fields = self._fields(record)
        except (TypeError, ValueError):
            self.handleError(record)
            return
        try:
            self._socket.sendto(encode(fields), self._address)
        except OSError:
            _say(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        return {
            "MESSAGE": message,
            "PRIORITY": str(priority(record.levelno)),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "",
            **{name.upper(): str(value) for name, value in fields_of(record).items()},
        }
