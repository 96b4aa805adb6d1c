"""How the daemon is: said to the service manager, proved to its watchdog, and measured.

Owns: the status line of ``systemctl status``, and when a start is over: with the cluster, or without it after a moment.
What the daemon waits for then stands in the line; reads are answered meanwhile, and creates as soon as they can be.
Owns, too, what counts as being stuck. The loop turns, or this would not run; the file's writer answers, be it with a
refusal, for a full disk is no hang; the watches move or know that they have lost their connection. A cluster that is
away is no reason for a restart.
"""

from __future__ import annotations

import asyncio
import gc
import logging

from stackd import logs
from stackd.errors import StoreUnavailable
from stackd.kube.access import expiry_remark
from stackd.lifecycle import nodes, readiness
from stackd.lifecycle.context import Context
from stackd.metrics import Histogram
from stackd.upkeep.systemd import Notifier
from stackd.waiters import first_of

log = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
REFUSED = "the last reload was refused: "
WAITS = "waits for a restart: "


async def report(context: Context, ready: asyncio.Event, notifier: Notifier, patience: float) -> None:
    """The reporting service: the start is over when the cluster is there, and after ``patience`` seconds without it."""
    notifier.status(line(context, ready))
    await first_of(ready, context.ownership.stands_by, timeout=patience)
    notifier.ready(line(context, ready))
    said: list[str] = []
    while True:
        said = _remark(context, said)
        if ready.is_set():
            await asyncio.sleep(EVERY_SECONDS)
        else:
            await first_of(ready, timeout=EVERY_SECONDS)
        notifier.status(line(context, ready))
        logs.say_repeated()


def _remark(context: Context, said: list[str]) -> list[str]:
    """Log what keeps stacks from working, where it is not what was said last."""
    if not context.mirror.synced:
        return said
    now = nodes.remarks(context.config, [*context.mirror.nodes.values()])
    for remark in now:
        if remark not in said:
            log.warning("%s", remark)
    return now


def line(context: Context, ready: asyncio.Event) -> str:
    """``ready: 137 stacks, 3 nodes``; ``waiting for the cluster: …`` or ``not ready: …`` as /readyz has it."""
    ownership = context.ownership
    if ownership.standby:
        return f"standby: {ownership.owner} owns the stacks"
    found = readiness.reasons(context)
    counts = f"{_count(len(context.store.assigned), 'stack')}, {_nodes(context)}"
    if not context.mirror.synced:
        parts = found
    elif found:
        parts = [f"not ready: {found[0]}", *found[1:], counts]
    else:
        parts = [f"ready: {counts}" if ready.is_set() else "waiting for the first pass over all stacks"]
    if refused := context.metrics.reloads.refused:
        parts.append(f"{REFUSED}{refused}")
    if waiting := context.metrics.reloads.waiting:
        parts.append(f"{WAITS}{', '.join(waiting)}")
    if context.mirror.synced:
        parts += nodes.remarks(context.config, [*context.mirror.nodes.values()])
    if remark := expiry_remark(context.cluster.connection.access, context.clock.now() / 1e9):
        parts.append(remark)
    since = context.mirror.disconnected_since
    if not found and since is not None:
        away = context.clock.monotonic() - since
        parts.append(f"Kubernetes away for {_coarse(away)}: {context.mirror.last_error or 'no connection'}")
    return "; ".join(parts)


def _nodes(context: Context) -> str:
    able, known = len(nodes.eligible(context.config, context.mirror.nodes.values())), len(context.mirror.nodes)
    return _count(known, "node") if able == known else f"{able} of {_count(known, 'node')} take stacks"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _coarse(seconds: float) -> str:
    """A time that does not differ at every look."""
    if seconds < 10:
        return "some seconds"
    return f"{seconds // 10 * 10:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min"


FEEDINGS = 3
"""How often within the time that the manager allows."""

SILENCE_SECONDS = 240.0
"""A watch that believes itself connected hears something at least once a minute, and gives up by itself at 30 s."""


async def feed(context: Context, notifier: Notifier) -> None:
    """The feeding service, where a watchdog waits."""
    every = notifier.watchdog / FEEDINGS
    while True:
        stuck = await why_stuck(context, every)
        if stuck:
            log.critical("the watchdog is not fed: %s", stuck)
        else:
            notifier.alive()
        await asyncio.sleep(every)


async def why_stuck(context: Context, seconds: float) -> str:
    """What is stuck, or nothing; waits ``seconds`` at most for the file."""
    try:
        async with asyncio.timeout(seconds):
            await context.store.probe()
        context.file_trouble = ""
    except StoreUnavailable as error:
        context.file_trouble = str(error)
    except TimeoutError:
        return f"the state file has not answered within {seconds:g} s"
    silent = [
        p.kind
        for p in context.mirror.health_by_kind.values()
        if p.disconnected_since is None and p.staleness() > SILENCE_SECONDS
    ]
    if silent:
        return f"nothing was heard for {SILENCE_SECONDS:.0f} s on the watch of {', '.join(silent)}"
    return ""


SAMPLE_SECONDS = 0.5


async def sample_lag(lag: Histogram) -> None:
    """The sampling service: how late the event loop is, by how much a sleeper oversleeps."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(SAMPLE_SECONDS)
        lag.observe(max(0.0, loop.time() - began - SAMPLE_SECONDS))


YOUNG_OBJECTS = 7_000
"""How many more objects than before start a collection: Python's 700 are made by every third request."""


async def settle_memory(ready: asyncio.Event) -> None:
    """Once ready, leave all that exists out of later collections: searching it would hold the event loop for long.

    Nothing is kept alive by this; only garbage cycles among those objects, of which a start leaves few, stay.
    """
    await ready.wait()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
