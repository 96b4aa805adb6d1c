"""What is said: one line per event, as text, as JSON, or in the journal's own form.

Owns: handlers, forms and fields. A record may carry ``stack_id``, ``job_id`` and what the request log adds; the id of
the request comes by itself. Keys and bodies never come here.

formats   text and JSON, and the fields of a record
journal   the journal's native protocol
repeats   the same thing said again and again is said a few times, and then counted
"""

from __future__ import annotations

import logging
import os
import sys

from stackd.config import LogSection
from stackd.logs.formats import REQUEST_ID, JsonFormatter, TextFormatter
from stackd.logs.journal import JournalHandler, is_journal
from stackd.logs.repeats import Repeats

__all__ = ["REQUEST_ID", "collect_for", "log", "say_repeated", "set_level", "setup"]

log = logging.getLogger("stackd")
_CALLERS = logging._srcfile  # noqa: SLF001  documented under this name
NOISY = ("apscheduler", "aiohttp", "asyncio", "kubernetes")


def setup(section: LogSection) -> None:
    """Send everything from ``level`` up to the journal or standard error, in the configured form."""
    handler = _handler(section.format)
    collect_for(handler)
    handler.addFilter(Repeats())
    logging.getLogger().handlers[:] = [handler]
    set_level(section.level)


def set_level(level: str) -> None:
    """Change the level; libraries say warnings only, and the scheduler not even those: that a job is still under way is no
    news, and who waits for what is said where it waits.
    """
    logging.getLogger().setLevel(level.upper())
    for name in NOISY:
        least = logging.ERROR if name == "apscheduler" else logging.WARNING
        logging.getLogger(name).setLevel(max(least, logging.getLogger().level))


def say_repeated() -> None:
    """Say how often what was held back has been repeated, where its time is over; to be called now and then."""
    for handler in logging.getLogger().handlers:
        for held in handler.filters:
            if isinstance(held, Repeats):
                for record in held.over():
                    handler.handle(record)


def collect_for(handler: logging.Handler) -> None:
    """No thread, process or task in the records, and callers for the journal alone: finding them out costs half a record.

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
