"""How late the event loop is: a sleeper that looks at how much it overslept."""

from __future__ import annotations

import asyncio

from stackd.metrics import Histogram

SAMPLE_SECONDS = 0.5


async def sample(lag: Histogram) -> None:
    """The sampling service."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(SAMPLE_SECONDS)
        lag.observe(max(0.0, loop.time() - began - SAMPLE_SECONDS))
