"""The same thing said again and again: a few times in full, then a count.

Owns: what counts as the same. Two records are the same if they come from one place and concern one stack and job; what
is said of different stacks is never held back, so that each stack's story stays whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

IN_FULL: Final = 10
"""How often the same is said within ``SECONDS``."""

SECONDS: Final = 30.0
REMEMBERED: Final = 1000


@dataclass(slots=True)
class Said:
    """How often something was said since ``began``, and the latest record of it."""

    began: float
    count: int
    record: logging.LogRecord


class Repeats(logging.Filter):
    """Lets a record pass unless the same has been said too often lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[Hashable, Said] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is to be said now."""
        same = getattr(record, "same", None)
        if same is None and record.levelno < logging.WARNING:
            return True
        place = (record.name, record.lineno, record.msg)
        what = (*place, getattr(record, "stack_id", ""), getattr(record, "job_id", ""), same)
        now = self._clock()
        said = self._said.get(what)
        if said is None or (now - said.began >= SECONDS and said.count <= IN_FULL):
            self._remember(what, Said(now, 1, record))
            return True
        said.count += 1
        said.record = record
        return said.count <= IN_FULL

    def over(self) -> list[logging.LogRecord]:
        """What was held back and whose time is over, each as one record that says how often."""
        now = self._clock()
        done = [what for what, said in self._said.items() if now - said.began >= SECONDS]
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
