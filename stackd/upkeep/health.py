"""The daemon's health: reported to the service manager, proved to its watchdog, and measured.

Owns: the status line of ``systemctl status``, and when a start is over: once the cluster is there, or after a moment
without it. Then the line says what the daemon waits for; reads are answered meanwhile, and creates as soon as possible.
Owns, too, what counts as stuck. It is not stuck if the event loop turns (otherwise this module would not run), the
file's writer answers (an error counts: a full disk is no hang), and the watches receive something or know that they
lost their connection. An unreachable cluster is no reason for a restart.
"""

from __future__ import annotations

import asyncio
import gc
import logging

from stackd import logs
from stackd.kube.credentials import expiry_remark
from stackd.lifecycle import nodes
from stackd.lifecycle.context import Context
from stackd.lifecycle.ownership import STANDS_BY
from stackd.metrics import Histogram
from stackd.tasks import first_of
from stackd.upkeep import OLDER_BUILD, REFUSED, RESTART, WAITS
from stackd.upkeep.build import Build
from stackd.upkeep.systemd import Notifier

log = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
# How often the watchdog is fed within the time that the manager allows.
FEEDINGS = 3
# A connected watch gives up by itself after much less silence (``watch.IDLE_SECONDS``).
SILENCE_SECONDS = 240.0
SAMPLE_SECONDS = 0.5
# How many more objects than before trigger a collection: every third request would reach Python's default of 700.
YOUNG_OBJECTS = 7_000


async def report(context: Context, ready: asyncio.Event, notifier: Notifier, patience: float, build: Build) -> None:
    """The reporting service: report the start as done once the cluster is there, or after ``patience`` seconds."""
    notifier.status(line(context, ready))
    await first_of(ready, context.gate.ownership.stands_by, timeout=patience)
    text, remarks = _status(context, ready)
    notifier.ready(text)
    logged: list[str] = []
    while True:
        if context.mirror.synced:
            for remark in (one for one in remarks if one not in logged):
                log.warning("%s", remark)
            logged = remarks
        if ready.is_set():
            await asyncio.sleep(EVERY_SECONDS)
        else:
            await first_of(ready, timeout=EVERY_SECONDS)
        was_older, context.metrics.older_build = context.metrics.older_build, await asyncio.to_thread(build.is_older)
        if context.metrics.older_build and not was_older:
            log.warning("another build of stackd is installed, and this process %s: %s", OLDER_BUILD, RESTART)
        text, remarks = _status(context, ready)
        notifier.status(text)
        logs.log_suppressed()


def line(context: Context, ready: asyncio.Event) -> str:
    """``ready: 137 stacks, 3 nodes``; ``waiting for the cluster: …`` or ``not ready: …`` as /readyz has it."""
    return _status(context, ready)[0]


def _status(context: Context, ready: asyncio.Event) -> tuple[str, list[str]]:
    """The status line, and the remarks about nodes that are part of it."""
    ownership, mirror, reloads = context.gate.ownership, context.mirror, context.metrics.reloads
    needs = [f"{REFUSED}{reloads.refused}"] if reloads.refused else []
    needs += [f"{WAITS}{', '.join(reloads.waiting)}"] if reloads.waiting else []
    needs += [f"{OLDER_BUILD}: {RESTART}"] if context.metrics.older_build else []
    if ownership.standby:
        return "; ".join([f"standby: {ownership.standby.removesuffix(STANDS_BY)}", *needs]), []
    reasons = context.gate.why_not_ready()
    remarks = nodes.remarks(context.config, [*mirror.nodes.values()]) if mirror.synced else []
    counts = f"{_count(len(context.store.assigned), 'stack')}, {_taking(context)}"
    if not mirror.synced:
        parts = reasons
    elif reasons:
        parts = [f"not ready: {reasons[0]}", *reasons[1:], counts]
    else:
        parts = [f"ready: {counts}" if ready.is_set() else "waiting for the first pass over all stacks"]
    parts += [*needs, *remarks]
    if remark := expiry_remark(context.cluster.connection.access, context.clock.now() / 1e9):
        parts.append(remark)
    since = mirror.disconnected_since
    if not reasons and since is not None:
        away = _coarse(context.clock.monotonic() - since)
        parts.append(f"Kubernetes away for {away}: {mirror.last_error or 'no connection'}")
    return "; ".join(parts), remarks


def _taking(context: Context) -> str:
    if not context.cluster.reads_nodes:
        return "nodes not read"
    found = context.mirror.nodes.values()
    able, number = len(nodes.eligible(context.config, found)), _count(len(found), "node")
    return number if able == len(found) else f"{able} of {number} take stacks"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _coarse(seconds: float) -> str:
    """A duration so coarse that the status line does not change each time."""
    if seconds < 10:
        return "some seconds"
    return f"{seconds // 10 * 10:.0f} s" if seconds < 120 else f"{seconds // 60:.0f} min"


async def feed(context: Context, notifier: Notifier) -> None:
    every = notifier.watchdog / FEEDINGS
    while True:
        stuck = await why_stuck(context, every)
        if stuck:
            log.critical("watchdog withheld, systemd will restart stackd: %s", stuck)
        else:
            notifier.alive()
        await asyncio.sleep(every)


async def why_stuck(context: Context, seconds: float) -> str:
    """What is stuck; empty if nothing is. Waits at most ``seconds`` for the file. Updates ``file_error``."""
    try:
        async with asyncio.timeout(seconds):
            await context.probe_file()
    except TimeoutError:
        return f"the state file has not answered within {seconds:g} s"
    silent = [
        p.kind
        for p in context.mirror.health_by_kind.values()
        if p.disconnected_since is None and p.staleness() > SILENCE_SECONDS
    ]
    return f"nothing was heard for {SILENCE_SECONDS:.0f} s on the watch of {', '.join(silent)}" if silent else ""


async def sample_lag(lag: Histogram) -> None:
    """The sampling service: observe the event loop's lag, which is by how much a sleep takes too long."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        await asyncio.sleep(SAMPLE_SECONDS)
        lag.observe(max(0.0, loop.time() - began - SAMPLE_SECONDS))


async def freeze_memory(ready: asyncio.Event) -> None:
    """Once ready, exclude all existing objects from later collections: searching them would block the event loop.

    Reference counting still frees them. Only garbage cycles among them stay, and a start leaves few of those.
    """
    await ready.wait()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
