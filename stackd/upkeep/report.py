"""One line on how the daemon is, for ``systemctl status``; kept current, and said where it changes."""

from __future__ import annotations

import asyncio

from stackd import logs
from stackd.lifecycle.room import Room
from stackd.notify import Notifier

WAITING_SECONDS = 2.0
WORKING_SECONDS = 2.0
EXTENSION_SECONDS = 60.0
"""A start that waits for Kubernetes may take for ever, one that hangs may not: each look extends it by this."""


async def report(room: Room, ready: asyncio.Event, notifier: Notifier) -> None:
    """The reporting service: says what the start waits for, that it is done, and from then on how it goes."""
    while not ready.is_set():
        notifier.status(waiting(room))
        notifier.extend(EXTENSION_SECONDS)
        try:
            async with asyncio.timeout(WAITING_SECONDS):
                await ready.wait()
        except TimeoutError:
            logs.say_repeated()
    notifier.ready(working(room))
    while True:
        await asyncio.sleep(WORKING_SECONDS)
        notifier.status(working(room))
        logs.say_repeated()


def waiting(room: Room) -> str:
    """``waiting for Kubernetes: …``"""
    why = room.waiting_for or room.mirror.last_error or "pods, services and nodes are being listed"
    return f"waiting for Kubernetes: {why.removeprefix('Kubernetes ')}"


def working(room: Room) -> str:
    """``ready: 137 stacks, 3 nodes``, and what is wrong if something is."""
    parts = [f"ready: {len(room.store.stacks)} stacks, {len(room.mirror.nodes)} nodes"]
    parts += [f"brake: {reason}" for reason in room.brake.reasons()]
    if refused := room.metrics.reloads.refused:
        parts.append(f"the last reload was refused: {refused}")
    if room.file_trouble:
        parts.append(room.file_trouble)
    since = room.mirror.disconnected_since
    if since is not None:
        away = room.clock.monotonic() - since
        parts.append(f"Kubernetes away for {_coarse(away)}: {room.mirror.last_error or 'no connection'}")
    return "; ".join(parts)


def _coarse(seconds: float) -> str:
    """A time that does not differ at every look."""
    if seconds < 10:
        return "some seconds"
    return f"{seconds // 10 * 10:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min"
