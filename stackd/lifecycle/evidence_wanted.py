"""Which stacks' events and logs are to be kept: a queue that holds each stack once. Knows nothing of the cluster."""

from __future__ import annotations

import asyncio


class EvidenceWanted:
    """The stacks that have failed, in the order in which that was seen."""

    def __init__(self) -> None:
        self._wanted: dict[str, None] = {}
        self._wake = asyncio.Event()

    def add(self, stack_id: str) -> None:
        """Have this one looked into."""
        self._wanted[stack_id] = None
        self._wake.set()

    async def next(self) -> str:
        """The next one, taken out."""
        while not self._wanted:
            self._wake.clear()
            await self._wake.wait()
        stack_id = next(iter(self._wanted))
        del self._wanted[stack_id]
        return stack_id
