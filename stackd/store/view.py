"""What the file holds, in memory: reads of a view never wait, and see only committed records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, KeysView
from operator import attrgetter
from typing import Generic, TypeVar

from stackd.model import Job, Stack

R = TypeVar("R", Stack, Job)


class View(Generic[R]):
    """All records of one kind as committed; ``version`` grows with each commit that has changed one.

    ``key`` is the name of the field with a record's id. A view belongs to the event loop on which the file was opened.
    """

    def __init__(self, key: str, records: Iterable[R]) -> None:
        self._by_id: dict[str, R] = {getattr(record, key): record for record in records}
        self._place = attrgetter("created_at", key)
        self._ordered: tuple[R, ...] | None = None
        self._subscribers: list[Callable[[R | None, R | None], None]] = []
        self.version = 0

    def get(self, record_id: str) -> R | None:
        """The record, or None."""
        return self._by_id.get(record_id)

    def ids(self) -> KeysView[str]:
        """The ids of all records, as a live set."""
        return self._by_id.keys()

    def ordered(self) -> tuple[R, ...]:
        """All records by ``created_at``, then id; the same tuple until one changes."""
        if self._ordered is None:
            self._ordered = tuple(sorted(self._by_id.values(), key=self._place))
        return self._ordered

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[R]:
        return iter(self.ordered())

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._by_id

    def subscribe(self, callback: Callable[[R | None, R | None], None]) -> None:
        """Call ``callback(before, after)`` on the loop after each change; it must not raise."""
        self._subscribers.append(callback)

    def publish(self, changes: Iterable[tuple[str, R | None]]) -> None:
        """Apply a committed group, then call the subscribers with each change, in order."""
        news: list[tuple[R | None, R | None]] = []
        for record_id, after in changes:
            before = self._by_id.pop(record_id, None)
            if after is not None:
                self._by_id[record_id] = after
            if before is not None or after is not None:
                news.append((before, after))
        if news:
            self._ordered = None
            self.version += 1
        for before, after in news:
            for callback in self._subscribers:
                callback(before, after)
