"""The service manager's watchdog, fed only while the daemon is known to work.

Owns: what counts as being stuck. The loop turns, or this would not run; the file's writer answers, be it with a
refusal, for a full disk is no hang; the watches move or know that they have lost their connection. A cluster that is
away is not a reason to be restarted.
"""

from __future__ import annotations

import asyncio
import logging

from stackd.errors import StoreUnavailable
from stackd.lifecycle.room import Room
from stackd.notify import Notifier

log = logging.getLogger(__name__)

FEEDINGS = 3
"""How often within the time that the manager allows."""

SILENCE_SECONDS = 240.0
"""A watch that believes itself connected hears something at least once a minute, and gives up by itself at 75 s."""


async def feed(room: Room, notifier: Notifier) -> None:
    """The feeding service; does nothing where no watchdog waits."""
    if not notifier.watchdog:
        return
    every = notifier.watchdog / FEEDINGS
    while True:
        stuck = await why_stuck(room, every)
        if stuck:
            log.critical("the watchdog is not fed: %s", stuck)
        else:
            notifier.alive()
        await asyncio.sleep(every)


async def why_stuck(room: Room, seconds: float) -> str:
    """What is stuck, or nothing; waits ``seconds`` at most for the file."""
    try:
        async with asyncio.timeout(seconds):
            await room.store.probe()
        room.file_trouble = ""
    except StoreUnavailable as error:
        room.file_trouble = str(error)
    except TimeoutError:
        return f"the state file has not answered within {seconds:g} s"
    silent = [
        p.kind for p in room.mirror.pulses.values() if p.disconnected_since is None and p.staleness() > SILENCE_SECONDS
    ]
    if silent:
        return f"nothing was heard for {SILENCE_SECONDS:.0f} s on the watch of {', '.join(silent)}"
    return ""
