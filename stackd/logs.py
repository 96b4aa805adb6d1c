"""Logging: one line per event, as text for people at a terminal, as JSON for collectors, or in the journal's own form.

Owns: handlers, forms and fields. A record may carry ``stack_id``, ``job_id`` and what the request log adds; the id of
the request is added automatically. Keys and bodies are never logged. As text, a record is one line, followed by the
indented lines of a trace: whatever a client's text contains, it cannot begin a line that looks like a record.

Owns, too, what counts as a repetition: it is logged in full a few times, and then counted. Two records are the same if
they come from one place in the code and concern the same stack and job. Messages about different stacks never count as
repetitions, so the history of each stack stays complete.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Hashable, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from stackd.clock import to_the_second
from stackd.config import LogSection
from stackd.printable import is_journal, printable, printable_json

log = logging.getLogger("stackd")
_CALLERS = logging._srcfile  # noqa: SLF001  documented under this name
NOISY = ("apscheduler", "aiohttp", "asyncio", "kubernetes")

IN_FULL: Final = 10
"""How often the same message is logged within ``WITHIN_SECONDS``."""

WITHIN_SECONDS: Final = 30.0
REMEMBERED: Final = 1000
"""How many different messages are remembered: the latest."""


class _StackLog(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = self.extra
        return f"{self.extra['stack_id']}: {msg}" if self.extra else msg, kwargs


def stack_log(log: logging.Logger, stack_id: str, **fields: str) -> logging.LoggerAdapter[logging.Logger]:
    """``log`` for messages about a stack: each begins with the stack's id, which is also a field, like ``fields``.

    The field ``same`` is part of what identifies a repetition; with it, messages below warnings are counted, too.
    """
    return _StackLog(log, {"stack_id": stack_id, **fields})


def setup(section: LogSection) -> None:
    """Send everything from ``level`` up to the journal or standard error, in the configured form."""
    handler = _handler(section.format)
    collect_for(handler)
    handler.addFilter(Repeats())
    logging.getLogger().handlers[:] = [handler]
    set_level(section.level)


def set_level(level: str) -> None:
    """Set the level. Libraries log only warnings and above, the scheduler only errors: that a job is still running is
    no news, and whatever a job waits for is logged by the code that waits.
    """
    logging.getLogger().setLevel(level.upper())
    for name in NOISY:
        least = logging.ERROR if name == "apscheduler" else logging.WARNING
        logging.getLogger(name).setLevel(max(least, logging.getLogger().level))


def log_suppressed() -> None:
    """Log how often messages were repeated, once their ``WITHIN_SECONDS`` are over; to be called regularly."""
    for handler in logging.getLogger().handlers:
        for one in handler.filters:
            for record in one.over() if isinstance(one, Repeats) else ():
                handler.handle(record)


def collect_for(handler: logging.Handler) -> None:
    """Leave thread, process, task and (except for the journal) caller out of records: they cost half a record's time.

    The switches are those of the standard library's own guide (Logging HOWTO, "Optimization").
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if sys.version_info >= (3, 12):
        logging.logAsyncioTasks = False
    logging._srcfile = _CALLERS if isinstance(handler, JournalHandler) else None  # noqa: SLF001


def _handler(form: str) -> logging.Handler:
    if form == "auto" and is_journal(os.environ, sys.stderr):
        return JournalHandler()
    handler = logging.StreamHandler(sys.stderr)
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    return handler


@dataclass(slots=True)
class _Logged:
    """How often something was logged since ``began``, and its latest record."""

    began: float
    count: int
    record: logging.LogRecord


class Repeats(logging.Filter):
    """Lets a record pass unless the same was logged too often lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._logged: dict[Hashable, _Logged] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        same = getattr(record, "same", None)
        if same is None and record.levelno < logging.WARNING:
            return True
        place = (record.name, record.lineno, record.msg)
        what = (*place, getattr(record, "stack_id", ""), getattr(record, "job_id", ""), same)
        now, logged = self._clock(), self._logged.get(what)
        if logged is None or (now - logged.began >= WITHIN_SECONDS and logged.count <= IN_FULL):
            if len(self._logged) >= REMEMBERED:
                self._logged.pop(next(iter(self._logged)))
            self._logged[what] = _Logged(now, 1, record)
            return True
        logged.count += 1
        logged.record = record
        return logged.count <= IN_FULL

    def over(self) -> list[logging.LogRecord]:
        """One record for each message that was held back and whose time is over; it says how often it was repeated."""
        now = self._clock()
        done = [what for what, logged in self._logged.items() if now - logged.began >= WITHIN_SECONDS]
        return [_repeated(logged) for what in done if (logged := self._logged.pop(what)).count > IN_FULL]


def _repeated(logged: _Logged) -> logging.LogRecord:
    record = logging.makeLogRecord(logged.record.__dict__)
    record.msg = f"{logged.record.getMessage()} … repeated {logged.count - IN_FULL} times"
    record.args = record.exc_info = None
    return record


# ---- forms

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
            return printable_json(msgspec.json.encode(fields, enc_hook=str).decode())
        except UnicodeEncodeError:  # half a surrogate pair, as in a file name: msgspec refuses it, JSON can express it
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
    return f"{to_the_second(int(seconds))}.{int(seconds * 1000) % 1000:03d}Z"


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The fields of a record that are set, by name."""
    attributes = vars(record)
    fields = {name: value for name in FIELDS if (value := attributes.get(name)) not in (None, "")}
    if "request_id" not in fields and (request_id := REQUEST_ID.get()):
        fields["request_id"] = request_id
    return fields


SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = "stackd"
SEND_BUFFER: Final = 8 << 20


def priority(level: int) -> int:
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def _encoded(name: str, value: str) -> bytes:
    """A field in the native form: ``NAME=value``, or with an explicit length if the value has line breaks."""
    raw = value.encode("utf-8", "backslashreplace")
    if b"\n" in raw:
        return name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
    return name.encode() + b"=" + raw + b"\n"


def _to_standard_error(record: logging.LogRecord) -> None:
    """Write to standard error, where a line may start with its priority ``<N>``: no text may begin a line itself."""
    text = "".join(f"<{priority(record.levelno)}>{line}\n" for line in lines_of(record))
    with contextlib.suppress(OSError, ValueError):  # there is nowhere left to report to
        sys.stderr.write(text)


class JournalHandler(logging.Handler):
    """Sends each record to the journal at ``address`` as one datagram. A send never waits: if the journal does not accept
    it, or it is too large, the record goes to standard error, which the journal reads too.
    """

    def __init__(self, address: str = SOCKET) -> None:
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = self._fields(record)
            self._socket.sendto(b"".join(_encoded(*field) for field in fields.items()), self._address)
        except (TypeError, ValueError):
            self.handleError(record)
        except OSError:
            _to_standard_error(record)

    def close(self) -> None:
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
