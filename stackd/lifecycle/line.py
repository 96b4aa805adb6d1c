"""The line of the creates that wait for the next stack of an empty pool.

Owns: that they get theirs in the order in which they came. What there is for them is the caller's to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice


@dataclass(slots=True, eq=False)
class Place:
    """The place of one create: ``called`` when there may be a stack for it, ``taking`` while it tries to take that."""

    called: asyncio.Event = field(default_factory=asyncio.Event)
    taking: bool = False


class Line:
    """Those who wait for stacks of one digest, the first first."""

    def __init__(self) -> None:
        self._places: dict[Place, None] = {}

    def __len__(self) -> int:
        """How many wait, apart from those who are taking one."""
        return sum(1 for _ in self._waiting())

    @property
    def deserted(self) -> bool:
        """Whether nobody has a place."""
        return not self._places

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Within this, the caller waits, behind those who do so already."""
        place = Place()
        self._places[place] = None
        try:
            yield place
        finally:
            del self._places[place]

    def call(self, stacks: int) -> None:
        """There are so many stacks: tell as many of those who wait."""
        for place in islice(self._waiting(), stacks):
            place.called.set()

    def has_turn(self, place: Place, stacks: int) -> bool:
        """Whether so many stacks are enough for all who wait up to this place."""
        return place in islice(self._waiting(), stacks)

    def _waiting(self) -> Iterator[Place]:
        return (place for place in self._places if not place.taking)
