"""The garbage collector's part: what is there once the daemon is ready stays for long, and is not searched again."""

from __future__ import annotations

import asyncio
import gc

YOUNG_OBJECTS = 7_000
"""How many more objects than before start a collection: Python's 700 are made by every third request."""


async def settle(ready: asyncio.Event) -> None:
    """Once ready, leave all that exists out of later collections: searching it would hold the event loop for long.

    Nothing is kept alive by this; only garbage cycles among those objects, of which a start leaves few, stay.
    """
    await ready.wait()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
