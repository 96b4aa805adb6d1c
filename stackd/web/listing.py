"""The list of all stacks as ready pieces, shared by all who read it and, where nothing changed, by all its versions.

Owns: which stacks stand in one piece, and how long the rendering of a long list may hold the event loop. A piece ends at
a stack whose id says so, not at a number: a stack that comes or goes changes one piece, and a reader that stalls over an
old version holds little that the present one does not. Knows nothing of fields.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Final

from stackd.model import Stack

OPEN: Final = b'{"stacks":['
CLOSE: Final = b"]}"
HOLD_SECONDS: Final = 0.004
"""After so much rendering everybody else gets a turn."""

_LAST_OF_PIECE: Final = ("00", "40", "80", "c0")  # the end of one id in 64
_LONGEST_PIECE: Final = 256

Piece = bytes | memoryview
_Block = tuple[tuple[Stack, ...], bytes]


class Listing:
    """Renders the list; ``entry`` gives one stack as it stands in it."""

    def __init__(self, entry: Callable[[Stack], bytes]) -> None:
        self._entry = entry
        self._blocks: dict[str, _Block] = {}
        self._stacks: tuple[Stack, ...] | None = None
        self._pieces: list[Piece] = []

    async def pieces(self, stacks: tuple[Stack, ...]) -> list[Piece]:
        """``{"stacks":[…]}`` of exactly these, in pieces; the same ones again for the same tuple."""
        if stacks is self._stacks:
            return self._pieces
        blocks: dict[str, _Block] = {}
        began = perf_counter()
        for group in _groups(stacks):
            first = group[0].stack_id
            known = self._blocks.get(first)
            if known is None or known[0] != group:
                known = self._blocks[first] = (group, b"," + b",".join(map(self._entry, group)))
            blocks[first] = known
            if perf_counter() - began >= HOLD_SECONDS:
                await asyncio.sleep(0)
                began = perf_counter()
        self._blocks, self._stacks, self._pieces = blocks, stacks, _joined(blocks)
        return self._pieces


def _groups(stacks: tuple[Stack, ...]) -> Iterator[tuple[Stack, ...]]:
    start = 0
    for index, stack in enumerate(stacks, 1):
        if stack.stack_id.endswith(_LAST_OF_PIECE) or index - start == _LONGEST_PIECE:
            yield stacks[start:index]
            start = index
    if start < len(stacks):
        yield stacks[start:]


def _joined(blocks: dict[str, _Block]) -> list[Piece]:
    pieces: list[Piece] = [OPEN, *(rendered for _, rendered in blocks.values()), CLOSE]
    if blocks:
        pieces[1] = memoryview(pieces[1])[1:]  # no comma before the first
    return pieces
