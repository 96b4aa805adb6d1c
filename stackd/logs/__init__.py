"""Logging: one line per event, as text, as JSON, or in the journal's own form.

Owns: handlers, forms and fields. A record may carry ``stack_id``, ``job_id`` and what the request log adds; the id of
the request is added automatically. Keys and bodies are never logged.

Owns, too, what counts as a repetition: it is logged in full a few times, and then counted. Two records are the same if
they come from one place in the code and concern the same stack and job. Messages about different stacks never count as
repetitions, so the history of each stack stays complete.

formats   text, JSON and the journal's native protocol, and the fields of a record
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Hashable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from stackd.config import LogSection
from stackd.logs.formats import REQUEST_ID, JournalHandler, JsonFormatter, TextFormatter, is_journal

__all__ = ["REQUEST_ID", "collect_for", "log", "say_repeated", "set_level", "setup", "stack_log"]

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


def say_repeated() -> None:
    """Log how often messages were repeated, once their ``WITHIN_SECONDS`` are over; to be called regularly."""
    for handler in logging.getLogger().handlers:
        for held in handler.filters:
            if isinstance(held, Repeats):
                for record in held.over():
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
class Said:
    """How often something was logged since ``began``, and its latest record."""

    began: float
    count: int
    record: logging.LogRecord


class Repeats(logging.Filter):
    """Lets a record pass unless the same was logged too often lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[Hashable, Said] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged now."""
        same = getattr(record, "same", None)
        if same is None and record.levelno < logging.WARNING:
            return True
        place = (record.name, record.lineno, record.msg)
        what = (*place, getattr(record, "stack_id", ""), getattr(record, "job_id", ""), same)
        now = self._clock()
        said = self._said.get(what)
        if said is None or (now - said.began >= WITHIN_SECONDS and said.count <= IN_FULL):
            self._remember(what, Said(now, 1, record))
            return True
        said.count += 1
        said.record = record
        return said.count <= IN_FULL

    def over(self) -> list[logging.LogRecord]:
        """One record for each message that was held back and whose time is over; it says how often it was repeated."""
        now = self._clock()
        done = [what for what, said in self._said.items() if now - said.began >= WITHIN_SECONDS]
        return [_repeated(said) for what in done if (said := self._said.pop(what)).count > IN_FULL]

    def _remember(self, what: Hashable, said: Said) -> None:
        if len(self._said) >= REMEMBERED:
            self._said.pop(next(iter(self._said)))
        self._said[what] = said


def _repeated(said: Said) -> logging.LogRecord:
    record = logging.makeLogRecord(said.record.__dict__)
    record.msg = f"{said.record.getMessage()} … repeated {said.count - IN_FULL} times"
    record.args = ()
    record.exc_info = None
    return record
