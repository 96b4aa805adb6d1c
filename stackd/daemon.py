"""The daemon: open, start tasks, serve, and close in reverse.

Owns: all wiring, the signals, and the order of starting and stopping. Reads are served as soon as the file is open, before
the cluster has answered; creates once the mirror is in sync.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from stackd import __version__
from stackd.clock import Clock, SystemClock
from stackd.config import Config, Loaded
from stackd.embedded import EmbeddedCluster, EmbeddedOptions
from stackd.jobs.queue import BatchQueue
from stackd.jobs.schedule import EXPIRE_SECONDS, PURGE_SECONDS, Entry, Schedule
from stackd.kube.client import Cluster, ClusterTarget
from stackd.kube.mirror import Mirror
from stackd.lifecycle import crashpoints, retire
from stackd.lifecycle.brake import Brake
from stackd.lifecycle.bring_up import bring_up
from stackd.lifecycle.expire import Expiries, expire
from stackd.lifecycle.observe import Observer
from stackd.lifecycle.purge import purge
from stackd.lifecycle.rebuild import Rebuilt
from stackd.lifecycle.rebuild import rebuild as recover
from stackd.lifecycle.reconcile import Reconciler
from stackd.lifecycle.replay import Replays
from stackd.lifecycle.retire import Retirement
from stackd.lifecycle.room import Room, Settings
from stackd.store import Store
from stackd.tasks import Tasks
from stackd.web.answers import Answers
from stackd.web.api import Api
from stackd.web.app import application
from stackd.web.auth import Keys
from stackd.web.limits import Limits

log = logging.getLogger(__name__)

EMBEDDED = "embedded"
HURRIED_EXIT = 1


@dataclass(slots=True, kw_only=True)
class Daemon:
    """A daemon at work."""

    room: Room
    api: Api
    observer: Observer
    schedule: Schedule
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0


async def serve(loaded: Loaded, *, on_listening: Callable[[Daemon], None] | None = None) -> None:
    """Run until SIGTERM or SIGINT; a second one ends the process at once.

    Raises ConfigError, StoreError, OSError (the address is taken) or ServiceEnded.
    """
    stop = asyncio.Event()
    _handle_signals(stop)
    async with running(loaded) as daemon:
        if on_listening is not None:
            on_listening(daemon)
        await _until(stop, daemon.room.tasks)
        log.info("stopping")


@asynccontextmanager
async def running(loaded: Loaded, *, clock: Clock | None = None) -> AsyncIterator[Daemon]:
    """A daemon that listens; stopped in order on leaving."""
    config = loaded.config
    for warning in loaded.warnings:
        log.warning("%s", warning)
    crashpoints.arm(os.environ)
    async with AsyncExitStack() as stack:
        daemon = await _open(stack, config, clock or SystemClock())
        await _start(stack, daemon)
        yield daemon


async def _open(stack: AsyncExitStack, config: Config, clock: Clock) -> Daemon:
    store = await _store(stack, config, clock)
    url = await _embedded(stack, config) if config.cluster.mode == EMBEDDED else ""
    cluster = await Cluster.connect(_target(config, url))
    stack.push_async_callback(cluster.close)
    tasks = Tasks()
    stack.push_async_callback(tasks.stop)
    room = Room(
        store=store,
        cluster=cluster,
        mirror=Mirror(cluster),
        clock=clock,
        settings=Settings(config),
        tasks=tasks,
        brake=Brake(clock),
        retirement=Retirement(),
    )
    return _wire(room)


async def _store(stack: AsyncExitStack, config: Config, clock: Clock) -> Store:
    ports = (config.stacks.node_port_min, config.stacks.node_port_max)
    store = await Store.open(Path(config.state.path), clock=clock, node_ports=ports)
    stack.push_async_callback(store.close)
    return store


def _wire(room: Room) -> Daemon:
    observer, expiries = Observer(room), Expiries()
    reconciler = Reconciler(room, observer, expiries)
    keys = Keys(room.clock)
    api = Api(
        room=room,
        keys=keys,
        limits=Limits(room.clock, room.config),
        answers=Answers(room),
        batch=BatchQueue(room),
        replays=Replays(room),
        reconciler=reconciler,
    )
    _apply_keys(keys, room.config)
    for follower in (api.answers.row_changed, observer.row_changed, expiries.follow):
        room.store.stacks.subscribe(follower)
    for stack in room.store.stacks.ordered():
        expiries.follow(None, stack)
    room.mirror.subscribe(observer.cluster_changed)
    entries = [
        Entry(name="expire", every=EXPIRE_SECONDS, verb=lambda: expire(room, expiries)),
        Entry(name="reconcile", every=room.config.reconcile.interval, verb=reconciler.reconcile),
        Entry(name="purge", every=PURGE_SECONDS, verb=lambda: purge(room)),
    ]
    return Daemon(room=room, api=api, observer=observer, schedule=Schedule(entries, room.tasks))


async def _start(stack: AsyncExitStack, daemon: Daemon) -> None:
    room, config = daemon.room, daemon.room.config
    room.tasks.serve("store", _watch_store(room.store))
    runner = web.AppRunner(
        application(daemon.api),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=config.server.shutdown_timeout,
        max_line_size=config.limits.header_size,
        max_field_size=config.limits.header_size,
    )
    await runner.setup()
    stack.push_async_callback(_drain, daemon, runner)
    site = web.TCPSite(runner, config.server.host, config.server.port, ssl_context=_tls(config), backlog=1024)
    await site.start()
    daemon.port = runner.addresses[0][1]
    log.info("stackd %s: listening on %s:%d, %d stacks", __version__, config.server.host, daemon.port, len(room.store.stacks))
    room.tasks.serve("cluster", _follow_cluster(daemon))
    room.tasks.serve("batch-delete", daemon.api.batch.run())
    daemon.schedule.start()
    stack.callback(daemon.schedule.stop)


async def _follow_cluster(daemon: Daemon) -> None:
    """Reach the cluster, bring rows and cluster together once, and follow it from then on."""
    room = daemon.room
    policies = room.config.stacks.require_ingress_network_policy and room.config.cluster.mode != EMBEDDED
    await bring_up(room, check_policies=policies)
    async with asyncio.TaskGroup() as group:
        group.create_task(room.mirror.run(), name="mirror")
        await room.mirror.wait_synced()
        group.create_task(daemon.observer.run(), name="observe")
        group.create_task(retire.work(room), name="retire")
        daemon.observer.look_at_all()
        await daemon.schedule.now("reconcile")
        daemon.ready.set()
        log.info("ready: %d stacks, %d nodes", len(room.store.stacks), len(room.mirror.nodes))


async def _watch_store(store: Store) -> None:
    await asyncio.shield(store.failed)


async def _drain(daemon: Daemon, runner: web.AppRunner) -> None:
    """Finish what is in flight within the time allowed; what is not done by then is undone now or at the next start."""
    room = daemon.room
    room.closing = True
    timeout = room.config.server.shutdown_timeout
    started = room.clock.monotonic()
    await runner.cleanup()
    for abandon in list(room.creating.values()):
        abandon.set()
    late = await room.tasks.finish(max(1.0, timeout - (room.clock.monotonic() - started)))
    if late:
        log.warning("%d operations were not done in time; they go on at the next start", late)


async def _until(stop: asyncio.Event, tasks: Tasks) -> None:
    waiting = asyncio.create_task(stop.wait(), name="signal")
    either: list[asyncio.Future[Any]] = [waiting, tasks.failure]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if tasks.failure.done() and not stop.is_set():
        tasks.failure.result()


def _handle_signals(stop: asyncio.Event) -> None:
    def received(name: str) -> None:
        if stop.is_set():
            log.warning("%s again: stopping at once", name)
            logging.shutdown()
            os._exit(HURRIED_EXIT)
        log.info("%s", name)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received, number.name)


async def _embedded(stack: AsyncExitStack, config: Config) -> str:
    state = Path(config.state.path)
    options = EmbeddedOptions(state_path=state.with_name(state.name + ".cluster"))
    cluster = await stack.enter_async_context(EmbeddedCluster(options))
    log.warning("the embedded cluster answers at %s; stacks on it are make-believe", cluster.url)
    return cluster.url


def _target(config: Config, url: str) -> ClusterTarget:
    cluster = config.cluster
    return ClusterTarget(
        mode=cluster.mode,
        kubeconfig=cluster.kubeconfig,
        context=cluster.context,
        url=url,
        instance=cluster.instance,
        namespace=config.stacks.namespace,
    )


def _apply_keys(keys: Keys, config: Config) -> None:
    keys.replace(config.auth.keys, enabled=config.auth.enabled, failed_per_minute=config.limits.failed_auth_per_minute)


def _tls(config: Config) -> ssl.SSLContext | None:
    if not config.server.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(config.server.tls_cert, config.server.tls_key)
    return context


async def rebuild(loaded: Loaded) -> Rebuilt:
    """Recover the rows from the cluster into an empty file. Raises StoreError, ClusterUnavailable, ConfigError."""
    config = loaded.config
    async with AsyncExitStack() as stack:
        store = await _store(stack, config, SystemClock())
        url = await _embedded(stack, config) if config.cluster.mode == EMBEDDED else ""
        cluster = await Cluster.connect(_target(config, url))
        stack.push_async_callback(cluster.close)
        return await recover(store, cluster)
