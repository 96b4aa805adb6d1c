"""One kind of object by name, and what each update of it changed. Pure; told by lists and watches, in their order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    """What a table can hold: a name that may be used again, and a uid that never is."""

    @property
    def name(self) -> str:
        """Unique among the objects that are there."""

    @property
    def uid(self) -> str:
        """Unique for ever."""


S = TypeVar("S", bound=Named)
Difference = tuple[S | None, S | None]


class Table(Generic[S]):
    """The objects. Each update returns its differences as (before, after).

    An object that took over another one's name is two differences: the old one went, then the new one came.
    """

    def __init__(self) -> None:
        self.current: dict[str, S] = {}

    def put(self, state: S) -> list[Difference[S]]:
        """Take over the state of one object."""
        before = self.current.get(state.name)
        self.current[state.name] = state
        return _difference(before, state)

    def drop(self, state: S) -> list[Difference[S]]:
        """Forget the object, unless the name belongs to another one by now."""
        before = self.current.get(state.name)
        if before is None or before.uid != state.uid:
            return []
        del self.current[state.name]
        return [(before, None)]

    def replace(self, states: Iterable[S]) -> list[Difference[S]]:
        """Take over a complete list: the table is that list before any difference is looked at."""
        old = dict(self.current)
        self.current.clear()
        self.current.update((state.name, state) for state in states)
        changes: list[Difference[S]] = [(before, None) for name, before in old.items() if name not in self.current]
        for name, state in self.current.items():
            changes.extend(_difference(old.get(name), state))
        return changes


def _difference(before: S | None, after: S) -> list[Difference[S]]:
    if before == after:
        return []
    if before is not None and before.uid != after.uid:
        return [(before, None), (None, after)]
    return [(before, after)]
